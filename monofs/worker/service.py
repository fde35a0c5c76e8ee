"""The worker service: READ and WRITE and their kin for clients, started and stopped by the node.

A read of resident, verified pages is answered here in a plain call: capability, group, one ``preadv2``, DATA and ANSWER. Everything
else goes to a Delivery (streams, misses, slow disks) or a Filling (FETCH). Invariants: nothing is served without an open gate;
``stop`` lets flights and writes finish for a bounded time, then fails them, and closes the cache last. The node opens the cache before
:meth:`Worker.start`; the worker closes it.

Not here: listeners (node), fetching (fetcher.py), writing (writers.py), cached files (tiering), what operators ask (inspection.py).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any, cast

from twisted.internet.defer import Deferred, succeed
from twisted.internet.task import LoopingCall, deferLater
from twisted.internet.threads import deferToThreadPool

from monofs.config.schema import WorkerConfig
from monofs.model.block import GROUP_SIZE_BYTES, PAGE_SIZE_BYTES, block_of, group_length
from monofs.model.capability import Capability
from monofs.model.errors import InvalidArgument, MonofsError, NotCached, NotReady, NotSupported, WriteLost
from monofs.model.options import ReadType
from monofs.model.principal import Right
from monofs.observe import metrics
from monofs.observe.logs import logger
from monofs.rpc.api import (
    DescriptorAnswer,
    DescriptorRequest,
    FetchAnswer,
    FetchRequest,
    Message,
    Method,
    MountGrant,
    ReadManyRequest,
    ReadRequest,
    ReleaseAnswer,
    ReleaseRequest,
    TokenGrant,
)
from monofs.rpc.s3_keys import S3Keys
from monofs.rpc.service import Call, Service
from monofs.rpc.sync import Pool
from monofs.tiering.cache import Cache, Group
from monofs.tiering.group import mask_bytes
from monofs.worker.delivery import EMPTY, SMALL_BYTES, Delivery, Parts, Piece, missing_pages
from monofs.worker.disks import Disks
from monofs.worker.fetcher import Fetcher
from monofs.worker.filling import Filling, pages_of
from monofs.worker.gate import Gate
from monofs.worker.handing import Handing
from monofs.worker.heat import Heat, Served, tell
from monofs.worker.inspection import Inspection
from monofs.worker.leases import Leases
from monofs.worker.membership import MasterClient, Membership, load_identity
from monofs.worker.named import Named
from monofs.worker.peers import Asked, Peers
from monofs.worker.pins import Pins
from monofs.worker.planner import ReadAhead, group_masks
from monofs.worker.residency import Read, read_now, read_of
from monofs.worker.scrubbing import Scrubber
from monofs.worker.stores import OpenStore, Stores
from monofs.worker.writers import Writers

log = logger(__name__)

PIECES_MAX = 1024
MANY_BYTES_MAX = 16 << 20
PIECE_BYTES = 64 << 10
"""Up to here a piece of many is copied into their one answer; a hundred larger ones cost more in fresh memory than in calls."""
KEPT_MAX = 4096
AFAR_BYTES = 64 << 10
"""A larger file is at hand within this process only: elsewhere it is read from a worker nearby."""
STOP_FLIGHTS_S = 5.0
STOP_THREADS_S = 2.0
EXPIRE_S = 1.0
TEND_S = 0.1
EXPIRED_MAX = 1000
"""Groups of one policy dropped for their age in one turn of the reactor."""
_PAST_CACHE = {ReadType.NO_CACHE: True, ReadType.CACHE: False, ReadType.CACHE_PROMOTE: False, ReadType.STORE: True}


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
        self._read_ahead = ReadAhead(config.read_ahead_bytes)
        self._parts = Parts(config, cache, self._fetcher, self._disks, self._gate, self._peers)
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
        self._hits: dict[int, metrics.Child] = {}
        self._heat = Heat()
        self._read_time = metrics.READ_TIME("cache")
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
        service.register(Method.READ, ReadRequest, self._read, right=Right.READ)
        service.register(Method.READ_MANY, ReadManyRequest, self._read_many, right=Right.READ)
        service.register(Method.DESCRIPTOR, DescriptorRequest, self._descriptor, right=Right.READ)
        service.register(Method.FETCH, FetchRequest, self._fetch, right=Right.READ)
        service.register(Method.RELEASE, ReleaseRequest, self._release, right=Right.READ)
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
        self._hits.clear()
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

    # ---- reading --------------------------------------------------------------------------------------------------------

    def _read(self, request: ReadRequest, call: Call) -> Message | None:
        capability = self._open(request.capability)
        offset, end = _span(capability, request.offset, request.length)
        if offset >= end:
            return EMPTY
        past_cache, from_store = _past_cache(request.cache), request.cache == ReadType.STORE
        asked = _asked(request)
        served: Served = {}
        if not request.asked and not request.spread and call.door == "tcp":
            served = {(capability.content, block_of(offset, capability.layout)): (1, end - offset)}
        answer = tell(self._heat, served, time.monotonic())
        if request.cache == ReadType.CACHE_PROMOTE:
            self._promote([(capability, offset, end)])
        may_be_ready = not from_store and asked is not Asked.FORMER and end - offset <= SMALL_BYTES
        ready = self._ready(call, capability, offset, end) if may_be_ready else None
        ahead = end
        if not past_cache and asked is not Asked.FORMER and (request.sequential or ready is None):
            ahead = self._read_ahead.plan(
                capability.content, offset, end, capability.size, sequential=request.sequential
            )
            ahead = self._peers.reach(capability, end - 1, ahead)
        if ready is not None:
            call.finish(memoryview(ready), answer)
            if ahead > end:
                self._ensure([Piece(capability, end, ahead)], urgent=False, asked=asked)
            return None
        missed = missing_pages(self._cache, capability.content, offset, end)
        past_cache = past_cache or (bool(missed) and not request.spread and not self._peers.keeps(capability, offset))
        pieces = (Piece(capability, offset, end, ahead, missed),)
        Delivery(
            self._parts, call, pieces, past_cache=past_cache, from_store=from_store, asked=asked, answer=answer
        ).resume()
        return None

    def at_hand(self, granted: Capability, call: Call) -> bytes:
        """For the master of this process, which answers ``call`` with them: all bytes of a small file, if READ would answer at once; else
        none. Never raises."""
        most = SMALL_BYTES if call.door == "direct" else AFAR_BYTES
        if self._stopping or not 0 < granted.size <= most:
            return b""
        try:
            self._gate.admit(granted)
        except MonofsError:
            return b""
        if granted.group:
            self._pins.honour(granted)
        return cast("bytes", self._ready(call, granted, 0, granted.size) or b"")  # which nobody changes any more

    def _ready(self, call: Call, capability: Capability, offset: int, end: int) -> bytearray | None:
        """A small piece that is resident, verified and within one group."""
        group = self._cache.lookup(capability.content, offset // GROUP_SIZE_BYTES)
        if group is None or not group.verified:
            return None
        at, length = offset % GROUP_SIZE_BYTES, end - offset
        first, last = at // PAGE_SIZE_BYTES, (at + length - 1) // PAGE_SIZE_BYTES
        if not group.present >> first & group.present >> last & 1:
            return None  # also when the piece goes on in the next group: bit 64 is never set
        fd, data = group.directory.files.ready(group), bytearray(length)
        if fd is None or not read_of(group.directory)(fd, data, group.base + at):
            return None
        self._cache.touch(group)
        self._count_hits(capability.mount, 1 + (last > first))
        metrics.SERVED_BYTES("cache", call.door).value += length
        self._read_time.observe(time.monotonic() - call.started)
        return data

    def _count_hits(self, mount: int, pages: int) -> None:
        hits = self._hits.get(mount)
        if hits is None:
            hits = self._hits[mount] = metrics.PAGE_HITS(str(mount))
        hits.value += pages

    def _read_many(self, request: ReadManyRequest, call: Call) -> Message | None:
        pieces = request.pieces
        if len(pieces) > PIECES_MAX:
            raise InvalidArgument(f"{len(pieces)} pieces in one request; at most {PIECES_MAX}")
        capabilities = [self._open(token) for token in request.capabilities]
        total = 0
        served: Served = {}
        for which, offset, length in pieces:
            if offset < 0 or length < 0 or not 0 <= which < len(capabilities):
                raise InvalidArgument(
                    f"piece ({which}, {offset}, {length}) is outside of {len(capabilities)} capabilities"
                )
            total += length
            if call.door == "tcp" and not request.spread and not request.asked:
                capability = capabilities[which]
                key = (capability.content, block_of(offset, capability.layout))
                requests, asked = served.get(key, (0, 0))
                served[key] = (requests + 1, asked + length)
        if total > MANY_BYTES_MAX:
            raise InvalidArgument(f"{total} bytes asked for in one request; at most {MANY_BYTES_MAX}")
        past_cache, asked = _past_cache(request.cache), _asked(request)
        if request.cache == ReadType.CACHE_PROMOTE:
            self._promote([(capabilities[which], offset, offset + length) for which, offset, length in pieces])
        answer = tell(self._heat, served, time.monotonic())
        if asked is Asked.FORMER:
            self._check_cached(capabilities, pieces)
        if not pieces:
            return answer
        done, ready = self._ready_many(call, capabilities, pieces, total)
        if done == len(pieces):
            call.finish(ready, answer)
            return None
        if done:
            call.data(ready)
        rest = [
            self._piece(capabilities[which], offset, min(offset + length, capabilities[which].size))
            for which, offset, length in pieces[done:]
            if length and offset < capabilities[which].size
        ]
        if not request.spread:
            past_cache = past_cache or not all(self._peers.keeps(each.capability, each.offset) for each in rest)
        if not past_cache:
            self._ensure(rest, urgent=True, asked=asked)
        Delivery(self._parts, call, rest, past_cache=past_cache, asked=asked, answer=answer).resume()
        return None

    def _check_cached(self, capabilities: list[Capability], pieces: list[tuple[int, int, int]]) -> None:
        """Raise ``NotCached`` unless all pieces are here: who asks somebody else too has no use for some of them."""
        for which, offset, length in pieces:
            end = min(offset + length, capabilities[which].size)
            if offset < end and missing_pages(self._cache, capabilities[which].content, offset, end):
                raise NotCached("these bytes are not in this worker's cache")

    def _ready_many(
        self, call: Call, capabilities: list[Capability], pieces: list[tuple[int, int, int]], total: int
    ) -> tuple[int, memoryview]:
        """The bytes of the pieces up to the first that is not resident, and how many pieces these are.

        Written straight because it is the hottest path: a 4 KiB piece costs one ``preadv2`` into its place in the answer
        (1.1 µs) and about as much around it.
        """
        group_bytes, page_bytes = GROUP_SIZE_BYTES, PAGE_SIZE_BYTES
        view, files = memoryview(bytearray(total)), self._cache.files
        opened: dict[tuple[int, int], tuple[int, int, int, Read]] = {}
        filled = done = 0
        for which, offset, length in pieces:
            number = offset // group_bytes
            known = opened.get((which, number))
            if known is None:
                closed = files.closed
                known = self._opened(capabilities[which], number)
                if files.closed != closed:  # others, to open this one, whose numbers may be this one's now
                    opened.clear()
                opened[which, number] = known
            fd, start, present, read = known
            at = offset - number * group_bytes
            first, last = at // page_bytes, (at + length - 1) // page_bytes
            if length > PIECE_BYTES or not length or not present >> first & present >> last & 1:
                break
            if offset >= capabilities[which].size:  # in the last page, behind the last byte
                break
            end = filled + min(length, capabilities[which].size - offset)
            if not read(fd, view[filled:end], start + at):
                break
            filled = end
            done += 1
        if done:
            metrics.SERVED_BYTES("cache", call.door).value += filled
            self._count_hits(capabilities[0].mount, done)
        return done, view[:filled]

    def _promote(self, pieces: list[tuple[Capability, int, int]]) -> None:
        """Move what is cached in a lower tier up."""
        for capability, offset, end in pieces:
            for number in range(offset // GROUP_SIZE_BYTES, (max(end, 1) - 1) // GROUP_SIZE_BYTES + 1):
                group = self._cache.lookup(capability.content, number)
                if group is not None:
                    self._cache.promote(group)

    def _piece(self, capability: Capability, offset: int, end: int) -> Piece:
        return Piece(capability, offset, end, missed=missing_pages(self._cache, capability.content, offset, end))

    def _opened(self, capability: Capability, number: int) -> tuple[int, int, int, Read]:
        """Descriptor, base and presence of a group that can be read at once, and with what; presence 0 when it cannot."""
        group = self._cache.lookup(capability.content, number)
        if group is not None and group.verified and number * GROUP_SIZE_BYTES < capability.size:
            fd = group.directory.files.ready(group)
            if fd is not None:
                self._cache.touch(group)
                return fd, group.base, group.present, read_of(group.directory)
        return -1, 0, 0, read_now

    def _ensure(self, pieces: list[Piece], *, urgent: bool, asked: Asked = Asked.BY_READER) -> None:
        """Start fetching the missing pages of all pieces at once; what cannot be started is told when a reader gets there."""
        for piece in pieces:
            if self._gate.is_stale(piece.capability):
                continue
            for number, pages in _groups(piece):
                group = self._cache.lookup(piece.capability.content, number)
                if group is not None and not group.verified:
                    continue
                try:
                    self._fetcher.ensure(piece.capability, number, pages, urgent=pages if urgent else 0, asked=asked)
                except MonofsError:
                    return

    # ---- local readers --------------------------------------------------------------------------------------------------

    def _descriptor(self, request: DescriptorRequest, call: Call) -> Message | None:
        if call.door != "unix":
            raise NotSupported("descriptors are handed out on the worker's Unix socket only")
        capability = self._open(request.capability)
        if not pages_of(capability.size, request.group):
            raise InvalidArgument(f"group {request.group} lies beyond the end of the file")
        self._leases.check_room(call.connection)
        group = self._cache.lookup(capability.content, request.group)
        length = group_length(capability.size, request.group)
        if group is None or not group.present:
            return DescriptorAnswer(0, 0, length, 0)
        self._leases.check_share(group)
        if request.cache == ReadType.CACHE_PROMOTE:
            self._cache.promote(group)
        if not group.verified:

            def verified(error: MonofsError | None) -> None:
                # asked again from the start: the group may have lost its bad pages, or be gone
                call.fail(error) if error is not None else _again(self._descriptor, request, call)

            self._disks.verify(group, verified)
            return None
        return self._hand_out(group, call, promotes=request.cache == ReadType.CACHE_PROMOTE)

    def _hand_out(self, group: Group, call: Call, *, promotes: bool) -> Message | None:
        """With a descriptor made for this reader: one shared with the cache would let the reader change its flags."""
        if group.directory.files.ready(group) is not None:  # so its name is in memory, and opening it meets no disk
            self._lend(group, call, self._cache.open_reader(group), promotes=promotes)
        else:
            self._disks.open(group, lambda result: self._lend(group, call, result, promotes=promotes))
        return None

    def _lend(self, group: Group, call: Call, result: int | MonofsError, *, promotes: bool) -> None:
        if isinstance(result, MonofsError):
            call.fail(result)
            return
        try:
            if not group.alive:  # dropped while a thread opened it: nothing may be held any more
                call.answer(DescriptorAnswer(0, 0, group.length, 0))
            elif not call.closed:
                self._leases.check_room(call.connection)
                self._cache.touch(group)
                call.attach(result)
                lease = self._leases.grant(call.connection, group, promotes=promotes)
                metrics.DESCRIPTOR_BYTES(str(group.mount)).value += mask_bytes(group.length, group.present)
                call.answer(DescriptorAnswer(group.present, group.base, group.length, lease, group.file))
        except MonofsError as error:
            call.fail(error)
        finally:
            group.directory.close_file(result)

    def _fetch(self, request: FetchRequest, call: Call) -> Message | None:
        capability = self._open(request.capability)
        pages = pages_of(capability.size, request.group)
        if not pages:
            raise InvalidArgument(f"group {request.group} lies beyond the end of the file")
        if request.pages < 0 or request.ahead < 0:
            raise InvalidArgument("pages and ahead cannot be negative")
        if request.check:
            self._check(capability, request.group, request.pages & pages, call)
            return None
        giver = request.giver
        if giver and not self._peers.knows(giver):
            raise InvalidArgument(f"worker {giver} is not known here: nothing can be taken from it")
        at = request.group * GROUP_SIZE_BYTES
        if _past_cache(request.cache) or not self._peers.keeps(capability, at, counts=False, wanted=request.keep):
            group = self._cache.lookup(capability.content, request.group)
            if group is None or not group.verified or request.pages & pages & ~group.present:
                return FetchAnswer(0, cached=False)
        if request.cache == ReadType.CACHE_PROMOTE:
            self._promote([(capability, at, at + 1)])
        Filling(
            self._parts,
            call,
            capability,
            request.group,
            request.pages & pages,
            request.ahead,
            giver=giver,
            age_ms=request.age_ms,
            unread=request.unread,
        ).resume()
        return None

    def _check(self, capability: Capability, number: int, pages: int, call: Call) -> None:
        """Tell which pages are cached and right."""
        group = self._cache.lookup(capability.content, number)
        if group is None or not group.present & pages:
            call.answer(FetchAnswer(0))
            return
        checked = group.present & pages

        def told(bad: int) -> None:
            right = checked & ~bad if group.alive else 0
            if bad:
                self._cache.drop_pages(group, bad)
            call.answer(FetchAnswer(right, file=group.file))

        self._disks.check(group, told, call.fail, mask=checked)

    def _release(self, request: ReleaseRequest, _call: Call) -> Message:
        self._leases.release(request.leases)
        if len(request.kept) > KEPT_MAX:
            raise InvalidArgument(f"{len(request.kept)} leases kept in one request; at most {KEPT_MAX}")
        self._leases.count_reads(request.kept)
        recalled = self._leases.recalled(request.kept, self._cache.is_wanted)
        metrics.DESCRIPTORS_RECALLED().value += len(recalled)
        return ReleaseAnswer(recalled)

    def _open(self, token: bytes) -> Capability:
        if self._stopping:
            raise NotReady("the worker is stopping")
        capability = self._gate.open(token)
        if capability.group:
            self._pins.honour(capability)
        return capability


def _span(capability: Capability, offset: int, length: int) -> tuple[int, int]:
    if offset < 0 or length < 0:
        raise InvalidArgument("offset and length cannot be negative")
    return offset, min(offset + length, capability.size)


def _past_cache(read_type: str) -> bool:
    past = _PAST_CACHE.get(read_type)  # type: ignore[call-overload]
    if past is None:
        raise InvalidArgument(f"read type {read_type!r} is not one of {', '.join(ReadType)}")
    return bool(past)


def _asked(request: ReadRequest | ReadManyRequest) -> Asked:
    if request.past_owner and not request.asked:
        return Asked.PAST_OWNER
    try:
        return Asked(request.asked)
    except ValueError:
        raise InvalidArgument(f"a read is asked as one of {', '.join(map(str, Asked))}, not {request.asked}") from None


def _groups(piece: Piece) -> Iterator[tuple[int, int]]:
    return group_masks(piece.offset // PAGE_SIZE_BYTES, (piece.end - 1) // PAGE_SIZE_BYTES)


def _again(handler: Any, request: Message, call: Call) -> None:
    """Run a handler once more, outside of the service's border."""
    try:
        answer = handler(request, call)
        if answer is not None:
            call.answer(answer)
    except MonofsError as error:
        call.fail(error)
    except Exception as bug:  # noqa: BLE001 - as the border of every handler
        call.crash(bug)
