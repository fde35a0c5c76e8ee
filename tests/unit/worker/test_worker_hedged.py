"""Reads that ask a second worker: it gives what it has, and never asks a store for what the first is fetching."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest
from worker_world import MIB, World, make_bytes

from monofs.client.cluster import LAG_TIMES, SILENT_S, WorkerLink
from monofs.client.session import Options, Session
from monofs.model.errors import ConnectionLost, MonofsError, NotCached
from monofs.rpc.api import Message, Method, ReadManyRequest, ReadOptions, ReadRequest, WorkerInfo
from monofs.rpc.handshake import Credential
from monofs.rpc.hedge import Hedge
from monofs.rpc.sync import Pool

DELAY_S = 0.05
FROM_CACHE = 2


def hedge(second: World, capability: bytes, length: int, *, before: Callable[[], None] = lambda: None) -> Hedge:
    """``before`` is called when the second is to be asked."""

    def choose() -> tuple[Pool, Message]:
        before()
        return second.tcp, ReadRequest(capability, 0, length, asked=FROM_CACHE)

    return Hedge(DELAY_S, choose)


def read(world: World, capability: bytes, length: int, rival: Hedge) -> bytes:
    buffer = bytearray(length)
    assert world.tcp.read_into(Method.READ, ReadRequest(capability, 0, length), buffer, hedge=rival) == length
    return bytes(buffer)


@pytest.fixture
def pair(make_world: Callable[..., World]) -> tuple[World, World]:
    """Two workers over one store."""
    first = make_world()
    return first, make_world(store=first.store)


def test_what_the_second_has_is_taken_while_the_first_is_slow(pair: tuple[World, World]) -> None:
    first, second = pair
    capability, data = first.put(make_bytes(1, 3 * MIB))
    assert second.read(capability, 0, 3 * MIB) == data
    rival = hedge(second, capability, 3 * MIB)
    with first.store.closed_gate():
        assert read(first, capability, 3 * MIB, rival) == data
    assert rival.has_won
    assert first.read(capability, 5, 1000) == data[5:1005], "the first can be asked again"


def test_a_second_that_has_it_not_says_so_and_asks_no_store(pair: tuple[World, World]) -> None:
    first, second = pair
    capability, data = first.put(make_bytes(2, 2 * MIB))
    rivals = []

    def choose() -> tuple[Pool, Message]:
        rivals.append(second)
        first.thread.reactor.callFromThread(first.thread.reactor.callLater, DELAY_S, first.store._gate.set)
        return second.tcp, ReadRequest(capability, 0, 2 * MIB, asked=FROM_CACHE)

    rival = Hedge(DELAY_S, choose)
    with first.store.closed_gate():
        assert read(first, capability, 2 * MIB, rival) == data
    assert rivals == [second]
    assert not rival.has_won
    assert first.store.gets == [(b"object-1", 0, 2 * MIB)]
    assert second.present() == 0


def test_a_second_that_has_a_part_of_it_only_is_given_up(pair: tuple[World, World]) -> None:
    first, second = pair
    capability, data = first.put(make_bytes(3, 3 * MIB))
    assert second.read(capability, 0, MIB) == data[:MIB]
    asked = len(first.store.gets)
    rival = hedge(second, capability, 3 * MIB, before=lambda: first.store._gate.set())
    with first.store.closed_gate():
        assert read(first, capability, 3 * MIB, rival) == data
    assert len(first.store.gets) == asked + 1


def test_a_first_that_is_fast_is_the_only_one_asked(pair: tuple[World, World]) -> None:
    first, _ = pair
    capability, data = first.put(make_bytes(4, 100_000))
    assert first.read(capability, 0, len(data)) == data

    def nobody() -> None:
        raise AssertionError("a second was asked")

    rival = Hedge(20.0, lambda: nobody())  # type: ignore[func-returns-value,return-value]
    assert read(first, capability, len(data), rival) == data
    assert not rival.has_won


def test_a_second_that_cannot_be_reached_costs_nothing(pair: tuple[World, World]) -> None:
    first, second = pair
    capability, data = first.put(make_bytes(5, MIB))
    second.stop()
    rival = hedge(second, capability, MIB, before=lambda: first.store._gate.set())
    with first.store.closed_gate():
        assert read(first, capability, MIB, rival) == data


def test_the_error_of_the_first_is_told_whatever_the_second_said(pair: tuple[World, World]) -> None:
    first, second = pair
    capability, _ = first.put(make_bytes(6, MIB))
    first.store.files.clear()
    rival = hedge(second, capability, MIB, before=lambda: first.store._gate.set())
    with first.store.closed_gate(), pytest.raises(MonofsError) as told:
        read(first, capability, MIB, rival)
    assert not isinstance(told.value, ConnectionLost)
    assert "open it again" in told.value.message


def test_a_client_hedges_to_the_next_worker_that_is_well_and_costs_no_second_get(
    make_world: Callable[..., World],
) -> None:
    first = make_world()
    worlds = [first, make_world(store=first.store), make_world(store=first.store)]
    ill, well = worlds[1:]
    options = Options(("127.0.0.1:1",), Credential(), 20.0, ReadOptions(), ReadOptions(), "CACHE")
    session = Session(options, patient=False)
    hedging = session._hedging[Method.READ]
    links = [WorkerLink(WorkerInfo(n, world.address), session.connect) for n, world in enumerate(worlds)]
    links[1].silent_until_s = float("inf")
    cold, data = first.put(make_bytes(7, MIB))
    warm, other = first.put(make_bytes(8, MIB))
    assert well.read(warm, 0, MIB) == other
    asked = len(first.store.gets)

    def read_slowly(capability: bytes, ends: Callable[[], None]) -> bytes:
        """While the first worker waits for the store; ``ends`` is called when others are looked at."""
        buffer = bytearray(MIB)

        def others() -> list[WorkerLink]:
            ends()
            return links

        hedging.delay_s = DELAY_S
        with first.store.closed_gate():
            session.read_into(links[0], ReadRequest(capability, 0, MIB, sequential=True), memoryview(buffer), others)
        return bytes(buffer)

    try:
        assert read_slowly(warm, lambda: None) == other
        assert (hedging.asked, hedging.won) == (1, 1)
        hedging._saved = 1.0
        assert read_slowly(cold, first.store._gate.set) == data
        assert (hedging.asked, hedging.won) == (2, 1)
        assert read_slowly(first.put(make_bytes(9, MIB))[0], first.store._gate.set) == make_bytes(9, MIB)
        assert hedging.asked == 2, "the budget is spent"
    finally:
        for link in links:
            link.close()
        session.close()
    assert [key for key, _, _ in first.store.gets[asked:]] == [b"object-2", b"object-1", b"object-3"]
    assert [ill.present(n) for n in (1, 2, 3)] == [0, 0, 0]
    assert [well.present(n) for n in (1, 2, 3)] == [0, 1, 0]


def test_a_worker_that_loses_every_race_is_passed_by_for_a_while_then_tried_once(
    make_world: Callable[..., World],
) -> None:
    first = make_world()
    second = make_world(store=first.store)
    session = Session(
        Options(("127.0.0.1:1",), Credential(), 20.0, ReadOptions(), ReadOptions(), "CACHE"), patient=False
    )
    hedging = session._hedging[Method.READ_MANY]
    slow, quick = links = [
        WorkerLink(WorkerInfo(n, world.address), session.connect) for n, world in enumerate((first, second))
    ]
    files = [first.put(make_bytes(number, MIB)) for number in range(1, LAG_TIMES + 2)]
    for capability, data in files:
        assert second.read(capability, 0, MIB) == data

    def read_slowly(capability: bytes) -> bytes:
        buffer, hedging._saved, hedging.delay_s = bytearray(2000), 1.0, DELAY_S
        request = ReadManyRequest([capability], [(0, 0, 1000), (0, MIB - 1000, 1000)])
        with first.store.closed_gate():
            session.read_into(slow, request, memoryview(buffer), lambda: links)
        return bytes(buffer)

    try:
        for capability, data in files[:LAG_TIMES]:
            assert slow.is_well(time.monotonic())
            assert read_slowly(capability) == data[:1000] + data[-1000:]
        now_s = time.monotonic()
        assert not slow.is_well(now_s)
        assert quick.is_well(now_s)
        assert slow.is_well(now_s + SILENT_S)
        slow.lag._until_s = 0.0  # the pause is over: one read tries it, and loses again
        capability, data = files[LAG_TIMES]
        assert read_slowly(capability) == data[:1000] + data[-1000:]
        assert not slow.is_well(time.monotonic() + SILENT_S), "twice as long"
        slow.lag._until_s, hedging.delay_s = 0.0, 20.0
        session.read_into(slow, ReadManyRequest([capability], [(0, 0, 5)]), memoryview(bytearray(5)), lambda: links)
        assert slow.is_well(time.monotonic()), "it was in time"
    finally:
        for link in links:
            link.close()
        session.close()
    assert len(first.store.gets) == 2 * len(files), "a worker asked later costs no GET"


def test_of_a_batch_a_second_worker_sends_nothing_unless_it_has_all(pair: tuple[World, World]) -> None:
    first, second = pair
    warm, data = first.put(make_bytes(1, MIB))
    cold, _ = first.put(make_bytes(2, MIB))
    assert second.read(warm, 0, MIB) == data
    asked = len(first.store.gets)
    request = ReadManyRequest([warm, cold], [(0, 0, 1000), (1, 0, 1000)], asked=FROM_CACHE)
    buffer = bytearray(2000)
    with pytest.raises(NotCached):
        second.tcp.read_into(Method.READ_MANY, request, buffer)
    assert not any(buffer)
    request = ReadManyRequest([warm], [(0, 5, 1000), (0, MIB - 10, 1000)], asked=FROM_CACHE)
    assert second.tcp.read_into(Method.READ_MANY, request, buffer) == 1010
    assert buffer[:1010] == data[5:1005] + data[-10:]
    assert len(first.store.gets) == asked
