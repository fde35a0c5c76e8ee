"""The last lines of a log, in memory: what the console shows live. No file is read.

Invariant: memory is bounded by ``LINES_MAX`` and ``BYTES_MAX``, whatever is logged; keeping a line costs less than a microsecond, and whoever logs never waits; whoever wants to hear of new lines is
called once, and not again before it has looked: a storm of lines costs one call. Numbers of lines only grow, so a reader knows what it missed.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable

LINES_MAX = 2000
BYTES_MAX = 4 << 20


class Recent:
    """Lines as they were written: JSON, without the newline. Any thread."""

    def __init__(self, lines: int = LINES_MAX, size_bytes: int = BYTES_MAX) -> None:
        self._lines_max, self._bytes_max = lines, size_bytes
        self._lines: deque[bytes] = deque()
        self._lock = threading.Lock()
        self._bytes = 0
        self._next = 1
        self._is_awaited = False
        self.on_line: Callable[[], None] | None = None
        """Called from any thread with the first line after :meth:`await_line`; must neither wait nor log."""

    def put(self, line: bytes) -> None:
        """A line was written; one that is too long for all of it is only counted."""
        with self._lock:
            self._next += 1
            self._lines.append(line if len(line) <= self._bytes_max else _TOO_LONG)
            self._bytes += len(self._lines[-1])
            while len(self._lines) > self._lines_max or self._bytes > self._bytes_max:
                self._bytes -= len(self._lines.popleft())
            wake = self.on_line if self._is_awaited else None
            self._is_awaited = False
        if wake is not None:
            wake()

    def await_line(self) -> None:
        """Call ``on_line`` with the next line, once."""
        self._is_awaited = True

    def tail(self, count: int) -> tuple[int, list[bytes]]:
        """The number of the first line given, and at most ``count`` of the last ones, oldest first."""
        with self._lock:
            lines = list(self._lines)[-count:] if count else []
            return self._next - len(lines), lines


_TOO_LONG = b'{"event": "a line that is too long to be shown here: see the log file"}'
