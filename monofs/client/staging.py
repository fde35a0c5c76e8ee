"""Files that were closed inside a transaction, kept back until it ends: in memory up to a bound of the process, beyond it in one
nameless temporary file (in TMPDIR).

Invariant: a process keeps at most MEMORY_BYTES this way, and at most one descriptor. The file is emptied when nothing of it is kept any
more. Not here: larger files, whose bytes are at a worker already (writer.py).
"""

from __future__ import annotations

import os
import tempfile
import threading
from collections.abc import Iterator, Sequence

MEMORY_BYTES = 256 << 20


class Staging:
    """What one process keeps back."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._memory_bytes = 0
        self._fd = -1
        self._end = 0
        self._filed = 0
        """Staged files that lie in the temporary one."""

    def keep(self, pieces: Sequence[memoryview]) -> Staged:
        """Keep the bytes of one file. Raises OSError when the temporary file cannot take them."""
        size = sum(map(len, pieces))
        with self._lock:
            if self._memory_bytes + size <= MEMORY_BYTES:
                self._memory_bytes += size
                return Staged(self, pieces, size, None)
            if self._fd < 0:
                self._fd, name = tempfile.mkstemp(prefix="monofs-")
                os.unlink(name)
            start = offset = self._end
            for piece in pieces:
                while piece:
                    written = os.pwrite(self._fd, piece, offset)
                    piece, offset = piece[written:], offset + written
            self._end = offset
            self._filed += 1
            return Staged(self, [], size, start)

    def read(self, offset: int, length: int) -> memoryview:
        """Bytes of the temporary file."""
        return memoryview(os.pread(self._fd, length, offset))

    def drop(self, staged: Staged) -> None:
        """Keep it no longer."""
        with self._lock:
            if staged.start is None:
                self._memory_bytes -= staged.size
                return
            self._filed -= 1
            if not self._filed:
                os.close(self._fd)
                self._fd, self._end = -1, 0


class Staged:
    """One file kept back. ``start``: where it lies in the temporary file, None: in memory."""

    def __init__(self, staging: Staging, pieces: Sequence[memoryview], size: int, start: int | None) -> None:
        self._staging = staging
        self._pieces = pieces
        self.size = size
        self.start = start

    def pieces(self, piece_bytes: int) -> Iterator[memoryview]:
        """Its bytes, from the beginning each time it is called."""
        if self.start is None:
            yield from self._pieces
            return
        for offset in range(0, self.size, piece_bytes):
            yield self._staging.read(self.start + offset, min(piece_bytes, self.size - offset))

    def drop(self) -> None:
        """Keep it no longer."""
        self._pieces = ()
        self._staging.drop(self)


_process = Staging()


def process_staging() -> Staging:
    """This process's own."""
    return _process


def _after_fork() -> None:
    """The parent's files are the parent's to commit."""
    global _process
    if _process._fd >= 0:
        os.close(_process._fd)
    _process = Staging()


os.register_at_fork(after_in_child=_after_fork)
