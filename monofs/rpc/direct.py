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


class _Asked:
    """One direct call: who gets its answer and its stream."""

    __slots__ = ("answer_type", "call", "deferred", "is_plain", "receive", "result")

    def __init__(self, answer_type: type[Message], receive: Receive | None = None, *, is_plain: bool = False) -> None:
        self.answer_type = answer_type
        self.receive = receive
        self.call: Call | None = None
        self.is_plain = is_plain
        self.deferred: Deferred[Any] | None = None if is_plain else Deferred(self.cancel)
        """None: the asker looks at ``result`` when the handler returns."""
        self.result: Any = None

    def cancel(self, _deferred: Deferred[Any]) -> None:
        """For Deferred.cancel()."""
        if self.call is not None:
            self.call.abandon()


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
        self._asked: dict[int, _Asked] = {}
        self._last_id = 0

    def call(
        self, method: Method, request: Message, answer_type: type[_A], timeout_s: float = 30.0, *, trace: int = 0
    ) -> Deferred[_A]:
        """As :meth:`Client.call`."""
        return self._later(method, request, _Asked(answer_type), timeout_s, trace)

    def ask(
        self, method: Method, request: Message, answer_type: type[_A], timeout_s: float = 30.0, *, trace: int = 0
    ) -> _A | Deferred[_A]:
        """The answer itself, or the error raised, where the handler has it at once; else a Deferred, which fires as soon as the handler has it."""
        asked = _Asked(answer_type, is_plain=True)
        call = self._open(method, request, asked, timeout_s, trace)
        answer = self.service.begin(call, request)
        if isinstance(answer, answer_type):
            call.count()
            return answer
        if answer is not None:
            call.answer(answer)  # which says what is wrong with it
        self._await(call)
        if asked.result is None:
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
        return self._later(method, request, _Asked(answer_type, receive), timeout_s, trace)

    def close(self) -> Deferred[None]:
        """Give up what is in flight (ConnectionLost) and tell lenders; further calls fail with Closed."""
        if not self.closed:
            self.closed = True
            asked, self._asked = self._asked, {}
            for one in asked.values():
                if one.call is not None:
                    one.call.abandon()
                self._fire(one, ConnectionLost("this channel was closed"))
            self.has_closed()
        return succeed(None)

    def _later(self, method: Method, request: Message, asked: _Asked, timeout_s: float, trace: int) -> Deferred[Any]:
        try:
            call = self._open(method, request, asked, timeout_s, trace)
        except MonofsError as refused:
            return fail(refused)
        self.service.run(call, request)
        self._await(call)
        assert asked.deferred is not None  # noqa: S101 - it is not plain
        return asked.deferred

    def _open(self, method: Method, request: Message, asked: _Asked, timeout_s: float, trace: int) -> Call:
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
        if len(self._asked) >= self._limits.in_flight:
            raise Overloaded(f"{len(self._asked)} calls are in flight already")
        self._last_id += 1
        now = time.monotonic()
        deadline = now + min(timeout_s, self._limits.longest_s)
        call = asked.call = Call(self, entry, self._last_id, trace or current_trace() or new_trace(), now, deadline)
        call.pending = True
        self._asked[call.request_id] = asked
        return call

    def _await(self, call: Call) -> None:
        """Its handler has returned."""
        if not call.closed:
            self.service.deadlines.add(call, call.deadline)

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

    def send_answer(self, call: Call, message: Message) -> None:
        """Hand the answer over, if it is what was asked for."""
        asked = self._asked.get(call.request_id)
        if asked is not None:
            if isinstance(message, asked.answer_type):
                self._fire(asked, message)
            else:
                self._fire(asked, ProtocolError(f"the answer is not a {asked.answer_type.__name__}"))

    def send_error(self, call: Call, error: MonofsError) -> None:
        """Hand the error over."""
        asked = self._asked.get(call.request_id)
        if asked is not None:
            self._fire(asked, error)

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

    def _receive(self, call: Call, element: Any) -> None:
        asked = self._asked.get(call.request_id)
        if asked is None:
            return
        if asked.receive is None:
            raise NotSupported(f"{call.entry.name} streams; ask for it with stream()")
        asked.receive(element)

    def ended(self, call: Call) -> None:
        """The call got its final frame or was given up."""
        self._asked.pop(call.request_id, None)
        self.service.deadlines.discard(call)
