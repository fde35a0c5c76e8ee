"""Groups move down a tier ahead of need, up on request, and never cost a byte, a quota or a reader anything."""

from __future__ import annotations

import os
import resource
from collections.abc import Callable
from pathlib import Path

import pytest
from tiering_rig import PAGE, Rig

from monofs.model.errors import ConfigError
from monofs.model.ids import ContentId
from monofs.model.options import Priority
from monofs.tiering.cache import Group, Rule, TierSpec
from monofs.tiering.eviction import ALLOCATIONS, Allocation

Make = Callable[..., Rig]


@pytest.fixture
def make(make_rig: Make, tmp_path: Path) -> Make:
    """``make(TOP=4, LOW=8)``: tiers with quotas in pages, a quarter of which `tend` keeps free."""

    def make(*, watermark: float = 0.75, **tiers: int) -> Rig:
        specs = [TierSpec(name, str(tmp_path / name), pages * PAGE) for name, pages in tiers.items()]
        return make_rig(tiers=specs, watermark=watermark)

    return make


def tiers_of(rig: Rig) -> dict[str, set[int]]:
    found: dict[str, set[int]] = {spec.name: set() for spec in rig.tiers}
    for group in rig.cache:
        found[group.tier].add(group.content)
    return found


def read(rig: Rig, content: int) -> None:
    """Every byte of a cached content is what it was."""
    for group in rig.cache.groups(ContentId(content)):
        rig.cache.hold(group)
        for page in range(group.present.bit_length()):
            if group.present >> page & 1:
                expected = rig.data(group, page)
                assert rig.cache.read(group, page * PAGE, len(expected)) == expected
        rig.cache.release(group)


def moved(rig: Rig, content: int) -> Group:
    (group,) = rig.cache.groups(ContentId(content))
    return group


def test_the_group_that_goes_next_moves_down_before_its_room_is_needed(make: Make) -> None:
    rig = make(TOP=4, LOW=8)
    for content in (1, 2, 3, 4):
        rig.fill(content)
    rig.cache.tend()
    rig.check(disk=False)
    rig.pump()
    assert tiers_of(rig) == {"TOP": {2, 3, 4}, "LOW": {1}}
    read(rig, 1)
    rig.check()
    rig.reopen()
    assert tiers_of(rig) == {"TOP": {2, 3, 4}, "LOW": {1}}
    rig.check()


def test_a_process_without_a_descriptor_left_moves_later_and_loses_nothing(make: Make) -> None:
    rig = make(TOP=4, LOW=8)
    for content in (1, 2, 3, 4):
        rig.fill(content)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
    try:
        rig.cache.tend()
        rig.pump()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert tiers_of(rig) == {"TOP": {1, 2, 3, 4}, "LOW": set()}
    assert [status.state for status in rig.cache.status()] == ["ok", "ok"]
    rig.cache.tend()
    rig.pump()
    assert [len(contents) for contents in tiers_of(rig).values()] == [3, 1]
    assert rig.cached() == {1, 2, 3, 4}
    rig.check()


def test_whoever_fills_a_tier_sets_it_going(make: Make) -> None:
    rig = make(TOP=4, LOW=8)
    for content in range(1, 12):
        rig.fill(content)
        rig.pump()
    assert {name: len(contents) for name, contents in tiers_of(rig).items()} == {"TOP": 3, "LOW": 6}
    assert {9, 10, 11} == tiers_of(rig)["TOP"]
    rig.check()


def test_the_lowest_tier_lets_go_ahead_of_need(make: Make) -> None:
    rig = make(TOP=4, LOW=4)
    for content in range(1, 9):
        rig.fill(content)
    assert [status.used_bytes for status in rig.cache.status()] == [4 * PAGE, 4 * PAGE]
    for _ in range(3):
        rig.cache.tend()
        rig.check(disk=False)
        rig.pump()
    assert all(status.used_bytes <= 3 * PAGE for status in rig.cache.status())
    assert tiers_of(rig)["TOP"] == {2, 3, 4}
    assert 1 in tiers_of(rig)["LOW"]
    rig.check()


def test_one_tier_frees_ahead_of_need_in_the_order_of_eviction(make: Make) -> None:
    rig = make(DISK=8)
    rig.cache.set_groups({1: Rule(priority=Priority.LOW)})
    for content in range(1, 8):
        rig.fill(content)
    rig.fill(9, policy=1)
    rig.cache.tend()
    assert rig.cached() == {2, 3, 4, 5, 6, 7}
    rig.cache.tend()
    assert len(rig.cached()) == 6
    rig.check()


def test_a_directory_of_a_few_pages_is_filled_to_the_last(make: Make) -> None:
    rig = make(watermark=0.97, DISK=8)
    for content in range(1, 9):
        rig.fill(content)
    rig.cache.tend()
    assert len(rig.cached()) == 8


def test_who_reads_a_group_while_it_moves_goes_on_and_its_bytes_count_until_then(make: Make) -> None:
    rig = make(TOP=4, LOW=8)
    for content in (1, 2, 3, 4):
        rig.fill(content)
    old = moved(rig, 1)
    rig.cache.tend()
    rig.cache.hold(old)
    fd = rig.cache.open_reader(old)
    rig.pump()
    assert moved(rig, 1).tier == "LOW"
    assert not old.alive
    assert rig.cache.status()[0].used_bytes == 4 * PAGE
    rig.check()
    assert os.pread(fd, PAGE, 0) == rig.data(old, 0)
    assert rig.cache.read(old, 0, PAGE) == rig.data(old, 0)
    os.close(fd)
    rig.cache.release(old)
    rig.pump()
    assert rig.cache.status()[0].used_bytes == 3 * PAGE
    rig.check()


def test_a_group_that_gets_pages_while_it_moves_stays(make: Make) -> None:
    rig = make(TOP=4, LOW=8)
    growing = rig.fill(1, 2 * PAGE, mask=1)
    for content in (2, 3):
        rig.fill(content)
    rig.fill(4, PAGE // 2)
    rig.cache.tend()
    assert growing in rig.cache.moves
    rig.cache.drop(ContentId(4))
    rig.fill(1, 2 * PAGE)
    rig.pump()
    assert moved(rig, 1) is growing
    assert (growing.tier, growing.present) == ("TOP", 3)
    rig.check()


@pytest.mark.parametrize("how", ["drop", "free"])
def test_a_group_that_leaves_while_it_moves_does_not_come_back(make: Make, how: str) -> None:
    rig = make(TOP=4, LOW=8)
    for content in (1, 2, 3, 4):
        rig.fill(content)
    rig.cache.tend()
    if how == "drop":
        rig.cache.drop(ContentId(1))
    else:
        rig.cache.free([ContentId(1)], force=False)
    rig.pump()
    assert tiers_of(rig) == {"TOP": {2, 3, 4}, "LOW": set()}
    assert len(rig.files()) == 3
    rig.check()


def test_a_bad_page_does_not_move(make: Make) -> None:
    rig = make(TOP=8, LOW=8)
    bad = rig.fill(1, 3 * PAGE)
    for content in range(2, 7):
        rig.fill(content)
    rig.corrupt(bad, 1)
    rig.cache.tend()
    rig.pump()
    found = moved(rig, 1)
    assert found.present == 0b101
    read(rig, 1)
    rig.check()


def test_pinned_and_kept_groups_stay_where_they_are(make: Make) -> None:
    rig = make(TOP=4, LOW=8)
    kept = rig.keep(1)
    rig.fill(2)
    rig.cache.pin([ContentId(2)])
    for content in (3, 4):
        rig.fill(content)
    for _ in range(3):
        rig.cache.tend()
        rig.pump()
    assert tiers_of(rig) == {"TOP": {1, 2, 4}, "LOW": {3}}
    assert kept.alive
    rig.check()


def test_a_group_pinned_while_it_moves_is_pinned_where_it_arrives(make: Make) -> None:
    rig = make(TOP=4, LOW=8)
    for content in (1, 2, 3, 4):
        rig.fill(content)
    rig.cache.tend()
    rig.cache.pin([ContentId(1)])
    rig.pump()
    assert (moved(rig, 1).tier, moved(rig, 1).pinned) == ("LOW", True)
    assert rig.cache.status()[1].pinned_bytes == PAGE
    rig.check()


def test_without_room_below_the_group_is_lost_instead(make: Make) -> None:
    rig = make(TOP=4, LOW=2)
    for content in (1, 2):
        rig.cache.pin([ContentId(content)])
    for content in (3, 4, 5, 6, 1, 2):
        rig.fill(content)
    assert tiers_of(rig)["LOW"] == {1, 2}
    rig.cache.tend()
    rig.pump()
    assert tiers_of(rig) == {"TOP": {4, 5, 6}, "LOW": {1, 2}}
    rig.check()


def test_a_group_read_with_promotion_moves_to_the_top_and_keeps_what_is_known_of_it(make: Make) -> None:
    rig = make(watermark=1, TOP=4, LOW=8)
    for content in range(1, 6):
        rig.fill(content)
    below = moved(rig, 5)
    assert below.tier == "LOW"
    rig.cache.promote(below)
    assert not rig.cache.moves, "no room"
    rig.cache.drop(ContentId(1))
    rig.cache.promote(below)
    rig.cache.promote(moved(rig, 2))
    rig.pump()
    assert tiers_of(rig) == {"TOP": {2, 3, 4, 5}, "LOW": set()}
    assert (moved(rig, 5).read_ns, moved(rig, 5).heat) == (below.read_ns, below.heat)
    read(rig, 5)
    rig.check()


def test_a_stop_while_groups_move_loses_nothing_and_leaves_no_file(make: Make) -> None:
    rig = make(TOP=8, LOW=8)
    for content in range(1, 9):
        rig.fill(content)
    rig.cache.tend()
    rig.reopen()  # what the mover handed over is never taken
    assert rig.cached() == set(range(1, 9))
    for content in range(1, 9):
        read(rig, content)
    rig.check()


def test_a_tier_that_fails_while_a_group_comes_leaves_it_where_it_was(make: Make) -> None:
    rig = make(TOP=4, LOW=8)
    for content in (1, 2, 3, 4):
        rig.fill(content)
    low = rig.cache.directories[1]
    low.fail(OSError(5, "Input/output error"))
    low._probe_at = float("inf")
    rig.cache.tend()
    assert not rig.cache.moves
    assert rig.cached() == {2, 3, 4}, "nothing is moved to a tier that fails"
    rig.check(disk=False)


@pytest.mark.parametrize("watermark", [0, -0.5, 1.1])
def test_a_watermark_that_makes_no_sense_is_refused(make: Make, watermark: float) -> None:
    with pytest.raises(ConfigError, match=r"worker\.watermark"):
        make(watermark=watermark, DISK=4)


# ---- allocation ---------------------------------------------------------------------------------------------------------


class Room:
    """A directory as `Allocation` sees it."""

    def __init__(self, tier: str, name: str, free: int) -> None:
        self.tier, self.name, self.free = tier, name, free

    def free_bytes(self) -> int:
        return self.free


def taken(how: str, rooms: list[Room], count: int, need: int = 1) -> str:
    allocation, names = Allocation(how), ""
    for _ in range(count):
        room = allocation.with_room(rooms, need)  # type: ignore[type-var]
        if room is None:
            return names + "-"
        room.free -= need
        names += room.name
    return names


@pytest.mark.parametrize(
    ("how", "expected"), [("max-free", "ccabcabca"), ("round-robin", "abcabcbcb"), ("greedy", "aabbbbccc")]
)
def test_within_a_tier_directories_take_turns_as_the_setting_says(how: str, expected: str) -> None:
    rooms = [Room("D", "a", 2), Room("D", "b", 4), Room("D", "c", 6)]
    if how == "max-free":
        rooms = [Room("D", "a", 4), Room("D", "b", 4), Room("D", "c", 6)]
    assert taken(how, rooms, 9) == expected


@pytest.mark.parametrize("how", ALLOCATIONS)
def test_a_lower_tier_is_used_only_when_the_upper_has_no_room(how: str) -> None:
    rooms = [Room("LOW", "z", 100), Room("TOP", "a", 2), Room("TOP", "b", 2)]
    rooms = [rooms[1], rooms[0], rooms[2]]
    found = taken(how, rooms, 6)
    assert sorted(found[:4]) == ["a", "a", "b", "b"]
    assert found[4:] == "zz"
    assert taken(how, [Room("TOP", "a", 2)], 1, need=3) == "-"


def test_an_unknown_allocation_is_named_with_those_there_are() -> None:
    with pytest.raises(ConfigError, match=r"worker\.allocation: 'best' is not one of max-free, "):
        Allocation("best")


def test_a_group_goes_where_all_of_it_will_fit_so_that_nothing_is_lost_for_it(make: Make) -> None:
    rig = make(TOP=4, LOW=8)
    rig.fill(1, 2 * PAGE)
    growing = rig.fill(2, 3 * PAGE, mask=1)
    assert growing.tier == "LOW"
    assert rig.fill(3, 2 * PAGE).tier == "TOP"
    assert rig.fill(4, 6 * PAGE, mask=1).tier == "LOW"
    assert rig.cached() == {1, 2, 3, 4}
    rig.check()
