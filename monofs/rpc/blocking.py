"""A blocking stream socket that says and hears frames, for programs without a reactor.

Invariants: every wait ends: at the deadline of the request, or when the server says nothing and does not show that it lives. After an error the link is ``broken`` and
its socket closed; so it is when a frame makes no sense, or is cut off. Time limits are the kernel's (SO_RCVTIMEO), set only when they change, so a call costs one
send and one recv.

Not here: what frames say (conversation.py), the link of a reactor (link.py).
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
from collections.abc import Callable
from typing import NamedTuple, NoReturn

from monofs.model.errors import ConnectionLost, DeadlineExceeded, MonofsError, ProtocolError, Unreachable
from monofs.rpc.addresses import parse_address, tune, unix_name
from monofs.rpc.frames import DESCRIPTORS_MAX, HEADER_BYTES, HELLO_MAX_BYTES, check_header, unpack_header
from monofs.rpc.tls import ClientTls, TlsSocket

READ_BYTES = 64 << 10
_TIMEVAL = struct.Struct("ll")
_SLACK_S = 0.02
"""A time limit already set this much too late is left as it is."""
_DESCRIPTOR_SPACE = socket.CMSG_SPACE(DESCRIPTORS_MAX * array.array("i").itemsize)
_SEND_FLAGS = socket.MSG_NOSIGNAL
Header = tuple[int, int, int, int, int, int, int]


class Proof(NamedTuple):
    """How a server that says nothing shows that it lives."""

    first_s: float
    """So long it may be silent before it is asked; and, once it was seen to live, ``then_s``."""
    then_s: float
    lives: Callable[[], bool]


class BlockingLink:
    """A connected socket. Use from one thread at a time. Raises Unreachable when no connection could be made.

    Subclasses set ``_deadline`` (time.monotonic) before they send.
    """

    __slots__ = (
        "_armed_s",
        "_at",
        "_buffer",
        "_deadline",
        "_fds",
        "_limit",
        "_patience_s",
        "_silence_s",
        "_sock",
        "_takes_descriptors",
        "address",
        "broken",
        "on_slow",
        "proof",
        "slow_s",
    )

    def __init__(self, address: str, deadline: float, *, connect_s: float) -> None:
        self.address = address
        self.proof: Proof | None = None
        """Whether the server still lives, asked when an answer keeps its caller waiting; None: it is waited for until the deadline."""
        self.broken = False
        self.slow_s = self._silence_s = self._patience_s = 0.0
        self.on_slow: Callable[[], None] | None = None
        """Called once if the answer to a request that was started has not begun ``slow_s`` after; what it raises ends the wait."""
        self._buffer = b""
        self._at = 0
        self._armed_s = -1.0
        self._deadline = deadline
        self._fds: deque[int] = deque()
        self._takes_descriptors = False
        self._limit = HELLO_MAX_BYTES
        left = min(connect_s, deadline - time.monotonic())
        if left <= 0:
            raise DeadlineExceeded(f"no time was left to connect to {address}")
        self._sock: socket.socket | TlsSocket = _connect(address, left)

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

    # ---- frames ----

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
