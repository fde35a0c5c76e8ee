"""Fixtures of the tiering tests."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tiering_rig import Rig


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    rig = Rig(tmp_path)
    rig.open()
    yield rig
    rig.cache.close()


@pytest.fixture
def make_rig(tmp_path: Path) -> Iterator[Callable[..., Rig]]:
    """``make_rig(quota=…, tiers=…)``: an open cache in a home of its own, closed at the end."""
    rigs: list[Rig] = []

    def make(**options: Any) -> Rig:
        home = tmp_path / f"rig{len(rigs)}"
        home.mkdir()
        rig = Rig(home, **options)
        rig.open()
        rigs.append(rig)
        return rig

    yield make
    for rig in rigs:
        rig.cache.close()
