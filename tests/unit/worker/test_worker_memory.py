"""Tiers in memory: nothing is asked of the kernel before a read while no swap device is on, and everything while one is."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from worker_world import MIB, TierSpec, World, make_bytes

from monofs.worker import residency

HEADINGS = "Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority\n"


@pytest.fixture
def shm() -> Iterator[str]:
    if not os.path.isdir("/dev/shm"):
        pytest.skip("no tmpfs here")
    path = f"/dev/shm/monofs-test-{os.getpid()}-{time.monotonic_ns()}"
    yield path
    for directory, _, names in os.walk(path, topdown=False):
        for name in names:
            os.unlink(os.path.join(directory, name))
        os.rmdir(directory)


@pytest.fixture
def mincores(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Lengths that were looked at page by page."""
    looked: list[int] = []
    real = residency.is_resident

    def is_resident(fd: int, offset: int, length: int) -> bool:
        looked.append(length)
        return real(fd, offset, length)

    monkeypatch.setattr(residency, "is_resident", is_resident)
    monkeypatch.setattr("monofs.worker.delivery.is_resident", is_resident)
    return looked


def swap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *devices: str) -> None:
    table = tmp_path / "swaps"
    table.write_text(HEADINGS + "".join(f"{each} partition 1 0 -2\n" for each in devices))
    monkeypatch.setattr(residency, "_swap", residency.Swap(str(table)))


@pytest.mark.parametrize("devices", [(), ("/dev/zram0",)])
def test_a_tier_in_memory_is_looked_at_page_by_page_only_while_swap_is_on(
    devices: tuple[str, ...],
    make_world: Callable[..., World],
    shm: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    mincores: list[int],
) -> None:
    swap(tmp_path, monkeypatch, *devices)
    world = make_world(tiers=[TierSpec("MEM", shm, 1 << 30)])
    capability, data = world.put(make_bytes(1, 2 * MIB + 5))
    assert world.read(capability, 0, len(data)) == data
    mincores.clear()
    assert world.read(capability, 5000, 4096) == data[5000:9096]
    assert world.read(capability, 0, 3 * MIB) == data
    pieces = [(0, 4096 * n, 4096) for n in range(64)]
    assert world.read_many([capability], pieces) == data[: 64 * 4096]
    assert bool(mincores) == bool(devices)


def test_a_tier_on_a_disk_is_looked_at_also_where_no_swap_is_on(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mincores: list[int]
) -> None:
    swap(tmp_path, monkeypatch)
    capability, data = world.put(make_bytes(1, 2 * MIB))
    assert world.read(capability, 0, len(data), pool=world.unix) == data
    mincores.clear()
    assert world.read(capability, 0, len(data), pool=world.unix) == data
    assert mincores


def test_swap_that_is_switched_on_is_noticed_and_what_cannot_be_told_counts_as_swap(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(residency, "SWAP_LOOK_S", 0.0)
    table = tmp_path / "swaps"
    seen = residency.Swap(str(table))
    assert seen.is_on()
    table.write_text(HEADINGS)
    assert not seen.is_on()
    table.write_text(HEADINGS + "/dev/vdb1 partition 8388604 0 -2\n")
    assert seen.is_on()
