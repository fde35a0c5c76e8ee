"""Which blocks take more than their share of what this worker serves, and on how many workers more they should be read. Pure: time is an argument.

A request weighs its bytes and what it costs beside them. A block is hot from ``BUSY_BYTES_S`` on, if that is a quarter or more of all that is served; it
is then spread over so many workers that each serves less. Readers that are told choose among them by lot, so that this worker sees one part of
what is asked in all, and goes on from that. When the heat goes, one worker fewer is told each second.

Invariant: bounded: ``BLOCKS_MAX`` blocks are watched in a window, others only count into the sum. Not here: who those workers are (the client, by
the slot), how they come to the bytes (they ask the owner as ever).
"""

from __future__ import annotations

import math

from monofs.observe.metrics import HOT_TOLD
from monofs.rpc.api import Empty, Message, ServedAnswer

WINDOW_S = 1.0
REQUEST_BYTES = 64 << 10
"""What a request costs, in bytes sent."""
BUSY_BYTES_S = 128 << 20
"""One block's part of a worker's second that needs nobody else: an eighth of a core, or 2,000 small requests."""
SHARE = 0.25
SPREAD_MOST = 7
"""Most workers beside the owner that one block is read from."""
BLOCKS_MAX = 1024

Served = dict[tuple[int, int], tuple[int, int]]
"""What one request asks for: (content, block) → pieces and bytes."""


class Heat:
    """Of one worker's serving, to readers on other machines."""

    __slots__ = ("_began_s", "_counts", "_spread", "_total")

    def __init__(self) -> None:
        self._counts: dict[tuple[int, int], int] = {}
        self._spread: dict[tuple[int, int], int] = {}
        self._total = 0
        self._began_s = -math.inf

    def note(self, block: tuple[int, int], length: int, now_s: float, requests: int = 1) -> int:
        """A reader asks for ``length`` bytes of a block; on how many workers more it should be read from now on."""
        if now_s - self._began_s >= WINDOW_S:
            self._look(now_s)
        weight = length + requests * REQUEST_BYTES
        self._total += weight
        counts = self._counts
        if block in counts:
            counts[block] += weight
        elif len(counts) < BLOCKS_MAX:
            counts[block] = weight
        return self._spread.get(block, 0) if self._spread else 0

    def _look(self, now_s: float) -> None:
        """A window is over: decide by it."""
        elapsed_s = max(now_s - self._began_s, WINDOW_S)
        before, self._spread = self._spread, {}
        for block in {**before, **self._counts}:
            known = before.get(block, 0)
            here = self._counts.get(block, 0)
            asked = here * (known + 1)
            wanted = 0
            if asked >= SHARE * (self._total - here + asked) and asked >= BUSY_BYTES_S * elapsed_s:
                wanted = min(SPREAD_MOST, math.ceil(asked / (BUSY_BYTES_S * elapsed_s)))
            spread = max(wanted, known - 1)
            if spread > 0:
                self._spread[block] = spread
        self._counts, self._total, self._began_s = {}, 0, now_s


def tell(heat: Heat, served: Served, now_s: float) -> Message:
    """Note what a request asks for; how its answer ends."""
    hot = []
    for block, (requests, length) in served.items():
        spread = heat.note(block, length, now_s, requests)
        if spread:
            hot.append((*block, spread))
    if not hot:
        return _NOTHING_HOT
    HOT_TOLD().value += len(hot)
    return ServedAnswer(hot)


_NOTHING_HOT = Empty()
