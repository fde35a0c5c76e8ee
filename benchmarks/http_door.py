"""HTTP doors: small answers a second and large files, beside nginx, in one run.

    python benchmarks/http_door.py [--seconds 4] [--rounds 3]

One server process with a plain handler, a generator in C (`wrk`, of the Debian package of that name) on the other core. nginx serves the same bytes from
its files. Ways take turns. CPU is the server's. Large files are read by this process, nobody being bound to a core. The body of the PUT is dropped as it comes, which nginx
cannot do: it stands alone.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable

from machine import fine_cpu_s, machine
from stream import nginx

MIB = 1 << 20
SMALL, LARGE = 4096, 64 * MIB
ASKED = [
    "Accept-Encoding: identity",
    "x-amz-checksum-mode: ENABLED",
    "User-Agent: Boto3/1.40.1 md/Botocore#1.40.1 ua/2.1 os/linux md/arch#x86_64 lang/python#3.11.7 cfg/retry-mode#legacy",
    "X-Amz-Date: 20261130T060000Z",
    "X-Amz-Content-SHA256: e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    "Authorization: AWS4-HMAC-SHA256 Credential=MFAAAAAAAAAAAAAAAAAA/20261130/us-east-1/s3/aws4_request, SignedHeaders=host;x-amz-checksum-mode;x-amz-content-sha256;x-amz-date, Signature=fe5f80f77d5fa3beca038a248ff027d0445342fe2855ddc963176630326f1024",
    "amz-sdk-invocation-id: 5c1cb4c5-0f0c-4d43-a6d5-1d6e0c7f7a11",
    "amz-sdk-request: attempt=1",
]
"""What boto3 sends with a GET."""


def serve(directory: str) -> None:
    """monofs: memory for the small one, a descriptor for the large one."""
    from twisted.internet.epollreactor import EPollReactor

    from monofs.gateways.http import Exchange, listen_http

    reactor = EPollReactor()
    fd = os.open(os.path.join(directory, "source", "large"), os.O_RDONLY)
    with open(os.path.join(directory, "source", "small"), "rb") as file:
        small = file.read()
    headers = [(b"Content-Type", b"application/octet-stream")]
    object_headers = [
        (b"x-amz-request-id", b"0123456789abcdef"),
        (b"ETag", b'"fe5f80f77d5fa3beca038a248ff027d0"'),
        (b"Last-Modified", b"Mon, 30 Nov 2026 06:00:00 GMT"),
        (b"Accept-Ranges", b"bytes"),
        (b"x-amz-checksum-crc32", b"AAAAAA=="),
        *headers,
    ]

    def large(exchange: Exchange) -> None:
        exchange.begin(200, headers, LARGE)
        offset = 0

        def go() -> None:
            nonlocal offset
            while offset < LARGE and not exchange.closed:
                if not exchange.writable:
                    exchange.when_writable(go)
                    return
                exchange.send_file(fd, offset, 2 * MIB)
                offset += 2 * MIB
            exchange.end()

        go()

    def handle(exchange: Exchange) -> None:
        if exchange.method == "PUT":
            exchange.receive(lambda piece: None, lambda: exchange.answer(200))
        elif exchange.target == "/small":
            exchange.answer(200, headers, small)
        elif exchange.target == "/object":
            exchange.answer(200, object_headers, small)
        elif exchange.target == "/later":
            reactor.callLater(0, exchange.answer, 200, headers, small)
        else:
            large(exchange)

    door = listen_http(reactor, "127.0.0.1", 0, handle, name="bench")
    print(door.address, flush=True)
    reactor.run()


def storm(port: int, target: str, connections: int, seconds: float, lines: list[str]) -> tuple[float, float, float]:
    """(answers a second, p50, p99 in µs) as wrk counts them."""
    command = [
        "wrk",
        "-t1",
        f"-c{connections}",
        f"-d{seconds}s",
        "--latency",
        *(word for line in lines for word in ("-H", line)),
    ]
    shown = subprocess.run(
        [*command, f"http://127.0.0.1:{port}{target}"], capture_output=True, text=True, check=True
    ).stdout
    assert "Non-2xx" not in shown, shown
    assert "Socket errors" not in shown, shown
    units = {"us": 1.0, "ms": 1e3, "s": 1e6}

    def latency(share: str) -> float:
        found = re.search(rf"{share}%\s+([\d.]+)(us|ms|s)", shown)
        assert found is not None, shown
        return float(found[1]) * units[found[2]]

    found = re.search(r"Requests/sec:\s+([\d.]+)", shown)
    assert found is not None, shown
    return float(found[1]), latency("50"), latency("99")


def fetch(port: int, buffer: memoryview) -> Callable[[], float]:
    """GB/s of one GET of the large file on a kept connection, straight into ``buffer``."""
    sock = socket.create_connection(("127.0.0.1", port))
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def read() -> float:
        began = time.perf_counter()
        sock.sendall(b"GET /large HTTP/1.1\r\nHost: x\r\n\r\n")
        head = b""
        while b"\r\n\r\n" not in head:
            head += sock.recv(4096)
        got = len(head.partition(b"\r\n\r\n")[2])
        while got < LARGE:
            got += sock.recv_into(buffer[got:])
        return LARGE / (time.perf_counter() - began) / 1e9

    return read


def put(port: int, body: memoryview) -> Callable[[], float]:
    """GB/s of one PUT."""
    sock = socket.create_connection(("127.0.0.1", port))

    def write() -> float:
        began = time.perf_counter()
        sock.sendall(b"PUT /large HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body))
        sock.sendall(body)
        assert sock.recv(4096).startswith(b"HTTP/1.1 200")
        return len(body) / (time.perf_counter() - began) / 1e9

    return write


def bind(cores: dict[int, set[int]]) -> None:
    """Processes to the cores they may run on."""
    for pid, allowed in cores.items():
        os.sched_setaffinity(pid, allowed)


def measure(directory: str, rounds: int, seconds: float) -> dict[str, dict[str, float]]:
    """Medians of all rounds, by way."""
    os.makedirs(f"{directory}/source")
    os.chmod(directory, 0o755)
    for name, size in (("small", SMALL), ("object", SMALL), ("large", LARGE)):
        with open(f"{directory}/source/{name}", "wb") as file:
            file.write(os.urandom(size))
    found: dict[str, list[dict[str, float]]] = {}
    server = subprocess.Popen([sys.executable, __file__, "--serve", directory], stdout=subprocess.PIPE, text=True)
    try:
        assert server.stdout is not None
        port = int(server.stdout.readline().rpartition(":")[2])
        with nginx(directory) as (nginx_pid, nginx_port):
            ways = {"monofs": (server.pid, port), "nginx": (nginx_pid, nginx_port)}
            kinds = [
                ("GET 4 KiB, 1 connection", "/small", 1, []),
                ("GET 4 KiB, 32 connections", "/small", 32, []),
                ("GET 4 KiB, 256 connections", "/small", 256, []),
                ("GET 4 KiB, 32 connections, headers of boto3", "/object", 32, ASKED),
                ("GET 4 KiB, 32 connections, answered in a later turn", "/later", 32, []),
            ]
            for turn in range(rounds):
                bind({server.pid: {0}, nginx_pid: {0}, 0: {1}})
                for name, target, connections, lines in kinds:
                    for way in ("monofs", "nginx") if turn % 2 else ("nginx", "monofs"):
                        if target == "/later" and way == "nginx":
                            continue
                        pid, at = ways[way]
                        before = fine_cpu_s(pid)
                        rate, p50, p99 = storm(at, target, connections, seconds, lines)
                        cost = (fine_cpu_s(pid) - before) / (rate * seconds) * 1e6
                        row = {"per second": rate, "p50 µs": p50, "p99 µs": p99, "CPU µs each": cost}
                        found.setdefault(f"{name}: {way}", []).append(row)
                bind({pid: {0, 1} for pid in (server.pid, nginx_pid, 0)})
                buffer = memoryview(bytearray(LARGE))
                for way, (pid, at) in ways.items():
                    read = fetch(at, buffer)
                    read()
                    before = fine_cpu_s(pid)
                    speed = statistics.median(read() for _ in range(8))
                    row = {"GB/s": speed, "CPU s/GB": (fine_cpu_s(pid) - before) / (8 * LARGE / 1e9)}
                    found.setdefault(f"GET 64 MiB: {way}", []).append(row)
                write = put(port, buffer)
                write()
                before = fine_cpu_s(server.pid)
                speed = statistics.median(write() for _ in range(8))
                row = {"GB/s": speed, "CPU s/GB": (fine_cpu_s(server.pid) - before) / (8 * LARGE / 1e9)}
                found.setdefault("PUT 64 MiB, dropped as it comes: monofs", []).append(row)
    finally:
        server.terminate()
        server.communicate()
    return {
        way: {name: statistics.median(row[name] for row in rows) for name in rows[0]} for way, rows in found.items()
    }


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        serve(options.serve)
        return 0
    if shutil.which("wrk") is None:
        print("the generator is missing: apt-get install wrk", file=sys.stderr)
        return 1
    with tempfile.TemporaryDirectory(prefix="monofs-bench-") as directory:
        figures = measure(directory, options.rounds, options.seconds)
    if options.json:
        print(json.dumps(figures))
        return 0
    print(machine())
    print(f"$ {' '.join(sys.argv)}\n")
    for way, row in figures.items():
        shown = "  ".join(f"{value:>10,.2f} {name}" for name, value in row.items())
        print(f"{way:<62}{shown}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
