"""Fetching from stores: one flight per missing byte, however many readers wait for it (law 6).

A *flight* is one range of one content on its way. Its thread reads the store and either writes each page into the group's file,
or (a *passing* flight: no room in the cache, or the reader wants none) copies the bytes for those who wait. Everything else
happens on the reactor: every page is committed and its readers woken as it lands, so they stream while the rest is on its way; who
waited for it gets its bytes from memory (``fresh``) where they came as one and few are on their way to the reactor, else from its file.
Errors whose ``retry`` is true are tried again from the first byte that has not landed, after a back-off with jitter; a try that
landed something starts the count anew.

Invariants: a page is committed only when all its bytes came from a read of exactly the capability's fingerprint; at most one flight
covers a page of a group; a reader that goes away stops no flight. Not here: who may fetch (gate.py), what to fetch (planner.py).
"""

from __future__ import annotations

import math
import random
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, cast

from twisted.internet.base import DelayedCall

from monofs.config.schema import WorkerConfig
from monofs.model.block import GROUP_SIZE_BYTES, PAGE_SIZE_BYTES, group_length, pages_mask
from monofs.model.capability import Capability
from monofs.model.errors import (
    ContentChanged,
    DeadlineExceeded,
    Internal,
    MonofsError,
    NotCached,
    NotReady,
    Overloaded,
    QuotaExceeded,
    TierFull,
    TierUnusable,
    UfsBadBody,
    UfsChanged,
    UfsFailed,
    UfsNotFound,
    UfsThrottled,
    UfsUnreachable,
    from_code,
)
from monofs.model.ids import format_content_id
from monofs.observe.logs import logger
from monofs.observe.tracing import TRACE, show_trace
from monofs.rpc.sync import Pool as Connections
from monofs.tiering.cache import Cache, Group
from monofs.worker.flight import Flight, Taker, Waiter
from monofs.worker.peers import Asked, Peer, PeerFailed, Peers, is_silence
from monofs.worker.planner import split_ranges
from monofs.worker.pool import Pool
from monofs.worker.stores import Opened, Stores

log = logger(__name__)

BACK_OFF_FIRST_S = 0.1
BACK_OFF_MOST_S = 5.0
PASSING_BYTES = 2 << 20
"""Most bytes of one passing flight: what one reader of uncached bytes may make this worker hold."""
PASSING_FLIGHTS = 256
"""Most passing flights at a time; more readers get ``Overloaded``."""
FRESH_MAX = 32
"""With so many pages, or ends of flights, on their way to the reactor, the bytes of further pages do not wait in memory for it."""
SWEEP_S = 1.0
STORE_IN_TROUBLE = (UfsUnreachable, UfsThrottled, UfsFailed, UfsBadBody)
"""An owner that answers so has asked the store as often as it may."""

Landing = tuple[int, int, memoryview | None]
"""A page that was written: the position after it, its CRC, and its bytes, if they came as one."""


class Fetcher:
    """All flights of a worker. Methods: reactor thread only."""

    def __init__(self, config: WorkerConfig, cache: Cache, stores: Stores, peers: Peers, reactor: Any) -> None:
        self._config, self._cache, self._stores, self._peers, self._reactor = config, cache, stores, peers, reactor
        self._pool = Pool("fetch", config.fetch_threads, config.fetch_queue)
        self._asking = Pool("ask", config.fetch_threads, config.fetch_queue)
        """Of flights that wait for owners, whose own need threads of ``_pool``: one pool for both, and two workers could wait for each other."""
        self._pages_per_range = max(config.fetch_bytes // PAGE_SIZE_BYTES, 1)
        self._flights: dict[tuple[int, int], list[Flight]] = {}
        self._passing: dict[int, list[Flight]] = {}
        self._passing_count = 0
        self._hanging = 0
        self._idle: dict[tuple[int, int], list[Callable[[], None]]] = {}
        self._sweep: DelayedCall | None = None
        self._local = threading.local()
        self._fresh: tuple[Group, int, memoryview | None] | None = None
        self._told: deque[Callable[[], None]] = deque()
        """What threads brought and the reactor has not looked at yet."""
        self._is_woken = False
        self._closing = self._stopped = False

    # ---- asking -------------------------------------------------------------------------------------------------------

    def ensure(
        self,
        capability: Capability,
        number: int,
        pages: int,
        *,
        urgent: int,
        asked: Asked = Asked.BY_READER,
        giver: int = 0,
    ) -> int:
        """Start flights for those ``pages`` of group ``number`` that are neither present nor flying; the pages they bring.

        Ranges with a page of the bitmap ``urgent`` go first and raise ``Overloaded`` at the bound; others are skipped when the
        pool is busy. Raises ``TierFull``, ``QuotaExceeded`` or ``TierUnusable`` when the group cannot be admitted, ``NotCached`` or
        ``PageCorrupt`` for bytes no store has. ``giver``: the worker to read them from, or nowhere.
        """
        content = capability.content
        group = self._cache.lookup(content, number)
        flying = self._flights.get((content, number), ())
        missing = pages & ~(group.present if group is not None else 0)
        for flight in flying:
            missing &= ~flight.mask
        if not missing:
            return 0
        if not giver:
            self._check_store(capability)
        group = self._cache.admit(
            content,
            number,
            group_length(capability.size, number),
            capability.mount,
            capability.group,
            layout=capability.layout,
        )
        self._cache.hold(group)  # admitted and empty, it would not outlive the first refusal below
        started = 0
        try:
            for first, last in split_ranges(missing, self._pages_per_range):
                is_urgent = bool(urgent & pages_mask(first, last))
                if is_urgent or self._pool.queued * 2 < self._config.fetch_queue:
                    self._start(capability, group, first, last, urgent=is_urgent, asked=asked, giver=giver)
                    started |= pages_mask(first, last)
        finally:
            self._cache.release(group)
        return started

    def _check_store(self, capability: Capability) -> None:
        """Raise unless a store has the bytes: what lies there under the name of a file never persisted is something else."""
        self._cache.check_kept(capability.content)
        if not capability.mount or not capability.fingerprint:
            raise NotCached("these bytes exist in no store and not in this worker's cache")

    def _start(
        self, capability: Capability, group: Group, first: int, last: int, *, urgent: bool, asked: Asked, giver: int
    ) -> None:
        base = group.number * GROUP_SIZE_BYTES
        end = min(base + (last + 1) * PAGE_SIZE_BYTES, capability.size)
        flight = Flight(capability, base + first * PAGE_SIZE_BYTES, end, group, urgent)
        flight.given = bool(giver)
        flight.peer = Peer(giver, Asked.FORMER) if giver else self._peers.first(capability, flight.position, asked)
        self._cache.reserve(group, flight.mask)
        self._cache.hold(group)
        try:
            self._submit(flight)
        except MonofsError:
            self._leave(flight, group)
            raise
        self._flights.setdefault((capability.content, group.number), []).append(flight)

    def wait(self, content: int, number: int, page: int, waiter: Waiter, asked: Asked = Asked.BY_READER) -> bool:
        """Call ``waiter`` when ``page`` of the group has landed or its flight failed; False when no flight covers it.

        Raises ``NotReady`` when this worker asks an owner for it and is asked as one.
        """
        for flight in self._flights.get((content, number), ()):
            if flight.mask >> page & 1:
                _check_for(flight, asked)
                flight.waiters.append((number * GROUP_SIZE_BYTES + page * PAGE_SIZE_BYTES, waiter))
                return True
        return False

    def fresh(self, group: Group, page: int) -> memoryview | None:
        """The bytes of a page of this group that has just landed, for who waited for it and is told now; None of any other."""
        found = self._fresh
        return found[2] if found is not None and found[0] is group and found[1] == page else None

    def awaited(self, capability: Capability) -> str:
        """What a call waits for that waits for bytes of this content."""
        return self._stores.awaited(capability.mount, capability.key)

    def flying(self, content: int, number: int) -> int:
        """Bitmap of the group's pages that are on their way."""
        mask = 0
        for flight in self._flights.get((content, number), ()):
            mask |= flight.mask
        return mask

    def when_idle(self, content: int, number: int, callback: Callable[[], None]) -> None:
        """Call back once no flight writes into the group's file: at once, if none does."""
        if (content, number) in self._flights:
            self._idle.setdefault((content, number), []).append(callback)
        else:
            callback()

    def pass_through(
        self, capability: Capability, position: int, end: int, taker: Taker, asked: Asked = Asked.BY_READER
    ) -> int:
        """Bring bytes from ``position`` on, at most ``PASSING_BYTES``, past the cache to ``taker``; the byte they end before.

        Joins a flight on its way that has not passed ``position`` yet; its pieces may begin earlier or end after ``end``.
        """
        self._check_store(capability)
        for flight in self._passing.get(capability.content, ()):
            if flight.position <= position < flight.end:
                _check_for(flight, asked)
                flight.takers.append(taker)
                return flight.end
        if self._passing_count >= PASSING_FLIGHTS:
            raise Overloaded(f"{PASSING_FLIGHTS} uncached reads are on their way already; try again shortly")
        flight = Flight(capability, position, min(end, position + PASSING_BYTES), None, True, takers=[taker])
        flight.peer = self._peers.first(capability, position, asked)
        self._submit(flight)
        self._passing.setdefault(capability.content, []).append(flight)
        self._passing_count += 1
        return flight.end

    @property
    def count(self) -> int:
        """Flights on their way."""
        return sum(map(len, self._flights.values())) + self._passing_count

    def abandon_all(self, error: MonofsError) -> None:
        """Fail every flight and start none any more: the worker stops."""
        self._closing = True
        for flight in self._all():
            self._end(flight, error)
        if self._sweep is not None:
            self._sweep.cancel()
            self._sweep = None

    def forget(self) -> None:
        """From now on what threads bring is dropped: the cache is about to close."""
        self._stopped = True

    def stop(self, timeout_s: float) -> None:
        """Wait for the threads; blocking, call it from a thread."""
        self._peers.close()
        self._asking.stop(timeout_s)
        self._pool.stop(timeout_s)

    # ---- on the reactor: what became of a flight ------------------------------------------------------------------------

    def _submit(self, flight: Flight) -> None:
        if self._closing:
            raise NotReady("the worker is stopping")
        if flight.peer is not None and not flight.given and not self._peers.knows(flight.peer.worker):
            flight.peer = None  # it left since the try before
        peer = flight.peer
        if peer is None:
            self._stores.check(flight.capability.mount)
            self._pool.submit(partial(self._run, flight), urgent=flight.urgent)
        else:
            pool = self._asking if peer.asked is Asked.OWNER else self._pool
            pool.submit(partial(self._run, flight, self._peers.pool(peer)), urgent=flight.urgent)
        flight.taken = True
        if self._sweep is None:
            self._sweep = self._reactor.callLater(SWEEP_S, self._sweep_flights)

    def _try_again(self, flight: Flight) -> None:
        if flight.over:
            return
        try:
            self._submit(flight)
        except MonofsError as error:
            self._end(flight, error)

    def _hear(self) -> None:
        """Of all that threads have told."""
        self._is_woken = False  # before the look: who tells something after it wakes us again
        told = self._told
        try:
            for _ in range(len(told)):
                told.popleft()()
        finally:
            if told and not self._is_woken:  # a bug ended the loop
                self._is_woken = True
                self._reactor.callFromThread(self._hear)

    def _returned(
        self,
        flight: Flight,
        landing: Landing | bytes,
        error: MonofsError | None,
        opened: Opened | None,
        began_s: float,
    ) -> None:
        """The thread has left the flight: with its last page or piece, or an error. ``opened``: the store that was asked."""
        flight.taken, flight.moved_at = False, math.inf
        self._hanging -= flight.hangs
        if self._stopped:
            return
        is_current = opened is None or self._stores.is_current(opened)
        if opened is not None:
            moved = error is None or flight.position > flight.position_at_try
            self._stores.note(opened, None if moved else error, began_s)
        elif flight.peer is not None and not (error is not None and is_silence(error)):
            self._peers.answered(flight.peer)
        if flight.over:
            if flight.group is not None:
                self._leave(flight, flight.group)
        elif error is not None:
            self._failed(flight, error, is_current=is_current)
        elif isinstance(landing, bytes):
            self._passed(flight, flight.end, landing)
        elif flight.group is not None:
            self._landed(flight, flight.group, *landing)

    def _landed(self, flight: Flight, group: Group, position: int, crc: int, data: memoryview | None) -> None:
        """A page is written: commit it, wake its readers."""
        if flight.over:
            return
        page = flight.position % GROUP_SIZE_BYTES // PAGE_SIZE_BYTES
        try:
            self._cache.commit(group, [(page, crc)])
        except MonofsError as error:
            self._end(flight, error)
            return
        flight.position = position
        self._fresh = group, page, data
        try:
            self._wake(flight)
        finally:
            self._fresh = None

    def _wake(self, flight: Flight) -> None:
        """Tell who waits for what has landed."""
        position = flight.position
        if position >= flight.end:
            self._end(flight, None)
            return
        ready = [waiter for at, waiter in flight.waiters if at < position]
        flight.waiters = [waiting for waiting in flight.waiters if waiting[0] >= position]
        for waiter in ready:
            waiter(None)

    def _passed(self, flight: Flight, position: int, data: bytes) -> None:
        """A piece of a passing flight is here."""
        if flight.over:
            return
        offset, flight.position = flight.position, position
        takers = list(flight.takers)
        if flight.position >= flight.end:
            self._end(flight, None)
        for taker in takers:
            taker(offset, data, None)

    def _failed(self, flight: Flight, error: MonofsError, *, is_current: bool) -> None:
        """A try failed: another one, or the end. ``is_current`` False: the mount was changed meanwhile, which excuses anything."""
        if flight.over:
            return
        if isinstance(error, NotCached) and flight.group is not None and self._cache.drop_file(flight.group):
            # someone removed the file: its pages are lost, and readers begin anew with another file
            self._end(flight, None)
            return
        if flight.peer is not None and (flight.given or isinstance(error, PeerFailed | UfsBadBody)):
            waiting = self._peer_failed(flight, flight.peer, error)
            if waiting is None:
                return
            error = waiting
        if flight.position > flight.position_at_try:
            flight.tries = 0
        flight.tries += 1
        if (error.retry or not is_current) and flight.tries < self._config.fetch_retries:
            delay_s = min(BACK_OFF_FIRST_S * 2 ** (flight.tries - 1), BACK_OFF_MOST_S) * (0.5 + random.random())  # noqa: S311 - spreads load
            self._reactor.callLater(delay_s, self._try_again, flight)
            if log.is_debug:
                log.debug("fetch tried again", trace=show_trace(flight.trace), error=error.message, pause_s=delay_s)
            return
        self._end(flight, self._shown(flight.capability, error))

    def _peer_failed(self, flight: Flight, peer: Peer, error: MonofsError) -> MonofsError | None:
        """Go on without the peer, or end; an error: it lives and waits for the store, so that this was as good as a try of the store."""
        self._peers.failed(peer, error)
        cause = error.__cause__
        if peer.asked is Asked.OWNER and isinstance(cause, STORE_IN_TROUBLE):
            # tried as often as it may be: nothing is gained, and much asked of the store, if everybody tries too
            self._end(flight, self._shown(flight.capability, cause))
        elif peer.asked is Asked.OWNER and isinstance(cause, DeadlineExceeded):
            return UfsUnreachable(f"the store was silent for {self._config.store_timeout_s:g} s; {error.message}")
        elif flight.given:
            self._end(flight, None)
        else:
            flight.peer = None  # the store is next
            if peer.asked is Asked.FORMER:
                flight.tried = (*flight.tried, peer.worker)
                flight.peer = self._peers.former(flight.capability, flight.position, flight.tried)
            self._try_again(flight)
        return None

    def _shown(self, capability: Capability, error: MonofsError) -> MonofsError:
        """The error as readers get it: of the same type, naming the mount."""
        where = self._stores.describe(capability.mount)
        if isinstance(error, UfsChanged | UfsNotFound):
            what = "is gone from" if isinstance(error, UfsNotFound) else "has changed in"
            return ContentChanged(
                f"the file {what} {where} and the bytes asked for are not cached: open it again", mount=capability.mount
            )
        if 6000 <= error.code < 7000:
            untold = " at ".join(part for part in where.split(" at ") if part not in error.message)
            shown = from_code(error.code, f"{error.message} ({untold})" if untold else error.message, error.detail)
            shown.detail["mount"] = capability.mount
            return shown
        return error

    def _end(self, flight: Flight, error: MonofsError | None) -> None:
        flight.over = True
        content = flight.capability.content
        self._say_ended(flight, error)
        if flight.group is None:
            self._passing_count -= 1
            _remove(self._passing, content, flight)
            if error is not None:
                for taker in flight.takers:
                    taker(flight.position, b"", error)
            return
        key = (content, flight.group.number)
        _remove(self._flights, key, flight)
        for _, waiter in flight.waiters:
            waiter(error)
        if not flight.taken:
            self._leave(flight, flight.group)  # after its readers took hold: else the group could be evicted under them
        if key not in self._flights:
            for callback in self._idle.pop(key, ()):
                callback()

    def _say_ended(self, flight: Flight, error: MonofsError | None) -> None:
        """One line a flight, at debug while all is well: what an operator gives the store's own support."""
        if error is None and not log.is_debug:
            return
        capability = flight.capability
        account: dict[str, Any] = {
            "trace": show_trace(flight.trace),
            "mount": capability.mount,
            "key": capability.key,
            "content": format_content_id(capability.content),
            "position": flight.position,
            "end": flight.end,
            "tries": flight.tries + (error is None) or 1,
            "seconds": round(time.monotonic() - flight.began_at, 4),
        }
        if error is None:
            log.debug("fetched", **account)
            return
        told = {"store_code": error.detail.get("store_code"), "store_request": error.detail.get("request_id")}
        log.info("fetch failed", code=error.code, error=error.message, **account, **told)

    def _leave(self, flight: Flight, group: Group) -> None:
        """Nothing more is written for this flight."""
        if flight.position < flight.end:
            self._cache.unreserve(group, flight.mask)
        self._cache.release(group)

    def _all(self) -> list[Flight]:
        return [flight for table in (self._flights, self._passing) for flights in table.values() for flight in flights]

    def _sweep_flights(self) -> None:
        """Give up on flights whose thread hangs in a store that broke its own time-out: readers must not hang with it."""
        self._sweep = None
        now, limit_s = time.monotonic(), self._config.store_timeout_s * 1.5
        for flight in self._all():
            if now - flight.moved_at > limit_s:
                flight.hangs = True
                self._hanging += 1
                where = self._stores.describe(flight.capability.mount)
                silent = UfsUnreachable(f"the store was silent for {limit_s:.0f} s ({where})")
                if flight.peer is None:
                    self._stores.note_silent(flight.capability.mount, silent, flight.moved_at)
                self._end(flight, silent)
        if self._hanging >= self._config.fetch_threads:
            self._empty_queue()
        if self._flights or self._passing:
            self._sweep = self._reactor.callLater(SWEEP_S, self._sweep_flights)

    def _empty_queue(self) -> None:
        """Every thread hangs: what waits for one must not wait for as long as they do."""
        for work in self._pool.take_back():
            flight: Flight = cast(partial[None], work).args[0]
            flight.taken = False
            if not flight.over:
                self._end(flight, UfsUnreachable("every thread that fetches waits for a store that is silent"))
            elif flight.group is not None:
                self._leave(flight, flight.group)

    # ---- in a thread ------------------------------------------------------------------------------------------------------

    def _run(self, flight: Flight, connections: Connections | None = None) -> None:
        """One try of a flight, at the store or through connections to its peer."""
        TRACE.set(flight.trace)  # until this thread's next flight
        landing: Landing | bytes = b""
        failure: MonofsError | None = None
        opened: Opened | None = None
        began_s = time.monotonic()
        flight.position_at_try, flight.moved_at = flight.position, began_s
        try:
            peer = flight.peer
            if not flight.over and peer is not None and connections is not None:
                length, timeout_s = flight.end - flight.position, self._config.store_timeout_s
                views = self._peers.read(connections, peer, flight.capability, flight.position, length, timeout_s)
                landing = self._pull(flight, views)
            elif not flight.over:
                opened = self._stores.find(flight.capability.mount)
                store = self._stores.enter(opened)
                try:
                    capability, offset = flight.capability, flight.position
                    views = store.read(capability.key.encode(), offset, flight.end - offset, capability.fingerprint)
                    landing = self._pull(flight, views)
                finally:
                    opened.leave()
        except MonofsError as error:
            failure = error
        except Exception as error:  # noqa: BLE001 - whatever a store raises must reach the readers
            log.error("a store raised what it may not", exception=error)
            failure = Internal(f"reading a store failed: {type(error).__name__}")
        self._tell(partial(self._returned, flight, landing, failure, opened, began_s))

    def _tell(self, news: Callable[[], None]) -> None:
        """Have the reactor hear it: one wake-up for all that comes before it is awake."""
        self._told.append(news)
        if not self._is_woken:
            self._is_woken = True
            self._reactor.callFromThread(self._hear)

    def _pull(self, flight: Flight, views: Iterator[memoryview]) -> Landing | bytes:
        if flight.group is None:
            return self._pull_pieces(flight, views)
        return self._pull_pages(flight, flight.group, views)

    def _pull_pages(self, flight: Flight, group: Group, views: Iterator[memoryview]) -> Landing:
        """Write pages as they fill; each lands on the reactor. The last one is returned: it lands only when the store has ended
        without an error.

        Raises ``UfsBadBody`` for too few or too many bytes.
        """
        position, end = flight.position, flight.end
        want, filled, crc = min(PAGE_SIZE_BYTES, end - position), 0, 0
        buffer, fresh = self._buffer(), cast("memoryview | None", None)
        for view in views:
            at, size = 0, len(view)
            if position + filled + size > end:
                raise UfsBadBody("the store sent more bytes than asked for")
            while at < size and not flight.over:
                take = min(want - filled, size - at)
                if take == want:
                    page = view[at : at + take]  # a whole page in one view is not copied
                else:
                    buffer[filled : filled + take] = view[at : at + take]
                    page = buffer[:want]
                filled, at = filled + take, at + take
                if filled < want:
                    continue
                crc = self._cache.write_page(group, position % GROUP_SIZE_BYTES // PAGE_SIZE_BYTES, page)
                position, flight.moved_at = position + want, time.monotonic()
                fresh = page if take == want and len(self._told) < FRESH_MAX else None
                if position < end:
                    self._tell(partial(self._landed, flight, group, position, crc, fresh))
                want, filled = min(PAGE_SIZE_BYTES, end - position), 0
            if flight.over:
                return end, 0, None
        if position < end:
            raise UfsBadBody(f"the store's answer ended {end - position - filled} bytes early")
        return end, crc, fresh

    def _pull_pieces(self, flight: Flight, views: Iterator[memoryview]) -> bytes:
        """Copy pieces for the takers; each lands on the reactor, and the last is returned as in ``_pull_pages``."""
        position, end, last = flight.position, flight.end, b""
        for view in views:
            if flight.over:
                return b""
            if position + len(last) + len(view) > end:
                raise UfsBadBody("the store sent more bytes than asked for")
            if last:
                position += len(last)
                self._tell(partial(self._passed, flight, position, last))
            last, flight.moved_at = bytes(view), time.monotonic()
        if position + len(last) < end:
            raise UfsBadBody(f"the store's answer ended {end - position - len(last)} bytes early")
        return last

    def _buffer(self) -> memoryview:
        """This thread's page."""
        buffer = getattr(self._local, "buffer", None)
        if buffer is None:
            buffer = self._local.buffer = memoryview(bytearray(PAGE_SIZE_BYTES))
        return cast(memoryview, buffer)


def is_tier_error(error: MonofsError) -> bool:
    """Whether the cache, not the store, is the trouble: readers are then served past it."""
    return isinstance(error, TierFull | TierUnusable | QuotaExceeded)


def tier_reason(error: MonofsError | None) -> str:
    """Why the cache did not take pages, as metrics name it."""
    if isinstance(error, QuotaExceeded):
        return "quota"
    return "full" if isinstance(error, TierFull) else "unusable"


def _check_for(flight: Flight, asked: Asked) -> None:
    if not flight.is_for(asked):
        raise NotReady("this worker asks another one for these bytes itself")


def _remove(table: dict[Any, list[Flight]], key: object, flight: Flight) -> None:
    flights = table[key]
    flights.remove(flight)
    if not flights:
        del table[key]
