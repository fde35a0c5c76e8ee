"""The console under TLS, and the bound of its connections: the stdlib's ``ssl`` between Twisted's transport and its HTTP.

Invariants: nothing is said in clear but, to who spoke in clear, that this door wants https; a certificate that is renewed is used by the next connection; connections over ``CONNECTIONS_MAX`` are closed
at once. Back-pressure is the transport's own: what was encrypted lies in its buffer, and its producer is paused when that is full. Not here: certificates and the machine (rpc/tls.py).
"""

from __future__ import annotations

from typing import Any

from twisted.internet.interfaces import ISSLTransport
from twisted.protocols.policies import ProtocolWrapper, WrappingFactory
from zope.interface import alsoProvides  # type: ignore[import-untyped]

from monofs.model.errors import MonofsError
from monofs.observe.logs import logger
from monofs.rpc.tls import HANDSHAKE_RECORD, ServerTls, TlsMachine

log = logger(__name__)

CONNECTIONS_MAX = 2048
READ_BYTES = 64 << 10
_IN_CLEAR = b"this console speaks https: write https:// before its address\n"
_CLEAR_ANSWER = b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\nContent-Type: text/plain; charset=utf-8\r\nX-Content-Type-Options: nosniff\r\nContent-Length: %d\r\n\r\n%s"


class Encrypted(ProtocolWrapper):
    """One connection: the transport of what it wraps."""

    _tls: TlsMachine

    def makeConnection(self, transport: Any) -> None:
        """It begins; the TLS handshake is the peer's to start."""
        self._heard = False
        self._tls = self.factory.tls.machine()
        super().makeConnection(transport)  # type: ignore[no-untyped-call]

    def dataReceived(self, data: bytes) -> None:
        """Bytes of the network."""
        if not self._heard:
            self._heard = True
            if data[:1] != HANDSHAKE_RECORD:
                self._raw.write(_CLEAR_ANSWER % (len(_IN_CLEAR), _IN_CLEAR))
                self._raw.loseConnection()
                return
        pieces = []
        is_over = False
        try:
            self._tls.feed(data)
            while self._tls.is_open and (piece := self._tls.read(READ_BYTES)) is not None:
                if not piece:
                    is_over = True
                    break
                pieces.append(piece)
        except MonofsError as error:
            log.debug("a connection of the console broke under TLS", reason=error.message)
            self._flush()
            self._raw.abortConnection() if self._tls.is_open else self._raw.loseConnection()
            return
        self._flush()
        if pieces and self.wrappedProtocol is not None:
            inner: Any = self.wrappedProtocol
            inner.dataReceived(b"".join(pieces))
        if is_over:
            self._raw.loseConnection()

    def write(self, data: bytes) -> None:
        """Say something."""
        if data and self._tls.is_open:
            try:
                self._tls.encrypt(data)
            except MonofsError:
                self._raw.abortConnection()
            self._flush()

    def writeSequence(self, data: Any) -> None:
        """The same of several pieces."""
        self.write(b"".join(data))

    def loseConnection(self) -> None:
        """Say that this was all, then close."""
        if not self.disconnecting:
            self.disconnecting = 1
            self._tls.say_goodbye()
            self._flush()
            self._raw.loseConnection()

    def getPeerCertificate(self) -> None:
        """Browsers are not asked for one."""
        return

    @property
    def _raw(self) -> Any:
        return self.transport

    def _flush(self) -> None:
        data = self._tls.to_send()
        if data:
            self._raw.write(data)


class Gate(WrappingFactory[Any]):
    """Lets connections in, up to the bound. ``tls`` None: in clear."""

    def __init__(self, site: Any, tls: ServerTls | None) -> None:
        super().__init__(site)  # type: ignore[no-untyped-call]
        self.tls = tls

    def buildProtocol(self, addr: Any) -> Any:
        """A connection; None at the bound, or while its certificate cannot be read."""
        if len(self.protocols) >= CONNECTIONS_MAX:
            return None
        inner = self.wrappedFactory.buildProtocol(addr)
        return inner if inner is None else (Encrypted if self.tls is not None else ProtocolWrapper)(self, inner)

    def registerProtocol(self, p: Any) -> None:
        """A connection began; under TLS, it is known to be so."""
        super().registerProtocol(p)  # type: ignore[no-untyped-call]
        if self.tls is not None:
            alsoProvides(p, ISSLTransport)
