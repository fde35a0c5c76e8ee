"""The clock of the master that leads, as this node knows it: by that all is stamped that the cluster tells, so by that the console says when and counts how long ago, however wrong its own is.

Invariant: small differences, which are the way there and back, change nothing; with no leader the last one's clock goes on. Not here: the viewer's clock (static/js/live.js).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

LEARN_EVERY_S = 10.0
TOLERANCE_S = 0.5


class Clock:
    """Until :meth:`learn` was called it is this node's own."""

    def __init__(self, wall: Callable[[], float] = time.time, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._wall, self._monotonic = wall, monotonic
        self.offset_s = 0.0
        self._asked_s = float("-inf")

    def now_s(self) -> float:
        """Seconds since 1970 UTC."""
        return self._wall() + self.offset_s

    def now_ms(self) -> int:
        """Milliseconds."""
        return int(1000 * self.now_s())

    def is_due(self) -> bool:
        """Whether it is time to :meth:`learn`; says so once."""
        now_s = self._monotonic()
        if now_s - self._asked_s < LEARN_EVERY_S:
            return False
        self._asked_s = now_s
        return True

    def learn(self, fs: Any) -> None:
        """Blocking: ask the leader. Raises what the client raises."""
        began_s = self._wall()
        told = fs.report("cluster")["cluster"]
        half_s = (self._wall() - began_s) / 2
        if told["leads"] and "now_ms" in told:
            offset_s = told["now_ms"] / 1000 - (began_s + half_s)
            if abs(offset_s - self.offset_s) > TOLERANCE_S + half_s:
                self.offset_s = offset_s if abs(offset_s) > TOLERANCE_S + half_s else 0.0
