"""The commands of `monofs fs` that read files: cat head tail checksum download."""

from __future__ import annotations

import errno
import hashlib
import os
import re
import sys
import zlib
from collections.abc import Callable
from typing import Any, BinaryIO

import click

from monofs.cli.listing import json_option, printable
from monofs.cli.main import Session
from monofs.cli.output import each_of, print_json
from monofs.cli.paths import TREE_PATH
from monofs.cli.writing import tell, transferring
from monofs.client.transfer import TransferProgress
from monofs.model.errors import AlreadyExists, IsADirectory

_CHUNK = 8 << 20


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


@click.command()
@click.argument("paths", type=TREE_PATH, nargs=-1, required=True)
@click.pass_obj
def cat(session: Session, paths: tuple[str, ...]) -> None:
    """Write files to standard output."""

    def one(path: str) -> None:
        copy_range(session, path, 0, None, _stdout().write)
        _stdout().flush()

    each_of(paths, one)


class Lines(click.Command):
    """A command that takes ``-20`` for ``-n 20``."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """As click does it, with the number spelled out."""
        spelled = [word for each in args for word in (("-n", each[1:]) if re.fullmatch("-[0-9]+", each) else (each,))]
        return super().parse_args(ctx, spelled)


@click.command(cls=Lines)
@click.argument("path", type=TREE_PATH)
@click.option("-c", "size", metavar="BYTES", help="This many bytes [default: 1KiB unless -n].")
@click.option("-n", "lines", type=click.IntRange(0), help="This many lines.")
@click.pass_obj
def head(session: Session, path: str, size: str | None, lines: int | None) -> None:
    """Write the beginning of a file."""
    from monofs.config.units import parse_bytes

    check_one(size, lines)
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


@click.command(cls=Lines)
@click.argument("path", type=TREE_PATH)
@click.option("-c", "size", metavar="BYTES", help="This many bytes [default: 1KiB unless -n].")
@click.option("-n", "lines", type=click.IntRange(0), help="This many lines.")
@click.pass_obj
def tail(session: Session, path: str, size: str | None, lines: int | None) -> None:
    """Write the end of a file."""
    from monofs.config.units import parse_bytes

    check_one(size, lines)
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


def check_one(size: str | None, lines: int | None) -> None:
    """Raise ``UsageError`` when bytes and lines are asked for at once."""
    if size is not None and lines is not None:
        raise click.UsageError("give -c or -n, not both")


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


@click.command()
@click.argument("paths", type=TREE_PATH, nargs=-1, required=True)
@click.option("--algorithm", type=click.Choice(["md5", "sha256", "crc32"]), default="md5", show_default=True)
@json_option
@click.pass_obj
def checksum(session: Session, paths: tuple[str, ...], algorithm: str, as_json: bool) -> None:
    """Compute a checksum over the bytes as monofs reads them."""

    def one(path: str) -> None:
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
            click.echo(f"{digest}  {printable(path)}")

    each_of(paths, one)


@click.command()
@click.argument("source", type=TREE_PATH)
@click.argument("target", default=".")
@click.option("-r", "recursive", is_flag=True, help="A directory with everything below.")
@click.option("-f", "force", is_flag=True, help="Replace files that exist.")
@click.option("-n", "--no-overwrite", "keep", is_flag=True, help="Leave files that exist as they are, and go on.")
@json_option
@click.pass_obj
def download(
    session: Session, source: str, target: str, recursive: bool, force: bool, keep: bool, as_json: bool
) -> None:
    """Copy a file or directory to the local disk, several files at a time. A file appears under its name only when it is complete."""
    if force and keep:
        raise click.UsageError("give -f or -n, not both")
    info = session.fs.stat(source)
    if info.is_dir and not recursive:
        raise IsADirectory(f"{source} is a directory: add -r")
    name = info.name or "root"
    local = os.path.join(target, name) if os.path.isdir(target) else target
    directory = os.path.dirname(local) or "."
    if not info.is_dir and not os.path.isdir(directory):
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), directory)
    try:
        with transferring(name) as step:
            done = session.fs.download(info.path, local, recursive=info.is_dir, overwrite=force, progress=step)
    except AlreadyExists:
        if not keep:
            raise AlreadyExists(f"{local} exists: add -f to replace it", path=local) from None
        done = TransferProgress(skipped=1)
    sys.exit(tell({"source": info.path, "path": local}, done, keep=keep, as_json=as_json))
