"""What a cache knows after a stop: a clean one, a killed process, a lost power supply, a damaged home."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path

import lmdb
import pytest
from tiering_rig import PAGE, Rig

from monofs.model.errors import HomeInUse, HomeUnusable, TierUnusable
from monofs.model.ids import ContentId
from monofs.tiering.cache import Cache, TierSpec
from monofs.tiering.index import GROUPS, KEY, META
from monofs.tiering.orders import POLICIES


def killed(rig: Rig, target: Path, *, flushed: bool) -> Rig:
    """The same home as a process killed now would leave it, in another place; the first cache ends."""
    rig.cache.settle()
    if flushed:
        rig.cache.index.flush()
    shutil.copytree(rig.home, target, ignore=shutil.ignore_patterns("lock.mdb"))
    rig.cache.close()
    tiers = [TierSpec(s.name, str(target / Path(s.directory).name), s.quota_bytes, s.durable) for s in rig.tiers]
    after = Rig(target, tiers)
    after.open()
    return after


# ---- clean stops --------------------------------------------------------------------------------------------------------


def test_a_clean_restart_is_warm_and_needs_no_check(rig):
    rig.fill(1, 3 * PAGE + 7, mask=0b1010)
    rig.fill(2, 5)
    rig.fill(3, 5, number=9)
    rig.cache.pin([ContentId(2)])
    rig.cache.adopt_cluster(b"c" * 16, 3)
    rig.fill(1, 3 * PAGE + 7, mask=0b1010)
    rig.fill(2, 5)
    rig.cache.pin([ContentId(2), ContentId(77)])
    rig.cache.set_cursor(41)
    cache = rig.reopen()
    group = cache.lookup(ContentId(1), 0)
    assert group is not None
    assert (group.present, group.verified, group.length, group.mount, group.tier) == (
        0b1010,
        True,
        3 * PAGE + 7,
        1,
        "DISK",
    )
    assert (cache.cluster, cache.incarnation, cache.cursor, cache.pins) == (b"c" * 16, 3, 41, {2, 77})
    assert cache.groups(ContentId(2))[0].pinned
    assert rig.used() == PAGE + 7 + 5
    rig.check()


@pytest.mark.parametrize("eviction", POLICIES)
def test_whatever_the_policy_groups_go_in_the_same_order_after_a_clean_restart(make_rig, eviction):
    rig = make_rig(eviction=eviction)
    for content in range(1, 9):
        rig.fill(content)
    for content in (2, 5, 5, 8):
        rig.cache.touch(rig.cache.lookup(content, 0))
    rig.cache.directories[0].policy.victim()  # looking for a victim may move some
    order = [group.content for group in rig.cache.directories[0].policy]
    rig.reopen()
    assert [group.content for group in rig.cache.directories[0].policy] == order
    rig.check()


def test_the_order_of_eviction_survives_a_clean_restart(rig):
    groups = {content: rig.fill(content) for content in (5, 3, 8, 1, 7, 2)}
    for content in (3, 5):
        rig.cache.touch(groups[content])
    reads = {content: group.read_ns for content, group in groups.items()}
    cache = rig.reopen()
    assert [group.content for group in cache.directories[0].policy] == [8, 1, 7, 2, 3, 5]
    assert {group.content: group.read_ns for group in cache} == reads
    cache = rig.reopen()
    assert [group.content for group in cache.directories[0].policy] == [8, 1, 7, 2, 3, 5]


def test_file_numbers_are_never_used_twice(rig):
    seen: set[int] = set()
    for _ in range(3):
        for content in range(1, 12):
            file = rig.fill(content).file
            assert file not in seen
            seen.add(file)
            rig.cache.drop(ContentId(content))
        rig.reopen()


def test_claims_of_file_numbers_are_renewed_before_they_run_out(tmp_path, monkeypatch):
    monkeypatch.setattr("monofs.tiering.recovery.FILE_CLAIM", 4)
    rig = Rig(tmp_path, quota=4 * PAGE)
    rig.open()
    numbers: list[int] = []
    for content in range(1, 12):
        try:
            numbers.append(rig.fill(content, 5).file)
        except TierUnusable:  # nothing durable to give: refused until the index has caught up
            rig.cache.index.flush()
            numbers.append(rig.fill(content, 5).file)
    assert numbers == sorted(set(numbers))
    assert rig.cache.index.next_file > max(numbers)
    rig.check()
    rig.cache.close()


def test_a_smaller_quota_at_the_next_start_evicts_down_to_it(rig):
    for content in range(1, 9):
        rig.fill(content)
    rig.cache.pin([ContentId(1)])
    rig.tiers[0] = TierSpec("DISK", rig.tiers[0].directory, 3 * PAGE)
    rig.reopen()
    assert rig.cached() == {1, 7, 8}
    assert rig.used() == 3 * PAGE
    rig.check()


def test_a_share_of_the_free_space_counts_what_the_cache_itself_uses(tmp_path):
    rig = Rig(tmp_path, [TierSpec("DISK", str(tmp_path / "tier"), 0, quota_share=0.5)])
    cache = rig.open()
    rig.fill(1)
    stat = os.statvfs(tmp_path)
    total = stat.f_blocks * stat.f_frsize
    assert 0 < cache.capacity_bytes < total
    assert rig.reopen().capacity_bytes > 0
    rig.check()
    rig.cache.close()


# ---- unclean stops ------------------------------------------------------------------------------------------------------


def test_after_a_kill_pages_are_there_but_unverified_until_their_crcs_were_checked(rig, tmp_path):
    rig.fill(1, 2 * PAGE)
    rig.fill(2)
    after = killed(rig, tmp_path / "after", flushed=True)
    group = after.cache.lookup(ContentId(1), 0)
    assert group is not None
    assert not group.verified
    assert after.cache.check_pages(group, group.present) == 0
    group.verified = True
    after.check()
    cache = after.reopen()  # a clean stop must not make the others trusted
    assert [cache.groups(ContentId(content))[0].verified for content in (1, 2)] == [True, False]
    cache.close()


def test_the_index_may_lag_behind_the_files_but_never_run_ahead(rig, tmp_path):
    rig.fill(1, 2 * PAGE, mask=0b01)
    rig.fill(2)
    rig.cache.index.flush()
    rig.fill(1, 2 * PAGE)  # one more page of a group in the index
    rig.fill(3)  # a file not in the index
    rig.cache.drop(ContentId(2))  # a record without a file
    after = killed(rig, tmp_path / "after", flushed=False)
    group = after.cache.lookup(ContentId(1), 0)
    assert group is not None
    assert group.present == 0b01
    assert after.cached() == {1}
    assert len(after.files()) == 1
    assert after.used() == PAGE
    after.fill(1, 2 * PAGE)  # the same bytes again, in the same place
    after.check()
    after.cache.close()


def test_page_data_lost_with_the_power_is_found_by_its_crc(rig, tmp_path):
    group = rig.fill(1, 3 * PAGE)
    path = rig.file(group).relative_to(rig.home)
    after_home = tmp_path / "after"
    rig.cache.settle()
    rig.cache.index.flush()
    shutil.copytree(rig.home, after_home, ignore=shutil.ignore_patterns("lock.mdb"))
    with (after_home / path).open("r+b") as file:  # the index was synced, these pages were not
        file.truncate(PAGE)
        file.truncate(3 * PAGE)
    after = Rig(after_home)
    after.open()
    found = after.cache.lookup(ContentId(1), 0)
    assert found is not None
    assert not found.verified
    assert after.cache.check_pages(found, found.present) == 0b110
    after.cache.drop_pages(found, 0b110)
    after.pump()
    copy = after.cache.lookup(ContentId(1), 0)
    assert copy is not None
    assert (copy.present, copy.verified) == (0b001, True)
    after.check()
    after.cache.close()


def test_a_file_that_is_too_short_after_an_unclean_stop_is_dropped(rig, tmp_path):
    group = rig.fill(1, 2 * PAGE)
    rig.fill(2)
    os.truncate(rig.file(group), 2 * PAGE - 1)
    after = killed(rig, tmp_path / "after", flushed=True)
    assert after.cached() == {2}
    assert after.used() == PAGE
    after.check()
    after.cache.close()


def test_drops_and_cursor_become_durable_together(rig, tmp_path):
    rig.fill(1)
    rig.cache.set_cursor(5)
    rig.cache.index.flush()
    rig.cache.drop(ContentId(1))
    rig.cache.set_cursor(6)
    assert (rig.cache.cursor, rig.cache.durable_cursor) == (6, 5)
    before = killed(rig, tmp_path / "after", flushed=False)
    assert before.cache.cursor == before.cache.durable_cursor == 5  # the drop will be told again
    before.cache.close()


def test_pins_survive_a_kill(rig, tmp_path):
    rig.fill(1)
    rig.cache.pin([ContentId(1)])
    after = killed(rig, tmp_path / "after", flushed=True)
    assert after.cache.groups(ContentId(1))[0].pinned
    after.check()
    after.cache.close()


# ---- files and records that should not be there ---------------------------------------------------------------------------


def test_files_of_no_group_are_swept_and_records_without_file_dropped(rig):
    kept, lost = rig.fill(1), rig.fill(2)
    path = rig.file(lost)
    rig.cache.settle()
    rig.cache.close()
    path.unlink()
    (rig.home / "tier" / "files" / "00").mkdir(exist_ok=True)
    for name in ("00/abcdef00", "00/notes.txt", f"{kept.file & 255:02x}/0{kept.file:x}"):
        (rig.home / "tier" / "files" / name).write_bytes(b"x")
    (rig.home / "tier" / "mine.txt").write_text("not the cache's")
    rig.cache = rig.new()
    rig.open()
    assert rig.cached() == {1}
    assert rig.files() == [rig.file(kept)]
    assert (rig.home / "tier" / "mine.txt").exists()
    rig.check()


def edit_index(rig: Rig, table: int, key: bytes, value: bytes) -> None:
    env = lmdb.open(str(rig.home / "index"), max_dbs=4, map_size=1 << 36)
    with env.begin(write=True) as txn:
        txn.put(key, value, db=env.open_db((b"groups", b"pins", b"order", b"meta")[table], txn))
    env.close()


def test_damaged_records_are_dropped_and_the_rest_serves(rig):
    rig.fill(1)
    rig.cache.close()
    for number, value in enumerate((b"", b"\x00", b"junk" * 10, b"\x9b" + b"\x00" * 11)):
        edit_index(rig, GROUPS, KEY.pack(2, number), value)
    edit_index(rig, GROUPS, b"short", b"\x9b")
    rig.cache = rig.new()
    rig.open()
    assert rig.cached() == {1}
    rig.check()


def test_an_index_of_a_newer_format_is_refused(rig):
    rig.cache.close()
    edit_index(rig, META, b"format", (4).to_bytes(8, "big"))
    rig.cache = rig.new()
    with pytest.raises(HomeUnusable, match="newer"):
        rig.open()


def test_an_index_that_is_not_a_database_is_refused_with_a_remedy(rig):
    rig.cache.close()
    (rig.home / "index" / "data.mdb").write_bytes(b"\xff" * 16384)
    rig.cache = rig.new()
    with pytest.raises(HomeUnusable, match="remove it"):
        rig.open()


def test_two_caches_never_share_an_index(rig):
    other = Cache(str(rig.home / "index"), rig.tiers, reserve=0.0, call_soon=rig.queue.append)
    with pytest.raises(HomeInUse):
        other.open()
    rig.check()


# ---- an index whose disk refuses -------------------------------------------------------------------------------------------


def test_while_the_index_cannot_be_written_cached_pages_are_served_and_nothing_is_admitted(tmp_path, monkeypatch):
    monkeypatch.setattr("monofs.tiering.index.MAP_SIZE_BYTES", 256 << 10)
    rig = Rig(tmp_path, quota=1 << 30)
    cache = rig.open()
    with pytest.raises(TierUnusable, match="cannot be written"):
        for content in range(1, 10_000):
            rig.fill(content, 5)
            if content % 200 == 0:
                cache.index.flush()
    with pytest.raises(TierUnusable, match="cannot keep up"):
        rig.fill(10_000, 5)
    assert cache.status()[0].error
    assert cache.lookup(ContentId(1), 0) is not None
    cache.drop(ContentId(1))
    cache.close()
    monkeypatch.undo()
    cache = rig.new()
    rig.cache = cache
    rig.open()
    assert not any(group.verified for group in cache)  # what could not be made durable left the stop unclean
    rig.check()
    cache.close()


def test_pages_of_a_directory_that_fails_before_the_stop_are_verified_at_the_next_start(rig, monkeypatch):
    rig.fill(1, 3 * PAGE)
    broken = OSError(errno.EIO, "Input/output error")

    def sync(_):
        raise broken

    with monkeypatch.context() as patch:
        patch.setattr("monofs.tiering.directory.Directory.sync", sync)
        rig.cache.directories[0].fail(broken)
        cache = rig.reopen()
    assert not any(group.verified for group in cache)
    rig.check()
