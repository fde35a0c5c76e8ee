"""`monofs token`: what lets programs in from other machines, with a name, rights and an end; and keys for programs that speak S3."""

from __future__ import annotations

import sys
import time
from typing import Any

import click

from monofs.cli.group import Group
from monofs.cli.listing import json_option
from monofs.cli.main import Duration, Session
from monofs.cli.output import each_of, print_json, print_table, show_time
from monofs.model.errors import InvalidArgument
from monofs.model.token import format_rights, parse_rights
from monofs.rpc.api import TokenAddAnswer

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


@click.group(cls=Group)
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
    tokens = [each for each in session.fs.token_list() if not each.s3]
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


@token.group()
def s3() -> None:
    """Keys for programs that speak S3: issue, list, replace and remove them."""


@s3.command("add")
@click.option("--user", required=True, help="Who uses it: the name in the audit log. A user may have several keys.")
@click.option("--read-only", is_flag=True, help="It reads and lists only.")
@click.option(
    "--prefix", default="", metavar="PATH", help="Bind it to a directory: it sees PATH and what is below, nothing else."
)
@click.option(
    "--expires", type=Duration(never=NEVER_S), default="never", show_default=True,
    help="How long it is valid (90d, 12h), or never to have no end.",
)  # fmt: skip
@click.option(
    "--uid", type=click.IntRange(0), default=0, help="User it acts as, where modes are enforced and in what it makes."
)
@click.option("--gid", "groups", type=click.IntRange(0), multiple=True, help="Group it acts as; several may be given.")
@json_option
@click.pass_obj
def s3_add(
    session: Session, user: str, read_only: bool, prefix: str, expires: float, uid: int, groups: tuple[int, ...], as_json: bool,
) -> None:  # fmt: skip
    """Issue a key and print it as variables of the environment: the only time its secret is shown.

    \b
    umask 077; monofs token s3 add --user reports --read-only --prefix /lake/reports > reports.env
    """
    if expires <= 0 and expires != NEVER_S:
        raise click.UsageError("--expires is a time from now: 90d, 12h; or never")
    answer = session.fs.s3_key_add(
        user,
        read_only=read_only,
        prefix=prefix,
        expires_s=None if expires == NEVER_S else expires,
        uid=uid,
        groups=list(groups),
    )
    _show_key(answer, as_json=as_json)


@s3.command("ls")
@json_option
@click.pass_obj
def s3_ls(session: Session, as_json: bool) -> None:
    """List S3 keys; never their secrets."""
    keys = [each for each in session.fs.token_list() if each.s3]
    if as_json:
        for each in keys:
            print_json(each)
        return
    rows = [
        (
            each.shown,
            each.name,
            each.rights,
            each.prefix or "/",
            show_time(each.issued_ns),
            _end(each),
            each.issuer or "-",
        )
        for each in keys
    ]
    print_table(["ACCESS KEY", "USER", "RIGHTS", "PATH", "ISSUED", "VALID", "BY"], rows)
    if not keys and sys.stderr.isatty():
        click.echo("no S3 keys: `monofs token s3 add --user NAME` issues one", err=True)


@s3.command("rotate")
@click.argument("key", metavar="ACCESS-KEY")
@click.option(
    "--keep", type=Duration(), default="0s", show_default=True,
    help="How long the old key goes on to be valid beside the new one (1h, 7d).",
)  # fmt: skip
@json_option
@click.pass_obj
def s3_rotate(session: Session, key: str, keep: float, as_json: bool) -> None:
    """Issue a new key of the same user, rights, path and end, and print it; the old one ends at once, or after --keep."""
    _show_key(session.fs.s3_key_rotate(key, ends_in_s=keep), as_json=as_json)


@s3.command("rm")
@click.argument("keys", metavar="ACCESS-KEY...", nargs=-1, required=True)
@click.pass_obj
def s3_rm(session: Session, keys: tuple[str, ...]) -> None:
    """Remove keys: requests signed with them are refused from then on."""

    def one(key: str) -> int:
        session.fs.token_remove(key)
        click.echo(f"removed S3 key {key}")
        return 0

    each_of(keys, one)


def _show_key(answer: TokenAddAnswer, *, as_json: bool) -> None:
    if as_json:
        print_json(
            {"access_key_id": answer.info.shown, "secret_access_key": answer.token, "expires_s": answer.info.expires_s}
        )
        return
    click.echo(f"AWS_ACCESS_KEY_ID={answer.info.shown}")
    click.echo(f"AWS_SECRET_ACCESS_KEY={answer.token}")
    if sys.stderr.isatty():
        click.echo(
            f"S3 key of {answer.info.name}: {answer.info.rights} below {answer.info.prefix or '/'}, {_end(answer.info)}. The secret is not shown again",
            err=True,
        )
