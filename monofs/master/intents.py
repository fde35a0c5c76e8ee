"""The open intents as the leader works on them: begun, answered once, ended, listed.

The record of an intent lies in the namespace and is changed by entries only. Kept here, in memory, is what a restart may forget: who
waits for one to end, requests in flight, what it was last seen doing, and how those that closed lately ended.

Retry safety (law 3): a request is looked for among the answers of the namespace, then among those in flight here, then among the open
intents; only one found nowhere is run. BEGIN names the asker, END and ABANDON carry him in their stamp, so their result is the answer a retry finds. But for the writes workers do:
their request was answered when they began, and what became of them is the answer of the last WRITE.

Invariant: an intent is closed by exactly one END or ABANDON that was applied; whoever waits for it hears after that.
Not here: acts on stores (acting.py), bringing to an end what nobody works on any more (resolving.py).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from monofs.master.locks import INTENT_NAMES, Locks, Place
from monofs.master.proposing import Proposer
from monofs.metadata.entries import Change, Found, Stamp
from monofs.metadata.intent_entries import Abandon, Asker, End, Reopen
from monofs.metadata.namespace import Namespace
from monofs.metadata.sessions import FRESH
from monofs.metadata.tables import INTENTS_MAX, Intent, IntentKind, decode_intent
from monofs.model.attributes import Attributes
from monofs.model.errors import ConditionFailed, Internal, MonofsError, NotLeader, OutcomeUnknown, Overloaded
from monofs.model.paths import parse_path
from monofs.model.principal import Principal
from monofs.observe.metrics import INTENTS_OPEN
from monofs.rpc.api import IntentInfo, IntentListAnswer, RequestId

CLOSED_KEPT = 10_000
"""How so many intents that closed lately ended is remembered, for workers that ask again."""
_STATES = {
    IntentKind.WRITE: "being written",
    IntentKind.DELETE: "being deleted in the store",
    IntentKind.RENAME: "being renamed in the store",
    IntentKind.MAKE_DIRECTORY: "being made in the store",
    IntentKind.COPY: "being copied in the store",
    IntentKind.UPLOAD: "being completed in the store",
}


class Intents:
    """Of one master."""

    def __init__(self, namespace: Namespace, proposer: Proposer, locks: Locks) -> None:
        self._namespace, self._proposer, self._locks = namespace, proposer, locks
        self._flights: dict[tuple[bytes, int], list[Deferred[Any]]] = {}
        self._waiting: dict[int, list[Deferred[None]]] = {}
        self._closed: OrderedDict[int, Any] = OrderedDict()
        self.states: dict[int, tuple[str, str]] = {}
        """Number → (what is done with it now, last error), for those in trouble."""
        self._mounts_index = -1
        proposer.on_applied(self._look_at_mounts)
        INTENTS_OPEN.read = lambda: {(): float(namespace.meta.intents)}

    # ---- a request, once ----------------------------------------------------------------------------------------------

    def once(self, request: RequestId, run: Callable[[], Coroutine[Deferred[Any], Any, Any]]) -> Deferred[Any]:
        """The result of a request as the journal knows it, run at most once. ``run`` must make its answer known to the namespace under
        the request's number, or change nothing."""
        if not request.client:
            return Deferred.fromCoroutine(run())
        key = (request.client, request.sequence)
        waiter: Deferred[Any] = Deferred()
        flight = self._flights.get(key)
        if flight is not None:
            flight.append(waiter)
            return waiter
        waiting = self._flights[key] = [waiter]

        def landed(outcome: Any) -> None:
            del self._flights[key]
            for each in waiting:
                if isinstance(outcome, Failure):
                    each.errback(outcome)
                else:
                    each.callback(outcome)

        Deferred.fromCoroutine(self._unless_answered(request, run)).addBoth(landed)
        return waiter

    async def _unless_answered(self, request: RequestId, run: Callable[[], Coroutine[Deferred[Any], Any, Any]]) -> Any:
        answer = self._namespace.recall(self._proposer.stamp(request))
        if answer is FRESH:
            intent = self.of_request(request)
            if intent is None or (intent.kind == IntentKind.WRITE and intent.worker):
                return await run()
            await self.when_closed(intent.number)
            answer = self._namespace.recall(self._proposer.stamp(request))
            if answer is FRESH:  # it was given up without effect
                return await run()
        if isinstance(answer, MonofsError):
            raise answer
        return answer

    def of_request(self, request: RequestId) -> Intent | None:
        """The open intent that a request began."""
        return self._namespace.intent_of(Asker(request.client, request.sequence)) if request.client else None

    # ---- beginning and ending -----------------------------------------------------------------------------------------

    @staticmethod
    def asker(request: RequestId, principal: Principal) -> Asker:
        """For whom an intent is opened."""
        gid = principal.groups[0] if principal.groups else 0
        return Asker(request.client, request.sequence, request.lowest, principal.name, principal.uid, gid, principal.by)

    async def begin(
        self,
        places: Sequence[Place],
        make: Callable[[Stamp], Change],
        *,
        room: Callable[[], Awaitable[None]] | None = None,
    ) -> Intent | bytes:
        """Open an intent as soon as nothing is in the way; the record's bytes where there is nothing to do."""
        raw = await self._locks.begin(places, lambda: self._proposer.propose(make(self._proposer.stamp())), room=room)
        return raw[1:] if raw[:1] == b"\0" else decode_intent(raw)

    async def end(
        self,
        intent: Intent,
        found: Found | None,
        *,
        size: int = 0,
        workers: Sequence[int] = (),
        attributes: Attributes | None = None,
        etag: str = "",
    ) -> Any:
        """The act is done: the name changes. The record's bytes, None for a deletion."""
        return await self._close(
            intent,
            lambda stamp: End(stamp, intent.number, found, size, list(workers), attributes, etag),
            remember=not intent.worker and intent.kind != IntentKind.UPLOAD,
        )

    async def reopen(self, intent: Intent) -> None:
        """An upload that acted came to nothing: it goes on, and its path is free."""
        await self._proposer.insist(Reopen(self._proposer.stamp(), intent.number))
        self.states.pop(intent.number, None)
        self._locks.wake(("intent", intent.number))

    async def abandon(self, intent: Intent, error: MonofsError, *, remember: bool) -> None:
        """The act was not done. ``remember``: ``error`` is the answer of the request; else it may be tried again under its number."""
        await self._close(
            intent, lambda stamp: Abandon(stamp, intent.number, error.code, error.message), remember=remember
        )

    async def _close(self, intent: Intent, make: Callable[[Stamp], Change], *, remember: bool) -> Any:
        """Propose until the intent is closed."""
        asker = RequestId(intent.client, intent.sequence, intent.lowest) if remember else None
        change, is_lost = make(self._proposer.stamp(asker)), False
        try:
            result = await self._proposer.propose(change)
        except (OutcomeUnknown, Overloaded, NotLeader):
            is_lost = True
        except MonofsError as error:
            result = error
        if is_lost:
            try:
                result = await self._proposer.insist(change)
            except ConditionFailed as error:  # the first try was applied after all, and nobody else closes this intent
                result = self._record(intent) if isinstance(change, End) else error
            except MonofsError as error:
                result = error
        if self._namespace.intent(intent.number) is not None:
            raise result if isinstance(result, MonofsError) else Internal("an intent was closed and is open")
        self._has_closed(intent.number, result)
        return result

    def _record(self, intent: Intent) -> bytes | None:
        return self._namespace.lookup(parse_path(intent.target or intent.path)).raw

    def _has_closed(self, number: int, result: Any) -> None:
        self._closed[number] = result
        if len(self._closed) > CLOSED_KEPT:
            self._closed.popitem(last=False)
        self.states.pop(number, None)
        self._wake(number)

    def _wake(self, number: int) -> None:
        for waiter in self._waiting.pop(number, ()):
            waiter.callback(None)
        self._locks.wake(("intent", number))

    def _look_at_mounts(self) -> None:
        """Something was applied: one that unmounts closes intents, too."""
        if self._mounts_index == self._namespace.mounts_index:
            return
        self._mounts_index = self._namespace.mounts_index
        for number in {*self._waiting, *self._locks.awaited_intents()}:
            if self._namespace.intent(number) is None:
                self._wake(number)

    def when_closed(self, number: int) -> Deferred[None]:
        """Fires once an intent is closed."""
        waiter: Deferred[None] = Deferred()
        if self._namespace.intent(number) is None:
            waiter.callback(None)
        else:
            self._waiting.setdefault(number, []).append(waiter)
        return waiter

    def closed_with(self, number: int) -> Any:
        """How an intent that closed lately ended: a record's bytes, or an error; None when that is not known here."""
        return self._closed.get(number)

    # ---- showing ------------------------------------------------------------------------------------------------------

    def list(self) -> IntentListAnswer:
        """All that are open, oldest first."""
        return IntentListAnswer([self.info(intent) for intent in self._namespace.intents(0, INTENTS_MAX)])

    def info(self, intent: Intent) -> IntentInfo:
        """One of them, as people see it."""
        state, error = self.states.get(intent.number, (self._state(intent), ""))
        return IntentInfo(
            intent.number,
            INTENT_NAMES[IntentKind(intent.kind)],
            intent.path,
            intent.target,
            intent.mount,
            intent.key,
            state,
            intent.created_ns,
            intent.principal,
            intent.worker,
            intent.upload,
            error,
        )

    @staticmethod
    def _state(intent: Intent) -> str:
        if intent.kind == IntentKind.UPLOAD and not intent.acting:
            return "its parts come"
        if intent.kind != IntentKind.WRITE or not intent.worker:
            return _STATES[IntentKind(intent.kind)]
        if intent.acting:
            return f"worker {intent.worker} publishes it"
        return f"worker {intent.worker} takes its bytes" + (" and sends parts" if intent.upload else "")


def raised(result: Any) -> Any:
    """``result``, unless it is an error."""
    if isinstance(result, MonofsError):
        raise result
    return result
