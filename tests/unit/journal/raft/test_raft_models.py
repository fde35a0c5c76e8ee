"""The arithmetic of quorums, the log and its hints against models that are too simple to be wrong; and messages of every shape."""

from __future__ import annotations

from random import Random
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from monofs.journal.raft import messages as vocabulary
from monofs.journal.raft.checks import check_core, do_quorums_meet
from monofs.journal.raft.core import Raft
from monofs.journal.raft.log import Log
from monofs.journal.raft.messages import (
    Append,
    AppendAnswer,
    EntryType,
    HardState,
    LogEntry,
    Membership,
    NodeId,
    Position,
    Role,
    Settings,
)
from monofs.journal.raft.quorum import Tally, agreed, tally

NODES = st.integers(1, 7).map(NodeId)
SETS = st.sets(NODES, min_size=1, max_size=5).map(lambda nodes: tuple(sorted(nodes)))
MEMBERSHIPS = st.builds(Membership, SETS, st.one_of(st.just(()), SETS))


def is_majority(nodes: set[NodeId], voters: tuple[NodeId, ...]) -> bool:
    return not voters or 2 * len(nodes & set(voters)) > len(voters)


def are_quorum(nodes: set[NodeId], membership: Membership) -> bool:
    return is_majority(nodes, membership.voters) and is_majority(nodes, membership.outgoing)


@settings(deadline=None, max_examples=60)
@given(MEMBERSHIPS, st.dictionaries(NODES, st.integers(0, 9)))
def test_agreed_is_the_largest_value_a_quorum_has_reached(membership: Membership, values: dict[NodeId, int]) -> None:
    reached = [
        v for v in range(10) if are_quorum({n for n in range(1, 8) if values.get(NodeId(n), 0) >= v}, membership)
    ]
    assert agreed(membership, lambda node: values.get(node, 0)) == max(reached)


@settings(deadline=None, max_examples=60)
@given(MEMBERSHIPS, st.dictionaries(NODES, st.booleans()))
def test_an_election_is_won_by_a_quorum_and_lost_when_none_can_come(
    membership: Membership, votes: dict[NodeId, bool]
) -> None:
    granted = {node for node, vote in votes.items() if vote}
    not_refused = {NodeId(node) for node in range(1, 8)} - {node for node, vote in votes.items() if not vote}
    expected = (
        Tally.WON
        if are_quorum(granted, membership)
        else Tally.PENDING
        if are_quorum(not_refused, membership)
        else Tally.LOST
    )
    assert tally(membership, votes) is expected


@settings(deadline=None, max_examples=60)
@given(SETS, SETS)
def test_quorums_of_a_joint_membership_meet_those_of_both_sides(
    old: tuple[NodeId, ...], new: tuple[NodeId, ...]
) -> None:
    joint = Membership(new, old)
    assert do_quorums_meet(Membership(old), joint)
    assert do_quorums_meet(joint, joint.left())


def test_two_memberships_of_different_voters_need_a_joint_one_between() -> None:
    assert not do_quorums_meet(
        Membership((NodeId(1), NodeId(2), NodeId(3))), Membership((NodeId(3), NodeId(4), NodeId(5)))
    )


# --- the log --------------------------------------------------------------------------------------------------------------------------

STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("append"), st.integers(0, 2), st.integers(1, 4)),
        st.tuples(st.just("member"), st.integers(0, 2), st.integers(1, 5)),
        st.tuples(st.just("truncate"), st.integers(1, 3), st.just(0)),
        st.tuples(st.just("persist"), st.integers(0, 1), st.just(0)),
        st.tuples(st.just("apply"), st.integers(1, 4), st.just(0)),
        st.tuples(st.just("compact"), st.integers(1, 4), st.just(0)),
    ),
    max_size=30,
)


class LogModel:
    """A list, and the list on disk."""

    def __init__(self) -> None:
        self.log = Log(Position(0, 0), Membership((NodeId(1),)), [])
        self.entries: list[LogEntry] = []
        self.disk: list[LogEntry] = []
        self.applied = self.floor = 0
        self.writing: list[LogEntry] | None = None

    @property
    def last_term(self) -> int:
        return self.entries[-1].term if self.entries else 0

    def append(self, rise: int, count: int) -> None:
        term, first = max(1, self.last_term + rise), len(self.entries) + 1
        new = [LogEntry(term, first + at, EntryType.NORMAL, first + at, 10) for at in range(count)]
        self.entries.extend(new)
        self.log.append(new)

    def member(self, rise: int, node: int) -> None:
        entry = LogEntry(
            max(1, self.last_term + rise), len(self.entries) + 1, EntryType.MEMBERSHIP, Membership((NodeId(node),)), 9
        )
        self.entries.append(entry)
        self.log.append([entry])

    def truncate(self, count: int, _: int) -> None:
        first = max(self.applied + 1, len(self.entries) - count + 1)
        if first <= len(self.entries):
            del self.entries[first - 1 :]
            self.log.truncate(first)

    def persist(self, is_done: int, _: int) -> None:
        if self.writing is None and self.log.is_dirty:
            truncate_from, new = self.log.hand_over()
            cut = truncate_from if truncate_from is not None else new[0].index
            assert cut <= len(self.disk) + 1
            self.writing = [*self.disk[: cut - 1], *new]
        if is_done and self.writing is not None:
            self.disk, self.writing = self.writing, None
            self.log.persist_done()

    def apply(self, count: int, _: int) -> None:
        self.applied = min(self.applied + count, self.log.persisted)
        self.log.trim(40, applied=self.applied)

    def compact(self, count: int, _: int) -> None:
        self.floor = min(self.floor + count, self.applied)
        self.log.compact(self.floor)

    def check(self) -> None:
        log, entries = self.log, self.entries
        assert log.last == (entries[-1].index if entries else 0, self.last_term)
        for index in range(self.floor + 1, len(entries) + 1):
            assert log.term(index) == entries[index - 1].term
        assert log.term(self.floor) is not None
        assert self.floor == 0 or log.term(self.floor - 1) is None
        assert log.term(len(entries) + 1) is None
        assert log.between(self.applied + 1, len(entries)) == entries[self.applied :]
        assert log.window_bytes == log.size_between(log.first_in_window, log.last_index)
        memberships = [entry.data for entry in entries if entry.type is EntryType.MEMBERSHIP]
        assert log.membership == (memberships[-1] if memberships else Membership((NodeId(1),)))
        # what is said to be durable is
        assert self.disk[: log.persisted] == entries[: log.persisted]
        for term in range(self.last_term + 2):
            for at_most in range(self.floor + 1, len(entries) + 1):
                with_it = [e.index for e in entries[self.floor : at_most] if e.term == term]
                if with_it:
                    assert log.last_of_term(term, at_most=at_most) == with_it[-1]
                    assert log.first_of_run(with_it[-1]) == with_it[0] or log.first_of_run(with_it[-1]) == self.floor


@given(STEPS)
@settings(deadline=None, max_examples=60)
def test_the_log_is_a_list(steps: list[tuple[str, int, int]]) -> None:
    model = LogModel()
    for name, first, second in steps:
        getattr(model, name)(first, second)
        model.check()


# --- hints ----------------------------------------------------------------------------------------------------------------------------


def a_core(node: int, terms: list[int], term: int) -> Raft:
    return Raft(
        NodeId(node),
        Settings(),
        random=Random(node),
        hard_state=HardState(term, NodeId(0)),
        base=Position(0, 0),
        membership_at_base=Membership((NodeId(1), NodeId(2))),
        entries=[LogEntry(t, index, EntryType.NORMAL, t, 1) for index, t in enumerate(terms, 1)],
        applied=0,
        now_ns=0,
        restarted=False,
    )


def answers(raft: Raft) -> list[Any]:
    """Run its disk until it has nothing to do; what it said."""
    said: list[Any] = []
    while ready := raft.ready():
        said.extend(ready.messages)
        if ready.persist:
            raft.persisted(ready.number)
    check_core(raft)
    return said


RUNS = st.lists(st.integers(1, 4), max_size=5)


@given(RUNS, RUNS, RUNS, st.sampled_from(["none", "leader", "follower"]), st.integers(1, 4))
@settings(deadline=None, max_examples=60)
def test_a_refusal_never_skips_a_match_and_there_is_at_most_one_a_term(
    common: list[int], leaders: list[int], followers: list[int], goes_on: str, more: int
) -> None:
    prefix = [term for term, count in enumerate(common, 1) for _ in range(count)]
    low = len(common) + 1
    leader_only = [low + 2 * at for at, count in enumerate(leaders) for _ in range(count)]
    follower_only = [low + 2 * at + 1 for at, count in enumerate(followers) for _ in range(count)]
    if prefix and goes_on == "leader":
        leader_only = [prefix[-1]] * more + leader_only
    if prefix and goes_on == "follower":
        follower_only = [prefix[-1]] * more + follower_only
    term = 100
    leader = a_core(1, prefix + leader_only, term)
    follower = a_core(2, prefix + follower_only, term)
    leader.become_candidate(pre=False)
    leader.become_leader()
    refusals = 0
    sent = answers(leader)
    while True:
        append = next(message for message in sent if isinstance(message, Append))
        assert append.previous.index >= len(prefix), "asked below what is known to be the same in both"
        follower.step(append, 0)
        answer = next(message for message in answers(follower) if isinstance(message, AppendAnswer))
        leader.step(answer, 0)
        if answer.accepted:
            break
        refusals += 1
        sent = answers(leader)
    assert refusals <= len(set(follower_only)) + 1
    assert [entry.term for entry in follower.log.between(1, follower.log.last_index)][
        : len(prefix + leader_only)
    ] == prefix + leader_only


# --- messages of every shape ----------------------------------------------------------------------------------------------------------

NUMBERS = st.one_of(st.integers(0, 4), st.sampled_from([-1, 2**62, 2**62 + 1, 2**63 - 1, 2**63, 2**70]))
ODD = st.one_of(NUMBERS, st.none(), st.booleans(), st.text(max_size=2), st.floats(allow_nan=True))
POSITIONS = st.one_of(st.builds(Position, NUMBERS, NUMBERS), st.builds(Position, ODD, ODD), ODD)
ODD_MEMBERSHIPS = st.one_of(
    st.builds(
        Membership, st.lists(st.integers(0, 4)).map(tuple), st.lists(NUMBERS).map(tuple), st.lists(ODD).map(tuple)
    ),
    ODD,
)
ENTRIES = st.lists(
    st.one_of(
        st.builds(LogEntry, NUMBERS, NUMBERS, st.sampled_from(EntryType), st.one_of(ODD_MEMBERSHIPS, ODD), NUMBERS),
        st.builds(LogEntry, ODD, ODD, ODD, ODD, ODD),
        ODD,
    ),
    max_size=3,
).map(tuple)
SENDERS = st.one_of(st.integers(1, 4), ODD)


def messages_of(kind: Any) -> st.SearchStrategy[Any]:
    by_type = {"Position": POSITIONS, "bool": st.one_of(st.booleans(), ODD), "Membership": ODD_MEMBERSHIPS, "int": ODD}
    fields = [by_type.get(name, ENTRIES) for name in list(kind.__annotations__.values())[3:]]
    return st.builds(kind, SENDERS, st.one_of(st.just(1), ODD), st.one_of(st.integers(1, 4), ODD), *fields)


KINDS = [
    getattr(vocabulary, name.strip())
    for name in str(vocabulary.Message).replace("monofs.journal.raft.messages.", "").split("|")
]


@given(
    st.lists(st.one_of(*map(messages_of, KINDS), ODD), max_size=8), st.sampled_from(["follower", "leader", "candidate"])
)
@settings(deadline=None, max_examples=100, suppress_health_check=[HealthCheck.too_slow])
def test_no_message_brings_a_core_down(messages: list[Any], role: str) -> None:
    raft = a_core(1, [1, 1, 2], 2)
    if role != "follower":
        raft.become_candidate(pre=False)
    if role == "leader":
        raft.become_leader()
    for message in messages:
        raft.step(message, 0)
        check_core(raft)
        answers(raft)
    assert raft.role in Role
