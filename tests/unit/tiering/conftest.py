"""Fixtures of the tiering tests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from tiering_rig import Rig


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    rig = Rig(tmp_path)
    rig.open()
    yield rig
    rig.cache.close()
