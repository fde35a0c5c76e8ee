"""A file system of its own of a few MiB that tests fill, and a node whose home alone lies on it. For 1 GiB and more: monofs.testing.smalldisk."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from monofs.testing.nodes import ServedNode


@contextmanager
def small_disk(place: Path, size: str) -> Iterator[Path]:
    """A tmpfs of this size, until the end or until the test unmounts it. Skips where none can be mounted."""
    place.mkdir()
    words = ["mount", "-t", "tmpfs", "-o", f"size={size}", "monofs-test", str(place)]
    done = subprocess.run(words, capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"a tmpfs cannot be mounted here: {done.stderr.strip()}")
    try:
        yield place
    finally:
        if place.is_mount():
            subprocess.run(["umount", "-l", str(place)], check=True)


def fill(place: Path) -> Path:
    """Leave no byte free; the file that takes them."""
    with open(place / "filler", "wb", buffering=0) as stream:
        for size in (1 << 20, 4096):
            try:
                while stream.write(bytes(size)) == size:
                    pass
            except OSError:
                pass
    return place / "filler"


class Outside(ServedNode):
    """A node whose output and ready file lie on another disk than its home."""

    @property
    def ready_file(self) -> str:
        return os.path.normpath(f"{self.home}/../../ready.json")

    @property
    def output_file(self) -> str:
        return os.path.normpath(f"{self.home}/../../out")
