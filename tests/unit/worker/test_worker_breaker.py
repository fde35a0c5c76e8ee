"""A store that fails again and again is not asked for a while; what is cached is served, and its owner speaks for all workers."""

from __future__ import annotations

import time
from array import array
from collections.abc import Callable, Iterator

import pytest
from worker_world import MIB, PATIENCE_S, World, make_bytes

from monofs.model.block import SLOTS
from monofs.model.errors import UfsDenied, UfsFailed, UfsPaused, UfsThrottled, UfsUnreachable
from monofs.model.slots import table_of
from monofs.rpc.api import HeartbeatRequest, ReadRequest
from monofs.worker import stores


def fail_with(world: World, error: Exception) -> None:
    """Whatever the store is asked from now on, it answers this."""

    def fault(_body: bytes) -> Iterator[memoryview]:
        raise error
        yield

    world.store.script.clear()
    world.store.script.extend([fault] * 1000)


def troubles(world: World) -> dict[int, str]:
    """What the next heartbeat tells."""
    world.on_beat()
    return next(each for each in reversed(world.master.requests) if isinstance(each, HeartbeatRequest)).troubles


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three failures are enough, however fast they come."""
    monkeypatch.setattr(stores, "FAILING_S", 0.0)


def open_breaker(world: World) -> bytes:
    """A store that is down, and known to be; the capability of what nobody has."""
    missing, _ = world.put(make_bytes(2, MIB))
    fail_with(world, UfsUnreachable("connection refused"))
    for _ in range(stores.FAILURES):
        with pytest.raises(UfsUnreachable):
            world.read(missing, 0, MIB)
    return missing


def test_a_store_that_is_down_is_not_asked_and_readers_are_told_so_at_once(
    make_world: Callable[..., World], quick: None
) -> None:
    world = make_world(fetch_retries=1)
    warm, data = world.put(make_bytes(1, 2 * MIB))
    assert world.read(warm, 0, MIB) == data[:MIB]
    missing = open_breaker(world)
    asked = len(world.store.gets)
    for _ in range(20):
        with pytest.raises(UfsPaused, match=r"scripted://bucket.*asked again within 1 s.*connection refused") as told:
            world.read(missing, 0, MIB)
    assert told.value.detail["again_s"] == 1
    assert len(world.store.gets) == asked
    assert world.read(warm, 0, MIB) == data[:MIB], "what is cached is served"
    assert "connection refused" in troubles(world)[1]
    counters = world.run(world.worker._inspection._status, None, None).counters
    assert counters["monofs_store_paused{mount=1}"] == 1
    assert counters["monofs_store_refused{mount=1}"] >= 20


def test_after_the_pause_one_flight_tries_and_an_answer_ends_it(
    make_world: Callable[..., World], quick: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stores, "PAUSE_FIRST_S", 0.5)
    world = make_world(fetch_retries=1)
    missing = open_breaker(world)
    others = [world.put(make_bytes(n, MIB)) for n in range(3, 13)]
    breaker = world.worker._stores.find(1).reading
    world.on_reactor_until(lambda: not breaker.left_s(time.monotonic()))
    asked = len(world.store.gets)
    with world.store.closed_gate():
        readers = world.ask([ReadRequest(capability, 0, MIB) for capability, _ in others])
        world.store.wait_asked(stores.FAILURES + 1)
        refused = [reader for reader in readers if reader.done.is_set()]
    assert len(world.store.gets) == asked + 1
    assert len(refused) >= len(readers) - 1
    world.store.script.clear()
    end = time.monotonic() + PATIENCE_S
    while True:
        try:
            data = world.read(missing, 0, MIB)
            break
        except UfsPaused:
            assert time.monotonic() < end, "it never tries again"
    assert data == make_bytes(2, MIB)
    assert [world.read(capability, 0, MIB) for capability, _ in others] == [data for _, data in others]
    assert troubles(world) == {}


def test_a_refusal_shows_that_the_store_is_up(make_world: Callable[..., World], quick: None) -> None:
    world = make_world(fetch_retries=1)
    missing, _ = world.put(make_bytes(1, MIB))
    for error in (UfsDenied("no"), UfsThrottled("slow down")):
        fail_with(world, error)
        for _ in range(3 * stores.FAILURES):
            with pytest.raises(type(error)):
                world.read(missing, 0, MIB)
    assert len(world.store.gets) == 6 * stores.FAILURES


def test_failures_that_last_a_moment_are_ridden_out_by_every_flight(make_world: Callable[..., World]) -> None:
    """Many flights fail together, and none is refused the tries it has."""
    world = make_world()
    files = [world.put(make_bytes(n, MIB)) for n in range(12)]

    def fault(_body: bytes) -> Iterator[memoryview]:
        raise UfsFailed("500")
        yield

    world.store.script.extend([fault] * 20)
    readers = world.ask([ReadRequest(capability, 0, MIB) for capability, _ in files])
    assert [reader.wait() for reader in readers] == [data for _, data in files]


def test_when_its_options_change_a_store_is_asked_at_once(make_world: Callable[..., World], quick: None) -> None:
    world = make_world(fetch_retries=1)
    missing = open_breaker(world)
    world.store.script.clear()
    with pytest.raises(UfsPaused):
        world.read(missing, 0, MIB)
    world.master.mounts = [type(world.master.mounts[0])(1, "scripted://bucket", {"key": "other"}, 2)]
    world.master.mounts_index = 2
    world.on_beat()
    assert world.read(missing, 0, MIB) == make_bytes(2, MIB)


def test_who_asks_an_owner_whose_store_is_down_does_not_ask_the_store_too(make_world: Callable[..., World]) -> None:
    owner = make_world(fetch_retries=2)
    asker = make_world(fetch_retries=2, store=owner.store)
    for number, world in enumerate((owner, asker), 1):
        table = table_of(1, 1, array("H", [1] * SLOTS).tobytes())
        world.run(world.worker._peers.hear, {1: owner.address, 2: asker.address})
        world.run(world.worker._peers.follow, number, table, ())
    missing, data = owner.put(make_bytes(1, MIB))
    fail_with(owner, UfsUnreachable("connection refused"))
    with pytest.raises(UfsUnreachable, match=r"connection refused \(scripted://bucket"):
        asker.read(missing, 0, MIB)
    assert len(owner.store.gets) == 2, "the owner's tries"
    owner.store.script.clear()
    assert asker.read(missing, 0, MIB) == data
    assert owner.present() == 1


def test_who_asks_an_owner_whose_store_is_silent_does_not_ask_the_store_too(make_world: Callable[..., World]) -> None:
    owner = make_world(store_timeout_s=20.0)
    asker = make_world(fetch_retries=2, store=owner.store, store_timeout_s=0.5)
    for number, world in enumerate((owner, asker), 1):
        table = table_of(1, 1, array("H", [1] * SLOTS).tobytes())
        world.run(world.worker._peers.hear, {1: owner.address, 2: asker.address})
        world.run(world.worker._peers.follow, number, table, ())
    missing, _ = owner.put(make_bytes(1, MIB))
    with owner.store.closed_gate(), pytest.raises(UfsUnreachable, match="silent"):
        asker.read(missing, 0, MIB)
    assert len(owner.store.gets) == 1
