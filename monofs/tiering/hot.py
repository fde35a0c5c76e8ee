"""Which contents are read most lately. Pure: time is an argument.

A read counts 1 and loses half of that every ``HALF_LIFE_NS``. Invariant: at most ``2 * KEPT`` contents are remembered, and of those the ``KEPT`` most read never go for
others; one that comes new counts from its first read on, so that what gets hot is seen however many others are read once. Not here: the order of eviction (`orders`), which knows
groups and forgets nothing that is cached; names (worker/named.py).
"""

from __future__ import annotations

import heapq

from monofs.model.ids import ContentId

KEPT = 1024
HALF_LIFE_NS = 600 * 10**9
REBASE_AT = 500.0
"""Half-lives after which all counts are scaled back, long before a float ends (1,023)."""


class Hot:
    """Counts of one cache."""

    __slots__ = ("_base_ns", "_reads")

    def __init__(self, now_ns: int) -> None:
        self._base_ns = now_ns
        self._reads: dict[ContentId, float] = {}

    def touched(self, content: ContentId, now_ns: int) -> None:
        """It was read."""
        age = (now_ns - self._base_ns) / HALF_LIFE_NS
        if not 0 <= age < REBASE_AT:
            age = self._rebase(now_ns, age)
        reads = self._reads
        reads[content] = reads.get(content, 0.0) + 2.0**age
        if len(reads) > 2 * KEPT:
            self._reads = dict(heapq.nlargest(KEPT, reads.items(), key=lambda item: item[1]))

    def most(self, count: int, now_ns: int) -> list[tuple[ContentId, float]]:
        """The contents read most, with what their reads count now."""
        scale = 2.0 ** -max(0.0, min((now_ns - self._base_ns) / HALF_LIFE_NS, REBASE_AT))
        found = heapq.nlargest(count, self._reads.items(), key=lambda item: item[1])
        return [(content, reads * scale) for content, reads in found]

    def _rebase(self, now_ns: int, age: float) -> float:
        """Count from now. Where the clock was set back to before all that was counted, nothing is known."""
        scale = 2.0 ** -min(age, 1_000.0) if age > 0 else 0.0
        self._reads = {content: reads * scale for content, reads in self._reads.items() if scale}
        self._base_ns = now_ns
        return 0.0
