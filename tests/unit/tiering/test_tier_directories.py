"""Storage directories: several of them, missing, foreign, swapped, full, read-only and failing ones."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tiering_rig import PAGE, Rig

from monofs.model.errors import TierFull, TierUnusable
from monofs.model.ids import ContentId
from monofs.tiering.cache import Cache, TierSpec


@pytest.fixture
def tmpfs(tmp_path: Path) -> Iterator[Callable[..., Path]]:
    """Mounts a tmpfs of a size; needs root."""
    mounted: list[Path] = []

    def mount(size: str = "4m", name: str = "memory") -> Path:
        path = tmp_path / name
        path.mkdir(exist_ok=True)
        command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(path)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            pytest.skip(f"no tmpfs can be mounted here: {done.stderr.strip()}")
        mounted.append(path)
        return path

    yield mount
    for path in reversed(mounted):
        subprocess.run(["umount", "-l", str(path)], capture_output=True, check=False)


def states(cache: Cache) -> list[str]:
    return [status.state for status in cache.status()]


def test_a_directory_that_is_used_no_more_is_named_once(tmp_path, caplog):
    """Nobody else says that its files may go: its records are dropped, and what lies there is dead weight."""
    old, new = (TierSpec("SSD", str(tmp_path / name), 3 * PAGE) for name in ("old", "new"))

    def named() -> int:
        caplog.clear()
        rig.reopen()
        return sum("used no more" in record.getMessage() for record in caplog.records)

    rig = Rig(tmp_path, [old])
    rig.open()
    rig.fill(1)
    assert named() == 0
    rig.tiers = [new]
    assert named() == 1
    assert named() == 0
    rig.check()
    rig.cache.close()


# ---- several directories ------------------------------------------------------------------------------------------------


def test_the_top_tier_is_filled_first_then_the_next_then_the_oldest_goes(tmp_path):
    tiers = [TierSpec("MEM", str(tmp_path / "m"), 2 * PAGE), TierSpec("SSD", str(tmp_path / "s"), 3 * PAGE)]
    rig = Rig(tmp_path, tiers)
    rig.open()
    groups = [rig.fill(content) for content in range(1, 6)]
    assert [group.tier for group in groups] == ["MEM", "MEM", "SSD", "SSD", "SSD"]
    rig.cache.touch(groups[0])
    rig.cache.touch(groups[1])
    assert rig.fill(6).tier == "SSD"
    assert rig.cached() == {1, 2, 4, 5, 6}
    rig.check()
    rig.reopen()
    assert [rig.cache.groups(ContentId(content))[0].tier for content in (1, 2, 4)] == ["MEM", "MEM", "SSD"]
    rig.check()
    rig.cache.close()


def test_within_a_tier_the_directory_with_most_room_is_used(tmp_path):
    tiers = [TierSpec("SSD", str(tmp_path / "a"), 3 * PAGE), TierSpec("SSD", str(tmp_path / "b"), 4 * PAGE)]
    rig = Rig(tmp_path, tiers)
    rig.open()
    for content in range(1, 8):
        rig.fill(content)
    assert [status.used_bytes for status in rig.cache.status()] == [3 * PAGE, 4 * PAGE]
    rig.check()
    rig.cache.close()


def test_a_directory_no_longer_configured_is_forgotten_and_begins_empty_when_it_returns(tmp_path):
    tiers = [TierSpec("A", str(tmp_path / "a"), PAGE), TierSpec("B", str(tmp_path / "b"), PAGE)]
    rig = Rig(tmp_path, list(tiers))
    rig.open()
    rig.fill(1)
    rig.fill(2)
    rig.tiers[:] = tiers[:1]
    rig.reopen()
    assert rig.cached() == {1}
    rig.tiers[:] = tiers
    rig.reopen()
    assert rig.cached() == {1}
    assert len(rig.files()) == 1
    rig.check()
    rig.cache.close()


def test_directories_that_change_places_are_known_by_their_identity(tmp_path):
    tiers = [TierSpec("A", str(tmp_path / "a"), PAGE), TierSpec("B", str(tmp_path / "b"), PAGE)]
    rig = Rig(tmp_path, tiers)
    rig.open()
    rig.fill(1)
    rig.fill(2)
    rig.cache.close()
    (tmp_path / "a").rename(tmp_path / "c")
    (tmp_path / "b").rename(tmp_path / "a")
    (tmp_path / "c").rename(tmp_path / "b")
    rig.cache = rig.new()
    rig.open()
    assert rig.cached() == {1, 2}
    assert rig.cache.groups(ContentId(1))[0].tier == "B"
    rig.check()
    rig.cache.close()


# ---- whose directory ----------------------------------------------------------------------------------------------------


def test_two_caches_never_share_a_directory(rig, tmp_path):
    other = Cache(str(tmp_path / "other"), rig.tiers, reserve=0.0, call_soon=rig.queue.append)
    other.open()
    assert states(other) == ["unusable"]
    assert "in use" in other.status()[0].error
    with pytest.raises(TierUnusable, match="in use"):
        other.admit(ContentId(1), 0, PAGE, 1, 0)
    other.close()
    rig.check()


def test_a_directory_of_another_cache_is_left_alone(tmp_path):
    first = Rig(tmp_path)
    first.open()
    first.fill(1)
    files = first.files()
    first.cache.close()
    other = Cache(str(tmp_path / "other"), first.tiers, reserve=0.0, call_soon=first.queue.append)
    other.open()
    assert "belongs to another cache" in other.status()[0].error
    other.close()
    assert files[0].exists()


def test_a_directory_of_the_home_whose_index_is_gone_begins_anew(tmp_path):
    spec = TierSpec("DISK", str(tmp_path / "tier"), 8 * PAGE, in_home=True)
    rig = Rig(tmp_path, [spec])
    rig.open()
    rig.fill(1)
    rig.cache.close()
    shutil.rmtree(rig.home / "index")
    rig.cache = rig.new()
    rig.open()
    assert states(rig.cache) == ["ok"]
    assert rig.cached() == set()
    assert rig.files() == []
    rig.fill(1)
    rig.check()
    rig.cache.close()


def test_a_file_where_a_subdirectory_should_be_is_removed(rig):
    rig.cache.close()
    for each in (rig.home / "tier" / "files").iterdir():
        shutil.rmtree(each) if each.is_dir() else each.unlink()
    (rig.home / "tier" / "files" / "00").write_bytes(b"not a directory")
    rig.cache = rig.new()
    rig.open()
    assert not (rig.home / "tier" / "files" / "00").is_file()
    rig.check()


def test_a_damaged_identity_makes_the_directory_unusable_not_the_worker(rig):
    rig.cache.close()
    (rig.home / "tier" / "monofs-tier.json").write_text("{")
    rig.cache = rig.new()
    rig.open()
    assert states(rig.cache) == ["unusable"]
    assert "damaged" in rig.cache.status()[0].error


def test_a_home_whose_pages_were_deleted_begins_empty(rig):
    rig.fill(1)
    rig.cache.close()
    shutil.rmtree(rig.home / "tier")
    rig.cache = rig.new()
    rig.open()
    assert (rig.cached(), states(rig.cache)) == (set(), ["ok"])
    rig.fill(2)
    rig.check()


def test_a_disk_that_is_not_mounted_is_noticed_and_its_groups_wait_for_it(tmp_path):
    """The index remembers that the directory was on a file system of its own; here that is told to it."""
    tiers = [TierSpec("A", str(tmp_path / "a"), PAGE), TierSpec("B", str(tmp_path / "b"), PAGE)]
    rig = Rig(tmp_path, tiers)
    rig.open()
    rig.fill(1)
    rig.fill(2)
    rig.cache.directories[0].beside = False
    rig.cache.index.flush()
    from monofs.tiering import recovery

    known = [recovery.Known(d.number, d.identity, d.spec.directory, d.beside) for d in rig.cache.directories]
    rig.cache.index.put(3, b"directories", recovery._encode(known))
    rig.cache.close()
    (tmp_path / "a").rename(tmp_path / "elsewhere")
    rig.cache = rig.new()
    rig.open()
    assert states(rig.cache) == ["unusable", "ok"]
    assert "monofs-accept" in rig.cache.status()[0].error
    assert rig.cached() == {2}
    assert rig.cache.lookup(ContentId(1), 0) is None
    assert rig.used() == PAGE
    rig.cache.close()
    (tmp_path / "a").rmdir()
    (tmp_path / "elsewhere").rename(tmp_path / "a")
    rig.cache = rig.new()
    rig.open()
    assert rig.cached() == {1, 2}  # mounted again: warm
    rig.check()
    rig.cache.close()
    (tmp_path / "a").rename(tmp_path / "gone")
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "monofs-accept").touch()
    rig.cache = rig.new()
    rig.open()
    assert (rig.cached(), states(rig.cache)) == ({2}, ["ok", "ok"])
    rig.check()
    rig.cache.close()


def test_what_is_dropped_while_its_disk_is_away_stays_dropped(tmp_path):
    tiers = [TierSpec("A", str(tmp_path / "a"), PAGE), TierSpec("B", str(tmp_path / "b"), 2 * PAGE)]
    rig = Rig(tmp_path, tiers)
    rig.open()
    rig.fill(1)
    rig.cache.close()
    (tmp_path / "a").rename(tmp_path / "away")
    (tmp_path / "a").write_text("a file in its place")
    rig.cache = rig.new()
    rig.open()
    assert states(rig.cache) == ["unusable", "ok"]
    rig.cache.drop(ContentId(1))
    assert rig.fill(1).tier == "B"  # and may be cached elsewhere meanwhile
    rig.cache.close()
    (tmp_path / "a").unlink()
    (tmp_path / "away").rename(tmp_path / "a")
    rig.cache = rig.new()
    rig.open()
    assert rig.cache.groups(ContentId(1))[0].tier == "B"
    assert len(rig.files()) == 1
    rig.check()
    rig.cache.close()


def test_no_usable_directory_is_told_with_every_reason(tmp_path):
    (tmp_path / "file").write_text("")
    tiers = [TierSpec("A", str(tmp_path / "file"), PAGE), TierSpec("B", str(tmp_path / "file" / "x"), PAGE)]
    rig = Rig(tmp_path, tiers)
    rig.open()
    with pytest.raises(TierUnusable) as raised:
        rig.fill(1)
    assert str(tmp_path / "file") in str(raised.value)
    assert "Not a directory" in str(raised.value)
    assert (rig.cache.capacity_bytes, rig.used()) == (0, 0)
    rig.cache.close()


# ---- full, read-only and failing file systems ------------------------------------------------------------------------------


def test_a_file_system_full_before_the_quota_is_tier_full_and_eviction_makes_room(tmpfs, tmp_path):
    rig = Rig(tmp_path, [TierSpec("MEM", str(tmpfs("4m")), 1 << 30)])
    cache = rig.open()
    for content in range(1, 12):
        rig.fill(content)
    assert 2 <= len(rig.cached()) <= 4
    assert 11 in rig.cached()
    cache.pin([ContentId(content) for content in rig.cached()])
    with pytest.raises(TierFull):
        rig.fill(20)
    rig.check()
    cache.close()


def test_a_write_that_meets_a_full_disk_raises_and_the_cache_goes_on_when_there_is_room(tmpfs, tmp_path):
    path = tmpfs("4m")
    rig = Rig(tmp_path, [TierSpec("MEM", str(path), 1 << 30)])
    cache = rig.open()
    group = rig.admit(1, 2 * PAGE)
    cache.reserve(group, 0b11)
    (path / "others").write_bytes(bytes(3 * PAGE + PAGE // 2))  # somebody else fills it
    with pytest.raises(TierFull, match="full before the quota"):
        rig.write(group, 0b11)
    cache.unreserve(group, 0b11)
    assert rig.used() == 0
    with pytest.raises(TierFull):
        rig.fill(2)
    assert states(cache) == ["full"]
    (path / "others").unlink()
    cache.directories[0].look()  # the keeper does this each second
    rig.fill(2)
    assert states(cache) == ["ok"]
    rig.check()
    cache.close()


def test_the_reserve_of_the_file_system_is_never_filled(tmpfs, tmp_path):
    rig = Rig(tmp_path, [TierSpec("MEM", str(tmpfs("8m")), 1 << 30)], reserve=0.5)
    rig.open()
    for content in range(1, 12):
        rig.fill(content)
    assert rig.used() <= 4 * PAGE
    rig.check()
    rig.cache.close()


def remount(path: Path, mode: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{mode}", str(path)], check=True, capture_output=True)


def test_a_directory_that_turns_read_only_serves_what_it_has_and_returns(tmpfs, tmp_path):
    path = tmpfs("16m")
    rig = Rig(tmp_path, [TierSpec("MEM", str(path), 1 << 30)])
    cache = rig.open()
    first = rig.fill(1)
    second = rig.admit(2, 2 * PAGE)
    cache.reserve(second, 0b11)
    remount(path, "ro")
    with pytest.raises(TierUnusable, match="Read-only"):
        rig.write(second, 0b01)
    cache.unreserve(second, 0b11)
    assert states(cache) == ["readonly"]
    with pytest.raises(TierUnusable, match="read-only"):
        rig.fill(3)
    assert cache.check_pages(first, 1) == 0
    assert os.pread(first.fd(), 5, 0) == rig.data(first, 0)[:5]
    cache.drop(ContentId(1))  # cannot be unlinked now
    assert cache.settle()
    remount(path, "rw")
    cache.directories[0]._probe()  # the keeper does this every five seconds
    assert states(cache) == ["ok"]
    assert rig.files() == []
    rig.fill(3)
    rig.check()
    cache.close()


def test_a_directory_that_is_read_only_from_the_start_serves_what_it_has(tmpfs, tmp_path):
    path = tmpfs("16m")
    tiers = [TierSpec("MEM", str(path), 1 << 30), TierSpec("DISK", str(tmp_path / "disk"), 1 << 30)]
    rig = Rig(tmp_path, tiers)
    rig.open()
    rig.fill(1)
    rig.cache.close()
    remount(path, "ro")
    rig.cache = rig.new()
    rig.open()
    assert states(rig.cache) == ["readonly", "ok"]
    group = rig.cache.lookup(ContentId(1), 0)
    assert group is not None
    assert rig.cache.check_pages(group, 1) == 0
    assert rig.fill(2).tier == "DISK"
    rig.check()
    rig.cache.close()


def test_memory_file_systems_need_no_check_after_a_kill_and_begin_empty_after_a_reboot(tmpfs, tmp_path):
    path = tmpfs("16m")
    rig = Rig(tmp_path, [TierSpec("MEM", str(path), 1 << 30)])
    rig.open()
    rig.fill(1)
    rig.cache.settle()
    rig.cache.index.flush()
    shutil.copytree(tmp_path / "index", tmp_path / "killed", ignore=shutil.ignore_patterns("lock.mdb"))
    rig.cache.close()
    shutil.rmtree(tmp_path / "index")
    (tmp_path / "killed").rename(tmp_path / "index")
    rig.cache = rig.new()
    rig.open()
    assert [group.verified for group in rig.cache] == [True]
    rig.cache.close()
    for entry in path.iterdir():
        shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
    rig.cache = rig.new()
    rig.open()
    assert (rig.cached(), states(rig.cache)) == (set(), ["ok"])
    rig.check()
    rig.cache.close()


def test_bytes_on_a_memory_file_system_are_ready_or_read_in_a_thread(tmpfs, tmp_path):
    rig = Rig(tmp_path, [TierSpec("MEM", str(tmpfs("16m")), 1 << 30)])
    rig.open()
    group = rig.fill(1)
    group.fd()
    found = rig.cache.read_ready(group, 3, 10)
    assert found is None or found == rig.data(group, 0)[3:13]
    assert rig.cache.read(group, 3, 10) == rig.data(group, 0)[3:13]
    rig.pump()
    rig.cache.close()


def test_a_directory_deleted_while_in_use_fails_and_others_go_on(tmp_path):
    tiers = [TierSpec("A", str(tmp_path / "a"), 4 * PAGE), TierSpec("B", str(tmp_path / "b"), 4 * PAGE)]
    rig = Rig(tmp_path, tiers)
    rig.open()
    rig.fill(1)
    shutil.rmtree(tmp_path / "a")
    group = rig.admit(2)
    rig.cache.reserve(group, 1)
    with pytest.raises(TierUnusable, match="No such file"):
        rig.write(group, 1)
    rig.cache.unreserve(group, 1)
    assert states(rig.cache) == ["failing", "ok"]
    assert rig.fill(2).tier == "B"
    rig.check(disk=False)
    rig.cache.close()
