"""Descriptors of cached groups that workers on this machine handed to this process.

Invariant: at most ``limit`` are open at a time (design.md section 5), and a descriptor is closed, and its lease given back, when the last
reference to it goes: so a thread that still reads from one can never find its number reused for another file, and reading needs no
lock. The lasting references are the table's and those in the :class:`Hot` maps of open files, which the table empties of what it drops.

What a program does not read from any more holds room in the worker's tiers, so idle descriptors go by time too, also in a program that does nothing; and
each sweep asks the worker which of the others it wants back.

After a fork the child starts with an empty table: what it inherited is closed in the child only, and its leases stay the parent's.
Not here: asking a worker for a descriptor (reader.py) and sending the leases back (cluster.py).
"""

from __future__ import annotations

import os
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Sequence
from typing import Protocol

from monofs.model.block import (
    DEFAULT_LAYOUT,
    GROUP_SIZE_BYTES,
    block_end,
    block_of_group,
    block_start,
    group_length,
    page_count,
    pages_mask,
)
from monofs.model.inode import Inode
from monofs.rpc.api import DescriptorAnswer

DESCRIPTORS_MAX = 256
"""Per process; workers refuse more per connection."""
IDLE_S = 30.0
"""A descriptor not used between two sweeps this far apart is closed, and its lease given back: within 60 s at the latest."""

GROUP_SHIFT = GROUP_SIZE_BYTES.bit_length() - 1


class Lessor(Protocol):
    """Who gave a descriptor: ``cluster.WorkerLink``."""

    def give_back(self, at_least: int = ..., kept: Sequence[int] = ...) -> list[int]:
        """Send back leases once there are so many, and ask which of those ``kept`` the worker wants back."""


Key = tuple[Lessor, int, int]
"""Worker link, content id, and the group; where a block is several groups, ~block: they lie in one file."""


def key_of(link: Lessor, inode: Inode, group: int) -> Key:
    """Under which a group's descriptor is kept."""
    wide = inode.layout != DEFAULT_LAYOUT
    return link, inode.content, ~block_of_group(group, inode.layout) if wide else group


class Descriptor:
    """One open file of a block: byte o of the content lies at ``o + shift`` of ``fd``, if ``start <= o < end`` and the bit of o's page in
    what :meth:`present` says of its group is set.

    ``whole``: every page of the block is present and the file ends where the block ends, so that a read can neither meet a hole nor run
    past it. ``file`` is the worker's number of the file: only presence told under the same number may be added. ``used``
    is set by readers and cleared by sweeps.
    """

    __slots__ = (
        "__weakref__", "_full", "_homes", "_leases", "_present",
        "base", "end", "fd", "file", "groups", "lease", "shift", "start", "used", "whole",
    )  # fmt: skip

    def __init__(self, fd: int, inode: Inode, group: int, answer: DescriptorAnswer, leases: deque[int]) -> None:
        """``answer`` is what a worker said of ``group``."""
        self.fd = fd
        self._leases = leases
        self.lease = answer.lease
        at, border = group * GROUP_SIZE_BYTES, block_end(group * GROUP_SIZE_BYTES, inode.layout)
        self.start = block_start(at, inode.layout)
        self.end = inode.size if border is None else min(border, inode.size)
        self.shift = answer.base - at
        self.base = self.start + self.shift
        self.file = answer.file
        self.used = self.whole = False
        self.groups = range(self.start // GROUP_SIZE_BYTES, (self.end - 1) // GROUP_SIZE_BYTES + 1)
        self._present: dict[int, int] = {}
        self._full: set[int] = set()
        """Groups of which every page is known to be present: a set, because two threads may add the same one."""
        self._homes: dict[int, weakref.ref[Hot]] = {}
        self.add_pages(group, answer.present)
        self.used = True

    def present(self, group: int) -> int:
        """Bitmap of the group's pages that may be read."""
        return self._present.get(group, 0)

    def add_pages(self, group: int, present: int) -> None:
        """Presence only grows: take over what the worker said of this very file."""
        self._present[group] = after = self._present.get(group, 0) | present
        full = pages_mask(0, page_count(group_length(self.end, group)) - 1)
        if after & full == full:
            self._full.add(group)
        self.whole = len(self._full) == len(self.groups) and os.fstat(self.fd).st_size == self.end + self.shift

    def move_in(self, hot: Hot) -> None:
        """Let an open file read from this descriptor by itself, until it is dropped. For the table."""
        key, homes = id(hot), self._homes
        homes[key] = weakref.ref(hot, lambda _: homes.pop(key, None))
        hot.groups.update(dict.fromkeys(self.groups, self))
        hot.last = self

    def move_out(self) -> None:
        """Leave all open files; it closes when no thread reads from it any more. For the table."""
        for reference in tuple(self._homes.values()):
            hot = reference()
            if hot is not None:
                hot.forget(self)
        self._homes.clear()

    def __del__(self, close: Callable[[int], None] = os.close) -> None:
        close(self.fd)
        self._leases.append(self.lease)


class Hot:
    """The groups one open file reads from by itself. ``last`` is the one used last: a single reference, so that a reader gets a
    descriptor and its place in one step, whatever other threads do."""

    __slots__ = ("__weakref__", "groups", "last")

    def __init__(self) -> None:
        self.groups: dict[int, Descriptor] = {}
        self.last: Descriptor | None = None

    def at(self, offset: int) -> Descriptor | None:
        """The descriptor for the group of a byte."""
        found = self.groups.get(offset >> GROUP_SHIFT)
        if found is not None:
            self.last = found
        return found

    def forget(self, descriptor: Descriptor) -> None:
        """Let one go."""
        for group in descriptor.groups:
            if self.groups.get(group) is descriptor:
                self.groups.pop(group, None)
        if self.last is descriptor:
            self.last = None

    def clear(self) -> None:
        """Let all go."""
        self.groups.clear()
        self.last = None


class DescriptorTable:
    """All descriptors of this process, least recently used ones dropped first (second chance)."""

    def __init__(self, limit: int = DESCRIPTORS_MAX, idle_s: float = IDLE_S) -> None:
        self._limit = limit
        self._idle_s = idle_s
        self._lock = threading.RLock()  # a file system object that is collected in here drops its own entries
        self._entries: dict[Key, Descriptor] = {}
        self._alive: weakref.WeakSet[Descriptor] = weakref.WeakSet()
        self._swept_s = time.monotonic()
        self._is_sweeping = False

    def get(self, key: Key) -> Descriptor | None:
        """The descriptor held for a group, if any."""
        found = self._entries.get(key)
        if found is not None:
            found.used = True
        return found

    def has_room(self) -> bool:
        """Whether one more may be asked for, after dropping what is idle; False: the caller reads over the socket."""
        with self._lock:
            now_s = time.monotonic()
            if now_s - self._swept_s >= self._idle_s:
                self._swept_s = now_s
                self._drop_unused(len(self._entries))
            if len(self._alive) < self._limit:
                return True
            self._drop_unused(max(1, self._limit // 8))
            if len(self._alive) >= self._limit:
                self._drop_unused(max(1, self._limit // 8))
            return len(self._alive) < self._limit

    def add(self, key: Key, descriptor: Descriptor) -> None:
        """Keep a descriptor, in place of an older one of the same group."""
        with self._lock:
            self._drop(key)
            self._entries[key] = descriptor
            self._alive.add(descriptor)
            if not self._is_sweeping:
                self._sweep_later()

    def _sweep_later(self) -> None:
        timer = threading.Timer(self._idle_s, self._sweep)
        timer.daemon = True
        try:
            timer.start()
            self._is_sweeping = True
        except RuntimeError:  # the program ends, or may have no more threads: the next one tries again
            self._is_sweeping = False

    def _sweep(self) -> None:
        with self._lock:
            lessors = {key[0] for key in self._entries}
            self._swept_s = time.monotonic()
            self._drop_unused(len(self._entries))
            if self._entries:
                self._sweep_later()
            else:
                self._is_sweeping = False
            kept = {descriptor.lease: key for key, descriptor in self._entries.items()}
        for lessor in lessors:
            recalled = lessor.give_back(at_least=1, kept=[lease for lease, key in kept.items() if key[0] is lessor])
            if recalled:
                self._give_up({kept[lease]: lease for lease in recalled if lease in kept})
                lessor.give_back(at_least=1)

    def _give_up(self, leases: dict[Key, int]) -> None:
        """Drop what a worker wants back, unless another descriptor took its place meanwhile."""
        with self._lock:
            for key, lease in leases.items():
                found = self._entries.get(key)
                if found is not None and found.lease == lease:
                    self._drop(key)

    def lend(self, key: Key, descriptor: Descriptor, hot: Hot) -> None:
        """Let an open file read from a descriptor by itself, if it was not dropped meanwhile."""
        with self._lock:
            if self._entries.get(key) is descriptor:
                descriptor.move_in(hot)

    def drop(self, key: Key) -> None:
        """Forget one group."""
        with self._lock:
            self._drop(key)

    def drop_content(self, content: int) -> None:
        """Forget all groups of a content."""
        with self._lock:
            for key in [key for key in self._entries if key[1] == content]:
                self._drop(key)

    def drop_link(self, link: Lessor) -> None:
        """Forget all of a worker."""
        with self._lock:
            for key in [key for key in self._entries if key[0] is link]:
                self._drop(key)

    def open_count(self) -> int:
        """Descriptors open now, also those the table dropped while someone still reads from them."""
        return len(self._alive)

    def _drop(self, key: Key) -> None:
        descriptor = self._entries.pop(key, None)
        if descriptor is not None:
            descriptor.move_out()

    def _drop_unused(self, most: int) -> None:
        """Drop up to ``most`` entries not used since the last pass; the others lose their mark and go to the back."""
        dropped = 0
        for key in list(self._entries):
            if dropped == most:
                return
            descriptor = self._entries.pop(key, None)
            if descriptor is None:
                continue
            if descriptor.used:
                descriptor.used = False
                self._entries[key] = descriptor
            else:
                dropped += 1
                descriptor.move_out()


_table = DescriptorTable()


def process_table() -> DescriptorTable:
    """The table of this process, shared by all its file system objects."""
    return _table


def _start_afresh() -> None:
    global _table
    _table = DescriptorTable()


os.register_at_fork(after_in_child=_start_afresh)
