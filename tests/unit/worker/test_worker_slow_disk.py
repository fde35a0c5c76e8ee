"""The reactor never waits for a disk.

How a slow disk is made: the one function through which threads open cached files waits for an event, and the kernel is told to
forget the cached bytes (fsync, then POSIX_FADV_DONTNEED). A disk that does not answer at all is slower than one that answers in
500 ms: if the reactor touched it, it would never answer another request, and the test would fail by its patience.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from worker_world import MIB, PATIENCE_S, World, make_bytes

from monofs.model.options import WriteType
from monofs.rpc.api import DescriptorAnswer, DescriptorRequest, Empty, Method, Pong, ReadRequest
from monofs.tiering import pace
from monofs.tiering.cache import TierSpec
from monofs.worker.residency import is_resident


class SlowDisk:
    """Stands before ``open_file``; ``hang()`` makes it wait until ``heal()``."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        import monofs.tiering.files as files

        self._healthy = threading.Event()
        self._healthy.set()
        self.met = threading.Semaphore(0)
        real = files.open_file

        def open_file(*args: Any, **kwargs: Any) -> int:
            if not self._healthy.is_set():
                self.met.release()
                assert self._healthy.wait(PATIENCE_S)
            return real(*args, **kwargs)

        for module in ("monofs.tiering.files", "monofs.tiering.cache.page_files"):
            monkeypatch.setattr(f"{module}.open_file", open_file)

    def hang(self) -> None:
        self._healthy.clear()

    def heal(self) -> None:
        self._healthy.set()


@pytest.fixture
def slow_disk(monkeypatch: pytest.MonkeyPatch) -> Iterator[SlowDisk]:
    disk = SlowDisk(monkeypatch)
    yield disk
    disk.heal()


def forget(world: World, path: str) -> None:
    """Drop the file's bytes from memory. What is mapped stays, so it must not have been read over TCP (rpc/link.py maps there);
    and probing with RWF_NOWAIT would start to read it again."""
    fd = os.open(path, os.O_RDWR)
    try:
        os.fsync(fd)
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        assert not world.run(is_resident, fd, 0, 4096)
    finally:
        os.close(fd)


def ping(world: World) -> None:
    world.tcp.call(Method.PING, Empty(), Pong, PATIENCE_S)


@pytest.mark.parametrize("length", [70_000, 3 * MIB])
def test_reads_of_what_is_not_in_memory_keep_nobody_waiting(world: World, slow_disk: SlowDisk, length: int) -> None:
    cold, data = world.put(make_bytes(1, 4 * MIB))
    hot, other = world.put(make_bytes(2, MIB))
    world.read(cold, 0, len(data), pool=world.unix)
    world.read(hot, 0, MIB)
    forget(world, world.path_of(1))
    slow_disk.hang()
    (reader,) = world.ask([ReadRequest(cold, 100, length)])
    assert slow_disk.met.acquire(timeout=PATIENCE_S), "a thread stands before the disk"
    for _ in range(20):
        ping(world)
        assert world.read(hot, 0, 4096) == other[:4096], "what is in memory is served meanwhile"
    world.on_beat()
    assert not reader.done.is_set()
    slow_disk.heal()
    assert reader.wait() == data[100:][:length]


def test_writes_of_fetched_pages_keep_nobody_waiting(world: World, slow_disk: SlowDisk) -> None:
    capability, data = world.put(make_bytes(3, 2 * MIB))
    slow_disk.hang()
    (reader,) = world.ask([ReadRequest(capability, 0, 2 * MIB)])
    assert slow_disk.met.acquire(timeout=PATIENCE_S)
    for _ in range(20):
        ping(world)
    world.on_beat()
    slow_disk.heal()
    assert reader.wait() == data


def test_verification_keeps_nobody_waiting(world: World, slow_disk: SlowDisk) -> None:
    capability, data = world.put(make_bytes(4, 2 * MIB))
    world.read(capability, 0, len(data))
    world.crash()
    world.start()
    slow_disk.hang()
    (reader,) = world.ask([ReadRequest(capability, 0, 2 * MIB)])
    assert slow_disk.met.acquire(timeout=PATIENCE_S)
    for _ in range(20):
        ping(world)
    slow_disk.heal()
    assert reader.wait() == data


def test_a_group_dropped_while_its_descriptor_is_being_opened_gives_none(
    world: World, slow_disk: SlowDisk, monkeypatch: pytest.MonkeyPatch
) -> None:
    capability, data = world.put(make_bytes(1, MIB))
    world.read(capability, 0, len(data))
    world.stop()
    world.start()
    monkeypatch.setattr("monofs.tiering.files.open_now", lambda group: None)
    slow_disk.hang()
    with ThreadPoolExecutor(1) as threads:
        request = DescriptorRequest(capability, 0)
        asked = threads.submit(
            world.unix.call_with_descriptor, Method.DESCRIPTOR, request, DescriptorAnswer, timeout_s=PATIENCE_S
        )
        assert slow_disk.met.acquire(timeout=PATIENCE_S)
        world.run(lambda: world.cache.drop(world.content()))
        slow_disk.heal()
        answer, fd = asked.result()
    assert (answer.lease, answer.present, fd) == (0, 0, None)
    assert world.read(capability, 0, len(data)) == data


class SlowDirectory:
    """Stands before every file of one storage directory; its disk does not answer until :meth:`heal`."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, directory: str) -> None:
        import monofs.tiering.files as files

        self._healthy = threading.Event()
        self.inside = 0
        self.most = 0
        changed = threading.Lock()
        real = files._open_in

        def open_in(where: Any, *args: Any, **kwargs: Any) -> int:
            if where.name == directory and not self._healthy.is_set():
                with changed:
                    self.inside += 1
                    self.most = max(self.most, self.inside)
                assert self._healthy.wait(PATIENCE_S)
                with changed:
                    self.inside -= 1
            return real(where, *args, **kwargs)

        monkeypatch.setattr(files, "_open_in", open_in)

    def heal(self) -> None:
        self._healthy.set()


def test_other_directories_go_on_while_one_does_not_answer(
    make_world: Callable[..., World], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Or the threads that fetch would all wait for the one disk, and nothing could be read that is not cached."""
    monkeypatch.setattr(pace, "SLOW_S", 2.0)  # where tests run, a good disk may take longer than it should
    tiers = [TierSpec("DISK", str(tmp_path / name), 1 << 30) for name in ("bad", "good")]
    world = make_world(tiers=tiers, fetch_threads=16)
    cached = [world.put(make_bytes(number, 100_000 + number)) for number in range(1, 9)]
    for token, data in cached:
        world.read(token, 0, len(data))
    slow = SlowDirectory(monkeypatch, str(tmp_path / "bad"))
    try:
        files = [world.put(make_bytes(number, MIB + number)) for number in range(100, 200)]
        readers = world.ask([ReadRequest(token, 0, len(data)) for token, data in files])
        answered = [(reader, data) for reader, (_, data) in zip(readers, files, strict=True)]
        world.on_reactor_until(lambda: sum(reader.done.is_set() for reader in readers) >= 100 - 8)
        for reader, data in answered:
            if reader.done.is_set():
                assert reader.wait() == data
        assert slow.most <= 8, "half of the threads at most wait for it"
        world.on_beat()
        ping(world)
        later = [world.put(make_bytes(number, MIB)) for number in range(200, 220)]
        for token, data in later:
            assert world.read(token, 0, len(data)) == data
        assert {
            world.run(lambda n=n: world.cache.groups(world.content(n))[0].directory.name) for n in range(109, 129)
        } == {str(tmp_path / "good")}
    finally:
        slow.heal()
    for reader, data in answered:
        assert reader.wait() == data


def test_a_write_of_what_no_store_has_waits_for_a_slow_disk(
    make_world: Callable[..., World], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    tiers = [TierSpec("DISK", str(tmp_path / "bad"), 1 << 30), TierSpec("LATER", str(tmp_path / "good"), 1 << 30)]
    world = make_world(tiers=tiers)
    world.run(lambda: [setattr(each.pace, "_most", 0) for each in world.cache.directories])
    data = make_bytes(1, 3 * MIB)
    world.write(world.write_capability(1, len(data), write_type=WriteType.MUST_CACHE, mount=0), data)
    assert world.present(1) == 0b111
