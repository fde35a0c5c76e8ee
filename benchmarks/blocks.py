"""One client reads a large range over loopback TCP, block after block and several blocks at a time, in turn, from one worker and from two.

    python benchmarks/blocks.py [--megabytes 256] [--rounds 7] [--directory /dev/shm]

Workers and client share the machine's cores: where those are two, the ratio says what is left to gain there, not what several machines give.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from contextlib import ExitStack

from machine import machine

import monofs
from monofs.client import spreading
from monofs.testing.nodes import ServedNode

MIB = 1 << 20


def compare(master: str, rounds: int) -> tuple[float, float]:
    """GB/s block after block, and several at a time; medians."""
    with monofs.connect(master) as fs:
        for link in fs._session().cluster.links():
            link.is_local = False
        with fs.open("/s/large") as file:
            buffer = memoryview(bytearray(file.size))
            rates: dict[int, list[float]] = {1: [], spreading.AT_ONCE: []}
            for number in range(2 * rounds + 2):
                spreading.AT_ONCE = at_once = list(rates)[number % 2]
                began = time.perf_counter()
                file.pread_into(0, buffer)
                rates[at_once].append(len(buffer) / (time.perf_counter() - began) / 1e9)
            spreading.AT_ONCE = max(rates)
            one, several = (statistics.median(each[1:]) for each in rates.values())
            return one, several


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--directory", default="/dev/shm" if os.path.isdir("/dev/shm") else None)
    options = parser.parse_args()
    print(machine())
    for workers in (1, 2):
        with ExitStack() as stack:
            directory = stack.enter_context(tempfile.TemporaryDirectory(prefix="monofs-blocks-", dir=options.directory))
            os.makedirs(f"{directory}/source")
            with open(f"{directory}/source/large", "wb") as file:
                file.writelines(os.urandom(MIB) for _ in range(options.megabytes))
            first = stack.enter_context(ServedNode(f"{directory}/w0"))
            sets = [
                "node.role=worker",
                f"worker.masters={first.doors['rpc']}",
                f"security.cluster_secret_file={first.home}/cluster.secret",
            ]
            for number in range(1, workers):
                stack.enter_context(ServedNode(f"{directory}/w{number}", sets=sets))
            with first.connect() as fs:
                while sum(bool(each["slots"]) for each in fs.report()["workers"].values()) < workers:
                    time.sleep(0.1)
                fs.mount_add("/s", f"file://{directory}/source", sync_interval_s=-1.0)
                fs.load("/s")
            one, several = compare(first.doors["rpc"], options.rounds)
            print(
                f"{workers} worker(s), {options.megabytes} MiB: {one:.2f} GB/s block after block,"
                f" {several:.2f} {spreading.AT_ONCE} at a time: {several / one:.2f}",
                flush=True,
            )


if __name__ == "__main__":
    sys.exit(main())
