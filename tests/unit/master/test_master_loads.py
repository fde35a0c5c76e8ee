"""What loads are made of: a pace that holds over all requests, and lists cut into lines however their bytes come."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from monofs.master.job_list import LINE_MAX_BYTES, Lines
from monofs.master.pacing import Pace
from monofs.model.block import PAGE_SIZE_BYTES

MIB = 1 << 20


@given(
    st.integers(1, 1 << 34),
    st.lists(st.tuples(st.integers(1, 64 * MIB), st.floats(0, 100), st.booleans()), max_size=30),
)
def test_a_pace_is_kept_however_many_requests_are_made_and_what_was_not_moved_is_not_saved_up(
    bytes_s: int, requests: list[tuple[int, float, bool]]
) -> None:
    now_s, moved, begin_s = 1000.0, 0, 1000.0
    pace = Pace(bytes_s, lambda: now_s)
    for size, pause_s, was_cached in requests:
        wait_s = pace.take(size)
        assert wait_s >= 0
        assert moved <= bytes_s * (now_s + wait_s - begin_s) * (1 + 1e-9) + 1
        if was_cached:
            pace.give_back(size)
        else:
            moved += size
            now_s += wait_s
        now_s += pause_s
        if pause_s > 0 and not was_cached and now_s > begin_s + moved / bytes_s:
            moved, begin_s = 0, now_s


def test_a_slow_load_asks_for_about_a_second_s_worth_at_a_time() -> None:
    assert [Pace(rate, lambda: 0.0).pages for rate in (0, 1, PAGE_SIZE_BYTES * 3, 1 << 40)] == [64, 1, 3, 64]
    assert Pace(0, lambda: 0.0).take(1 << 40) == 0


@given(st.lists(st.binary(max_size=40)), st.lists(st.integers(1, 50), min_size=1), st.sampled_from([b"\n", b"\0"]))
def test_lines_are_the_same_however_their_bytes_come(lines: list[bytes], cuts: list[int], separator: bytes) -> None:
    lines = [line.replace(separator, b"x") for line in lines]
    data = separator.join(lines)
    cut, at, found, reader = 0, 0, [], Lines(separator)
    while at < len(data):
        found += reader.feed(data[at : at + cuts[cut % len(cuts)]])
        at += cuts[cut % len(cuts)]
        cut += 1
    found += reader.finish()
    assert [text for _, text in found] == [line for line in lines if line]
    for end, text in found:
        assert data[:end].removesuffix(separator).endswith(text)
        again = Lines(separator, end)
        rest = again.feed(data[end:]) + again.finish()
        assert rest == [each for each in found if each[0] > end], "a restart goes on behind the line"


def test_a_line_too_long_to_be_a_path_is_told_in_little_memory_and_the_next_one_is_whole() -> None:
    reader, found = Lines(b"\n"), []
    found += reader.feed(b"a\n")
    for _ in range(1000):
        found += reader.feed(b"x" * 100_000)
        assert len(reader._rest) <= LINE_MAX_BYTES
    found += reader.feed(b"\nb\n")
    ends, texts = zip(*found, strict=True)
    assert texts[0] == b"a"
    assert texts[2] == b"b"
    assert len(texts[1]) == LINE_MAX_BYTES + 1
    assert ends == (2, 100_000_003, 100_000_005)
