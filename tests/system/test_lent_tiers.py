"""A small tier, all of it held by a program that reads through descriptors: what others read is cached again before long."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from monofs.client.descriptors import DescriptorTable
from monofs.model.block import DEFAULT_LAYOUT, LAYOUT_WHOLE
from monofs.testing.nodes import ServedNode

pytestmark = pytest.mark.system
MIB = 1 << 20


class Reader:
    """Reads the same files over and over, through descriptors as far as it gets them."""

    def __init__(self, fs: Any, files: dict[str, bytes]) -> None:
        self._files = {fs.open(path): data for path, data in files.items()}
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self.rounds = 0
        self.wrong: list[str] = []

    def read(self) -> None:
        for file, data in self._files.items():
            for offset in range(0, len(data), 3 * MIB):
                if file.pread(offset, 4096) != data[offset : offset + 4096]:
                    self.wrong.append(f"{file.path} at {offset}")
        self.rounds += 1

    def _run(self) -> None:
        while not self._over.is_set():
            self.read()

    def __enter__(self) -> Reader:
        self.read()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()
        for file in self._files:
            file.close()


def until(condition: Callable[[], object], what: str, timeout_s: float = 20.0) -> None:
    end = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end, what


@pytest.fixture
def table(monkeypatch: pytest.MonkeyPatch) -> DescriptorTable:
    """Of these readers alone: other tests of this process may have left some."""
    fresh = DescriptorTable()
    monkeypatch.setattr("monofs.client.descriptors._table", fresh)
    return fresh


@pytest.mark.parametrize("layout", [DEFAULT_LAYOUT, LAYOUT_WHOLE])
def test_new_files_are_cached_beside_a_reader_that_held_the_whole_tier(
    tmp_path: Path, table: DescriptorTable, layout: int
) -> None:
    store = tmp_path / "store"
    store.mkdir()

    def put(name: str, size: int) -> tuple[str, bytes]:
        data = random.Random(name).randbytes(size)
        (store / name).write_bytes(data)
        return f"/s/{name}", data

    with ServedNode(str(tmp_path / "home"), sets=["worker.quota=64MiB"]) as node, node.connect() as fs:
        fs.mount_add("/s", f"file://{store}", {})
        fs.set_policy("/s", layout=layout)
        held = dict(put(f"held{number}", 15 * MIB) for number in range(4))
        for path, data in held.items():
            assert fs.read(path) == data
        with node.connect() as other, Reader(fs, held) as reader:
            assert table.open_count() == len(held), "all of the tier is lent"

            def is_cached(path: str, data: bytes) -> bool:
                assert other.read(path) == data
                return sum(group.bytes for group in other.cached([path])[path]) == len(data)

            assert not is_cached(*put("first", 5 * MIB)), "nothing makes room"
            table._sweep()  # half a minute has passed: all of it is asked back and given up
            before = reader.rounds
            until(lambda: reader.rounds > before + 1, "the reader has read all of it again")
            new = [put(f"new{number}", 5 * MIB + number) for number in range(8)]
            assert [is_cached(*each) for each in new] == [True] * len(new), (
                "as long as others need room, half is not lent"
            )
            before = reader.rounds
            until(lambda: reader.rounds > before + 1, "the reader reads on")
        assert reader.wrong == []
        (status,) = fs.worker_status().values()
        assert status.tiers[0].used_bytes <= 64 * MIB
