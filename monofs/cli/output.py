"""What commands print, and how failures become exit codes.

Results go to standard output, everything else (progress, errors, hints) to standard error, so that output can be piped.
"""

from __future__ import annotations

import errno
import json
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import click

from monofs.config.units import format_bytes
from monofs.model.errors import MonofsError, NoMaster, NotFound, NoWorker

EXIT_CODES: list[tuple[int, str]] = [
    (0, "done"),
    (1, "failed; or a test, checksum or check is negative"),
    (2, "wrong usage: unknown command, flag, setting or malformed value"),
    (3, "no such file, directory or mount"),
    (4, "exists already, is not empty, in use, a mount point, or would be lost, as a majority of masters"),
    (5, "not permitted, read-only, or ruled out by the mount's mode"),
    (6, "no master or worker answers"),
    (7, "the under storage failed or refused"),
    (8, "the content changed while it was read"),
    (9, "busy or out of time; trying again may help"),
    (10, "no room"),
    (130, "interrupted"),
]
"""What each exit code means; `docs/cli.md` shows this table."""

_BY_CODE = {
    1001: 2, 1003: 9, 1004: 9, 1005: 2, 1006: 4, 1009: 9, 1010: 10,
    2004: 5, 2006: 6, 2007: 6,
    3001: 3, 3002: 4, 3003: 2, 3004: 2, 3005: 4, 3006: 5, 3007: 5, 3008: 2, 3009: 2, 3010: 2, 3011: 9, 3012: 4, 3013: 3, 3015: 8, 3016: 10, 3017: 4, 3018: 4,
    4001: 10, 4007: 8, 4008: 9, 5001: 9, 5002: 9, 5008: 4, 6009: 2, 6011: 4, 6013: 5, 7001: 6, 7002: 6,
}  # fmt: skip


_BY_ERRNO = {errno.ENOENT: 3, errno.EEXIST: 4, errno.EACCES: 5, errno.EPERM: 5, errno.ENOSPC: 10, errno.EDQUOT: 10}
"""Of the local disk's own failures."""


def exit_code(error: OSError | MonofsError) -> int:
    """The exit code of an expected failure."""
    if not isinstance(error, MonofsError):
        return _BY_ERRNO.get(error.errno or 0, 1)
    return _BY_CODE.get(error.code, 7 if 6000 <= error.code < 7000 else 1)


_PATTERN_HINT = "paths are taken as they are; patterns are for `monofs fs find DIRECTORY --name 'PATTERN'`"


def print_error(error: OSError | MonofsError) -> None:
    """One line, and a hint when there is one."""
    if not isinstance(error, MonofsError):
        click.echo(f"monofs: {error.filename or ''}{': ' if error.filename else ''}{error.strerror or error}", err=True)
        return
    click.echo(f"monofs: {error}", err=True)
    hint = _PATTERN_HINT if isinstance(error, NotFound) and set(error.message) & set("*?[") else error.hint
    if hint and hint not in str(error):
        click.echo(f"  hint: {hint}", err=True)


@contextmanager
def errors_as_exit_codes() -> Iterator[None]:
    """Turn expected failures into a message and an exit code; nobody sees a traceback for them."""
    try:
        yield
    except MonofsError as error:
        print_error(error)
        sys.exit(exit_code(error))
    except KeyboardInterrupt:
        click.echo("monofs: interrupted", err=True)
        with suppress(OSError):
            sys.stdout.flush()
        # everything is cleaned up by now; the interpreter would wait for threads in requests that a silent store holds
        os._exit(130)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    except OSError as error:
        print_error(error)
        sys.exit(exit_code(error))


def each_of(paths: tuple[str, ...], act: Callable[[str], int | None]) -> None:
    """``act`` on every path; exits with the code of :func:`code_of_each`."""
    sys.exit(code_of_each(paths, act))


def code_of_each(paths: tuple[str, ...], act: Callable[[str], int | None]) -> int:
    """``act`` on every path (None: all is well); one that fails is told, and the others are done all the same. The first code that
    is not 0."""
    first = 0
    for path in paths:
        try:
            code = act(path) or 0
        except (NoMaster, NoWorker, BrokenPipeError):
            raise  # going on with the next path would only take as long again
        except (MonofsError, OSError) as error:
            print_error(error)
            code = exit_code(error)
        first = first or code
    return first


def print_json(value: Any) -> None:
    """One JSON value on one line; bytes are shown as hex."""
    click.echo(json.dumps(value, default=_plain, ensure_ascii=False))


def _plain(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.hex()
    if hasattr(value, "__struct_fields__"):
        return {name: getattr(value, name) for name in value.__struct_fields__}
    return str(value)


def print_table(headers: Sequence[str], rows: Iterable[Sequence[Any]], *, indent: str = "") -> None:
    """Aligned columns; numbers to the right."""
    cells = [[str(cell) for cell in row] for row in rows]
    numeric = [
        bool(cells) and all(row[i][:1].isdigit() or row[i] in ("", "-") for row in cells) for i in range(len(headers))
    ]
    widths = [
        max(len(headers[i]), *(len(row[i]) for row in cells)) if cells else len(headers[i]) for i in range(len(headers))
    ]
    for row in [list(headers), *cells]:
        parts = [cell.rjust(w) if n else cell.ljust(w) for cell, w, n in zip(row, widths, numeric, strict=True)]
        click.echo(indent + "  ".join(parts).rstrip())


def show_size(size: int, *, human: bool) -> str:
    """A size as `-h` asks."""
    return format_bytes(size) if human else str(size)


def show_time(time_ns: int) -> str:
    """Local time to the minute, as `ls -l` shows it."""
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(time_ns / 1e9)) if time_ns else "-"


def show_seconds(seconds: float) -> str:
    """``0.5 ms``, ``42 s``, ``3 h 12 min``, ``5 d 2 h``."""
    if seconds < 1:
        return f"{seconds * 1000:g} ms"
    if seconds < 60:
        return f"{seconds:.3g} s"
    parts, left = [], round(seconds)
    for name, size in (("d", 86400), ("h", 3600), ("min", 60), ("s", 1)):
        if left >= size:
            parts.append(f"{left // size} {name}")
            left %= size
    return " ".join(parts[:2])


def show_interval(interval_s: float | None) -> str:
    """A sync interval in words."""
    if interval_s is None:
        return "as the node says"
    return "never" if interval_s < 0 else show_seconds(interval_s) if interval_s else "always"


def show_mode(mode: int, *, is_directory: bool) -> str:
    """``drwxr-xr-x``."""
    bits = "".join(c if mode & (1 << (8 - i)) else "-" for i, c in enumerate("rwxrwxrwx"))
    return ("d" if is_directory else "-") + bits


@contextmanager
def progress(title: str, *, total: int | None) -> Iterator[Callable[..., None]]:
    """Yield ``advance(bytes, total=None)``; ``total`` once it is known. A bar on a terminal; silence elsewhere, so that logs
    stay readable."""
    if not sys.stderr.isatty():
        yield lambda _amount, _total=None: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    columns = [TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn()]
    with Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True), transient=False) as bar:
        task = bar.add_task(title, total=total)
        yield lambda amount, total=None: bar.update(task, advance=amount, total=total)


@contextmanager
def status_lines(every_s: float) -> Iterator[Callable[[str, str], None]]:
    """Yield ``show(kind, words)`` for something that is waited for: one line that changes on a terminal; elsewhere a line on standard error when
    the kind is another, and else every ``every_s``."""
    if sys.stderr.isatty():
        from rich.console import Console

        with Console(stderr=True).status("") as line:
            yield lambda _, words: line.update(words)
        return
    told, at_s = "", 0.0

    def show(kind: str, words: str) -> None:
        nonlocal told, at_s
        if kind != told or time.monotonic() - at_s >= every_s:
            told, at_s = kind, time.monotonic()
            click.echo(words, err=True)

    yield show
