"""`monofs cache`: what the workers hold; bringing it there and dropping it, as jobs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import click

from monofs.cli.group import Group
from monofs.cli.loading import load
from monofs.cli.main import Session
from monofs.cli.output import print_json, print_table
from monofs.cli.simulating import simulate
from monofs.cli.steering import free
from monofs.config.units import format_bytes
from monofs.model.errors import MonofsError
from monofs.rpc.api import TierStatus


@click.group(cls=Group)
def cache() -> None:
    """See and steer what the workers hold."""


cache.add_command(load)
cache.add_command(free)
cache.add_command(simulate)


@cache.command()
@click.option("--json", "as_json", is_flag=True, help="One JSON object a worker.")
@click.pass_obj
def status(session: Session, as_json: bool) -> None:
    """Show the tiers of every worker, hits and misses, and bytes by source."""
    for address, answer in session.fs.worker_status().items():
        if isinstance(answer, MonofsError):
            click.echo(f"worker at {address} does not answer: {answer}", err=True)
            continue
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
        for line in (*held(answer.tiers, answer.counters), *summarize(answer.counters)):
            click.echo(f"  {line}")


def held(tiers: Iterable[TierStatus], counters: dict[str, float]) -> Iterator[str]:
    """What readers hold."""
    out, bytes_ = counters.get("monofs_descriptors_out", 0), sum(tier.held_bytes for tier in tiers)
    if out or bytes_:
        recalled = counters.get("monofs_descriptors_recalled", 0)
        yield (
            f"held by readers: {out:.0f} descriptors out, {recalled:.0f} asked back so far;"
            f" {format_bytes(bytes_)} used by files that are gone already"
        )


def summarize(counters: dict[str, float]) -> Iterator[str]:
    """Hit ratio and bytes by source, from a worker's counters."""

    def total(name: str, *marks: str) -> float:
        return sum(v for k, v in counters.items() if k.split("{")[0] == name and all(mark in k for mark in marks))

    hits, misses = total("monofs_page_hits"), total("monofs_page_misses")
    ratio = f"{100 * hits / (hits + misses):.1f}%" if hits + misses else "-"
    yield f"pages asked for: {hits:.0f} cached, {misses:.0f} missing, hit ratio {ratio}"
    from_cache, from_store = total("monofs_served_bytes", "source=cache"), total("monofs_served_bytes", "source=store")
    yield f"served to readers: {format_bytes(from_cache)} from the cache, {format_bytes(from_store)} that had to be fetched"
    gets = total("monofs_store_requests", "kind=get")
    yield f"fetched from stores: {format_bytes(total('monofs_store_read_bytes'))} in {gets:.0f} requests"
    written = total("monofs_written_bytes")
    if written:
        yield f"written: {format_bytes(written)}, of which {format_bytes(total('monofs_store_written_bytes'))} went to stores"
    uncached = total("monofs_writes_uncached")
    if uncached:
        yield f"files written that the cache had no room for: {uncached:.0f}"
    handed = total("monofs_rpc_requests", "method=DESCRIPTOR", "outcome=ok")
    if handed:
        yield f"descriptors asked for by programs on this machine: {handed:.0f}; what they read through them is not counted above"
    passed = total("monofs_not_admitted")
    if passed:
        yield f"reads served past the cache: {passed:.0f}"
    evicted, moved = total("monofs_evicted_bytes"), total("monofs_moved_bytes")
    if evicted or moved:
        late = total("monofs_evicted_bytes", "reason=room")
        yield (
            f"evicted: {format_bytes(evicted)}, of which {format_bytes(late)} while somebody waited for the room; moved between tiers:"
            f" {format_bytes(total('monofs_moved_bytes', 'direction=demoted'))} down,"
            f" {format_bytes(total('monofs_moved_bytes', 'direction=promoted'))} up"
        )
    scrubbed = total("monofs_scrubbed_bytes")
    if scrubbed:
        yield f"compared with their checksums in the background: {format_bytes(scrubbed)}"
    bad = total("monofs_bad_pages")
    if bad:
        yield f"pages that failed their checksum and were dropped: {bad:.0f}"
