"""`monofs cache`: what the workers hold, and warming it."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait

import click

from monofs.cli.main import Session
from monofs.cli.output import print_error, print_json, print_table, progress
from monofs.client.info import FileInfo
from monofs.config.units import format_bytes
from monofs.model.errors import MonofsError


@click.group()
def cache() -> None:
    """See and steer what the workers hold."""


@cache.command()
@click.option("--json", "as_json", is_flag=True, help="One JSON object a worker.")
@click.pass_obj
def status(session: Session, as_json: bool) -> None:
    """Show the tiers of every worker, hits and misses, and bytes by source."""
    for address, answer in session.fs.worker_status().items():
        if as_json:
            print_json(
                {"address": address, "worker": answer.worker, "tiers": answer.tiers, "counters": answer.counters}
            )
            continue
        click.echo(f"worker {answer.worker} at {address}")
        rows = []
        for tier in answer.tiers:
            share = 100 * tier.used_bytes / tier.capacity_bytes if tier.capacity_bytes else 0
            used, room = format_bytes(tier.used_bytes), format_bytes(tier.capacity_bytes)
            state = tier.state + (f": {tier.error}" if tier.error else "")
            rows.append(
                (
                    tier.tier,
                    used,
                    room,
                    f"{share:.1f}%",
                    format_bytes(tier.pinned_bytes),
                    tier.groups,
                    state,
                    tier.directory,
                )
            )
        print_table(["TIER", "USED", "CAPACITY", "FULL", "PINNED", "GROUPS", "STATE", "DIRECTORY"], rows)
        for line in summarize(answer.counters):
            click.echo(f"  {line}")


def summarize(counters: dict[str, float]) -> Iterator[str]:
    """Hit ratio and bytes by source, from a worker's counters."""

    def total(name: str, *marks: str) -> float:
        return sum(v for k, v in counters.items() if k.split("{")[0] == name and all(mark in k for mark in marks))

    hits, misses = total("monofs_page_hits"), total("monofs_page_misses")
    ratio = f"{100 * hits / (hits + misses):.1f}%" if hits + misses else "-"
    yield f"pages: {hits:.0f} hits, {misses:.0f} misses, hit ratio {ratio}"
    from_cache, from_store = total("monofs_served_bytes", "source=cache"), total("monofs_served_bytes", "source=store")
    yield f"served: {format_bytes(from_cache)} from cache, {format_bytes(from_store)} past it"
    yield f"fetched from stores: {format_bytes(total('monofs_store_read_bytes'))} in {total('monofs_store_requests', 'kind=get'):.0f} requests"
    bad = total("monofs_bad_pages")
    if bad:
        yield f"pages that failed their checksum and were dropped: {bad:.0f}"


def run_load(session: Session, paths: tuple[str, ...], *, threads: int, as_json: bool) -> int:
    """Fetch files with a bounded number in flight; failures are listed at the end. Returns the exit code."""
    files = (each for path in paths for each in _files_below(session, path))
    done = {"files": 0, "bytes": 0, "fetched_bytes": 0}
    failures: list[tuple[str, MonofsError]] = []
    lock = threading.Lock()
    with progress("load", total=None) as advance, ThreadPoolExecutor(threads) as pool:

        def load_one(info: FileInfo) -> None:
            try:
                fetched = session.fs.load(info.path)
            except MonofsError as error:
                with lock:
                    failures.append((info.path, error))
                return
            with lock:
                done["files"] += 1
                done["bytes"] += info.size
                done["fetched_bytes"] += fetched
            advance(info.size)

        flying: set[Future[None]] = set()
        for info in files:
            flying.add(pool.submit(load_one, info))
            if len(flying) >= threads * 4:
                _, flying = wait(flying, return_when=FIRST_COMPLETED)
        wait(flying)
    if as_json:
        print_json(done | {"failed": [{"path": path, "error": str(error)} for path, error in failures]})
    else:
        held = done["bytes"] - done["fetched_bytes"]
        click.echo(
            f"loaded {done['files']} files, {format_bytes(done['bytes'])}: "
            f"{format_bytes(done['fetched_bytes'])} fetched, {format_bytes(held)} were cached already"
        )
    for path, error in failures[:20]:
        click.echo(f"failed: {path}", err=True)
        print_error(error)
    if len(failures) > 20:
        click.echo(f"… and {len(failures) - 20} more failures", err=True)
    return 1 if failures else 0


def _files_below(session: Session, path: str) -> Iterator[FileInfo]:
    from monofs.cli.fs import walk

    info = session.fs.stat(path)
    if not info.is_directory:
        yield info
    else:
        yield from (each for each in walk(session, path) if not each.is_directory)
