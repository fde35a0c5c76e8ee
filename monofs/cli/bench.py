"""`monofs bench`: measure a running node, each figure with its physical limit measured in the same run.

Loads come from this process, so use it on the machine you want to know about. Everything it creates lies below ``/.bench`` and is
removed. Medians over rounds; the machine, versions and command are printed so that figures can be quoted.
"""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any

import click
import msgspec

from monofs.cli import reference
from monofs.cli.figures import Report
from monofs.cli.group import Group
from monofs.cli.main import Session
from monofs.cli.storm import Outcome, Request, Storm
from monofs.cli.swarm import measure_cluster
from monofs.client.filesystem import find_credential, find_tls
from monofs.config.units import format_bytes, parse_bytes
from monofs.model.errors import MonofsError, NotSupported
from monofs.rpc import api
from monofs.rpc.api import Method
from monofs.rpc.handshake import Credential

_encode = msgspec.msgpack.Encoder().encode
BASE = "/.bench"


@click.group(cls=Group)
def bench() -> None:
    """Measure a running node, with the limit of the machine beside each figure."""


def rounds_of(count: int, measure: Callable[[int], Outcome]) -> Outcome:
    """The outcome with the median rate of ``count`` rounds."""
    outcomes = sorted((measure(number) for number in range(count)), key=lambda outcome: outcome.rate)
    return outcomes[len(outcomes) // 2]


# ---- metadata -----------------------------------------------------------------------------------------------------------


@bench.command()
@click.option("--files", default=20_000, show_default=True, help="Files to make, look at and delete.")
@click.option("--directory-size", default=100_000, show_default=True, help="Entries of the directory that is listed.")
@click.option("--connections", default=32, show_default=True, help="Connections with one request in flight each.")
@click.option("--rounds", default=3, show_default=True, help="Rounds of which the median is shown.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a figure.")
@click.pass_obj
def metadata(session: Session, files: int, directory_size: int, connections: int, rounds: int, as_json: bool) -> None:
    """Create, stat, list, rename and delete in the cache-only part of the namespace."""
    report = Report(as_json=as_json)
    address, credential = reach(session)
    _clean(session)
    try:
        session.fs.make_directory(BASE, parents=True)
        bare_fsync = reference.fsync_seconds()
        echo = reference.echo_rate(connections)
        one, many = Storm(address, credential, 1), Storm(address, credential, connections)
        try:
            _bench_create(report, one, files, rounds, bare_fsync)
            _bench_stat(report, session, many, one, files, rounds, echo)
            _bench_rename_delete(report, one, files)
            _bench_list(report, session, one, directory_size, rounds)
        finally:
            one.close()
            many.close()
    finally:
        _clean(session)
    report.finish()


def reach(session: Session) -> tuple[str, Credential]:
    """Address of the master, and the credential to use."""
    cluster = session.fs.cluster()
    address = cluster.master or (session.masters or "127.0.0.1:19998").split(",")[0]
    if find_tls(session.reach["tls_ca"]) is not None:
        raise NotSupported("this benchmark does not speak TLS: run it on a node without")
    return address, find_credential(session.reach["cluster_secret_file"], None, session.reach["token_file"])


def _create(path: str) -> Request:
    return Method.CREATE, _encode(api.CreateRequest(path))


def _bench_create(report: Report, storm: Storm, files: int, rounds: int, bare_fsync_s: float) -> None:
    for outstanding, count in ((1, max(200, files // 20)), (64, files), (512, files)):

        def measure(number: int, outstanding: int = outstanding, count: int = count) -> Outcome:
            base = f"{BASE}/c{outstanding}-{number}"
            storm.run(iter([(int(Method.MAKE_DIRECTORY), _encode(api.MakeDirectoryRequest(base)))]))
            return storm.run((_create(f"{base}/{i:06d}") for i in range(count)), in_flight=outstanding)

        outcome = rounds_of(rounds, measure)
        if outstanding == 1:
            p50 = outcome.percentile_s(0.5)
            report.add(
                "create, 1 outstanding, p50", p50 * 1000, "ms", limit=bare_fsync_s * 1000,
                limit_name="fdatasync", lower_is_better=True,
            )  # fmt: skip
        report.add(f"create, {outstanding} outstanding", outcome.rate, "/s")


def _bench_stat(
    report: Report, session: Session, many: Storm, one: Storm, files: int, rounds: int, echo: float
) -> None:
    paths = [f"{BASE}/c64-0/{i:06d}" for i in range(files)]
    random.Random(1).shuffle(paths)
    stats = [(int(Method.STAT), _encode(api.StatRequest(path))) for path in paths]
    outcome = rounds_of(rounds, lambda _: many.run(iter(stats * 2)))
    report.add(
        f"stat, {many.connections} connections, 1 in flight", outcome.rate, "/s", limit=echo, limit_name="bare echo",
        note=f"p50 {outcome.percentile_s(0.5) * 1e3:.2f} ms, p99 {outcome.percentile_s(0.99) * 1e3:.2f} ms",
    )  # fmt: skip
    outcome = rounds_of(rounds, lambda _: one.run(iter(stats * 2), in_flight=256))
    report.add("stat, pipelined 256 on one connection", outcome.rate, "/s")
    batches = [
        (int(Method.STAT_MANY), _encode(api.StatManyRequest(paths[start : start + 100])))
        for start in range(0, files, 100)
    ]
    outcome = rounds_of(rounds, lambda _: one.run(iter(batches * 5), in_flight=8))
    report.add("stat, batches of 100", outcome.rate * 100, "paths/s")
    begin = time.perf_counter()
    for path in paths[:2000]:
        session.fs.stat(path)
    report.add("stat from the Python client, one thread", 2000 / (time.perf_counter() - begin), "/s")


def _bench_rename_delete(report: Report, storm: Storm, files: int) -> None:
    base = f"{BASE}/c64-0"
    renames = (
        (int(Method.RENAME), _encode(api.RenameRequest(f"{base}/{i:06d}", f"{base}/r{i:06d}"))) for i in range(files)
    )
    report.add("rename, 64 outstanding", storm.run(renames, in_flight=64).rate, "/s")
    deletes = ((int(Method.DELETE), _encode(api.DeleteRequest(f"{base}/r{i:06d}"))) for i in range(files))
    report.add("delete, 64 outstanding", storm.run(deletes, in_flight=64).rate, "/s")


def _bench_list(report: Report, session: Session, storm: Storm, size: int, rounds: int) -> None:
    base = f"{BASE}/list"
    session.fs.make_directory(base)
    storm.run((_create(f"{base}/part-{i:08d}") for i in range(size)), in_flight=512)
    rates = []
    for _ in range(rounds):
        begin = time.perf_counter()
        found = sum(1 for _ in session.fs.list(base))
        rates.append(found / (time.perf_counter() - begin))
        if found != size:
            raise MonofsError(f"listed {found} of {size} entries")
    report.add(f"list {size:,} entries with attributes, decoded", statistics.median(rates), "entries/s")


def _clean(session: Session) -> None:
    """Remove what a run made, deepest first."""
    if not session.fs.exists(BASE):
        return
    storm = Storm(*reach(session), 1)
    try:
        found = [(info.path, info.is_dir) for info in session.fs.walk(BASE)]
        for directories in (False, True):
            paths = [path for path, is_dir in reversed(found) if is_dir == directories]
            in_flight = 1 if directories else 256
            storm.run(((int(Method.DELETE), _encode(api.DeleteRequest(path))) for path in paths), in_flight=in_flight)
        if session.fs.exists(BASE):
            session.fs.delete(BASE)
    finally:
        storm.close()


# ---- reading ------------------------------------------------------------------------------------------------------------


@bench.command()
@click.argument("path")
@click.option("--rounds", default=5, show_default=True, help="Rounds of which the median is shown.")
@click.option("--random-reads", default=20_000, show_default=True, help="4 KiB reads at random offsets.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a figure.")
@click.pass_obj
def read(session: Session, path: str, rounds: int, random_reads: int, as_json: bool) -> None:
    """Read a cached file: open and first byte, sequential, random 4 KiB, beside a plain file of the same bytes.

    PATH is loaded first. The plain file is a copy in a temporary directory, read the same way.
    """
    report = Report(as_json=as_json)
    fs = session.fs
    fs.load(path)
    with reference.plain_copy(fs, path) as plain:
        first_byte = [_first_byte_s(fs, path) for _ in range(rounds * 100)]
        report.add("open + first byte, p50", statistics.median(first_byte) * 1e6, "µs")
        ours, theirs = [], []
        for _ in range(rounds):
            ours.append(reference.sequential_rate(lambda: fs.open(path)))
            theirs.append(reference.sequential_rate(lambda: open(plain, "rb", buffering=0)))
        report.add(
            "sequential, 1 MiB reads", statistics.median(ours) / 1e9, "GB/s",
            limit=statistics.median(theirs) / 1e9, limit_name="plain file",
        )  # fmt: skip
        ours, theirs = [], []
        for number in range(rounds):
            ours.append(reference.random_rate(lambda: fs.open(path), random_reads, number))
            theirs.append(reference.random_rate(lambda: open(plain, "rb", buffering=0), random_reads, number))
        report.add(
            "random 4 KiB preads", statistics.median(ours), "/s",
            limit=statistics.median(theirs), limit_name="plain file",
        )  # fmt: skip
        rates = [_many_rate(fs, path, number) for number in range(rounds)]
        report.add("random 4 KiB, 64 in one read_many", statistics.median(rates), "/s")
    report.finish()


def _first_byte_s(fs: Any, path: str) -> float:
    begin = time.perf_counter()
    with fs.open(path) as file:
        file.read(1)
    return time.perf_counter() - begin


def _many_rate(fs: Any, path: str, seed: int) -> float:
    chance = random.Random(seed)
    size = fs.stat(path).size
    batches = [[(path, chance.randrange(max(1, size - 4096)), 4096) for _ in range(64)] for _ in range(100)]
    begin = time.perf_counter()
    for batch in batches:
        fs.read_many(batch)
    return 6400 / (time.perf_counter() - begin)


# ---- cluster ------------------------------------------------------------------------------------------------------------


@bench.command()
@click.option("--workers", type=click.IntRange(1), default=3000, show_default=True, help="Simulated workers.")
@click.option(
    "--interval",
    "interval_s",
    type=click.FloatRange(0.01),
    default=1.0,
    show_default=True,
    help="Seconds between a worker's heartbeats.",
)
@click.option(
    "--seconds",
    type=click.FloatRange(0.1),
    default=10.0,
    show_default=True,
    help="How long heartbeats alone are measured.",
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object a figure.")
def cluster(workers: int, interval_s: float, seconds: float, as_json: bool) -> None:
    """Register thousands of simulated workers with a master of its own, which ends with the command."""
    report = Report(as_json=as_json)
    measure_cluster(report, workers, interval_s, seconds)
    report.finish()


# ---- cold -----------------------------------------------------------------------------------------------------------------


@bench.command()
@click.argument("path")
@click.option("--threads", default=16, show_default=True, help="Files read at a time.")
@click.option("--limit", "most", default="4GiB", show_default=True, help="Read at most this many bytes.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a figure.")
@click.pass_obj
def cold(session: Session, path: str, threads: int, most: str, as_json: bool) -> None:
    """Read files that are not cached, then again warm. Frees PATH first.

    The limit is the same bytes fetched straight from the store with obstore, in the same run: the store's options come from the
    environment (AWS_ENDPOINT_URL, AWS_ACCESS_KEY_ID, …); without them the limit is left out.
    """
    from concurrent.futures import ThreadPoolExecutor

    report = Report(as_json=as_json)
    fs = session.fs
    infos = list(_some_files(fs, path, parse_bytes(most)))
    total = sum(info.size for info in infos)
    fs.free(path, recursive=True, force=True)
    straight = reference.store_reader(fs, path)
    figures: dict[str, float] = {}
    runs: list[tuple[str, Callable[[str], int]]] = [
        ("cold", lambda p: len(fs.read(p))),
        ("warm", lambda p: len(fs.read(p))),
    ]
    if straight is not None:
        runs.insert(0, ("straight from the store", straight))
    for name, reader in runs:
        begin = time.perf_counter()
        with ThreadPoolExecutor(threads) as pool:
            got = sum(pool.map(reader, [info.path for info in infos]))
        seconds = time.perf_counter() - begin
        if got != total:
            raise MonofsError(f"{name}: read {got} bytes of {total}")
        figures[name] = seconds
    seconds_straight = figures.get("straight from the store", 0.0)
    limit = len(infos) / seconds_straight if seconds_straight else None
    for name, seconds in figures.items():
        note = f"{format_bytes(total / seconds)}/s"
        is_limit = name.startswith("straight")
        report.add(
            f"{len(infos)} files, {name}", len(infos) / seconds, "files/s", note=note,
            limit=None if is_limit else limit, limit_name="obstore",
        )  # fmt: skip
    report.add("warm ÷ cold", figures["cold"] / figures["warm"], "×")
    report.finish()


def _some_files(fs: Any, path: str, most: int) -> Iterator[Any]:
    left = most
    for info in fs.walk(path):
        if info.is_file:
            left -= info.size
            if left < 0:
                return
            yield info
