#!/usr/bin/env python3
"""The main job, shown: mount a bucket and a directory, read a Parquet lake and 2,000 small files cold and warm, and count; then write a
dataset, rename a checkpoint, delete a directory, and compare with what the bucket itself lists.

Run it with `make demo`. Everything it starts it stops again, and everything it writes lies in ./.demo, which it removes. The numbers of
requests are those of the S3 server's own access log, not ours. With DEMO_KEEP=1 it stays at its end, reading now and then, so that its
web console can be looked at.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import boto3
import fsspec
import numpy as np
import obstore
import pandas as pd
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
from rich.console import Console
from rich.progress import track
from rich.table import Table

from monofs.config.units import format_bytes
from monofs.testing import ceph
from monofs.testing.moto import Moto
from monofs.testing.nodes import ServedNode
from monofs.testing.storeproxy import StoreProxy

SMALL_FILES = 2000
SMALL_SIZE = 100_000
LAKE_FILES = 8
LAKE_ROWS = 400_000
KEPT_PAUSE_S = 2.0
WRITTEN_DAYS = 12
WRITTEN_ROWS = 240_000
CHECKPOINT_FILES = 24
CHECKPOINT_SIZE = 2 << 20
BUCKET = "demo"
console = Console(width=None if sys.stdout.isatty() else 120)


@dataclass
class Row:
    """One line of the table."""

    what: str
    seconds: float
    requests: int
    from_store: float
    from_cache: float
    hits: float
    misses: float


@dataclass
class Bucket:
    """Where the S3 server is, and how many requests it has answered."""

    endpoint: str
    access_key: str
    secret_key: str
    requests: Callable[[], int]

    def client(self) -> Any:
        """Another program's view of it: boto3."""
        keys = {"aws_access_key_id": self.access_key, "aws_secret_access_key": self.secret_key}
        return boto3.client("s3", endpoint_url=self.endpoint, region_name="us-east-1", **keys)

    def create(self) -> None:
        """Make the bucket."""
        self.client().create_bucket(Bucket=BUCKET)

    def listing(self, prefix: str) -> dict[str, int]:
        """What the bucket itself says lies below ``prefix``: sizes by key, markers of directories left out."""
        pages = self.client().get_paginator("list_objects_v2").paginate(Bucket=BUCKET, Prefix=prefix)
        found = {each["Key"]: each["Size"] for page in pages for each in page.get("Contents", ())}
        return {key: size for key, size in found.items() if not key.endswith("/")}


def say(text: str) -> None:
    """One step."""
    console.print(f"[bold]•[/bold] {text}")


@contextlib.contextmanager
def s3_server(directory: str) -> Iterator[Bucket]:
    """radosgw where it can run, moto where it cannot (said so: its speed tells nothing)."""
    reason = ceph.missing()
    if reason is None:
        say("starting an S3 server (Ceph radosgw), about 15 s")
        with ceph.Ceph(os.path.join(directory, "ceph")) as server:
            yield Bucket(server.endpoint, server.access_key, server.secret_key, lambda: len(server.accesses()))
    else:
        say(f"starting an S3 server (moto, because {reason}): it is slow, so cold seconds tell little")
        with Moto() as moto, StoreProxy(moto.endpoint) as proxy:
            yield Bucket(proxy.endpoint, moto.access_key, moto.secret_key, proxy.count)


def fill(server: Bucket, local: str) -> None:
    """A Parquet lake and small files in the bucket, a few files in a local directory."""
    store = obstore.store.S3Store(
        BUCKET,
        endpoint=server.endpoint,
        access_key_id=server.access_key,
        secret_access_key=server.secret_key,
        region="us-east-1",
        virtual_hosted_style_request=False,
        client_options={"allow_http": True},
    )
    server.create()
    random = np.random.default_rng(7)
    for number in track(range(LAKE_FILES), "  writing the lake       ", console=console):
        frame = pd.DataFrame(
            {
                "user": random.integers(0, 50_000, LAKE_ROWS),
                "amount": random.gamma(2.0, 30.0, LAKE_ROWS),
                "noise": random.random(LAKE_ROWS),
            }
        )
        sink = pa.BufferOutputStream()
        pq.write_table(pa.Table.from_pandas(frame), sink, row_group_size=50_000)
        obstore.put(store, f"lake/day={number}/part-0.parquet", sink.getvalue().to_pybytes())
    bodies = random.bytes(SMALL_SIZE + SMALL_FILES)

    def put(number: int) -> None:
        obstore.put(store, f"small/{number:05d}.bin", bodies[number : number + SMALL_SIZE])

    with ThreadPoolExecutor(16) as pool:
        list(track(pool.map(put, range(SMALL_FILES)), "  writing 2,000 files    ", total=SMALL_FILES, console=console))
    os.makedirs(local)
    for number in range(20):
        with open(os.path.join(local, f"notes-{number:02d}.txt"), "w") as file:
            file.write(f"local file {number}\n" * 1000)


class Meter:
    """Measures one step: seconds, requests in the server's log, and what monofs counted."""

    def __init__(self, server: Bucket, node: ServedNode) -> None:
        self.server, self.fs = server, node.connect()
        self.rows: list[Row] = []

    def counters(self) -> dict[str, float]:
        """Hits, misses and bytes over all workers."""
        total = {"hits": 0.0, "misses": 0.0, "store": 0.0, "cache": 0.0}
        names = {"monofs_page_hits": "hits", "monofs_page_misses": "misses", "monofs_store_read_bytes": "store"}
        for status in self.fs.worker_status().values():
            for name, value in status.counters.items():
                key = names.get(name.split("{")[0])
                if key:
                    total[key] += value
        return total

    def run(self, what: str, step: Callable[[], int]) -> None:
        """Do one step that returns how many bytes its reader got."""
        requests, before = self.server.requests(), self.counters()
        start = time.perf_counter()
        delivered = step()
        seconds = time.perf_counter() - start
        after = self.counters()
        change = {name: after[name] - before[name] for name in after}
        asked = self.server.requests() - requests
        self.rows.append(
            Row(
                what,
                seconds,
                asked,
                change["store"],
                max(0.0, delivered - change["store"]),
                change["hits"],
                change["misses"],
            )
        )

    def table(self) -> Table:
        """What was measured."""
        table = Table(title="One tree, read twice")
        for column in ("", "seconds", "requests at the store", "bytes from store", "bytes from cache", "hit ratio"):
            table.add_column(column, justify="left" if not column else "right")
        for row in self.rows:
            pages = row.hits + row.misses
            ratio = f"{100 * row.hits / pages:.0f} %" if pages else "100 %" if not row.requests else "-"
            table.add_row(
                row.what,
                f"{row.seconds:.2f}",
                f"{row.requests:,}",
                format_bytes(row.from_store),
                format_bytes(row.from_cache),
                ratio,
            )
        return table


def read_lake(url: str) -> int:
    """Read the whole lake with pyarrow; returns its bytes."""
    filesystem, path = fsspec.core.url_to_fs(url)
    dataset = ds.dataset(path, filesystem=filesystem, format="parquet", partitioning="hive")
    if dataset.to_table()["amount"].to_numpy().sum() <= 0:
        raise SystemExit("the lake does not hold what was written")
    return sum(filesystem.info(file)["size"] for file in dataset.files)


def read_small(url: str) -> int:
    """Read all small files through fsspec in batches, with progress."""
    filesystem, path = fsspec.core.url_to_fs(url)
    names = filesystem.find(path)
    got = 0
    batches = [names[start : start + 200] for start in range(0, len(names), 200)]
    for batch in track(batches, f"  reading {len(names)} files     ", console=console):
        got += sum(len(body) for body in filesystem.cat(batch).values())
    return got


class Writing:
    """The second part: change the bucket through monofs, and look at it from outside after every step."""

    def __init__(self, server: Bucket, node: ServedNode) -> None:
        self.server, self.fs, self.url = server, node.connect(), f"monofs://{node.doors['rpc']}/s3"
        self.rows: list[tuple[str, float, float, str]] = []

    def run(self, what: str, step: Callable[[], int], prefix: str) -> None:
        """Do one step, which returns the number of its job (0: none); wait for the job; then count what the bucket has."""
        start = time.perf_counter()
        job = step()
        returned = time.perf_counter() - start
        if job and (ended := self.fs.wait_job(job)).state != "done":
            raise SystemExit(f"job {job} is {ended.state}: {ended.error}")
        settled = time.perf_counter() - start
        found = self.server.listing(prefix)
        self.check(prefix, found)
        seen = f"{len(found):,} objects, {format_bytes(sum(found.values()))}" if found else "nothing"
        self.rows.append((what, returned, settled, f"{prefix}: {seen}"))

    def check(self, prefix: str, found: dict[str, int]) -> None:
        """The tree and the bucket must list the same."""
        at = f"/s3/{prefix.rstrip('/')}"
        here = {each.path[4:]: each.size for each in self.fs.walk(at) if each.is_file} if self.fs.exists(at) else {}
        if here != found:
            raise SystemExit(f"{prefix}: the tree has {len(here)} files, the bucket {len(found)}, and they differ")

    def dataset(self) -> int:
        """A partitioned Parquet dataset, as a pandas program writes it."""
        random = np.random.default_rng(11)
        frame = pd.DataFrame(
            {
                "day": random.integers(1, WRITTEN_DAYS + 1, WRITTEN_ROWS),
                "user": random.integers(0, 50_000, WRITTEN_ROWS),
                "amount": random.gamma(2.0, 30.0, WRITTEN_ROWS),
            }
        )
        frame.to_parquet(f"{self.url}/sales", partition_cols=["day"])
        back = pd.read_parquet(f"{self.url}/sales", columns=["amount"])
        if len(back) != WRITTEN_ROWS or abs(back["amount"].sum() - frame["amount"].sum()) > 1:
            raise SystemExit("the dataset that was read back is not the one that was written")
        return 0

    def checkpoint(self) -> int:
        """Write a checkpoint beside its place, as trainers do; it has its name only when it is complete."""
        body = np.random.default_rng(3).bytes(CHECKPOINT_SIZE)
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda n: self.fs.write(f"/s3/ckpt/tmp/shard-{n:02d}.bin", body), range(CHECKPOINT_FILES)))
        return 0

    def rename(self) -> int:
        """The directory has its new name at once."""
        return int(self.fs.rename("/s3/ckpt/tmp", "/s3/ckpt/step-1000"))

    def remove(self) -> int:
        """2,000 files are gone at once."""
        return int(self.fs.remove_tree("/s3/small"))

    def table(self) -> Table:
        """What was measured."""
        table = Table(title="Written through monofs, seen by the bucket")
        for column in ("", "returned after", "store settled after", "the bucket's own listing"):
            table.add_column(column, justify="right" if "after" in column else "left")
        for what, returned, settled, seen in self.rows:
            table.add_row(what, f"{returned:.3f} s", f"{settled:.2f} s", seen)
        return table


def write(server: Bucket, node: ServedNode) -> Table:
    """All steps of the second part."""
    writing = Writing(server, node)
    writing.run(f"pandas: {WRITTEN_DAYS} partitions, read back", writing.dataset, "sales/")
    writing.run(f"checkpoint of {format_bytes(CHECKPOINT_FILES * CHECKPOINT_SIZE)}", writing.checkpoint, "ckpt/tmp/")
    writing.run("its directory renamed", writing.rename, "ckpt/step-1000/")
    writing.run("rm -r of 2,000 files", writing.remove, "small/")
    writing.check("ckpt/tmp/", server.listing("ckpt/tmp/"))
    writing.fs.close()
    return writing.table()


def main() -> int:
    """Returns the exit code."""
    begin = time.perf_counter()
    directory = os.path.abspath(".demo")
    shutil.rmtree(directory, ignore_errors=True)
    os.makedirs(directory)
    short = tempfile.mkdtemp(prefix="monofs-demo-")  # daemons' sockets want short paths
    try:
        with s3_server(short) as server:
            local = os.path.join(directory, "local")
            fill(server, local)
            say("starting monofs serve")
            with ServedNode(os.path.join(directory, "home")) as node:
                address = node.doors["rpc"]
                say(f"watch it in a browser: {node.doors['console']}")
                show(node, server, local)
                meter = Meter(server, node)
                steps = (("Parquet lake", read_lake, "lake"), ("2,000 small files", read_small, "small"))
                for label, step, name in steps:
                    meter.run(f"{label}, cold", lambda step=step, name=name: step(f"monofs://{address}/s3/{name}"))
                    meter.run(f"{label}, warm", lambda step=step, name=name: step(f"monofs://{address}/s3/{name}"))
                say("the same tree holds the local directory:")
                console.print(node.cli("fs", "ls", "-l", "/local").stdout.splitlines()[0])
                meter.fs.close()
                console.print(meter.table())
                say("writing through the same tree")
                console.print(write(server, node))
                if os.environ.get("DEMO_KEEP"):
                    keep(node)
                else:
                    say("DEMO_KEEP=1 make demo stays here, and its web console with it")
    finally:
        shutil.rmtree(directory, ignore_errors=True)
        shutil.rmtree(short, ignore_errors=True)
    console.print(f"done in {time.perf_counter() - begin:.0f} s; nothing is left running")
    return 0


def keep(node: ServedNode) -> None:
    """Stay until Ctrl-C, and read the lake again and again, so that there is something to be seen."""
    say(f"the web console is at [bold]{node.doors['console']}[/bold] until Ctrl-C")
    with contextlib.suppress(KeyboardInterrupt):
        while True:
            read_lake(f"monofs://{node.doors['rpc']}/s3/lake")
            time.sleep(KEPT_PAUSE_S)


def show(node: ServedNode, server: Bucket, local: str) -> None:
    """Mount both stores with the command line, as a user would."""
    options = {
        "endpoint": server.endpoint,
        "access_key": server.access_key,
        "secret_key": server.secret_key,
        "region": "us-east-1",
    }
    words = [word for name, value in options.items() for word in ("--option", f"{name}={value}")]
    for arguments in (("mount", "add", "/s3", f"s3://{BUCKET}", *words), ("mount", "add", "/local", f"file://{local}")):
        done = node.cli(*arguments)
        if done.returncode:
            sys.exit(done.stderr)
        say(done.stdout.strip())


if __name__ == "__main__":
    sys.exit(main())
