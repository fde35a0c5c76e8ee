"""Doors: listeners on TCP and Unix sockets.

Invariants: a door that would let strangers in is not opened; connections over the bound, or for which no descriptors are
left, are turned away without touching the others.

Not here: what happens on a connection (connection.py), who may come in (security.py).
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import struct
from typing import Any

from twisted.internet.defer import Deferred, succeed

from monofs.model.errors import ConfigError, Overloaded
from monofs.observe import metrics
from monofs.observe.logs import logger
from monofs.rpc.addresses import format_address, is_loopback, tune, unix_name
from monofs.rpc.connection import ServerConnection
from monofs.rpc.frames import Kind, encode_error, pack
from monofs.rpc.handshake import ServerHandshake
from monofs.rpc.link import Flusher
from monofs.rpc.security import Security, check_security
from monofs.rpc.service import Limits, Service

__all__ = ["Limits", "Listener", "Security", "listen_tcp", "listen_unix"]

log = logger(__name__)

_ACCEPTS_A_TURN = 64
_BACKLOG = 1024
_ERROR = int(Kind.ERROR)


class Listener:
    """An open door. ``address`` is ``host:port`` with the port really taken, or the Unix socket's path."""

    def __init__(
        self,
        reactor: Any,
        service: Service,
        sock: socket.socket,
        address: str,
        *,
        door: str,
        security: Security,
        limits: Limits,
    ) -> None:
        self.reactor = reactor
        self.service = service
        self.address = address
        self.door = door
        self.security = security
        self._tls = security.tls if door == "tcp" else None
        self.limits = limits
        self.flusher = Flusher(reactor)
        self.connections: set[ServerConnection] = set()
        self._sock = sock
        self._fd = sock.fileno()
        self._gauge = metrics.RPC_CONNECTIONS(door)
        self._stopped: Deferred[None] | None = None
        sock.setblocking(False)
        reactor.addReader(self)

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
            self._accepted(sock, peer)

    def _accept_again(self) -> None:
        if self._fd != -1:
            self.reactor.addReader(self)

    def _accepted(self, sock: socket.socket, peer: Any) -> None:
        if self.service.connections >= self.limits.connections:
            metrics.RPC_REFUSED("connections").value += 1
            error = Overloaded(f"this door serves at most {self.limits.connections} connections")
            if self._tls is None:
                with contextlib.suppress(OSError):  # a courtesy: the peer may be gone
                    sock.send(pack(_ERROR, 0, 0, encode_error(error)), socket.MSG_DONTWAIT)
            sock.close()
            return
        try:
            tune(sock)
            name, local = self._describe(sock, peer)
        except OSError:  # reset before it was looked at
            sock.close()
            return
        self.service.connections += 1
        self._gauge.value += 1
        handshake = ServerHandshake(
            secret=self.security.secret,
            anonymous=self.security.allows_anonymous(local=local),
            cluster=self.service.cluster(),
            role=self.service.role,
            tokens=self.service.tokens,
        )
        connection = ServerConnection(
            self.reactor,
            self.flusher,
            self.service,
            sock,
            door=self.door,
            peer=name,
            handshake=handshake,
            limits=self.limits,
            map_files=local and self.door == "tcp",
            on_lost=self.has_lost,
            tls=None if self._tls is None else self._tls.machine(),
        )
        self.connections.add(connection)

    def _describe(self, sock: socket.socket, peer: Any) -> tuple[str, bool]:
        """The peer's name, and whether it is on this machine."""
        if self.door == "unix":
            pid, uid, _gid = struct.unpack("3i", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
            return f"unix:pid={pid},uid={uid}", True
        return format_address(peer[0], peer[1]), is_loopback(peer[0])

    def has_lost(self, connection: ServerConnection) -> None:
        """For connections: one is gone."""
        if connection in self.connections:
            self.connections.discard(connection)
            self.service.connections -= 1
            self._gauge.value -= 1
        if self._stopped is not None and not self.connections:
            stopped, self._stopped = self._stopped, None
            stopped.callback(None)

    def connectionLost(self, reason: Any) -> None:  # noqa: ARG002, N802 - Twisted's name and argument
        """The reactor is shutting down."""
        self._close()

    def stop(self) -> Deferred[None]:
        """Accept no more, say what is already written, close all connections; fires when the last one is gone (≤ 2 s)."""
        self._close()
        if not self.connections:
            return succeed(None)
        if self._stopped is not None:
            return self._stopped
        stopped = self._stopped = Deferred()
        for connection in list(self.connections):
            connection.close(linger=False)
        return stopped

    def _close(self) -> None:
        if self._fd == -1:
            return
        self.reactor.removeReader(self)
        self._fd = -1
        self._sock.close()
        if self.door == "unix":
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self.address)


def listen_tcp(
    reactor: Any,
    service: Service,
    host: str,
    port: int,
    *,
    security: Security | None = None,
    limits: Limits | None = None,
) -> Listener:
    """Open a TCP door on a numeric address or ``localhost``; port 0: any free one. Raises ConfigError."""
    security = security or Security()
    check_security(host or "0.0.0.0", security)  # noqa: S104 - an empty host means all addresses, judged as that
    try:
        found = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, kind, protocol, _, address = found[0]
        sock = socket.socket(family, kind, protocol)
    except OSError as error:
        raise ConfigError(f"cannot listen on {host}:{port}: {error.strerror}") from None
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(address)
        sock.listen(_BACKLOG)
    except OSError as error:
        sock.close()
        raise ConfigError(f"cannot listen on {host}:{port}: {error.strerror}") from None
    name = sock.getsockname()
    address_shown = format_address(name[0], name[1])
    return Listener(reactor, service, sock, address_shown, door="tcp", security=security, limits=limits or Limits())


def listen_unix(
    reactor: Any,
    service: Service,
    path: str,
    *,
    mode: int = 0o600,
    security: Security | None = None,
    limits: Limits | None = None,
) -> Listener:
    """Open a Unix door. A socket nobody listens on any more is replaced; one in use raises ConfigError.

    ``mode``: the socket file's permissions, the owner only by default.
    """
    security = security or Security()
    check_security("", security)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        with unix_name(path) as name:
            _remove_stale(path, name)
            os.fchmod(sock.fileno(), mode)  # before bind: the file is never open to more than it should be
            sock.bind(name)
            os.chmod(name, mode)  # what the umask took away
        sock.listen(_BACKLOG)
    except OSError as error:
        sock.close()
        raise ConfigError(f"cannot listen on {path}: {error.strerror}") from None
    except ConfigError:
        sock.close()
        raise
    return Listener(reactor, service, sock, path, door="unix", security=security, limits=limits or Limits())


def _remove_stale(path: str, name: str) -> None:
    if not os.path.exists(path):
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            probe.connect(name)
        except (ConnectionRefusedError, FileNotFoundError):
            os.unlink(path)
            return
        except BlockingIOError:
            pass
    raise ConfigError(f"another process listens on {path}")
