"""The cache under faults: no room, no disk, wrong bytes, kill -9. Reads stay right, the store answers for what the cache cannot, and it is said.

Every test compares all bytes with the store's. The store is a local directory: what it was asked for is counted on `/metrics`.
"""

from __future__ import annotations

import os
import random
import re
import shutil
import subprocess
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from small_disks import fill, small_disk

from monofs.testing.nodes import ServedNode

pytestmark = pytest.mark.system
MIB = 1 << 20
SMALL = 300


class House:
    """A node, a directory mounted at ``/s``, and what its files hold."""

    def __init__(self, directory: Path, *sets: str) -> None:
        self.store = directory / "store"
        self.store.mkdir()
        self.files: dict[str, bytes] = {}
        self.node = ServedNode(str(directory / "home"), sets=[*sets]).start()
        self.fs: Any = self.node.connect()
        self.fs.mount_add("/s", f"file://{self.store}", {})

    def put(self, name: str, size: int) -> None:
        data = random.Random(name).randbytes(size)
        (self.store / name).write_bytes(data)
        self.files[name] = data

    def check(self) -> None:
        """Every byte of every file, through the socket of local readers and through TCP."""
        for name, data in self.files.items():
            assert self.fs.read(f"/s/{name}") == data, name
            with self.fs.open(f"/s/{name}") as stream:
                assert stream.read() == data, name

    def again(self) -> None:
        """Start the node that was killed or stopped."""
        self.fs.close()
        self.node.start()
        self.fs = self.node.connect()

    def counter(self, name: str) -> float:
        """One of the numbers of the worker's own status."""
        (status,) = self.fs.worker_status().values()
        return float(status.counters[name])

    def tier(self) -> Any:
        (status,) = self.fs.worker_status().values()
        (tier,) = status.tiers
        return tier

    def metric(self, name: str, *marks: str) -> float:
        """The sum of the samples of a metric that carry all ``marks``."""
        with urllib.request.urlopen(self.node.doors["console"] + "/metrics", timeout=10) as answer:
            text = answer.read().decode()
        samples = re.findall(rf"^{name}(\{{[^}}]*\}})? ([0-9.e+-]+)$", text, re.MULTILINE)
        return sum(float(value) for labels, value in samples if all(mark in labels for mark in marks))

    def gets(self) -> float:
        return self.metric("monofs_store_requests_total", 'kind="get"')

    def pages(self) -> list[Path]:
        """The files of the tier."""
        return [
            path for path in Path(self.tier_directory()).rglob("*") if path.is_file() and path.parent.name != "pages"
        ]

    def tier_directory(self) -> str:
        return os.path.join(self.node.home, "worker", "pages", "files")

    def close(self) -> None:
        self.fs.close()
        self.node.stop()
        assert "Traceback" not in self.node.output()
        with open(os.path.join(self.node.home, "monofs.log")) as stream:
            for line in stream:
                assert '"exception"' not in line, line


@pytest.fixture
def make_house(tmp_path: Path) -> Iterator[Callable[..., House]]:
    houses: list[House] = []

    def make(*sets: str) -> House:
        directory = tmp_path / f"house{len(houses)}"
        directory.mkdir()
        houses.append(House(directory, *sets))
        return houses[-1]

    yield make
    try:
        for house in houses:
            house.close()
    finally:
        for house in houses:
            house.node.kill()


def until(condition: Callable[[], object], what: str, timeout_s: float = 20.0) -> None:
    """Ask again until it is so."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.05)


def corrupt(path: Path, chance: random.Random) -> None:
    """Change one byte of data; sparse files have it anywhere."""
    data = path.read_bytes()
    at = chance.choice([i for i in range(0, len(data), 511) if data[i]] or [0])
    with path.open("r+b") as stream:
        stream.seek(at)
        stream.write(bytes([data[at] ^ 0x40]))


# ---- no room ----------------------------------------------------------------------------------------------------------


def test_a_quota_smaller_than_a_file_of_pinned_pages_is_said_and_the_rest_is_served(
    make_house: Callable[..., House],
) -> None:
    house = make_house("worker.quota=4MiB")
    house.put("pinned", 4 * MIB)
    house.put("other", 3 * MIB + 17)
    house.fs.set_pin("/s/pinned")
    assert house.fs.read("/s/pinned") == house.files["pinned"]
    house.check()
    tier = house.tier()
    assert tier.used_bytes <= 4 * MIB
    assert tier.pinned_bytes == 4 * MIB
    assert house.metric("monofs_not_admitted_total", 'reason="full"') > 0
    shown = house.node.cli("cache", "status")
    assert shown.returncode == 0
    assert "past the cache" in shown.stdout
    before = house.gets()
    assert house.fs.read("/s/pinned") == house.files["pinned"]
    assert house.gets() == before
    house.fs.set_pin("/s/pinned", False)
    assert house.fs.free("/s/pinned").files == 1
    until(lambda: house.fs.read("/s/other") and house.tier().used_bytes >= 3 * MIB, "room is used again")


def test_a_file_system_without_room_is_said_and_used_again_when_there_is_some(
    make_house: Callable[..., House], tmp_path: Path
) -> None:
    with small_disk(tmp_path / "tier", "16m") as place:
        house = make_house(f'worker.tiers=[{{"name":"T","dir":"{place}","quota":"100%"}}]')
        filler = fill(place)
        for number in range(4):
            house.put(f"next{number}", 3 * MIB + number)
        house.check()
        assert house.tier().used_bytes <= 16 * MIB
        assert house.metric("monofs_not_admitted_total", 'reason="full"') > 0
        until(lambda: house.tier().state == "full", "said in the status")
        assert " full " in house.node.cli("cache", "status").stdout
        filler.unlink()

        def is_used() -> bool:
            house.fs.read("/s/next3")
            return house.tier().state == "ok" and bool(house.fs.cached(["/s/next3"])["/s/next3"])

        until(is_used, "the room is used again")
        house.check()
        house.close()


# ---- no disk ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "loss", ["files removed", "directory removed", "directory replaced", "files truncated", "files cut unseen"]
)
def test_a_tier_that_vanishes_under_way_never_gives_wrong_bytes(make_house: Callable[..., House], loss: str) -> None:
    house = make_house()
    for number, size in enumerate([1, 4096, MIB, 3 * MIB + 5]):
        house.put(f"f{number}", size)
    house.check()
    held = house.fs.open("/s/f3")
    assert held.read(100) == house.files["f3"][:100]
    tier = Path(house.node.home, "worker", "pages")
    if loss == "files removed":
        for path in house.pages():
            path.unlink()
    elif loss.startswith("files "):
        for path in house.pages():
            os.truncate(path, 0)
    else:
        shutil.rmtree(tier)
        if loss == "directory replaced":
            tier.mkdir()
            (tier / "files").mkdir()
            (tier / "files" / "00").write_bytes(b"not a directory")
    assert house.fs.read("/s/f0") == house.files["f0"]
    house.put("new", 2 * MIB)
    if loss == "files truncated":
        done = house.node.cli("admin", "fsck", "--pages")
        assert done.returncode == 1
    house.check()
    assert house.fs.read("/s/f3") == house.files["f3"]
    held.close()
    house.fs.close()
    house.node.stop()
    house.again()
    house.check()
    assert house.node.cli("admin", "fsck", "--pages").returncode == 0


def test_a_tier_that_is_unmounted_under_way_never_gives_wrong_bytes(
    make_house: Callable[..., House], tmp_path: Path
) -> None:
    with small_disk(tmp_path / "tier", "64m") as place:
        house = make_house(
            f'worker.tiers=[{{"name":"T","dir":"{place}","quota":"8MiB"}},{{"name":"D","dir":"{tmp_path}/disk","quota":"1GiB"}}]'
        )
        for number, size in enumerate([1, 4096, MIB, 3 * MIB + 5, 6 * MIB]):
            house.put(f"f{number}", size)
        house.check()
        with house.fs.open("/s/f3") as held:
            assert held.read(100) == house.files["f3"][:100]
            subprocess.run(["umount", "-l", str(place)], check=True)
            assert held.read() == house.files["f3"][100:]
        for number in range(4):
            house.put(f"new{number}", 3 * MIB + number)
        house.check()
        house.fs.close()
        house.node.stop()
        house.again()  # what lies where the disk was is an empty directory
        house.check()
        assert house.node.cli("admin", "fsck", "--pages").returncode == 0
        house.node.kill()


def test_a_tier_made_read_only_serves_what_it_has_and_says_so(make_house: Callable[..., House], tmp_path: Path) -> None:
    with small_disk(tmp_path / "tier", "64m") as place:
        house = make_house(f'worker.tiers=[{{"name":"T","dir":"{place}","quota":"32MiB"}}]')
        house.put("cached", 2 * MIB)
        house.check()
        # files open for writing would keep the mount busy: lazily, from now on nothing may be made
        bound = subprocess.run(["mount", "-o", "remount,ro", str(place)], capture_output=True, text=True)
        if bound.returncode:
            pytest.skip(f"a tmpfs cannot be made read-only here: {bound.stderr.strip()}")
        house.put("new", 3 * MIB)
        before = house.gets()
        assert house.fs.read("/s/cached") == house.files["cached"]
        assert house.gets() == before
        house.check()
        until(lambda: house.tier().state == "readonly", "said in the status")
        assert "readonly" in house.node.cli("cache", "status").stdout
        assert house.metric("monofs_not_admitted_total", 'reason="unusable"') > 0
        subprocess.run(["mount", "-o", "remount,rw", str(place)], check=True)
        until(lambda: house.fs.read("/s/new") and house.tier().state == "ok", "used again")
        house.check()
        house.close()


# ---- wrong bytes ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["a byte", "zeros", "short", "swapped"])
def test_bytes_damaged_while_the_power_was_off_are_fetched_anew(make_house: Callable[..., House], how: str) -> None:
    chance = random.Random(how)
    house = make_house()
    for number in range(12):
        house.put(f"f{number}", chance.choice([10, 5000, MIB - 1, MIB, MIB + 1, 3 * MIB]))
    house.check()
    until(lambda: house.metric("monofs_tier_used_bytes") == sum(map(len, house.files.values())), "all is cached")
    until(lambda: house.counter("monofs_index_queued") == 0, "the index knows all of it after a crash too")
    house.node.kill()
    paths = sorted(house.pages())
    assert len(paths) == 12
    for position, path in enumerate(paths):
        if how == "a byte":
            corrupt(path, chance)
        elif how == "zeros":
            path.write_bytes(bytes(path.stat().st_size))
        elif how == "short":
            os.truncate(path, path.stat().st_size // 2)
        elif position % 2:
            first, second = path.read_bytes(), paths[position - 1].read_bytes()
            path.write_bytes(second)
            paths[position - 1].write_bytes(first)
    house.again()
    house.check()
    assert house.gets() > 0
    done = house.node.cli("admin", "fsck", "--pages")
    assert done.returncode == 0, done.stdout
    before = house.gets()
    house.check()
    assert house.gets() == before


def test_a_byte_damaged_while_running_is_found_by_fsck_and_dropped(make_house: Callable[..., House]) -> None:
    house = make_house()
    house.put("f", 3 * MIB)
    house.put("g", MIB)
    house.check()
    corrupt(max(house.pages(), key=lambda path: path.stat().st_size), random.Random(3))
    done = house.node.cli("admin", "fsck", "--pages")
    assert done.returncode == 1
    assert "BROKEN" in done.stdout
    before = house.gets()
    house.fs.close()
    house.fs = house.node.connect()
    house.check()
    assert house.gets() == before + 1, "one page is fetched again"
    assert house.node.cli("admin", "fsck", "--pages").returncode == 0


# ---- kill -9 ----------------------------------------------------------------------------------------------------------


def test_a_load_killed_in_the_middle_goes_on_with_what_is_missing(make_house: Callable[..., House]) -> None:
    house = make_house()
    for number in range(SMALL):
        house.put(f"f{number:03}", 20_000 + number)
    words = [*house.node.command[:3], "--masters", house.node.doors["rpc"], "fs", "load", "/s"]
    load = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        until(lambda: house.gets() > SMALL / 3, "a third is loaded")
        until(lambda: house.counter("monofs_index_written") > SMALL / 3, "a crash leaves a third")
        house.node.kill()
    finally:
        load.kill()
        load.wait()
    house.again()
    done = house.node.cli("fs", "load", "--progress", "/s")
    assert done.returncode == 0, done.stderr
    missing = house.gets()
    assert missing < SMALL * 3 / 4, "what was kept is not fetched again"
    house.check()
    assert house.gets() == missing
    done = house.node.cli("admin", "fsck", "--pages")
    assert done.returncode == 0, done.stdout


def test_a_cache_that_lost_its_index_starts_cold_and_clean(make_house: Callable[..., House]) -> None:
    house = make_house()
    for number in range(5):
        house.put(f"f{number}", MIB + number)
    house.check()
    house.node.kill()
    shutil.rmtree(os.path.join(house.node.home, "worker", "index"))
    house.again()
    house.check()
    tier = house.tier()
    assert tier.used_bytes == sum(map(len, house.files.values())), tier
    until(lambda: len(house.pages()) == 5, "files that no index knows are removed")
    assert house.node.cli("admin", "fsck", "--pages").returncode == 0


def test_a_garbled_index_is_refused_or_starts_cold_never_wrong(make_house: Callable[..., House]) -> None:
    house = make_house()
    house.put("f", 2 * MIB)
    house.check()
    house.node.kill()
    path = Path(house.node.home, "worker", "index", "data.mdb")
    path.write_bytes(os.urandom(8192) + path.read_bytes()[8192:])
    said_before = len(house.node.output())
    try:
        house.again()
    except Exception:
        said = house.node.output()[said_before:]
        assert "Traceback" not in said
        assert "index" in said
        assert said.startswith("monofs: ")
        shutil.rmtree(path.parent)
        house.again()
    house.check()
