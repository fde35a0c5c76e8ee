"""Cached reads on one machine beside the plain file read the same way, in one run.

    python benchmarks/read_local.py [--directory DIR] [--rounds 7] [--megabytes 512]

Starts a node on a home below DIR, mounts a directory of random files, loads them, and measures: sequential 1 MiB and random 4 KiB reads after open
(descriptor), open + first byte (descriptor and loopback TCP), and read_many against single reads over TCP. Plain and monofs rounds
alternate; figures are medians of rounds, ratio = median of plain time / monofs time of a round (higher is better, 1.0 is the plain file), by the wall and of
processor time, which other programs on the machine disturb less.
"""

from __future__ import annotations

import argparse
import mmap
import os
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any

from machine import machine

from monofs.testing.nodes import ServedNode

MIB = 1 << 20
SMALL = 4096
READS = 20_000


def timed(work: Callable[[], Any]) -> float:
    """Seconds of one call."""
    return both(work)[0]


def both(work: Callable[[], Any]) -> tuple[float, float]:
    """Seconds of one call: by the wall, of this thread's processor time."""
    wall, cpu = time.perf_counter(), time.thread_time()
    work()
    return time.perf_counter() - wall, time.thread_time() - cpu


def compare(name: str, count: int, unit: str, plain: Callable[[], Any], ours: Callable[[], Any], rounds: int) -> None:
    """Alternate, take medians, print rates and the ratios."""
    plain(), ours()
    pairs = [(both(plain), both(ours)) for _ in range(rounds)]
    one, two = statistics.median(p[0] for p, _ in pairs), statistics.median(o[0] for _, o in pairs)
    wall, cpu = (statistics.median(p[i] / o[i] for p, o in pairs) for i in (0, 1))
    print(f"{name:58} {count / one:12,.0f} {count / two:12,.0f} {unit:6} {wall:6.2f} {cpu:6.2f}")


def sequential(file: Any, buffer: memoryview) -> None:
    """The whole file in 1 MiB reads."""
    file.seek(0)
    while file.readinto(buffer):
        pass


def p50(work: Callable[[], Any], times: int) -> float:
    """Median microseconds of one call."""
    return statistics.median(timed(work) for _ in range(times)) * 1e6


def compare_files(directory: str, fs: Any, name: str, rounds: int) -> None:
    """One file against its original."""
    size = os.stat(f"{directory}/{name}").st_size
    label = f"{size // MIB} MiB"
    offsets = [random.randrange(size - SMALL) for _ in range(READS)]
    big, small = memoryview(bytearray(MIB)), bytearray(SMALL)
    with open(f"{directory}/{name}", "rb", buffering=0) as plain, fs.open(f"/b/{name}") as ours:
        fd = plain.fileno()
        sequential(ours, big)

        def at(file: Any) -> Callable[[], None]:
            def run() -> None:
                seek, readinto = file.seek, file.readinto
                for offset in offsets:
                    seek(offset)
                    readinto(small)

            return run

        def system(number: int) -> Callable[[], None]:
            def run() -> None:
                for offset in offsets:
                    os.preadv(number, (small,), offset)

            return run

        def pread_into() -> None:
            read = ours.pread_into
            for offset in offsets:
                read(offset, small)

        def plain_pread() -> None:
            for offset in offsets:
                os.pread(fd, SMALL, offset)

        def sliced(mapped: mmap.mmap) -> Callable[[], None]:
            def run() -> None:
                for offset in offsets:
                    mapped[offset : offset + SMALL]

            return run

        def pread() -> None:
            read = ours.pread
            for offset in offsets:
                read(offset, SMALL)

        compare(
            f"{label}: sequential 1 MiB readinto",
            size // MIB,
            "MiB/s",
            lambda: sequential(plain, big),
            lambda: sequential(ours, big),
            rounds,
        )
        compare(f"{label}: random 4 KiB seek + readinto", READS, "/s", at(plain), at(ours), rounds)
        compare(f"{label}: random 4 KiB preadv / pread_into", READS, "/s", system(fd), pread_into, rounds)
        compare(
            f"{label}: random 4 KiB pread / pread",
            READS,
            "/s",
            plain_pread,
            pread,
            rounds,
        )
        if size <= 64 * MIB:
            compare(
                f"{label}: random 4 KiB preadv / preadv on fileno()",
                READS,
                "/s",
                system(fd),
                system(ours.fileno()),
                rounds,
            )
            with mmap.mmap(fd, 0, access=mmap.ACCESS_READ) as one, ours.mmap() as two:
                compare(f"{label}: random 4 KiB mmap", READS, "/s", sliced(one), sliced(two), rounds)


def first_byte(fs: Any, path: str) -> Callable[[], None]:
    """Open, read one byte, close."""

    def run() -> None:
        with fs.open(path) as file:
            file.read(1)

    return run


def main() -> int:
    """Run everything."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--directory", default=None)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--megabytes", type=int, default=512)
    options = parser.parse_args()
    print(f"{machine()}; {' '.join(sys.argv)}")
    with tempfile.TemporaryDirectory(dir=options.directory) as directory:
        source = f"{directory}/source"
        os.makedirs(f"{source}/files")
        for name, size in (("block", 64), ("large", options.megabytes)):
            with open(f"{source}/{name}", "wb") as file:
                file.writelines(os.urandom(MIB) for _ in range(size))
        for number in range(1000):
            with open(f"{source}/files/{number}", "wb") as file:
                file.write(os.urandom(SMALL))
        with ServedNode(f"{directory}/home") as node, node.connect() as fs:
            fs.mount_add("/b", f"file://{source}", sync_interval_s=-1.0)
            fs.load("/b")
            print(f"{'':58} {'plain':>12} {'monofs':>12} {'':6} {'ratio':>6} {'CPU':>6}")
            for name in ("block", "large"):
                compare_files(source, fs, name, options.rounds)
            measure_requests(node, fs)
    return 0


def measure_requests(node: ServedNode, fs: Any) -> None:
    """What costs a request: opening, and reading over TCP."""
    large, small = "/b/block", "/b/files/5"
    fs.read(large, 0, 1)
    print(f"open + first byte + close, 64 MiB, descriptor held: p50 {p50(first_byte(fs, large), 2000):.0f} us")
    print(f"open + first byte + close, 4 KiB: p50 {p50(first_byte(fs, small), 2000):.0f} us")

    def fresh() -> None:
        with fs.open(f"/b/files/{next(numbers)}") as file:
            file.read(1)

    numbers = iter(range(1000))
    print(f"open + first byte + close, 4 KiB, the worker's first read of each: p50 {p50(fresh, 900):.0f} us")
    os.unlink(os.path.join(node.home, "worker.sock"))
    with node.connect() as remote:
        remote.read(small)
        print(f"open + first byte + close, 64 MiB, loopback TCP: p50 {p50(first_byte(remote, large), 2000):.0f} us")
        pieces = [(f"/b/files/{number}", 0, None) for number in range(1000)]
        many = statistics.median(timed(lambda: remote.read_many(pieces)) for _ in range(7))
        single = timed(lambda: [remote.read(path) for path, _, _ in pieces])
        print(f"1,000 files of 4 KiB over TCP: read_many {1000 / many:,.0f}/s, one by one {1000 / single:,.0f}/s")
        with remote.open("/b/large") as file:
            size = file.size
            one = timed(lambda: [file.pread(random.randrange(size - SMALL), SMALL) for _ in range(3000)])
            print(f"4 KiB random over TCP, one at a time: {3000 / one:,.0f}/s")
            buffer = memoryview(bytearray(MIB * 16))
            streamed = timed(lambda: sequential(file, buffer))
            print(f"sequential over TCP in 16 MiB reads: {size / streamed / 1e9:.2f} GB/s")


if __name__ == "__main__":
    sys.exit(main())
