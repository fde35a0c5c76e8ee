"""Under storage: what our S3 store adds to obstore, and what a listing costs against boto3.

    python benchmarks/ufs.py [--seconds 3] [--rounds 3] [--megabytes 1024] [--json]

The server is nginx on loopback with static files (ETag, ranges and If-Match are nginx's own; a listing is a canned answer of 1,000
keys; bucket ``slow`` has the same objects at 90 MB/s a connection), so the figures are the client's cost. Each comparison runs in turns within one process; medians of the rounds are printed.
CPU is this process's, all threads, per object or per 1,000 keys.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import statistics
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator

import boto3
import obstore
from botocore.config import Config
from machine import machine
from obstore.store import S3Store

from monofs.testing.ports import free_port
from monofs.ufs.registry import open_ufs

OBJECTS = 256
OBJECT_BYTES = 100_000
THREADS = 16
RANGE_BYTES = 8 << 20
LIST_KEYS = 1000

NGINX = """
daemon off; master_process off; pid {directory}/nginx.pid; error_log stderr crit; worker_rlimit_nofile 4096;
events {{ worker_connections 1024; }}
http {{
  access_log off; sendfile on; tcp_nopush off; tcp_nodelay on; keepalive_requests 100000000; keepalive_timeout 300s;
  default_type application/octet-stream;
  client_body_temp_path {directory}/t1; proxy_temp_path {directory}/t2; fastcgi_temp_path {directory}/t3;
  uwsgi_temp_path {directory}/t4; scgi_temp_path {directory}/t5;
  server {{
    listen 127.0.0.1:{port}; root {directory}/www;
    location = /bench {{ rewrite ^ /listing.xml last; }}
    location = /bench/ {{ rewrite ^ /listing.xml last; }}
    location /slow/ {{ alias {directory}/www/bench/; limit_rate 90m; }}
    location / {{ }}
  }}
}}
"""


@contextlib.contextmanager
def server(directory: str, megabytes: int) -> Iterator[str]:
    """An nginx with the objects; yields its endpoint."""
    nginx = shutil.which("nginx") or "/usr/sbin/nginx"
    bucket = os.path.join(directory, "www", "bench")
    os.makedirs(bucket)
    os.chmod(directory, 0o755)
    for number in range(OBJECTS):
        with open(os.path.join(bucket, f"{number:04d}"), "wb") as file:
            file.write(os.urandom(OBJECT_BYTES))
    with open(os.path.join(bucket, "large"), "wb") as file:
        file.writelines(os.urandom(1 << 20) for _ in range(megabytes))
    with open(os.path.join(directory, "www", "listing.xml"), "w", encoding="utf-8") as file:
        file.write(listing())
    port = free_port()
    config = os.path.join(directory, "nginx.conf")
    with open(config, "w", encoding="utf-8") as file:
        file.write(NGINX.format(directory=directory, port=port))
    process = subprocess.Popen([nginx, "-p", directory, "-c", config, "-e", "stderr"])
    endpoint = f"http://127.0.0.1:{port}"
    try:
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            with contextlib.suppress(Exception):
                obstore.get(reference(endpoint), "0000")
                break
            time.sleep(0.05)
        yield endpoint
    finally:
        process.terminate()
        process.wait()


def listing() -> str:
    """A ListObjectsV2 answer of 1,000 keys as AWS writes it."""
    item = (
        "<Contents><Key>part%2Fkey-{0:08d}.parquet</Key><LastModified>2026-01-02T03:04:05.678Z</LastModified>"
        "<ETag>&quot;{0:032x}&quot;</ETag><Size>{0}</Size><StorageClass>STANDARD</StorageClass></Contents>"
    )
    return (
        '<?xml version="1.0" encoding="UTF-8"?><ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">'
        "<Name>bench</Name><Prefix>part%2F</Prefix><KeyCount>1000</KeyCount><MaxKeys>1000</MaxKeys><Delimiter>%2F</Delimiter>"
        "<EncodingType>url</EncodingType><IsTruncated>false</IsTruncated>"
        + "".join(item.format(number) for number in range(LIST_KEYS))
        + "</ListBucketResult>"
    )


def reference(endpoint: str) -> S3Store:
    """Obstore as it comes, with signing."""
    return S3Store(
        "bench",
        config={
            "aws_endpoint_url_s3": endpoint,
            "access_key_id": "bench",
            "secret_access_key": "bench",
            "region": "us-east-1",
            "virtual_hosted_style_request": False,
        },
        client_options={"allow_http": True},
    )


def etag(store: S3Store, key: str) -> str:
    """The etag of an object, without quotes."""
    return str(obstore.get(store, key, options={"range": (0, 1)}).meta["e_tag"]).strip('"')


def gets(get_one: Callable[[int], int], seconds: float) -> tuple[float, float]:
    """(GETs per second, CPU ms per GET) with 16 threads."""
    done = [0] * THREADS
    end = time.perf_counter() + seconds

    def run(thread: int) -> None:
        number = thread
        while time.perf_counter() < end:
            if get_one(number % OBJECTS) != OBJECT_BYTES:
                raise RuntimeError("short object")
            done[thread] += 1
            number += 7

    threads = [threading.Thread(target=run, args=(thread,)) for thread in range(THREADS)]
    began, cpu = time.perf_counter(), time.process_time()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    total = sum(done)
    return total / (time.perf_counter() - began), (time.process_time() - cpu) / total * 1000


def timed(work: Callable[[], int]) -> tuple[float, float]:
    """(units per second, CPU seconds per unit)."""
    began, cpu = time.perf_counter(), time.process_time()
    units = work()
    return units / (time.perf_counter() - began), (time.process_time() - cpu) / units


def main() -> None:
    """Run all comparisons and print them."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--seconds", type=float, default=3.0, help="length of one round of small GETs")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--megabytes", type=int, default=1024, help="size of the large object, MiB")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    results: dict[str, list[tuple[float, float]]] = {}
    with (
        tempfile.TemporaryDirectory(prefix="monofs-bench-") as directory,
        server(directory, options.megabytes) as endpoint,
    ):
        plain = reference(endpoint)
        ours = open_ufs("s3://bench", {"endpoint": endpoint, "access_key": "bench", "secret_key": "bench"})
        tags = [f"e:{etag(plain, f'{number:04d}')}" for number in range(OBJECTS)]
        large, large_tag = options.megabytes << 20, f"e:{etag(plain, 'large')}"
        client = boto3.client(
            "s3",
            endpoint_url=endpoint,
            aws_access_key_id="bench",
            aws_secret_access_key="bench",
            region_name="us-east-1",
            config=Config(s3={"addressing_style": "path"}),
        )

        def our_get(number: int) -> int:
            return sum(map(len, ours.read(b"%04d" % number, 0, OBJECT_BYTES, tags[number])))

        def plain_get(number: int) -> int:
            return len(obstore.get(plain, f"{number:04d}").bytes())

        def our_large() -> int:
            return sum(
                sum(map(len, ours.read(b"large", offset, RANGE_BYTES, large_tag)))
                for offset in range(0, large, RANGE_BYTES)
            )

        def plain_large() -> int:
            return sum(map(len, obstore.get(plain, "large").stream(1 << 20)))

        def our_list() -> int:
            return sum(len(ours.list(b"part", limit=1000).entries) for _ in range(20))

        def boto_list() -> int:
            return sum(
                len(client.list_objects_v2(Bucket="bench", Prefix="part/", Delimiter="/")["Contents"])
                for _ in range(20)
            )

        for _ in range(options.rounds):
            results.setdefault("get", []).append(gets(our_get, options.seconds))
            results.setdefault("get reference", []).append(gets(plain_get, options.seconds))
            results.setdefault("large", []).append(timed(our_large))
            results.setdefault("large reference", []).append(timed(plain_large))
            results.setdefault("list", []).append(timed(our_list))
            results.setdefault("list reference", []).append(timed(boto_list))
        ours.close()
    report(results, as_json=options.json)


def report(results: dict[str, list[tuple[float, float]]], *, as_json: bool) -> None:
    """Medians, and ratios to the reference of the same run."""
    middle = {
        name: (statistics.median(r for r, _ in runs), statistics.median(c for _, c in runs))
        for name, runs in results.items()
    }
    ratio = {name: middle[name][0] / middle[f"{name} reference"][0] for name in ("get", "large", "list")}
    versions = f"obstore {obstore.__version__}, boto3 {boto3.__version__}"
    if as_json:
        print(json.dumps({"machine": machine(), "versions": versions, "medians": middle, "ratios": ratio}))
        return
    print(f"{machine()}, {versions}; medians of {len(results['get'])} rounds")
    print(f"{'what':44}{'ours':>22}{'reference':>22}{'ratio':>8}")
    rows = (
        ("100 KB GETs, 16 threads (obstore)", "get", lambda v: f"{v[0]:,.0f}/s {v[1]:.3f} ms"),
        ("large object, ranges of 8 MiB (obstore)", "large", lambda v: f"{v[0] / 1e9:.2f} GB/s {v[1] * 1e9:.2f} s/GB"),
        ("listing, 1,000 keys a page (boto3)", "list", lambda v: f"{v[0]:,.0f}/s {v[1] * 1e6:.1f} ms/1000"),
    )
    for title, name, show in rows:
        print(f"{title:44}{show(middle[name]):>22}{show(middle[f'{name} reference']):>22}{ratio[name]:>8.2f}")


if __name__ == "__main__":
    main()
