"""What operators ask a worker: its state, what is cached, and whether every page is what it was (PING, WORKER_STATUS, CACHED, HOT, VERIFY).

Invariants: one verification at a time, behind everything else the disks have to do; it ends when the worker stops, also while a disk
hangs. Looking never changes the cache but for bad pages, which are dropped. Not here: reading (reading.py).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from itertools import islice
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater

from monofs import __version__
from monofs.model.errors import Busy, InvalidArgument, NotReady
from monofs.model.ids import ContentId, format_content_id
from monofs.model.principal import Right
from monofs.observe import metrics
from monofs.rpc.api import (
    CachedAnswer,
    CachedGroup,
    CachedRequest,
    Empty,
    Gone,
    HotAnswer,
    HotContent,
    HotRequest,
    LeftGroup,
    Message,
    Method,
    Pong,
    TierStatus,
    VerifyAnswer,
    WorkerStatusAnswer,
)
from monofs.rpc.service import Call, Service
from monofs.tiering.cache import Cache
from monofs.tiering.group import mask_pages
from monofs.worker.disks import Disks
from monofs.worker.fetcher import Fetcher
from monofs.worker.handing import Handing
from monofs.worker.leases import Leases
from monofs.worker.membership import Membership
from monofs.worker.named import Named

CACHED_CONTENTS_MAX = 10_000
SLICE = 500
"""Contents looked at in one turn of the reactor by CACHED."""
BAD_SHOWN_MAX = 1000
HOT_MAX = 1000


class Inspection:
    """Handlers of one worker. Reactor thread only."""

    def __init__(
        self,
        cache: Cache,
        fetcher: Fetcher,
        disks: Disks,
        leases: Leases,
        membership: Membership,
        handing: Handing,
        named: Named,
        *,
        offset_ns: Callable[[], int],
        reactor: Any,
    ) -> None:
        """``offset_ns``: of the masters' clock from this machine's: by theirs it is told when something was."""
        self._named, self._offset_ns = named, offset_ns
        self._cache, self._fetcher, self._disks, self._leases = cache, fetcher, disks, leases
        self._membership, self._handing, self._reactor = membership, handing, reactor
        self._stopping = self._verifying = False
        self._checked: Deferred[int] | None = None

    def register_methods(self, service: Service) -> None:
        """Serve them."""
        service.register(Method.PING, Empty, self._ping)
        service.register(Method.WORKER_STATUS, Empty, self._status, right=Right.READ)
        service.register(Method.CACHED, CachedRequest, self._cached, right=Right.READ)
        service.register(Method.HOT, HotRequest, self._hot, right=Right.READ)
        service.register(Method.VERIFY, Empty, self._verify, right=Right.ADMIN)

    def stop(self) -> None:
        """A verification ends at its next group."""
        self._stopping = True

    def forget(self) -> None:
        """The disks tell nothing any more: end a verification that waits for one."""
        if self._checked is not None and not self._checked.called:
            self._checked.errback(NotReady("the verification was cut short: the worker is stopping"))

    def _ping(self, _request: Empty, _call: Call) -> Message:
        return Pong(__version__, "worker", time.time_ns())

    def _status(self, _request: Empty, _call: Call) -> Message:
        tiers = [
            TierStatus(
                tier.tier,
                tier.directory,
                tier.capacity_bytes,
                tier.used_bytes,
                tier.pinned_bytes,
                tier.groups,
                tier.state,
                tier.error,
                tier.held_bytes,
            )
            for tier in self._cache.status()
        ]
        counters = metrics.snapshot()
        counters["monofs_flights"] = self._fetcher.count
        counters["monofs_descriptors_out"] = len(self._leases)
        counters["monofs_kept_bytes"] = self._cache.kept_bytes
        counters["monofs_aside_bytes"] = self._cache.aside_bytes
        counters["monofs_slots_epoch"] = self._membership.slots.epoch
        counters["monofs_foreign_groups"], counters["monofs_handing"] = (
            float(self._handing.left),
            float(self._handing.is_walking),
        )
        counters["monofs_index_written"], counters["monofs_index_queued"] = self._cache.index.progress
        return WorkerStatusAnswer(self._membership.worker, tiers, counters)

    async def _cached(self, request: CachedRequest, _call: Call) -> Message:
        if len(request.contents) > CACHED_CONTENTS_MAX:
            raise InvalidArgument(f"{len(request.contents)} contents in one request; at most {CACHED_CONTENTS_MAX}")
        shown: list[CachedGroup] = []
        offset_ns = self._offset_ns()
        for position, content in enumerate(request.contents):
            if position % SLICE == SLICE - 1:
                await deferLater(self._reactor, 0)
            shown.extend(
                CachedGroup(
                    group.content,
                    group.number,
                    group.present,
                    group.present_bytes,
                    group.tier,
                    group.pinned,
                    group.admitted_ns + offset_ns,
                    group.read_ns + offset_ns,
                )
                for group in self._cache.groups(ContentId(content))
                if group.present
            )
        asked = set(request.contents)
        gone = [
            Gone(content, number, why, at_ns + offset_ns)
            for (content, number), (why, at_ns) in self._cache.gone.items()
            if content in asked
        ]
        return CachedAnswer(shown, gone)

    def _hot(self, request: HotRequest, _call: Call) -> Message:
        if not 1 <= request.most <= HOT_MAX:
            raise InvalidArgument(f"1 to {HOT_MAX} of what is hot are told, not {request.most}")
        offset_ns = self._offset_ns()
        hot = [
            HotContent(
                content,
                reads,
                max(group.read_ns for group in groups) + offset_ns,
                sum(group.present_bytes for group in groups),
                sorted({group.tier for group in groups}),
                any(group.pinned for group in groups),
                *self._named.of(content),
            )
            for content, reads in self._cache.hot.most(request.most, time.time_ns())
            if (groups := self._cache.groups(content))
        ]
        left = [
            LeftGroup(content, number, why, at_ns + offset_ns, *self._named.of(content))
            for (content, number), (why, at_ns) in islice(reversed(self._cache.gone.items()), request.most)
        ]
        return HotAnswer(self._membership.worker, hot, left)

    async def _verify(self, _request: Empty, call: Call) -> Message:
        if self._verifying:
            raise Busy("a verification of this worker is running already")
        self._verifying = True
        try:
            return await self._verify_all(call)
        finally:
            self._verifying = False

    async def _verify_all(self, call: Call) -> Message:
        """Every group, one at a time, after everything else the disks have to do."""
        pages = 0
        bad: list[str] = []
        for contents in self._cache.contents():
            for group in (group for content in contents for group in self._cache.groups(content)):
                if call.closed or self._stopping:
                    raise NotReady("the verification was cut short: the worker is stopping")
                if not group.alive or not group.present:
                    continue
                pages += group.present.bit_count()
                checked = self._checked = Deferred()
                self._disks.check(group, checked.callback, checked.errback)
                found = await checked
                if found and group.alive:
                    name = f"{format_content_id(group.content)} group {group.number}"
                    bad.extend(f"{name} page {page}" for page in mask_pages(found) if len(bad) < BAD_SHOWN_MAX)
                    self._cache.drop_pages(group, found)
        return VerifyAnswer(pages, bad)
