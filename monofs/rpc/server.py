"""Doors: listeners on TCP and Unix sockets.

Invariants: a door that would let strangers in is not opened; connections over the bound are turned away without touching
the others.

Not here: accepting (accepting.py), what happens on a connection (connection.py), who may come in (security.py).
"""

from __future__ import annotations

import contextlib
import os
import socket
import struct
from typing import Any

from twisted.internet.defer import Deferred

from monofs.model.errors import ConfigError, Overloaded
from monofs.observe import metrics
from monofs.rpc.accepting import BACKLOG, Acceptor, bind_tcp
from monofs.rpc.addresses import format_address, is_loopback, tune, unix_name
from monofs.rpc.connection import ServerConnection
from monofs.rpc.frames import Kind, encode_error, pack
from monofs.rpc.handshake import ServerHandshake
from monofs.rpc.security import Security, check_security
from monofs.rpc.service import Limits, Service

__all__ = ["Limits", "Listener", "Security", "listen_tcp", "listen_unix"]

_ERROR = int(Kind.ERROR)


class Listener(Acceptor):
    """An open door of our protocol."""

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
        super().__init__(reactor, sock, address, gauge=metrics.RPC_CONNECTIONS(door))
        self.service = service
        self.door = door
        self.security = security
        self._tls = security.tls if door == "tcp" else None
        self.limits = limits

    def accepted(self, sock: socket.socket, peer: Any) -> None:
        """Begin a connection, if there is room for it."""
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
        self.service.open.add(connection)
        self.admit(connection)

    def _describe(self, sock: socket.socket, peer: Any) -> tuple[str, bool]:
        """The peer's name, and whether it is on this machine."""
        if self.door == "unix":
            pid, uid, _gid = struct.unpack("3i", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
            return f"unix:pid={pid},uid={uid}", True
        return format_address(peer[0], peer[1]), is_loopback(peer[0])

    def has_lost(self, connection: ServerConnection) -> None:
        """For connections: one is gone."""
        if connection in self.connections:
            self.service.open.discard(connection)
            self.service.connections -= 1
        super().has_lost(connection)

    def stop(self) -> Deferred[None]:
        """Accept no more, say what is already written, close all connections; fires when the last one is gone (≤ 2 s)."""
        self.close()
        for connection in list(self.connections):
            connection.close(linger=False)
        return self.all_gone()


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
    sock, address = bind_tcp(host, port)
    return Listener(reactor, service, sock, address, door="tcp", security=security, limits=limits or Limits())


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
        sock.listen(BACKLOG)
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
