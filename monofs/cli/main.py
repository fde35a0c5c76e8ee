"""The `monofs` command: global options, lazily imported groups, one connection a run."""

from __future__ import annotations

import importlib
from difflib import get_close_matches
from typing import Any

import click

import monofs
from monofs.cli.group import Group
from monofs.cli.output import EXIT_CODES, errors_as_exit_codes
from monofs.config.units import parse_duration_s
from monofs.model.errors import ConfigError

_COMMANDS = {
    "serve": "monofs.cli.serve:serve",
    "fs": "monofs.cli.fs:fs",
    "mount": "monofs.cli.mount:mount",
    "cache": "monofs.cli.cache:cache",
    "job": "monofs.cli.job:job",
    "policy": "monofs.cli.policy:policy",
    "token": "monofs.cli.token:token",
    "s3": "monofs.cli.s3:s3",
    "admin": "monofs.cli.admin:admin",
    "bench": "monofs.cli.bench:bench",
    "dev": "monofs.cli.dev:dev",
    "version": "monofs.cli.main:version",
    "help": "monofs.cli.main:help_",
}
"""Name → where it lives. Imported when used: `monofs fs ls` must not pay for the server."""


class Session:
    """What commands share: how to reach the cluster. Connects at first use."""

    def __init__(self, masters: str | None, timeout_s: float, **reach: Any) -> None:
        """``reach``: cluster_secret_file, token_file, tls_ca and consistency, as ``monofs.connect`` takes them."""
        self.masters, self.timeout_s, self.reach = masters, timeout_s, reach
        self._fs: Any = None

    @property
    def fs(self) -> Any:
        """The connected file system."""
        if self._fs is None:
            self._fs = monofs.connect(self.masters, timeout_s=self.timeout_s, **self.reach)
        return self._fs

    def close(self) -> None:
        """Close the connection, if one was made."""
        if self._fs is not None:
            self._fs.close()


class Duration(click.ParamType[float]):
    """``30``, ``5m``, ``1d12h``, ``-1``; ``words`` stand for seconds too."""

    name = "duration"

    def __init__(self, **words: float) -> None:
        self._words = words

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Seconds."""
        if isinstance(value, float):
            return value
        if value in self._words:
            return self._words[value]
        try:
            return parse_duration_s(str(value))
        except ConfigError as error:
            self.fail(str(error), param, ctx)


INTERVAL = Duration(never=-1.0, always=0.0)
"""A sync interval."""


class LazyGroup(Group):
    """A group whose commands are imported when they are used; failures become exit codes here."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """In the order of the table."""
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import one command."""
        target = _COMMANDS.get(cmd_name)
        if target is None:
            return None
        module, name = target.split(":")
        command: click.Command = getattr(importlib.import_module(module), name)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """As click does it; an unknown word is looked for in the groups too, for whoever types `monofs ls`."""
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError as error:
            meant = self.similar(ctx, args[0])
            hint = f" Did you mean {' or '.join(f'`monofs {words}`' for words in meant)}?" if meant else ""
            raise click.UsageError(f"No such command {args[0]!r}.{hint}", error.ctx) from None

    def similar(self, ctx: click.Context, word: str) -> list[str]:
        """Commands with a name like ``word``, with their groups, the best first."""
        known: dict[str, list[str]] = {}
        for name in self.list_commands(ctx):
            known.setdefault(name, []).append(name)
            command = self.get_command(ctx, name)
            for inner in command.list_commands(ctx) if isinstance(command, click.Group) else ():
                known.setdefault(inner, []).append(f"{name} {inner}")
        return [words for match in get_close_matches(word, known, 1) for words in known[match]]

    def invoke(self, ctx: click.Context) -> Any:
        """Run, and turn expected failures into messages and exit codes."""
        with errors_as_exit_codes():
            try:
                return super().invoke(ctx)
            finally:
                if isinstance(ctx.obj, Session):
                    ctx.obj.close()


@click.group(
    cls=LazyGroup,
    context_settings={"help_option_names": ["--help"], "max_content_width": 110},
    epilog="Exit codes: " + "; ".join(f"{code} {meaning}" for code, meaning in EXIT_CODES) + ".",
)
@click.option(
    "--masters", metavar="HOST:PORT,...", envvar="MONOFS_MASTERS", help="Masters to talk to [default: 127.0.0.1:19998]."
)
@click.option(
    "--token-file",
    metavar="FILE",
    help="Token to authenticate with; also MONOFS_TOKEN_FILE. Not needed on the same machine.",
)
@click.option(
    "--cluster-secret-file",
    metavar="FILE",
    help="The cluster's secret instead of a token; also MONOFS_SECURITY_CLUSTER_SECRET_FILE.",
)
@click.option(
    "--tls-ca",
    metavar="FILE",
    help="Speak TLS, and trust servers whose certificates this PEM file vouches for; also MONOFS_TLS_CA.",
)
@click.option("--timeout", type=Duration(), default=60.0, help="How long one request may take [default: 60s].")
@click.option(
    "--consistency",
    metavar="linearizable|bounded[:S]|stale",
    default="linearizable",
    help="With several masters: what looking at the namespace may miss [default: linearizable, nothing].",
)
@click.version_option(monofs.__version__, message="monofs %(version)s", help="Print the version.")
@click.pass_context
def main(ctx: click.Context, /, masters: str | None, timeout: float, **reach: Any) -> None:
    """One namespace and one cache over all your storage."""
    ctx.obj = Session(masters, timeout, **reach)


@click.command()
def version() -> None:
    """Print the version."""
    click.echo(f"monofs {monofs.__version__}")


@click.command("help")
@click.argument("words", metavar="[COMMAND]...", nargs=-1)
@click.pass_context
def help_(ctx: click.Context, words: tuple[str, ...]) -> None:
    """Show the help of a command, as --help behind it does."""
    shown = ctx.parent or ctx
    for word in words:
        if not isinstance(shown.command, click.Group):
            raise click.UsageError(f"`{shown.command_path}` has no commands")
        name, command, _ = shown.command.resolve_command(shown, [word])
        shown = click.Context(command or shown.command, info_name=name, parent=shown)
    click.echo(shown.get_help())
