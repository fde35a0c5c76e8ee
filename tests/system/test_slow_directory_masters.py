"""Three nodes that are master and worker in one process, one with a storage directory that takes half a second for every file operation.

It holds up no election and no heartbeat: the node leads on while its bytes are asked for, and leads again after another leader was killed. Of its two
directories the quick one serves meanwhile, and so do the other nodes.
"""

from __future__ import annotations

import json
import random
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from test_client_workers import wait_for_slots
from test_masters import Writer

from monofs.client.filesystem import FileSystem
from monofs.testing.masters import Masters, wait_until
from monofs.testing.slowdisk import SlowDisk, why_not

pytestmark = pytest.mark.system
DELAY_S = 0.5
FILES = 36
LIMPING = "m1"
SETS = [
    "worker.allocation=round-robin",
    "journal.election_timeout_s=2",  # four operations of the directory, and more than a busy machine holds back a heartbeat
]


class House:
    """The group, and files by who serves them: the slow directory, the quick one beside it, or another node."""

    def __init__(self, directory: Path) -> None:
        self.disk = SlowDisk(str(directory / "slow")).open()
        self.masters = Masters(str(directory / "group"), role="all", sets=SETS)
        tiers = [
            {"name": "T", "dir": place, "quota": "256MiB"} for place in (self.disk.directory, str(directory / "quick"))
        ]
        self.masters.nodes[LIMPING].sets.append(f"worker.tiers={json.dumps(tiers)}")
        store = directory / "store"
        store.mkdir()
        chance = random.Random(1)
        self.files = {f"/s/f{number}": chance.randbytes(50_000 + number) for number in range(FILES)}
        for path, data in self.files.items():
            (store / path[3:]).write_bytes(data)
        self.slow: list[str] = []
        self.quick: list[str] = []
        self.elsewhere: list[str] = []
        try:
            self.masters.launch()
            with self.masters.connect() as fs:
                fs.mount_add("/s", f"file://{store}", {}, sync_interval_s=-1.0)
                wait_for_slots(fs)
                self.compare(fs, list(self.files))
            slow, quick = (
                {path.stat().st_size for path in Path(place).rglob("*") if path.is_file()}
                for place in (self.disk.files, directory / "quick")
            )
            for path, data in self.files.items():
                where = self.slow if len(data) in slow else self.quick if len(data) in quick else self.elsewhere
                where.append(path)
        except BaseException:
            self.close()
            raise

    def compare(self, fs: FileSystem, paths: list[str]) -> None:
        for path in paths:
            assert fs.read(path) == self.files[path]

    def terms(self) -> dict[str, tuple[int, int]]:
        """What each master that runs knows of who leads: term and leader."""
        told = {}
        for name, node in self.masters.nodes.items():
            if node.process is not None and node.process.poll() is None:
                with self.masters.connect(name) as fs:
                    answer = fs.quorum()
                told[name] = (answer.term, answer.leader)
        return told

    def asked(self) -> int:
        return len(self.disk.threads())

    def log(self, event: str) -> list[str]:
        """Lines about an event that any node has written."""
        logs = [Path(node.home, "monofs.log").read_text().splitlines() for node in self.masters.nodes.values()]
        return [line for lines in logs for line in lines if json.loads(line)["event"] == event]

    def close(self) -> None:
        try:
            self.disk.slow(0)
        finally:
            self.masters.__exit__()
            self.disk.close()


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    reason = why_not()
    if reason:
        pytest.skip(f"a slow directory cannot be made here: {reason}")
    made = House(tmp_path)
    yield made
    made.close()


class Load:
    """Programs that read without end; each comes anew for every file, so that it is opened in its directory again."""

    def __init__(self, house: House) -> None:
        self._house = house
        self._over = threading.Event()
        self._threads = ThreadPoolExecutor(6)
        self.reads = dict.fromkeys(("slow", "quick", "elsewhere"), 0)
        kinds = ["slow"] * 4 + ["quick", "elsewhere"]
        self._running = [self._threads.submit(self._read, kind, number) for number, kind in enumerate(kinds)]

    def _read(self, kind: str, number: int) -> None:
        chance = random.Random(number)
        while not self._over.is_set():
            with self._house.masters.connect(timeout_s=60) as fs:
                self._house.compare(fs, [chance.choice(getattr(self._house, kind))])
            self.reads[kind] += 1

    def wait_for(self, more: int) -> None:
        """Until so many more files of each kind were read."""
        goals = {kind: done + more for kind, done in self.reads.items()}

        def are_read() -> bool:
            for each in self._running:
                assert not each.done() or each.result() is None, "it ends by an error only"
            return all(self.reads[kind] >= goal for kind, goal in goals.items())

        wait_until(are_read, "reads do not go on")

    def end(self) -> None:
        self._over.set()
        for each in self._running:
            each.result(60)
        self._threads.shutdown()


def test_a_slow_directory_holds_up_no_heartbeat_and_no_election(house: House) -> None:
    assert house.slow, "some files lie in the slow directory"
    assert house.quick
    assert house.elsewhere
    house.masters.hand_over(LIMPING)
    wait_until(lambda: len(set(house.terms().values())) == 1, "not all know who leads")
    before = house.terms()
    house.disk.slow(DELAY_S)
    load, writer = Load(house), Writer(house.masters, "/made")
    writer.start()
    try:
        writer.wait_for(200)
        load.wait_for(8)
        wait_until(lambda: house.asked() >= 60, "the slow directory is not asked")
        assert house.terms() == before, "it leads on, in the same term"
        assert house.masters.leader() == LIMPING
        assert not house.log("a master is not heard")
        with house.masters.connect() as fs:
            heard = [(row["live"], row["heard_s"]) for row in fs.report()["workers"].values()]
        assert heard == [(True, 0.0)] * 3, "every worker's heartbeats come in time"

        house.masters.hand_over("m2")
        house.masters.nodes["m2"].kill()
        writer.wait_for(50)
        assert house.masters.leader() in (LIMPING, "m3")
        house.masters.hand_over(LIMPING)
        writer.wait_for(50)
        load.wait_for(8)
        assert house.masters.leader() == LIMPING
        process = house.masters.nodes[LIMPING].process
        assert process is not None
        assert [name for name, thread in house.disk.threads() if thread == process.pid] == [], "its reactor asked"
    finally:
        writer.end()
        load.end()
    assert not writer.errors
    with house.masters.connect() as fs:
        assert {info.path for info in fs.list("/made")} >= set(writer.done)
