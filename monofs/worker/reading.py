"""READ and READ_MANY: what is resident and verified is answered in a plain call, everything else goes to a Delivery.

The plain call is: capability, group, one ``preadv2``, DATA and ANSWER. Invariants: a request is refused whole before its first byte, also when only its last piece
is wrong; a plain call never waits for a disk; what it sends is of verified groups and pages present.

Not here: what waits for a disk, a store or a slow reader (delivery.py), requests by the group (lending.py).
"""

from __future__ import annotations

import time
from collections.abc import Iterator

from monofs.model.block import GROUP_SIZE_BYTES, PAGE_SIZE_BYTES, block_of
from monofs.model.capability import Capability
from monofs.model.errors import InvalidArgument, MonofsError, NotCached
from monofs.model.options import ReadType
from monofs.model.principal import Right
from monofs.observe import metrics
from monofs.rpc.api import Message, Method, ReadManyRequest, ReadRequest
from monofs.rpc.service import Call, Service
from monofs.worker.delivery import EMPTY, SMALL_BYTES, Delivery, Parts, Piece, missing_pages
from monofs.worker.heat import Heat, Served, tell
from monofs.worker.peers import Asked
from monofs.worker.planner import ReadAhead, group_masks
from monofs.worker.residency import Read, read_now, read_of, read_piece

PIECES_MAX = 1024
MANY_BYTES_MAX = 16 << 20
PIECE_BYTES = 64 << 10
"""Up to here a piece of many is copied into their one answer; a hundred larger ones cost more in fresh memory than in calls."""
AFAR_BYTES = 64 << 10
"""A larger file is at hand within this process only: elsewhere it is read from a worker nearby."""
_PAST_CACHE = {ReadType.NO_CACHE: True, ReadType.CACHE: False, ReadType.CACHE_PROMOTE: False, ReadType.STORE: True}


class Reading:
    """Handlers of one worker. Reactor thread only."""

    def __init__(self, parts: Parts) -> None:
        self._parts, self._cache, self._fetcher = parts, parts.cache, parts.fetcher
        self._gate, self._peers = parts.gate, parts.peers
        self._read_ahead = ReadAhead(parts.config.read_ahead_bytes)
        self._heat = Heat()
        self._hits: dict[int, metrics.Child] = {}
        self._read_time = metrics.READ_TIME("cache")

    def register_methods(self, service: Service) -> None:
        """Serve them."""
        service.register(Method.READ, ReadRequest, self._read, right=Right.READ)
        service.register(Method.READ_MANY, ReadManyRequest, self._read_many, right=Right.READ)

    def forget_mounts(self) -> None:
        """Mounts came or went: what is counted for each is asked for again."""
        self._hits.clear()

    def _read(self, request: ReadRequest, call: Call) -> Message | None:
        capability = self._parts.open(request.capability)
        offset, end = _span(capability, request.offset, request.length)
        if offset >= end:
            return EMPTY
        past_cache, from_store = goes_past_cache(request.cache), request.cache == ReadType.STORE
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
        if not 0 < granted.size <= most:
            return b""
        try:
            self._parts.admit(granted)
        except MonofsError:
            return b""
        return self._ready(call, granted, 0, granted.size) or b""

    def _ready(self, call: Call, capability: Capability, offset: int, end: int) -> bytes | None:
        """A small piece that is resident, verified and within one group."""
        group = self._cache.lookup(capability.content, offset // GROUP_SIZE_BYTES)
        if group is None or not group.verified:
            return None
        at, length = offset % GROUP_SIZE_BYTES, end - offset
        first, last = at // PAGE_SIZE_BYTES, (at + length - 1) // PAGE_SIZE_BYTES
        if not group.present >> first & group.present >> last & 1:
            return None  # also when the piece goes on in the next group: bit 64 is never set
        directory = group.directory
        fd = directory.files.ready(group)
        data = None if fd is None else read_piece(directory, fd, group.base + at, length)
        if data is None:
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
        capabilities = [self._parts.open(token) for token in request.capabilities]
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
        past_cache, asked = goes_past_cache(request.cache), _asked(request)
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


def goes_past_cache(read_type: str) -> bool:
    """Whether a read of this type adds nothing to the cache. Raises ``InvalidArgument`` when there is none of this name."""
    past = _PAST_CACHE.get(read_type)  # type: ignore[call-overload]
    if past is None:
        raise InvalidArgument(f"read type {read_type!r} is not one of {', '.join(ReadType)}")
    return bool(past)


def _span(capability: Capability, offset: int, length: int) -> tuple[int, int]:
    if offset < 0 or length < 0:
        raise InvalidArgument("offset and length cannot be negative")
    return offset, min(offset + length, capability.size)


def _asked(request: ReadRequest | ReadManyRequest) -> Asked:
    if request.past_owner and not request.asked:
        return Asked.PAST_OWNER
    try:
        return Asked(request.asked)
    except ValueError:
        raise InvalidArgument(f"a read is asked as one of {', '.join(map(str, Asked))}, not {request.asked}") from None


def _groups(piece: Piece) -> Iterator[tuple[int, int]]:
    return group_masks(piece.offset // PAGE_SIZE_BYTES, (piece.end - 1) // PAGE_SIZE_BYTES)
