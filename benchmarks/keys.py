"""Listing a bucket as S3 does: 1,000 of a million keys, from its beginning, its middle and by common prefixes, at the master.

    python benchmarks/keys.py [--keys 1000000] [--rounds 200] [--radosgw] [--json]

The keys lie below a mount of a server that makes up its listings (sink.py), 1,000 files a directory; they were taken over before, so the tree alone
answers. References from the same run: LIST of one directory of 1,000 files by the same connection; with ``--radosgw``, boto3 listing 1,000 of 5,000
keys of a Ceph gateway. Figures are medians of milliseconds a page, as a program sees it; the CPU is the node's.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from typing import Any

from machine import cpu_s, show
from sink import sink

from monofs.rpc import api
from monofs.rpc.api import Method
from monofs.rpc.sync import Pool
from monofs.testing.buckets import Buckets
from monofs.testing.ceph import Ceph
from monofs.testing.nodes import ServedNode

FILES_A_DIRECTORY = 1000
PAGE = 1000
RADOSGW_KEYS = 5000


def timed(rounds: int, call: Callable[[], Any]) -> float:
    """Median of milliseconds."""
    call()
    taken = []
    for _ in range(rounds):
        began = time.perf_counter()
        call()
        taken.append((time.perf_counter() - began) * 1e3)
    return statistics.median(taken)


def measure(arguments: argparse.Namespace, node: ServedNode, endpoint: str) -> dict[str, float]:
    found: dict[str, float] = {}
    directories = arguments.keys // FILES_A_DIRECTORY
    top = f"tree-{directories}x{FILES_A_DIRECTORY}"
    with node.connect(timeout_s=600) as fs:
        fs.mount_add(
            "/bench", "s3://bench", {"endpoint": endpoint, "access_key": "a", "secret_key": "s"}, sync_interval_s=-1
        )
        job = fs.sync(f"/bench/{top}", recursive=True)
        if job is not None and job.state == "running":
            fs.wait_job(job.number)
    pool = Pool(node.doors["rpc"])

    def page(**how: Any) -> api.ListKeysAnswer:
        request = api.ListKeysRequest(f"/bench/{top}", limit=PAGE, **how)
        answer = pool.call(Method.LIST_KEYS, request, api.ListKeysAnswer, 60.0)
        assert len(answer.keys) + len(answer.prefixes) == min(PAGE, arguments.keys), answer.next
        return answer

    middle = page(delimiter=b"/").prefixes[directories // 2][:-1] + b"/m"
    shapes: dict[str, dict[str, bytes]] = {
        "first page": {},
        "a page from the middle on": {"after": middle},
        f"{PAGE:,} common prefixes": {"delimiter": b"/"},
    }
    for name, how in shapes.items():
        before = cpu_s(node.doors["pid"])
        found[f"{name}: ms"] = timed(arguments.rounds, lambda how=how: page(**how))
        found[f"{name}: CPU ms of the node"] = (cpu_s(node.doors["pid"]) - before) / (arguments.rounds + 1) * 1e3
    began, keys, after = time.perf_counter(), 0, b""
    while after is not None:
        answer = page(after=after) if keys < arguments.keys - PAGE else None
        if answer is None:
            break
        keys, after = keys + len(answer.keys), answer.next
    found["all pages one after another: keys/s"] = keys / (time.perf_counter() - began)
    directory = f"/bench/{top}/{middle.decode().rpartition('/')[0]}"
    listing = api.ListRequest(directory, limit=PAGE)
    found["reference: LIST of one directory of as many: ms"] = timed(
        arguments.rounds, lambda: pool.call(Method.LIST, listing, api.ListAnswer, 60.0)
    )
    pool.close()
    return found


def radosgw(directory: str, rounds: int) -> float:
    """Milliseconds of a page of boto3 from a Ceph gateway."""
    with Ceph(f"{directory}/ceph") as server:
        buckets = Buckets(server)
        bucket = buckets.make()
        bucket.put_all({f"d{number // 100:03d}/f{number:06d}": b"" for number in range(RADOSGW_KEYS)})
        client = bucket._client
        taken = timed(rounds, lambda: client.list_objects_v2(Bucket=bucket.name, MaxKeys=PAGE, StartAfter="d020/"))
        buckets.close()
        return taken


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--keys", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--radosgw", action="store_true")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="monofs-bench-") as directory:
        with sink() as endpoint, ServedNode(f"{directory}/home") as node:
            found = measure(arguments, node, endpoint)
        if arguments.radosgw:
            name = f"reference: boto3, 1,000 of {RADOSGW_KEYS:,} keys of radosgw: ms"
            found[name] = radosgw(directory, max(5, arguments.rounds // 10))
    show(found, as_json=arguments.json)


if __name__ == "__main__":
    main()
