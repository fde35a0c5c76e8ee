"""Single flight: callers who need the same look at a store share one.

A caller says *since* when the look must have begun to be fresh enough for it. It joins the flight in the air when that began
late enough; else it waits for the next one, which begins when the present one ends and is shared by all who wait for it. So
at most one look per key is in the air, and an interval of 0 is honest: the look begins after the question.

Invariant: every Deferred handed out is fired exactly once; a key has a flight in the air or is not in the table.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Hashable
from contextvars import Context, copy_context
from typing import Any, Generic, TypeVar

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

T = TypeVar("T")
Begin = Callable[[], Coroutine["Deferred[Any]", Any, T]]


class _Flight(Generic[T]):
    __slots__ = ("began", "begin_next", "context", "next", "waiting")

    def __init__(self, began: float) -> None:
        self.began = began
        self.waiting: list[Deferred[T]] = []
        self.next: list[Deferred[T]] = []
        self.begin_next: Begin[T] | None = None
        self.context: Context | None = None
        """Of who asked for the next flight: its log lines carry that request's id."""


class Flights(Generic[T]):
    """Flights of one kind, by key; ``clock`` tells monotonic seconds."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._flying: dict[Hashable, _Flight[T]] = {}

    def __len__(self) -> int:
        return len(self._flying)

    def join(self, key: Hashable, since: float, begin: Begin[T]) -> Deferred[T]:
        """The outcome of a flight that began at ``since`` or later; ``begin`` starts one."""
        waiter: Deferred[T] = Deferred()
        flight = self._flying.get(key)
        if flight is None:
            self._begin(key, [waiter], begin)
        elif flight.began >= since:
            flight.waiting.append(waiter)
        else:
            flight.next.append(waiter)
            flight.begin_next, flight.context = begin, copy_context()
        return waiter

    def _begin(self, key: Hashable, waiting: list[Deferred[T]], begin: Begin[T]) -> None:
        flight: _Flight[T] = _Flight(self._clock())
        flight.waiting = waiting
        self._flying[key] = flight

        def land(outcome: T | Failure) -> None:
            del self._flying[key]
            if flight.begin_next is not None and flight.context is not None:
                flight.context.run(self._begin, key, flight.next, flight.begin_next)
            for each in flight.waiting:
                if isinstance(outcome, Failure):
                    each.errback(outcome)
                else:
                    each.callback(outcome)

        Deferred.fromCoroutine(begin()).addBoth(land)
