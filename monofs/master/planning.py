"""When the slot table is planned anew, and for whom (how: placement.py). The leader's alone.

A plan is made when other workers take part than in the last one: those that live, and those with slots that fell silent less than
``replan_after_s`` ago. So a restart moves nothing: meanwhile the next in a slot's list serves. Plans come at most every ``PLAN_PAUSE_S``: a thousand workers
that register within seconds make two or three of them. The arithmetic runs in a thread, because a leader must not stand still for it.

Invariant: what is proposed is a delta to a table this master has applied; when another came between, apply refuses it and the next turn plans again.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.threads import deferToThreadPool

from monofs.master.members import Members
from monofs.master.placement import Share, plan_slots
from monofs.master.proposing import Proposer
from monofs.metadata.entries import AssignSlots
from monofs.metadata.namespace import Namespace
from monofs.metadata.tables import SLOTS_LEVEL
from monofs.model.errors import ConditionFailed
from monofs.model.slots import WORKER_MAX, SlotTable
from monofs.observe.logs import logger

log = logger(__name__)
PLAN_PAUSE_S = 3.0


class Planning:
    """Of one master. ``replicas`` is how many workers a slot is to list."""

    def __init__(
        self,
        namespace: Namespace,
        proposer: Proposer,
        members: Members,
        *,
        replicas: int,
        replan_after_s: float,
        clock: Callable[[], float],
        reactor: Any,
    ) -> None:
        self._namespace, self._proposer, self._members = namespace, proposer, members
        self._replicas, self._replan_after_s = replicas, replan_after_s
        self._clock, self._reactor = clock, reactor
        self._planned_s = float("-inf")
        self._is_planning = False

    async def maybe_plan(self) -> None:
        """Plan and propose, if that is called for now."""
        now = self._clock()
        if self._is_planning or now - self._planned_s < PLAN_PAUSE_S or self._namespace.level < SLOTS_LEVEL:
            return
        shares = self._shares(now)
        if not shares or not self._proposer.leads or not self._is_news(shares):
            return
        self._is_planning = True
        try:
            await self._plan(shares)
        finally:
            self._is_planning, self._planned_s = False, self._clock()

    def _shares(self, now: float) -> list[Share]:
        """Who takes part, in order of id."""
        members, known = self._members.members, self._namespace.known_slots.shares
        shares = {
            worker: Share(worker, weight, zone)
            for worker, weight, zone in known
            if worker in members or now - self._members.since < self._replan_after_s
        }
        for worker, member in members.items():
            if member.live or (worker in shares and now - member.heard < self._replan_after_s):
                shares[worker] = Share(worker, member.weight, member.zone)
            else:
                shares.pop(worker, None)
        return [share for worker, share in sorted(shares.items()) if share.weight > 0 and worker <= WORKER_MAX]

    def _is_news(self, shares: list[Share]) -> bool:
        known = self._namespace.known_slots
        replicas = min(self._replicas, len(shares))
        return (known.table.replicas, known.shares) != (replicas, [_recorded(share) for share in shares])

    async def _plan(self, shares: list[Share]) -> None:
        before = self._namespace.slots
        width, rows = await _in_thread(self._reactor, plan_slots, shares, self._replicas, before)
        delta = before.delta_to(SlotTable(0, width, rows))
        stamp, recorded = self._proposer.stamp(), [_recorded(share) for share in shares]
        change = AssignSlots(stamp, before.epoch, width, recorded, delta.slots, delta.rows, delta.digest)
        try:
            epoch = await self._proposer.insist(change)
        except ConditionFailed:  # planned by another leader meanwhile, or already there: the next turn sees
            return
        moved = len(delta.slots) // 2 or len(delta.rows) // (2 * width)
        log.info("slots assigned", epoch=epoch, workers=len(shares), replicas=width, slots_changed=moved)


def _recorded(share: Share) -> tuple[int, int, str]:
    return share.worker, share.weight, share.zone


def _in_thread(reactor: Any, function: Callable[..., Any], *arguments: Any) -> Deferred[Any]:
    return deferToThreadPool(reactor, reactor.getThreadPool(), function, *arguments)
