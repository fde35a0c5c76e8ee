"""The reactor never waits for a disk.

How a slow disk is made: the one function through which threads open cached files waits for an event, and the kernel is told to
forget the cached bytes (fsync, then POSIX_FADV_DONTNEED). A disk that does not answer at all is slower than one that answers in
500 ms: if the reactor touched it, it would never answer another request, and the test would fail by its patience.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from worker_world import MIB, PATIENCE_S, World, make_bytes

from monofs.rpc.api import DescriptorAnswer, DescriptorRequest, Empty, Method, Pong, ReadRequest
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
