"""Connecting without waiting: names are looked up in a thread, the socket connects while the reactor goes on."""

from __future__ import annotations

import errno
import ipaddress
import os
import socket
from collections.abc import Callable
from typing import Any

from twisted.internet.threads import deferToThreadPool

from monofs.model.errors import MonofsError, Unreachable
from monofs.rpc.addresses import parse_address, tune, unix_name


class Dial:
    """One attempt: calls ``connected(socket)`` or ``failed(Unreachable)``, exactly once unless given up."""

    def __init__(
        self,
        reactor: Any,
        address: str,
        timeout_s: float,
        connected: Callable[[socket.socket], None],
        failed: Callable[[MonofsError], None],
    ) -> None:
        self._reactor = reactor
        self._address = address
        self._connected, self._failed = connected, failed
        self._sock: socket.socket | None = None
        self._fd = -1
        self._names: list[tuple[int, Any]] = []
        self._over = False
        self._timer = reactor.callLater(timeout_s, self._fail, f"no answer within {timeout_s:g} s")

    def start(self) -> None:
        """Begin; nothing is called back before this returns, except failures of the socket itself."""
        where = parse_address(self._address)
        if isinstance(where, str):
            self._connect(socket.AF_UNIX, where)
            return
        host, port = where
        try:
            version = ipaddress.ip_address(host).version
        except ValueError:
            found = deferToThreadPool(
                self._reactor, self._reactor.getThreadPool(), socket.getaddrinfo, host, port, type=socket.SOCK_STREAM
            )
            found.addCallbacks(
                self._has_names,
                lambda failure: self._fail(failure.getErrorMessage()),
            )
            return
        self._connect(socket.AF_INET if version == 4 else socket.AF_INET6, (host, port))

    def _has_names(self, names: list[Any]) -> None:
        """All addresses of the name, to be tried in their order (``localhost`` may be ::1 where only 127.0.0.1 listens)."""
        self._names = [(name[0], name[4]) for name in names]
        self._connect(*self._names.pop(0))

    def give_up(self) -> None:
        """Call nobody back."""
        self._finish()

    def _connect(self, family: int, where: Any) -> None:
        if self._over:
            return
        try:
            self._sock = sock = socket.socket(family, socket.SOCK_STREAM)
            self._fd = sock.fileno()
            sock.setblocking(False)
            tune(sock)
            if family == socket.AF_UNIX:
                with unix_name(where) as name:
                    code = sock.connect_ex(name)
            else:
                code = sock.connect_ex(where)
        except OSError as error:
            self._fail(error.strerror or str(error))
            return
        if code == 0:
            self._reactor.callLater(0, self.doWrite)
        elif code == errno.EINPROGRESS:
            self._reactor.addWriter(self)
        else:
            self._fail(os.strerror(code))

    # ---- the reactor's side ----

    def fileno(self) -> int:
        """The connecting socket's descriptor."""
        return self._fd

    def logPrefix(self) -> str:  # noqa: N802 - Twisted's name
        """For Twisted's log."""
        return "monofs.rpc"

    def doWrite(self) -> None:  # noqa: N802 - Twisted's name
        """Connected, or refused."""
        if self._over or self._sock is None:
            return
        code = self._sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if code:
            self._fail(os.strerror(code))
            return
        sock, self._sock = self._sock, None
        self._reactor.removeWriter(self)
        self._finish()
        self._connected(sock)

    def connectionLost(self, reason: Any) -> None:  # noqa: ARG002, N802 - Twisted's name and argument
        """The reactor saw the socket hang up."""
        code = self._sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) if self._sock is not None else 0
        self._fail(os.strerror(code or errno.ECONNREFUSED))

    def _fail(self, why: str) -> None:
        if self._names and self._timer.active():
            self._drop()
            self._connect(*self._names.pop(0))
        elif not self._over:
            self._finish()
            self._failed(Unreachable(f"cannot connect to {self._address}: {why}", address=self._address))

    def _finish(self) -> None:
        self._over = True
        self._names = []
        if self._timer.active():
            self._timer.cancel()
        self._drop()

    def _drop(self) -> None:
        if self._sock is not None:
            self._reactor.removeWriter(self)
            self._sock.close()
            self._sock = None
        self._fd = -1
