"""Writing through a worker: bytes in order, out to a real directory, warm in a real cache, named by the master at the end."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Thread
from typing import Any

import msgspec
import pytest
from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater
from twisted.python.failure import Failure
from worker_world import MIB, PATIENCE_S, World, make_bytes

from monofs.model.errors import (
    Busy,
    CapabilityExpired,
    CapabilityInvalid,
    ConditionFailed,
    InvalidArgument,
    MonofsError,
    NotCached,
    OutcomeUnknown,
    PageCorrupt,
    TierFull,
    TierUnusable,
    UfsChanged,
    UfsUnknown,
    Unreachable,
    WriteLost,
)
from monofs.model.options import WriteType
from monofs.observe import failpoints
from monofs.rpc.api import (
    AbortWriteRequest,
    Empty,
    Method,
    MountGrant,
    WriteAnswer,
    WriteRequest,
)
from monofs.tiering.checks import check_cache
from monofs.worker import writing


@pytest.fixture
def store(tmp_path: Path) -> Path:
    path = tmp_path / "store"
    path.mkdir()
    return path


@pytest.fixture
def make_writer(make_world: Callable[..., World], store: Path) -> Callable[..., World]:
    """A worker whose mount 1 is a real directory."""

    def make(**settings: Any) -> World:
        world = make_world(opens_real_stores=True, **settings)
        world.master.mounts = [MountGrant(1, f"file://{store}", {}, 2)]
        world.master.mounts_index = 2
        world.on_beat()
        return world

    return make


@pytest.fixture
def writer(make_writer: Callable[..., World]) -> World:
    return make_writer()


def holds(world: World) -> None:
    """Every named invariant of the cache."""
    findings = world.run(lambda: check_cache(world.cache, disk=False))
    assert not any(findings.values()), findings


def written(world: World, counter: int, data: bytes) -> None:
    """The store has the file, the cache has its pages, and they read back through the worker."""
    end = world.master.ended[-1]
    token = world.capability(counter, len(data), "file", end.fingerprint)
    assert world.read(token, 0, len(data)) == data
    holds(world)


@pytest.mark.parametrize("size", [0, 1, 5000, MIB, MIB + 1, 8 * MIB])
@pytest.mark.parametrize("announced", [True, False])
def test_a_file_of_one_part_is_put_whole_and_warm(writer: World, store: Path, size: int, announced: bool) -> None:
    data = make_bytes(1, size)
    answer = writer.write(writer.write_capability(1, size if announced else -1), data)
    assert [one.size for one in writer.master.published] == ([] if announced else [size])
    assert (store / "file").read_bytes() == data
    assert answer.received == size
    assert msgspec.msgpack.decode(answer.inode) == size
    end = writer.master.ended[0]
    assert (end.operation, end.size, end.persisted, end.worker) == (1, size, True, 7)
    assert end.fingerprint
    assert not writer.master.uploads
    pages = -(-size // MIB)
    assert writer.present(1) == (1 << pages) - 1
    if size:
        written(writer, 1, data)


@pytest.mark.parametrize("size", [8 * MIB + 1, 17 * MIB + 5, 64 * MIB, 65 * MIB + 3])
@pytest.mark.parametrize("piece", [MIB, 700_001])
def test_a_longer_file_goes_in_parts_and_is_warm(writer: World, store: Path, size: int, piece: int) -> None:
    data = make_bytes(2, size)
    answer = writer.write(writer.write_capability(1, -1), data, piece=piece)
    assert answer.received == size
    assert (store / "file").read_bytes() == data
    assert [one.operation for one in writer.master.uploads] == [1]
    assert writer.master.published[0].size == size
    written(writer, 1, data)
    assert writer.present(1, 0) == (1 << min(-(-size // MIB), 64)) - 1


def test_writing_through_leaves_the_cache_as_it_was(writer: World, store: Path) -> None:
    writer.write(writer.write_capability(1, 5000, write_type=WriteType.THROUGH), make_bytes(1, 5000))
    writer.master.publish_key = "other"
    writer.write(writer.write_capability(2, -1, "other", write_type=WriteType.THROUGH), make_bytes(1, 9 * MIB))
    assert sorted(path.name for path in store.iterdir()) == ["file", "other"]
    assert writer.run(lambda: writer.cache.used_bytes) == 0


def test_a_file_is_overwritten_only_if_it_is_the_version_known(writer: World, store: Path) -> None:
    writer.write(writer.write_capability(1, 3), b"one")
    first = writer.master.ended[0].fingerprint
    writer.write(writer.write_capability(2, 3, replaced=first), b"two")
    assert (store / "file").read_bytes() == b"two"
    with pytest.raises(UfsChanged):
        writer.write(writer.write_capability(3, 5, replaced=first), b"three")
    with pytest.raises(UfsChanged):
        writer.write(writer.write_capability(4, 4), b"four")
    assert (store / "file").read_bytes() == b"two"
    assert [one.operation for one in writer.master.abandoned] == [3, 4]
    assert not writer.master.abandoned[0].unknown
    assert writer.present(3) == writer.present(4) == 0
    holds(writer)


def test_bytes_are_taken_in_order_each_once(writer: World, store: Path) -> None:
    token = writer.write_capability(1, -1)
    data = make_bytes(3, 10_000)
    writer.write(token, data[:4000], last=False)
    with pytest.raises(InvalidArgument, match="in order"):
        writer.write(token, data[5000:], begin=5000, last=False)
    assert writer.write(token, data[2000:6000], begin=2000, last=False).received == 6000
    assert writer.write(token, data[:6000], last=False).received == 6000
    writer.write(token, data[6000:], begin=6000)
    assert (store / "file").read_bytes() == data
    again = writer.write(token, data[6000:], begin=6000)
    assert (again.received, len(writer.master.ended)) == (10_000, 1)


def test_bytes_of_an_unknown_write_are_lost_unless_they_are_the_first(writer: World) -> None:
    with pytest.raises(WriteLost):
        writer.write(writer.write_capability(1, -1), b"x", begin=1)


def test_more_or_fewer_bytes_than_announced_are_refused(writer: World, store: Path) -> None:
    with pytest.raises(InvalidArgument, match="announced with 3"):
        writer.write(writer.write_capability(1, 3), b"four")
    with pytest.raises(InvalidArgument, match="announced with 3"):
        writer.write(writer.write_capability(2, 3), b"no")
    with pytest.raises(InvalidArgument, match="at most"):
        writer.write(writer.write_capability(3, -1), bytes(MIB + 1), piece=MIB + 1)
    assert not list(store.iterdir())


def test_only_a_capability_to_write_may_write(writer: World) -> None:
    with pytest.raises(CapabilityInvalid, match="does not allow writing"):
        writer.write(writer.capability(1, 3, "file", "f"), b"one")
    with pytest.raises(CapabilityInvalid, match="does not allow reading"):
        writer.read(writer.write_capability(1, 3), 0, 3)
    with pytest.raises(CapabilityExpired):
        writer.write(writer.write_capability(1, 3, life_s=-10), b"one")


def test_an_open_write_outlives_its_capability(writer: World, store: Path) -> None:
    token = writer.write_capability(1, -1, life_s=1)
    writer.write(token, b"one", last=False)
    writer.run(lambda: writer.worker._gate.hear(10**19))
    writer.write(token, b"two", begin=3)
    assert (store / "file").read_bytes() == b"onetwo"


def test_an_aborted_write_leaves_nothing(writer: World, store: Path) -> None:
    token = writer.write_capability(1, -1)
    writer.write(token, make_bytes(1, 20 * MIB), last=False)
    assert writer.run(lambda: writer.worker._writers.operations) == [1]
    writer.tcp.call(Method.ABORT_WRITE, AbortWriteRequest(token), Empty, PATIENCE_S)
    writer.tcp.call(Method.ABORT_WRITE, AbortWriteRequest(token), Empty, PATIENCE_S)
    assert [one.operation for one in writer.master.abandoned] == [1]
    assert not list(store.iterdir())
    writer.on_reactor_until(lambda: not writer.worker._writers.operations)
    writer.on_reactor_until(lambda: not writer.cache.used_bytes)  # a thread may still write pages nobody will read
    with pytest.raises(InvalidArgument, match="aborted"):
        writer.write(token, b"x", begin=20 * MIB)
    holds(writer)


def test_a_write_that_the_master_gave_up_before_its_first_byte_came_is_refused(writer: World, store: Path) -> None:
    """It began before this worker did: where it was put after all, its client would meet its own file as another's."""
    writer.master.begun = 7
    writer.run(writer.master.break_off)
    writer.on_reactor_until(lambda: writer.worker._writers._given_up == 7)
    with pytest.raises(WriteLost):
        writer.write(writer.write_capability(7, 3), b"old")
    assert not list(store.iterdir())
    assert writer.write(writer.write_capability(8, 3), b"new").received == 3


def test_a_write_that_never_came_is_aborted_at_the_master(writer: World) -> None:
    writer.tcp.call(Method.ABORT_WRITE, AbortWriteRequest(writer.write_capability(4, -1)), Empty, PATIENCE_S)
    assert [one.operation for one in writer.master.abandoned] == [4]


def test_a_master_that_does_not_answer_is_told_the_end_again(writer: World) -> None:
    refusals: list[MonofsError] = [Unreachable("away"), OutcomeUnknown("no leader")]
    writer.master.refusals.extend((Method.END_WRITE, error) for error in refusals)
    assert writer.write(writer.write_capability(1, 3), b"one").received == 3
    assert len(writer.master.ended) == 1


def test_what_the_master_refuses_to_name_is_not_cached(writer: World) -> None:
    writer.master.refusals.append((Method.END_WRITE, WriteLost("resolved otherwise")))
    with pytest.raises(WriteLost):
        writer.write(writer.write_capability(1, 3), b"one")
    assert writer.present(1) == 0
    assert not writer.master.abandoned


def test_an_upload_that_cannot_be_recorded_is_aborted(writer: World, store: Path) -> None:
    writer.master.refusals.append((Method.RECORD_UPLOAD, Busy("no")))
    writer.master.refusals.append((Method.RECORD_UPLOAD, WriteLost("abandoned")))
    with pytest.raises(WriteLost):
        writer.write(writer.write_capability(1, -1), make_bytes(1, 10 * MIB))
    assert not list(store.iterdir())
    writer.on_reactor_until(lambda: not writer.cache.used_bytes)


def test_without_room_a_file_is_written_uncached(make_writer: Callable[..., World], store: Path) -> None:
    writer = make_writer(quota=4 * MIB)
    small, large = make_bytes(1, 5 * MIB), make_bytes(2, 20 * MIB)
    writer.write(writer.write_capability(1, len(small), "small"), small)
    writer.write(writer.write_capability(2, -1), large)
    assert ((store / "small").read_bytes(), (store / "file").read_bytes()) == (small, large)
    writer.on_reactor_until(lambda: not writer.cache.used_bytes)
    holds(writer)


@pytest.mark.parametrize("size", [0, 5000, 3 * MIB, 66 * MIB + 7])
@pytest.mark.parametrize("announced", [True, False])
def test_what_no_store_has_survives_a_crash(
    make_writer: Callable[..., World], store: Path, size: int, announced: bool
) -> None:
    writer, data = make_writer(), make_bytes(4, size)
    token = writer.write_capability(1, size if announced else -1, write_type=WriteType.MUST_CACHE, mount=0)
    writer.write(token, data)
    end = writer.master.ended[0]
    assert (end.size, end.persisted, end.fingerprint) == (size, False, "")
    assert not list(store.iterdir())
    records = writer.run(lambda: dict(writer.cache.index.scan(0)))
    assert len(records) == -(-size // (64 * MIB)), "durable before the master is told"
    writer.crash()
    writer.start()
    holds(writer)
    reader = writer.capability(1, size, "", "", mount=0)
    assert writer.read(reader, 0, size) == data
    writer.run(writer.cache.drop_clean)
    writer.run(lambda: writer.cache.free([writer.content(1)], force=True))
    assert writer.read(reader, 0, size) == data


@pytest.mark.parametrize("size", [5000, 5 * MIB + 7])
@pytest.mark.parametrize("refused", [True, False])
def test_what_no_store_has_is_made_safe_while_its_path_is_being_locked(
    make_writer: Callable[..., World], monkeypatch: pytest.MonkeyPatch, size: int, refused: bool
) -> None:
    writer, data = make_writer(), make_bytes(5, size)
    locking = writer.master.locking = Deferred()
    synced: list[object] = []
    sync_file = writer.cache.sync_file
    monkeypatch.setattr(writer.cache, "sync_file", lambda group: synced.append(sync_file(group)))
    token = writer.write_capability(1, -1, write_type=WriteType.MUST_CACHE, mount=0)
    with ThreadPoolExecutor(1) as thread:
        answer = thread.submit(writer.write, token, data)
        writer.on_reactor_until(lambda: synced and writer.master.published)
        assert not writer.master.ended
        if refused:
            writer.run(lambda: locking.errback(ConditionFailed("it is another version")))
            assert isinstance(answer.exception(), ConditionFailed)
        else:
            writer.run(lambda: locking.callback(None))
            assert answer.result().received == size
    assert len(writer.master.ended) == (not refused)
    assert len(writer.master.abandoned) == refused
    assert writer.run(lambda: writer.cache.used_bytes) == (0 if refused else size)
    holds(writer)


def test_what_no_store_has_is_not_made_safe_where_the_disk_fails_though_its_path_is_not_locked_yet(
    make_writer: Callable[..., World], monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = make_writer()
    locking = writer.master.locking = Deferred()

    def fail(_: object) -> None:
        raise TierUnusable("the disk broke")

    monkeypatch.setattr(writer.cache, "sync_file", fail)
    with pytest.raises(TierUnusable, match="broke"):
        writer.write(writer.write_capability(1, -1, write_type=WriteType.MUST_CACHE, mount=0), make_bytes(5, 3 * MIB))
    assert (len(writer.master.ended), len(writer.master.abandoned)) == (0, 1)
    assert locking.called
    assert writer.run(lambda: writer.cache.used_bytes) == 0
    holds(writer)


def test_what_no_store_has_is_refused_without_room_or_a_durable_place(make_writer: Callable[..., World]) -> None:
    writer = make_writer(quota=4 * MIB)
    token = writer.write_capability(1, -1, write_type=WriteType.MUST_CACHE)
    with pytest.raises(TierFull):
        writer.write(token, make_bytes(1, 20 * MIB))
    assert [one.operation for one in writer.master.abandoned] == [1]
    writer.on_reactor_until(lambda: not writer.cache.used_bytes)
    for directory in writer.cache.directories:
        directory.in_memory = True
    with pytest.raises(TierUnusable, match="durable"):
        writer.write(writer.write_capability(2, 3, write_type=WriteType.MUST_CACHE), b"one")
    holds(writer)


def test_a_file_never_persisted_is_not_looked_for_in_the_store(writer: World, store: Path) -> None:
    (store / "file").write_bytes(b"somebody else's")
    with pytest.raises(NotCached):
        writer.read(writer.capability(1, 5, "file", ""), 0, 5)


def test_a_write_without_bytes_for_long_is_given_up(make_writer: Callable[..., World], store: Path) -> None:
    writer = make_writer(write_idle_s=0.0)
    token = writer.write_capability(1, -1)
    writer.write(token, make_bytes(1, 9 * MIB), last=False)
    writer.on_reactor_until(lambda: bool(writer.master.abandoned))
    writer.on_reactor_until(lambda: not writer.worker._writers.operations)
    assert not list(store.iterdir())
    with pytest.raises(WriteLost):
        writer.write(token, b"x", begin=9 * MIB)


def test_open_writes_are_abandoned_when_the_worker_stops(make_writer: Callable[..., World], store: Path) -> None:
    writer = make_writer()
    writer.write(writer.write_capability(1, -1), make_bytes(1, 9 * MIB), last=False)
    writer.write(writer.write_capability(2, -1, "two"), b"abc", last=False)
    writer.stop()
    assert sorted(one.operation for one in writer.master.abandoned) == [1, 2]
    assert not list(store.iterdir())


def test_a_worker_names_its_open_writes(writer: World) -> None:
    writer.write(writer.write_capability(9, -1), b"abc", last=False)
    writer.run(lambda: writer.master.requests.clear())
    writer.on_beat()
    assert [request.operations for request in writer.master.requests if hasattr(request, "operations")][-1] == [9]
    writer.run(writer.master.break_off)
    writer.on_reactor_until(lambda: any(type(one).__name__ == "RegisterRequest" for one in writer.master.requests))
    assert next(one for one in writer.master.requests if type(one).__name__ == "RegisterRequest").operations == [9]


def test_another_cluster_ends_all_writes_and_hears_nothing_of_them(writer: World) -> None:
    writer.write(writer.write_capability(1, -1), make_bytes(1, 9 * MIB), last=False)
    writer.master.cluster = b"d" * 16
    writer.run(writer.master.break_off)
    writer.on_reactor_until(lambda: not writer.worker._writers.operations)
    assert not writer.master.abandoned
    writer.on_reactor_until(lambda: not writer.cache.used_bytes)
    holds(writer)


def test_a_put_that_ends_in_another_cluster_is_not_told_of_there(
    writer: World, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(failpoints, "_armed", {"write.acted": [(1, "sleep:0.5")]})
    monkeypatch.setattr(failpoints, "_passed", {})
    outcome: list[object] = []
    thread = Thread(
        target=lambda: outcome.append(_error_of(lambda: writer.write(writer.write_capability(1, 3), b"one")))
    )
    thread.start()
    writer.on_reactor_until(lambda: (store / "file").exists())
    writer.master.cluster = b"d" * 16
    writer.run(writer.master.break_off)
    thread.join(PATIENCE_S)
    assert isinstance(outcome[0], WriteLost)
    writer.run(lambda: deferLater(writer.thread.reactor, 0.6))
    assert not writer.master.ended
    assert not writer.master.abandoned
    writer.on_reactor_until(lambda: not writer.cache.used_bytes)
    holds(writer)


def _error_of(work: Callable[[], object]) -> object:
    try:
        return work()
    except MonofsError as error:
        return error


def test_a_bug_while_publishing_leaves_the_outcome_to_the_master(
    writer: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise ValueError("a bug")

    monkeypatch.setattr(writer.worker._writers._tools.sparing, "spare", broken)
    with pytest.raises(UfsUnknown):
        writer.write(writer.write_capability(1, 3), b"one")
    assert [one.unknown for one in writer.master.abandoned] == [True]
    holds(writer)


def test_a_damaged_page_no_store_has_is_told_and_the_others_are_read(make_writer: Callable[..., World]) -> None:
    writer, data = make_writer(), make_bytes(4, 3 * MIB)
    writer.write(writer.write_capability(1, len(data), write_type=WriteType.MUST_CACHE), data)
    path = writer.path_of(1)
    with open(path, "r+b") as file:
        file.seek(MIB + 5)
        file.write(b"\0\1\2\3\4\5\6\7")
    writer.crash()
    writer.start()
    token = writer.capability(1, len(data), "file", "")
    assert writer.read(token, 0, MIB) == data[:MIB]
    with pytest.raises(PageCorrupt, match="no store has"):
        writer.read(token, MIB, 10)
    with pytest.raises(PageCorrupt):
        writer.fetch(token, 0, 0b111)
    assert writer.read(token, 2 * MIB, MIB) == data[2 * MIB :]
    holds(writer)


def test_who_does_not_wait_for_answers_is_refused(make_writer: Callable[..., World], store: Path) -> None:
    writer = make_writer(write_bytes=MIB)
    room, token = writer.worker._writers._tools.room, writer.write_capability(2, -1)
    outcomes: list[object] = []

    def send() -> None:
        room.take(1, MIB)
        room.send(MIB)  # another write's bytes, on their way
        for number in range(40):
            request = WriteRequest(token, number * 1000, memoryview(bytes(1000)))
            answer = writer.direct.call(Method.WRITE, request, WriteAnswer, PATIENCE_S)
            answer.addBoth(outcomes.append)

    writer.run(send)
    writer.on_reactor_until(lambda: len(outcomes) == 40 - writing.UNANSWERED_MAX)
    assert all(isinstance(outcome, Failure) for outcome in outcomes)
    outcomes.clear()
    writer.run(lambda: room.sent(1, MIB))
    writer.on_reactor_until(lambda: len(outcomes) == writing.UNANSWERED_MAX)
    assert not any(isinstance(outcome, Failure) for outcome in outcomes)
    received = writing.UNANSWERED_MAX * 1000
    writer.write(token, b"end", begin=received)
    assert (store / "file").stat().st_size == received + 3


def test_writers_wait_for_room_and_all_get_through(
    make_writer: Callable[..., World], store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Four files of three parts each through a worker that may hold one part: none can stop the others for good."""
    monkeypatch.setattr(writing, "part_size", lambda _: 2 * MIB)
    writer = make_writer(write_bytes=2 * MIB)
    writer.master.publish_key = "f"
    data = {number: make_bytes(number, 5 * MIB) for number in range(1, 5)}
    tokens = {number: writer.write_capability(number, -1, "f") for number in data}

    def send(number: int) -> object:
        try:
            return writer.write(tokens[number], data[number], piece=MIB // 2)
        except UfsChanged as error:
            return error

    with ThreadPoolExecutor(4) as threads:
        outcomes = list(threads.map(send, data))
    winners = [number for number, outcome in zip(data, outcomes, strict=True) if isinstance(outcome, WriteAnswer)]
    assert len(winners) == 1, "one name, one winner"
    assert (store / "f").read_bytes() == data[winners[0]]
    room = writer.worker._writers._tools.room
    writer.on_reactor_until(lambda: not writer.worker._writers.operations)
    assert writer.run(lambda: (room.used, room.waiting)) == (0, 0)
    holds(writer)
