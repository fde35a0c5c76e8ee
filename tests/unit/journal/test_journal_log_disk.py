"""The threads of a replicated log: answers in order, on the thread that asked; room, failure and stopping."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from journal_files import SEGMENT, segment_files
from log_model import NOWHERE, START, normal
from power_files import PowerFiles
from test_journal_log import BODY
from test_journal_segments import largest_file

from monofs.config.schema import JournalConfig
from monofs.journal.log_disk import LogDisk
from monofs.journal.log_files import Opened
from monofs.journal.raft.messages import HardState, NodeId, Persist, Position
from monofs.model.errors import DiskFull, HomeInUse, JournalFailed
from monofs.testing.journal import Turns


class World:
    """A disk with its turns; ``answers`` in the order in which they came."""

    def __init__(self, directory: str, **more: Any) -> None:
        self.turns, self.answers, self.failures = Turns(), [], []  # type: ignore[var-annotated]
        config = JournalConfig(segment_bytes=SEGMENT, **{k: more.pop(k) for k in ("retain_bytes",) if k in more})
        self.disk = LogDisk(directory, config, call_soon=self.turns.call_soon, on_failure=self.failures.append, **more)
        self.threads: set[int] = set()

    def open(self, applied: Position = NOWHERE) -> Opened:
        return self.disk.open(applied, START, may_discard=False)

    def answer(self, value: Any) -> None:
        self.threads.add(threading.get_ident())
        self.answers.append(value)

    def persist(self, *args: Any) -> Any:
        return self.ask(lambda done: self.disk.persist(Persist(*args), done))

    def ask(self, call: Callable[[Callable[[Any], None]], None]) -> Any:
        count = len(self.answers)
        call(self.answer)
        assert len(self.answers) == count, "never from inside the call"
        self.turns.run(lambda: len(self.answers) > count)
        return self.answers[-1]


Open = Callable[..., World]


@pytest.fixture
def world(tmp_path: Path) -> Iterator[Open]:
    worlds: list[World] = []

    def start(**more: Any) -> World:
        worlds.append(World(f"{tmp_path}/j", **more))
        return worlds[-1]

    yield start
    for made in worlds:
        made.disk.close()


def test_what_was_persisted_is_read_now_and_after_a_restart(world: Open) -> None:
    w = world()
    w.open()
    entries = [normal(n, 1, BODY) for n in range(1, 10)]
    assert w.persist(HardState(1, NodeId(2)), None, entries) is None
    assert w.ask(lambda done: w.disk.read(4, 25_000, done)) == entries[3:5]
    assert w.ask(lambda done: w.disk.read(10, 1, done)) is None
    assert w.threads == {threading.get_ident()}
    status = w.disk.status()
    assert (status["first_index"], status["last_index"], status["segments"]) == (
        1,
        9,
        len(segment_files(w.disk._log.directory)),
    )
    w.disk.close()
    opened = world().open(Position(5, 1))
    assert opened == Opened(HardState(1, NodeId(2)), Position(5, 1), START, entries[5:], (Position(1, 1),))


def test_answers_come_in_the_order_of_the_batches(world: Open) -> None:
    w = world()
    w.open()
    for n in range(1, 200):
        w.disk.persist(Persist(None, None, [normal(n, 1)]), lambda error, n=n: w.answer((n, error)))
    w.turns.run(lambda: len(w.answers) == 199)
    assert w.answers == [(n, None) for n in range(1, 200)]


def test_what_is_queued_is_written_before_the_end(world: Open) -> None:
    w = world()
    w.open()
    for n in range(1, 50):
        w.disk.persist(Persist(None, None, [normal(n, 1)]), w.answer)
    w.disk.close()
    w.turns.run_waiting()
    assert w.answers == [None] * 49
    assert len(world().open().entries) == 49


def test_the_next_segment_is_filled_and_released_ones_are_reused(world: Open) -> None:
    w = world(retain_bytes=8 * SEGMENT)
    w.open()
    for n in range(1, 31):
        w.persist(None, None, [normal(n, 1, BODY)])
    assert w.disk.is_over_bound
    w.disk.release(30)
    w.persist(None, None, [normal(31, 1)])
    assert not w.disk.is_over_bound
    assert w.disk.status()["first_index"] > 1
    assert w.ask(lambda done: w.disk.read(1, 1, done)) is None


def test_a_reset_begins_anew(world: Open) -> None:
    w = world()
    w.open()
    w.persist(HardState(4, NodeId(1)), None, [normal(n, 1, BODY) for n in range(1, 9)])
    assert w.ask(lambda done: w.disk.reset(Position(30, 3), START, done)) is None
    assert w.persist(None, None, [normal(31, 4)]) is None
    assert w.ask(lambda done: w.disk.read(31, 1, done)) == [normal(31, 4)]
    w.disk.close()
    assert world().open(Position(30, 3)).entries == [normal(31, 4)]


def test_no_room_is_told_and_the_same_batch_may_be_given_again(world: Open) -> None:
    w = world()
    w.open()
    w.persist(None, None, [normal(1, 1)])
    large = (HardState(2, NodeId(1)), None, [normal(n, 2, BODY) for n in range(2, 9)])
    with largest_file(SEGMENT // 2):
        assert isinstance(w.persist(*large), DiskFull)
        assert isinstance(w.persist(*large), DiskFull)
    assert w.persist(*large) is None
    assert w.failures == []
    w.disk.close()
    assert len(world().open().entries) == 8


def test_a_failure_is_told_to_whoever_waits_and_nothing_is_written_again(world: Open) -> None:
    files = PowerFiles()
    w = world(files=files)
    w.open()
    w.persist(None, None, [normal(1, 1)])
    files.fail_at = 1  # the sync
    assert isinstance(w.persist(None, None, [normal(2, 1)]), JournalFailed)
    changes = files.changes
    assert isinstance(w.persist(None, None, [normal(2, 1)]), JournalFailed)
    assert isinstance(w.ask(lambda done: w.disk.reset(Position(9, 1), START, done)), JournalFailed)
    w.disk.release(1)
    w.disk.close()
    w.turns.run_waiting()
    assert (files.changes, w.failures) == (changes, [])


def test_a_failure_while_nobody_waits_is_told_once(world: Open) -> None:
    files = PowerFiles()
    w = world(files=files)
    w.open()
    for n in range(1, 9):
        w.persist(None, None, [normal(n, 1, BODY)])
    files.fail_at = 0
    w.disk.release(8)
    w.disk.release(8)
    w.turns.run(lambda: bool(w.failures))
    w.disk.close()
    w.turns.run_waiting()
    assert [type(failure) for failure in w.failures] == [JournalFailed]


def test_a_log_is_one_process(world: Open) -> None:
    world().open()
    with pytest.raises(HomeInUse):
        world().open()
