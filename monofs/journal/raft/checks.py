"""Named checks: the local invariants of one core, and the safety properties of the thesis (figure 3.2) over a group of cores.

`check_core` is meant to be called after every event; `Group.observe` too, with all cores that are alive: it remembers what it saw, so that
the properties hold over time and across restarts. Each costs what is new since the last call. Used by scenarios, tests and simulation.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import combinations
from typing import Any, NamedTuple

from monofs.journal.raft.core import Raft
from monofs.journal.raft.messages import NOBODY, AppendAnswer, LogEntry, Membership, NodeId, Role
from monofs.journal.raft.progress import Sending
from monofs.journal.raft.quorum import is_quorum


class Broken(AssertionError):
    """A check failed: `name` says which."""

    def __init__(self, name: str, detail: str) -> None:
        super().__init__(f"{name}: {detail}")
        self.name = name


# --- one core -------------------------------------------------------------------------------------------------------------------------


def check_order_of_indexes(raft: Raft) -> str | None:
    """floor <= applied <= applying <= commit <= last, and nothing is applied that is not durable here."""
    log = raft.log
    if not log.floor <= raft.applied <= raft.applying <= raft.commit <= log.last_index:
        return f"floor {log.floor}, applied {raft.applied}, applying {raft.applying}, commit {raft.commit}, last {log.last_index}"
    if not raft.applying <= log.persisted <= log.last_index:
        return f"applying {raft.applying}, persisted {log.persisted}, last {log.last_index}"
    return None


def check_terms(raft: Raft) -> str | None:
    """The own term is at least that of the last entry; the last term is that of the runs."""
    if raft.term < raft.log.last_term:
        return f"term {raft.term}, but an entry of term {raft.log.last_term}"
    if raft.log.first_of_run(raft.log.last_index) > raft.log.last_index:
        return "a run of terms begins after the end"
    return None


def check_window(raft: Raft) -> str | None:
    """The window ends at the last index, is without gaps at both ends, and reaches back to what is not applied."""
    log = raft.log
    window = log.between(log.first_in_window, log.last_index)
    if window and (window[0].index, window[-1].index) != (log.first_in_window, log.last_index):
        return f"{window[0].index}..{window[-1].index}, not {log.first_in_window}..{log.last_index}"
    if not window and log.first_in_window != log.last_index + 1:
        return f"empty, but said to begin at {log.first_in_window} of {log.last_index}"
    if log.first_in_window > raft.applied + 1:
        return f"begins at {log.first_in_window}, applied {raft.applied}"
    return None


def check_membership_of_log(raft: Raft) -> str | None:
    """The membership in force is that of a membership entry in the log, or of its beginning (4.1)."""
    log = raft.log
    index = log.membership_index
    if not 0 <= index <= log.last_index:
        return f"from index {index}, the log ends at {log.last_index}"
    if index >= log.first_in_window:
        entry = log.between(index, index)[0]
        if entry.data != log.membership:
            return f"not what entry {index} says"
    return None


def check_role(raft: Raft) -> str | None:
    """A leader knows itself as leader and has voted; only a leader has progress, uncommitted bytes and a transfer."""
    if raft.role is Role.LEADER:
        if raft.leader != raft.me or raft.vote == NOBODY or raft.settled_at == 0:
            return f"leads, but leader {raft.leader}, vote {raft.vote}"
    elif raft.leader == raft.me or raft.progress or raft.uncommitted_bytes or raft.transferee != NOBODY:
        return f"{raft.role.value} with a leader's belongings"
    if raft.role is Role.CANDIDATE and raft.vote != raft.me:
        return f"candidate who voted for {raft.vote}"
    return None


def check_progress(raft: Raft) -> str | None:
    """match < next <= last + 1, inflight within its bounds, every other member watched."""
    settings, last = raft.settings, raft.log.last_index
    for peer, p in raft.progress.items():
        if not p.match < p.next <= last + 1:
            return f"of {peer}: match {p.match}, next {p.next}, last {last}"
        if len(p.inflight) > settings.max_inflight_appends or p.inflight_bytes != sum(size for _, size in p.inflight):
            return f"of {peer}: {len(p.inflight)} Appends, {p.inflight_bytes} bytes inflight"
        if p.inflight_bytes >= settings.inflight_bytes + max((size for _, size in p.inflight), default=1):
            return f"of {peer}: {p.inflight_bytes} bytes inflight"
        if p.inflight and p.state not in (Sending.REPLICATE, Sending.FETCH):
            return f"of {peer}: inflight in {p.state.value}"
    if raft.role is Role.LEADER and not set(raft.log.membership.members()) <= {raft.me, *raft.progress}:
        return "a member is not watched"
    return None


def check_uncommitted(raft: Raft) -> str | None:
    """What a leader counts against its bound is the size of what is not committed."""
    if raft.role is not Role.LEADER:
        return None
    size = raft.log.size_between(raft.commit + 1, raft.log.last_index)
    return None if size == raft.uncommitted_bytes else f"{raft.uncommitted_bytes} bytes counted, {size} there"


def check_held(raft: Raft) -> str | None:
    """Held messages wait for a persist that is in flight or due, and no answer acknowledges what the log has not."""
    is_due = raft.hard_dirty or raft.log.is_dirty
    for waits_for, message in raft.held:
        if waits_for != raft.in_flight and not (is_due and waits_for == raft.number + 1):
            return f"{message} waits for persist {waits_for} of {raft.number}"
        if isinstance(message, AppendAnswer) and message.accepted and message.index > raft.log.last_index:
            return f"{message}, but the log ends at {raft.log.last_index}"
    return None


def check_said(raft: Raft) -> str | None:
    """No answer about to go acknowledges what is not durable (3.3)."""
    for message in raft.out:
        if not isinstance(message, AppendAnswer) or not message.accepted or message.term != raft.term:
            continue
        if message.index > raft.log.persisted:
            return f"{message}, but durable is {raft.log.persisted}"
    return None


LOCAL_CHECKS: dict[str, Callable[[Raft], str | None]] = {
    "order of indexes": check_order_of_indexes,
    "terms": check_terms,
    "window": check_window,
    "membership of the log": check_membership_of_log,
    "role": check_role,
    "progress": check_progress,
    "uncommitted bytes": check_uncommitted,
    "held messages": check_held,
    "said is durable": check_said,
}


def check_core(raft: Raft) -> None:
    """All local invariants; raises `Broken`."""
    for name, check in LOCAL_CHECKS.items():
        detail = check(raft)
        if detail is not None:
            raise Broken(name, f"node {raft.me}, term {raft.term}: {detail}")


# --- a group of cores -----------------------------------------------------------------------------------------------------------------


class Seen(NamedTuple):
    """A core as it was when last observed."""

    term: int
    vote: NodeId
    role: Role
    commit: int
    last_index: int
    last_term: int


class Group:
    """The five safety properties (figure 3.2), and that terms, votes and commits only go forward. `forget(node)` when one restarts."""

    def __init__(self) -> None:
        self.leaders: dict[int, NodeId] = {}  # term -> leader
        self.committed: dict[int, LogEntry] = {}  # index -> entry
        self.committed_at: dict[int, int] = {}  # index -> lowest term of a core that knew it committed
        self.entries: dict[tuple[int, int], tuple[int, Any]] = {}  # (index, term) -> term before it, data
        self.seen: dict[NodeId, Seen] = {}
        self.logs: dict[NodeId, dict[int, int]] = {}  # node -> index -> term, as far as compared
        self.applied: dict[int, Any] = {}  # index -> (term, data) as the drivers applied them

    def forget(self, node: NodeId) -> None:
        """It crashed or restarts: its log may be shorter and its commit index lower than was seen."""
        self.seen.pop(node, None)
        self.logs.pop(node, None)

    def observe(self, cores: Iterable[Raft]) -> None:
        """Raises `Broken` with the property that does not hold."""
        for raft in cores:
            before = self.seen.get(raft.me)
            self.check_forward(raft, before)
            self.check_election_safety(raft)
            self.check_leader_append_only(raft, before)
            self.check_log_matching(raft)
            self.note_committed(raft, before)
            if raft.role is Role.LEADER and (
                before is None or before.role is not Role.LEADER or before.term != raft.term
            ):
                self.check_leader_completeness(raft)
            log = raft.log
            self.seen[raft.me] = Seen(raft.term, raft.vote, raft.role, raft.commit, log.last_index, log.last_term)

    def check_forward(self, raft: Raft, before: Seen | None) -> None:
        if before is None:
            return
        if raft.term < before.term or raft.commit < before.commit:
            raise Broken("forward", f"node {raft.me}: {before}, now term {raft.term}, commit {raft.commit}")
        if raft.term == before.term and before.vote not in (NOBODY, raft.vote):
            raise Broken("one vote a term", f"node {raft.me}, term {raft.term}: {before.vote}, then {raft.vote}")

    def check_election_safety(self, raft: Raft) -> None:
        """At most one leader in a term."""
        if raft.role is Role.LEADER and self.leaders.setdefault(raft.term, raft.me) != raft.me:
            raise Broken("election safety", f"term {raft.term}: {self.leaders[raft.term]} and {raft.me}")

    def check_leader_append_only(self, raft: Raft, before: Seen | None) -> None:
        """A leader never cuts or changes its log; it only appends."""
        if before is None or before.role is not Role.LEADER or raft.role is not Role.LEADER or before.term != raft.term:
            return
        if raft.log.last_index < before.last_index or raft.log.term(before.last_index) not in (None, before.last_term):
            raise Broken(
                "leader append-only", f"leader {raft.me} of term {raft.term}: its entry {before.last_index} is gone"
            )

    def check_log_matching(self, raft: Raft) -> None:
        """Entries of the same index and term are the same, and so is all before them: here as, the same data and the same term before,
        wherever (index, term) is seen; the rest follows by induction."""
        known, log = self.logs.setdefault(raft.me, {}), raft.log
        index = log.last_index
        new: list[LogEntry] = []
        while index >= log.first_in_window and known.get(index) != log.term(index):
            new.extend(log.between(index, index))
            index -= 1
        for entry in reversed(new):
            before = log.term(entry.index - 1)
            if before is None:
                continue
            this = (before, entry.data)
            said = self.entries.setdefault((entry.index, entry.term), this)
            if said != this:
                raise Broken(
                    "log matching", f"node {raft.me}, entry {entry.index} of term {entry.term}: {said} and {this}"
                )
            known[entry.index] = entry.term

    def note_committed(self, raft: Raft, before: Seen | None) -> None:
        """State machine safety, as of commit: no two cores hold different entries to be committed at one index."""
        first = max(before.commit if before else 0, raft.log.floor, raft.log.first_in_window - 1) + 1
        for entry in raft.log.between(first, raft.commit) if first <= raft.commit else ():
            said = self.committed.setdefault(entry.index, entry)
            self.committed_at[entry.index] = min(raft.term, self.committed_at.get(entry.index, raft.term))
            if (said.term, said.data) != (entry.term, entry.data):
                raise Broken("state machine safety", f"node {raft.me} commits {entry}, another {said}")

    def check_leader_completeness(self, raft: Raft) -> None:
        """A leader holds everything that was committed in terms before its own."""
        for index, entry in self.committed.items():
            if self.committed_at[index] >= raft.term or index < raft.log.floor:
                continue
            if raft.log.term(index) != entry.term:
                raise Broken(
                    "leader completeness", f"leader {raft.me} of term {raft.term} lacks {index} of term {entry.term}"
                )

    def note_applied(self, node: NodeId, entries: Iterable[LogEntry]) -> None:
        """State machine safety, as of apply: for drivers that tell what they applied."""
        for entry in entries:
            said = self.applied.setdefault(entry.index, (entry.term, entry.data))
            if said != (entry.term, entry.data):
                raise Broken("state machine safety", f"node {node} applies {entry}, another applied {said}")


def do_quorums_meet(first: Membership, second: Membership) -> bool:
    """Whether any quorum of `first` shares a voter with any quorum of `second` (4.3): what must hold between two memberships one entry apart."""
    return all(a & b for a in quorums(first) for b in quorums(second))


def quorums(membership: Membership) -> list[set[NodeId]]:
    nodes = sorted({*membership.voters, *membership.outgoing})
    groups = (set(group) for size in range(1, len(nodes) + 1) for group in combinations(nodes, size))
    return [group for group in groups if is_quorum(membership, group)]
