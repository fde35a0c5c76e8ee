"""Cached reads over TCP by 1, 8 and 64 clients from 1, 2 and 4 workers: rates, and the processor time they cost.

    python benchmarks/scaling.py [--workers 1,2,4] [--clients 1,8,64] [--rounds 3] [--blocks 16] [--directory DIR]

For each number of workers a master and workers of its own are started, ``blocks`` files of 64 MiB loaded, and read by clients that behave as on another machine (no
descriptors): whole files in pieces of 16 MiB, and random 4 KiB. Clients are threads in up to four processes. On a machine of few cores rates end where the cores do:
what scales there, or does not, is the processor time per GB and per thousand reads.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import random
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from machine import fine_cpu_s, machine

import monofs
import monofs.client.cluster
from monofs.testing.nodes import ServedNode

MIB = 1 << 20
BLOCK, PIECE, SMALL = 64 * MIB, 16 * MIB, 4096
PROCESSES = 4
LARGE_GB, SMALL_READS = 4.0, 40_000
WAIT_S = 60.0


@contextmanager
def cluster(directory: str, count: int, blocks: int) -> Iterator[tuple[str, list[int]]]:
    """Address of a master, ids of the processes of ``count`` workers that hold all files."""
    with ExitStack() as stack:
        master = stack.enter_context(ServedNode(f"{directory}/master", sets=["node.role=master"]))
        sets = ["node.role=worker", f"worker.masters={master.doors['rpc']}"]
        sets.append(f"security.cluster_secret_file={directory}/master/cluster.secret")
        workers = [stack.enter_context(ServedNode(f"{directory}/w{n}", sets=sets)) for n in range(count)]
        fs = stack.enter_context(master.connect())
        fs.mount_add("/b", f"file://{os.path.dirname(directory)}/source", sync_interval_s=-1.0)
        end = time.monotonic() + WAIT_S
        while len(fs.worker_status()) < count:
            assert time.monotonic() < end, "the workers do not register"
            time.sleep(0.1)
        fs.load("/b")
        yield master.doors["rpc"], [worker.process.pid for worker in workers if worker.process]


def read_blocks(fs: Any, blocks: int, drawn: random.Random, count: int) -> None:
    """``count`` whole files."""
    buffer = memoryview(bytearray(PIECE))
    for _ in range(count):
        with fs.open(f"/b/{drawn.randrange(blocks)}") as file:
            while file.readinto(buffer):
                pass


def read_small(fs: Any, blocks: int, drawn: random.Random, count: int) -> None:
    """``count`` random 4 KiB of one file."""
    with fs.open(f"/b/{drawn.randrange(blocks)}") as file:
        for _ in range(count):
            file.seek(drawn.randrange(BLOCK - SMALL))
            assert len(file.read(SMALL)) == SMALL


def client(address: str, work: Any, blocks: int, threads: int, count: int, barrier: Any, told: Any, seed: int) -> None:
    """One process: ``threads`` clients that each do ``count`` after the barrier; tells its CPU seconds."""
    monofs.client.cluster.host_id = lambda: "another machine"  # type: ignore[assignment]
    with ExitStack() as stack:
        sessions = [stack.enter_context(monofs.connect(address, timeout_s=120.0)) for _ in range(threads)]
        for session in sessions:
            session.read("/b/0", 0, 1)
        each = [
            threading.Thread(target=work, args=(session, blocks, random.Random(seed * 1000 + n), count))
            for n, session in enumerate(sessions)
        ]
        barrier.wait()
        began = time.process_time()
        for thread in each:
            thread.start()
        for thread in each:
            thread.join()
        used = time.process_time() - began
        barrier.wait()
        told.put(used)


def measure(
    address: str, workers: list[int], work: Any, blocks: int, clients: int, total: int
) -> tuple[float, float, float]:
    """Seconds, CPU seconds of the workers and of the clients, for ``total`` units shared by ``clients``."""
    processes = min(clients, PROCESSES)
    barrier, told = multiprocessing.Barrier(processes + 1), multiprocessing.SimpleQueue()
    running = [
        multiprocessing.Process(
            target=client,
            args=(address, work, blocks, clients // processes, max(1, total // clients), barrier, told, n),
        )
        for n in range(processes)
    ]
    for each in running:
        each.start()
    barrier.wait()
    before, began = sum(map(fine_cpu_s, workers)), time.perf_counter()
    barrier.wait()
    seconds, used = time.perf_counter() - began, sum(map(fine_cpu_s, workers)) - before
    clients_s = sum(told.get() for _ in running)
    for each in running:
        each.join()
    return seconds, used, clients_s


def main() -> int:
    """Print one line for each number of workers and clients."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", default="1,2,4")
    parser.add_argument("--clients", default="1,8,64")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--blocks", type=int, default=16, help="files of 64 MiB")
    parser.add_argument("--directory", default=None, help="where homes and files go")
    options = parser.parse_args()
    print(machine())
    print("workers clients |   GB/s  worker CPU s/GB  client CPU s/GB | 4 KiB/s  worker ms/1,000  client ms/1,000")
    with tempfile.TemporaryDirectory(prefix="monofs-bench-", dir=options.directory) as directory:
        os.mkdir(f"{directory}/source")
        for number in range(options.blocks):
            with open(f"{directory}/source/{number}", "wb") as file:
                file.writelines(os.urandom(MIB) for _ in range(BLOCK // MIB))
        for count in map(int, options.workers.split(",")):
            os.mkdir(f"{directory}/{count}")
            with cluster(f"{directory}/{count}", count, options.blocks) as (address, workers):
                for clients in map(int, options.clients.split(",")):
                    reads = max(clients, int(LARGE_GB * 1e9 / BLOCK))
                    large = [
                        measure(address, workers, read_blocks, options.blocks, clients, reads)
                        for _ in range(options.rounds)
                    ]
                    small = [
                        measure(address, workers, read_small, options.blocks, clients, SMALL_READS)
                        for _ in range(options.rounds)
                    ]
                    size = reads // clients * clients * BLOCK / 1e9
                    wall, server, own = (statistics.median(row[i] for row in large) for i in range(3))
                    done = SMALL_READS // clients * clients
                    wall2, server2, own2 = (statistics.median(row[i] for row in small) for i in range(3))
                    print(
                        f"{count:7} {clients:7} | {size / wall:6.2f} {server / size:16.3f} {own / size:16.3f} "
                        f"| {done / wall2:7,.0f} {server2 / done * 1e6:16.1f} {own2 / done * 1e6:16.1f}",
                        flush=True,
                    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
