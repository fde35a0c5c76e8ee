"""The client of nodes: calls from a reactor over one connection that is made when needed and made again when it broke.

Invariants: every Deferred fires, at the latest a quarter of a second after its deadline, and never before ``call``
returned; what waits is bounded in number and bytes; a request is sent at most once (ConnectionLost leaves open whether it
was served; who may ask again knows so).

Not here: programs without a reactor (sync.py), services of the same process (direct.py), back-pressure of streams: who asks for one asks for as
much as it can hold.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import msgspec
from twisted.internet.defer import Deferred, fail, succeed

from monofs.model.errors import (
    Closed,
    ConnectionLost,
    DeadlineExceeded,
    FrameTooLarge,
    InvalidArgument,
    MonofsError,
    NotLeader,
    Overloaded,
    ProtocolError,
    Unauthenticated,
    Unreachable,
    VersionMismatch,
)
from monofs.observe.logs import logger
from monofs.observe.tracing import current_trace, new_trace
from monofs.rpc.addresses import parse_address, split_addresses
from monofs.rpc.api import Message, Method, WriteRequest
from monofs.rpc.deadlines import Deadlines
from monofs.rpc.dial import Dial
from monofs.rpc.frames import (
    ANSWER_MAX_BYTES,
    LONGEST_DEADLINE_MS,
    REQUEST_MAX_BYTES,
    REST_BYTES,
    Frame,
    Kind,
    Splitter,
    decode_error,
    pack,
    pack_header,
)
from monofs.rpc.handshake import ClientHandshake, Credential, Welcome
from monofs.rpc.link import Flusher, Link
from monofs.rpc.pacing import JOIN_BYTES
from monofs.rpc.tls import ClientTls, TlsMachine

log = logger(__name__)

WAITING_MAX = 1024
"""Calls one client may have unanswered or unsent; more get Overloaded."""
UNSENT_MAX_BYTES = 64 << 20
"""Bytes a client may have unsent; more get Overloaded."""
HANDSHAKE_S = 10.0
HANDSHAKE_AMONG_S = 2.0
"""Where another server may answer instead: one that was stopped still accepts connections."""
GRACE_S = 0.25
"""The server's own DeadlineExceeded may come this much late; without it the connection is suspect."""
BACKOFF_FIRST_S = 0.05
BACKOFF_MAX_S = 5.0
QUIET_S = 300.0
"""An address that breaks again and again is warned of once in so long."""

_A = TypeVar("_A", bound=Message)
_Buffers = Sequence[bytes | memoryview]
_encode = msgspec.msgpack.Encoder().encode
_HELLO, _REQUEST, _ANSWER, _ERROR = int(Kind.HELLO), int(Kind.REQUEST), int(Kind.ANSWER), int(Kind.ERROR)
_CANCEL, _DATA = int(Kind.CANCEL), int(Kind.DATA)


class _Waiter:
    """One call that has no answer yet. ``sent_at``: 0 while it is not sent."""

    __slots__ = (
        "answer_type",
        "buffers",
        "client",
        "deadline",
        "deferred",
        "method",
        "receive",
        "request_id",
        "sent_at",
        "size",
        "slot",
        "trace",
    )

    def __init__(
        self, client: Client, method: int, buffers: _Buffers, answer_type: type[Message], deadline: float, trace: int
    ) -> None:
        self.client = client
        self.method, self.buffers, self.answer_type = method, buffers, answer_type
        self.size = sum(map(len, buffers))
        """Of the body that waits to be sent."""
        self.deadline, self.trace = deadline, trace
        self.deferred: Deferred[Any] = Deferred(self.cancel)
        self.receive: Callable[[memoryview], None] | None = None
        self.request_id, self.sent_at, self.slot = 0, 0.0, 0

    def cancel(self, _deferred: Deferred[Any]) -> None:
        """For Deferred.cancel(): the server is told; Twisted fires CancelledError."""
        self.client.give_up(self)

    def expire(self) -> None:
        """For the deadline wheel."""
        self.client.has_expired(self)


class ClientConnection(Link):
    """A connected socket: handshake, then answers for its client."""

    __slots__ = ("_client", "_handshake", "_splitter", "_timer", "received_at")

    def __init__(self, client: Client, sock: Any, tls: TlsMachine | None) -> None:
        super().__init__(client.reactor, client.flusher, sock, map_files=False, low_bytes=0, tls=tls)
        self._client = client
        self._splitter = Splitter()
        self._handshake: ClientHandshake | None = ClientHandshake(client.credential)
        self.received_at = time.monotonic()
        self.out += pack(_HELLO, 0, 0, self._handshake.begin())
        self.soon()
        self.start_reading()
        limit_s = HANDSHAKE_AMONG_S if client.has_others else HANDSHAKE_S
        self._timer = self.reactor.callLater(
            limit_s, self.abort, Unreachable("the server did not finish the handshake in time")
        )
        self.begin_tls()

    @property
    def is_open(self) -> bool:
        """Whether the handshake is done."""
        return self._handshake is None

    def received(self, data: bytes) -> None:
        """Frames of one read."""
        self.received_at = time.monotonic()
        frames = self._splitter.feed(data)
        self.missing_bytes = self._splitter.missing_bytes
        for frame in frames:
            if self.closed:
                return
            try:
                self._take(frame)
            except MonofsError as error:
                self.abort(error)
        if self._splitter.error is not None:
            self.abort(self._splitter.error)

    def _take(self, frame: Frame) -> None:
        if frame.kind == _ERROR and frame.request == 0:
            raise decode_error(frame.body)
        if self._handshake is None:
            self._client.has_answered(frame)
            return
        if frame.kind != _HELLO:
            raise ProtocolError("the other side does not speak monofs")
        for body in self._handshake.receive(bytes(frame.body)):
            self.out += pack(_HELLO, 0, 0, body)
        if self._handshake.welcome is not None:
            welcome, self._handshake = self._handshake.welcome, None
            self._timer.cancel()
            self._splitter.limit = ANSWER_MAX_BYTES
            self._client.has_opened(welcome)

    def lost(self, error: MonofsError | None) -> None:
        """Tell the client why."""
        if self._timer.active():
            self._timer.cancel()
        self._client.has_lost(self, error or ConnectionLost("the server closed the connection"))


class Client:
    """Calls to one service, by its addresses (of masters: one leads; it follows NotLeader hints to the next call).

    ``on_open`` is called with the server's Welcome whenever a connection was made. ``draw`` gives random numbers in
    [0, 1) for the jitter of reconnecting (0.05 s to ``backoff_max_s``, doubling). ``patience_s``: once no server could be reached for so long,
    calls fail with ``Unreachable`` instead of waiting for their deadlines.
    """

    def __init__(
        self,
        reactor: Any,
        addresses: str | Sequence[str],
        credential: Credential | None = None,
        *,
        connect_timeout_s: float = 5.0,
        backoff_max_s: float = BACKOFF_MAX_S,
        patience_s: float = float("inf"),
        on_open: Callable[[Welcome], None] | None = None,
        draw: Callable[[], float] = random.random,
        tls: ClientTls | None = None,
    ) -> None:
        """``tls``: speak TLS over TCP, and nothing else. Raises ``InvalidArgument`` when its file cannot be used."""
        if tls is not None:
            tls.context()
        self._tls = tls
        self.reactor = reactor
        self.addresses = split_addresses(addresses)
        self.credential = credential or Credential()
        self.flusher = Flusher(reactor)
        self.welcome: Welcome | None = None
        """What the server of the present connection said; None while there is none."""
        self._deadlines = Deadlines(reactor)
        self._connect_s = connect_timeout_s
        self._backoff_max_s, self._patience_s = backoff_max_s, patience_s
        self._failing_since_s: float | None = None
        self._on_open = on_open
        self._draw = draw
        self._address = self.addresses[0]
        self._connection: ClientConnection | None = None
        self._dial: Dial | None = None
        self._leader: str | None = None
        self._retry: Any = None
        self._pause_s = BACKOFF_FIRST_S
        self._waiting: dict[int, _Waiter] = {}
        self._unsent_bytes = 0
        self._last_id = 0
        self._last_error: MonofsError | None = None
        self._warned: dict[str, float] = {}
        """When an address was warned of, for ``QUIET_S``."""
        self._closed = False

    # ---- for callers ----

    def call(
        self, method: Method, request: Message, answer_type: type[_A], timeout_s: float = 30.0, *, trace: int = 0
    ) -> Deferred[_A]:
        """The answer, or a failure with the server's typed error.

        Also: DeadlineExceeded after ``timeout_s`` (while no server could be reached, its message says why), ConnectionLost
        for what was sent on a connection that broke, Overloaded over 1,024 calls or 64 MiB waiting, Closed. Cancelling
        the Deferred tells the server. ``trace``: the request id; by default that of the request this is done for, else a new one.
        """
        return self._ask(method, request, answer_type, timeout_s, trace, None)

    def stream(
        self,
        method: Method,
        request: Message,
        receive: Callable[[memoryview], None],
        answer_type: type[_A],
        timeout_s: float = 300.0,
        *,
        trace: int = 0,
    ) -> Deferred[_A]:
        """As :meth:`call`, of what streams bytes: ``receive`` is called with each piece, in order, before the Deferred fires."""
        return self._ask(method, request, answer_type, timeout_s, trace, receive)

    def _ask(
        self,
        method: Method,
        request: Message,
        answer_type: type[_A],
        timeout_s: float,
        trace: int,
        receive: Callable[[memoryview], None] | None,
    ) -> Deferred[_A]:
        if self._closed:
            return fail(Closed("this client is closed"))
        buffers: _Buffers = request.buffers() if isinstance(request, WriteRequest) else (_encode(request),)
        size = sum(map(len, buffers))
        if size > REQUEST_MAX_BYTES:
            return fail(FrameTooLarge(f"a request has at most {REQUEST_MAX_BYTES} bytes, this one {size}"))
        if len(self._waiting) >= WAITING_MAX or self._unsent() + size > UNSENT_MAX_BYTES:
            return fail(Overloaded(f"{len(self._waiting)} calls wait for {self._address} already"))
        if timeout_s <= 0:
            return fail(InvalidArgument(f"a timeout is above 0 seconds, not {timeout_s}"))
        deadline = time.monotonic() + timeout_s
        trace = trace or current_trace() or new_trace()
        waiter = _Waiter(self, int(method), buffers, answer_type, deadline, trace)
        waiter.receive = receive
        self._last_id = (self._last_id % 0xFFFFFFFF) + 1
        waiter.request_id = self._last_id
        self._waiting[waiter.request_id] = waiter
        self._unsent_bytes += size
        if self._connection is not None and self._connection.is_open:
            self._send(waiter)
            self._deadlines.add(waiter, deadline + GRACE_S)
        else:
            self._deadlines.add(waiter, deadline)
            self._connect_soon()
        return waiter.deferred

    def flush(self) -> None:
        """Send what was called for now, not at the end of this turn of the reactor."""
        if self._connection is not None:
            self._connection.flush()

    @property
    def has_others(self) -> bool:
        """Whether there are servers beside the one it speaks to now."""
        return self.addresses != (self._address,)

    def close(self) -> Deferred[None]:
        """Fail what waits with Closed and let the connection go."""
        self._closed = True
        if self._retry is not None:
            self._retry.cancel()
            self._retry = None
        if self._dial is not None:
            self._dial.give_up()
            self._dial = None
        if self._connection is not None:
            self._connection.abort(None)
        self._fail_all(list(self._waiting.values()), Closed("this client is closed"))
        return succeed(None)

    # ---- requests ----

    def _unsent(self) -> int:
        queued = 0 if self._connection is None else self._connection.queued_bytes + len(self._connection.out)
        return self._unsent_bytes + queued

    def _send(self, waiter: _Waiter) -> None:
        connection = self._connection
        assert connection is not None  # noqa: S101 - callers looked
        now = time.monotonic()
        allowed = min(max(1, int((waiter.deadline - now) * 1000)), LONGEST_DEADLINE_MS)
        size, buffers = waiter.size, waiter.buffers
        self._unsent_bytes -= size
        waiter.size, waiter.buffers, waiter.sent_at = 0, (), now
        head = pack_header(REST_BYTES + size, _REQUEST, 0, waiter.method, waiter.request_id, allowed, waiter.trace)
        if size <= JOIN_BYTES:
            connection.out += b"".join((head, *buffers))
            connection.soon()
        else:
            connection.queue_buffers((head, *buffers))

    def has_answered(self, frame: Frame) -> None:
        """A frame came. Raises ProtocolError when it makes no sense."""
        waiter = self._waiting.get(frame.request)
        if waiter is None:
            return  # cancelled or expired meanwhile
        if frame.kind == _ANSWER and not frame.descriptors:
            try:
                answer = msgspec.msgpack.decode(frame.body, type=waiter.answer_type)
            except (ValueError, RecursionError) as error:
                self._forget(waiter)
                waiter.deferred.errback(ProtocolError(f"the answer is not a {waiter.answer_type.__name__}: {error}"))
                return
            self._forget(waiter)
            waiter.deferred.callback(answer)
        elif frame.kind == _ERROR:
            self._forget(waiter)
            failure = decode_error(frame.body)
            if isinstance(failure, NotLeader):
                self._follow(failure)
            waiter.deferred.errback(failure)
        elif frame.kind == _DATA and waiter.receive is not None:
            waiter.receive(memoryview(bytes(frame.body)))
        else:
            raise ProtocolError(f"a frame of kind {frame.kind} came in answer to a plain call")

    def give_up(self, waiter: _Waiter) -> None:
        """The caller does not want the answer any more."""
        if self._waiting.get(waiter.request_id) is waiter:
            self._forget(waiter)
            if waiter.sent_at and self._connection is not None:
                self._connection.out += pack(_CANCEL, waiter.method, waiter.request_id)
                self._connection.soon()

    def has_expired(self, waiter: _Waiter) -> None:
        """The deadline passed without an answer; a connection that said nothing since the request is given up."""
        self.give_up(waiter)
        connection = self._connection
        why = "" if self._last_error is None or connection is not None else f": {self._last_error}"
        waiter.deferred.errback(DeadlineExceeded(f"no answer from {self._address} within the time allowed{why}"))
        if waiter.sent_at and connection is not None and connection.received_at < waiter.sent_at:
            connection.abort(ConnectionLost(f"{self._address} says nothing any more"))

    def _forget(self, waiter: _Waiter) -> None:
        del self._waiting[waiter.request_id]
        self._deadlines.discard(waiter)
        self._unsent_bytes -= waiter.size

    def _fail_all(self, waiters: list[_Waiter], error: MonofsError) -> None:
        for waiter in waiters:
            if self._waiting.get(waiter.request_id) is waiter:
                self._forget(waiter)
                waiter.deferred.errback(type(error)(error.message, **error.detail))

    # ---- the connection ----

    def _connect_soon(self) -> None:
        if self._connection is None and self._dial is None and self._retry is None and not self._closed:
            self._retry = self.reactor.callLater(0, self._connect)

    def _connect(self) -> None:
        self._retry = None
        self._dial = Dial(self.reactor, self._address, self._connect_s, self._has_dialled, self._has_failed)
        self._dial.start()

    def _has_dialled(self, sock: Any) -> None:
        self._dial = None
        where = parse_address(self._address)
        tls = None if self._tls is None or isinstance(where, str) else self._tls.machine(where[0])
        self._connection = ClientConnection(self, sock, tls)

    def has_opened(self, welcome: Welcome) -> None:
        """The handshake is done: send what waited."""
        self.welcome = welcome
        self._pause_s = BACKOFF_FIRST_S
        self._last_error = self._failing_since_s = None
        if self._on_open is not None:
            self._on_open(welcome)
        for waiter in list(self._waiting.values()):
            if not waiter.sent_at:
                self._send(waiter)
                self._deadlines.discard(waiter)
                self._deadlines.add(waiter, waiter.deadline + GRACE_S)

    def has_lost(self, connection: ClientConnection, error: MonofsError) -> None:
        """The connection is gone: what was sent on it fails, what was not is sent on the next."""
        self._connection, self.welcome = None, None
        if connection.is_open:
            failed = [waiter for waiter in self._waiting.values() if waiter.sent_at]
            told: MonofsError = error if isinstance(error, ConnectionLost) else ConnectionLost(str(error))
        elif isinstance(error, (Unauthenticated, VersionMismatch)):
            failed, told = list(self._waiting.values()), error  # waiting would not help
        else:
            failed, told = [], error
        # the pause first: who is told may call again at once, and must find it
        self._has_failed(error)
        self._fail_all(failed, told)

    def _has_failed(self, error: MonofsError) -> None:
        """No connection: try the leader, or the next address after a pause, as long as someone waits."""
        self._dial = None
        if self._closed:
            return
        pause = 0.0
        if self._leader is not None:
            self._address, self._leader = self._leader, None
        else:
            # told once for an outage, not at every try
            tell = log.debug if self._last_error is not None or self._was_warned(self._address) else log.warning
            tell("not connected", address=self._address, reason=str(error))
            self._last_error = error
            self._address = self._after(self._address)
            pause = self._pause_s * (0.5 + self._draw() / 2)
            self._pause_s = min(self._pause_s * 2, self._backoff_max_s)
        self._retry = self.reactor.callLater(pause, self._retry_or_rest)
        now_s = time.monotonic()
        if self._failing_since_s is None:
            self._failing_since_s = now_s
        elif now_s - self._failing_since_s >= self._patience_s:
            self._fail_all([waiter for waiter in self._waiting.values() if not waiter.sent_at], Unreachable(str(error)))

    def _was_warned(self, address: str) -> bool:
        """Whether it was lately; else it is now."""
        now = time.monotonic()
        self._warned = {each: at for each, at in self._warned.items() if now - at < QUIET_S}
        return self._warned.setdefault(address, now) != now

    def _retry_or_rest(self) -> None:
        self._retry = None
        if self._waiting:
            self._connect()

    def _after(self, address: str) -> str:
        if address not in self.addresses:
            return self.addresses[0]
        return self.addresses[(self.addresses.index(address) + 1) % len(self.addresses)]

    def _follow(self, error: NotLeader) -> None:
        """Go to the leader: what else is in flight here would be refused as well, and fails with ConnectionLost."""
        hint = error.detail.get("leader")
        leader = self._after(self._address)
        if isinstance(hint, str):
            try:
                parse_address(hint)
                leader = hint
            except InvalidArgument:
                pass  # a hint that is no address is no hint
        if leader != self._address and self._connection is not None and self._leader is None:
            self._leader = leader
            self.reactor.callLater(0, self._connection.abort, None)
