"""`monofs admin decommission`: let a worker leave without a hole in the cache."""

from __future__ import annotations

import time

import click

from monofs.cli.main import Session
from monofs.config.units import format_bytes
from monofs.model.errors import NoWorker, WouldLose
from monofs.rpc.api import WorkerStatusAnswer

LOOK_S = 0.5
TOLD_S = 10.0


@click.command()
@click.argument("worker", type=click.IntRange(1))
@click.option("--undo", is_flag=True, help="It stays after all, and gets its share again.")
@click.pass_obj
def decommission(session: Session, worker: int, undo: bool) -> None:
    """Take a worker out of the slot table, and wait until it has handed what it has cached to the others.

    WORKER is its number in `monofs admin report`. Interrupting ends the waiting only.
    """
    epoch = session.fs.decommission(worker, stay=undo)
    if undo:
        click.echo(f"worker {worker} gets its share of the slots again")
        return
    click.echo(f"worker {worker} owns nothing any more, and hands over what it has cached", err=True)
    told_s = time.monotonic()
    while True:
        counters = _status(session, worker).counters
        left = int(counters["monofs_foreign_groups"])
        if counters["monofs_slots_epoch"] >= epoch and not counters["monofs_handing"]:
            break
        if time.monotonic() - told_s > TOLD_S:
            told_s = time.monotonic()
            click.echo(f"{left} {'group' if left == 1 else 'groups'} of up to 64 MiB left", err=True)
        time.sleep(LOOK_S)
    kept = int(counters["monofs_kept_bytes"])
    if kept:
        raise WouldLose(
            f"{format_bytes(kept)} that no store has are on worker {worker} only (files of type MUST_CACHE): copy them below a mount, or remove "
            f"them, before you stop it. Until then it stays, without slots: `monofs admin decommission {worker} --undo` gives it its share again"
        )
    if left:
        click.echo(f"{left} groups found no room at the others: they will be fetched from their stores again", err=True)
    click.echo(f"worker {worker} has nothing that is missed when it stops: stop it")


def _status(session: Session, worker: int) -> WorkerStatusAnswer:
    for status in session.fs.worker_status(worker).values():
        if isinstance(status, WorkerStatusAnswer) and status.worker == worker:
            return status
    raise NoWorker(
        f"worker {worker} does not answer: it owns nothing any more, and what it had cached is fetched again"
    )
