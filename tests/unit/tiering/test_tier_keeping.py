"""Bytes that no store has: nothing but the end of their content takes them away. And groups written before their length is known."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from tiering_rig import PAGE, Rig

from monofs.model.block import GROUP_SIZE_BYTES
from monofs.model.errors import HomeUnusable, InvariantBroken, NotCached, PageCorrupt, TierFull, TierUnusable
from monofs.model.ids import ContentId
from monofs.tiering.cache import GROWING, Group, TierSpec
from monofs.tiering.index import META

CLUSTER, OTHER = b"c" * 16, b"d" * 16


@pytest.fixture
def rig(make_rig: Callable[..., Rig]) -> Rig:
    rig = make_rig()
    rig.cache.adopt_cluster(CLUSTER, 1)
    return rig


def read(rig: Rig, content: int, number: int = 0) -> bytes:
    group = rig.cache.lookup(ContentId(content), number)
    assert group is not None
    rig.cache.hold(group)
    try:
        data = rig.cache.read(group, 0, group.length)
    finally:
        rig.cache.release(group)
    rig.pump()
    assert data is not None
    return bytes(data)


def right(rig: Rig, group: Group) -> bytes:
    return b"".join(rig.data(group, page) for page in range(-(-group.length // PAGE)))


def synced_for(rig: Rig, content: int) -> list[Path]:
    """What is made durable for a new kept file, in order."""
    paths: list[Path] = []

    def fsync(fd: int) -> None:
        paths.append(Path(os.readlink(f"/proc/self/fd/{fd}")))
        real(fd)

    real = os.fsync
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("os.fsync", fsync)
        group = rig.keep(content, 10)
    file = rig.file(group)
    assert paths[:2] == [file, file.parent]
    return paths[2:]


def kill(rig: Rig) -> None:
    """End as kill -9 would, and start again."""
    rig.cache._is_open = False
    rig.cache._abandon()
    rig.cache = rig.new()
    rig.open()


def test_a_file_is_durable_with_the_directories_that_name_it_of_which_the_upper_one_is_synced_once(rig: Rig) -> None:
    files = Path(rig.tiers[0].directory) / "files"
    assert synced_for(rig, 1) == [files]
    for content in range(2, 258):
        last = synced_for(rig, content)
    assert last == [], "this file is the second of its directory"
    for each in files.iterdir():
        shutil.rmtree(each)
    assert synced_for(rig, 258) == [files], "it was made anew"


def test_kept_pages_are_evicted_freed_and_dropped_by_nothing_but_their_end(make_rig: Callable[..., Rig]) -> None:
    rig = make_rig(quota=3 * PAGE)
    kept = rig.keep(1, PAGE + 5)
    for content in range(2, 9):
        rig.fill(content, 1000)
    with pytest.raises(TierFull):
        rig.fill(10, 2 * PAGE)
    assert rig.cache.free([ContentId(1)], force=True) == 1
    rig.cache.drop_clean()
    assert rig.cached() == {1}
    assert read(rig, 1) == right(rig, kept)
    rig.check()
    rig.cache.drop(ContentId(1))
    assert (rig.cached(), rig.used(), rig.files()) == (set(), 0, [])
    rig.check()


def test_kept_pages_outlive_a_kill_and_are_compared_before_they_are_served(rig: Rig) -> None:
    rig.keep(1, 3 * PAGE + 1)
    rig.fill(2)
    kill(rig)
    group = rig.cache.lookup(ContentId(1), 0)
    assert group is not None
    assert group.kept
    assert not group.verified
    assert rig.cache.check_pages(group, group.present) == 0
    assert read(rig, 1) == right(rig, group)
    rig.check()


def test_a_bad_kept_page_is_lost_and_the_others_stay(rig: Rig) -> None:
    group = rig.keep(1, 3 * PAGE)
    rig.cache.pin([ContentId(1)])
    rig.corrupt(group, 1)
    bad = rig.cache.check_pages(group, group.present)
    rig.cache.drop_pages(group, bad)
    assert (group.alive, group.present, group.lost) == (True, 5, 2)
    with pytest.raises(PageCorrupt, match="no store has"):
        rig.cache.check_kept(ContentId(1))
    assert rig.used() == 2 * PAGE
    rig.check()
    rig.corrupt(group, 1)  # once more: it was the disk's reading that was bad
    rig.reopen()
    again = rig.cache.lookup(ContentId(1), 0)
    assert again is not None
    assert (again.present, again.verified) == (7, False), "a restart looks again"
    assert rig.cache.check_pages(again, 7) == 0
    rig.check()


def test_a_kept_group_all_of_whose_pages_are_bad_stays_until_its_end(rig: Rig) -> None:
    group = rig.keep(1)
    rig.cache.drop_pages(group, 1)
    assert group.alive
    rig.check()
    with pytest.raises(PageCorrupt):
        rig.cache.check_kept(ContentId(1))
    rig.cache.drop(ContentId(1))
    rig.cache.check_kept(ContentId(1))
    rig.check()


@pytest.mark.parametrize("harm", ["missing", "short"])
def test_a_kept_file_that_is_harmed_is_not_swept(rig: Rig, harm: str) -> None:
    group = rig.keep(1, 2 * PAGE)
    path = rig.file(group)
    if harm == "missing":
        path.unlink()
    else:
        with path.open("r+b") as file:
            file.truncate(PAGE + 10)
    kill(rig)
    again = rig.cache.lookup(ContentId(1), 0)
    assert again is not None
    assert not again.verified
    bad = rig.cache.check_pages(again, again.present)
    assert bad == (3 if harm == "missing" else 2)
    rig.cache.drop_pages(again, bad)
    with pytest.raises(PageCorrupt):
        rig.cache.check_kept(ContentId(1))
    rig.check(disk=False)


def test_only_durable_directories_keep(make_rig: Callable[..., Rig], tmp_path: Path) -> None:
    tiers = [TierSpec("MEM", f"{tmp_path}/m", 8 * PAGE, durable=False), TierSpec("DISK", f"{tmp_path}/d", 2 * PAGE)]
    rig = make_rig(tiers=tiers)
    assert rig.fill(1).tier == "MEM"
    assert rig.keep(2).tier == "DISK"
    rig.keep(3)
    with pytest.raises(TierFull):
        rig.keep(4)
    rig.check()
    volatile = make_rig(tiers=[TierSpec("MEM", f"{tmp_path}/v", 8 * PAGE, durable=False)])
    with pytest.raises(TierUnusable, match="durable"):
        volatile.keep(1)
    volatile.check()


def test_kept_pages_of_a_directory_not_configured_come_back_with_it(
    make_rig: Callable[..., Rig], tmp_path: Path
) -> None:
    tiers = [TierSpec("A", f"{tmp_path}/a", 2 * PAGE), TierSpec("B", f"{tmp_path}/b", 8 * PAGE)]
    rig = make_rig(tiers=tiers)
    group = rig.keep(1)
    assert group.tier == "A"
    rig.tiers = tiers[1:]
    rig.reopen()
    with pytest.raises(NotCached, match="not configured"):
        rig.cache.check_kept(ContentId(1))
    rig.check()
    rig.tiers = [TierSpec("C", f"{tmp_path}/c", 8 * PAGE)]
    rig.reopen()
    rig.tiers = [*reversed(tiers)]
    rig.reopen()
    assert read(rig, 1) == right(rig, group)
    rig.check()
    rig.tiers = tiers[1:]
    rig.reopen()
    rig.cache.drop(ContentId(1))
    rig.check()
    rig.tiers = tiers
    rig.reopen()
    assert not rig.cached()
    rig.check()


def test_kept_pages_of_a_disk_not_mounted_are_told_from_pages_a_store_has(
    make_rig: Callable[..., Rig], tmp_path: Path
) -> None:
    rig = make_rig(tiers=[TierSpec("A", f"{tmp_path}/a", 8 * PAGE), TierSpec("B", f"{tmp_path}/b", 8 * PAGE)])
    rig.keep(1)
    rig.cache.close()
    shutil.move(f"{tmp_path}/a", f"{tmp_path}/elsewhere")
    Path(f"{tmp_path}/a").write_text("not a directory")
    rig.cache = rig.new()
    rig.open()
    with pytest.raises(NotCached, match="cannot be used now"):
        rig.cache.check_kept(ContentId(1))
    rig.cache.check_kept(ContentId(2))


def test_another_cluster_sets_kept_pages_aside_and_the_first_finds_them_again(rig: Rig) -> None:
    kept, old = rig.keep(1, PAGE + 7), rig.keep(2)
    rig.fill(3)
    rig.cache.adopt_cluster(OTHER, 1)
    assert rig.cached() == set()
    assert rig.used() == PAGE + 7 + PAGE, "their room is taken all the same"
    rig.check()
    other = rig.fill(1, 1000)
    rig.keep(9)
    rig.check()
    rig.reopen()
    assert rig.cached() == {1, 9}
    assert read(rig, 1) == right(rig, other)
    rig.check()
    kill(rig)
    rig.check()
    rig.cache.adopt_cluster(CLUSTER, 1)
    assert rig.cached() == {1, 2}
    assert read(rig, 1) == right(rig, kept)
    assert read(rig, 2) == right(rig, old)
    rig.check()
    rig.cache.adopt_cluster(OTHER, 1)
    assert rig.cached() == {9}
    rig.check()


def test_another_incarnation_of_the_same_cluster_keeps_what_nobody_else_has(rig: Rig) -> None:
    kept = rig.keep(1)
    rig.fill(2)
    rig.cache.adopt_cluster(CLUSTER, 2)
    assert rig.cached() == {1}
    assert read(rig, 1) == right(rig, kept)
    rig.check()


def test_an_index_with_something_set_aside_is_refused_by_older_releases(rig: Rig) -> None:
    rig.keep(1)
    rig.cache.adopt_cluster(OTHER, 1)
    rig.cache.index.flush()
    assert rig.cache.index.meta(b"format") == (2).to_bytes(8, "big")
    rig.cache.adopt_cluster(CLUSTER, 1)
    rig.reopen()
    assert rig.cache.index.meta(b"format") == (1).to_bytes(8, "big")


def test_a_group_of_unknown_length_is_sealed_at_its_end(make_rig: Callable[..., Rig]) -> None:
    rig = make_rig(quota=80 * PAGE)
    for content, tail in ((1, 0), (2, 5), (3, PAGE - 1)):
        group = rig.admit(content, GROWING)
        rig.cache.hold(group)
        rig.cache.reserve(group, 3)
        crcs = rig.write(group, 3)
        rig.cache.seal(group, 2 * PAGE + tail)
        if tail:
            rig.cache.reserve(group, 4)
            crcs += rig.write(group, 4)
        rig.cache.trim_file(group)
        rig.cache.commit(group, crcs)
        rig.cache.release(group)
        assert group.present == group.pages
        assert rig.file(group).stat().st_size == 2 * PAGE + tail
        assert read(rig, content) == right(rig, group)
    rig.check()
    rig.reopen()
    rig.check()


def test_a_group_given_up_before_its_end_leaves_nothing(rig: Rig) -> None:
    group = rig.admit(1, GROWING)
    rig.cache.hold(group)
    rig.cache.reserve(group, 1)
    rig.write(group, 1)
    rig.cache.unreserve(group, group.reserved)
    rig.cache.release(group)
    assert (rig.cached(), rig.used(), rig.files()) == (set(), 0, [])
    assert not rig.cache.gone
    rig.check()


def test_a_group_is_sealed_only_where_its_bytes_end(rig: Rig) -> None:
    group = rig.admit(1, GROUP_SIZE_BYTES)
    rig.cache.reserve(group, 2)
    for length in (PAGE, PAGE + 1, 0):
        with pytest.raises(InvariantBroken):
            rig.cache.seal(group, length)
    rig.cache.unreserve(group, 2)


def test_the_format_of_a_newer_release_is_refused(rig: Rig) -> None:
    rig.cache.index.put(META, b"format", (4).to_bytes(8, "big"))
    rig.cache.close()
    rig.cache = rig.new()
    with pytest.raises(HomeUnusable):
        rig.open()
