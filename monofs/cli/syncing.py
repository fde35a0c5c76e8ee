"""The commands of `monofs fs` that bring tree and store together: sync needs-sync check-consistency."""

from __future__ import annotations

import sys

import click

from monofs.cli.job import follow, tell_started
from monofs.cli.listing import json_option, printable
from monofs.cli.main import Session
from monofs.cli.output import each_of, print_json
from monofs.cli.paths import TREE_PATH
from monofs.rpc.api import Difference


@click.command()
@click.argument("path", type=TREE_PATH)
@click.option("-R", "-r", "recursive", is_flag=True, help="Everything below, as a job.")
@click.option("--detach", is_flag=True, help="With -R: do not wait for the job.")
@json_option
@click.pass_obj
def sync(session: Session, path: str, recursive: bool, detach: bool, as_json: bool) -> None:
    """Look at the store now and take over what changed there, whatever the sync interval says."""
    if detach and not recursive:
        raise click.UsageError("--detach goes with -R: one directory is looked at at once")
    begun = session.fs.sync(path, recursive=recursive)
    if begun is None:
        if as_json:
            print_json({"path": path, "job": None})
    elif detach:
        tell_started(begun, as_json=as_json)
    else:
        sys.exit(follow(session, begun, as_json=as_json))


@click.command("needs-sync")
@click.argument("paths", type=TREE_PATH, nargs=-1, required=True)
@click.pass_obj
def needs_sync(session: Session, paths: tuple[str, ...]) -> None:
    """Trust nothing known of PATH and everything below any more: each next access looks at the store."""
    each_of(paths, session.fs.needs_sync)


@click.command("check-consistency")
@click.argument("path", type=TREE_PATH)
@click.option("-r", "-R", "recursive", is_flag=True, help="Everything below.")
@click.option(
    "--checksum", is_flag=True, help="Compare bytes too: reads every file, from the cache and from the store."
)
@click.option("--repair", is_flag=True, help="Take over what the store has where the two differ.")
@json_option
@click.pass_obj
def check_consistency(
    session: Session, path: str, recursive: bool, checksum: bool, repair: bool, as_json: bool
) -> None:
    """Compare the tree with the store, file by file, changing nothing. Exit 1 when differences are left.

    What only the cache has (MUST_CACHE) is not a difference.
    """

    found = left = 0
    for each in session.fs.check_consistency(path, recursive=recursive, checksum=checksum, repair=repair):
        found += 1
        show_difference(each, as_json=as_json)
    if repair and found:
        again = session.fs.check_consistency(path, recursive=recursive, checksum=checksum)
        for each in again:
            left += 1
            click.echo(f"not repaired: {printable(each.path)}: {each.problem}", err=True)
    if not as_json:
        repaired = f", {max(0, found - left)} repaired" if repair and found else ""
        click.echo(f"{printable(path)}: {found} differences{repaired}")
    sys.exit(1 if left or (found and not repair) else 0)


def show_difference(each: Difference, *, as_json: bool) -> None:
    """One line about one difference."""
    if as_json:
        print_json(each)
        return
    sides = [f"{side} {value}" for side, value in (("here", each.here), ("store", each.store)) if value]
    click.echo(f"{printable(each.path)}: {each.problem}" + (f" ({', '.join(sides)})" if sides else ""))
