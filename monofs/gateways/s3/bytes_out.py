"""Bytes of a file from the workers that have them into an HTTP answer.

This node's own worker is asked like any reader's: it serves what it has, by the kernel, and gets the rest from owners and the store, without keeping
it twice where ``worker.local_copy`` says so. Only what no store has lies on certain workers, and comes from one of these if it is not this one.

Invariant: an answer is complete only if all its bytes came, of the one content whose head was told; else its connection is cut. Reactor thread only.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Protocol

from twisted.internet.defer import Deferred

from monofs.gateways.http_exchange import Exchange
from monofs.gateways.http_head import Headers
from monofs.model.errors import Closed, InvalidArgument, MonofsError, NoWorker, Unreachable
from monofs.model.principal import NODE
from monofs.observe.tracing import new_trace
from monofs.rpc.api import Message, Method, ReadRequest
from monofs.rpc.service import Call, Connection, Service

READ_S = 3600.0
STEP_BYTES = 1 << 20
"""Asked of another worker at a time."""


class Streaming(Protocol):
    """A channel that streams: rpc.client.Client or rpc.direct.DirectClient."""

    def stream(
        self,
        method: Method,
        request: Message,
        receive: Callable[[Any], None],
        answer_type: type[Any],
        timeout_s: float = 300.0,
    ) -> Deferred[Any]:
        """Ask; ``receive`` is called with each piece."""


class Sources:
    """Where bytes come from: the worker of this process, and others by their number."""

    def __init__(
        self, service: Service, me: Callable[[], int], connect: Callable[[int], Awaitable[Streaming | None]]
    ) -> None:
        """``connect``: a channel to another worker; None when nobody knows where it listens."""
        self.service, self.me, self._connect = service, me, connect

    def has(self, workers: Sequence[int]) -> bool:
        """Whether this node's worker is one to ask; ``workers``: who holds what no store has, if so."""
        return not workers or self.me() in workers

    async def other(self, workers: Sequence[int]) -> Streaming:
        """A channel to one of these. Raises ``NoWorker``."""
        for worker in workers:
            channel = await self._connect(worker)
            if channel is not None:
                return channel
        raise NoWorker(f"no store has these bytes, and of the workers that hold them ({workers}) none is known to live")


class Body(Connection):
    """READs whose bytes are the body of one answer. ``begin`` sends its head, right before the first byte."""

    def __init__(self, exchange: Exchange, sources: Sources, status: int, headers: Headers, length: int) -> None:
        self._on_close: list[Callable[[], None]] = []
        self.principal = NODE
        self.service = sources.service
        self.door = "s3"
        self.peer = exchange.peer
        self.closed = False
        self._sources, self._exchange = sources, exchange
        self._status, self._headers, self._length = status, headers, length
        self._done: Deferred[None] | None = None
        self._call: Call | None = None
        self._error: MonofsError | None = None

    def send(self, token: bytes, offset: int, workers: Sequence[int]) -> Awaitable[None] | None:
        """All of it, from ``offset`` of the content that the capability ``token`` opens on; None: it is done. Raises, or the result does,
        ``MonofsError``; then ``exchange.begun`` tells whether anything was said."""
        if self._is_over():
            return None  # or all of it would be read for nobody
        self._exchange.on_gone(self._gone)
        if not self._sources.has(workers):
            return self._fetch(token, offset, workers)
        reading = self._read(ReadRequest(token, offset, self._length, sequential=self._length > STEP_BYTES))
        if reading is not None:
            return reading.addCallback(lambda _: self._end())
        self._end()
        return None

    async def _fetch(self, token: bytes, offset: int, workers: Sequence[int]) -> None:
        """From another worker."""
        other = await self._sources.other(workers)
        end = offset + self._length
        while offset < end and not self._is_over():
            step = min(STEP_BYTES, end - offset)
            await other.stream(Method.READ, ReadRequest(token, offset, step), self._take, Message)
            await self._room()
            offset += step
        self._end()

    def _end(self) -> None:
        if self._is_over():
            return
        if not self._exchange.begun:
            raise Unreachable(f"none of {self._length} bytes came")
        self._exchange.end()

    def _read(self, request: ReadRequest) -> Deferred[None] | None:
        """From this node's worker; None: it is done."""
        entry = self.service.entries[int(Method.READ)]
        now = time.monotonic()
        call = self._call = Call(self, entry, 1, self._exchange.trace or new_trace(), now, now + READ_S)
        call.pending = True
        self.service.run(call, request)
        if self._error is not None:
            raise self._error
        if call.closed:
            return None
        self.service.deadlines.add(call, call.deadline)
        self._done = Deferred()
        return self._done

    def _is_over(self) -> bool:
        """Whether all was said, or nobody is there any more."""
        return self._exchange.closed

    def _take(self, data: Any) -> None:
        if not self._exchange.begun and len(data) == self._length:
            self._exchange.answer(self._status, self._headers, data)
            return
        if not self._exchange.begun:
            self._exchange.begin(self._status, self._headers, self._length)
        self._exchange.data(data)

    def _room(self) -> Deferred[None]:
        room: Deferred[None] = Deferred()
        if self._exchange.writable or self._is_over():
            room.callback(None)
        else:
            self._exchange.when_writable(lambda: room.callback(None))
        return room

    def _gone(self) -> None:
        self.closed = True
        if self._call is not None:
            self._call.abandon()
        self._finish(Closed("the client is gone"))
        self.has_closed()

    def _finish(self, error: MonofsError | None) -> None:
        done, self._done = self._done, None
        if done is None:
            self._error = error
        elif error is not None:
            done.errback(error)
        else:
            done.callback(None)

    # ---- what the worker says ----

    @property
    def writable(self) -> bool:
        """As the client's connection."""
        return self._exchange.writable

    def when_writable(self, call: Call) -> None:
        """Once that takes more."""
        self._exchange.when_writable(call.run_waiting)

    def send_answer(self, call: Call, message: Message) -> None:  # noqa: ARG002 - all was said with the bytes
        """The end."""
        self._finish(None)

    def send_error(self, call: Call, error: MonofsError) -> None:  # noqa: ARG002
        """The end."""
        self._finish(error)

    def send_item(self, call: Call, message: Message) -> None:  # noqa: ARG002
        """READ has none."""
        raise InvalidArgument("a READ streams bytes only")

    def send_data(self, call: Call, buffer: bytes | memoryview) -> None:  # noqa: ARG002
        """Bytes as they are."""
        self._take(buffer)

    def send_file(self, call: Call, fd: int, offset: int, length: int) -> None:  # noqa: ARG002
        """Bytes of a file, copied by the kernel."""
        if not self._exchange.begun:
            self._exchange.begin(self._status, self._headers, self._length)
        self._exchange.send_file(fd, offset, length)

    def ended(self, call: Call) -> None:
        """The call got its final frame or was given up."""
        self.service.deadlines.discard(call)


async def gather(
    sources: Sources, local: Streaming, token: bytes, offset: int, length: int, workers: Sequence[int]
) -> memoryview:
    """A piece of at most a few MiB in memory, for copies and joins. Raises ``MonofsError``."""
    into, at = bytearray(length), 0

    def take(data: Any) -> None:
        nonlocal at
        into[at : at + len(data)] = data
        at += len(data)

    channel = local if sources.has(workers) else await sources.other(workers)
    await channel.stream(Method.READ, ReadRequest(token, offset, length, sequential=True), take, Message)
    if at != length:
        raise Unreachable(f"{at} bytes came of {length}")
    return memoryview(into)
