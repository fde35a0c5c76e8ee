"""The channel inside one process: the same calls, checks, deadlines, principals and errors, without frames or copies.

Invariants: a handler cannot tell a direct call from a remote one but by ``call.door``; a Deferred never fires before ``call`` returned (as over a
socket), so a loop of calls cannot recurse; who can do with an answer at once asks for it plainly (``ask``). Messages are handed over as they are: they
are values, nobody changes one.

Not here: descriptors (files can be opened), back-pressure (a stream is consumed as it is made).
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Any, TypeVar

from twisted.internet.defer import Deferred, fail, succeed

from monofs.model.errors import (
    Closed,
    ConnectionLost,
    InvalidArgument,
    MonofsError,
    NotSupported,
    Overloaded,
    ProtocolError,
    UnknownMethod,
)
from monofs.model.principal import NODE, Principal
from monofs.observe.tracing import current_trace, new_trace
from monofs.rpc.api import Message, Method
from monofs.rpc.frames import DATA_MAX_BYTES
from monofs.rpc.service import Call, Connection, Limits, Service

_A = TypeVar("_A", bound=Message)
Receive = Callable[[Any], None]


class _Asked(Call):
    """One direct call, and who gets its answer and its stream."""

    __slots__ = ("answer_type", "deferred", "is_plain", "receive", "result")

    answer_type: type[Message]
    receive: Receive | None
    is_plain: bool
    deferred: Deferred[Any] | None
    """None: the asker looks at ``result`` when the handler returns."""
    result: Any

    def cancel(self, _deferred: Deferred[Any]) -> None:
        """For Deferred.cancel()."""
        self.abandon()


class DirectClient(Connection):
    """Calls to a service of the same process as ``principal``; a :class:`Connection` as its handlers see it."""

    def __init__(
        self,
        service: Service,
        principal: Principal = NODE,
        *,
        limits: Limits | None = None,
    ) -> None:
        self._on_close: list[Callable[[], None]] = []
        self.service = service
        self.principal = principal
        self.door = "direct"
        self.peer = "direct"
        self.closed = False
        self._limits = limits or Limits()
        self._asked: set[_Asked] = set()
        """Those whose handler has returned without an answer."""

    def call(
        self, method: Method, request: Message, answer_type: type[_A], timeout_s: float = 30.0, *, trace: int = 0
    ) -> Deferred[_A]:
        """As :meth:`Client.call`."""
        return self._later(method, request, answer_type, None, timeout_s, trace)

    def ask(
        self, method: Method, request: Message, answer_type: type[_A], timeout_s: float = 30.0, *, trace: int = 0
    ) -> _A | Deferred[_A]:
        """The answer itself, or the error raised, where the handler has it at once; else a Deferred, which fires as soon as the handler has it."""
        asked = self._open(method, request, answer_type, None, timeout_s, trace)
        answer = self.service.begin(asked, request)
        if isinstance(answer, answer_type):
            asked.count()
            return answer
        if answer is not None:
            asked.answer(answer)  # which says what is wrong with it
        if not asked.closed:
            self._await(asked)
        if not asked.closed:
            asked.deferred = Deferred(asked.cancel)
            return asked.deferred
        if isinstance(asked.result, MonofsError):
            raise asked.result
        said: _A = asked.result
        return said

    def stream(
        self,
        method: Method,
        request: Message,
        receive: Receive,
        answer_type: type[_A],
        timeout_s: float = 300.0,
        *,
        trace: int = 0,
    ) -> Deferred[_A]:
        """A stream: ``receive(item or bytes)`` for each element, then the final answer."""
        return self._later(method, request, answer_type, receive, timeout_s, trace)

    def close(self) -> Deferred[None]:
        """Give up what is in flight (ConnectionLost) and tell lenders; further calls fail with Closed."""
        if not self.closed:
            self.closed = True
            for asked in list(self._asked):
                asked.abandon()
                self._fire(asked, ConnectionLost("this channel was closed"))
            self.has_closed()
        return succeed(None)

    def _later(
        self,
        method: Method,
        request: Message,
        answer_type: type[Message],
        receive: Receive | None,
        timeout_s: float,
        trace: int,
    ) -> Deferred[Any]:
        try:
            asked = self._open(method, request, answer_type, receive, timeout_s, trace)
        except MonofsError as refused:
            return fail(refused)
        asked.is_plain = False
        deferred: Deferred[Any] = Deferred(asked.cancel)
        asked.deferred = deferred
        self.service.run(asked, request)
        if not asked.closed:
            self._await(asked)
        return deferred

    def _open(
        self,
        method: Method,
        request: Message,
        answer_type: type[Message],
        receive: Receive | None,
        timeout_s: float,
        trace: int,
    ) -> _Asked:
        """The call of a request. Raises what is refused before any handler sees it."""
        if self.closed:
            raise Closed("this channel is closed")
        if timeout_s <= 0:
            raise InvalidArgument(f"a timeout is above 0 seconds, not {timeout_s}")
        entry = self.service.entries.get(method)
        if entry is None:
            raise UnknownMethod(f"{self.service.role} has no method {int(method)}", method=int(method))
        if not isinstance(request, entry.request_type):
            raise InvalidArgument(f"not a {entry.name} request: {type(request).__name__}")
        limits = self._limits
        if len(self._asked) >= limits.in_flight:
            raise Overloaded(f"{len(self._asked)} calls are in flight already")
        now = time.monotonic()
        deadline = now + min(timeout_s, limits.longest_s)
        asked = _Asked(self, entry, 0, trace or current_trace() or new_trace(), now, deadline)
        asked.answer_type, asked.receive, asked.is_plain = answer_type, receive, True
        asked.deferred = asked.result = None
        return asked

    def _await(self, asked: _Asked) -> None:
        """Its handler has returned, and its answer is still to come."""
        if self.closed:
            asked.abandon()
            self._fire(asked, ConnectionLost("this channel was closed"))
            return
        asked.pending = True
        self._asked.add(asked)
        self.service.deadlines.add(asked, asked.deadline)

    def _fire(self, asked: _Asked, result: Any) -> None:
        """Give the asker his answer: in a later turn, unless he takes it at once; not if he cancelled meanwhile."""
        if asked.deferred is None:
            asked.result = result
        elif asked.is_plain:
            self._fire_now(asked.deferred, result)
        else:
            self.service.reactor.callLater(0, self._fire_now, asked.deferred, result)

    @staticmethod
    def _fire_now(deferred: Deferred[Any], result: Any) -> None:
        if deferred.called:
            return
        if isinstance(result, MonofsError):
            deferred.errback(result)
        else:
            deferred.callback(result)

    # ---- what calls say ----

    @property
    def writable(self) -> bool:
        """Always: elements are consumed as they are made."""
        return True

    def when_writable(self, call: Call) -> None:
        """In the next turn."""
        self.service.reactor.callLater(0, call.run_waiting)

    def send_answer(self, call: Any, message: Message) -> None:
        """Hand the answer over, if it is what was asked for."""
        if isinstance(message, call.answer_type):
            self._fire(call, message)
        else:
            self._fire(call, ProtocolError(f"the answer is not a {call.answer_type.__name__}"))

    def send_error(self, call: Any, error: MonofsError) -> None:
        """Hand the error over."""
        self._fire(call, error)

    def send_item(self, call: Call, message: Message) -> None:
        """One element."""
        self._receive(call, message)

    def send_data(self, call: Call, buffer: bytes | memoryview) -> None:
        """Bytes as they are."""
        self._receive(call, buffer)

    def send_file(self, call: Call, fd: int, offset: int, length: int) -> None:
        """Bytes of a file, read in pieces of at most 4 MiB."""
        while length:
            piece = os.pread(fd, min(length, DATA_MAX_BYTES), offset)
            if not piece:
                call.fail(ConnectionLost("a cached file is shorter than it was"))
                return
            self._receive(call, piece)
            offset, length = offset + len(piece), length - len(piece)

    def _receive(self, call: Any, element: Any) -> None:
        if call.receive is None:
            raise NotSupported(f"{call.entry.name} streams; ask for it with stream()")
        call.receive(element)

    def ended(self, call: Any) -> None:
        """The call got its final frame or was given up."""
        self._asked.discard(call)
        self.service.deadlines.discard(call)
