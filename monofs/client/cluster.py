"""Who serves which bytes: the slot table, the workers, and one link to each.

Ownership is efficiency, never correctness (design.md section 5): any worker can serve any content, so a stale table costs a detour,
not an error. The table is fetched when first needed, when an answer names another epoch, and when a worker does not answer.

Invariant: links live as long as their worker keeps its addresses, so that descriptors and their leases stay with the
process that gave them out. Not here: what is asked of a worker (reader.py, many.py).
"""

from __future__ import annotations

import threading
import time
from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Sequence
from functools import cache

from monofs.client.descriptors import process_table
from monofs.model.block import SLOTS, slot_of
from monofs.model.errors import MonofsError, NotReady, NoWorker, Unreachable
from monofs.model.ids import ContentId
from monofs.rpc.api import ClusterAnswer, Empty, Method, ReleaseRequest, WorkerInfo
from monofs.rpc.sync import Pool

SILENT_S = 5.0
"""How long a worker that did not answer is asked last."""
RELEASE_BATCH = 32
REFRESH_PAUSE_S = 0.5
"""Between two refreshes forced by failures, and by epochs."""


@cache
def host_id() -> str:
    """This machine's boot id, as workers announce theirs."""
    try:
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
            return file.read().strip()
    except OSError:
        return ""


class WorkerLink:
    """One worker: its Unix socket when it runs on this machine and the socket connects, else TCP."""

    def __init__(self, info: WorkerInfo, connect: Callable[[str], Pool]) -> None:
        self.info = info
        self._connect = connect
        self._lock = threading.Lock()
        self._pools: dict[str, Pool] = {}
        self.is_local = bool(info.unix) and info.host == host_id()
        self.silent_until_s = 0.0
        self.leases: deque[int] = deque()
        """Leases whose descriptors are closed, to be given back."""

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

    def give_back(self, at_least: int = RELEASE_BATCH) -> None:
        """Send back leases once there are enough of them; errors do not matter, a lost connection releases them too."""
        if len(self.leases) < at_least:
            return
        leases = []
        while self.leases:
            try:
                leases.append(self.leases.popleft())
            except IndexError:
                break
        try:
            self.pool().call(Method.RELEASE, ReleaseRequest(leases), Empty, timeout_s=5.0)
        except MonofsError:
            pass

    def close(self) -> None:
        """Close its connections; open descriptors stay readable."""
        process_table().drop_link(self)
        with self._lock:
            for pool in self._pools.values():
                pool.close()
            self._pools.clear()


class Cluster:
    """The cached answer of CLUSTER."""

    def __init__(self, fetch: Callable[[], ClusterAnswer], connect: Callable[[str], Pool]) -> None:
        self._fetch = fetch
        self._connect = connect
        self._lock = threading.Lock()
        self._links: dict[int, WorkerLink] = {}
        self._firsts: list[int] = []
        self._owners: list[list[int]] = []
        self._epoch = -1
        self._awaited = False
        """The master leads since a moment, and may hear of further workers shortly."""
        self._refreshed_s = float("-inf")

    def candidates(self, content: ContentId, block: int, epoch: int, holders: Sequence[int] = ()) -> list[WorkerLink]:
        """Workers to ask for a block, best first: its owners (those of this machine before others), then any other.

        ``holders``: only they have its bytes, no other can get them. Raises ``NoWorker`` when none is registered, ``NotReady`` when one may
        be shortly, and what CLUSTER raises.
        """
        if epoch != self._epoch:
            self.refresh(at_most_every_s=REFRESH_PAUSE_S if self._epoch >= 0 else 0.0)
        owners = self._owners_of(slot_of(content, block))
        links = self._links
        if holders:
            links = {number: link for number, link in links.items() if number in holders}
        now_s = time.monotonic()

        def rank(link: WorkerLink) -> tuple[bool, bool, bool, bool]:
            owner = link.info.id in owners
            return (now_s < link.silent_until_s, not link.info.live, not owner, not link.is_local)

        ranked = sorted(links.values(), key=rank)
        if not ranked:
            if holders:
                raise self._missing(f"these bytes are at worker {holders[0]} only, which is not registered")
            raise self._missing("no worker is registered with this cluster")
        return ranked

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

    def refresh(self, *, at_most_every_s: float = 0.0) -> None:
        """Fetch the table anew, unless that was done less than so long ago."""
        with self._lock:
            if time.monotonic() - self._refreshed_s < at_most_every_s:
                return
            answer = self._fetch()
            self._refreshed_s = time.monotonic()
            links: dict[int, WorkerLink] = {}
            for info in answer.workers:
                old = self._links.get(info.id)
                if old is not None and (old.info.address, old.info.unix) == (info.address, info.unix):
                    old.info = info
                    links[info.id] = old
                else:
                    links[info.id] = WorkerLink(info, self._connect)
            if answer.awaited:  # those it has not heard of yet serve on meanwhile
                links = self._links | links
            gone = [link for link in self._links.values() if links.get(link.info.id) is not link]
            self._links = links
            self._firsts = [first for first, _ in answer.slots]
            self._owners = [owners for _, owners in answer.slots]
            self._epoch, self._awaited = answer.epoch, answer.awaited
        for link in gone:
            link.close()

    def links(self) -> list[WorkerLink]:
        """All registered workers, by id."""
        if self._epoch < 0:
            self.refresh()
        return [self._links[number] for number in sorted(self._links)]

    def failed(self, link: WorkerLink, error: MonofsError) -> bool:
        """A link did not work: True when it can be tried again at once another way, else it is asked last for a while."""
        if isinstance(error, Unreachable) and link.leave_socket():
            return True
        link.silent_until_s = time.monotonic() + SILENT_S
        return False

    def look_again(self) -> None:
        """After every worker failed: fetch the table anew and let each be tried from the start."""
        self.refresh(at_most_every_s=REFRESH_PAUSE_S)
        for link in self._links.values():
            link.retry_socket()

    def close(self) -> None:
        """Close all links."""
        with self._lock:
            links, self._links, self._epoch = self._links, {}, -1
        for link in links.values():
            link.close()

    def _owners_of(self, slot: int) -> list[int]:
        if not self._firsts or not 0 <= slot < SLOTS:
            return []
        return self._owners[bisect_right(self._firsts, slot) - 1]
