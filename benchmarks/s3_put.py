"""PUT at the S3 door: CPU of the server for one object, how much of it is the reactor thread's, and how often threads took turns; of two source trees in turn.

    python benchmarks/s3_put.py [--size 4096] [--connections 16] [--count 1500] [--rounds 4] [--against TREE]

One `monofs serve` process of both roles for each tree, files under no mount, home in /dev/shm; bodies from memory over bare sockets, signatures made once.
CPU says more than rates where other programs run: rounds alternate, and the best one is told beside the median.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import selectors
import socket
import statistics
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from s3_door import Server, own

KEYS = 64


@dataclass
class Round:
    """What one object cost: CPU of all threads and of the reactor's in µs, switches between threads; and objects a second."""

    cpu_us: float
    reactor_us: float
    switches: float
    rate: float


def spent(pid: int) -> tuple[dict[str, int], int]:
    """CPU of each thread in ns, and switches of all."""
    found, switches = {}, 0
    for thread in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(OSError):
            found[thread.name] = int((thread / "schedstat").read_text().split()[0])
            lines = (thread / "status").read_text().splitlines()
            switches += sum(int(line.split()[1]) for line in lines if "ctxt_switches" in line)
    return found, switches


def measure(server: Server, size: int, connections: int, count: int) -> Round:
    """Puts ``count`` objects, each connection's next one when its last is answered."""
    where, body = urlsplit(server.url), os.urandom(size)
    heads = []
    for number in range(KEYS):
        path = f"/{server.bucket}/put-{number}"
        lines = [f"PUT {path} HTTP/1.1", f"Host: {where.netloc}", f"Content-Length: {size}", *server.sign("PUT", path)]
        heads.append("\r\n".join([*lines, "", ""]).encode())
    numbers = iter(range(count))
    with contextlib.ExitStack() as stack, selectors.DefaultSelector() as waiting:

        def send(link: socket.socket) -> None:
            number = next(numbers, None)
            if number is None:
                waiting.unregister(link)
                return
            link.sendall(heads[number % KEYS])
            link.sendall(body)

        before, switched = spent(server.pid)
        began = time.monotonic()
        for _ in range(connections):
            link = stack.enter_context(socket.create_connection((where.hostname or "", where.port or 0)))
            waiting.register(link, selectors.EVENT_READ)
            send(link)
        while waiting.get_map():
            for key, _ in waiting.select():
                link = key.fileobj  # type: ignore[assignment]
                if not link.recv(1 << 16).startswith(b"HTTP/1.1 200"):
                    raise SystemExit("a PUT was refused")
                send(link)
        took_s = time.monotonic() - began
    after, switches = spent(server.pid)
    main = str(server.pid)
    cpu = sum(ns - before.get(thread, 0) for thread, ns in after.items())
    return Round(
        cpu / 1e3 / count, (after[main] - before[main]) / 1e3 / count, (switches - switched) / count, count / took_s
    )


@contextlib.contextmanager
def served(tree: str) -> Iterator[Server]:
    """The program of a source tree, from a directory that has no other."""
    with tempfile.TemporaryDirectory(dir="/dev/shm") as directory:
        before = os.getcwd()
        os.environ["PYTHONPATH"] = tree
        os.chdir(directory)
        with own(directory) as server:
            os.chdir(before)
            server.client().create_bucket(Bucket=server.bucket)
            yield server


def main() -> None:
    """Print all."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, default=4096)
    parser.add_argument("--connections", type=int, default=16)
    parser.add_argument("--count", type=int, default=1500)
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--against", default="")
    arguments = parser.parse_args()
    trees = [str(Path(__file__).resolve().parent.parent), *filter(None, [arguments.against])]
    with contextlib.ExitStack() as stack:
        servers = {tree: stack.enter_context(served(tree)) for tree in trees}
        rounds: dict[str, list[Round]] = {tree: [] for tree in trees}
        for number in range(arguments.rounds):
            for tree in trees if number % 2 else trees[::-1]:
                rounds[tree].append(measure(servers[tree], arguments.size, arguments.connections, arguments.count))
    for tree, all_rounds in rounds.items():
        best = min(all_rounds, key=lambda each: each.cpu_us)
        median = statistics.median(each.cpu_us for each in all_rounds)
        print(
            f"{tree}: {arguments.size:,} bytes, {arguments.connections} connections: CPU µs each: best {best.cpu_us:,.0f} (reactor"
            f" {best.reactor_us:,.0f}), median {median:,.0f}; {best.switches:.1f} switches; {max(each.rate for each in all_rounds):,.1f}/s"
        )


if __name__ == "__main__":
    main()
