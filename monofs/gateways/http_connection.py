"""One HTTP/1.x client on our own link: its requests, one after the other, and their answers on the wire.

Invariants: answers leave in the order of their requests, for a connection has one exchange at a time and what a client pipelines waits
unread; an answer whose end is the connection's is reset when it cannot be completed; what a connection holds, sends and waits for is bounded by
:class:`Limits`, and all of a door's connections together by its totals.

Not here: what heads and chunks are (http_head.py, http_body.py), what is answered (http_exchange.py), accepting and stopping (http.py).
"""

from __future__ import annotations

import select
import socket
import struct
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from monofs.gateways.http_body import ChunkDecoder
from monofs.gateways.http_exchange import Exchange
from monofs.gateways.http_head import BadRequest, Headers, HeadLimits, join_headers
from monofs.model.errors import MonofsError, Overloaded, invariant
from monofs.observe.logs import logger
from monofs.observe.tracing import new_trace, show_trace
from monofs.rpc.pacing import FLUSH_BYTES, JOIN_BYTES, PacedLink

if TYPE_CHECKING:
    from monofs.gateways.http import Door

log = logger(__name__)

HOLD_BYTES = 64 << 10
"""Of a connection, unread or unparsed: beyond, its socket is not read."""
DIRECT_BYTES = 64 << 10
"""A body with at least so much to come is read to where its handler wants it."""
STEPS_A_TURN = 16
"""Requests, or pieces of a body, one connection is served in one turn of the reactor."""
TLS_PIECE_BYTES = 1 << 20
_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
_CR = ord("\r")
_RESET = struct.pack("ii", 1, 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Bounds of one door, with what happens at each."""

    head: HeadLimits = field(default_factory=HeadLimits)
    connections: int = 10_000
    """More get a 503 and are closed at once."""
    head_s: float = 30.0
    """A head that is not complete so long after its first byte, or after the connection was made, is answered 408."""
    idle_s: float = 60.0
    """A connection without a request is closed after so long."""
    body_s: float = 30.0
    """A body that is being received brings ``body_bytes``, or its end, in every such span; else it is answered 408."""
    body_bytes: int = 16 << 10
    stall_s: float = 60.0
    """A reader that takes nothing of what waits for it for so long is cut off."""
    drain_bytes: int = 256 << 10
    """So much of a body nobody received is read and dropped after the answer; with more to come the connection is closed."""
    queued_bytes: int = 8 << 20
    """As :attr:`monofs.rpc.service.Limits.queued_bytes`."""
    queued_total_bytes: int = 256 << 20
    """As :attr:`monofs.rpc.service.Limits.queued_total_bytes`, over all connections of the door."""
    held_bytes: int = 64 << 20
    """Unread and unparsed, over all connections of the door: above, no connection holds more than one read, and unfinished heads are answered 503."""


class HttpConnection(PacedLink):
    """One client: its exchanges, one at a time."""

    __slots__ = (
        "_at",
        "_body_over",
        "_busy",
        "_chunks",
        "_data",
        "_ended",
        "_exchange",
        "_head_begun",
        "_held",
        "_left",
        "_limits",
        "_moved_bytes",
        "_new",
        "_scanned",
        "_scheduled",
        "_sent",
        "_since",
        "_until_close",
        "door",
        "peer",
        "slot",
    )

    def __init__(self, door: Door, sock: socket.socket, *, peer: str, map_files: bool) -> None:
        limits = door.limits
        super().__init__(
            door.reactor,
            door.flusher,
            sock,
            bounds=limits,
            shared=door,
            map_files=map_files,
            tls=None if door.tls is None else door.tls.machine(),
        )
        self.door = door
        self.peer = peer
        self.slot = 0
        self._limits = limits
        self._exchange: Exchange | None = None
        self._data: bytes | memoryview = b""
        self._at = 0
        """What came and is not taken yet begins here."""
        self._scanned = 0
        """So much of that is known to hold no end of a head."""
        self._held = 0
        self._left = 0
        self._chunks: ChunkDecoder | None = None
        self._body_over = True
        self._busy = self._scheduled = self._ended = self._until_close = self._head_begun = False
        self._new = True
        self._since = time.monotonic()
        """When what the client owes us began: a head, a request, the next bytes of a body."""
        self._moved_bytes = 0
        """Of a body, since then."""
        self._sent = -1.0
        """When the client took something of what waits; negative: nothing waited at the last look."""
        door.deadlines.add(self, self._since + door.look_s)
        self.start_reading()

    # ---- what comes in ----

    def received(self, data: bytes | memoryview) -> None:
        """Bytes of one read."""
        self._data = data if self._at == len(self._data) else b"".join((self._data[self._at :], data))
        self._at = 0
        self.go_on()

    def go_on(self) -> None:
        """Take from what came what may be taken now."""
        if self._busy or not self._is_open():
            return
        self._busy = True
        steps = STEPS_A_TURN
        try:
            while steps and self._step() and self._is_open():
                steps -= 1
        except BadRequest as error:
            self._refuse(error.status, error.reason)
        finally:
            self._busy = False
        if not self._is_open():
            return
        if not steps:
            self.go_on_soon()
        held = len(self._data) - self._at
        if held or self._held:
            self._count_held(held)
        if not held:
            self._data, self._at = b"", 0
        if held and not self._head_begun and (held >= HOLD_BYTES or self.door.held_bytes > self._limits.held_bytes):
            self.stop_reading()  # not in the middle of a head, which has its own bounds
        elif not self._reading and not self._ended:
            self.start_reading()
        if self._left >= DIRECT_BYTES and not held and self._exchange is not None and self.tls is None:
            space = self._exchange.space()
            self.into = None if space is None else space[: self._left]

    def _is_open(self) -> bool:
        return not self.closed and not self._closing

    def go_on_soon(self) -> None:
        """In the next turn, or in this loop's next step."""
        if not self._busy and not self._scheduled:
            self._scheduled = True
            self.reactor.callLater(0, self._go_on_now)

    def _go_on_now(self) -> None:
        self._scheduled = False
        self.go_on()

    def resume(self) -> None:
        """The client took what waited: its next request's turn."""
        if self._exchange is None:
            self.go_on()

    def _step(self) -> bool:
        """Take a head, or something of the body of the request under way; False when there is nothing to do now."""
        exchange = self._exchange
        if exchange is not None:
            return self._take_body(exchange)
        data, at = self._data, self._at
        if at == len(data) or (self.queued_bytes and self.is_full()):
            return False
        if isinstance(data, memoryview):  # what follows a body came with it
            data = self._data = bytes(data)
        if (
            data[at] == _CR and data[at + 1 : at + 2] == b"\n"
        ):  # RFC 9112 section 2.2: an empty line before a request is none
            self._at = at + 2
            return True
        end = data.find(b"\r\n\r\n", at + self._scanned) + 4
        if end < 4:
            self._await_head(data[at:])
            return False
        self._at, self._scanned, self._head_begun = end, 0, False
        door = self.door
        head = door.parser.parse(data[at:end])
        exchange = self._exchange = Exchange(self, head)
        length = head.length
        self._body_over = length == 0
        self._left = length or 0
        self._chunks = ChunkDecoder() if length is None else None
        door.serve(exchange)
        return not (exchange.closed and self._body_over) or end < len(data)

    def _await_head(self, block: bytes) -> None:
        """It has begun; the rest is on its way."""
        self._scanned = max(0, len(block) - 3)
        if block == b"\r":
            return
        if not self._head_begun:
            self._head_begun = True
            self._since = time.monotonic()
        self.door.parser.check_begun(block)
        if len(block) > HOLD_BYTES // 8 and self.door.held_bytes > self._limits.held_bytes:
            raise BadRequest(503, "too many unfinished requests; try again shortly")

    def _take_body(self, exchange: Exchange) -> bool:
        if not exchange.closed and not exchange.is_listening:
            return False
        if self._body_over:
            exchange.hear_end()
            return True
        data, at = self._data, self._at
        if at == len(data):
            return False
        chunks = self._chunks
        if chunks is None:
            piece = memoryview(data)[at : at + self._left]
            self._at = at + len(piece)
            self._left -= len(piece)
            self._body_over = not self._left
        else:
            piece, used = chunks.take(memoryview(data)[at:])
            self._at = at + used
            if chunks.is_over:
                self._body_over = True
                exchange.trailers = chunks.trailers
        self._moved_bytes += len(piece)
        self.door.bytes_in.value += len(piece)
        if not exchange.closed:
            if piece:
                exchange.hear(piece)
        elif self._body_over:
            self._free(time.monotonic())
        return True

    def begin_body(self, exchange: Exchange) -> None:
        """Somebody receives the body now."""
        self._since, self._moved_bytes = time.monotonic(), 0
        if exchange.expects:
            exchange.expects = False
            if self._at == len(self._data):
                self.out += _CONTINUE
                self.soon()
        self.go_on_soon()

    def _count_held(self, held: int) -> None:
        self.door.held_bytes += held - self._held
        self._held = held

    # ---- what goes out ----

    def send_answer(self, exchange: Exchange, status: int, headers: Headers, body: bytes | memoryview) -> None:
        """A head and all of its body."""
        self.send_head(exchange, status, headers, len(body))
        if body and exchange.has_body:
            if len(body) <= JOIN_BYTES:
                self.door.bytes_out.value += len(body)
                self.out += body
            else:
                self.send_data(exchange, body)
        self.send_end(exchange)

    def send_head(self, exchange: Exchange, status: int, headers: Headers, length: int | None) -> None:
        """Into ``out``, to leave with what follows."""
        invariant(not exchange.begun, "an answer begins once")
        door, out = self.door, self.out
        lines = headers if isinstance(headers, bytes) else join_headers(headers)
        out += door.opening(status)
        out += lines
        if exchange.also:
            out += join_headers(exchange.also)
        keeps = exchange.keeps and not door.is_stopping and (self._body_over or self._is_drainable(exchange))
        if status == 204 or status == 304:
            exchange.has_body = False
        else:
            exchange.has_body = exchange.method != "HEAD"
            if length is not None:
                out += b"Content-Length: %d\r\n" % length
            elif not exchange.has_body:
                pass
            elif exchange.minor:
                exchange.chunked = True
                out += b"Transfer-Encoding: chunked\r\n"
            else:
                self._until_close, keeps = True, False
        exchange.keeps = keeps
        if not keeps:
            out += b"Connection: close\r\n\r\n"
        else:
            out += b"\r\n" if exchange.minor else b"Connection: keep-alive\r\n\r\n"
        exchange.begun, exchange.status = True, status
        if not self.dirty:
            self.soon()

    def _is_drainable(self, exchange: Exchange) -> bool:
        """Whether what is left of a body is little, and certainly comes."""
        return self._chunks is None and self._left <= self._limits.drain_bytes and not exchange.expects

    def send_data(self, exchange: Exchange, buffer: bytes | memoryview) -> None:
        """Bytes of a body; little leaves together with what is before and after it."""
        self._check_flood()
        view = memoryview(buffer).cast("B")
        self.door.bytes_out.value += len(view)
        out = self.out
        if exchange.chunked:
            out += b"%x\r\n" % len(view)
        if len(view) <= JOIN_BYTES:
            out += view
            self.turn_bytes += len(view)
        else:
            pieces: Sequence[bytes | memoryview] = [view]
            if self.tls is not None:
                pieces = [view[at : at + TLS_PIECE_BYTES] for at in range(0, len(view), TLS_PIECE_BYTES)]
            for piece in pieces:
                self.send_buffers([self._gathered(), piece])
        self._after_piece(exchange)

    def send_file(self, exchange: Exchange, fd: int, offset: int, length: int) -> None:
        """Bytes of a body from a file."""
        self._check_flood()
        self.door.bytes_out.value += length
        if exchange.chunked:
            self.out += b"%x\r\n" % length
        step = length if self.tls is None else TLS_PIECE_BYTES
        for start in range(offset, offset + length, step):
            if not self.closed:
                self.send_piece(self._gathered(), fd, start, min(step, offset + length - start))
        self._after_piece(exchange)

    def _after_piece(self, exchange: Exchange) -> None:
        if exchange.chunked:
            self.out += b"\r\n"
        if len(self.out) >= FLUSH_BYTES:
            self.flush()
        elif self.out and not self.dirty:
            self.soon()

    def _gathered(self) -> bytes:
        """What waits in ``out``, to leave with what follows in one system call."""
        gathered = bytes(self.out)
        del self.out[:]
        return gathered

    def _check_flood(self) -> None:
        if self.queued_bytes and self.is_flooded():
            raise Overloaded("the reader is too slow for this answer")

    def send_end(self, exchange: Exchange) -> None:
        """The answer is complete."""
        if exchange.chunked:
            self.out += b"0\r\n\r\n"
        if len(self.out) >= FLUSH_BYTES:
            self.flush()
        elif not self.dirty:
            self.soon()
        if self.closed:
            return
        door, now = self.door, time.monotonic()
        exchange.closed = True
        door.answered(exchange.status).value += 1
        door.timer.observe(now - exchange.started)
        if not exchange.keeps or self._ended or door.is_stopping:
            self._exchange = None
            self.close()
        elif self._body_over:
            self._free(now)
            if not self._busy:
                self.go_on()
        else:  # what is left of the body is read and dropped
            self._since, self._moved_bytes = now, 0
            self.go_on_soon()

    def _free(self, now: float) -> None:
        """For the next request."""
        self._exchange = None
        self._new = False
        self._since = now

    def _refuse(self, status: int, reason: str) -> None:
        """The last words of a connection that cannot go on; none in the middle of an answer."""
        door, exchange = self.door, self._exchange
        door.refused(str(status)).value += 1
        trace = new_trace() if exchange is None else exchange.trace
        log.info(
            "request refused", door=door.name, peer=self.peer, status=status, reason=reason, trace=show_trace(trace)
        )
        if exchange is not None:
            self.forget(exchange, str(status))
        if exchange is not None and exchange.begun:
            self.abort(None)
        elif not self.closed:
            headers, body = door.refusal(status, reason, trace)
            self.out += door.opening(status) + join_headers(headers) + b"Content-Length: %d\r\n" % len(body)
            self.out += b"Connection: close\r\n\r\n" + body
            self.close()
        if exchange is not None:
            exchange.abandon()

    # ---- the end ----

    def forget(self, exchange: Exchange, outcome: str) -> None:
        """It is over without a complete answer."""
        exchange.closed = True
        self.door.answered(outcome).value += 1
        self.door.timer.observe(time.monotonic() - exchange.started)
        if not self._until_close:
            self._exchange = None

    def close(self, *, linger: bool = True, patient: bool = True) -> None:
        """After what is queued, however long the client takes (see :meth:`expire`); what it sent and nobody took is dropped."""
        self._data, self._at = b"", 0
        self._count_held(0)
        super().close(linger=linger, patient=patient)

    def doWrite(self) -> None:  # noqa: N802 - Twisted's name
        """The client takes bytes."""
        self._sent = time.monotonic()
        super().doWrite()

    def reached_end(self) -> None:
        """The client says no more: before its answer has begun nobody waits for one any more, afterwards it may still read."""
        exchange = self._exchange
        if self.queued_bytes or (exchange is not None and exchange.begun and self._body_over):
            self._ended = True
            self.stop_reading()
            if exchange is None:
                self.close()
                self.stop_reading()
        else:
            self.abort(None)

    def tls_failed(self, error: MonofsError, data: bytes) -> None:
        """Who speaks HTTP in clear is told in clear what this door wants."""
        if self.tls is not None and not self.tls.is_open and data[:1].isalpha():
            self.tls = None
            self._refuse(400, "this door speaks HTTPS: write https:// before its address")
            return
        self.door.refused("tls").value += 1
        log.info("connection refused", peer=self.peer, door=self.door.name, reason=str(error))
        super().tls_failed(error, data)

    def shed(self, total: int) -> None:
        """Close at once, so that what waits for this reader leaves memory."""
        self._cut_off("too many answers wait for slow readers, and this one holds much for long", total)

    def _cut_off(self, reason: str, total: int) -> None:
        log.warning(
            "connection closed",
            peer=self.peer,
            door=self.door.name,
            reason=reason,
            bytes=self.queued_bytes,
            total=total,
        )
        self.door.refused("slow_reader").value += 1
        self.abort(None)

    def stop(self) -> None:
        """The door stops: a client that waits for nothing is let go, another after its answer."""
        if self._exchange is None and self._at == len(self._data):
            self.close(linger=False)

    def expire(self) -> None:
        """For the deadline wheel: a look at what the client owes us."""
        if self.closed:
            return
        now, limits, exchange = time.monotonic(), self._limits, self._exchange
        late_s = now - self._since
        if self.queued_bytes:
            if self._sent < 0:
                self._sent = now
            elif now - self._sent >= limits.stall_s:
                self._cut_off("it takes nothing of what waits for it", self.door.queued_bytes)
                return
        else:
            self._sent = -1.0
            if self._closing:
                pass  # the link sees to that itself
            elif exchange is None:
                if self._head_begun or (self.tls is not None and not self.tls.is_open):
                    if late_s >= limits.head_s:
                        self._refuse_late("the request's head took too long")
                elif late_s >= (limits.head_s if self._new else limits.idle_s):
                    self.close(linger=False)
            elif self._body_over or not (exchange.closed or exchange.is_listening) or self._at < len(self._data):
                self._since, self._moved_bytes = now, 0  # nothing is owed
                if not self._reading and not self._ended and self._has_hung_up():
                    self.reached_end()
            elif self._moved_bytes >= limits.body_bytes:
                self._since, self._moved_bytes = now, 0
            elif late_s >= limits.body_s:
                self._refuse_late("the request's body took too long")
        if not self.closed:
            self.door.deadlines.add(self, now + self.door.look_s)

    def _has_hung_up(self) -> bool:
        """Whether the client said its last, though what it said before is not read."""
        poll = select.poll()
        poll.register(self.sock, select.POLLRDHUP)
        return bool(poll.poll(0))

    def _refuse_late(self, reason: str) -> None:
        if self.tls is not None and not self.tls.is_open:
            self.door.refused("tls").value += 1
            self.abort(None)
        else:
            self._refuse(408, reason)

    def abort(self, error: MonofsError | None) -> None:
        """Close at once. An answer that ends with its connection would look complete: then the client gets a reset."""
        if not self.closed and self._until_close and (self.queued_bytes or self._exchange is not None):
            with suppress(OSError):
                self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        super().abort(error)

    def lost(self, error: MonofsError | None) -> None:  # noqa: ARG002 - the same for every reason
        """The socket is gone."""
        self.door.deadlines.discard(self)
        self._count_held(0)
        self._data = b""
        self._waiting.clear()
        exchange, self._exchange = self._exchange, None
        if exchange is not None and not exchange.closed:
            self.forget(exchange, "gone")
            exchange.abandon()
        self.door.has_lost(self)
