"""The commands of `monofs fs` that make things: put mkdir touch; and how transfers of many files are shown."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import click

from monofs.cli.listing import json_option, printable
from monofs.cli.main import Session
from monofs.cli.output import each_of, print_json, progress
from monofs.cli.paths import TREE_PATH
from monofs.cli.policy import WRITE_TYPE
from monofs.client.transfer import TransferProgress
from monofs.config.units import format_bytes
from monofs.model.errors import AlreadyExists, IsADirectory, NotADirectory, NotFound

_CHUNK = 8 << 20
FAILURES_SHOWN = 20


class Shown:
    """What the last step of a transfer told, for when it ends in an error too."""

    def __init__(self, advance: Any) -> None:
        self._advance = advance
        self.counts = TransferProgress()

    def __call__(self, counts: TransferProgress) -> None:
        """Advance the bar."""
        self._advance(counts.bytes - self.counts.bytes, counts.bytes_found if counts.listed else None)
        self.counts = counts


@contextmanager
def transferring(title: str) -> Iterator[Shown]:
    """A bar for one transfer; yields what to give as its ``progress``."""
    with progress(printable(title), total=None) as advance:
        yield Shown(advance)


def tell(facts: dict[str, Any], done: TransferProgress, *, keep: bool, as_json: bool) -> int:
    """Say what became of one transfer, and what failed; returns the exit code. ``keep``: files that exist were to be left."""
    counts = {"files": done.files, "bytes": done.bytes, "skipped": done.skipped, "failed": done.failed}
    if as_json:
        named = [
            {"path": path, "code": getattr(error, "code", None), "error": str(error)} for path, error in done.failures
        ]
        print_json(facts | counts | {"failures": named})
    elif done.files_found > 1:
        skipped = f"; {done.skipped} exist already and were left as they are" if done.skipped else ""
        failed = f"; {done.failed} failed" if done.failed else ""
        click.echo(f"{printable(facts['path'])}: {done.files} files, {format_bytes(done.bytes)}{skipped}{failed}")
    for path, error in done.failures[:FAILURES_SHOWN]:
        click.echo(f"failed: {printable(path)}: {error}", err=True)
    if done.failed > FAILURES_SHOWN:
        click.echo(f"… and {done.failed - FAILURES_SHOWN} more failures", err=True)
    if done.skipped and not keep and not as_json:
        click.echo("  hint: -f replaces files that exist, -n leaves them and calls it done", err=True)
    return 1 if done.failed else 4 if done.skipped and not keep else 0


def place(session: Session, name: str, target: str, *, many: bool = False, exact: bool = False) -> str:
    """Where something called ``name`` goes, as cp(1) decides it: into ``target`` when that is a directory or ends in ``/``, else onto it.

    ``exact``: always onto it. Raises ``NotADirectory`` for several things (``many``) and a target that cannot hold them.
    """
    if not exact:
        inside = target.endswith("/")
        if not inside:
            try:
                inside = session.fs.stat(target).is_dir
            except NotFound:
                pass
        if inside:
            return f"{target.rstrip('/')}/{name}"
    if many:
        raise NotADirectory(f"{target} is no directory: `monofs fs mkdir` makes it, or end its name with a /")
    return target.rstrip("/") or "/"


@click.command()
@click.argument("sources", metavar="LOCAL...", nargs=-1, required=True)
@click.argument("target", metavar="PATH", type=TREE_PATH)
@click.option("-r", "-R", "recursive", is_flag=True, help="Directories with everything below.")
@click.option("-f", "force", is_flag=True, help="Replace files that exist.")
@click.option("-n", "--no-overwrite", "keep", is_flag=True, help="Leave files that exist as they are, and go on.")
@click.option("-T", "exact", is_flag=True, help="Onto PATH, never into it, also when it is a directory.")
@click.option(
    "-L", "--follow-symlinks", "follow", is_flag=True, help="Follow symbolic links that lead out, or to directories."
)
@click.option("--write-type", type=WRITE_TYPE, help="How the files are kept [default: as PATH's policy says].")
@json_option
@click.pass_obj
def put(
    session: Session,
    sources: tuple[str, ...],
    target: str,
    recursive: bool,
    force: bool,
    keep: bool,
    exact: bool,
    follow: bool,
    write_type: str | None,
    as_json: bool,
) -> None:
    """Copy local files or directories into the tree; `-` is standard input. Each file appears whole or not at all.

    A directory PATH (or one that ends in /) gets them under their own names. Directories above come into being.
    """
    if force and keep:
        raise click.UsageError("give -f or -n, not both")
    if "-" in sources and (len(sources) > 1 or target.endswith("/")):
        raise click.UsageError("standard input goes to one file: give its PATH")

    def one(source: str) -> int:
        name = os.path.basename(os.path.abspath(source))
        where = target if source == "-" else place(session, name, target, many=len(sources) > 1, exact=exact)
        try:
            if source == "-":
                done = _put_stream(session, where, overwrite=force, write_type=write_type)
            else:
                done = _put_local(
                    session,
                    source,
                    where,
                    recursive=recursive,
                    overwrite=force,
                    follow_symlinks=follow,
                    write_type=write_type,
                )
        except AlreadyExists as error:
            if not keep:
                raise type(error)(f"{error.message}; -f replaces it", **error.detail) from None
            done = TransferProgress(skipped=1)
        return tell({"source": source, "path": where}, done, keep=keep, as_json=as_json)

    each_of(sources, one)


def _put_local(session: Session, local: str, path: str, *, recursive: bool, **how: Any) -> TransferProgress:
    if os.path.isdir(local) and not recursive:
        raise IsADirectory(f"{local} is a directory: add -r")
    with transferring(os.path.basename(path)) as step:
        done: TransferProgress = session.fs.upload(local, path, recursive=recursive, progress=step, **how)
    return done


def _put_stream(session: Session, path: str, *, overwrite: bool, write_type: str | None) -> TransferProgress:
    """Write standard input to one file, which appears when the input ends."""
    size = 0
    with (
        progress(printable(path), total=None) as advance,
        session.fs.open(path, "wb" if overwrite else "xb", write_type=write_type) as file,
    ):
        while block := sys.stdin.buffer.read(_CHUNK):
            file.write(block)
            size += len(block)
            advance(len(block))
    return TransferProgress(files=1, bytes=size)


@click.command()
@click.argument("paths", type=TREE_PATH, nargs=-1, required=True)
@click.option("-p", "parents", is_flag=True, help="Those above too; what exists is no error.")
@click.pass_obj
def mkdir(session: Session, paths: tuple[str, ...], parents: bool) -> None:
    """Make directories."""

    def make(path: str) -> int:
        session.fs.make_directory(path, parents=parents, exist_ok=parents)
        return 0

    each_of(paths, make)


@click.command()
@click.argument("paths", type=TREE_PATH, nargs=-1, required=True)
@click.pass_obj
def touch(session: Session, paths: tuple[str, ...]) -> None:
    """Make empty files; of what exists, set the time to now, except below mounts, where it is the store's."""

    def make(path: str) -> int:
        session.fs.touch(path)
        return 0

    each_of(paths, make)
