"""The file objects fsspec hands out: a MonofsFile or Writer with the few attributes users of fsspec's buffered files rely on.

There is no block cache between: reads of cached bytes are one system call (client/file.py), and a reader of small pieces over a
socket has a buffer there.
"""

from __future__ import annotations

import io
import sys
from types import TracebackType
from typing import TYPE_CHECKING, Any

from fsspec.core import OpenFile

from monofs.client import FileInfo, MonofsFile, Writer
from monofs.client.reader import Reader

if TYPE_CHECKING:
    from monofs.fsspec.filesystem import MonofsFileSystem

BLOCK_BYTES = 1 << 20
FRAMES_MAX = 8
"""Calls between a file and the ``OpenFile`` that closes it, through text and compression."""


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


class MonofsFsspecWriter(Writer):
    """Open for writing. In a transaction (``autocommit`` False) closing keeps the file back until ``commit``."""

    blocksize = BLOCK_BYTES

    def __init__(self, fs: MonofsFileSystem, *what: Any, staged: bool) -> None:
        """``what`` as a :class:`Writer` takes it."""
        super().__init__(*what, staged=staged)
        self.fs = fs
        self.autocommit = not staged

    @property
    def full_name(self) -> str:
        """The URL."""
        return self.fs.unstrip_protocol(self.path)

    @property
    def size(self) -> int:
        """Bytes written so far."""
        return self._position

    @property
    def details(self) -> dict[str, Any]:
        """What is known of the file."""
        if self.info is not None:
            return self.fs.describe(self.path, self.info.inode)
        return {"name": self.path, "size": self._position, "type": "file"}

    def close(self) -> FileInfo | None:  # type: ignore[override]
        """Publish, or give up where ``with fsspec.open(…)`` is left by an exception: fsspec itself does not tell its files."""
        if not self.closed and _is_left_by_exception():
            self.abort()
        return super().close()

    def _publish(self) -> None:
        super()._publish()
        self.fs.invalidate_cache(self.path)


def _is_left_by_exception() -> bool:
    """Whether an ``OpenFile`` closes its files because an exception passes through its ``with``."""
    frame = sys._getframe(1)
    for _ in range(FRAMES_MAX):
        if frame.f_code is OpenFile.__exit__.__code__:
            return any(frame.f_locals.get("args", ()))
        if frame.f_back is None:
            return False
        frame = frame.f_back
    return False


class CompressedWriter(io.RawIOBase):
    """What compresses into a :class:`Writer`; both end together, which compressors by themselves leave to the garbage collector."""

    def __init__(self, writer: Writer, compressor: Any) -> None:
        super().__init__()
        self._writer = writer
        self._compressor = compressor

    def write(self, data: Any, /) -> int:
        """Compress and append all of ``data``."""
        self._compressor.write(data)
        return memoryview(data).nbytes

    def writable(self) -> bool:
        """True."""
        return True

    def tell(self) -> int:
        """Bytes given so far, before compression."""
        return int(self._compressor.tell())

    def close(self) -> None:
        """Publish."""
        if not self.closed:
            try:
                self._compressor.close()
                self._writer.close()
            except BaseException:
                self._writer.abort()
                raise
            finally:
                super().close()

    def abort(self) -> None:
        """See :meth:`Writer.abort`."""
        try:
            self._compressor.close()  # else it would, when collected
        except (OSError, ValueError):
            pass  # what it wrote is given up anyway
        self._writer.abort()
        super().close()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()
        else:
            self.abort()

    def __del__(self) -> None:
        """As of a :class:`Writer`: what nobody closed is given up, and the writer says so."""
