"""System calls on real files whose power can go: what was written and not synced lands sector by sector as dice want, or not at all."""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from typing import Any

from monofs.journal.files import REAL_FILES

SECTOR_BYTES = 512


class PowerLost(BaseException):
    """Nothing in the journal may catch it."""


class PowerFiles:
    """``Files`` with a countdown of changes, then the power goes. Syncs cost nothing. Names are durable at once; the simulator reorders them too."""

    def __init__(self) -> None:
        self.countdown: int | None = None
        self.fail_at: int | None = None
        """The change with this number, counted down, fails with EIO once."""
        self.changes = 0
        self._open: dict[int, str] = {}
        self._unsynced: list[tuple[str, int, bytes, bytes]] = []

    def _change(self) -> None:
        self.changes += 1
        if self.fail_at is not None:
            self.fail_at -= 1
            if self.fail_at < 0:
                self.fail_at = None
                raise OSError(5, "the disk is broken")
        if self.countdown is not None:
            self.countdown -= 1
            if self.countdown < 0:
                raise PowerLost

    def open(self, path: str, flags: int, mode: int = 0o777) -> int:
        if flags & os.O_CREAT:
            self._change()
        fd = REAL_FILES.open(path, flags, mode)
        self._open[fd] = path
        return fd

    def close(self, fd: int) -> None:
        if self._open.pop(fd, None) is not None:
            REAL_FILES.close(fd)

    def pwrite(self, fd: int, data: Any, offset: int) -> int:
        self._change()
        path = self._open[fd]
        if offset < os.fstat(fd).st_size:
            before = REAL_FILES.pread(fd, len(data), offset)
            self._unsynced.append((path, offset, before.ljust(len(data), b"\0"), bytes(data)))
        return REAL_FILES.pwrite(fd, data, offset)

    def fsync(self, fd: int) -> None:
        self._change()
        path = self._open[fd]
        self._unsynced = [write for write in self._unsynced if write[0] != path]

    fdatasync = fsync

    def unlink(self, path: str) -> None:
        self._change()
        REAL_FILES.unlink(path)
        self._unsynced = [write for write in self._unsynced if write[0] != path]

    def rename(self, old: str, new: str) -> None:
        self._change()
        REAL_FILES.rename(old, new)

    def lose_power(self, dice: random.Random, lands: Callable[[int], bool] | None = None) -> None:
        """Each unsynced sector goes back to what it was, or not (``lands``: by its offset); nobody has a file open any more."""
        keep = dice.choice((0.0, 0.3, 0.7, 0.95, 1.0))
        for path, offset, before, data in reversed(self._unsynced):
            if not os.path.exists(path):
                continue
            with open(path, "r+b") as file:
                for at in range(0, len(data), SECTOR_BYTES):
                    if not lands(offset + at) if lands else dice.random() >= keep:
                        file.seek(offset + at)
                        file.write(before[at : at + SECTOR_BYTES])
        self._unsynced.clear()
        self.countdown = None
        for fd in list(self._open):
            self.close(fd)

    def __getattr__(self, name: str) -> Any:
        """What changes nothing."""
        return getattr(REAL_FILES, name)
