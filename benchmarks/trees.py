"""Whole trees at once: a bucket looked at for the first time and again, a directory renamed, a directory removed.

    python benchmarks/trees.py [--keys 1000000] [--delete 100000] [--json]

The store is a server that keeps nothing and makes up its listings (sink.py), so that the cost is the node's; boto3 listing the same keys
from it in the same run is the reference. Memory is what the node's process holds for itself (anonymous), before and at its highest.
"""

from __future__ import annotations

import argparse
import tempfile
import threading
import time
from typing import Any

import boto3
from machine import show
from sink import sink

from monofs.testing.nodes import ServedNode

FILES_A_DIRECTORY = 1000


def anonymous_bytes(node: ServedNode) -> int:
    """Anonymous memory of the node's process."""
    assert node.process is not None
    with open(f"/proc/{node.process.pid}/smaps_rollup", encoding="ascii") as lines:
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("Anonymous:"))


class Watch(threading.Thread):
    """The highest memory while it runs."""

    def __init__(self, node: ServedNode) -> None:
        super().__init__(daemon=True)
        self._node, self._over = node, threading.Event()
        self.highest = 0

    def run(self) -> None:
        while not self._over.wait(0.2):
            self.highest = max(self.highest, anonymous_bytes(self._node))

    def end(self) -> int:
        self._over.set()
        self.join()
        return self.highest


def listed(endpoint: str, prefix: str) -> float:
    """Keys a second with boto3, 20 directories."""
    client = boto3.client(
        "s3", endpoint_url=endpoint, aws_access_key_id="a", aws_secret_access_key="s", region_name="us-east-1"
    )
    began, keys = time.perf_counter(), 0
    for number in range(20):
        page = client.list_objects_v2(Bucket="bench", Prefix=f"{prefix}d{number:06d}/", Delimiter="/")
        keys += len(page["Contents"])
    client.close()
    return keys / (time.perf_counter() - began)


def finished(fs: Any, job: Any) -> None:
    """Wait for a job; raises when it did not do all."""
    if job is not None and job.state in ("running", "paused"):
        job = fs.wait_job(job.number)
    if job is not None and (job.state != "done" or job.failed):
        raise RuntimeError(f"{job}")


def settled(fs: Any) -> None:
    while any(job.state == "running" for job in fs.jobs()):
        time.sleep(0.02)


def measure(arguments: argparse.Namespace, node: ServedNode, endpoint: str) -> dict[str, float]:
    found: dict[str, float] = {}
    options = {"endpoint": endpoint, "access_key": "a", "secret_key": "s"}
    big = f"tree-{arguments.keys // FILES_A_DIRECTORY}x{FILES_A_DIRECTORY}/"
    less = f"tree-{arguments.delete // FILES_A_DIRECTORY}x{FILES_A_DIRECTORY}/"
    found["listing: boto3, keys/s"] = listed(endpoint, big)
    with node.connect(timeout_s=600) as fs:
        fs.mount_add("/bench", "s3://bench", options, sync_interval_s=-1)
        fs.mount_add("/less", "s3://bench/less", options, sync_interval_s=-1)
        before = anonymous_bytes(node)
        for turn in ("first", "again, nothing changed"):
            watch = Watch(node)
            watch.start()
            began = time.perf_counter()
            finished(fs, fs.sync(f"/bench/{big[:-1]}", recursive=True))
            found[f"sync {turn}: keys/s"] = arguments.keys / (time.perf_counter() - began)
            found[f"sync {turn}: memory MB, over {before / 1e6:.0f} before"] = (watch.end() - before) / 1e6
        finished(fs, fs.sync("/bench/tree-1x1000", recursive=True))
        for directory, files in (("tree-1x1000", FILES_A_DIRECTORY), (big[:-1], arguments.keys)):
            began = time.perf_counter()
            fs.rename(f"/bench/{directory}", f"/bench/renamed-{directory}")
            name = f"rename of a directory with {files:,} files below: ms"
            found[name] = (time.perf_counter() - began) * 1e3
        for job in fs.jobs():
            if job.state == "running":
                fs.steer_job(job.number, "pause")
        finished(fs, fs.sync(f"/less/{less[:-1]}", recursive=True))
        began = time.perf_counter()
        fs.remove_tree(f"/less/{less[:-1]}")
        found[f"delete -r of {arguments.delete:,} files: in the tree, ms"] = (time.perf_counter() - began) * 1e3
        settled(fs)
        found["delete -r: files/s until the store's deletion is done"] = arguments.delete / (
            time.perf_counter() - began
        )
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--keys", type=int, default=1_000_000)
    parser.add_argument("--delete", type=int, default=100_000)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    with (
        tempfile.TemporaryDirectory(prefix="monofs-bench-") as directory,
        sink() as endpoint,
        ServedNode(f"{directory}/home") as node,
    ):
        found = measure(arguments, node, endpoint)
    show(found, as_json=arguments.json)


if __name__ == "__main__":
    main()
