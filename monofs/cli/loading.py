"""`monofs fs load` and `monofs cache load`: one command that begins, shows or stops the jobs that warm the cache."""

from __future__ import annotations

import sys

import click

from monofs.cli.job import follow, start, steer
from monofs.cli.listing import json_option, printable
from monofs.cli.main import Session
from monofs.cli.paths import TREE_PATH
from monofs.model.errors import NotFound
from monofs.model.paths import format_path, parse_path
from monofs.rpc.api import JobInfo

_OPEN = ("running", "paused")


@click.command()
@click.argument("paths", type=TREE_PATH, nargs=-1, required=True)
@click.option("--metadata-only", is_flag=True, help="Only take over the store's listings, no bytes.")
@click.option("--detach", is_flag=True, help="Do not wait for the job.")
@click.option(
    "--progress", "watch", is_flag=True, help="Begin nothing: show the newest load of each PATH until it ends."
)
@click.option("--stop", "end", is_flag=True, help="Begin nothing: stop the loads of PATH that are open.")
@json_option
@click.pass_obj
def load(
    session: Session,
    paths: tuple[str, ...],
    metadata_only: bool,
    detach: bool,
    watch: bool,
    end: bool,
    as_json: bool,
) -> None:
    """Fetch files, or everything below directories, by a job that outlives this command and any restart.

    Ctrl-C ends only the watching; --stop ends the job. What is cached already is not fetched again.
    """
    if (watch and end) or ((watch or end) and (metadata_only or detach)):
        raise click.UsageError("give --progress or --stop alone")
    if watch:
        sys.exit(max([follow(session, loads(session, path)[0], as_json=as_json) for path in paths]))
    if end:
        stop(session, paths)
        return
    sys.exit(run_load(session, paths, detach=detach, metadata_only=metadata_only, as_json=as_json))


def run_load(
    session: Session,
    paths: tuple[str, ...],
    *,
    detach: bool = False,
    metadata_only: bool = False,
    as_json: bool = False,
) -> int:
    """Begin one job a path and follow them unless ``detach``; returns the exit code. ``NotFound`` for a missing path, before any begins."""
    for path in paths:
        session.fs.stat(path)
    arguments = {"metadata_only": "true"} if metadata_only else {}
    return start(session, "load", paths, detach=detach, as_json=as_json, **arguments)


def loads(session: Session, path: str) -> list[JobInfo]:
    """Loads of this very path that are remembered, newest first. Raises ``NotFound`` when there are none."""
    wanted = format_path(parse_path(path))
    found = [each for each in session.fs.jobs() if each.kind == "load" and each.path == wanted]
    if not found:
        raise NotFound(f"no load of {printable(path)} is remembered: `monofs job ls` shows all jobs")
    return found


def stop(session: Session, paths: tuple[str, ...]) -> None:
    """Stop what loads these paths. Raises ``NotFound`` where nothing does."""
    for path in paths:
        numbers = tuple(each.number for each in loads(session, path) if each.state in _OPEN)
        if not numbers:
            raise NotFound(f"no load of {printable(path)} is open")
        steer(session, numbers, "stop")
