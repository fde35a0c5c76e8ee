"""A reactor for the session, and worlds built on it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from worker_world import World

from monofs.testing.reactors import Loop


@pytest.fixture(scope="session")
def reactor_thread() -> Iterator[Loop]:
    thread = Loop()
    yield thread
    thread.stop()


@pytest.fixture
def make_world(reactor_thread: Loop, tmp_path: Path) -> Iterator[Callable[..., World]]:
    """``make_world(quota=…, fetch_bytes=…)``: a started worker, stopped at the end."""
    worlds: list[World] = []

    def make(**settings: Any) -> World:
        world = World(reactor_thread, str(tmp_path / f"w{len(worlds)}"), **settings).start()
        worlds.append(world)
        return world

    yield make
    for world in worlds:
        world.stop()


@pytest.fixture
def world(make_world: Callable[..., World]) -> World:
    return make_world()
