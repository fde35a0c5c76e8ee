"""How fast the namespace applies, resolves and lists, against raw LMDB in the same run.

    python benchmarks/metadata_store.py [--files 1000000] [--directory DIR]

One process, no journal and no network: the calls a master makes on its reactor thread, with real flushes (synced) to a real
disk beside them. Where the namespace asks writers to hold back, the loop waits, and the waiting counts. Entries are encoded beforehand, as
they come out of the journal. Figures are medians of three runs unless they say otherwise. CPU is that of the whole process (reactor thread and
flusher): the figure to look at when the machine does other work too.
"""

from __future__ import annotations

import argparse
import gc
import os
import queue
import random
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator

import lmdb
from machine import machine

from monofs.config.schema import NamespaceConfig
from monofs.metadata.entries import AddMount, AdoptPage, Create, Found, Initialize, MakeDirectory, Stamp
from monofs.metadata.entry_kinds import encode_entry
from monofs.metadata.namespace import Namespace
from monofs.metadata.store import Store
from monofs.model.entry import Entry
from monofs.model.errors import MonofsError
from monofs.model.ids import InodeId, MountId
from monofs.model.paths import parse_path

RUNS = 3
RECORD = bytes(86)
"""As long as the record of an S3 object with an MD5 etag."""


class Bench:
    """A namespace with its flusher, driven as a node drives it."""

    def __init__(self, directory: str) -> None:
        self.calls: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self.flushes = 0
        self.waited = self.cpu = 0.0
        self.store = Store(
            directory,
            NamespaceConfig(),
            call_soon=self.calls.put,
            on_flushed=self._flushed,
            on_failure=self._failed,
        )
        self.namespace = Namespace(self.store)

    def _flushed(self, _: int) -> None:
        self.flushes += 1

    def _failed(self, problem: BaseException) -> None:
        raise problem

    def turn(self) -> None:
        """What happens between batches: callbacks of the flusher, flushes that are due, waiting when held back."""
        while not self.calls.empty():
            self.calls.get()()
        self.store.maybe_flush(time.monotonic())
        began = time.perf_counter()
        while self.store.held_back:
            self.calls.get()()
        self.waited += time.perf_counter() - began

    def apply(self, entries: list[Entry], batch: int) -> float:
        """Apply entries, with a turn after each batch; seconds until they are applied."""
        index = self.namespace.applied_index
        apply = self.namespace.apply
        gc.collect()
        gc.freeze()  # a node does not hold the entries it will apply; the collector must not walk them here
        began, cpu = time.perf_counter(), time.process_time()
        for start in range(0, len(entries), batch):
            for entry in entries[start : start + batch]:
                index += 1
                result = apply(index, 1, entry)
                if isinstance(result, MonofsError):
                    raise result
            self.turn()
        self.cpu = time.process_time() - cpu
        return time.perf_counter() - began

    def settle(self) -> None:
        """Write everything to the database."""
        while self.store.flushed_index != self.namespace.applied_index:
            self.store.flush()
            self.calls.get()()

    def begin(self, *changes: object) -> None:
        self.apply(
            [encode_entry(Initialize(Stamp(1), b"c" * 16, 1, b"", b"")), *(encode_entry(c) for c in changes)],  # type: ignore[arg-type]
            1,
        )


def median(measure: Callable[[str], tuple[float, float]]) -> tuple[float, float]:
    """The median of several runs, each in an empty directory: items a second, CPU microseconds an item."""
    found = []
    for _ in range(RUNS):
        with tempfile.TemporaryDirectory(dir=PLACE) as directory:
            found.append(measure(directory))
    return statistics.median(rate for rate, _ in found), statistics.median(cpu for _, cpu in found)


PLACE = "."


def raw_lmdb(directory: str) -> tuple[float, float]:
    """Puts into LMDB alone: 20,000 sorted a synced transaction, on the thread that does nothing else."""
    environment = lmdb.open(directory, map_size=1 << 40, max_dbs=4, meminit=False, readahead=False)
    table = environment.open_db(b"tree")
    keys = [bytes(7) + b"\2" + b"part-%07d.parquet" % n for n in range(200_000)]
    began, cpu = time.perf_counter(), time.process_time()
    for start in range(0, len(keys), 20_000):
        with environment.begin(write=True) as transaction:
            for key in sorted(keys[start : start + 20_000]):
                transaction.put(key, RECORD, db=table)
    seconds, cpu = time.perf_counter() - began, time.process_time() - cpu
    environment.close()
    return len(keys) / seconds, cpu / len(keys) * 1e6


def creates(directory: str, *, clients: bool) -> tuple[float, float]:
    """CREATE entries, 64 to a turn, over 100 directories."""
    bench = Bench(directory)
    bench.begin(*(MakeDirectory(Stamp(1), f"/data/d{n:02}", 0o755, 0, 0, True, False) for n in range(100)))
    entries = []
    for n in range(200_000):
        stamp = Stamp(n, b"client%010d" % (n % 64), n // 64 + 1, n // 64 + 1) if clients else Stamp(n)
        entries.append(encode_entry(Create(stamp, f"/data/d{n % 100:02}/part-{n:07}.parquet", 0o644, 0, 0)))
    seconds = bench.apply(entries, 64)
    bench.store.close()
    return len(entries) / seconds, bench.cpu / len(entries) * 1e6


def found_page(start: int, count: int) -> list[Found]:
    return [
        Found(b"part-%07d.parquet" % n, False, 1000 + n, 10**18 + n, f"e:{n:032x}", -1, 0, 0)
        for n in range(start, start + count)
    ]


def adopt(directory: str) -> tuple[float, float]:
    """Files taken over by pages of 1,000 of one directory's listing."""
    bench = Bench(directory)
    bench.begin(AddMount(Stamp(1), "/lake", "s3://b/p", {}, b"", False, False))
    point = bench.namespace.lookup((b"lake",)).inode
    assert point is not None
    entries = []
    for start in range(0, 500_000, 1000):
        page = found_page(start, 1000)
        after = b"part-%07d.parquet" % (start - 1) if start else b""
        change = AdoptPage(Stamp(start), point.id, MountId(1), 2, after, page[-1].name, page, False)
        entries.append(encode_entry(change))
    seconds = bench.apply(entries, 1)
    bench.store.close()
    return 500_000 / seconds, bench.cpu / 500_000 * 1e6


def looking(directory: str) -> dict[str, float]:
    """Lookups and listings of a directory of 100,000 files three levels deep, in memtables and in the database."""
    bench = Bench(directory)
    bench.begin(AddMount(Stamp(1), "/lake/a/b", "s3://b/p", {}, b"", False, False))
    point = bench.namespace.lookup((b"lake", b"a", b"b")).inode
    assert point is not None
    entries = [
        encode_entry(
            AdoptPage(
                Stamp(n), point.id, MountId(1), 2, b"part-%07d.parquet" % (n - 1), None, found_page(n, 1000), False
            )
        )
        for n in range(0, 100_000, 1000)
    ]
    shown: dict[str, float] = {}
    bench.store._config = NamespaceConfig(flush_changes=1 << 30)  # keep it all in the memtable for now
    bench.apply(entries, 1)
    shown["list 100 k entries from the memtable, first time (sorts)"] = listed(bench.namespace, point.id)
    shown["list 100 k entries from the memtable, again"] = listed(bench.namespace, point.id)
    bench.settle()
    shown["list 100 k entries from the database"] = listed(bench.namespace, point.id)
    hot = [f"/lake/a/b/part-{n:07}.parquet" for n in range(10_000)]
    cold = [f"/lake/a/b/part-{n:07}.parquet" for n in random.Random(1).sample(range(10_000, 100_000), 50_000)]
    shown["lookup by path, depth 4, first time (database)"] = looked_up(bench.namespace, cold)
    looked_up(bench.namespace, hot)
    shown["lookup by path, depth 4, hot (parse + resolve)"] = looked_up(bench.namespace, hot * 10)
    directories = ["/lake/a/b"] * 100_000
    shown["lookup by path, depth 3, hot (parse + resolve)"] = looked_up(bench.namespace, directories)
    bench.store.close()
    return shown


def listed(namespace: Namespace, directory: InodeId) -> float:
    began = time.perf_counter()
    after, count = b"", 0
    while page := namespace.children(directory, after, 1000):
        after = page[-1][0]
        count += len(page)
    assert count == 100_000
    return count / (time.perf_counter() - began)


def looked_up(namespace: Namespace, paths: list[str]) -> float:
    lookup = namespace.lookup
    began = time.perf_counter()
    for path in paths:
        lookup(parse_path(path))
    return len(paths) / (time.perf_counter() - began)


def random_pages(files: int, directories: list[InodeId]) -> Iterator[Entry]:
    """ADOPT_PAGE entries of 100 files with random names, of directories in random order."""
    source = random.Random(7)
    for number in range(files // 100):
        names = sorted({b"%016x.parquet" % source.getrandbits(64) for _ in range(100)})
        page = [
            Found(name, False, source.randrange(1, 1 << 30), 10**18, f"e:{source.getrandbits(128):032x}", -1, 0, 0)
            for name in names
        ]
        directory = source.choice(directories)
        # the page speaks for no name but its own: everything between them is left alone by `after` next to the first
        yield from (
            encode_entry(
                AdoptPage(Stamp(number), directory, MountId(1), 1 << 40, _before(each.name), each.name, [each], False)
            )
            for each in page
        )


def _before(name: bytes) -> bytes:
    """A key just below ``name``."""
    return name[:-1] + bytes((name[-1] - 1,)) + b"\xff"


def big(directory: str, files: int) -> dict[str, str]:
    """A namespace of many files in random order: size, memory, time to open."""
    bench = Bench(directory)
    bench.begin(AddMount(Stamp(1), "/lake", "s3://b/p", {}, b"", False, False))
    root = bench.namespace.lookup((b"lake",)).inode
    assert root is not None
    folders = [Found(b"d%04d" % n, True) for n in range(1000)]
    bench.apply([encode_entry(AdoptPage(Stamp(1), root.id, MountId(1), 2, b"", None, folders, True))], 1)
    directories = [InodeId(root.id + 1 + n) for n in range(1000)]
    seconds = 0.0
    done = 0
    batch: list[Entry] = []
    began = time.perf_counter()
    for entry in random_pages(files, directories):
        batch.append(entry)
        if len(batch) == 1000:
            seconds += bench.apply(batch, 64)
            done += len(batch)
            batch = []
    wall = time.perf_counter() - began
    bench.settle()
    count = bench.namespace.counts()["inodes"]
    anonymous = anonymous_bytes()
    bench.store.close()
    used = os.stat(os.path.join(directory, "data.mdb")).st_blocks * 512
    began = time.perf_counter()
    again = Bench(directory)
    opened = time.perf_counter() - began
    assert again.namespace.counts()["inodes"] == count
    again.store.close()
    return {
        "files": f"{count:,}",
        "one-file entries applied a second (random order, waiting for flushes included)": f"{done / seconds:,.0f}",
        "of which waiting for flushes": f"{bench.waited / seconds:.0%}",
        "flushes": f"{bench.flushes:,}",
        "wall seconds (making the entries included)": f"{wall:.1f}",
        "bytes on disk a file": f"{used / count:.0f}",
        "anonymous memory": f"{anonymous / 1e6:.0f} MB",
        "time to open": f"{opened * 1000:.1f} ms",
    }


def anonymous_bytes() -> int:
    """Anonymous memory of this process."""
    with open("/proc/self/smaps_rollup") as lines:
        for line in lines:
            if line.startswith("Anonymous:"):
                return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def main() -> None:
    """Run everything and print it."""
    global PLACE
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--files", type=int, default=1_000_000)
    parser.add_argument("--directory", default=tempfile.gettempdir())
    options = parser.parse_args()
    PLACE = options.directory
    sys.setswitchinterval(0.0005)
    print(f"machine   {machine()}")
    print(f"versions  lmdb {lmdb.__version__} ({'.'.join(map(str, lmdb.version()))})")
    print(f"command   python {' '.join(sys.argv)}\n")
    reference, cpu = median(raw_lmdb)
    print(f"{'raw LMDB puts, 20 k sorted a synced transaction':62} {reference:12,.0f} /s   {cpu:5.2f} us CPU")
    for name, measure in (
        ("CREATE applied, no client, flushes running", lambda place: creates(place, clients=False)),
        ("CREATE applied, with request ids, flushes running", lambda place: creates(place, clients=True)),
        ("files adopted by ADOPT_PAGE of 1,000, flushes running", adopt),
    ):
        rate, cpu = median(measure)
        print(f"{name:62} {rate:12,.0f} /s   {cpu:5.2f} us CPU   {rate / reference:5.2f} x raw LMDB")
    with tempfile.TemporaryDirectory(dir=PLACE) as directory:
        for name, rate in looking(directory).items():
            print(f"{name:62} {rate:12,.0f} /s   {1e6 / rate:5.2f} us")
    with tempfile.TemporaryDirectory(dir=PLACE) as directory:
        print()
        for name, value in big(directory, options.files).items():
            print(f"{name:80} {value:>14}")


if __name__ == "__main__":
    main()
