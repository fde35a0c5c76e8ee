"""`monofs s3`: what S3 doors show besides the directories at the top."""

from __future__ import annotations

import sys

import click

from monofs.cli.group import Group
from monofs.cli.listing import json_option
from monofs.cli.main import Session
from monofs.cli.output import each_of, print_json, print_table, show_time


@click.group(cls=Group)
def s3() -> None:
    """Buckets of the S3 door (its keys: `monofs token s3`)."""


@s3.group()
def bucket() -> None:
    """Directories that are buckets under a name of their own: add, list and remove them."""


@bucket.command()
@click.argument("name")
@click.argument("path")
@click.pass_obj
def add(session: Session, name: str, path: str) -> None:
    """Make the directory PATH the bucket NAME. Every directory at the top is a bucket of its name anyway."""
    session.fs.bucket_add(name, path)
    click.echo(f"bucket {name} is {path}")


@bucket.command("ls")
@json_option
@click.pass_obj
def ls_(session: Session, as_json: bool) -> None:
    """List buckets that were given a path."""
    buckets = session.fs.bucket_list()
    if as_json:
        for each in buckets:
            print_json(each)
        return
    rows = [(each.name, each.path, show_time(each.created_ns), each.issuer or "-") for each in buckets]
    print_table(["NAME", "PATH", "MADE", "BY"], rows)
    if not buckets and sys.stderr.isatty():
        click.echo("no bucket was given a path: the directories at the top are the buckets", err=True)


@bucket.command()
@click.argument("names", metavar="NAME...", nargs=-1, required=True)
@click.pass_obj
def rm(session: Session, names: tuple[str, ...]) -> None:
    """Take names back; the directories stay as they are."""

    def one(name: str) -> int:
        session.fs.bucket_remove(name)
        click.echo(f"removed bucket {name}")
        return 0

    each_of(names, one)
