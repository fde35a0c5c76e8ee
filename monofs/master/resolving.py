"""Bringing to an end the intents nobody works on any more: after a restart, a worker gone, an act with an unknown end.

The store is asked what happened, and the intent rolls forward or back (docs/decisions, intents):

- a WRITE that was not acting: its upload is aborted, what lies beside it swept; ABANDON. Acting: made by this operation -> END; else the
  same, and what the store shows is adopted;
- DELETE: still the recorded version -> deleted again, END; gone -> END; another version -> ABANDON, adopt;
- RENAME, COPY: the target made by this operation -> (the source of a rename deleted, if it still is the recorded version) END;
- MAKE_DIRECTORY: there -> END. Else ABANDON, adopt;
- UPLOAD, acting: made by this operation -> END; else REOPEN, and what the store shows is adopted. Not acting it waits for its parts: it is aborted, and ABANDONed,
  when it was begun more than ``UPLOAD_AGE_S`` ago, or is not known to have begun in its store.

An ABANDON of what had no effect is nobody's answer: a retry of the request begins anew. Adoption comes after it: names under an intent are
not adopted. A store that does not answer is asked again, with pauses from a second to a minute, for ever; ``monofs admin intents`` shows why.

Writes of a live worker are its own business. They come here when it registers without naming them, when it was silent for
``WORKER_SILENT_S``, or when its heartbeats do not name one begun more than ``UNSENT_S`` ago, or whose client has been gone for ``GONE_S``: its client
never sent it a byte.

Invariant: one resolution of an intent at a time, and only on the leader.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from itertools import takewhile
from typing import Any

from twisted.internet.defer import Deferred, DeferredSemaphore
from twisted.internet.task import LoopingCall
from twisted.python.failure import Failure

from monofs.master.acting import TOLD, Acts, NotDone, step
from monofs.master.comparing import found_of
from monofs.master.intents import Intents
from monofs.master.preparing import Preparing
from monofs.master.proposing import Proposer
from monofs.master.stores import Unclear
from monofs.metadata.entries import Found
from monofs.metadata.namespace import Namespace
from monofs.metadata.tables import INTENTS_MAX, Intent, IntentKind
from monofs.model.errors import MonofsError, MountNotFound, WriteLost
from monofs.model.options import WriteType
from monofs.model.paths import parse_path
from monofs.observe.audit import audit
from monofs.observe.logs import logger
from monofs.observe.metrics import INTENTS_RESOLVED
from monofs.rpc.service import Connection

log = logger(__name__)
TICK_S = 1.0
WORKER_SILENT_S = 60.0
UNSENT_S = 30.0
UPLOAD_AGE_S = 7 * 86_400.0
"""After so long an upload that was neither completed nor aborted goes, with its parts."""
GONE_S = 2.0
"""Longer than what a client had sent before it went takes to be named by a heartbeat; shorter than others wait for the path."""
PAUSE_FIRST_S = 1.0
PAUSE_MOST_S = 60.0
AT_ONCE = 16


class Resolver:
    """Of one master; follows its role. ``heard_s(worker)`` is when a worker was last heard on ``clock``, None if never."""

    def __init__(
        self,
        namespace: Namespace,
        proposer: Proposer,
        intents: Intents,
        acts: Acts,
        preparing: Preparing,
        *,
        heard_s: Callable[[int], float | None],
        clock: Callable[[], float],
        reactor: Any,
    ) -> None:
        self._namespace, self._proposer, self._intents = namespace, proposer, intents
        self._acts, self._preparing = acts, preparing
        self._heard_s, self._clock, self._reactor = heard_s, clock, reactor
        self._at_work: dict[int, Any] = {}
        """Number → the timer of its next try, None while one is under way."""
        self._askers: dict[int, Connection] = {}
        """Number → the connection over which an open write was begun, or begun again, last; not of before this master led."""
        self._gone_since_ns: dict[int, int] = {}
        """Number → when that connection was first seen closed."""
        self._permits = DeferredSemaphore(AT_ONCE)
        self._leads_since = clock()
        self._stopped = False
        self._loop = LoopingCall(self.look_around)
        self._loop.clock = reactor
        proposer.on_role(self._hear_role)

    def _hear_role(self, leads: bool) -> None:
        if not leads or self._stopped:
            self._halt()
            return
        self._leads_since = self._clock()
        for intent in self._namespace.intents(0, INTENTS_MAX):
            if not intent.worker and not waits_for_parts(intent):
                self.take(intent, WriteLost("the master restarted before this change was through"))
        if not self._loop.running:
            self._loop.start(TICK_S, now=False)

    def stop(self) -> None:
        """Begin nothing more."""
        self._stopped = True
        self._halt()

    def _halt(self) -> None:
        if self._loop.running:
            self._loop.stop()
        for timer in self._at_work.values():
            if timer is not None and timer.active():
                timer.cancel()
        self._at_work = {number: None for number, timer in self._at_work.items() if timer is None}

    # ---- whose worker is gone -----------------------------------------------------------------------------------------

    def look_around(self) -> None:
        """Take the writes of workers that were silent too long, and uploads nobody completed; note whose clients are gone."""
        now_ns = self._proposer.stamp().now_ns
        self._note_gone(now_ns)
        now, open_intents = self._clock(), self._namespace.open_intents
        begun_before_ns = now_ns - UPLOAD_AGE_S * 1e9
        for intent in [*takewhile(lambda each: each.created_ns < begun_before_ns, open_intents.uploads.values())]:
            if waits_for_parts(intent):
                self.take(intent, WriteLost("the upload was neither completed nor aborted for a week"))
        for worker, writes in [*open_intents.written.items()]:
            heard = self._heard_s(worker)
            if now - (self._leads_since if heard is None else max(heard, self._leads_since)) > WORKER_SILENT_S:
                for intent in [*writes.values()]:
                    self.take(intent, WriteLost(f"worker {worker} was not heard of for {WORKER_SILENT_S:g} s"))

    def registered(self, worker: int, operations: list[int]) -> None:
        """A worker began anew and is at these writes."""
        self._take_unnamed(worker, operations, WriteLost(f"worker {worker} restarted"), older_than_s=0.0)

    def heartbeat(self, worker: int, operations: list[int] | None) -> None:
        """A worker is at these writes; None: it does not tell."""
        if operations is not None:
            self._take_unnamed(worker, operations, WriteLost("no byte of it came"), older_than_s=UNSENT_S)

    def begun(self, write: int, connection: Connection) -> None:
        """A client was told of its open write."""
        self._askers[write] = connection
        self._gone_since_ns.pop(write, None)

    def _take_unnamed(self, worker: int, operations: list[int], why: MonofsError, *, older_than_s: float) -> None:
        writes = self._namespace.open_intents.written.get(worker)
        if not writes:
            return
        named, now_ns = frozenset(operations), self._proposer.stamp().now_ns
        begun_before_ns, gone_before_ns = now_ns - int(older_than_s * 1e9), now_ns - int(GONE_S * 1e9)
        for intent in [*writes.values()]:
            if intent.number in named:
                continue
            gone = self._gone_since_ns.get(intent.number, now_ns) <= gone_before_ns
            if gone or intent.created_ns <= begun_before_ns:
                self.take(intent, why)

    def _note_gone(self, now_ns: int) -> None:
        is_open, since = self._namespace.intent, self._gone_since_ns
        self._askers = {each: asker for each, asker in self._askers.items() if is_open(each) is not None}
        self._gone_since_ns = {each: since.get(each, now_ns) for each, asker in self._askers.items() if asker.closed}

    # ---- one intent ---------------------------------------------------------------------------------------------------

    def take(self, intent: Intent, why: MonofsError) -> None:
        """Bring an intent to its end, however long that takes. ``why``: what its asker is told when it was not done."""
        if self._stopped or intent.number in self._at_work or not self._proposer.leads:
            return
        log.warning(
            "intent to be resolved",
            operation=intent.number,
            kind=IntentKind(intent.kind).name,
            path=intent.path,
            target=intent.target,
            worker=intent.worker,
            why=str(why),
        )
        self._try(intent.number, why, PAUSE_FIRST_S)

    def _try(self, number: int, why: MonofsError, pause_s: float) -> None:
        self._at_work[number] = None
        self._intents.states[number] = ("being resolved", str(why))
        trying = self._permits.run(lambda: Deferred.fromCoroutine(self._resolve(number, why)))
        trying.addCallbacks(
            lambda _: self._at_work.pop(number, None), lambda failure: self._again(failure, number, why, pause_s)
        )

    def _again(self, failure: Failure, number: int, why: MonofsError, pause_s: float) -> None:
        error = failure.value
        if not isinstance(error, Unclear | MonofsError):
            log.error("resolving an intent failed", operation=number, exception=error)
        self._at_work.pop(number, None)
        if self._stopped or not self._proposer.leads or self._namespace.intent(number) is None:
            return
        left_s = pause_s * random.uniform(0.75, 1.25)  # noqa: S311 - spreads what waits for one store
        log.info("intent not resolved yet", operation=number, error=str(error), again_s=round(left_s, 1))
        self._intents.states[number] = ("waits for the store", str(error))
        longer_s = min(PAUSE_MOST_S, pause_s * 2)
        self._at_work[number] = self._reactor.callLater(left_s, self._try, number, why, longer_s)

    async def _resolve(self, number: int, why: MonofsError) -> None:
        intent = self._namespace.intent(number)
        if intent is None or self._stopped:
            return
        at = self._preparing.now()
        if not intent.mount or (intent.worker and intent.write_type == WriteType.MUST_CACHE):
            await self._abandon(intent, why, remember=False)
        elif intent.worker or intent.kind == IntentKind.UPLOAD:
            await self._resolve_write(intent, why, at)
        else:
            await self._resolve_act(intent, why, at)

    async def _resolve_act(self, intent: Intent, why: MonofsError, at: float) -> None:
        try:
            found = await self._acts.finish(intent)
        except NotDone:
            await self._abandon(intent, why, remember=False)
        except MountNotFound as error:
            await self._abandon(intent, error, remember=True)
            return
        except TOLD as error:
            await self._acts.clean(self._acts.store_of(intent), intent)
            await self._abandon(intent, error, remember=True)
        else:
            await self._end(intent, found, at)
        await self._preparing.adopt(intent.path, intent.target)

    async def _resolve_write(self, intent: Intent, why: MonofsError, at: float) -> None:
        try:
            store = self._acts.store_of(intent)
        except MountNotFound as error:
            await self._abandon(intent, error, remember=False)
            return
        if intent.acting:
            entry = await self._acts.look(store, intent.key)
            step("resolve.looked")
            if entry is not None and entry.operation == intent.name:
                found = found_of(entry, parse_path(intent.path)[-1])
                await self._end(intent, found, at, size=entry.size)
                return
            if intent.kind == IntentKind.UPLOAD:
                await self._intents.reopen(intent)
                self._tell(intent, "reopened", why)
                # not waited for: it is open again, and may be completed or aborted, which may be to be resolved, meanwhile
                Deferred.fromCoroutine(self._preparing.adopt(intent.path)).addErrback(_say_failed, intent.path)
                return
        await self._acts.clean(store, intent)
        await self._abandon(intent, why, remember=False)
        if intent.acting:
            await self._preparing.adopt(intent.path)

    async def _end(self, intent: Intent, found: Found | None, at: float, *, size: int = 0) -> None:
        if self._stopped:
            return
        raw = await self._intents.end(intent, found, size=size)
        self._preparing.note(intent, raw, at)
        self._tell(intent, "ended", None)

    async def _abandon(self, intent: Intent, error: MonofsError, *, remember: bool) -> None:
        if self._stopped:
            return
        await self._intents.abandon(intent, error, remember=remember)
        self._tell(intent, "abandoned", error)

    @staticmethod
    def _tell(intent: Intent, outcome: str, error: MonofsError | None) -> None:
        kind = IntentKind(intent.kind).name.lower()
        INTENTS_RESOLVED(kind, outcome).value += 1
        log.info(
            "intent resolved",
            operation=intent.number,
            kind=kind,
            path=intent.path,
            outcome=outcome,
            error="" if error is None else str(error),
        )
        audit(
            principal=intent.principal,
            peer="master",
            command=f"resolve {kind}",
            source=intent.path,
            target=intent.target,
            allowed=True,
            succeeded=error is None,
            error=0 if error is None else error.code,
            by=intent.by,
        )


def _say_failed(failure: Failure, path: str) -> None:
    log.error("adopting a path failed", path=path, exception=failure.value)


def waits_for_parts(intent: Intent) -> bool:
    """Whether an upload is open as it should be."""
    return intent.kind == IntentKind.UPLOAD and not intent.acting and bool(intent.upload)
