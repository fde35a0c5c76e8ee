"""Writing to an S3 store through a node, against obstore writing the same bytes to the same store in the same run.

    python benchmarks/write.py [--radosgw | --delay-ms 30] [--rounds 3] [--files 1000] [--megabytes 512] [--threads 16] [--json]

The store is a server that keeps no bytes (sink.py), so that the cost is that of the writers; with ``--delay-ms`` each of its answers
takes that long, as those of S3 do; ``--radosgw`` takes a real server, which is then most of what is measured. CPU is that of the node's process. Node, client and store share the machine's cores.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import obstore
from machine import cpu_s, show
from obstore.store import S3Store
from sink import sink

from monofs.testing.ceph import Ceph
from monofs.testing.nodes import ServedNode

MIB = 1 << 20
FILE_BYTES = 100_000
PART_BYTES = 8 * MIB
PARTS = 4


@contextlib.contextmanager
def store(directory: str, radosgw: bool, delay_ms: float) -> Iterator[dict[str, str]]:
    """Options of a mount of bucket ``bench``."""
    if not radosgw:
        with sink(delay_ms) as endpoint:
            yield {"endpoint": endpoint, "access_key": "a", "secret_key": "s"}
        return
    import boto3

    with Ceph(f"{directory}/ceph") as server:
        client = boto3.client(
            "s3",
            endpoint_url=server.endpoint,
            region_name="us-east-1",
            aws_access_key_id=server.access_key,
            aws_secret_access_key=server.secret_key,
        )
        client.create_bucket(Bucket="bench")
        client.close()
        yield {"endpoint": server.endpoint, "access_key": server.access_key, "secret_key": server.secret_key}


def in_threads(threads: int, count: int, act: Callable[[int], object]) -> float:
    """Seconds to do ``act(0 … count-1)`` from so many threads."""
    with ThreadPoolExecutor(threads) as pool:
        began = time.perf_counter()
        for _ in pool.map(act, range(count)):
            pass
        return time.perf_counter() - began


def measure(arguments: argparse.Namespace, node: ServedNode, options: dict[str, str]) -> dict[str, float]:
    plain = S3Store(
        "bench", endpoint=options["endpoint"], access_key_id=options["access_key"],
        secret_access_key=options["secret_key"], region="us-east-1", client_options={"allow_http": True},
        virtual_hosted_style_request=False,
    )  # fmt: skip
    results: dict[str, list[float]] = {}

    def note(name: str, value: float) -> None:
        results.setdefault(name, []).append(value)

    small, block = os.urandom(FILE_BYTES), os.urandom(MIB)
    size = arguments.megabytes * MIB
    large = memoryview(bytearray(block) * arguments.megabytes)
    with node.connect() as fs:
        fs.mount_add("/bench", "s3://bench", options, sync_interval_s=-1)
        for turn in range(arguments.rounds + 1):
            measured = turn > 0  # the first warms both up
            count = arguments.files if measured else arguments.threads * 4
            spent = in_threads(
                arguments.threads,
                count,
                lambda n, turn=turn: obstore.put(plain, f"plain/{turn}/{n}", small, use_multipart=False),
            )
            if measured:
                note("100 KB files: obstore, files/s", count / spent)
            for write_type in ("THROUGH", "CACHE_THROUGH"):
                cpu = cpu_s(node.doors["pid"])
                spent = in_threads(
                    arguments.threads,
                    count,
                    lambda n, kind=write_type, turn=turn: fs.write(f"/bench/{kind}/{turn}/{n}", small, write_type=kind),
                )
                if measured:
                    note(f"100 KB files: monofs {write_type}, files/s", count / spent)
                    note(
                        f"100 KB files: monofs {write_type}, node CPU ms each",
                        (cpu_s(node.doors["pid"]) - cpu) / count * 1e3,
                    )
            if not measured:
                continue
            began = time.perf_counter()
            obstore.put(plain, "plain/large", large, use_multipart=True, chunk_size=PART_BYTES, max_concurrency=PARTS)
            note("large file: obstore multipart, MB/s", size / (time.perf_counter() - began) / 1e6)
            for write_type in ("THROUGH", "CACHE_THROUGH"):
                cpu, began = cpu_s(node.doors["pid"]), time.perf_counter()
                with fs.open(f"/bench/large-{turn}", "wb", write_type=write_type) as stream:
                    for start in range(0, size, MIB):
                        stream.write(large[start : start + MIB])
                note(f"large file: monofs {write_type}, MB/s", size / (time.perf_counter() - began) / 1e6)
                note(f"large file: monofs {write_type}, node CPU s/GB", (cpu_s(node.doors["pid"]) - cpu) / size * 1e9)
            fs.free("/bench", recursive=True, force=True)
    return {name: statistics.median(values) for name, values in results.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--radosgw", action="store_true", help="a real S3 server, which then sets the pace")
    parser.add_argument("--delay-ms", type=float, default=0, help="how long each answer of the made-up server takes")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--files", type=int, default=1000)
    parser.add_argument("--megabytes", type=int, default=512)
    parser.add_argument("--threads", type=int, default=16)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    with (
        tempfile.TemporaryDirectory(prefix="monofs-bench-") as directory,
        store(directory, arguments.radosgw, arguments.delay_ms) as options,
        ServedNode(f"{directory}/home") as node,
    ):
        found: dict[str, Any] = measure(arguments, node, options)
    for what, unit in (("100 KB files", "files/s"), ("large file", "MB/s")):
        reference = "obstore" if unit == "files/s" else "obstore multipart"
        for write_type in ("THROUGH", "CACHE_THROUGH"):
            name = f"{what}: monofs {write_type}"
            found[f"{name}, over {reference}"] = found[f"{name}, {unit}"] / found[f"{what}: {reference}, {unit}"]
    kept = f"a store that keeps no bytes and answers after {arguments.delay_ms:g} ms"
    kind = "radosgw" if arguments.radosgw else kept
    about = f"obstore {obstore.__version__}; {kind}; medians of {arguments.rounds}"
    show(found, as_json=arguments.json, about=about)


if __name__ == "__main__":
    main()
