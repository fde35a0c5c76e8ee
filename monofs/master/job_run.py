"""One job while the leader works on it: its counters, its way to say so, and what makes it wait or end.

What kind of job it is does not matter here. A kind (``job_*.py``) is one coroutine that works from ``run.cursor`` on, counts what it
has done, and passes :meth:`Run.check` between its steps.

Invariant: progress is journaled at most once a second, and once more when the run ends; a cursor is journaled no earlier than what
lies before it is done, so a restart repeats work but never leaves any out.
"""

from __future__ import annotations

import math
import random
import time
import weakref
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

import msgspec
from twisted.internet.defer import CancelledError, Deferred
from twisted.python.failure import Failure

from monofs.master.proposing import Proposer
from monofs.master.stores import UNAVAILABLE, Unclear
from monofs.metadata.entries import UpdateJob
from monofs.metadata.tables import FAILURES_MAX, Job, JobKind
from monofs.model.errors import (
    DeadlineExceeded,
    MonofsError,
    NotLeader,
    OutcomeUnknown,
    Overloaded,
    UfsPaused,
    UfsThrottled,
    UfsUnreachable,
)
from monofs.observe.logs import logger
from monofs.observe.metrics import JOB_ITEMS

log = logger(__name__)
T = TypeVar("T")
SAVE_EVERY_S = 1.0
BACKOFF_FIRST_S = 1.0
BACKOFF_MOST_S = 60.0
TOTAL_BYTES = "total_bytes"
"""Among the counts: bytes that the items have together, where that is known."""
ITEM_BYTES = 256 << 10
"""What a store, a worker and the master do for one more item costs about as much as moving so many bytes more."""
ERROR_MAX = 500
"""Characters of an error a record keeps."""
_AWAY = (UfsUnreachable, UfsThrottled, DeadlineExceeded, Overloaded)
"""The store as a whole is not there: that is no failure of what was asked for."""
_PASSING: tuple[type[Exception], ...] = (*UNAVAILABLE, NotLeader, OutcomeUnknown, Unclear)


class Halted(Exception):
    """The run ends between two steps: its job was paused or stopped, or this master does not lead any more."""


class Backoff:
    """Pauses from one second to sixty, each twice the one before, jittered."""

    def __init__(self) -> None:
        self._next_s = BACKOFF_FIRST_S

    def next_s(self) -> float:
        """How long to wait now."""
        pause_s, self._next_s = self._next_s, min(BACKOFF_MOST_S, self._next_s * 2)
        return pause_s * random.uniform(0.75, 1.25)  # noqa: S311 - spreads retries


class Window:
    """Up to ``size`` coroutines at once; the first failure ends those who wait for room or for the end."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._flying: set[Deferred[Any]] = set()
        self._waiter: Deferred[None] | None = None
        self._failure: Failure | None = None

    @property
    def flying(self) -> int:
        """How many are under way."""
        return len(self._flying)

    async def begin(self, work: Callable[[], Coroutine[Deferred[Any], Any, None]]) -> None:
        """Start ``work`` as soon as there is room."""
        while len(self._flying) >= self._size:
            await self.landing()
        self._raise()
        one = Deferred.fromCoroutine(work())
        self._flying.add(one)
        one.addBoth(self._landed, one)

    async def landing(self) -> None:
        """Wait until one more has ended; raises the first failure."""
        self._raise()
        await self._land()
        self._raise()

    async def _land(self) -> None:
        if self._flying:
            self._waiter = Deferred()
            await self._waiter

    async def drain(self) -> None:
        """Wait until all have ended; raises the first failure."""
        while self._flying:
            await self.landing()
        self._raise()

    async def settle(self) -> None:
        """Wait until all have ended, however they do."""
        while self._flying:
            await self._land()

    def cancel(self) -> None:
        """End all at their present step."""
        for one in list(self._flying):
            one.cancel()

    def _raise(self) -> None:
        if self._failure is not None:
            self._failure.raiseException()

    def _landed(self, outcome: Any, one: Deferred[Any]) -> None:
        self._flying.discard(one)
        if isinstance(outcome, Failure) and self._failure is None:
            self._failure = outcome
        waiter, self._waiter = self._waiter, None
        if waiter is not None and not waiter.called:
            waiter.callback(None)


class Run:
    """The working on one job. Kinds read ``job``, set ``cursor``, ``total`` and ``counts``, and call the methods."""

    def __init__(
        self,
        job: Job,
        proposer: Proposer,
        *,
        requests: int,
        reactor: Any,
        clock: Callable[[], float],
        patience_s: float = math.inf,
    ) -> None:
        """``patience_s``: how long one step waits for a store, or for workers, before it fails."""
        self.job = job
        self._patience_s = patience_s
        self.requests = requests
        """Most requests to stores and workers in flight."""
        self.cursor = job.cursor
        self.tell_cursor: Callable[[], bytes] | None = None
        """Set by kinds whose cursor costs something to tell: asked in the place of ``cursor``."""
        self.total = job.total
        self.done = job.done
        self.bytes_done = job.bytes_done
        self.counts = dict(job.counts)
        self.failed = job.failed
        self.failures: OrderedDict[str, str] = OrderedDict(job.failures)
        self.error = ""
        self._proposer, self._reactor, self._clock = proposer, reactor, clock
        self._began_s, self._began_at, self._began_bytes = clock(), job.done, job.bytes_done
        self._windows: weakref.WeakSet[Window] = weakref.WeakSet()
        self._halting = False
        self._sleepers: set[Deferred[None]] = set()
        self._dirty = False
        self._timer: Any = None
        self._saved_s = clock() - SAVE_EVERY_S
        self._items = JOB_ITEMS(JobKind(job.kind).name.lower())

    # ---- what kinds call ----------------------------------------------------------------------------------------------

    def check(self) -> None:
        """Raise ``Halted`` when the job is not to be worked on now."""
        if self._halting or not self._proposer.leads:
            raise Halted

    def window(self, size: int | None = None) -> Window:
        """A window that ends with the run."""
        window = Window(size or self.requests)
        self._windows.add(window)
        return window

    def begin(self, cursor: bytes, total: int = -1) -> None:
        """A part of the work begins in which items are counted anew."""
        self.cursor, self.done, self.total = cursor, 0, total
        self._began_s, self._began_at, self._began_bytes = self._clock(), 0, self.bytes_done
        self._change()

    def advance(self, items: int = 0, bytes_: int = 0) -> None:
        """So much more is done."""
        self.done += items
        self.bytes_done += bytes_
        self._items.value += items
        self._change()

    def count(self, name: str, amount: int = 1) -> None:
        """So much more of what ``counts`` tells beside the items."""
        if amount:
            self.counts[name] = self.counts.get(name, 0) + amount
            self._change()

    def fail(self, item: str, error: MonofsError) -> None:
        """One item failed: it is counted, and named among the latest hundred."""
        log.info("job item failed", job=self.job.number, item=item, code=error.code, error=str(error))
        self.failed += 1
        self.failures.pop(item, None)
        self.failures[item] = str(error)[:ERROR_MAX]
        while len(self.failures) > FAILURES_MAX:
            self.failures.popitem(last=False)
        self._change()

    def forget_failures(self) -> None:
        """All items are tried again from here on."""
        if self.failed:
            self.failed = 0
            self.failures.clear()
            self._change()

    def waits(self, why: Exception | str) -> None:
        """Why nothing goes on now; '' when it does."""
        text = str(why)[:ERROR_MAX]
        if text != self.error:
            self.error = text
            self._change()

    async def pause(self, seconds: float) -> None:
        """Wait, but no longer than the job is worked on."""
        self.check()
        sleeper: Deferred[None] = Deferred()
        self._sleepers.add(sleeper)
        timer = self._reactor.callLater(seconds, sleeper.callback, None)
        try:
            await sleeper
        finally:
            self._sleepers.discard(sleeper)
            if timer.active():
                timer.cancel()
        self.check()

    async def breathe(self) -> None:
        """Let the reactor turn."""
        await self.pause(0)

    async def persist(
        self, step: Callable[[], Awaitable[T]], *, tries: int = 0, also: tuple[type[MonofsError], ...] = ()
    ) -> T:
        """A step that may be done twice, repeated with back-off while the store, or the journal, is not there for it, or it fails with
        one of ``also``, for as long as the job is patient. With ``tries``, so often at most, as long as the store is there."""
        backoff, passing, end_s = Backoff(), (*_PASSING, *also), math.inf
        while True:
            self.check()
            try:
                result = await step()
            except passing as error:
                is_away = isinstance(error, _AWAY) and error.retry
                tries -= not is_away
                end_s = min(end_s, self._clock() + self._patience_s)
                if (not is_away and not tries) or self._clock() >= end_s:
                    raise
                if not (isinstance(error, UfsPaused) and self.error):  # it was told already why it is not asked now
                    self.waits(self._awaited(error, end_s) if is_away else error)
                await self.pause(backoff.next_s())
            else:
                self.waits("")
                return result

    def _awaited(self, error: Exception, end_s: float) -> str:
        until = "it is"
        if end_s < math.inf:
            until = time.strftime("until %Y-%m-%d %H:%M UTC it is", time.gmtime(time.time() + end_s - self._clock()))
        return f"the store does not answer, {until} waited for: {error}"

    def stamp(self) -> Any:
        """The stamp of a proposal made now."""
        return self._proposer.stamp()

    # ---- what is told of it -------------------------------------------------------------------------------------------

    @property
    def rate(self) -> float | None:
        """Items a second since this run began."""
        seconds = self._clock() - self._began_s
        return (self.done - self._began_at) / seconds if seconds > 0 and self.done > self._began_at else None

    @property
    def left_s(self) -> float | None:
        """How long it will still take, as far as that can be told."""
        total_bytes = self.counts.get(TOTAL_BYTES, 0)
        return left_s(
            self._clock() - self._began_s,
            done=self.done - self._began_at,
            left=self.total - self.done,
            done_bytes=self.bytes_done - self._began_bytes if total_bytes else 0,
            left_bytes=max(0, total_bytes - self.bytes_done),
        )

    def shown(self) -> Job:
        """The record with the counters of this moment."""
        return msgspec.structs.replace(
            self.job,
            cursor=self._cursor(),
            done=self.done,
            total=self.total,
            bytes_done=self.bytes_done,
            failed=self.failed,
            failures=list(self.failures.items()),
            error=self.error,
            counts=dict(self.counts),
        )

    async def save(
        self, *, state: int | None = None, error: str | None = None, doomed: list[str] | None = None
    ) -> None:
        """Journal how the job stands, now."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._dirty = False
        self._saved_s = self._clock()
        await self._proposer.insist(
            UpdateJob(
                self._proposer.stamp(),
                self.job.number,
                state,
                self._cursor(),
                self.done,
                self.total,
                self.bytes_done,
                self.failed,
                list(self.failures.items()),
                self.error if error is None else error,
                doomed,
                dict(self.counts),
            )
        )

    def _cursor(self) -> bytes:
        return self.cursor if self.tell_cursor is None else self.tell_cursor()

    def _change(self) -> None:
        self._dirty = True
        if self._timer is None and not self._halting:
            due_s = max(0.0, self._saved_s + SAVE_EVERY_S - self._clock())
            self._timer = self._reactor.callLater(due_s, self._save_soon)

    def _save_soon(self) -> None:
        self._timer = None
        if not self._proposer.leads:
            return
        Deferred.fromCoroutine(self.save()).addErrback(self._not_saved)

    def _not_saved(self, failure: Failure) -> None:
        if not failure.check(CancelledError):
            log.warning("progress of a job not journaled", job=self.job.number, error=str(failure.value))
        self._dirty = True

    # ---- ending -------------------------------------------------------------------------------------------------------

    def halt(self) -> None:
        """Begin nothing more; what is in flight ends by itself."""
        self._halting = True
        for sleeper in list(self._sleepers):
            sleeper.callback(None)

    async def settle(self) -> None:
        """Wait for what is in flight."""
        for window in list(self._windows):
            await window.settle()

    def cancel(self) -> None:
        """End at the present step, whatever it is."""
        self.halt()
        for window in list(self._windows):
            window.cancel()
        self.close()

    def close(self) -> None:
        """No more is journaled by itself."""
        self._halting = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


def left_s(seconds: float, *, done: int, left: int, done_bytes: int, left_bytes: int) -> float | None:
    """How long items and bytes that are left will take, after those that were done in ``seconds``; None: it cannot be told. An item is as much work as
    ``ITEM_BYTES`` beside its own: of many small files and a few large ones neither number alone tells how far it is."""
    work = done * ITEM_BYTES + done_bytes
    return (left * ITEM_BYTES + left_bytes) * seconds / work if seconds > 0 and work > 0 and left >= 0 else None
