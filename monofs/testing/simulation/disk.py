"""Disks of the simulated world: files whose unsynced sectors a power cut may lose, tear apart and reorder.

``Disk`` is the ``Files`` of monofs/journal/files.py, so the product's segment code runs on it unchanged. Model: a write lands in the page
cache; fsync or fdatasync makes the file's bytes durable; a power cut keeps any subset of the 512-byte sectors written since; names made,
moved and removed are durable once the directory is synced, and a power cut keeps a prefix of those since (file systems journal them).
A failed sync drops any subset of what it should have written, and the next one succeeds: what Linux does. ``countdown`` lets the power go
inside of any change. Who cuts the power, and when, is not here.
"""

from __future__ import annotations

import errno
import os
import random
from types import SimpleNamespace
from typing import Any

SECTOR_BYTES = 512


class PowerLost(BaseException):
    """The machine stopped inside an operation on its disk. No ``Exception``: nothing in the journal may catch it."""


class _File:
    __slots__ = ("data", "dirty")

    def __init__(self) -> None:
        self.data = bytearray()
        self.dirty: dict[int, bytes] = {}  # sector -> what the disk holds there

    def write(self, data: Any, offset: int) -> None:
        end = offset + len(data)
        if end > len(self.data):
            self.data.extend(bytes(end - len(self.data)))
        for sector in range(offset // SECTOR_BYTES, -(-end // SECTOR_BYTES)):
            if sector not in self.dirty:
                self.dirty[sector] = bytes(self.data[sector * SECTOR_BYTES : (sector + 1) * SECTOR_BYTES])
        self.data[offset:end] = data

    def lose(self, dice: random.Random, keep: float) -> int:
        """Each unsynced sector lands or not; returns how many were lost."""
        lost = 0
        for sector, before in self.dirty.items():
            if dice.random() >= keep:
                self.data[sector * SECTOR_BYTES : sector * SECTOR_BYTES + len(before)] = before
                lost += 1
        self.dirty.clear()
        return lost


class Disk:
    """One machine's disk. ``room_bytes`` bounds the sum of its files; ``countdown``: after so many changes more the power goes;
    ``fail_syncs``: so many of the next syncs fail with EIO."""

    def __init__(self, dice: random.Random, room_bytes: int = 1 << 40) -> None:
        self.room_bytes = room_bytes
        self.countdown: int | None = None
        self.fail_syncs = 0
        self.names: dict[str, _File] = {}
        self._dice = dice
        self._dead = False
        self._directories: set[str] = set()
        self._durable_names: dict[str, _File] = {}
        self._changes: list[dict[str, _File]] = []  # the names after each change since the directory was synced
        self._open: dict[int, _File | str] = {}  # str: a directory
        self._descriptors = 0

    # ---- power ----------------------------------------------------------------------------------------------------------

    def changed(self) -> None:
        """Called before each change: here the power may go."""
        if self._dead:
            raise PowerLost
        if self.countdown is not None:
            self.countdown -= 1
            if self.countdown < 0:
                self._dead = True
                raise PowerLost

    def cut_power(self) -> int:
        """Lose what a power cut loses; returns the number of sectors lost."""
        dice = self._dice
        self.names = dict(dice.choice([self._durable_names, *self._changes]))
        self._sync_names()
        keep = dice.choice((0.0, 0.5, 0.5, 0.9, 1.0))
        return sum(self.names[name].lose(dice, keep) for name in sorted(self.names))

    def end_process(self) -> None:
        """The process that had the descriptors is gone; the disk can be used again."""
        self._open.clear()
        self.countdown, self._dead = None, False

    def flip_bit(self, path: str, offset: int, bit: int) -> None:
        """Damage one durable bit."""
        self.names[path].data[offset] ^= 1 << bit

    def peek(self, path: str) -> bytes:
        """The bytes of a file."""
        return bytes(self.names[path].data)

    # ---- descriptors ----------------------------------------------------------------------------------------------------

    def open(self, path: str, flags: int, mode: int = 0o777) -> int:
        """As in ``os``."""
        what: _File | str | None = path if path in self._directories else self.names.get(path)
        if what is None:
            if not flags & os.O_CREAT:
                raise FileNotFoundError(errno.ENOENT, "no such file", path)
            self.changed()
            what = self.names[path] = _File()
            self._names_changed()
        elif flags & os.O_EXCL:
            raise FileExistsError(errno.EEXIST, "it exists", path)
        self._descriptors += 1
        self._open[self._descriptors] = what
        return self._descriptors

    def close(self, fd: int) -> None:
        """As in ``os``."""
        if not self._dead:
            del self._open[fd]

    def _file(self, fd: int) -> _File:
        what = self._open[fd]
        if isinstance(what, str):
            raise IsADirectoryError(errno.EISDIR, "a directory", what)
        return what

    def pread(self, fd: int, length: int, offset: int, /) -> bytes:
        """As in ``os``."""
        return bytes(self._file(fd).data[offset : offset + length])

    def pwrite(self, fd: int, data: Any, offset: int, /) -> int:
        """As in ``os``; when the power goes here, the first half of the bytes may be in the cache."""
        file = self._file(fd)
        self._check_room(offset + len(data) - len(file.data))
        try:
            self.changed()
        except PowerLost:
            file.write(data[: len(data) // 2 // SECTOR_BYTES * SECTOR_BYTES], offset)
            raise
        file.write(data, offset)
        return len(data)

    def _check_room(self, growth: int) -> None:
        if growth > 0 and sum(len(file.data) for file in self.names.values()) + growth > self.room_bytes:
            raise OSError(errno.ENOSPC, "no room")

    def posix_fallocate(self, fd: int, offset: int, length: int, /) -> None:
        """As in ``os``."""
        file = self._file(fd)
        growth = offset + length - len(file.data)
        self._check_room(growth)
        self.changed()
        file.data.extend(bytes(max(growth, 0)))

    def posix_fadvise(self, fd: int, offset: int, length: int, advice: int, /) -> None:
        """There is one copy of each byte here."""

    def fsync(self, fd: int) -> None:
        """As in ``os``: of a file its bytes, of a directory its names."""
        self.changed()
        what = self._open[fd]
        if isinstance(what, str):
            self._sync_names()
        elif self.fail_syncs:
            self.fail_syncs -= 1
            what.lose(self._dice, 0.5)
            raise OSError(errno.EIO, "the disk failed")
        else:
            what.dirty.clear()

    def fdatasync(self, fd: int) -> None:
        """As in ``os``."""
        self.fsync(fd)

    def fstat(self, fd: int) -> Any:
        """Only the size is told."""
        return SimpleNamespace(st_size=len(self._file(fd).data))

    def flock(self, fd: int, operation: int, /) -> None:
        """One process at a time uses a simulated disk."""

    # ---- names ----------------------------------------------------------------------------------------------------------

    def _names_changed(self) -> None:
        self._changes.append(dict(self.names))

    def _sync_names(self) -> None:
        self._durable_names = dict(self.names)
        self._changes.clear()

    def listdir(self, path: str) -> list[str]:
        """As in ``os``."""
        return [name.rpartition("/")[2] for name in self.names if name.rpartition("/")[0] == path]

    def makedirs(self, path: str, mode: int = 0o777) -> None:
        """As in ``os``; directories are durable at once, they are made once in a life of a home."""
        if path in self._directories:
            raise FileExistsError(errno.EEXIST, "it exists", path)
        while path and path not in self._directories:
            self._directories.add(path)
            path = path.rpartition("/")[0]

    def rename(self, old: str, new: str) -> None:
        """As in ``os``."""
        self.changed()
        self.names[new] = self.names.pop(old)
        self._names_changed()

    def unlink(self, path: str) -> None:
        """As in ``os``."""
        if path not in self.names:
            raise FileNotFoundError(errno.ENOENT, "no such file", path)
        self.changed()
        del self.names[path]
        self._names_changed()

    def urandom(self, count: int, /) -> bytes:
        """Seeded."""
        return self._dice.randbytes(count)
