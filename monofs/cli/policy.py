"""`monofs policy`: settings of a path and everything below; and the commands of `monofs fs` that give things a time to live."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any, TypeVar

import click

from monofs.cli.group import Group
from monofs.cli.listing import below, json_option, printable
from monofs.cli.main import INTERVAL, Duration, Session
from monofs.cli.output import print_json, print_table, show_interval, show_seconds
from monofs.cli.paths import TREE_PATH
from monofs.config.units import format_bytes, parse_bytes
from monofs.model.block import DEFAULT_LAYOUT, LAYOUT_WHOLE
from monofs.model.errors import ConfigError, NotFound
from monofs.model.options import Priority, TtlAction, WriteType
from monofs.model.slots import REPLICAS_MAX
from monofs.rpc.api import PolicyInfo

T = TypeVar("T")


class Size(click.ParamType[int]):
    """``100GiB``, ``1.5TB``, or bytes."""

    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Bytes."""
        try:
            return value if isinstance(value, int) else parse_bytes(str(value))
        except ConfigError as error:
            self.fail(str(error), param, ctx)


class Layout(click.ParamType[int]):
    """``whole``, or the size of a block: 64MiB, 1GiB, …; ``default``: 64MiB."""

    name = "layout"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """As in model.block."""
        if value in ("whole", "default"):
            return LAYOUT_WHOLE if value == "whole" else DEFAULT_LAYOUT
        size = Size().convert(value, param, ctx)
        if size & (size - 1):
            self.fail(f"{value}: blocks have a power of two of bytes, 64MiB to 1TiB; or `whole`", param, ctx)
        return size.bit_length() - 1


def show_layout(layout: int) -> str:
    """In the words it is given in."""
    return "whole" if layout == LAYOUT_WHOLE else format_bytes(1 << layout)


class Cleared(click.ParamType[Any]):
    """Another type's values, or ``none``: take back what was set."""

    def __init__(self, inner: click.ParamType[Any], name: str) -> None:
        self.name, self._inner = name, inner

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """A value of the other type; '' for ``none``."""
        return "" if value in ("none", "") else self._inner.convert(value, param, ctx)


WRITE_TYPE = click.Choice([each.value for each in WriteType], case_sensitive=False)
"""How a write is kept."""


@click.group(cls=Group)
def policy() -> None:
    """Set how a path and everything below it is synced, written, and kept in the cache."""


@policy.command()
@click.argument("path", type=TREE_PATH)
@click.option("--sync", type=Cleared(INTERVAL, "5m|never|always"), help="How old metadata may be.")
@click.option("--write-type", type=Cleared(WRITE_TYPE, "|".join(WriteType)), help="How files are written.")
@click.option("--quota", type=Cleared(Size(), "size"), help="Cached bytes it may take, on all workers together.")
@click.option(
    "--priority", type=Cleared(click.Choice([each.value for each in Priority], case_sensitive=False), "|".join(Priority)),
    help="Which pages stay longer when room is needed.",
)  # fmt: skip
@click.option(
    "--layout", type=Cleared(Layout(), "whole|64MiB|…"),
    help="How files are cut into blocks, each cached by one worker; of files that are new or change.",
)  # fmt: skip
@click.option(
    "--replicas", type=Cleared(click.IntRange(1, REPLICAS_MAX), f"1-{REPLICAS_MAX}"),
    help="On how many workers what is cached is kept. Cached copies: they keep nothing safe.",
)  # fmt: skip
@click.option("--ttl", type=Cleared(Duration(), "duration"), help="Drop cached pages so long after they came.")
@click.pass_obj
def add(session: Session, /, path: str, **given: Any) -> None:
    """Set a policy, or change what is named of an existing one. `none` takes a setting back: it is then as above PATH."""
    given = {_FIELDS[name]: value for name, value in given.items() if value is not None}
    if not given:
        raise click.UsageError(
            "give at least one of --sync, --write-type, --quota, --priority, --ttl, --layout, --replicas"
        )
    change(session, path, given)


def change(session: Session, path: str, given: dict[str, Any]) -> None:
    """Set some fields of a path's policy ('' takes one back), leave the others, and say what it is then."""
    before = present(session, path)
    settings = {name: getattr(before, name) for name in _FIELDS.values()}
    settings |= {name: None if value == "" else value for name, value in given.items()}
    if settings["ttl_s"] is not None:
        settings["ttl_s"] = int(settings["ttl_s"])
    after = session.fs.set_policy(path, **settings)
    click.echo(f"{printable(after.path)}: {' '.join(policy_words(after)) or 'no policy any more'}")
    if given.get("replicas"):
        live = sum(worker.live for worker in session.fs.cluster().workers)
        if live < given["replicas"]:
            click.echo(f"copies are kept on {live} workers for now: no more live", err=True)


_FIELDS = {
    "sync": "sync_interval_s",
    "write_type": "write_type",
    "quota": "quota_bytes",
    "priority": "priority",
    "ttl": "ttl_s",
    "layout": "layout",
    "replicas": "replicas",
}


def present(session: Session, path: str) -> PolicyInfo:
    """The policy of exactly this path; an empty one when there is none."""
    clean = path.rstrip("/") or "/"
    found: list[PolicyInfo] = session.fs.policies()
    return next((each for each in found if each.path == clean), PolicyInfo(path))


def _shown(value: T | None, show: Callable[[T], str]) -> str:
    return "-" if value is None else show(value)


def policy_words(each: PolicyInfo) -> list[str]:
    """What a policy says, in the words it is given in."""
    row = dict(zip(("sync", "write-type", "quota", "priority", "ttl", "layout", "replicas"), _cells(each), strict=True))
    return [f"{name} {value}" for name, value in row.items() if value != "-"]


def _cells(each: PolicyInfo) -> tuple[str, ...]:
    return (
        _shown(each.sync_interval_s, show_interval),
        each.write_type or "-",
        _shown(each.quota_bytes, format_bytes),
        each.priority or "-",
        _shown(each.ttl_s, show_seconds),
        _shown(each.layout, show_layout),
        _shown(each.replicas, str),
    )


@policy.command("ls")
@json_option
@click.pass_obj
def ls_(session: Session, as_json: bool) -> None:
    """List policies. The deepest one that says something about a path wins, setting by setting."""
    policies = session.fs.policies()
    if as_json:
        for each in policies:
            print_json(each)
        return
    rows = [(*_cells(each), format_bytes(each.used_bytes), printable(each.path)) for each in policies]
    print_table(["SYNC", "WRITE-TYPE", "QUOTA", "PRIORITY", "TTL", "LAYOUT", "REPLICAS", "CACHED", "PATH"], rows)
    if not policies and sys.stderr.isatty():
        click.echo("no policies: `monofs policy add PATH …` sets one", err=True)


@policy.command()
@click.argument("path", type=TREE_PATH)
@click.pass_obj
def rm(session: Session, path: str) -> None:
    """Remove the policy of PATH; what lies above it holds again."""
    if not present(session, path).id:
        raise NotFound(f"no policy is set on {path}: `monofs policy ls` lists them")
    session.fs.remove_policy(path)
    click.echo(f"removed the policy of {printable(path)}")


@click.command("set-replication")
@click.argument("path", type=TREE_PATH)
@click.option(
    "--min", "replicas", type=click.IntRange(0, REPLICAS_MAX), required=True, help="Workers; 0: as above PATH again."
)
@click.pass_obj
def set_replication(session: Session, path: str, replicas: int) -> None:
    """Keep what is cached of PATH, and of everything below it, on so many workers. `policy add --replicas` is the same.

    These are cached copies, for speed: they keep nothing safe that no store has, and may be evicted like any others.
    """
    change(session, path, {"replicas": replicas or ""})


# ---- time to live -------------------------------------------------------------------------------------------------------

_DOES = {
    TtlAction.FREE: "drops the cached pages of",
    TtlAction.DELETE_CACHE_METADATA: "forgets (pages and metadata, not the store's objects)",
    TtlAction.DELETE: "DELETES, here and in the store,",
}


@click.command("set-ttl")
@click.argument("path", type=TREE_PATH)
@click.argument("duration", type=Duration())
@click.option(
    "--action",
    type=click.Choice([each.value for each in TtlAction]),
    default="free",
    show_default=True,
    help="What to do then.",
)
@click.option("--yes", is_flag=True, help="Needed for --action delete, which deletes from the store.")
@click.option("--dry-run", is_flag=True, help="Say what it covers now, set nothing.")
@click.pass_obj
def set_ttl(session: Session, path: str, duration: float, action: str, yes: bool, dry_run: bool) -> None:
    """Have PATH, and everything below it, freed, forgotten or deleted after DURATION (5m, 1d12h)."""
    when = f"in {show_seconds(duration)}" if duration else "at once"
    if duration < 0:
        raise click.UsageError("DURATION is a time from now: 5m, 1d12h; `unset-ttl` takes a time to live back")
    if dry_run:
        files = size = 0
        for info in below(session, path):
            files, size = files + (not info.is_dir), size + info.size
        click.echo(f"{when} it {_DOES[TtlAction(action)]} {printable(path)}: now {files} files of {format_bytes(size)}")
        return
    if action == TtlAction.DELETE and not yes:
        raise click.UsageError(
            f"--action delete deletes {path} from its store: add --yes; --dry-run says what it covers now"
        )
    session.fs.set_ttl(path, duration, action)
    click.echo(f"{printable(path)}: {action} {when}")


@click.command("unset-ttl")
@click.argument("path", type=TREE_PATH)
@click.pass_obj
def unset_ttl(session: Session, path: str) -> None:
    """Take back the time to live set on PATH itself."""
    session.fs.set_ttl(path, None, "free")
    click.echo(f"{printable(path)}: stays")
