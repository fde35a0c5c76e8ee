"""One request and its answer, as a handler sees them. Reactor thread only.

Invariants: an exchange gets one answer, or none when its client is gone; an answer that cannot be completed never looks complete; after
either, what is said through it is dropped. Not here: how it looks on the wire (http_connection.py).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from monofs.gateways.http_head import Head, Header, Headers
from monofs.model.errors import Internal, invariant
from monofs.observe.logs import logger
from monofs.observe.tracing import TRACE, new_trace, show_trace

if TYPE_CHECKING:
    from monofs.gateways.http_connection import HttpConnection

log = logger(__name__)


class Exchange:
    """See the module."""

    __slots__ = (
        "_connection",
        "_heard_end",
        "_left",
        "_on_bytes",
        "_on_end",
        "_on_gone",
        "_space",
        "_waiting",
        "also",
        "begun",
        "chunked",
        "closed",
        "expects",
        "has_body",
        "headers",
        "keeps",
        "length",
        "method",
        "minor",
        "paused",
        "started",
        "status",
        "target",
        "trace",
        "trailers",
    )

    def __init__(self, connection: HttpConnection, head: Head) -> None:
        self._connection = connection
        self.method = head.method
        self.target = head.target
        """As it was sent, in origin form: path and query, escaped; or `*`."""
        self.headers = head.headers
        """By lower-case name, repeated ones joined with commas."""
        self.length = head.length
        """Bytes of the request's body; None: chunked, nobody knows."""
        self.minor = head.minor
        """Of the client's version: HTTP/1.0 or HTTP/1.1."""
        self.keeps = head.keeps
        """Whether the connection goes on after the answer."""
        self.expects = head.expects
        """Whether the client waits for `100 Continue`."""
        self.trailers: list[Header] = []
        """What came after a chunked body, at its end."""
        self.trace = new_trace()
        self.started = time.monotonic()
        self.also: tuple[Header, ...] = ()
        """Headers of the answer, whatever else it will be."""
        self.closed = False
        """The answer is complete, or the client is gone: nothing said through this exchange arrives any more."""
        self.begun = False
        """The head of the answer is out."""
        self.status = 0
        self.has_body = True
        """Whether the answer has one; what is said of it otherwise (HEAD, 204, 304) is dropped."""
        self.chunked = False
        self.paused = False
        self._left: int | None = None
        self._heard_end = False
        self._on_bytes: Callable[[memoryview], None] | None = None
        self._on_end: Callable[[], None] | None = None
        self._on_gone: Callable[[], None] | None = None
        self._space: Callable[[], memoryview | None] | None = None
        self._waiting: Callable[[], None] | None = None

    @property
    def peer(self) -> str:
        """Where from, for logs and audit."""
        return self._connection.peer

    @property
    def secure(self) -> bool:
        """Whether nobody on the way can read along."""
        return self._connection.tls is not None

    # ---- the request's body ----

    def receive(
        self,
        on_bytes: Callable[[memoryview], None],
        on_end: Callable[[], None],
        space: Callable[[], memoryview | None] | None = None,
    ) -> None:
        """Take the body: ``on_bytes`` for each piece, which stays as it is, then ``on_end``; neither is called before this returns. ``space``: where
        the next bytes are best put, if anywhere and if they can be: then ``on_bytes`` is told a view of their part of it.

        Tells a client that asked for it to go on. Neither is called after the answer is complete or the client gone (:meth:`on_gone`).
        """
        invariant(self._on_bytes is None, "a body is received once")
        if self.closed:
            return
        self._on_bytes, self._on_end, self._space = on_bytes, on_end, space
        self._connection.begin_body(self)

    def pause(self) -> None:
        """No ``on_bytes`` and no ``on_end`` until :meth:`resume`; soon the client cannot send any more."""
        self.paused = True

    def resume(self) -> None:
        """Go on; nothing is called before this returns."""
        if self.paused:
            self.paused = False
            self._connection.go_on_soon()

    def hear(self, piece: memoryview) -> None:
        """For the connection: bytes of the body."""
        if self._on_bytes is not None:
            self._run(self._on_bytes, piece)

    def hear_end(self) -> None:
        """For the connection: the body is complete."""
        self._heard_end = True
        if self._on_end is not None:
            self._run(self._on_end)

    @property
    def is_listening(self) -> bool:
        """Whether the next piece of the body, or its end, may be told."""
        return self._on_bytes is not None and not self.paused and not self._heard_end

    def space(self) -> memoryview | None:
        """For the connection: where the next bytes of the body go, if anybody said."""
        return (
            self._space()
            if self._space is not None and self.is_listening and not self.closed and not self.chunked
            else None
        )

    # ---- the answer ----

    def answer(self, status: int, headers: Headers = (), body: bytes | memoryview = b"") -> None:
        """The whole answer. Server, Date, Content-Length, Transfer-Encoding and Connection are added. Raises Internal for headers with line ends."""
        if not self.closed:
            self._connection.send_answer(self, status, headers, body)

    def begin(self, status: int, headers: Headers = (), length: int | None = None) -> None:
        """The head of an answer whose body has ``length`` bytes; None: it is told by its end (chunked; to HTTP/1.0 by the connection's)."""
        if not self.closed:
            self._connection.send_head(self, status, headers, length)
            self._left = length

    def data(self, buffer: bytes | memoryview) -> None:
        """Bytes of the body. The buffer is not copied: do not change it any more. Raises Overloaded when sent without regard to :attr:`writable`."""
        if not self.closed and self._take(len(buffer)):
            self._connection.send_data(self, buffer)

    def send_file(self, fd: int, offset: int, length: int) -> None:
        """Bytes of the body from a file, as :meth:`monofs.rpc.service.Call.send_file`."""
        if not self.closed and self._take(length):
            self._connection.send_file(self, fd, offset, length)

    def end(self) -> None:
        """The body is complete. One that is shorter than was promised cuts the connection and raises Internal."""
        if self.closed:
            return
        if self._left and self.has_body:
            left = self._left
            self.cut()
            raise Internal(f"the body of an answer ended {left} bytes early")
        self._connection.send_end(self)

    def cut(self) -> None:
        """Close the connection at once, in such a way that the client sees that the answer is not complete."""
        if not self.closed:
            self._connection.forget(self, "cut")
            self._connection.abort(None)
            self.run_waiting()

    def _take(self, size: int) -> bool:
        """Count bytes of the body; False when there are none to send."""
        invariant(self.begun, "a body comes after its head")
        if self._left is not None and self.has_body:
            if size > self._left:
                self.cut()
                raise Internal("the body of an answer is longer than was promised")
            self._left -= size
        return self.has_body and size > 0

    @property
    def writable(self) -> bool:
        """False while the client reads slowly: an answer waits with :meth:`when_writable` before it sends more."""
        return self._connection.writable

    def when_writable(self, callback: Callable[[], None]) -> None:
        """Call back once, when the connection takes more or the exchange is closed (look at :attr:`closed`).

        One callback an exchange at a time; never called before this method returns.
        """
        invariant(self._waiting is None, "an exchange waits for its connection at most once")
        self._waiting = callback
        self._connection.when_writable(self)

    def run_waiting(self) -> None:
        """For the connection: run the callback given to :meth:`when_writable`, if there still is one."""
        callback, self._waiting = self._waiting, None
        if callback is not None:
            self._run(callback)

    # ---- the end ----

    def on_gone(self, callback: Callable[[], None]) -> None:
        """Call back if the client is gone before the answer is complete. One callback an exchange."""
        self._on_gone = callback

    def abandon(self) -> None:
        """For the connection: the client is gone."""
        callback, self._on_gone = self._on_gone, None
        if callback is not None:
            self._run(callback)
        self.run_waiting()

    def crash(self, error: BaseException) -> None:
        """The handler failed: a 500, or a cut in mid-answer."""
        path = self.target.partition("?")[0][:200]  # a query may be a credential
        door = self._connection.door
        log.error(
            "a handler failed",
            exception=error,
            door=door.name,
            method=self.method,
            path=path,
            peer=self.peer,
            trace=show_trace(self.trace),
        )
        if self.begun:
            self.cut()
        else:
            headers, body = door.refusal(500, "this request failed inside the server", self.trace)
            self.answer(500, headers, body)
        door.check_fatal(error)

    def _run(self, callback: Callable[..., None], *arguments: Any) -> None:
        token = TRACE.set(self.trace)
        try:
            callback(*arguments)
        except Exception as error:  # noqa: BLE001 - a handler's bug ends its exchange, not the connection's others
            self.crash(error)
        finally:
            TRACE.reset(token)
