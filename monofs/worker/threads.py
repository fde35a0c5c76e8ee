"""Calls in pool threads whose results come back to the reactor as Deferreds.

Invariant: every Deferred fires, exactly once, on the reactor: with the result, the error, or ``NotReady`` when the pool stops before a
thread began the call. Not here: who retries.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

from twisted.internet.defer import Deferred

from monofs.model.errors import Internal, MonofsError, NotReady
from monofs.observe.logs import logger
from monofs.observe.tracing import TRACE
from monofs.worker.pool import Pool

log = logger(__name__)
_T = TypeVar("_T")


class Threads:
    """A named pool. Methods: reactor thread only."""

    def __init__(self, name: str, threads: int, queue: int, reactor: Any) -> None:
        self._pool, self._reactor = Pool(name, threads, queue), reactor
        self._waiting: set[Deferred[Any]] = set()

    def run(self, work: Callable[[], _T]) -> Deferred[_T]:
        """The result of ``work``, called in a thread. Fails with its ``MonofsError``, ``Internal`` for anything else it raises, ``Overloaded``
        at the pool's bound, ``NotReady``."""
        done: Deferred[_T] = Deferred()
        self._waiting.add(done)
        try:
            self._pool.submit(partial(self._call, done, work, TRACE.get()))
        except MonofsError as error:
            self._fire(done, error)
        return done

    def forget(self) -> None:
        """The pool is stopped: fail what no thread has brought back."""
        for done in list(self._waiting):
            self._fire(done, NotReady("the worker is stopping"))

    def stop(self, timeout_s: float) -> None:
        """Wait for the running calls, drop the waiting ones; blocking, call it from a thread, then `forget`."""
        self._pool.stop(timeout_s)

    def _call(self, done: Deferred[_T], work: Callable[[], _T], trace: int) -> None:
        TRACE.set(trace)
        result: _T | MonofsError
        try:
            result = work()
        except MonofsError as error:
            result = error
        except Exception as error:  # noqa: BLE001 - whatever it is, somebody waits for it
            log.error("a call in a thread failed", exception=error)
            result = Internal(f"a call in a thread failed: {type(error).__name__}")
        self._reactor.callFromThread(self._fire, done, result)

    def _fire(self, done: Deferred[_T], result: _T | MonofsError) -> None:
        if done not in self._waiting:
            return
        self._waiting.discard(done)
        if isinstance(result, MonofsError):
            done.errback(result)
        else:
            done.callback(result)
