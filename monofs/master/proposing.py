"""Proposals of the master: clock and request id put in, results told apart from refusals, background work told to insist.

Invariant: a caller's ``done`` or Deferred hears exactly once, with a result or a typed error; ``NotLeader`` and ``OutcomeUnknown``
pass through unchanged. Nothing is decided here (law 3): ``apply`` does.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater

from monofs.journal.face import Journal, Role
from monofs.metadata.entries import Change, Stamp
from monofs.metadata.entry_kinds import encode_entry
from monofs.model.errors import MonofsError, NotLeader, NotReady, OutcomeUnknown, Overloaded
from monofs.model.ids import Term
from monofs.rpc.api import RequestId

INSIST_TRIES = 8
INSIST_PAUSE_S = 0.02
RECORD_S = 30.0


class Proposer:
    """The master's way into the journal. ``held_back`` tells that the namespace's flush lags and changes must wait."""

    def __init__(
        self, journal: Journal, *, reactor: Any, now_ns: Callable[[], int], held_back: Callable[[], bool]
    ) -> None:
        self._journal, self._reactor, self._now_ns, self._held_back = journal, reactor, now_ns, held_back
        self.leads = False
        self.term = Term(0)
        self._on_role: list[Callable[[bool], None]] = []
        self._on_applied: list[Callable[[], None]] = []

    def start(self) -> None:
        """Listen for roles."""
        self._journal.on_role(self._hear_role)

    def check_leads(self) -> None:
        """Raise ``NotLeader``, naming who does if that is known."""
        if not self.leads:
            self._journal.check_leads()
            raise NotLeader("this master has just begun to lead: ask again", leader=None)

    def on_role(self, listener: Callable[[bool], None]) -> None:
        """Call ``listener(leads)`` at every change of role, and at once when leading now."""
        self._on_role.append(listener)
        if self.leads:
            listener(True)

    def on_applied(self, listener: Callable[[], None]) -> None:
        """Call back after a change that may have touched mounts or the feed."""
        self._on_applied.append(listener)

    def stamp(self, request: RequestId | None = None) -> Stamp:
        """This moment, and whose request it answers."""
        if request is None:
            return Stamp(self._now_ns())
        return Stamp(self._now_ns(), request.client, request.sequence, request.lowest)

    def propose_to(self, change: Change, done: Callable[[Any], None]) -> None:
        """The fast path: ``done(result or MonofsError)``, without a Deferred and without telling ``on_applied``."""
        if self._held_back():
            done(Overloaded("the metadata database lags behind: try again shortly"))
            return
        self._journal.propose(encode_entry(change), done)

    def propose(self, change: Change) -> Deferred[Any]:
        """The result; fails with the ``MonofsError`` it was refused with."""
        waiter: Deferred[Any] = Deferred()

        def done(result: Any) -> None:
            try:
                for listener in self._on_applied:
                    listener()
            finally:  # whatever goes wrong in a listener, somebody waits for this result
                if isinstance(result, MonofsError):
                    waiter.errback(result)
                else:
                    waiter.callback(result)

        self.propose_to(change, done)
        return waiter

    async def insist(self, change: Change) -> Any:
        """For changes that are idempotent (adoption, feed, removal): propose again while the outcome is unknown or the journal is
        full, a bounded number of times; a ``NotLeader`` is tried again too, as leadership may return within moments."""
        for tried in range(INSIST_TRIES):
            try:
                return await self.propose(change)
            except (OutcomeUnknown, Overloaded, NotLeader):
                if tried == INSIST_TRIES - 1:
                    raise
                await deferLater(self._reactor, INSIST_PAUSE_S * 2**tried)
        return None

    def insist_from_thread(self, make: Callable[[], Change], what: str) -> None:
        """Of a thread that may wait: insist on the change that ``make`` gives on the reactor's. Raises as :meth:`insist`, and ``NotReady`` when the
        journal did not take ``what`` within ``RECORD_S``."""
        recorded = threading.Event()
        problems: list[BaseException] = []

        def failed(failure: Any) -> None:
            problems.append(failure.value)
            recorded.set()

        def record() -> None:
            Deferred.fromCoroutine(self.insist(make())).addCallbacks(lambda _: recorded.set(), failed)

        self._reactor.callFromThread(record)
        if not recorded.wait(RECORD_S):
            raise NotReady(f"the journal did not take {what} in time")
        if problems:
            raise problems[0]

    def _hear_role(self, role: Role, term: Term) -> None:
        self.leads, self.term = role is Role.LEADER, term
        for listener in self._on_role:
            listener(self.leads)
