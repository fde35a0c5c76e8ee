"""Hits, misses and bytes by source are what readers met, however many pages one request asks for and however they come in."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from test_worker_handing import change, groups, handed
from test_worker_peers import make_worlds
from worker_world import MIB, World, make_bytes

from monofs.model.block import PAGE_SIZE_BYTES
from monofs.observe import metrics
from monofs.testing.masters import wait_until

__all__ = ["make_worlds"]


class Counts:
    """What changed since it was made."""

    def __init__(self) -> None:
        self._before = self._now()

    @staticmethod
    def _now() -> dict[str, float]:
        sums = {"hits": 0.0, "misses": 0.0, "cache": 0.0, "store": 0.0}
        for family, name in ((metrics.PAGE_HITS, "hits"), (metrics.PAGE_MISSES, "misses")):
            sums[name] = sum(child.value for child in family.children.values())
        for (source, _way), child in metrics.SERVED_BYTES.children.items():
            sums[source] += child.value
        return sums

    def changed(self) -> dict[str, float]:
        return {name: value - self._before[name] for name, value in self._now().items() if value != self._before[name]}


@pytest.fixture
def counts() -> Counts:
    return Counts()


def test_a_batch_over_cold_files_is_all_misses_and_warm_all_hits(world: World, counts: Counts) -> None:
    files = [world.put(make_bytes(seed, 100_000)) for seed in range(40)]
    capabilities, bodies = [each[0] for each in files], [each[1] for each in files]
    pieces = [(n, 0, 100_000) for n in range(40)]
    assert world.read_many(capabilities, pieces) == b"".join(bodies)
    assert counts.changed() == {"misses": 40, "store": 4_000_000}
    counts = Counts()
    assert world.read_many(capabilities, pieces) == b"".join(bodies)
    assert counts.changed() == {"hits": 40, "cache": 4_000_000}


def test_a_batch_partly_cached_tells_both(world: World, counts: Counts) -> None:
    one, first = world.put(make_bytes(1, 3 * MIB))
    two, second = world.put(make_bytes(2, MIB))
    world.read(one, 0, 10)
    counts = Counts()
    pieces = [(0, 0, 100), (1, 50, 100), (0, 2 * MIB, 100)]
    assert world.read_many([one, two], pieces) == first[:100] + second[50:150] + first[2 * MIB :][:100]
    assert counts.changed() == {"hits": 1, "misses": 2, "cache": 100, "store": 200}


def test_a_large_cold_read_misses_every_page_of_every_group(world: World, counts: Counts) -> None:
    capability, data = world.put(make_bytes(3, 70 * MIB))
    assert world.read(capability, 0, len(data)) == data
    pages = 70 * MIB // PAGE_SIZE_BYTES
    assert counts.changed() == {"misses": pages, "store": 70 * MIB}
    counts = Counts()
    assert world.read(capability, 0, len(data)) == data
    assert counts.changed() == {"hits": pages, "cache": 70 * MIB}


def test_a_load_is_no_miss_and_what_it_brought_is_hit(world: World, counts: Counts) -> None:
    capability, data = world.put(make_bytes(4, 3 * MIB))
    assert world.fetch(capability, 0, 0b111, unread=True).present == 0b111
    assert world.fetch(capability, 0, 0b111, unread=True).present == 0b111, "once more"
    assert counts.changed() == {}
    assert world.read(capability, 0, len(data)) == data
    assert counts.changed() == {"hits": 3, "cache": len(data)}


def test_what_is_asked_of_the_owner_by_another_worker_counts_where_it_was_asked_for(
    make_worlds: Callable[..., list[World]],
) -> None:
    asked, owner = worlds = make_worlds(2)
    change(worlds, 2, epoch=1)
    loaded, _ = asked.put(make_bytes(5, 3 * MIB))
    read, data = asked.put(make_bytes(6, 3 * MIB))
    counts = Counts()
    asked.fetch(loaded, 0, 0b111, unread=True)
    assert counts.changed().keys().isdisjoint({"hits", "misses"}), "nobody reads"
    assert asked.read(read, 0, len(data)) == data
    assert counts.changed()["misses"] == 3, "each page once, though two workers missed it"
    assert groups(owner) == 2


def test_pages_that_go_to_another_worker_are_neither_hits_nor_misses(make_worlds: Callable[..., list[World]]) -> None:
    old, new = worlds = make_worlds(2)
    change(worlds, 1, epoch=1)
    files = [old.put(make_bytes(number, size)) for number, size in enumerate((1000, 3 * MIB))]
    for capability, data in files:
        old.read(capability, 0, len(data))
    counts = Counts()
    change(worlds, 2, epoch=2)
    wait_until(lambda: handed(old) and groups(old) == 0, "not all was handed over")
    assert counts.changed().keys().isdisjoint({"hits", "misses"})
    assert new.read(files[0][0], 0, 1000) == files[0][1]
    assert counts.changed()["hits"] == 1
