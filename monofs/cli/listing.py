"""The commands of `monofs fs` that look at the tree: ls stat find du count tree test."""

from __future__ import annotations

import fnmatch
import re
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import click
import msgspec

from monofs.cli.main import Duration, Session
from monofs.cli.output import (
    code_of_each,
    each_of,
    print_json,
    print_table,
    show_mode,
    show_seconds,
    show_size,
    show_time,
)
from monofs.cli.paths import TREE_PATH
from monofs.client.info import FileInfo, describe
from monofs.model.errors import NotFound


def json_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """The `--json` flag."""
    return click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")(command)


@click.command()
@click.argument("paths", type=TREE_PATH, nargs=-1)
@click.option("-l", "long", is_flag=True, help="Mode (p: pinned, c: in the cache only), owner, size, time.")
@click.option("-h", "human", is_flag=True, help="Sizes people can read.")
@click.option("-R", "recursive", is_flag=True, help="Everything below.")
@click.option("-d", "itself", is_flag=True, help="The directory itself, not what it holds.")
@click.option("-f", "--sync", "force", is_flag=True, help="Ask the store first, however fresh the tree is.")
@click.option("--sort", type=click.Choice(["name", "size", "time"]), default="name", show_default=True)
@click.option("-S", "sort", flag_value="size", help="As --sort size: the largest first.")
@click.option("-t", "sort", flag_value="time", help="As --sort time: the newest first.")
@click.option("-a", "_all", is_flag=True, help="Nothing is hidden: what ls does anyway.")
@click.option("-1", "_single", is_flag=True, help="One name a line: what ls does anyway.")
@click.option("-r", "reverse", is_flag=True, help="Reverse the order.")
@json_option
@click.pass_obj
def ls(
    session: Session,
    paths: tuple[str, ...],
    long: bool,
    human: bool,
    recursive: bool,
    itself: bool,
    force: bool,
    sort: str,
    _all: bool,
    _single: bool,
    reverse: bool,
    as_json: bool,
) -> None:
    """List files and directories."""
    sync = 0.0 if force else None
    shown = False

    def show(infos: Iterator[FileInfo] | list[FileInfo], *, whole: bool = False) -> None:
        nonlocal shown
        if sort != "name" or reverse:
            key: Callable[[FileInfo], Any] = {
                "name": lambda info: info.name,
                "size": lambda info: -info.size,
                "time": lambda info: -info.mtime_ns,
            }[sort]
            infos = sorted(infos, key=key)[:: -1 if reverse else 1]
        for info in infos:
            shown = True
            if as_json:
                print_json(describe(info))
                continue
            name = info.path if whole else info.name
            name = printable(name) + ("/" if info.is_dir else "")
            if long:
                mode = show_mode(info.mode, is_directory=info.is_dir)
                size = show_size(info.size, human=human)
                marks = ("p" if info.pinned else " ") + ("c" if info.is_file and not info.is_persisted else " ")
                name = f"{mode}{marks} {info.uid:>5} {info.gid:>5} {size:>12} {show_time(info.mtime_ns)} {name}"
            click.echo(name)

    headed = len(paths) > 1 and not (as_json or recursive)

    def one(path: str) -> None:
        nonlocal shown
        info = session.fs.stat(path, sync_interval_s=sync)
        if itself or not info.is_dir:
            show([info], whole=True)
        elif recursive:
            show(below(session, path, sync), whole=True)
        else:
            if headed:
                click.echo(f"{chr(10) if shown else ''}{path}:")
                shown = True
            show(handed_down(session.fs.list(path, sync_interval_s=sync), info))

    code = code_of_each(paths or ("/",), one)
    if not shown and paths in ((), ("/",)) and sys.stderr.isatty():
        click.echo("nothing is mounted yet: `monofs mount add PATH URI` mounts a store", err=True)
    sys.exit(code)


def below(session: Session, path: str, sync: float | None = None) -> Iterator[FileInfo]:
    """Everything below a directory, or the file itself; each directory before what it holds."""
    top = session.fs.stat(path, sync_interval_s=sync)
    if not top.is_dir:
        return iter((top,))
    return handed_down(session.fs.walk(top.path, sync_interval_s=sync), top)


def handed_down(infos: Iterator[FileInfo], top: FileInfo) -> Iterator[FileInfo]:
    """What lies below ``top`` in the order of a walk, each with the mount and the pin of the directory that holds it: listings
    name either only where it begins."""
    above = [top]
    for info in infos:
        parent = info.path.rpartition("/")[0] or "/"
        while above[-1].path != parent:
            above.pop()
        mount, pinned = info.mount or above[-1].mount, info.pinned or above[-1].pinned
        if (mount, pinned) != (info.mount, info.pinned):
            info = msgspec.structs.replace(info, mount=mount, pinned=pinned)
        if info.is_dir:
            above.append(info)
        yield info


def printable(name: str) -> str:
    """Names may hold newlines and control characters; a listing is one line a name."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in name)


@click.command()
@click.argument("paths", type=TREE_PATH, nargs=-1, required=True)
@click.option(
    "-f", "--format", "form", help="%n path, %s size, %y type, %m mode, %u uid, %g gid, %Y mtime, %c content id."
)
@json_option
@click.pass_obj
def stat(session: Session, paths: tuple[str, ...], form: str | None, as_json: bool) -> None:
    """Show what is known of files and directories."""

    def one(path: str) -> None:
        info = session.fs.stat(path)
        if form:
            click.echo(format_info(info, form))
            return
        facts = session.fs.why(path)
        known = describe(info) | {name: facts.get(name) for name in ("store", "moves_to", "job", "ttl")}
        if as_json:
            print_json(known)
            return
        if known["job"] is not None:
            known["job"] = f"{known['job']['number']} ({known['job']['kind']} of {known['job']['path']})"
        if known["ttl"] is not None:
            known["ttl"] = show_ttl(known["ttl"])
        for name, value in known.items():
            if value is not None or name in ("content", "fingerprint", "mount_id"):
                click.echo(f"{name:12} {'-' if value is None else value}")
        click.echo(f"{'modified':12} {show_time(info.mtime_ns)}")

    each_of(paths, one)


def show_ttl(ttl: dict[str, Any]) -> str:
    """A time to live as `stat` and `why` tell it."""
    left_s = ttl["expires_ns"] / 1e9 - time.time()
    when = f"in {show_seconds(round(left_s))}" if left_s >= 1 else "now"
    return f"{ttl['action']} {when} ({show_time(ttl['expires_ns'])}), set on {printable(ttl['path'])}"


def format_info(info: FileInfo, form: str) -> str:
    """`stat -f`: replace the marks of ``form``."""
    fields = {
        "%n": info.path,
        "%s": str(info.size),
        "%y": "directory" if info.is_dir else "file",
        "%m": f"{info.mode:o}",
        "%u": str(info.uid),
        "%g": str(info.gid),
        "%Y": str(info.mtime_ns // 10**9),
        "%c": info.content_id or "-",
    }
    return re.sub("%[nsymugYc]", lambda mark: fields[mark.group()], form)


@click.command()
@click.argument("path", type=TREE_PATH, default="/")
@click.option("--name", "-name", "pattern", help="Names that match this shell pattern.")
@click.option("--type", "-type", "kind", type=click.Choice(["f", "d"]), help="Files or directories only.")
@click.option("--size", "-size", help="+N larger, -N smaller, N exactly; with KiB, MiB, ….")
@click.option("--newer", "-newer", type=Duration(), help="Modified within this duration.")
@json_option
@click.pass_obj
def find(
    session: Session,
    path: str,
    pattern: str | None,
    kind: str | None,
    size: str | None,
    newer: float | None,
    as_json: bool,
) -> None:
    """Print the paths below PATH that match."""
    fits = _size_test(size)
    since = time.time_ns() - int(newer * 1e9) if newer is not None else None
    for info in below(session, path):
        if pattern is not None and not fnmatch.fnmatchcase(info.name, pattern):
            continue
        if kind is not None and info.is_dir != (kind == "d"):
            continue
        if not fits(info.size) or (since is not None and info.mtime_ns < since):
            continue
        if as_json:
            print_json(describe(info))
        else:
            click.echo(printable(info.path))


def _size_test(text: str | None) -> Callable[[int], bool]:
    from monofs.config.units import parse_bytes

    if not text:
        return lambda _size: True
    sign, number = (text[0], text[1:]) if text[0] in "+-" else ("", text)
    bound = parse_bytes(number)
    if sign == "+":
        return lambda size: size > bound
    if sign == "-":
        return lambda size: size < bound
    return lambda size: size == bound


@click.command()
@click.argument("paths", type=TREE_PATH, nargs=-1)
@click.option("-s", "summary", is_flag=True, help="One line for each PATH.")
@click.option("-h", "human", is_flag=True, help="Sizes people can read.")
@json_option
@click.pass_obj
def du(session: Session, paths: tuple[str, ...], summary: bool, human: bool, as_json: bool) -> None:
    """Sum up sizes below directories (sizes of the files, not of what is cached)."""

    def one(path: str) -> None:
        root = session.fs.stat(path)
        if not root.is_dir:
            totals = {root.path: root.size}
        else:
            totals = {root.path: 0}
            for info in below(session, root.path):
                if info.is_dir and not summary:
                    totals.setdefault(info.path, 0)
                if not info.is_dir:
                    _add_to_ancestors(totals, info, root.path, summary=summary)
        for name in sorted(totals, key=_after_its_children):
            if as_json:
                print_json({"path": name, "bytes": totals[name]})
            else:
                click.echo(f"{show_size(totals[name], human=human)}\t{printable(name)}")

    each_of(paths or ("/",), one)


def _after_its_children(path: str) -> list[str]:
    """Sorts directories as du(1) tells them: by name, each behind those it holds."""
    return [*(name for name in path.split("/") if name), "\U0010ffff"]


def _add_to_ancestors(totals: dict[str, int], info: FileInfo, root: str, *, summary: bool) -> None:
    totals[root] += info.size
    if summary:
        return
    parent = info.path.rpartition("/")[0]
    while parent and parent != root:
        totals[parent] = totals.get(parent, 0) + info.size
        parent = parent.rpartition("/")[0]


@click.command()
@click.argument("paths", type=TREE_PATH, nargs=-1)
@click.option("-h", "human", is_flag=True, help="Sizes people can read.")
@json_option
@click.pass_obj
def count(session: Session, paths: tuple[str, ...], human: bool, as_json: bool) -> None:
    """Count directories, files and bytes below PATH."""
    rows = []

    def one(path: str) -> None:
        files = directories = size = 0
        for info in below(session, path):
            if info.is_dir:
                directories += 1
            else:
                files += 1
                size += info.size
        if as_json:
            print_json({"path": path, "directories": directories, "files": files, "bytes": size})
        else:
            rows.append((directories, files, show_size(size, human=human), printable(path)))

    code = code_of_each(paths or ("/",), one)
    if rows:
        print_table(["DIRECTORIES", "FILES", "BYTES", "PATH"], rows)
    sys.exit(code)


@click.command()
@click.argument("path", type=TREE_PATH, default="/")
@click.option("-L", "depth", type=click.IntRange(1), help="Levels to show.")
@click.pass_obj
def tree(session: Session, path: str, depth: int | None) -> None:
    """Draw the tree below PATH."""
    click.echo(path)
    counts = [0, 0]

    def draw(directory: str, prefix: str, level: int) -> None:
        infos = session.fs.list(directory)
        info = next(infos, None)
        while info is not None:
            following = next(infos, None)
            last = following is None
            counts[0 if info.is_dir else 1] += 1
            click.echo(f"{prefix}{'└── ' if last else '├── '}{printable(info.name)}{'/' if info.is_dir else ''}")
            if info.is_dir and (depth is None or level < depth) and level < 900:
                draw(info.path, prefix + ("    " if last else "│   "), level + 1)
            info = following

    sys.setrecursionlimit(10_000)
    draw(path, "", 1)
    click.echo(f"\n{counts[0]} directories, {counts[1]} files")


@click.command()
@click.argument("path", type=TREE_PATH)
@click.option("-e", "check", flag_value="e", help="It exists (default).")
@click.option("-f", "check", flag_value="f", help="It is a file.")
@click.option("-d", "check", flag_value="d", help="It is a directory.")
@click.option("-s", "check", flag_value="s", help="It is a file of more than 0 bytes.")
@click.option("-z", "check", flag_value="z", help="It is a file of 0 bytes.")
@click.pass_obj
def test(session: Session, path: str, check: str | None) -> None:
    """Exit 0 when PATH is what the flag says, 1 when it is not."""
    try:
        info = session.fs.stat(path)
    except NotFound:
        sys.exit(1)
    result = {
        "e": True,
        "f": not info.is_dir,
        "d": info.is_dir,
        "s": not info.is_dir and info.size > 0,
        "z": not info.is_dir and info.size == 0,
    }[check or "e"]
    sys.exit(0 if result else 1)
