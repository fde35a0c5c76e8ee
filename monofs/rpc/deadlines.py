"""Deadlines of everything that waits: a wheel of 50 ms slots with one timer, because a timer a request costs 3 µs.

Invariant: ``expire()`` is called on the reactor thread, never before the deadline, at most about 0.1 s after it, and never
for what was taken out.
"""

from __future__ import annotations

import time
from collections.abc import Hashable
from typing import Any, Protocol

SLOTS_PER_S = 20


class Expires(Hashable, Protocol):
    """Something that waits. ``slot`` belongs to the wheel."""

    slot: int

    def expire(self) -> None:
        """The deadline has passed."""


class Deadlines:
    """The wheel of one service or client. All times are time.monotonic seconds."""

    __slots__ = ("_reactor", "_running", "_slots")

    def __init__(self, reactor: Any) -> None:
        self._reactor = reactor
        self._slots: dict[int, set[Expires]] = {}
        self._running = False

    def __len__(self) -> int:
        return sum(map(len, self._slots.values()))

    def add(self, waiter: Expires, deadline: float) -> None:
        """Call ``waiter.expire()`` once ``deadline`` has passed, unless :meth:`discard` comes first."""
        slot = int(deadline * SLOTS_PER_S) + 1
        waiter.slot = slot
        waiting = self._slots.get(slot)
        if waiting is None:
            self._slots[slot] = {waiter}
        else:
            waiting.add(waiter)
        if not self._running:
            self._running = True
            self._reactor.callLater(1 / SLOTS_PER_S, self._tick)

    def discard(self, waiter: Expires) -> None:
        """Forget a waiter; not an error when it is not here."""
        waiting = self._slots.get(waiter.slot)
        if waiting is not None:
            waiting.discard(waiter)
            if not waiting:
                del self._slots[waiter.slot]

    def _tick(self) -> None:
        now = int(time.monotonic() * SLOTS_PER_S)
        self._running = bool(self._slots)
        if self._running:
            self._reactor.callLater(1 / SLOTS_PER_S, self._tick)
        for slot in sorted(slot for slot in self._slots if slot <= now):
            waiting = self._slots.pop(slot, None)
            while waiting:
                waiting.pop().expire()
