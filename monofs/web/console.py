"""The HTTP door for operators, on `console.port`: what monitors ask (`/metrics`, `/health`, `/live`), what stores tell (events.py), and the web console (front.py), put together.

Invariant: requests are bounded: twisted.web limits header bytes, and :class:`BoundedRequest` the body, before it is received; what may block runs in a bounded pool of threads.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from ipaddress import ip_address
from typing import Any

import msgspec
from prometheus_client import GCCollector, ProcessCollector
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.registry import CollectorRegistry
from twisted.internet.defer import inlineCallbacks
from twisted.internet.task import LoopingCall
from twisted.web.resource import Resource
from twisted.web.server import Request, Site

from monofs.model.errors import MonofsError
from monofs.model.principal import NODE
from monofs.observe.logs import logger
from monofs.observe.metrics import NodeCollector
from monofs.observe.recent import Recent
from monofs.rpc.api import Setting
from monofs.rpc.tls import ServerTls
from monofs.web import cache_api, cluster_api, contents, files_api, logs_api, node_api, stores_api, viewers_api
from monofs.web.assets import Assets
from monofs.web.clock import Clock
from monofs.web.events import BODY_MAX_BYTES, EventsDoor
from monofs.web.front import HEADERS, Front
from monofs.web.history import History
from monofs.web.hub import Hub
from monofs.web.recording import SERIES, Recording, Standing
from monofs.web.records import record
from monofs.web.routes import Routes
from monofs.web.socket import Browser, Door
from monofs.web.tail import Tail
from monofs.web.threads import Threads
from monofs.web.tls import Gate
from monofs.web.topics import Asking, Source, own_topic, source_of
from monofs.web.uploads import Uploads
from monofs.web.viewers import RECHECK_S, Viewer, Viewers

log = logger(__name__)

IDLE_TIMEOUT_S = 60
RECORD_S = 1.0
STOP_S = 2.0
"""How long what is at work is waited for; what hangs ends when the doors it came by close."""
PATHS_MAX = 256
"""Paths that are looked at live, by all viewers."""
MOUNTS_EVERY_S = 5.0
"""How old the list of mounts may be by which questions about paths are kept apart."""


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
            for name, value in HEADERS.items():
                self.setHeader(name, value)  # type: ignore[no-untyped-call]
            super().process()  # type: ignore[no-untyped-call]

    def _refuse(self) -> None:
        self.refused = True
        transport: Any = self.channel.transport
        lines = b"".join(b"%b: %b\r\n" % each for each in HEADERS.items())
        transport.write(b"HTTP/1.1 413 Content Too Large\r\nConnection: close\r\nContent-Length: 0\r\n%b\r\n" % lines)
        transport.loseConnection()


class Console:
    """The whole door of one node. ``connect``: the cluster as the holder of a token sees it ('': as any program of this machine); ``own``: as this node does; ``standing``: what the node
    knows now. These are called once somebody looks, and ``standing`` every second."""

    def __init__(
        self,
        reactor: Any,
        *,
        health: Callable[[], dict[str, object]],
        events: EventsDoor | None,
        connect: Callable[[str], Any],
        own: Callable[[], Any],
        standing: Callable[[], Standing],
        node: Callable[[], dict[str, Any]],
        is_open: bool,
        names: Sequence[str],
        history: str,
        logs: dict[str, Recent] | None = None,
        tls: ServerTls | None = None,
        settings: Callable[[], list[Setting]] = list,
    ) -> None:
        """``is_open``: programs of this machine need no token. ``history``: its file. ``logs``: the last lines of this node by the name of their topic. Raises ``ConfigError``."""
        self._reactor, self._own, self._standing = reactor, own, standing
        self._health, self._events = health, events
        self._names = frozenset({"localhost", "127.0.0.1", "[::1]", socket.gethostname(), *names})
        self._threads = Threads(reactor, "console")
        self._path_threads = Threads(reactor, "console-paths")
        self._uploads = Uploads()
        self._shared: Viewer | None = None
        self._asking: dict[str, Asking] = {}
        self._paths = 0
        self._mounts: list[str] = []
        self._mounts_s = float("-inf")
        self._hub = Hub()
        self._clock = Clock()
        self.history = History(history, SERIES)
        self._recording = Recording()
        self._recorder = LoopingCall(self._record)
        self._recorder.clock = reactor
        self._viewers = Viewers(connect, is_open=is_open, now=self._clock.now_s, on_end=self._ended_session)
        self._tails = {
            name: Tail(name, recent, self._hub, reactor, self._clock.now_ms) for name, recent in (logs or {}).items()
        }
        self._tls = tls
        self._checker = LoopingCall(self._check_sessions)
        self._checker.clock = reactor
        self._door = Door(self._hub, self._watch, self._leave)
        routes = Routes()
        cluster_api.add_routes(routes)
        stores_api.add_routes(routes)
        cache_api.add_routes(routes)
        node_api.add_routes(routes, self.history, settings, self._clock.now_s)
        logs_api.add_routes(routes, logs or {})
        viewers_api.add_routes(routes, self._viewers, self._door, self._clock)
        files_api.add_routes(routes)
        contents.add_routes(routes)
        self._uploads.add_routes(routes)
        self.routes = routes
        run, run_path = self._threads.run, self._path_threads.run
        self._front = Front(
            Assets(),
            self._viewers,
            routes,
            self._door,
            run,
            run_path,
            lane=self._lane,
            hosts=self._answers_to,
            node=node,
            now_ms=self._clock.now_ms,
            reactor=reactor,
        )
        self._port: Any = None

    def listen(self, host: str, port: int) -> int:
        """Open the door; the port. Raises twisted's ``CannotListenError``."""
        root: Any = _Root(self._front)
        root.putChild(b"metrics", Metrics())
        root.putChild(b"health", Health(self._health))
        root.putChild(b"live", Live())  # type: ignore[no-untyped-call]
        if self._events is not None:
            root.putChild(b"events", self._events)
        site: Any = Site(root, requestFactory=BoundedRequest, timeout=IDLE_TIMEOUT_S)
        site.displayTracebacks = False
        self._host = host
        self._port = self._reactor.listenTCP(port, Gate(site, self._tls), interface=host)
        self._threads.start()
        self._path_threads.start()
        self._recorder.start(RECORD_S, now=True)
        self._checker.start(RECHECK_S, now=False)
        return int(self._port.getHost().port)

    @inlineCallbacks
    def stop(self) -> Any:
        """Close the door and all connections."""
        for loop in (self._recorder, self._checker):
            if loop.running:
                loop.stop()
        for tail in self._tails.values():
            tail.stop()
        for asking in self._asking.values():
            asking.stop()
        self._asking.clear()
        self._door.close()
        yield self._port.stopListening()
        yield self._threads.run(self._close_viewers)
        for threads in (self._path_threads, self._threads):
            yield threads.stop().addTimeout(STOP_S, self._reactor).addErrback(lambda _: None)
        self.history.close()

    def _close_viewers(self) -> None:
        self._uploads.close()
        self._viewers.close()
        if self._shared is not None:
            self._shared.fs.close()

    def _answers_to(self, host: str) -> bool:
        """Whether a Host header names this console: a page of another site whose name was made to point here is not let in."""
        name = (host if host.endswith("]") else host.rpartition(":")[0] or host).lower()
        if name in self._names or name == self._host:
            return True
        try:
            ip_address(name.strip("[]"))  # an address is no name that anybody could have made point here
        except ValueError:
            return False
        return True

    def _lane(self, values: dict[str, Any]) -> str:
        """What a request about files waits for: the store of the mount that its path lies below."""
        body = values.get("body")
        path = values.get("path") or getattr(body, "path", "") or getattr(body, "source", "")
        return self._mount_of(path or self._uploads.path_of(values.get("id", "")))

    def _mount_of(self, path: str) -> str:
        """The mount a path lies below, as far as mounts are known, else its first component; with a slash at its end."""
        now_s = time.monotonic()
        if now_s - self._mounts_s > MOUNTS_EVERY_S:
            self._mounts_s = now_s
            self._threads.run(self._ask_mounts, self._shared_viewer().fs).addErrback(lambda _: None)
        below = path.rstrip("/") + "/"
        return next(
            (mount for mount in self._mounts if below.startswith(mount)), "/" + path.strip("/").partition("/")[0]
        )

    def _ask_mounts(self, fs: Any) -> None:
        found = (mount.path.rstrip("/") + "/" for mount in fs.mount_list())
        self._mounts = sorted(found, key=len, reverse=True)

    # ---- live ---------------------------------------------------------------------------------------------------------

    def _watch(self, name: str, browser: Browser) -> bool:
        source = source_of(name)
        if source is None or not browser.viewer.principal.rights & source.right:
            return False
        topic = own_topic(name, browser.viewer) if source.is_own else name
        if topic not in self._asking and source.is_own and self._paths >= PATHS_MAX:
            return False
        if not self._hub.watch(topic, browser):
            return False
        if name in self._tails:
            self._tails[name].begin()
        if source.every_s and topic not in self._asking:
            self._paths += source.is_own
            self._asking[topic] = self._ask(topic, source, browser.viewer)
        return True

    def _ask(self, topic: str, source: Source, viewer: Viewer) -> Asking:
        if not source.is_own:
            run = partial(self._threads.run, lane=source.asks)
            viewer = self._shared_viewer()
        else:
            path = topic.partition("\0")[0].partition(":")[2]
            run = partial(self._path_threads.run, lane=self._mount_of(path))
        return Asking(
            topic,
            source,
            viewer,
            self._hub,
            run,
            self._reactor,
            crowd=lambda: self._paths if source.is_own else 1,
            now_ms=self._clock.now_ms,
        )

    def _leave(self, name: str, browser: Browser) -> None:
        source = source_of(name)
        topic = own_topic(name, browser.viewer) if source is not None and source.is_own else name
        self._hub.leave(topic, browser)
        if topic not in self._hub.topics and topic in self._asking:
            asking = self._asking.pop(topic)
            asking.stop()
            self._paths -= asking.is_own

    def _shared_viewer(self) -> Viewer:
        if self._shared is None:
            self._shared = Viewer(NODE, self._own())
        return self._shared

    def _record(self) -> None:
        if self._uploads.has_idle():
            self._path_threads.run(self._uploads.sweep).addErrback(lambda _: None)
        if self._door.open and self._clock.is_due():
            self._threads.run(self._clock.learn, self._shared_viewer().fs).addErrback(lambda _: None)
        now_s = self._clock.now_s()
        row = self._recording.row(self._standing(), time.monotonic())
        self.history.put(now_s, row)
        values = {name: (None if value != value else value) for name, value in zip(SERIES, row, strict=True)}
        self._hub.publish("now", {"at_s": int(now_s), "values": values}, int(now_s * 1000))
        shown = {str(number): each.shown(self._clock.offset_s) for number, each in enumerate(self._front.sendings)}
        if "sessions" in self._hub.topics:
            found = viewers_api.sessions_of(self._viewers, self._door, self._clock.offset_s)
            self._hub.publish("sessions", {each.key: record(each) for each in found}, int(now_s * 1000))
        self._hub.publish("sendings", shown, int(now_s * 1000))

    # ---- sessions that are over -----------------------------------------------------------------------------------------

    def _check_sessions(self) -> None:
        """Those that only watch ask for nothing, so nothing else would find their tokens removed."""
        watching = {browser.viewer for browser in self._door.open}
        for viewer in watching:
            self._viewers.keep(viewer)

        def check() -> None:
            self._viewers.purge()
            for viewer in watching:
                with suppress(MonofsError):
                    self._viewers.check(viewer)

        self._threads.run(check).addErrback(
            lambda failure: log.error("sessions cannot be checked", exception=failure.value)
        )

    def _ended_session(self, viewer: Viewer) -> None:
        self._reactor.callFromThread(self._door.drop, viewer)


class _Root(Resource):
    """What monitors ask by name; all else is the front's."""

    def __init__(self, front: Front) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._front = front

    def getChild(self, path: bytes, request: Request) -> Resource:  # noqa: ARG002 - as twisted calls it
        """Called for names that are not children."""
        return self._front
