"""The charts' past: what was put is found, over restarts and clocks that jump, and nothing else is."""

from __future__ import annotations

import os

from hypothesis import given
from hypothesis import strategies as st

from monofs.web.history import FLOAT_MAX, HEADER_BYTES, MINUTES, SECONDS, History

NAMES = ("a", "b")


def test_a_restart_finds_the_past_again(tmp_path):
    path = str(tmp_path / "history")
    history = History(path, NAMES)
    for second in range(100):
        history.put(10_000 + second, [second, 2 * second])
    size = os.path.getsize(path)
    history.close()
    again = History(path, NAMES)
    times, series = again.get(10_099, 3)
    assert times == [10_096, 10_097, 10_098, 10_099]
    assert series == {"a": [96, 97, 98, 99], "b": [192, 194, 196, 198]}
    assert os.path.getsize(path) == size, "it has one size from the start"
    again.close()


def test_the_minute_is_the_mean_of_its_seconds_and_week_old_rows_are_gone(tmp_path):
    history = History("", NAMES)
    start = 1_000_000 * 60
    for second in range(120):
        history.put(start + second, [second, 0])
    times, series = history.get(start + 119, 7200)
    assert times == [start, start + 60]
    assert series["a"] == [29.5, 89.5]
    assert history.get(start + MINUTES * 60, MINUTES * 60)[0] == [start + 60], (
        "the row of the first minute is a week old"
    )
    history.close()


def test_other_series_begin_anew_and_a_file_cut_short_too(tmp_path):
    path = str(tmp_path / "history")
    for names in (("a",), ("a", "b"), ("b", "a")):
        history = History(path, names)
        assert history.get(500, 400) == ([], {name: [] for name in names})
        history.put(500, [1.0] * len(names))
        history.close()
    os.truncate(path, HEADER_BYTES + 100)
    history = History(path, ("b", "a"))
    assert history.get(500, 400)[0] == []
    history.close()


def test_a_row_torn_in_the_middle_is_nobodys(tmp_path):
    path = str(tmp_path / "history")
    history = History(path, NAMES)
    for second in range(10):
        history.put(SECONDS * 5 + second, [1, 1])
    history.close()
    row = 8 + 4 * len(NAMES)
    with open(path, "r+b") as file:
        file.seek(HEADER_BYTES + 4 * row)
        file.write(bytes(8))  # as a process leaves it that died between the two writes of its time
    history = History(path, NAMES)
    assert [at - SECONDS * 5 for at in history.get(SECONDS * 5 + 9, 100)[0]] == [0, 1, 2, 3, 5, 6, 7, 8, 9]
    history.close()


JUMPS = st.lists(st.tuples(st.integers(-5000, 5000), st.integers(1, 4)), min_size=1, max_size=30)


@given(JUMPS)
def test_whatever_the_clock_does_only_what_was_put_is_found_at_its_time(jumps):
    history = History("", ("value",))
    now, number = 1_000_000, 0
    rows: dict[int, float] = {}
    for jump, count in jumps:
        now += jump
        for _ in range(count):
            number += 1
            history.put(now, [number])
            rows = {at: value for at, value in rows.items() if at % SECONDS != now % SECONDS} | {now: float(number)}
            now += 1
    last = now - 1
    times, series = history.get(last, SECONDS)
    expected = {at: value for at, value in rows.items() if last - SECONDS < at <= last}
    assert dict(zip(times, series["value"], strict=True)) == expected
    assert times == sorted(times)
    history.close()


def test_numbers_no_chart_can_show_are_the_greatest_it_can():
    history = History("", NAMES)
    history.put(500, [1e300, -float("inf")])
    history.put(501, [1e39, 1])
    _, series = history.get(501, 2)
    assert all(abs(value) <= FLOAT_MAX for column in series.values() for value in column)
    history.close()
