"""Pins that came with a capability instead of the feed.

The feed tells of a pin once. A worker that joined later, lost its place in the feed, or is shown a file loaded below a directory
pinned before, learns of it from the cache group of the capability. Invariant: a pin that has ended never comes back through an
older capability, for nothing would end it again: what ended here is remembered with its time, and of capabilities given before this
worker began to listen, or before the oldest end it remembers, none pins. That heals with the next capability, minutes later.

Not here: the feed (membership.py), what a pin does (tiering).
"""

from __future__ import annotations

from collections.abc import Iterable

from monofs.model.capability import CacheGroup, Capability
from monofs.model.errors import TierFull
from monofs.observe.logs import logger
from monofs.tiering.cache import Cache
from monofs.worker.gate import Gate

log = logger(__name__)

ENDED_KEPT = 100_000
"""Contents whose pin ended, or that are no more, remembered against older capabilities."""


class Pins:
    """The pins of one worker as readers show them. Reactor thread only."""

    def __init__(self, cache: Cache, gate: Gate) -> None:
        self._cache, self._gate = cache, gate
        self._ended: dict[int, int] = {}
        self._since_s = 0
        self._is_full = False
        self.known_s = 0
        """Up to this time, by the master's clock, the feed was acted on: what is pinned here was pinned then."""

    def honour(self, capability: Capability) -> None:
        """Pin the content of a verified capability if its file was pinned when it was given."""
        content = capability.content
        if not capability.group & CacheGroup.PINNED or content in self._cache.pins:
            return
        if capability.issued_s < self._since_s or capability.issued_s <= self._ended.get(content, -1):
            return
        try:
            self._cache.pin([content])
            self._is_full = False
        except TierFull as error:  # what is not pinned can be evicted; it is served all the same
            if not self._is_full:
                log.warning("not all can be pinned", error=str(error))
            self._is_full = True

    def end(self, contents: Iterable[int]) -> None:
        """These were unpinned or retired: capabilities given up to now pin them no more."""
        now_s = int(self._gate.now_s)
        for content in contents:
            self._ended.pop(content, None)
            self._ended[content] = now_s
        if len(self._ended) > ENDED_KEPT:
            for content in list(self._ended)[: len(self._ended) - ENDED_KEPT // 2]:
                self._since_s = max(self._since_s, self._ended.pop(content) + 1)

    def begin(self) -> None:
        """From now on the feed is heard without a gap; what was said before is not known."""
        self._ended.clear()
        self._since_s = int(self._gate.now_s)
