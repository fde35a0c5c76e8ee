"""One part of an upload at a worker: bytes in order, out to the store's upload, their pages into the cache.

The part is in the store when its last WRITE is answered, with the tag the store gave it; the file is published by the master, later. So what is given up here takes nothing
with it: neither the upload nor its other parts. A part of more than ``HELD_BYTES`` is sent while it comes, piece by piece, and what of it was sent is forgotten: so it
has one try, and its writer another. It holds a thread and a connection, so one of which nothing comes is given up soon.

Not here: pages before they can be read (part_pages.py).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from queue import Empty, SimpleQueue
from typing import Any

from twisted.internet.defer import Deferred, DeferredSemaphore

from monofs.model.capability import Capability
from monofs.model.errors import MonofsError, WriteLost
from monofs.model.options import WriteType
from monofs.observe import metrics
from monofs.rpc.api import WriteAnswer
from monofs.ufs.base import Coming
from monofs.worker.part_pages import PartPages
from monofs.worker.uploading import Part, Upload
from monofs.worker.warming import Batch
from monofs.worker.writing import Tools, Writing

HELD_BYTES = 64 << 20
PIECE_BYTES = 8 << 20
"""What of a larger part is cached, and makes room for more, at a time: whole pages."""
STALLED_S = 60.0
"""A larger part of which nothing came for so long is given up."""
LATE_S = 5.0
"""After bytes came so late, a store that gives up the part is not to blame."""


class PartWriting(Writing):
    """See the module; otherwise as a write."""

    def __init__(
        self,
        tools: Tools,
        pages: PartPages,
        permits: DeferredSemaphore,
        token: bytes,
        capability: Capability,
        on_over: Callable[[Writing], None],
    ) -> None:
        """``permits``: for those that are sent while they come; each holds a thread."""
        super().__init__(tools, token, capability, on_over)
        self._pages, self._warming = pages, None
        self._is_warm = capability.write_type != WriteType.THROUGH
        self._number = capability.part
        assert self._upload is not None  # noqa: S101 - parts are of stores
        upload = self._upload
        upload.take_up(capability.upload)
        self._stream = None
        if capability.size > HELD_BYTES:
            self._stream = _Stream(upload, capability, permits, tools.reactor, self.give_up)

    def _part_bytes(self, number: int) -> int:  # noqa: ARG002
        return PIECE_BYTES if self.capability.size > HELD_BYTES else max(self.capability.size, 1)

    def _collect(self, data: memoryview) -> None:
        if self._stream is not None and data:
            self._stream.take(data)
        super()._collect(data)

    def _send(self, part: Part) -> Deferred[None]:
        return super()._send(part) if self._stream is None else self._stream.send()

    async def _conclude(self, part: Part) -> None:
        sent = self._send(part)
        await self._warm(self._plan(part, -1))
        await sent
        if self._stream is not None:
            await self._stream.end()
        if self.error is not None:
            return
        capability = self.capability
        assert self._upload is not None  # noqa: S101 - see above
        tag = self._upload.tag(capability.part)
        if self._is_warm:
            self._pages.note(capability, tag)
        self.answer = WriteAnswer(self.received, tag=tag)
        metrics.WRITTEN_BYTES(str(capability.mount), capability.write_type).value += self.received
        for call in self._close():
            call.answer(self.answer)

    def _plan(self, part: Part, size: int) -> list[Batch]:  # noqa: ARG002 - the size of the file is not known
        if not self._is_warm:
            return []
        try:
            self._warming, batches = self._pages.plan(self.capability, part.offset, part.pieces)
        except MonofsError as error:
            self._cool(error)
            return []
        return batches

    def _cool(self, error: MonofsError) -> None:
        """What other parts have in the cache stays."""
        self._warming, self._is_warm = None, False
        metrics.WRITES_UNCACHED(type(error).__name__).value += 1

    def _drop_pages(self) -> None:
        self._warming, self._is_warm = None, False
        if self._stream is not None:
            self._stream.fail(self.error or WriteLost("the part was given up"))

    async def _abandon(self, error: MonofsError) -> None:
        self._drop_pages()
        self._fail_waiting(error)


class _Stream:
    """One part on its way to the store while it comes."""

    def __init__(
        self,
        upload: Upload,
        capability: Capability,
        permits: DeferredSemaphore,
        reactor: Any,
        on_failed: Callable[[MonofsError], None],
    ) -> None:
        self._upload, self._reactor, self._on_failed = upload, reactor, on_failed
        self._queue: SimpleQueue[memoryview | Deferred[None] | MonofsError] = SimpleQueue()
        self._waiting: list[Deferred[None]] = []
        self._error: MonofsError | None = None
        self._is_through = self._is_late = False
        coming = Coming(capability.size, self._come(capability.size))
        self._sent = permits.run(lambda: Deferred.fromCoroutine(self._run(capability.part, coming)))

    async def _run(self, number: int, coming: Coming) -> None:
        try:
            if self._error is None:
                await self._upload.stream(number, coming, lambda: self._is_late)
        except MonofsError as error:
            self._error = self._error or error
        self._is_through = True
        waiting, self._waiting = self._waiting, []
        for each in waiting:
            each.callback(None) if self._error is None else each.errback(self._error)
        if self._error is not None:
            self._reactor.callLater(0, self._on_failed, self._error)  # the part may not be in the table yet

    def take(self, data: memoryview) -> None:
        """Bytes have come."""
        self._queue.put(data)

    def send(self) -> Deferred[None]:
        """Fires when what came so far is with the store."""
        done: Deferred[None] = Deferred()
        if self._error is not None:
            done.errback(self._error)
        elif self._is_through:
            done.callback(None)
        else:
            self._waiting.append(done)
            self._queue.put(done)
        return done

    async def end(self) -> None:
        """The store has all. Raises ``MonofsError``."""
        await self._sent
        if self._error is not None:
            raise self._error

    def fail(self, error: MonofsError) -> None:
        """No more will come: the store gets a body that ends early, which is no part."""
        self._error = self._error or error
        self._queue.put(self._error)

    def _come(self, size: int) -> Iterator[memoryview]:
        """In a thread."""
        while size > 0:
            began_s = time.monotonic()
            try:
                item = self._queue.get(timeout=STALLED_S)
            except Empty:
                raise WriteLost(f"no bytes of the part came for {STALLED_S:g} s: send it again") from None
            self._is_late = self._is_late or time.monotonic() - began_s > LATE_S
            if isinstance(item, MonofsError):
                raise item
            if isinstance(item, Deferred):
                self._reactor.callFromThread(self._took, item)
            else:
                size -= len(item)
                yield item

    def _took(self, done: Deferred[None]) -> None:
        if done in self._waiting:
            self._waiting.remove(done)
            done.callback(None)
