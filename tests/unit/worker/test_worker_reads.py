"""Reads that hit and reads that miss give the bytes of the store, whatever their offset, length and way."""

from __future__ import annotations

import pytest
from worker_world import MIB, World, make_bytes

from monofs.model.errors import InvalidArgument

SIZES = [1, 4096, MIB - 1, MIB, MIB + 1, 3 * MIB + 77, 64 * MIB - 1, 64 * MIB, 64 * MIB + 1]


@pytest.mark.parametrize("size", SIZES)
def test_a_whole_file_reads_the_same_cold_and_warm(world: World, size: int) -> None:
    capability, data = world.put(make_bytes(size, size))
    assert world.read(capability, 0, size) == data
    gets = len(world.store.gets)
    assert world.read(capability, 0, size) == data
    assert world.read(capability, 0, size, pool=world.unix) == data
    assert len(world.store.gets) == gets, "the second read never asks the store"


def test_bytes_beyond_the_end_are_cut_off(world: World) -> None:
    capability, data = world.put(make_bytes(1, 1000))
    assert world.read(capability, 990, 4096) == data[990:]
    assert world.read(capability, 1000, 4096) == b""
    assert world.read(capability, 5000, 10) == b""


def test_a_negative_span_is_refused(world: World) -> None:
    capability, _ = world.put(b"abc")
    with pytest.raises(InvalidArgument):
        world.read(capability, -1, 2)


def test_an_unknown_read_type_is_refused_by_name(world: World) -> None:
    capability, _ = world.put(b"abc")
    with pytest.raises(InvalidArgument, match="SOMETIMES"):
        world.read(capability, 0, 2, cache="SOMETIMES")


def test_a_piece_behind_the_end_takes_nothing_from_its_neighbours(world: World) -> None:
    capability, data = world.put(make_bytes(2, 1000))
    world.read(capability, 0, 1000)
    assert world.read_many([capability], [(0, 0, 100), (0, 1050, 10), (0, 500, 100)]) == data[:100] + data[500:600]


@pytest.mark.parametrize("size", [1, 4096, 40_000, 100_000, 131_072, 131_073])
def test_pieces_of_any_size_come_in_their_order_cold_and_warm(world: World, size: int) -> None:
    capability, data = world.put(make_bytes(3, 5 * size + 7))
    pieces = [(0, begin, size) for begin in (4 * size, 0, 2 * size, 5 * size)]
    wanted = b"".join(data[begin : begin + size] for _, begin, size in pieces)
    for _ in range(2):
        assert world.read_many([capability], pieces) == wanted
        assert world.read(capability, size, size) == data[size : 2 * size]
    assert world.read_many([capability], []) == b""
