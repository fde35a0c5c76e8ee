"""The digests of one body while it comes, each in a thread of its own that gives up the GIL, so that they take as long as the slowest of them.

Invariants: every digest takes all pieces, in their order, and is in one thread at a time; what one raises is told once, on the reactor. Not here: what the
digests are (``incoming``), how far they may be behind (``receiving``).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from twisted.internet.threads import deferToThreadPool

from monofs.gateways.s3.incoming import Update


class _Lane:
    """One digest, and the pieces it has still to take."""

    __slots__ = ("is_running", "pieces", "update")

    def __init__(self, update: Update) -> None:
        self.update = update
        self.pieces: deque[memoryview] = deque()
        self.is_running = False


class Hashing:
    """See the module. Reactor thread only, but for what says otherwise."""

    def __init__(
        self,
        hashes: Sequence[Update],
        reactor: Any,
        on_taken: Callable[[], None],
        on_failed: Callable[[Exception], None],
    ) -> None:
        """``on_taken``: a digest has taken a piece, or has no more to take; ANY thread. ``on_failed``: what one raised."""
        self._lanes = [_Lane(update) for update in hashes]
        self._reactor, self._on_taken, self._on_failed = reactor, on_taken, on_failed

    def take(self, piece: memoryview) -> None:
        """The next bytes; not to be changed until all digests have them."""
        for lane in self._lanes:
            lane.pieces.append(piece)
            self._begin(lane)

    @property
    def behind(self) -> int:
        """Pieces that the slowest digest has not taken yet."""
        return max(len(lane.pieces) for lane in self._lanes)

    def stop(self) -> None:
        """Nothing more is wanted."""
        for lane in self._lanes:
            lane.pieces.clear()

    def _begin(self, lane: _Lane) -> None:
        if not lane.is_running and lane.pieces:
            lane.is_running = True
            pool = self._reactor.getThreadPool()
            hashed = deferToThreadPool(self._reactor, pool, self._hash, lane)
            hashed.addCallbacks(self._has_left, self._has_failed, callbackArgs=(lane,), errbackArgs=(lane,))

    def _hash(self, lane: _Lane) -> None:
        """In a thread: whatever there is, so that it need not be woken for each piece."""
        try:
            while lane.pieces:
                lane.update(lane.pieces[0])
                lane.pieces.popleft()
                self._on_taken()
        except IndexError:
            pass  # nothing is wanted any more

    def _has_left(self, _: None, lane: _Lane) -> None:
        lane.is_running = False
        self._begin(lane)  # what came as the thread left
        self._on_taken()  # for who began to wait then

    def _has_failed(self, failure: Any, lane: _Lane) -> None:
        lane.is_running = False
        self.stop()
        self._on_failed(failure.value)
