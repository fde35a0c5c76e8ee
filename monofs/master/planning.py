"""When the slot table is planned anew, and for whom (how: placement.py). The leader's alone.

A plan is made when other workers take part than in the last one: those that live, and those with slots that fell silent less than
``replan_after_s`` ago. So a restart moves nothing: meanwhile the next in a slot's list serves. Plans come at most every ``PLAN_PAUSE_S``: a thousand workers
that register within seconds make two or three of them. The arithmetic runs in a thread, because a leader must not stand still for it.

A worker told to leave takes part no more, and stays on record with the weight ``LEAVING`` as long as it is heard: so the table itself remembers it.

Invariant: what is proposed is a delta to a table this master has applied; when another came between, apply refuses it and the next turn plans again.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater
from twisted.internet.threads import deferToThreadPool

from monofs.master.access import check_access
from monofs.master.auditing import audited
from monofs.master.members import Members
from monofs.master.placement import Share, plan_slots
from monofs.master.proposing import Proposer
from monofs.metadata.entries import AssignSlots
from monofs.metadata.namespace import Namespace
from monofs.metadata.tables import SLOTS_LEVEL
from monofs.model.errors import ConditionFailed, NotFound, NotReady, OutcomeUnknown, WouldLose
from monofs.model.principal import Right
from monofs.model.slots import SlotTable
from monofs.observe.logs import logger
from monofs.rpc.api import DecommissionAnswer, DecommissionRequest
from monofs.rpc.service import Call

log = logger(__name__)
PLAN_PAUSE_S = 3.0
TURN_S = 0.05
LEAVING = -1
"""Weight on record of a worker that was told to leave."""


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
        self._wishes: dict[int, DecommissionRequest] = {}
        """Workers to leave or stay, as told last and not on record yet."""

    # ---- leaving ------------------------------------------------------------------------------------------------------

    def decommission(self, request: DecommissionRequest, call: Call) -> Deferred[DecommissionAnswer]:
        """Take a worker out of the table for good, or in again. Raises ``NotFound``, ``WouldLose`` for the last one, ``NotReady``."""
        self._proposer.check_leads()
        record = audited(
            call, "decommission, undone" if request.stay else "decommission", f"worker {request.worker}", ""
        )
        return record.around(self._decommission(request, call))

    async def _decommission(self, request: DecommissionRequest, call: Call) -> DecommissionAnswer:
        check_access(call.principal, Right.ADMIN)
        if request.worker not in self._namespace.workers():
            raise NotFound(f"no worker {request.worker} was ever registered: `monofs admin report` lists them")
        if self._namespace.level < SLOTS_LEVEL:
            raise NotReady("not all masters know the slot table yet: upgrade them first")
        worker, leaves = request.worker, not request.stay
        self._wishes[worker] = request
        try:
            while self._is_planning or (worker in self._leaving()) != leaves:
                wish = self._wishes.get(worker)
                if wish is None or wish.stay != request.stay:
                    raise ConditionFailed(
                        f"worker {worker} was told to {'leave' if request.stay else 'stay'} meanwhile"
                    )
                if not self._proposer.leads:
                    raise OutcomeUnknown("leadership was lost meanwhile: ask again")
                shares = self._shares(self._clock())
                if not shares:
                    raise WouldLose(
                        f"no other worker would own slots: start another before worker {worker} leaves, or let one stay with --undo"
                    )
                if self._is_planning:
                    await deferLater(self._reactor, TURN_S)
                else:
                    await self._plan_once(shares)
        finally:
            if self._wishes.get(worker) is request:
                del self._wishes[worker]
        return DecommissionAnswer(self._namespace.slots.epoch)

    def _leaving(self) -> set[int]:
        return {worker for worker, weight, _ in self._namespace.known_slots.shares if weight == LEAVING}

    # ---- planning -----------------------------------------------------------------------------------------------------

    async def maybe_plan(self) -> None:
        """Plan and propose, if that is called for now."""
        now = self._clock()
        if self._is_planning or now - self._planned_s < PLAN_PAUSE_S or self._namespace.level < SLOTS_LEVEL:
            return
        shares = self._shares(now)
        if not shares or not self._proposer.leads or not self._is_news(shares):
            return
        await self._plan_once(shares)

    async def _plan_once(self, shares: list[Share]) -> None:
        self._is_planning = True
        try:
            await self._plan(shares)
        finally:
            self._is_planning, self._planned_s = False, self._clock()

    def _shares(self, now: float) -> list[Share]:
        """Who takes part, in order of id."""
        members, known = self._members.members, self._namespace.known_slots.shares
        shares = {
            worker: Share(worker, weight, zone) for worker, weight, zone in known if worker in members or self._begins()
        }
        for worker, member in members.items():
            if member.live or (worker in shares and now - member.heard < self._replan_after_s):
                shares[worker] = Share(worker, member.weight, member.zone)
            else:
                shares.pop(worker, None)
        leaving = self._leaving_now()
        return [share for worker, share in sorted(shares.items()) if share.weight > 0 and worker not in leaving]

    def _leaving_now(self) -> set[int]:
        """On record, with the wishes that are not, without those nobody has heard of for long."""
        leaving = {worker for worker in self._leaving() if worker in self._members.members or self._begins()}
        leaving |= {worker for worker, wish in self._wishes.items() if not wish.stay}
        return leaving - {worker for worker, wish in self._wishes.items() if wish.stay}

    def _begins(self) -> bool:
        """This master leads since so short a time that workers may not have come to it yet."""
        return self._clock() - self._members.since < self._replan_after_s

    def _recorded(self, shares: list[Share]) -> list[tuple[int, int, str]]:
        return [(each.worker, each.weight, each.zone) for each in shares] + [
            (worker, LEAVING, "") for worker in sorted(self._leaving_now())
        ]

    def _is_news(self, shares: list[Share]) -> bool:
        known = self._namespace.known_slots
        replicas = min(self._replicas, len(shares))
        return (known.table.replicas, known.shares) != (replicas, self._recorded(shares))

    async def _plan(self, shares: list[Share]) -> None:
        before, recorded = self._namespace.slots, self._recorded(shares)  # now: wishes may come while it is planned
        width, rows = await _in_thread(self._reactor, plan_slots, shares, self._replicas, before)
        delta = before.delta_to(SlotTable(0, width, rows))
        change = AssignSlots(
            self._proposer.stamp(), before.epoch, width, recorded, delta.slots, delta.rows, delta.digest
        )
        try:
            epoch = await self._proposer.insist(change)
        except ConditionFailed:  # planned by another leader meanwhile, or already there: the next turn sees
            return
        moved = len(delta.slots) // 2 or len(delta.rows) // (2 * width)
        log.info("slots assigned", epoch=epoch, workers=len(shares), replicas=width, slots_changed=moved)


def _in_thread(reactor: Any, function: Callable[..., Any], *arguments: Any) -> Deferred[Any]:
    return deferToThreadPool(reactor, reactor.getThreadPool(), function, *arguments)
