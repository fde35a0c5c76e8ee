"""How fast the namespace database is copied while it is in use, and what that costs those who create files meanwhile.

    python benchmarks/copying.py [--files 1000000] [--directory DIR] [--rate 1000]

One process, no journal and no network: creates are applied at a steady rate, with real flushes beside them, for as long as a copy takes, and for as
long without one, in the same run. The reference of a copy is writing and reading back as many bytes of a plain file.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import random
import sys
import tempfile
import threading
import time

from machine import machine
from metadata_store import Bench

from monofs.metadata.copying import DatabaseCopy, copy_database
from monofs.metadata.entries import AddMount, AdoptPage, Create, Found, MakeDirectory, Stamp
from monofs.metadata.entry_kinds import encode_entry
from monofs.model.entry import Entry
from monofs.model.ids import InodeId, MountId

CHUNK = 1 << 20


def fill(bench: Bench, files: int) -> None:
    """Hundreds of thousands of files over 1,000 directories, in random order: the database is as scattered as one that grew for long."""
    bench.begin(
        AddMount(Stamp(1), "/lake", "s3://b/p", {}, b"", False, False),
        MakeDirectory(Stamp(1), "/new", 0o755, 0, 0, True, False),
    )
    root = bench.namespace.lookup((b"lake",)).inode
    assert root is not None
    folders = [Found(b"d%04d" % n, True) for n in range(1000)]
    first = bench.namespace.meta.last_inode + 1
    bench.apply([encode_entry(AdoptPage(Stamp(1), root.id, MountId(1), 2, b"", None, folders, True))], 1)
    directories = [InodeId(first + n) for n in range(1000)]
    pages = [(run, directory) for run in range(files // 100_000) for directory in directories]
    random.Random(3).shuffle(pages)
    for start in range(0, len(pages), 100):
        bench.apply([_page(run, directory) for run, directory in pages[start : start + 100]], 10)
    bench.settle()


def _page(run: int, directory: InodeId) -> Entry:
    """100 files of a run, which has all names with one prefix."""
    names = [b"%03d-%016x.parquet" % (run, random.getrandbits(64)) for _ in range(100)]
    found = [Found(name, False, 1000, 10**18, f"e:{random.getrandbits(128):032x}", -1, 0, 0) for name in sorted(names)]
    change = AdoptPage(Stamp(1), directory, MountId(1), 1 << 40, b"%03d-" % run, b"%03d." % run, found, False)
    return encode_entry(change)


class Creator:
    """Creates at a steady rate, as a reactor with ``rate`` requests a second would; how long each took from the time it was due."""

    def __init__(self, bench: Bench, rate: int) -> None:
        self._bench, self._pause_s = bench, 1 / rate
        self._number = 0

    def until(self, over: threading.Event) -> list[float]:
        bench, apply = self._bench, self._bench.namespace.apply
        took: list[float] = []
        due = time.perf_counter()
        while not over.is_set():
            due += self._pause_s
            time.sleep(max(0.0, due - time.perf_counter()))
            self._number += 1
            entry = encode_entry(Create(Stamp(self._number), f"/new/f{self._number:09}", 0o644, 0, 0))
            apply(bench.namespace.applied_index + 1, 1, entry)
            bench.turn()
            took.append(time.perf_counter() - due)
        return took


def show(name: str, took: list[float]) -> None:
    took.sort()
    at = [took[min(int(len(took) * part), len(took) - 1)] * 1000 for part in (0.5, 0.99, 1.0)]
    print(f"{name:44} {len(took):8,} creates   p50 {at[0]:7.3f} ms   p99 {at[1]:7.3f} ms   most {at[2]:7.3f} ms")


def plain(path: str, size: int) -> float:
    """Seconds to write as many bytes to a file and to read them back through SHA-256."""
    data, began = os.urandom(CHUNK), time.perf_counter()
    with open(path, "wb", buffering=0) as file:
        file.writelines(data for _ in range(size // CHUNK))
    digest = hashlib.sha256()
    with open(path, "rb", buffering=0) as file:
        while piece := file.read(CHUNK):
            digest.update(piece)
    os.unlink(path)
    return time.perf_counter() - began


def main() -> None:
    """Fill, copy, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--files", type=int, default=1_000_000)
    parser.add_argument("--directory", default=tempfile.gettempdir())
    parser.add_argument("--rate", type=int, default=1000)
    parser.add_argument("--copies", type=int, default=5, help="one after the other while creates go on")
    options = parser.parse_args()
    sys.setswitchinterval(0.0005)
    print(f"machine   {machine()}")
    with tempfile.TemporaryDirectory(dir=options.directory) as directory:
        bench = Bench(f"{directory}/db")
        fill(bench, options.files)
        creator, seconds, copies = Creator(bench, options.rate), [], []

        def copy(over: threading.Event) -> None:
            for number in range(options.copies):
                began = time.perf_counter()
                made: DatabaseCopy = copy_database(bench.store, f"{directory}/copy{number}", software="bench", now_ns=0)
                seconds.append(time.perf_counter() - began)
                copies.append(made)
                made.remove()
            over.set()

        over = threading.Event()
        thread = threading.Thread(target=copy, args=(over,))
        thread.start()
        beside = creator.until(over)
        thread.join()
        alone_over = threading.Event()
        timer = threading.Timer(sum(seconds), alone_over.set)
        timer.start()
        alone = creator.until(alone_over)
        size, used = copies[0].head.size_bytes, os.stat(f"{directory}/db/data.mdb").st_blocks * 512
        median = sorted(seconds)[len(seconds) // 2]
        reference = plain(f"{directory}/plain", size)
        print(f"files {copies[0].head.inodes:,}, database {used / 1e6:,.0f} MB, copy {size / 1e6:,.0f} MB")
        print(
            f"copy, median of {len(seconds)}: {median:.2f} s, {size / median / 1e6:,.0f} MB/s; plain file {reference:.2f} s"
        )
        show(f"{options.rate} creates/s while it is copied", beside)
        show(f"{options.rate} creates/s without", alone)
        bench.store.close()


if __name__ == "__main__":
    main()
