"""`monofs token`: what lets programs in from other machines, with a name, rights and an end."""

from __future__ import annotations

import sys
import time
from typing import Any

import click

from monofs.cli.listing import json_option
from monofs.cli.main import Duration, Session
from monofs.cli.output import each_of, print_json, print_table, show_time
from monofs.model.errors import InvalidArgument
from monofs.model.token import format_rights, parse_rights

DEFAULT_LIFE = "30d"
NEVER_S = -1.0


class Rights(click.ParamType[str]):
    """``read``, ``write``, ``admin``, several with commas."""

    name = "read|write|admin[,…]"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Checked; as the master takes it."""
        try:
            return format_rights(parse_rights(str(value)))
        except InvalidArgument as error:
            self.fail(str(error), param, ctx)


@click.group()
def token() -> None:
    """Let programs in from other machines: issue, list and remove tokens."""


@token.command()
@click.argument("name")
@click.option(
    "--rights", type=Rights(), required=True,
    help="What it allows. write and admin include read; admin is mounts, policies, tokens and checks.",
)  # fmt: skip
@click.option(
    "--expires", type=Duration(never=NEVER_S), default=DEFAULT_LIFE, show_default=True,
    help="How long it is valid (30d, 12h), or never to have no end.",
)  # fmt: skip
@click.option(
    "--uid", type=click.IntRange(0), default=0, help="User it acts as, where modes are enforced and in what it makes."
)
@click.option("--gid", "groups", type=click.IntRange(0), multiple=True, help="Group it acts as; several may be given.")
@click.pass_obj
def add(session: Session, name: str, rights: str, expires: float, uid: int, groups: tuple[int, ...]) -> None:
    """Issue a token called NAME and print it: the only time it is shown.

    \b
    umask 077; monofs token add reports --rights read --expires 90d > reports.token
    """
    if expires <= 0 and expires != NEVER_S:
        raise click.UsageError("--expires is a time from now: 30d, 12h; or never")
    answer = session.fs.token_add(
        name, rights, expires_s=None if expires == NEVER_S else expires, uid=uid, groups=list(groups)
    )
    click.echo(answer.token)
    info = answer.info
    if sys.stderr.isatty():
        click.echo(
            f"token {info.number} ({info.name}): {info.rights}, {_end(info)}. It is not shown again: keep it in a file of mode 0600, "
            "for --token-file or MONOFS_TOKEN_FILE",
            err=True,
        )


@token.command("ls")
@json_option
@click.pass_obj
def ls_(session: Session, as_json: bool) -> None:
    """List tokens; of each only how it begins is shown."""
    tokens = session.fs.token_list()
    if as_json:
        for each in tokens:
            print_json(each)
        return
    rows = [
        (each.number, each.name, each.rights, show_time(each.issued_ns), _end(each), each.issuer or "-", each.shown)
        for each in tokens
    ]
    print_table(["ID", "NAME", "RIGHTS", "ISSUED", "VALID", "BY", "TOKEN"], rows)
    if not tokens and sys.stderr.isatty():
        click.echo("no tokens: `monofs token add NAME --rights read` issues one", err=True)


def _end(info: Any) -> str:
    if not info.expires_s:
        return "for ever"
    when = time.strftime("%Y-%m-%d %H:%M", time.localtime(info.expires_s))
    return f"{'expired' if info.expired else 'until'} {when}"


@token.command()
@click.argument("tokens", metavar="NAME|ID...", nargs=-1, required=True)
@click.pass_obj
def rm(session: Session, tokens: tuple[str, ...]) -> None:
    """Remove tokens: they let nobody in any more, and connections that came in by them are closed."""

    def one(name: str) -> int:
        session.fs.token_remove(name)
        click.echo(f"removed token {name}")
        return 0

    each_of(tokens, one)
