"""What a node answers: methods, the call a handler sees, and what happens to its result.

A handler is a plain function ``handler(request, call)`` on the reactor thread. It returns the answer (the fast path: no
Deferred), a Deferred or coroutine of it, or None when it will say ``call.answer`` or ``call.fail`` itself, later or already.
Invariants: every call gets exactly one final frame, or none when its asker is gone; after it everything else said through
the call is dropped; an expected failure travels as its code, any other exception as Internal with the request id while
its traceback goes to the log only; every unusual failure leaves one line in the log with its request id; InvariantBroken stops
the node through ``on_fatal``.

Not here: sockets (server.py), the channel inside one process (direct.py); both are a :class:`Connection`.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any, TypeVar

import msgspec
from twisted.internet.defer import Deferred
from twisted.python.failure import Failure as TwistedFailure

from monofs.model.errors import (
    DeadlineExceeded,
    Internal,
    InvalidArgument,
    InvariantBroken,
    MonofsError,
    NotSupported,
    invariant,
    is_unusual,
)
from monofs.model.principal import Principal, Right, check_right
from monofs.observe import metrics
from monofs.observe.logs import logger
from monofs.observe.tracing import TRACE, new_trace, show_trace, stamp
from monofs.rpc.api import Failure, Message, Method
from monofs.rpc.deadlines import Deadlines
from monofs.rpc.frames import ANSWER_MAX_BYTES, REQUEST_MAX_BYTES
from monofs.rpc.tokens import Tokens

log = logger(__name__)

Result = Message | Deferred[Any] | Coroutine[Any, Any, Any] | None
Handler = Callable[[Any, "Call"], Result]
_R = TypeVar("_R", bound=Message)
LATE_S = 0.25
"""An asker that gives up so shortly before the deadline ran out of time, whatever it says."""
_UNREADABLE = (ValueError, RecursionError)
"""What msgspec raises for bytes that are not the message: DecodeError, ValidationError, UnicodeDecodeError; deep nesting."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Bounds of one door, with what happens at each."""

    connections: int = 20_000
    """More get an Overloaded frame and are closed at once."""
    handshake_s: float = 10.0
    """A connection that has not said who it is by then is closed."""
    in_flight: int = 1024
    """Requests a connection may have unanswered; at the bound its bytes are not read any more until one is answered."""
    request_bytes: int = REQUEST_MAX_BYTES
    """A longer request closes the connection with FrameTooLarge."""
    answer_bytes: int = ANSWER_MAX_BYTES
    """A longer answer becomes a FrameTooLarge error of its request."""
    queued_bytes: int = 8 << 20
    """Bytes waiting for a slow reader before its further requests wait. Streams pause (``call.writable`` turns False) at a
    quarter, and a DATA frame is at most half of it: so streams alone never keep requests and cancellations waiting."""
    queued_total_bytes: int = 256 << 20
    """The same in memory, over all connections of the service: above, a connection with any such bytes is not read from and its
    streams pause until they have left; above twice as much, the one that holds most for longest is closed."""
    held_bytes: int = 256 << 20
    """Bytes of unfinished requests over all connections of the service; the one that goes over it is closed."""
    longest_s: float = 3600.0
    """Deadline of a request that names none, and the longest one may name."""


@dataclass(slots=True, eq=False)
class Entry:
    """One registered method with what its calls need at hand."""

    method: int
    name: str
    request_type: type[Message]
    right: Right | None
    """What the asker needs; None: the handler finds out."""
    needs: int
    """The same as a number: comparing flags costs more than a small answer."""
    handler: Handler
    decode: Callable[[bytes | memoryview], Any]
    answered: metrics.Child
    timer: metrics.Timer


class Connection(ABC):
    """Where calls come from. Hashable: handlers key what they lend out (descriptor leases) by it."""

    __slots__ = ()
    _on_close: list[Callable[[], None]]
    """Subclasses begin with an empty list."""
    principal: Principal
    service: Service
    door: str
    """`tcp`, `unix` or `direct`."""
    peer: str
    """Address of the other side, for logs and audit."""
    closed: bool

    def on_close(self, callback: Callable[[], None]) -> None:
        """Call back once when this connection is gone; at once when it is gone already."""
        if self.closed:
            callback()
        else:
            self._on_close.append(callback)

    def has_closed(self) -> None:
        """For subclasses: tell everyone who asked, whatever one of them does."""
        callbacks = list(self._on_close)
        self._on_close.clear()
        for callback in callbacks:
            try:
                callback()
            except Exception as error:  # noqa: BLE001 - one lender's bug must not keep the others' leases
                log.error("a close callback failed", exception=error, peer=self.peer)

    @property
    @abstractmethod
    def writable(self) -> bool:
        """Whether streams may send more now."""

    @abstractmethod
    def when_writable(self, call: Call) -> None:
        """Call ``call.run_waiting()`` once writable."""

    @abstractmethod
    def send_answer(self, call: Call, message: Message) -> None:
        """Final frame; raises MonofsError when the message cannot be sent."""

    @abstractmethod
    def send_error(self, call: Call, error: MonofsError) -> None:
        """Final frame."""

    @abstractmethod
    def send_item(self, call: Call, message: Message) -> None:
        """One element of a stream."""

    @abstractmethod
    def send_data(self, call: Call, buffer: bytes | memoryview) -> None:
        """Bytes of a stream."""

    @abstractmethod
    def send_file(self, call: Call, fd: int, offset: int, length: int) -> None:
        """Bytes of a stream from a file."""

    def send_last(self, call: Call, buffer: bytes | memoryview, message: Message) -> None:
        """The last bytes of a stream and its final frame; raises as :meth:`send_answer`."""
        self.send_data(call, buffer)
        self.send_answer(call, message)

    @abstractmethod
    def ended(self, call: Call) -> None:
        """The call needs no room here any more."""


class Call:
    """One request as its handler sees it. Reactor thread only."""

    __slots__ = (
        "_on_end",
        "_waiting",
        "closed",
        "connection",
        "deadline",
        "descriptors",
        "door",
        "entry",
        "pending",
        "request_id",
        "slot",
        "started",
        "trace",
        "waits_for",
    )

    def __init__(
        self, connection: Connection, entry: Entry, request_id: int, trace: int, started: float, deadline: float
    ) -> None:
        self.connection = connection
        self.door = connection.door
        """`tcp`, `unix` or `direct`."""
        self.entry = entry
        self.request_id = request_id
        self.trace = trace
        self.started = started
        self.deadline = deadline
        """time.monotonic seconds; then the asker gets DeadlineExceeded and everything later is dropped."""
        self.closed = False
        """The final frame is out, or the asker is gone: nothing said through this call arrives any more."""
        self.pending = False
        self.slot = 0
        self.descriptors: list[int] | None = None
        self.waits_for = ""
        """What a handler that may wait long waits for, in words that go on after "waiting for": told when the deadline passes."""
        self._waiting: Callable[[], None] | None = None
        self._on_end: Callable[[], None] | None = None

    @property
    def principal(self) -> Principal:
        """Who asks."""
        return self.connection.principal

    @property
    def peer(self) -> str:
        """Where from, for logs and audit."""
        return self.connection.peer

    @property
    def writable(self) -> bool:
        """False while the reader is slow: a stream waits with :meth:`when_writable` before it sends more."""
        return self.connection.writable

    def when_writable(self, callback: Callable[[], None]) -> None:
        """Call back once, when the connection takes more or the call is closed (look at :attr:`closed`).

        One callback a call at a time; never called before this method returns.
        """
        invariant(self._waiting is None, "a call waits for its connection at most once")
        self._waiting = callback
        self.connection.when_writable(self)

    def run_waiting(self) -> None:
        """For connections: run the callback given to :meth:`when_writable`, if there still is one."""
        callback, self._waiting = self._waiting, None
        if callback is not None:
            try:
                callback()
            except Exception as error:  # noqa: BLE001 - a handler's bug ends its call, not the connection
                self.crash(error)

    def on_end(self, callback: Callable[[], None]) -> None:
        """Call back if the call ends early: cancelled, past its deadline, or its connection lost. One callback a call."""
        self._on_end = callback

    def answer(self, message: Message) -> None:
        """The final frame: success."""
        if self.closed:
            return
        try:
            self.connection.send_answer(self, message)
        except Exception as error:  # noqa: BLE001 - too large, or not encodable: the asker must hear of it
            self.crash(error)
            return
        self.count()

    def finish(self, buffer: bytes | memoryview, message: Message) -> None:
        """:meth:`data` and :meth:`answer`, in one system call where they can leave together."""
        if self.closed:
            return
        try:
            self.connection.send_last(self, buffer, message)
        except Exception as error:  # noqa: BLE001 - as in `answer`
            self.crash(error)
            return
        self.count()

    def count(self) -> None:
        """The asker has its answer."""
        self.entry.answered.value += 1
        self._end()

    def fail(self, error: MonofsError) -> None:
        """The final frame: a failure."""
        if self.closed:
            return
        self.connection.send_error(self, error)
        metrics.RPC_REQUESTS(self.entry.name, str(error.code)).value += 1
        if is_unusual(error.code):
            log.warning("request failed", **self._account(error))
        self._end()

    def part_failed(self, error: MonofsError) -> Failure:
        """The failure of one part of a batch, for the answer: logged and marked as a whole request's would be."""
        if not is_unusual(error.code):
            return Failure(error.code, error.message, error.detail)
        log.warning("part of a request failed", **self._account(error))
        return Failure(error.code, error.message, {**error.detail, "trace": show_trace(self.trace)})

    def _account(self, error: MonofsError) -> dict[str, Any]:
        """A failure as its log line tells it; what the store said of it (a 6xxx error) travels in the error's detail."""
        account: dict[str, Any] = {
            "trace": show_trace(self.trace),
            "method": self.entry.name,
            "code": error.code,
            "error": error.message,
            "peer": self.peer,
            "principal": self.principal.name,
            "seconds": round(time.monotonic() - self.started, 4),
        }
        detail = error.detail
        told = {"mount": detail.get("mount"), "path": detail.get("path"), "store_code": detail.get("store_code")}
        told["store_request"] = detail.get("request_id")
        return account | {name: value for name, value in told.items() if value is not None}

    def item(self, message: Message) -> None:
        """One ITEM of a stream. Raises FrameTooLarge; Overloaded when streamed without regard to :attr:`writable`."""
        if not self.closed:
            self.connection.send_item(self, message)

    def data(self, buffer: bytes | memoryview) -> None:
        """Bytes of a stream, as DATA frames of at most 4 MiB.

        The buffer is not copied: do not change it any more. Raises Overloaded as :meth:`item`.
        """
        if not self.closed:
            self.connection.send_data(self, buffer)

    def send_file(self, fd: int, offset: int, length: int) -> None:
        """Bytes ``[offset, offset + length)`` of a file as DATA frames, copied by the kernel.

        The bytes must be resident (the reactor never waits for a disk) and may never change. The descriptor stays the
        caller's and may be closed at once: what has to wait is sent from a duplicate. A file shorter than promised, or a
        page that is lost, closes the connection. Raises Overloaded as :meth:`item`.
        """
        if not self.closed:
            self.connection.send_file(self, fd, offset, length)

    def attach(self, fd: int) -> None:
        """Send a descriptor along with the answer; call before :meth:`answer`, at most 16 times.

        The descriptor stays the caller's and may be closed once the answer is given: what has to wait is sent from a
        duplicate. Raises NotSupported on doors other than `unix`.
        """
        if self.connection.door != "unix":
            raise NotSupported("descriptors can only be passed over a Unix socket")
        if self.descriptors is None:
            self.descriptors = []
        self.descriptors.append(fd)

    def expire(self) -> None:
        """For the deadline wheel."""
        if not self.closed:
            allowed_s = round(self.deadline - self.started, 1)
            waiting = f"waiting for {self.waits_for}" if self.waits_for else "the server was busy with it"
            self.fail(DeadlineExceeded(f"the {allowed_s:g} s allowed for this request ran out while {waiting}"))
            self._end_early()

    def abandon(self) -> None:
        """For connections: the asker cancelled or is gone; nothing is sent any more."""
        if not self.closed:
            metrics.RPC_REQUESTS(self.entry.name, "abandoned").value += 1
            if time.monotonic() > self.deadline - LATE_S:
                what = f" for {self.waits_for}" if self.waits_for else ""
                log.warning("request failed", **self._account(DeadlineExceeded(f"its asker gave up waiting{what}")))
            self._end()
            self._end_early()

    def crash(self, error: BaseException) -> None:
        """A handler ended with an exception: MonofsError is its answer, anything else a bug."""
        if isinstance(error, MonofsError):
            self.fail(error)
        else:
            self.connection.service.crashed(self, error)

    def _end(self) -> None:
        self.closed = True
        self.descriptors = None
        self.entry.timer.observe(time.monotonic() - self.started)
        if self.pending:
            self.pending = False
            self.connection.ended(self)

    def _end_early(self) -> None:
        callback, self._on_end = self._on_end, None
        if callback is not None:
            try:
                callback()
            except Exception as error:  # noqa: BLE001 - a handler's bug must not keep other calls from ending
                log.error("an end callback failed", exception=error, method=self.entry.name)
        self.run_waiting()


class Service:
    """The methods of one role, shared by all its doors.

    ``cluster`` tells the cluster id for handshakes (empty while there is none). ``on_fatal`` is called when an invariant
    broke; without it the reactor is stopped. ``connections``, ``held_bytes`` and ``queued_bytes`` are what the doors have in use,
    ``slow`` the connections with queued bytes.
    """

    def __init__(
        self,
        role: str,
        reactor: Any,
        *,
        cluster: Callable[[], bytes] = bytes,
        on_fatal: Callable[[BaseException], None] | None = None,
    ) -> None:
        self.role = role
        self.reactor = reactor
        self.cluster = cluster
        self.on_fatal = on_fatal
        self.deadlines = Deadlines(reactor)
        self.tokens = Tokens(reactor)
        """Those honoured at all doors of this service."""
        self.entries: dict[int, Entry] = {}
        self.connections = 0
        self.open: set[Any] = set()
        """The connections themselves."""
        self.held_bytes = 0
        self.queued_bytes = 0
        self.slow: set[Any] = set()

    def register(
        self,
        method: Method,
        request_type: type[_R],
        handler: Callable[[_R, Call], Result],
        *,
        right: Right | None = None,
    ) -> None:
        """Serve ``method``; each at most once. ``right``: who has it not gets ``PermissionDenied``; None: the handler decides."""
        invariant(int(method) not in self.entries, f"{method.name} is registered once")
        self.entries[int(method)] = Entry(
            int(method),
            method.name,
            request_type,
            right,
            0 if right is None else right.value,
            handler,
            msgspec.msgpack.Decoder(request_type).decode,
            metrics.RPC_REQUESTS(method.name, "ok"),
            metrics.RPC_TIME(method.name),
        )

    def serve(self, call: Call, body: bytes | memoryview) -> None:
        """Decode a request and run its handler."""
        try:
            request = call.entry.decode(body)
        except _UNREADABLE as error:
            call.fail(InvalidArgument(f"not a {call.entry.name} request: {error}"))
            return
        self.run(call, request)

    def run(self, call: Call, request: Message) -> None:
        """Run the handler of a call with its request."""
        answer = self.begin(call, request)
        if answer is not None:
            call.answer(answer)

    def begin(self, call: Call, request: Message) -> Message | None:
        """The same; but an answer that the handler has at once is given back, for ``call`` to say or to count."""
        token = TRACE.set(call.trace)
        entry = call.entry
        try:
            if entry.right is not None and not int(call.connection.principal.rights) & entry.needs:
                check_right(call.connection.principal, entry.right)
            result = entry.handler(request, call)
            if result is None or isinstance(result, Message):
                return result
            self._await(call, result)
        except MonofsError as error:
            call.fail(error)
        except Exception as error:  # noqa: BLE001 - the border of every handler: logged, told as Internal
            self.crashed(call, error)
        finally:
            TRACE.reset(token)
        return None

    def _await(self, call: Call, result: Any) -> None:
        deferred = result if isinstance(result, Deferred) else Deferred.fromCoroutine(result)

        def failed(failure: TwistedFailure) -> None:
            call.crash(failure.value if failure.value is not None else Internal())

        def finished(message: Message | None) -> None:
            if message is not None:
                call.answer(message)

        # errors of sending the answer end in failed() too, so that no call is left without a final frame
        deferred.addCallback(finished)
        deferred.addErrback(failed)

    def crashed(self, call: Call, error: BaseException) -> None:
        """Log a handler's bug, tell the asker no more than the request id, stop the node if an invariant broke."""
        call.trace = call.trace or new_trace()
        log.error(
            "a handler failed", exception=error, method=call.entry.name, trace=show_trace(call.trace), peer=call.peer
        )
        call.fail(stamp(Internal(f"{call.entry.name} failed inside the server"), call.trace))
        if isinstance(error, InvariantBroken):
            self.fatal(error)

    def fatal(self, error: BaseException) -> None:
        """Stop the node."""
        if self.on_fatal is not None:
            self.on_fatal(error)
        else:
            log.error("an invariant broke: stopping", exception=error)
            self.reactor.stop()
