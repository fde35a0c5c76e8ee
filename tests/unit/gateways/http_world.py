"""A real HTTP door on a real reactor, with a handler for every way of answering, and a client that is as bad as it is told to be."""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater

from monofs.gateways.http import Door, Exchange, Limits, listen_http
from monofs.model.errors import InvariantBroken
from monofs.testing.reactors import Loop


def pattern(offset: int, size: int) -> bytes:
    """Bytes that tell their own position: position modulo 251."""
    start = offset % 251
    return (bytes(range(251)) * (size // 251 + 2))[start : start + size]


class Shop:
    """Paths are `/what/number`; see the methods. ``seen`` are the exchanges in their order, ``heard`` what came of bodies, ``gone`` whose client left."""

    def __init__(self, loop: Loop, directory: str) -> None:
        self.loop = loop
        self.seen: list[Exchange] = []
        self.heard: list[bytes] = []
        self.ended: list[Exchange] = []
        self.gone: list[Exchange] = []
        self.fatal: list[BaseException] = []
        self.doors: list[Door] = []
        self._file = os.path.join(directory, "file")

    def open(self, limits: Limits | None = None, **named: Any) -> Door:
        named = {"name": "test", "limits": limits, "on_fatal": self.fatal.append} | named
        door: Door = self.loop.do(listen_http, self.loop.reactor, "127.0.0.1", 0, self.handle, **named)
        self.doors.append(door)
        return door

    def stop(self) -> None:
        for door in self.doors:
            self.loop.do(door.stop, 0)
            assert not door.connections
            assert (door.held_bytes, door.queued_bytes, door.slow, len(door.deadlines)) == (0, 0, set(), 0)

    def only(self, door: Door) -> Any:
        """The door's connection."""
        self.loop.wait_until(lambda: len(door.connections) == 1)
        return next(iter(door.connections))

    def handle(self, exchange: Exchange) -> Any:
        self.seen.append(exchange)
        exchange.on_gone(lambda: self.gone.append(exchange))
        what, _, number = exchange.target[1:].partition("?")[0].partition("/")
        handler = getattr(self, f"on_{what.replace('-', '_')}", None)
        if handler is None:
            return exchange.answer(404, [], b"no such thing")
        return handler(exchange, int(number or 0))

    # ---- answers at once

    def on_bytes(self, exchange: Exchange, size: int) -> None:
        exchange.answer(200, [(b"Content-Type", b"text/plain")], pattern(0, size))

    def on_status(self, exchange: Exchange, status: int) -> None:
        exchange.answer(status, [], b"the body of an answer")

    def on_split(self, exchange: Exchange, _: int) -> None:
        exchange.answer(200, [(b"X-Name", b"a\r\nX-Forged: yes")])

    def on_bug(self, exchange: Exchange, _: int) -> None:
        raise ZeroDivisionError("a secret inside")

    def on_broken(self, exchange: Exchange, _: int) -> None:
        raise InvariantBroken("a secret inside")

    # ---- answers later

    def on_hold(self, exchange: Exchange, _: int) -> None:
        """The test answers."""

    def on_later(self, exchange: Exchange, number: int) -> None:
        self.loop.reactor.callLater(0, exchange.answer, 200, (), b"%d" % number)

    async def on_coroutine(self, exchange: Exchange, number: int) -> None:
        await deferLater(self.loop.reactor, 0, lambda: None)
        exchange.answer(200, (), b"%d" % number)

    async def on_late_bug(self, exchange: Exchange, _: int) -> None:
        await deferLater(self.loop.reactor, 0, lambda: None)
        raise ZeroDivisionError("a secret inside")

    def on_failing(self, exchange: Exchange, _: int) -> Deferred[None]:
        failing: Deferred[None] = Deferred()
        self.loop.reactor.callLater(0, failing.errback, ZeroDivisionError("a secret inside"))
        return failing

    # ---- answers bit by bit

    def on_stream(self, exchange: Exchange, size: int, length: int | None = -1, step: int = 100_000) -> None:
        """``size`` bytes, as fast as they are read."""
        exchange.begin(200, [], size if length == -1 else length)
        offset = 0

        def go() -> None:
            nonlocal offset
            while offset < size and not exchange.closed:
                if not exchange.writable:
                    exchange.when_writable(go)
                    return
                piece = pattern(offset, min(step, size - offset))
                offset += len(piece)
                exchange.data(piece)
            exchange.end()

        go()

    def on_chunks(self, exchange: Exchange, size: int) -> None:
        self.on_stream(exchange, size, None)

    def on_dribble(self, exchange: Exchange, size: int) -> None:
        self.on_stream(exchange, size, None, 7)

    def on_file(self, exchange: Exchange, size: int, length: int | None = -1) -> None:
        """``size`` bytes of a file, all at once; for `/file/0?N` in pieces is no use here."""
        with open(self._file, "wb") as file:
            file.write(pattern(0, size))
        exchange.begin(200, [], size if length == -1 else length)
        fd = os.open(self._file, os.O_RDONLY)
        exchange.send_file(fd, 0, size // 2)
        exchange.send_file(fd, size // 2, size - size // 2)
        os.close(fd)
        exchange.end()

    def on_file_chunks(self, exchange: Exchange, size: int) -> None:
        self.on_file(exchange, size, None)

    def on_short_file(self, exchange: Exchange, size: int) -> None:
        with open(self._file, "wb") as file:
            file.write(pattern(0, size // 2))
        exchange.begin(200, [], size)
        fd = os.open(self._file, os.O_RDONLY)
        exchange.send_file(fd, 0, size)
        os.close(fd)
        exchange.end()

    def on_cut(self, exchange: Exchange, size: int) -> None:
        exchange.begin(200, [], size)
        exchange.data(pattern(0, size // 2))
        self.loop.reactor.callLater(0, exchange.cut)

    def on_cut_chunks(self, exchange: Exchange, size: int) -> None:
        exchange.begin(200, [])
        exchange.data(pattern(0, size // 2))
        self.loop.reactor.callLater(0, exchange.cut)

    def on_bug_in_the_middle(self, exchange: Exchange, _: int) -> None:
        exchange.begin(200, [], 100)
        exchange.data(b"some")
        raise ZeroDivisionError("a secret inside")

    def on_too_little(self, exchange: Exchange, _: int) -> None:
        exchange.begin(200, [], 100)
        exchange.data(b"some")
        exchange.end()

    def on_too_much(self, exchange: Exchange, _: int) -> None:
        exchange.begin(200, [], 3)
        exchange.data(b"some")

    def on_flood(self, exchange: Exchange, _: int) -> None:
        exchange.begin(200, [])
        while not exchange.closed:
            exchange.data(bytes(1 << 20))

    # ---- bodies

    def on_echo(self, exchange: Exchange, _: int) -> None:
        pieces: list[memoryview] = []

        def end() -> None:
            self.ended.append(exchange)
            exchange.answer(200, [], b"".join(pieces))

        exchange.receive(pieces.append, end)

    def on_take(self, exchange: Exchange, _: int) -> None:
        """The test says when to go on, and answers."""
        exchange.receive(lambda piece: self.heard.append(bytes(piece)), lambda: self.ended.append(exchange))

    def on_take_paused(self, exchange: Exchange, _: int) -> None:
        exchange.pause()
        self.on_take(exchange, 0)

    def on_take_some(self, exchange: Exchange, _: int) -> None:
        """Answers when the first bytes come."""

        def take(piece: memoryview) -> None:
            self.heard.append(bytes(piece))
            exchange.answer(403, [], b"enough")

        exchange.receive(take, lambda: self.ended.append(exchange))

    def on_bug_in_bytes(self, exchange: Exchange, _: int) -> None:
        exchange.receive(lambda piece: 1 / 0, lambda: None)  # type: ignore[arg-type, return-value]


@dataclass
class Answer:
    """As a client sees it."""

    status: int
    headers: dict[str, str]
    body: bytes
    chunks: list[int]


class Raw:
    """A bare socket that speaks HTTP badly."""

    def __init__(self, door: Door, context: Any = None) -> None:
        host, _, port = door.address.rpartition(":")
        self.sock: Any = socket.create_connection((host, int(port)), 10)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if context is not None:
            self.sock = context.wrap_socket(self.sock, server_hostname="localhost", suppress_ragged_eofs=False)
        self.file = self.sock.makefile("rb")

    def __enter__(self) -> Raw:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self.file.close()
        self.sock.close()

    def send(self, data: bytes) -> None:
        self.sock.sendall(data)

    def ask(self, target: str, method: str = "GET", *lines: str, body: bytes = b"", version: str = "1.1") -> Answer:
        self.send(request(target, method, *lines, body=body, version=version))
        return self.answer(method)

    def answer(self, method: str = "GET") -> Answer:
        """The next one; EOFError when the door closed before it, or in the middle of it."""
        line = self.file.readline()
        if not line:
            raise EOFError
        assert line.startswith(b"HTTP/1.1 "), line
        status, headers = int(line[9:12]), {}
        while (line := self.file.readline()) != b"\r\n":
            name, _, value = line.decode("latin-1").partition(": ")
            assert name.lower() not in headers
            assert value.endswith("\r\n"), (line, "the head ended early")
            headers[name.lower()] = value[:-2]
        chunks: list[int] = []
        if method == "HEAD" or status in (100, 204, 304):
            body = b""
        elif headers.get("transfer-encoding") == "chunked":
            pieces = []
            while True:
                line = self.file.readline()
                if not line.endswith(b"\r\n"):
                    raise EOFError
                size = int(line, 16)
                piece = self.file.read(size + 2)
                if len(piece) < size + 2:
                    raise EOFError
                assert piece[size:] == b"\r\n"
                if not size:
                    break
                chunks.append(size)
                pieces.append(piece[:-2])
            body = b"".join(pieces)
        elif "content-length" in headers:
            body = self.file.read(int(headers["content-length"]))
            if len(body) < int(headers["content-length"]):
                raise EOFError
        else:
            assert headers["connection"] == "close"
            body = self.file.read()
        return Answer(status, headers, body, chunks)

    def refused(self) -> Answer:
        """The answer after which the door has closed."""
        answer = self.answer()
        assert answer.headers["connection"] == "close"
        assert self.is_closed()
        return answer

    def is_closed(self) -> bool:
        """The door has closed, after whatever it said."""
        try:
            while self.file.read1(1 << 16):
                pass
        except ConnectionResetError:
            pass
        return True


def request(target: str, method: str = "GET", *lines: str, body: bytes = b"", version: str = "1.1") -> bytes:
    """Its bytes."""
    head = [f"{method} {target} HTTP/{version}", "Host: door", *lines]
    if body and not any(line.lower().startswith(("content-length", "transfer-encoding")) for line in lines):
        head.append(f"Content-Length: {len(body)}")
    return "\r\n".join([*head, "", ""]).encode("latin-1") + body
