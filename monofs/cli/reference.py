"""The physical limits that benchmarks are compared with, measured in the same run on the same machine."""

from __future__ import annotations

import contextlib
import os
import random
import select
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from typing import Any

_ECHO = """
import select, socket, sys
server = socket.create_server(("127.0.0.1", 0), backlog=256)
print(server.getsockname()[1], flush=True)
epoll, peers = select.epoll(), {}
epoll.register(server.fileno(), select.EPOLLIN)
while True:
    for fd, _ in epoll.poll():
        if fd == server.fileno():
            peer, _ = server.accept()
            peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            peers[peer.fileno()] = peer
            epoll.register(peer.fileno(), select.EPOLLIN)
            continue
        try:
            data = peers[fd].recv(65536)
        except ConnectionResetError:
            data = b""
        if not data:
            epoll.unregister(fd)
            del peers[fd]
            if not peers:
                sys.exit()
            continue
        peers[fd].send(data)
"""


def fsync_seconds(*, rounds: int = 300) -> float:
    """Median of 4 KiB ``pwrite`` + ``fdatasync`` into a preallocated file in the temporary directory."""
    with tempfile.NamedTemporaryFile() as file:
        fd = file.fileno()
        os.pwrite(fd, bytes(4096 * rounds), 0)
        os.fsync(fd)
        times = []
        for number in range(rounds):
            begin = time.perf_counter()
            os.pwrite(fd, b"x" * 4096, number * 4096)
            os.fdatasync(fd)
            times.append(time.perf_counter() - begin)
    return statistics.median(times)


def echo_rate(connections: int, *, seconds: float = 1.5, size: int = 80) -> float:
    """Answers a second of a bare Python epoll loop that sends ``size`` bytes back, with the same kind of load."""
    server = subprocess.Popen([sys.executable, "-c", _ECHO], stdout=subprocess.PIPE)
    try:
        assert server.stdout is not None
        port = int(server.stdout.readline())
        epoll, peers = select.epoll(), {}
        for _ in range(connections):
            peer = socket.create_connection(("127.0.0.1", port))
            peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            peers[peer.fileno()] = peer
            epoll.register(peer.fileno(), select.EPOLLIN)
            peer.send(bytes(size))
        answers, begin = 0, time.perf_counter()
        while time.perf_counter() - begin < seconds:
            for fd, _ in epoll.poll(1.0):
                peers[fd].recv(65536)
                peers[fd].send(bytes(size))
                answers += 1
        elapsed = time.perf_counter() - begin
        epoll.close()
        for peer in peers.values():
            peer.close()
        return answers / elapsed
    finally:
        server.kill()
        server.wait()
        if server.stdout is not None:
            server.stdout.close()


@contextlib.contextmanager
def plain_copy(fs: Any, path: str) -> Iterator[str]:
    """A plain local file with the same bytes, in the page cache."""
    directory = tempfile.mkdtemp(prefix="monofs-bench-")
    try:
        name = os.path.join(directory, "plain")
        with open(name, "wb") as target, fs.open(path) as source:
            shutil.copyfileobj(source, target, 8 << 20)
        yield name
    finally:
        shutil.rmtree(directory)


def sequential_rate(open_file: Callable[[], Any]) -> float:
    """Bytes a second of 1 MiB ``readinto`` from start to end, after open."""
    buffer = memoryview(bytearray(1 << 20))
    with open_file() as file:
        begin, got = time.perf_counter(), 0
        while size := file.readinto(buffer):
            got += size
        return got / (time.perf_counter() - begin)


def random_rate(open_file: Callable[[], Any], reads: int, seed: int) -> float:
    """4 KiB reads a second at random offsets, after open: ``pread`` where the file object has it, else seek and read."""
    buffer = memoryview(bytearray(4096))
    with open_file() as file:
        size = file.seek(0, os.SEEK_END)
        chance = random.Random(seed)
        offsets = [chance.randrange(max(1, size - 4096)) for _ in range(reads)]
        if hasattr(file, "pread_into"):
            begin = time.perf_counter()
            for offset in offsets:
                file.pread_into(offset, buffer)
        else:
            fd = file.fileno()
            begin = time.perf_counter()
            for offset in offsets:
                os.preadv(fd, [buffer], offset)
        return reads / (time.perf_counter() - begin)


def store_reader(fs: Any, path: str) -> Callable[[str], int] | None:
    """Reads a path's bytes straight from its store with obstore, or None when the store or its keys are not known here."""
    mounts = [info for info in fs.mount_list() if path == info.path or path.startswith(info.path.rstrip("/") + "/")]
    if not mounts:
        return None
    mount = max(mounts, key=lambda info: len(info.path))
    if mount.uri.startswith("file://"):
        root = mount.uri.removeprefix("file://")

        def read_file(name: str) -> int:
            with open(root + name[len(mount.path.rstrip("/")) :], "rb") as file:
                return len(file.read())

        return read_file
    if "AWS_ACCESS_KEY_ID" not in os.environ:
        return None
    import obstore
    from obstore.store import S3Store

    bucket, _, prefix = mount.uri.removeprefix("s3://").partition("/")
    options: dict[str, Any] = {"client_options": {"allow_http": True}, "virtual_hosted_style_request": False}
    if "endpoint" in mount.options:
        options["endpoint"] = mount.options["endpoint"]
    store = S3Store(bucket, region=mount.options.get("region", "us-east-1"), **options)

    def read_object(name: str) -> int:
        key = "/".join(part for part in (prefix, name[len(mount.path.rstrip("/")) + 1 :]) if part)
        return len(obstore.get(store, key).bytes())

    return read_object
