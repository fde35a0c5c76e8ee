"""Readers who ask for it have what they read moved to the top tier; others leave it where it is."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from worker_world import MIB, World, make_bytes

from monofs.model.options import ReadType
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


@pytest.mark.parametrize("way", ["read", "read many", "fetch"])
def test_a_read_with_promotion_moves_the_group_to_the_top_tier(world: World, way: str) -> None:
    token, data = fill_both_tiers(world)
    if way == "read":
        assert world.read(token, 0, len(data), cache=ReadType.CACHE_PROMOTE) == data
    elif way == "read many":
        assert world.read_many([token], [(0, 0, 1000)], cache=ReadType.CACHE_PROMOTE) == data[:1000]
    else:
        assert world.fetch(token, 0, 1, cache=ReadType.CACHE_PROMOTE).cached
    content = world.content(3)
    world.on_reactor_until(lambda: world.cache.groups(content)[0].tier == "TOP")
    assert world.read(token, 0, len(data)) == data
    assert len(world.store.gets) == 3


def test_an_ordinary_read_leaves_the_group_where_it_is(world: World) -> None:
    token, data = fill_both_tiers(world)
    assert world.read(token, 0, len(data)) == data
    assert not world.run(lambda: world.cache.moves)
    assert tier_of(world, 3) == "LOW"
