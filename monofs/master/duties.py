"""What the leader does by itself: removing detached subtrees, trimming the feed, expiring silent clients, watching leases, acting on
paths whose time to live has passed, ending uploads that were left without one, raising the entry level once every voter knows a higher one, planning the slot table.

Duties run only between two calls of ``on_role`` that make this master leader and not; what was left undone is found again in the
state (``pending_removal``), so a restart or a new leader goes on. Every proposal here is idempotent.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.task import LoopingCall
from twisted.python.failure import Failure

from monofs.master.expiring import Expiring
from monofs.master.members import Members
from monofs.master.planning import Planning
from monofs.master.proposing import Proposer
from monofs.metadata.entries import ExpireClients, RemoveBelow, SetLevel, TrimFeed
from monofs.metadata.namespace import Namespace
from monofs.model.errors import MonofsError
from monofs.observe.logs import logger

log = logger(__name__)
LEASE_CHECK_S = 1.0
PATHS_S = 1.0
TRIM_S = 10.0
LEVEL_S = 5.0
EXPIRE_S = 3600.0
CLIENT_SILENT_NS = 3600 * 10**9
REMOVE_SLICE = 1000
EXPIRE_SLICE = 1000


class Duties:
    """Started with the master; follows its role."""

    def __init__(
        self,
        namespace: Namespace,
        proposer: Proposer,
        members: Members,
        planning: Planning,
        expiring: Expiring,
        *,
        voters_level: Callable[[], int],
        reactor: Any,
    ) -> None:
        self._namespace, self._proposer, self._members, self._reactor = namespace, proposer, members, reactor
        self._voters_level, self._planning = voters_level, planning
        self._expiring = expiring
        self._loops: list[LoopingCall] = []
        self._removing: Deferred[None] | None = None
        self._stopped = False
        members.on_registered = self._maybe_plan
        proposer.on_role(self._hear_role)
        proposer.on_applied(self.maybe_remove)

    def _hear_role(self, leads: bool) -> None:
        self._end_loops()
        if not leads or self._stopped:
            return
        self._members.has_begun()
        for every_s, duty in (
            (LEASE_CHECK_S, self._check_leases),
            (PATHS_S, self.expire_paths),
            (TRIM_S, self.trim),
            (LEVEL_S, self.raise_level),
            (EXPIRE_S, self.expire),
            (EXPIRE_S, self.end_uploads),
        ):
            loop = LoopingCall(duty)
            loop.clock = self._reactor
            self._loops.append(loop)
            loop.start(every_s, now=False)
        self.raise_level()
        self.maybe_remove()

    def stop(self) -> Deferred[Any]:
        """End all duties; fires when the one in progress is through with its present proposal."""
        self._stopped = True
        self._end_loops()
        removing = self._removing
        if removing is None:
            return maybeDeferred(lambda: None)
        ended: Deferred[None] = Deferred()
        removing.addBoth(lambda _: ended.callback(None))
        return ended

    def _end_loops(self) -> None:
        loops, self._loops = self._loops, []
        for loop in loops:
            if loop.running:
                loop.stop()

    def _check_leases(self) -> Deferred[None]:
        return self._quietly("check leases", self._watch())

    async def _watch(self) -> None:
        self._members.check_leases()
        self._members.wake()
        self.maybe_remove()
        self._maybe_plan()

    def _maybe_plan(self) -> None:
        if not self._stopped:
            self._quietly("plan the slot table", self._planning.maybe_plan())

    # ---- detached subtrees --------------------------------------------------------------------------------------------

    def maybe_remove(self) -> None:
        """Begin removing what is detached, unless that goes on already."""
        if self._removing is None and self._proposer.leads and not self._stopped and self._namespace.pending_removal():
            self._removing = self._quietly("remove detached subtrees", self._remove())
            self._removing.addBoth(self._removed)

    def _removed(self, _: Any) -> None:
        self._removing = None

    async def _remove(self) -> None:
        while self._proposer.leads and not self._stopped and self._namespace.pending_removal():
            await self._proposer.insist(RemoveBelow(self._proposer.stamp(), REMOVE_SLICE))

    # ---- feed and clients ---------------------------------------------------------------------------------------------

    def trim(self) -> Deferred[None]:
        """Forget the feed that every worker has acted on."""
        return self._quietly("trim the feed", self._trim())

    async def _trim(self) -> None:
        oldest, newest = self._namespace.feed_bounds()
        through = min(self._members.trim_through(), newest)
        if through >= oldest:
            await self._proposer.insist(TrimFeed(self._proposer.stamp(), through))

    def raise_level(self) -> Deferred[None]:
        """Let newer kinds of entries be proposed, once every voter knows them: from then on an older release cannot take part."""
        return self._quietly("raise the entry level", self._raise_level())

    async def _raise_level(self) -> None:
        level = self._voters_level()
        if level > self._namespace.level:
            await self._proposer.insist(SetLevel(self._proposer.stamp(), level))
            log.info("entry level raised", entries=level)
            await self._members.note_addresses()
            self._maybe_plan()

    def expire(self) -> Deferred[None]:
        """Forget the answers of clients that were silent for an hour."""
        return self._quietly("expire clients", self._expire())

    async def _expire(self) -> None:
        stamp = self._proposer.stamp()
        horizon = stamp.now_ns - CLIENT_SILENT_NS
        silent = [client for client, seen_ns in self._namespace.clients().items() if seen_ns < horizon]
        for first in range(0, len(silent), EXPIRE_SLICE):
            await self._proposer.insist(ExpireClients(stamp, silent[first : first + EXPIRE_SLICE]))

    def expire_paths(self) -> Deferred[None]:
        """Act on paths whose time to live has passed."""
        return self._quietly("act on expired paths", self._expiring.act())

    def end_uploads(self) -> Deferred[None]:
        """See that uploads in parts expire that have no time to live."""
        return self._quietly("end uploads in parts", self._expiring.end_uploads())

    def _quietly(self, what: str, duty: Coroutine[Deferred[Any], Any, None]) -> Deferred[None]:
        """A duty that fails is logged and tried again at its next turn."""

        def failed(failure: Failure) -> None:
            if isinstance(failure.value, MonofsError):
                log.warning("duty postponed", duty=what, error=str(failure.value))
            else:
                log.error("duty failed", duty=what, exception=failure.value)

        return Deferred.fromCoroutine(duty).addErrback(failed)
