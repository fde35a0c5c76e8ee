"""Bytes to a reader: the pieces of one READ or READ_MANY, streamed in order from wherever each page is.

A delivery moves through its pieces on the reactor thread and, at every step, sends what is at hand or arranges to be resumed:
by the connection (slow reader), by a flight (page missing), by a thread (page not in memory, group not verified). What arrives
for a reader that has become slow meanwhile is kept, over all deliveries up to ``KEPT_BYTES``; beyond, it is dropped and asked for
again when the reader takes more.

Invariants: bytes are sent only from verified groups and only from pages present, or straight from a store's read of the
capability's fingerprint; what was sent before an error is right. Not here: the fast path of resident bytes (reading.py).
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial

from monofs.config.schema import WorkerConfig
from monofs.model.block import GROUP_PAGES, GROUP_SIZE_BYTES, PAGE_SIZE_BYTES, group_length, pages_mask
from monofs.model.capability import Capability
from monofs.model.errors import CapabilityExpired, MonofsError, NotCached, invariant
from monofs.model.ids import ContentId, MountId
from monofs.observe import metrics
from monofs.observe.tracing import TRACE
from monofs.rpc.api import Empty, Message
from monofs.rpc.service import Call
from monofs.tiering.cache import Cache, Group
from monofs.worker.disks import Disks
from monofs.worker.fetcher import Fetcher, is_tier_error, tier_reason
from monofs.worker.gate import Gate
from monofs.worker.peers import BY_READERS, Asked, Peers
from monofs.worker.pins import Pins
from monofs.worker.planner import group_masks, run_length
from monofs.worker.residency import is_resident, read_piece, stays_in_memory

SMALL_BYTES = 128 << 10
"""Up to here bytes are read and copied into the answer; above, the kernel copies them, which costs more calls of our own."""
FRESH_BYTES = 256 << 10
"""Up to here bytes of a page that has just landed are sent from memory; more would wait there for a slow reader, where those of a file need not."""
CHUNK_BYTES = 2 << 20
TURN_BYTES = 8 << 20
"""After so many bytes others get their turn on the reactor, also on a channel that takes everything at once."""
DISK_BYTES = 1 << 20
"""What a thread reads at a time for one reader when the bytes are not in memory."""
KEPT_BYTES = 32 << 20
"""Most bytes kept for slow readers, over all deliveries of a worker."""
EMPTY = Empty()


@dataclass(slots=True)
class Kept:
    """How much is kept for slow readers now."""

    bytes: int = 0


@dataclass(slots=True, frozen=True)
class Parts:
    """What serving is made of."""

    config: WorkerConfig
    cache: Cache
    fetcher: Fetcher
    disks: Disks
    gate: Gate
    pins: Pins
    peers: Peers
    kept: Kept = field(default_factory=Kept)

    def open(self, token: bytes) -> Capability:
        """The capability of a reader's token, and what it says of pins honoured. Raises as ``Gate.open``."""
        capability = self.gate.open(token)
        if capability.group:
            self.pins.honour(capability)
        return capability

    def admit(self, capability: Capability) -> None:
        """The same for what the master of this process grants. Raises as ``Gate.admit``."""
        self.gate.admit(capability)
        if capability.group:
            self.pins.honour(capability)


@dataclass(slots=True, frozen=True)
class Piece:
    """Bytes ``[offset, end)`` of a content, within its size."""

    capability: Capability
    offset: int
    end: int
    ahead: int = 0
    """Byte up to which to read ahead; at most the size."""
    missed: Mapping[int, int] = field(default_factory=dict)
    """Pages missing when it was asked for, by group: what counts as a miss, whenever they come in."""


def missing_pages(cache: Cache, content: ContentId, offset: int, end: int) -> dict[int, int]:
    """The pages of bytes ``[offset, end)`` that are not cached: group → bitmap."""
    missed: dict[int, int] = {}
    for number, pages in group_masks(offset // PAGE_SIZE_BYTES, (end - 1) // PAGE_SIZE_BYTES):
        group = cache.readable(content, number)
        missing = pages & ~(group.present if group is not None else 0)
        if missing:
            missed[number] = missing
    return missed


class Delivery:
    """One stream. Start it with :meth:`resume`; it answers or fails the call."""

    def __init__(
        self,
        parts: Parts,
        call: Call,
        pieces: Iterable[Piece],
        *,
        past_cache: bool,
        from_store: bool = False,
        asked: Asked = Asked.BY_READER,
        answer: Message = EMPTY,
    ) -> None:
        """``past_cache``: nothing is added to the cache. ``from_store``: nor is anything taken from it."""
        self._parts, self._call, self._pieces, self._asked = parts, call, deque(pieces), asked
        self._answer = answer
        self._from_store = from_store
        self._past_cache = past_cache
        self._no_cache = past_cache
        self._piece = Piece(_NOTHING, 0, 0)
        self._position = self._end = 0
        self._group: Group | None = None
        self._number = -1
        self._missed = 0
        self._ensured = 0
        self._may_fetch = True
        self._source = "cache"
        self._over = False
        self._blocked = False
        self._turn_bytes = 0
        self._disk_failures = 0
        self._kept: deque[tuple[bytes | memoryview, str]] = deque()
        self._kept_end = 0
        self._pass_number = 0
        self._pass_end = 0
        call.on_end(self._finish)

    def resume(self, error: MonofsError | None = None) -> None:
        """Go on until there is something to wait for."""
        if self._over:
            return
        token = TRACE.set(self._call.trace)  # what this starts carries the request's id
        try:
            if error is not None:
                if not is_tier_error(error):
                    raise error
                self._leave_cache(error)
            while not self._over and self._step():
                pass
        except MonofsError as failure:
            self._finish()
            self._call.fail(failure)
        except Exception as bug:  # noqa: BLE001 - called from flights and threads, where others must not suffer from it
            self._finish()
            self._call.crash(bug)
        finally:
            TRACE.reset(token)

    def _step(self) -> bool:
        """Do one thing; False when something will resume this delivery later, or it is over."""
        call = self._call
        if call.closed:
            self._finish()
            return False
        if self._position >= self._end and not self._next_piece():
            self._finish()
            call.answer(self._answer)
            return False
        if not call.writable or self._turn_bytes >= TURN_BYTES:
            self._blocked = True
            call.when_writable(self._unblock)
            return False
        if self._kept:
            data, source = self._kept.popleft()
            self._parts.kept.bytes -= len(data)
            call.data(data)
            self._sent(len(data), source)
            return True
        if self._position < self._pass_end:
            return False  # the passing flight's next piece resumes this delivery; nothing else may
        number = self._position // GROUP_SIZE_BYTES
        page = self._position % GROUP_SIZE_BYTES // PAGE_SIZE_BYTES
        group = self._hold(number)
        if group is not None and not group.verified:
            self._parts.disks.verify(group, self.resume)
            return False
        self._look_ahead(force=False)  # an error lasts or not: the page's turn will tell
        if group is None or self._from_store or not group.present >> page & 1:
            return self._fetch(number, page)
        return self._send(group, page)

    def _next_piece(self) -> bool:
        if not self._pieces:
            return False
        piece = self._pieces.popleft()
        if piece.capability is not self._piece.capability:
            self._may_fetch = not self._parts.gate.is_stale(piece.capability)
        self._piece, self._position, self._end = piece, piece.offset, piece.end
        self._ensured = piece.offset
        self._number = -1
        self._pass_number += 1
        self._pass_end = 0
        return True

    def _unblock(self) -> None:
        self._blocked = False
        self._turn_bytes = 0
        self.resume()

    def _hold(self, number: int) -> Group | None:
        """The group that is read now, held so that it cannot be evicted under this reader."""
        piece = self._piece
        group = self._parts.cache.readable(piece.capability.content, number)
        if group is not self._group:
            self._release()
            if group is not None:
                self._parts.cache.hold(group)
                self._group = group
        if number != self._number:
            self._number = number
            base = number * GROUP_PAGES
            first = max(piece.offset // PAGE_SIZE_BYTES - base, 0)
            last = min((piece.end - 1) // PAGE_SIZE_BYTES - base, GROUP_PAGES - 1)
            self._missed = piece.missed.get(number, 0)
            if self._asked in BY_READERS:  # who takes pages over is no reader, and who asks the owner has counted
                count_pages(piece.capability.mount, pages_mask(first, last), self._missed)
            if group is not None and group.alive:
                self._parts.cache.touch(group)
        return group

    # ---- missing pages ------------------------------------------------------------------------------------------------

    def _look_ahead(self, *, force: bool) -> MonofsError | None:
        """Keep a window of pages on their way before the reader, in ranges as large as they may be; what stopped that, if so."""
        if self._past_cache or not self._may_fetch or self._asked is Asked.FORMER:
            return None
        config, piece = self._parts.config, self._piece
        limit = max(self._end, piece.ahead)
        window = max(config.read_ahead_bytes, 2 * config.fetch_bytes)
        if not force and (self._ensured >= limit or self._ensured - self._position > window - config.fetch_bytes):
            return None
        begin = self._position if force else max(self._position, self._ensured)
        target = min(limit, self._position + window)
        wanted_page = (self._end - 1) // PAGE_SIZE_BYTES
        for number, pages in group_masks(begin // PAGE_SIZE_BYTES, (target - 1) // PAGE_SIZE_BYTES):
            group = self._parts.cache.readable(piece.capability.content, number)
            if group is not None and not (group.verified and group.alive):
                continue  # verified when the reader gets there; nothing is written to it before, nor to what has retired
            base = number * GROUP_PAGES
            urgent = pages_mask(0, min(wanted_page - base, GROUP_PAGES - 1)) if wanted_page >= base else 0
            try:
                self._parts.fetcher.ensure(piece.capability, number, pages, urgent=urgent, asked=self._asked)
            except MonofsError as error:
                self._ensured = max(begin, base * PAGE_SIZE_BYTES)
                return error
        self._ensured = target
        return None

    def _fetch(self, number: int, page: int) -> bool:
        """The page at the position is missing: wait for it, bring it, or go past the cache."""
        fetcher, capability = self._parts.fetcher, self._piece.capability
        self._source = "store"
        self._call.waits_for = fetcher.awaited(capability)
        if self._asked is Asked.FORMER:
            raise NotCached("these bytes are not in this worker's cache")
        if fetcher.wait(capability.content, number, page, self.resume, self._asked):
            return False
        if not self._may_fetch:
            raise CapabilityExpired("no master answers, and these bytes are not cached: try again when one is back")
        has_retired = self._group is not None and not self._group.alive
        if not self._past_cache and not has_retired:  # what has retired is not fetched into the cache any more
            error = self._look_ahead(force=True)
            if fetcher.wait(capability.content, number, page, self.resume, self._asked):
                return False
            invariant(error is not None, "a page that was asked for is on its way")
            if error is not None and not is_tier_error(error):
                raise error
            self._leave_cache(error)
        if self._no_cache:
            metrics.NOT_ADMITTED("no_cache").value += not self._pass_end
        elif self._group is None:
            self._parts.cache.passed_by(capability.content, number, group_length(capability.size, number))
        self._pass_number += 1
        taker = partial(self._take, self._pass_number)
        self._pass_end = fetcher.pass_through(capability, self._position, self._end, taker, self._asked)
        return False

    def _leave_cache(self, error: MonofsError | None) -> None:
        """The cache cannot take more: what is missing of this request comes straight from the store."""
        if not self._past_cache:
            self._past_cache = True
            metrics.NOT_ADMITTED(tier_reason(error)).value += 1

    def _take(self, number: int, offset: int, data: bytes, error: MonofsError | None) -> None:
        """A piece of a passing flight; it may begin before the position and go beyond the end."""
        if self._over or number != self._pass_number:
            return
        if error is not None:
            self._pass_end = 0
            self.resume(error)
            return
        begin = self._kept_end if self._kept else self._position
        data = data[max(begin - offset, 0) : self._end - offset]
        if data:
            if self._offer(data, "store"):
                self._kept_end = begin + len(data)
            else:
                self._pass_number += 1
                self._pass_end = 0
            if not self._blocked:
                self.resume()

    def _offer(self, data: bytes | memoryview, source: str) -> bool:
        """Send bytes that were brought for the reader, or keep them while it is slow; False when too much is kept already."""
        if not self._blocked and not self._kept and self._call.writable:
            self._call.data(data)
            self._sent(len(data), source)
            return True
        kept = self._parts.kept
        if kept.bytes + len(data) > KEPT_BYTES:
            return False
        kept.bytes += len(data)
        self._kept.append((data, source))
        return True

    # ---- cached pages -------------------------------------------------------------------------------------------------

    def _send(self, group: Group, page: int) -> bool:
        """Send consecutive bytes that are present, of one source; False when a thread must read them first."""
        missed = self._missed >> page & 1
        pages = run_length(group.present & (self._missed if missed else ~self._missed), page)
        base = self._number * GROUP_SIZE_BYTES
        source = "store" if missed else "cache"
        page_at = base + page * PAGE_SIZE_BYTES
        fresh = self._parts.fetcher.fresh(group, page)
        if fresh is not None and min(self._end, page_at + len(fresh)) - self._position <= FRESH_BYTES:
            self._send_fresh(fresh[self._position - page_at : self._end - page_at], source)
            return True
        end = min(self._end, base + (page + pages) * PAGE_SIZE_BYTES, self._position + CHUNK_BYTES)
        at, length = self._position - base, end - self._position
        fd = group.directory.files.ready(group)
        if fd is None and missed and group.directory.is_local:
            fd = group.fd()  # written a moment ago: opening it meets no disk
        if fd is not None and length <= SMALL_BYTES:
            data = read_piece(group.directory, fd, group.base + at, length)
            if data is not None:
                self._call.data(memoryview(data))
                self._sent(length, source)
                return True
        elif fd is not None and (stays_in_memory(group.directory) or is_resident(fd, group.base + at, length)):
            self._call.send_file(fd, group.base + at, length)
            self._sent(length, source)
            return True
        length = min(length, DISK_BYTES)
        self._parts.disks.read(group, at, length, partial(self._read, group, source))
        return False

    def _send_fresh(self, data: memoryview, source: str) -> None:
        """Bytes of a page that has landed just now; the last ones leave together with the answer."""
        if self._position + len(data) < self._end or self._pieces:
            self._call.data(data)
            self._sent(len(data), source)
            return
        self._sent(len(data), source)
        self._finish()
        self._call.finish(data, self._answer)

    def _read(self, group: Group, source: str, data: memoryview | None) -> None:
        """A thread read what was not in memory."""
        if self._over:
            return
        if data is None:
            self._disk_failed(group)
        else:
            self._offer(data, source)  # refused: read again, now from memory, when the reader takes more
        self.resume()

    def _disk_failed(self, group: Group) -> None:
        """The group's file cannot be read: have all its pages checked, and give the group up if that does not help."""
        self._disk_failures += 1
        if self._disk_failures < 3:
            group.verified = False
        else:
            self._parts.cache.drop_pages(group, group.present)

    def _sent(self, length: int, source: str) -> None:
        self._position += length
        self._turn_bytes += length
        self._call.waits_for = ""
        metrics.SERVED_BYTES(source, self._call.door).value += length

    # ---- the end --------------------------------------------------------------------------------------------------------

    def _release(self) -> None:
        if self._group is not None:
            group, self._group = self._group, None
            self._parts.cache.release(group)

    def _finish(self) -> None:
        if not self._over:
            self._over = True
            self._parts.kept.bytes -= sum(len(data) for data, _ in self._kept)
            self._kept.clear()
            self._release()
            metrics.READ_TIME(self._source).observe(time.monotonic() - self._call.started)


def count_pages(mount: int, asked: int, missed: int) -> None:
    """Hits and misses of one read."""
    hits = (asked & ~missed).bit_count()
    if hits:
        metrics.PAGE_HITS(str(mount)).value += hits
    if missed:
        metrics.PAGE_MISSES(str(mount)).value += missed.bit_count()


_NOTHING = Capability(0, b"", ContentId(0), 0, 0, MountId(0), "", "", 0, 0, 0, 0)
