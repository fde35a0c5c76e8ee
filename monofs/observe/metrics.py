"""Counters, gauges and histograms of a node, cheap enough for hot paths, shown in Prometheus text at ``/metrics``.

A child is a plain object: ``HITS.value += 1`` on the reactor thread costs what an attribute does. Children used by several
threads are only ever changed by one of them, or through :meth:`Child.add`, which holds a lock. Families are declared here so
that one file tells everything a node measures; label values are bounded sets (kinds, tiers, mount ids), never paths, and what is
labelled with a mount goes when the mount goes (:func:`forget_mount`). `docs/metrics.md` is generated from :data:`FAMILIES`.
"""

from __future__ import annotations

import os
import platform
import threading
import time
from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.registry import Collector

from monofs import __version__

_LOCK = threading.Lock()
_GONE_MAX = 10_000
_GONE: dict[str, None] = {}
"""Mounts that were removed lately; a cluster never gives their ids again."""
LATENCY_BUCKETS_S = (
    0.00005,
    0.0001,
    0.0002,
    0.0005,
    0.001,
    0.002,
    0.005,
    0.01,
    0.02,
    0.05,
    0.1,
    0.2,
    0.5,
    1.0,
    2.0,
    5.0,
    10.0,
    30.0,
)


class Child:
    """One number."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value: float = 0

    def add(self, amount: float = 1) -> None:
        """Add from any thread."""
        with _LOCK:
            self.value += amount


class Timer:
    """One histogram of seconds."""

    __slots__ = ("counts", "sum")

    def __init__(self) -> None:
        self.counts = [0] * (len(LATENCY_BUCKETS_S) + 1)
        self.sum = 0.0

    def observe(self, seconds: float) -> None:
        """Count one duration; always from the same thread."""
        self.counts[bisect_left(LATENCY_BUCKETS_S, seconds)] += 1
        self.sum += seconds

    def add(self, seconds: float) -> None:
        """Count one duration from any thread."""
        with _LOCK:
            self.observe(seconds)

    def quantile(self, share: float) -> float:
        """As :func:`quantile`; 0.0 when there are no durations."""
        return quantile(self.counts, share) if any(self.counts) else 0.0


def quantile(counts: Sequence[int], share: float) -> float:
    """An estimate of what this share of all durations took at most, in seconds; NaN when there are none. ``counts``: by bucket, as :attr:`Timer.counts`.

    Within its bucket the durations are taken to be spread evenly, as Prometheus' ``histogram_quantile`` does; beyond the last bound it is that bound.
    """
    rank, lower = share * sum(counts), 0.0
    for upper, count in zip(LATENCY_BUCKETS_S, counts, strict=False):
        if count and rank <= count:
            return lower + (upper - lower) * rank / count
        rank, lower = rank - count, upper
    return LATENCY_BUCKETS_S[-1] if any(counts) else float("nan")


class Family:
    """A named metric with fixed label names; ``family("s3", "get")`` is the child with those label values."""

    def __init__(self, kind: str, name: str, doc: str, labels: tuple[str, ...] = ()) -> None:
        self.kind, self.name, self.doc, self.labels = kind, name, doc, labels
        self.children: dict[tuple[str, ...], Any] = {}
        self.read: Callable[[], dict[tuple[str, ...], float]] | None = None
        self._mount = labels.index("mount") if "mount" in labels else -1
        FAMILIES.append(self)
        if not labels:
            self()

    def __call__(self, *values: str) -> Any:
        child = self.children.get(values)
        if child is None:
            child = Timer() if self.kind == "histogram" else Child()
            with _LOCK:
                if self._mount < 0 or values[self._mount] not in _GONE:
                    child = self.children.setdefault(values, child)
        return child

    @property
    def shown_name(self) -> str:
        """The name in ``/metrics``."""
        return f"{self.name}_total" if self.kind == "counter" else self.name

    def remove(self, mount: str) -> None:
        """Drop the children of a mount; who still holds one changes a number nobody sees. For families with that label."""
        with _LOCK:
            for values in [each for each in self.children if each[self._mount] == mount]:
                del self.children[values]

    def collect(self) -> Any:
        """The Prometheus form."""
        if self.kind == "histogram":
            shown = HistogramMetricFamily(self.name, self.doc, labels=self.labels)
            for values, timer in list(self.children.items()):
                total, buckets = 0, []
                for bound, count in zip((*LATENCY_BUCKETS_S, "+Inf"), timer.counts, strict=True):
                    total += count
                    buckets.append((str(bound), total))
                shown.add_metric(values, buckets, timer.sum)
            return shown
        family = (CounterMetricFamily if self.kind == "counter" else GaugeMetricFamily)(
            self.name, self.doc, labels=self.labels
        )
        read = self.read() if self.read else {values: child.value for values, child in list(self.children.items())}
        for values, value in read.items():
            family.add_metric(values, value)
        return family


FAMILIES: list[Family] = []


def counter(name: str, doc: str, *labels: str) -> Family:
    """Only ever grows; shown with ``_total`` at its end."""
    return Family("counter", name, doc, labels)


def gauge(name: str, doc: str, *labels: str) -> Family:
    """Goes up and down."""
    return Family("gauge", name, doc, labels)


def histogram(name: str, doc: str, *labels: str) -> Family:
    """Durations in seconds."""
    return Family("histogram", name, doc, labels)


class NodeCollector(Collector):
    """Hands all families to prometheus_client."""

    def collect(self) -> Iterator[Any]:
        """Every family with its children."""
        for family in FAMILIES:
            yield family.collect()


def know_mount(mount: int) -> None:
    """A mount exists: its counters are there from now on, at 0, so that ratios of them have a value from the start."""
    label = str(mount)
    _GONE.pop(label, None)  # a process that outlives a cluster may meet the same id in another
    for family in (
        PAGE_HITS,
        PAGE_MISSES,
        STORE_BYTES,
        STORE_PAUSED,
        STORE_REFUSED,
        STORE_WRITTEN,
        DESCRIPTOR_BYTES,
        STALE_SERVED,
    ):
        family(label)


def forget_mount(mount: int) -> None:
    """A mount was removed: its children go from every family, and late counts of requests in flight make no new ones."""
    label = str(mount)
    with _LOCK:
        _GONE[label] = None
        if len(_GONE) > _GONE_MAX:
            del _GONE[next(iter(_GONE))]
    for family in FAMILIES:
        if "mount" in family.labels:
            family.remove(label)


def store_observer(mount: int) -> Callable[[str, str, float, int], None]:
    """What a store of ``mount`` tells each of its requests to: kind, outcome, seconds, bytes. Any thread."""
    label = str(mount)

    def observe(kind: str, outcome: str, seconds: float, size: int) -> None:
        STORE_REQUESTS(label, kind, outcome).add()
        STORE_TIME(label, kind).add(seconds)
        if size:
            (STORE_BYTES if kind == "get" else STORE_WRITTEN)(label).add(size)

    return observe


def snapshot() -> dict[str, float]:
    """All counters and gauges as ``name{label=value,...}`` → value, for reports and `--json`; of histograms ``name_count`` and ``name_sum``."""
    shown: dict[str, float] = {}
    for family in FAMILIES:
        if family.kind == "histogram":
            for values, timer in list(family.children.items()):
                inner = _labelled(family, values)
                shown[f"{family.name}_count{inner}"], shown[f"{family.name}_sum{inner}"] = sum(timer.counts), timer.sum
            continue
        read = (
            family.read() if family.read else {values: child.value for values, child in list(family.children.items())}
        )
        for values, value in read.items():
            shown[family.name + _labelled(family, values)] = value
    return shown


def _labelled(family: Family, values: tuple[str, ...]) -> str:
    inner = ",".join(f"{name}={text}" for name, text in zip(family.labels, values, strict=True))
    return f"{{{inner}}}" if inner else ""


def store_asked(mount: int) -> dict[str, float]:
    """What this process asked a mount's store but bytes (``BYTE_KINDS``, which are workers' business): ``requests``, ``failed``, ``seconds`` of all of them."""
    label = str(mount)
    asked = {"requests": 0.0, "failed": 0.0, "seconds": 0.0}
    for (of, kind, outcome), child in list(STORE_REQUESTS.children.items()):
        if of == label and kind not in BYTE_KINDS:
            asked["requests"] += child.value
            asked["failed"] += child.value if outcome not in STORE_ANSWERS else 0
    for (of, kind), timer in list(STORE_TIME.children.items()):
        if of == label and kind not in BYTE_KINDS:
            asked["seconds"] += timer.sum
    return asked


BYTE_KINDS = frozenset({"get", "put", "upload", "part", "complete"})
"""Kinds of requests to stores that move bytes."""
STORE_ANSWERS = frozenset({"ok", "abandoned", "UfsNotFound", "UfsChanged", "UfsNotEmpty"})
"""Outcomes that say nothing against the store."""


# ---- node ---------------------------------------------------------------------------------------------------------------
BUILD_INFO = gauge("monofs_build_info", "Always 1; the labels tell what runs.", "version", "python")
BUILD_INFO(__version__, platform.python_version()).value = 1
UPTIME = gauge("monofs_uptime_seconds", "Seconds since the process loaded monofs.")


def _begin_uptime() -> None:
    began_s = time.monotonic()
    UPTIME.read = lambda: {(): time.monotonic() - began_s}


_begin_uptime()
os.register_at_fork(after_in_child=_begin_uptime)
LOG_LOST = counter(
    "monofs_log_lines_lost",
    "Log lines not written, by reason (rate: more than 100 of the same event in a second; failed: no room, or another error of the disk).",
    "reason",
)
# ---- journal and metadata -----------------------------------------------------------------------------------------------
JOURNAL_ENTRIES = counter("monofs_journal_entries", "Entries made durable.")
JOURNAL_BYTES = counter("monofs_journal_bytes", "Bytes written to the journal.")
JOURNAL_FSYNC = histogram("monofs_journal_fsync_seconds", "Time of one journal batch: write and fdatasync.")
JOURNAL_QUEUE_BYTES = gauge("monofs_journal_queue_bytes", "Proposals waiting for the disk.")
JOURNAL_COMMIT = histogram(
    "monofs_journal_commit_seconds", "From proposing a change to its answer; masters in a group."
)
JOURNAL_TERM = gauge("monofs_journal_term", "Term of this master; masters in a group.")
JOURNAL_ROLE = gauge("monofs_journal_leads", "1 while this master leads, else 0.")
JOURNAL_INDEX = gauge("monofs_journal_index", "Index of the journal's last, committed and applied entry.", "what")
JOURNAL_LAG = gauge("monofs_journal_lag_entries", "Entries a member has not confirmed; at the leader.", "member")
JOURNAL_VOTERS = gauge(
    "monofs_journal_voters", "Voters there are, heard lately, and needed for a majority; at the leader.", "what"
)
JOURNAL_ELECTIONS = counter("monofs_journal_elections", "Elections this master stood for.")
JOURNAL_REFUSED = counter("monofs_journal_refused", "Proposals the journal did not take, by reason.", "reason")
JOURNAL_DROPPED = counter("monofs_journal_dropped", "Messages to a member that were dropped.", "member")
APPLIED_INDEX = gauge("monofs_applied_index", "Index of the last entry applied.")
FLUSHED_INDEX = gauge("monofs_flushed_index", "Index up to which the metadata database is durable.")
FLUSH_TIME = histogram("monofs_metadata_flush_seconds", "Time of one memtable flush.")
INODES = gauge("monofs_inodes", "Inodes in the namespace.")
# ---- rpc ----------------------------------------------------------------------------------------------------------------
RPC_REQUESTS = counter(
    "monofs_rpc_requests", "Requests answered, by method and outcome (ok or error code).", "method", "outcome"
)
RPC_TIME = histogram(
    "monofs_rpc_seconds", "Time from a request's arrival to its final frame; HEARTBEAT waits on purpose.", "method"
)
RPC_CONNECTIONS = gauge("monofs_rpc_connections", "Open connections, by door.", "door")
RPC_REFUSED = counter("monofs_rpc_refused", "Connections refused or ended by this side, by reason.", "reason")
# ---- http ---------------------------------------------------------------------------------------------------------------
HTTP_REQUESTS = counter(
    "monofs_http_requests",
    "Requests, by door (s3) and outcome (status; gone: the client left before its answer was complete; cut: the answer could not be completed).",
    "door",
    "outcome",
)
HTTP_TIME = histogram("monofs_http_seconds", "Time from a request's head to the end of its answer, by door.", "door")
HTTP_BYTES = counter("monofs_http_bytes", "Bytes of bodies, by door and direction (in, out).", "door", "direction")
HTTP_CONNECTIONS = gauge("monofs_http_connections", "Open connections, by door.", "door")
HTTP_REFUSED = counter(
    "monofs_http_refused",
    "Requests and connections ended by this side, by door and reason (status; connections, slow_reader, tls).",
    "door",
    "reason",
)
# ---- under storage ------------------------------------------------------------------------------------------------------
STORE_REQUESTS = counter(
    "monofs_store_requests",
    "Requests to stores, by mount, kind (list, head, get; look, put, upload, part, complete, abort, copy, rename, make, delete) and outcome (ok, "
    "abandoned or the error's name).",
    "mount",
    "kind",
    "outcome",
)
STORE_TIME = histogram("monofs_store_seconds", "Time of one request to a store until its last byte.", "mount", "kind")
STORE_BYTES = counter("monofs_store_read_bytes", "Bytes read from stores, by mount.", "mount")
STORE_PAUSED = gauge(
    "monofs_store_paused",
    "1 while this worker does not read a mount's store, or does not write to it, or only tries to, because that failed again and again.",
    "mount",
)
STORE_REFUSED = counter(
    "monofs_store_refused", "Fetches and writes that failed at once while a mount's store was not to be asked.", "mount"
)
STORE_WRITTEN = counter("monofs_store_written_bytes", "Bytes written to stores, by mount.", "mount")
STALE_SERVED = counter(
    "monofs_stale_served",
    "Answers from metadata older than its sync interval, while the mount's store was unavailable.",
    "mount",
)
ADOPTED = counter("monofs_adopted", "Differences taken over from stores, by kind of look (page, path).", "kind")
ODD_NAMES = counter("monofs_odd_names", "Names in stores that no path can hold.")
INTENTS_OPEN = gauge("monofs_intents_open", "Changes of stores that were begun and not ended.")
INTENTS_RESOLVED = counter(
    "monofs_intent_resolved",
    "Intents nobody was working at any more that the master brought to their end, by kind and outcome (ended, abandoned, reopened).",
    "kind",
    "outcome",
)
# ---- jobs and events ----------------------------------------------------------------------------------------------------
JOBS = gauge(
    "monofs_jobs",
    "Jobs remembered, by kind (load, free, delete, move, sync) and state (running, paused, done, stopped, failed).",
    "kind",
    "state",
)
JOB_ITEMS = counter("monofs_job_items", "Items jobs are through with: files, objects or entries of listings.", "kind")
EVENTS = counter(
    "monofs_events",
    "Records of store events, by outcome (looked: their paths were looked at; ignored: no mount holds the key, or nothing changed by it; "
    "distrusted: too many waited, so that everything below their mounts is looked at when it is asked for; failed: the store could not be asked).",
    "outcome",
)
for _outcome in ("looked", "ignored", "distrusted", "failed"):
    EVENTS(_outcome)
# ---- worker -------------------------------------------------------------------------------------------------------------
PAGE_HITS = counter(
    "monofs_page_hits",
    "Pages asked for through the worker that were cached; not those read through descriptors.",
    "mount",
)
PAGE_MISSES = counter(
    "monofs_page_misses", "Pages readers asked for that had to be fetched; not those of loads.", "mount"
)
SERVED_BYTES = counter(
    "monofs_served_bytes",
    "Bytes served to readers, by source (cache, store) and way (tcp, unix, descriptor).",
    "source",
    "way",
)
for _source in ("cache", "store"):
    for _way in ("tcp", "unix", "descriptor"):
        SERVED_BYTES(_source, _way)
DESCRIPTOR_BYTES = counter(
    "monofs_descriptor_bytes",
    "Cached bytes opened to readers on the worker's machine, who then read them from the file, unseen by the worker, as often as they like.",
    "mount",
)
DESCRIPTORS_RECALLED = counter(
    "monofs_descriptors_recalled", "Descriptors asked back from readers on the worker's machine, to make room."
)
PEER_BYTES = counter("monofs_peer_bytes", "Bytes this worker got from other workers instead of a store.")
HOT_TOLD = counter(
    "monofs_hot_told", "Times readers of a hot block were told to read it from more workers than its owner."
)
HANDED_BYTES = counter("monofs_handed_bytes", "Bytes of cached groups handed to the workers that own them now.")
COPIED_BYTES = counter(
    "monofs_copied_bytes", "Bytes of cached groups copied to other workers because a policy says replicas."
)
PEER_FAILURES = counter("monofs_peer_failures", "Times another worker did not answer, so that the store was asked.")
EVICTED_BYTES = counter(
    "monofs_evicted_bytes",
    "Bytes of cached pages evicted, by reason (ahead: in the background, ahead of need; room: a page waited for theirs; quota: of their policy; "
    "count: too many groups).",
    "tier",
    "reason",
)
MOVED_BYTES = counter(
    "monofs_moved_bytes",
    "Bytes of cached pages moved to a tier, by direction (demoted, promoted).",
    "tier",
    "direction",
)
SCRUBBED_BYTES = counter(
    "monofs_scrubbed_bytes", "Bytes of cached pages compared with their CRCs ahead of need.", "tier"
)
TIER_USED = gauge("monofs_tier_used_bytes", "Bytes of cached pages.", "tier", "directory")
TIER_CAPACITY = gauge("monofs_tier_capacity_bytes", "Most bytes the directory may hold.", "tier", "directory")
NOT_ADMITTED = counter(
    "monofs_not_admitted",
    "Reads served from the store without caching, by reason (full, quota, unusable, no_cache: the reader asked for that).",
    "reason",
)
BAD_PAGES = counter("monofs_bad_pages", "Cached pages whose bytes did not match their CRC, dropped.", "tier")
READ_TIME = histogram("monofs_read_seconds", "Time of a worker's read request until its last byte.", "source")
WRITTEN_BYTES = counter("monofs_written_bytes", "Bytes of files written, by mount and write type.", "mount", "type")
WRITES_OPEN = gauge("monofs_writes_open", "Files being written.")
WRITE_TIME = histogram(
    "monofs_write_seconds", "Time of a write from its first byte to its name, by write type.", "type"
)
WRITES_UNCACHED = counter(
    "monofs_writes_uncached", "Files written that the cache could not take, by the error that told why.", "reason"
)
WRITES_UNCLEAR = counter(
    "monofs_writes_unclear",
    "Writes whose store did not tell how they ended, by what looking showed (done, not_done, unknown: it could not be asked).",
    "mount",
    "outcome",
)
