"""Uploads in parts through the S3 door below a mount of a store: how long all of it takes, how long the client waits for the completion, what is warm after it.

    python benchmarks/s3_uploads.py [--mib 1024] [--rounds 3]

boto3's transfer manager as it comes (parts of 8 MiB, 10 threads), the same file to radosgw and to monofs with a bucket of that radosgw mounted, in turns; one `monofs
serve` process of both roles, client, monofs and radosgw on one machine. Requests are those at radosgw.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from typing import Any

import boto3
from botocore.config import Config
from machine import fine_cpu_s, machine

from monofs.testing.buckets import Buckets
from monofs.testing.ceph import Ceph
from monofs.testing.nodes import ServedNode

MIB = 1 << 20


def client(url: str, access: str, secret: str) -> Any:
    """A boto3 client that notes how long its completions take."""
    s3 = boto3.client(
        "s3", endpoint_url=url, aws_access_key_id=access, aws_secret_access_key=secret, region_name="us-east-1",
        config=Config(s3={"addressing_style": "path"}, read_timeout=600, retries={"max_attempts": 1}),
    )  # fmt: skip
    s3.completions = []
    events = s3.meta.events
    events.register("before-call.s3.CompleteMultipartUpload", lambda **_: s3.completions.append(-time.perf_counter()))
    events.register("after-call.s3.CompleteMultipartUpload", lambda **_: note_end(s3))
    return s3


def note_end(s3: Any) -> None:
    """A completion was answered."""
    s3.completions[-1] += time.perf_counter()


def upload(s3: Any, bucket: str, path: str, key: str) -> dict[str, float]:
    """One upload."""
    began = time.perf_counter()
    s3.upload_file(path, bucket, key)
    return {"seconds": time.perf_counter() - began, "completion s": s3.completions[-1]}


def main() -> None:
    """Print medians."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mib", type=int, default=1024)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    print(machine())
    rows: dict[str, list[dict[str, float]]] = {}
    with (
        tempfile.TemporaryDirectory() as directory,
        Ceph(f"{directory}/ceph") as ceph,
        ServedNode(f"{directory}/home") as node,
    ):
        path = f"{directory}/file"
        with open(path, "wb") as file:
            file.writelines(os.urandom(MIB) for _ in range(arguments.mib))
        buckets = Buckets(ceph)
        behind, own = buckets.make(), buckets.make()
        with node.connect() as fs:
            fs.mount_add("/lake", behind.uri, behind.options)
        told = json.loads(node.cli("token", "s3", "add", "--user", "bench", "--json").stdout)
        through = client(node.doors["s3"], told["access_key_id"], told["secret_access_key"])
        direct = client(ceph.endpoint, ceph.access_key, ceph.secret_key)
        assert node.process is not None
        for number in range(arguments.rounds):
            key = f"upload-{number}"
            rows.setdefault("radosgw", []).append(upload(direct, own.name, path, key))
            direct.delete_object(Bucket=own.name, Key=key)
            before, seen = fine_cpu_s(node.process.pid), len(ceph.accesses())
            row = upload(through, "lake", path, key)
            row["CPU s"] = fine_cpu_s(node.process.pid) - before
            sent = ceph.accesses()[seen:]
            row["requests"] = float(len(sent))
            gets = ceph.gets(behind.name)
            began = time.perf_counter()
            with node.connect() as fs, fs.open(f"/lake/{key}") as file:
                while file.read(8 * MIB):
                    pass
            row["read back s"] = time.perf_counter() - began
            row["GETs of it"] = float(ceph.gets(behind.name) - gets)
            rows.setdefault("monofs", []).append(row)
            through.delete_object(Bucket="lake", Key=key)
        buckets.close()
    for name, found in rows.items():
        row = {each: statistics.median(one[each] for one in found) for each in found[0]}
        print(f"{name:8} {arguments.mib} MiB: " + "  ".join(f"{what} {value:,.2f}" for what, value in row.items()))
    print(f"load at the end {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    sys.exit(main())
