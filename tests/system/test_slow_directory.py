"""A storage directory that takes half a second for every file operation: its bytes stay right, and nobody else waits for it.

That the reactor never does is not measured but known: the directory's file system is told by the kernel which thread asks, and the node's
first thread, which runs the reactor and with it heartbeats and elections, must not be among them.
"""

from __future__ import annotations

import random
import re
import time
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from monofs.testing.nodes import ServedNode
from monofs.testing.slowdisk import SlowDisk, why_not

pytestmark = pytest.mark.system
DELAY_S = 0.5
MIB = 1 << 20


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    reason = why_not()
    if reason:
        pytest.skip(f"a slow directory cannot be made here: {reason}")
    home = House(tmp_path_factory.mktemp("limping"))
    yield home
    home.close()


class House:
    """A node whose tier is a quick directory and a slow one, taken in turn, and files whose pages lie in one of them each."""

    def __init__(self, directory: Path) -> None:
        self.disk = SlowDisk(str(directory / "slow")).open()
        try:
            self.store = directory / "store"
            self.store.mkdir()
            places = ",".join(
                f'{{"name":"T","dir":"{place}","quota":"1GiB"}}' for place in (self.disk.directory, directory / "quick")
            )
            sets = [f"worker.tiers=[{places}]", "worker.allocation=round-robin"]
            self.node = ServedNode(str(directory / "home"), sets=sets).start()
            self.fs: Any = self.node.connect()
            self.fs.mount_add("/s", f"file://{self.store}", {})
            sizes = [50_000, 50_001, 300_000, 300_001]
            self.files = dict(self.put(f"f{number}", size) for number, size in enumerate(sizes))
            for path, data in self.files.items():
                assert self.fs.read(path) == data
            sizes = {path.stat().st_size for path in Path(self.disk.files).rglob("*") if path.is_file()}
            self.slow = {path: data for path, data in self.files.items() if len(data) in sizes}
            self.quick = {path: data for path, data in self.files.items() if len(data) not in sizes}
            assert len(self.slow) == len(self.quick), "in turn"
        except BaseException:
            self.close()
            raise

    def put(self, name: str, size: int) -> tuple[str, bytes]:
        data = random.Random(name).randbytes(size)
        (self.store / name).write_bytes(data)
        return f"/s/{name}", data

    def gets(self) -> float:
        with urllib.request.urlopen(self.node.doors["console"] + "/metrics", timeout=10) as answer:
            text = answer.read().decode()
        samples = re.findall(r"^monofs_store_requests_total(\{.*\}) ([0-9.e+-]+)$", text, re.MULTILINE)
        return sum(float(value) for labels, value in samples if 'kind="get"' in labels)

    def while_slow(self, work: Callable[[], object]) -> None:
        """Do ``work`` while the directory is slow; the node's reactor must not have asked anything of it."""
        self.disk.slow(DELAY_S)
        try:
            work()
            asked = self.disk.threads()
        finally:
            self.disk.slow(0)
        assert asked, "something was asked of the slow directory"
        assert self.node.process is not None
        assert [name for name, thread in asked if thread == self.node.process.pid] == []

    def close(self) -> None:
        try:
            if hasattr(self, "fs"):
                self.fs.close()
                self.node.stop()
        finally:
            if hasattr(self, "node"):
                self.node.kill()
            self.disk.close()


@pytest.fixture(params=["on this machine", "over TCP"])
def fs(house: House, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A client that knows nothing yet."""
    if request.param == "over TCP":
        monkeypatch.setattr("monofs.client.cluster.host_id", lambda: "another machine")
    with house.node.connect() as client:
        yield client


def test_what_lies_in_it_is_read_from_it_while_others_are_served(house: House, fs: Any) -> None:
    pieces = [(path, 100 * at, 500) for at, path in enumerate(house.files)]

    def work() -> None:
        with ThreadPoolExecutor(len(house.slow) + 1) as threads:
            many = threads.submit(fs.read_many, pieces)
            waiting = [threads.submit(fs.read, path) for path in house.slow]
            served = 0
            while not (many.done() and all(each.done() for each in waiting)):
                for path, data in house.quick.items():
                    assert fs.read(path) == data
                    served += 1
            assert [each.result() for each in waiting] == list(house.slow.values())
            assert many.result() == [house.files[path][offset : offset + length] for path, offset, length in pieces]
        assert served > len(house.quick), "others were served meanwhile"

    before = house.gets()
    assert before > 0
    house.while_slow(work)
    assert house.gets() == before, "nothing was fetched again"


def test_what_is_new_is_fetched_and_written_past_it(house: House) -> None:
    def asked() -> list[str]:
        return [name for name, _ in house.disk.threads()]

    def work() -> None:
        end = time.monotonic() + 20
        while asked().count("statfs") < 2:  # it has been asked for its room, and took its time
            assert time.monotonic() < end
        new = [house.put(f"new{number}", 100_000 + number) for number in range(6)]
        with ThreadPoolExecutor(len(new)) as threads:
            assert list(threads.map(house.fs.read, [path for path, _ in new])) == [data for _, data in new]
        house.fs.write("/s/written", b"x" * MIB)
        assert house.fs.read("/s/written") == b"x" * MIB
        assert not {"create", "write"}.intersection(asked())
        house.fs.free("/s", recursive=True)

    house.while_slow(work)
    for path, data in house.files.items():
        assert house.fs.read(path) == data
