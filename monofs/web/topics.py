"""What the console shows live: which function gives a topic's value, how often, and who may watch it.

Topics of the cluster are shared: asked once, with the node's own credential, however many watch. A topic of one path, `file:PATH`, is asked with the viewer's, and told to nobody else. Invariants: a topic is asked for only while somebody watches it, one request at a time; what it costs the node
is bounded (``BUSY_SHARE``, ``SENT_BYTES_S``): what is large, or watched by many, is told less often, never more. Not here: the functions (cluster_api.py), who gets what (hub.py).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from monofs.model.errors import DeadlineExceeded, Internal, MonofsError
from monofs.model.principal import Right
from monofs.observe.logs import logger
from monofs.web import cache_api, cluster_api, files_api, node_api, stores_api, viewers_api
from monofs.web.hub import Hub
from monofs.web.records import error_record, record
from monofs.web.viewers import Viewer

log = logger(__name__)


@dataclass(frozen=True, slots=True)
class Source:
    """``ask``: of a viewer, in a thread. ``every_s`` 0: it is published as it happens, and never asked for."""

    ask: Callable[[Any], Any]
    every_s: float
    right: Right = Right.READ
    is_own: bool = False
    """It is asked with the viewer's own credential, and gives a record already."""
    asks: str = ""
    """Whom but the masters, as ``Route.asks``."""


SOURCES = {
    "overview": Source(cluster_api.overview, 1.0),
    "workers": Source(cluster_api.workers, 1.0),
    "mounts": Source(cluster_api.mounts, 2.0),
    "jobs": Source(cluster_api.jobs, 1.0),
    "intents": Source(cluster_api.intents, 1.0),
    "journal": Source(cluster_api.journal, 1.0),
    "policies": Source(cluster_api.policies, 1.0),
    "mounts-use": Source(stores_api.mount_use, 3.0, asks="workers"),
    "cache": Source(cache_api.cache, 4.0, asks="workers"),
    "measures": Source(node_api.measures, 2.0),
    "journal_figures": Source(cluster_api.journal_figures, 1.0),
    "configuration": Source(cluster_api.configuration, 10.0),
    "connections": Source(viewers_api.connections, 2.0, Right.ADMIN),
    "tokens": Source(viewers_api.tokens, 1.0, Right.ADMIN),
    "sessions": Source(lambda _: None, 0.0, Right.ADMIN),
    "logs": Source(lambda _: None, 0.0, Right.ADMIN),
    "audit": Source(lambda _: None, 0.0, Right.ADMIN),
    "sendings": Source(lambda _: None, 0.0, Right.ADMIN),
    "now": Source(lambda _: None, 0.0),
}


PATH_EVERY_S = 1.0
LATE_MASTERS_S, LATE_S = 3.0, 12.0
"""After so long without an answer of masters, or of all workers or a store, what is shown is said to be old."""
LEAST_REST_S = 0.1
IDLE_SHARE, IDLE_MAX_S = 4.0, 10.0
"""A path rests at least so many times as long as asking took: a store that is slow is asked less often."""
BUSY_SHARE = 0.05
"""Of a core, for a topic of the cluster, and for all paths together: what is large is told less often."""
WORKERS_COST = 2.0
"""Threads that ask workers are not measured: with the one that waits for them they cost less than twice what that does (3,000 workers)."""
SENT_BYTES_S = 8 << 20
"""Sent of one topic, to all who watch it, on average."""
ONE_OF: dict[str, Callable[[Viewer, int], Any]] = {"worker": cluster_api.worker, "job": cluster_api.job}
"""Topics of one thing by its number: ``worker:3``."""
ONE_EVERY_S = 1.0
NUMBER_DIGITS = 18


def source_of(name: str) -> Source | None:
    """Of a topic as a browser names it, or as :func:`own_topic` does; None: there is none."""
    kind, mark, rest = name.partition(":")
    if not mark:
        return SOURCES.get(name)
    if kind == "file":
        return Source(files_api.LookedAt(rest.partition("\0")[0]), PATH_EVERY_S, is_own=True, asks="store")
    ask = ONE_OF.get(kind)
    if ask is None or not rest.isascii() or not rest.isdecimal() or len(rest) > NUMBER_DIGITS:
        return None
    return Source(lambda viewer: ask(viewer, int(rest)), ONE_EVERY_S, asks="workers" if kind == "worker" else "")


def own_topic(name: str, viewer: Any) -> str:
    """The topic of one viewer (hub.py keeps what follows NUL, which no path holds, to itself)."""
    return f"{name.partition(chr(0))[0]}\0{viewer.id}"


class Asking:
    """Asks for one topic again and again, until :meth:`stop`. ``crowd()``: how many topics share what one may cost."""

    def __init__(
        self,
        name: str,
        source: Source,
        viewer: Any,
        hub: Hub,
        run: Callable[..., Deferred[Any]],
        reactor: Any,
        *,
        crowd: Callable[[], int],
        now_ms: Callable[[], int],
    ) -> None:
        """``now_ms``: by which values are stamped."""
        self._name, self._source, self._viewer, self._hub = name, source, viewer, hub
        self.is_own = source.is_own
        self._run, self._reactor, self._crowd = run, reactor, crowd
        self._now_ms = now_ms
        self._timer: Any = None
        """What comes next: it is late, or it is time to ask again."""
        self._stopped = False
        self._ask()

    def stop(self) -> None:
        """Ask no more; an answer that is under way is dropped."""
        self._stopped = True
        self._forget_timer()

    def _forget_timer(self) -> None:
        if self._timer is not None and self._timer.active():
            self._timer.cancel()

    def _late(self, late_s: float) -> None:
        """Whoever is asked hangs, perhaps: what is shown meanwhile is old."""
        self._hub.fail(self._name, error_record(DeadlineExceeded(f"nothing was answered for {late_s:g} s")))

    def _ask(self) -> None:
        began_s = time.monotonic()
        late_s = LATE_S if self._source.asks else LATE_MASTERS_S
        self._timer = self._reactor.callLater(late_s, self._late, late_s)

        def answered(told: tuple[dict[str, Any], float]) -> tuple[float, int]:
            value, busy_s = told
            if self._stopped:
                return busy_s, 0
            began_busy_s = time.thread_time()
            sent_bytes = self._hub.publish(self._name, value, self._now_ms())
            return busy_s + time.thread_time() - began_busy_s, sent_bytes

        def failed(failure: Failure) -> tuple[float, int]:
            error = failure.value
            if not isinstance(error, MonofsError):
                log.error("a topic of the console cannot be had", topic=self._name, exception=error)
                error = Internal()
            if not self._stopped:
                self._hub.fail(self._name, error_record(error))
            return 0.0, 0

        def again(cost: tuple[float, int]) -> None:
            if not self._stopped:
                self._forget_timer()
                rest_s = self._rest_s(time.monotonic() - began_s, *cost)
                self._timer = self._reactor.callLater(rest_s, self._ask)

        self._run(self._value).addCallbacks(answered, failed).addCallback(again)

    def _rest_s(self, took_s: float, busy_s: float, sent_bytes: int) -> float:
        waits_s = min(IDLE_SHARE * took_s, IDLE_MAX_S) if self.is_own else 0.0
        threads = WORKERS_COST if self._source.asks == "workers" else 1.0
        costs_s = busy_s * threads * self._crowd() / BUSY_SHARE
        return max(self._source.every_s - took_s, LEAST_REST_S, waits_s, costs_s, sent_bytes / SENT_BYTES_S)

    def _value(self) -> tuple[dict[str, Any], float]:
        """In a thread: the value, and for how long that kept a processor busy."""
        began_s = time.thread_time()
        told: Any = self._source.ask(self._viewer)
        value = told if self.is_own else record_of(told)
        return value, time.thread_time() - began_s


def record_of(value: Any) -> dict[str, Any]:
    """A topic's value is always a dict."""
    shown = record(value)
    return shown if isinstance(shown, dict) else {"items": shown}
