"""RPC: requests a second, latency, and streamed bytes a second, each against a bare socket in the same run.

    python benchmarks/rpc.py [--seconds 3] [--connections 32] [--megabytes 256]

One server process with a plain handler, load from this process; medians of three rounds. The reference of requests is
an epoll loop that answers the same number of bytes without looking at them; that of streams is one ``sendfile`` of the file.
"""

from __future__ import annotations

import argparse
import os
import select
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any

import msgspec
import twisted
from machine import cpu_s, machine

from monofs.rpc import api
from monofs.rpc.api import Method
from monofs.rpc.conversation import Conversation
from monofs.rpc.frames import Kind, pack
from monofs.rpc.handshake import Credential
from monofs.rpc.sync import Pool

ROUNDS = 3
RECORD = msgspec.msgpack.encode([1, 2**40, 2**50, 123456, 10**18, 10**18, 0o644, 1000, 1000, 0, 26, "etag" * 8, 77, 0])
REQUEST = msgspec.msgpack.encode(api.StatRequest("/lake/part-00001.parquet"))


# ---- servers, each a process of its own -------------------------------------------------------------------------------


def serve(directory: str, data: str) -> None:
    """monofs: a stat-like plain handler, and streams of a file."""
    from twisted.internet.epollreactor import EPollReactor

    from monofs.rpc.server import listen_tcp, listen_unix
    from monofs.rpc.service import Call, Service

    reactor = EPollReactor()
    service = Service("worker", reactor)
    names = {"/lake/part-00001.parquet": msgspec.Raw(RECORD)}
    fd = os.open(data, os.O_RDONLY)

    def stat(request: api.StatRequest, call: Call) -> api.StatAnswer:
        return api.StatAnswer(names[request.path])

    def read(request: api.ReadRequest, call: Call) -> None:
        offset, left = request.offset, request.length

        def go() -> None:
            nonlocal offset, left
            while left and not call.closed:
                if not call.writable:
                    call.when_writable(go)
                    return
                size = min(left, 1 << 20)
                call.send_file(fd, offset, size)
                offset, left = offset + size, left - size
            call.answer(api.Empty())

        go()

    service.register(Method.STAT, api.StatRequest, stat)
    service.register(Method.READ, api.ReadRequest, read)
    tcp = listen_tcp(reactor, service, "127.0.0.1", 0)
    listen_unix(reactor, service, os.path.join(directory, "door"))
    print(tcp.address, flush=True)
    reactor.run()


def serve_bare(directory: str, data: str) -> None:
    """The reference: answers 100 bytes to whatever comes; a request of one byte gets the whole file by sendfile."""
    tcp, unix = socket.create_server(("127.0.0.1", 0)), socket.socket(socket.AF_UNIX)
    unix.bind(os.path.join(directory, "bare"))
    unix.listen()
    poll = select.epoll()
    listeners = {sock.fileno(): sock for sock in (tcp, unix)}
    peers: dict[int, socket.socket] = {}
    for number in listeners:
        poll.register(number, select.EPOLLIN)
    print(f"127.0.0.1:{tcp.getsockname()[1]}", flush=True)
    fd, size, answer = os.open(data, os.O_RDONLY), os.path.getsize(data), bytes(100)
    while True:
        for number, _ in poll.poll():
            if number in listeners:
                peer, _ = listeners[number].accept()
                if peer.family == socket.AF_UNIX:
                    peer.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4 << 20)
                else:
                    peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                peers[peer.fileno()] = peer
                poll.register(peer.fileno(), select.EPOLLIN)
                continue
            asked = peers[number].recv(65536)
            if not asked:
                peers.pop(number).close()
            elif len(asked) == 1:
                sent = 0
                while sent < size:
                    sent += os.sendfile(number, fd, sent, size - sent)
            else:
                peers[number].send(answer)


# ---- loads ------------------------------------------------------------------------------------------------------------


def request_storm(sockets: list[socket.socket], request: bytes, seconds: float) -> float:
    """Requests a second with one in flight on each socket."""
    poll = select.epoll()
    by_number = {sock.fileno(): sock for sock in sockets}
    for number, sock in by_number.items():
        poll.register(number, select.EPOLLIN)
        sock.send(request)
    count, start = 0, time.perf_counter()
    while time.perf_counter() - start < seconds:
        for number, _ in poll.poll():
            by_number[number].recv(4096)
            by_number[number].send(request)
            count += 1
    spent = time.perf_counter() - start
    for sock in sockets:
        sock.recv(4096)
    return count / spent


def latencies(ask: Callable[[], Any], count: int) -> tuple[float, float]:
    """(p50, p99) in µs, one at a time."""
    times = []
    for _ in range(count):
        start = time.perf_counter()
        ask()
        times.append(time.perf_counter() - start)
    times.sort()
    return times[count // 2] * 1e6, times[count * 99 // 100] * 1e6


def connect_bare(address: str) -> socket.socket:
    if "/" in address:
        sock = socket.socket(socket.AF_UNIX)
        sock.connect(address)
        return sock
    host, _, port = address.rpartition(":")
    sock = socket.create_connection((host, int(port)))
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return sock


def stream_bare(sock: socket.socket, buffer: memoryview) -> float:
    """GB/s of one sendfile."""
    start, filled = time.perf_counter(), 0
    sock.send(b"x")
    while filled < len(buffer):
        filled += sock.recv_into(buffer[filled:])
    return len(buffer) / (time.perf_counter() - start) / 1e9


def stream_ours(pool: Pool, buffer: memoryview) -> float:
    """GB/s of one READ."""
    start = time.perf_counter()
    got = pool.read_into(Method.READ, api.ReadRequest(b"", 0, len(buffer)), buffer)
    assert got == len(buffer)
    return len(buffer) / (time.perf_counter() - start) / 1e9


def medians(ours: Callable[[], float], reference: Callable[[], float]) -> tuple[float, float]:
    """Of rounds that take turns, so that a busy machine hurts both alike."""
    pairs = [(ours(), reference()) for _ in range(ROUNDS)]
    return statistics.median(pair[0] for pair in pairs), statistics.median(pair[1] for pair in pairs)


def show(what: str, unit: str, value: float, reference: float = 0.0) -> None:
    ratio = f"   {value / reference:5.2f} x of {reference:,.2f}" if reference else ""
    print(f"{what:<46}{value:>14,.2f} {unit}{ratio}")


def measure_requests(servers: list[int], address: str, bare: str, connections: int, seconds: float) -> None:
    frame = pack(Kind.REQUEST, Method.STAT, 1, REQUEST, deadline_ms=30_000)
    for count in (1, connections):
        talks = [Conversation(address, Credential(), time.monotonic() + 10) for _ in range(count)]
        plain = [connect_bare(bare) for _ in range(count)]
        kinds = (([talk._sock for talk in talks], servers[0]), (plain, servers[1]))
        costs: list[list[float]] = [[], []]

        def storm(kind: int, kinds: Any = kinds, costs: Any = costs) -> float:
            sockets, server = kinds[kind]
            before = cpu_s(server)
            rate = request_storm(sockets, frame, seconds)
            costs[kind].append((cpu_s(server) - before) / (rate * seconds) * 1e6)
            return rate

        show(f"stat, {count} connections, 1 in flight", "requests/s", *medians(lambda: storm(0), lambda: storm(1)))
        show("  CPU of the server", "µs/request", *map(statistics.median, costs))
        for each in (*talks, *plain):
            each.close()


def measure_pool(address: str, bare: str) -> None:
    with Pool(address) as pool, connect_bare(bare) as sock:
        request = api.StatRequest("/lake/part-00001.parquet")

        def ask_bare() -> None:
            sock.send(REQUEST)
            sock.recv(4096)

        p50, p99 = latencies(lambda: pool.call(Method.STAT, request, api.StatAnswer), 20_000)
        reference = latencies(ask_bare, 20_000)
        print(f"-- {address}")
        show("Pool.call stat alone, p50", "µs", p50, reference[0])
        show("Pool.call stat alone, p99", "µs", p99, reference[1])

        def pipelined() -> float:
            start = time.perf_counter()
            pool.call_many(Method.STAT, [request] * 50_000, api.StatAnswer)
            return 50_000 / (time.perf_counter() - start)

        show("Pool.call_many stat, pipelined", "requests/s", statistics.median(pipelined() for _ in range(ROUNDS)))


def measure_streams(doors: dict[str, tuple[str, str]], size: int) -> None:
    buffer = memoryview(bytearray(size))
    for name, (ours, bare) in doors.items():
        with Pool(ours) as pool, connect_bare(bare) as sock:
            stream_ours(pool, buffer)
            stream_bare(sock, buffer)
            speeds = medians(
                lambda pool=pool: stream_ours(pool, buffer),  # type: ignore[misc]
                lambda sock=sock: stream_bare(sock, buffer),  # type: ignore[misc]
            )
            show(f"stream {size >> 20} MiB, {name}", "GB/s", *speeds)


def main() -> None:
    """Start both servers, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--connections", type=int, default=32)
    parser.add_argument("--megabytes", type=int, default=256)
    parser.add_argument("--serve", choices=["monofs", "bare"], help=argparse.SUPPRESS)
    parser.add_argument("paths", nargs="*", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        (serve if options.serve == "monofs" else serve_bare)(*options.paths)
        return
    print(f"{machine()}, Twisted {twisted.__version__}, msgspec {msgspec.__version__}")
    print(f"$ {' '.join(sys.argv)}\n")
    with tempfile.TemporaryDirectory() as directory:
        data = os.path.join(directory, "data")
        with open(data, "wb") as file:
            file.writelines(os.urandom(1 << 20) for _ in range(options.megabytes))
        servers = [
            subprocess.Popen(
                [sys.executable, __file__, "--serve", kind, directory, data], stdout=subprocess.PIPE, text=True
            )
            for kind in ("monofs", "bare")
        ]
        try:
            address, bare = (server.stdout.readline().strip() for server in servers if server.stdout)
            measure_requests([server.pid for server in servers], address, bare, options.connections, options.seconds)
            measure_pool(address, bare)
            door, bare_door = os.path.join(directory, "door"), os.path.join(directory, "bare")
            measure_pool(door, bare_door)
            measure_streams({"TCP": (address, bare), "Unix socket": (door, bare_door)}, options.megabytes << 20)
        finally:
            for server in servers:
                server.terminate()
                server.communicate()


if __name__ == "__main__":
    main()
