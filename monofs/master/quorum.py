"""The group of masters as operators see and change it: members, lag, adding, promoting, removing, handing leadership over.

A new member comes in as a learner, which costs no quorum; it votes once it has caught up. Invariant: one change at a time, and none that would
leave the group unable to commit. Not here: how a change of voters is made safe (journal/raft), how members reach each other (peers.py).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater

from monofs.journal.book import Seat, check_name, decode_book, encode_book
from monofs.journal.raft.messages import Membership, NodeId, Refused, Status
from monofs.journal.replicated import Replicated
from monofs.master.access import check_access
from monofs.master.auditing import audited
from monofs.model.errors import (
    ConnectionLost,
    DeadlineExceeded,
    InvalidArgument,
    MonofsError,
    NotFound,
    NotSupported,
    QuorumRefused,
    Unreachable,
)
from monofs.model.principal import Right
from monofs.rpc.api import (
    Empty,
    Method,
    QuorumAnswer,
    QuorumChangeRequest,
    QuorumMember,
    WhoAnswer,
    WhoRequest,
)
from monofs.rpc.client import Client
from monofs.rpc.service import Call

WHO_S = 5.0
TRIES, PAUSE_S = 6, 0.2
"""How often, and how far apart, a change is tried that too few voters seem to bear."""
_ALONE = "this master is alone (journal.peers is not set): there is no group to change"
_REASONS = {
    "change_pending": "another change of the group is in progress: try again when `monofs admin quorum info` shows it done",
    "would_lose_quorum": "too few of the voters that would remain answer now: the group could not commit any more. Bring them back first",
    "not_caught_up": "the member has not caught up with the leader yet: wait until `monofs admin quorum info` shows it near, then promote it",
    "not_a_voter": "only a voter can lead: promote it first",
    "invalid": "such a group cannot be: it needs at least one voter",
}


class Quorum:
    """Handlers QUORUM and QUORUM_CHANGE. ``journal`` None: this master is alone. ``dial`` opens a channel to a journal door."""

    def __init__(
        self,
        journal: Replicated | None,
        *,
        dial: Callable[[str], Client] | None,
        reactor: Any,
    ) -> None:
        self._journal, self._dial, self._reactor = journal, dial, reactor

    # ---- looking ----------------------------------------------------------------------------------------------------------

    def info(self, _: Empty, call: Call) -> QuorumAnswer:
        """The group as this master sees it; only the leader knows how far the others have come."""
        check_access(call.principal, Right.READ)
        if self._journal is None:
            return QuorumAnswer(1, "leader", 0, 1, 0, 0, 0, False, [])
        status = self._journal.raft_status()
        membership = status.membership
        seats = {seat.id: seat for seat in decode_book(membership.book)}
        members = [self._shown(self._journal, status, seats, number) for number in membership.members()]
        return QuorumAnswer(
            status.me, status.role.value, status.term, status.leader, status.commit, status.last, status.applied,
            membership.is_joint, members, self._journal.crc, self._journal.removed,
        )  # fmt: skip

    def _shown(self, journal: Replicated, status: Status, seats: dict[NodeId, Seat], number: NodeId) -> QuorumMember:
        seat = seats.get(number, Seat(number, f"{number:x}", ""))
        is_voter = status.membership.is_voter(number)
        role = "leader" if number == status.leader else "follower" if is_voter else "learner"
        member = QuorumMember(number, seat.name, seat.address, journal.rpc_of(number) or "", is_voter, role)
        peer = status.peers.get(number)
        if number == status.me:
            member.match, member.heard_s, member.state = status.persisted, 0.0, "self"
        elif peer is not None:
            member.match, member.state = peer.match if peer.is_heard else -1, peer.state
            member.heard_s = journal.seconds(peer.heard_ticks_ago)
            member.copied = journal.copied_of(number)
        return member

    # ---- changing ---------------------------------------------------------------------------------------------------------

    def change(self, request: QuorumChangeRequest, call: Call) -> Deferred[Empty]:
        """Add, promote or remove a member, or hand leadership over; answered when it is done, or refused with ``QuorumRefused``."""
        if self._journal is None:
            raise NotSupported(_ALONE)
        self._journal.check_leads()
        record = audited(call, f"quorum {request.action}"[:64], request.name, request.address)
        return record.around(self._change(self._journal, request, call))

    async def _change(self, journal: Replicated, request: QuorumChangeRequest, call: Call) -> Empty:
        check_access(call.principal, Right.ADMIN)
        membership = journal.raft_status().membership
        seats = decode_book(membership.book)
        if request.action == "add":
            grown = await self._with_added(request, membership, seats)
            await self._do(journal, lambda: journal.change_membership(grown))
            return Empty()
        seat = next((each for each in seats if each.name == request.name), None)
        if seat is None:
            raise NotFound(f"no master {request.name!r} is in the group: {', '.join(each.name for each in seats)}")
        if request.action == "transfer":
            await self._do(journal, lambda: journal.transfer(seat.id))
        elif request.action in ("promote", "remove"):
            after = (
                self._promoted(membership, seat) if request.action == "promote" else removed(membership, seat, seats)
            )
            await self._do(journal, lambda: journal.change_membership(after))
        else:
            raise InvalidArgument(f"the group knows no action {request.action!r}")
        return Empty()

    async def _do(self, journal: Replicated, act: Callable[[], Deferred[None]]) -> None:
        for tried in range(TRIES):
            try:
                await act()
            except Refused as refusal:
                # one that has just begun to lead has not heard the others yet
                if refusal.reason != "would_lose_quorum" or tried == TRIES - 1:
                    raise explain(refusal, journal) from None
                await deferLater(self._reactor, PAUSE_S)
            else:
                return

    async def _with_added(self, request: QuorumChangeRequest, membership: Membership, seats: list[Seat]) -> Membership:
        if self._dial is None:
            raise NotSupported(_ALONE)
        client = self._dial(request.address)
        try:
            who = await client.call(Method.WHO, WhoRequest("", 0), WhoAnswer, WHO_S)
        except (DeadlineExceeded, Unreachable, ConnectionLost) as error:
            raise QuorumRefused(
                f"no master answers at {request.address} ({error.message}): start it with --id {request.name} and --peers, and give the "
                "address of its journal door, as --peers has it"
            ) from None
        finally:
            client.close()
        if who.name != check_name(request.name):
            raise QuorumRefused(f"the master at {request.address} calls itself {who.name!r}, not {request.name!r}")
        if any(each.id == who.member for each in seats):
            raise QuorumRefused(
                f"{request.name} is in the group already: without a vote, `monofs admin quorum promote --wait {request.name}` gives it one"
            )
        if any(each.name == request.name for each in seats):
            raise QuorumRefused(
                f"the group has a {request.name} with another disk: remove that one first (`monofs admin quorum remove {request.name}`)"
            )
        if who.membership:
            raise QuorumRefused(
                f"{request.name} is of a group already, or was taken out of one: start it on an empty home"
            )
        book = encode_book([*seats, Seat(NodeId(who.member), request.name, request.address)])
        learners = tuple(sorted({*membership.learners, NodeId(who.member)}))
        return membership._replace(learners=learners, book=book)

    @staticmethod
    def _promoted(membership: Membership, seat: Seat) -> Membership:
        if membership.is_voter(seat.id):
            raise QuorumRefused(f"{seat.name} votes already")
        voters = tuple(sorted({*membership.voters, seat.id}))
        return Membership(voters, (), tuple(each for each in membership.learners if each != seat.id), membership.book)


def removed(membership: Membership, seat: Seat, seats: list[Seat]) -> Membership:
    """The membership without one member. Raises ``QuorumRefused`` for the last voter."""
    voters = tuple(each for each in membership.voters if each != seat.id)
    if not voters:
        raise QuorumRefused(f"{seat.name} is the last voter")
    learners = tuple(each for each in membership.learners if each != seat.id)
    return Membership(voters, (), learners, encode_book([each for each in seats if each.id != seat.id]))


def explain(refusal: Refused, journal: Replicated) -> MonofsError:
    """What an operator is told."""
    told = _REASONS.get(refusal.reason)
    return journal.refusal(refusal) if told is None else QuorumRefused(told)
