"""A scripted S3 server for the tests of the S3 store, and directories for those of the local one."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from s3_stub import Stub, serving

from monofs.ufs.local import LocalStore


@pytest.fixture
def stub() -> Iterator[Stub]:
    with serving() as made:
        yield made


@pytest.fixture
def root(tmp_path: Path) -> Path:
    made = tmp_path / "root"
    made.mkdir()
    return made


@pytest.fixture
def store(root: Path) -> LocalStore:
    return LocalStore(root.as_uri())


@pytest.fixture
def mounted(root: Path) -> Iterator[Path]:
    """A small file system of its own below the root."""
    there = root / "mounted"
    there.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "none", there], check=False).returncode:
        pytest.skip("mounting a file system needs more rights than these tests have")
    yield there
    subprocess.run(["umount", there], check=False)
