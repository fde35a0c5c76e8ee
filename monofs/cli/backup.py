"""`monofs admin backup` and `monofs admin restore`: the namespace into a file while it is in use, and from there into a new home."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import click

from monofs.cli.main import Session
from monofs.cli.output import print_json, progress, show_time
from monofs.config.units import format_bytes

if TYPE_CHECKING:
    from monofs.metadata.copyfile import CopyHead


@click.command()
@click.argument("file", metavar="FILE")
@click.option("--force", is_flag=True, help="Replace FILE if it exists.")
@click.option(
    "--home",
    metavar="DIR",
    help="Offline, of the home of a stopped master: the way on when a majority is gone for good.",
)
@click.option("--json", "as_json", is_flag=True, help="As one JSON object.")
@click.pass_obj
def backup(session: Session, file: str, force: bool, home: str | None, as_json: bool) -> None:
    """Copy the namespace into FILE, as of one moment, while it is in use.

    FILE appears when it is complete and proved. It holds names, mounts, policies and jobs, and the credentials of mounts as the cluster secret
    wrapped them: keep that secret too, apart. It holds no bytes of files.
    """
    if home is not None:
        from monofs.node.salvaging import back_up_home

        head = back_up_home(os.path.expanduser(home), file, overwrite=force)
    else:
        with progress("backing up", total=None) as advance:
            head = session.fs.backup(file, overwrite=force, progress=advance)
    if as_json:
        print_json({"file": file, **_facts(head)})
        return
    click.echo(f"{file}: {_summary(head)}")
    click.echo("keep the cluster secret as well: nothing can be restored without it", err=True)


@click.command()
@click.argument("file", metavar="FILE")
@click.option("--home", metavar="DIR", help="The new home: missing or empty, but for cluster.secret and monofs.toml.")
@click.option(
    "--dry-run", is_flag=True, help="Compare every byte of FILE, look at secret and home if named, and write nothing."
)
@click.option(
    "--incarnation",
    type=click.IntRange(2, 65535),
    help="Which incarnation begins; above the backup's [default: chosen].",
)
@click.option("--json", "as_json", is_flag=True, help="As one JSON object.")
@click.pass_obj
def restore(
    session: Session, file: str, home: str | None, dry_run: bool, incarnation: int | None, as_json: bool
) -> None:
    """Make DIR the home of a master with the namespace in FILE; offline.

    Needs the cluster secret of the backup: DIR/cluster.secret, or `monofs --cluster-secret-file FILE admin restore`.
    """
    from monofs.node.restoring import rehearse, restore_home

    if home is None and not dry_run:
        raise click.UsageError("--home DIR says where to; --dry-run only looks at FILE")
    directory = None if home is None else os.path.abspath(os.path.expanduser(home))
    secret = session.reach["cluster_secret_file"]
    if not secret and not os.path.exists(os.path.join(directory or "", "cluster.secret")):
        secret = os.environ.get("MONOFS_SECURITY_CLUSTER_SECRET_FILE")
    with progress("checking" if dry_run else "restoring", total=os.stat(file).st_size) as advance:
        if dry_run or directory is None:
            done = rehearse(file, directory, secret_file=secret, advance=advance)
        else:
            done = restore_home(file, directory, secret_file=secret, incarnation=incarnation, advance=advance)
    if as_json:
        print_json(
            {
                "file": file,
                "home": directory,
                "restored": not dry_run,
                **_facts(done.head) | {"incarnation": done.incarnation, "paused_jobs": done.paused},
            }
        )
        return
    click.echo(f"{file}: {_summary(done.head)}")
    if dry_run:
        click.echo("whole; nothing was written")
        return
    click.echo(
        f"restored into {directory}, incarnation {done.incarnation}: start it with `monofs serve --home {directory}`"
    )
    if done.paused:
        click.echo(
            f"{done.paused} jobs that delete or move objects are paused: `monofs job ls`, then `monofs job resume`",
            err=True,
        )
    click.echo("`monofs fs sync -R /` then takes over what the stores have had since", err=True)


def _facts(head: CopyHead) -> dict[str, object]:
    return {
        "index": head.index,
        "term": head.term,
        "cluster": head.cluster.hex(),
        "incarnation": head.incarnation,
        "inodes": head.inodes,
        "bytes": head.total_bytes,
        "created_ns": head.created_ns,
        "software": head.software,
        "crc": head.crc,
    }


def _summary(head: CopyHead) -> str:
    return (
        f"the namespace of cluster {head.cluster.hex()} at index {head.index}, {head.inodes} inodes, "
        f"{format_bytes(head.total_bytes)}, of {show_time(head.created_ns)}"
    )
