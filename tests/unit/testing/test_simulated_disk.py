"""The simulated disk does what a disk may do, and no more."""

from __future__ import annotations

import errno
import os
import random
from collections.abc import Callable

import pytest

from monofs.testing.simulation.disk import SECTOR_BYTES, Disk, PowerLost

DIRECTORY, PATH = "/home/journal", "/home/journal/000000.segment"


def make_disk(seed: int) -> tuple[Disk, int]:
    """A disk with one durable file of 16 sectors of zeros."""
    disk = Disk(random.Random(seed))
    disk.makedirs(DIRECTORY)
    fd = disk.open(PATH, os.O_RDWR | os.O_CREAT | os.O_EXCL)
    disk.posix_fallocate(fd, 0, 16 * SECTOR_BYTES)
    disk.fsync(fd)
    disk.fsync(disk.open(DIRECTORY, os.O_RDONLY | os.O_DIRECTORY))
    return disk, fd


def after_power_cuts(change: Callable[[Disk, int], object]) -> set[bytes]:
    """The sectors' first bytes as many power cuts leave them."""
    found = set()
    for seed in range(300):
        disk, fd = make_disk(seed)
        change(disk, fd)
        disk.cut_power()
        found.add(disk.peek(PATH)[::SECTOR_BYTES])
    return found


def test_what_was_synced_stays() -> None:
    def change(disk: Disk, fd: int) -> None:
        disk.pwrite(fd, b"x" * 2 * SECTOR_BYTES, 0)
        disk.fdatasync(fd)

    assert after_power_cuts(change) == {b"xx" + bytes(14)}


def test_any_subset_of_the_sectors_written_since_is_lost() -> None:
    found = after_power_cuts(lambda disk, fd: disk.pwrite(fd, b"x" * 3 * SECTOR_BYTES, SECTOR_BYTES))
    parts = [bytes([a, b, c]) for a in (0, 120) for b in (0, 120) for c in (0, 120)]
    assert found == {b"\0" + part + bytes(12) for part in parts}


def test_a_sector_overwritten_twice_is_lost_to_what_was_durable() -> None:
    def change(disk: Disk, fd: int) -> None:
        disk.pwrite(fd, b"a", 0)
        disk.fsync(fd)
        disk.pwrite(fd, b"b", 0)
        disk.pwrite(fd, b"c", 0)

    assert after_power_cuts(change) == {b"a" + bytes(15), b"c" + bytes(15)}


def test_a_killed_process_loses_nothing() -> None:
    disk, fd = make_disk(1)
    disk.pwrite(fd, b"x", 0)
    disk.end_process()
    assert disk.pread(disk.open(PATH, os.O_RDWR), 1, 0) == b"x"


def test_names_are_lost_in_the_order_they_were_made_unless_the_directory_was_synced() -> None:
    found = set()
    for seed in range(100):
        disk, _ = make_disk(seed)
        disk.open(DIRECTORY + "/a", os.O_RDWR | os.O_CREAT)
        disk.open(DIRECTORY + "/b", os.O_RDWR | os.O_CREAT)
        disk.rename(DIRECTORY + "/a", DIRECTORY + "/c")
        disk.cut_power()
        found.add("".join(sorted(name for name in disk.listdir(DIRECTORY) if len(name) == 1)))
    assert found == {"", "a", "ab", "bc"}


def test_the_power_may_go_inside_of_any_change_and_then_nothing_works_any_more() -> None:
    disk, fd = make_disk(3)
    disk.countdown = 1
    disk.pwrite(fd, b"a" * 4 * SECTOR_BYTES, 0)
    with pytest.raises(PowerLost):
        disk.pwrite(fd, b"b" * 4 * SECTOR_BYTES, 4 * SECTOR_BYTES)
    with pytest.raises(PowerLost):
        disk.fsync(fd)
    disk.end_process()
    assert disk.peek(PATH)[:: 4 * SECTOR_BYTES][:2] == b"ab", "half of the last write had reached the cache"
    assert disk.peek(PATH)[6 * SECTOR_BYTES] == 0


def test_a_failed_sync_may_lose_what_it_should_have_kept() -> None:
    found = set()
    for seed in range(40):
        disk, fd = make_disk(seed)
        disk.pwrite(fd, b"x", 0)
        disk.fail_syncs = 1
        with pytest.raises(OSError, match="failed") as failed:
            disk.fdatasync(fd)
        assert failed.value.errno == errno.EIO
        disk.fdatasync(fd)
        found.add(disk.peek(PATH)[:1])
    assert found == {b"x", b"\0"}


def test_a_full_disk_says_so_before_it_takes_a_byte() -> None:
    disk, fd = make_disk(5)
    disk.room_bytes = 20 * SECTOR_BYTES
    with pytest.raises(OSError, match="no room") as full:
        disk.posix_fallocate(fd, 0, 21 * SECTOR_BYTES)
    assert full.value.errno == errno.ENOSPC
    with pytest.raises(OSError, match="no room"):
        disk.pwrite(fd, bytes(SECTOR_BYTES), 20 * SECTOR_BYTES)
    disk.pwrite(fd, bytes(SECTOR_BYTES), 19 * SECTOR_BYTES)


def test_a_flipped_bit_is_read_back() -> None:
    disk, fd = make_disk(6)
    disk.flip_bit(PATH, 700, 3)
    assert disk.pread(fd, 2, 700) == b"\x08\0"
