"""Groups of one block in one file: a local reader gets one descriptor for all of them, and they go together."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tiering_rig import PAGE, Rig

from monofs.model.block import GROUP_SIZE_BYTES, LAYOUT_WHOLE
from monofs.model.errors import NotCached, TierFull
from monofs.model.ids import ContentId
from monofs.tiering import admission
from monofs.tiering.cache import Group, TierSpec
from monofs.tiering.group import mask_pages
from monofs.tiering.shares import Rule

GROUP = GROUP_SIZE_BYTES


@pytest.fixture
def make_rig(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Rig]]:
    """Content 1 is one block; files may reach far beyond the few pages that are in them."""
    monkeypatch.setattr(admission, "PART", 0)
    rigs: list[Rig] = []

    def make(**options: object) -> Rig:
        rig = Rig(tmp_path, **options)  # type: ignore[arg-type]
        rig.layouts = {1: LAYOUT_WHOLE}
        rigs.append(rig)
        rig.open()
        return rig

    yield make
    for rig in rigs:
        rig.pump()
        rig.check()
        rig.cache.close()


def content(rig: Rig, groups: int = 3) -> list[Group]:
    """Content 1: full groups but for the last, of which two pages each are there."""
    made = [rig.fill(1, GROUP, 0b11, number) for number in range(groups - 1)]
    return [*made, rig.fill(1, PAGE + 7, None, groups - 1)]


def reads(rig: Rig, group: Group) -> None:
    rig.cache.hold(group)
    for page in mask_pages(group.present):
        assert rig.cache.read(group, page * PAGE, len(rig.data(group, page))) == rig.data(group, page)
    rig.cache.release(group)
    rig.pump()


def test_one_file_holds_every_group_at_its_place(make_rig: Callable[..., Rig]) -> None:
    rig = make_rig()
    groups = content(rig)
    assert len({group.file for group in groups}) == 1
    assert os.stat(rig.file(groups[0])).st_size == 2 * GROUP + PAGE + 7
    fd = rig.cache.open_reader(groups[0])
    for group in groups:
        for page in mask_pages(group.present):
            want = rig.data(group, page)
            assert os.pread(fd, len(want), group.number * GROUP + page * PAGE) == want
    os.close(fd)
    assert rig.used() == 5 * PAGE + 7


def test_a_restart_finds_them_together_and_more_may_join(make_rig: Callable[..., Rig]) -> None:
    rig = make_rig()
    before = [rig.fill(1, GROUP, 1, number).file for number in (0, 2)]
    rig.reopen()
    joined = rig.fill(1, GROUP, 1, 1)
    assert {joined.file, *before} == {joined.file}
    rig.check()
    rig.cache.index.flush()
    rig.cache._abandon()  # as a kill leaves it
    rig.cache = rig.new()
    rig.open()
    assert len(rig.files()) == 1
    for group in list(rig.cache):
        assert not group.verified
        reads(rig, group)


def test_they_are_evicted_together_and_the_last_joins_no_more(make_rig: Callable[..., Rig]) -> None:
    rig = make_rig(quota=6 * PAGE)
    content(rig)
    rig.fill(2, PAGE)
    assert rig.cached() == {2}
    assert len(rig.files()) == 1
    again = rig.fill(1, GROUP, 1, 1)
    assert (again.base, len(rig.files())) == (GROUP, 2)


def test_who_holds_one_keeps_the_file_and_its_bytes_count(make_rig: Callable[..., Rig]) -> None:
    rig = make_rig(quota=6 * PAGE)
    groups = content(rig)
    rig.cache.hold(groups[1])
    with pytest.raises(TierFull):
        rig.fill(2, 2 * PAGE)
    used = rig.used()
    rig.cache.free([ContentId(1)], False)
    assert rig.used() == used
    rig.check()
    assert len(rig.files()) == 1
    rig.cache.release(groups[1])
    assert (rig.used(), rig.files()) == (0, [])


def test_after_a_reader_has_gone_all_of_it_can_be_evicted_again(make_rig: Callable[..., Rig]) -> None:
    rig = make_rig(quota=6 * PAGE)
    groups = content(rig)
    rig.cache.hold(groups[1])
    rig.cache.hand_over(groups[0])
    with pytest.raises(TierFull):
        rig.fill(2, 2 * PAGE)
    rig.cache.hand_over(groups[1])
    rig.cache.release(groups[1])
    rig.check()
    rig.fill(2, 2 * PAGE)
    assert rig.cached() == {2}


def test_a_group_does_not_make_room_for_itself_by_its_own_file(make_rig: Callable[..., Rig]) -> None:
    rig = make_rig(quota=4 * PAGE)
    groups = [rig.fill(1, GROUP, 0b11, 0), rig.fill(1, GROUP, 1, 1)]
    with pytest.raises(TierFull):
        rig.fill(1, GROUP, 0b1110, 1)
    assert all(group.alive for group in groups)
    rig.fill(2, PAGE)
    rig.fill(1, GROUP, 0b10, 1)
    assert rig.cached() == {1}


def test_a_file_takes_no_more_than_its_part_of_the_directory(
    make_rig: Callable[..., Rig], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is read goes as a whole: were it all there is, nothing more could come in."""
    monkeypatch.setattr(admission, "PART", 2)
    rig = make_rig(quota=5 * GROUP)
    groups = [rig.fill(1, GROUP, 1, number) for number in range(4)]
    assert groups[0].file == groups[1].file
    assert len({group.file for group in groups}) == 3
    for group in groups:
        reads(rig, group)


def test_a_group_that_comes_back_is_never_written_over_its_old_bytes(make_rig: Callable[..., Rig]) -> None:
    rig = make_rig()
    first, second, _ = content(rig)
    rig.cache.hold(first)
    rig.corrupt(second, 1)
    assert rig.cache.check_pages(second, second.present) == 0b10
    rig.cache.drop_pages(second, 0b10)
    again = rig.fill(1, GROUP, 0b10, 1)
    assert again.file != second.file
    rig.pump()
    reads(rig, again)
    rig.check()
    rig.cache.release(first)


def test_a_bad_page_leaves_the_others_where_they_are(make_rig: Callable[..., Rig]) -> None:
    rig = make_rig()
    first, second, third = content(rig)
    rig.corrupt(second, 0)
    rig.cache.drop_pages(second, 1)
    rig.pump()
    copy = rig.cache.lookup(ContentId(1), 1)
    assert copy is not None
    assert (copy.present, copy.file == first.file) == (0b10, False)
    assert first.alive
    assert third.alive
    for group in (first, copy, third):
        reads(rig, group)
    rig.check()
    rig.reopen()
    assert len(rig.files()) == 2


def test_they_change_their_tier_together(make_rig: Callable[..., Rig], tmp_path: Path) -> None:
    tiers = [TierSpec(name, str(tmp_path / name), 8 * PAGE) for name in ("TOP", "LOW")]
    rig = make_rig(tiers=tiers, watermark=0.5)
    content(rig)
    rig.cache.tend()
    rig.pump()
    moved = rig.cache.groups(ContentId(1))
    assert {(group.tier, group.file) for group in moved} == {("LOW", moved[0].file)}
    assert len(rig.files()) == 1
    for group in moved:
        reads(rig, group)
    joined = rig.fill(1, GROUP, 1, 5)
    assert joined.file == moved[0].file
    rig.cache.drop(ContentId(1))
    rig.fill(1, GROUP, 1, 0)
    rig.fill(1, GROUP, 1, 1)
    rig.check()


def test_a_file_somebody_removed_is_not_made_anew_with_holes_in_it(make_rig: Callable[..., Rig]) -> None:
    rig = make_rig()
    first = rig.fill(1, GROUP, 1, 0)
    rig.file(first).unlink()
    second = rig.admit(1, GROUP, 1)
    rig.cache.reserve(second, 1)
    with pytest.raises(NotCached):
        rig.write(second, 1)
    assert rig.cache.drop_file(second)
    rig.cache.unreserve(second, 1)
    rig.pump()
    assert rig.cached() == set()


def test_what_no_store_has_lies_together_too(make_rig: Callable[..., Rig]) -> None:
    rig = make_rig(quota=4 * PAGE)
    rig.cache.adopt_cluster(b"a" * 16, 1)
    kept = [rig.keep(1, PAGE, number) for number in (0, 1)]
    assert kept[0].file == kept[1].file
    rig.reopen()
    assert all(group.kept for group in rig.cache)
    with pytest.raises(TierFull):
        rig.fill(2, 3 * PAGE)
    assert rig.cached() == {1}
    rig.cache.adopt_cluster(b"o" * 16, 1)
    rig.check()
    rig.reopen()
    rig.check()
    rig.cache.adopt_cluster(b"a" * 16, 1)
    rig.check()
    assert rig.cached() == {1}
    for group in list(rig.cache):
        reads(rig, group)


def test_groups_of_one_file_that_are_in_use_when_their_time_is_over_go_later(make_rig: Callable[..., Rig]) -> None:
    rig = make_rig()
    rig.cache.set_groups({1: Rule(ttl_s=60)})
    groups = [rig.fill(1, GROUP, 1, number, policy=1) for number in range(3)]
    for group in groups:
        rig.cache.hold(group)
    rig.cache._clock_ns = lambda: 61 * 10**9
    assert rig.cache.expire(100) == 0
    for group in groups:
        rig.cache.release(group)
    rig.cache._clock_ns = lambda: 72 * 10**9
    assert rig.cache.expire(100) == 3
    assert rig.files() == []
