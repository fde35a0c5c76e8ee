"""Who serves which bytes: the slot table, the workers, and one link to each.

Ownership is efficiency, never correctness (design.md section 5): any worker can serve any content, so a stale table costs a detour,
not an error. The table is asked for when first needed, and what is new of it when an answer names another epoch, when a worker does not answer,
and now and then while one is silent.

Invariant: links live as long as their worker keeps its addresses, so that descriptors and their leases stay with the
process that gave them out. Not here: what is asked of a worker (reader.py, many.py).
"""

from __future__ import annotations

import os
import random
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Sequence

from monofs.client.descriptors import process_table
from monofs.model.block import slot_of
from monofs.model.breaker import Breaker
from monofs.model.errors import DeadlineExceeded, MonofsError, NotReady, NoWorker, Unreachable
from monofs.model.ids import ContentId
from monofs.model.slots import EMPTY, SlotTable, follow
from monofs.rpc.addresses import host_id
from monofs.rpc.api import (
    ClusterAnswer,
    ClusterRequest,
    Method,
    ReleaseAnswer,
    ReleaseRequest,
    ServedAnswer,
    SlotsKnown,
    SlotsNews,
    WorkerInfo,
)
from monofs.rpc.sync import Pool

SILENT_S = 5.0
"""How long a worker that did not answer is asked last."""
LAG_TIMES, LAG_MOST_S = 3, 60.0
"""After so many races lost in a row a worker is asked last too, at first as long, then up to so long; in between one read tries it."""
RELEASE_BATCH = 32
REFRESH_PAUSE_S = 0.5
"""Between two refreshes forced by failures, and by epochs."""
LOOK_S = 2.0
"""How long a look at who lives may take."""
SPREAD_S = 10.0
"""How long a block is taken for hot after its owner said so."""
HEED_S = 1.0
"""For so long what is told again is not worked out again: of 3,000 workers that takes 2.5 ms, and every answer says it."""
SPREAD_MOST = 7
HOT_MAX = 1024
OTHERS = 8
"""How many workers are tried that a block's slot does not list."""
_LAGS = DeadlineExceeded("another worker, asked later, had the bytes first")


class WorkerLink:
    """One worker: its Unix socket when it runs on this machine and the socket connects, else TCP."""

    def __init__(self, info: WorkerInfo, connect: Callable[[str], Pool]) -> None:
        self.info = info
        self._connect = connect
        self._lock = threading.Lock()
        self._pools: dict[str, Pool] = {}
        self.is_local = bool(info.unix) and info.host == host_id()
        self.is_live = info.live
        """Whether the master hears it, as told last."""
        self.silent_until_s = 0.0
        self.lag = Breaker(first_s=SILENT_S, most_s=LAG_MOST_S, failures=LAG_TIMES)
        """Whether others, asked later, had the bytes first, again and again."""
        self.lends_from_s = 0.0
        """Until when it is not asked for descriptors, because it would not lend one."""
        self.leases: deque[int] = deque()
        """Leases whose descriptors are closed, to be given back."""

    @property
    def is_near(self) -> bool:
        """Whether readers of this machine ask it first, whatever they want."""
        return self.info.keeps and bool(self.info.unix) and self.info.host == host_id()

    def is_well(self, now_s: float) -> bool:
        """Whether it lives, did not fail lately and keeps up with others, as far as is known."""
        return self.is_live and now_s >= self.silent_until_s and not self.lag.left_s(now_s)

    def raced(self, now_s: float, *, lost: bool) -> None:
        """It was in time, or lost against another worker that was asked later."""
        if lost:
            self.lag.failed(_LAGS, now_s, now_s)
        else:
            self.lag.answered()

    def pool(self) -> Pool:
        """The connections to use now."""
        address = self.info.unix if self.is_local else self.info.address
        pool = self._pools.get(address)
        if pool is None:
            with self._lock:
                pool = self._pools.get(address)
                if pool is None:
                    pool = self._pools[address] = self._connect(address)
        return pool

    def leave_socket(self) -> bool:
        """The Unix socket does not connect (another container, perhaps): use TCP from now on. False: TCP it was already."""
        was_local, self.is_local = self.is_local, False
        return was_local and bool(self.info.address)

    def retry_socket(self) -> None:
        """Give the Unix socket another chance, after the worker may have restarted."""
        self.is_local = bool(self.info.unix) and self.info.host == host_id()

    def give_back(self, at_least: int = RELEASE_BATCH, kept: Sequence[int] = ()) -> list[int]:
        """Send back leases once there are enough of them; errors do not matter, a lost connection releases them too.

        Returns those of the leases ``kept`` that the worker wants back.
        """
        if len(self.leases) < at_least and not kept:
            return []
        leases = []
        while self.leases:
            try:
                leases.append(self.leases.popleft())
            except IndexError:
                break
        try:
            request = ReleaseRequest(leases, list(kept))
            return self.pool().call(Method.RELEASE, request, ReleaseAnswer, timeout_s=5.0).recalled
        except MonofsError:
            return []

    def close(self) -> None:
        """Close its connections; open descriptors stay readable."""
        process_table().drop_link(self)
        with self._lock:
            for pool in self._pools.values():
                pool.close()
            self._pools.clear()


class Cluster:
    """The slot table, followed by deltas, and the workers, as CLUSTER told them last. ``fetch`` asks, within so many seconds (None: as long as any
    operation may take)."""

    def __init__(
        self, fetch: Callable[[ClusterRequest, float | None], ClusterAnswer], connect: Callable[[str], Pool]
    ) -> None:
        self._fetch = fetch
        self._connect = connect
        self._lock, self._lock_hot = threading.Lock(), threading.Lock()
        self._links: dict[int, WorkerLink] = {}
        self._live: dict[int, None] = {}
        """Workers that live, ascending."""
        self._near_live: list[int] = []
        """Those of them on this machine that keep what they get for their readers."""
        self._numbers: list[int] = []
        """Those that live, then the others."""
        self._table: SlotTable = EMPTY
        self._listed = self._living = 0
        self._is_known = False
        self._in_doubt = False
        """A worker was silent when last heard of: who lives may have changed since."""
        self._awaited = False
        """The master leads since a moment, and may hear of further workers shortly."""
        self._refreshed_s = float("-inf")
        self.silent_until_s = 0.0
        """The last moment of all links'."""
        self.hot: OrderedDict[int, tuple[list[int], float]] = OrderedDict()
        """Slots with a hot block: the workers to read it from, and until when (time.monotonic)."""

    def heed(self, answer: ServedAnswer) -> None:
        """A worker told which blocks are to be read from more workers than their owner, for a while."""
        until_s = time.monotonic() + SPREAD_S
        for content, block, more in answer.hot:
            slot, wanted = slot_of(ContentId(content), block), 1 + min(more, SPREAD_MOST)
            known = self.hot.get(slot)
            if known is not None and len(known[0]) == wanted and until_s - known[1] < HEED_S:
                continue
            workers = self._table.sequence(slot, self._live, wanted)
            if len(workers) < 2:
                continue
            with self._lock_hot:
                self.hot[slot] = workers, until_s
                self.hot.move_to_end(slot)
                if len(self.hot) > HOT_MAX:
                    self.hot.popitem(last=False)

    def is_spread(self, content: ContentId, block: int, link: WorkerLink) -> bool:
        """Whether a worker is asked for a block because that is hot."""
        hot = self.hot.get(slot_of(content, block))
        return hot is not None and link.info.id in hot[0][1:]

    def is_past_owner(self, content: ContentId, block: int, link: WorkerLink) -> bool:
        """Whether a worker is asked for a block in the place of its owner, which does not answer."""
        now_s = time.monotonic()
        if now_s >= self.silent_until_s:
            return False
        owner = next(iter(self._table.serving(slot_of(content, block), self._live)), 0)
        found = self._links.get(owner)
        return found is not None and found is not link and now_s < found.silent_until_s

    def _lot(self, slot: int) -> int:
        """One of the workers of a hot slot; 0: the slot has no hot block any more."""
        known = self.hot.get(slot)
        if known is None:
            return 0
        workers, until_s = known
        if time.monotonic() < until_s:
            return random.choice(workers)  # noqa: S311 - spreads load
        with self._lock_hot:
            self.hot.pop(slot, None)
        return 0

    def candidates(
        self, content: ContentId, block: int, epoch: int, holders: Sequence[int] = (), replicas: int = 1
    ) -> list[WorkerLink]:
        """Workers to ask for a block, best first: one of this machine that keeps copies, those its slot lists, in order, then a few others.

        ``holders``: only they have its bytes, no other can get them. ``replicas``: so many of the list keep a copy; which comes first differs from
        process to process and block to block, but one on this machine goes before. Raises ``NoWorker`` when none is registered, ``NotReady`` when one may
        be shortly, and what CLUSTER raises.
        """
        if not self._is_known:
            self.refresh()
        elif epoch != self._table.epoch or not self._links:
            self.refresh(at_most_every_s=REFRESH_PAUSE_S)
        elif self._in_doubt:
            self._look_who_lives()
        ranked = self.known(content, block, holders, replicas)
        if not ranked:
            if holders:
                raise self._missing(f"these bytes are at worker {holders[0]} only, which is not registered")
            raise self._missing("no worker is registered with this cluster")
        return ranked

    def known(self, content: ContentId, block: int, holders: Sequence[int] = (), replicas: int = 1) -> list[WorkerLink]:
        """:meth:`candidates` as far as they are known now; asks nobody."""
        slot, links = slot_of(content, block), self._links
        first = [] if holders else self._table.serving(slot, self._live)
        if replicas > 1:
            first = self._spread(first, replicas, os.getpid() + content + block)
        others = [number for number in holders or self._others(slot) if number not in first]
        others.sort(key=lambda number: number not in links or not links[number].is_local)
        ranked = [links[number] for number in first + others if number in links]  # another thread may have refreshed
        best = 0
        if (self._near_live or self.hot) and not holders:
            best = self._near(slot, first) or self._lot(slot)
            if best in links and links[best] not in ranked:
                ranked.append(links[best])
        now_s = time.monotonic()

        def rank(link: WorkerLink) -> tuple[bool, bool, bool, bool]:
            return now_s < link.silent_until_s, not link.is_live, link.lag.left_s(now_s) > 0, link.info.id != best

        return sorted(ranked, key=rank)

    def listed(self, content: ContentId, block: int) -> list[WorkerLink]:
        """Workers that live and that the slot of a block lists, in order."""
        return [
            self._links[number]
            for number in self._table.serving(slot_of(content, block), self._live)
            if number in self._links
        ]

    def _near(self, slot: int, listed: list[int]) -> int:
        """A live worker on this machine that keeps what it gets for its readers, one of the slot's list before others; 0: there is none."""
        links = self._links
        near = [number for number in self._near_live if number in links and links[number].is_local]
        if len(near) < 2:
            return near[0] if near else 0
        return next((number for number in listed if number in near), near[slot % len(near)])

    def _spread(self, listed: list[int], replicas: int, turn: int) -> list[int]:
        """Workers that keep copies, from another one on each turn, those of this machine first; then the rest."""
        copies, links = listed[:replicas], self._links
        start = turn % max(1, len(copies))
        copies = copies[start:] + copies[:start]
        copies.sort(key=lambda number: number not in links or not links[number].is_local)
        return copies + listed[replicas:]

    def _others(self, slot: int) -> list[int]:
        """A few workers, those that live before others; of many, other ones for other slots."""
        numbers = self._numbers
        start = slot % max(1, len(self._live)) if len(numbers) > OTHERS else 0
        return list(dict.fromkeys(numbers[start : start + OTHERS] + numbers[:OTHERS]))[:OTHERS]

    def _look_who_lives(self) -> None:
        """Ask who lives, but neither often nor for long, and only one thread: the reader can do without."""
        if self._lock.locked():
            return
        try:
            self.refresh(at_most_every_s=SILENT_S, timeout_s=LOOK_S)
        except MonofsError:
            self._refreshed_s = time.monotonic()

    def worker(self, number: int) -> WorkerLink:
        """The link to one worker. Raises ``NoWorker``, or ``NotReady`` when it may come shortly."""
        if number not in self._links:
            self.refresh()
        link = self._links.get(number)
        if link is None:
            raise self._missing(f"worker {number} is not registered with this cluster")
        return link

    def _missing(self, what: str) -> MonofsError:
        return NotReady(f"{what} yet: its master leads since a moment") if self._awaited else NoWorker(what)

    def refresh(self, *, at_most_every_s: float = 0.0, timeout_s: float | None = None) -> None:
        """Ask for what is new, unless that was done less than so long ago."""
        with self._lock:
            if time.monotonic() - self._refreshed_s < at_most_every_s:
                return
            known = SlotsKnown(self._table.epoch, self._table.digest, self._living)
            answer = self._fetch(ClusterRequest(known, self._listed), timeout_s)
            self._refreshed_s = time.monotonic()
            gone = [] if self._listed and answer.listed == self._listed else self._take_workers(answer)
            if answer.news is not None:
                self._take_slots(answer.news)
            self._live = dict.fromkeys(sorted(number for number, link in self._links.items() if link.is_live))
            self._near_live = [number for number in self._live if self._links[number].is_near]
            self._numbers = [*self._live, *(number for number in self._links if number not in self._live)]
            self._in_doubt = len(self._live) < len(self._links)
            self._is_known, self._awaited = True, answer.awaited
        for link in gone:
            link.close()

    def _take_workers(self, answer: ClusterAnswer) -> list[WorkerLink]:
        """Take over a list of workers; returns the links that are of no use any more."""
        links: dict[int, WorkerLink] = {}
        for info in answer.workers:
            old = self._links.get(info.id)
            if old is not None and (old.info.address, old.info.unix) == (info.address, info.unix):
                old.info, old.is_live = info, info.live
                old.retry_socket()  # the list is another one: it may be this worker that began anew
                links[info.id] = old
            else:
                links[info.id] = WorkerLink(info, self._connect)
        if answer.awaited:  # those it has not heard of yet serve on meanwhile
            links = self._links | links
        gone = [link for link in self._links.values() if links.get(link.info.id) is not link]
        self._links, self._listed = links, 0 if answer.awaited else answer.listed
        return gone

    def _take_slots(self, news: SlotsNews) -> None:
        self._table = follow(self._table, news.deltas)
        self._living = news.live
        if news.silent is not None:
            silent = set(news.silent)
            for number, link in self._links.items():
                link.is_live = number not in silent

    def links(self) -> list[WorkerLink]:
        """All registered workers, by id."""
        if not self._is_known:
            self.refresh()
        return [self._links[number] for number in sorted(self._links)]

    def failed(self, link: WorkerLink, error: MonofsError) -> bool:
        """A link did not work: True when it can be tried again at once another way, else it is asked last for a while."""
        if isinstance(error, Unreachable) and link.leave_socket():
            return True
        link.silent_until_s = self.silent_until_s = time.monotonic() + SILENT_S
        self._in_doubt = True
        return False

    def look_again(self) -> None:
        """After every worker failed: fetch the table anew and let each be tried from the start."""
        self.refresh(at_most_every_s=REFRESH_PAUSE_S)
        for link in self._links.values():
            link.retry_socket()

    def close(self) -> None:
        """Close all links."""
        with self._lock:
            links, self._links, self._is_known = self._links, {}, False
            self._listed, self._live, self._numbers, self._near_live = 0, {}, [], []
        for link in links.values():
            link.close()
