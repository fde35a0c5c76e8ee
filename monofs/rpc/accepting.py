"""A listening socket on the reactor, and the connections that came through it.

Invariants: a shortage of descriptors is waited out without touching the connections there are; each connection is counted
until it is gone. Not here: who may come in, and what is spoken (server.py, gateways/http.py).
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
from typing import Any

from twisted.internet.defer import Deferred, succeed

from monofs.model.errors import ConfigError
from monofs.observe import metrics
from monofs.observe.logs import logger
from monofs.rpc.addresses import format_address
from monofs.rpc.link import Flusher

log = logger(__name__)

_ACCEPTS_A_TURN = 64
BACKLOG = 1024


class Acceptor:
    """An open door. ``address`` is ``host:port`` with the port really taken, or the Unix socket's path; ``gauge`` counts its connections."""

    def __init__(self, reactor: Any, sock: socket.socket, address: str, *, gauge: metrics.Child) -> None:
        self.reactor = reactor
        self.address = address
        self.flusher = Flusher(reactor)
        self.connections: set[Any] = set()
        self._sock = sock
        self._fd = sock.fileno()
        self._gauge = gauge
        self._stopped: Deferred[None] | None = None
        sock.setblocking(False)
        reactor.addReader(self)

    def accepted(self, sock: socket.socket, peer: Any) -> None:
        """Somebody came: :meth:`admit` a connection, or close the socket."""
        raise NotImplementedError

    def admit(self, connection: Any) -> None:
        """Count a connection; it calls :meth:`has_lost` when it is gone."""
        self.connections.add(connection)
        self._gauge.value += 1

    def fileno(self) -> int:
        """The listening socket's descriptor, -1 once stopped."""
        return self._fd

    def logPrefix(self) -> str:  # noqa: N802 - Twisted's name
        """For Twisted's log."""
        return "monofs.rpc"

    def doRead(self) -> None:  # noqa: N802 - Twisted's name
        """Accept what waits, some at a time."""
        for _ in range(_ACCEPTS_A_TURN):
            try:
                sock, peer = self._sock.accept()
            except OSError as error:
                if error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM):
                    log.warning("cannot accept connections", reason=error.strerror)
                    metrics.RPC_REFUSED("descriptors").value += 1
                    self.reactor.removeReader(self)
                    self.reactor.callLater(0.1, self._accept_again)
                return
            self.accepted(sock, peer)

    def _accept_again(self) -> None:
        if self._fd != -1:
            self.reactor.addReader(self)

    def has_lost(self, connection: Any) -> None:
        """For connections: one is gone."""
        if connection in self.connections:
            self.connections.discard(connection)
            self._gauge.value -= 1
        if self._stopped is not None and not self.connections:
            stopped, self._stopped = self._stopped, None
            stopped.callback(None)

    def connectionLost(self, reason: Any) -> None:  # noqa: ARG002, N802 - Twisted's name and argument
        """The reactor is shutting down."""
        self.close()

    def all_gone(self) -> Deferred[None]:
        """Fires when the last connection is gone."""
        if not self.connections:
            return succeed(None)
        if self._stopped is None:
            self._stopped = Deferred()
        return self._stopped

    def close(self) -> None:
        """Accept no more."""
        if self._fd == -1:
            return
        self.reactor.removeReader(self)
        self._fd = -1
        self._sock.close()
        if "/" in self.address:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self.address)


def bind_tcp(host: str, port: int) -> tuple[socket.socket, str]:
    """A listening socket on a numeric address, a name or, empty, all of them; port 0: any free one; and its address as shown. Raises ConfigError."""
    try:
        found = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, kind, protocol, _, address = found[0]
        sock = socket.socket(family, kind, protocol)
    except OSError as error:
        raise ConfigError(f"cannot listen on {host}:{port}: {error.strerror}") from None
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(address)
        sock.listen(BACKLOG)
    except OSError as error:
        sock.close()
        raise ConfigError(f"cannot listen on {host}:{port}: {error.strerror}") from None
    name = sock.getsockname()
    return sock, format_address(name[0], name[1])
