"""A block that takes more than its share is read from more workers, each of which gets it from its owner once."""

from __future__ import annotations

from array import array
from collections.abc import Callable

import msgspec
import pytest
from worker_world import MIB, World, make_bytes

from monofs.model.block import SLOTS
from monofs.model.slots import table_of
from monofs.rpc.api import Method, ReadManyRequest, ReadRequest, ServedAnswer
from monofs.worker import heat
from monofs.worker.heat import BLOCKS_MAX, BUSY_BYTES_S, SPREAD_MOST, Heat

HOT, COLD = (1, 0), (2, 0)


def second(known: Heat, now_s: float, asked: dict[tuple[int, int], int]) -> int:
    """One second in which so much is asked for of each; what readers of HOT are told in the next."""
    for block, length in asked.items():
        known.note(block, length, now_s + 0.5)
    return known.note(HOT, 0, now_s + 1.0, 0)


def test_a_block_is_spread_over_so_many_that_each_serves_less_than_is_busy() -> None:
    known = Heat()
    known.note(HOT, 0, 0.0, 0)
    assert second(known, 0.0, {HOT: BUSY_BYTES_S // 2, COLD: 1000}) == 0, "not busy"
    assert second(known, 1.0, {HOT: BUSY_BYTES_S, COLD: 4 * BUSY_BYTES_S}) == 0, "not more than its share"
    assert second(known, 2.0, {HOT: 2 * BUSY_BYTES_S, COLD: BUSY_BYTES_S}) == 3
    assert second(known, 3.0, {HOT: 2 * BUSY_BYTES_S // 4, COLD: 1000}) == 3, "a quarter of it is seen here now"
    assert second(known, 4.0, {HOT: 100 * BUSY_BYTES_S}) == SPREAD_MOST


def test_when_the_heat_goes_one_worker_fewer_is_told_each_second() -> None:
    known = Heat()
    known.note(HOT, 0, 0.0, 0)
    assert second(known, 0.0, {HOT: 3 * BUSY_BYTES_S}) == 4
    assert [second(known, float(n), {COLD: 1000}) for n in range(1, 6)] == [3, 2, 1, 0, 0]


def test_many_small_requests_make_a_block_hot_too() -> None:
    known = Heat()
    known.note(HOT, 0, 0.0, 0)
    known.note(HOT, 3000 * 100, 0.5, 3000)
    assert known.note(HOT, 0, 1.0, 0) == 2


def test_only_so_many_blocks_are_watched() -> None:
    known = Heat()
    for number in range(10 * BLOCKS_MAX):
        known.note((number, 0), 1 << 30, 0.5)
    assert len(known._counts) == BLOCKS_MAX
    known.note(HOT, 0, 2.0)
    assert not known._spread, "none has a quarter"


# ---- in a worker --------------------------------------------------------------------------------------------------------


def told(world: World, method: Method, request: object, length: int) -> list[tuple[int, int, int]]:
    hot: list[tuple[int, int, int]] = []

    def heed(answer: ServedAnswer) -> None:
        hot.extend(answer.hot)

    assert world.tcp.read_into(method, request, bytearray(length), heed=heed) == length  # type: ignore[arg-type]
    return hot


@pytest.mark.parametrize("method", [Method.READ, Method.READ_MANY])
@pytest.mark.parametrize("length", [1000, 3 * MIB])
def test_readers_of_a_hot_block_are_told(
    world: World, monkeypatch: pytest.MonkeyPatch, method: Method, length: int
) -> None:
    monkeypatch.setattr(heat, "BUSY_BYTES_S", 1000)
    monkeypatch.setattr(heat, "WINDOW_S", 0.0)
    capability, _ = world.put(make_bytes(1, 4 * MIB))
    if method is Method.READ:
        request: object = ReadRequest(capability, 0, length)
    else:
        request = ReadManyRequest([capability], [(0, 0, length - 100), (0, 70_000, 100)])
    for _ in range(3):
        hot = told(world, method, request, length)
    assert hot == [(world.content(), 0, SPREAD_MOST)]
    other = msgspec.structs.replace(request, spread=True)  # type: ignore[type-var]
    assert told(world, method, other, length) == [], "who was sent here is not sent on"


@pytest.mark.parametrize("method", [Method.READ, Method.READ_MANY])
def test_a_worker_that_a_hot_block_is_read_from_gets_it_from_the_owner_and_keeps_it(
    make_world: Callable[..., World], method: Method
) -> None:
    owner = make_world(local_copy="never")
    other = make_world(store=owner.store, local_copy="never")
    for number, world in enumerate((owner, other), 1):
        world.run(world.worker._peers.hear, {1: owner.address, 2: other.address})
        world.run(world.worker._peers.follow, number, table_of(1, 1, array("H", [1] * SLOTS).tobytes()), ())
    capability, data = owner.put(make_bytes(2, 3 * MIB))
    for spread, kept in ((False, 0), (True, 0b111), (True, 0b111)):
        buffer = bytearray(3 * MIB)
        if method is Method.READ:
            other.tcp.read_into(method, ReadRequest(capability, 0, 3 * MIB, spread=spread), buffer)
        else:
            other.tcp.read_into(method, ReadManyRequest([capability], [(0, 0, 3 * MIB)], spread=spread), buffer)
        assert bytes(buffer) == data
        assert other.present() == kept
    assert sum(length for _, _, length in owner.store.gets) == len(data)
