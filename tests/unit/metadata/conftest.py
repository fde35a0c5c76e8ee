"""The fixture of the metadata tests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from metadata_home import Home


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Home]:
    """An initialised namespace; at its end fsck finds nothing, before and after everything was written to the database."""
    made = Home(tmp_path / "namespace")
    made.initialize()
    yield made
    assert made.findings() == {}
    made.flush()
    assert made.findings() == {}
    assert made.failures == []
    made.close()
