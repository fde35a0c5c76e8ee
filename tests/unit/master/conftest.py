"""Fixtures of the master's tests; what they are made of is in master_house.py."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from lakes import Lake, directory_lake
from master_house import House
from twisted.logger import LogEvent, LogLevel, formatEvent, globalLogPublisher

from monofs.config.schema import Config
from monofs.testing.reactors import Loop


@pytest.fixture(scope="session")
def loop() -> Iterator[Loop]:
    running = Loop()
    yield running
    running.stop()


@pytest.fixture(scope="module", autouse=True)
def _heard() -> Iterator[None]:
    """Fails at the end of a file when a Deferred failed in it with nobody listening."""
    unheard: list[str] = []

    def observe(event: LogEvent) -> None:
        if event["log_level"] >= LogLevel.error:
            unheard.append(formatEvent(event) + str(event.get("log_failure", "")))

    globalLogPublisher.addObserver(observe)
    yield
    gc.collect()
    globalLogPublisher.removeObserver(observe)
    assert unheard == []


@pytest.fixture
def data(tmp_path: Path) -> Path:
    directory = tmp_path / "data"
    directory.mkdir()
    return directory


@pytest.fixture
def make_house(loop: Loop, tmp_path: Path) -> Iterator[Callable[..., House]]:
    houses: list[House] = []

    def make(config: Config | None = None, *, flaky: int | None = None) -> House:
        house = House(loop, tmp_path / f"home{len(houses)}", config or Config(), flaky=flaky)
        houses.append(house)
        return house

    yield make
    for house in houses:
        house.stop()


@pytest.fixture
def house(make_house: Callable[..., House]) -> House:
    return make_house()


@pytest.fixture(params=["file", "s3"])
def lake(request: pytest.FixtureRequest, tmp_path: Path) -> Lake:
    return Lake(None, request.getfixturevalue("bucket")) if request.param == "s3" else directory_lake(tmp_path)


@pytest.fixture
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Acts are tried again at once."""
    monkeypatch.setattr("monofs.master.acting.PAUSE_S", 0.001)
    monkeypatch.setattr("monofs.master.stores.PAUSE_S", 0.001)
