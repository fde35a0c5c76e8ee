"""Small objects: a file for each against many in one file, on the file systems given.

    python benchmarks/small_objects.py [--directory D ...] [--objects N] [--small-bytes B]

Two sets of objects: REAL ones of 10 to 100 KB (``--real``, 40,000 by default: 2.2 GB) for what depends on their bytes, and ``--objects`` of
``--small-bytes`` for what depends on their number. Both ways use the calls the cache uses, from one thread, and the same random order:

    one file   open(O_CREAT), pwrite, close in 256 directories; unlink
    packed     pwrite to the end of a file of 64 MiB at a border of 4 KiB, kept open; what goes first-in-first-out is unlinked with its pack when all of
               it is gone, what goes in random order has a hole punched (which the cache may not do while a descriptor is out)

Cold reads come after the kernel was told to forget the bytes and (as root) the names. ``cache`` lines go through the page cache of a worker:
admit, reserve, write, commit, evict.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import os
import random
import shutil
import statistics
import tempfile
import threading
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from functools import partial

from machine import machine

from monofs.model.ids import ContentId, MountId
from monofs.tiering.cache import Cache, TierSpec
from monofs.tiering.files import file_name

PACK_BYTES = 64 << 20
ALIGN_BYTES = 4096
THREADS = 8
_PUNCH = 0x03
_libc = ctypes.CDLL(None, use_errno=True)
_libc.fallocate.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)


class Files:
    """One file each."""

    name = "one file"

    def __init__(self, root: str) -> None:
        self.root = root
        os.mkdir(root)
        self.fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
        for number in range(256):
            os.mkdir(f"{root}/{number:02x}")

    def create(self, number: int, data: memoryview) -> None:
        fd = os.open(file_name(number), os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600, dir_fd=self.fd)
        os.pwrite(fd, data, 0)
        os.close(fd)

    def read(self, number: int, buffer: memoryview) -> None:
        fd = os.open(file_name(number), os.O_RDONLY | os.O_CLOEXEC, dir_fd=self.fd)
        os.preadv(fd, [buffer], 0)
        os.close(fd)

    def remove(self, number: int) -> None:
        os.unlink(file_name(number), dir_fd=self.fd)

    def remove_all(self, numbers: Sequence[int]) -> None:
        for number in numbers:
            self.remove(number)

    def restart(self) -> int:
        """What the sweep of a start does: every name is looked at."""
        found = 0
        for directory in os.listdir(self.fd):
            found += sum(int(name, 16) >= 0 for name in os.listdir(f"{self.root}/{directory}"))
        return found

    def forget(self) -> None:
        pass

    def close(self) -> None:
        os.close(self.fd)


class Packs:
    """Many in one file."""

    name = "packed"

    def __init__(self, root: str) -> None:
        self.root = root
        os.mkdir(root)
        self.places: list[tuple[int, int, int]] = []
        self.fds: list[int] = []
        self.end = PACK_BYTES

    def create(self, _: int, data: memoryview) -> None:
        if self.end + len(data) > PACK_BYTES:
            self.fds.append(os.open(f"{self.root}/{len(self.fds)}", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
            self.end = 0
        os.pwrite(self.fds[-1], data, self.end)
        self.places.append((len(self.fds) - 1, self.end, len(data)))
        self.end += -(-len(data) // ALIGN_BYTES) * ALIGN_BYTES

    def read(self, number: int, buffer: memoryview) -> None:
        pack, offset, _ = self.places[number]
        os.preadv(self.fds[pack], [buffer], offset)

    def remove(self, number: int) -> None:
        pack, offset, length = self.places[number]
        size = -(-length // ALIGN_BYTES) * ALIGN_BYTES
        if _libc.fallocate(self.fds[pack], _PUNCH, offset, size):
            raise OSError(ctypes.get_errno(), "fallocate")

    def remove_all(self, numbers: Sequence[int]) -> None:
        left = [0] * len(self.fds)
        for number in numbers:
            left[self.places[number][0]] += 1
        for number in numbers:
            pack = self.places[number][0]
            left[pack] -= 1
            if not left[pack]:
                os.unlink(f"{self.root}/{pack}")

    def restart(self) -> int:
        return len(os.listdir(self.root))

    def forget(self) -> None:
        for fd in self.fds:
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)

    def close(self) -> None:
        for fd in self.fds:
            os.close(fd)


def used_bytes(root: str) -> int:
    """Blocks of all files and directories, and 256 bytes an inode."""
    used = 0
    for path, _, names in os.walk(root):
        used += 256 + os.stat(path).st_blocks * 512
        used += sum(256 + os.stat(os.path.join(path, name)).st_blocks * 512 for name in names)
    return used


def sync(root: str) -> None:
    """All of it on the disk."""
    fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
    _libc.syncfs(fd)
    os.close(fd)


def drop_memory() -> bool:
    """Forget bytes and names; only root may."""
    try:
        with open("/proc/sys/vm/drop_caches", "w", encoding="ascii") as file:
            file.write("3")
    except OSError:
        return False
    return True


def timed(count: int, work: Callable[[], object]) -> float:
    """Operations a second."""
    gc.collect()
    began = time.perf_counter()
    work()
    return count / (time.perf_counter() - began)


def each(operation: Callable[..., object], arguments: Iterator[tuple[object, ...]]) -> Callable[[], None]:
    """Call for all."""

    def run() -> None:
        for those in arguments:
            operation(*those)

    return run


def create_in_threads(
    make: Callable[[str], Files | Packs], home: str, sizes: Sequence[int], source: memoryview
) -> float:
    """As the threads do that fetch: objects a second by ``THREADS``, each with a pack of its own."""
    with tempfile.TemporaryDirectory(dir=home) as below:
        shared = make(f"{below}/0") if make is Files else None
        stores = [shared or make(f"{below}/{number}") for number in range(THREADS)]

        def work(number: int) -> None:
            for position in range(number, len(sizes), THREADS):
                stores[number].create(position, source[: sizes[position]])

        def run() -> None:
            threads = [threading.Thread(target=work, args=(number,)) for number in range(THREADS)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()

        rate = timed(len(sizes), run)
        for store in set(stores):
            store.close()
        return rate


def compare(parent: str, what: str, sizes: Sequence[int], draw: random.Random) -> None:
    """Both ways over one set of objects."""
    source, buffer = memoryview(os.urandom(1 << 17)), memoryview(bytearray(1 << 17))
    count, total = len(sizes), sum(sizes)
    rows: dict[str, list[str]] = {}
    for make in (Files, Packs):
        with tempfile.TemporaryDirectory(dir=parent) as home:
            store = make(f"{home}/store")
            created = timed(count, each(store.create, ((n, source[:size]) for n, size in enumerate(sizes))))
            synced_s = 1 / timed(1, partial(sync, home))
            threaded = create_in_threads(make, home, sizes[:20_000], source)
            used = used_bytes(home)
            order = draw.sample(range(count), min(count, 20_000))
            warm = timed(len(order), each(store.read, ((n, buffer[: sizes[n]]) for n in order)))
            store.forget()
            cold_names = drop_memory()
            cold = timed(len(order), each(store.read, ((n, buffer[: sizes[n]]) for n in order)))
            drop_memory()
            restart_s = 1 / timed(1, store.restart)
            gone = draw.sample(range(count), count // 4)
            punched = timed(len(gone), each(store.remove, ((n,) for n in gone)))
            left = sorted(set(range(count)) - set(gone))
            removed = timed(len(left), partial(store.remove_all, left))
            store.close()
            rows[make.name] = [
                f"{created:,.0f}", f"{threaded:,.0f}", f"{synced_s:.1f} s", f"{used / total:.3f}", f"{warm:,.0f}", f"{cold:,.0f}", f"{restart_s:.2f} s",
                f"{punched:,.0f}", f"{removed:,.0f}",
            ]  # fmt: skip
    print(f"\n{what}: {count:,} objects, {total / 1e9:.2f} GB" + ("" if cold_names else "; names stayed in memory"))
    heads = [
        "create/s",
        "by 8 threads/s",
        "then sync",
        "disk/bytes",
        "read warm/s",
        "read cold/s",
        "restart",
        "remove any/s",
        "remove in turn/s",
    ]
    for position, head in enumerate(heads):
        print(f"  {head:18}" + "".join(f"{name}: {row[position]:>12}   " for name, row in rows.items()))


def through_cache(parent: str, sizes: Sequence[int]) -> None:
    """What the cache costs around the file: a new object, its eviction, a start with all of them."""
    source = memoryview(os.urandom(1 << 17))
    with tempfile.TemporaryDirectory(dir=parent) as home:
        tiers = [TierSpec("DISK", f"{home}/tier", 1 << 44)]

        def make() -> Cache:
            return Cache(f"{home}/index", tiers, reserve=0.0, call_soon=lambda work: work())

        def fill() -> None:
            for number, size in enumerate(sizes, 1):
                group = cache.admit(ContentId(number), 0, size, MountId(1), 0)
                cache.reserve(group, 1)
                cache.commit(group, [(0, cache.write_page(group, 0, source[:size]))])

        cache = make()
        cache.open()
        cpu = time.process_time()
        created = timed(len(sizes), fill)
        cpu_us = (time.process_time() - cpu) / len(sizes) * 1e6
        crc_us = statistics.median(1e6 / timed(1, lambda: zlib.crc32(source[: sizes[0]])) for _ in range(99))
        cache.close()
        index = os.stat(f"{home}/index/data.mdb").st_blocks * 512
        drop_memory()
        cache = make()
        opened_s = 1 / timed(1, cache.open)

        def evict() -> None:
            cache.drop_clean()
            assert cache.settle(3600)

        evicted = timed(len(sizes), evict)
        cache.close()
    print(
        f"  cache              create/s: {created:,.0f} ({cpu_us:.0f} µs CPU each, CRC of one {crc_us:.0f})   evict/s: {evicted:,.0f}"
        f"   start: {opened_s:.2f} s   index: {index / len(sizes):.0f} B each"
    )


def main() -> None:
    """Run it all."""
    parser = argparse.ArgumentParser(description="A file for each small object against many in one file.")
    parser.add_argument(
        "--directory", action="append", help="where to write; may be repeated (default: . and /dev/shm)"
    )
    parser.add_argument("--real", type=int, default=40_000, help="objects of 10 to 100 KB")
    parser.add_argument("--objects", type=int, default=1_000_000, help="objects of --small-bytes")
    parser.add_argument("--small-bytes", type=int, default=4096)
    options = parser.parse_args()
    print(machine())
    draw = random.Random(1)
    real = [draw.randrange(10_000, 100_000) for _ in range(options.real)]
    for directory in options.directory or [".", "/dev/shm"]:
        home = tempfile.mkdtemp(dir=directory, prefix="monofs-small-")
        try:
            print(f"\n==== {os.path.abspath(directory)}")
            compare(home, "10 to 100 KB", real, draw)
            through_cache(home, real)
            if options.objects:
                compare(home, "by number", [options.small_bytes] * options.objects, draw)
        finally:
            shutil.rmtree(home)


if __name__ == "__main__":
    main()
