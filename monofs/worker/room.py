"""How many bytes of unfinished writes may lie in memory, and whose writers wait when there are too many.

A writer waits by getting its answer late. Answers go out in the order they began to wait, no more at a time than bytes have left, so
nobody starves and no crowd arrives at once. Bytes of parts that are being sent will leave; those of unfinished parts leave only when
their writers may send more. So when nothing is on its way and there is no room, the write that began first goes on alone until its part
leaves, however much is held: by one part at most beyond the bound. One that is let in and sends nothing makes way for the next.
Should very many writers send at once, those that began last are refused ``HARD_BYTES`` above the bound.

Pure. Not here: what is held (writing.py).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

GRANT_BYTES = 1 << 20
"""What a writer that gets its answer is expected to send next."""
HARD_BYTES = 256 << 20


class Room:
    """The bytes of all writes of a worker, at most ``most`` before writers wait."""

    def __init__(self, most: int) -> None:
        self._most = most
        self.used = 0
        self._leaving = 0
        self._held: dict[int, int] = {}
        self._waiting: deque[tuple[int, Callable[[], None]]] = deque()
        self._alone: int | None = None
        """The write that goes on although there is no room."""
        self._alone_sent = False

    @property
    def waiting(self) -> int:
        """Answers that wait."""
        return len(self._waiting)

    def is_over(self, operation: int) -> bool:
        """Whether this write's bytes are to be refused: far too much is held, and another write began earlier."""
        return self.used >= self._most + HARD_BYTES and operation > min(self._held, default=operation)

    def take(self, operation: int, size: int) -> None:
        """Bytes have come."""
        self.used += size
        self._held[operation] = self._held.get(operation, 0) + size
        self._alone_sent = self._alone_sent or operation == self._alone

    def send(self, size: int) -> None:
        """Bytes taken are on their way to a store or disk."""
        self._leaving += size

    def sent(self, operation: int, size: int) -> None:
        """Bytes on their way have left memory."""
        self._leaving -= size
        self.give(operation, size)

    def give(self, operation: int, size: int) -> None:
        """Bytes taken have left memory."""
        self.used -= size
        held = self._held.get(operation, 0) - size
        if held > 0:
            self._held[operation] = held
        else:
            self._held.pop(operation, None)
        self._leave_alone(operation)
        self._grant(size // GRANT_BYTES)

    def wait(self, operation: int, answer: Callable[[], None]) -> None:
        """Call ``answer`` when the write may send more; at once when there is room and nobody waits."""
        self._waiting.append((operation, answer))
        self._grant(1)

    def tick(self) -> None:
        """Now and then: those who were let in may have nothing to send."""
        if not self._alone_sent:
            self._alone = None
        self._alone_sent = False
        self._grant((self._most - self.used) // GRANT_BYTES)

    def forget(self, operation: int) -> None:
        """A write ended: its answers are given otherwise."""
        self._waiting = deque(each for each in self._waiting if each[0] != operation)
        self._leave_alone(operation)
        self._grant(1)

    def _grant(self, most: int) -> None:
        granted = 0
        while self._waiting and self.used < self._most and granted < max(most, 1):
            granted += 1
            self._waiting.popleft()[1]()
        if self._waiting and not granted and not self._leaving:
            if self._alone is None:
                self._alone, self._alone_sent = min(operation for operation, _ in self._waiting), False
            alone = next((each for each in self._waiting if each[0] == self._alone), None)
            if alone is not None:
                self._waiting.remove(alone)
                alone[1]()

    def _leave_alone(self, operation: int) -> None:
        if operation == self._alone:
            self._alone = None
