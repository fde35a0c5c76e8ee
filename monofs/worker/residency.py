"""Whether bytes of a file can be sent without waiting for its disk.

``mincore(2)`` on a short-lived mapping: it tells pages that are in memory *and complete*. (``cachestat(2)`` also counts pages whose
read from the disk has only begun, as by read-ahead, and a send would wait for those; ``preadv2(RWF_NOWAIT)`` tells the truth but
copies, and starts reading what is missing.) The answer was true a moment ago: pages dropped before they are sent cost one disk
read, never wrong bytes. :func:`read_now` reads what is there: with ``RWF_NOWAIT``, or, on file systems without it, after a look
with ``mincore``. Pages of tmpfs are memory, and leave it for a swap device only: where none is on, nothing is asked (that look cost
8 of the 11 µs of a small piece), and where one is, tmpfs is like any other. Not here: reading from disks.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import time
from collections.abc import Callable
from typing import cast

from monofs.tiering.directory import Directory

CHECKED_MOST_BYTES = 8 << 20

_libc = ctypes.PyDLL(None)  # these calls do not block: giving up the GIL for each would cost more than they do
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = (
    ctypes.c_void_p,
    ctypes.c_size_t,
    ctypes.c_int,
    ctypes.c_int,
    ctypes.c_int,
    ctypes.c_int64,
)
_libc.munmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t)
_libc.mincore.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_void_p)
_FAILED = ctypes.c_void_p(-1).value
_vector = ctypes.create_string_buffer(CHECKED_MOST_BYTES // mmap.PAGESIZE + 2)
_all_there = b"\1" * len(_vector)
SWAP_LOOK_S = 1.0

Read = Callable[[int, bytearray | memoryview, int], bool]
"""As :func:`read_now`."""


class Swap:
    """Whether memory may be moved to a device. Reactor thread only."""

    def __init__(self, table: str = "/proc/swaps") -> None:
        self._table = table
        self._on = True
        self._look_at_s = 0.0

    def is_on(self) -> bool:
        """As it was at most ``SWAP_LOOK_S`` ago: a device takes longer to fill than that; True where nobody can tell."""
        now_s = time.monotonic()
        if now_s >= self._look_at_s:
            self._look_at_s = now_s + SWAP_LOOK_S
            try:
                with open(self._table, "rb") as file:
                    self._on = len(file.readlines(4096)) != 1  # a line for each device, below the headings
            except OSError:
                self._on = True
        return self._on


_swap = Swap()


def stays_in_memory(directory: Directory) -> bool:
    """Whether all bytes of the directory's files are in memory, however long nobody read them."""
    return directory.in_memory and not _swap.is_on()


def read_piece(directory: Directory, fd: int, offset: int, length: int) -> bytes | None:
    """Bytes of one of its files (up to ``CHECKED_MOST_BYTES``) without waiting for a disk; None when a thread must read."""
    if not stays_in_memory(directory):
        data = bytearray(length)
        return cast("bytes", data) if read_now(fd, data, offset) else None  # nobody changes it any more
    try:
        read = os.pread(fd, length, offset)
    except OSError:
        return None
    return read if len(read) == length else None


def read_of(directory: Directory) -> Read:
    """What reads from its files without waiting; good for this turn of the reactor."""
    return read_memory if stays_in_memory(directory) else read_now


def is_resident(fd: int, offset: int, length: int) -> bool:
    """Whether all these bytes are in memory now. Reactor thread only; ``length`` from 1 to ``CHECKED_MOST_BYTES``."""
    skew = offset % mmap.PAGESIZE
    size = length + skew
    address = _libc.mmap(None, size, mmap.PROT_READ, mmap.MAP_SHARED, fd, offset - skew)
    if address == _FAILED:
        return False  # a thread reads, and tells what is wrong
    failed = _libc.mincore(address, size, _vector)
    _libc.munmap(address, size)
    pages = (size + mmap.PAGESIZE - 1) // mmap.PAGESIZE
    return not failed and ctypes.string_at(_vector, pages) == _all_there[:pages]


def read_now(fd: int, view: bytearray | memoryview, offset: int) -> bool:
    """Fill ``view`` (up to ``CHECKED_MOST_BYTES``) from the file without waiting for a disk; False when a thread must read."""
    try:
        return os.preadv(fd, [view], offset, os.RWF_NOWAIT) == len(view)
    except OSError as error:
        if error.errno != errno.EOPNOTSUPP:
            return False  # EAGAIN: not in memory. EIO and the like: the thread that reads next tells
    try:
        return is_resident(fd, offset, len(view)) and os.preadv(fd, [view], offset) == len(view)
    except OSError:
        return False


def read_memory(fd: int, view: bytearray | memoryview, offset: int) -> bool:
    """:func:`read_now` of a directory that stays in memory."""
    try:
        return os.preadv(fd, [view], offset) == len(view)
    except OSError:
        return False
