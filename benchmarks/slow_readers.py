"""A thousand readers of 64 MiB blocks that hardly read: what they cost a worker's memory, and a quick reader beside them.

    python benchmarks/slow_readers.py [--readers 1000] [--rate-mb 20] [--seconds 3] [--rounds 3] [--directory DIR]

Each slow reader has a connection of its own, asks for a whole block, and takes bytes so that all of them together get ``rate-mb`` MB/s. Blocks are
warm over TCP, warm over the Unix socket, and cold over TCP past the cache (so that the worker has to hold what the store sent). Memory is the growth
over what the node had before: anonymous (its own), mapped (pages of cached files, which are the kernel's to drop), and what the kernel holds
for TCP sockets of both sides. The quick reader reads a warm block over and over, beside nobody and beside the slow ones, in turn.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import resource
import select
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from typing import Any

import msgspec
from connections import private_bytes
from machine import machine

from monofs.model.options import ReadType
from monofs.rpc.api import Method, ReadRequest
from monofs.rpc.conversation import Conversation
from monofs.rpc.handshake import Credential
from monofs.rpc.sync import Pool
from monofs.testing.nodes import ServedNode

MIB = 1 << 20
BLOCK = 64 * MIB
TAKEN_BYTES = 16 << 10
FILES = 8


def mapped_bytes(pid: int) -> int:
    """Resident pages of files."""
    with open(f"/proc/{pid}/status") as status:
        return next(int(line.split()[1]) * 1024 for line in status if line.startswith("RssFile:"))


def socket_bytes() -> int:
    """What the kernel holds for TCP sockets of this machine."""
    with open("/proc/net/sockstat") as stat:
        words = next(line.split() for line in stat if line.startswith("TCP:"))
    return int(words[words.index("mem") + 1]) * resource.getpagesize()


class Slow:
    """All slow readers, and the thread that takes a little from each in turn."""

    def __init__(self, address: str, tokens: list[bytes], count: int, rate: float, read_type: str) -> None:
        self._rate, self._over = rate, threading.Event()
        self._talks = [Conversation(address, Credential(), time.monotonic() + 60) for _ in range(count)]
        for number, talk in enumerate(self._talks):
            request = ReadRequest(tokens[number % len(tokens)], 0, BLOCK, read_type)
            talk.start_stream(Method.READ, msgspec.msgpack.encode(request), time.monotonic() + 3000, 0)
        self.sockets: list[Any] = [talk._sock for talk in self._talks]
        self.taken = [0] * count
        self._thread = threading.Thread(target=self._take, daemon=True)
        self._thread.start()

    def _take(self) -> None:
        for sock in self.sockets:
            sock.setblocking(False)
        epoll, began, total = select.epoll(), time.monotonic(), 0
        while not self._over.is_set():
            for number, sock in enumerate(self.sockets):
                with contextlib.suppress(BlockingIOError):
                    size = len(sock.recv(TAKEN_BYTES))
                    self.taken[number] += size
                    total += size
            self._over.wait(max(0.01, total / self._rate - (time.monotonic() - began)))
        epoll.close()

    def stop(self) -> None:
        self._over.set()
        self._thread.join()
        for talk in self._talks:
            talk.close()


def quick(pool: Pool, capability: bytes, buffer: memoryview, seconds: float) -> float:
    """GB/s of one reader in a hurry."""
    done, began = 0, time.perf_counter()
    while time.perf_counter() - began < seconds:
        done += pool.read_into(Method.READ, ReadRequest(capability, 0, BLOCK, sequential=True), buffer, 600)
    return done / (time.perf_counter() - began) / 1e9


@contextlib.contextmanager
def house(directory: str | None) -> Iterator[tuple[ServedNode, Any, list[bytes]]]:
    """(node, client, capabilities of warm blocks)."""
    with tempfile.TemporaryDirectory(prefix="monofs-slow-", dir=directory) as where:
        os.makedirs(f"{where}/source")
        for number in range(FILES):
            with open(f"{where}/source/{number}", "wb") as file:
                file.writelines(os.urandom(MIB) for _ in range(64))
        with ServedNode(f"{where}/home") as node, node.connect() as fs:
            fs.mount_add("/b", f"file://{where}/source", sync_interval_s=-1.0)
            fs.load("/b")
            yield node, fs, [fs.reader(f"/b/{number}").opened.capability for number in range(FILES)]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--readers", type=int, default=1000)
    parser.add_argument("--rate-mb", type=float, default=20.0)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--directory", default=None)
    options = parser.parse_args()
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
    print(machine())
    with house(options.directory) as (node, _, tokens):
        tcp, unix = node.doors["worker"], f"{node.home}/worker.sock"
        pid, pool, buffer = node.doors["pid"], Pool(tcp), memoryview(bytearray(BLOCK))
        quick(pool, tokens[0], buffer, 0.5)
        ways = (
            ("warm, TCP", tcp, ReadType.CACHE),
            ("warm, Unix socket", unix, ReadType.CACHE),
            ("from the store past the cache, TCP", tcp, ReadType.STORE),
        )
        for name, address, read_type in ways:
            alone, beside, grown = [], [], (0, 0, 0)
            spread = (0, 0)
            for _ in range(options.rounds):
                alone.append(quick(pool, tokens[0], buffer, options.seconds))
                before = private_bytes(pid), mapped_bytes(pid), socket_bytes()
                slow = Slow(address, tokens, options.readers, options.rate_mb * 1e6, read_type)
                time.sleep(2.0)
                beside.append(quick(pool, tokens[0], buffer, options.seconds))
                now = private_bytes(pid), mapped_bytes(pid), socket_bytes()
                grown = max(grown, tuple(b - a for a, b in zip(before, now, strict=True)))  # type: ignore[assignment]
                spread = min(slow.taken), max(slow.taken)
                slow.stop()
                time.sleep(1.0)
            anonymous, mapped, kernel = (each / MIB for each in grown)
            one, two = statistics.median(alone), statistics.median(beside)
            print(
                f"{options.readers} slow readers, {name}: anonymous +{anonymous:.0f} MiB, mapped +{mapped:.0f}, kernel TCP +{kernel:.0f};"
                f" each got {spread[0] / 1e3:.0f} to {spread[1] / 1e3:.0f} KB; quick reader {one:.2f} GB/s alone, {two:.2f} beside ({two / one:.2f})",
                flush=True,
            )
        pool.close()


if __name__ == "__main__":
    sys.exit(main())
