"""Workers that ask each other before the store: one GET however many are asked, and the store when a peer is of no use."""

from __future__ import annotations

import socket
from array import array
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from worker_world import MIB, World, make_bytes

from monofs.model.block import DEFAULT_LAYOUT, SLOTS
from monofs.model.capability import Capability
from monofs.model.errors import Closed, InvalidArgument, NotCached
from monofs.model.ids import ContentId, MountId
from monofs.model.slots import FORMERS_MAX, table_of
from monofs.rpc.api import FetchAnswer, FetchRequest, Method, ReadManyRequest, ReadRequest
from monofs.rpc.sync import Pool
from monofs.worker.gate import Gate
from monofs.worker.peers import POOLS_MAX, Asked, Peer, Peers

FORMER = 2


@pytest.fixture
def make_worlds(make_world: Callable[..., World]) -> Callable[..., list[World]]:
    """So many workers, numbered from 1, over one store."""

    def make(count: int, **settings: Any) -> list[World]:
        first = make_world(**settings)
        return [first, *(make_world(store=first.store, **settings) for _ in range(count - 1))]

    return make


def tell(worlds: Sequence[World], owners: Sequence[int], epoch: int = 1) -> None:
    """Each worker a table, in which one worker owns all slots: the first that of ``owners[0]``, and so on."""
    addresses = {number: world.address for number, world in enumerate(worlds, 1)}
    for (number, world), owner in zip(enumerate(worlds, 1), owners, strict=True):
        table = table_of(epoch, 1, array("H", [owner] * SLOTS).tobytes())
        world.run(world.worker._peers.hear, addresses)
        world.run(world.worker._peers.follow, number, table, ())


def read(world: World, capability: bytes, offset: int, length: int, asked: int = 0) -> bytes:
    buffer = bytearray(length)
    world.tcp.read_into(Method.READ, ReadRequest(capability, offset, length, asked=asked), buffer)
    return bytes(buffer)


def test_a_hundred_readers_at_three_workers_cost_one_get(make_worlds: Callable[..., list[World]]) -> None:
    first, *_ = worlds = make_worlds(3)
    capability, data = first.put(make_bytes(1, 3 * MIB))
    tell(worlds, [1, 1, 1])
    with first.store.closed_gate():
        readers = [
            reader for world in worlds for reader in world.ask([ReadRequest(capability, n, MIB) for n in range(1, 34)])
        ]
        first.store.wait_asked()
    for number, reader in enumerate(readers):
        begin = number % 33 + 1
        assert reader.wait() == data[begin : begin + MIB]
    assert first.store.gets == [(b"object-1", 0, 2 * MIB)]


def test_a_large_file_comes_through_its_owner_in_large_ranges(make_worlds: Callable[..., list[World]]) -> None:
    owner, other = worlds = make_worlds(2)
    tell(worlds, [1, 1])
    capability, data = owner.put(make_bytes(2, 20 * MIB + 17))
    assert read(other, capability, 0, len(data)) == data
    assert sum(length for _, _, length in owner.store.gets) == len(data), "each byte once"
    assert len(owner.store.gets) <= 4
    assert read(other, capability, 0, len(data)) == data
    assert read(owner, capability, 0, len(data)) == data
    assert len(owner.store.gets) <= 4, "both have it now"


def test_local_readers_and_batches_come_through_the_owner_too(make_worlds: Callable[..., list[World]]) -> None:
    owner, other = worlds = make_worlds(2)
    tell(worlds, [1, 1])
    capability, data = owner.put(make_bytes(3, 3 * MIB))
    answer = other.tcp.call(Method.FETCH, FetchRequest(capability, 0, 0b011), FetchAnswer)
    assert answer.present == 0b011
    buffer = bytearray(2000)
    pieces = [(0, 5, 1000), (0, 2 * MIB + 5, 1000)]
    other.tcp.read_into(Method.READ_MANY, ReadManyRequest([capability], pieces), buffer)
    assert bytes(buffer) == data[5:1005] + data[2 * MIB + 5 : 2 * MIB + 1005]
    assert sum(length for _, _, length in owner.store.gets) == len(data)


@pytest.mark.parametrize("many", [False, True])
def test_who_comes_because_the_owner_does_not_answer_does_not_wait_for_it_again(
    make_worlds: Callable[..., list[World]], many: bool
) -> None:
    owner, other = worlds = make_worlds(2)
    tell(worlds, [1, 1])
    capability, data = owner.put(make_bytes(3, 3 * MIB))
    owner.run(owner.listeners[0].stop)  # or it would be asked
    owner.listeners = owner.listeners[1:]
    asked: list[Peer] = []
    other.worker._peers.failed = lambda peer, error: asked.append(peer)  # type: ignore[method-assign]
    buffer = bytearray(2 * MIB)
    if many:
        request: Any = ReadManyRequest([capability], [(0, 0, MIB), (0, MIB, MIB)], past_owner=True)
        other.tcp.read_into(Method.READ_MANY, request, buffer)
    else:
        other.tcp.read_into(Method.READ, ReadRequest(capability, 0, 2 * MIB, past_owner=True), buffer)
    assert buffer == data[: 2 * MIB]
    assert sum(length for _, _, length in owner.store.gets) == 2 * MIB
    assert asked == []
    assert other.present() == 0b011, "it is kept as ever"


def test_a_new_owner_takes_from_the_former_one_what_that_has(make_worlds: Callable[..., list[World]]) -> None:
    former, new = worlds = make_worlds(2)
    tell(worlds, [1, 1])
    warm, data = former.put(make_bytes(4, 2 * MIB))
    cold, other = former.put(make_bytes(5, MIB))
    assert read(former, warm, 0, 2 * MIB) == data
    tell(worlds, [2, 2], epoch=2)
    asked = len(former.store.gets)
    assert read(new, warm, 0, 2 * MIB) == data
    assert len(former.store.gets) == asked
    assert read(new, cold, 0, MIB) == other
    assert former.store.gets[asked:] == [(b"object-2", 0, MIB)], "the former owner fetches nothing for it"


def test_after_a_chain_of_changes_the_one_that_has_it_is_found(make_worlds: Callable[..., list[World]]) -> None:
    first, *_ = worlds = make_worlds(4)
    tell(worlds, [1] * 4)
    warm, data = first.put(make_bytes(13, 2 * MIB))
    assert read(first, warm, 0, 2 * MIB) == data
    for epoch, owner in enumerate((2, 3, 4), 2):
        tell(worlds, [owner] * 4, epoch=epoch)
    asked = len(first.store.gets)
    assert read(worlds[3], warm, 0, 2 * MIB) == data
    assert len(first.store.gets) == asked
    cold, other = first.put(make_bytes(14, MIB))
    assert read(worlds[3], cold, 0, MIB) == other
    assert first.store.gets[asked:] == [(b"object-2", 0, MIB)], "once, by the owner"


def test_at_most_so_many_former_owners_are_asked_in_vain_however_many_a_slot_lists() -> None:
    peers = Peers(Gate(), Pool, local_copy="always")
    peers.hear({number: f"host:{number}" for number in range(1, 20)})
    for epoch in range(1, 6):
        listed = [3 * epoch, 3 * epoch + 1, 3 * epoch + 2] if epoch < 5 else [1, 2]
        peers.follow(1, table_of(epoch, len(listed), array("H", listed * SLOTS).tobytes()), ())
    capability = Capability(0, b"", ContentId(1), MIB, DEFAULT_LAYOUT, MountId(0), "", "", 10, 0, 0, 0)
    tried: list[int] = []
    while peer := peers.former(capability, 0, tried):
        tried.append(peer.worker)
    assert len(tried) == FORMERS_MAX
    peers.replicas = {5: 2}
    assert peers.former(capability, 0, tried) == Peer(2, Asked.FORMER), "who keeps a copy is asked all the same"


def test_only_so_many_tables_are_remembered_and_those_asked_in_vain_not_asked_again(
    make_worlds: Callable[..., list[World]],
) -> None:
    first, second = worlds = make_worlds(2)
    for epoch in range(1, 20):
        tell(worlds, [epoch % 2 + 1] * 2, epoch=epoch)
    assert second.run(lambda: len(second.worker._peers._formers)) == FORMERS_MAX
    capability, data = first.put(make_bytes(15, MIB))
    assert read(second, capability, 0, MIB) == data
    assert len(first.store.gets) == 1


def test_what_a_former_owner_is_asked_for_comes_from_its_cache_or_not_at_all(
    make_worlds: Callable[..., list[World]],
) -> None:
    world = make_worlds(1)[0]
    capability, data = world.put(make_bytes(6, 2 * MIB))
    with pytest.raises(NotCached):
        read(world, capability, 0, MIB, asked=FORMER)
    assert world.store.gets == []
    assert read(world, capability, 0, 2 * MIB) == data
    assert read(world, capability, 0, 2 * MIB, asked=FORMER) == data


def test_workers_that_take_each_other_for_the_owner_do_not_wait_for_each_other(
    make_worlds: Callable[..., list[World]],
) -> None:
    first, second = worlds = make_worlds(2)
    capability, data = first.put(make_bytes(7, 2 * MIB))
    tell(worlds, [2, 1])
    readers = [*first.ask([ReadRequest(capability, 0, MIB)] * 5), *second.ask([ReadRequest(capability, 0, MIB)] * 5)]
    assert [reader.wait() for reader in readers] == [data[:MIB]] * 10
    assert len(first.store.gets) <= 2


def test_with_every_thread_busy_asking_the_others_can_still_be_served(make_worlds: Callable[..., list[World]]) -> None:
    """Each worker owns what all readers of the other ask for."""
    first, second = worlds = make_worlds(2, fetch_threads=2)
    files = [first.put(make_bytes(number, MIB)) for number in range(40)]
    tell(worlds, [2, 1])
    readers = [
        world.ask([ReadRequest(capability, 0, MIB)])[0]
        for world, part in ((first, files[:20]), (second, files[20:]))
        for capability, _ in part
    ]
    assert [reader.wait() for reader in readers] == [data for _, data in files]


@pytest.mark.parametrize("kind", ["gone", "stopped"])
def test_an_owner_that_does_not_answer_costs_a_detour_to_the_store(
    make_worlds: Callable[..., list[World]], kind: str
) -> None:
    world = make_worlds(1)[0]
    capability, data = world.put(make_bytes(8, 3 * MIB))
    table = table_of(1, 1, array("H", [2] * SLOTS).tobytes())
    with socket.socket() as door:
        door.bind(("127.0.0.1", 0))
        if kind == "stopped":
            door.listen()
        address = f"127.0.0.1:{door.getsockname()[1]}"
        world.run(world.worker._peers.hear, {1: world.address, 2: address})
        world.run(world.worker._peers.follow, 1, table, ())
        assert read(world, capability, 0, 3 * MIB) == data
        assert len(world.store.gets) == 1


def test_a_peer_that_ends_early_is_left_where_it_ended(make_worlds: Callable[..., list[World]]) -> None:
    owner, other = worlds = make_worlds(2)
    tell(worlds, [1, 1])
    capability, data = owner.put(make_bytes(9, 6 * MIB))
    owner.store.script.append(owner.store.changed_after(3 * MIB + 5))
    assert read(other, capability, 0, 6 * MIB) == data
    assert [(offset, length) for _, offset, length in owner.store.gets] == [(0, 6 * MIB), (3 * MIB, 3 * MIB)]


@pytest.mark.parametrize(
    ("policy", "kept"), [("never", [False, False]), ("second_read", [False, True]), ("always", [True, True])]
)
def test_what_is_kept_of_others_blocks_is_a_policy(
    make_worlds: Callable[..., list[World]], policy: str, kept: list[bool]
) -> None:
    owner, other = worlds = make_worlds(2, local_copy=policy)
    tell(worlds, [1, 1])
    capability, data = owner.put(make_bytes(10, MIB))
    have = []
    for _ in range(2):
        assert read(other, capability, 0, MIB) == data
        have.append(bool(other.run(lambda: other.cache.used_bytes)))
    assert have == kept
    assert len(owner.store.gets) == 1, "the owner has it at once"


def test_asking_for_pages_first_is_no_read_of_its_own_and_may_say_that_they_are_wanted_here(
    make_worlds: Callable[..., list[World]],
) -> None:
    owner, other = worlds = make_worlds(2, local_copy="second_read")
    tell(worlds, [1, 1])
    capability, data = owner.put(make_bytes(10, 66 * MIB))
    for kept in (False, True):  # as a reader on its machine does: FETCH, and where nothing is kept READ
        assert other.fetch(capability, 0, 0b1).cached is kept
        assert read(other, capability, 0, MIB) == data[:MIB]
        assert bool(other.present()) is kept
    assert not other.fetch(capability, 1, 0b11).cached
    assert other.fetch(capability, 1, 0b11, keep=True).present == 0b11
    assert other.present(1, 1) == 0b11


def test_a_master_that_leads_since_a_moment_and_knows_few_workers_parts_none_from_the_others(
    make_worlds: Callable[..., list[World]],
) -> None:
    owner, other = worlds = make_worlds(2)
    tell(worlds, [1, 1])
    capability, data = owner.put(make_bytes(11, MIB))
    before = other.run(lambda: other.worker._peers.pool(Peer(1, Asked.OWNER)))
    other.run(lambda: other.worker._peers.hear({2: other.address}, awaited=True))
    assert other.run(lambda: other.worker._peers.pool(Peer(1, Asked.OWNER))) is before
    assert other.run(lambda: other.worker._peers.wants_addresses), "it asks again"
    assert read(other, capability, 0, MIB) == data
    assert owner.present() == 1
    other.run(lambda: other.worker._peers.hear({2: other.address}))
    assert not other.run(lambda: other.worker._peers.knows(1))


def test_connections_are_kept_to_the_workers_asked_last(make_worlds: Callable[..., list[World]]) -> None:
    owner, other = worlds = make_worlds(2)
    tell(worlds, [1, 1])
    peers = other.worker._peers
    other.run(lambda: peers.hear({1: owner.address} | {n: f"127.0.0.1:{n}" for n in range(3, 3 + POOLS_MAX)}))
    first = other.run(lambda: peers.pool(Peer(1, Asked.OWNER)))
    assert first.server().role == "worker"
    for number in range(3, 3 + POOLS_MAX):
        other.run(lambda number=number: peers.pool(Peer(number, Asked.OWNER)))
    with pytest.raises(Closed):
        first.server()
    assert other.run(lambda: len(peers._pools)) == POOLS_MAX
    capability, data = owner.put(make_bytes(12, MIB))
    assert read(other, capability, 0, MIB) == data
    assert owner.present() == 1, "it is asked through new ones"


def test_a_request_on_nobody_s_behalf_is_refused(make_worlds: Callable[..., list[World]]) -> None:
    world = make_worlds(1)[0]
    capability, _ = world.put(b"x" * 100)
    with Pool(world.address) as pool, pytest.raises(InvalidArgument, match="asked as one of"):
        pool.read_into(Method.READ, ReadRequest(capability, 0, 100, asked=9), bytearray(100))
