"""`/ws`: the one WebSocket of a browser (RFC 6455). It subscribes to topics and receives values and changes (hub.py).

From the browser: ``{"watch": topic}``, ``{"leave": topic}``; anything else, and more than ``MESSAGE_MAX_BYTES``, ends the connection. Invariant: only a page of this very origin gets in, with its
session; what a slow browser does not take waits in its connection's buffer up to ``BUFFER_BYTES``, then is dropped and told of. Not here: sessions (viewers.py).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
from autobahn.twisted.websocket import WebSocketServerFactory, WebSocketServerProtocol

from monofs.web.hub import Hub
from monofs.web.viewers import Viewer

MESSAGE_MAX_BYTES = 32 << 10
"""A topic may name a path of 4,096 bytes, each escaped."""
PING_S, SILENT_S = 20, 40
CONNECTIONS_MAX = 1024


class _Order(msgspec.Struct):
    watch: str = ""
    leave: str = ""


_decode = msgspec.json.Decoder(_Order).decode


class Browser(WebSocketServerProtocol):
    """One connection: a ``hub.Watcher``, and the producer of its own transport, which tells when the kernel takes no more."""

    is_full = False
    factory: Door
    viewer: Viewer

    def onOpen(self) -> None:
        """The handshake is through."""
        transport: Any = self.transport
        self.factory.open.add(self)
        transport.unregisterProducer()  # that of the HTTP channel, which is over
        transport.registerProducer(self, True)

    def onMessage(self, payload: bytes, isBinary: bool) -> None:  # noqa: ARG002, N803 - as autobahn calls it
        """An order."""
        try:
            order = _decode(payload)
        except (msgspec.MsgspecError, UnicodeError):
            self.sendClose(1008, "not an order")
            return
        if order.watch and not self.factory.watch(order.watch, self):
            self.send(msgspec.json.encode({"topic": order.watch, "error": _REFUSED}))
        if order.leave:
            self.factory.leave(order.leave, self)

    def onClose(self, wasClean: bool, code: int, reason: str) -> None:  # noqa: ARG002, N803 - as autobahn calls it
        """It is gone."""
        self.factory.open.discard(self)
        self.factory.gone(self)

    def send(self, message: bytes) -> None:
        """Text, of any length: the bound of messages is for those that come in, and autobahn's own call would drop what is longer."""
        if self.state == self.STATE_OPEN:
            transport: Any = self.transport
            transport.write(self.factory.frame(message))

    def pauseProducing(self) -> None:
        """The transport's buffer is full (64 KiB)."""
        self.is_full = True

    def resumeProducing(self) -> None:
        """It is empty again."""
        self.is_full = False
        self.factory.hub.drained(self)

    def stopProducing(self) -> None:
        """The connection ends."""
        self.is_full = True


class Door(WebSocketServerFactory):
    """Makes connections. ``watch`` and ``leave`` begin and end what a browser watches."""

    protocol: Any = Browser

    def __init__(self, hub: Hub, watch: Callable[[str, Browser], bool], leave: Callable[[str, Browser], None]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.hub, self.watch, self.leave = hub, watch, leave
        self.open: set[Browser] = set()
        self._framed: tuple[bytes, bytes] = (b"", b"\x81\x00")
        self.viewer: Any = None
        """Whose connection is made next."""
        options: Any = self.setProtocolOptions
        options(
            maxMessagePayloadSize=MESSAGE_MAX_BYTES,
            maxFramePayloadSize=MESSAGE_MAX_BYTES,
            autoPingInterval=PING_S,
            autoPingTimeout=SILENT_S - PING_S,
            openHandshakeTimeout=10,
            closeHandshakeTimeout=2,
            failByDrop=True,
        )

    def buildProtocol(self, addr: Any) -> Any:
        """A connection of :attr:`viewer`; None at the bound."""
        if len(self.open) >= CONNECTIONS_MAX:
            return None
        browser: Any = super().buildProtocol(addr)
        browser.viewer = self.viewer
        return browser

    def gone(self, browser: Browser) -> None:
        """It watches nothing any more."""
        for name in [name for name, topic in self.hub.topics.items() if browser in topic.watchers]:
            self.leave(name, browser)

    def frame(self, message: bytes) -> bytes:
        """A message as it goes out (RFC 6455, section 5.2: one frame, text, not masked); the same bytes for all who watch."""
        if message is not self._framed[0]:
            size = len(message)
            short = (
                size.to_bytes(1, "big")
                if size < 126
                else b"\x7e" + size.to_bytes(2, "big")
                if size < 1 << 16
                else b"\x7f" + size.to_bytes(8, "big")
            )
            self._framed = (message, b"\x81" + short + message)
        return self._framed[1]

    def drop(self, viewer: Viewer) -> None:
        """End the connections of a session that is over."""
        for browser in [browser for browser in self.open if browser.viewer is viewer]:
            browser.sendClose(4401, "this session is over")

    def close(self) -> None:
        """End all connections."""
        for browser in list(self.open):
            browser.dropConnection(abort=True)


_REFUSED = {
    "error": "InvalidArgument",
    "code": 1001,
    "message": "there is no such topic, you may not watch it, or too much is watched already",
    "hint": "",
    "retry": False,
}
