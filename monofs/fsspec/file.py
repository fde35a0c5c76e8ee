"""The file object fsspec hands out: a MonofsFile with the few attributes users of fsspec's buffered files rely on.

There is no block cache between: reads of cached bytes are one system call (client/file.py), and a reader of small pieces over a
socket has a buffer there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from monofs.client import MonofsFile
from monofs.client.reader import Reader

if TYPE_CHECKING:
    from monofs.fsspec.filesystem import MonofsFileSystem

BLOCK_BYTES = 1 << 20


class MonofsFsspecFile(MonofsFile):
    """Open for reading; pickles as its path and position."""

    blocksize = BLOCK_BYTES

    def __init__(self, fs: MonofsFileSystem, reader: Reader) -> None:
        super().__init__(reader, fs.open_raw)
        self.fs = fs

    @property
    def details(self) -> dict[str, Any]:
        """:meth:`MonofsFileSystem.info` of the path as it was opened."""
        return self.fs.describe(self.path, self._reader.opened.inode)

    @property
    def full_name(self) -> str:
        """The URL."""
        return self.fs.unstrip_protocol(self.path)

    def info(self) -> dict[str, Any]:
        """:attr:`details`."""
        return self.details

    def _fetch_range(self, start: int, end: int) -> bytes:
        """What fsspec's own caches (``blockcache::``) ask a file for; ours reads past them."""
        return self.pread(start, end - start)

    def readuntil(self, char: bytes = b"\n", blocks: int | None = None) -> bytes:
        """Bytes up to and with ``char``, or to the end; ``blocks`` is the size of the pieces looked at."""
        found = bytearray()
        step = blocks or self.blocksize
        while piece := self.pread(self._position + len(found), step):
            at = piece.find(char)
            if at >= 0:
                found += piece[: at + len(char)]
                break
            found += piece
        self._position += len(found)
        return bytes(found)
