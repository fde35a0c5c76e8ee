"""One look at the whole namespace, as the checks of fsck see it: what they ask of it, and what the pass over ``tree`` leaves for them.

Works on a :class:`Store` (memtables included) and on a :class:`Snapshot`. Not here: what must hold (fsck.py, fsck_writing.py).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import msgspec

from monofs.metadata.known_jobs import is_open
from monofs.metadata.snapshot import Snapshot
from monofs.metadata.store import Store
from monofs.metadata.tables import (
    ABOVE_ROOT,
    IDS,
    JOBS,
    REMOVAL,
    Job,
    JobKind,
    Meta,
    decode_detached,
    decode_job,
    pack_id,
    unpack_id,
)
from monofs.model.errors import NotReady
from monofs.model.ids import COUNTER_BITS
from monofs.model.inode import Flag, Inode, decode_inode

_PAGE = 1000
_HOMES_KEPT = 65_536
_DEPTH_MAX = 4096
_COUNTER = (1 << COUNTER_BITS) - 1


class Bits:
    """A set of small integers."""

    def __init__(self) -> None:
        self._bytes = bytearray()

    def add(self, number: int) -> bool:
        """Add a number; whether it was there before."""
        at, bit = number >> 3, 1 << (number & 7)
        if at >= len(self._bytes):
            self._bytes.extend(bytes(at + 1 - len(self._bytes) + len(self._bytes) // 4))
        was = self._bytes[at] & bit != 0
        self._bytes[at] |= bit
        return was

    def __contains__(self, number: int) -> bool:
        at = number >> 3
        return at < len(self._bytes) and self._bytes[at] & (1 << (number & 7)) != 0


class Contents:
    """A set of content ids."""

    def __init__(self) -> None:
        self._counters: dict[int, Bits] = {}

    def add(self, content: int) -> bool:
        """Add a content; whether it was there before."""
        return self._counters.setdefault(content >> COUNTER_BITS, Bits()).add(content & _COUNTER)

    def __contains__(self, content: int) -> bool:
        counters = self._counters.get(content >> COUNTER_BITS)
        return counters is not None and content & _COUNTER in counters


class Home(NamedTuple):
    """Where a directory is."""

    key: bytes | None
    """Natural key below its mount; None: under no mount, or detached."""
    is_explicit: bool
    """Whether it and all directories above it, up to the mount point, are EXPLICIT."""


_NOWHERE = Home(None, True)


class Survey:
    """One look at the whole namespace."""

    def __init__(self, view: Store | Snapshot, stopped: Callable[[], bool]) -> None:
        self.view, self._stopped = view, stopped
        stored = view.meta if isinstance(view, Store) else view.meta()
        self.has_meta = stored is not None and bool(stored.applied_index)
        self.meta: Meta = stored or Meta()
        self.inodes = 0
        self.inode_ids = Bits()
        self.contents = Contents()
        self.unpersisted = Contents()
        """Those no store has."""
        self.attributes = Bits()
        """Numbers by which records name what is kept with their file."""
        self._homes: dict[int, Home] = {}
        self.reached = Bits()
        self.jobs = list(self._readable_jobs())
        self.detached = {decode_detached(raw).directory for _, raw in self.all(REMOVAL)}
        self.detached |= {job.directory for job in self.jobs if job.kind == JobKind.DELETE and is_open(job)}
        self.mount_points = 0

    def all(self, space: int) -> Iterator[tuple[bytes, bytes]]:
        """Every record of a space."""
        after = b""
        while page := self.view.scan(space, after, _PAGE):
            if self._stopped():
                raise NotReady("the node is stopping: the check was cut short")
            yield from page
            after = page[-1][0]

    def _readable_jobs(self) -> Iterator[Job]:
        for _, raw in self.all(JOBS):
            try:
                yield decode_job(raw)
            except msgspec.MsgspecError:  # told by the check of jobs
                continue

    def tree(self) -> Iterator[tuple[int, bytes, bytes]]:
        """Every (parent, key, record) of ``tree``, whether it can be reached or not."""
        yield from ((ABOVE_ROOT, key, raw) for key, raw in self.all(ABOVE_ROOT))
        after = ABOVE_ROOT
        while page := self.view.parents(after, _PAGE):
            for parent in page:
                yield from ((parent, key, raw) for key, raw in self.all(parent))
            after = page[-1]

    def directory(self, directory: int) -> tuple[int, bytes] | None:
        """Where ``ids`` says a directory lies."""
        raw = self.view.get(IDS, pack_id(directory))
        return None if raw is None else (unpack_id(raw), raw[8:])

    def record(self, parent: int, key: bytes) -> Inode | None:
        """The record under a key, None if there is none that can be read."""
        raw = self.view.get(parent, key)
        try:
            return None if raw is None else decode_inode(raw)
        except msgspec.MsgspecError:
            return None

    def home(self, directory: int) -> Home:
        """Where a directory is, by climbing."""
        passed: list[tuple[int, bytes, Inode]] = []
        found = _NOWHERE
        while directory not in self.detached:
            known = self._homes.get(directory)
            if known is not None:
                found = known
                break
            place = self.directory(directory)
            inode = None if place is None or len(passed) > _DEPTH_MAX else self.record(*place)
            if place is None or inode is None:
                break
            if inode.flags & Flag.MOUNT:
                found = self._homes[directory] = Home(b"", True)
                break
            passed.append((directory, place[1][:-1], inode))
            directory = place[0]
        if len(self._homes) > _HOMES_KEPT:
            self._homes.clear()
        for number, name, inode in reversed(passed):
            if found.key is not None:
                found = Home(join(found.key, name), found.is_explicit and inode.flags & Flag.EXPLICIT != 0)
            self._homes[number] = found
        return found


def join(key: bytes, name: bytes) -> bytes:
    """A key and a name below it."""
    return key + b"/" + name if key else name
