"""Whether bytes of a file can be sent without waiting for its disk.

``mincore(2)`` on a short-lived mapping: it tells pages that are in memory *and complete*. (``cachestat(2)`` also counts pages whose
read from the disk has only begun, as by read-ahead, and a send would wait for those; ``preadv2(RWF_NOWAIT)`` tells the truth but
copies, and starts reading what is missing.) The answer was true a moment ago: pages dropped before they are sent cost one disk
read, never wrong bytes. :func:`read_now` reads what is there: with ``RWF_NOWAIT``, or, on file systems without it (tmpfs, so every
tier in memory), after a look with ``mincore``. Not here: reading from disks.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os

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
