"""A topic costs a bounded share of the node, however large it is and however many look; one that is not answered is said to be old."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

import pytest
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.task import Clock

from monofs.model.errors import NoMaster
from monofs.web.hub import Hub
from monofs.web.topics import BUSY_SHARE, IDLE_MAX_S, LATE_MASTERS_S, SENT_BYTES_S, Asking, Source


class Page:
    is_full = False

    def __init__(self) -> None:
        self.messages: list[dict[str, Any]] = []

    def send(self, message: bytes) -> None:
        self.messages.append(json.loads(message))


class House:
    def __init__(
        self,
        ask: Callable[[Any], Any],
        *,
        pages: int = 1,
        crowd: int = 1,
        is_own: bool = False,
        run: Any = maybeDeferred,
    ) -> None:
        self.clock, self.hub, self.pages = Clock(), Hub(), [Page() for _ in range(pages)]
        for page in self.pages:
            self.hub.watch("t", page)
        source = Source(ask, 1.0, is_own=is_own)
        self.asking = Asking("t", source, None, self.hub, run, self.clock, crowd=lambda: crowd, now_ms=lambda: 7)

    @property
    def rests_s(self) -> float:
        (call,) = self.clock.getDelayedCalls()
        return float(call.getTime() - self.clock.seconds())


def busy(seconds: float) -> Callable[[Any], Any]:
    def ask(_: Any) -> dict[str, int]:
        until = time.thread_time() + seconds
        while time.thread_time() < until:
            pass
        return {"a": 1}

    return ask


def test_what_is_small_comes_as_often_as_it_should():
    house = House(lambda _: {"a": 1})
    assert 0.9 < house.rests_s <= 1.0
    house.clock.advance(1.0)
    assert [message["at"] for message in house.pages[0].messages] == [7, 7]


def test_what_keeps_a_processor_busy_comes_less_often():
    house = House(busy(0.1))
    assert house.rests_s >= 0.1 / BUSY_SHARE


def test_many_paths_that_are_looked_at_share_what_one_topic_may_cost():
    house = House(busy(0.01), crowd=100, is_own=True)
    assert house.rests_s >= 0.01 * 100 / BUSY_SHARE


def test_what_is_large_and_watched_by_many_comes_less_often():
    house = House(lambda _: {"a": "x" * (SENT_BYTES_S // 100)}, pages=500)
    assert house.rests_s >= 5.0


def test_a_path_whose_store_is_slow_rests_but_not_for_minutes(monkeypatch: pytest.MonkeyPatch):
    now_s = [0.0]
    monkeypatch.setattr("monofs.web.topics.time.monotonic", lambda: now_s[0])

    def ask(_: Any) -> dict[str, int]:
        now_s[0] += 30.0
        return {}

    assert House(ask, is_own=True).rests_s == IDLE_MAX_S


def test_one_that_is_not_answered_is_old_until_it_is():
    coming: list[Deferred[Any]] = []

    def run(*_: Any) -> Deferred[Any]:
        coming.append(Deferred())
        return coming[-1]

    house = House(lambda _: {}, run=run)
    coming[-1].callback(({"a": 1}, 0.0))
    house.clock.advance(1.0)
    house.clock.advance(LATE_MASTERS_S)
    assert house.pages[0].messages[-1]["error"]["error"] == "DeadlineExceeded"
    coming[-1].callback(({"a": 1}, 0.0))
    assert "error" not in house.pages[0].messages[-1]
    house.clock.advance(1.0)
    assert len(coming) == 3
    house.asking.stop()
    assert not house.clock.getDelayedCalls()


def test_one_that_fails_says_so_and_is_asked_again():
    def ask(_: Any) -> Any:
        raise NoMaster("nobody answers")

    house = House(ask)
    assert house.pages[0].messages[-1]["error"]["error"] == "NoMaster"
    assert 0 < house.rests_s <= 1.0
