"""Failpoints as tests set them: by the environment, or by a file while the process runs."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

PROGRAM = """
import sys
from monofs.model.errors import UfsFailed
from monofs.observe.failpoints import failpoint
for line in sys.stdin:
    try:
        failpoint(line.strip())
        print("passed", flush=True)
    except UfsFailed as error:
        print(error, flush=True)
"""


def passing(setting: str, names: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", PROGRAM],
        input="".join(f"{name}\n" for name in names),
        env=os.environ | {"MONOFS_FAILPOINTS": setting},
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_an_action_happens_at_its_passing_and_no_other() -> None:
    done = passing("one=error@2,two=kill", ["one", "one", "one", "other", "two", "one"])
    assert done.stdout.splitlines() == ["passed", "failpoint one", "passed", "passed"]
    assert done.returncode == -9


def test_every_passing_is_told() -> None:
    done = passing("*=tell,b=error", ["a", "b", "a"])
    assert done.stderr.splitlines() == ["failpoint a", "failpoint b", "failpoint a"]
    assert done.stdout.splitlines() == ["passed", "failpoint b", "passed"]


def test_a_file_sets_them_while_the_process_runs_and_counts_anew_when_it_changes(tmp_path: Path) -> None:
    file = tmp_path / "failpoints"
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=os.environ | {"MONOFS_FAILPOINTS": f"@{file}"},
        text=True,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None

        def goes(name: str) -> str:
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdin.write(f"{name}\n")
            process.stdin.flush()
            return process.stdout.readline().strip()

        assert goes("a") == "passed"
        file.write_text("a=error@2")
        assert [goes("a"), goes("a"), goes("a")] == ["passed", "failpoint a", "passed"]
        file.write_text("a=error")
        assert [goes("a"), goes("a")] == ["failpoint a", "passed"]
        file.write_text("a=kill")
        assert goes("a") == ""
        assert process.wait(60) == -9
