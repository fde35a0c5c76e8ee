"""Filling, reading, evicting, pinning, holding and dropping groups on one directory."""

from __future__ import annotations

import fcntl
import itertools
import os
import threading
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiering_rig import PAGE, Rig

from monofs.model.block import GROUP_PAGES, PAGE_SIZE_BYTES
from monofs.model.errors import InvalidArgument, InvariantBroken, NotCached, Overloaded, TierFull
from monofs.model.ids import ContentId
from monofs.tiering.group import GroupTable, mask_bytes, mask_pages, page_bytes
from monofs.tiering.past import IDLE_NS

# ---- pages and masks ----------------------------------------------------------------------------------------------------


@given(st.integers(1, GROUP_PAGES * PAGE_SIZE_BYTES), st.integers(0, (1 << GROUP_PAGES) - 1))
def test_the_bytes_of_a_mask_are_the_sum_of_its_pages(length, mask):
    mask &= (1 << -(-length // PAGE_SIZE_BYTES)) - 1
    assert mask_bytes(length, mask) == sum(page_bytes(length, page) for page in mask_pages(mask))


def test_the_table_finds_contents_with_one_and_with_many_groups(rig):
    table = GroupTable()
    groups = [rig.fill(1, 10), rig.fill(2, 10, number=3), rig.fill(2, 10, number=5)]
    for group in groups:
        table.add(group)
    assert [table.get(1, 0), table.get(2, 3), table.get(2, 5)] == groups
    assert table.get(1, 1) is table.get(2, 0) is table.get(3, 0) is None
    assert table.of(2) == groups[1:]
    assert table.of(3) == []
    table.remove(groups[1])
    table.remove(groups[0])
    assert list(table) == [groups[2]]
    table.remove(groups[2])
    assert (table.contents(), table.count) == ([], 0)


# ---- filling and reading ------------------------------------------------------------------------------------------------


def test_a_committed_page_can_be_read_and_others_cannot_be_seen(rig):
    group = rig.admit(7, 3 * PAGE + 5)
    assert rig.cache.reserve(group, 0b1010) == 0b1010
    assert group.present == 0
    rig.cache.commit(group, rig.write(group, 0b1000))
    assert (group.present, group.reserved) == (0b1000, 0b0010)
    fd = group.fd()
    assert os.pread(fd, 100, group.base + 3 * PAGE) == rig.data(group, 3)
    assert os.fstat(fd).st_size == 3 * PAGE + 5
    rig.cache.unreserve(group, 0b0010)
    rig.check()


def test_admitting_again_gives_the_same_group_and_reserving_again_nothing(rig):
    group = rig.fill(7, 2 * PAGE, mask=0b01)
    assert rig.admit(7, 2 * PAGE) is group
    assert rig.cache.lookup(ContentId(7), 0) is group
    assert rig.cache.reserve(group, 0b01) == 0
    assert rig.cache.reserve(group, 0b11) == 0b10
    assert rig.cache.reserve(group, 0b11) == 0
    rig.cache.unreserve(group, 0b11)
    rig.check()


def test_a_page_present_is_not_committed_twice(rig):
    group = rig.fill(7)
    rig.cache.commit(group, [(0, 12345)])
    assert rig.cache.check_pages(group, 1) == 0
    rig.check()


def test_a_commit_without_reservation_takes_its_room_first(tmp_path):
    rig = Rig(tmp_path, quota=PAGE)
    cache = rig.open()
    group = rig.admit(7, 2 * PAGE)
    cache.hold(group)
    cache.commit(group, rig.write(group, 0b01))
    with pytest.raises(TierFull):
        cache.commit(group, rig.write(group, 0b10))
    assert (group.present, rig.used()) == (0b01, PAGE)
    cache.release(group)
    rig.check()
    cache.close()


def test_a_write_of_the_wrong_length_is_refused(rig):
    group = rig.admit(7, PAGE + 5)
    rig.cache.reserve(group, 0b11)
    for page, size in ((0, PAGE - 1), (1, 6), (1, 4)):
        with pytest.raises(InvalidArgument):
            rig.cache.write_page(group, page, memoryview(bytes(size)))
    rig.cache.unreserve(group, 0b11)


def test_a_group_whose_fetch_failed_leaves_nothing(rig):
    group = rig.admit(7, 2 * PAGE)
    rig.cache.reserve(group, 0b11)
    rig.write(group, 0b01)
    rig.cache.unreserve(group, 0b11)
    assert not group.alive
    assert (rig.cache.lookup(ContentId(7), 0), rig.used(), rig.files()) == (None, 0, [])
    rig.check()


def test_pages_may_be_written_by_many_threads_at_once(rig):
    group = rig.admit(7, 8 * PAGE)
    rig.cache.reserve(group, 0xFF)
    crcs: dict[int, int] = {}

    def write(page: int) -> None:
        crcs[page] = rig.cache.write_page(group, page, memoryview(rig.data(group, page)))

    threads = [threading.Thread(target=write, args=(page,)) for page in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    rig.cache.commit(group, list(crcs.items()))
    assert crcs[3] == zlib.crc32(rig.data(group, 3))
    rig.check()


def test_resident_bytes_of_a_file_the_kernel_knows_are_found_at_once(rig):
    group = rig.fill(7, PAGE + 100)
    assert rig.cache.read_ready(group, PAGE, 100) == rig.data(group, 1)
    assert rig.cache.read_ready(group, PAGE, 101) is None  # beyond the end


def test_a_descriptor_that_a_thread_opened_is_kept(rig):
    group = rig.fill(7, PAGE + 100)
    rig.cache.files.limit = 0
    assert rig.cache.read_ready(group, 0, 10) is None
    rig.cache.files.limit = 1
    rig.cache.hold(group)
    assert rig.cache.read(group, PAGE - 5, 10) == rig.data(group, 0)[-5:] + rig.data(group, 1)[:5]
    rig.pump()
    rig.cache.release(group)
    assert len(rig.cache.files) == 1


def test_more_files_than_descriptors_take_turns(rig):
    rig.cache.files.limit = 2
    groups = [rig.fill(content, 10) for content in range(1, 6)]
    for group in groups * 2:
        assert rig.cache.read_ready(group, 0, 10) == rig.data(group, 0)
        assert len(rig.cache.files) <= 2


def test_bytes_that_are_not_in_memory_are_not_waited_for(rig):
    group = rig.fill(7)
    fd = group.fd()
    group.directory.sync()  # only clean pages can be put out of memory
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    assert rig.cache.read_ready(group, 0, PAGE) is None
    assert rig.cache.read(group, 0, PAGE) == rig.data(group, 0)
    assert rig.cache.read_ready(group, 0, PAGE) == rig.data(group, 0)
    rig.pump()


def test_descriptors_given_away_cannot_write(rig):
    group = rig.fill(7)
    for fd in (rig.cache.open_reader(group), os.dup(group.fd())):
        assert fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.pwrite(fd, b"x", 0)
        os.close(fd)


def test_descriptors_are_bounded_and_held_ones_stay_open(rig):
    rig.cache.files.limit = 3
    held = rig.fill(1, 10)
    rig.cache.hold(held)
    fd = held.fd()
    for content in range(2, 10):
        rig.fill(content, 10).fd()
        assert len(rig.cache.files) <= 3
    assert held.fd() == fd
    assert os.pread(fd, 10, 0) == rig.data(held, 0)
    others = [rig.fill(content, 10) for content in (10, 11)]
    for group in others:
        rig.cache.hold(group)
        group.fd()
    with pytest.raises(Overloaded):
        rig.fill(12, 10).fd()
    for group in (held, *others):
        rig.cache.release(group)
    rig.fill(12, 10).fd()


# ---- room ---------------------------------------------------------------------------------------------------------------


def test_used_bytes_are_exact_to_the_last_short_page(rig):
    rig.fill(1, 2 * PAGE + 17)
    rig.fill(2, 3)
    assert rig.used() == 2 * PAGE + 20
    rig.cache.drop(ContentId(1))
    assert rig.used() == 3
    rig.check()


def test_the_group_read_longest_ago_is_evicted(rig):
    groups = [rig.fill(content) for content in range(1, 9)]
    rig.cache.touch(groups[0])
    rig.fill(100)
    rig.fill(101, 2 * PAGE)
    assert rig.cached() == {1, 5, 6, 7, 8, 100, 101}
    assert rig.used() == 8 * PAGE
    rig.check()


def test_reserved_bytes_count_and_are_never_taken_away(rig):
    first = rig.admit(1, 8 * PAGE)
    assert rig.cache.reserve(first, 0xFF) == 0xFF
    assert rig.used() == 8 * PAGE
    with pytest.raises(TierFull):
        rig.fill(2)
    assert first.alive
    rig.cache.unreserve(first, 0xF0)
    rig.fill(2, 4 * PAGE)
    rig.cache.commit(first, rig.write(first, 0x0F))
    assert rig.used() == 8 * PAGE
    rig.check()


def test_a_group_does_not_evict_itself_to_grow(tmp_path):
    rig = Rig(tmp_path, quota=2 * PAGE)
    rig.open()
    group = rig.fill(1, 3 * PAGE, mask=0b011)
    with pytest.raises(TierFull):
        rig.cache.reserve(group, 0b100)
    assert group.alive
    assert group.present == 0b011
    rig.check()
    rig.cache.close()


def test_nothing_is_evicted_when_room_cannot_be_reached_anyway(rig):
    for content in range(1, 9):
        rig.fill(content)
    group = rig.admit(100, 9 * PAGE)
    with pytest.raises(TierFull):
        rig.cache.reserve(group, group.pages)
    assert len(rig.cached()) >= 7  # one may have gone for the new group's first page
    rig.check()


def test_files_on_disk_never_exceed_the_quota_while_writing(rig):
    for content in range(1, 30):
        rig.fill(content, 2 * PAGE)
        sizes = [path.stat().st_blocks * 512 for path in (rig.home / "tier").glob("files/*/*")]
        assert sum(sizes) <= 8 * PAGE


def test_the_number_of_groups_is_bounded_whatever_their_size(tmp_path):
    rig = Rig(tmp_path, groups_max=10)
    rig.open()
    for content in range(1, 30):
        rig.fill(content, 1)
    assert rig.cached() == set(range(20, 30))
    rig.check()
    rig.cache.close()


# ---- pins ---------------------------------------------------------------------------------------------------------------


def test_pinned_groups_are_never_evicted_and_bounded_by_the_quota(rig):
    rig.cache.pin([ContentId(1)])  # before it is cached
    rig.fill(1, 4 * PAGE)
    rig.fill(2, 4 * PAGE)
    rig.cache.pin([ContentId(2)])  # and after
    assert rig.cache.status()[0].pinned_bytes == 8 * PAGE
    with pytest.raises(TierFull):
        rig.fill(3)
    rig.cache.unpin([ContentId(1)])
    rig.fill(3)
    assert rig.cached() == {2, 3}
    rig.check()


def test_freeing_keeps_pinned_contents_unless_forced(rig):
    rig.fill(1)
    rig.fill(2)
    rig.cache.pin([ContentId(1)])
    assert rig.cache.free([ContentId(1), ContentId(2), ContentId(3)], force=False) == 1
    assert rig.cached() == {1}
    assert rig.cache.free([ContentId(1)], force=True) == 0
    assert rig.cached() == set()
    assert rig.fill(1).pinned  # freeing drops bytes, not the pin
    rig.check()


def test_dropping_a_content_drops_its_pin(rig):
    rig.fill(1)
    rig.cache.pin([ContentId(1)])
    rig.cache.drop(ContentId(1))
    assert not rig.fill(1).pinned
    rig.check()


# ---- holding ------------------------------------------------------------------------------------------------------------


def test_held_groups_are_not_evicted(rig):
    group = rig.fill(1)
    rig.cache.hold(group)
    for content in range(2, 12):
        rig.fill(content)
    assert group.alive
    rig.cache.release(group)
    for content in range(12, 20):
        rig.fill(content)
    assert not group.alive
    rig.check()


def test_bytes_dropped_while_held_count_until_released_and_stay_readable(rig):
    group = rig.fill(1, 8 * PAGE)
    rig.cache.hold(group)
    rig.cache.hold(group)
    rig.cache.drop(ContentId(1))
    assert rig.cache.lookup(ContentId(1), 0) is None
    assert rig.used() == 8 * PAGE
    assert os.pread(group.fd(), 5, 0) == rig.data(group, 0)[:5]
    with pytest.raises(TierFull):
        rig.fill(2)
    rig.cache.release(group)
    assert rig.used() == 8 * PAGE
    rig.check()
    rig.cache.release(group)
    assert rig.used() == 0
    with pytest.raises(NotCached):
        group.fd()
    assert rig.files() == []
    rig.fill(2)
    rig.check()


def test_a_group_dropped_while_it_is_written_takes_nothing_and_leaves_nothing(rig):
    group = rig.admit(1, 2 * PAGE)
    rig.cache.reserve(group, 0b11)
    rig.cache.drop(ContentId(1))
    pages = rig.write(group, 0b01)  # a thread was on its way
    assert rig.used() == 2 * PAGE
    rig.cache.commit(group, pages)
    rig.cache.unreserve(group, 0b10)
    assert (rig.used(), rig.files()) == (0, [])
    with pytest.raises(NotCached):
        rig.write(group, 0b01)
    assert rig.files() == []
    rig.check()


def test_holding_what_has_left_the_cache_is_a_bug_that_is_told(rig):
    group = rig.fill(1)
    rig.cache.drop(ContentId(1))
    with pytest.raises(InvariantBroken):
        rig.cache.hold(group)
    with pytest.raises(InvariantBroken):
        rig.cache.release(group)


def test_another_thread_may_not_change_the_cache(rig):
    seen: list[BaseException] = []

    def act() -> None:
        try:
            rig.admit(1)
        except InvariantBroken as error:
            seen.append(error)

    thread = threading.Thread(target=act)
    thread.start()
    thread.join()
    assert len(seen) == 1


# ---- bad pages ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("offset", [0, 1, PAGE // 2, PAGE - 1])
def test_a_flipped_byte_is_found_in_exactly_its_page(rig, offset):
    group = rig.fill(1, 4 * PAGE, mask=0b1011)
    rig.corrupt(group, 1, offset)
    assert rig.cache.check_pages(group, group.pages) == 0b0010
    assert rig.cache.check_pages(group, 0b1001) == 0


def test_a_bad_page_goes_and_the_good_ones_come_back_in_a_new_file(rig):
    group = rig.fill(1, 4 * PAGE)
    rig.cache.pin([ContentId(1)])
    file, fd = group.file, rig.cache.open_reader(group)
    rig.corrupt(group, 2)
    rig.cache.drop_pages(group, 0b0100)
    assert rig.cache.lookup(ContentId(1), 0) is None  # nobody can read it from now on
    rig.pump()
    copy = rig.cache.lookup(ContentId(1), 0)
    assert copy is not None
    assert copy is not group
    assert (copy.present, copy.pinned, copy.verified, copy.file != file) == (0b1011, True, True, True)
    assert rig.used() == 3 * PAGE
    assert len(rig.files()) == 1
    assert os.pread(fd, PAGE, 0) == rig.data(group, 0)  # who held the old file reads on
    os.close(fd)
    rig.check()
    rig.fill(1, 4 * PAGE)
    rig.check()


def test_pages_found_bad_while_copying_are_not_copied(rig):
    group = rig.fill(1, 4 * PAGE)
    rig.corrupt(group, 0)
    rig.corrupt(group, 3)
    rig.cache.drop_pages(group, 0b1000)
    rig.pump()
    copy = rig.cache.lookup(ContentId(1), 0)
    assert copy is not None
    assert copy.present == 0b0110
    assert rig.used() == 2 * PAGE
    rig.check()


def test_a_copy_gives_way_to_whoever_admitted_or_dropped_the_content_meanwhile(rig):
    for act, left in ((lambda: rig.fill(1, 3 * PAGE, mask=0b100), 0b100), (lambda: rig.cache.drop(ContentId(1)), None)):
        group = rig.fill(1, 3 * PAGE, mask=0b011)
        rig.corrupt(group, 0)
        rig.cache.drop_pages(group, 0b001)
        act()
        rig.pump()
        found = rig.cache.lookup(ContentId(1), 0)
        assert (found.present if found else None) == left
        rig.check()
        rig.cache.drop(ContentId(1))


def test_without_room_for_a_copy_the_good_pages_go_too(tmp_path):
    rig = Rig(tmp_path, quota=3 * PAGE)
    rig.open()
    group = rig.fill(1, 3 * PAGE)
    rig.corrupt(group, 0)
    rig.cache.drop_pages(group, 0b001)
    rig.pump()
    assert (rig.cached(), rig.used(), rig.files()) == (set(), 0, [])
    rig.check()
    rig.cache.close()


def test_a_group_with_only_bad_pages_is_dropped(rig):
    group = rig.fill(1)
    rig.corrupt(group, 0)
    rig.cache.drop_pages(group, 1)
    rig.pump()
    assert (rig.cached(), rig.files()) == (set(), [])
    rig.check()


def test_a_file_removed_behind_our_back_makes_all_its_pages_bad(rig):
    group = rig.fill(1, 2 * PAGE)
    rig.file(group).unlink()
    assert rig.cache.check_pages(group, 0b11) == 0b11
    with pytest.raises(NotCached):
        group.fd()
    with pytest.raises(NotCached):
        rig.cache.open_reader(group)
    assert rig.cache.read(group, 0, 5) is None
    rig.cache.drop_pages(group, 0b11)
    rig.pump()
    rig.check()


# ---- contents and clusters ----------------------------------------------------------------------------------------------


def test_contents_are_listed_in_bounded_slices(rig, monkeypatch):
    monkeypatch.setattr("monofs.tiering.cache.CONTENTS_SLICE", 4)
    for content in range(1, 11):
        rig.fill(content, 5)
        rig.fill(content, 5, number=1)
    slices = list(rig.cache.contents())
    assert [len(part) for part in slices] == [4, 4, 2]
    assert sorted(content for part in slices for content in part) == list(range(1, 11))
    assert [group.number for group in rig.cache.groups(ContentId(3))] == [0, 1]


def test_another_cluster_or_incarnation_drops_everything(rig):
    rig.cache.adopt_cluster(b"a" * 16, 1)
    rig.fill(1)
    rig.cache.pin([ContentId(1)])
    rig.cache.set_cursor(55)
    rig.cache.adopt_cluster(b"a" * 16, 1)
    assert rig.cached() == {1}
    rig.cache.adopt_cluster(b"a" * 16, 2)
    assert (rig.cached(), rig.used(), rig.cache.pins, rig.cache.cursor) == (set(), 0, set(), 0)
    assert (rig.cache.cluster, rig.cache.incarnation) == (b"a" * 16, 2)
    rig.check()


# ---- what retires while it is read --------------------------------------------------------------------------------------


def retire_read(rig, content):
    """A content of one page that somebody reads retires."""
    group = rig.cache.lookup(content, 0)
    rig.cache.hold(group)
    rig.cache.retire(content)
    rig.cache.release(group)
    return group


def test_what_retires_while_it_is_read_can_be_read_to_its_end_and_counts_as_used(rig):
    rig.fill(7, 3 * PAGE)
    group = retire_read(rig, 7)
    assert rig.cache.lookup(7, 0) is None
    assert rig.cache.readable(7, 0) is group
    assert bytes(rig.cache.read(group, 2 * PAGE, PAGE)) == rig.data(group, 2)
    assert (rig.used(), rig.cached()) == (3 * PAGE, set())
    rig.check()
    assert rig.reopen().readable(7, 0) is None
    assert rig.used() == 0
    rig.check()


def test_between_two_reads_of_one_reader_too(rig):
    group = rig.fill(7)
    rig.cache.touch(group)
    rig.cache.retire(7)
    assert rig.cache.readable(7, 0) is group


def test_what_nobody_reads_goes_at_once(rig):
    rig.fill(7)
    rig.cache.retire(7)
    assert rig.cache.readable(7, 0) is None
    assert rig.used() == 0
    rig.pump()
    rig.check()


def test_what_retired_goes_when_nobody_has_read_it_for_a_while(rig):
    rig.fill(7)
    rig.fill(8)
    retire_read(rig, 7)
    retire_read(rig, 8)
    rig.clock = itertools.count(next(rig.clock) + IDLE_NS - 1000)
    rig.cache._clock_ns = rig.cache.past._clock_ns = rig.clock.__next__
    assert rig.cache.readable(7, 0) is not None
    rig.clock = itertools.count(next(rig.clock) + 2000)
    rig.cache.past._clock_ns = rig.clock.__next__
    rig.cache.tend()
    assert rig.cache.readable(8, 0) is None
    assert rig.cache.readable(7, 0) is not None
    assert rig.used() == PAGE
    rig.check()


def test_what_retired_is_let_go_before_a_write_is_refused_for_want_of_room(rig):
    rig.keep(1, 4 * PAGE)
    rig.fill(7, 4 * PAGE)
    retire_read(rig, 7)
    assert rig.used() == 8 * PAGE
    rig.keep(2, 4 * PAGE)
    assert rig.cache.readable(7, 0) is None
    rig.pump()
    rig.check()


def test_what_retired_goes_with_everything_that_is_dropped(rig):
    rig.fill(7)
    retire_read(rig, 7)
    rig.cache.drop_clean()
    assert rig.cache.readable(7, 0) is None
    assert rig.used() == 0
    rig.check()


def test_what_retired_and_would_have_to_be_checked_first_is_read_no_more(rig):
    rig.fill(7)
    retire_read(rig, 7).verified = False
    assert rig.cache.readable(7, 0) is None
    rig.check()


def test_what_is_fetched_again_after_it_retired_and_retires_again_is_held_once(rig):
    for _ in range(2):
        rig.fill(7)
        retire_read(rig, 7)
    assert rig.used() == PAGE
    assert rig.cache.past.let_go()
    assert rig.used() == 0
    rig.check()


def test_what_retired_is_bounded_and_the_longest_unread_goes_first(rig, monkeypatch):
    monkeypatch.setattr("monofs.tiering.past.PAST_BYTES", 2 * PAGE)
    for content in (1, 2, 3):
        rig.fill(content)
    for content in (1, 2):
        retire_read(rig, content)
    assert rig.cache.readable(1, 0) is not None
    retire_read(rig, 3)
    assert [rig.cache.readable(content, 0) is not None for content in (1, 2, 3)] == [True, False, True]
    rig.check()
