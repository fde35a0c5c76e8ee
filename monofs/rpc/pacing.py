"""A link whose readers may be slow: streams pause, and what waits in memory is bounded over all links that share a bound.

Invariants: a stream that looks at ``writable`` never has more than a quarter of ``queued_bytes`` waiting; above twice
``queued_total_bytes`` in memory the link that holds most for longest is closed. Not here: what is streamed (service.py, gateways/http.py).
"""

from __future__ import annotations

import socket
import time
from typing import Any, Protocol

from monofs.rpc.link import TURN_BYTES, Flusher, Link
from monofs.rpc.tls import TlsMachine

FLUSH_BYTES = 256 << 10
"""So many gathered bytes are sent at once."""
JOIN_BYTES = 32 << 10
"""Up to here copying costs less than a system call."""
QUEUED_FACTOR = 4
"""A stream that ignores ``writable`` is refused at this many times ``queued_bytes``."""


class Bounds(Protocol):
    """See :class:`monofs.rpc.service.Limits`."""

    @property
    def queued_bytes(self) -> int:
        """Of one link."""

    @property
    def queued_total_bytes(self) -> int:
        """In memory, of all links."""


class Shared(Protocol):
    """What the links of one service have in common."""

    queued_bytes: int
    """Bytes in memory that wait for slow readers."""
    slow: set[Any]
    """The links they wait for."""


class Waiter(Protocol):
    """A stream that waits until its reader takes more."""

    def run_waiting(self) -> None:
        """Go on; called once."""


class PacedLink(Link):
    """See the module."""

    __slots__ = ("_bounds", "_counted", "_moved", "_shared", "_waiting")

    def __init__(
        self,
        reactor: Any,
        flusher: Flusher,
        sock: socket.socket,
        *,
        bounds: Bounds,
        shared: Shared,
        map_files: bool,
        tls: TlsMachine | None,
    ) -> None:
        super().__init__(reactor, flusher, sock, map_files=map_files, low_bytes=bounds.queued_bytes // 16, tls=tls)
        self._bounds = bounds
        self._shared = shared
        self._waiting: list[Waiter] = []
        self._counted = 0
        self._moved = 0.0

    def shed(self, total: int) -> None:
        """Close at once, so that what waits for this reader leaves memory; ``total`` bytes wait for all readers."""
        raise NotImplementedError

    def resume(self) -> None:
        """Streams had their turn and little waits: take up what was left."""
        raise NotImplementedError

    @property
    def writable(self) -> bool:
        """Little waits (see ``Bounds.queued_bytes``), and others had their turn since the last MiB."""
        if len(self.out) >= FLUSH_BYTES:
            self.flush()
        return self._has_room() and self.turn_bytes < TURN_BYTES

    def when_writable(self, waiter: Waiter) -> None:
        """In the order of asking, so that several streams of a connection take turns."""
        if self.closed or self._has_room():
            self._begin_wait()
            self.reactor.callLater(0, self._next_turn, waiter)
        else:
            self._waiting.append(waiter)

    def is_full(self) -> bool:
        """Whether requests wait for queued bytes to leave."""
        return self.queued_bytes >= self._bounds.queued_bytes or self._is_over_total()

    def is_flooded(self) -> bool:
        """Whether a stream went on though it was not writable."""
        return self.queued_bytes > self._bounds.queued_bytes * QUEUED_FACTOR

    def _is_over_total(self) -> bool:
        return self.memory_bytes > 0 and self._shared.queued_bytes >= self._bounds.queued_total_bytes

    def _has_room(self) -> bool:
        queued = self.queued_bytes
        return not queued or (queued < self._bounds.queued_bytes // 4 and not self._is_over_total())

    def _next_turn(self, waiter: Waiter) -> None:
        self._end_wait()
        self.turn_bytes = 0
        waiter.run_waiting()

    def drained(self) -> None:
        """Streams go on, then requests that were left."""
        waiting, self._waiting = self._waiting, []
        for position, waiter in enumerate(waiting):
            if self.closed or not self.writable:
                self._waiting = waiting[position:] + self._waiting
                break
            waiter.run_waiting()
        self.resume()

    def memory_changed(self) -> None:
        """Count what waits over all links, and close the slowest reader when it is far too much."""
        shared, more = self._shared, self.memory_bytes - self._counted
        shared.queued_bytes += more
        self._counted = self.memory_bytes
        if not self._counted:
            shared.slow.discard(self)
            return
        now = time.monotonic()
        if more < 0 or self not in shared.slow:
            self._moved = now
            shared.slow.add(self)
        if more > 0 and shared.queued_bytes > 2 * self._bounds.queued_total_bytes:
            max(shared.slow, key=lambda link: link.burden(now)).shed(shared.queued_bytes)

    def burden(self, now: float) -> float:
        """Bytes that wait, times the seconds since the reader took some: a large answer that is on its way is none."""
        return self.memory_bytes * (now - self._moved)
