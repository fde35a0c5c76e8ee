"""Ten bugs that Raft implementations have had, each planted in the real core, driver or machine of a simulated world.

A bug is a world class, whose members are built with the bug in them; ``BUGS`` names them all. Each comes with a plan that gives it a chance:
troubles that have nothing to do with it are left out.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from monofs.journal.raft import change, replication
from monofs.journal.raft.core import Raft
from monofs.journal.raft.messages import (
    NOBODY,
    Append,
    HardState,
    Membership,
    Message,
    Persist,
    Position,
    ReadState,
    Role,
    Settings,
    VoteRequest,
)
from monofs.testing.simulation.events import MS, SECOND
from monofs.testing.simulation.machine import Image
from monofs.testing.simulation.member import Member
from monofs.testing.simulation.world import Plan, World


class VoteNotPersisted(World):
    """The vote is told, but not written."""

    class make_core(Raft):  # noqa: N801 (it takes the place of a function)
        def take_persist(self) -> Persist | None:
            persist = super().take_persist()
            if persist is not None and persist.hard_state is not None:
                return persist._replace(hard_state=HardState(persist.hard_state.term, NOBODY))
            return persist


class CommitOfOlderTerm(World):
    """A leader counts replicas of entries of former leaders (figure 3.7)."""

    class make_core(Raft):  # noqa: N801
        def persisted(self, number: int) -> None:
            super().persisted(number)
            self.count_any_term()

        def step(self, message: Message, now_ns: int) -> None:
            super().step(message, now_ns)
            self.count_any_term()

        def count_any_term(self) -> None:
            index = replication.agreed(self.log.membership, self.match_of)
            if self.role is Role.LEADER and index > self.commit:
                self.set_commit(index)


class NoLogCheckInVotes(World):
    """Whoever asks first gets the vote, whatever is missing in its log."""

    class make_core(Raft):  # noqa: N801
        def step(self, message: Message, now_ns: int) -> None:
            if isinstance(message, VoteRequest):
                message = message._replace(last=Position(1 << 60, 1 << 60))
            super().step(message, now_ns)


class AcknowledgedBeforeFsync(World):
    """Answers do not wait for the disk."""

    class make_core(Raft):  # noqa: N801
        def hold(self, message: Message, waits_for: int) -> None:
            if message.target == self.me:
                super().hold(message, waits_for)
            else:
                self.out.append(message)


class LeaseThroughPause(World):
    """The lease is counted in ticks, and a process that stands still has none."""

    class make_core(Raft):  # noqa: N801
        def __init__(self, *arguments: Any, **named: Any) -> None:
            super().__init__(*arguments, **named)
            self.began_ns = self.now_ns

        def note_time(self, now_ns: int) -> None:
            self.now_ns = self.began_ns + int(self.ticks * self.settings.tick_s * 1e9)


class AppliedTwice(World):
    """The index that a flush notes is one behind what is in it, so a restart applies an entry again."""

    def add(self, me: int, image: Image | None = None) -> Member:
        member = super().add(me, image)
        flush = member.flush

        def flush_with_wrong_index(keep: int) -> None:
            flush(keep)
            if member.durable.index > 1:
                member.durable = replace(member.durable, index=member.durable.index - 1, term=0)

        member.flush = flush_with_wrong_index  # type: ignore[method-assign]
        return member


class WrongTruncation(World):
    """A follower cuts its log after the entries of any Append, although a late one may end before what it has acknowledged since."""

    class make_core(Raft):  # noqa: N801
        def step(self, message: Message, now_ns: int) -> None:
            super().step(message, now_ns)
            if isinstance(message, Append) and message.sender == self.leader and message.term == self.term:
                end = message.previous.index + len(message.entries)
                if (
                    self.commit <= end < self.log.last_index
                    and self.log.term(message.previous.index) == message.previous.term
                ):
                    self.truncate(end + 1)


class SnapshotWithoutTerm(World):
    """Who installs a snapshot forgets the term of its last entry."""

    def add(self, me: int, image: Image | None = None) -> Member:
        member = super().add(me, image)
        install = member.install_received

        def install_without_term() -> bool:
            if member.received is not None:
                member.received = replace(member.received, term=0)
            return install()

        member.install_received = install_without_term  # type: ignore[method-assign]
        return member


class TwoChangesAtOnce(World):
    """A change of the membership begins before the former one is committed."""

    class make_core(Raft):  # noqa: N801
        def propose_membership(self, membership: Membership) -> int:
            self.check_leading()
            return change.append(self, membership)


class ReadWithoutQuorum(World):
    """A leader answers reads at once, without asking whether it still is one."""

    class make_core(Raft):  # noqa: N801
        def read(self, token: Any, now_ns: int) -> None:
            if self.role is Role.LEADER:
                self.ended_reads.append(ReadState(token, self.commit))
            else:
                super().read(token, now_ns)


BUGS: dict[str, Callable[..., World]] = {
    "vote not persisted": VoteNotPersisted,
    "commit of an older term": CommitOfOlderTerm,
    "no log check in votes": NoLogCheckInVotes,
    "acknowledged before fsync": AcknowledgedBeforeFsync,
    "lease through a pause": LeaseThroughPause,
    "applied twice after a restart": AppliedTwice,
    "wrong truncation": WrongTruncation,
    "snapshot without term": SnapshotWithoutTerm,
    "two membership changes at once": TwoChangesAtOnce,
    "read without quorum": ReadWithoutQuorum,
}

FOUND = {
    "vote not persisted": 0,
    "commit of an older term": 73,
    "no log check in votes": 1,
    "acknowledged before fsync": 0,
    "lease through a pause": 1,
    "applied twice after a restart": 0,
    "wrong truncation": 1,
    "snapshot without term": 0,
    "two membership changes at once": 21,
    "read without quorum": 3,
}
"""A seed that finds each."""

QUICK = Settings(tick_s=0.1, heartbeat_ticks=1, election_ticks=6, max_append_bytes=200, caught_up_entries=1000)


def plan_of(bug: str) -> Plan:
    """Where this bug shows: its troubles, and little else."""
    plan = Plan(
        clients=4, keys=1, storm_ns=40 * SECOND, pace_ns=1000 * MS, operators_ns=300 * MS, settings=QUICK, drift=0.0
    )
    changed: dict[str, Any] = {}
    match bug:
        case "commit of an older term":
            settings = replace(QUICK, max_append_bytes=1, max_inflight_appends=1)
            changed = {"troubles": frozenset({"crash"}), "delay_ns": 150 * MS, "settings": settings}
            changed |= {"clients": 6, "hurt": 0.8, "pace_ns": 2 * SECOND, "storm_ns": 100 * SECOND}
        case "no log check in votes":
            changed = {"troubles": frozenset({"crash", "cut", "one-way"})}
        case "lease through a pause":
            changed = {"troubles": frozenset({"pause"}), "settings": replace(QUICK, lease=True)}
        case "read without quorum":
            changed = {"troubles": frozenset({"pause", "cut", "one-way"})}
        case "wrong truncation":
            changed = {"troubles": frozenset({"weather", "crash", "cut"}), "delay_ns": 20 * MS}
        case "two membership changes at once":
            changed = {"troubles": frozenset({"membership", "cut", "crash"}), "learners": 2}
        case "snapshot without term":
            changed = {"troubles": frozenset({"membership", "cut", "crash"}), "learners": 1}
        case _:
            changed = {"troubles": frozenset({"crash", "power", "cut"})}
    return replace(plan, **changed)
