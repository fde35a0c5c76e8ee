"""Starting Python programs as processes: cold as anyone does, or, within :func:`kept_warm`, forked from an interpreter that has
imported everything (`monofs.testing.warm`), which takes a tenth of the processor time.

Cold stays what a fork could not do truly: another command than ``python -m``, another setting of the interpreter, another network.
"""

from __future__ import annotations

import contextlib
import ctypes
import inspect
import itertools
import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from typing import Any

from monofs.testing.orphans import die_with_parent

WARM_COUNT = 2
"""Interpreters, used in turn: each has a hash seed of its own, so that nodes of one group, and a node and its next start, differ in it."""
INTERPRETER_SETTINGS = ("PYTHON", "LANG", "LC_", "LD_", "MALLOC_", "OPENSSL_", "SSL_")
"""What variables begin with that are read when an interpreter or a library starts."""
_PR_SET_CHILD_SUBREAPER = 36


class Interpreter:
    """One warm interpreter: a process with a socket it takes requests from."""

    def __init__(self) -> None:
        self.asking, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "monofs.testing.warm", str(theirs.fileno())],
                stdin=subprocess.DEVNULL, pass_fds=[theirs.fileno()], preexec_fn=die_with_parent(),
            )  # fmt: skip

    def fork(self, request: dict[str, Any], streams: list[int]) -> int:
        """The id of a new child of this process."""
        answer, telling = socket.socketpair()
        with answer:
            with telling:
                socket.send_fds(self.asking, [json.dumps(request).encode()], [*streams, telling.fileno()])
            pid = answer.recv(16)
        if not pid:
            raise OSError("the warm interpreter, or what it forked, ended; see standard error")
        return int(pid)

    def close(self) -> None:
        """End it; what it forked lives on."""
        self.asking.close()
        self._process.wait()


class _Forked(subprocess.Popen[Any]):
    """A ``Popen`` in all but how the process begins."""

    def _execute_child(self, *execution: Any) -> None:
        given = inspect.signature(super()._execute_child).bind(*execution).arguments  # type: ignore[misc]
        with open("/proc/self/status") as status:
            umask = next(line.split()[1] for line in status if line.startswith("Umask:"))
        request = {
            "caller": os.getpid(),
            "words": [os.fspath(word) for word in given["args"]],
            "environment": dict(os.environ if given["env"] is None else given["env"]),
            "directory": os.fspath(given["cwd"] or os.getcwd()),
            "umask": int(umask, 8),
            "session": given["start_new_session"],
        }
        streams = [given["p2cread"], given["c2pwrite"], given["errwrite"]]
        try:
            with _turn:
                interpreter = next(_interpreters)
            self.pid = interpreter.fork(request, [fd if own == -1 else own for fd, own in enumerate(streams)])
            self._child_created = True
        finally:
            pipes = ("p2cread", "p2cwrite", "c2pread", "c2pwrite", "errread", "errwrite")
            self._close_pipe_fds(*(given[name] for name in pipes))  # type: ignore[attr-defined]


_interpreters: Iterator[Interpreter] = iter(())
_turn = threading.Lock()
_owner = ("", 0)
"""Network namespace and process id of who keeps interpreters warm."""


def begin(words: list[str], **options: Any) -> subprocess.Popen[Any]:
    """Start a process: ``subprocess.Popen``, warm where that makes no difference. One that is warm dies with this process."""
    return (_Forked if _may_fork(words, options.get("env")) else subprocess.Popen)(words, **options)


def run(words: list[str], *, timeout_s: float, **options: Any) -> subprocess.CompletedProcess[Any]:
    """``subprocess.run`` by :func:`begin`, with what is printed."""
    with begin(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **options) as process:
        try:
            out, err = process.communicate(timeout=timeout_s)
        except BaseException:
            process.kill()
            raise
    return subprocess.CompletedProcess(words, process.returncode, out, err)


@contextlib.contextmanager
def kept_warm() -> Iterator[None]:
    """Within this, :func:`begin` forks; the interpreters start when they are first needed. Not for two at a time."""
    global _interpreters, _owner
    started: list[Interpreter] = []

    def start() -> Iterator[Interpreter]:
        while len(started) < WARM_COUNT:
            started.append(Interpreter())
            yield started[-1]
        yield from itertools.cycle(started)

    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1)
    _interpreters, _owner = start(), (_network(), os.getpid())
    try:
        yield
    finally:
        _owner = ("", 0)
        for each in started:
            each.close()


@contextlib.contextmanager
def cold() -> Iterator[None]:
    """Within this, :func:`begin` starts processes as users do."""
    global _owner
    kept, _owner = _owner, ("", 0)
    try:
        yield
    finally:
        _owner = kept


def _may_fork(words: list[str], environment: dict[str, str] | None) -> bool:
    def settings(of: Any) -> dict[str, str]:
        return {name: value for name, value in of.items() if name.startswith(INTERPRETER_SETTINGS)}

    here = (_network(), os.getpid()) == _owner and words[:2] == [sys.executable, "-m"]
    return here and (environment is None or settings(environment) == settings(os.environ))


def _network() -> str:
    return os.readlink("/proc/thread-self/ns/net")
