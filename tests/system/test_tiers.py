"""Two small tiers, filled ten times over by several readers: every byte is right, no quota is ever exceeded, nothing is left behind."""

from __future__ import annotations

import json
import random
import re
import threading
import urllib.request
import zlib
from pathlib import Path

import pytest

from monofs.testing.nodes import ServedNode

pytestmark = pytest.mark.system
MIB = 1 << 20
TOP, LOW = 8 * MIB, 12 * MIB
FILES = 110
READERS = 3


def metric(node: ServedNode, name: str, *marks: str) -> float:
    with urllib.request.urlopen(node.doors["console"] + "/metrics", timeout=10) as answer:
        text = answer.read().decode()
    samples = re.findall(rf"^{name}(\{{[^}}]*\}})? ([0-9.e+-]+)$", text, re.MULTILINE)
    return sum(float(value) for labels, value in samples if all(mark in labels for mark in marks))


def checked(node: ServedNode) -> None:
    done = node.cli("admin", "fsck", "--pages")
    assert done.returncode == 0, done.stdout + done.stderr


def test_two_tiers_filled_ten_times_over(tmp_path: Path) -> None:
    store = tmp_path / "store"
    store.mkdir()
    chance = random.Random(1)
    sizes = {f"f{number}": chance.choice((100, MIB - 1, 2 * MIB, 3 * MIB + 5, 4 * MIB)) for number in range(FILES)}
    assert sum(sizes.values()) > 10 * (TOP + LOW)

    crcs: dict[str, int] = {}
    for name, size in sizes.items():
        data = chance.randbytes(size)
        crcs[name] = zlib.crc32(data)
        (store / name).write_bytes(data)
    tiers = [
        {"name": "TOP", "dir": str(tmp_path / "top"), "quota": TOP},
        {"name": "LOW", "dir": str(tmp_path / "low"), "quota": LOW},
    ]
    node = ServedNode(
        str(tmp_path / "home"),
        sets=[
            f"worker.tiers={json.dumps(tiers)}",
            "worker.watermark=0.7",
            f"worker.trace={tmp_path}/trace",
        ],
    )
    with node:
        with node.connect() as fs:
            fs.mount_add("/s", f"file://{store}", {})
        faults: list[str] = []
        over = threading.Event()

        def read(seed: int) -> None:
            names = [*sizes, *random.Random(seed).choices(list(sizes)[:5], k=40)]  # a few are read again and again
            random.Random(seed + 100).shuffle(names)
            try:
                while names:  # a client that stays keeps descriptors for a minute, and with them the pages
                    some, names = names[:2], names[2:]
                    with node.connect(read_type="CACHE_PROMOTE" if seed % 2 else "CACHE") as fs:
                        faults.extend(
                            f"{name}: wrong bytes" for name in some if zlib.crc32(fs.read(f"/s/{name}")) != crcs[name]
                        )
            except Exception as error:
                faults.append(repr(error))

        def watch() -> None:
            with node.connect() as fs:
                while not over.wait(0.02):
                    (status,) = fs.worker_status().values()
                    faults.extend(
                        f"{tier.tier}: {tier.used_bytes} of {tier.capacity_bytes}"
                        for tier in status.tiers
                        if tier.used_bytes > tier.capacity_bytes
                    )

        watcher = threading.Thread(target=watch)
        watcher.start()
        readers = [threading.Thread(target=read, args=(seed,)) for seed in range(READERS)]
        for reader in readers:
            reader.start()
        for reader in readers:
            reader.join()
        over.set()
        watcher.join()
        assert not faults, faults[:5]
        assert metric(node, "monofs_moved_bytes_total", 'direction="demoted"') > 0
        assert metric(node, "monofs_evicted_bytes_total", 'reason="ahead"') > 0
        assert metric(node, "monofs_evicted_bytes_total") > 5 * (TOP + LOW)
        assert metric(node, "monofs_bad_pages_total") == 0
        checked(node)
        on_disk = {each: sum(p.stat().st_blocks * 512 for p in (tmp_path / each).rglob("*")) for each in ("top", "low")}
        assert on_disk["top"] <= TOP + MIB
        assert on_disk["low"] <= LOW + MIB
    simulated = node.cli("cache", "simulate", f"{tmp_path}/trace", "--sizes", "32MiB", "--json")
    assert json.loads(simulated.stdout.splitlines()[0])["accesses"] >= FILES
    with node:  # after a clean stop everything is where it was
        checked(node)
        with node.connect() as fs:
            for name in list(sizes)[:10]:
                assert zlib.crc32(fs.read(f"/s/{name}")) == crcs[name]
