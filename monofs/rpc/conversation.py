"""One blocking connection to a server, for programs without a reactor: one request at a time, or a pipeline of them.

Invariant: after anything but a complete answer (an ERROR frame of the request counts as one) the conversation is
``broken`` and its socket closed: nobody can be given another request's bytes. Time limits are the kernel's
(SO_RCVTIMEO), set only when they change, so a call costs one send and one recv.

Not here: which address, when to try again, sharing between threads (sync.py).
"""

from __future__ import annotations

import array
import errno
import os
import select
import socket
import struct
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import NamedTuple, NoReturn

from monofs.model.errors import (
    ConnectionLost,
    DeadlineExceeded,
    FrameTooLarge,
    MonofsError,
    ProtocolError,
    Unreachable,
)
from monofs.rpc.addresses import parse_address, tune, unix_name
from monofs.rpc.frames import (
    ANSWER_MAX_BYTES,
    DESCRIPTORS_MAX,
    HEADER_BYTES,
    HELLO_MAX_BYTES,
    LONGEST_DEADLINE_MS,
    REST_BYTES,
    Kind,
    check_header,
    decode_error,
    pack,
    pack_header,
    unpack_header,
)
from monofs.rpc.handshake import ClientHandshake, Credential, Welcome
from monofs.rpc.tls import ClientTls, TlsSocket

READ_BYTES = 64 << 10
WINDOW_BYTES = 64 << 10
"""Bytes of pipelined requests made ready at a time."""
HANDSHAKE_S = 10.0
_TIMEVAL = struct.Struct("ll")
_ACCOUNT_S = 0.2
"""The server looks at its deadlines about every 0.1 s."""
_SLACK_S = 0.02
"""A time limit already set this much too late is left as it is."""
_DESCRIPTOR_SPACE = socket.CMSG_SPACE(DESCRIPTORS_MAX * array.array("i").itemsize)
_HELLO, _REQUEST, _ANSWER, _ERROR = int(Kind.HELLO), int(Kind.REQUEST), int(Kind.ANSWER), int(Kind.ERROR)
_ITEM, _DATA = int(Kind.ITEM), int(Kind.DATA)
_SEND_FLAGS = socket.MSG_NOSIGNAL
Header = tuple[int, int, int, int, int, int, int]


class Proof(NamedTuple):
    """How a server that says nothing shows that it lives."""

    first_s: float
    """So long it may be silent before it is asked; and, once it was seen to live, ``then_s``."""
    then_s: float
    lives: Callable[[], bool]


class Conversation:
    """A connection after its handshake. Use from one thread at a time.

    Raises Unreachable when no connection could be made or the other side is no monofs server; Unauthenticated,
    VersionMismatch and whatever else the server says. ``deadline`` arguments are time.monotonic seconds.
    """

    __slots__ = (
        "_armed_s",
        "_at",
        "_buffer",
        "_deadline",
        "_fds",
        "_last_id",
        "_limit",
        "_patience_s",
        "_silence_s",
        "_sock",
        "_takes_descriptors",
        "address",
        "answer",
        "broken",
        "heard_s",
        "on_slow",
        "proof",
        "slow_s",
        "welcome",
    )

    def __init__(
        self,
        address: str,
        credential: Credential,
        deadline: float,
        *,
        connect_s: float = 5.0,
        handshake_s: float = HANDSHAKE_S,
        tls: ClientTls | None = None,
    ) -> None:
        self.address = address
        self.proof: Proof | None = None
        """Whether the server still lives, asked when an answer keeps its caller waiting; None: it is waited for until the deadline."""
        self.broken = False
        self.answer: bytes | bytearray = b""
        """What ended the last stream that filled a buffer."""
        self.slow_s = self._silence_s = self._patience_s = 0.0
        self.on_slow: Callable[[], None] | None = None
        """Called once if the answer to a request that was started has not begun ``slow_s`` after; what it raises ends the wait."""
        self.heard_s = 0.0
        """When that stream began to come (time.monotonic)."""
        self._buffer = b""
        self._at = 0
        self._armed_s = -1.0
        self._deadline = deadline
        self._fds: deque[int] = deque()
        self._takes_descriptors = False
        self._last_id = 0
        self._limit = HELLO_MAX_BYTES
        left = min(connect_s, deadline - time.monotonic())
        if left <= 0:
            raise DeadlineExceeded(f"no time was left to connect to {address}")
        self._sock: socket.socket | TlsSocket = _connect(address, left)
        try:
            if tls is not None:
                self._begin_tls(tls, min(deadline, time.monotonic() + handshake_s))
            self.welcome: Welcome = self._shake_hands(credential, min(deadline, time.monotonic() + handshake_s))
        except (ConnectionLost, DeadlineExceeded) as error:
            self.close()
            raise Unreachable(f"{address} did not finish the handshake: {error}", address=address) from None
        except BaseException:
            self.close()
            raise
        self._limit = ANSWER_MAX_BYTES

    def _begin_tls(self, tls: ClientTls, deadline: float) -> None:
        """TLS over TCP; a Unix socket needs none."""
        where = parse_address(self.address)
        if isinstance(where, str) or isinstance(self._sock, TlsSocket):
            return
        self._deadline = deadline
        self._arm()
        self._sock = TlsSocket(self._sock, tls.machine(where[0]))
        try:
            self._sock.shake_hands()
        except OSError as error:
            self._failed(error)

    def _shake_hands(self, credential: Credential, deadline: float) -> Welcome:
        self._deadline = deadline
        handshake = ClientHandshake(credential)
        self._send(pack(_HELLO, 0, 0, handshake.begin()))
        while handshake.welcome is None:
            try:
                header = self._header()
            except (FrameTooLarge, ProtocolError):
                raise Unreachable(f"{self.address} does not speak monofs", address=self.address) from None
            body = bytes(self._body(header[0]))
            if header[1] == _ERROR:
                raise decode_error(body)
            if header[1] != _HELLO:
                raise Unreachable(f"{self.address} does not speak monofs", address=self.address)
            for answer in handshake.receive(body):
                self._send(pack(_HELLO, 0, 0, answer))
        return handshake.welcome

    def close(self) -> None:
        """Close this process's descriptor of the socket; never shuts the connection of a forked parent down."""
        self.broken = True
        self._sock.close()
        while self._fds:
            os.close(self._fds.popleft())

    def is_usable(self) -> bool:
        """Whether the idle connection seems alive: open, and nothing unexpected was said."""
        if self.broken or self._at < len(self._buffer):
            return False
        try:
            self._sock.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
        except BlockingIOError:
            return True
        except OSError:
            return False
        return False

    def has_bytes(self) -> bool:
        """Whether something was said that was not read yet, or the connection ended."""
        if self.broken or self._at < len(self._buffer):
            return True
        try:
            self._sock.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
        except BlockingIOError:
            return False
        except OSError:
            return True
        return True

    def fileno(self) -> int:
        """Of the socket."""
        return self._sock.fileno()

    # ---- requests ----

    def call(self, method: int, body: bytes, deadline: float, trace: int) -> bytes | bytearray:
        """The answer's body. Raises the server's error, or ConnectionLost, DeadlineExceeded, ProtocolError."""
        request_id = self._ask(method, body, deadline, trace)
        header = self._header()
        if header[1] != _ANSWER or header[4] != request_id or header[2]:
            self._unexpected(header, request_id)
        return self._body(header[0])

    def call_with_descriptors(
        self, method: int, body: bytes, deadline: float, trace: int
    ) -> tuple[bytes | bytearray, list[int]]:
        """The answer's body and the descriptors that came with it, owned by the caller."""
        self._takes_descriptors = True
        try:
            request_id = self._ask(method, body, deadline, trace)
            header = self._header()
            if header[1] != _ANSWER or header[4] != request_id:
                self._unexpected(header, request_id)
            answer = self._body(header[0])
        finally:
            self._takes_descriptors = False
        if header[2] != len(self._fds):
            self._break(ProtocolError(f"{self.address} sent {len(self._fds)} descriptors and named {header[2]}"))
        fds = list(self._fds)
        self._fds.clear()
        return answer, fds

    def read_into(self, method: int, body: bytes, view: memoryview, deadline: float, trace: int) -> int:
        """DATA of a stream straight into ``view``; returns the bytes filled."""
        return self.fill(self._ask(method, body, deadline, trace), view)

    def fill(self, request_id: int, view: memoryview) -> int:
        """DATA of a stream that was started straight into ``view``; returns the bytes filled: also where the connection broke after some."""
        header = self._header()
        self.heard_s, self.on_slow, self.answer = time.monotonic(), None, b""
        filled = 0
        try:
            while True:
                size = header[0]
                if header[4] != request_id or header[1] not in (_DATA, _ANSWER):
                    self._unexpected(header, request_id)
                if header[1] == _ANSWER:
                    self.answer = self._body(size)
                    return filled
                if filled + size > len(view):
                    self._break(ProtocolError(f"{self.address} sent more bytes than were asked for"))
                self._receive_into(view[filled : filled + size])
                filled += size
                header = self._header()
        except ConnectionLost:
            if not filled:
                raise
            return filled

    def start_stream(self, method: int, body: bytes, deadline: float, trace: int) -> int:
        """Ask; then call :meth:`next_of_stream` with the id returned until it is final."""
        return self._ask(method, body, deadline, trace)

    def next_of_stream(self, request_id: int) -> tuple[int, bytes | bytearray]:
        """(kind, body): ITEM, DATA, or the final ANSWER. Raises the server's error."""
        header = self._header()
        if header[4] != request_id or header[1] not in (_DATA, _ITEM, _ANSWER):
            self._unexpected(header, request_id)
        return header[1], self._body(header[0])

    def start(self, method: int, pieces: Sequence[bytes | memoryview], deadline: float, trace: int) -> int:
        """Send a request whose body is ``pieces``, uncopied, and do not wait: :meth:`finish` takes the answers.

        For few requests at a time: neither side may fill the other's buffers with what is not read.
        """
        self._deadline = deadline
        self._last_id = request_id = (self._last_id % 0xFFFFFFFF) + 1
        size = REST_BYTES + sum(map(len, pieces))
        header = pack_header(size, _REQUEST, 0, method, request_id, self._allowed_ms(), trace)
        self._send_pieces([header, *pieces])
        return request_id

    def finish(self, deadline: float) -> tuple[int, bytes | bytearray | MonofsError]:
        """The next request that was started and has its answer, and that answer or error."""
        self._deadline = deadline
        header = self._header()
        if header[1] not in (_ANSWER, _ERROR) or not header[4]:
            self._unexpected(header, 0)
        body = self._body(header[0])
        return header[4], body if header[1] == _ANSWER else decode_error(bytes(body))

    def call_many(
        self, method: int, bodies: Sequence[bytes], deadline: float, trace: int
    ) -> list[bytes | bytearray | MonofsError]:
        """All requests down one connection without waiting between them; answers or errors in the order of requests.

        Sends only as much as the server takes while it reads what the server says, so neither side can block the other.
        """
        self._deadline, self._patience_s = deadline, 0.0
        first = self._last_id + 1
        self._last_id += len(bodies)
        answers: list[bytes | bytearray | MonofsError | None] = [None] * len(bodies)
        sent, missing, waiting = 0, len(bodies), memoryview(b"")
        while missing:
            if not waiting and sent < len(bodies):
                waiting, sent = self._window(method, bodies, sent, first, trace)
            if waiting:
                waiting = waiting[self._send_some(waiting) :]
                if not waiting and sent < len(bodies):
                    continue
                if waiting and not self._wait_either():
                    continue
            header = self._header()
            index = header[4] - first
            if not 0 <= index < len(bodies) or answers[index] is not None or header[1] not in (_ANSWER, _ERROR):
                self._unexpected(header, 0)
            body = self._body(header[0])
            answers[index] = body if header[1] == _ANSWER else decode_error(bytes(body))
            missing -= 1
        return answers  # type: ignore[return-value] # missing == 0

    def _window(
        self, method: int, bodies: Sequence[bytes], start: int, first: int, trace: int
    ) -> tuple[memoryview, int]:
        """Frames of the next requests, about 64 KiB of them, and the position after them."""
        allowed = self._allowed_ms()
        out = bytearray()
        while start < len(bodies) and len(out) < WINDOW_BYTES:
            body = bodies[start]
            out += pack_header(REST_BYTES + len(body), _REQUEST, 0, method, first + start, allowed, trace)
            out += body
            start += 1
        return memoryview(out), start

    def _ask(self, method: int, body: bytes, deadline: float, trace: int) -> int:
        self._deadline, self.on_slow, self._patience_s = deadline, None, 0.0
        self._last_id = request_id = (self._last_id % 0xFFFFFFFF) + 1
        header = pack_header(REST_BYTES + len(body), _REQUEST, 0, method, request_id, self._allowed_ms(), trace)
        self._send(header + body)
        return request_id

    def _allowed_ms(self) -> int:
        """What the server is told: a little less than there is, so that its own account of what it waited for arrives in time."""
        left = self._deadline - time.monotonic()
        left -= min(_ACCOUNT_S, left / 4)
        return min(max(1, int(left * 1000)), LONGEST_DEADLINE_MS)

    def _unexpected(self, header: Header, request_id: int) -> NoReturn:
        """A frame that is no answer: the server's error, or a broken conversation."""
        if header[1] == _ERROR and header[4] in (0, request_id):
            error = decode_error(bytes(self._body(header[0])))
            if header[4] == 0:
                self._break(error)
            raise error
        self._break(ProtocolError(f"{self.address} sent a frame of kind {header[1]} nobody asked for"))

    # ---- bytes ----

    def _break(self, error: MonofsError) -> NoReturn:
        self.close()
        raise error

    def _wait_failed(self, error: OSError) -> None:
        """A wait for bytes ended: return when it is to go on, because it was a short one, or the server lives."""
        proof, then, was_short = self.proof, self.on_slow, self.slow_s > 0.0
        if error.errno != errno.EAGAIN or time.monotonic() >= self._deadline - _SLACK_S:
            self._failed(error)
        self._silence_s += self._armed_s
        self.slow_s, self.on_slow = 0.0, None
        if then is not None:
            began_s = time.monotonic()
            then()
            self._silence_s += time.monotonic() - began_s
        if proof is None:
            if not was_short:
                self._failed(error)
        elif self._silence_s < (self._patience_s or proof.first_s) - 2 * _SLACK_S:
            return
        elif not proof.lives():
            self._break(
                ConnectionLost(f"{self.address} is silent and does not answer others either", silent=self.address)
            )
        else:
            self._patience_s = proof.then_s
        self._silence_s = 0.0

    def _failed(self, error: OSError) -> NoReturn:
        """Turn an OSError of the socket into a typed error; EAGAIN is the kernel's time limit."""
        if error.errno == errno.EAGAIN:
            self._break(DeadlineExceeded(f"no answer from {self.address} within the time allowed"))
        self._break(ConnectionLost(f"the connection to {self.address} broke: {error.strerror or error}"))

    def _arm(self) -> None:
        """Let the kernel end the next wait at the deadline."""
        left = self._deadline - time.monotonic()
        if left <= 0:
            self._break(DeadlineExceeded(f"no answer from {self.address} within the time allowed"))
        if self.proof is not None:
            left = min(left, self._patience_s or self.proof.first_s)
        if self.slow_s:
            left = min(left, self.slow_s)
        if not -_SLACK_S < left - self._armed_s < _SLACK_S:
            limit = _TIMEVAL.pack(int(left), int(left % 1 * 1e6) or 1)
            try:
                self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, limit)
                self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, limit)
            except OSError as error:
                self._failed(error)
            self._armed_s = left

    def _send(self, data: bytes) -> None:
        sent = 0
        while sent < len(data):
            self._arm()
            try:
                sent += self._sock.send(memoryview(data)[sent:] if sent else data, _SEND_FLAGS)
            except OSError as error:
                if error.errno != errno.EAGAIN or not self.slow_s:
                    self._failed(error)
                self.slow_s = 0.0  # that limit is for the answer

    def _send_pieces(self, pieces: list[bytes | memoryview]) -> None:
        try:
            while pieces:
                self._arm()
                sent = self._sock.sendmsg(pieces, (), _SEND_FLAGS)
                while pieces and sent >= len(pieces[0]):
                    sent -= len(pieces.pop(0))
                if sent:
                    pieces[0] = memoryview(pieces[0])[sent:]
        except OSError as error:
            self._failed(error)

    def _send_some(self, view: memoryview) -> int:
        try:
            return self._sock.send(view, _SEND_FLAGS | socket.MSG_DONTWAIT)
        except BlockingIOError:
            return 0
        except OSError as error:
            self._failed(error)

    def _wait_either(self) -> bool:
        """Wait until the socket takes or has bytes; True when it has (or when it broke: the read will tell)."""
        if self._at < len(self._buffer):
            return True
        poll = select.poll()
        poll.register(self._sock, select.POLLIN | select.POLLOUT)
        left = self._deadline - time.monotonic()
        events = poll.poll(max(0, left) * 1000)
        if not events:
            self._break(DeadlineExceeded(f"no answer from {self.address} within the time allowed"))
        return bool(events[0][1] & ~select.POLLOUT)

    def _receive(self) -> bytes:
        """What has come, at least one byte."""
        data: bytes | None = None
        while data is None:
            self._arm()
            try:
                if self._takes_descriptors and isinstance(self._sock, socket.socket):
                    data = self._receive_message(self._sock)
                else:
                    data = self._sock.recv(READ_BYTES)
            except OSError as error:
                self._wait_failed(error)
        if not data:
            self._break(ConnectionLost(f"{self.address} closed the connection before it answered"))
        self._silence_s = 0.0
        return data

    def _receive_message(self, sock: socket.socket) -> bytes:
        """Bytes and the descriptors that came with them, which go to the queue."""
        data, messages, flags, _ = sock.recvmsg(READ_BYTES, _DESCRIPTOR_SPACE, socket.MSG_CMSG_CLOEXEC)
        for level, kind, payload in messages:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                fds = array.array("i")
                fds.frombytes(payload[: len(payload) - len(payload) % fds.itemsize])
                self._fds.extend(fds)
        if flags & socket.MSG_CTRUNC:
            self._break(ProtocolError(f"{self.address} sent more descriptors than fit, or none can be opened"))
        return data

    def _header(self) -> Header:
        """The next frame's header."""
        while len(self._buffer) - self._at < HEADER_BYTES:
            data = self._receive()
            self._buffer = self._buffer[self._at :] + data if self._at < len(self._buffer) else data
            self._at = 0
        header = unpack_header(self._buffer, self._at)
        try:
            check_header(header[0], header[1], header[2], self._limit)
        except MonofsError as error:
            self._break(error)
        self._at += HEADER_BYTES
        return header

    def _body(self, size: int) -> bytes | bytearray:
        """The body after a header."""
        end = self._at + size
        if end <= len(self._buffer):
            body = self._buffer[self._at : end]
            self._at = end
            return body
        whole = bytearray(size)
        self._receive_into(memoryview(whole))
        return whole

    def _receive_into(self, view: memoryview) -> None:
        """Fill ``view``: what is here already, then straight from the socket."""
        here = min(len(view), len(self._buffer) - self._at)
        view[:here] = memoryview(self._buffer)[self._at : self._at + here]
        self._at += here
        while here < len(view):
            self._arm()
            try:
                got = self._sock.recv_into(view[here:])
            except OSError as error:
                self._wait_failed(error)
                continue
            if not got:
                self._break(ConnectionLost(f"{self.address} closed the connection in the middle of an answer"))
            self._silence_s = 0.0
            here += got


def _connect(address: str, timeout_s: float) -> socket.socket:
    """A connected blocking socket. Raises Unreachable."""
    where = parse_address(address)
    try:
        if isinstance(where, str):
            sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            try:
                sock.settimeout(timeout_s)
                with unix_name(where) as name:
                    sock.connect(name)
            except BaseException:
                sock.close()
                raise
        else:
            sock = socket.create_connection(where, timeout_s)
        sock.settimeout(None)
        tune(sock)
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise Unreachable(f"cannot connect to {address}: {reason}", address=address) from None
    return sock
