"""Fixtures of the rpc tests; what they are made of is in rpc_world.py."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from rpc_world import House, Loop


@pytest.fixture(scope="session")
def loop() -> Iterator[Loop]:
    running = Loop()
    yield running
    running.stop()


@pytest.fixture
def house(loop: Loop, tmp_path: Any) -> Iterator[House]:
    standing = House(loop, str(tmp_path))
    yield standing
    standing.stop()
