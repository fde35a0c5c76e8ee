"""`monofs serve` in the foreground: reactor, signals, exit codes.

A failure that makes it unsafe to go on (journal, database, broken invariant) ends the process at once, without a clean stop: what was
acknowledged is on disk, and the next start verifies before it serves.
"""

from __future__ import annotations

import faulthandler
import gc
import os
import resource
import signal
import sys
from typing import Any

from twisted.python.failure import Failure

from monofs.config.loader import Loaded
from monofs.model.errors import MonofsError
from monofs.node.reactor import install_reactor
from monofs.observe.logs import logger

log = logger(__name__)
EXIT_UNSAFE = 70
"""EX_SOFTWARE of sysexits.h: the node stopped itself to protect data."""
YOUNG_OBJECTS = 10_000
"""How many objects more than were freed make the interpreter look for cycles, of which a node makes few: at its own 700 that is 4 % of
what a small write costs the reactor."""


def run_node(loaded: Loaded, *, skip: frozenset[int] = frozenset()) -> int:
    """Serve until SIGTERM or SIGINT; returns the exit code. Raises ``MonofsError`` when the node cannot start.

    ``skip``: journal indexes that replay passes over, the operator's remedy for an entry no release can apply.
    """
    faulthandler.enable()
    sys.setswitchinterval(0.0005)
    raise_open_files(loaded.config.node.open_files)
    reactor = install_reactor()
    from monofs.node.node import Node

    outcome: dict[str, Any] = {"code": 0, "error": None}
    node = Node(loaded, reactor, on_fatal=die, skip=skip)

    def stop(*_: object) -> None:
        if reactor.running and not outcome.get("stopping"):
            outcome["stopping"] = True
            node.stop().addBoth(lambda _: reactor.stop())

    def failed(failure: Failure) -> None:
        if outcome.get("stopping"):  # stopped before it had started
            return
        outcome["stopping"] = True
        outcome["code"] = 1
        outcome["error"] = failure.value
        node.stop().addBoth(lambda _: reactor.stop())

    def begin() -> None:
        signal.signal(signal.SIGTERM, lambda *_: reactor.callFromThread(stop))
        signal.signal(signal.SIGINT, lambda *_: reactor.callFromThread(stop))
        node.start().addErrback(failed)

    node.open()  # blocking: locks the home, replays the journal; raises MonofsError before anything listens
    gc.freeze()  # what stands now stays
    gc.set_threshold(YOUNG_OBJECTS, 20, 20)
    reactor.callWhenRunning(begin)
    reactor.run(installSignalHandlers=False)
    node.close()
    error = outcome["error"]
    if isinstance(error, MonofsError):
        raise error
    if error is not None:
        print(f"monofs: the node could not start: {error!r}; see its log", file=sys.stderr)  # noqa: T201
    return int(outcome["code"])


def die(error: BaseException) -> None:
    """End the process now; the reason goes to the log and to standard error."""
    log.error("node stops itself", exception=error, reason=str(error) or repr(error))
    sys.stderr.write(f"monofs: stopped to protect data: {error or repr(error)}\n")
    sys.stderr.flush()
    os._exit(EXIT_UNSAFE)


def raise_open_files(wanted: int) -> int:
    """Raise the soft limit of open files as far as allowed; returns what was got."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    target = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    if target > soft:
        resource.setrlimit(resource.RLIMIT_NOFILE, (target, hard))
        soft = target
    return soft
