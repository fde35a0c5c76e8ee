"""A load generator: many connections with a fixed number of requests in flight on each, from one thread.

It encodes requests beforehand and only counts answers, so that the server, not the generator, is what is measured; its own share of the
machine is reported by the callers as the bare-socket reference. The handshake is the client's own.
"""

from __future__ import annotations

import select
import socket
import struct
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

from monofs.model.errors import ConnectionLost, DeadlineExceeded
from monofs.rpc.conversation import Conversation
from monofs.rpc.frames import HEADER_BYTES, Kind, decode_error, pack
from monofs.rpc.handshake import Credential

_LENGTH = struct.Struct(">I").unpack_from
_RECEIVE_BYTES = 256 << 10
Request = tuple[int, bytes]
"""Method number and encoded body."""


@dataclass(slots=True)
class Outcome:
    """What one storm measured; ``latencies_s`` holds every request's time when one was in flight on each connection."""

    requests: int = 0
    seconds: float = 0.0
    errors: int = 0
    latencies_s: list[float] = field(default_factory=list)

    @property
    def rate(self) -> float:
        """Requests a second."""
        return self.requests / self.seconds if self.seconds else 0.0

    def percentile_s(self, share: float) -> float:
        """Latency at a share of all requests."""
        ordered = sorted(self.latencies_s)
        return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else 0.0


class _Peer:
    __slots__ = ("flying", "held", "last_id", "outbox", "sent_at", "sock", "talk", "waits")

    def __init__(self, address: str, credential: Credential) -> None:
        self.talk = Conversation(address, credential, time.monotonic() + 30)
        assert isinstance(self.talk._sock, socket.socket), "storms are not spoken under TLS"  # noqa: S101 - callers see to it
        self.sock = self.talk._sock
        self.sock.setblocking(False)
        self.held = b""
        self.outbox = b""
        self.flying = self.last_id = 0
        self.waits = False
        self.sent_at = 0.0


class Storm:
    """Open ``connections`` to ``address`` once; then :meth:`run` any number of times. Close it at the end."""

    def __init__(self, address: str, credential: Credential, connections: int) -> None:
        self.connections = connections
        self._peers = {peer.sock.fileno(): peer for peer in (_Peer(address, credential) for _ in range(connections))}
        self._epoll = select.epoll()
        for fd in self._peers:
            self._epoll.register(fd, select.EPOLLIN)

    def run(self, requests: Iterator[Request], *, in_flight: int = 1, limit_s: float = 120.0) -> Outcome:
        """Send all of ``requests``, keeping ``in_flight`` on each connection. Raises the first error a server answers.

        Raises ``DeadlineExceeded`` after ``limit_s``.
        """
        outcome = Outcome()
        begin = time.perf_counter()
        for peer in self._peers.values():
            self._fill(peer, requests, in_flight)
        busy = sum(peer.flying for peer in self._peers.values())
        while busy:
            events = self._epoll.poll(1.0)
            if time.perf_counter() - begin > limit_s:
                raise DeadlineExceeded(f"the benchmark did not finish within {limit_s:g} s")
            for fd, event in events:
                peer = self._peers[fd]
                if event & select.EPOLLOUT:
                    self._send(peer)
                if event & ~select.EPOLLOUT:
                    busy -= self._receive(peer, outcome, timed=in_flight == 1)
                    busy += self._fill(peer, requests, in_flight)
        outcome.seconds = time.perf_counter() - begin
        return outcome

    def _fill(self, peer: _Peer, requests: Iterator[Request], in_flight: int) -> int:
        frames = []
        while peer.flying < in_flight:
            request = next(requests, None)
            if request is None:
                break
            peer.flying += 1
            peer.last_id = peer.last_id % 0xFFFFFFFF + 1
            frames.append(pack(Kind.REQUEST, request[0], peer.last_id, request[1]))
        if frames:
            peer.outbox += b"".join(frames) if len(frames) > 1 else frames[0]
            peer.sent_at = time.perf_counter()
            self._send(peer)
        return len(frames)

    def _send(self, peer: _Peer) -> None:
        try:
            sent = peer.sock.send(peer.outbox)
        except BlockingIOError:
            sent = 0
        peer.outbox = peer.outbox[sent:]
        if bool(peer.outbox) != peer.waits:
            peer.waits = not peer.waits
            self._epoll.modify(peer.sock.fileno(), select.EPOLLIN | (select.EPOLLOUT if peer.waits else 0))

    def _receive(self, peer: _Peer, outcome: Outcome, *, timed: bool) -> int:
        data = peer.sock.recv(_RECEIVE_BYTES)
        if not data:
            raise ConnectionLost("the server closed a connection of the benchmark")
        if peer.held:
            data = peer.held + data
        position, size, answered = 0, len(data), 0
        while size - position >= HEADER_BYTES:
            end = position + 4 + _LENGTH(data, position)[0]
            if end > size:
                break
            kind = data[position + 4]
            if kind == Kind.ERROR:
                raise decode_error(data[position + HEADER_BYTES : end])
            answered += kind == Kind.ANSWER
            position = end
        peer.held = data[position:] if position < size else b""
        peer.flying -= answered
        outcome.requests += answered
        if timed and answered:
            outcome.latencies_s.append(time.perf_counter() - peer.sent_at)
        return answered

    def close(self) -> None:
        """Close all connections."""
        self._epoll.close()
        for peer in self._peers.values():
            peer.talk.close()
