"""HTTP/1.1 doors: ``handler(exchange)`` is called on the reactor thread as soon as the head of a request is there.

A handler answers at once (``answer``), or later and bit by bit (``begin``, ``data``, ``send_file``, ``end``), and takes the body with
``receive``. It may return a Deferred or a coroutine; what it raises becomes a 500 with the request id, its traceback goes to the log only.
How long it takes is its own business. A door lets everybody speak: its handler says who may do what.

Invariant: who stops a door breaks no exchange that ends in time. Not here: what a connection does (http_connection.py).
"""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Callable, Coroutine
from email.utils import formatdate
from http import HTTPStatus
from typing import Any

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from monofs.gateways.http_connection import HttpConnection, Limits
from monofs.gateways.http_exchange import Exchange
from monofs.gateways.http_head import Header, HeadParser
from monofs.model.errors import InvariantBroken
from monofs.observe import metrics
from monofs.observe.logs import logger
from monofs.observe.tracing import TRACE, show_trace
from monofs.rpc.accepting import Acceptor, bind_tcp
from monofs.rpc.addresses import format_address, is_loopback, tune
from monofs.rpc.deadlines import Deadlines
from monofs.rpc.tls import ServerTls

__all__ = ["Door", "Exchange", "Handler", "Header", "Limits", "Refusal", "listen_http"]

log = logger(__name__)

_STATUS_LINES = {status.value: f"HTTP/1.1 {status.value} {status.phrase}\r\n".encode() for status in HTTPStatus}
Handler = Callable[[Exchange], "Deferred[Any] | Coroutine[Any, Any, Any] | None"]
Refusal = Callable[[int, str, int], tuple[list[Header], bytes]]
"""Status, reason for people, request id → headers and body of an answer the handler has no part in."""


def plain_refusal(status: int, reason: str, trace: int) -> tuple[list[Header], bytes]:  # noqa: ARG001 - others show it
    """One line of text."""
    headers = [(b"Content-Type", b"text/plain; charset=utf-8"), (b"X-Content-Type-Options", b"nosniff")]
    return headers, f"{reason} (request id {show_trace(trace)})\n".encode()


class Door(Acceptor):
    """See the module. ``held_bytes``, ``queued_bytes`` and ``slow`` are what its connections have in use."""

    def __init__(
        self,
        reactor: Any,
        sock: socket.socket,
        address: str,
        handler: Handler,
        *,
        name: str,
        limits: Limits,
        tls: ServerTls | None,
        refusal: Refusal,
        on_fatal: Callable[[BaseException], None] | None,
    ) -> None:
        super().__init__(reactor, sock, address, gauge=metrics.HTTP_CONNECTIONS(name))
        self.name = name
        self.limits = limits
        self.tls = tls
        self.refusal = refusal
        self.parser = HeadParser(limits.head)
        self.deadlines = Deadlines(reactor)
        self.look_s = min(5.0, min(limits.head_s, limits.idle_s, limits.body_s, limits.stall_s) / 4)
        """How often each connection's time limits are looked at."""
        self.is_stopping = False
        self.held_bytes = self.queued_bytes = 0
        self.slow: set[Any] = set()
        self.bytes_in, self.bytes_out = metrics.HTTP_BYTES(name, "in"), metrics.HTTP_BYTES(name, "out")
        self.timer: metrics.Timer = metrics.HTTP_TIME(name)
        self._handler = handler
        self._on_fatal = on_fatal
        self._answered: dict[int | str, metrics.Child] = {}
        self._openings: dict[int, bytes] = {}
        self._until = 0.0

    def accepted(self, sock: socket.socket, peer: Any) -> None:
        """Begin a connection, if there is room for it."""
        if len(self.connections) >= self.limits.connections:
            self.refused("connections").value += 1
            if self.tls is None:
                with contextlib.suppress(OSError):  # a courtesy: the peer may be gone
                    sock.send(
                        self.opening(503) + b"Content-Length: 0\r\nConnection: close\r\n\r\n", socket.MSG_DONTWAIT
                    )
            sock.close()
            return
        try:
            tune(sock)
        except OSError:  # reset before it was looked at
            sock.close()
            return
        address = format_address(peer[0], peer[1])
        self.admit(HttpConnection(self, sock, peer=address, map_files=is_loopback(peer[0])))

    def opening(self, status: int) -> bytes:
        """Status line, Server and Date of an answer, made once a second."""
        now = time.monotonic()
        if now >= self._until:
            self._until = now + 1 - time.time() % 1
            self._openings.clear()
        opening = self._openings.get(status)
        if opening is None:
            date = formatdate(usegmt=True).encode()
            opening = self._openings[status] = _STATUS_LINES[status] + b"Server: monofs\r\nDate: %b\r\n" % date
        return opening

    def answered(self, outcome: int | str) -> metrics.Child:
        """The counter of one status, or of another end."""
        child = self._answered.get(outcome)
        if child is None:
            child = self._answered[outcome] = metrics.HTTP_REQUESTS(self.name, str(outcome))
        return child

    def refused(self, reason: str) -> metrics.Child:
        """The counter of one reason."""
        child: metrics.Child = metrics.HTTP_REFUSED(self.name, reason)
        return child

    def serve(self, exchange: Exchange) -> None:
        """Run the handler."""
        token = TRACE.set(exchange.trace)
        try:
            result = self._handler(exchange)
            if result is not None:
                waiting = result if isinstance(result, Deferred) else Deferred.fromCoroutine(result)
                waiting.addErrback(self._failed, exchange)
        except Exception as error:  # noqa: BLE001 - the border of every handler: logged, told as a 500
            exchange.crash(error)
        finally:
            TRACE.reset(token)

    def _failed(self, failure: Failure, exchange: Exchange) -> None:
        if failure.value is not None:
            exchange.crash(failure.value)

    def check_fatal(self, error: BaseException) -> None:
        """Stop the node when an invariant broke."""
        if isinstance(error, InvariantBroken) and self._on_fatal is not None:
            self._on_fatal(error)

    def stop(self, drain_s: float = 30.0) -> Deferred[None]:
        """Accept no more, let every exchange under way have its answer, at most so long; fires when the last connection is gone."""
        self.close()
        self.is_stopping = True
        for connection in list(self.connections):
            connection.stop()
        gone = self.all_gone()
        if not gone.called:
            timer = self.reactor.callLater(drain_s, self._cut_all)

            def over(result: None) -> None:
                if timer.active():
                    timer.cancel()
                return result

            gone.addCallback(over)
        return gone

    def _cut_all(self) -> None:
        for connection in list(self.connections):
            connection.abort(None)


def listen_http(
    reactor: Any,
    host: str,
    port: int,
    handler: Handler,
    *,
    name: str,
    limits: Limits | None = None,
    tls: ServerTls | None = None,
    refusal: Refusal = plain_refusal,
    on_fatal: Callable[[BaseException], None] | None = None,
) -> Door:
    """Open a door; port 0: any free one. ``name`` (`s3`) is its label in metrics and logs. Raises ConfigError, also for certificates that cannot be used."""
    if tls is not None:
        tls.context()
    sock, address = bind_tcp(host, port)
    return Door(
        reactor,
        sock,
        address,
        handler,
        name=name,
        limits=limits or Limits(),
        tls=tls,
        refusal=refusal,
        on_fatal=on_fatal,
    )
