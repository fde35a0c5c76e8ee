"""The HTTP door for operators, on `console.port`.

Invariant: it only reads status; nothing here changes the tree, and no secret is reachable from it. Requests are bounded: twisted.web
limits header bytes, bodies are refused.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
from prometheus_client import GCCollector, ProcessCollector
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.registry import CollectorRegistry
from twisted.web.http import Request
from twisted.web.resource import Resource
from twisted.web.server import Site

from monofs.observe.metrics import NodeCollector

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
    """``GET /health``: 200 and a JSON object while the node serves, 503 while it starts or stops."""

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


class Front(Resource):
    """``GET /``: what there is."""

    def render_GET(self, request: Request) -> bytes:
        """Plain text."""
        request.setHeader(b"content-type", b"text/plain; charset=utf-8")
        return b"monofs\n\n/metrics  Prometheus metrics\n/health   readiness as JSON\n"


def listen_console(reactor: Any, host: str, port: int, status: Callable[[], dict[str, object]]) -> Any:
    """Open the door; returns Twisted's listening port. Raises twisted's ``CannotListenError``."""
    root: Any = Resource()
    root.putChild(b"", Front())  # type: ignore[no-untyped-call]
    root.putChild(b"metrics", Metrics())
    root.putChild(b"health", Health(status))
    site = Site(root, timeout=IDLE_TIMEOUT_S)
    return reactor.listenTCP(port, site, interface=host)
