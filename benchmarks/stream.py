"""64 MiB blocks from the cache down one stream: monofs over loopback TCP and its Unix socket, beside nginx sendfile, in one run.

    python benchmarks/stream.py [--rounds 7] [--blocks 8] [--json]

A real node holds ``blocks`` files of 64 MiB; nginx serves the very same source files with sendfile. One client thread reads file after
file into one buffer: through ``monofs.connect`` (READ requests of 16 MiB), through the worker's Unix socket, and by HTTP from nginx on a
kept connection. The three take turns, in an order that changes every round. CPU seconds per GB are the server's process and this one.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator

from machine import fine_cpu_s, machine

from monofs.rpc.api import Method, ReadRequest
from monofs.rpc.sync import Pool
from monofs.testing.nodes import ServedNode
from monofs.testing.ports import free_port

MIB = 1 << 20
BLOCK = 64 * MIB
NGINX = """
daemon off; master_process off; pid {directory}/nginx.pid; error_log stderr crit;
events {{ worker_connections 1024; }}
http {{
  access_log off; sendfile on; tcp_nopush on; keepalive_requests 1000000; sendfile_max_chunk 2m;
  client_body_temp_path {directory}/t1; proxy_temp_path {directory}/t2; fastcgi_temp_path {directory}/t3;
  uwsgi_temp_path {directory}/t4; scgi_temp_path {directory}/t5;
  server {{ listen 127.0.0.1:{port}; root {directory}/source; }}
}}
"""


@contextlib.contextmanager
def nginx(directory: str) -> Iterator[tuple[int, int]]:
    """(pid, port) of an nginx that serves ``directory/source``."""
    port = free_port()
    config = os.path.join(directory, "nginx.conf")
    with open(config, "w", encoding="utf-8") as file:
        file.write(NGINX.format(directory=directory, port=port))
    program = shutil.which("nginx") or "/usr/sbin/nginx"
    process = subprocess.Popen([program, "-p", directory, "-c", config, "-e", "stderr"])
    try:
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            with contextlib.suppress(OSError):
                socket.create_connection(("127.0.0.1", port)).close()
                break
            time.sleep(0.02)
        yield process.pid, port
    finally:
        process.terminate()
        process.wait()


def http_reader(port: int, buffer: memoryview) -> Callable[[int], None]:
    """GET of one block on a kept connection, straight into ``buffer``."""
    sock = socket.create_connection(("127.0.0.1", port))
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def read(number: int) -> None:
        sock.sendall(f"GET /{number} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        head = b""
        while b"\r\n\r\n" not in head:
            head += sock.recv(4096)
        rest = head.partition(b"\r\n\r\n")[2]
        buffer[: len(rest)] = rest
        got = len(rest)
        while got < BLOCK:
            got += sock.recv_into(buffer[got:])

    return read


def measure(directory: str, rounds: int, blocks: int) -> dict[str, dict[str, float]]:
    """Medians over the rounds: GB/s, the server's and the client's CPU seconds per GB, for each way."""
    os.makedirs(f"{directory}/source")
    os.chmod(directory, 0o755)
    for number in range(blocks):
        with open(f"{directory}/source/{number}", "wb") as file:
            file.writelines(os.urandom(MIB) for _ in range(64))
    buffer = memoryview(bytearray(BLOCK))
    found: dict[str, list[tuple[float, float, float]]] = {}
    with ServedNode(f"{directory}/home") as node, node.connect() as fs, nginx(directory) as (nginx_pid, port):
        fs.mount_add("/b", f"file://{directory}/source", sync_interval_s=-1.0)
        fs.load("/b")
        capabilities = [fs.reader(f"/b/{number}").opened.capability for number in range(blocks)]
        tcp, unix = Pool(node.doors["worker"]), Pool(f"{node.home}/worker.sock")
        assert node.process is not None

        def over(pool: Pool) -> Callable[[int], None]:
            def read(number: int) -> None:
                for start in range(0, BLOCK, 16 * MIB):
                    request = ReadRequest(capabilities[number], start, 16 * MIB, sequential=True)
                    assert pool.read_into(Method.READ, request, buffer[start : start + 16 * MIB]) == 16 * MIB

            return read

        ways: list[tuple[str, int, Callable[[int], None]]] = [
            ("nginx sendfile, TCP", nginx_pid, http_reader(port, buffer)),
            ("monofs, TCP", node.process.pid, over(tcp)),
            ("monofs, Unix socket", node.process.pid, over(unix)),
        ]
        for _, _, read in ways:
            read(0)
        for turn in range(rounds):
            for name, pid, read in ways[turn % 3 :] + ways[: turn % 3]:
                server, client, began = fine_cpu_s(pid), time.process_time(), time.perf_counter()
                for number in range(blocks):
                    read(number)
                seconds, size = time.perf_counter() - began, blocks * BLOCK / 1e9
                row = (size / seconds, (fine_cpu_s(pid) - server) / size, (time.process_time() - client) / size)
                found.setdefault(name, []).append(row)
        tcp.close()
        unix.close()
    names = ("GB/s", "server CPU s/GB", "client CPU s/GB")
    return {
        way: {name: statistics.median(row[i] for row in rows) for i, name in enumerate(names)}
        for way, rows in found.items()
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--blocks", type=int, default=8)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="monofs-stream-") as directory:
        found = measure(directory, options.rounds, options.blocks)
    if options.json:
        print(json.dumps(found))
        return
    program = shutil.which("nginx") or "/usr/sbin/nginx"
    version = subprocess.run([program, "-v"], capture_output=True, text=True, check=False).stderr.strip()
    print(f"{machine()}, {version}; medians of {options.rounds} rounds")
    print(f"{'64 MiB blocks, one stream':<28}{'GB/s':>8}{'server s/GB':>14}{'client s/GB':>14}")
    for way, row in found.items():
        print(f"{way:<28}{row['GB/s']:8.2f}{row['server CPU s/GB']:14.3f}{row['client CPU s/GB']:14.3f}")
    ours, theirs, local = found["monofs, TCP"], found["nginx sendfile, TCP"], found["monofs, Unix socket"]
    print(f"TCP over nginx, GB/s {ours['GB/s'] / theirs['GB/s']:.2f} (target 1.0 or more)")
    print(
        f"TCP over nginx, server CPU {ours['server CPU s/GB'] / theirs['server CPU s/GB']:.2f} (target 1.0 or less), "
        f"server and client {total(ours) / total(theirs):.2f}"
    )
    print(f"Unix socket over TCP, GB/s {local['GB/s'] / ours['GB/s']:.2f} (target 2 or more)")


def total(row: dict[str, float]) -> float:
    """CPU seconds per GB of both sides."""
    return row["server CPU s/GB"] + row["client CPU s/GB"]


if __name__ == "__main__":
    sys.exit(main())
