"""PUT at the S3 door: CPU of the server for one object, of its reactor, how often threads took turns, and MD5 alone; of two source trees in turn.

    python benchmarks/s3_put.py [--size 4096] [--connections 16] [--count 1500] [--rounds 4] [--body unsigned|sha256|chunks] [--against TREE]

One `monofs serve` process of both roles for each tree, files under no mount, home in /dev/shm; bodies from memory over bare sockets, signatures made once.
``--body``: what is signed of it: nothing, its SHA-256, or chunks of 64 KiB, each by itself. MD5, which every body has to go through, is measured before each
round. CPU says more than rates where other programs run: rounds alternate, and the best one is told beside the median.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import hmac
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

from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from s3_door import Server, own

KEYS = 64
CHUNK_BYTES = 64 << 10
CHUNKS = "STREAMING-AWS4-HMAC-SHA256-PAYLOAD"
EMPTY = hashlib.sha256(b"").hexdigest()


@dataclass
class Round:
    """What one object cost: CPU of all threads and of the reactor's in µs, switches between threads; objects a second; and MD5 alone of as many bytes: CPU, and
    how often in a second."""

    cpu_us: float
    reactor_us: float
    switches: float
    rate: float
    md5_us: float
    md5_rate: float


def spent(pid: int) -> tuple[dict[str, int], int]:
    """CPU of each thread in ns, and switches of all."""
    found, switches = {}, 0
    for thread in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(OSError):
            found[thread.name] = int((thread / "schedstat").read_text().split()[0])
            lines = (thread / "status").read_text().splitlines()
            switches += sum(int(line.split()[1]) for line in lines if "ctxt_switches" in line)
    return found, switches


class Signer(S3SigV4Auth):
    """botocore's, of a body whose hash is known."""

    def __init__(self, server: Server, payload: str) -> None:
        super().__init__(Credentials(server.access, server.secret), "s3", "us-east-1")
        self._payload = payload

    def payload(self, request: AWSRequest) -> str:
        return self._payload

    def chunks(self, request: AWSRequest, data: bytes) -> bytes:
        """The body of a signed request, each chunk signed after the one before."""
        signature = request.headers["Authorization"].rpartition("Signature=")[2]
        stamp, scope = request.context["timestamp"], self.credential_scope(request)
        key = f"AWS4{self.credentials.secret_key}".encode()
        for word in scope.split("/"):
            key = hmac.digest(key, word.encode(), "sha256")
        body = bytearray()
        for at in range(0, len(data) + CHUNK_BYTES, CHUNK_BYTES):
            chunk = data[at : at + CHUNK_BYTES]
            lines = ["AWS4-HMAC-SHA256-PAYLOAD", stamp, scope, signature, EMPTY, hashlib.sha256(chunk).hexdigest()]
            signature = hmac.digest(key, "\n".join(lines).encode(), "sha256").hex()
            body += b"%x;chunk-signature=%s\r\n%s\r\n" % (len(chunk), signature.encode(), chunk)
        return bytes(body)


def requests(server: Server, data: bytes, body: str, number: int) -> tuple[bytes, bytes]:
    """Head and body of a PUT."""
    payload = {"unsigned": "UNSIGNED-PAYLOAD", "sha256": hashlib.sha256(data).hexdigest(), "chunks": CHUNKS}[body]
    headers = {"x-amz-decoded-content-length": str(len(data))} if body == "chunks" else {}
    path, signer = f"/{server.bucket}/put-{number}", Signer(server, payload)
    request = AWSRequest(method="PUT", url=server.url + path, headers=headers)
    signer.add_auth(request)
    sent = signer.chunks(request, data) if body == "chunks" else data
    lines = [f"PUT {path} HTTP/1.1", f"Host: {urlsplit(server.url).netloc}", f"Content-Length: {len(sent)}"]
    lines += [f"{name}: {value}" for name, value in request.headers.items()]
    return "\r\n".join([*lines, "", ""]).encode(), sent


def md5_alone(size: int) -> tuple[float, float]:
    """CPU and time of it, in seconds: the best of three."""
    data, found = os.urandom(min(size, 1 << 20)), []
    for _ in range(3):
        cpu_s, began = time.thread_time(), time.monotonic()
        digest = hashlib.md5(usedforsecurity=False)
        for _ in range(max(size // len(data), 1)):
            digest.update(data)
        found.append((time.thread_time() - cpu_s, time.monotonic() - began))
    return min(cpu for cpu, _ in found), min(took for _, took in found)


def measure(server: Server, size: int, connections: int, count: int, body: str) -> Round:
    """Puts ``count`` objects, each connection's next one when its last is answered."""
    where, data = urlsplit(server.url), os.urandom(size)
    puts = [requests(server, data, body, number) for number in range(min(KEYS, max(1, (256 << 20) // size)))]
    numbers = iter(range(count))
    md5_cpu_s, md5_s = md5_alone(size)
    with contextlib.ExitStack() as stack, selectors.DefaultSelector() as waiting:

        def send(link: socket.socket) -> None:
            number = next(numbers, None)
            if number is None:
                waiting.unregister(link)
                return
            for each in puts[number % len(puts)]:
                link.sendall(each)

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
    each_us = {thread: (ns - before.get(thread, 0)) / 1e3 / count for thread, ns in after.items()}
    return Round(
        sum(each_us.values()),
        each_us[str(server.pid)],
        (switches - switched) / count,
        count / took_s,
        md5_cpu_s * 1e6,
        1 / md5_s,
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
    parser.add_argument("--body", choices=["unsigned", "sha256", "chunks"], default="unsigned")
    parser.add_argument("--against", default="")
    arguments = parser.parse_args()
    trees = [str(Path(__file__).resolve().parent.parent), *filter(None, [arguments.against])]
    with contextlib.ExitStack() as stack:
        servers = {tree: stack.enter_context(served(tree)) for tree in trees}
        rounds: dict[str, list[Round]] = {tree: [] for tree in trees}
        for number in range(arguments.rounds):
            for tree in trees if number % 2 else trees[::-1]:
                measured = measure(
                    servers[tree], arguments.size, arguments.connections, arguments.count, arguments.body
                )
                rounds[tree].append(measured)
    for tree, all_rounds in rounds.items():
        best = min(all_rounds, key=lambda each: each.cpu_us)
        median = statistics.median(each.cpu_us for each in all_rounds)
        print(
            f"{tree}: {arguments.size:,} bytes, {arguments.connections} connections: CPU µs each: best {best.cpu_us:,.0f} (reactor"
            f" {best.reactor_us:,.0f}), median {median:,.0f}; {best.switches:.1f} switches;"
            f" {max(each.rate for each in all_rounds):,.1f}/s; MD5 alone {min(each.md5_us for each in all_rounds):,.0f} µs,"
            f" {max(each.md5_rate for each in all_rounds):,.1f}/s: {max(each.rate / each.md5_rate for each in all_rounds):.2f} of its speed"
        )


if __name__ == "__main__":
    main()
