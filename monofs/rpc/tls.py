"""TLS for our own links: certificates from files, and the state machine between ciphertext and what it says.

The stdlib's ``ssl`` over memory buffers, because both links are our own code (decision 0002): the reactor's hands bytes in and takes bytes
out, the blocking one is wrapped as a socket. TLS 1.3 only where both ends are ours.

Invariants: a client that was told to speak TLS never says a byte in clear, and believes only certificates its own file vouches for, for
the name or address it dialled; who speaks in clear at a door with TLS (or the reverse) is told so at once, not by a time-out.
Certificates are read again when their files change: the next connection uses them; files that cannot be used leave the old ones in force.

Not here: who may come in (handshake.py): TLS hides and names the server, the handshake inside it names the client.
"""

from __future__ import annotations

import errno
import os
import select
import socket
import ssl
import struct
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from monofs.model.errors import ConfigError, ConnectionLost, InvalidArgument, MonofsError, Unauthenticated
from monofs.observe.logs import logger

log = logger(__name__)

PIECE_BYTES = 64 << 10
HANDSHAKE_RECORD = b"\x16"
"""First byte of every TLS connection; the first of ours in clear is 0, of the length of a HELLO."""
_TIMEVAL = struct.Struct("ll")
_State = tuple[tuple[int, int, int], ...]


class _Contexts:
    """One context per set of files, made anew when one of them changed."""

    def __init__(self) -> None:
        self._made: dict[tuple[ssl.TLSVersion, tuple[str, ...]], tuple[_State, ssl.SSLContext]] = {}

    def get(self, oldest: ssl.TLSVersion, files: tuple[str, ...], make: Callable[[], ssl.SSLContext]) -> ssl.SSLContext:
        """Raises OSError (ssl.SSLError too) when the files cannot be used and none was made of them before."""
        held = self._made.get((oldest, files))
        try:
            state = tuple(_state(file) for file in files)
            if held is not None and held[0] == state:
                return held[1]
            context = make()
        except OSError as error:
            if held is None:
                raise
            log.error(
                "certificates cannot be read again: the old ones stay in force", files=list(files), error=str(error)
            )
            self._made[oldest, files] = (held[0] if not isinstance(error, ssl.SSLError) else state, held[1])
            return held[1]
        self._made[oldest, files] = (state, context)
        return context


def _state(file: str) -> tuple[int, int, int]:
    found = os.stat(file)
    return found.st_mtime_ns, found.st_size, found.st_ino


_contexts = _Contexts()


class ServerTls:
    """How a door speaks TLS: PEM files with its certificate (and those between it and the authority) and its key.

    ``foreign``: others' clients come, so TLS 1.2 is spoken too.
    """

    def __init__(self, certificate: str, key: str, *, foreign: bool = False) -> None:
        self.certificate, self.key = certificate, key
        self._oldest = ssl.TLSVersion.TLSv1_2 if foreign else ssl.TLSVersion.TLSv1_3

    def context(self) -> ssl.SSLContext:
        """Raises ``ConfigError`` when the files cannot be used."""
        try:
            return _contexts.get(self._oldest, (self.certificate, self.key), self._make)
        except OSError as error:
            raise ConfigError(
                f"security.tls_certificate {self.certificate} and security.tls_key {self.key} cannot be used: {_why(error)}"
            ) from None

    def _make(self) -> ssl.SSLContext:
        if os.stat(self.key).st_mode & 0o007:
            raise PermissionError(errno.EPERM, f"everybody may read the key: chmod o= {self.key}")
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = self._oldest
        context.options |= ssl.OP_NO_RENEGOTIATION
        context.num_tickets = 0
        context.load_cert_chain(self.certificate, self.key, password=_no_password)
        return context

    def machine(self) -> TlsMachine:
        """For one connection."""
        return TlsMachine(self.context())


class ClientTls:
    """How a client speaks TLS; ``ca`` is a PEM file of the authorities it believes. Pickles as the file's name."""

    def __init__(self, ca: str) -> None:
        self.ca = ca

    def __reduce__(self) -> tuple[Any, ...]:
        return (ClientTls, (self.ca,))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ClientTls) and other.ca == self.ca

    def __hash__(self) -> int:
        return hash(self.ca)

    def context(self) -> ssl.SSLContext:
        """Raises ``InvalidArgument`` when the file cannot be used."""
        try:
            return _contexts.get(ssl.TLSVersion.TLSv1_3, (self.ca,), self._make)
        except OSError as error:
            raise InvalidArgument(f"the TLS authorities in {self.ca} cannot be used: {_why(error)}") from None

    def _make(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.load_verify_locations(self.ca)
        if not context.cert_store_stats()["x509"]:
            raise ssl.SSLError(0, "it holds no certificates")
        return context

    def machine(self, host: str) -> TlsMachine:
        """For one connection to ``host``, a name or an address its certificate must be for."""
        return TlsMachine(self.context(), host)


def _no_password() -> str:
    """Asked for a key's password: nobody is there to type it."""
    raise ssl.SSLError(0, "the key is encrypted: store it without a password, readable by the node only")


def _why(error: OSError) -> str:
    reason = getattr(error, "reason", None)
    return str(reason or error.strerror or error)


class TlsMachine:
    """One side of one connection: no socket, no waiting. ``host`` None: the server's side.

    Raises ``Unauthenticated`` where the sides cannot agree, ``ConnectionLost`` where what came later is not the other side's: after
    either, send what :meth:`to_send` still has (an alert) and close.
    """

    __slots__ = ("_host", "_in", "_out", "_ssl", "is_open")

    def __init__(self, context: ssl.SSLContext, host: str | None = None) -> None:
        self._in, self._out = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._host = host
        self._ssl = context.wrap_bio(self._in, self._out, server_side=host is None, server_hostname=host)
        self.is_open = False
        """Whether the TLS handshake is done; :meth:`encrypt` only then."""

    def begin(self) -> None:
        """The client's side: make its first message, for :meth:`to_send`."""
        self._shake()

    def feed(self, data: bytes) -> None:
        """Bytes came from the other side."""
        self._in.write(data)
        if not self.is_open:
            self._shake()

    def read(self, size: int) -> bytes | None:
        """Some of what was said, b"" when the other side said it is done; None: more must be fed first."""
        try:
            return self._ssl.read(size)
        except ssl.SSLWantReadError:
            return None
        except (ssl.SSLZeroReturnError, ssl.SSLEOFError):
            return b""
        except ssl.SSLError as error:
            raise self._told(error) from None

    def read_into(self, view: memoryview) -> int | None:
        """The same into a buffer: how many bytes."""
        try:
            return int(self._ssl.read(len(view), view))
        except ssl.SSLWantReadError:
            return None
        except (ssl.SSLZeroReturnError, ssl.SSLEOFError):
            return 0
        except ssl.SSLError as error:
            raise self._told(error) from None

    def encrypt(self, data: bytes | bytearray | memoryview) -> None:
        """Say something; all of it is taken, for :meth:`to_send`."""
        view = memoryview(data).cast("B")
        try:
            while view:
                view = view[self._ssl.write(view) :]
        except ssl.SSLError as error:
            raise self._told(error) from None

    def to_send(self) -> bytes:
        """Bytes for the other side, once."""
        return self._out.read() if self._out.pending else b""

    def say_goodbye(self) -> None:
        """Tell the other side, in a way nobody can forge, that this was all."""
        if self.is_open:
            try:
                self._ssl.unwrap()
            except (ssl.SSLError, ValueError):
                pass  # the other side's own goodbye is not waited for

    def _shake(self) -> None:
        try:
            self._ssl.do_handshake()
            self.is_open = True
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLError as error:
            raise self._told(error) from None

    def _told(self, error: ssl.SSLError) -> Unauthenticated | ConnectionLost:
        reason = error.reason or error.strerror or str(error)
        if self.is_open:
            return ConnectionLost(f"the TLS connection broke: {_words(reason)}")
        if isinstance(error, ssl.SSLCertVerificationError):
            return Unauthenticated(
                f"the certificate of {self._host} is not accepted: {error.verify_message}; it must be for this name or address, "
                "and from an authority in the file of --tls-ca"
            )
        if self._host is not None and reason in _NOT_TLS:
            return Unauthenticated(
                f"{self._host} does not speak TLS on this port: leave --tls-ca (MONOFS_TLS_CA) away, or set security.tls_certificate there"
            )
        return Unauthenticated(f"TLS failed: {_words(reason)}")


def _words(reason: str) -> str:
    return reason.lower().replace("_", " ")


_NOT_TLS = frozenset({"WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE", "PACKET_LENGTH_TOO_LONG", "UNEXPECTED_MESSAGE"})


class TlsSocket:
    """A blocking socket under TLS, as conversation.py uses sockets: the kernel's time limits hold as they do without.

    What was encrypted and did not fit is kept and leaves first. After :meth:`shake_hands` all errors are OSErrors, as a socket's are.
    """

    __slots__ = ("_machine", "_sock", "_unsent")

    def __init__(self, sock: socket.socket, machine: TlsMachine) -> None:
        self._sock, self._machine = sock, machine
        self._unsent = memoryview(b"")

    def shake_hands(self) -> None:
        """Before anything else. Raises ``Unauthenticated``, OSError."""
        machine = self._machine
        machine.begin()
        self._flush()
        while not machine.is_open:
            data = self._sock.recv(PIECE_BYTES)
            if not data:
                raise ConnectionResetError(errno.ECONNRESET, "it was closed during the TLS handshake")
            try:
                machine.feed(data)
            finally:
                self._flush()

    # ---- as a socket

    def fileno(self) -> int:
        """Of the socket below."""
        return self._sock.fileno()

    def setsockopt(self, level: int, name: int, value: bytes) -> None:
        """Of the socket below."""
        self._sock.setsockopt(level, name, value)

    def close(self) -> None:
        """Without a goodbye: a forked parent may go on."""
        self._sock.close()

    def send(self, data: bytes | memoryview, flags: int = 0) -> int:
        """How much was taken, at most 64 KiB. With MSG_DONTWAIT, BlockingIOError says that the kernel took nothing."""
        return self.sendmsg([data], (), flags)

    def sendmsg(self, pieces: Sequence[bytes | memoryview], _: tuple[()] = (), flags: int = 0) -> int:
        """The same of several pieces."""
        self._flush(flags)
        if self._unsent:
            raise BlockingIOError(errno.EAGAIN, "the socket is full")
        taken = 0
        for piece in pieces:
            some = piece[: PIECE_BYTES - taken]
            with _as_socket_errors():
                self._machine.encrypt(some)
            taken += len(some)
            if taken == PIECE_BYTES:
                break
        self._flush(flags)
        return taken

    def recv(self, size: int, flags: int = 0) -> bytes:
        """Bytes said, b"" at the end. With MSG_PEEK: whether anything came, in ciphertext."""
        if flags & socket.MSG_PEEK:
            return self._sock.recv(size, flags)
        with _as_socket_errors():
            while (data := self._machine.read(size)) is None:
                if not self._has_more():
                    return b""
        return data

    def recv_into(self, view: memoryview) -> int:
        """The same into a buffer."""
        with _as_socket_errors():
            while (count := self._machine.read_into(view)) is None:
                if not self._has_more():
                    return 0
        return count

    def _has_more(self) -> bool:
        """Wait for bytes, False at their end; what still has to be sent goes on meanwhile, so that two sides never wait for each other."""
        self._take_unsent()
        while self._unsent:
            poll = select.poll()
            poll.register(self._sock, select.POLLIN | select.POLLOUT)
            limit = self._sock.getsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, _TIMEVAL.size)
            seconds, micros = _TIMEVAL.unpack(limit)
            events = poll.poll(max(1, seconds * 1000 + micros // 1000))
            if not events:
                raise BlockingIOError(errno.EAGAIN, "the time allowed ran out")
            if events[0][1] & ~select.POLLOUT:
                break
            self._flush(socket.MSG_DONTWAIT)
        data = self._sock.recv(PIECE_BYTES)
        if data:
            self._machine.feed(data)
        return bool(data)

    def _take_unsent(self) -> None:
        more = self._machine.to_send()
        if more:
            self._unsent = memoryview(bytes(self._unsent) + more if self._unsent else more)

    def _flush(self, flags: int = 0) -> None:
        self._take_unsent()
        try:
            while self._unsent:
                self._unsent = self._unsent[self._sock.send(self._unsent, flags | socket.MSG_NOSIGNAL) :]
        except BlockingIOError:
            if not flags & socket.MSG_DONTWAIT:
                raise


@contextmanager
def _as_socket_errors() -> Iterator[None]:
    try:
        yield
    except MonofsError as error:
        raise OSError(errno.EPROTO, error.message) from None
