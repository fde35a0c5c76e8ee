"""Other workers asked before the store: the owner by one that owns not, the former owner by a new one.

A request asked on behalf of another worker is never asked on: ``Asked.OWNER`` is served from the cache or the store, ``Asked.FORMER`` from the cache
only. So no two workers wait for each other, as long as what is asked of an owner has threads of its own (fetcher.py) and no owner waits for a
flight of another worker's that itself waits for a peer. Ownership is efficiency, never correctness (design.md section 5): a peer that does
not answer, or knows better, costs a detour to the store.

Invariant: the token shown to a peer is that of the reader, sealed under the key it was opened with. Not here: what is kept of the bytes (fetcher.py).
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterator, Mapping
from enum import IntEnum
from typing import NamedTuple

from monofs.model.block import GROUP_SIZE_BYTES, block_of, slot_of
from monofs.model.capability import Capability
from monofs.model.errors import ConnectionLost, DeadlineExceeded, MonofsError, Unreachable
from monofs.model.ids import ContentId
from monofs.model.slots import EMPTY, SlotTable
from monofs.observe.metrics import PEER_BYTES, PEER_FAILURES
from monofs.rpc.api import Method, ReadRequest
from monofs.rpc.sync import Pool
from monofs.worker.gate import Gate

SILENT_S = 5.0
"""How long a peer that failed is not asked."""
FORMER_S = 600.0
"""How long after a change of the table its former owners are asked first: what is wanted of them comes over within this time, or goes cold."""
SEEN_MAX = 65_536
"""Groups remembered as read once."""
POOLS_MAX = 256
"""Workers to which connections are kept, those asked last."""


class Asked(IntEnum):
    """On whose behalf a request is made; values of ``ReadRequest.asked``."""

    BY_READER = 0
    OWNER = 1
    FORMER = 2


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
        self._table = self._former = EMPTY
        self._changed_s = float("-inf")
        self._silent: Collection[int] = ()
        self._addresses: Mapping[int, str] = {}
        self.wants_addresses = False
        """Somebody was to be asked whose address is not known, or may have changed."""
        self._pools: OrderedDict[str, Pool] = OrderedDict()
        self._silent_until_s: dict[int, float] = {}
        self._seen: OrderedDict[tuple[int, int], None] = OrderedDict()

    def follow(self, me: int, table: SlotTable, silent: Collection[int]) -> None:
        """What the master told last: this worker's id, the table, and who does not live."""
        # the empty table stands for one that is being asked for as a whole
        if table.epoch and table.epoch != self._table.epoch:
            self._former, self._table, self._changed_s = self._table, table, time.monotonic()
        self.me, self._silent = me, silent

    def hear(self, addresses: Mapping[int, str], *, awaited: bool = False) -> None:
        """Where the workers listen. ``awaited``: the master has not heard of all yet, and the others listen where they did."""
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
        if time.monotonic() - self._changed_s < FORMER_S:
            former = next((worker for worker in self._former.owners(slot) if self._may_ask(worker)), self.me)
            if former != self.me:
                return Peer(former, Asked.FORMER)
        return None

    def _may_ask(self, worker: int) -> bool:
        if worker == self.me:
            return True
        if worker in self._silent or self._silent_until_s.get(worker, 0.0) > time.monotonic():
            return False
        if worker not in self._addresses:
            self.wants_addresses = True
            return False
        return True

    def keeps(self, capability: Capability, offset: int) -> bool:
        """Whether bytes from ``offset`` on are kept here once they are read: always by an owner, as ``worker.local_copy`` says by others."""
        if self._local_copy == "always" or not self._table.epoch:
            return True
        if self.me in self._table.owners(slot_of(capability.content, block_of(offset, capability.layout))):
            return True
        if self._local_copy == "never":
            return False
        key = (capability.content, offset // GROUP_SIZE_BYTES)
        if key in self._seen:
            return True
        self._seen[key] = None
        if len(self._seen) > SEEN_MAX:
            self._seen.popitem(last=False)
        return False

    def is_foreign(self, content: ContentId, number: int) -> bool:
        """Whether a group is of a slot that does not list this worker."""
        return bool(self._table.epoch) and self.me not in self._table.owners(slot_of(content, number))

    def owner_of(self, content: ContentId, number: int) -> Peer | None:
        """Who can take a group of another's; None: nobody now."""
        owners = self._table.owners(slot_of(content, number))
        owner = next((worker for worker in owners if self._may_ask(worker)), 0)
        return Peer(owner, Asked.BY_READER) if owner else None

    def knows(self, worker: int) -> bool:
        """Whether a worker can be asked."""
        return worker != self.me and worker in self._addresses

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
        if isinstance(error.__cause__, Unreachable | ConnectionLost | DeadlineExceeded):
            PEER_FAILURES().value += 1
            self._silent_until_s[peer.worker] = time.monotonic() + SILENT_S
            self.wants_addresses = True

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
