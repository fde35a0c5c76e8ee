"""`monofs fs`: look at and read the tree. Flags are those of the Unix commands of the same names."""

from __future__ import annotations

import fnmatch
import hashlib
import os
import re
import sys
import time
import zlib
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO

import click

from monofs.cli.main import Duration, Session
from monofs.cli.output import print_error, print_json, print_table, progress, show_mode, show_size, show_time
from monofs.client.info import FileInfo
from monofs.model.errors import InvalidArgument, IsADirectory, MonofsError, NoMaster, NotFound, NoWorker
from monofs.rpc.api import CachedGroup

_CHUNK = 8 << 20


@click.group()
def fs() -> None:
    """Look at and read the tree."""


def json_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """The `--json` flag."""
    return click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")(command)


def describe(info: FileInfo) -> dict[str, Any]:
    """A file as `--json` shows it."""
    return {
        "path": info.path,
        "type": "directory" if info.is_dir else "file",
        "size": info.size,
        "mtime_ns": info.mtime_ns,
        "mode": f"{info.mode:04o}",
        "uid": info.uid,
        "gid": info.gid,
        "content": info.content_id or None,
        "fingerprint": info.fingerprint or None,
        "pinned": info.pinned,
        "mount_id": info.mount or None,
    }


# ---- listing ----------------------------------------------------------------------------------------------------------


@fs.command()
@click.argument("paths", nargs=-1)
@click.option("-l", "long", is_flag=True, help="Mode, owner, size, time.")
@click.option("-h", "human", is_flag=True, help="Sizes people can read.")
@click.option("-R", "recursive", is_flag=True, help="Everything below.")
@click.option("-d", "itself", is_flag=True, help="The directory itself, not what it holds.")
@click.option("-f", "--sync", "force", is_flag=True, help="Ask the store first, however fresh the tree is.")
@click.option("--sort", type=click.Choice(["name", "size", "time"]), default="name", show_default=True)
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
            name = _printable(name) + ("/" if info.is_dir else "")
            if long:
                mode = show_mode(info.mode, is_directory=info.is_dir)
                size = show_size(info.size, human=human)
                pin = "p" if info.pinned else " "
                name = f"{mode}{pin} {info.uid:>5} {info.gid:>5} {size:>12} {show_time(info.mtime_ns)} {name}"
            click.echo(name)

    for position, path in enumerate(paths or ("/",)):
        info = session.fs.stat(path, sync_interval_s=sync)
        if itself or not info.is_dir:
            show([info], whole=True)
        elif recursive:
            show(below(session, path, sync), whole=True)
        else:
            if len(paths) > 1 and not as_json:
                click.echo(f"{chr(10) if position else ''}{path}:")
            show(session.fs.list(path, sync_interval_s=sync))
    if not shown and paths in ((), ("/",)) and sys.stderr.isatty():
        click.echo("nothing is mounted yet: `monofs mount add PATH URI` mounts a store", err=True)


def below(session: Session, path: str, sync: float | None = None) -> Iterator[FileInfo]:
    """Everything below a directory, or the file itself; each directory before what it holds."""
    found: Iterator[FileInfo] = session.fs.walk(path, sync_interval_s=sync)
    return (info for info in found if info.path != path or not info.is_dir)


def _printable(name: str) -> str:
    """Names may hold newlines and control characters; a listing is one line a name."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in name)


@fs.command()
@click.argument("paths", nargs=-1, required=True)
@click.option(
    "-f", "--format", "form", help="%n path, %s size, %y type, %m mode, %u uid, %g gid, %Y mtime, %c content id."
)
@json_option
@click.pass_obj
def stat(session: Session, paths: tuple[str, ...], form: str | None, as_json: bool) -> None:
    """Show what is known of files and directories."""
    for path in paths:
        info = session.fs.stat(path)
        if form:
            click.echo(format_info(info, form))
        elif as_json:
            print_json(describe(info))
        else:
            for name, value in describe(info).items():
                click.echo(f"{name:12} {'-' if value is None else value}")
            click.echo(f"{'modified':12} {show_time(info.mtime_ns)}")


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


@fs.command()
@click.argument("path", default="/")
@click.option("--name", "pattern", help="Names that match this shell pattern.")
@click.option("--type", "kind", type=click.Choice(["f", "d"]), help="Files or directories only.")
@click.option("--size", help="+N larger, -N smaller, N exactly; with KiB, MiB, ….")
@click.option("--newer", type=Duration(), help="Modified within this duration.")
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
            click.echo(_printable(info.path))


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


@fs.command()
@click.argument("paths", nargs=-1)
@click.option("-s", "summary", is_flag=True, help="One line for each PATH.")
@click.option("-h", "human", is_flag=True, help="Sizes people can read.")
@json_option
@click.pass_obj
def du(session: Session, paths: tuple[str, ...], summary: bool, human: bool, as_json: bool) -> None:
    """Sum up sizes below directories (sizes of the files, not of what is cached)."""
    for path in paths or ("/",):
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
        for name in sorted(totals, reverse=True) if not summary else totals:
            if as_json:
                print_json({"path": name, "bytes": totals[name]})
            else:
                click.echo(f"{show_size(totals[name], human=human)}\t{_printable(name)}")


def _add_to_ancestors(totals: dict[str, int], info: FileInfo, root: str, *, summary: bool) -> None:
    totals[root] += info.size
    if summary:
        return
    parent = info.path.rpartition("/")[0]
    while parent and parent != root:
        totals[parent] = totals.get(parent, 0) + info.size
        parent = parent.rpartition("/")[0]


@fs.command()
@click.argument("path", default="/")
@json_option
@click.pass_obj
def count(session: Session, path: str, as_json: bool) -> None:
    """Count directories, files and bytes below PATH."""
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
        print_table(["DIRECTORIES", "FILES", "BYTES", "PATH"], [(directories, files, size, path)])


@fs.command()
@click.argument("path", default="/")
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
            click.echo(f"{prefix}{'└── ' if last else '├── '}{_printable(info.name)}{'/' if info.is_dir else ''}")
            if info.is_dir and (depth is None or level < depth) and level < 900:
                draw(info.path, prefix + ("    " if last else "│   "), level + 1)
            info = following

    sys.setrecursionlimit(10_000)
    draw(path, "", 1)
    click.echo(f"\n{counts[0]} directories, {counts[1]} files")


@fs.command()
@click.argument("path")
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


# ---- reading ----------------------------------------------------------------------------------------------------------


def copy_range(session: Session, path: str, start: int, length: int | None, sink: Callable[[memoryview], Any]) -> int:
    """Pass bytes of a file to ``sink`` in bounded pieces; returns how many."""
    done = 0
    buffer = memoryview(bytearray(_CHUNK if length is None else max(1, min(_CHUNK, length))))
    with session.fs.open(path) as file:
        file.seek(start)
        while length is None or done < length:
            view = buffer if length is None else buffer[: min(len(buffer), length - done)]
            got = file.readinto(view)
            if not got:
                break
            sink(view[:got])
            done += got
    return done


def _stdout() -> BinaryIO:
    return sys.stdout.buffer


@fs.command()
@click.argument("paths", nargs=-1, required=True)
@click.pass_obj
def cat(session: Session, paths: tuple[str, ...]) -> None:
    """Write files to standard output."""
    for path in paths:
        copy_range(session, path, 0, None, _stdout().write)
    _stdout().flush()


@fs.command()
@click.argument("path")
@click.option("-c", "size", metavar="BYTES", help="This many bytes [default: 1KiB unless -n].")
@click.option("-n", "lines", type=click.IntRange(0), help="This many lines.")
@click.pass_obj
def head(session: Session, path: str, size: str | None, lines: int | None) -> None:
    """Write the beginning of a file."""
    from monofs.config.units import parse_bytes

    if lines is None:
        copy_range(session, path, 0, parse_bytes(size or "1KiB"), _stdout().write)
    else:
        with session.fs.open(path) as file:
            left = lines
            while left and (block := file.read(1 << 16)):
                end = 0
                while left and (found := block.find(b"\n", end)) >= 0:
                    end, left = found + 1, left - 1
                _stdout().write(block if left else block[:end])
    _stdout().flush()


@fs.command()
@click.argument("path")
@click.option("-c", "size", metavar="BYTES", help="This many bytes [default: 1KiB unless -n].")
@click.option("-n", "lines", type=click.IntRange(0), help="This many lines.")
@click.pass_obj
def tail(session: Session, path: str, size: str | None, lines: int | None) -> None:
    """Write the end of a file."""
    from monofs.config.units import parse_bytes

    with session.fs.open(path) as file:
        whole = file.seek(0, os.SEEK_END)
        if lines is None:
            start = max(0, whole - parse_bytes(size or "1KiB"))
        else:
            start = start_of_last_lines(file, whole, lines)
        file.seek(start)
        while block := file.read(_CHUNK):
            _stdout().write(block)
    _stdout().flush()


def start_of_last_lines(file: BinaryIO, whole: int, lines: int) -> int:
    """Where the last ``lines`` lines of a file of ``whole`` bytes begin; a line end at the very end ends the last one."""
    if lines == 0:
        return whole
    start, left = whole, lines
    while start:
        begin = max(0, start - (1 << 16))
        file.seek(begin)
        block = file.read(start - begin)
        end = len(block) - (start == whole and block.endswith(b"\n"))
        while (end := block.rfind(b"\n", 0, end)) >= 0:
            left -= 1
            if not left:
                return begin + end + 1
        start = begin
    return 0


@fs.command()
@click.argument("paths", nargs=-1, required=True)
@click.option("--algorithm", type=click.Choice(["md5", "sha256", "crc32"]), default="md5", show_default=True)
@json_option
@click.pass_obj
def checksum(session: Session, paths: tuple[str, ...], algorithm: str, as_json: bool) -> None:
    """Compute a checksum over the bytes as monofs reads them."""
    for path in paths:
        if algorithm == "crc32":
            crc = 0

            def update_crc(view: memoryview) -> None:
                nonlocal crc
                crc = zlib.crc32(view, crc)

            copy_range(session, path, 0, None, update_crc)
            digest = f"{crc:08x}"
        else:
            running = hashlib.new(algorithm, usedforsecurity=False)
            copy_range(session, path, 0, None, running.update)
            digest = running.hexdigest()
        if as_json:
            print_json({"path": path, "algorithm": algorithm, "checksum": digest})
        else:
            click.echo(f"{digest}  {_printable(path)}")


@fs.command()
@click.argument("source")
@click.argument("target", default=".")
@click.option("-r", "recursive", is_flag=True, help="A directory with everything below.")
@click.option("-f", "force", is_flag=True, help="Replace files that exist.")
@click.pass_obj
def download(session: Session, source: str, target: str, recursive: bool, force: bool) -> None:
    """Copy a file or directory to the local disk. A file appears under its name only when it is complete."""
    info = session.fs.stat(source)
    name = info.name or "root"
    if not info.is_dir:
        local = os.path.join(target, name) if os.path.isdir(target) else target
        with progress(name, total=info.size) as advance:
            _download_file(session, info, local, force=force, advance=advance)
        return
    if not recursive:
        raise IsADirectory(f"{source} is a directory: add -r")
    base = os.path.join(target, name) if os.path.isdir(target) else target
    failed = 0
    with progress(name, total=None) as advance:
        for each in (info, *below(session, info.path)):
            local = os.path.normpath(os.path.join(base, os.path.relpath(each.path, info.path)))
            try:
                if each.is_dir:
                    os.makedirs(local, exist_ok=True)
                else:
                    _download_file(session, each, local, force=force, advance=advance)
            except (MonofsError, FileExistsError, IsADirectoryError, NotADirectoryError) as error:
                if isinstance(error, (NoMaster, NoWorker)):
                    raise
                failed += 1  # the others are copied all the same, as cp -r does
                print_error(error if isinstance(error, MonofsError) else InvalidArgument(f"{local}: {error.strerror}"))
    if failed:
        click.echo(f"{failed} of the files could not be copied", err=True)
        sys.exit(1)


def _download_file(
    session: Session, info: FileInfo, local: str, *, force: bool, advance: Callable[[int], None]
) -> None:
    if os.path.exists(local) and not force:
        raise InvalidArgument(f"{local} exists: add -f to replace it")
    partial = os.path.join(os.path.dirname(local), f".monofs-tmp-{os.getpid()}")
    try:
        with open(partial, "wb", buffering=0) as file:

            def write(view: memoryview) -> None:
                left = view
                while left:
                    left = left[file.write(left) :]
                advance(len(view))

            copy_range(session, info.path, 0, None, write)
        if info.mtime_ns:
            os.utime(partial, ns=(info.mtime_ns, info.mtime_ns))
        os.replace(partial, local)
    finally:
        if os.path.exists(partial):
            os.unlink(partial)


# ---- the cache ----------------------------------------------------------------------------------------------------------


@fs.command()
@click.argument("paths", nargs=-1, required=True)
@click.option("--threads", type=click.IntRange(1, 64), default=8, show_default=True, help="Files fetched at a time.")
@json_option
@click.pass_obj
def load(session: Session, paths: tuple[str, ...], threads: int, as_json: bool) -> None:
    """Fetch files, or everything below directories, into the cache. Run again to continue after an interruption."""
    from monofs.cli.cache import run_load

    sys.exit(run_load(session, paths, threads=threads, as_json=as_json))


@fs.command()
@click.argument("path")
@click.option("-R", "recursive", is_flag=True, help="Everything below a directory.")
@click.option("-f", "force", is_flag=True, help="Pinned files too.")
@json_option
@click.pass_obj
def free(session: Session, path: str, recursive: bool, force: bool, as_json: bool) -> None:
    """Drop cached copies. Metadata and the store are not touched."""
    answer = session.fs.free(path, recursive=recursive, force=force)
    if as_json:
        print_json({"path": path, "files": answer.files, "pinned": answer.pinned})
    else:
        kept = f"; {answer.pinned} pinned kept (-f frees them)" if answer.pinned else ""
        click.echo(f"freed {answer.files} files{kept}")


@fs.command()
@click.argument("paths", nargs=-1, required=True)
@click.option("--load", "warm", is_flag=True, help="Fetch them into the cache too.")
@click.pass_obj
def pin(session: Session, paths: tuple[str, ...], warm: bool) -> None:
    """Keep files, or everything below directories, in the cache once they are there."""
    from monofs.cli.cache import run_load

    for path in paths:
        session.fs.set_pin(path, pinned=True)
        click.echo(f"pinned {path}")
    if warm:
        sys.exit(run_load(session, paths, threads=8, as_json=False))


@fs.command()
@click.argument("paths", nargs=-1, required=True)
@click.pass_obj
def unpin(session: Session, paths: tuple[str, ...]) -> None:
    """Let cached copies be evicted again."""
    for path in paths:
        session.fs.set_pin(path, pinned=False)
        click.echo(f"unpinned {path}")


def describe_group(group: CachedGroup) -> dict[str, Any]:
    """What is cached of one group of 64 pages."""
    return {
        "group": group.group,
        "pages": group.pages.bit_count(),
        "bytes": group.bytes,
        "tier": group.tier,
        "pinned": group.pinned,
        "since": show_time(group.admitted_ns),
        "last_read": show_time(group.read_ns),
    }


@fs.command()
@click.argument("path")
@json_option
@click.pass_obj
def why(session: Session, path: str, as_json: bool) -> None:
    """Explain PATH: its mount and store address, content, freshness, and what is cached where."""
    facts = session.fs.why(path)
    try:
        groups = session.fs.cached([path])[path]
    except MonofsError as error:
        facts["cached"] = f"unknown: {error}"
    else:
        facts["cached"] = [describe_group(group) for group in groups]
    if as_json:
        print_json(facts)
        return
    for name, value in facts.items():
        if isinstance(value, list):
            click.echo(f"{name}: {'nothing' if not value else ''}".rstrip())
            for item in value:
                shown = ", ".join(f"{key} {part}" for key, part in item.items()) if isinstance(item, dict) else item
                click.echo(f"  - {shown}")
        else:
            click.echo(f"{name}: {'-' if value is None else value}")
