"""The driver of one member over a real log: every proposal is answered once, also those that were not taken."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import pytest

from monofs.config.schema import JournalConfig
from monofs.journal.driver import Driver
from monofs.journal.face import Entry, Role
from monofs.journal.log_files import LogFiles
from monofs.journal.raft.core import Raft
from monofs.journal.raft.messages import (
    InstallSnapshot,
    LogEntry,
    Membership,
    Message,
    NodeId,
    Persist,
    Position,
    Refused,
    Settings,
    SnapshotWanted,
)
from monofs.model.errors import DiskFull, JournalFailed, MonofsError, NotLeader, OutcomeUnknown, Overloaded
from monofs.model.ids import JournalIndex, Term
from monofs.testing.journal import ListMachine

ME = NodeId(7)


class Machine(ListMachine):
    crc = 0
    held_back = False
    applied_term = 0

    def take_membership(self, index: JournalIndex, term: Term, membership: bytes) -> None:
        """Nothing is kept."""


class World:
    """One voter, its log in a directory, and turns taken by hand. Implements ``driver.Disk`` and ``driver.Outside``."""

    def __init__(self, directory: Path, *, queue_max_bytes: int = 1 << 20, voters: tuple[NodeId, ...] = (ME,)) -> None:
        self.is_over_bound = False
        self.error: BaseException | None = None
        self.roles: list[Role] = []
        self.failures: list[BaseException] = []
        self._later: list[Callable[[], None]] = []
        self.files = LogFiles(str(directory), JournalConfig(segment_bytes=1 << 20))
        opened = self.files.open(Position(0, 0), Membership(voters), may_discard=False)
        core = Raft(
            ME, Settings(), random=Random(1), hard_state=opened.hard_state, base=opened.base,
            membership_at_base=opened.membership, entries=opened.entries, applied=0, now_ns=0, restarted=False,
            older=opened.older,
        )  # fmt: skip
        self.machine = Machine()
        self.driver = Driver(core, self, self.machine, self, queue_max_bytes=queue_max_bytes)
        self._now_ns = 0

    def pass_time(self, ticks: int = 40) -> None:
        for _ in range(ticks):
            self._now_ns += 50_000_000
            self.driver.tick(self._now_ns)
            self.turn()

    def turn(self) -> None:
        while self._later:
            later, self._later = self._later, []
            for each in later:
                each()
            self.driver.run()

    def propose(self, body: bytes = b"x") -> list[Any]:
        answers: list[Any] = []
        self.driver.propose(Entry(1, 1, body), answers.append, len(body))
        assert not answers, "never inside the call that asks"
        return answers

    # ---- driver.Disk

    def persist(self, batch: Persist, done: Callable[[BaseException | None], None]) -> None:
        if self.error is None:
            self.files.persist(batch)
        self._later.append(partial(done, self.error))

    def read(self, first_index: int, max_bytes: int, done: Callable[[list[LogEntry] | None], None]) -> None:
        self._later.append(lambda: done(self.files.read(first_index, max_bytes)))

    # ---- driver.Outside

    def send(self, messages: list[Message]) -> None: ...
    def send_snapshot(self, wanted: SnapshotWanted) -> None: ...
    def install(self, snapshot: InstallSnapshot) -> None: ...

    def become(self, role: Role, term: Term) -> None:
        self.roles.append(role)

    def run_soon(self) -> None:
        self._later.append(lambda: None)

    def refusal(self, refused: Refused) -> MonofsError:
        return NotLeader(refused.reason, leader=None)

    def fail(self, failure: BaseException) -> None:
        self.failures.append(failure)


@pytest.fixture
def world(tmp_path: Path) -> World:
    world = World(tmp_path / "journal")
    world.pass_time()
    return world


def test_a_sole_voter_leads_once_its_first_entry_is_applied_and_answers_what_it_applied(world: World) -> None:
    assert world.roles[-1] is Role.LEADER
    answers = [world.propose(b"%d" % n) for n in range(5)]
    world.turn()
    assert all(len(each) == 1 and not isinstance(each[0], MonofsError) for each in answers)
    assert [entry.body for _, _, entry in world.machine.applied] == [b"%d" % n for n in range(5)]
    assert world.driver.queued_bytes == 0


def test_who_does_not_lead_says_so(tmp_path: Path) -> None:
    world = World(tmp_path / "journal", voters=(ME, NodeId(8), NodeId(9)))
    world.pass_time()
    answers = world.propose()
    world.turn()
    assert [type(each) for each in answers] == [NotLeader]


def test_over_the_bounds_of_queue_and_log_every_caller_is_told(tmp_path: Path) -> None:
    world = World(tmp_path / "journal", queue_max_bytes=100)
    world.pass_time()
    taken, refused = world.propose(bytes(90)), world.propose(bytes(20))
    world.turn()
    assert [type(each) for each in refused] == [Overloaded]
    assert taken
    assert not isinstance(taken[0], MonofsError)
    world.is_over_bound = True
    held = world.propose()
    world.turn()
    assert [type(each) for each in held] == [Overloaded]
    world.is_over_bound = False
    again = world.propose()
    world.turn()
    assert not isinstance(again[0], MonofsError)


def test_a_disk_that_fails_ends_the_member_and_leaves_no_caller_waiting(world: World) -> None:
    world.error = DiskFull("no room")
    waiting, queued = world.propose(), []
    world.driver.run()
    world.driver.propose(Entry(1, 1, b"y"), queued.append, 1)
    reads: list[MonofsError | None] = []
    world.driver.read_barrier(reads.append, 10**12)
    world.turn()
    assert [type(each) for each in waiting] == [OutcomeUnknown]
    assert [type(each) for each in queued] == [JournalFailed]
    assert [type(each) for each in reads] == [JournalFailed]
    assert (world.roles[-1], len(world.failures)) == (Role.FOLLOWER, 1)
    after = world.propose()
    world.turn()
    assert [type(each) for each in after] == [JournalFailed]


def test_a_state_that_is_not_the_leaders_ends_the_member(world: World) -> None:
    world.driver.digests[10_000] = 5
    world.driver.compare(10_000, 5)
    world.driver.compare(20_000, 6)
    assert not world.failures
    world.driver.compare(10_000, 6)
    assert "differs from the leader" in str(world.failures[0])
