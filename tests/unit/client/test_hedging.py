"""When a second worker is asked: after a delay learnt from what was seen, and seldom."""

from __future__ import annotations

from monofs.client.hedging import BUDGET, KNOWN_MAX, LEAST_S, LOOK_EVERY, MOST_S, SAVED_MAX, Hedging


def note(hedging: Hedging, first_byte_s: float, times: int, worker: int = 1) -> None:
    for _ in range(times):
        hedging.note(worker, first_byte_s, won=False)


def test_before_anything_is_known_nobody_is_hasty() -> None:
    hedging = Hedging()
    assert hedging.delay_s == MOST_S
    note(hedging, 0.001, LOOK_EVERY - 1)
    assert hedging.delay_s == MOST_S


def test_the_delay_is_what_nearly_all_reads_stay_below_within_bounds() -> None:
    hedging = Hedging()
    note(hedging, 0.0005, KNOWN_MAX)
    assert hedging.delay_s == LEAST_S
    note(hedging, 0.3, LOOK_EVERY)
    assert hedging.delay_s == 0.3, "an eighth of the last ones"
    note(hedging, 30.0, KNOWN_MAX)
    assert hedging.delay_s == MOST_S
    note(hedging, 0.1, KNOWN_MAX)
    assert hedging.delay_s == 0.1, "the old is forgotten"


def test_a_worker_that_is_slow_for_good_does_not_make_the_others_wait_longer() -> None:
    hedging = Hedging()
    note(hedging, 0.001, KNOWN_MAX, worker=1)
    note(hedging, 1.0, KNOWN_MAX, worker=2)
    assert hedging.delay_s == LEAST_S
    note(hedging, 0.2, KNOWN_MAX, worker=1)
    assert hedging.delay_s == 0.2, "the quicker one counts"


def test_a_few_in_a_hundred_may_ask_twice_however_slow_all_are() -> None:
    hedging, asked = Hedging(), 0
    for _ in range(1000):
        asked += hedging.spend()
        hedging.note(1, 5.0, won=False)
    assert asked == hedging.asked
    assert 25 <= asked <= 1000 * BUDGET + 1


def test_reads_that_need_none_save_up_for_few() -> None:
    hedging = Hedging()
    note(hedging, 0.001, 100_000)
    assert sum(hedging.spend() for _ in range(100)) == SAVED_MAX
