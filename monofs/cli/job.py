"""`monofs job`: long work that goes on by itself: list, look at, stop, pause, resume, wait; and following one with progress.

Jobs belong to the master: they outlive the command that began them, and any restart. Ctrl-C ends the watching, never the job.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import click

from monofs.cli.group import Group
from monofs.cli.listing import json_option, printable
from monofs.cli.main import Session
from monofs.cli.output import print_json, print_table, show_seconds, show_time
from monofs.config.units import format_bytes
from monofs.model.errors import NoMaster
from monofs.rpc.api import JobInfo

NUMBERS = click.argument("numbers", metavar="NUMBER...", type=click.IntRange(1), nargs=-1, required=True)
FAILURES_SHOWN = 20
ENDED_SHOWN = 50
_TOTAL_BYTES = "total_bytes"
"""Among the counts: of all items together, shown beside what is done of them."""
_WORDS = {
    "load": ("loaded", "files"),
    "free": ("freed", "files"),
    "delete": ("deleted", "objects"),
    "move": ("moved", "objects"),
    "sync": ("compared", "names"),
}
"""Kind of job → what it did, and what it counts."""
_SAID = {"pinned": "pinned kept (-f frees them)"}
"""Counts that need more words at the end."""


@click.group(cls=Group)
def job() -> None:
    """See and steer long work: loads, frees, syncs, and stores being cleaned or moved behind the tree."""


@job.command("ls")
@click.option("-n", "--ended", metavar="N", type=click.IntRange(0, 500), default=ENDED_SHOWN, show_default=True, help="Of the jobs that ended, the last N.")  # fmt: skip
@click.option("-a", "--all", "everything", is_flag=True, help="All that are remembered: ten thousand, or 64 MiB of them.")  # fmt: skip
@json_option
@click.pass_obj
def ls_(session: Session, ended: int, everything: bool, as_json: bool) -> None:
    """List jobs, the newest first: all that run or are paused, and those that ended last."""
    jobs = session.fs.jobs(None if everything else ended)
    if as_json:
        for each in jobs:
            print_json(each)
        return
    rows = [
        (
            *(each.number, each.kind, state_of(each), show_time(each.created_ns), each.user or "-"),
            *(each.done, each.total if each.total >= 0 else "-", each.failed, left(each), paths_of(each)),
        )
        for each in jobs
    ]
    print_table(["JOB", "KIND", "STATE", "BEGUN", "BY", "DONE", "OF", "FAILED", "LEFT", "PATH"], rows)


@job.command()
@NUMBERS
@json_option
@click.pass_obj
def show(session: Session, numbers: tuple[int, ...], as_json: bool) -> None:
    """Show jobs: how far they are, how fast, and what failed."""
    for number in numbers:
        each = session.fs.job(number)
        if as_json:
            print_json(each)
            continue
        for name, value in told(each):
            click.echo(f"{name:11} {value}")


@job.command()
@NUMBERS
@click.pass_obj
def stop(session: Session, numbers: tuple[int, ...]) -> None:
    """End jobs before they are done. What a store is owed (deletions, moves) cannot be stopped, only paused."""
    steer(session, numbers, "stop")


@job.command()
@NUMBERS
@click.pass_obj
def pause(session: Session, numbers: tuple[int, ...]) -> None:
    """Let jobs rest until they are resumed."""
    steer(session, numbers, "pause")


@job.command()
@NUMBERS
@click.pass_obj
def resume(session: Session, numbers: tuple[int, ...]) -> None:
    """Let paused jobs go on."""
    steer(session, numbers, "resume")


@job.command()
@NUMBERS
@json_option
@click.pass_obj
def wait(session: Session, numbers: tuple[int, ...], as_json: bool) -> None:
    """Wait for jobs to end, with progress. Exit 1 when one of them failed, was stopped, or could not do all."""
    sys.exit(max([follow(session, session.fs.job(number), as_json=as_json) for number in numbers]))


@job.command()
@click.argument("number", type=click.IntRange(1))
@json_option
@click.pass_obj
def failures(session: Session, number: int, as_json: bool) -> None:
    """Name what a job could not do: one path a line, a tab, why. The latest hundred are kept. Exit 1 when there are any."""
    each = session.fs.job(number)
    for path, error in each.failures:
        if as_json:
            print_json({"path": path, "error": error})
        else:
            click.echo(f"{printable(path)}\t{error}")
    if each.failed > len(each.failures):
        click.echo(f"… and {each.failed - len(each.failures)} before them, which are not kept", err=True)
    sys.exit(1 if each.failed else 0)


def steer(session: Session, numbers: tuple[int, ...], action: str) -> None:
    """Do ``action`` to each job and say what it is now."""
    for number in numbers:
        after = session.fs.steer_job(number, action)
        click.echo(f"job {number}: {after.state}")


def start(session: Session, kind: str, paths: tuple[str, ...], *, detach: bool, as_json: bool, **arguments: Any) -> int:
    """Begin one job a path, all at once, and follow them unless ``detach``; returns the exit code."""
    try:
        started = [session.fs.start_job(kind, path, **arguments) for path in paths]
    except KeyboardInterrupt:
        click.echo("jobs that were begun go on: `monofs job ls` shows them", err=True)
        raise
    if detach:
        for each in started:
            tell_started(each, as_json=as_json)
        return 0
    return max([follow(session, each, as_json=as_json) for each in started])


def tell_started(begun: JobInfo, *, as_json: bool) -> None:
    """Say which job was begun and left to itself."""
    if as_json:
        print_json(begun)
    else:
        number = begun.number
        click.echo(f"job {number}: {begun.kind} {printable(begun.path)}; `monofs job wait {number}` shows its progress")


def follow(session: Session, begun: JobInfo, *, as_json: bool) -> int:
    """Show a job's progress until it ends; returns the exit code."""
    try:
        with job_progress(f"{begun.kind} {printable(begun.path)}") as step:
            ended = session.fs.wait_job(begun.number, step)
    except KeyboardInterrupt:
        number, stops = begun.number, begun.kind not in ("delete", "move")
        end = f"`monofs job {'stop' if stops else 'pause'} {number}` {'ends' if stops else 'halts'} it"
        click.echo(f"job {number} goes on: `monofs job wait {number}` shows its progress, {end}", err=True)
        raise
    except NoMaster as silence:
        again = (
            f"job {begun.number} goes on when the master is back: `monofs job wait {begun.number}` shows its progress"
        )
        raise type(silence)(f"{silence}; {again}", **silence.detail) from None
    if as_json:
        print_json(ended)
    else:
        click.echo(summary(ended))
    if ended.counts.get("not_cached_bytes"):
        click.echo(
            f"not all of it is cached at the end: `monofs job failures {ended.number}` says of what, and why", err=True
        )
    for path, error in ended.failures[:FAILURES_SHOWN]:
        click.echo(f"failed: {printable(path)}: {error}", err=True)
    if ended.failed > FAILURES_SHOWN:
        click.echo(f"… and {ended.failed - FAILURES_SHOWN} more: `monofs job failures {ended.number}`", err=True)
    return 0 if ended.state == "done" and not ended.failed else 1


def summary(ended: JobInfo) -> str:
    """One line about a job that is not at work any more."""
    did, unit = _WORDS.get(ended.kind, ("did", "items"))
    if ended.arguments.get("verify") == "only":
        did = "verified"
    size = f", {format_bytes(ended.bytes_done)}" if ended.bytes_done else ""
    counts = "".join(f", {value} {_SAID.get(name, name)}" for name, value in counted(ended))
    how = "" if ended.state == "done" else f"; {ended.state}{': ' if ended.error else ''}{ended.error}"
    failed = f"; {ended.failed} failed" if ended.failed else ""
    if ended.kind == "delete" and not ended.done:  # in one step, as directories of this machine are
        return f"{did} {printable(ended.path)}{counts}{failed}{how}"
    return f"{did} {ended.done} {unit}{size}{counts}{failed}{how}"


def counted(each: JobInfo) -> Iterator[tuple[str, str]]:
    """What a job counts beside its items, with units."""
    for name, count in each.counts.items():
        if name == _TOTAL_BYTES:
            continue
        if name.endswith("_bytes"):
            yield name.removesuffix("_bytes").replace("_", " "), format_bytes(count)
        else:
            yield name.replace("_", " "), str(count)


def _bytes_of(each: JobInfo) -> str:
    total = each.counts.get(_TOTAL_BYTES, 0)
    return f"{format_bytes(each.bytes_done)}" + (f" of {format_bytes(total)}" if total >= each.bytes_done else "")


def arguments_of(each: JobInfo) -> str:
    """What a job was begun with, in the words of its options."""
    given = dict(each.arguments)
    if "bandwidth" in given:
        given["bandwidth"] = f"{format_bytes(int(given['bandwidth']))}/s"
    if "index" in given:
        given["index"] = printable(given["index"])
    return ", ".join(name.replace("_", " ") + ("" if value == "true" else f" {value}") for name, value in given.items())


def told(each: JobInfo) -> Iterator[tuple[str, str]]:
    """A job for people."""
    yield "job", f"{each.number}: {each.kind} {paths_of(each)}"
    yield "state", state_of(each)
    if each.arguments:
        yield "with", arguments_of(each)
    yield "begun", show_time(each.created_ns) + (f" by {each.user}" if each.user else "")
    if each.ended_ns:
        yield "ended", f"{show_time(each.ended_ns)}, after {show_seconds((each.ended_ns - each.created_ns) / 1e9)}"
    unit = _WORDS.get(each.kind, ("", "items"))[1]
    done = f"{each.done} of {each.total} {unit}" if each.total >= 0 else f"{each.done} {unit}"
    yield "done", done + (f", {_bytes_of(each)}" if each.bytes_done else "")
    yield from counted(each)
    if each.rate is not None:
        yield "speed", f"{each.rate:.3g} {unit} a second"
    if each.eta_s is not None:
        yield "left", left(each)
    if each.error:
        yield "error", each.error
    if each.failed:
        yield "failed", f"{each.failed}" + (f", the latest {len(each.failures)} are:" if each.failures else "")
    for path, error in each.failures:
        yield "", f"{printable(path)}: {error}"


def state_of(each: JobInfo) -> str:
    """A job at work that cannot go on now is said to be waiting."""
    return "waiting" if each.state == "running" and each.error else each.state


def left(each: JobInfo) -> str:
    """How long a job will still take, as far as that is known."""
    return "-" if each.eta_s is None else show_seconds(max(1, round(each.eta_s)))


def paths_of(each: JobInfo) -> str:
    """What a job is about."""
    return printable(each.path) + (f" -> {printable(each.target)}" if each.target else "")


@contextmanager
def job_progress(title: str) -> Iterator[Callable[[JobInfo], None]]:
    """Yield what shows a job's state: a bar on a terminal, nothing elsewhere."""
    if not sys.stderr.isatty():
        yield _Waits()
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn

    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[counts]}"))
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(title, total=None, counts="")

        def step(now: JobInfo) -> None:
            counts = [f"{now.done:,}" + (f" of {now.total:,}" if now.total >= 0 else "")]
            counts += [_bytes_of(now)] if now.bytes_done else []
            counts += [f"{now.rate:,.3g}/s"] if now.rate else []
            counts += [f"{left(now)} left"] if now.eta_s else []
            counts += [f"{now.failed} failed"] if now.failed else []
            counts += [state_of(now)] if state_of(now) != "running" else []
            counts += [now.error] if now.error else []
            bar.update(
                task,
                completed=now.done,
                total=max(now.total, now.done) if now.total >= 0 else None,
                counts=", ".join(counts),
            )

        yield step


class _Waits:
    """What is told of a job where no bar is: why it waits, once a reason."""

    def __init__(self) -> None:
        self._told = ""

    def __call__(self, now: JobInfo) -> None:
        """Tell it when it is new."""
        if now.state == "running" and now.error not in ("", self._told):
            click.echo(f"job {now.number} waits: {now.error}", err=True)
            self._told = now.error


def age(since_ns: int) -> str:
    """How long ago, for tables."""
    return show_seconds(max(0.0, round(time.time() - since_ns / 1e9)))
