"""The vocabulary of the Raft core: ids, log entries, memberships, the messages between members, and what a `Ready` holds.

Words are those of Ongaro's thesis ("Consensus: Bridging Theory and Practice", 2014), cited by section. Everything here is an immutable value.
Terms and indexes begin at 1; 0 means "none": no vote, no leader, the position before the first entry. Not here: bytes (see `wire`),
and what the `data` of an entry means, which the core never looks at (but for a membership).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum, IntEnum
from typing import Any, NamedTuple, NewType, TypeAlias

NodeId = NewType("NodeId", int)  # positive, 63 bits
NOBODY = NodeId(0)

MAX_ID = 2**63 - 1
MAX_TERM = 2**62  # a message beyond it is nobody's: it is ignored, and no election leads there
MAX_MEMBERS = 63  # voters, outgoing voters and learners together
MAX_ENTRY_BYTES = 16 * 1024 * 1024
MAX_APPEND_ENTRIES = 8192  # entries in one Append, and in one `Ready.committed`
MAX_WAITING_READS = 65536  # reads that wait for a round; one more is refused with `too_many_reads`
MEMBER_BYTES = 9  # what a member counts for in the size of a membership entry


class EntryType(IntEnum):
    NORMAL = 0
    EMPTY = 1  # a leader's first entry of its term (3.6.2, 6.4)
    MEMBERSHIP = 2  # data is a `Membership`


class Role(Enum):
    FOLLOWER = "follower"
    PRE_CANDIDATE = "pre_candidate"
    CANDIDATE = "candidate"
    LEADER = "leader"


class Position(NamedTuple):
    """A place in the log; two logs that hold the same position are the same up to there (log matching, 3.5)."""

    index: int  # type: ignore[assignment]  # the word of the thesis, not tuple.index
    term: int


class LogEntry(NamedTuple):
    """One entry. `data` is opaque, `size_bytes` what it counts for in every bound."""

    term: int
    index: int  # type: ignore[assignment]  # the word of the thesis, not tuple.index
    type: EntryType
    data: Any
    size_bytes: int


class HardState(NamedTuple):
    """What must be durable before anything that follows from it is said (3.3, figure 3.1: currentTerm, votedFor)."""

    term: int
    vote: NodeId


class Membership(NamedTuple):
    """Who takes part: sorted tuples of ids. With `outgoing` it is joint (4.3): both sets decide, each by its own majority.

    A node of `outgoing` may stand in `learners`, too: it becomes one when the joint membership is left. `book` (names, addresses) is
    the driver's and merely carried.
    """

    voters: tuple[NodeId, ...]
    outgoing: tuple[NodeId, ...] = ()
    learners: tuple[NodeId, ...] = ()
    book: bytes = b""

    @property
    def is_joint(self) -> bool:
        return bool(self.outgoing)

    def is_voter(self, node: int) -> bool:
        return node in self.voters or node in self.outgoing

    def members(self) -> tuple[NodeId, ...]:
        return tuple(sorted({*self.voters, *self.outgoing, *self.learners}))

    def left(self) -> Membership:
        """The membership after the joint one."""
        return self._replace(outgoing=())

    def size_bytes(self) -> int:
        return len(self.book) + MEMBER_BYTES * (len(self.voters) + len(self.outgoing) + len(self.learners))


def is_membership(value: object) -> bool:
    """Whether `value` is a membership that could be in force: its sets sorted, of valid ids, learners no voters, within the bound."""
    if not isinstance(value, Membership) or not isinstance(value.book, bytes) or not value.voters:
        return False
    sets = (value.voters, value.outgoing, value.learners)
    if sum(len(nodes) for nodes in sets) > 2 * MAX_MEMBERS or len(value.members()) > MAX_MEMBERS:
        return False
    if any(list(nodes) != sorted(set(nodes)) or not all(0 < node <= MAX_ID for node in nodes) for nodes in sets):
        return False
    return not set(value.learners) & set(value.voters)


# --- messages: each begins with sender, target and the sender's term ----------------------------------------------------------------


class VoteRequest(NamedTuple):
    """RequestVote (3.4). `pre`: only asks whether a vote would be given (9.6; `term` is the one the sender would enter).
    `forced`: the leader asked for this election (3.10), so a voter does not stand by that leader."""

    sender: NodeId
    target: NodeId
    term: int
    last: Position
    pre: bool
    forced: bool


class VoteAnswer(NamedTuple):
    """A granted one carries the term of the request, a refused one the term of the voter."""

    sender: NodeId
    target: NodeId
    term: int
    pre: bool
    granted: bool


class Append(NamedTuple):
    """AppendEntries (3.5): `entries` follow `previous` without a gap."""

    sender: NodeId
    target: NodeId
    term: int
    previous: Position
    entries: tuple[LogEntry, ...]
    commit: int


class AppendAnswer(NamedTuple):
    """Accepted: the log is the leader's up to `index`, durably. Refused: `index` is that of the `previous` refused, `conflict` the term found
    there with its first index in the follower's log, or (last index + 1, 0) where the log ends before."""

    sender: NodeId
    target: NodeId
    term: int
    accepted: bool
    index: int  # type: ignore[assignment]  # the word of the thesis, not tuple.index
    conflict: Position


class Heartbeat(NamedTuple):
    """Leadership asserted; `round` (rising within a term) comes back in the answer (6.4). `commit` is never above what the target is known to
    hold."""

    sender: NodeId
    target: NodeId
    term: int
    commit: int
    round: int


class HeartbeatAnswer(NamedTuple):
    sender: NodeId
    target: NodeId
    term: int
    round: int


class InstallSnapshot(NamedTuple):
    """The state at `position` takes the place of the log up to there (5.3). The data went another way: the driver has received and verified
    all of it before it gives this message to `step`."""

    sender: NodeId
    target: NodeId
    term: int
    position: Position
    membership: Membership


class TimeoutNow(NamedTuple):
    """The target is to hold an election at once (3.10)."""

    sender: NodeId
    target: NodeId
    term: int


class ReadIndexRequest(NamedTuple):
    """A follower asks for an index that covers all that was committed when the leader got this (6.4). `context` is a random number."""

    sender: NodeId
    target: NodeId
    term: int
    context: int


class ReadIndexAnswer(NamedTuple):
    """`index` 0: refused."""

    sender: NodeId
    target: NodeId
    term: int
    context: int
    index: int  # type: ignore[assignment]  # the word of the thesis, not tuple.index


Message: TypeAlias = (
    VoteRequest
    | VoteAnswer
    | Append
    | AppendAnswer
    | Heartbeat
    | HeartbeatAnswer
    | InstallSnapshot
    | TimeoutNow
    | ReadIndexRequest
    | ReadIndexAnswer
)


# --- what the core hands to its driver ----------------------------------------------------------------------------------------------


class Persist(NamedTuple):
    """To be made durable together, in this order: cut the log from `truncate_from` on, append `entries`, note the hard state."""

    hard_state: HardState | None
    truncate_from: int | None
    entries: list[LogEntry]


class ReadState(NamedTuple):
    """The end of a read: answer it from a state that has applied `index`, or refuse it with `refused`. `lease_until_ns` is not 0 when it was
    answered by the lease, and then says how long that held."""

    token: Any
    index: int  # type: ignore[assignment]  # the word of the thesis, not tuple.index
    refused: str | None = None
    lease_until_ns: int = 0


class Fetch(NamedTuple):
    """Entries from `first_index` on, about `max_bytes` of them (at least one), are needed from the segments: answer with `Raft.fetched`."""

    peer: NodeId
    first_index: int
    max_bytes: int


class SnapshotWanted(NamedTuple):
    """`peer` needs a snapshot of at least `least_index`: answer with `Raft.snapshot_sent` in any case."""

    peer: NodeId
    least_index: int


class RoleChange(NamedTuple):
    role: Role
    term: int
    leader: NodeId  # NOBODY while none is known


class Ready(NamedTuple):
    """What the driver does next, in this order: send `messages` and begin `persist` (both at once), apply `committed`, answer `reads`.

    Messages that depend on what is not yet durable are not in here; they come after `Raft.persisted(number)`.
    """

    number: int  # of `persist`; 0 without
    persist: Persist | None
    messages: list[Message]
    committed: list[LogEntry]
    reads: list[ReadState]
    fetches: list[Fetch]
    snapshots: list[SnapshotWanted]
    installs: InstallSnapshot | None  # answer with `Raft.snapshot_installed` or `Raft.snapshot_failed`
    role: RoleChange | None  # when the role, the term or the known leader changed


class Refused(Exception):
    """A proposal, change or transfer that was not taken; nothing of it is in the log. `leader` is who may take it (NOBODY: unknown).

    Reasons: not_leader, transferring, too_much (uncommitted bytes), too_large (one entry); of a membership also invalid, change_pending,
    would_lose_quorum, not_caught_up; of a transfer also not_a_voter. Reads end with not_leader, no_answer or too_many_reads.
    """

    def __init__(self, reason: str, leader: NodeId = NOBODY) -> None:
        super().__init__(reason)
        self.reason = reason
        self.leader = leader


@dataclass(slots=True, frozen=True)
class PeerStatus:
    state: str  # probe, replicate, fetch, snapshot
    match: int
    next: int
    inflight_bytes: int
    inflight_appends: int
    heard_ticks_ago: int
    is_heard: bool = (
        True  # in this term; if not, nothing is known of it, and the ticks are those since the leader leads
    )


@dataclass(slots=True, frozen=True)
class Status:
    me: NodeId
    role: Role
    term: int
    vote: NodeId
    leader: NodeId
    commit: int
    applied: int
    persisted: int
    first: int  # index of the oldest entry that may be fetched
    last: int
    uncommitted_bytes: int
    waiting_reads: int
    transferring_to: NodeId
    membership: Membership
    membership_index: int
    ignored: int  # messages that were no member's, malformed or against the rules
    peers: dict[NodeId, PeerStatus] = field(default_factory=dict)


@dataclass(slots=True, frozen=True)
class Settings:
    """Times are in ticks of `tick_s`."""

    tick_s: float = 0.05
    heartbeat_ticks: int = 2
    election_ticks: int = 12  # an election comes after a random 12..23 ticks of silence
    max_append_bytes: int = 1024 * 1024  # entries of one Append; a larger single entry goes alone
    max_inflight_appends: int = 256  # unanswered Appends per follower
    inflight_bytes: int = 32 * 1024 * 1024  # unanswered bytes per follower
    max_uncommitted_bytes: int = 64 * 1024 * 1024  # a proposal beyond it is refused: too_much
    window_bytes: int = 64 * 1024 * 1024  # applied entries kept in memory for followers; older ones are fetched
    caught_up_entries: int = 1000  # a learner this close to the commit index may become a voter
    lease: bool = False  # answer reads without a round while a quorum cannot have elected another leader (6.4.1)
    lease_factor: float = 0.8  # of the election timeout

    @property
    def election_timeout_ns(self) -> int:
        return int(self.election_ticks * self.tick_s * 1_000_000_000)


Payloads: TypeAlias = Sequence[tuple[Any, int]]
