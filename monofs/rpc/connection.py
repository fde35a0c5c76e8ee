"""One connection to a door: handshake, then requests in and answers out.

Invariants: a request is looked at only after the handshake; whatever a peer sends, memory per connection is bounded by
``Limits`` (one unfinished frame, the frames of one read, ``queued_bytes`` plus one answer), and so is what waits for all
connections together; at a bound this side stops reading, it never drops an answer but with its connection. Requests that
wait always end, at their deadline at the latest, and answers are written while reading is stopped, so two nodes that call
each other cannot block each other for good.

Not here: handlers (service.py), bytes on sockets (link.py), who is accepted (server.py).
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from typing import Any

import msgspec

from monofs import __version__
from monofs.model.errors import (
    DeadlineExceeded,
    FrameTooLarge,
    Internal,
    MonofsError,
    Overloaded,
    ProtocolError,
    Unauthenticated,
    UnknownMethod,
)
from monofs.model.principal import ANONYMOUS, NODE
from monofs.model.token import format_rights
from monofs.observe import metrics
from monofs.observe.logs import logger
from monofs.rpc.api import ConnectionInfo, Message
from monofs.rpc.frames import (
    DATA_MAX_BYTES,
    DESCRIPTORS_MAX,
    HEADER_BYTES,
    REST_BYTES,
    Frame,
    Kind,
    Splitter,
    encode_error,
    pack,
    pack_header,
    pack_header_into,
)
from monofs.rpc.handshake import ServerHandshake
from monofs.rpc.link import Flusher
from monofs.rpc.pacing import FLUSH_BYTES, JOIN_BYTES, PacedLink
from monofs.rpc.service import Call, Connection, Limits, Service
from monofs.rpc.tls import HANDSHAKE_RECORD, TlsMachine

log = logger(__name__)

_encode_into = msgspec.msgpack.Encoder().encode_into
_REQUEST, _ANSWER, _ERROR = int(Kind.REQUEST), int(Kind.ANSWER), int(Kind.ERROR)
_ITEM, _DATA, _CANCEL, _HELLO = int(Kind.ITEM), int(Kind.DATA), int(Kind.CANCEL), int(Kind.HELLO)
_NO_HEADER = bytes(HEADER_BYTES)
_HELD_FREE_BYTES = 64 << 10
"""A connection with less than this unfinished is never closed for the sake of ``Limits.held_bytes``."""


class ServerConnection(PacedLink, Connection):
    """One accepted connection: handshake, then requests."""

    __slots__ = (
        "_backlog",
        "_busy",
        "_handshake",
        "_held",
        "_limits",
        "_on_close",
        "_on_lost",
        "_pending",
        "_running",
        "_splitter",
        "door",
        "peer",
        "principal",
        "release",
        "service",
        "since_ns",
        "slot",
        "token",
    )

    def __init__(
        self,
        reactor: Any,
        flusher: Flusher,
        service: Service,
        sock: socket.socket,
        *,
        door: str,
        peer: str,
        handshake: ServerHandshake,
        limits: Limits,
        map_files: bool,
        on_lost: Callable[[ServerConnection], None],
        tls: TlsMachine | None = None,
    ) -> None:
        PacedLink.__init__(self, reactor, flusher, sock, bounds=limits, shared=service, map_files=map_files, tls=tls)
        self._on_close: list[Callable[[], None]] = []
        self.service = service
        self.principal = ANONYMOUS
        self.door = door
        self.peer = peer
        self.slot = 0
        self.since_ns = time.time_ns()
        self.release = ""
        self.token = 0
        self._limits = limits
        self._on_lost = on_lost
        self._splitter = Splitter()
        self._handshake: ServerHandshake | None = handshake
        self._pending: dict[int, Call] = {}
        self._backlog: list[Frame] = []
        self._running: Call | None = None
        self._busy = False
        self._held = 0
        service.deadlines.add(self, time.monotonic() + limits.handshake_s)
        self.start_reading()

    # ---- what comes in ----

    def received(self, data: bytes) -> None:
        """Frames of one read: served in order, all answers leave together."""
        splitter = self._splitter
        if (
            self._handshake is not None
            and data[:1] == HANDSHAKE_RECORD
            and self.tls is None
            and not splitter.held_bytes
        ):
            self._refuse(ProtocolError("the peer speaks TLS, and this door does not"))
            return
        frames = splitter.feed(data)
        self.missing_bytes = splitter.missing_bytes
        if splitter.held_bytes or self._held:
            self._count_held(splitter.held_bytes)
        if self._backlog:
            self._backlog.extend(frames)
            return
        self._take(frames)

    def tls_failed(self, error: MonofsError, data: bytes) -> None:
        """Who speaks our protocol in clear is told in clear what this door wants."""
        if self.tls is not None and not self.tls.is_open and data[:1] == b"\0":
            self.tls = None
            self._refuse(
                Unauthenticated(
                    "this door speaks TLS only: name the authority of its certificate, with --tls-ca or MONOFS_TLS_CA"
                )
            )
            return
        metrics.RPC_REFUSED("tls").value += 1
        log.warning("connection refused", peer=self.peer, door=self.door, code=error.code, reason=str(error))
        super().tls_failed(error, data)

    def _take(self, frames: list[Frame]) -> None:
        """Serve frames until a bound is reached; the rest waits in the backlog, and reading stops."""
        if self.queued_bytes and self.is_full():
            self._backlog = frames
            self.stop_reading()
            return
        self._busy = True
        now = time.monotonic()
        limits, pending = self._limits, self._pending
        left: list[Frame] = []
        for index, frame in enumerate(frames, 1):
            if frame.kind == _REQUEST and self._handshake is None:
                self._on_request(frame, now)
            else:
                self._on_other(frame)
            if len(self.out) >= FLUSH_BYTES:
                self.flush()
                now = time.monotonic()
            if self.closed or self._closing:
                self._busy = False
                return
            if len(pending) >= limits.in_flight or (self.queued_bytes and self.is_full()):
                left = frames[index:]
                self.stop_reading()
                break
        self._busy = False
        self._backlog = left
        if not left and self._splitter.error is not None:
            self._refuse(self._splitter.error)

    def resume(self) -> None:
        """After an answer or a drained queue: take up what was left."""
        limits = self._limits
        if self._busy or self.closed or self._closing or self._reading:
            return
        if len(self._pending) >= limits.in_flight or self.is_full():
            return
        self.start_reading()
        backlog, self._backlog = self._backlog, []
        self._take(backlog)
        if self.out:
            self.soon()

    def told(self) -> ConnectionInfo:
        """What operators see of it; its name is empty until the handshake is done."""
        principal, credential = self.principal, "none"
        if self.token:
            credential = f"token {self.token}"
        elif principal is NODE or principal.by:
            credential = f"cluster secret, for {principal.name}" if principal.by else "cluster secret"
        name, rights = ("", "") if self._handshake is not None else (principal.name, format_rights(principal.rights))
        return ConnectionInfo(
            self.peer, self.door, name, credential, rights, self.since_ns, len(self._pending), self.release
        )

    def shed(self, total: int) -> None:
        """Close at once, so that what waits for this reader leaves memory; ``total`` bytes wait for all readers."""
        reason = "too many answers wait for slow readers, and this one holds much for long"
        log.warning(
            "connection closed", peer=self.peer, door=self.door, reason=reason, bytes=self._counted, total=total
        )
        metrics.RPC_REFUSED("slow_reader").value += 1
        self.abort(None)

    def _on_request(self, frame: Frame, now: float) -> None:
        _, _, method, request_id, deadline_ms, trace, body = frame
        longest = self._limits.longest_s
        allowed = deadline_ms / 1000 if deadline_ms else longest
        entry = self.service.entries.get(method)
        if entry is None:
            metrics.RPC_REQUESTS("unknown", str(UnknownMethod.code)).value += 1
            unknown = UnknownMethod(
                f"{self.service.role} at release {__version__} has no method {method}", method=method
            )
            self._write(_ERROR, method, request_id, trace, encode_error(unknown))
            return
        pending = self._pending
        if request_id in pending or request_id == 0:
            self._refuse(ProtocolError(f"request {request_id} is in flight already, or zero"))
            return
        call = Call(self, entry, request_id, trace, now, now + min(allowed, longest))
        self._running = call
        self.service.serve(call, body)
        self._running = None
        if not call.closed:
            call.pending = True
            pending[request_id] = call
            self.service.deadlines.add(call, call.deadline)

    def _on_other(self, frame: Frame) -> None:
        if self._handshake is not None:
            self._on_handshake(frame)
        elif frame.kind == _CANCEL:
            call = self._pending.get(frame.request)
            if call is not None:
                call.abandon()
        else:
            self._refuse(ProtocolError(f"a frame of kind {frame.kind} cannot come from a client"))

    def _on_handshake(self, frame: Frame) -> None:
        handshake = self._handshake
        assert handshake is not None  # noqa: S101 - the caller looked
        if frame.kind != _HELLO:
            self._refuse(ProtocolError("the first frame of a connection is HELLO"))
            return
        try:
            answers = handshake.receive(bytes(frame.body))
        except MonofsError as error:
            self._refuse(error)
            return
        for body in answers:
            self._write(_HELLO, 0, 0, 0, body)
        if handshake.principal is not None:
            self.principal, self.release = handshake.principal, handshake.release
            self._handshake = None
            self._splitter.limit = self._limits.request_bytes
            self.service.deadlines.discard(self)
            if handshake.token is not None:
                self.token = handshake.token.number
                self.service.tokens.admit(handshake.token, self)

    def _count_held(self, held: int) -> None:
        service = self.service
        service.held_bytes += held - self._held
        self._held = held
        if service.held_bytes > self._limits.held_bytes and held > _HELD_FREE_BYTES:
            self._refuse(Overloaded("too many unfinished requests; try again shortly"))

    def expire(self) -> None:
        """For the deadline wheel: the handshake took too long."""
        if self._handshake is not None and not self.closed:
            self._refuse(DeadlineExceeded(f"the handshake took longer than {self._limits.handshake_s:g} s"))

    def dismiss(self, error: MonofsError) -> None:
        """What let this connection in is not valid any more: say so, and close."""
        self._refuse(error)

    def _refuse(self, error: MonofsError) -> None:
        """Last frame of a connection that cannot go on."""
        if self.closed or self._closing:
            return
        metrics.RPC_REFUSED(type(error).__name__).value += 1
        log.warning("connection refused", peer=self.peer, door=self.door, code=error.code, reason=str(error))
        self._abandon_all()
        self._write(_ERROR, 0, 0, 0, encode_error(error))
        self.close()

    # ---- what goes out ----

    def _write(self, kind: int, method: int, request_id: int, trace: int, body: bytes) -> None:
        out = self.out
        out += pack_header(REST_BYTES + len(body), kind, 0, method, request_id, 0, trace)
        out += body
        if not self.dirty:
            self.soon()

    def send_answer(self, call: Call, message: Message) -> None:
        """ANSWER; with descriptors as a send of its own."""
        if call.descriptors is None:
            self._write_message(_ANSWER, call, message)
            return
        if len(call.descriptors) > DESCRIPTORS_MAX:
            raise Internal(f"at most {DESCRIPTORS_MAX} descriptors travel with one answer")
        body = msgspec.msgpack.encode(message)
        frame = pack(
            _ANSWER, call.entry.method, call.request_id, body, trace=call.trace, descriptors=len(call.descriptors)
        )
        self.send_descriptors(frame, call.descriptors)

    def _write_message(self, kind: int, call: Call, message: Message) -> None:
        out = self.out
        start = len(out)
        out += _NO_HEADER
        try:
            _encode_into(message, out, -1)
        except (TypeError, ValueError, OverflowError, RecursionError):
            del out[start:]
            raise
        length = len(out) - start - 4
        if length > self._limits.answer_bytes + REST_BYTES:
            del out[start:]
            raise FrameTooLarge(
                f"the answer of {call.entry.name} has {length - REST_BYTES} bytes; ask for less at a time",
                limit=self._limits.answer_bytes,
            )
        pack_header_into(out, start, length, kind, 0, call.entry.method, call.request_id, 0, call.trace)
        if not self.dirty:
            self.soon()

    def send_error(self, call: Call, error: MonofsError) -> None:
        """ERROR."""
        self._write(_ERROR, call.entry.method, call.request_id, call.trace, encode_error(error))

    def send_item(self, call: Call, message: Message) -> None:
        """ITEM."""
        self._check_queue()
        self._write_message(_ITEM, call, message)

    def send_data(self, call: Call, buffer: bytes | memoryview) -> None:
        """DATA frames around the buffer itself; little data leaves together with the frames before and after it."""
        self._check_queue()
        view = memoryview(buffer).cast("B")
        if len(view) <= JOIN_BYTES:
            self.out += self._data_header(call, len(view))
            self.out += view
            self.turn_bytes += len(view)
            if len(self.out) >= FLUSH_BYTES:
                self.flush()
            elif not self.dirty:
                self.soon()
            return
        for start in range(0, len(view), DATA_MAX_BYTES):
            piece = view[start : start + DATA_MAX_BYTES]
            self.send_buffers([self._data_header(call, len(piece)), piece])

    def send_last(self, call: Call, buffer: bytes | memoryview, message: Message) -> None:
        """One DATA frame and ANSWER in one send."""
        if not JOIN_BYTES < len(buffer) <= DATA_MAX_BYTES or call.descriptors is not None:
            super().send_last(call, buffer, message)
            return
        view = memoryview(buffer).cast("B")
        body = msgspec.msgpack.encode(message)
        if len(body) > JOIN_BYTES:
            super().send_last(call, view, message)
            return
        self._check_queue()
        answer = pack(_ANSWER, call.entry.method, call.request_id, body, trace=call.trace)
        self.send_buffers([self._data_header(call, len(view)), view, answer])

    def send_file(self, call: Call, fd: int, offset: int, length: int) -> None:
        """DATA frames around pieces of a file."""
        self._check_queue()
        for start in range(offset, offset + length, DATA_MAX_BYTES):
            size = min(DATA_MAX_BYTES, offset + length - start)
            if not self.closed:
                self.send_piece(self._data_header(call, size), fd, start, size)

    def _data_header(self, call: Call, size: int) -> bytes:
        return pack_header(REST_BYTES + size, _DATA, 0, call.entry.method, call.request_id, 0, call.trace)

    def _check_queue(self) -> None:
        if self.is_flooded():
            raise Overloaded("the reader is too slow for this stream")

    def ended(self, call: Call) -> None:
        """A pending call got its final frame or was given up."""
        self._pending.pop(call.request_id, None)
        self.service.deadlines.discard(call)
        if not self._reading:
            self.resume()

    # ---- the end ----

    def _abandon_all(self) -> None:
        if self._running is not None:
            self._running.abandon()
        for call in list(self._pending.values()):
            call.abandon()

    def lost(self, error: MonofsError | None) -> None:  # noqa: ARG002 - the same for every reason
        """The socket is gone: every call is given up, lenders are told."""
        self.service.deadlines.discard(self)
        self._count_held(0)
        self._backlog.clear()
        self._abandon_all()
        self._waiting.clear()
        self._on_lost(self)
        self.has_closed()
