"""Virtual time: a queue of what is to happen, and named sources of randomness that all follow from one seed.

Invariant: the order of events depends on the seed and on nothing else (no clock, no hash order, no id). Ties are broken by the order of
asking. What the events do is not here.
"""

from __future__ import annotations

import heapq
import random
import zlib
from collections import Counter
from collections.abc import Callable
from typing import Any

MS = 1_000_000
SECOND = 1_000_000_000


class Events:
    """The queue, the clock behind all clocks, the trace and the counts of a run."""

    def __init__(self, seed: int, *, tracing: bool = False) -> None:
        self.seed = seed
        self.now_ns = 0
        self.steps = 0
        self.counts: Counter[str] = Counter()
        """What was reached; see coverage.py."""
        self.lines: list[str] = []
        self.tracing = tracing
        self._queue: list[tuple[int, int, Callable[..., None], tuple[Any, ...]]] = []
        self._asked = 0

    def random(self, name: str) -> random.Random:
        """A source of its own for ``name``, so that one part's throws do not move another's."""
        return random.Random(f"{self.seed}/{name}")

    def at(self, when_ns: int, function: Callable[..., None], *arguments: Any) -> None:
        """Call ``function(*arguments)`` at a virtual time that is not past."""
        self._asked += 1
        heapq.heappush(self._queue, (max(when_ns, self.now_ns), self._asked, function, arguments))

    def after(self, delay_ns: int, function: Callable[..., None], *arguments: Any) -> None:
        """Call ``function(*arguments)`` after a virtual while."""
        self.at(self.now_ns + delay_ns, function, *arguments)

    def step(self) -> bool:
        """Let the next event happen; False when there is none."""
        if not self._queue:
            return False
        self.now_ns, _, function, arguments = heapq.heappop(self._queue)
        self.steps += 1
        function(*arguments)
        return True

    def position(self) -> int:
        """The next position in the one total order of calls and returns."""
        self._asked += 1
        return self._asked

    def trace(self, subject: object, what: str, *values: object) -> None:
        """A line of the trace, formatted only when somebody wants it."""
        if self.tracing:
            shown = " ".join(map(str, values))
            self.lines.append(f"{self.now_ns / MS:12.3f} {subject!s:>4} {what} {shown}".rstrip())

    def digest(self) -> int:
        """CRC-32 of the trace so far."""
        crc = 0
        for line in self.lines:
            crc = zlib.crc32(line.encode(), crc)
        return crc
