"""`monofs mount`: which stores show where."""

from __future__ import annotations

import re
import sys

import click

from monofs.cli.group import Group
from monofs.cli.listing import printable
from monofs.cli.main import INTERVAL, Session
from monofs.cli.output import print_json, print_table, show_interval
from monofs.cli.paths import TREE_PATH
from monofs.model.errors import InvalidArgument
from monofs.model.options import UfsMode

ufs_mode_option = click.option(
    "--ufs-mode",
    type=click.Choice([each.value for each in UfsMode]),
    help="What may be done with the store, e.g. while it is serviced.",
)


@click.group(cls=Group)
def mount() -> None:
    """Mount stores into the tree, list, change, test and remove mounts."""


def parse_options(options: tuple[str, ...]) -> dict[str, str]:
    """``("a=b", ...)`` → dict. Raises ``InvalidArgument`` without showing the value, which may be a secret."""
    parsed: dict[str, str] = {}
    for text in options:
        name, separator, value = text.partition("=")
        if not separator or not re.fullmatch("[a-z][a-z0-9_]*", name):  # a key's secret may hold a "=" itself
            raise InvalidArgument("--option wants NAME=VALUE, with the name of an option in small letters")
        parsed[name] = value
    return parsed


@mount.command()
@click.argument("path", type=TREE_PATH)
@click.argument("uri")
@click.option(
    "--option",
    "options",
    metavar="NAME=VALUE",
    multiple=True,
    help="Option of the store, e.g. endpoint=http://host:9000.",
)
@click.option("--readonly", is_flag=True, help="Refuse every change below PATH.")
@click.option("--shared", is_flag=True, help="Mount a store that is mounted at another path already.")
@click.option(
    "--sync-interval", type=INTERVAL, help="How old metadata below PATH may be: 30s, 5m, 0 always look, -1 never."
)
@ufs_mode_option
@click.option("--dry-run", is_flag=True, help="Check everything, mount nothing.")
@click.pass_obj
def add(
    session: Session,
    path: str,
    uri: str,
    options: tuple[str, ...],
    readonly: bool,
    shared: bool,
    sync_interval: float | None,
    ufs_mode: str | None,
    dry_run: bool,
) -> None:
    """Mount the store URI (s3://bucket/prefix or file:///directory) at PATH.

    The store is asked at once; if it refuses, nothing is mounted. Secrets given as options are encrypted before they are stored.
    """
    info = session.fs.mount_add(
        path,
        uri,
        parse_options(options),
        readonly=readonly,
        shared=shared,
        dry_run=dry_run,
        sync_interval_s=sync_interval,
        ufs_mode=ufs_mode or UfsMode.READ_WRITE,
    )
    click.echo(f"{'would mount' if dry_run else 'mounted'} {info.uri} at {info.path}")
    if info.note:
        click.echo(f"note: {info.note}", err=True)


@mount.command("ls")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
@click.pass_obj
def ls_(session: Session, as_json: bool) -> None:
    """List mounts. Secret options are named, never shown."""
    mounts = session.fs.mount_list()
    if as_json:
        for info in mounts:
            print_json(info)
        return
    rows = []
    for info in mounts:
        shown = [f"{name}={value}" for name, value in sorted(info.options.items())] + [
            f"{name}=***" for name in info.secrets
        ]
        mode = ("readonly" if info.readonly else "rw") + (",shared" if info.shared else "")
        mode += f",{info.ufs_mode}" if info.ufs_mode != UfsMode.READ_WRITE else ""
        sync = "-" if info.sync_interval_s is None else show_interval(info.sync_interval_s)
        rows.append((info.path, info.uri, info.state, mode, sync, " ".join(shown)))
    print_table(["PATH", "STORE", "STATE", "MODE", "SYNC", "OPTIONS"], rows)
    for info in mounts:
        if info.error:
            click.echo(f"{info.path}: {info.error}", err=True)
    if not mounts and sys.stderr.isatty():
        click.echo("nothing is mounted: `monofs mount add PATH URI` mounts a store", err=True)


@mount.command()
@click.argument("path", type=TREE_PATH)
@click.option(
    "--discard",
    is_flag=True,
    help="Give up what no store has: MUST_CACHE files below, uploads in parts that are not complete; changes not done, in mode noAccess.",
)
@click.pass_obj
def rm(session: Session, path: str, discard: bool) -> None:
    """Unmount PATH: forgets its metadata and cached pages, never touches the store.

    Refuses, naming them, when files below are in no store, uploads are not complete or changes are owed to it.
    """
    gone = session.fs.mount_remove(path, discard=discard)
    click.echo(f"unmounted {path}")
    for lost in gone.lost:
        click.echo(f"lost: {printable(lost)}", err=True)
    for change in gone.given_up:
        click.echo(f"given up: {printable(change)}", err=True)


@mount.command()
@click.argument("path", type=TREE_PATH)
@click.option(
    "--option", "options", metavar="NAME=VALUE", multiple=True, help="Set an option; an empty VALUE removes it."
)
@click.option("--replace", is_flag=True, help="Drop every option that is not given.")
@click.option("--readonly/--writable", default=None, help="Refuse or allow changes below PATH.")
@click.option("--sync-interval", type=INTERVAL, help="How old metadata below PATH may be.")
@ufs_mode_option
@click.option("--dry-run", is_flag=True, help="Show the difference, change nothing.")
@click.pass_obj
def update(
    session: Session,
    path: str,
    options: tuple[str, ...],
    replace: bool,
    readonly: bool | None,
    sync_interval: float | None,
    ufs_mode: str | None,
    dry_run: bool,
) -> None:
    """Change the options of the mount at PATH; options not named stay as they are."""
    mounts = {info.path: info for info in session.fs.mount_list()}
    after = session.fs.mount_update(
        path,
        parse_options(options),
        replace=replace,
        readonly=readonly,
        sync_interval_s=sync_interval,
        dry_run=dry_run,
        ufs_mode=ufs_mode,
    )
    before = mounts.get(after.path)
    old = dict.fromkeys(before.secrets, "***") | before.options if before else {}
    new = dict.fromkeys(after.secrets, "***") | after.options
    changes = [
        f"{name}: {old.get(name, '(not set)')} -> {new.get(name, '(not set)')}"
        for name in sorted(old.keys() | new.keys())
        if old.get(name) != new.get(name) or (new.get(name) == "***" and name in parse_options(options))
    ]
    if before and before.readonly != after.readonly:
        changes.append(f"readonly: {before.readonly} -> {after.readonly}")
    if before and before.sync_interval_s != after.sync_interval_s:
        was, becomes = show_interval(before.sync_interval_s), show_interval(after.sync_interval_s)
        changes.append(f"sync interval: {was} -> {becomes}")
    if before and before.ufs_mode != after.ufs_mode:
        changes.append(f"UFS mode: {before.ufs_mode} -> {after.ufs_mode}")
    for change in changes:
        click.echo(change)
    if before and not changes:
        click.echo(f"nothing to change at {after.path}")
    else:
        click.echo(f"{'would update' if dry_run else 'updated'} {after.path}")


@mount.command()
@click.argument("path", type=TREE_PATH)
@click.pass_obj
def test(session: Session, path: str) -> None:
    """Ask the store behind the mount at PATH whether it can be reached, listed and read."""
    info = session.fs.mount_test(path)
    click.echo(f"{info.path}: {info.uri} answers")
