"""Warm groups handed to their owners when the slot table changes, so that no part of the cache goes cold because a worker came or goes.

After a change the worker walks its groups and asks the owner of each that is not its own any more to take it: FETCH with ``giver``, for which the owner
reads from here, and from nowhere else. What was taken leaves this cache: its room is for what this worker owns. Copies that `worker.local_copy`
keeps of others' blocks look the same and go the same way.

Invariants: what no store has is never given away; a group leaves only after its owner said that it has every page; at most
``worker.handover_bytes_s`` go out. Not here: who owns what (peers.py), leaving for good (the master's `decommission`).
"""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import deferLater
from twisted.internet.threads import deferToThreadPool
from twisted.python.failure import Failure

from monofs.model.block import GROUP_SIZE_BYTES
from monofs.model.errors import MonofsError
from monofs.model.ids import ContentId
from monofs.observe.logs import logger
from monofs.observe.metrics import HANDED_BYTES
from monofs.rpc.api import FetchAnswer, FetchRequest, Method
from monofs.tiering.cache import Cache, Group
from monofs.worker.gate import Gate
from monofs.worker.peers import Peers

FETCH_S = 60.0
AGAIN_S = 5.0
"""Pause after an owner could not take a group."""
TRIES = 3

log = logger(__name__)


class Handing:
    """Of one worker. Reactor thread only."""

    def __init__(self, cache: Cache, gate: Gate, peers: Peers, bytes_s: int, reactor: Any) -> None:
        self._cache, self._gate, self._peers, self._bytes_s, self._reactor = cache, gate, peers, bytes_s, reactor
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
        for _ in range(TRIES):
            foreign = await self._foreign()
            for done, (content, number) in enumerate(foreign):
                self.left = len(foreign) - done
                group = self._cache.lookup(content, number)
                if group is not None and await self._hand(group):
                    handed += 1
            self.left = len(await self._foreign())
            if not self.left:
                break
            await deferLater(self._reactor, AGAIN_S)
        if handed or self.left:
            log.info("groups handed to their owners", handed=handed, kept=self.left)

    async def _foreign(self) -> list[tuple[ContentId, int]]:
        """Keys of the groups that are another's now and may be given away."""
        found: list[tuple[ContentId, int]] = []
        for contents in self._cache.contents():
            groups = (group for content in contents for group in self._cache.groups(content))
            found.extend(group.key for group in groups if self._is_foreign(group))
            await deferLater(self._reactor, 0)
        return found

    def _is_foreign(self, group: Group) -> bool:
        return bool(group.present) and not group.kept and self._peers.is_foreign(group.content, group.number)

    async def _hand(self, group: Group) -> bool:
        """Whether the owner has it now, and this worker no more."""
        owner = self._peers.owner_of(group.content, group.number)
        if owner is None:
            return False
        size = group.number * GROUP_SIZE_BYTES + group.length
        token = self._gate.vouch(group.content, size, group.mount, group.cache_group)
        request = FetchRequest(token, group.number, group.present, giver=self._peers.me)
        pool = self._peers.pool(owner)
        pages, count = group.present, group.present_bytes
        try:
            answer: FetchAnswer = await deferToThreadPool(
                self._reactor, self._reactor.getThreadPool(), pool.call, Method.FETCH, request, FetchAnswer, FETCH_S
            )
        except MonofsError as error:
            if log.is_debug:
                log.debug("a group was not taken", worker=owner, error=error.message)
            return False
        if pages & ~answer.present:
            return False  # no room there
        HANDED_BYTES().value += count
        if group.alive and group.present == pages:
            self._cache.hand_over(group)
        await deferLater(self._reactor, count / self._bytes_s)
        return True
