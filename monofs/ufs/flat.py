"""Flat listings read as directories: what one stretch of a bucket's keys tells of each directory that lies in it. Pure.

A page of a flat listing speaks for a stretch of keys. What of a directory lies in the stretch is a page of the directory's own listing, the same as the store
would give with a delimiter, and tells the markers of the directories in it, too: to its end where the stretch goes beyond the directory, else up to where the stretch ends.

Invariant: a page made here never claims a name that the stretch does not speak for.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import replace

from monofs.model.paths import name_problem
from monofs.ufs.base import UfsEntry, UfsPage

ODD_MAX = 100
_LAST = "\U0010ffff".encode()
"""Behind all names but those that begin with it."""


class Stretch:
    """All keys ``after < key <= through`` of a store (through None: to the end), as ``UnderStorage.scan`` of its root tells them."""

    __slots__ = ("after", "entries", "keys", "through")

    def __init__(self, after: bytes, entries: Sequence[UfsEntry], *, cut: bool) -> None:
        self.after, self.entries = after, entries
        self.keys = [entry.name for entry in entries]
        self.through = self.keys[-1] if cut else None

    def directories(self) -> int:
        """How many directories it meets: what as many listings with a delimiter would tell."""
        return len({key.rpartition(b"/")[0] for key in self.keys})

    def page(self, key: bytes, after: bytes) -> UfsPage | None:
        """What it tells of directory ``key`` behind ``after``, as ``UnderStorage.list`` would; None: nothing."""
        below = key + b"/" if key else b""
        passed = after.endswith(b"/")  # all below that directory
        first = below + after[:-1] + b"0" if passed else below + after  # "0" follows "/"
        is_included = passed or bool(key and not after)  # else "first" was told before
        if self.after > first or (is_included and self.after == first):
            return None
        if self.through is not None and self.through <= first:
            return None
        at = bisect_left(self.keys, first) if is_included else bisect_right(self.keys, first)
        return self._fold(key, below, after, at)

    def _fold(self, key: bytes, below: bytes, after: bytes, at: int) -> UfsPage | None:
        entries: list[UfsEntry] = []
        odd: list[bytes] = []
        marker = (0, "", 0) if key and not after else None
        position, keys = after, self.keys
        while at < len(keys) and keys[at].startswith(below):
            entry = self.entries[at]
            head, slash, _ = keys[at][len(below) :].partition(b"/")
            if not head and not slash:
                marker = (entry.mtime_ns, entry.fingerprint, entry.size)
                at += 1
                continue
            if len(odd) >= ODD_MAX:
                return UfsPage(entries, position, odd, marker)
            position = head + slash
            if name_problem(head):
                odd.append(below + position)
            elif not slash:
                entries.append(replace(entry, name=head))
            elif entry.is_directory and keys[at] == below + position:  # its marker, which comes first
                entries.append(UfsEntry(head, True, entry.size, entry.mtime_ns, entry.fingerprint))
            else:
                entries.append(UfsEntry(head, True))
            at = bisect_left(keys, below + head + b"0", at) if slash else at + 1
        if self.through is None or not self.through.startswith(below):
            return UfsPage(entries, None, odd, marker)
        return UfsPage(entries, position, odd, marker) if position != after else None


def position_of(key: bytes, after: bytes) -> bytes:
    """Where a flat listing begins that is to tell of directory ``key`` what lies behind ``after``."""
    if not after:
        return key + b"." + _LAST if key else b""  # "." is right before "/": the marker comes along
    below = key + b"/" if key else b""
    return below + after + _LAST if after.endswith(b"/") else below + after
