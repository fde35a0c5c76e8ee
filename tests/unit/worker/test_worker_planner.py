"""What is fetched for a read: ranges cover the missing pages once, read-ahead follows sequential readers only."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from monofs.model.block import GROUP_PAGES, PAGE_SIZE_BYTES
from monofs.worker.planner import FIRST_WINDOW_BYTES, STREAMS_MAX, ReadAhead, group_masks, run_length, split_ranges

MIB = 1 << 20
BITMAPS = st.integers(0, 2**GROUP_PAGES - 1)


@given(BITMAPS, st.integers(1, 64))
def test_ranges_cover_exactly_the_missing_pages_each_once_and_none_is_too_long(pages: int, most: int) -> None:
    ranges = split_ranges(pages, most)
    covered = [page for first, last in ranges for page in range(first, last + 1)]
    assert covered == [page for page in range(GROUP_PAGES) if pages >> page & 1]
    assert all(1 <= last - first + 1 <= most for first, last in ranges)


@given(BITMAPS, st.integers(1, 64))
def test_neighbouring_ranges_only_touch_where_the_first_is_full(pages: int, most: int) -> None:
    ranges = split_ranges(pages, most)
    for (first, last), (following, _) in itertools.pairwise(ranges):
        assert following > last + 1 or last - first + 1 == most


@given(BITMAPS, st.integers(0, GROUP_PAGES - 1))
def test_a_run_ends_before_the_first_page_that_is_not_set(pages: int, first: int) -> None:
    length = run_length(pages, first)
    assert all(pages >> page & 1 for page in range(first, first + length))
    assert not pages >> (first + length) & 1


@given(st.integers(0, 1000), st.integers(0, 1000))
def test_group_masks_name_every_page_of_a_span_once(one: int, other: int) -> None:
    first, last = sorted((one, other))
    pages = [
        group * GROUP_PAGES + page
        for group, mask in group_masks(first, last)
        for page in range(GROUP_PAGES)
        if mask >> page & 1
    ]
    assert pages == list(range(first, last + 1))


def test_a_sequential_readers_window_doubles_up_to_its_bound() -> None:
    plan = ReadAhead(32 * MIB)
    size, offset, reach, seen = 1 << 30, 0, 0, []
    while offset < 200 * MIB:
        reach = max(reach, plan.plan(7, offset, offset + MIB, size, sequential=True))
        offset += MIB
        seen.append(reach - offset)
    assert seen[0] == FIRST_WINDOW_BYTES
    assert max(seen) == 32 * MIB
    assert min(seen[20:]) >= 32 * MIB // 2 - MIB, "half a window is always on its way"


def test_new_stretches_are_asked_for_in_large_pieces() -> None:
    plan = ReadAhead(32 * MIB)
    reach, asked = 0, []
    for offset in range(0, 400 * MIB, 64 << 10):
        now = plan.plan(7, offset, offset + (64 << 10), 1 << 30, sequential=True)
        if now > reach:
            asked.append(now - reach)
            reach = now
    assert min(asked[5:]) >= 16 * MIB


def test_a_reader_that_goes_on_where_it_ended_is_taken_for_sequential_without_saying_so() -> None:
    plan = ReadAhead(32 * MIB)
    assert plan.plan(7, 0, MIB, 1 << 30, sequential=False) == MIB
    assert plan.plan(7, MIB, 2 * MIB, 1 << 30, sequential=False) > 2 * MIB


@given(st.lists(st.integers(0, 10_000), min_size=1, max_size=50, unique=True))
def test_a_random_reader_gets_no_read_ahead(pages: list[int]) -> None:
    plan = ReadAhead(32 * MIB)
    ends = set()
    for page in pages:
        offset, end = page * PAGE_SIZE_BYTES + 17, page * PAGE_SIZE_BYTES + 4113
        assert offset not in ends
        assert plan.plan(7, offset, end, 1 << 40, sequential=False) == end
        ends.add(end)


def test_read_ahead_never_goes_beyond_the_end_of_the_file() -> None:
    plan = ReadAhead(32 * MIB)
    assert plan.plan(7, 0, 100, 3 * MIB + 5, sequential=True) == 3 * MIB + 5


def test_read_ahead_of_nothing_is_off() -> None:
    plan = ReadAhead(0)
    assert plan.plan(7, 0, 100, 1 << 30, sequential=True) == 100


def test_streams_remembered_are_bounded_and_the_idle_ones_go_first() -> None:
    plan = ReadAhead(32 * MIB)
    for content in range(STREAMS_MAX + 10):
        plan.plan(content, 0, MIB, 1 << 30, sequential=False)
    assert plan.plan(0, MIB, 2 * MIB, 1 << 30, sequential=False) == 2 * MIB, "forgotten"
    assert plan.plan(STREAMS_MAX + 9, MIB, 2 * MIB, 1 << 30, sequential=False) > 2 * MIB, "remembered"
