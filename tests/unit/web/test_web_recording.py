"""Totals become rates: never negative, and never what a source had counted before it was seen."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from monofs.observe.metrics import LATENCY_BUCKETS_S, quantile
from monofs.observe.totals import TOTALS
from monofs.web.recording import SERIES, Recording, Standing


def totals(value: float) -> list[float]:
    return [value] * len(TOTALS)


def rate(row: list[float]) -> float:
    return row[0]


def test_a_worker_that_is_new_adds_nothing_and_one_that_restarts_begins_from_nothing():
    recording = Recording()
    assert rate(recording.row(Standing({"1": totals(1000)}), 1.0)) == 0
    assert rate(recording.row(Standing({"1": totals(1100), "2": totals(9e9)}), 2.0)) == 100
    assert rate(recording.row(Standing({"1": totals(30), "2": totals(9e9)}), 3.0)) == 30
    assert rate(recording.row(Standing({"2": totals(9e9)}), 4.0)) == 0
    assert rate(recording.row(Standing({"1": totals(5e9), "2": totals(9e9)}), 5.0)) == 0, (
        "it was away: what it did meanwhile is not of this second"
    )


def test_a_second_that_was_long_is_divided_by_its_length():
    recording = Recording()
    recording.row(Standing({"1": totals(0)}), 1.0)
    assert rate(recording.row(Standing({"1": totals(100)}), 5.0)) == 25


@given(st.lists(st.dictionaries(st.sampled_from("abc"), st.floats(0, 1e12), max_size=3), max_size=12))
def test_no_rate_is_ever_negative(moments):
    recording = Recording()
    for at, moment in enumerate(moments, start=1):
        row = recording.row(Standing({name: totals(value) for name, value in moment.items()}), float(at))
        assert len(row) == len(SERIES)
        assert all(math.isnan(value) or value >= 0 for value in row)


def test_a_quantile_is_estimated_within_its_bucket_and_nothing_has_none():
    counts = [0] * (len(LATENCY_BUCKETS_S) + 1)
    assert math.isnan(quantile(counts, 0.5))
    low, high = LATENCY_BUCKETS_S[2:4]
    counts[3] = 100
    assert quantile(counts, 0.5) == pytest.approx((low + high) / 2)
    assert quantile(counts, 1.0) == pytest.approx(high)
    counts[6] = 100
    assert quantile(counts, 0.5) == pytest.approx(high), "the bucket is full there"
    assert quantile(counts, 0.75) == pytest.approx((LATENCY_BUCKETS_S[5] + LATENCY_BUCKETS_S[6]) / 2)
    counts[-1] = 10_000
    assert quantile(counts, 0.99) == LATENCY_BUCKETS_S[-1], "it is not known how long they took"


@given(st.lists(st.integers(0, 1000), min_size=len(LATENCY_BUCKETS_S) + 1, max_size=len(LATENCY_BUCKETS_S) + 1))
def test_a_larger_share_never_took_less(counts):
    estimates = [quantile(counts, share / 20) for share in range(21)]
    assert all(math.isnan(each) for each in estimates) if not any(counts) else estimates == sorted(estimates)
