"""Failpoints: named places between two steps where a test makes the process die, fail or wait.

``MONOFS_FAILPOINTS="name=action[@n],…"``: at the n-th passing of ``name`` (1 without) the action happens: ``kill`` (SIGKILL to this process),
``error`` (``UfsFailed`` is raised) or ``sleep:SECONDS`` (this thread only). Unset, a failpoint is one look at an empty dict.
Names are registered by the call alone; tests/system/test_write_kill.py lists them all and fails when one is never passed.
"""

from __future__ import annotations

import os
import signal
import time

from monofs.model.errors import UfsFailed


def _parse(text: str) -> dict[str, list[tuple[int, str]]]:
    found: dict[str, list[tuple[int, str]]] = {}
    for item in filter(None, (each.strip() for each in text.split(","))):
        name, _, rest = item.partition("=")
        action, _, count = rest.partition("@")
        found.setdefault(name, []).append((int(count or 1), action))
    return found


_ARMED = _parse(os.environ.get("MONOFS_FAILPOINTS", ""))
_passed: dict[str, int] = {}


def failpoint(name: str) -> None:
    """Pass the place called ``name``."""
    if _ARMED and name in _ARMED:
        _pass(name)


def _pass(name: str) -> None:
    _passed[name] = _passed.get(name, 0) + 1
    for count, action in _ARMED[name]:
        if count != _passed[name]:
            continue
        if action == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if action == "error":
            raise UfsFailed(f"failpoint {name}")
        if action.startswith("sleep:"):
            time.sleep(float(action[6:]))
