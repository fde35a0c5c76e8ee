"""What a worker does with its cache: verified before served, bad pages fetched again, full or failing tiers passed by."""

from __future__ import annotations

import os
import resource
import tempfile
import threading
from collections.abc import Callable

import pytest
from worker_world import MIB, PATIENCE_S, World, make_bytes

from monofs.model.errors import ContentChanged, Internal, NotReady, Overloaded, TierUnusable, UfsDenied
from monofs.observe import metrics
from monofs.rpc.api import (
    CachedAnswer,
    CachedRequest,
    Empty,
    Method,
    Pong,
    ReadRequest,
    VerifyAnswer,
    WorkerStatusAnswer,
)


def damage(path: str, offset: int) -> None:
    """Flip one byte of a cached file behind the worker's back."""
    with open(path, "r+b") as file:
        file.seek(offset)
        byte = file.read(1)
        file.seek(offset)
        file.write(bytes([byte[0] ^ 1]))


# ---- restarts -----------------------------------------------------------------------------------------------------------


def test_a_restart_is_warm(world: World) -> None:
    capability, data = world.put(make_bytes(1, 5 * MIB))
    world.read(capability, 0, len(data))
    world.stop()
    world.start()
    assert world.read(capability, 0, len(data)) == data
    assert len(world.store.gets) == 1


def test_after_an_unclean_stop_pages_are_verified_and_served_without_the_store(world: World) -> None:
    capability, data = world.put(make_bytes(2, 5 * MIB))
    world.read(capability, 0, len(data))
    world.crash()
    world.start()
    assert world.read(capability, 0, len(data)) == data
    assert len(world.store.gets) == 1


def test_a_page_damaged_by_an_unclean_stop_is_fetched_again_and_never_served(world: World) -> None:
    capability, data = world.put(make_bytes(3, 5 * MIB))
    world.read(capability, 0, len(data))
    path = world.path_of()
    world.crash()
    damage(path, 2 * MIB + 77)
    world.start()
    readers = world.ask([ReadRequest(capability, 0, len(data)), ReadRequest(capability, 2 * MIB, 100)])
    assert readers[0].wait() == data
    assert readers[1].wait() == data[2 * MIB :][:100]


def test_a_file_lost_behind_the_workers_back_is_fetched_again(world: World) -> None:
    capability, data = world.put(make_bytes(4, 3 * MIB))
    world.read(capability, 0, len(data))
    path = world.path_of()
    world.crash()
    os.unlink(path)
    world.start()
    assert world.read(capability, 0, len(data)) == data


def test_a_file_removed_while_the_worker_runs_is_made_anew(world: World) -> None:
    capability, data = world.put(make_bytes(21, 3 * MIB))
    world.read(capability, 0, 10)
    os.unlink(world.path_of())
    assert world.read(capability, MIB, 2 * MIB) == data[MIB:]
    assert world.read(capability, 0, len(data)) == data


def test_a_file_cut_short_while_the_worker_runs_is_noticed_and_fetched_again(world: World) -> None:
    capability, data = world.put(make_bytes(5, 3 * MIB))
    world.read(capability, 0, len(data))
    world.stop()
    world.start()  # so that no descriptor is open and nothing was read
    os.truncate(world.path_of(), MIB)
    assert world.read(capability, 2 * MIB, 100) == data[2 * MIB :][:100]
    assert world.read(capability, 0, len(data)) == data


@pytest.mark.parametrize("clean", [True, False])
def test_a_worker_short_of_descriptors_says_so_and_keeps_its_pages(world: World, clean: bool) -> None:
    capability, data = world.put(make_bytes(5, 3 * MIB))
    world.read(capability, 0, len(data))
    if clean:
        world.stop()
    else:
        world.crash()
    world.start()
    world.tcp.call(Method.PING, Empty(), Pong, PATIENCE_S)
    gets = len(world.store.gets)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))
    try:
        with pytest.raises(Overloaded, match="Too many open files"):
            world.read(capability, 0, len(data))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert world.read(capability, 0, len(data)) == data
    assert len(world.store.gets) == gets


def test_a_thread_that_fails_at_a_cached_file_leaves_no_reader_waiting(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    capability, data = world.put(make_bytes(5, 3 * MIB))
    world.read(capability, 0, len(data))
    world.crash()
    world.start()

    def no_memory(*_: object, **__: object) -> int:
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr("monofs.tiering.files.check_pages", no_memory)
        with pytest.raises(Internal, match="MemoryError"):
            world.read(capability, 0, len(data))
    assert world.read(capability, 0, len(data)) == data


def test_a_tier_in_memory_is_read_without_threads(
    make_world: Callable[..., World], monkeypatch: pytest.MonkeyPatch
) -> None:
    """tmpfs knows no RWF_NOWAIT; its bytes are in memory all the same."""
    if not os.path.isdir("/dev/shm"):
        pytest.skip("no /dev/shm on this machine")
    with tempfile.TemporaryDirectory(dir="/dev/shm") as pages:
        world = make_world(pages=pages)
        capability, data = world.put(make_bytes(22, 3 * MIB))
        world.read(capability, 0, len(data))
        used: list[object] = []
        monkeypatch.setattr(world.worker._disks, "read", lambda *given: used.append(given))
        assert world.read(capability, 5000, 4096) == data[5000:][:4096]
        assert world.read(capability, 0, len(data)) == data
        pieces = [(0, at, 4096) for at in range(0, MIB, 70_000)]
        assert world.read_many([capability], pieces) == b"".join(data[at : at + 4096] for _, at, _ in pieces)
        assert used == []
        world.stop()


def test_a_stop_while_a_store_hangs_tells_the_readers_and_leaves_a_clean_cache(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("monofs.worker.service.STOP_FLIGHTS_S", 0.01)
    monkeypatch.setattr("monofs.worker.service.STOP_THREADS_S", 0.01)
    warm, data = world.put(make_bytes(23, MIB))
    cold, other = world.put(make_bytes(24, 70 * MIB))
    world.read(warm, 0, MIB)
    with world.store.closed_gate():
        (reader,) = world.ask([ReadRequest(cold, 0, 70 * MIB)])
        world.store.wait_asked(2)
        world.stop()
        with pytest.raises(NotReady):
            reader.wait()
    world.start()
    assert world.run(lambda: world.cache.run.was_clean)
    gets = len(world.store.gets)
    assert world.read(warm, 0, MIB) == data
    assert len(world.store.gets) == gets
    assert world.read(cold, 0, len(other)) == other


# ---- verification by command ------------------------------------------------------------------------------------------


def test_verify_reads_every_page_and_drops_the_bad_one(world: World) -> None:
    one, first = world.put(make_bytes(6, 3 * MIB))
    two, second = world.put(make_bytes(7, 65 * MIB))
    world.read(one, 0, len(first))
    world.read(two, 0, len(second))
    damage(world.path_of(1), MIB + 5)
    answer = world.tcp.call(Method.VERIFY, Empty(), VerifyAnswer, PATIENCE_S)
    assert answer.pages == 68
    assert answer.bad == ["1-1 group 0 page 1"]
    assert world.read(one, 0, len(first)) == first
    assert world.read(two, 0, len(second)) == second


def test_a_verification_ends_when_the_worker_stops_under_it(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    capability, data = world.put(make_bytes(9, 3 * MIB))
    world.read(capability, 0, len(data))
    looked, gate = threading.Event(), threading.Event()

    def check_pages(group: object, mask: int, **_: object) -> int:
        looked.set()
        assert gate.wait(PATIENCE_S)
        return 0

    monkeypatch.setattr("monofs.worker.service.STOP_THREADS_S", 0.01)
    monkeypatch.setattr(world.cache, "check_pages", check_pages)
    ended: list[object] = []

    def ask() -> None:
        world.direct.call(Method.VERIFY, Empty(), VerifyAnswer).addErrback(lambda failure: ended.append(failure.value))

    world.run(ask)
    assert looked.wait(PATIENCE_S)
    world.stop()
    gate.set()
    world.on_reactor_until(lambda: bool(ended))
    assert [type(error) for error in ended] == [NotReady]


def test_verify_of_a_sound_cache_finds_nothing(world: World) -> None:
    capability, data = world.put(make_bytes(8, 3 * MIB))
    world.read(capability, 0, len(data))
    assert world.tcp.call(Method.VERIFY, Empty(), VerifyAnswer, PATIENCE_S) == VerifyAnswer(3, [])


# ---- no room ------------------------------------------------------------------------------------------------------------


def test_a_full_tier_evicts_to_make_room(make_world: Callable[..., World]) -> None:
    world = make_world(quota=4 * MIB)
    files = [world.put(make_bytes(n, 2 * MIB)) for n in range(6)]
    for capability, data in files:
        assert world.read(capability, 0, len(data)) == data
    assert world.run(lambda: world.cache.used_bytes) <= 4 * MIB
    assert world.present(6) == 0b11
    assert world.present(1) == 0


def test_what_does_not_fit_is_served_from_the_store_and_said(make_world: Callable[..., World]) -> None:
    world = make_world(quota=2 * MIB)
    pinned, kept = world.put(make_bytes(1, 2 * MIB))
    world.run(lambda: world.cache.pin([world.content(1)]))
    world.read(pinned, 0, len(kept))
    before = metrics.NOT_ADMITTED("full").value
    capability, data = world.put(make_bytes(9, 5 * MIB + 3))
    assert world.read(capability, 0, len(data)) == data
    assert world.read(capability, MIB + 5, 3 * MIB) == data[MIB + 5 :][: 3 * MIB]
    assert metrics.NOT_ADMITTED("full").value > before
    assert world.present(2) == 0
    assert world.read(pinned, 0, len(kept)) == kept
    answer = world.fetch(capability, 0, 0b1)
    assert (answer.cached, answer.present) == (False, 0)


def test_concurrent_readers_of_what_does_not_fit_share_a_get(make_world: Callable[..., World]) -> None:
    world = make_world(quota=MIB // 2)
    capability, data = world.put(make_bytes(10, MIB))
    with world.store.closed_gate():
        readers = world.ask([ReadRequest(capability, 0, MIB) for _ in range(20)])
        world.store.wait_asked()
    assert [reader.wait() for reader in readers] == [data] * 20
    assert len(world.store.gets) == 1


def test_a_file_larger_than_the_whole_cache_streams_through_it(make_world: Callable[..., World]) -> None:
    world = make_world(quota=16 * MIB)
    capability, data = world.put(make_bytes(11, 150 * MIB + 9))
    assert world.read(capability, 0, len(data), sequential=True) == data
    assert world.run(lambda: world.cache.used_bytes) <= 16 * MIB


def test_a_tier_that_cannot_be_written_is_passed_by(world: World) -> None:
    one, first = world.put(make_bytes(12, MIB))
    world.read(one, 0, MIB)

    def fail() -> None:
        world.cache.directories[0].fail(OSError(30, "Read-only file system"))

    world.run(fail)
    before = metrics.NOT_ADMITTED("unusable").value
    two, second = world.put(make_bytes(13, 3 * MIB))
    assert world.read(two, 0, len(second)) == second
    assert world.read(one, 0, len(first)) == first
    assert metrics.NOT_ADMITTED("unusable").value == before + 1


def test_a_write_that_fails_in_mid_flight_turns_to_the_store(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    real = world.cache.write_page

    def breaks(group: object, page: int, data: memoryview) -> int:
        if page == 2:
            raise TierUnusable("the disk broke")
        return real(group, page, data)  # type: ignore[arg-type]

    monkeypatch.setattr(world.cache, "write_page", breaks)
    capability, data = world.put(make_bytes(14, 6 * MIB))
    assert world.read(capability, 0, len(data)) == data
    assert world.present() & 0b100 == 0
    assert world.run(lambda: world.cache.directories[0].reserved) == 0


def test_no_cache_reads_leave_nothing_behind_but_use_what_is_there(world: World) -> None:
    capability, data = world.put(make_bytes(15, 5 * MIB))
    assert world.read(capability, 100, 4 * MIB, cache="NO_CACHE") == data[100:][: 4 * MIB]
    assert world.present() == 0
    world.read(capability, 0, MIB)
    gets = len(world.store.gets)
    assert world.read(capability, 0, MIB, cache="NO_CACHE") == data[:MIB]
    assert len(world.store.gets) == gets


def test_a_small_no_cache_read_asks_the_store_for_no_more_than_it_needs(world: World) -> None:
    capability, data = world.put(make_bytes(16, 5 * MIB))
    assert world.read(capability, 3_000_000, 4096, cache="NO_CACHE") == data[3_000_000:][:4096]
    assert world.store.gets == [(b"object-1", 3_000_000, 4096)]


def test_errors_of_the_store_reach_readers_past_the_cache_too(world: World) -> None:
    capability, _ = world.put(make_bytes(17, 5 * MIB), "k")

    def denied(_body: bytes):  # type: ignore[no-untyped-def]
        raise UfsDenied("403")
        yield

    world.store.script.append(denied)
    with pytest.raises(UfsDenied):
        world.read(capability, 0, 100, cache="NO_CACHE")
    del world.store.files[b"k"]
    with pytest.raises(ContentChanged):
        world.read(capability, 0, 100, cache="NO_CACHE")


def test_a_reader_of_uncached_bytes_that_is_slow_holds_little_memory(make_world: Callable[..., World]) -> None:
    """While nobody reads the socket, the store is asked for what sockets and queues take, not for the whole file."""
    world = make_world(quota=MIB // 2)
    capability, data = world.put(make_bytes(18, 64 * MIB))
    stream = world.tcp.stream(Method.READ, ReadRequest(capability, 0, len(data)), None, PATIENCE_S)
    first = next(stream)
    world.tcp.call(Method.PING, Empty(), Pong, PATIENCE_S)
    asked = sum(length for _, _, length in world.store.gets)
    assert asked <= 24 * MIB
    assert bytes(first) + b"".join(bytes(piece) for piece in stream) == data


# ---- what it tells ------------------------------------------------------------------------------------------------------


def test_cached_tells_the_pages_of_the_contents_asked_for(world: World) -> None:
    capability, data = world.put(make_bytes(19, 66 * MIB))
    world.read(capability, 0, 2 * MIB)
    world.read(capability, 65 * MIB, 10)
    world.run(lambda: world.cache.pin([world.content()]))
    answer = world.tcp.call(Method.CACHED, CachedRequest([world.content(), 12345]), CachedAnswer, PATIENCE_S)
    assert [(g.group, g.pages, g.bytes, g.pinned) for g in answer.groups] == [
        (0, 0b11, 2 * MIB, True),
        (1, 0b10, MIB, True),
    ]
    assert len(data) == 66 * MIB


def test_status_tells_tiers_and_counters(world: World) -> None:
    capability, data = world.put(make_bytes(20, 3 * MIB))
    misses = metrics.PAGE_MISSES("1").value
    hits = metrics.PAGE_HITS("1").value
    world.read(capability, 0, len(data))
    world.read(capability, 0, len(data))
    answer = world.tcp.call(Method.WORKER_STATUS, Empty(), WorkerStatusAnswer, PATIENCE_S)
    assert answer.worker == 7
    assert [(tier.tier, tier.used_bytes, tier.groups, tier.state) for tier in answer.tiers] == [
        ("DISK", 3 * MIB, 1, "ok")
    ]
    assert answer.counters["monofs_page_misses{mount=1}"] == misses + 3
    assert answer.counters["monofs_page_hits{mount=1}"] == hits + 3
