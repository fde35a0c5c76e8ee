"""Calls that hang hold up those who ask the same, nobody else, and everything is bounded."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest
from twisted.internet.defer import Deferred
from twisted.python.threadpool import ThreadPool

from monofs.model.errors import Overloaded
from monofs.web.threads import LANE_MAX, LANE_WAITING_MAX, WAITING_MAX, Threads


class Reactor:
    """What threads hand to the reactor is done when the test says so."""

    def __init__(self) -> None:
        self._coming: list[Any] = []
        self._came = threading.Condition()
        self._pool = ThreadPool(0, 1)
        self._pool.start()

    def callFromThread(self, function: Any, *arguments: Any, **more: Any) -> None:
        with self._came:
            self._coming.append((function, arguments, more))
            self._came.notify()

    def getThreadPool(self) -> ThreadPool:
        return self._pool

    def until(self, is_so: Any) -> None:
        while not is_so():
            with self._came:
                assert self._came.wait_for(lambda: self._coming, 20)
                function, arguments, more = self._coming.pop(0)
            function(*arguments, **more)

    def stop(self) -> None:
        self._pool.stop()


class House:
    def __init__(self) -> None:
        self.reactor = Reactor()
        self.threads = Threads(self.reactor, "test")
        self.threads.start()
        self.gate = threading.Event()
        self.began: list[str] = []

        self.stopped: Deferred[Any] | None = None

    def stop(self) -> Deferred[Any]:
        self.stopped = self.stopped or self.threads.stop()
        return self.stopped

    def hang(self, lane: str) -> Deferred[Any]:
        def wait() -> str:
            self.began.append(lane)
            self.gate.wait(20)
            return lane

        return self.threads.run(wait, lane=lane)


@pytest.fixture
def house() -> Iterator[House]:
    made = House()
    yield made
    made.gate.set()
    stopped = made.stop()
    made.reactor.until(lambda: stopped.called)
    made.reactor.stop()


def result(later: Deferred[Any]) -> Any:
    told: list[Any] = []
    later.addBoth(told.append)
    return told[0] if told else None


def test_a_store_that_hangs_holds_up_those_who_ask_it_and_nobody_else(house):
    stuck = [house.hang("/hangs/") for _ in range(3 * LANE_MAX)]
    answered = house.threads.run(lambda: "well", lane="/works/")
    house.reactor.until(lambda: answered.called)
    assert result(answered) == "well"
    assert house.began.count("/hangs/") <= LANE_MAX
    house.gate.set()
    house.reactor.until(lambda: all(each.called for each in stuck))
    assert [result(each) for each in stuck] == ["/hangs/"] * 3 * LANE_MAX


def test_what_waits_is_bounded_in_a_lane_and_in_all(house):
    waiting = [house.hang("/a/") for _ in range(LANE_MAX + LANE_WAITING_MAX)]
    refused = result(house.hang("/a/"))
    assert refused.check(Overloaded)
    others = [house.hang(f"/{number}/") for number in range(WAITING_MAX - len(waiting))]
    refused = result(house.threads.run(lambda: None))
    assert refused.check(Overloaded)
    house.gate.set()
    house.reactor.until(lambda: all(each.called for each in (*waiting, *others)))
    again = house.threads.run(lambda: "room again")
    house.reactor.until(lambda: again.called)
    assert result(again) == "room again"


def test_a_call_that_fails_frees_its_place(house):
    def fail() -> None:
        raise ValueError("no")

    failed = [house.threads.run(fail, lane="/a/") for _ in range(2 * LANE_MAX)]
    house.reactor.until(lambda: all(each.called for each in failed))
    assert all(result(each).check(ValueError) for each in failed)


def test_what_waits_is_told_when_the_console_stops(house):
    running = [house.hang("/a/") for _ in range(LANE_MAX)]
    waiting = house.hang("/a/")
    stopped = house.stop()
    assert result(waiting).check(Overloaded)
    assert result(house.threads.run(lambda: None)).check(Overloaded)
    house.gate.set()
    house.reactor.until(lambda: stopped.called and all(each.called for each in running))
