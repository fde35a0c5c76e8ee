"""How many bytes of unfinished writes may lie in memory, and whose writers wait when there are too many.

A writer waits by getting its answer late. Answers go out in the order they began to wait, so nobody starves. Bytes of parts that are
being sent will leave; those of unfinished parts leave only when their writers may send more. So when nothing is on its way and
all wait, the write that began first goes on alone, however much is held: by one part at most beyond the bound.

Pure. Not here: what is held (writing.py).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable


class Room:
    """The bytes of all writes of a worker, at most ``most`` before writers wait."""

    def __init__(self, most: int) -> None:
        self._most = most
        self.used = 0
        self._leaving = 0
        self._waiting: deque[tuple[int, Callable[[], None]]] = deque()

    @property
    def waiting(self) -> int:
        """Answers that wait."""
        return len(self._waiting)

    def take(self, size: int) -> None:
        """Bytes have come."""
        self.used += size

    def send(self, size: int) -> None:
        """Bytes taken are on their way to a store or disk."""
        self._leaving += size

    def sent(self, size: int) -> None:
        """Bytes on their way have left memory."""
        self._leaving -= size
        self.give(size)

    def give(self, size: int) -> None:
        """Bytes taken have left memory."""
        self.used -= size
        self._wake()

    def wait(self, operation: int, answer: Callable[[], None]) -> None:
        """Call ``answer`` when the write may send more; at once when there is room."""
        self._waiting.append((operation, answer))
        self._wake()

    def forget(self, operation: int) -> None:
        """A write ended: its answers are given otherwise."""
        self._waiting = deque(each for each in self._waiting if each[0] != operation)
        self._wake()

    def _wake(self) -> None:
        while self._waiting and self.used < self._most:
            self._waiting.popleft()[1]()
        if self._waiting and not self._leaving:
            first = min(self._waiting, key=lambda each: each[0])
            self._waiting.remove(first)
            first[1]()
