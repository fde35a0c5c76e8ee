"""`monofs admin journal`: what stands in the journal of a stopped node, and giving up its end."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any

import click

from monofs.cli.group import Group
from monofs.cli.output import print_json
from monofs.model.errors import NotFound, QuorumRefused

if TYPE_CHECKING:
    from monofs.journal.raft.messages import Membership
    from monofs.journal.repair import File, FrameAt


@click.group(cls=Group)
def journal() -> None:
    """Look at the journal of a stopped node. DIRECTORY is its home, or the journal in it."""


@journal.command()
@click.argument("directory", metavar="DIRECTORY")
@click.option("--json", "as_json", is_flag=True, help="One JSON object for each segment and each frame.")
def dump(directory: str, as_json: bool) -> None:
    """List segments, frames and entries."""
    from monofs.journal.repair import files_of, frames_of, locked

    path = _journal_of(directory)
    with locked(path):
        for file in files_of(path):
            shown = _segment(file)
            if as_json:
                print_json(shown)
            else:
                _print_segment(shown)
            for at in frames_of(file.segment) if file.segment is not None else ():
                frame = _frame(at)
                if as_json:
                    print_json({"frame": file.name} | frame)
                else:
                    _print_frame(frame)


@journal.command()
@click.argument("directory", metavar="DIRECTORY")
@click.option("--json", "as_json", is_flag=True, help="As one JSON object.")
def verify(directory: str, as_json: bool) -> None:
    """Read all of it, changing nothing; exit 1 if anything is damaged."""
    from monofs.journal import repair

    path = _journal_of(directory)
    with repair.locked(path):
        segments = [_segment(file) | _whole(file) for file in repair.files_of(path)]
        damage, torn_at = repair.verify(path)
    if as_json:
        print_json({"segments": segments, "damage": damage, "torn_at": torn_at})
    else:
        for each in segments:
            said = [each["note"]] if each["note"] else []
            if "last" in each:
                entries = f"entries {each['first']} to" if each["last"] >= each["first"] else "ends with entry"
                whole = f"{entries} {each['last']} whole, up to byte {each['end']} of {each['bytes']}"
                said.insert(0, f"serial {each['serial']}, {whole}")
            click.echo(f"{each['segment']}: {', '.join(said)}")
        if torn_at is not None:
            click.echo(f"a write that never ended stands at byte {torn_at}: the next start cuts it off")
        click.echo("clean" if damage is None else f"damaged: {damage}")
    sys.exit(0 if damage is None else 1)


@journal.command()
@click.argument("directory", metavar="DIRECTORY")
@click.option("--after", "index", type=int, required=True, metavar="INDEX", help="The last entry that is kept.")
def cut(directory: str, index: int) -> None:
    """Give up everything written after an entry, for ever. Copy the directory away first. Refused for a member of a group."""
    from monofs.journal.repair import cut_after, locked
    from monofs.node.forming import IDENTITY

    path = _journal_of(directory)
    if os.path.exists(os.path.join(os.path.dirname(os.path.abspath(path)), IDENTITY)):
        raise QuorumRefused(
            "this is the journal of a master among several: cut, it would forget what it acknowledged and whom it voted for. Put a new master in its "
            "place, or, when the majority is gone for good, see `monofs admin backup --home`"
        )
    with locked(path):
        cut_after(path, index)
    click.echo(f"the journal ends with entry {index}")


def _journal_of(directory: str) -> str:
    directory = os.path.expanduser(directory)
    inner = os.path.join(directory, "journal")
    if not os.path.isdir(inner) and os.path.exists(os.path.join(directory, "format")):
        raise NotFound(
            f"{directory} is the home of a node without a journal: a worker's, or one that never became ready"
        )
    return inner if os.path.isdir(inner) else directory


def _segment(file: File) -> dict[str, Any]:
    if file.segment is None:
        return {"segment": file.name, "note": file.note}
    header = file.segment.header
    return {
        "segment": file.name,
        "serial": header.serial,
        "version": header.version,
        "bytes": header.size,
        "first": header.first_index,
        "base_term": header.base_term,
        "starts_chain": header.starts_chain,
        "hard_state": {"term": header.state.term, "vote": header.state.vote},
        "membership": _membership(header.membership),
        "note": file.note,
    }


def _whole(file: File) -> dict[str, Any]:
    from monofs.journal.repair import frames_of

    if file.segment is None:
        return {}
    header = file.segment.header
    last, end, frames = header.first_index - 1, header.frames_at, 0
    for at in frames_of(file.segment):
        last, end, frames = at.last_index, at.offset + at.frame.size, frames + 1
    return {"last": last, "end": end, "frames": frames}


def _frame(at: FrameAt) -> dict[str, Any]:
    holds = at.holds
    shown: dict[str, Any] = {"offset": at.offset, "bytes": at.frame.size}
    if holds.cut is not None:
        shown["cut"] = {"first": holds.cut.first_index, "last": holds.cut.last_index}
    if holds.state is not None:
        shown["hard_state"] = {"term": holds.state.term, "vote": holds.state.vote}
    shown["entries"] = [
        {"index": index, "term": term, "kind": _kind(entry.kind), "version": entry.version, "bytes": len(entry.body)}
        for index, term, entry in holds.records
    ]
    return shown


def _kind(kind: int) -> str:
    from monofs.journal.frames import KIND_EMPTY, KIND_MEMBERSHIP
    from monofs.metadata.entry_kinds import EntryKind

    own = {KIND_EMPTY: "EMPTY", KIND_MEMBERSHIP: "MEMBERSHIP"}
    names = own | {int(each): each.name for each in EntryKind}
    return names.get(kind, str(kind))


def _membership(membership: Membership) -> dict[str, Any]:
    sets = {"voters": membership.voters, "outgoing": membership.outgoing, "learners": membership.learners}
    return {name: list(nodes) for name, nodes in sets.items()} | {"book_bytes": len(membership.book)}


def _print_segment(shown: dict[str, Any]) -> None:
    if "serial" not in shown:
        click.echo(f"{shown['segment']}: {shown['note']}")
        return
    state, membership = shown["hard_state"], shown["membership"]
    members = "; ".join(
        f"{name} {' '.join(map(str, membership[name]))}"
        for name in ("voters", "outgoing", "learners")
        if membership[name]
    )
    start = "begins the log" if shown["starts_chain"] else f"after term {shown['base_term']}"
    click.echo(
        f"{shown['segment']}: serial {shown['serial']}, version {shown['version']}, entries from {shown['first']} on, {start}; "
        f"term {state['term']}, vote {state['vote']}; {members}{'; ' + shown['note'] if shown['note'] else ''}"
    )


def _print_frame(shown: dict[str, Any]) -> None:
    said = [f"{shown['bytes']} bytes"]
    if "cut" in shown:
        said.append(f"entries {shown['cut']['first']} to {shown['cut']['last']} are discarded")
    if "hard_state" in shown:
        said.append(f"term {shown['hard_state']['term']}, vote {shown['hard_state']['vote']}")
    click.echo(f"  at {shown['offset']}: {', '.join(said)}")
    for entry in shown["entries"]:
        click.echo(f"    {entry['index']:>10}  term {entry['term']:<6} {entry['kind']:<20} {entry['bytes']} bytes")
