"""The worker: its parts wired together, started and stopped by the node.

Invariants: nothing is served without an open gate; ``stop`` lets flights and writes finish for a bounded time, then fails them, and closes the cache last. The
node opens the cache before :meth:`Worker.start`; the worker closes it.

Not here: listeners (node), reading (reading.py, lending.py), writing (writers.py), fetching (fetcher.py), cached files (tiering), what operators ask (inspection.py).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred, succeed
from twisted.internet.task import LoopingCall, deferLater
from twisted.internet.threads import deferToThreadPool

from monofs.config.schema import WorkerConfig
from monofs.model.capability import Capability
from monofs.model.errors import NotReady, WriteLost
from monofs.observe import metrics
from monofs.observe.logs import logger
from monofs.rpc.api import MountGrant, TokenGrant
from monofs.rpc.s3_keys import S3Keys
from monofs.rpc.service import Service
from monofs.rpc.sync import Pool
from monofs.tiering.cache import Cache
from monofs.worker.delivery import Parts
from monofs.worker.disks import Disks
from monofs.worker.fetcher import Fetcher
from monofs.worker.gate import Gate
from monofs.worker.handing import Handing
from monofs.worker.inspection import Inspection
from monofs.worker.leases import Leases
from monofs.worker.lending import Lending
from monofs.worker.membership import MasterClient, Membership, load_identity
from monofs.worker.named import Named
from monofs.worker.peers import Peers
from monofs.worker.pins import Pins
from monofs.worker.reading import Reading
from monofs.worker.scrubbing import Scrubber
from monofs.worker.stores import OpenStore, Stores
from monofs.worker.writers import Writers

log = logger(__name__)

STOP_FLIGHTS_S = 5.0
STOP_THREADS_S = 2.0
EXPIRE_S = 1.0
TEND_S = 0.1
EXPIRED_MAX = 1000
"""Groups of one policy dropped for their age in one turn of the reactor."""


class Worker:
    """One worker. Reactor thread only."""

    def __init__(
        self,
        config: WorkerConfig,
        cache: Cache,
        master: MasterClient,
        *,
        reactor: Any,
        home: str,
        open_store: OpenStore | None = None,
        connect: Callable[[str], Pool] = Pool,
        tell: Callable[[str], None] = lambda _: None,
        s3_keys: S3Keys | None = None,
    ) -> None:
        """``connect`` opens connections to another worker; ``tell`` shows whoever started this one what it waits for; ``s3_keys`` hears which S3 keys
        there are."""
        self._config, self._cache, self._reactor = config, cache, reactor
        self._stores = Stores(open_store, timeout_s=config.store_timeout_s)
        self._named = Named()
        self._gate = Gate(on_shown=self._hear_shown)
        self._peers = Peers(self._gate, connect, local_copy=config.local_copy)
        self._fetcher = Fetcher(config, cache, self._stores, self._peers, reactor)
        self._disks = Disks(config, cache, self._fetcher, reactor)
        self._pins = Pins(cache, self._gate)
        self._leases = Leases(cache, config.descriptors_per_client)
        parts = Parts(config, cache, self._fetcher, self._disks, self._gate, self._pins, self._peers)
        self.reading = Reading(parts)
        """What the master of this process asks, too."""
        self._lending = Lending(parts, self._leases)
        self._writers = Writers(
            config,
            cache,
            self._gate,
            self._stores,
            self._fetcher,
            self._disks,
            self._pins,
            master,
            worker=lambda: self.worker,
            on_written=lambda content: self._handing.offer(content),
            reactor=reactor,
        )
        self._membership = Membership(
            config,
            cache,
            self._gate,
            self._pins,
            self._peers,
            master,
            reactor=reactor,
            identity=load_identity(home),
            on_mounts=self._take_mounts,
            operations=lambda: self._writers.operations,
            troubles=self._stores.troubles,
            on_cluster=lambda: self._writers.lose_all(WriteLost("this worker serves another cluster now")),
            on_begun=self._writers.refuse_until,
            on_tokens=self._take_tokens,
            on_slots=lambda: self._handing.begin(),
            on_replicas=lambda: self._handing.follow_policies(),
            on_addresses=lambda: self._handing.try_again(),
            tell=tell,
        )
        self._handing = Handing(
            cache, self._disks, self._gate, self._pins, self._peers, config.handover_bytes_s, reactor
        )
        self._expiry = LoopingCall(cache.expire, EXPIRED_MAX)
        self._expiry.clock = reactor
        self._tending = LoopingCall(cache.tend)
        self._tending.clock = reactor
        self._scrubber = Scrubber(cache, self._disks, config.scrub_bytes_s, reactor)
        self._stopping = False
        self._inspection = Inspection(
            cache,
            self._fetcher,
            self._disks,
            self._leases,
            self._membership,
            self._handing,
            self._named,
            offset_ns=lambda: self._gate.offset_ns,
            reactor=reactor,
        )
        self._service = self._register_methods(Service("worker", reactor, cluster=lambda: cache.cluster))
        self._service.tokens.now_s = lambda: self._gate.now_s
        self._s3_keys = s3_keys
        if s3_keys is not None:
            s3_keys.now_s = lambda: self._gate.now_s

    def _take_tokens(self, grant: TokenGrant) -> None:
        self._service.tokens.take(grant.salts, grant.last)
        if self._s3_keys is not None:
            self._s3_keys.take(self._cache.cluster, grant.s3, grant.buckets)

    def service(self) -> Service:
        """The one service of this worker, for all its doors."""
        return self._service

    def _register_methods(self, service: Service) -> Service:
        self.reading.register_methods(service)
        self._lending.register_methods(service)
        self._writers.register_methods(service)
        self._inspection.register_methods(service)
        return service

    def start(self, address: str, unix: str, console: str = "") -> Deferred[None]:
        """Join the cluster as reachable under ``address`` and the socket path ``unix``, with a console of its own or none; fires when registered."""
        self._expiry.start(EXPIRE_S, now=False)
        self._tending.start(TEND_S, now=False)
        self._scrubber.start()
        return self._membership.start(address, unix, console)

    def _hear_shown(self, capability: Capability) -> None:
        self._named.shown(capability)
        self._cache.regroup(capability.content, capability.group)

    def stop(self) -> Deferred[None]:
        """Refuse requests, let flights finish for a few seconds, then end threads and close the cache. Fires when done."""
        if self._stopping:
            return succeed(None)
        self._stopping = True
        self._gate.close()
        self._inspection.stop()
        self._scrubber.stop()
        for looping in (self._expiry, self._tending):
            if looping.running:
                looping.stop()
        return Deferred.fromCoroutine(self._stop())

    @property
    def worker(self) -> int:
        """The id the master gave; 0 before registration."""
        return self._membership.worker

    def address_of(self, worker: int) -> str | None:
        """Where another worker listens; None: not known."""
        return self._peers.address_of(worker)

    async def _stop(self) -> None:
        deadline = time.monotonic() + STOP_FLIGHTS_S
        await self._writers.stop(STOP_FLIGHTS_S)
        self._membership.stop()
        self._handing.stop()
        while self._fetcher.count and time.monotonic() < deadline:
            await deferLater(self._reactor, 0.02)
        self._fetcher.abandon_all(NotReady("the worker is stopping"))
        retired = self._stores.update([])

        def end_threads() -> None:
            self._writers.end_threads(STOP_THREADS_S)
            self._fetcher.stop(STOP_THREADS_S)
            self._disks.stop(STOP_THREADS_S)
            for opened in retired:
                opened.retire()

        await self._in_thread(end_threads)
        self._leases.release_everything()
        self._writers.forget()
        self._fetcher.forget()
        self._disks.forget()
        self._inspection.forget()
        self._cache.close()

    def _in_thread(self, work: Any) -> Deferred[Any]:
        return deferToThreadPool(self._reactor, self._reactor.getThreadPool(), work)

    def _take_mounts(self, grants: list[MountGrant]) -> None:
        retired = self._stores.update(grants)
        self.reading.forget_mounts()
        known = {grant.id for grant in grants}
        for mount in known:
            metrics.know_mount(mount)
        for opened in retired:
            if opened.grant.id not in known:
                metrics.forget_mount(opened.grant.id)
        if retired:

            def close() -> None:
                for opened in retired:
                    opened.retire()

            self._in_thread(close).addErrback(
                lambda failure: log.warning("closing a store failed", error=repr(failure.value))
            )
