"""A whole node as its users meet it: small files warm, listings never seen before, a slow store, a hundred clients at once.

    python benchmarks/node.py [--rounds 7] [--files 2000] [--entries 100000] [--radosgw]

One `monofs serve` process with its worker; the load comes from this process. Files and cache lie in memory (``/dev/shm``, where there
is one), so that no disk is measured. The slow store is moto behind a proxy that adds 30 ms to every request. CPU is of the server's
process and of this one; on a loaded machine judge by it, and by the ratio to the reference beside it.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from typing import Any

from machine import fine_cpu_s, machine

from monofs.testing.buckets import Buckets, Server
from monofs.testing.ceph import Ceph
from monofs.testing.moto import Moto
from monofs.testing.nodes import ServedNode
from monofs.testing.storeproxy import StoreProxy

SMALL = 100_000
BATCH = 200
SLOW_S = 0.03
SLOW_OBJECTS = 32
CLIENTS = 100


class Bench:
    """One node and what is measured on it."""

    def __init__(self, node: ServedNode, directory: str, rounds: int) -> None:
        assert node.process is not None
        self.node, self.directory, self.rounds, self.pid = node, directory, rounds, node.process.pid

    def median_s(self, work: Callable[[int], Any], times: int) -> tuple[float, float, float]:
        """Medians of seconds, and CPU seconds of server and client, of one call over the rounds' calls."""
        work(0)
        seconds: list[float] = []
        server, client = fine_cpu_s(self.pid), time.process_time()
        for number in range(1, times + 1):
            began = time.perf_counter()
            work(number)
            seconds.append(time.perf_counter() - began)
        return (
            statistics.median(seconds),
            (fine_cpu_s(self.pid) - server) / times,
            (time.process_time() - client) / times,
        )


def show(what: str, figure: str, note: str = "") -> None:
    """One line."""
    print(f"{what:<58} {figure:>18}  {note}", flush=True)


def cpu_note(server_s: float, client_s: float, count: int = 1) -> str:
    """CPU of both sides, of one of ``count``."""
    return f"CPU server {server_s / count * 1e6:.0f} us, client {client_s / count * 1e6:.0f} us"


def small_files(bench: Bench, fs: Any, files: int) -> None:
    """Warm files of 100 KB: batches, alone, and the first byte; beside plain files."""
    source = f"{bench.directory}/files"
    os.makedirs(source)
    data = os.urandom(SMALL)
    for number in range(files):
        with open(f"{source}/{number:05d}", "wb") as file:
            file.write(data)
    fs.mount_add("/files", f"file://{source}", sync_interval_s=-1.0)
    fs.load("/files")
    paths = [f"/files/{number:05d}" for number in range(files)]

    def batch(number: int) -> None:
        start = number * BATCH % files
        fs.read_many([(path, 0, None) for path in paths[start : start + BATCH]])

    def plain_batch(number: int) -> None:
        start = number * BATCH % files
        for path in paths[start : start + BATCH]:
            with open(bench.directory + path, "rb", buffering=0) as file:
                file.read()

    seconds, server, client = bench.median_s(batch, 3 * bench.rounds)
    plain, _, _ = bench.median_s(plain_batch, 3 * bench.rounds)
    show(
        f"{BATCH} warm files of 100 KB in one call", f"{BATCH / seconds:,.0f} files/s", cpu_note(server, client, BATCH)
    )
    show("  plain files, one by one", f"{BATCH / plain:,.0f} files/s", f"ratio {plain / seconds:.2f}")

    def first_byte(client_fs: Any) -> Callable[[int], None]:
        def work(number: int) -> None:
            with client_fs.open(paths[number % files]) as file:
                file.read(1)

        return work

    for what, work in (
        ("read one warm file of 100 KB, p50", lambda number: fs.read(paths[number % files])),
        ("open + first byte, same host, p50", first_byte(fs)),
    ):
        seconds, server, client = bench.median_s(work, 200 * bench.rounds)
        show(what, f"{seconds * 1e6:,.0f} us", cpu_note(server, client))
    os.rename(f"{bench.node.home}/worker.sock", f"{bench.node.home}/hidden.sock")
    try:
        with bench.node.connect() as remote:
            seconds, server, client = bench.median_s(first_byte(remote), 200 * bench.rounds)
            show("open + first byte, loopback TCP, p50", f"{seconds * 1e6:,.0f} us", cpu_note(server, client))
    finally:
        os.rename(f"{bench.node.home}/hidden.sock", f"{bench.node.home}/worker.sock")


def listing(bench: Bench, fs: Any, entries: int) -> None:
    """`ls` of a local directory the namespace has never seen, beside scandir + stat."""
    source = f"{bench.directory}/many"
    os.makedirs(source)
    for number in range(entries):
        os.close(os.open(f"{source}/part-{number:08d}", os.O_CREAT | os.O_WRONLY))
    time.sleep(2.1)  # a directory that changed less than 2 s ago is scanned anew for every page
    began = time.perf_counter()
    with os.scandir(source) as found:
        count = sum(1 for entry in found if entry.stat(follow_symlinks=False).st_mode)
    plain = time.perf_counter() - began
    fs.mount_add("/many", f"file://{source}", sync_interval_s=-1.0)
    for what in ("never seen", "known"):
        server, client, began = fine_cpu_s(bench.pid), time.process_time(), time.perf_counter()
        listed = sum(1 for _ in fs.list("/many"))
        seconds = time.perf_counter() - began
        if listed != count:
            raise RuntimeError(f"listed {listed} of {count}")
        show(
            f"list {entries:,} local files, {what}",
            f"{entries / seconds:,.0f} files/s",
            cpu_note(fine_cpu_s(bench.pid) - server, time.process_time() - client, entries),
        )
    show("  scandir + stat", f"{entries / plain:,.0f} files/s")


def slow_store(bench: Bench, fs: Any) -> None:
    """A store that answers in 30 ms: cold and warm; and one page that a hundred clients miss at the same time."""
    with Moto() as moto, StoreProxy(moto.endpoint, latency_s=SLOW_S) as proxy:
        bucket = Buckets(moto).make()
        data = os.urandom(SMALL)
        bucket.put_all({f"small/{number:03d}": data for number in range(SLOW_OBJECTS)} | {"one": data})
        fs.mount_add("/slow", bucket.uri, options=bucket.options | {"endpoint": proxy.endpoint})
        names = [info.path for info in fs.list("/slow/small")]
        figures = []
        for _ in ("cold", "warm"):
            seconds = []
            for name in names:
                began = time.perf_counter()
                if len(fs.read(name)) != SMALL:
                    raise RuntimeError(f"{name} is short")
                seconds.append(time.perf_counter() - began)
            figures.append(statistics.median(seconds))
        cold, warm = figures
        show("object of 100 KB, store of 30 ms: cold", f"{cold * 1e3:.1f} ms")
        show("  warm", f"{warm * 1e3:.2f} ms", f"warm / cold {cold / warm:.0f} x (target 45 x)")
        fs.stat("/slow/one")
        proxy.forget()
        go, failed = threading.Barrier(CLIENTS), []

        def miss() -> None:
            with bench.node.connect() as own:
                go.wait()
                if own.read("/slow/one") != data:
                    failed.append(1)

        threads = [threading.Thread(target=miss) for _ in range(CLIENTS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        show(
            f"{CLIENTS} clients miss one page at the same time",
            f"{proxy.count('get', b'one')} GET",
            "bytes wrong" if failed else "all bytes right",
        )


def radosgw_listing(bench: Bench, fs: Any, keys: int = 20_000) -> None:
    """`ls` of a bucket the namespace has never seen, on a Ceph gateway, beside boto3 listing the same."""
    with tempfile.TemporaryDirectory(prefix="monofs-ceph-") as directory, Ceph(directory) as ceph:
        server: Server = ceph
        bucket = Buckets(server).make()
        bucket.put_all({f"part-{number:06d}": b"x" for number in range(keys)}, threads=16)
        began = time.perf_counter()
        if len(bucket.keys()) != keys:
            raise RuntimeError("the gateway lost keys")
        plain = time.perf_counter() - began
        fs.mount_add("/rados", bucket.uri, options=bucket.options)
        cpu, began = fine_cpu_s(bench.pid), time.perf_counter()
        if sum(1 for _ in fs.list("/rados")) != keys:
            raise RuntimeError("not all keys were listed")
        seconds = time.perf_counter() - began
        note = f"CPU server {(fine_cpu_s(bench.pid) - cpu) / keys * 1e6:.0f} us; boto3 {keys / plain:,.0f} keys/s, ratio {plain / seconds:.2f}"
        show(f"list {keys:,} keys of radosgw, never seen", f"{keys / seconds:,.0f} keys/s", note)


def main() -> int:
    """Run all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--files", type=int, default=2000)
    parser.add_argument("--entries", type=int, default=100_000)
    parser.add_argument("--directory", default="/dev/shm" if os.path.isdir("/dev/shm") else None)
    parser.add_argument("--radosgw", action="store_true", help="also list 20,000 keys of a Ceph gateway (two minutes)")
    options = parser.parse_args()
    print(f"{machine()}; python {' '.join(sys.argv)}")
    with (
        tempfile.TemporaryDirectory(prefix="monofs-node-", dir=options.directory) as directory,
        ServedNode(f"{directory}/home") as node,
        node.connect() as fs,
    ):
        bench = Bench(node, directory, options.rounds)
        small_files(bench, fs, options.files)
        listing(bench, fs, options.entries)
        slow_store(bench, fs)
        if options.radosgw:
            radosgw_listing(bench, fs)
    return 0


if __name__ == "__main__":
    sys.exit(main())
