"""The pool in front of a store: bounded, and with deadlines."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from monofs.master.pool import Pool
from monofs.model.errors import NotReady, Overloaded, UfsDenied, UfsUnreachable
from monofs.testing.reactors import Loop


def make_pool(loop: Loop, threads: int, limit: int) -> Pool:
    pool = loop.do(lambda: Pool("the store", threads, limit, reactor=loop.reactor))
    assert isinstance(pool, Pool)
    return pool


def test_calls_run_on_threads_and_errors_come_back(loop: Loop) -> None:
    pool = make_pool(loop, 2, 10)
    assert loop.do(pool.run, threading.get_ident, 10.0) != threading.get_ident()

    def refuse() -> None:
        raise UfsDenied("no")

    with pytest.raises(UfsDenied):
        loop.do(pool.run, refuse, 10.0)
    assert loop.do(lambda: pool.waiting) == 0


def test_no_more_calls_run_or_wait_than_allowed(loop: Loop) -> None:
    pool = make_pool(loop, 2, 3)
    gate, running, most = threading.Event(), [], []
    lock = threading.Lock()

    def work() -> None:
        with lock:
            running.append(1)
            most.append(len(running))
        assert gate.wait(30)
        with lock:
            running.pop()

    waiting = [loop.begin(pool.run, work, 30.0) for _ in range(5)]
    with pytest.raises(Overloaded, match="3 calls wait for the store"):
        loop.do(pool.run, work, 30.0)
    gate.set()
    for wait in waiting:
        wait()
    assert max(most) <= 2


def test_a_call_that_hangs_fails_its_caller_and_its_late_outcome_is_dropped(loop: Loop) -> None:
    pool = make_pool(loop, 1, 3)
    gate = threading.Event()
    begun: list[Any] = []
    hanging = loop.begin(pool.run, lambda: gate.wait(30), 0.05)
    behind = loop.begin(pool.run, lambda: begun.append(1), 0.05)
    for wait in (hanging, behind):
        with pytest.raises(UfsUnreachable, match=r"the store did not answer within 0\.05 s"):
            wait()
    gate.set()
    assert loop.do(pool.run, lambda: "next", 10.0) == "next"
    assert begun == []


def test_calls_that_expire_while_every_thread_hangs_leave_the_queue(loop: Loop) -> None:
    pool = make_pool(loop, 1, 3)
    gate = threading.Event()
    hanging = loop.begin(pool.run, lambda: gate.wait(30), 30.0)
    for _ in range(20):
        with pytest.raises(UfsUnreachable):
            loop.do(pool.run, lambda: None, 0.001)
        assert not pool._jobs
    gate.set()
    assert hanging() is True


def test_a_call_no_thread_can_be_started_for_is_refused_or_left_to_the_others(
    loop: Loop, monkeypatch: pytest.MonkeyPatch
) -> None:
    def start(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    pool, others = make_pool(loop, 2, 3), make_pool(loop, 2, 3)
    gate, started = threading.Event(), threading.Event()
    running = loop.begin(others.run, lambda: started.set() or gate.wait(30), 30.0)
    assert started.wait(30)
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", start)
        for _ in range(10):
            with pytest.raises(Overloaded, match="no thread can be started"):
                loop.do(pool.run, lambda: 1, 30.0)
        left = loop.begin(others.run, lambda: 2, 30.0)
    assert loop.do(lambda: (pool.waiting, len(pool._jobs))) == (0, 0)
    gate.set()
    assert (running(), left()) == (True, 2)
    assert loop.do(pool.run, lambda: 3, 30.0) == 3


def test_a_closed_pool_refuses_and_finishes_what_it_has(loop: Loop) -> None:
    pool = make_pool(loop, 1, 3)
    gate = threading.Event()
    waiting = [loop.begin(pool.run, lambda: gate.wait(30), 30.0) for _ in range(2)]
    loop.do(pool.close)
    gate.set()
    assert [wait() for wait in waiting] == [True, True]
    with pytest.raises(NotReady):
        loop.do(pool.run, lambda: None, 1.0)
