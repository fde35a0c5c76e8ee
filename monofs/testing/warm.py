"""An interpreter that has imported all of monofs and forks a process for every request: `monofs.testing.processes` starts it and asks it.

Invariant: what is forked differs from ``python -m MODULE`` only in what it need not import. So nothing that is imported here may open a
descriptor, start a thread or install a reactor (checked before the first fork), and all that belongs to a process is taken from the
request or made anew: parent, session, directory, environment, limits, streams, and what monofs reads once when it is imported.

The process becomes the caller's own child, who is a subreaper, because the process between it and this one ends at once.
The hash seed is this interpreter's: every process that one of these forks has the same one.
"""

from __future__ import annotations

import gc
import importlib
import io
import json
import os
import pkgutil
import resource
import runpy
import signal
import socket
import sys
import time
from typing import Any

import monofs
from monofs.model.errors import invariant
from monofs.testing.orphans import die_with_parent

REQUEST_BYTES = 200_000
"""The largest request; a larger one fails where it is sent."""


def import_all() -> None:
    """Import every module of monofs but the testing ones."""
    for module in pkgutil.walk_packages(monofs.__path__, "monofs."):
        if not module.name.startswith("monofs.testing") and not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    invariant("twisted.internet.reactor" not in sys.modules, "no reactor is installed before the fork")
    invariant(len(os.listdir("/proc/self/task")) == 1, "no import starts a thread")


def serve(asking: socket.socket) -> str:
    """Fork for every request until the caller is gone; returns in each new process, with the module to run."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the caller's to handle
    opened = {int(fd) for fd in os.listdir("/proc/self/fd")} - {0, 1, 2, asking.fileno()}
    invariant(len(opened) == 1, "no import opens a descriptor")  # one is of the listing
    gc.collect()
    gc.freeze()
    while True:
        request, fds, _, _ = socket.recv_fds(asking, REQUEST_BYTES, 4)
        if not request:
            os._exit(0)
        gate, held = os.pipe()
        between = os.fork()
        if not between:
            os.close(held)
            if os.fork():
                os._exit(0)
            os.read(gate, 1)  # ends when the process between has been reaped
            asking.detach()
            return become(json.loads(request), fds)
        os.close(gate)
        os.waitpid(between, 0)
        os.close(held)
        for fd in fds:
            os.close(fd)


def become(request: dict[str, Any], fds: list[int]) -> str:
    """Make this process the one that was asked for and tell the caller its id; returns the module to run."""
    *streams, telling = fds
    ask_kernel = die_with_parent()
    if ask_kernel is not None:  # a fork of the main thread is one
        ask_kernel()
    if os.getppid() != request["caller"]:
        os._exit(1)
    for fd, stream in enumerate(streams):
        os.dup2(stream, fd)
    os.closerange(3, telling)
    os.closerange(telling + 1, os.sysconf("SC_OPEN_MAX"))
    if request["session"]:
        os.setsid()
    os.chdir(request["directory"])
    os.umask(request["umask"])
    for limit in (resource.RLIMIT_NOFILE, resource.RLIMIT_FSIZE, resource.RLIMIT_AS, resource.RLIMIT_CORE):
        resource.setrlimit(limit, resource.prlimit(request["caller"], limit))
    os.environ.clear()
    os.environ.update(request["environment"])
    _begin_anew()
    _, _, module, *words = sys.orig_argv = request["words"]
    sys.argv, sys.path[0] = [sys.argv[0], *words], os.getcwd()
    os.write(telling, str(os.getpid()).encode())
    os.close(telling)
    return str(module)


def _begin_anew() -> None:
    """What an interpreter, or an import, does once when it starts."""
    from monofs.observe import failpoints

    time.tzset()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for fd, name in enumerate(("stdin", "stdout", "stderr")):
        new = _stream(fd, getattr(sys, name))
        setattr(sys, name, new)
        setattr(sys, f"__{name}__", new)
    failpoints.read_setting()


def _stream(fd: int, old: Any) -> Any:
    """As an interpreter makes it that has the settings with which ``old`` was made."""
    unbuffered = old.write_through
    buffer: Any = open(fd, f"{old.mode}b", 0 if unbuffered and fd else -1, closefd=False)  # noqa: SIM115 - it lives on
    getattr(buffer, "raw", buffer).name = old.name
    by_line = not unbuffered and (fd == 2 or buffer.isatty())
    new: Any = io.TextIOWrapper(buffer, old.encoding, old.errors, "\n", by_line, unbuffered)
    new.mode = old.mode
    return new


if __name__ == "__main__":
    import_all()
    runpy.run_module(serve(socket.socket(fileno=int(sys.argv[1]))), run_name="__main__", alter_sys=True)
