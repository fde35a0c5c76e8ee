"""The single voter: order, group commit, bounds, roles, replay, and what failures mean."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from journal_files import SEGMENT, append, open_segments, peek, poke, segment_files

from monofs.config.schema import JournalConfig
from monofs.journal.face import ENTRY_MAX_BYTES, Consistency, Entry, Role
from monofs.journal.frames import BLOCK_BYTES
from monofs.journal.recovery import Log
from monofs.journal.single import SingleVoter
from monofs.journal.writer import BATCH_ENTRIES, Writer
from monofs.model.errors import (
    AlreadyExists,
    ConfigError,
    EntryTooLarge,
    HomeInUse,
    Internal,
    InvariantBroken,
    JournalCorrupt,
    JournalFailed,
    NotReady,
    OutcomeUnknown,
    Overloaded,
    UnknownEntry,
)
from monofs.testing.journal import ListMachine, Turns

SMALL = JournalConfig(segment_bytes=SEGMENT)


class World:
    """A voter with its machine and turns; ``results`` collects answers in the order they came."""

    def __init__(self, directory: str, config: JournalConfig = SMALL, *, applied: int = 0, **more: Any) -> None:
        self.turns, self.machine = Turns(), ListMachine(applied)
        self.failures: list[BaseException] = []
        self.results: list[Any] = []
        self.roles: list[tuple[Role, int]] = []
        self.voter = SingleVoter(
            directory, self.machine, config, call_soon=self.turns.call_soon, on_failure=self.failures.append, **more
        )
        self.voter.on_role(lambda role, term: self.roles.append((role, term)))

    def propose(self, body: bytes = b"x", *, kind: int = 1) -> None:
        self.voter.propose(Entry(kind, 1, body), self.results.append)

    def settle(self, count: int) -> list[Any]:
        self.turns.run(lambda: len(self.results) >= count)
        return self.results


Open = Callable[..., World]


@pytest.fixture
def world(tmp_path: Path) -> Iterator[Open]:
    """Start a voter in ``tmp_path/j``; all are stopped at the end."""
    worlds: list[World] = []

    def start(config: JournalConfig = SMALL, **more: Any) -> World:
        for old in worlds:
            old.voter.stop()
        made = World(f"{tmp_path}/j", config, **more)
        made.voter.start()
        worlds.append(made)
        return made

    yield start
    for made in worlds:
        made.voter.stop()


def test_results_come_in_order_and_after_application(world: Open) -> None:
    w = world()
    for n in range(500):
        w.propose(b"%d" % n)
    assert w.results == [], "never from inside the call"
    assert w.settle(500) == list(range(1, 501))
    assert [entry.body for _, _, entry in w.machine.applied] == [b"%d" % n for n in range(500)]
    assert {term for _, term, _ in w.machine.applied} == {1}


def test_a_refusal_by_the_machine_is_a_result(world: Open) -> None:
    w = world()
    w.propose(kind=ListMachine.REFUSED)
    assert isinstance(w.settle(1)[0], AlreadyExists)
    assert w.failures == []


def test_a_callback_may_propose(world: Open) -> None:
    w = world()
    w.voter.propose(Entry(1, 1, b"first"), lambda _: w.propose(b"second"))
    assert w.settle(1) == [2]


def test_a_callback_that_raises_keeps_no_answer_from_others(world: Open) -> None:
    w = world()

    def broken(_: Any) -> None:
        raise ValueError("bug of a caller")

    w.voter.propose(Entry(1, 1, b""), broken)
    w.propose()
    assert w.settle(1) == [2]
    assert w.failures == []


def test_a_broken_invariant_in_a_callback_stops_the_node(world: Open) -> None:
    w = world()

    def broken(_: Any) -> None:
        raise InvariantBroken("as a test wants")

    w.voter.propose(Entry(1, 1, b""), broken)
    w.turns.run(lambda: bool(w.failures))
    assert isinstance(w.failures[0], InvariantBroken)


def test_what_was_queued_during_a_sync_is_one_frame(tmp_path: Path) -> None:
    segments, _ = open_segments(f"{tmp_path}/j", segment_bytes=1 << 20)
    turns = Turns()
    writer = Writer(segments, batch_bytes=1 << 19, hand_back=lambda: turns.call_soon(lambda: None))
    for n in range(100):
        writer.add((Entry(1, 1, b"%d" % n), lambda _: None))
    writer.start()
    writer.stop()
    segments.close()
    assert [len(batch.proposals) for batch in writer.completed] == [100]
    assert len(list(Log(f"{tmp_path}/j").entries(0))) == 100


def test_a_frame_is_bounded_in_bytes_and_entries(tmp_path: Path) -> None:
    segments, _ = open_segments(f"{tmp_path}/j", segment_bytes=1 << 20)
    writer = Writer(segments, batch_bytes=10_000, hand_back=lambda: None)
    sizes = [3000] * 7 + [50_000] + [0] * (BATCH_ENTRIES + 5)
    for size in sizes:
        writer.add((Entry(1, 1, bytes(size)), lambda _: None))
    writer.start()
    writer.stop()
    segments.close()
    batches = [[len(entry.body) for entry, _ in batch.proposals] for batch in writer.completed]
    assert [size for batch in batches for size in batch] == sizes
    assert batches[:4] == [[3000] * 3, [3000] * 3, [3000], [50_000]]
    assert max(map(len, batches)) <= BATCH_ENTRIES
    assert all(len(batch) == 1 or sum(batch) + 25 * len(batch) <= 10_000 for batch in batches)


def test_a_restart_replays_everything_and_raises_the_term(world: Open) -> None:
    w = world()
    for n in range(300):
        w.propose(b"%d" % n * 300)
    w.settle(300)
    again = world()
    assert [(i, e) for i, _, e in again.machine.applied] == [(i, e) for i, _, e in w.machine.applied]
    assert again.roles == [(Role.LEADER, 2)]
    again.propose()
    assert again.settle(1) == [301]
    assert again.machine.applied[-1][1] == 2
    assert world(applied=300).machine.applied == [(301, 2, Entry(1, 1, b"x"))]


def test_roles_are_told_once_each_and_at_once_to_late_listeners(world: Open) -> None:
    w = world()
    late: list[tuple[Role, int]] = []
    w.voter.on_role(lambda role, term: late.append((role, term)))
    w.voter.stop()
    w.voter.stop()
    assert w.roles == late == [(Role.LEADER, 1), (Role.FOLLOWER, 1)]


def test_stop_writes_applies_and_answers_what_is_queued(world: Open) -> None:
    w = world()
    for n in range(2000):
        w.propose(b"%d" % n)
    w.voter.stop()
    assert w.results == list(range(1, 2001))
    assert len(world().machine.applied) == 2000


def test_before_start_and_after_stop_proposals_and_fresh_reads_are_refused(tmp_path: Path) -> None:
    w = World(f"{tmp_path}/j")
    w.propose()
    w.voter.read_barrier(Consistency.LINEARIZABLE, w.results.append)
    w.settle(2)
    w.voter.start()
    w.voter.read_barrier(Consistency.LINEARIZABLE, w.results.append)
    w.voter.stop()
    w.propose()
    w.voter.read_barrier(Consistency.STALE, w.results.append)
    w.settle(5)
    assert [type(result) for result in w.results] == [NotReady, NotReady, type(None), type(None), NotReady]


def test_an_answered_change_is_visible_to_a_read_at_once(world: Open) -> None:
    w = world()
    seen: list[tuple[Any, int]] = []
    w.voter.propose(
        Entry(1, 1, b""),
        lambda _: w.voter.read_barrier(
            Consistency.LINEARIZABLE, lambda error: seen.append((error, w.machine.applied_index))
        ),
    )
    w.turns.run(lambda: bool(seen))
    assert seen == [(None, 1)]


def test_an_entry_too_large_for_a_segment_or_the_face_is_refused(world: Open) -> None:
    w = world()
    w.propose(bytes(SEGMENT))
    assert isinstance(w.settle(1)[0], EntryTooLarge)
    w = world(JournalConfig())
    w.propose(bytes(ENTRY_MAX_BYTES + 1))
    w.propose(bytes(ENTRY_MAX_BYTES))
    w.settle(2)
    assert [type(result) for result in w.results] == [EntryTooLarge, int]
    assert world(JournalConfig()).machine.applied[0][2].body == bytes(ENTRY_MAX_BYTES)


def test_more_than_queue_bytes_waiting_is_overloaded_until_they_are_written(world: Open) -> None:
    w = world(JournalConfig(segment_bytes=SEGMENT, queue_bytes=2000))
    for _ in range(3):
        w.propose(bytes(900))
    assert [type(result) for result in w.settle(3)].count(Overloaded) == 1
    w.propose(bytes(5000))
    assert w.settle(4)[3] == 3, "one proposal alone is never too much"
    assert w.voter.status()["queue_bytes"] == 0


def test_segments_that_wait_for_release_are_bounded(world: Open) -> None:
    w = world(JournalConfig(segment_bytes=SEGMENT, retain_bytes=4 * SEGMENT))
    for n in range(10):
        w.propose(bytes(40_000))
        w.settle(n + 1)
    refused = [result for result in w.results if not isinstance(result, int)]
    assert refused
    assert all(isinstance(result, Overloaded) and "lags" in str(result) for result in refused)
    w.voter.release(w.machine.applied_index)
    while not isinstance(w.results[-1], int):  # the journal thread gives them free in its own time
        w.propose(b"now there is room")
        w.settle(len(w.results) + 1)
    w.voter.stop()
    again = world(JournalConfig(segment_bytes=SEGMENT, retain_bytes=4 * SEGMENT), applied=w.machine.applied_index)
    again.propose(bytes(40_000))
    assert again.settle(1) == [w.machine.applied_index + 1]


def test_release_keeps_the_disk_bounded(world: Open, tmp_path: Path) -> None:
    w = world()
    for n in range(60):
        w.propose(bytes(30_000))
        w.settle(n + 1)
        w.voter.release(w.machine.applied_index)
    w.voter.stop()
    assert len(segment_files(f"{tmp_path}/j")) <= 5
    with pytest.raises(JournalCorrupt, match="entries 1 to"):
        world()
    assert world(applied=60).machine.applied_index == 60


def test_a_machine_ahead_of_the_log_discards_it(world: Open) -> None:
    w = world()
    w.propose(b"old")
    w.settle(1)
    again = world(applied=10)
    assert again.machine.applied == []
    assert again.voter.status()["first_index"] == 11
    again.propose(b"new")
    assert again.settle(1) == [11]
    assert again.machine.applied[0][1] == 2, "the term survives the log"
    assert [index for index, _, _ in world(applied=10).machine.applied] == [11]


def test_an_entry_that_raises_stops_the_node_and_skipping_it_is_the_remedy(world: Open) -> None:
    w = world()
    w.propose(b"good")
    w.settle(1)
    w.propose(b"bad", kind=ListMachine.RAISES)
    w.propose(b"behind it")
    w.turns.run(lambda: bool(w.failures))
    assert isinstance(w.failures[0], Internal)
    assert "entry 2" in str(w.failures[0])
    assert "--skip-entry 2" in str(w.failures[0])
    w.propose(b"after the failure")
    w.settle(4)
    w.voter.stop()
    assert {type(result) for result in w.results[1:]} <= {OutcomeUnknown, JournalFailed}
    assert w.roles == [(Role.LEADER, 1), (Role.FOLLOWER, 1)]
    assert len(w.failures) == 1
    with pytest.raises(Internal, match=r"entry 2.*--skip-entry 2"):
        world()
    again = world(skip=frozenset([2]))
    assert again.machine.applied[0][2].body == b"good"
    assert [index for index, _, _ in again.machine.applied] in ([1], [1, 3])
    again.propose(b"later")
    assert again.settle(1) == [again.machine.applied_index]


def test_skip_never_touches_a_new_entry(world: Open) -> None:
    w = world(skip=frozenset([1]))
    w.propose(b"kept")
    w.settle(1)
    assert [entry.body for _, _, entry in w.machine.applied] == [b"kept"]


def test_an_unknown_entry_keeps_its_class_and_names_its_index(tmp_path: Path) -> None:
    class Older(ListMachine):
        def apply(self, index: Any, term: Any, entry: Entry) -> Any:
            raise UnknownEntry(f"kind {entry.kind} is unknown")

    segments, _ = open_segments(f"{tmp_path}/j")
    append(segments, [b"from a newer release"])
    segments.close()
    voter = SingleVoter(f"{tmp_path}/j", Older(), SMALL, call_soon=Turns().call_soon, on_failure=lambda _: None)
    with pytest.raises(UnknownEntry, match="entry 1 of the journal: kind 1 is unknown"):
        voter.start()


def test_corruption_is_refused_before_anything_is_written(world: Open, tmp_path: Path) -> None:
    w = world()
    for n in range(3):
        w.propose(b"%d" % n)
        w.settle(n + 1)
    w.voter.stop()
    (path,) = segment_files(f"{tmp_path}/j")
    poke(path, 3 * BLOCK_BYTES + 50, b"!")
    before = peek(path)
    with pytest.raises(JournalCorrupt):
        world()
    assert peek(path) == before


def test_one_directory_has_one_voter(world: Open, tmp_path: Path) -> None:
    world()
    with pytest.raises(HomeInUse):
        World(f"{tmp_path}/j").voter.start()


def test_segments_too_small_are_a_config_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"journal\.segment_bytes"):
        World(f"{tmp_path}/j", JournalConfig(segment_bytes=1000))


def test_a_directory_that_cannot_be_made_is_a_clear_failure(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(JournalFailed, match="cannot be used"):
        World(f"{tmp_path}/file/j").voter.start()


def test_an_entry_that_cannot_be_encoded_stops_the_node_and_every_caller_hears_of_it(world: Open) -> None:
    w = world()
    w.propose(kind=1 << 16)
    w.propose()
    assert {type(result) for result in w.settle(2)} <= {OutcomeUnknown, JournalFailed}
    assert len(w.failures) == 1


def test_status_tells_indexes_and_sizes(world: Open) -> None:
    w = world()
    for n in range(5):
        w.propose(bytes(30_000))
        w.settle(n + 1)
    status = w.voter.status()
    assert {key: status[key] for key in ("role", "term", "first_index", "last_index", "applied_index")} == {
        "role": "leader", "term": 1, "first_index": 1, "last_index": 5, "applied_index": 5,
    }  # fmt: skip
    assert status["bytes"] == status["segments"] * SEGMENT
    assert status["queue_entries"] == status["queue_bytes"] == 0
    assert 0 < status["fsync_p50_s"] <= status["fsync_p99_s"]


# ---- a disk that fails, made so by the kernel ---------------------------------------------------------------------------

FAILING = """
import errno, json, os, sys
from monofs.config.schema import JournalConfig
from monofs.journal.face import Entry
from monofs.journal.single import SingleVoter
from monofs.testing.journal import ListMachine, Turns
from monofs.testing.syscalls import fail_syscall
directory, call, error, proposals, size = sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4]), int(sys.argv[5])
turns, machine, failures, results = Turns(), ListMachine(), [], []
voter = SingleVoter(directory, machine, JournalConfig(segment_bytes=65536), call_soon=turns.call_soon, on_failure=failures.append)
voter.start()
voter.propose(Entry(1, 1, b"before"), results.append)
turns.run(lambda: len(results) == 1)
fail_syscall(call, getattr(errno, error))
files = {name: os.stat(os.path.join(directory, name)).st_mtime_ns for name in os.listdir(directory)}
for _ in range(proposals):
    voter.propose(Entry(1, 1, bytes(size)), results.append)
turns.run(lambda: len(results) == 1 + proposals)
voter.propose(Entry(1, 1, b"after"), results.append)
turns.run(lambda: len(results) == 2 + proposals)
voter.stop()
print(json.dumps({"results": [type(r).__name__ for r in results], "failures": [str(f) for f in failures],
                  "applied": len(machine.applied)}))
"""


def run_failing(directory: Path, call: str, error: str, proposals: int, size: int) -> dict[str, Any]:
    command = [sys.executable, "-c", FAILING, str(directory), call, error, str(proposals), str(size)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    shown: dict[str, Any] = json.loads(done.stdout)
    return shown


@pytest.mark.parametrize("call", ["fdatasync", "pwrite64"])
def test_a_failed_write_or_sync_stops_the_node_and_nothing_is_acknowledged(tmp_path: Path, call: str) -> None:
    shown = run_failing(tmp_path / "j", call, "EIO", 2000, 10)
    assert shown["results"][0] == "int"
    assert set(shown["results"][1:]) <= {"OutcomeUnknown", "JournalFailed"}
    assert shown["results"][1] == "OutcomeUnknown"
    assert shown["results"][-1] == "JournalFailed"
    assert len(shown["failures"]) == 1
    assert "Input/output error" in shown["failures"][0]
    assert shown["applied"] == 1
    again = World(f"{tmp_path}/j")
    again.voter.start()
    again.voter.stop()
    assert again.machine.applied[0][2].body == b"before"
    assert again.roles[0] == (Role.LEADER, 2)


def test_no_room_for_a_segment_refuses_proposals_but_the_node_lives(tmp_path: Path) -> None:
    shown = run_failing(tmp_path / "j", "fallocate", "ENOSPC", 3, 45_000)
    assert shown["results"] == ["int", "int", "DiskFull", "DiskFull", "int"]
    assert shown["failures"] == []
    again = World(f"{tmp_path}/j")
    again.voter.start()
    again.voter.stop()
    assert [len(entry.body) for _, _, entry in again.machine.applied] == [6, 45_000, 5]


def test_no_room_at_the_first_start_is_disk_full(tmp_path: Path) -> None:
    program = (
        "import errno\nfrom monofs.testing.syscalls import fail_syscall\nfail_syscall('fallocate', errno.ENOSPC)\n"
        "from monofs.config.schema import JournalConfig\nfrom monofs.journal.single import SingleVoter\n"
        "from monofs.testing.journal import ListMachine\nfrom monofs.model.errors import DiskFull\n"
        f"voter = SingleVoter({str(tmp_path / 'j')!r}, ListMachine(), JournalConfig(), call_soon=print, on_failure=print)\n"
        "try:\n    voter.start()\nexcept DiskFull as error:\n    print('refused:', error)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.startswith("refused: no room for a journal segment of 67108864 bytes")
    assert os.listdir(tmp_path / "j") == []


def test_an_installed_state_begins_behind_itself_whatever_log_lies_there_and_in_a_newer_term(world: Open) -> None:
    w = world()
    for n in range(30):
        w.propose(b"%d" % n)
    w.settle(30)
    ahead = world(applied=100, installed_term=7)
    assert ahead.machine.applied == []
    ahead.propose(b"new")
    assert ahead.settle(1) == [101]
    assert ahead.roles == [(Role.LEADER, 8)]
    behind = world(applied=10, installed_term=3)  # the log that lies there reaches further, and is another one
    assert behind.machine.applied == []
    behind.propose(b"other")
    assert behind.settle(1) == [11]
    assert behind.roles == [(Role.LEADER, 9)], "above what was promised here before"
    again = world(applied=10)
    assert [(index, entry.body) for index, _, entry in again.machine.applied] == [(11, b"other")]


def test_an_installed_state_begins_in_an_empty_directory(world: Open) -> None:
    w = world(applied=5, installed_term=4)
    w.propose(b"x")
    assert w.settle(1) == [6]
    assert w.roles == [(Role.LEADER, 5)]
    assert [entry.body for _, _, entry in world(applied=5).machine.applied] == [b"x"]
