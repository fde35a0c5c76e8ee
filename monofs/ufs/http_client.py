"""HTTP/1.1 to one server, from threads: a request out, the head of its answer, its body in pieces (RFC 9112).

Connections are kept and used again. One try per request, no redirects, no retries: the caller sees each failure once. A piece is a buffer of its own that
the kernel wrote into, so that a page of the cache comes from the socket without another copy; a small body is there after one or two calls.

Invariant: a connection is used again only after its answer was read to its end, as it was framed; what is framed in two ways, or in none we know, is
refused. Everything is bounded: a head by ``HEAD_BYTES_MAX``, a wait by the silence allowed, a piece by ``PIECE_BYTES``; how long a body may be, the caller says.

Not here: signatures and what answers mean (``s3_requests``).
"""

from __future__ import annotations

import contextlib
import itertools
import re
import select
import socket
import ssl
import struct
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple, cast
from urllib.parse import urlsplit

from monofs.model.errors import UfsBadBody, UfsUnreachable
from monofs.ufs.s3_errors import untrusted

PIECE_BYTES = 1 << 20
HEAD_ROOM_BYTES = 4096
"""What the head of an answer usually fits: more is made room for."""
HEAD_BYTES_MAX = 64 << 10
LINE_BYTES_MAX = 8 << 10
"""Of a chunk's size and a trailer."""
INTERIM_MOST = 8
"""Answers of 100 and more that come before the one that counts."""
IDLE_MOST = 64
IDLE_S = 60.0
"""A connection that is idle for longer is closed: what lies between may have forgotten it."""
WAITS = 8
"""Of so many waits of the kernel a silence is made: one that is to fill a buffer does not tell when the last byte came."""
ANSWER_TIMEOUTS = 20
"""A whole answer may take this many times the silence allowed within it."""
_PORTS = {"http": 80, "https": 443}
_HEX = re.compile(rb"[0-9A-Fa-f]{1,16}").fullmatch


class Head(NamedTuple):
    """Of an answer. ``headers``: by lower-case name, several of one name joined with commas; bytes beyond ASCII as Latin-1."""

    status: int
    headers: dict[str, str]
    is_kept: bool
    """Whether the server keeps the connection."""


def read_head(text: bytes) -> Head:
    """A status line and header fields, without the empty line. Raises ``ValueError``."""
    first, *lines = text.decode("latin-1").split("\r\n")
    version, _, rest = first.partition(" ")
    if version not in ("HTTP/1.1", "HTTP/1.0") or not (
        rest[:3].isascii() and rest[:3].isdigit() and rest[3:4] in ("", " ")
    ):
        raise ValueError(f"{first[:60]!r} is no status line of HTTP/1.1")
    headers: dict[str, str] = {}
    for line in lines:
        name, colon, value = line.partition(":")
        if not colon or not name or name != name.strip() or "\n" in line or "\r" in line:
            raise ValueError(f"{line[:60]!r} is no header field")
        name, value = name.lower(), value.strip(" \t")
        headers[name] = f"{headers[name]}, {value}" if name in headers else value
    return Head(int(rest[:3]), headers, version == "HTTP/1.1" and "close" not in headers.get("connection", "").lower())


def body_length(method: str, head: Head) -> int | None:
    """Bytes of the body: -1 when they come in chunks, None when they end with the connection. Raises ``ValueError``."""
    coding, length = head.headers.get("transfer-encoding"), head.headers.get("content-length")
    if head.status < 200:
        raise ValueError(f"status {head.status} again and again")
    if method == "HEAD" or head.status in (204, 304):
        return 0
    if coding is not None:
        if coding.lower() != "chunked" or length is not None:
            raise ValueError(f"transfer coding {coding[:60]!r} is not understood")
        return -1
    if length is None:
        return None
    if not (length.isascii() and length.isdigit()):
        raise ValueError(f"{length[:60]!r} is no length")
    return int(length)


class Connection:
    """One socket, used by one thread at a time."""

    def __init__(self, sock: socket.socket) -> None:
        self.socket = sock
        self.idle_since_s = 0.0
        self.silence_s = 0.0

    def allow(self, silence_s: float) -> None:
        """Calls on the socket that take nothing for so long end in ``TimeoutError`` or ``BlockingIOError``; those that bring nothing sooner, and are to be
        made again."""
        if silence_s == self.silence_s:
            return
        self.silence_s = silence_s
        if isinstance(self.socket, ssl.SSLSocket):
            self.socket.settimeout(silence_s)
            return
        # kept by the kernel: with a time-out of Python's there would be a poll before each call
        self.socket.settimeout(None)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, _time_value(silence_s))
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, _time_value(silence_s / WAITS))

    def is_quiet(self) -> bool:
        """False once the server has closed it, or sent what nobody has read."""
        if isinstance(self.socket, ssl.SSLSocket) and self.socket.pending():
            return False
        poll = select.poll()
        poll.register(self.socket, select.POLLIN)
        return not poll.poll(0)


class Answer:
    """What came for one request; ``pieces`` once. Raises ``UfsBadBody`` and ``UfsUnreachable``."""

    def __init__(self, connection: Connection, method: str, endpoint: str, what: str, room: int) -> None:
        self._socket, self._endpoint, self._what = connection.socket, endpoint, what
        self._silence_s, self._heard_s = connection.silence_s, time.monotonic()
        self._deadline_s = self._heard_s + ANSWER_TIMEOUTS * connection.silence_s
        self._buffer = bytearray(HEAD_ROOM_BYTES + min(room, PIECE_BYTES))
        self._view = memoryview(self._buffer)
        self._start = self._end = 0
        """What has come and nobody has taken."""
        self.is_read = self._has_head = False
        head = self._read_head()
        for _ in range(INTERIM_MOST):
            if head.status >= 200:
                break
            head = self._read_head()
        self._has_head = True
        self.status, self.headers, self._is_kept = head
        try:
            self._length = body_length(method, head)
        except ValueError as error:
            raise self._odd(error) from None

    @property
    def is_over(self) -> bool:
        """Whether the connection is free for another request."""
        return self.is_read and self._is_kept and self._start == self._end

    def pieces(self) -> Iterator[memoryview]:
        """The body, in buffers of at most ``PIECE_BYTES``; one of known length in full ones."""
        if self._length is None:
            self._is_kept = False
            yield from self._until_closed()
        elif self._length < 0:
            yield from self._chunks()
        else:
            yield from self._sized(self._length)
        self.is_read = True

    def _read_head(self) -> Head:
        while (at := self._buffer.find(b"\r\n\r\n", self._start, self._end)) < 0:
            if self._end - self._start > HEAD_BYTES_MAX:
                raise UfsBadBody(f"{self._endpoint} sent a head of more than {HEAD_BYTES_MAX} bytes for {self._what}")
            if not self._receive():
                raise UfsUnreachable(
                    f"the connection to {self._endpoint} broke at {self._what}: closed without an answer"
                )
        text, self._start = bytes(self._view[self._start : at]), at + 4
        try:
            return read_head(text)
        except ValueError as error:
            raise self._odd(error) from None

    def _sized(self, left: int) -> Iterator[memoryview]:
        while left:
            piece = self._take(min(left, PIECE_BYTES))
            left -= len(piece)
            yield piece

    def _chunks(self) -> Iterator[memoryview]:
        while True:
            digits = self._line().partition(b";")[0].strip(b" \t")
            if not _HEX(digits):
                raise self._odd(f"{digits[:60]!r} is no size of a chunk")
            size = int(digits, 16)
            yield from self._sized(size)
            if not size:
                break
            if self._line():
                raise self._odd("a chunk is longer than it said")
        for _ in range(LINE_BYTES_MAX):
            if not self._line():  # of the trailer, which tells nothing we use
                return
        raise self._odd("its trailer does not end")

    def _until_closed(self) -> Iterator[memoryview]:
        while self._start < self._end or self._receive():
            piece, self._start = self._view[self._start : self._end], self._end
            yield piece.toreadonly()

    def _take(self, size: int) -> memoryview:
        """Exactly the next bytes of the body, in a buffer that nothing else is written into."""
        start, end = self._start, self._end
        if start + size <= len(self._buffer):
            self._fill(self._view[end : max(start + size, end)])
            self._start, self._end = start + size, max(start + size, end)
            return self._view[start : start + size].toreadonly()
        piece, here = memoryview(bytearray(size)), end - start
        piece[:here] = self._view[start:end]
        self._start = end
        self._fill(piece[here:])
        return piece.toreadonly()

    def _fill(self, view: memoryview) -> None:
        """By one call, where the kernel can wait for all: each would give the interpreter away, and wait for it."""
        at, flags = 0, 0 if isinstance(self._socket, ssl.SSLSocket) else socket.MSG_WAITALL
        while at < len(view):
            count = self._receive_into(view[at:], flags)
            if not count:
                raise UfsBadBody(f"the answer for {self._what} was cut short")
            at += count

    def _line(self) -> bytes:
        while (at := self._buffer.find(b"\r\n", self._start, self._end)) < 0:
            if self._end - self._start > LINE_BYTES_MAX:
                raise self._odd(f"a line of more than {LINE_BYTES_MAX} bytes")
            if not self._receive():
                raise UfsBadBody(f"the answer for {self._what} was cut short")
        line, self._start = bytes(self._view[self._start : at]), at + 2
        return line

    def _receive(self) -> int:
        """Add what is there to what nobody has taken; 0 at the end of the connection."""
        if self._end == len(self._buffer):
            rest = self._view[self._start : self._end]
            self._buffer = bytearray(len(rest) + HEAD_ROOM_BYTES)
            self._view = memoryview(self._buffer)
            self._view[: len(rest)] = rest
            self._start, self._end = 0, len(rest)
        count = self._receive_into(self._view[self._end :])
        self._end += count
        return count

    def _receive_into(self, view: memoryview, flags: int = 0) -> int:
        while True:
            try:
                count = self._socket.recv_into(view, 0, flags)
                self._heard_s = time.monotonic()
                if self._heard_s < self._deadline_s:
                    return count
            except (TimeoutError, BlockingIOError):
                if time.monotonic() - self._heard_s < self._silence_s * (1 - 0.5 / WAITS):
                    continue
            except OSError as error:
                if self._has_head:
                    raise UfsBadBody(f"the answer for {self._what} was cut short") from None
                raise UfsUnreachable(
                    f"the connection to {self._endpoint} broke at {self._what}: {reason(error)}"
                ) from None
            raise UfsUnreachable(f"{self._endpoint} did not answer in time at {self._what}") from None

    def _odd(self, what: object) -> UfsBadBody:
        return UfsBadBody(f"{self._endpoint} answered for {self._what} in a way that is not HTTP/1.1: {what}")


class Server:
    """Where a store is, and the idle connections to it; thread-safe. ``endpoint``: as users know it, for messages."""

    def __init__(self, base: str, endpoint: str, context: ssl.SSLContext, connect_s: float) -> None:
        self._idle: deque[Connection] = deque()
        self._is_closed = False
        url = urlsplit(base)
        self._name, self._port = url.hostname or "", url.port or _PORTS[url.scheme]
        self.host = url.netloc if self._port != _PORTS[url.scheme] else url.netloc.removesuffix(f":{self._port}")
        """As the header field of that name has it."""
        self._endpoint, self._connect_s = endpoint, connect_s
        self._context = context if url.scheme == "https" else None

    def close(self) -> None:
        """Close what is idle, and what becomes so."""
        self._is_closed = True
        while (connection := self._pop(self._idle.pop)) is not None:
            connection.socket.close()

    def __del__(self) -> None:
        self.close()

    @contextlib.contextmanager
    def ask(
        self, method: str, head: bytes, body: Iterable[bytes | memoryview], silence_s: float, what: str, room: int
    ) -> Iterator[Answer]:
        """One request and its answer, whose body the block reads, or not. ``head``: to its empty line; ``room``: bytes of the answer to make room for.

        Raises ``UfsUnreachable`` (with ``not_done`` in its detail where nothing was sent) and ``UfsBadBody``; and whatever ``body`` raises.
        """
        connection, answer = self._get(what), cast("Answer | None", None)
        lost: UfsUnreachable | None = None
        try:
            connection.allow(silence_s)
            lost = self._send(connection, head, body, what)
            try:
                answer = Answer(connection, method, self._endpoint, what, room)
            except UfsUnreachable:
                if lost is not None:
                    raise lost from None
                raise
            if lost is not None and answer.status < 300:  # not of what was sent
                raise lost
            yield answer
        finally:
            if lost is None and answer is not None and answer.is_over:
                self._keep(connection)
            else:
                connection.socket.close()

    def _send(
        self, connection: Connection, head: bytes, body: Iterable[bytes | memoryview], what: str
    ) -> UfsUnreachable | None:
        """A server may refuse, and read no more, before it has read everything: then its answer counts, and the error only without one."""
        for piece in itertools.chain((head,), body):
            try:
                connection.socket.sendall(piece)
            except (TimeoutError, BlockingIOError):
                late = UfsUnreachable(f"{self._endpoint} did not answer in time at {what}")
                if connection.is_quiet():
                    raise late from None
                return late
            except OSError as error:
                return UfsUnreachable(f"the connection to {self._endpoint} broke at {what}: {reason(error)}")
        return None

    def _get(self, what: str) -> Connection:
        while (connection := self._pop(self._idle.pop)) is not None:
            if connection.idle_since_s > time.monotonic() - IDLE_S and connection.is_quiet():
                return connection
            connection.socket.close()
        return Connection(self._connect(what))

    def _keep(self, connection: Connection) -> None:
        connection.idle_since_s = time.monotonic()
        self._idle.append(connection)
        old_s = connection.idle_since_s - IDLE_S
        while len(self._idle) > IDLE_MOST or self._is_closed or self._is_older(old_s):
            if (oldest := self._pop(self._idle.popleft)) is None:
                return
            oldest.socket.close()

    def _is_older(self, old_s: float) -> bool:
        """Whether a connection is idle since before."""
        try:
            return self._idle[0].idle_since_s < old_s
        except IndexError:
            return False

    def _pop(self, pop: Callable[[], Connection]) -> Connection | None:
        try:
            return pop()
        except IndexError:
            return None  # another thread took the last one

    def _connect(self, what: str) -> socket.socket:
        """Raises ``UfsUnreachable``: nothing was sent."""
        sock: socket.socket | None = None
        try:
            sock = socket.create_connection((self._name, self._port), self._connect_s)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            return sock if self._context is None else self._context.wrap_socket(sock, server_hostname=self._name)
        except (OSError, UnicodeError) as error:  # the latter from a host name that none can be
            if sock is not None:
                sock.close()
            raise self._unconnected(error, what) from None

    def _unconnected(self, error: OSError | UnicodeError, what: str) -> UfsUnreachable:
        if isinstance(error, ssl.SSLCertVerificationError):
            return untrusted(self._endpoint)
        if isinstance(error, ssl.SSLError):
            told = f"no TLS connection to {self._endpoint}: {reason(error)}"
        elif isinstance(error, socket.gaierror | UnicodeError):
            told = f"the host name of {self._endpoint} cannot be resolved"
        elif isinstance(error, TimeoutError) and error.errno is None:
            told = f"no connection to {self._endpoint} in time at {what}"
        else:
            told = f"no connection to {self._endpoint}: {reason(error)}"
        return UfsUnreachable(told, not_done=1)


def _time_value(seconds: float) -> bytes:
    return struct.pack("ll", int(seconds), max(int(seconds % 1 * 1e6), 1))


def reason(error: OSError) -> Any:
    """In the system's words."""
    return error.strerror or str(error) or type(error).__name__
