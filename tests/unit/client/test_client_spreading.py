"""Work of one call on several threads."""

from __future__ import annotations

import os
import threading

import pytest

from monofs.client import spreading
from monofs.client.spreading import AT_ONCE, HELPERS_MAX, spread

PATIENCE_S = 20.0


def test_tasks_run_at_the_same_time_as_many_as_may_be() -> None:
    together = threading.Barrier(AT_ONCE)
    spread([lambda: together.wait(PATIENCE_S) and None for _ in range(3 * AT_ONCE)])


def test_the_first_error_in_order_is_raised_once_all_have_ended_and_nothing_begins_after_it() -> None:
    ended: list[int] = []
    together = threading.Barrier(AT_ONCE)

    def task(number: int) -> None:
        together.wait(PATIENCE_S)
        ended.append(number)
        raise ValueError(str(number))

    with pytest.raises(ValueError, match="0"):
        spread([lambda n=n: task(n) for n in range(AT_ONCE + 5)])  # type: ignore[misc]
    assert sorted(ended) == list(range(AT_ONCE))


def test_the_threads_of_all_calls_are_bounded_and_a_call_without_helpers_works_alone() -> None:
    most, running, lock, done = 0, 0, threading.Lock(), threading.Event()

    def task() -> None:
        nonlocal most, running
        with lock:
            running += 1
            most = max(most, running)
            if most == HELPERS_MAX + 8:
                done.set()
        done.wait(PATIENCE_S)
        with lock:
            running -= 1

    callers = [threading.Thread(target=spread, args=([task] * 8,)) for _ in range(8)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join(PATIENCE_S)
    assert most == HELPERS_MAX + 8


def test_a_child_forked_while_helpers_are_busy_has_its_own() -> None:
    release = threading.Event()
    taken = threading.Semaphore(0)

    def hold() -> None:
        taken.release()
        release.wait(PATIENCE_S)

    callers = [threading.Thread(target=spread, args=([hold] * AT_ONCE,)) for _ in range(HELPERS_MAX // (AT_ONCE - 1))]
    for caller in callers:
        caller.start()
    for _ in range(len(callers) * AT_ONCE):
        assert taken.acquire(timeout=PATIENCE_S)
    assert not spreading._free.acquire(blocking=False)
    child = os.fork()
    if not child:
        try:
            together = threading.Barrier(AT_ONCE)
            spread([lambda: together.wait(PATIENCE_S) and None for _ in range(AT_ONCE)])
            os._exit(0)
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    release.set()
    for caller in callers:
        caller.join(PATIENCE_S)
