"""How fast the page cache is, beside the raw system calls it stands on, in one run.

    python benchmarks/tiering.py [--directory D] [--groups N] [--open-groups N]

Prints: GB/s of write_page + commit against pwrite + crc32 of the same bytes by the same single thread; lookups, touches and ready
reads a second; memory a group; and how long a cache with many groups takes to open (index and empty-bodied files are made first,
which takes a while).
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import tempfile
import time
import zlib
from collections.abc import Callable

import lmdb
import msgspec
from machine import machine

from monofs.model.block import PAGE_SIZE_BYTES
from monofs.model.ids import ContentId, MountId
from monofs.tiering.cache import Cache, TierSpec
from monofs.tiering.files import file_name
from monofs.tiering.index import KEY, NEXT_FILE, Record

PAGES = 64
ROUNDS = 21
REPEATS = 5


def resident_bytes() -> int:
    """Resident memory of this process."""
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def new_cache(home: str) -> Cache:
    """A cache of one directory without a practical limit."""
    return Cache(
        f"{home}/index", [TierSpec("DISK", f"{home}/tier", 1 << 50)], reserve=0.0, call_soon=lambda work: work()
    )


def rate(count: int, work: Callable[[], None]) -> float:
    """Median operations a second of a few runs of ``work``, which does ``count``."""
    seconds = []
    for _ in range(REPEATS):
        began = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - began)
    return count / statistics.median(seconds)


def bench_write(home: str) -> None:
    """Pages through the cache against the bare calls, both unlinking what they wrote before; rounds alternate."""
    data = memoryview(os.urandom(PAGE_SIZE_BYTES))
    cache = new_cache(home)
    cache.open()
    content, mine, raw = ContentId(0), [], []
    for round_ in range(ROUNDS):
        cache.drop(content)
        cache.settle()
        content = ContentId(round_ + 1)
        began = time.perf_counter()
        group = cache.admit(content, 0, PAGES * PAGE_SIZE_BYTES, MountId(1), 0)
        cache.reserve(group, (1 << PAGES) - 1)
        for page in range(PAGES):
            cache.commit(group, [(page, cache.write_page(group, page, data))])
        mine.append(time.perf_counter() - began)
        began = time.perf_counter()
        fd = os.open(f"{home}/bare", os.O_CREAT | os.O_EXCL | os.O_WRONLY)
        for page in range(PAGES):
            os.pwrite(fd, data, page * PAGE_SIZE_BYTES)
            zlib.crc32(data)
        os.close(fd)
        raw.append(time.perf_counter() - began)
        os.unlink(f"{home}/bare")
    size, one, other = PAGES * PAGE_SIZE_BYTES / 1e9, statistics.median(mine), statistics.median(raw)
    print(
        f"write_page + commit      {size / one:8.2f} GB/s   pwrite + crc32 {size / other:.2f} GB/s   ratio {other / one:.2f}"
    )
    bench_calls(cache, content)
    cache.close()


def bench_calls(cache: Cache, content: ContentId) -> None:
    """The calls of a read that hits."""
    group = cache.lookup(content, 0)
    assert group is not None
    fd, count = group.fd(), 100_000
    offsets = [(n * 7919 % 16000) * 4096 for n in range(count)]

    def lookups() -> None:
        for _ in range(count):
            cache.lookup(content, 0)

    def touches() -> None:
        for _ in range(count):
            cache.touch(group)

    def ready() -> None:
        for offset in offsets:
            cache.read_ready(group, offset, 4096)

    def bare() -> None:
        for offset in offsets:
            os.pread(fd, 4096, offset)

    print(f"lookup                   {rate(count, lookups):12,.0f} /s")
    print(f"touch                    {rate(count, touches):12,.0f} /s")
    mine, raw = rate(count, ready), rate(count, bare)
    print(f"read_ready 4 KiB         {mine:12,.0f} /s   bare pread {raw:,.0f} /s   ratio {mine / raw:.2f}")


def bench_admit(home: str, groups: int) -> None:
    """Small groups: everything a 1 KiB file costs, and what it weighs in memory."""
    cache = new_cache(home)
    cache.open()
    data, before = memoryview(os.urandom(1024)), resident_bytes()
    began = time.perf_counter()
    for content in range(1, groups + 1):
        group = cache.admit(ContentId(content), 0, 1024, MountId(1), 0)
        cache.reserve(group, 1)
        cache.commit(group, [(0, cache.write_page(group, 0, data))])
    seconds = time.perf_counter() - began
    print(f"fill 1 KiB groups        {groups / seconds:12,.0f} /s")
    print(f"memory a group           {(resident_bytes() - before) / groups:12,.0f} B (with the index's queue)")
    cache.close()


def make_groups(home: str, groups: int) -> None:
    """An index of ``groups`` clean one-page groups with their (empty) files, without writing them through a cache."""
    cache = new_cache(home)
    cache.open()
    number = cache.directories[0].number
    cache.close()
    env = lmdb.open(f"{home}/index", max_dbs=4, map_size=1 << 36)
    with env.begin(write=True) as txn:
        table, meta = env.open_db(b"groups", txn), env.open_db(b"meta", txn)
        for content in range(1, groups + 1):
            record = Record(number, content, 0, 1024, 1, b"\0" * 4, 1, 0, 0, 1, 1)
            txn.put(KEY.pack(content, 0), msgspec.msgpack.encode(record), db=table, append=True)
        txn.put(NEXT_FILE, (groups + 1).to_bytes(8, "big"), db=meta)
    env.close()
    files = f"{home}/tier/files"
    for subdirectory in range(256):
        os.makedirs(f"{files}/{subdirectory:02x}", exist_ok=True)
    for file in range(1, groups + 1):
        os.mknod(f"{files}/{file_name(file)}", 0o600)


def bench_open(home: str, groups: int) -> None:
    """Start-up with many groups."""
    make_groups(home, groups)
    cache, before = new_cache(home), resident_bytes()
    began = time.perf_counter()
    cache.open()
    seconds = time.perf_counter() - began
    assert cache.table.count == groups
    print(f"open {groups:,} groups   {seconds:8.2f} s   {(resident_bytes() - before) / groups:.0f} B a group at most")
    began = time.perf_counter()
    cache.close()
    print(f"close                    {time.perf_counter() - began:8.2f} s")
    cache = new_cache(home)
    began = time.perf_counter()
    cache.open()
    print(f"open with an order       {time.perf_counter() - began:8.2f} s")
    cache.close()


def main() -> None:
    """Run all."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--directory", default=None)
    parser.add_argument("--groups", type=int, default=20_000)
    parser.add_argument("--open-groups", type=int, default=1_000_000)
    options = parser.parse_args()
    print(f"{machine()}, lmdb {lmdb.version()}")
    for bench, arguments in (
        (bench_write, ()),
        (bench_admit, (options.groups,)),
        (bench_open, (options.open_groups,)),
    ):
        home = tempfile.mkdtemp(prefix="monofs-bench-", dir=options.directory)
        try:
            bench(home, *arguments)  # type: ignore[operator]
        finally:
            shutil.rmtree(home)


if __name__ == "__main__":
    main()
