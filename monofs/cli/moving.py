"""The commands of `monofs fs` that copy, move and remove within the tree: cp mv rm. Not here: putting local files into it (writing.py)."""

from __future__ import annotations

from typing import Any

import click

from monofs.cli.job import follow
from monofs.cli.listing import json_option, printable
from monofs.cli.main import Session
from monofs.cli.output import each_of, print_json
from monofs.cli.paths import TREE_PATH
from monofs.cli.writing import place, tell, transferring
from monofs.client.transfer import TransferProgress
from monofs.model.errors import AlreadyExists, CrossMount, InvalidArgument, IsADirectory, NotFound


@click.command()
@click.argument("sources", metavar="SOURCE...", type=TREE_PATH, nargs=-1, required=True)
@click.argument("target", type=TREE_PATH)
@click.option("-r", "-R", "recursive", is_flag=True, help="Directories with everything below.")
@click.option("-f", "_force", is_flag=True, help="Replace files that exist: what cp does anyway.")
@click.option("-n", "keep", is_flag=True, help="Leave files that exist as they are.")
@click.option("-T", "exact", is_flag=True, help="Onto TARGET, never into it, also when it is a directory.")
@json_option
@click.pass_obj
def cp(
    session: Session,
    sources: tuple[str, ...],
    target: str,
    recursive: bool,
    _force: bool,
    keep: bool,
    exact: bool,
    as_json: bool,
) -> None:
    """Copy files or directories within the tree; within one mount the store copies them itself."""

    def copy(source: str) -> int:
        info = session.fs.stat(source)
        if info.is_dir and not recursive:
            raise IsADirectory(f"{source} is a directory: add -r")
        where = place(session, info.name, target, many=len(sources) > 1, exact=exact)
        try:
            with transferring(f"copy {info.name}") as step:
                done = session.fs.copy(info.path, where, overwrite=not keep, recursive=info.is_dir, progress=step)
        except AlreadyExists:
            if not keep:
                raise
            done = TransferProgress(skipped=1)
        return tell({"source": info.path, "path": where}, done, keep=keep, as_json=as_json)

    each_of(sources, copy)


@click.command()
@click.argument("sources", metavar="SOURCE...", type=TREE_PATH, nargs=-1, required=True)
@click.argument("target", type=TREE_PATH)
@click.option("-f", "_force", is_flag=True, help="Replace a file that exists: what mv does anyway.")
@click.option("-n", "keep", is_flag=True, help="Leave what exists as it is.")
@click.option("-T", "exact", is_flag=True, help="Onto TARGET, never into it, also when it is a directory.")
@click.option("--wait", is_flag=True, help="Wait until the objects of a moved directory have moved in the store too.")
@json_option
@click.pass_obj
def mv(
    session: Session,
    sources: tuple[str, ...],
    target: str,
    _force: bool,
    keep: bool,
    exact: bool,
    wait: bool,
    as_json: bool,
) -> None:
    """Rename or move files and directories. A directory has its new name at once; its objects follow by a job.

    Between stores files are copied, compared, and then deleted at their old place.
    """

    def move(source: str) -> int:
        info = session.fs.stat(source)
        where = place(session, info.name, target, many=len(sources) > 1, exact=exact)
        if keep and session.fs.exists(where):
            return 0
        facts = {"source": info.path, "path": where}
        try:
            job = session.fs.rename(info.path, where)
        except CrossMount:
            click.echo(
                f"{printable(info.path)} and {printable(where)} lie on different stores: copying, comparing, then "
                "deleting the old ones",
                err=True,
            )
        else:
            return tell_job(session, facts, job, "moves its objects", wait=wait, as_json=as_json)
        with transferring(f"move {info.name}") as step:
            done = session.fs.move(info.path, where, progress=step)
        if done.failed and info.is_dir:
            click.echo(
                f"what was not moved is still at {printable(info.path)}: `monofs fs mv -T` of the same paths goes on",
                err=True,
            )
        return tell(facts, done, keep=False, as_json=as_json)

    each_of(sources, move)


def tell_job(session: Session, facts: dict[str, Any], job: int, does: str, *, wait: bool, as_json: bool) -> int:
    """Say which job goes on in the store, or wait for it; returns the exit code."""
    if as_json:
        print_json(facts | {"job": job or None})
    elif job and not wait:
        click.echo(
            f"{printable(facts['path'])}: job {job} {does} in the store: `monofs job wait {job}` shows its progress"
        )
    return follow(session, session.fs.job(job), as_json=as_json) if job and wait else 0


@click.command()
@click.argument("paths", type=TREE_PATH, nargs=-1, required=True)
@click.option("-r", "-R", "recursive", is_flag=True, help="Directories with everything below.")
@click.option("-d", "empty", is_flag=True, help="Empty directories.")
@click.option("-f", "force", is_flag=True, help="What does not exist is no error.")
@click.option(
    "--cache-only", is_flag=True, help="Drop cached pages and ask the store again about the rest; it keeps everything."
)
@click.option("--wait", is_flag=True, help="Wait until the objects of removed directories are gone from the store too.")
@json_option
@click.pass_obj
def rm(
    session: Session,
    paths: tuple[str, ...],
    recursive: bool,
    empty: bool,
    force: bool,
    cache_only: bool,
    wait: bool,
    as_json: bool,
) -> None:
    """Delete files and directories, here and in the store. A directory is gone at once; a job deletes its objects."""

    def remove(path: str) -> int:
        try:
            info = session.fs.stat(path)
            if info.is_dir and not (recursive or empty):
                raise IsADirectory(f"{path} is a directory: add -r")
            if cache_only:
                return forget(session, info.path, is_dir=info.is_dir, is_persisted=info.is_persisted, as_json=as_json)
            job = 0
            if info.is_dir and recursive:
                job = session.fs.remove_tree(info.path)
            else:
                session.fs.delete(info.path)
        except NotFound:
            if force:
                return 0
            raise
        return tell_job(session, {"path": info.path}, job, "deletes its objects", wait=wait, as_json=as_json)

    each_of(paths, remove)


def forget(session: Session, path: str, *, is_dir: bool, is_persisted: bool, as_json: bool) -> int:
    """Drop pages and trust nothing known any more. Raises ``InvalidArgument`` for a file that only the cache has."""
    if not is_dir and not is_persisted:
        raise InvalidArgument(f"{path} is in the cache only, no store has it: without --cache-only it is deleted")
    freed = session.fs.free(path, recursive=is_dir, force=True)
    session.fs.needs_sync(path)
    if as_json:
        print_json({"path": path, "freed": freed.files})
    else:
        click.echo(f"{printable(path)}: {freed.files} files dropped from the cache; the store keeps them")
    return 0
