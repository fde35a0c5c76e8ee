"""The commands of `monofs fs` that steer the cache: free pin unpin why. Not here: load (loading.py)."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from typing import Any

import click

from monofs.cli.job import age, start
from monofs.cli.listing import json_option, printable, show_ttl
from monofs.cli.loading import run_load
from monofs.cli.main import Session
from monofs.cli.output import code_of_each, each_of, print_json, show_seconds, show_time
from monofs.cli.paths import TREE_PATH
from monofs.cli.policy import policy_words, show_layout
from monofs.config.units import format_bytes
from monofs.model.errors import MonofsError
from monofs.model.options import UfsMode
from monofs.rpc.api import CachedAnswer, CachedGroup, PolicyInfo


@click.command()
@click.argument("path", type=TREE_PATH)
@click.option(
    "-R", "-r", "recursive", is_flag=True, help="Everything below a directory, by a job that outlives this command."
)
@click.option("-f", "force", is_flag=True, help="Pinned files too.")
@click.option("--detach", is_flag=True, help="With -R: do not wait for the job.")
@json_option
@click.pass_obj
def free(session: Session, path: str, recursive: bool, force: bool, detach: bool, as_json: bool) -> None:
    """Drop cached copies. Metadata and the store are not touched, nor what only the cache has."""
    if recursive:
        session.fs.stat(path, sync_interval_s=-1.0)
        arguments = {"force": "true"} if force else {}
        sys.exit(start(session, "free", (path,), detach=detach, as_json=as_json, **arguments))
    answer = session.fs.free(path, force=force)
    if as_json:
        print_json({"path": path, "files": answer.files, "pinned": answer.pinned})
    else:
        kept = f"; {answer.pinned} pinned kept (-f frees them)" if answer.pinned else ""
        click.echo(f"freed {answer.files} files{kept}")


@click.command()
@click.argument("paths", type=TREE_PATH, nargs=-1, required=True)
@click.option("--load", "warm", is_flag=True, help="Fetch them into the cache too.")
@click.pass_obj
def pin(session: Session, paths: tuple[str, ...], warm: bool) -> None:
    """Keep files, or everything below directories, in the cache once they are there."""

    def one(path: str) -> None:
        session.fs.set_pin(path, pinned=True)
        click.echo(f"pinned {printable(path)}")

    code = code_of_each(paths, one)
    sys.exit(code or (run_load(session, paths) if warm else 0))


@click.command()
@click.argument("paths", type=TREE_PATH, nargs=-1, required=True)
@click.pass_obj
def unpin(session: Session, paths: tuple[str, ...]) -> None:
    """Let cached copies be evicted again."""

    def one(path: str) -> None:
        session.fs.set_pin(path, pinned=False)
        click.echo(f"unpinned {printable(path)}")

    each_of(paths, one)


_LEFT = {
    "evicted": "evicted to make room for others",
    "freed": "freed by command or time to live",
    "retired": "its content was replaced or deleted",
    "expired": "its policy's time to live had passed",
    "damaged": "failed its checksum",
    "dropped": "dropped with all others: the worker met another cluster, or was away too long",
}


def describe_group(address: str, group: CachedGroup) -> dict[str, Any]:
    """What is cached of one group of 64 pages."""
    return {
        "worker": address,
        "group": group.group,
        "pages": group.pages.bit_count(),
        "bytes": group.bytes,
        "tier": group.tier,
        "pinned": group.pinned,
        "since": show_time(group.admitted_ns),
        "last_read": show_time(group.read_ns),
    }


@click.command()
@click.argument("path", type=TREE_PATH)
@json_option
@click.pass_obj
def why(session: Session, path: str, as_json: bool) -> None:
    """Explain PATH: its mount and store address, content, freshness, open changes, what is cached where, and why the last read missed."""
    facts = session.fs.why(path)
    if facts.get("exists") and facts.get("kind") == "file":
        facts |= residency(session.fs.cached_on(path), facts.pop("silent", {}))
    if as_json:
        print_json(facts)
        return
    for label, value in told(facts):
        if isinstance(value, list):
            click.echo(f"{label}: {'nothing' if not value else ''}".rstrip())
            for item in value:
                shown = ", ".join(f"{key} {part}" for key, part in item.items()) if isinstance(item, dict) else item
                click.echo(f"  - {shown}")
        elif isinstance(value, dict):
            click.echo(
                f"{label}: {', '.join(f'{key} {part}' for key, part in value.items() if part not in (None, ''))}"
            )
        else:
            click.echo(f"{label}: {value}")


def residency(answers: dict[str, CachedAnswer | MonofsError], silent: dict[str, float]) -> dict[str, Any]:
    """Where a content is cached, and what its workers remember of pages that left. ``silent``: for how many seconds the master has not heard a worker."""
    cached, left = [], []
    for address, answer in answers.items():
        if isinstance(answer, MonofsError):
            silence = {"silent_s": silent[address]} if address in silent else {}
            cached.append({"worker": address, "error": str(answer), **silence})
            continue
        cached += [describe_group(address, group) for group in answer.groups]
        here = {group.group for group in answer.groups}
        left += [
            {
                "worker": address,
                "group": each.group,
                "why": _LEFT.get(each.why, each.why),
                "when": show_time(each.at_ns),
            }
            for each in answer.gone
            if each.group not in here
        ]
    facts: dict[str, Any] = {"cached": cached}
    if left:
        facts["left_the_cache"] = left
    elif answers and not cached:
        facts["missed_because"] = (
            "no read or write of this version has left anything in a cache, as far as workers remember"
        )
    return facts


_FLAGS = {
    "explicit": "explicit (made by a user or for a mount: stays when the store has no such prefix)",
    "persisted": "persisted (the store holds it)",
    "pinned": "pinned (never evicted)",
    "intent": "intent (a change is under way in the store)",
    "headers_unknown": "headers unknown (user metadata was not asked for)",
    "loaded": "loaded (the whole listing was taken over)",
    "mount": "mount point",
    "made": "made by mounting (goes with the last mount below)",
}
_LABELS = {
    "answered_from": "answered from",
    "sync_interval_s": "may be as old as",
    "age_s": "last looked at",
    "store_state": "state of the store",
    "store_error": "error of the store",
    "stale_served": "served although older",
    "changed_index": "changed by journal entry",
    "fingerprint": "version in the store",
    "placed": "workers responsible, first the owner",
    "placed_left_out": "further blocks, not shown",
    "places": "workers that keep it",
    "moves_to": "its object will move to",
    "intents": "open changes",
    "ufs_mode": "store's mode",
    "ttl": "time to live",
    "left_the_cache": "left the cache, so that the next read misses",
    "missed_because": "why a read misses",
}


def told(facts: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """The facts of `why` for people: names without underscores, units, and nothing that says nothing."""
    for name, value in facts.items():
        label = _LABELS.get(name, name)
        if name in ("store_error", "stale_served", "ufs_mode") and value in ("", False, UfsMode.READ_WRITE):
            continue
        if name in _TOLD:
            yield label, _TOLD[name](value)
        elif isinstance(value, bool):
            yield label, "yes" if value else "no"
        else:
            yield label, "-" if value is None or value == "" else value


def _interval(value: float | None) -> str:
    if value is None:
        return "-"
    return "any age" if value < 0 else show_seconds(value) if value else "looked at each time"


def _intent(each: dict[str, Any]) -> str:
    why = f": {each['error']}" if each["error"] else ""
    return f"{each['operation']}: {each['kind']}, {each['state']}, for {age(each['since_ns'])}{why}"


def _cached(each: dict[str, Any]) -> Any:
    if "silent_s" not in each:
        return each
    return f"worker {each['worker']} is lost: the master has not heard it for {show_seconds(each['silent_s'])} ({each['error']})"


def _policy(each: dict[str, Any]) -> str:
    info = PolicyInfo(**each)
    return f"{', '.join(policy_words(info))} (set on {printable(info.path)})"


_TOLD: dict[str, Callable[[Any], Any]] = {
    "flags": lambda value: [_FLAGS.get(flag, flag) for flag in value],
    "sync_interval_s": _interval,
    "age_s": lambda value: "not since the master started" if value is None else f"{show_seconds(value)} ago",
    "size": lambda value: f"{value} bytes" + (f" ({format_bytes(value)})" if value >= 1024 else ""),
    "intents": lambda value: [_intent(each) for each in value],
    "cached": lambda value: [_cached(each) for each in value],
    "job": lambda value: f"{value['number']}: {value['kind']} of {printable(value['path'])}",
    "policy": _policy,
    "placed": lambda value: [
        f"block {each['block']} (slot {each['slot']}): {', '.join(map(str, each['workers'])) or 'none lives'}"
        for each in value
    ],
    "layout": show_layout,
    "ttl": show_ttl,
    "persistence": lambda value: value.replace("persisted", "persisted (the store holds it)").replace(
        "cache-only", "cache-only (no store holds it: lost with the last worker that keeps it)"
    ),
}
"""How facts are told that are not plain words and numbers."""
