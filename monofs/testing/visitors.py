"""A browser without a window, for tests and benchmarks of the console: a session with its cookie, the API, and the WebSocket (RFC 6455), as bytes on a socket.

Not here: pages as people see them (tests/browser).
"""

from __future__ import annotations

import base64
import http.client
import json
import os
import re
import socket
import ssl
import time
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlencode, urlsplit

TIMEOUT_S = 60.0
TOLD = re.compile(rb'<script type="application/json" id="told">(.*?)</script>', re.DOTALL)


@dataclass
class Answer:
    """What came back. Names of headers are small."""

    status: int
    headers: dict[str, str]
    body: bytes
    cookies: list[str] = field(default_factory=list)

    def json(self) -> Any:
        """The body."""
        return json.loads(self.body)


class Visitor:
    """``base`` as the ready file tells it; ``ca``: the file of the authority of an https one."""

    def __init__(self, base: str, *, ca: str = "") -> None:
        parts = urlsplit(base)
        self.base, self.host, self.port = base, parts.hostname or "", parts.port or 0
        self.tls = ssl.create_default_context(cafile=ca) if parts.scheme == "https" else None
        self.cookie = self.csrf = ""

    def ask(self, method: str, path: str, body: Any = None, **headers: str) -> Answer:
        """One request on a connection of its own. ``body``: bytes, or what is sent as JSON. Underscores in names of headers are dashes."""
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        if self.cookie and "cookie" not in sent:
            sent["cookie"] = self.cookie
        if body is not None and not isinstance(body, bytes):
            body = json.dumps(body).encode()
            sent.setdefault("content-type", "application/json")
        connection: http.client.HTTPConnection
        if self.tls is None:
            connection = http.client.HTTPConnection(self.host, self.port, timeout=TIMEOUT_S)
        else:
            connection = http.client.HTTPSConnection(self.host, self.port, timeout=TIMEOUT_S, context=self.tls)
        try:
            connection.request(method, path, body, sent)
            answer = connection.getresponse()
            lines = answer.getheaders()
            kept = [value for name, value in lines if name.lower() == "set-cookie"]
            return Answer(answer.status, {name.lower(): value for name, value in lines}, answer.read(), kept)
        finally:
            connection.close()

    def enter(self) -> Visitor:
        """Open a page, as a program of this machine that needs no token."""
        self._take(self.ask("GET", "/"))
        return self

    def sign_in(self, token: str) -> Visitor:
        """With a token. Raises ``PermissionError``."""
        answer = self._post_token(token)
        if answer.status != 303:
            raise PermissionError(answer.status, answer.body.decode())
        self._take(answer)
        self._take(self.ask("GET", "/"))
        return self

    def change(self, method: str, path: str, body: Any = None, **headers: str) -> Answer:
        """A change as a page asks for it."""
        return self.ask(method, path, body, **{"x_csrf_token": self.csrf, "origin": self.base, **headers})

    def watch(self, *topics: str, **headers: str) -> Socket:
        """The WebSocket, with these topics asked for. Raises ``ConnectionRefusedError`` with the status."""
        wanted = {"origin": self.base, "cookie": self.cookie, **headers}
        return Socket(self, {name: value for name, value in wanted.items() if value}, topics)

    def connect(self) -> socket.socket:
        """A socket to the console, for what no well-behaved client sends."""
        plain = socket.create_connection((self.host, self.port), TIMEOUT_S)
        return plain if self.tls is None else self.tls.wrap_socket(plain, server_hostname=self.host)

    def _post_token(self, token: str) -> Answer:
        body = urlencode({"token": token}).encode()
        return self.ask("POST", "/sign-in", body, content_type="application/x-www-form-urlencoded", origin=self.base)

    def _take(self, answer: Answer) -> None:
        for line in answer.cookies:
            self.cookie = line.partition(";")[0]
        found = TOLD.search(answer.body)
        if found is not None:
            self.csrf = json.loads(found.group(1))["csrf"]


class Socket:
    """One WebSocket."""

    def __init__(self, visitor: Visitor, headers: dict[str, str], topics: tuple[str, ...]) -> None:
        self.sock = visitor.connect()
        self.received_bytes = 0
        self._held = bytearray()
        key = base64.b64encode(os.urandom(16)).decode()
        lines = [
            "GET /ws HTTP/1.1", f"Host: {visitor.host}:{visitor.port}", "Upgrade: websocket", "Connection: Upgrade",
            f"Sec-WebSocket-Key: {key}", "Sec-WebSocket-Version: 13", *(f"{name}: {value}" for name, value in headers.items()),
        ]  # fmt: skip
        self.sock.sendall("\r\n".join([*lines, "", ""]).encode())
        status = self._line()
        if " 101 " not in status:
            self.sock.close()
            raise ConnectionRefusedError(int(status.split(" ")[1]), status)
        while self._line():
            pass
        for topic in topics:
            self.order(watch=topic)

    def order(self, **order: str) -> None:
        """Say something."""
        self.send(json.dumps(order).encode())

    def send(self, data: bytes, opcode: int = 1) -> None:
        """A frame, masked as a client's must be."""
        mask = os.urandom(4)
        size = len(data)
        length = bytes([0x80 | size]) if size < 126 else b"\xfe" + size.to_bytes(2, "big")
        self.sock.sendall(bytes([0x80 | opcode]) + length + mask + bytes(b ^ mask[at % 4] for at, b in enumerate(data)))

    def receive(self) -> dict[str, Any] | None:
        """The next message; None: the other side closed. Pings are answered. Raises ``TimeoutError``."""
        while True:
            head = self._take(2)
            if head is None:
                return None
            size = head[1] & 0x7F
            if size >= 126:
                more = self._take(2 if size == 126 else 8)
                if more is None:
                    return None
                size = int.from_bytes(more, "big")
            data = self._take(size)
            if data is None or head[0] & 0xF == 8:
                return None
            if head[0] & 0xF == 9:
                self.send(data, 10)
                continue
            self.received_bytes += size
            told: dict[str, Any] = json.loads(data)
            return told

    def until(self, topic: str, *, is_right: Any = lambda _: True) -> Any:
        """The value of a topic once it is right. Raises ``TimeoutError``, ``ConnectionError``."""
        deadline, value = time.monotonic() + TIMEOUT_S, None
        while time.monotonic() < deadline:
            message = self.receive()
            if message is None:
                raise ConnectionResetError("the socket was closed")
            if message["topic"] != topic:
                continue
            value = message["value"] if "value" in message else changed(value, message.get("change", {}))
            if value is not None and is_right(value):
                return value
        raise TimeoutError(f"{topic} is {value}")

    def close(self) -> None:
        """Without a goodbye."""
        self.sock.close()

    def _line(self) -> str:
        while b"\r\n" not in self._held:
            if not self._read():
                return ""
        line, _, rest = bytes(self._held).partition(b"\r\n")
        self._held = bytearray(rest)
        return line.decode("latin-1")

    def _take(self, size: int) -> bytes | None:
        while len(self._held) < size:
            if not self._read():
                return None
        data = bytes(self._held[:size])
        del self._held[:size]
        return data

    def _read(self) -> bool:
        try:
            data = self.sock.recv(1 << 16)
        except ConnectionError:
            return False
        self._held += data
        return bool(data)


def changed(value: dict[str, Any] | None, change: dict[str, Any]) -> dict[str, Any]:
    """A value after a change, as live.js makes it."""
    after = {**(value or {}), **change.get("=", {})}
    for key in change.get("-", ()):
        after.pop(key, None)
    for key, inner in change.get("~", {}).items():
        after[key] = changed(after.get(key), inner)
    return after
