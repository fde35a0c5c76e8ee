"""Descriptors of cached groups that workers on this machine handed to this process.

Invariant: at most ``limit`` are open at a time (design.md section 5), and a descriptor is closed, and its lease given back, when the last
reference to it goes: so a thread that still reads from one can never find its number reused for another file. Reading needs no
lock for the same reason. The table holds the only lasting references; files keep weak ones and ask again for what was dropped.

After a fork the child starts with an empty table: what it inherited is closed in the child only, and its leases stay the parent's.
Not here: asking a worker for a descriptor (reader.py) and sending the leases back (cluster.py).
"""

from __future__ import annotations

import os
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable

from monofs.model.block import page_count, pages_mask
from monofs.rpc.api import DescriptorAnswer

DESCRIPTORS_MAX = 256
"""Per process; workers refuse more per connection."""
IDLE_S = 30.0
"""A descriptor not used between two sweeps this far apart is closed: within 60 s at the latest."""

Key = tuple[object, int, int]
"""Worker link, content id, group."""


class Descriptor:
    """One open group: page p lies at ``base + p * PAGE_SIZE_BYTES`` of ``fd``, if bit p of ``present`` is set.

    ``whole``: every page is present and the file ends where the group ends, so that a read can neither meet a hole nor run past it.
    ``file`` is the worker's number of the file: only presence told under the same number may be added to ``present``. ``used``
    is set by readers and cleared by sweeps.
    """

    __slots__ = ("__weakref__", "_end", "_full", "_leases", "base", "fd", "file", "lease", "present", "used", "whole")

    def __init__(self, fd: int, answer: DescriptorAnswer, leases: deque[int]) -> None:
        self.fd = fd
        self.base = answer.base
        self.lease = answer.lease
        self.file = answer.file
        self.used = True
        self.present = 0
        self._leases = leases
        self._end = answer.base + answer.length
        self._full = pages_mask(0, page_count(answer.length) - 1)
        self.add_pages(answer.present)

    def add_pages(self, present: int) -> None:
        """Presence only grows: take over what the worker said of this very file."""
        self.present = self.present | present
        self.whole = self.present & self._full == self._full and os.fstat(self.fd).st_size == self._end

    def __del__(self, close: Callable[[int], None] = os.close) -> None:
        try:
            close(self.fd)
        except AttributeError:
            return  # never got as far as having one
        self._leases.append(self.lease)


class DescriptorTable:
    """All descriptors of this process, least recently used ones dropped first (second chance)."""

    def __init__(self, limit: int = DESCRIPTORS_MAX, idle_s: float = IDLE_S) -> None:
        self._limit = limit
        self._idle_s = idle_s
        self._lock = threading.RLock()  # a file system object that is collected in here drops its own entries
        self._entries: dict[Key, Descriptor] = {}
        self._alive: weakref.WeakSet[Descriptor] = weakref.WeakSet()
        self._swept_s = time.monotonic()

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
            self._entries.pop(key, None)
            self._entries[key] = descriptor
            self._alive.add(descriptor)

    def drop(self, key: Key) -> None:
        """Forget one group."""
        with self._lock:
            self._entries.pop(key, None)

    def drop_content(self, content: int) -> None:
        """Forget all groups of a content."""
        with self._lock:
            for key in [key for key in self._entries if key[1] == content]:
                self._entries.pop(key, None)

    def drop_link(self, link: object) -> None:
        """Forget all of a worker."""
        with self._lock:
            for key in [key for key in self._entries if key[0] is link]:
                self._entries.pop(key, None)

    def open_count(self) -> int:
        """Descriptors open now, also those the table dropped while someone still reads from them."""
        return len(self._alive)

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


_table = DescriptorTable()


def process_table() -> DescriptorTable:
    """The table of this process, shared by all its file system objects."""
    return _table


def _start_afresh() -> None:
    global _table
    _table = DescriptorTable()


os.register_at_fork(after_in_child=_start_afresh)
