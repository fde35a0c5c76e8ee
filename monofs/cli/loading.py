"""`monofs fs load` and `monofs cache load`: one command that begins, shows or stops the jobs that warm the cache."""

from __future__ import annotations

import secrets
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO

import click

from monofs.cli.job import follow, start, steer
from monofs.cli.listing import json_option, printable
from monofs.cli.main import Session
from monofs.cli.paths import TREE_PATH
from monofs.cli.policy import Size
from monofs.model.errors import STORE_AWAY, MonofsError, NotFound
from monofs.model.paths import format_path, parse_path
from monofs.model.slots import REPLICAS_MAX
from monofs.rpc.api import JobInfo

LIST_BYTES = 1 << 20
"""Of a local list taken at a time."""
LIST_LIFE_S = 7 * 86400
"""How long a list that was copied into the namespace stays when nobody removes it."""


@click.command()
@click.argument("paths", type=TREE_PATH, nargs=-1)
@click.option(
    "--replicas",
    type=click.IntRange(1, REPLICAS_MAX),
    help="Copies of each block, on as many workers [default: as the path's policy says, else 1].",
)
@click.option("--bandwidth", type=Size(), help="Most bytes a second that all workers together move for it, as 200MiB.")
@click.option(
    "--files-from",
    "local_list",
    metavar="FILE",
    type=click.File("rb"),
    help="Load the files named in this local file (- is standard input), one path a line, at or below PATH.",
)
@click.option("--index-file", "index", metavar="PATH", type=TREE_PATH, help="The same of a file in the namespace.")
@click.option("-0", "--null", "nul", is_flag=True, help="Paths of the list end in NUL, not in a newline.")
@click.option("--metadata-only", is_flag=True, help="Only take over the store's listings, no bytes.")
@click.option(
    "--verify", is_flag=True, help="Afterwards compare every page with its checksum, and load again what differs."
)
@click.option(
    "--verify-only", is_flag=True, help="Load nothing: tell what is not cached, or differs from its checksum."
)
@click.option("--detach", is_flag=True, help="Do not wait for the job.")
@click.option(
    "--progress", "watch", is_flag=True, help="Begin nothing: show the newest load of each PATH until it ends."
)
@click.option("--stop", "end", is_flag=True, help="Begin nothing: stop the loads of PATH that are open.")
@json_option
@click.pass_obj
def load(
    session: Session, /, paths: tuple[str, ...], detach: bool, watch: bool, end: bool, as_json: bool, **given: Any
) -> None:
    """Fetch files, or everything below directories, by a job that outlives this command and any restart.

    Ctrl-C ends only the watching; --stop ends the job. What is cached already is not fetched again. Exit 1 when not all is cached at the end:
    `monofs job failures` names what is not.
    """
    if (watch and end) or ((watch or end) and (detach or any(given.values()))):
        raise click.UsageError("give --progress or --stop alone")
    if sum(bool(given[name]) for name in ("verify", "verify_only", "metadata_only")) > 1:
        raise click.UsageError("give one of --verify, --verify-only, --metadata-only")
    listed = bool(given["local_list"]) + bool(given["index"])
    if listed > 1 or (given["nul"] and not listed):
        raise click.UsageError("give --files-from or --index-file, and --null with one of them")
    if listed and len(paths) > 1:
        raise click.UsageError("a list is of paths at or below one PATH")
    paths = paths or (("/",) if listed else ())
    if not paths:
        raise click.UsageError("give at least one PATH")
    if watch:
        sys.exit(max([follow(session, loads(session, path)[0], as_json=as_json) for path in paths]))
    if end:
        stop(session, paths)
        return
    with _in_namespace(session, given.pop("local_list")) as path:
        given["index"] = path or given["index"]
        sys.exit(run_load(session, paths, detach=detach, as_json=as_json, **_arguments(given)))


def _arguments(given: dict[str, Any]) -> dict[str, Any]:
    """What the job is told, of what the command was."""
    verify = "only" if given.pop("verify_only") else "after" if given.pop("verify") else None
    given.pop("verify", None)
    if given["index"]:
        given["index"] = format_path(parse_path(given["index"]))
    return {name: value for name, value in (given | {"verify": verify}).items() if value}


@contextmanager
def _in_namespace(session: Session, stream: BinaryIO | None) -> Iterator[str]:
    """Where the job finds a local list: a copy of it that only workers keep, removed when the job has ended, or after a week, if it has by then."""
    if stream is None:
        yield ""
        return
    path = f"/.monofs-list-{secrets.token_hex(8)}"
    with session.fs.writer(path, write_type="MUST_CACHE", exclusive=True) as writer:
        while piece := stream.read(LIST_BYTES):
            writer.write(piece)
    session.fs.set_ttl(path, LIST_LIFE_S, "delete")
    try:
        yield path
    finally:
        if not isinstance(sys.exception(), KeyboardInterrupt):  # then the job goes on, and reads it
            _remove_list(session, path)


def _remove_list(session: Session, path: str) -> None:
    """Unless a job that reads it goes on: with ``--detach``, or when no master told any more how it stands. Its time to live does it then."""
    try:
        if not any(each.arguments.get("index") == path for each in session.fs.jobs(0)):
            session.fs.delete(path)
    except MonofsError:
        pass


def run_load(
    session: Session, paths: tuple[str, ...], *, detach: bool = False, as_json: bool = False, **arguments: Any
) -> int:
    """Begin one job a path and follow them unless ``detach``; returns the exit code. ``NotFound`` for a missing path, before any begins; where
    its store cannot be asked, the job waits for it and finds out."""
    for path in paths:
        try:
            session.fs.stat(path)
        except STORE_AWAY as error:
            if not error.retry:
                raise
    return start(session, "load", paths, detach=detach, as_json=as_json, **arguments)


def loads(session: Session, path: str, *, is_open: bool = False) -> list[JobInfo]:
    """Loads of this very path that are remembered, or open, newest first. Raises ``NotFound`` when there are none."""
    wanted = format_path(parse_path(path))
    found = [each for each in session.fs.jobs(0 if is_open else None) if each.kind == "load" and each.path == wanted]
    if not found:
        how = "open" if is_open else "remembered"
        raise NotFound(
            f"no load of {printable(path)} is {how}: `monofs job ls` shows jobs, with `--all` those that ended long ago"
        )
    return found


def stop(session: Session, paths: tuple[str, ...]) -> None:
    """Stop what loads these paths. Raises ``NotFound`` where nothing does."""
    for path in paths:
        steer(session, tuple(each.number for each in loads(session, path, is_open=True)), "stop")
