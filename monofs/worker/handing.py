"""Warm groups handed to their owners when the slot table changes, so that no part of the cache goes cold because a worker came or goes.

After a change the worker walks its groups and asks the owner of each that is not its own any more to take it: FETCH with ``giver``, for which the owner
reads from here, and from nowhere else. What was taken leaves this cache: its room is for what this worker owns. Copies that `worker.local_copy`
keeps of others' blocks look the same and go the same way.

Invariants: what no store has is never given away; what is given away was compared with its CRCs before, because the owner makes new ones
of what it gets; a pin goes along only as far as it is known to hold (pins.py); a group leaves only after its owner said that it has every
page; at most ``worker.handover_bytes_s`` go out. Not here: who owns what (peers.py), leaving for good (the master's `decommission`).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import deferLater
from twisted.internet.threads import deferToThreadPool
from twisted.python.failure import Failure

from monofs.model.block import GROUP_SIZE_BYTES
from monofs.model.capability import CacheGroup
from monofs.model.errors import MonofsError
from monofs.observe.logs import logger
from monofs.observe.metrics import HANDED_BYTES
from monofs.rpc.api import FetchAnswer, FetchRequest, Method
from monofs.tiering.cache import Cache, Group
from monofs.worker.disks import Disks
from monofs.worker.gate import Gate
from monofs.worker.peers import Peers
from monofs.worker.pins import Pins

FETCH_S = 60.0
AGAIN_S = 5.0
"""Pause after an owner could not take a group."""
TRIES = 3
TURN_GROUPS = 2000
"""Groups looked at in one turn of the reactor."""

log = logger(__name__)


class Handing:
    """Of one worker. Reactor thread only."""

    def __init__(
        self, cache: Cache, disks: Disks, gate: Gate, pins: Pins, peers: Peers, bytes_s: int, reactor: Any
    ) -> None:
        self._cache, self._disks, self._gate, self._pins, self._peers = cache, disks, gate, pins, peers
        self._bytes_s, self._reactor = bytes_s, reactor
        self._running: Deferred[None] | None = None
        self.left = 0
        """Groups of others that are still here, as far as is known; 0: none, and nobody walks."""

    @property
    def is_walking(self) -> bool:
        """Whether it is at it."""
        return self._running is not None

    def begin(self) -> None:
        """The table changed: walk from the start."""
        self.stop()
        self.left = 1
        running = self._running = Deferred.fromCoroutine(self._run())
        running.addBoth(self._ended, running)

    def try_again(self) -> None:
        """Some that were not to be asked may be now: walk again, if something was left."""
        if self.left and self._running is None:
            self.begin()

    def stop(self) -> None:
        """End at once; what was begun may yet be taken."""
        if self._running is not None:
            running, self._running = self._running, None
            running.cancel()

    def _ended(self, result: Any, running: Deferred[None]) -> None:
        if self._running is running:
            self._running = None
        if isinstance(result, Failure) and result.check(CancelledError) is None:
            log.error("handing groups over ended; they stay until they are evicted", exception=result.value)

    async def _run(self) -> None:
        handed = 0
        for tried in range(TRIES):
            if tried:
                await deferLater(self._reactor, AGAIN_S)
            self.left = await self._count()
            if not self.left:
                break
            for group in self._walk():
                if group is None:
                    await deferLater(self._reactor, 0)
                elif await self._hand(group):
                    handed += 1
                    self.left = max(self.left - 1, 0)
            if not self.left:
                break
        if handed or self.left:
            log.info("groups handed to their owners", handed=handed, kept=self.left)

    async def _count(self) -> int:
        count = 0
        for group in self._walk():
            if group is None:
                await deferLater(self._reactor, 0)
            else:
                count += 1
        return count

    def _walk(self) -> Iterator[Group | None]:
        """The groups that are another's now and may be given away; None: let others have their turn."""
        looked = 0
        for contents in self._cache.contents():
            for content in contents:
                for group in self._cache.groups(content):
                    looked += 1
                    if group.alive and self._is_foreign(group):
                        yield group
                    if not looked % TURN_GROUPS:
                        yield None

    def _is_foreign(self, group: Group) -> bool:
        return bool(group.present) and not group.kept and self._peers.is_foreign(group.content, group.number)

    async def _hand(self, group: Group) -> bool:
        """Whether the owner has it now, and this worker no more."""
        owner = self._peers.owner_of(group.content, group.number)
        if owner is None:
            return False
        pages, count = group.present, group.present_bytes
        try:
            if not await self._is_sound(group, pages):
                return False
            pool = self._peers.pool(owner)
            answer: FetchAnswer = await deferToThreadPool(
                self._reactor,
                self._reactor.getThreadPool(),
                pool.call,
                Method.FETCH,
                self._request(group, pages),
                FetchAnswer,
                FETCH_S,
            )
        except MonofsError as error:
            if log.is_debug:
                log.debug("a group was not taken", worker=owner.worker, error=error.message)
            return False
        if pages & ~answer.present:
            return False  # no room there
        HANDED_BYTES().value += count
        is_same = group.alive and group.present == pages and not group.kept
        if is_same:
            self._cache.hand_over(group)
        await deferLater(self._reactor, count / self._bytes_s)
        return is_same

    async def _is_sound(self, group: Group, pages: int) -> bool:
        """Whether all its pages are what their CRCs say; bad ones are dropped."""
        found: Deferred[int] = Deferred()
        self._disks.check(group, found.callback, found.errback, mask=pages)
        bad = await found
        if bad:
            self._cache.drop_pages(group, bad)
        if not group.alive or group.present != pages:
            return False
        group.verified = True
        return True

    def _request(self, group: Group, pages: int) -> FetchRequest:
        size = group.number * GROUP_SIZE_BYTES + group.length
        cache_group = group.cache_group & ~CacheGroup.PINNED | (CacheGroup.PINNED if group.pinned else 0)
        token = self._gate.vouch(group.content, size, group.mount, cache_group, self._pins.known_s)
        return FetchRequest(token, group.number, pages, giver=self._peers.me)
