"""When a second worker is asked for what a first one is slow to send. Pure: no I/O, no clock.

The delay is learnt: the time within which 95 of the last 100 or so reads had their first byte at the workers that are quickest to begin, within
bounds: of all reads together a slow worker's would be a part, and one worker of two would set the delay itself. A budget keeps the extra requests to
3 % of all, so that hedging never makes the load of workers that are slow because they have too much to do much greater. The second worker is asked
for what it has cached, never to fetch (law 6: the first may be fetching the very page): it answers at once that it has not.

Not here: how the two requests race (rpc/hedge.py), who the second is (session.py), how long one that lost is passed by (cluster.py).
"""

from __future__ import annotations

from collections import deque

SHARE = 0.95
LEAST_S = 0.02
MOST_S = 0.5
"""Then the first one has to prove that it lives (session.py, ``WORKER_SILENCE_S``), so it is time to ask another."""
KNOWN_MAX = 128
LOOK_EVERY = 16
"""Reads between two looks at what is known; before the first nobody is hasty: the delay is the longest."""
BUCKETS = 16
"""Workers are told apart by so many numbers: more than one would be slow at a time, and a program may read from 3,000."""
BUDGET = 0.03
"""Extra requests a read."""
SAVED_MAX = 5.0
"""Extra requests saved up by reads that needed none."""


class Hedging:
    """Of one process's reads of one kind at all workers. Threads may share it: a lost update costs a little precision."""

    __slots__ = ("_known", "_looked", "_saved", "_within", "asked", "delay_s", "won")

    def __init__(self) -> None:
        self._known: list[deque[float]] = [deque(maxlen=KNOWN_MAX) for _ in range(BUCKETS)]
        self._looked = [0] * BUCKETS
        self._within: dict[int, float] = {}
        """Time within which nearly all reads of a bucket began."""
        self._saved = 1.0
        self.delay_s = MOST_S
        """How long the first worker may be silent."""
        self.asked = self.won = 0
        """Second workers asked, and those whose answers were taken."""

    def spend(self) -> bool:
        """Whether a second worker may be asked now; the budget is charged."""
        if self._saved < 1.0:
            return False
        self._saved -= 1.0
        self.asked += 1
        return True

    def note(self, worker: int, first_byte_s: float, *, won: bool) -> None:
        """A read ended: how long its first worker was silent, and whether the second one's answer was taken."""
        bucket = worker % BUCKETS
        known = self._known[bucket]
        known.append(first_byte_s)
        self._saved = min(SAVED_MAX, self._saved + BUDGET)
        self.won += won
        self._looked[bucket] += 1
        if self._looked[bucket] >= LOOK_EVERY:
            self._looked[bucket] = 0
            self._within[bucket] = sorted(known)[int(SHARE * (len(known) - 1))]
            self.delay_s = min(MOST_S, max(LEAST_S, min(self._within.values())))
