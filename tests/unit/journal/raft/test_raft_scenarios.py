"""Behaviour as text: each file of `scenarios/` says what happens, command by command.

`MONOFS_REWRITE_SCENARIOS=1 pytest tests/unit/journal/raft` writes the output of now into the files; read the diff before you commit it.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from raft_scenario import run_file

FILES = sorted((Path(__file__).parent / "scenarios").glob("*.txt"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_scenario_goes_as_written(path: Path) -> None:
    text = path.read_text()
    now = run_file(text)
    if os.environ.get("MONOFS_REWRITE_SCENARIOS"):
        path.write_text(now)
    else:
        assert now == text, "see the head of this file for how to write the output anew"
