"""Whether bytes of a file can be sent without waiting for its disk.

``cachestat(2)`` (Linux 6.5) answers exactly and in about a microsecond; where the kernel has none, one byte in each 64 KiB is
probed with ``preadv2(RWF_NOWAIT)``. Both say what was true a moment ago: pages may be dropped before they are sent, which
costs one disk read, never wrong bytes. Not here: reading.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os

_CACHESTAT = 451
_STEP_BYTES = 64 << 10


class _Range(ctypes.Structure):
    _fields_ = [("offset", ctypes.c_uint64), ("length", ctypes.c_uint64)]


class _Stat(ctypes.Structure):
    _fields_ = [(name, ctypes.c_uint64) for name in ("cached", "dirty", "writeback", "evicted", "recent")]


_libc = ctypes.CDLL(None, use_errno=True)
_range, _stat = _Range(), _Stat()
_range_at, _stat_at = ctypes.byref(_range), ctypes.byref(_stat)
_byte = bytearray(1)


def _cachestat(fd: int, offset: int, length: int) -> bool:
    _range.offset, _range.length = offset, length
    if _libc.syscall(_CACHESTAT, fd, _range_at, _stat_at, 0) != 0:
        return False
    first, last = offset // mmap.PAGESIZE, (offset + length - 1) // mmap.PAGESIZE
    return bool(_stat.cached >= last - first + 1)


def _probe(fd: int, offset: int, length: int) -> bool:
    try:
        for at in (*range(offset, offset + length, _STEP_BYTES), offset + length - 1):
            if os.preadv(fd, [_byte], at, os.RWF_NOWAIT) != 1:
                return False
    except OSError:
        return False  # EAGAIN: not resident; EOPNOTSUPP: this file system cannot tell, so a thread reads
    return True


def _has_cachestat() -> bool:
    """ENOSYS means an old kernel; a sandbox may answer EPERM."""
    fd = os.open("/proc/self/exe", os.O_RDONLY)
    try:
        _range.offset, _range.length = 0, mmap.PAGESIZE
        if _libc.syscall(_CACHESTAT, fd, _range_at, _stat_at, 0) == 0:
            return True
        return ctypes.get_errno() not in (errno.ENOSYS, errno.EPERM, errno.EOPNOTSUPP)
    finally:
        os.close(fd)


is_resident = _cachestat if _has_cachestat() else _probe
"""``is_resident(fd, offset, length)``: whether all these bytes are in memory now. Reactor thread only; ``length`` > 0."""
