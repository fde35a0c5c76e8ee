"""Cold reads through one worker, against obstore fetching the same bytes from the same server in the same run.

    python benchmarks/cold.py [--rounds 3] [--megabytes 512] [--objects 2000] [--directory DIR] [--json]

The store is nginx on loopback with static files (ranges, ETag and If-Match are nginx's own); the worker runs in a process of its
own under a master that only knows how to grant a mount, so that nothing but the worker is measured. Every round reads what is
not cached. CPU is the worker's process, all threads. Client, worker and nginx share the machine's cores.
"""

from __future__ import annotations

import argparse
import json
import os
import queue
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from typing import Any

import msgspec
import obstore
from machine import cpu_s, machine
from obstore.store import S3Store
from ufs import server

from monofs.model.capability import LIFE_S, Capability, Rights, seal_capability
from monofs.model.ids import MountId, make_content_id
from monofs.rpc.api import (
    Empty,
    FeedItem,
    FeedKind,
    HeartbeatAnswer,
    Method,
    MountGrant,
    Pong,
    ReadManyRequest,
    ReadRequest,
    RegisterAnswer,
)
from monofs.rpc.sync import Pool

MIB = 1 << 20
RANGE_BYTES = 8 * MIB
OBJECT_BYTES = 100_000
CLUSTER, KEY = b"c" * 16, b"k" * 32
OPTIONS = {"access_key": "a", "secret_key": "s", "region": "us-east-1"}


# ---- the worker's process -----------------------------------------------------------------------------------------------


def serve(home: str, endpoint: str) -> None:
    """Run one worker until its standard input ends; each line on it is a list of contents to free."""
    from monofs.node.reactor import install_reactor

    reactor: Any = install_reactor()
    from twisted.internet.defer import Deferred, succeed

    from monofs.config.schema import WorkerConfig
    from monofs.rpc.server import listen_tcp, listen_unix
    from monofs.tiering.cache import Cache, parse_tiers
    from monofs.worker.service import Worker

    sys.setswitchinterval(0.0005)

    class Master:
        """Grants one mount; feeds what is to be freed."""

        def __init__(self) -> None:
            self.feed: list[FeedItem] = []
            self.waiting: tuple[Any, Deferred[Any]] | None = None

        def call(self, method: Method, request: Any, answer_type: type[Any], timeout_s: float = 0) -> Deferred[Any]:
            if method is Method.REGISTER:
                mounts = [
                    MountGrant(number, f"s3://{bucket}", {**OPTIONS, "endpoint": endpoint}, 1)
                    for number, bucket in ((1, "bench"), (2, "slow"))
                ]
                return succeed(RegisterAnswer(1, CLUSTER, 1, 1, {1: KEY}, mounts, 10.0, time.time_ns(), 0, 0))
            deferred: Deferred[Any] = Deferred()
            self.waiting = (request, deferred)
            self.tell()
            return deferred

        def tell(self) -> None:
            if self.waiting is None:
                return
            request, deferred = self.waiting
            news = [item for item in self.feed if item.index > request.cursor]
            if news:
                self.waiting = None
                deferred.callback(HeartbeatAnswer(news, news[-1].index, 1, time.time_ns()))
            elif request.cursor:
                print("freed", request.cursor, flush=True)

    master = Master()

    def follow() -> None:
        for line in sys.stdin:
            item = FeedItem(len(master.feed) + 1, FeedKind.FREE_FORCED, json.loads(line))
            reactor.callFromThread(master.feed.append, item)
            reactor.callFromThread(master.tell)
        reactor.callFromThread(lambda: worker.stop().addBoth(lambda _: reactor.stop()))

    config = WorkerConfig()
    cache = Cache(f"{home}/index", parse_tiers("", home, "80%"), reserve=0.02, call_soon=reactor.callFromThread)
    cache.open()
    worker = Worker(config, cache, master, reactor=reactor, home=home)
    listener = listen_tcp(reactor, worker.service(), "127.0.0.1", 0)
    listen_unix(reactor, worker.service(), f"{home}/w.sock")
    worker.start(listener.address, f"{home}/w.sock").addCallback(lambda _: print(listener.address, flush=True))
    threading.Thread(target=follow, daemon=True).start()
    reactor.run()


class LoneWorker:
    """The process, seen from outside."""

    def __init__(self, home: str, endpoint: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, __file__, "--serve", home, endpoint],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout is not None
        self.address = self.process.stdout.readline().strip()
        self.unix = f"{home}/w.sock"

    def free(self, contents: list[int]) -> None:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps(contents) + "\n")
        self.process.stdin.flush()
        self.process.stdout.readline()

    def cpu_s(self) -> float:
        return cpu_s(self.process.pid)

    def stop(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait(30)


# ---- measuring ------------------------------------------------------------------------------------------------------------


def token(number: int, size: int, key: str, etag: str, *, mount: int = 1) -> bytes:
    now = int(time.time())
    content = make_content_id(1, number)
    return seal_capability(
        Capability(1, CLUSTER, content, size, 26, MountId(mount), key, f"e:{etag}", 0, Rights.READ, now, now + LIFE_S),
        KEY,
    )


def in_threads(threads: int, count: int, act: Callable[[int], object]) -> float:
    """Seconds to do ``act(0 … count-1)`` from so many threads."""
    todo: queue.SimpleQueue[int] = queue.SimpleQueue()
    for number in range(count):
        todo.put(number)

    def run() -> None:
        while True:
            try:
                number = todo.get_nowait()
            except queue.Empty:
                return
            act(number)

    workers = [threading.Thread(target=run) for _ in range(threads)]
    began = time.perf_counter()
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return time.perf_counter() - began


def creation_cpu_s(where: str, files: int = 500) -> float:
    """CPU seconds to create an empty file there: far from nothing on some file systems."""
    with tempfile.TemporaryDirectory(dir=where) as directory:
        began = time.process_time()
        for number in range(files):
            os.close(os.open(f"{directory}/{number}", os.O_CREAT | os.O_WRONLY))
        return (time.process_time() - began) / files


def measure(arguments: argparse.Namespace, directory: str, endpoint: str) -> dict[str, Any]:
    size = arguments.megabytes * MIB
    root = f"{directory}/www/bench"
    with open(f"{root}/cold-big", "wb") as file:
        block = os.urandom(MIB)
        file.writelines(block for _ in range(arguments.megabytes))
    for number in range(arguments.objects):
        with open(f"{root}/cold-{number}", "wb") as file:
            file.write(block[:OBJECT_BYTES])
    store = S3Store(
        "bench", endpoint=endpoint, access_key_id="a", secret_access_key="s", region="us-east-1",
        client_options={"allow_http": True}, virtual_hosted_style_request=False,
    )  # fmt: skip

    def etag(key: str) -> str:
        return str(obstore.head(store, key)["e_tag"]).strip('"')

    os.makedirs(f"{directory}/home")
    worker = LoneWorker(f"{directory}/home", endpoint)
    tcp, unix = Pool(worker.address), Pool(worker.unix)
    big = token(1, size, "cold-big", etag("cold-big"))
    etags = [etag(f"cold-{n}") for n in range(arguments.objects)]
    slow_size = min(size, 128 * MIB)
    slow = token(2, slow_size, "cold-big", etag("cold-big"), mount=2)
    slow_store = S3Store(
        "slow", endpoint=endpoint, access_key_id="a", secret_access_key="s", region="us-east-1",
        client_options={"allow_http": True}, virtual_hosted_style_request=False,
    )  # fmt: skip
    results: dict[str, list[float]] = {"creating a file on the disk, CPU ms each": [creation_cpu_s(directory) * 1e3]}

    def note(name: str, value: float) -> None:
        results.setdefault(name, []).append(value)

    buffer = bytearray(size)

    def straight() -> None:
        at = 0
        for chunk in obstore.get(store, "cold-big").stream(min_chunk_size=MIB):
            view = memoryview(chunk)
            buffer[at : at + len(view)] = view
            at += len(view)
        assert at == size

    def ranged(number: int) -> None:
        start = number * RANGE_BYTES
        got = memoryview(obstore.get_range(store, "cold-big", start=start, length=min(RANGE_BYTES, size - start)))
        buffer[start : start + len(got)] = got

    for turn in range(arguments.rounds):
        # new contents each round: ext4 is slow to create files for seconds after many were removed
        first_id = 10 + turn * arguments.objects
        small = [token(first_id + n, OBJECT_BYTES, f"cold-{n}", etags[n]) for n in range(arguments.objects)]
        began = time.perf_counter()
        straight()
        note("sequential: obstore, one GET, GB/s", size / (time.perf_counter() - began) / 1e9)
        spent = in_threads(4, -(-size // RANGE_BYTES), ranged)
        note("sequential: obstore, 4 ranges in flight, GB/s", size / spent / 1e9)
        for name, pool in (("TCP", tcp), ("Unix", unix)):
            worker.free([make_content_id(1, 1)])
            cpu, began = worker.cpu_s(), time.perf_counter()
            got = pool.read_into(Method.READ, ReadRequest(big, 0, size, sequential=True), buffer, 300)
            assert got == size
            note(f"sequential: worker cold, {name}, GB/s", size / (time.perf_counter() - began) / 1e9)
            note(f"sequential: worker cold, {name}, CPU s/GB", (worker.cpu_s() - cpu) / size * 1e9)
            began = time.perf_counter()
            pool.read_into(Method.READ, ReadRequest(big, 0, size), buffer, 300)
            note(f"sequential: worker warm, {name}, GB/s", size / (time.perf_counter() - began) / 1e9)

        began = time.perf_counter()
        for chunk in obstore.get(slow_store, "cold-big", options={"range": (0, slow_size)}).stream(MIB):
            len(memoryview(chunk))
        note("90 MB/s a connection: obstore, one GET, GB/s", slow_size / (time.perf_counter() - began) / 1e9)
        worker.free([make_content_id(1, 2)])
        began = time.perf_counter()
        tcp.read_into(
            Method.READ, ReadRequest(slow, 0, slow_size, sequential=True), memoryview(buffer)[:slow_size], 300
        )
        note("90 MB/s a connection: worker cold, TCP, GB/s", slow_size / (time.perf_counter() - began) / 1e9)

        cpu = time.process_time()
        spent = in_threads(16, arguments.objects, lambda n: obstore.get(store, f"cold-{n}").bytes())
        note("100 KB objects: obstore, 16 in flight, objects/s", arguments.objects / spent)
        note("100 KB objects: obstore, CPU ms each", (time.process_time() - cpu) / arguments.objects * 1e3)

        def read(number: int, tokens: list[bytes] = small) -> None:
            piece = bytearray(OBJECT_BYTES)
            assert tcp.read_into(Method.READ, ReadRequest(tokens[number], 0, OBJECT_BYTES), piece) == OBJECT_BYTES

        for name in ("cold", "warm"):
            cpu = worker.cpu_s()
            spent = in_threads(16, arguments.objects, read)
            note(f"100 KB objects: worker {name}, 16 in flight, objects/s", arguments.objects / spent)
            note(f"100 KB objects: worker {name}, CPU ms each", (worker.cpu_s() - cpu) / arguments.objects * 1e3)
        requests = [ReadRequest(big, (n * 7919 * 4096) % (size - 4096), 4096) for n in range(20_000)]
        began = time.perf_counter()
        piece = bytearray(4096)
        for request in requests[:5000]:
            tcp.read_into(Method.READ, request, piece)
        note("4 KiB warm: one in flight, reads/s", 5000 / (time.perf_counter() - began))
        cpu, began, batch = worker.cpu_s(), time.perf_counter(), bytearray(64 * 4096)
        for first in range(0, 20_000 - 64, 64):
            pieces = [(0, request.offset, 4096) for request in requests[first : first + 64]]
            tcp.read_into(Method.READ_MANY, ReadManyRequest([big], pieces), batch)
        note("4 KiB warm: 64 a request, pieces/s", (20_000 - 64) / (time.perf_counter() - began))
        note("4 KiB warm: 64 a request, worker CPU us each", (worker.cpu_s() - cpu) / (20_000 - 64) * 1e6)
        began = time.perf_counter()
        for _ in range(3000):
            tcp.call(Method.PING, Empty(), Pong)
        note("PING: one in flight, calls/s", 3000 / (time.perf_counter() - began))
    tcp.close()
    unix.close()
    worker.stop()
    return {name: statistics.median(values) for name, values in results.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--megabytes", type=int, default=512)
    parser.add_argument("--objects", type=int, default=2000)
    parser.add_argument("--directory", default=None, help="where files and cache lie; /dev/shm takes the disk out")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    directory = tempfile.mkdtemp(prefix="monofs-cold-", dir=arguments.directory)
    try:
        with server(directory, 1) as endpoint:
            found = measure(arguments, directory, endpoint)
    finally:
        shutil.rmtree(directory)
    if arguments.json:
        print(msgspec.json.encode({"machine": machine(), "medians": found}).decode())
        return
    print(f"{machine()}; obstore {obstore.__version__}; medians of {arguments.rounds}")
    for name, value in found.items():
        print(f"  {name:<58} {value:12.3f}")
    best = max(value for name, value in found.items() if name.startswith("sequential: obstore"))
    ratio = found["sequential: worker cold, TCP, GB/s"] / best
    print(f"  {'sequential cold over the better obstore':<58} {ratio:12.3f}")


if __name__ == "__main__":
    if len(sys.argv) == 4 and sys.argv[1] == "--serve":
        serve(sys.argv[2], sys.argv[3])
    else:
        main()
