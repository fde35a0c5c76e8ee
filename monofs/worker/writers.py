"""All writes at a worker: WRITE and ABORT_WRITE, found by their operation; given up when idle, when the cluster changes, when the worker stops.

How a write ended is remembered for a while, so that a WRITE sent again after a broken connection gets the answer the first one had.

Invariants: one :class:`Writing` an operation; bytes behind the first of an operation nobody knows are ``WriteLost``, never a file with a
hole; a token that opened a write is good until its end, however long that takes. Reactor thread only. Not here: one write (writing.py).
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

from twisted.internet.defer import DeferredSemaphore
from twisted.internet.task import LoopingCall, deferLater

from monofs.config.schema import WorkerConfig
from monofs.model.capability import Capability
from monofs.model.errors import InvalidArgument, MonofsError, NotReady, WriteLost
from monofs.model.ids import ContentId
from monofs.model.principal import Right
from monofs.observe import metrics
from monofs.observe.logs import logger
from monofs.rpc.api import (
    AbandonWriteAnswer,
    AbandonWriteRequest,
    AbortWriteRequest,
    Failure,
    KeepPartsRequest,
    Message,
    Method,
    WriteAnswer,
    WriteRequest,
)
from monofs.rpc.service import Call, Service
from monofs.tiering.cache import Cache
from monofs.worker.delivery import EMPTY
from monofs.worker.disks import Disks
from monofs.worker.fetcher import Fetcher
from monofs.worker.gate import Gate
from monofs.worker.membership import MasterClient
from monofs.worker.part_pages import PartPages
from monofs.worker.parting import PartWriting
from monofs.worker.pins import Pins
from monofs.worker.room import Room
from monofs.worker.sparing import Sparing
from monofs.worker.stores import Stores
from monofs.worker.threads import Threads
from monofs.worker.writing import MASTER_S, Tools, Writing

log = logger(__name__)

WRITE_QUEUE = 8192
"""Acts on stores that may wait for a thread before writers get ``Overloaded``."""
ENDED_KEPT = 10_000
"""Writes whose end is remembered."""
TOKENS_MAX = 100
"""Renewed tokens of one write that are remembered; others are verified each time."""
SWEEP_S = 1.0


class Writers:
    """The open writes of one worker."""

    def __init__(
        self,
        config: WorkerConfig,
        cache: Cache,
        gate: Gate,
        stores: Stores,
        fetcher: Fetcher,
        disks: Disks,
        pins: Pins,
        master: MasterClient,
        *,
        worker: Callable[[], int],
        on_written: Callable[[ContentId], None],
        reactor: Any,
    ) -> None:
        """``worker`` tells the id the master gave; ``on_written`` is told of every content that has its name."""
        self._config, self._gate, self._reactor = config, gate, reactor
        self._threads = Threads("write", config.write_threads, WRITE_QUEUE, reactor)
        self._service: Service | None = None
        self._tools = Tools(
            config,
            cache,
            disks,
            stores,
            self._threads,
            Room(config.write_bytes),
            pins,
            Sparing(cache, fetcher, config.overwrite_keep_bytes, reactor),
            master,
            worker,
            reactor,
            self._fatal,
            on_written,
        )
        self._pages = PartPages(cache, disks, reactor)
        self._permits = DeferredSemaphore(max(1, config.write_threads // 2))
        self._open: dict[int, Writing] = {}
        self._tokens: dict[bytes, Writing] = {}
        self._ended: OrderedDict[int, WriteAnswer | MonofsError] = OrderedDict()
        self._sweep = LoopingCall(self._sweep_idle)
        self._sweep.clock = reactor
        self._stopping = False
        self._given_up = 0
        metrics.WRITES_OPEN.read = lambda: {(): float(len(self._open))}

    def register_methods(self, service: Service) -> None:
        """Serve them."""
        self._service = service
        service.register(Method.WRITE, WriteRequest, self._write, right=Right.WRITE)
        service.register(Method.ABORT_WRITE, AbortWriteRequest, self._abort, right=Right.WRITE)
        service.register(Method.KEEP_PARTS, KeepPartsRequest, self._keep_parts, right=Right.NODE)

    @property
    def operations(self) -> list[int]:
        """Open writes: the master leaves their intents alone."""
        return sorted(number for number, writing in self._open.items() if not writing.capability.part)

    def refuse_until(self, operation: int) -> None:
        """The master has given up all writes up to this one of which this worker has no byte yet: what of them comes now would be done behind its back."""
        self._given_up = operation

    def lose_all(self, error: MonofsError) -> None:
        """Give up every write: their intents are of another cluster."""
        for writing in list(self._open.values()):
            writing.lose(error)
        self._ended.clear()
        self._pages.drop_all()

    async def stop(self, timeout_s: float) -> None:
        """Take nothing more; let those that are being published end, and give up the others. Returns after ``timeout_s`` at the latest."""
        self._stopping = True
        deadline = time.monotonic() + timeout_s
        for writing in list(self._open.values()):
            if not writing.closing:
                writing.give_up(NotReady("the worker is stopping"))
        while self._open and time.monotonic() < deadline:
            await deferLater(self._reactor, 0.02)
        if self._sweep.running:
            self._sweep.stop()

    def end_threads(self, timeout_s: float) -> None:
        """Wait for the threads; blocking, call it from a thread."""
        self._threads.stop(timeout_s)

    def forget(self) -> None:
        """What threads bring is dropped from now on: the cache is about to close."""
        for writing in self._open.values():
            writing.forget()
        self._pages.drop_all()
        self._threads.forget()

    # ---- methods --------------------------------------------------------------------------------------------------------

    def _write(self, request: WriteRequest, call: Call) -> Message | None:
        writing = self._tokens.get(request.capability)
        if writing is not None:
            return writing.take(request, call)
        if self._stopping:
            raise NotReady("the worker is stopping")
        capability = self._gate.open_write(request.capability)
        operation = capability.operation
        ended = self._ended.get(operation)
        if isinstance(ended, MonofsError):
            raise ended
        if ended is not None:
            return ended
        writing = self._open.get(operation)
        if writing is None:
            if request.offset or (operation <= self._given_up and not capability.part):
                raise WriteLost("this worker does not have what was written before: it restarted, or gave the write up")
            writing = self._open[operation] = self._begin(request.capability, capability)
            if not self._sweep.running:
                self._sweep.start(SWEEP_S, now=False)
            self._tokens[request.capability] = writing
        elif len(writing.tokens) < TOKENS_MAX:  # renewed
            writing.tokens.append(request.capability)
            self._tokens[request.capability] = writing
        return writing.take(request, call)

    def _begin(self, token: bytes, capability: Capability) -> Writing:
        if capability.part:
            return PartWriting(self._tools, self._pages, self._permits, token, capability, self._has_ended)
        return Writing(self._tools, token, capability, self._has_ended)

    async def _keep_parts(self, request: KeepPartsRequest, _call: Call) -> Message:
        content = ContentId(request.content)
        await self._pages.keep(content, request.parts)
        self._tools.on_written(content)
        return EMPTY

    async def _abort(self, request: AbortWriteRequest, _call: Call) -> Message:
        writing = self._tokens.get(request.capability)
        if writing is None:
            capability = self._gate.open_write(request.capability)
            operation = capability.operation
            writing = self._open.get(operation)
            if writing is None and operation not in self._ended and not capability.part:
                await self._abandon(operation)
        if writing is not None:
            await writing.abort()
        return EMPTY

    async def _abandon(self, operation: int) -> None:
        """A write of which no byte came."""
        error = InvalidArgument("the write was aborted")
        request = AbandonWriteRequest(operation, Failure(error.code, error.message), worker=self._tools.worker())
        await self._tools.master.call(Method.ABANDON_WRITE, request, AbandonWriteAnswer, MASTER_S)

    # ---- table ----------------------------------------------------------------------------------------------------------

    def _has_ended(self, writing: Writing) -> None:
        operation = writing.operation
        self._open.pop(operation, None)
        for token in writing.tokens:
            del self._tokens[token]
        self._ended[operation] = writing.answer or writing.error or WriteLost("the write ended")
        if len(self._ended) > ENDED_KEPT:
            self._ended.popitem(last=False)
        if not self._open and self._sweep.running:
            self._sweep.stop()

    def _sweep_idle(self) -> None:
        self._tools.room.tick()
        limit = time.monotonic() - self._config.write_idle_s
        for writing in list(self._open.values()):
            if not writing.closing and writing.heard_at < limit:
                writing.give_up(WriteLost(f"no bytes came for {self._config.write_idle_s:g} s"))

    def _fatal(self, error: BaseException) -> None:
        if self._service is not None:
            self._service.fatal(error)
