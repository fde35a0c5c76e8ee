"""The HTTP door for operators, and for events of stores (events.py), on `console.port`.

Invariant: it only reads status, and an event causes a look at a store at most; nothing here changes the tree, and no secret is reachable from
it. Requests are bounded: twisted.web limits header bytes, and :class:`BoundedRequest` the body, before it is received.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
from prometheus_client import GCCollector, ProcessCollector
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.registry import CollectorRegistry
from twisted.web.resource import Resource
from twisted.web.server import Request, Site

from monofs.observe.metrics import NodeCollector
from monofs.web.events import BODY_MAX_BYTES, EventsDoor

IDLE_TIMEOUT_S = 60


class Metrics(Resource):
    """``GET /metrics``: Prometheus text format 0.0.4."""

    isLeaf = True

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._registry = CollectorRegistry()
        self._registry.register(NodeCollector())
        ProcessCollector(registry=self._registry)
        GCCollector(registry=self._registry)

    def render_GET(self, request: Request) -> bytes:
        """All families of this node."""
        request.setHeader(b"content-type", CONTENT_TYPE_LATEST.encode())
        return generate_latest(self._registry)


class Health(Resource):
    """``GET /health``, readiness: 200 and a JSON object while clients should come here; else 503, with the ``reason``: it starts or stops, or is a master
    that knows of no leader."""

    isLeaf = True

    def __init__(self, status: Callable[[], dict[str, object]]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._status = status

    def render_GET(self, request: Request) -> bytes:
        """``{"ready": true, ...}``."""
        status = self._status()
        request.setHeader(b"content-type", b"application/json")
        if not status.get("ready"):
            request.setResponseCode(503)
        return msgspec.json.encode(status) + b"\n"


class Live(Resource):
    """``GET /live``, liveness: 200 while the process answers, also when it waits for others. What restarts a node that does not must ask this, not
    ``/health``: no restart brings a leader."""

    isLeaf = True

    def render_GET(self, request: Request) -> bytes:
        """``{"live": true}``."""
        request.setHeader(b"content-type", b"application/json")
        return b'{"live":true}\n'


class BoundedRequest(Request):
    """A request whose body is refused with 413 once it is known to be too long, announced or not."""

    refused = False
    received_bytes = 0

    def gotLength(self, length: int | None) -> None:
        """The headers are complete."""
        super().gotLength(0 if length is not None and length > BODY_MAX_BYTES else length)  # type: ignore[no-untyped-call]
        if length is not None and length > BODY_MAX_BYTES:
            self._refuse()

    def handleContentChunk(self, data: bytes) -> None:
        """More of the body came."""
        self.received_bytes += len(data)
        if self.refused:
            return
        if self.received_bytes > BODY_MAX_BYTES:
            self._refuse()
        else:
            super().handleContentChunk(data)  # type: ignore[no-untyped-call]

    def process(self) -> None:
        """The request is complete."""
        if not self.refused:
            super().process()  # type: ignore[no-untyped-call]

    def _refuse(self) -> None:
        self.refused = True
        transport: Any = self.channel.transport
        transport.write(b"HTTP/1.1 413 Content Too Large\r\nConnection: close\r\nContent-Length: 0\r\n\r\n")
        transport.loseConnection()


class Front(Resource):
    """``GET /``: what there is."""

    def render_GET(self, request: Request) -> bytes:
        """Plain text."""
        request.setHeader(b"content-type", b"text/plain; charset=utf-8")
        return b"monofs\n\n/metrics  Prometheus metrics\n/health   readiness as JSON\n/live     whether the process answers\n/events   POST: what stores tell of their objects\n"


def listen_console(
    reactor: Any, host: str, port: int, status: Callable[[], dict[str, object]], events: EventsDoor | None = None
) -> Any:
    """Open the door; returns Twisted's listening port. Raises twisted's ``CannotListenError``. ``events``: only where a master is."""
    root: Any = Resource()
    root.putChild(b"", Front())  # type: ignore[no-untyped-call]
    root.putChild(b"metrics", Metrics())
    root.putChild(b"health", Health(status))
    root.putChild(b"live", Live())  # type: ignore[no-untyped-call]
    if events is not None:
        root.putChild(b"events", events)
    site = Site(root, requestFactory=BoundedRequest, timeout=IDLE_TIMEOUT_S)
    return reactor.listenTCP(port, site, interface=host)
