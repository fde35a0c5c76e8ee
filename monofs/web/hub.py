"""Topics and who watches them: each change is encoded once, however many watch. Pure.

A topic has a *value* (nested dicts of JSON). Who subscribes gets the whole of it, then changes: ``{"=": {key: value}, "-": [key], "~": {key: change}}``. Invariant: a watcher's
messages of one topic, applied in order, give the topic's value; one whose connection is full is sent nothing more, and when it drains gets whole values of what it
missed, and is told how much that was: it never slows the others, and its queue is its connection's buffer. A topic that cannot be had says so, and keeps its value, which is then old.
Not here: where values come from (topics.py), sockets (socket.py).
"""

from __future__ import annotations

from typing import Any, Protocol

from monofs.web.records import encode_json as _encode

TOPICS_MAX = 64
"""Topics one watcher may have."""


class Watcher(Protocol):
    """One connection."""

    is_full: bool

    def send(self, message: bytes) -> None:
        """Text, UTF-8."""


class Topic:
    """``value`` None: nothing came yet. ``name``: as watchers know it; of two of the same name, each somebody's own, more follows a NUL in :attr:`Hub.topics`."""

    def __init__(self, name: str) -> None:
        self.name = name.partition("\0")[0]
        self.value: dict[str, Any] | None = None
        self.error: dict[str, Any] | None = None
        self.number, self.at_ms = 0, 0
        self.watchers: dict[Watcher, int] = {}
        """How many messages each has missed."""
        self._whole = 0, b""
        """The number it was of, and the message: many may come at once, after a restart."""

    def whole(self, skipped: int = 0) -> bytes:
        """The value as it is now."""
        if self._whole[0] != self.number:
            message = {"topic": self.name, "number": self.number, "at": self.at_ms, "value": self.value}
            if self.error is not None:
                message["error"] = self.error
            self._whole = self.number, _encode(message)
        encoded = self._whole[1]
        return encoded[:-1] + b',"skipped":%d}' % skipped if skipped else encoded


class Hub:
    """All topics that are watched."""

    def __init__(self) -> None:
        self.topics: dict[str, Topic] = {}

    def watch(self, name: str, watcher: Watcher) -> bool:
        """Begin; the value is sent at once if there is one. False: the watcher has too many topics."""
        held = [topic for topic in self.topics.values() if watcher in topic.watchers]
        if len(held) >= TOPICS_MAX and name not in (topic.name for topic in held):
            return False
        topic = self.topics.setdefault(name, Topic(name))
        topic.watchers[watcher] = 0
        if topic.value is not None or topic.error is not None:
            if watcher.is_full:
                topic.watchers[watcher] = 1
            else:
                watcher.send(topic.whole())
        return True

    def leave(self, name: str, watcher: Watcher) -> None:
        """End; a topic nobody watches is forgotten."""
        topic = self.topics.get(name)
        if topic is not None:
            topic.watchers.pop(watcher, None)
            if not topic.watchers:
                del self.topics[name]

    def gone(self, watcher: Watcher) -> None:
        """A connection ended."""
        for name in list(self.topics):
            self.leave(name, watcher)

    def publish(self, name: str, value: dict[str, Any], at_ms: int) -> int:
        """A topic's value now. Who watches hears of it even if nothing changed, for it is fresh. Returns how many bytes that are, to all of them."""
        topic = self.topics.get(name)
        if topic is None:
            return 0
        topic.number += 1
        topic.at_ms, topic.error = at_ms, None
        if topic.value is None:
            topic.value = value
            message = topic.whole()
        else:
            change = difference(topic.value, value)
            topic.value = value
            message = _encode({"topic": topic.name, "number": topic.number, "at": at_ms, "change": change})
        return self._send(topic, message)

    def fail(self, name: str, error: dict[str, Any]) -> None:
        """It cannot be had now: ``{"code", "message", "hint"}``."""
        topic = self.topics.get(name)
        if topic is None or topic.error == error:
            return
        topic.number += 1
        topic.error = error
        self._send(topic, _encode({"topic": topic.name, "number": topic.number, "at": topic.at_ms, "error": error}))

    def drained(self, watcher: Watcher) -> None:
        """A connection that was full has room again."""
        for topic in self.topics.values():
            skipped = topic.watchers.get(watcher, 0)
            if skipped and not watcher.is_full:
                topic.watchers[watcher] = 0
                watcher.send(topic.whole(skipped))

    @staticmethod
    def _send(topic: Topic, message: bytes) -> int:
        sent_bytes = 0
        for watcher, skipped in list(topic.watchers.items()):
            if watcher.is_full or skipped:
                topic.watchers[watcher] = skipped + 1
            else:
                watcher.send(message)
                sent_bytes += len(message)
        return sent_bytes


def difference(old: dict[str, Any], new: dict[str, Any]) -> dict[str, Any]:
    """What makes ``new`` of ``old``; {}: nothing."""
    put: dict[str, Any] = {}
    inner: dict[str, Any] = {}
    for key, value in new.items():
        before = old.get(key, _NOTHING)
        if before is value or before == value:
            continue
        if isinstance(before, dict) and isinstance(value, dict):
            inner[key] = difference(before, value)
        else:
            put[key] = value
    gone = [key for key in old if key not in new]
    change: dict[str, Any] = {}
    if put:
        change["="] = put
    if gone:
        change["-"] = gone
    if inner:
        change["~"] = inner
    return change


_NOTHING = object()
