"""The open intents and the locks they hold, kept decoded in memory: asked for by every change.

Locks follow from intents: an acting one locks its path, or for a copy only its target, for a rename both. Keys are the bytes of paths.
"Is anything below this locked" is one look at a count kept per ancestor, so that no check grows with the number of writers.

Invariant: equal to the tables ``intents`` and ``locks``. Not here: who may open one (ops/guarding.py).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypeVar

from monofs.metadata.store import Store
from monofs.metadata.tables import INTENTS, Intent, IntentKind, decode_intent
from monofs.model.paths import Parts

_PAGE = 1000
K = TypeVar("K", bytes, str)


class OpenIntents:
    """All open intents by number, oldest first."""

    def __init__(self, store: Store) -> None:
        self.by_number: dict[int, Intent] = {}
        self._locks: dict[bytes, int] = {}
        self._below: dict[bytes, int] = {}
        """Ancestor (the root is ``b""``) → locks below it."""
        self._touched: dict[str, int] = {}
        """Path → intents about it, acting or not."""
        self._asked: dict[tuple[bytes, int], int] = {}
        self.uploads: dict[int, Intent] = {}
        """UPLOADs, oldest first: many, and most of them wait for their clients."""
        self.written: dict[int, dict[int, Intent]] = {}
        """Worker -> the writes it is at."""
        after = b""
        while page := store.scan(INTENTS, after, _PAGE):
            for _, raw in page:
                intent = decode_intent(raw)
                self.take(intent.number, intent)
            after = page[-1][0]

    def take(self, number: int, intent: Intent | None) -> None:
        """Take over how an intent stands now; None: it is closed."""
        before = self.by_number.pop(number, None)
        if before is not None:
            self._forget(before)
        if intent is None:
            self.uploads.pop(number, None)
            return
        self.by_number[number] = intent
        if intent.kind == IntentKind.UPLOAD:
            self.uploads[number] = intent
        if intent.worker:
            self.written.setdefault(intent.worker, {})[number] = intent
        for path in lock_paths(intent):
            key = path.encode()
            self._locks[key] = number
            for above in _above(key):
                self._below[above] = self._below.get(above, 0) + 1
        for path in filter(None, (intent.path, intent.target)):
            self._touched[path] = self._touched.get(path, 0) + 1
        if intent.client:
            self._asked[intent.client, intent.sequence] = number

    def _forget(self, intent: Intent) -> None:
        if intent.worker:
            writes = self.written[intent.worker]
            del writes[intent.number]
            if not writes:
                del self.written[intent.worker]
        for path in lock_paths(intent):
            key = path.encode()
            self._locks.pop(key, None)
            for above in _above(key):
                _lower(self._below, above)
        for path in filter(None, (intent.path, intent.target)):
            _lower(self._touched, path)
        if self._asked.get((intent.client, intent.sequence)) == intent.number:
            del self._asked[intent.client, intent.sequence]

    # ---- asking: numbers of intents, 0 for none -------------------------------------------------------------------------

    def at(self, key: bytes) -> int:
        """Who locks exactly this path."""
        return self._locks.get(key, 0)

    def below(self, key: bytes) -> int:
        """Who locks something below this path (the root: ``b""`` or ``b"/"``)."""
        if key.rstrip(b"/") not in self._below:
            return 0
        prefix = key.rstrip(b"/") + b"/"
        return next(number for path, number in self._locks.items() if path.startswith(prefix))

    def above(self, parts: Parts) -> int:
        """Who locks a directory above this path."""
        key = b""
        for name in parts[:-1]:
            key += b"/" + name
            number = self._locks.get(key, 0)
            if number:
                return number
        return 0

    def in_the_way(self, parts: Parts) -> int:
        """Who locks this path, something above it or below it."""
        if not self._locks:
            return 0
        key = path_bytes(parts)
        return self._locks.get(key, 0) or self.above(parts) or self.below(key)

    def is_touched(self, path: str) -> bool:
        """Whether an intent is about this path, be it acting or still sending parts."""
        return path in self._touched

    def asked(self, client: bytes, sequence: int) -> Intent | None:
        """The open intent of a client's request."""
        number = self._asked.get((client, sequence))
        return None if number is None else self.by_number[number]


def lock_paths(intent: Intent) -> tuple[str, ...]:
    """The paths an intent locks."""
    if not intent.acting:
        return ()
    if intent.kind == IntentKind.COPY:
        return (intent.target,)
    return (intent.path, intent.target) if intent.target else (intent.path,)


def path_bytes(parts: Parts) -> bytes:
    """A path as its bytes; the root is ``b""``."""
    return b"/" + b"/".join(parts) if parts else b""


def _above(key: bytes) -> Iterator[bytes]:
    while key:
        key = key[: key.rindex(b"/")]
        yield key


def _lower(counts: dict[K, int], key: K) -> None:
    left = counts[key] - 1
    if left:
        counts[key] = left
    else:
        del counts[key]
