"""A small world for cores of Raft: disks that keep what was persisted, a network that keeps what was sent, clocks; every check after every event."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from random import Random
from typing import Any

from monofs.journal.raft.checks import Group, check_core
from monofs.journal.raft.core import Raft
from monofs.journal.raft.messages import (
    HardState,
    InstallSnapshot,
    LogEntry,
    Membership,
    NodeId,
    Persist,
    Position,
    Ready,
    Settings,
)

Say = Callable[[str], None]


class Disk:
    """What survives a crash: the log after `base`, the hard state, and the state that the entries up to `applied` made."""

    def __init__(self, membership: Membership) -> None:
        self.hard_state = HardState(0, NodeId(0))
        self.base = Position(0, 0)
        self.membership = membership
        self.entries: list[LogEntry] = []
        self.state: list[tuple[int, Any]] = []  # (term, data) of entries 1..applied

    def write(self, persist: Persist) -> None:
        if persist.hard_state:
            self.hard_state = persist.hard_state
        first = persist.truncate_from or (persist.entries[0].index if persist.entries else None)
        if first is not None:
            assert self.base.index < first <= self.base.index + len(self.entries) + 1, "a hole on disk"
            del self.entries[first - self.base.index - 1 :]
        for entry in persist.entries:
            assert entry.index == self.base.index + len(self.entries) + 1, "a hole on disk"
            self.entries.append(entry)

    def read(self, first: int, count: int = 4) -> list[LogEntry] | None:
        return None if first <= self.base.index else self.entries[first - self.base.index - 1 :][:count]

    def compact(self, index: int) -> None:
        cut = index - self.base.index
        if cut > 0:
            for entry in self.entries[:cut]:
                self.membership = entry.data if isinstance(entry.data, Membership) else self.membership
            self.base = Position(index, self.entries[cut - 1].term)
            del self.entries[:cut]

    def reset(self, position: Position, membership: Membership, state: list[tuple[int, Any]]) -> None:
        self.base, self.membership, self.entries, self.state = position, membership, [], list(state)


class Member:
    def __init__(self, node: NodeId, membership: Membership) -> None:
        self.id = node
        self.disk = Disk(membership)
        self.raft: Raft | None = None
        self.is_slow = False
        self.is_installing_slowly = False
        self.writing: tuple[int, Persist] | None = None
        self.installing: InstallSnapshot | None = None
        self.now_ns = 0


class World:
    def __init__(self, *, random: Random, settings: Settings, say: Say = lambda _: None) -> None:
        self.random, self.settings, self.say = random, settings, say
        self.members: dict[NodeId, Member] = {}
        self.net: list[Any] = []
        self.cuts: set[tuple[NodeId, NodeId]] = set()
        self.group = Group()
        self.snapshots: dict[Position, list[tuple[int, Any]]] = {}
        self.reads: dict[Any, tuple[int, str | None]] = {}
        self.read_floors: dict[Any, int] = {}

    def add(self, node: int, membership: Membership) -> Member:
        member = self.members[NodeId(node)] = Member(NodeId(node), membership)
        return member

    def start(self, node: int, *, restarted: bool = False) -> None:
        member = self.members[NodeId(node)]
        disk = member.disk
        self.group.forget(member.id)
        member.raft = Raft(
            member.id,
            self.settings,
            random=self.random_of(member.id),
            hard_state=disk.hard_state,
            base=disk.base,
            membership_at_base=disk.membership,
            entries=list(disk.entries),
            applied=len(disk.state),
            now_ns=member.now_ns,
            restarted=restarted,
        )
        self.settle_member(member)

    def random_of(self, node: NodeId) -> Random:
        return Random(self.random.getrandbits(64))

    def crash(self, node: int) -> None:
        member = self.members[NodeId(node)]
        member.raft, member.writing, member.installing = None, None, None
        self.group.forget(member.id)

    def alive(self) -> list[Member]:
        return [member for member in self.members.values() if member.raft is not None]

    def raft(self, node: int) -> Raft:
        raft = self.members[NodeId(node)].raft
        assert raft is not None, f"node {node} is down"
        return raft

    # --- what happens ---------------------------------------------------------------------------------------------------------------

    def act(self, node: int, event: Callable[[Raft], Any]) -> Any:
        """Let one event happen at a node, do what it is ready for, check everything; the event's exception is the caller's."""
        member = self.members[NodeId(node)]
        assert member.raft is not None, f"node {node} is down"
        try:
            return event(member.raft)
        finally:
            self.settle_member(member)

    def tick(self, node: int) -> None:
        member = self.members[NodeId(node)]
        member.now_ns += int(self.settings.tick_s * 1e9)
        self.act(node, lambda raft: raft.tick(member.now_ns))

    def read(self, node: int, token: Any) -> None:
        """Whatever is committed anywhere now, the read must see."""
        self.read_floors[token] = max(self.group.committed, default=0)
        now_ns = self.members[NodeId(node)].now_ns
        self.act(node, lambda raft: raft.read(token, now_ns))

    def deliver(self, message: Any) -> None:
        """Hand over one message that was taken from the net; a cut link or a dead node loses it."""
        member = self.members.get(message.target)
        is_lost = member is None or member.raft is None or (message.sender, message.target) in self.cuts
        if not is_lost and member is not None:
            self.act(member.id, lambda raft: raft.step(message, member.now_ns))
        if isinstance(message, InstallSnapshot):
            self.end_snapshot(message, ok=not is_lost)

    def lose(self, message: Any) -> None:
        if isinstance(message, InstallSnapshot):
            self.end_snapshot(message, ok=False)

    def end_snapshot(self, message: InstallSnapshot, *, ok: bool) -> None:
        sender = self.members[message.sender]
        if sender.raft is not None:
            self.act(sender.id, lambda raft: raft.snapshot_sent(message.target, message.position, ok=ok))

    def flush(self, node: int) -> None:
        """The slow disk has written what it was given."""
        member = self.members[NodeId(node)]
        raft = self.raft(node)
        assert member.writing is not None, "nothing is being written"
        number, persist = member.writing
        member.writing = None
        member.disk.write(persist)
        self.say(f"{node} disk wrote {number}")
        raft.persisted(number)
        self.settle_member(member)

    def finish_install(self, node: int) -> None:
        member = self.members[NodeId(node)]
        assert member.installing is not None, "nothing is being installed"
        message, member.installing = member.installing, None
        member.disk.reset(message.position, message.membership, self.snapshots[message.position])
        self.say(f"{node} installed the snapshot of {show_position(message.position)}")
        self.act(node, lambda raft: raft.snapshot_installed(message.position, message.membership))

    def compact(self, node: int, index: int) -> None:
        member = self.members[NodeId(node)]
        assert index <= self.raft(node).applied
        member.disk.compact(index)
        self.act(node, lambda raft: raft.compact(index))

    # --- the driver -----------------------------------------------------------------------------------------------------------------

    def settle_member(self, member: Member) -> None:
        raft = member.raft
        assert raft is not None
        check_core(raft)
        while ready := raft.ready(may_persist=member.writing is None):
            self.do(member, raft, ready)
            check_core(raft)
        self.group.observe([raft])

    def do(self, member: Member, raft: Raft, ready: Ready) -> None:
        if ready.role:
            line = (
                f"{member.id} is {ready.role.role.value} in term {ready.role.term}, leader {ready.role.leader or '-'}"
            )
            self.say(line)
        self.net.extend(ready.messages)
        if ready.committed:
            self.apply(member, ready.committed)
            raft.applied_to(ready.committed[-1].index)
        for read in ready.reads:
            assert read.token not in self.reads, "a read ends once"
            assert read.refused or read.index >= self.read_floors[read.token], "a read of the past"
            self.reads[read.token] = (read.index, read.refused)
            how = f"refused: {read.refused}" if read.refused else f"from index {read.index}"
            self.say(f"{member.id} read {read.token} {how}{' by the lease' if read.lease_until_ns else ''}")
        for fetch in ready.fetches:
            self.say(f"{member.id} fetches from {fetch.first_index} for {fetch.peer}")
            raft.fetched(fetch.peer, fetch.first_index, member.disk.read(fetch.first_index))
        for wanted in ready.snapshots:
            self.send_snapshot(member, raft, wanted.peer, wanted.least_index)
        if ready.persist:
            self.persist(member, raft, ready.number, ready.persist)
        if ready.installs:
            assert member.writing is None, "the log is exchanged while it is written"
            member.installing = ready.installs
            if not member.is_installing_slowly:
                self.finish_install(member.id)

    def persist(self, member: Member, raft: Raft, number: int, persist: Persist) -> None:
        assert member.writing is None, "two persists at once"
        assert member.installing is None, "the log is written while it is exchanged"
        if member.is_slow:
            member.writing = (number, persist)
            return
        member.disk.write(persist)
        raft.persisted(number)

    def apply(self, member: Member, entries: Sequence[LogEntry]) -> None:
        durable = member.disk.base.index + len(member.disk.entries)
        assert entries[-1].index <= durable, "applied what is not durable here"
        self.group.note_applied(member.id, entries)
        for entry in entries:
            assert entry.index == len(member.disk.state) + 1, "applied out of order"
            member.disk.state.append((entry.term, entry.data))
        self.say(f"{member.id} applies {' '.join(show_entry(entry) for entry in entries)}")

    def send_snapshot(self, member: Member, raft: Raft, peer: NodeId, least_index: int) -> None:
        index = len(member.disk.state)
        assert index >= least_index
        position = Position(index, member.disk.state[-1][0])
        message = raft.install_message(peer, position)
        if message is None:
            return
        self.say(f"{member.id} sends a snapshot of {show_position(position)} to {peer}")
        self.snapshots[position] = list(member.disk.state)
        self.net.append(message)


def show_position(position: Position) -> str:
    return f"{position.index}@{position.term}"


def show_entry(entry: LogEntry) -> str:
    data = (
        ""
        if entry.data is None
        else f":{show_membership(entry.data) if isinstance(entry.data, Membership) else entry.data}"
    )
    return f"{entry.index}@{entry.term}{data}"


def show_membership(membership: Membership) -> str:
    text = ",".join(map(str, membership.voters)) or "-"
    if membership.outgoing:
        text += "&" + ",".join(map(str, membership.outgoing))
    return f"({text}{'+' + ','.join(map(str, membership.learners)) if membership.learners else ''})"
