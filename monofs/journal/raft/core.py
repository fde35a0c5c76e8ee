"""One member of a Raft group as a pure machine: messages, ticks, proposals in; `Ready` out.

The driver's loop, whose order is law: give it what happened (`step`, `tick`, `propose`, `read`, ...), then take `ready()` until it is
None and do what each holds: send the messages and begin the persist (both at once: the leader sends while it writes), apply what is committed,
call `applied_to`, answer the reads. When the persist is durable, `persisted(number)`.

Invariants: what is said follows from what is durable: answers and votes wait in `held` until all that was to be persisted when they
were made is; a leader's Appends, Heartbeats and TimeoutNow, and questions that promise nothing, go at once. Nothing is given for applying
that is not committed and durable here. `step` never raises. Every check of this is in `checks`. Elections are in `election`, logs in
`replication`, memberships in `change`, reads in `reads`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from random import Random
from typing import Any

from monofs.journal.raft import change, election, reading, replication
from monofs.journal.raft.intake import is_acceptable
from monofs.journal.raft.log import Log
from monofs.journal.raft.messages import (
    MAX_APPEND_ENTRIES,
    MAX_ENTRY_BYTES,
    NOBODY,
    Append,
    AppendAnswer,
    EntryType,
    Fetch,
    HardState,
    Heartbeat,
    HeartbeatAnswer,
    InstallSnapshot,
    LogEntry,
    Membership,
    Message,
    NodeId,
    Payloads,
    Persist,
    Position,
    ReadIndexAnswer,
    ReadIndexRequest,
    ReadState,
    Ready,
    Refused,
    Role,
    RoleChange,
    Settings,
    SnapshotWanted,
    Status,
    TimeoutNow,
    VoteAnswer,
    VoteRequest,
)
from monofs.journal.raft.progress import Progress, Sending
from monofs.journal.raft.quorum import agreed
from monofs.journal.raft.reads import Reads
from monofs.journal.raft.report import report

MAX_HELD = 65536  # messages that wait for the disk; one more is dropped, as a network would


class Raft:
    def __init__(
        self,
        me: NodeId,
        settings: Settings,
        *,
        random: Random,
        hard_state: HardState,
        base: Position,
        membership_at_base: Membership,
        entries: Sequence[LogEntry],
        applied: int,
        now_ns: int,
        restarted: bool,
        older: Sequence[Position] = (),
    ) -> None:
        """The log is `entries`, contiguous after `base`; `applied` >= `base.index`. `older` are runs of terms (first index, term) of entries
        at and before `base` that can still be fetched from the segments. `restarted`: this node may have spoken before."""
        self.me, self.settings, self.random = me, settings, random
        self.log = Log(base, membership_at_base, entries, older)
        self.term, self.vote = hard_state
        self.commit = self.applied = self.applying = max(applied, base.index)
        self.role, self.leader = Role.FOLLOWER, NOBODY
        self.now_ns = now_ns
        self.restarted_ns = now_ns if restarted else None
        self.heard_ns: int | None = None  # when a leader was last answered
        self.ticks = self.elapsed = self.heartbeat_elapsed = 0
        self.patience = self.draw_patience()
        self.vain_terms = 0  # since a leader was known
        self.votes: dict[NodeId, bool] = {}
        self.ignored = 0
        # a leader's
        self.progress: dict[NodeId, Progress] = {}
        self.uncommitted_bytes = 0
        self.settled_at = 0  # index of the first entry of the own term
        self.done_membership_index = -1  # of the membership whose commit has had its consequences
        self.transferee, self.transfer_elapsed = NOBODY, 0
        self.reads = Reads()
        # what the next Ready holds
        self.out: list[Message] = []
        self.ended_reads: list[ReadState] = []
        self.fetches: list[Fetch] = []
        self.snapshots: list[SnapshotWanted] = []
        self.installing: InstallSnapshot | None = None
        self.is_install_due = False
        self.told = RoleChange(self.role, self.term, self.leader)
        # durability
        self.hard_dirty = False
        self.held: list[tuple[int, Message]] = []  # number of the persist waited for
        self.number = 0  # of the last persist handed out
        self.in_flight = 0  # that number while it is not durable
        self.is_hard_in_flight = False

    # --- events ---------------------------------------------------------------------------------------------------------------------

    def tick(self, now_ns: int) -> None:
        """Once every `settings.tick_s`; `now_ns` is of a clock that never stands still (CLOCK_BOOTTIME)."""
        self.note_time(now_ns)
        self.ticks += 1
        if self.role is Role.LEADER:
            self.tick_leader()
        else:
            election.tick(self)
            reading.tick(self)

    def tick_leader(self) -> None:
        heard = agreed(self.log.membership, self.heard_of)
        if self.ticks - heard >= self.settings.election_ticks:  # check-quorum (6.2)
            self.become_follower(self.term, NOBODY)
            return
        if self.transferee != NOBODY:
            self.transfer_elapsed += 1
            if self.transfer_elapsed >= self.settings.election_ticks:
                self.transferee = NOBODY
        self.heartbeat_elapsed += 1
        if self.heartbeat_elapsed >= self.settings.heartbeat_ticks:
            replication.heartbeat(self)

    def step(self, message: Message, now_ns: int) -> None:
        """Anything, from anyone. Terms first (3.3): a higher one makes a follower, a lower one is answered or ignored."""
        self.note_time(now_ns)
        if not is_acceptable(message, self.me):
            self.ignored += 1
            return
        kind = type(message)
        if kind is VoteRequest and not election.is_welcome(self, message):  # type: ignore[arg-type]
            self.ignored += 1
            return
        if kind in ANSWERS and not self.is_member(message.sender):
            self.ignored += 1  # one that was removed must not disturb (4.2.3)
            return
        if message.term > self.term:
            election.meet_higher_term(self, message)
        elif message.term < self.term:
            election.meet_lower_term(self, message)
            return
        HANDLERS[kind](self, message)

    def is_member(self, node: NodeId) -> bool:
        return node in self.progress or node in self.log.membership.members()

    def propose(self, payloads: Payloads) -> int:
        """Append normal entries of (data, size in bytes); returns the index of the first."""
        self.check_leading()
        total = sum([payload[1] for payload in payloads])
        if total > MAX_ENTRY_BYTES and max(payload[1] for payload in payloads) > MAX_ENTRY_BYTES:
            raise Refused("too_large", self.leader)
        if self.uncommitted_bytes + total > self.settings.max_uncommitted_bytes:
            raise Refused("too_much", self.leader)
        first = self.log.last_index + 1
        if not payloads:
            return first
        term, normal = self.term, EntryType.NORMAL
        make = tuple.__new__  # half the price of LogEntry(...), for each entry of a batch
        entries = [
            make(LogEntry, (term, index, normal, data, size)) for index, (data, size) in enumerate(payloads, first)
        ]
        self.log.append_normal(entries, total)
        self.uncommitted_bytes += total
        return first

    def propose_membership(self, membership: Membership) -> int:
        """Begin a change to `membership` (its `outgoing` empty); returns the index of the first entry of it."""
        self.check_leading()
        return change.start(self, membership)

    def check_leading(self) -> None:
        if self.role is not Role.LEADER:
            raise Refused("not_leader", self.leader)
        if self.transferee != NOBODY:
            raise Refused("transferring", self.transferee)

    def read(self, token: Any, now_ns: int) -> None:
        """Ask for an index from which on `token` may be answered; ends in `Ready.reads`."""
        self.note_time(now_ns)
        reading.read(self, token)

    def transfer(self, target: NodeId) -> None:
        """Hand the leadership to the voter `target` (3.10): no proposal is taken until it has all and was told, or an election timeout is over."""
        self.check_leading()
        if target == self.me:
            return
        if target not in self.progress or not self.log.membership.is_voter(target):
            raise Refused("not_a_voter", self.leader)
        self.transferee, self.transfer_elapsed = target, 0
        self.maybe_hand_over(target)

    def maybe_hand_over(self, peer: NodeId) -> None:
        if self.transferee == peer != NOBODY and self.progress[peer].match == self.log.last_index:
            self.reads.is_lease_over = True  # the election it asks for will not wait for anybody's patience
            self.out.append(TimeoutNow(self.me, peer, self.term))

    # --- what the driver has done ---------------------------------------------------------------------------------------------------

    def persisted(self, number: int) -> None:
        """The persist of `Ready.number` is durable."""
        if number != self.in_flight or not number:
            return
        self.in_flight = 0
        self.is_hard_in_flight = False
        self.log.persist_done()
        due = [message for waits_for, message in self.held if waits_for <= number]
        self.held = [item for item in self.held if item[0] > number]
        for message in due:
            if message.target != self.me:
                self.out.append(message)
            elif isinstance(message, VoteAnswer) and message.term == self.term:
                election.handle_vote_answer(self, message)
        if self.role is Role.LEADER:
            replication.maybe_commit(self)
        self.log.trim(self.settings.window_bytes, applied=self.applied)

    def applied_to(self, index: int) -> None:
        self.applied = max(self.applied, min(index, self.applying))
        self.log.trim(self.settings.window_bytes, applied=self.applied)

    def compact(self, index: int) -> None:
        """Entries up to `index` can no longer be read from the segments."""
        self.log.compact(min(index, self.applied))

    def fetched(self, peer: NodeId, first_index: int, entries: Sequence[LogEntry] | None) -> None:
        """The answer to a `Fetch`; None: they are gone."""
        replication.take_fetched(self, peer, first_index, entries)

    def install_message(self, peer: NodeId, position: Position) -> InstallSnapshot | None:
        """The message that goes with a snapshot of `position` (applied here) to `peer`; None when this node leads no more."""
        if self.role is not Role.LEADER or not self.log.floor <= position.index <= self.applied:
            return None
        return InstallSnapshot(self.me, peer, self.term, position, self.log.membership_at(position.index))

    def snapshot_sent(self, peer: NodeId, position: Position, ok: bool) -> None:
        """The end of what a `SnapshotWanted` began."""
        replication.end_snapshot(self, peer, position, ok=ok)

    def snapshot_installed(self, position: Position, membership: Membership) -> None:
        """The snapshot of `Ready.installs` is durable in place of log and state."""
        if self.installing is None or position.index <= self.commit:
            return
        sender = self.installing.sender
        self.installing, self.is_install_due = None, False
        self.drop_held(0)
        self.log.reset(position, membership)
        self.hard_dirty = True  # the new log begins with it, and what is still held waits for it
        self.commit = self.applied = self.applying = position.index
        if sender == self.leader:
            self.promise(AppendAnswer(self.me, sender, self.term, True, position.index, replication.NO_CONFLICT))

    def snapshot_failed(self) -> None:
        """It could not be installed; log and state are what they were."""
        self.installing, self.is_install_due = None, False

    def unreachable(self, peer: NodeId) -> None:
        """The link to `peer` broke: what was sent without an answer is probably lost."""
        progress = self.progress.get(peer)
        if progress is not None and progress.state in (Sending.REPLICATE, Sending.FETCH):
            progress.become_probe(progress.match + 1)

    # --- what the driver is to do ---------------------------------------------------------------------------------------------------

    def ready(self, *, may_persist: bool = True) -> Ready | None:
        """What is to be done now, or None. There may be more after it: ask until None."""
        if self.role is Role.LEADER:
            if self.reads.waiting and self.is_settled and not self.reads.has_open_round:
                replication.heartbeat(self)
            replication.send_all(self)
        elif self.reads.waiting and self.leader != NOBODY and self.reads.asked is None:
            reading.ask_leader(self)
        installs = self.take_install()
        persist = self.take_persist() if may_persist else None
        committed = self.take_committed()
        role = self.take_role()
        if not (
            persist or committed or self.out or self.ended_reads or self.fetches or self.snapshots or installs or role
        ):
            return None
        ready = Ready(
            self.in_flight if persist else 0,
            persist,
            self.out,
            committed,
            self.ended_reads,
            self.fetches,
            self.snapshots,
            installs,
            role,
        )
        self.out, self.ended_reads, self.fetches, self.snapshots = [], [], [], []
        return ready

    def take_role(self) -> RoleChange | None:
        told = self.told
        if self.role is told.role and self.term == told.term and self.leader == told.leader:
            return None
        self.told = RoleChange(self.role, self.term, self.leader)
        return self.told

    def take_install(self) -> InstallSnapshot | None:
        """Never with a persist in flight, and none is begun before it ends: the log on disk is exchanged."""
        if not self.is_install_due or self.in_flight:
            return None
        self.is_install_due = False
        return self.installing

    def take_persist(self) -> Persist | None:
        is_exchanged = self.installing is not None and not self.is_install_due
        if self.in_flight or is_exchanged or not (self.hard_dirty or self.log.is_dirty):
            return None
        hard_state = HardState(self.term, self.vote) if self.hard_dirty else None
        self.is_hard_in_flight, self.hard_dirty = self.hard_dirty, False
        self.number += 1
        self.in_flight = self.number
        return Persist(hard_state, *self.log.hand_over())

    def take_committed(self) -> list[LogEntry]:
        last = min(self.commit, self.log.persisted, self.applying + MAX_APPEND_ENTRIES)
        if last <= self.applying or self.installing is not None:
            return []
        first, self.applying = self.applying + 1, last
        return self.log.between(first, last)

    def status(self) -> Status:
        return report(self)

    # --- saying it, when it is durable ----------------------------------------------------------------------------------------------

    def promise(self, message: Message) -> None:
        """Say it once all that is to be persisted now is durable."""
        self.hold(message, self.number + 1 if self.hard_dirty or self.log.is_dirty else self.in_flight)

    def promise_term(self, message: Message) -> None:
        """Say it once the hard state of now is durable: it says nothing of the log."""
        waits_for = self.number + 1 if self.hard_dirty else self.in_flight if self.is_hard_in_flight else 0
        self.hold(message, waits_for)

    def hold(self, message: Message, waits_for: int) -> None:
        if not waits_for:
            self.out.append(message)
            return
        if self.held and isinstance(message, AppendAnswer) and message.accepted:
            at, before = self.held[-1]
            if at == waits_for and type(before) is AppendAnswer and before.accepted and before[:3] == message[:3]:
                self.held.pop()  # one answer for all that becomes durable together
                message = message if message.index >= before.index else before
        if len(self.held) < MAX_HELD:
            self.held.append((waits_for, message))

    def drop_held(self, first: int) -> None:
        """The entries from `first` on are no more: nobody may be told that they are durable."""
        self.held = [
            item
            for item in self.held
            if not (isinstance(item[1], AppendAnswer) and item[1].accepted and item[1].index >= first)
        ]

    # --- roles (figure 3.3) ---------------------------------------------------------------------------------------------------------

    def become_follower(self, term: int, leader: NodeId) -> None:
        """`term` is at least the own one."""
        if term > self.term:
            self.term = term
            self.vain_terms += 1
            self.set_vote(NOBODY)
        if leader != NOBODY:
            self.vain_terms = 0
        if self.role is Role.LEADER:
            self.retire()
        elif leader != self.leader:
            self.reads.ask_again()
        if self.role is not Role.FOLLOWER or leader != NOBODY:
            self.elapsed = 0
            self.patience = self.draw_patience()
        self.role, self.leader = Role.FOLLOWER, leader
        self.votes = {}

    def retire(self) -> None:
        self.progress = {}
        self.uncommitted_bytes = self.settled_at = 0
        self.transferee = NOBODY
        self.fetches, self.snapshots = [], []
        for read in self.reads.restart():
            if read.asker == NOBODY:
                self.ended_reads.append(ReadState(read.token, 0, "not_leader"))

    def become_candidate(self, *, pre: bool) -> None:
        if not pre:
            self.term += 1
            self.vain_terms += 1
            self.set_vote(self.me)
        self.role = Role.PRE_CANDIDATE if pre else Role.CANDIDATE
        self.leader, self.votes, self.elapsed = NOBODY, {}, 0
        self.patience = self.draw_patience()
        self.reads.ask_again()

    def become_leader(self) -> None:
        self.role, self.leader = Role.LEADER, self.me
        self.vain_terms = 0
        self.elapsed = self.heartbeat_elapsed = 0
        self.transferee = NOBODY
        waiting = self.reads.restart()
        for read in waiting:
            self.reads.add(read)
        self.uncommitted_bytes = self.log.size_between(self.commit + 1, self.log.last_index)
        self.progress = {}
        change.follow_membership(self)
        entry = LogEntry(self.term, self.log.last_index + 1, EntryType.EMPTY, None, 0)
        self.settled_at, self.done_membership_index = entry.index, -1
        self.log.append([entry])

    def follow(self, leader: NodeId) -> bool:
        """A message of the leader of this term came; False if it cannot be one's."""
        if self.role is Role.LEADER or self.leader not in (NOBODY, leader):
            self.ignored += 1
            return False
        if self.role is not Role.FOLLOWER or self.leader == NOBODY:
            self.become_follower(self.term, leader)
        self.elapsed = 0
        self.heard_ns = self.now_ns
        return True

    # --- small words ----------------------------------------------------------------------------------------------------------------

    @property
    def is_settled(self) -> bool:
        """Whether an entry of the own term is committed: only now does a leader know the commit index (6.4)."""
        return self.role is Role.LEADER and self.commit >= self.settled_at

    def note_time(self, now_ns: int) -> None:
        self.now_ns = max(self.now_ns, now_ns)

    def draw_patience(self) -> int:
        return self.random.randrange(self.settings.election_ticks, 2 * self.settings.election_ticks)

    def set_vote(self, node: NodeId) -> None:
        self.vote = node
        self.hard_dirty = True

    def set_commit(self, index: int) -> None:
        if self.role is Role.LEADER:
            self.uncommitted_bytes -= self.log.size_between(self.commit + 1, index)
            self.commit = index
            change.after_commit(self)
        else:
            self.commit = index

    def truncate(self, first: int) -> None:
        self.drop_held(first)
        self.log.truncate(first)

    def match_of(self, node: NodeId) -> int:
        if node == self.me:
            return self.log.persisted
        progress = self.progress.get(node)
        return progress.match if progress else 0

    def heard_of(self, node: NodeId) -> int:
        if node == self.me:
            return self.ticks
        progress = self.progress.get(node)
        return progress.heard_tick if progress else 0


# --- messages to their handlers, the sender's term being ours -----------------------------------------------------------------------------


def of_leader(handle: Callable[[Raft, Any], None]) -> Callable[[Raft, Any], None]:
    """Answers concern a leader, and those it watches."""

    def handle_answer(raft: Raft, message: Message) -> None:
        if raft.role is Role.LEADER and message.sender in raft.progress:
            handle(raft, message)

    return handle_answer


ANSWERS = frozenset({VoteAnswer, AppendAnswer, HeartbeatAnswer, ReadIndexRequest, ReadIndexAnswer})
HANDLERS: dict[type, Callable[[Raft, Any], None]] = {
    VoteRequest: election.handle_vote_request,
    VoteAnswer: election.handle_vote_answer,
    Append: replication.handle_append,
    AppendAnswer: of_leader(replication.handle_append_answer),
    Heartbeat: replication.handle_heartbeat,
    HeartbeatAnswer: of_leader(replication.handle_heartbeat_answer),
    InstallSnapshot: replication.handle_install,
    TimeoutNow: election.handle_timeout_now,
    ReadIndexRequest: reading.handle_request,
    ReadIndexAnswer: reading.handle_answer,
}
