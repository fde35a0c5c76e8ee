"""A bounded pool of daemon threads for blocking calls to one store, with a deadline per call.

A call that overruns its deadline fails its caller at once; its thread stays busy until the call returns (a system call cannot be
taken back) and its late outcome is dropped. Calls whose deadline passed while they waited leave the queue. Threads are made when
needed, end after a minute without work, and never keep the process alive.

Invariant: at most ``threads`` calls run and ``queue`` wait; one more is ``Overloaded``. Callers and ``run`` live on the reactor
thread, the functions run on the pool's.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, TypeVar

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from monofs.model.errors import NotReady, Overloaded, UfsUnreachable
from monofs.observe.tracing import TRACE, current_trace

T = TypeVar("T")
IDLE_S = 60.0


class _Job:
    __slots__ = ("begun", "deferred", "function", "over", "timer", "trace")

    def __init__(self, function: Callable[[], Any]) -> None:
        self.function = function
        self.deferred: Deferred[Any] = Deferred()
        self.timer: Any = None
        self.begun = 0.0
        self.over = False
        self.trace = current_trace()


class Pool:
    """``name`` appears in thread names and messages."""

    def __init__(self, name: str, threads: int, limit: int, *, reactor: Any) -> None:
        self._name, self._threads, self._limit, self._reactor = name, threads, limit, reactor
        self._jobs: OrderedDict[_Job, None] = OrderedDict()
        self._changed = threading.Condition()
        self._alive = 0
        self._idle = 0
        self._closed = False
        self.waiting = 0
        """Calls handed in and not over."""

    def run(self, function: Callable[[], T], timeout_s: float) -> Deferred[T]:
        """Run ``function`` on a thread. Fails with what it raises, ``UfsUnreachable`` after ``timeout_s``, ``Overloaded`` at the
        bound, ``NotReady`` once closed."""
        job = _Job(function)
        if self._closed:
            job.deferred.errback(NotReady(f"{self._name} was closed"))
            return job.deferred
        if self.waiting >= self._threads + self._limit:
            job.deferred.errback(Overloaded(f"{self._limit} calls wait for {self._name} already: try again shortly"))
            return job.deferred
        with self._changed:
            self._jobs[job] = None
            grow = self._idle < len(self._jobs) and self._alive < self._threads
            self._alive += grow
            self._changed.notify()
        if grow and not self._grow(job):
            job.deferred.errback(Overloaded(f"no thread can be started to ask {self._name}: try again shortly"))
            return job.deferred
        self.waiting += 1
        job.timer = self._reactor.callLater(timeout_s, self._expire, job, timeout_s)
        return job.deferred

    def _grow(self, job: _Job) -> bool:
        """Start a thread; False when the system has none and nobody else will take the job."""
        try:
            threading.Thread(target=self._work, name=f"monofs {self._name}", daemon=True).start()
        except RuntimeError:
            with self._changed:
                self._alive -= 1
                if self._alive:
                    return True
                del self._jobs[job]
            return False
        return True

    def close(self) -> None:
        """Refuse new calls and let threads end; calls in flight still answer."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def _work(self) -> None:
        while True:
            with self._changed:
                self._idle += 1
                self._changed.wait_for(lambda: self._jobs or self._closed, IDLE_S)
                self._idle -= 1
                if not self._jobs:
                    self._alive -= 1
                    return
                job, _ = self._jobs.popitem(last=False)
            if not job.over:
                self._do(job)

    def _do(self, job: _Job) -> None:
        job.begun = time.monotonic()
        TRACE.set(job.trace)  # until the thread's next job
        try:
            outcome = job.function()
        except BaseException:  # noqa: BLE001 - carried to the caller whole, on its own thread
            outcome = Failure()
        self._reactor.callFromThread(self._finish, job, outcome)

    def _finish(self, job: _Job, outcome: Any) -> None:
        if job.over:
            return
        self._end(job)
        job.timer.cancel()
        job.deferred.callback(outcome)

    def _expire(self, job: _Job, timeout_s: float) -> None:
        if job.over:
            return
        self._end(job)
        with self._changed:
            self._jobs.pop(job, None)
        job.deferred.errback(UfsUnreachable(f"{self._name} did not answer within {timeout_s:g} s"))

    def _end(self, job: _Job) -> None:
        job.over = True
        self.waiting -= 1
