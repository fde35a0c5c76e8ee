"""The end of a log as a topic: pushed as lines come, several times a second at most, while somebody watches.

The value is the last ``SHOWN`` lines by number; the hub sends what is new, and to a browser that fell behind the whole of it: so nothing waits for a slow one, and a storm of lines costs
one message each ``PUSH_S``. Not here: where lines come from (observe/recent.py).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from monofs.observe.recent import Recent
from monofs.web.hub import Hub

SHOWN = 500
PUSH_S = 0.25
LINE_MAX = 8000
"""Characters of one field that are shown."""


class Tail:
    """One log. Reactor thread, but for what :class:`Recent` calls."""

    def __init__(self, name: str, recent: Recent, hub: Hub, reactor: Any, now_ms: Callable[[], int]) -> None:
        self._name, self._recent, self._hub, self._reactor = name, recent, hub, reactor
        self._now_ms = now_ms
        self._timer: Any = None
        self._is_stopped = False
        recent.on_line = self._woken

    def begin(self) -> None:
        """Somebody begins to watch."""
        if self._timer is None:
            self._push()

    def stop(self) -> None:
        """The console closes."""
        self._is_stopped = True
        self._recent.on_line = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _woken(self) -> None:
        self._reactor.callFromThread(self._later)

    def _later(self) -> None:
        if self._timer is None and not self._is_stopped:
            self._timer = self._reactor.callLater(PUSH_S, self._push)

    def _push(self) -> None:
        self._timer = None
        if self._name not in self._hub.topics or self._is_stopped:
            return
        self._recent.await_line()
        first, lines = self._recent.tail(SHOWN)
        topic = self._hub.topics[self._name]
        before = topic.value or {}
        value = {
            str(number): before.get(str(number)) or read_line(line) for number, line in enumerate(lines, start=first)
        }
        self._hub.publish(self._name, value, self._now_ms())


def read_line(line: bytes) -> dict[str, Any]:
    """A line of a log; one that is no JSON object is shown as it is."""
    try:
        told = msgspec.json.decode(line)
    except (msgspec.MsgspecError, UnicodeError):
        told = None
    if not isinstance(told, dict):
        return {"event": line.decode("utf-8", "replace")[:LINE_MAX]}
    return {name: value[:LINE_MAX] if isinstance(value, str) else value for name, value in told.items()}
