"""Warm groups handed to their owners when the slot table changes, so that no part of the cache goes cold because a worker came or goes.

After a change the worker walks its groups and asks the owner of each that is not its own any more to take it: FETCH with ``giver``, for which the owner
reads from here, and from nowhere else. What was taken leaves this cache: its room is for what this worker owns. Copies that `worker.local_copy`
keeps of others' blocks look the same and go the same way.

Of paths whose policy says replicas, the first workers of a slot keep copies of its blocks. What a worker has and another of them has not, it offers it the
same way, and keeps it: what was written at once, and all after a change of the table, of policies or of who lives, and every ``COPY_EVERY_S``. What was evicted
there is not offered again.

Invariants: what no store has is never given away; what is given away was compared with its CRCs before, because the owner makes new ones
of what it gets; a pin goes along only as far as it is known to hold (pins.py); a group leaves only after its owner said that it has every
page; at most ``worker.handover_bytes_s`` go out. Not here: who owns what (peers.py), leaving for good (the master's `decommission`).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import deferLater
from twisted.internet.threads import deferToThreadPool
from twisted.python.failure import Failure

from monofs.model.block import GROUP_SIZE_BYTES
from monofs.model.capability import CacheGroup
from monofs.model.errors import MonofsError
from monofs.model.ids import ContentId
from monofs.observe.logs import logger
from monofs.observe.metrics import COPIED_BYTES, HANDED_BYTES
from monofs.rpc.api import CachedAnswer, CachedRequest, FetchAnswer, FetchRequest, Message, Method
from monofs.tiering.cache import Cache, Group, Why
from monofs.tiering.group import mask_bytes
from monofs.worker.disks import Disks
from monofs.worker.gate import Gate
from monofs.worker.peers import Peer, Peers
from monofs.worker.pins import Pins

FETCH_S = 60.0
AGAIN_S = 5.0
"""Pause after a worker could not take a group."""
TRIES = 3
COPY_EVERY_S = 300.0
WRITTEN_S = 0.2
"""What is written within so long is offered together."""
WRITTEN_MAX = 10_000
"""Contents that wait for that; of more, the rest is left to the next look at everything."""
COPY_BATCH = 500
"""Groups of which another worker is asked at once whether it has them."""
TURN_GROUPS = 2000
"""Groups looked at in one turn of the reactor."""

log = logger(__name__)
A = TypeVar("A", bound=Message)


class Handing:
    """Of one worker. Reactor thread only."""

    def __init__(
        self, cache: Cache, disks: Disks, gate: Gate, pins: Pins, peers: Peers, bytes_s: int, reactor: Any
    ) -> None:
        self._cache, self._disks, self._gate, self._pins, self._peers = cache, disks, gate, pins, peers
        self._bytes_s, self._reactor = bytes_s, reactor
        self._running: Deferred[None] | None = None
        self._copying: Deferred[None] | None = None
        self._written: list[ContentId] = []
        self._offering: Deferred[None] | None = None
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
        """Some that were not to be asked may be now, or have lost what they had: walk again."""
        if self.left and self._running is None:
            self.begin()
        else:
            self.follow_policies()

    def follow_policies(self) -> None:
        """Policies changed: see who is to have copies, unless that is due anyway."""
        if self._running is None:
            self._begin_copying()

    def stop(self) -> None:
        """End at once; what was begun may yet be taken."""
        running, self._running = self._running, None
        copying, self._copying = self._copying, None
        offering, self._offering = self._offering, None
        for each in (running, copying, offering):
            if each is not None:
                each.cancel()

    def _ended(self, result: Any, running: Deferred[None]) -> None:
        if self._running is running:
            self._running = None
        if isinstance(result, Failure) and result.check(CancelledError) is None:
            log.error("handing groups over ended; they stay until they are evicted", exception=result.value)
        elif not isinstance(result, Failure):
            self._begin_copying()

    def _begin_copying(self) -> None:
        copying, self._copying = self._copying, None
        if copying is not None:
            copying.cancel()
        if self._peers.replicas:
            copying = self._copying = Deferred.fromCoroutine(self._keep_copies())
            copying.addErrback(self._copying_ended)

    def _copying_ended(self, failure: Failure) -> None:
        if failure.check(CancelledError) is None:
            log.error(
                "copies of cached groups are not made any more until the slot table changes", exception=failure.value
            )

    async def _run(self) -> None:
        handed = 0
        for tried in range(TRIES):
            if tried:
                await deferLater(self._reactor, AGAIN_S)
            self.left = await self._count()
            if not self.left:
                break
            for group in self._walk(self._is_foreign):
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
        for group in self._walk(self._is_foreign):
            if group is None:
                await deferLater(self._reactor, 0)
            else:
                count += 1
        return count

    def _walk(self, wanted: Callable[[Group], bool]) -> Iterator[Group | None]:
        """The groups that are wanted; None: let others have their turn."""
        looked = 0
        for contents in self._cache.contents():
            for content in contents:
                for group in self._cache.groups(content):
                    looked += 1
                    if group.alive and wanted(group):
                        yield group
                    if not looked % TURN_GROUPS:
                        yield None

    def _is_foreign(self, group: Group) -> bool:
        return bool(group.present) and not group.kept and self._peers.is_foreign(*group.key, group.layout)

    async def _hand(self, group: Group) -> bool:
        """Whether the owner has it now, and this worker no more."""
        owner = self._peers.owner_of(*group.key, group.layout)
        if owner is None:
            return False
        pages, count = group.present, group.present_bytes
        if not await self._give(owner, group, pages):
            return False
        HANDED_BYTES().value += count
        is_same = group.alive and group.present == pages and not group.kept
        if is_same:
            self._cache.hand_over(group)
        await deferLater(self._reactor, count / self._bytes_s)
        return is_same

    async def _give(self, peer: Peer, group: Group, pages: int) -> bool:
        """Whether another worker has these pages of a group now."""
        try:
            if not await self._is_sound(group, pages):
                return False
            answer = await self._ask(peer, Method.FETCH, self._request(group, pages), FetchAnswer)
        except MonofsError as error:
            if log.is_debug:
                log.debug("a group was not taken", worker=peer.worker, error=error.message)
            return False
        return not pages & ~answer.present  # else there is no room

    def _ask(self, peer: Peer, method: Method, request: Message, answer_type: type[A]) -> Deferred[A]:
        call, pool = self._peers.pool(peer).call, self._reactor.getThreadPool()

        def lives(answer: A) -> A:
            self._peers.answered(peer)  # else one that failed before would be asked once a pause
            return answer

        return deferToThreadPool(self._reactor, pool, call, method, request, answer_type, FETCH_S).addCallback(lives)

    # ---- copies ---------------------------------------------------------------------------------------------------------

    def offer(self, content: ContentId) -> None:
        """A file was written: whoever is to have a copy of it gets it, as soon as may be."""
        if not self._peers.replicas or len(self._written) == WRITTEN_MAX:
            return
        self._written.append(content)
        if self._offering is None:
            offering = self._offering = Deferred.fromCoroutine(self._offer_written())
            offering.addErrback(self._copying_ended)

    async def _offer_written(self) -> None:
        try:
            while self._written:
                await deferLater(self._reactor, WRITTEN_S)
                written, self._written = self._written, []
                await self._copy_missing(group for content in written for group in self._cache.groups(content))
        finally:
            self._offering = None

    async def _keep_copies(self) -> None:
        tried = 0
        while True:
            tried = tried + 1 if await self._copy_missing(self._walk(lambda _: True)) else TRIES
            await deferLater(self._reactor, AGAIN_S if tried < TRIES else COPY_EVERY_S)
            tried %= TRIES

    async def _copy_missing(self, groups: Iterator[Group | None]) -> int:
        """Offer those that other workers are to have too to those of them that have not; how many groups were not taken. None: others have their turn."""
        refused = 0
        waiting: dict[Peer, list[Group]] = {}
        for group in groups:
            if group is None:
                await deferLater(self._reactor, 0)
                continue
            if not group.alive or not group.present or group.kept:
                continue
            for peer in self._peers.partners(*group.key, group.layout, group.policy):
                if not self._peers.can_ask(peer):
                    refused += 1
                    continue
                batch = waiting.setdefault(peer, [])
                batch.append(group)
                if len(batch) == COPY_BATCH:
                    refused += await self._copy(peer, waiting.pop(peer))
        for peer, batch in waiting.items():
            refused += await self._copy(peer, batch)
        return refused

    async def _copy(self, peer: Peer, groups: list[Group]) -> int:
        request = CachedRequest(list({int(group.content): None for group in groups}))
        try:
            answer = await self._ask(peer, Method.CACHED, request, CachedAnswer)
        except MonofsError as error:
            log.info("not known which copies a worker has", worker=peer.worker, error=error.message)
            return len(groups)
        refused = 0
        there = {(each.content, each.group): each.pages for each in answer.groups}
        evicted = {(each.content, each.group) for each in answer.gone if each.why == Why.EVICTED}
        for group in groups:
            missing = group.present & ~there.get(group.key, 0)
            if not missing or not group.alive or (group.key in evicted and group.key not in there):
                continue
            if await self._give(peer, group, group.present):
                count = mask_bytes(group.length, missing)
                COPIED_BYTES().value += count
                await deferLater(self._reactor, count / self._bytes_s)
            else:
                refused += 1
        return refused

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
        token = self._gate.vouch(group.content, size, group.layout, group.mount, cache_group, self._pins.known_s)
        age_ms = max(0, time.time_ns() - group.admitted_ns) // 10**6
        return FetchRequest(token, group.number, pages, giver=self._peers.me, age_ms=age_ms)
