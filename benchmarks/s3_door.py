"""The S3 door: GET and PUT of three sizes and LIST, signatures verified, beside nginx and radosgw in one run; and a store of 30 ms, directly and through monofs.

    python benchmarks/s3_door.py [--seconds 3] [--rounds 3] [--radosgw] [--only-slow-store]

One `monofs serve` process of both roles, files under no mount, home in /dev/shm; a generator in C (`wrk`, of the Debian package of that name). Every request is signed
(UNSIGNED-PAYLOAD, the signature made once and sent again and again); nginx serves the same files and verifies nothing. CPU is the server process's. Large bodies
are sent from memory by a bare socket, for `wrk` joins head and body anew for each request, which takes it as long as MD5 takes; MD5 alone is measured between them.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
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
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import boto3
from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.config import Config
from botocore.credentials import Credentials
from machine import fine_cpu_s, machine
from stream import nginx

from monofs.testing.buckets import Buckets
from monofs.testing.ceph import Ceph
from monofs.testing.nodes import ServedNode
from monofs.testing.storeproxy import StoreProxy

KIB, MIB = 1 << 10, 1 << 20
SIZES = {"4 KiB": 4 * KIB, "100 KiB": 100 * KIB, "64 MiB": 64 * MIB}
LISTED = 20_000
SLOW_S, SLOW_OBJECTS = 0.03, 50
PUT_KEYS = 64
UNSIGNED = "UNSIGNED-PAYLOAD"


class Signer(S3SigV4Auth):
    """botocore's, with the body left out."""

    def payload(self, request: AWSRequest) -> str:
        return UNSIGNED


@dataclass
class Server:
    """One that is measured. ``secret`` empty: it asks for no signature."""

    name: str
    url: str
    pid: int
    access: str = ""
    secret: str = ""
    bucket: str = "bench"

    def sign(self, method: str, path: str) -> list[str]:
        """Header lines of a signed request."""
        if not self.secret:
            return []
        request = AWSRequest(method=method, url=self.url + path, headers={})
        Signer(Credentials(self.access, self.secret), "s3", "us-east-1").add_auth(request)
        return [f"{name}: {value}" for name, value in request.headers.items()]

    def client(self) -> Any:
        """A boto3 client."""
        return boto3.client(
            "s3",
            endpoint_url=self.url,
            aws_access_key_id=self.access,
            aws_secret_access_key=self.secret,
            region_name="us-east-1",
            config=Config(s3={"addressing_style": "path"}, retries={"max_attempts": 1}),
        )


def storm(server: Server, path: str, connections: int, seconds: float, lines: list[str]) -> dict[str, float]:
    """Answers a second, latencies and CPU, of GETs as wrk counts them."""
    words = [word for line in lines for word in ("-H", line)]
    return _run(server, [*words, f"{server.url}{path}"], connections, seconds)


def storm_of_puts(server: Server, size: int, connections: int, seconds: float) -> dict[str, float]:
    """The same of PUTs, to ``PUT_KEYS`` keys a connection would otherwise wait for."""
    requests = []
    for number in range(PUT_KEYS):
        path = f"/{server.bucket}/put-{size}-{number}"
        pairs = dict(line.split(": ", 1) for line in server.sign("PUT", path))
        requests.append({"path": path, "headers": pairs})
    with tempfile.NamedTemporaryFile("w", suffix=".lua") as script:
        lines = []
        for each in requests:
            pairs = ",".join(f"[{json.dumps(name)}]={json.dumps(value)}" for name, value in each["headers"].items())
            lines.append(f"{{path={json.dumps(each['path'])}, headers={{{pairs}}}}}")
        table = ",\n".join(lines)
        script.write(
            f"local requests = {{{table}}}\nlocal body = string.rep('x', {size})\nlocal at = 0\n"
            "request = function() at = at % #requests + 1; local r = requests[at]; return wrk.format('PUT', r.path, r.headers, body) end\n"
        )
        script.flush()
        return _run(server, ["-s", script.name, server.url], connections, seconds)


def stream_of_puts(server: Server, size: int, seconds: float) -> dict[str, float]:
    """PUTs of one large body, one after the other; and how often a second MD5 alone goes through as many bytes."""
    host, _, port = server.url.partition("://")[2].partition(":")
    piece, answered_s, hashed_s, cpu = os.urandom(MIB), [], [], []
    body = piece * (size // MIB)
    with socket.create_connection((host, int(port))) as sock:
        ends = time.monotonic() + seconds
        while time.monotonic() < ends or len(answered_s) < 3:
            path = f"/{server.bucket}/put-{size}-{len(answered_s) % 2}"
            lines = [f"PUT {path} HTTP/1.1", f"Host: {host}:{port}", f"Content-Length: {size}"]
            head = "\r\n".join([*lines, *server.sign("PUT", path), "", ""]).encode()
            began, before = time.perf_counter(), fine_cpu_s(server.pid)
            sock.sendall(head)
            sock.sendall(body)
            if b" 200 " not in sock.recv(1 << 16).partition(b"\r\n")[0]:
                raise SystemExit(f"{server.name}: a PUT was refused")
            answered_s.append(time.perf_counter() - began)
            cpu.append(fine_cpu_s(server.pid) - before)
            began, digest = time.perf_counter(), hashlib.md5(usedforsecurity=False)
            for _ in range(size // MIB):
                digest.update(piece)
            hashed_s.append(time.perf_counter() - began)
    rate, md5_rate = 1 / statistics.median(answered_s), 1 / statistics.median(hashed_s)
    return {
        "per second": rate,
        "best": 1 / min(answered_s),
        "CPU µs each": statistics.median(cpu) * 1e6,
        "MD5 per second": md5_rate,
        "best MD5": 1 / min(hashed_s),
        "of its speed": rate / md5_rate,
    }


def _run(server: Server, words: list[str], connections: int, seconds: float) -> dict[str, float]:
    before = fine_cpu_s(server.pid)
    shown = subprocess.run(
        ["wrk", "-t1", f"-c{connections}", f"-d{seconds:g}s", "--latency", *words],
        capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    spent = fine_cpu_s(server.pid) - before
    if "Non-2xx" in shown or "Socket errors" in shown:
        raise SystemExit(f"{server.name}: {shown}")
    units = {"us": 1.0, "ms": 1e3, "s": 1e6}
    found = re.search(r"(\d+) requests in", shown)
    rate = re.search(r"Requests/sec:\s+([\d.]+)", shown)
    assert found is not None, shown
    assert rate is not None, shown
    latencies = {}
    for share in ("50", "99"):
        each = re.search(rf"{share}%\s+([\d.]+)(us|ms|s)", shown)
        assert each is not None, shown
        latencies[f"p{share} µs"] = float(each[1]) * units[each[2]]
    return {"per second": float(rate[1]), **latencies, "CPU µs each": spent / max(int(found[1]), 1) * 1e6}


@contextlib.contextmanager
def own(directory: str) -> Iterator[Server]:
    """monofs, its key and its bucket."""
    with ServedNode(f"{directory}/home") as node:
        told = json.loads(node.cli("token", "s3", "add", "--user", "bench", "--json").stdout)
        assert node.process is not None
        yield Server("monofs", node.doors["s3"], node.process.pid, told["access_key_id"], told["secret_access_key"])


def compare(directory: str, rounds: int, seconds: float, *, radosgw: bool) -> dict[str, dict[str, float]]:
    """Medians of all rounds, by what was done and by whom."""
    os.makedirs(f"{directory}/source/bench")
    os.chmod(directory, 0o755)
    for name, size in SIZES.items():
        with open(f"{directory}/source/bench/{name.replace(' ', '')}", "wb") as file:
            file.write(os.urandom(size))
    found: dict[str, list[dict[str, float]]] = {}
    with contextlib.ExitStack() as stack:
        pid, port = stack.enter_context(nginx(directory))
        servers = [stack.enter_context(own(directory)), Server("nginx", f"http://127.0.0.1:{port}", pid)]
        if radosgw:
            ceph = stack.enter_context(Ceph(f"{directory}/ceph"))
            servers.append(Server("radosgw", ceph.endpoint, ceph.pid_of("rgw"), ceph.access_key, ceph.secret_key))
        for server in servers:
            if server.secret:
                s3 = server.client()
                s3.create_bucket(Bucket=server.bucket)
                for name in SIZES:
                    s3.upload_file(
                        f"{directory}/source/bench/{name.replace(' ', '')}", server.bucket, name.replace(" ", ""),
                        Config=boto3.s3.transfer.TransferConfig(multipart_threshold=1 << 30),
                    )  # fmt: skip
        for _ in range(rounds):
            for name, size in SIZES.items():
                for connections in (1, 32, 256) if size < MIB else (1, 4):
                    for server in servers:
                        path = f"/{server.bucket}/{name.replace(' ', '')}"
                        row = storm(server, path, connections, seconds, server.sign("GET", path))
                        found.setdefault(f"GET {name}, {connections} connections: {server.name}", []).append(row)
                for server in servers:
                    if server.secret:
                        connections = 16 if size < MIB else 1
                        row = (
                            storm_of_puts(server, size, connections, seconds)
                            if size < MIB
                            else stream_of_puts(server, size, seconds)
                        )
                        found.setdefault(f"PUT {name}, {connections} connections: {server.name}", []).append(row)
        fill(servers[0])
        for server in servers[:1]:
            path = f"/{server.bucket}?list-type=2&max-keys=1000&prefix=listed%2F"
            row = storm(server, path, 1, seconds, server.sign("GET", path))
            found.setdefault(f"LIST 1,000 of {LISTED:,}, 1 connection: {server.name}", []).append(row)
    return {
        what: {name: statistics.median(row[name] for row in rows) for name in rows[0]} for what, rows in found.items()
    }


def fill(server: Server) -> None:
    """Many keys, put by wrk's lighter sister: boto3 in threads."""
    s3 = server.client()
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(lambda n: s3.put_object(Bucket=server.bucket, Key=f"listed/{n:06d}", Body=b""), range(LISTED)))


def slow_store(directory: str) -> dict[str, float]:
    """Seconds of one small GET, medians, by boto3 and by a client that only sends and receives: from a store of 30 ms, through monofs the first time, and the
    second; and what each first one asked of the store."""
    with (
        Ceph(f"{directory}/slow-ceph") as ceph,
        StoreProxy(ceph.endpoint, latency_s=SLOW_S) as proxy,
        own(directory) as server,
    ):
        buckets = Buckets(ceph)
        bucket = buckets.make()
        store = Server("store", proxy.endpoint, 0, ceph.access_key, ceph.secret_key)
        keys = [f"o{number}" for number in range(2 * SLOW_OBJECTS)]
        with ThreadPoolExecutor(16) as pool:
            direct = store.client()
            list(pool.map(lambda key: direct.put_object(Bucket=bucket.name, Key=key, Body=os.urandom(100_000)), keys))
        import monofs

        with monofs.connect(server_rpc(directory)) as fs:
            fs.mount_add("/slow", bucket.uri, {**bucket.options, "endpoint": proxy.endpoint})
        through = server.client()
        through.list_objects_v2(Bucket="slow")
        by_boto, bare = keys[:SLOW_OBJECTS], keys[SLOW_OBJECTS:]
        told = {
            "boto3, direct": boto_s(direct, bucket.name, by_boto),
            "boto3, cold": boto_s(through, "slow", by_boto),
            "boto3, warm": boto_s(through, "slow", by_boto),
            "bare, direct": bare_s(store, bucket.name, bare),
        }
        proxy.forget()
        told["bare, cold"] = bare_s(server, "slow", bare)
        told["requests at the store for each"] = proxy.count() / len(bare)
        told["bare, warm"] = bare_s(server, "slow", bare)
        buckets.close()
        return told


def boto_s(s3: Any, bucket: str, keys: list[str]) -> float:
    """The median of GETs by boto3."""
    times = []
    for key in keys:
        began = time.perf_counter()
        s3.get_object(Bucket=bucket, Key=key)["Body"].read()
        times.append(time.perf_counter() - began)
    return statistics.median(times)


def bare_s(server: Server, bucket: str, keys: list[str]) -> float:
    """The same on one connection, of requests that were signed before."""
    host, _, port = server.url.partition("://")[2].partition(":")
    times = []
    with socket.create_connection((host, int(port))) as sock, sock.makefile("rb") as file:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for key in keys:
            path = f"/{bucket}/{key}"
            lines = [f"GET {path} HTTP/1.1", f"Host: {host}:{port}", *server.sign("GET", path), "", ""]
            request = "\r\n".join(lines).encode()
            began = time.perf_counter()
            sock.sendall(request)
            status, length = file.readline(), 0
            while (line := file.readline()) != b"\r\n":
                name, _, value = line.partition(b":")
                length = int(value) if name.lower() == b"content-length" else length
            body = file.read(length)
            times.append(time.perf_counter() - began)
            if b" 200 " not in status or len(body) != length:
                raise SystemExit(f"{server.name}: {status!r}")
    return statistics.median(times)


def server_rpc(directory: str) -> str:
    """The master's address of the node in ``directory``."""
    with open(f"{directory}/home.ready.json") as file:
        return str(json.load(file)["rpc"])


def main() -> None:
    """Print all."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=3)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--radosgw", action="store_true")
    parser.add_argument("--only-slow-store", action="store_true")
    arguments = parser.parse_args()
    if shutil.which("wrk") is None:
        raise SystemExit("wrk is not installed: apt-get install wrk")
    print(machine())
    memory = "/dev/shm" if os.path.isdir("/dev/shm") else None
    if not arguments.only_slow_store:
        with tempfile.TemporaryDirectory(dir=memory) as directory:
            for what, row in compare(directory, arguments.rounds, arguments.seconds, radosgw=arguments.radosgw).items():
                print(f"{what:48} " + "  ".join(f"{name} {value:,.2f}" for name, value in row.items()), flush=True)
    with tempfile.TemporaryDirectory(dir=memory) as directory:
        told = slow_store(directory)
    print("100 KB from a store of 30 ms:")
    for what, value in told.items():
        print(f"  {what:32} " + (f"{value:.2f}" if what.startswith("requests") else f"{value * 1e3:.2f} ms"))
    for client in ("boto3", "bare"):
        direct, cold, warm = (told[f"{client}, {what}"] for what in ("direct", "cold", "warm"))
        print(
            f"  {client}: cold ÷ direct {cold / direct:.2f}, cold ÷ warm {cold / warm:.1f}, direct ÷ warm {direct / warm:.1f}"
        )
    print(f"load at the end {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    sys.exit(main())
