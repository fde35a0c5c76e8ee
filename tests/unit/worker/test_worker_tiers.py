"""Readers who ask for it have what they read moved to the top tier; others leave it where it is."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from worker_world import MIB, PATIENCE_S, World, make_bytes

from monofs.model.block import DEFAULT_LAYOUT, LAYOUT_WHOLE
from monofs.model.options import ReadType
from monofs.rpc.api import DescriptorAnswer, DescriptorRequest, Method, ReadRequest, ReleaseAnswer, ReleaseRequest
from monofs.tiering.cache import TierSpec


@pytest.fixture
def world(make_world: Callable[..., World], tmp_path: Path) -> World:
    return make_world(
        tiers=[TierSpec("TOP", str(tmp_path / "top"), 2 * MIB), TierSpec("LOW", str(tmp_path / "low"), 8 * MIB)]
    )


def tier_of(world: World, counter: int) -> str:
    return str(world.run(lambda: world.cache.groups(world.content(counter))[0].tier))


def fill_both_tiers(world: World) -> tuple[bytes, bytes]:
    """Contents 1 and 2 in the top tier, 3 below; then room at the top. The third's capability and bytes."""
    files = [world.put(make_bytes(counter, MIB)) for counter in (1, 2, 3)]
    for token, data in files:
        assert world.read(token, 0, len(data)) == data
    assert [tier_of(world, counter) for counter in (1, 2, 3)] == ["TOP", "TOP", "LOW"]
    world.run(lambda: world.cache.drop(world.content(1)))
    return files[2]


def promoting(world: World, way: str, token: bytes, data: bytes) -> None:
    if way == "read":
        assert world.read(token, 0, len(data), cache=ReadType.CACHE_PROMOTE) == data
    elif way == "read many":
        assert world.read_many([token], [(0, 0, 1000)], cache=ReadType.CACHE_PROMOTE) == data[:1000]
    elif way == "fetch":
        assert world.fetch(token, 0, 1, cache=ReadType.CACHE_PROMOTE).cached
    else:
        request = DescriptorRequest(token, 0, ReadType.CACHE_PROMOTE)
        _, fd = world.unix.call_with_descriptor(Method.DESCRIPTOR, request, DescriptorAnswer, timeout_s=PATIENCE_S)
        assert os.pread(fd, len(data), 0) == data
        os.close(fd)


@pytest.mark.parametrize("way", ["read", "read many", "fetch", "descriptor"])
def test_a_second_read_with_promotion_moves_the_group_to_the_top_tier(world: World, way: str) -> None:
    """A scan reads everything once: it must not push out what is read again and again."""
    token, data = fill_both_tiers(world)
    content = world.content(3)
    promoting(world, way, token, data)
    promoting(world, way, token, data)
    assert not world.run(lambda: world.cache.moves), "reads in quick succession are one"
    world.run(lambda: setattr(world.cache, "_burst_ns", 0))
    promoting(world, way, token, data)
    world.on_reactor_until(lambda: world.cache.groups(content)[0].tier == "TOP")
    assert world.read(token, 0, len(data)) == data
    assert len(world.store.gets) == 3


def test_an_ordinary_read_leaves_the_group_where_it_is(world: World) -> None:
    token, data = fill_both_tiers(world)
    assert world.read(token, 0, len(data)) == data
    assert not world.run(lambda: world.cache.moves)
    assert tier_of(world, 3) == "LOW"


def lend(world: World, token: bytes, read_type: str = ReadType.CACHE) -> int:
    """A descriptor's lease; whoever has it reads unseen."""
    request = DescriptorRequest(token, 0, read_type)
    answer, fd = world.unix.call_with_descriptor(Method.DESCRIPTOR, request, DescriptorAnswer, timeout_s=PATIENCE_S)
    os.close(fd)
    return int(answer.lease)


def keep(world: World, lease: int) -> None:
    """What a client says twice a minute of a descriptor that was read from since it last said so."""
    world.unix.call(Method.RELEASE, ReleaseRequest([], [lease]), ReleaseAnswer, PATIENCE_S)


def test_what_is_read_through_a_descriptor_all_the_time_stays_longest(make_world: Callable[..., World]) -> None:
    world = make_world(quota=4 * MIB)
    world.run(lambda: setattr(world.cache, "_burst_ns", 0))
    files = [world.put(make_bytes(counter, MIB)) for counter in (1, 2, 3, 4)]
    for token, data in files:
        world.read(token, 0, len(data))
    once, again = lend(world, files[0][0]), lend(world, files[1][0])
    before = world.run(lambda: [world.cache.groups(world.content(n))[0].heat for n in (1, 2)])
    keep(world, once)
    keep(world, again)
    assert world.run(lambda: [world.cache.groups(world.content(n))[0].heat for n in (1, 2)]) == before, (
        "counted when lent"
    )
    keep(world, again)
    heat = world.run(lambda: [world.cache.groups(world.content(n))[0].heat for n in (1, 2)])
    assert heat[1] > before[1]
    assert heat[0] == before[0]


def test_a_group_read_through_a_descriptor_all_the_time_moves_up(world: World) -> None:
    token, data = fill_both_tiers(world)
    world.run(lambda: setattr(world.cache, "_burst_ns", 1))
    lease, plain = lend(world, token, ReadType.CACHE_PROMOTE), lend(world, token)
    for _ in range(3):
        keep(world, plain)
    assert tier_of(world, 3) == "LOW", "nobody asked for it"
    for _ in range(2):
        keep(world, lease)
    content = world.content(3)
    world.on_reactor_until(lambda: world.cache.groups(content)[0].tier == "TOP")
    assert world.read(token, 0, len(data)) == data


def test_a_block_s_file_that_somebody_removed_is_made_anew_whichever_group_is_read(
    make_world: Callable[..., World],
) -> None:
    world = make_world()
    capability, data = world.put(make_bytes(1, 66 * MIB), layout=LAYOUT_WHOLE)
    assert world.read(capability, 0, MIB) == data[:MIB]
    os.unlink(world.path_of())
    assert world.read(capability, 64 * MIB, 2 * MIB) == data[64 * MIB :]
    assert world.read(capability, 0, 2 * MIB) == data[: 2 * MIB]


@pytest.mark.parametrize("layout", [DEFAULT_LAYOUT, LAYOUT_WHOLE])
def test_all_that_is_on_its_way_into_a_file_that_somebody_removed_comes(
    make_world: Callable[..., World], layout: int
) -> None:
    world = make_world()
    capability, data = world.put(make_bytes(1, 66 * MIB), layout=layout)
    assert world.read(capability, 0, MIB) == data[:MIB]
    with world.store.closed_gate():
        readers = world.ask([ReadRequest(capability, at * MIB, MIB) for at in (8, 16, 24, 64, 65)])
        world.store.wait_asked(4)
        os.unlink(world.path_of())
    for at, reader in zip((8, 16, 24, 64, 65), readers, strict=True):
        assert reader.wait() == data[at * MIB : (at + 1) * MIB]
