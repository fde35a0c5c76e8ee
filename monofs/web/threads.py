"""A bounded pool of threads for what may block, with a bound of its own for each *lane*: what waits for the same other, such as a store, which may hang.

Invariant: at most ``THREADS`` calls at a time and ``WAITING_MAX`` at work and waiting, of these ``LANE_MAX`` and ``LANE_WAITING_MAX`` in one lane: what hangs holds up those who ask it, nobody
else. A thread cannot be taken back: a call ends when what it asks gives up.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred, fail
from twisted.internet.threads import deferToThreadPool
from twisted.python.threadpool import ThreadPool

from monofs.model.errors import Overloaded

THREADS, WAITING_MAX = 16, 256
LANE_MAX, LANE_WAITING_MAX = 4, 64


class Threads:
    """All methods are called on the reactor."""

    def __init__(self, reactor: Any, name: str) -> None:
        self._reactor = reactor
        self._pool = ThreadPool(1, THREADS, name)
        self._waiting = 0
        self._held: Counter[str] = Counter()
        self._queued: dict[str, deque[tuple[Deferred[Any], Callable[[], Any]]]] = {}

    def start(self) -> None:
        """Take calls."""
        self._pool.start()

    def stop(self) -> Deferred[Any]:
        """Take no more, and fire when the last call has ended: the reactor goes on meanwhile, for it may be what is asked."""
        for queue in self._queued.values():
            for later, _ in queue:
                later.errback(Overloaded("the console is stopping"))
        self._queued.clear()
        self._waiting = WAITING_MAX
        return deferToThreadPool(self._reactor, self._reactor.getThreadPool(), self._pool.stop)

    def run(self, function: Callable[..., Any], *arguments: Any, lane: str = "") -> Deferred[Any]:
        """A function in a thread; '': in no lane. Fails with ``Overloaded`` when too many wait."""
        queue = self._queued.get(lane, ())
        if self._waiting >= WAITING_MAX or len(queue) >= LANE_WAITING_MAX:
            return fail(Overloaded(f"too much waits for {lane or 'the console'}: try again shortly"))
        self._waiting += 1

        def call() -> Any:
            return function(*arguments)

        if lane and self._held[lane] >= LANE_MAX:
            later: Deferred[Any] = Deferred()
            self._queued.setdefault(lane, deque()).append((later, call))
            return later
        return self._begin(call, lane)

    def _begin(self, call: Callable[[], Any], lane: str) -> Deferred[Any]:
        self._held[lane] += 1
        return deferToThreadPool(self._reactor, self._pool, call).addBoth(self._ended, lane)

    def _ended(self, outcome: Any, lane: str) -> Any:
        self._waiting -= 1
        self._held[lane] -= 1
        queue = self._queued.get(lane)
        if queue:
            later, call = queue.popleft()
            if not queue:
                del self._queued[lane]
            self._begin(call, lane).addBoth(later.callback)
        elif not self._held[lane]:
            del self._held[lane]
        return outcome
