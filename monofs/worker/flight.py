"""One range of one content on its way from a store, and who waits for it. The fetcher moves it; nothing here does anything."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from monofs.model.block import GROUP_SIZE_BYTES, PAGE_SIZE_BYTES, pages_mask
from monofs.model.capability import Capability
from monofs.model.errors import MonofsError
from monofs.observe.tracing import current_trace
from monofs.tiering.cache import Group
from monofs.worker.peers import BY_READERS, Asked, Peer

Waiter = Callable[[MonofsError | None], None]
"""Called once on the reactor: the bytes waited for landed (None), or the flight failed."""
Taker = Callable[[int, bytes, MonofsError | None], None]
"""Called on the reactor for every piece of a passing flight (offset, bytes, None), and once with its error if it fails."""


@dataclass(slots=True, eq=False)
class Flight:
    """Bytes ``[position, end)`` of a content are still on their way."""

    capability: Capability
    position: int
    end: int
    group: Group | None
    """None: a passing flight."""
    urgent: bool
    waiters: list[tuple[int, Waiter]] = field(default_factory=list)
    takers: list[Taker] = field(default_factory=list)
    tries: int = 0
    position_at_try: int = -1
    moved_at: float = math.inf
    """When its thread last brought something (time.monotonic); infinite while none works on it."""
    trace: int = field(default_factory=current_trace)
    """The request that began it."""
    began_at: float = field(default_factory=time.monotonic)
    taken: bool = False
    """A thread works on it, or will: its reserved pages may still be written."""
    over: bool = False
    peer: Peer | None = None
    """The worker asked for the bytes now; None: the store."""
    tried: tuple[int, ...] = ()
    """Former owners that had them not."""
    given: bool = False
    """A peer gives them, and the store is not asked; who waits looks again when that fails."""
    hangs: bool = False
    """Given up, while its thread still waits for the store."""

    def is_for(self, asked: Asked) -> bool:
        """Whether a request may wait for it: one that an owner is asked must not, while this worker asks an owner itself."""
        return asked in BY_READERS or self.peer is None or self.peer.asked is not Asked.OWNER

    @property
    def mask(self) -> int:
        """Pages of the group that have not landed."""
        base = self.position // GROUP_SIZE_BYTES * GROUP_SIZE_BYTES
        return pages_mask((self.position - base) // PAGE_SIZE_BYTES, (self.end - 1 - base) // PAGE_SIZE_BYTES)
