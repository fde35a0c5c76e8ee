"""The scrubber: compares cached pages with their CRCs before anybody asks for them, at a bounded rate, about once a week each.

It reads past the kernel's memory where the file system lets it: what matters is what the disk has, and what readers have in memory is
not pushed out. Bad pages are dropped and counted; the next reader has them fetched again. Groups that an unclean stop left unverified
are verified on the way. Invariant: one read of at most 8 MiB at a time, behind everything else the disks have to do, then a pause as long as the
rate asks for. Not here: comparing (tiering/files.py).
"""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import deferLater

from monofs.model.errors import MonofsError
from monofs.observe.logs import logger
from monofs.observe.metrics import SCRUBBED_BYTES
from monofs.tiering.cache import Cache, Group
from monofs.tiering.group import mask_bytes
from monofs.worker.disks import Disks
from monofs.worker.planner import split_ranges

FIRST_S = 60.0
"""A worker that has just started has other things to do."""
PASS_S = 7 * 86400.0
PIECE_PAGES = 8
AGAIN_S = 1.0
"""Pause when the disks are busy."""

log = logger(__name__)


class Scrubber:
    """Of one worker. Reactor thread only."""

    def __init__(self, cache: Cache, disks: Disks, bytes_s: int, reactor: Any, *, first_s: float = FIRST_S) -> None:
        self._cache, self._disks, self._reactor = cache, disks, reactor
        self._bytes_s, self._first_s = bytes_s, first_s
        self._running: Deferred[None] | None = None

    def start(self) -> None:
        """Begin, unless the rate is 0."""
        if self._bytes_s > 0:
            self._running = Deferred.fromCoroutine(self._run())
            self._running.addErrback(self._ended)

    def stop(self) -> None:
        """End at once; what a thread still reads is of no interest."""
        if self._running is not None:
            self._running.cancel()

    def _ended(self, failure: Any) -> None:
        if failure.check(CancelledError) is None:
            log.error(
                "the scrubber ended; cached pages are still compared after unclean stops", exception=failure.value
            )

    async def _run(self) -> None:
        await deferLater(self._reactor, self._first_s)
        while True:
            began = self._reactor.seconds()
            for contents in self._cache.contents():
                for group in (group for content in contents for group in self._cache.groups(content)):
                    await self._scrub(group)
                await deferLater(self._reactor, 0)
            await deferLater(self._reactor, max(began + PASS_S - self._reactor.seconds(), self._first_s))

    async def _scrub(self, group: Group) -> None:
        present = group.present
        for first, last in split_ranges(present, PIECE_PAGES):
            mask = ((2 << (last - first)) - 1) << first
            bad = await self._check(group, mask)
            if not group.alive:
                return
            if bad:
                self._cache.drop_pages(group, bad)
                return
            size = mask_bytes(group.length, mask)
            SCRUBBED_BYTES(group.tier).add(size)
            await deferLater(self._reactor, size / self._bytes_s)
        if group.alive and group.present == present:
            group.verified = True

    async def _check(self, group: Group, mask: int) -> int:
        """Bitmap of bad pages; asked for until the disks have time."""
        while group.alive:
            try:
                found: Deferred[int] = Deferred()
                self._disks.check(group, found.callback, found.errback, mask=mask, direct=True)
                return await found
            except MonofsError:
                await deferLater(self._reactor, AGAIN_S)
        return 0
