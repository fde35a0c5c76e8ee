"""What is known of when the store was last asked: per path, per missing path, and per range of a directory's listing.

Pure and in memory: time is an argument (seconds of one monotonic clock), and a restart simply looks again. A look counts from its *start*, so
an answer is never taken for newer than the question was. Every table is bounded; forgetting costs a look, never correctness.

Invariant: the ranges of a directory are disjoint and sorted, and a range speaks for every name ``after < name <= through``
(directories with their ``/``) except those in ``racy``.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from typing import NamedTuple

from monofs.model.ids import InodeId
from monofs.model.paths import Parts

PRESENT_MAX = 200_000
"""Paths known to exist whose look is remembered on its own."""
DIRECTORIES_MAX = 50_000
"""Directories whose listed ranges are remembered."""
RANGES_MAX = 64
"""Ranges remembered of one directory; the oldest is forgotten first."""
RACY_MAX = 1000
"""Racy names a range may carry; two ranges with more together are not joined."""
RACY_TOTAL_MAX = 100_000
"""Racy names remembered in all; the directories listed longest ago are forgotten first."""
EMPTIED_MAX = 10_000
"""Directories emptied here that are remembered as such; the oldest is forgotten first."""
DISTRUSTED_MAX = 10_000
"""Paths that are not trusted as seen before a time; beyond that, nothing is."""
JOIN_WITHIN_S = 5.0
"""Neighbouring ranges looked at within this time become one, as old as the older."""
NEVER = float("-inf")


class Range(NamedTuple):
    """A stretch of a directory that one page of a listing spoke for. ``through`` None: to the end."""

    after: bytes
    through: bytes | None
    at: float
    racy: frozenset[bytes] = frozenset()
    overtaken: frozenset[bytes] = frozenset()
    """Names the page spoke for in vain (directories with their ``/``): another look was taken over meanwhile. Kept in ``racy`` too."""

    def covers(self, name: bytes) -> bool:
        """Whether ``name`` lies in the stretch."""
        return self.after < name and (self.through is None or name <= self.through)

    def answers(self, name: bytes) -> bool:
        """Whether the page told what there is under ``name``: file, directory, both or nothing."""
        as_directory = name + b"/"
        return (
            self.covers(name)
            and self.covers(as_directory)
            and name not in self.overtaken
            and as_directory not in self.overtaken
        )


class Freshness:
    """When what was looked at. ``absent_entries`` bounds the memory of missing paths."""

    def __init__(self, absent_entries: int) -> None:
        self._absent_max = absent_entries
        self.present: OrderedDict[int, float] = OrderedDict()
        """Inode id → when its path was looked at; read directly on the hot path."""
        self._absent: OrderedDict[tuple[int, bytes], float] = OrderedDict()
        self._listed: OrderedDict[int, list[Range]] = OrderedDict()
        self._racy = 0
        self.emptied: OrderedDict[int, None] = OrderedDict()
        """Directories whose last name, or what else led to a key, went since their store was asked about them: object stores may have nothing there any more."""
        self.distrusted: dict[Parts, float] = {}
        """Path → what was seen of it and everything below before this time is not trusted; asked on the hot path whether it is empty."""

    def distrust(self, parts: Parts, at: float) -> None:
        """Trust nothing that was seen of a path and below before ``at``."""
        if len(self.distrusted) >= DISTRUSTED_MAX and parts not in self.distrusted:
            self.distrusted.clear()
            parts = ()
        self.distrusted[parts] = math.nextafter(at, NEVER)

    def trusted_since(self, parts: Parts) -> float:
        """What was seen of a path later than this is trusted; ``NEVER``: whenever it was."""
        distrusted = self.distrusted
        return max((distrusted.get(parts[:depth], NEVER) for depth in range(len(parts) + 1)), default=NEVER)

    def clear(self) -> None:
        """Forget everything that was seen: mounts changed, so what a directory's store is may have, too."""
        self.present.clear()
        self._absent.clear()
        self._listed.clear()
        self._racy = 0

    def counts(self) -> dict[str, int]:
        """How much is remembered."""
        return {
            "present": len(self.present),
            "absent": len(self._absent),
            "directories": len(self._listed),
            "distrusted": len(self.distrusted),
        }

    def note_present(self, inode: InodeId, at: float) -> None:
        """The path of ``inode`` was looked at and exists."""
        self.present.pop(inode, None)
        self.present[inode] = at
        if len(self.present) > PRESENT_MAX:
            self.present.popitem(last=False)

    def note_emptied(self, directory: InodeId) -> None:
        """The last name of a directory went, or the last one that led to a key."""
        self.emptied[int(directory)] = None
        if len(self.emptied) > EMPTIED_MAX:
            self.emptied.popitem(last=False)

    def forget_present(self, inode: InodeId) -> None:
        """What was seen of ``inode`` may not be trusted (it was racy): look again at the next access."""
        self.present.pop(inode, None)

    def note_absent(self, ancestor: InodeId, rest: bytes, at: float) -> None:
        """``rest`` below the directory ``ancestor`` was looked for and is missing."""
        if self._absent_max <= 0:
            return
        key = (int(ancestor), rest)
        self._absent.pop(key, None)
        self._absent[key] = at
        if len(self._absent) > self._absent_max:
            self._absent.popitem(last=False)

    def absent_at(self, ancestor: InodeId, rest: bytes) -> float:
        """When ``rest`` was last found missing, or ``NEVER``."""
        return self._absent.get((int(ancestor), rest), NEVER)

    def note_range(self, directory: InodeId, seen: Range) -> None:
        """A page of a listing was taken over."""
        ranges = self._listed.pop(int(directory), [])
        self._racy -= _racy_in(ranges)
        kept = [part for old in ranges for part in _without(old, seen)]
        kept.append(seen)
        kept.sort(key=lambda each: each.after)
        held = self._listed[int(directory)] = _bounded(_joined(kept))
        self._racy += _racy_in(held)
        while len(self._listed) > DIRECTORIES_MAX or (self._racy > RACY_TOTAL_MAX and len(self._listed) > 1):
            _, oldest = self._listed.popitem(last=False)
            self._racy -= _racy_in(oldest)

    def named_at(self, directory: InodeId, name: bytes) -> float:
        """When a listing last spoke for ``name`` (with ``/`` for directories), or ``NEVER``."""
        for each in self._listed.get(int(directory), ()):
            if each.covers(name):
                return NEVER if name in each.racy else each.at
        return NEVER

    def covering(self, directory: InodeId, after: bytes, since: float) -> Range | None:
        """The range that speaks for what comes right behind position ``after`` and was looked at later than ``since``."""
        for each in self._listed.get(int(directory), ()):
            if each.after <= after and (each.through is None or after < each.through):
                return each if each.at > since else None
        return None

    def listed_at(self, directory: InodeId) -> float:
        """When any of a directory's listing was last looked at, or ``NEVER``."""
        return max((each.at for each in self._listed.get(int(directory), ())), default=NEVER)

    def completes(self, directory: InodeId, after: bytes, through: bytes | None) -> bool:
        """Whether the ranges known, with ``(after, through]``, speak for the whole directory."""
        reached: bytes | None = b""
        for low, high in sorted(
            [(after, through), *((each.after, each.through) for each in self._listed.get(int(directory), ()))],
            key=lambda pair: pair[0],
        ):
            if reached is None or low > reached:
                break
            reached = None if high is None else max(reached, high)
        return reached is None


def _racy_in(ranges: list[Range]) -> int:
    return sum(len(each.racy) for each in ranges)


def _without(old: Range, new: Range) -> list[Range]:
    """What of ``old`` lies outside ``new``."""
    parts = []
    if old.after < new.after:
        through = new.after if old.through is None or old.through > new.after else old.through
        parts.append(old._replace(through=through))
    if new.through is not None and (old.through is None or old.through > new.through):
        parts.append(old._replace(after=max(old.after, new.through)))
    return parts


def _joined(ranges: list[Range]) -> list[Range]:
    joined: list[Range] = []
    for each in ranges:
        last = joined[-1] if joined else None
        if (
            last is not None
            and last.through == each.after
            and abs(last.at - each.at) <= JOIN_WITHIN_S
            and len(last.racy) + len(each.racy) <= RACY_MAX
        ):
            joined[-1] = Range(last.after, each.through, min(last.at, each.at), last.racy | each.racy)
        else:
            joined.append(each)
    return joined


def _bounded(ranges: list[Range]) -> list[Range]:
    if len(ranges) <= RANGES_MAX:
        return ranges
    oldest = min(range(len(ranges)), key=lambda position: ranges[position].at)
    return ranges[:oldest] + ranges[oldest + 1 :]
