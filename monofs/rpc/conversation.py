"""One blocking connection to a server, for programs without a reactor: one request at a time, or a pipeline of them.

Invariant: nobody is given another request's bytes: after anything but a complete answer (an ERROR frame of the request counts as
one) the conversation is ``broken``.

Not here: bytes and frames, and how long they are waited for (blocking.py); which address, when to try again, sharing between threads (sync.py, conversations.py).
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import NoReturn

from monofs.model.errors import ConnectionLost, DeadlineExceeded, FrameTooLarge, MonofsError, ProtocolError, Unreachable
from monofs.rpc.blocking import BlockingLink, Header
from monofs.rpc.frames import ANSWER_MAX_BYTES, LONGEST_DEADLINE_MS, REST_BYTES, Kind, decode_error, pack, pack_header
from monofs.rpc.handshake import ClientHandshake, Credential, Welcome
from monofs.rpc.tls import ClientTls

WINDOW_BYTES = 64 << 10
"""Bytes of pipelined requests made ready at a time."""
HANDSHAKE_S = 10.0
_ACCOUNT_S = 0.2
"""The server looks at its deadlines about every 0.1 s."""
_HELLO, _REQUEST, _ANSWER, _ERROR = int(Kind.HELLO), int(Kind.REQUEST), int(Kind.ANSWER), int(Kind.ERROR)
_ITEM, _DATA = int(Kind.ITEM), int(Kind.DATA)


class Conversation(BlockingLink):
    """A connection after its handshake. Use from one thread at a time.

    Raises Unreachable when no connection could be made or the other side is no monofs server; Unauthenticated,
    VersionMismatch and whatever else the server says. ``deadline`` arguments are time.monotonic seconds.
    """

    __slots__ = ("_last_id", "answer", "heard_s", "welcome")

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
        super().__init__(address, deadline, connect_s=connect_s)
        self.answer: bytes | bytearray = b""
        """What ended the last stream that filled a buffer."""
        self.heard_s = 0.0
        """When that stream began to come (time.monotonic)."""
        self._last_id = 0
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
