"""What was measured lately: the last hour by the second and the last week by the minute, in one file that a restart finds again.

Invariant: memory and file are of one size from the start (about 1.4 MB for 24 series); a row lies where its time says (time modulo the length of its ring), with that time in it,
so that what was written by an older round, or by a clock that was off, is never taken for now. A file of other series is begun anew: history is worth no error.
Pure but for the file. Not here: what is measured (recording.py).
"""

from __future__ import annotations

import mmap
import os
import struct
from array import array
from collections.abc import Sequence

SECONDS, MINUTES = 3600, 7 * 24 * 60
MAGIC = b"monofs history 1\n"
HEADER_BYTES = 4096
_TIME = struct.Struct("<q")


FLOAT_MAX = 3.4e38
"""Of four bytes."""


class Ring:
    """Rows of one resolution over a part of a buffer."""

    def __init__(self, buffer: memoryview, rows: int, step_s: int, width: int) -> None:
        self.rows, self.step_s = rows, step_s
        self._values = struct.Struct(f"<{width}f")
        self._row_bytes = _TIME.size + self._values.size
        self._buffer = buffer[: rows * self._row_bytes]

    def put(self, at_s: int, values: Sequence[float]) -> None:
        """The row of the step that ``at_s`` (seconds since 1970 UTC) lies in."""
        step = at_s // self.step_s
        start = step % self.rows * self._row_bytes
        _TIME.pack_into(self._buffer, start, 0)  # torn in the middle, it is nobody's
        bounded = (min(max(value, -FLOAT_MAX), FLOAT_MAX) for value in values)  # what others tell may be anything
        self._values.pack_into(self._buffer, start + _TIME.size, *bounded)
        _TIME.pack_into(self._buffer, start, step)

    def get(self, begin_s: int, end_s: int) -> list[tuple[int, tuple[float, ...]]]:
        """(seconds since 1970 UTC, values) of every row there is in [begin, end], oldest first."""
        last = end_s // self.step_s
        found = []
        for step in range(max(begin_s // self.step_s, last - self.rows + 1), last + 1):
            start = step % self.rows * self._row_bytes
            if _TIME.unpack_from(self._buffer, start)[0] == step:
                found.append((step * self.step_s, self._values.unpack_from(self._buffer, start + _TIME.size)))
        return found

    def release(self) -> None:
        """Let go of the buffer."""
        self._buffer.release()

    @staticmethod
    def size_bytes(rows: int, width: int) -> int:
        """Of such a ring."""
        return rows * (_TIME.size + 4 * width)


class History:
    """The rings of a list of named series. ``path`` '': in memory only."""

    def __init__(self, path: str, names: Sequence[str]) -> None:
        self.names = tuple(names)
        width = len(self.names)
        seconds, minutes = Ring.size_bytes(SECONDS, width), Ring.size_bytes(MINUTES, width)
        size = HEADER_BYTES + seconds + minutes
        head = MAGIC + "\n".join(self.names).encode()
        if len(head) > HEADER_BYTES:
            raise ValueError("the names of the series do not fit into the header")
        self._map = _open(path, size, head.ljust(HEADER_BYTES, b"\0"))
        view = memoryview(self._map)
        self.seconds = Ring(view[HEADER_BYTES : HEADER_BYTES + seconds], SECONDS, 1, width)
        self.minutes = Ring(view[HEADER_BYTES + seconds :], MINUTES, 60, width)
        view.release()
        self._minute, self._count = 0, 0
        self._sums = array("d", bytes(8 * width))

    def put(self, now_s: float, values: Sequence[float]) -> None:
        """What was measured in this second; the minute's row is the mean of its seconds."""
        at_s = int(now_s)
        self.seconds.put(at_s, values)
        minute = at_s // 60
        if minute != self._minute:
            self._minute, self._count = minute, 0
            self._sums = array("d", bytes(8 * len(self.names)))
        self._count += 1
        for at, value in enumerate(values):
            self._sums[at] += value
        self.minutes.put(at_s, [total / self._count for total in self._sums])

    def get(self, now_s: float, span_s: int) -> tuple[list[int], dict[str, list[float]]]:
        """Times and values by series of the last ``span_s`` seconds: by the second up to an hour, else by the minute."""
        ring = self.seconds if span_s <= SECONDS else self.minutes
        rows = ring.get(int(now_s) - span_s, int(now_s))
        columns = list(zip(*(values for _, values in rows), strict=True)) or [()] * len(self.names)
        return [at for at, _ in rows], {
            name: [float(f"{value:.6g}") for value in column] for name, column in zip(self.names, columns, strict=True)
        }

    def close(self) -> None:
        """What is in the file stays."""
        self.seconds.release()
        self.minutes.release()
        self._map.close()


def _open(path: str, size: int, head: bytes) -> mmap.mmap:
    if not path:
        return mmap.mmap(-1, size)
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        is_known = os.fstat(fd).st_size == size and os.pread(fd, HEADER_BYTES, 0) == head
        if not is_known:
            os.ftruncate(fd, 0)
            os.posix_fallocate(fd, 0, size)  # a full disk is told now, not by a signal at a write to the map
            os.pwrite(fd, head, 0)
        return mmap.mmap(fd, size)
    finally:
        os.close(fd)
