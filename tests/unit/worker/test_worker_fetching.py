"""How a worker asks its stores: once per missing page, in large ranges, again where that helps, and never more than needed."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator

import pytest
from worker_world import KEY, MIB, PATIENCE_S, World, make_bytes

from monofs.model.errors import (
    ContentChanged,
    DeadlineExceeded,
    MountNotFound,
    NotCached,
    Overloaded,
    UfsBadBody,
    UfsThrottled,
    UfsUnreachable,
)
from monofs.rpc.api import MountGrant, ReadRequest


@pytest.fixture(autouse=True)
def _no_waiting_between_tries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("monofs.worker.fetcher.BACK_OFF_FIRST_S", 0.001)


# ---- one flight ---------------------------------------------------------------------------------------------------------


def test_a_hundred_readers_of_one_missing_page_cost_one_get(world: World) -> None:
    capability, data = world.put(make_bytes(1, MIB))
    with world.store.closed_gate():
        readers = world.ask([ReadRequest(capability, n * 100, 1000) for n in range(100)])
        world.store.wait_asked()
    assert [reader.wait() for reader in readers] == [data[n * 100 : n * 100 + 1000] for n in range(100)]
    assert world.store.gets == [(b"object-1", 0, MIB)]


def test_readers_of_overlapping_spans_share_the_ranges_on_their_way(world: World) -> None:
    capability, data = world.put(make_bytes(2, 24 * MIB))
    with world.store.closed_gate():
        readers = world.ask([ReadRequest(capability, start * MIB, 12 * MIB) for start in (0, 4, 8, 12)])
        world.store.wait_asked(3)
    assert [reader.wait() for reader in readers] == [data[n * MIB : (n + 12) * MIB] for n in (0, 4, 8, 12)]
    asked = sorted((offset, length) for _, offset, length in world.store.gets)
    assert sum(length for _, length in asked) == 24 * MIB, "each byte once"


def test_readers_stream_while_the_rest_of_a_range_is_on_its_way(world: World) -> None:
    capability, data = world.put(make_bytes(3, 8 * MIB))
    world.store.chunk = MIB

    go_on = threading.Event()

    def stops_half_way(body: bytes) -> Iterator[memoryview]:
        yield memoryview(body)[: 4 * MIB]
        assert go_on.wait(PATIENCE_S)
        yield memoryview(body)[4 * MIB :]

    world.store.script.append(stops_half_way)
    readers = world.ask([ReadRequest(capability, 0, 8 * MIB), ReadRequest(capability, 0, 3 * MIB)])
    assert readers[1].wait() == data[: 3 * MIB], "served although the range is not complete"
    assert not readers[0].done.is_set()
    go_on.set()
    assert readers[0].wait() == data


def test_a_reader_that_goes_away_stops_no_flight(world: World) -> None:
    capability, data = world.put(make_bytes(4, 2 * MIB))
    with world.store.closed_gate():
        leaving, staying = world.ask([ReadRequest(capability, 0, 2 * MIB), ReadRequest(capability, 0, 2 * MIB)])
        world.store.wait_asked()
        world.run(leaving.deferred.cancel)
    assert staying.wait() == data
    assert len(world.store.gets) == 1


def test_a_fetch_nobody_waits_for_any_more_is_cached_for_the_next(world: World) -> None:
    capability, data = world.put(make_bytes(5, MIB))
    with world.store.closed_gate():
        (leaving,) = world.ask([ReadRequest(capability, 0, MIB)])
        world.store.wait_asked()
        world.run(leaving.deferred.cancel)
    assert world.read(capability, 0, MIB) == data
    assert len(world.store.gets) == 1


# ---- ranges -------------------------------------------------------------------------------------------------------------


def test_a_large_read_is_fetched_in_ranges_of_the_configured_size(world: World) -> None:
    capability, data = world.put(make_bytes(6, 20 * MIB + 5))
    assert world.read(capability, 0, len(data)) == data
    assert sorted(world.store.gets) == [
        (b"object-1", 0, 8 * MIB),
        (b"object-1", 8 * MIB, 8 * MIB),
        (b"object-1", 16 * MIB, 4 * MIB + 5),
    ]


def test_pages_present_are_not_fetched_again(world: World) -> None:
    capability, data = world.put(make_bytes(7, 8 * MIB))
    world.read(capability, 3 * MIB + 10, 20)
    assert world.store.gets == [(b"object-1", 3 * MIB, MIB)]
    assert world.read(capability, 0, len(data)) == data
    assert sorted(world.store.gets[1:]) == [(b"object-1", 0, 3 * MIB), (b"object-1", 4 * MIB, 4 * MIB)]


def test_ranges_end_where_a_group_ends(world: World) -> None:
    capability, data = world.put(make_bytes(8, 66 * MIB))
    assert world.read(capability, 62 * MIB, 4 * MIB) == data[62 * MIB :]
    assert sorted(world.store.gets) == [(b"object-1", 62 * MIB, 2 * MIB), (b"object-1", 64 * MIB, 2 * MIB)]


def test_a_random_read_fetches_its_page_only(world: World) -> None:
    capability, data = world.put(make_bytes(9, 32 * MIB))
    assert world.read(capability, 17 * MIB + 3, 4096) == data[17 * MIB + 3 :][:4096]
    assert world.store.gets == [(b"object-1", 17 * MIB, MIB)]


def test_a_sequential_reader_finds_its_next_pages_on_their_way(world: World) -> None:
    capability, data = world.put(make_bytes(10, 40 * MIB))
    got = b"".join(world.read(capability, at, MIB, sequential=True) for at in range(0, 40 * MIB, MIB))
    assert got == data
    assert len(world.store.gets) <= 12, "not one GET a page"
    assert sum(length for _, _, length in world.store.gets) == 40 * MIB, "each byte once"


def test_a_sequential_reader_of_small_pieces_costs_few_and_large_gets(world: World) -> None:
    capability, data = world.put(make_bytes(33, 20 * MIB))
    step = 32 << 10
    got = b"".join(world.read(capability, at, step, sequential=True) for at in range(0, 20 * MIB, step))
    assert got == data
    assert len(world.store.gets) <= 10
    assert sum(length for _, _, length in world.store.gets) == 20 * MIB


def test_read_many_starts_all_its_misses_at_once(world: World) -> None:
    one, first = world.put(make_bytes(11, 3 * MIB))
    two, second = world.put(make_bytes(12, 3 * MIB))
    pieces = [(0, 10, 100), (1, 2 * MIB, 50), (0, 2 * MIB + 5, 7), (1, 0, 3), (0, 10, 100)]
    with world.store.closed_gate():
        result: list[bytes] = []
        reader = threading.Thread(target=lambda: result.append(world.read_many([one, two], pieces)))
        reader.start()
        world.store.wait_asked(4)
    reader.join()
    both = (first, second)
    assert result == [b"".join(both[which][offset : offset + length] for which, offset, length in pieces)]
    assert len(world.store.gets) == 4


# ---- faults -------------------------------------------------------------------------------------------------------------


def test_a_throttled_get_is_tried_again(world: World) -> None:
    capability, data = world.put(make_bytes(13, MIB))
    world.store.script.extend([world.store.throttle] * 3)
    assert world.read(capability, 0, MIB) == data
    assert len(world.store.gets) == 4


def test_a_store_that_only_throttles_is_told_to_the_reader_by_name_and_without_secrets(world: World) -> None:
    capability, _ = world.put(make_bytes(14, MIB))
    world.store.script.extend([world.store.throttle] * 4)
    with pytest.raises(UfsThrottled, match="scripted://bucket at store:1") as caught:
        world.read(capability, 0, MIB)
    assert "pw" not in str(caught.value)
    assert world.present() == 0
    assert len(world.store.gets) == 4


def test_after_a_failed_fetch_the_next_reader_starts_anew(world: World) -> None:
    capability, data = world.put(make_bytes(15, MIB))
    world.store.script.extend([world.store.throttle] * 4)
    with pytest.raises(UfsThrottled):
        world.read(capability, 0, MIB)
    assert world.read(capability, 0, MIB) == data


def test_a_truncated_body_goes_on_from_the_first_byte_that_is_missing(world: World) -> None:
    capability, data = world.put(make_bytes(16, 8 * MIB))
    world.store.script.append(world.store.truncated_after(2 * MIB + 500))
    assert world.read(capability, 0, 8 * MIB) == data
    assert world.store.gets == [(b"object-1", 0, 8 * MIB), (b"object-1", 2 * MIB, 6 * MIB)]


def test_tries_that_bring_pages_do_not_use_up_the_tries(world: World) -> None:
    capability, data = world.put(make_bytes(17, 8 * MIB))
    world.store.script.extend([world.store.truncated_after(MIB)] * 7)
    assert world.read(capability, 0, 8 * MIB) == data


def test_a_body_that_ends_early_without_a_word_is_never_cached(world: World) -> None:
    capability, _ = world.put(make_bytes(18, MIB))
    world.store.script.extend([world.store.lying_after(MIB - 1)] * 4)
    with pytest.raises(UfsBadBody, match="1 bytes early"):
        world.read(capability, 0, MIB)
    assert world.present() == 0


def test_a_body_that_is_too_long_is_never_cached(world: World) -> None:
    capability, _ = world.put(make_bytes(19, MIB))
    world.store.script.extend([world.store.too_long] * 4)
    with pytest.raises(UfsBadBody, match="more bytes"):
        world.read(capability, 0, MIB)
    assert world.present() == 0


def test_a_last_page_is_not_cached_when_the_store_retracts_it_at_the_end(world: World) -> None:
    capability, _ = world.put(make_bytes(20, 2 * MIB))
    # a reader that is still busy with the first page when the flight ends sends for the last one anew: the store stays changed
    world.store.script.extend([world.store.changed_after(2 * MIB)] * 2)
    with pytest.raises(ContentChanged):
        world.read(capability, 0, 2 * MIB)
    assert world.present() & 0b10 == 0


def test_what_is_cached_of_a_changed_file_is_still_read_and_the_rest_is_content_changed(world: World) -> None:
    capability, data = world.put(make_bytes(21, 4 * MIB), "same")
    world.read(capability, MIB, MIB)
    world.store.files[b"same"] = (make_bytes(99, 4 * MIB), "e:new")
    assert world.read(capability, MIB + 5, 1000) == data[MIB + 5 :][:1000]
    with pytest.raises(ContentChanged, match="has changed in scripted://bucket"):
        world.read(capability, 0, 4 * MIB)
    assert world.present() == 0b10, "nothing of the new version under the old content"


def test_a_reader_in_flight_finishes_a_changed_file_that_is_all_cached(world: World) -> None:
    capability, data = world.put(make_bytes(22, 70 * MIB), "big")
    world.read(capability, 0, len(data))
    del world.store.files[b"big"]
    assert world.read(capability, 0, len(data)) == data


def test_a_change_in_mid_file_gives_the_old_bytes_up_to_there_and_never_a_mix(world: World) -> None:
    capability, data = world.put(make_bytes(23, 8 * MIB))
    world.store.script.append(world.store.changed_after(3 * MIB + 100))
    (reader,) = world.ask([ReadRequest(capability, 0, 8 * MIB)])
    with pytest.raises(ContentChanged):
        reader.wait()
    assert reader.data == data[: 3 * MIB]


def test_a_file_that_is_gone_is_content_changed(world: World) -> None:
    capability, _ = world.put(make_bytes(24, MIB), "gone")
    del world.store.files[b"gone"]
    with pytest.raises(ContentChanged, match="is gone from"):
        world.read(capability, 0, 10)


def test_what_waits_for_a_thread_while_all_of_them_hang_is_told_so(
    make_world: Callable[..., World], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("monofs.worker.fetcher.SWEEP_S", 0.02)
    world = make_world(fetch_threads=2, store_timeout_s=0.1, fetch_retries=1)
    files = [world.put(make_bytes(60 + n, MIB)) for n in range(6)]
    with world.store.closed_gate():
        readers = world.ask([ReadRequest(capability, 0, MIB) for capability, _ in files])
        for reader in readers:
            with pytest.raises(UfsUnreachable, match="silent"):
                reader.wait()
        assert world.run(lambda: world.worker._fetcher._pool.queued) == 0
        assert len(world.store.gets) == 2
    world.on_reactor_until(lambda: world.worker._fetcher._hanging == 0)
    assert world.run(lambda: world.cache.used_bytes) == 0
    for capability, data in files:
        assert world.read(capability, 0, MIB) == data


def test_no_thread_to_fetch_with_is_told_and_leaves_nothing_behind(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    capability, data = world.put(make_bytes(70, MIB))

    def start(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr("monofs.worker.pool.threading.Thread.start", start)
        with pytest.raises(Overloaded, match="no thread"):
            world.ask([ReadRequest(capability, 0, MIB)])[0].wait()
    assert world.run(lambda: (world.worker._fetcher.count, world.worker._fetcher._pool.queued)) == (0, 0)
    assert world.read(capability, 0, MIB) == data


def test_a_store_that_hangs_costs_the_reader_its_deadline_not_for_ever(world: World) -> None:
    capability, data = world.put(make_bytes(25, MIB))
    told = r"while waiting for the store scripted://bucket\S* .*to send object-\d+"
    with world.store.closed_gate(), pytest.raises(DeadlineExceeded, match=told):
        world.read(capability, 0, MIB, timeout_s=1.0)
    assert world.read(capability, 0, MIB) == data, "and the fetch that outlived its reader serves the next"
    assert len(world.store.gets) == 1


def test_a_thread_that_hangs_in_a_store_is_given_up_and_its_readers_are_told(
    make_world: Callable[..., World], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("monofs.worker.fetcher.SWEEP_S", 0.01)
    world = make_world(store_timeout_s=0.05, fetch_threads=2)
    capability, data = world.put(make_bytes(26, MIB))
    with world.store.closed_gate(), pytest.raises(UfsUnreachable, match="silent"):
        world.read(capability, 0, MIB)
    assert world.read(capability, 0, MIB) == data
    assert world.run(lambda: world.cache.directories[0].reserved) == 0


# ---- mounts -------------------------------------------------------------------------------------------------------------


def test_content_under_no_mount_that_is_not_cached_is_said_to_be_so(world: World) -> None:
    capability = world.capability(50, MIB, "x", "", mount=0)
    with pytest.raises(NotCached):
        world.read(capability, 0, 10)


def test_a_mount_this_worker_has_not_heard_of_yet_is_waited_for(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    _, data = world.put(make_bytes(27, MIB), "new")
    capability = world.capability(1, MIB, "new", "e:1", mount=2)
    monkeypatch.setattr("monofs.worker.fetcher.BACK_OFF_FIRST_S", 0.2)
    (reader,) = world.ask([ReadRequest(capability, 0, MIB)])
    world.master.mounts = [*world.master.mounts, MountGrant(2, "scripted://other", {}, 5)]
    world.master.mounts_index = 5
    world.on_beat()
    assert reader.wait() == data


def test_a_mount_that_is_gone_is_told(world: World) -> None:
    _, _ = world.put(make_bytes(28, MIB), "new")
    with pytest.raises(MountNotFound):
        world.read(world.capability(1, MIB, "new", "e:1", mount=9), 0, 10)


def test_a_store_is_opened_once_and_closed_when_its_mount_goes(world: World) -> None:
    capability, _ = world.put(make_bytes(29, 2 * MIB))
    world.read(capability, 0, 10)
    world.read(capability, MIB, 10)
    assert len(world.opened) == 1
    world.master.mounts, world.master.mounts_index = [], 7
    world.on_beat()
    world.run(world.worker.stop)
    world.on_reactor_until(lambda: world.store.closed == 1)


def test_a_mount_with_new_options_is_opened_anew(world: World) -> None:
    capability, _ = world.put(make_bytes(30, 2 * MIB))
    world.read(capability, 0, 10)
    world.master.mounts = [MountGrant(1, "scripted://bucket", {"endpoint": "http://store:2"}, 8)]
    world.master.mounts_index = 8
    world.on_beat()
    world.read(capability, MIB, 10)
    assert [options["endpoint"] for _, options in world.opened] == ["http://user:pw@store:1", "http://store:2"]


def test_secrets_and_keys_are_nowhere_in_the_home(world: World) -> None:
    capability, _ = world.put(make_bytes(31, MIB))
    world.read(capability, 0, MIB)
    world.stop()
    for directory, _, names in os.walk(world.home):
        for name in names:
            path = os.path.join(directory, name)
            if os.path.isfile(path):
                with open(path, "rb") as file:
                    content = file.read()
                assert KEY not in content
                assert b"user:pw" not in content


# ---- fresh pages --------------------------------------------------------------------------------------------------------


def test_who_waits_for_a_page_gets_it_from_memory_and_its_file_is_not_opened(world: World) -> None:
    capability, data = world.put(make_bytes(20, 170_001))
    with world.store.closed_gate():
        readers = world.ask([ReadRequest(capability, begin, len(data)) for begin in (0, 1000, 170_000)])
    assert [reader.wait() for reader in readers] == [data, data[1000:], data[170_000:]]
    assert world.run(lambda: len(world.cache.files)) == 0
    assert world.read(capability, 1000, len(data)) == data[1000:], "nor is anything else in it"
    assert world.run(lambda: len(world.cache.files)) == 1


@pytest.mark.parametrize("chunk", [10_007, 65_536, MIB - 1, MIB, 3 * MIB + 1])
def test_pages_are_whole_however_a_store_cuts_their_bytes(world: World, chunk: int) -> None:
    capability, data = world.put(make_bytes(21, 5 * MIB + 12_345))
    world.store.chunk = chunk
    span = slice(MIB - 3, 4 * MIB + 5)
    assert world.read(capability, span.start, span.stop - span.start) == data[span]
    assert world.read(capability, 0, len(data)) == data
    assert world.read(capability, 0, len(data)) == data
    assert world.run(lambda: world.cache.check_pages(world.cache.lookup(world.content(), 0), 0b111111)) == 0


def test_while_many_pages_wait_for_the_reactor_further_ones_are_read_from_their_files(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("monofs.worker.fetcher.FRESH_MAX", 0)
    capability, data = world.put(make_bytes(22, 100_000))
    assert world.read(capability, 0, len(data)) == data
    assert world.run(lambda: len(world.cache.files)) == 1
