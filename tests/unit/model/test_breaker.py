"""Who failed is not asked for a pause that doubles, then by one, then as that went."""

from __future__ import annotations

from monofs.model.breaker import Breaker
from monofs.model.errors import UfsUnreachable

ERROR = UfsUnreachable("refused")


def test_it_opens_after_so_many_failures_in_a_row_over_so_long() -> None:
    breaker = Breaker(failures=3, span_s=2.0, first_s=1.0, most_s=8.0)
    for now_s in (10.0, 10.1, 10.2, 11.9):
        breaker.failed(ERROR, now_s, now_s)
        assert breaker.wait_s(now_s) == 0.0, "as many, in too short a time"
    breaker.answered()
    for now_s in (20.0, 25.0):
        breaker.failed(ERROR, now_s, now_s)
        assert breaker.wait_s(now_s) == 0.0, "long enough, too few in a row"
    breaker.failed(ERROR, 25.0, 25.0)
    assert breaker.wait_s(25.0) == 1.0
    assert breaker.error is ERROR


def test_a_request_that_hung_long_counts_from_its_beginning() -> None:
    breaker = Breaker(failures=2, span_s=2.0, first_s=1.0, most_s=8.0)
    breaker.failed(ERROR, 30.0, 0.0)
    breaker.failed(ERROR, 30.0, 0.0)
    assert breaker.wait_s(30.0) == 1.0


def test_after_the_pause_one_is_let_through_and_its_failure_doubles_the_pause() -> None:
    breaker, now_s, pauses = Breaker(first_s=1.0, most_s=4.0), 0.0, []
    breaker.failed(ERROR, now_s, now_s)
    for _ in range(4):
        pauses.append(breaker.wait_s(now_s))
        now_s += pauses[-1]
        assert breaker.left_s(now_s) == 0.0
        assert breaker.wait_s(now_s) == 0.0, "the probe"
        assert breaker.wait_s(now_s) > 0.0, "one"
        breaker.failed(ERROR, now_s, now_s)
    assert pauses == [1.0, 2.0, 4.0, 4.0]


def test_failures_of_what_was_under_way_when_it_opened_make_the_pause_no_longer() -> None:
    breaker = Breaker(first_s=1.0, most_s=64.0)
    for _ in range(16):
        breaker.failed(ERROR, 0.0, 0.0)
    assert breaker.wait_s(0.0) == 1.0


def test_a_probe_nobody_hears_of_again_is_followed_by_another() -> None:
    breaker = Breaker(first_s=1.0, most_s=64.0)
    breaker.failed(ERROR, 0.0, 0.0)
    assert [breaker.wait_s(now_s) == 0.0 for now_s in (1.0, 1.5, 2.0, 2.5)] == [True, False, True, False]


def test_an_answer_closes_it_and_forgets() -> None:
    breaker = Breaker(first_s=1.0, most_s=64.0)
    for now_s in (0.0, 1.0, 3.0):
        assert breaker.wait_s(now_s) == 0.0
        breaker.failed(ERROR, now_s, now_s)
    breaker.answered()
    assert (breaker.wait_s(3.0), breaker.error) == (0.0, None)
    breaker.failed(ERROR, 4.0, 4.0)
    assert breaker.wait_s(4.0) == 1.0
