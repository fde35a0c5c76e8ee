"""Other workers asked before the store: the owner by one that owns not, the former owner by a new one.

A request asked on behalf of another worker is never asked on: ``Asked.OWNER`` is served from the cache or the store, ``Asked.FORMER`` from the cache
only; so is who else keeps a copy of a block (``replicas`` of a policy). So no two workers wait for each other, as long as what is asked of an owner has threads of its own (fetcher.py) and no owner waits for a
flight of another worker's that itself waits for a peer. Ownership is efficiency, never correctness (design.md section 5): a peer that does
not answer, or knows better, costs a detour to the store.

Invariant: the token shown to a peer is that of the reader, sealed under the key it was opened with. Not here: what is kept of the bytes (fetcher.py).
"""

from __future__ import annotations

import time
from collections import OrderedDict, deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from enum import IntEnum
from typing import NamedTuple

from monofs.model.block import GROUP_SIZE_BYTES, block_end, block_of, block_of_group, slot_of
from monofs.model.breaker import Breaker
from monofs.model.capability import Capability
from monofs.model.errors import ConnectionLost, MonofsError, Unreachable
from monofs.model.ids import ContentId
from monofs.model.slots import EMPTY, FORMER_S, FORMERS_MAX, SlotTable
from monofs.observe.metrics import PEER_BYTES, PEER_FAILURES
from monofs.rpc.api import Method, ReadRequest
from monofs.rpc.sync import Pool
from monofs.worker.gate import Gate

SILENT_FIRST_S = 1.0
SILENT_MOST_S = 60.0
"""How long a peer that did not answer is not asked: at first, and after it did not answer again and again when one flight tried."""
SEEN_MAX = 65_536
"""Groups remembered as read once."""
POOLS_MAX = 256
"""Workers to which connections are kept, those asked last."""


class Asked(IntEnum):
    """On whose behalf a request is made; values of ``ReadRequest.asked``."""

    BY_READER = 0
    OWNER = 1
    FORMER = 2
    PAST_OWNER = 3
    """A reader's, whom the owner does not answer: ``ReadRequest.past_owner``."""


BY_READERS = (Asked.BY_READER, Asked.PAST_OWNER)


class PeerFailed(ConnectionLost):
    """A peer did not give the bytes, for whatever reason."""

    retry = True


class Peer(NamedTuple):
    """Whom to ask, and as what."""

    worker: int
    asked: Asked


class Peers:
    """The other workers of this one's cluster. Methods: reactor thread only, except :meth:`read`."""

    def __init__(self, gate: Gate, connect: Callable[[str], Pool], *, local_copy: str) -> None:
        """``connect`` opens connections to a worker's address; ``local_copy`` as the setting."""
        self._gate, self._connect, self._local_copy = gate, connect, local_copy
        self.me = 0
        self._table = EMPTY
        self._formers: deque[tuple[SlotTable, float]] = deque(maxlen=FORMERS_MAX)
        """Tables before this one, the last one first, and until when (time.monotonic) their owners are asked."""
        self._silent: Collection[int] = ()
        self._addresses: Mapping[int, str] = {}
        self.wants_addresses = False
        """Somebody was to be asked whose address is not known, or may have changed."""
        self._pools: OrderedDict[str, Pool] = OrderedDict()
        self._breakers: dict[int, Breaker] = {}
        """Of peers that did not answer when they were asked last."""
        self.replicas: dict[int, int] = {}
        """Policy id to how many workers of a slot keep a cached block, where that is more than one."""
        self._seen: OrderedDict[tuple[int, int], None] = OrderedDict()

    def follow(self, me: int, table: SlotTable, silent: Collection[int]) -> None:
        """What the master told last: this worker's id, the table, and who does not live."""
        # the empty table stands for one that is being asked for as a whole
        if table.epoch and table.epoch != self._table.epoch:
            if self._table.epoch:
                self._formers.appendleft((self._table, time.monotonic() + FORMER_S))
            self._table = table
        for worker in self._breakers.keys() & set(self._silent).difference(silent):
            del self._breakers[worker]  # the master hears it again
        self.me, self._silent = me, silent

    def hear(self, addresses: Mapping[int, str], *, awaited: bool = False, live: Iterable[int] = ()) -> None:
        """Where the workers listen. ``awaited``: the master has not heard of all yet, and the others listen where they did. ``live``: one of them
        began anew, so that all may be asked."""
        for worker in live:
            self._breakers.pop(worker, None)
        for worker, address in addresses.items():
            if self._addresses.get(worker, address) != address:
                self._breakers.pop(worker, None)  # it began anew
        self._addresses, self.wants_addresses = {**(self._addresses if awaited else {}), **addresses}, awaited
        for address in self._pools.keys() - set(self._addresses.values()):
            self._pools.pop(address).close()

    def close(self) -> None:
        """End all connections; who reads through one fails."""
        for pool in self._pools.values():
            pool.close()
        self._pools.clear()

    # ---- whom to ask ------------------------------------------------------------------------------------------------------

    def first(self, capability: Capability, offset: int, asked: Asked) -> Peer | None:
        """Whom to ask for bytes that are missing here before the store is asked."""
        if asked is Asked.FORMER or not self._table.epoch:
            return None
        slot = slot_of(capability.content, block_of(offset, capability.layout))
        owner = next((worker for worker in self._table.owners(slot) if self._may_ask(worker)), self.me)
        if owner != self.me:
            return Peer(owner, Asked.OWNER) if asked is Asked.BY_READER else None
        return self.former(capability, offset, ())

    def former(self, capability: Capability, offset: int, tried: Collection[int]) -> Peer | None:
        """The next that may have the bytes, and was not ``tried`` in vain: of those that owned them before this worker, the last one first (several
        change hands shortly one after the other when several workers join), then of those that keep copies."""
        slot, now_s = slot_of(capability.content, block_of(offset, capability.layout)), time.monotonic()
        for table, until_s in self._formers if len(tried) < FORMERS_MAX else ():
            if now_s >= until_s:
                break
            owner = next((worker for worker in table.owners(slot) if self._may_ask(worker)), self.me)
            if owner != self.me and owner not in tried:  # others that table lists had the bytes from it, if at all
                return Peer(owner, Asked.FORMER)
        copies = self._table.owners(slot)[: self.replicas.get(capability.group >> 1, 1)]
        copies = [worker for worker in copies if worker != self.me and worker not in tried]
        copy = next((worker for worker in copies if self._may_ask(worker)), self.me)
        return Peer(copy, Asked.FORMER) if copy != self.me else None

    def _may_ask(self, worker: int) -> bool:
        if worker == self.me:
            return True
        if worker in self._silent:
            return False
        if worker not in self._addresses:
            self.wants_addresses = True
            return False
        breaker = self._breakers.get(worker)
        return breaker is None or not breaker.wait_s(time.monotonic())

    def keeps(self, capability: Capability, offset: int, *, counts: bool = True, wanted: bool = False) -> bool:
        """Whether bytes from ``offset`` on are kept here once they are read: always by an owner, as ``worker.local_copy`` says by others. ``counts``: this is a
        read, and not the question before it. ``wanted``: at the first one already."""
        if self._local_copy == "always" or not self._table.epoch:
            return True
        if self.me in self._table.owners(slot_of(capability.content, block_of(offset, capability.layout))):
            return True
        if self._local_copy == "never":
            return False
        key = (capability.content, offset // GROUP_SIZE_BYTES)
        if wanted or key in self._seen:
            return True
        if not counts:
            return False
        self._seen[key] = None
        if len(self._seen) > SEEN_MAX:
            self._seen.popitem(last=False)
        return False

    def reach(self, capability: Capability, offset: int, end: int) -> int:
        """How far up to ``end`` bytes from ``offset`` on, in blocks of this worker's, may be read ahead: other blocks are their owners' to read."""
        while (border := block_end(offset, capability.layout)) is not None and border < end:
            block = block_of(border, capability.layout)
            if self._table.epoch and self.me not in self._table.owners(slot_of(capability.content, block)):
                return border
            offset = border
        return end

    def is_foreign(self, content: ContentId, number: int, layout: int) -> bool:
        """Whether a group is of a slot that does not list this worker."""
        slot = slot_of(content, block_of_group(number, layout))
        return bool(self._table.epoch) and self.me not in self._table.owners(slot)

    def owner_of(self, content: ContentId, number: int, layout: int) -> Peer | None:
        """Who is to take a group of another's: its owner, or who stands in for one the master does not hear; None: it cannot be asked now, and another would be
        looked for in vain by the owner, who asks former owners."""
        owners = self._table.owners(slot_of(content, block_of_group(number, layout)))
        owner = next((worker for worker in owners if worker not in self._silent), 0)
        return Peer(owner, Asked.BY_READER) if owner and self._may_ask(owner) else None

    def partners(self, content: ContentId, number: int, layout: int, policy: int) -> list[Peer]:
        """Who beside this worker is to have a copy of a group, of those the master hears; none when this one is not to have one."""
        replicas = self.replicas.get(policy, 1)
        if replicas < 2 or not self._table.epoch:
            return []
        copies = self._table.owners(slot_of(content, block_of_group(number, layout)))[:replicas]
        if self.me not in copies:
            return []
        return [Peer(worker, Asked.BY_READER) for worker in copies if worker not in (self.me, *self._silent)]

    def can_ask(self, peer: Peer) -> bool:
        """Whether a peer is to be asked now: it is known where it listens, and it did not fail to answer lately."""
        return self._may_ask(peer.worker)

    def knows(self, worker: int) -> bool:
        """Whether a worker can be asked."""
        return worker != self.me and worker in self._addresses

    def address_of(self, worker: int) -> str | None:
        """Where a worker listens; None: not known, and asked for."""
        address = self._addresses.get(worker)
        self.wants_addresses |= address is None
        return address

    # ---- asking -----------------------------------------------------------------------------------------------------------

    def pool(self, peer: Peer) -> Pool:
        """The connections to a peer. Raises ``Unreachable`` when it is not known any more."""
        address = self._addresses.get(peer.worker)
        if address is None:
            raise Unreachable(f"where worker {peer.worker} listens is not known")
        pool = self._pools.get(address)
        if pool is None:
            pool = self._pools[address] = self._connect(address)
            if len(self._pools) > POOLS_MAX:
                self._pools.popitem(last=False)[1].close()
        self._pools.move_to_end(address)
        return pool

    def failed(self, peer: Peer, error: MonofsError) -> None:
        """A peer did not give the bytes; one that did not answer is not asked for a while."""
        if is_silence(error):
            PEER_FAILURES().value += 1
            now_s = time.monotonic()
            breaker = self._breakers.get(peer.worker)
            if breaker is None:
                breaker = self._breakers[peer.worker] = Breaker(first_s=SILENT_FIRST_S, most_s=SILENT_MOST_S)
            breaker.failed(error, now_s, now_s)
            self.wants_addresses = True

    def answered(self, peer: Peer) -> None:
        """A peer lives, whatever it said."""
        self._breakers.pop(peer.worker, None)

    def read(
        self, pool: Pool, peer: Peer, capability: Capability, offset: int, length: int, timeout_s: float
    ) -> Iterator[memoryview]:
        """ANY thread: the bytes, as they come. Raises ``PeerFailed``."""
        count = PEER_BYTES()
        try:
            request = ReadRequest(self._gate.seal(capability), offset, length, asked=peer.asked)
            for data in pool.stream(Method.READ, request, timeout_s=timeout_s):
                count.add(len(data))
                yield memoryview(data)
        except MonofsError as error:
            raise PeerFailed(f"worker {peer.worker} did not send the bytes: {error.message}") from error


def is_silence(error: MonofsError) -> bool:
    """Whether a peer failed by not answering. One whose time ran out has answered others meanwhile (``silence_s`` of its connections)."""
    return isinstance(error.__cause__, Unreachable | ConnectionLost)
