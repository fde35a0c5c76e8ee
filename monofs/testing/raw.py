"""A bare socket to a door that says whatever bytes a test wants, and takes the answers apart.

Not here: what a good client does (rpc/conversation.py).
"""

from __future__ import annotations

import socket
from typing import Self

from monofs.model.errors import MonofsError
from monofs.rpc.frames import Frame, Kind, Splitter, decode_error, pack
from monofs.rpc.handshake import ClientHandshake, Credential

FRAME_MAX_BYTES = 16 << 20


class Raw:
    """Over TCP (``host:port``) or a Unix socket (its path). Close it, or use it as a context manager."""

    def __init__(self, address: str, timeout_s: float = 30.0) -> None:
        if address.startswith("/"):
            self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            self.sock.settimeout(timeout_s)
            self.sock.connect(address)
        else:
            host, _, port = address.rpartition(":")
            self.sock = socket.create_connection((host, int(port)), timeout_s)
        self.splitter = Splitter(FRAME_MAX_BYTES)
        self.frames: list[Frame] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.sock.close()

    def send(self, data: bytes) -> None:
        """These bytes."""
        self.sock.sendall(data)

    def open(self, credential: Credential | None = None) -> Self:
        """Shake hands."""
        shaking = ClientHandshake(credential or Credential())
        self.send(pack(Kind.HELLO, 0, 0, shaking.begin()))
        while shaking.welcome is None:
            frame = self.frame()
            assert frame.kind == Kind.HELLO, decode_error(frame.body)
            for answer in shaking.receive(bytes(frame.body)):
                self.send(pack(Kind.HELLO, 0, 0, answer))
        return self

    def frame(self) -> Frame:
        """The next frame. EOFError at the end."""
        while not self.frames:
            data = self.sock.recv(1 << 16)
            if not data:
                raise EOFError
            self.frames += self.splitter.feed(data)
        return self.frames.pop(0)

    def final(self) -> Frame:
        """The next final frame."""
        while True:
            frame = self.frame()
            if frame.kind in (Kind.ANSWER, Kind.ERROR):
                return frame

    def ask(self, method: int, body: bytes, *, deadline_ms: int = 20_000) -> Frame:
        """One request, its final frame."""
        self.send(pack(Kind.REQUEST, method, 1, body, deadline_ms=deadline_ms))
        return self.final()

    def error(self) -> MonofsError:
        """What the next frame refuses with."""
        frame = self.frame()
        assert frame.kind == Kind.ERROR, frame
        return decode_error(frame.body)

    def is_over(self) -> bool:
        """Read whatever comes until the end."""
        try:
            while True:
                self.frame()
        except (EOFError, ConnectionResetError):
            return True
