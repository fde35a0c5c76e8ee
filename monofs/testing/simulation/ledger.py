"""What must hold at every moment, over all members: the ledger remembers what was seen and compares.

Every check has a name. Those of one core and of a group of cores are in monofs/journal/raft/checks.py and are called here after everything
a member did. Added are those that need more than cores: what a member says is durable on its disk, and machines that are equally far have
the same CRC over all they ever did, whatever they are restored from.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from monofs.journal.raft.checks import Broken, Group, check_core
from monofs.journal.raft.messages import AppendAnswer, Message, Role, TimeoutNow, VoteAnswer

if TYPE_CHECKING:
    from monofs.testing.simulation.member import Member
    from monofs.testing.simulation.world import World


class Ledger:
    """See the module."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._group = Group()
        self._crcs: dict[int, tuple[int, int]] = {}  # index -> crc, who had it first
        self._leads: dict[int, int] = {}  # member -> term it leads in
        self._memberships: dict[int, int] = {}  # member -> index of the last joint membership seen
        self._successor: int | None = None  # whom a leader asked to follow it

    def applied(self, member: Member, index: int, crc: int) -> None:
        """A machine has applied ``index``, or begins there."""
        first = self._crcs.setdefault(index, (crc, int(member.me)))
        if first[0] != crc:
            self._broken("equal machines", f"at {index} {member} has {crc:08x}, m{first[1]} had {first[0]:08x}")

    def sent(self, member: Member, message: Message) -> None:
        """A message leaves a member."""
        if isinstance(message, AppendAnswer):
            if message.accepted and message.index > member.log.last_index():
                self._broken("an acknowledged entry is durable", f"{message}, on disk {member.log.last_index()}")
        elif isinstance(message, TimeoutNow):
            self._successor = message.target
        elif isinstance(message, VoteAnswer) and message.granted and not message.pre:
            state = member.log.hard_state
            if state.term < message.term or (state.term == message.term and state.vote != message.target):
                self._broken("a vote is durable", f"{message}, on disk {state}")

    def started(self, member: Member) -> None:
        """A member begins a life: it knows what was durable, no more."""
        self._group.forget(member.me)
        self._leads.pop(int(member.me), None)

    def check(self, member: Member) -> None:
        """After each thing a member did."""
        core = member.driver.core
        try:
            check_core(core)
            self._group.observe([core])
        except Broken as broken:
            self._world.violated(f"check {broken}", broken)
        self._note(member)

    def _note(self, member: Member) -> None:
        """Count what was reached."""
        core, counts = member.driver.core, self._world.events.counts
        if core.role is Role.LEADER and self._leads.get(int(member.me)) != core.term:
            self._leads[int(member.me)] = core.term
            counts["election"] += 1
            counts["leadership handed over"] += self._successor == member.me
            self._successor = None
            self._world.hear_election()
            self._world.events.trace(member, "leads", core.term)
        if core.log.membership.is_joint and self._memberships.get(int(member.me)) != core.log.membership_index:
            self._memberships[int(member.me)] = core.log.membership_index
            counts["joint membership"] += 1

    def _broken(self, name: str, detail: str) -> None:
        self._world.violated(f"check {name}: {detail}", None)
