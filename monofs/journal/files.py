"""The system calls of the journal, in one object that can be exchanged: ``REAL_FILES``, or a simulated disk with the same functions.

Names, arguments and errors (``OSError``) are those of ``os`` and ``fcntl``; nothing is added, so a call costs what it costs there.
"""

from __future__ import annotations

import fcntl
import os
from typing import Any, Protocol


class Files(Protocol):
    """What the journal asks of a disk."""

    def open(self, path: str, flags: int, mode: int = 0o777) -> int: ...

    def close(self, fd: int) -> None: ...

    def pread(self, fd: int, length: int, offset: int, /) -> bytes: ...

    def pwrite(self, fd: int, data: Any, offset: int, /) -> int: ...

    def fsync(self, fd: int) -> None: ...

    def fdatasync(self, fd: int) -> None: ...

    def fstat(self, fd: int) -> Any: ...

    def posix_fallocate(self, fd: int, offset: int, length: int, /) -> None: ...

    def posix_fadvise(self, fd: int, offset: int, length: int, advice: int, /) -> None: ...

    def flock(self, fd: int, operation: int, /) -> None: ...

    def listdir(self, path: str) -> list[str]: ...

    def makedirs(self, path: str, mode: int = 0o777) -> None: ...

    def rename(self, old: str, new: str) -> None: ...

    def unlink(self, path: str) -> None: ...

    def urandom(self, count: int, /) -> bytes: ...


class _RealFiles:
    open = staticmethod(os.open)
    close = staticmethod(os.close)
    pread = staticmethod(os.pread)
    pwrite = staticmethod(os.pwrite)
    fsync = staticmethod(os.fsync)
    fdatasync = staticmethod(os.fdatasync)
    fstat = staticmethod(os.fstat)
    posix_fallocate = staticmethod(os.posix_fallocate)
    posix_fadvise = staticmethod(os.posix_fadvise)
    flock = staticmethod(fcntl.flock)
    listdir = staticmethod(os.listdir)
    makedirs = staticmethod(os.makedirs)
    rename = staticmethod(os.rename)
    unlink = staticmethod(os.unlink)
    urandom = staticmethod(os.urandom)


REAL_FILES: Files = _RealFiles()
