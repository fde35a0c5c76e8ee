"""Sparing those who read what a write is about to replace: what their content lacks is fetched while the store still has it.

Only of contents read here within the last minutes, partly cached, and small; it takes a bounded time and its failure stops no write. Not
here: who writes.
"""

from __future__ import annotations

import time
from typing import Any

import msgspec
from twisted.internet.defer import Deferred
from twisted.internet.defer import TimeoutError as DeferredTimeout

from monofs.model.block import GROUP_SIZE_BYTES
from monofs.model.capability import Capability, Rights
from monofs.model.errors import MonofsError
from monofs.tiering.cache import Cache
from monofs.tiering.group import mask_pages
from monofs.worker.fetcher import Fetcher
from monofs.worker.filling import pages_of

READ_LATELY_NS = 300 * 10**9
PATIENCE_S = 20.0


class Sparing:
    """Of one worker. Reactor thread only."""

    def __init__(self, cache: Cache, fetcher: Fetcher, keep_bytes: int, reactor: Any) -> None:
        self._cache, self._fetcher, self._keep_bytes, self._reactor = cache, fetcher, keep_bytes, reactor

    async def spare(self, write: Capability) -> None:
        """Fetch what is missing of the content that ``write`` replaces, if somebody may still read it."""
        content, size = write.replaced_content, write.replaced_size
        if not content or not write.mount or not 0 < size <= self._keep_bytes:
            return
        groups = self._cache.groups(content)
        if not groups or max(group.read_ns for group in groups) < time.time_ns() - READ_LATELY_NS:
            return
        old = msgspec.structs.replace(write, content=content, size=size, rights=Rights.READ)
        fetched = Deferred.fromCoroutine(self._fetch(old))
        try:
            await fetched.addTimeout(PATIENCE_S, self._reactor)
        except (MonofsError, DeferredTimeout):
            return  # they open the file again, as after a change from outside

    async def _fetch(self, old: Capability) -> None:
        for number in range(-(-old.size // GROUP_SIZE_BYTES)):
            group = self._cache.lookup(old.content, number)
            if group is not None and not group.verified:
                continue
            missing = pages_of(old.size, number) & ~(group.present if group is not None else 0)
            if not missing:
                continue
            self._fetcher.ensure(old, number, missing, urgent=missing)
            for page in mask_pages(missing):
                landed: Deferred[None] = Deferred()

                def told(error: MonofsError | None, landed: Deferred[None] = landed) -> None:
                    landed.callback(None) if error is None else landed.errback(error)

                if self._fetcher.wait(old.content, number, page, told):
                    await landed
