"""Failpoints: named places between two steps where a test makes the process die, fail or wait.

``MONOFS_FAILPOINTS="name=action[@n],…"``: at the n-th passing of ``name`` (1 without) the action happens: ``kill`` (SIGKILL to this process),
``error`` (``UfsFailed`` is raised), ``sleep:SECONDS`` (this thread only). ``name`` ``*`` with action ``tell`` writes every passing to standard
error. ``MONOFS_FAILPOINTS=@FILE``: the same read from a file at every passing, so that they can be set while the process runs; a
changed file begins to count anew. Unset, a failpoint is one look at an empty dict.
Names are registered by the call alone; tests/system/test_write_kill.py lists them all and fails when one is never passed.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time

from monofs.model.errors import UfsFailed

Actions = dict[str, list[tuple[int, str]]]


def _parse(text: str) -> Actions:
    found: Actions = {}
    for item in filter(None, (each.strip() for each in text.split(","))):
        name, _, rest = item.partition("=")
        action, _, count = rest.partition("@")
        found.setdefault(name, []).append((int(count or 1), action))
    return found


_file = _text = ""
_armed: Actions = {}
_passed: dict[str, int] = {}
_lock = threading.Lock()


def read_setting() -> None:
    """Take the setting from the environment, as importing this does."""
    global _file, _text, _armed
    _text = os.environ.get("MONOFS_FAILPOINTS", "")
    _file = _text[1:] if _text.startswith("@") else ""
    _armed = {"": []} if _file else _parse(_text)


read_setting()


def failpoint(name: str) -> None:
    """Pass the place called ``name``."""
    if _armed:
        for action in _pass(name):
            _do(name, action)


def _pass(name: str) -> list[str]:
    """Count this passing; the actions that are due at it."""
    with _lock:
        if _file:
            _look_again()
        _passed[name] = passing = _passed.get(name, 0) + 1
        everywhere = [action for _, action in _armed.get("*", ())]
        return everywhere + [action for count, action in _armed.get(name, ()) if count == passing]


def _look_again() -> None:
    global _armed, _text
    try:
        with open(_file, encoding="utf-8") as stream:
            text = stream.read()
    except FileNotFoundError:
        text = ""
    if text != _text:
        _text, _armed = text, {"": []} | _parse(text)
        _passed.clear()


def _do(name: str, action: str) -> None:
    if action == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    elif action == "error":
        raise UfsFailed(f"failpoint {name}")
    elif action == "tell":
        os.write(sys.stderr.fileno(), f"failpoint {name}\n".encode())
    elif action.startswith("sleep:"):
        time.sleep(float(action[6:]))
