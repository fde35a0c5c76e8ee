"""Every setting: its section, type, default, unit and one sentence. `docs/configuration.md` is generated from here.

A setting without a default, a unit and a sentence does not exist. Components receive their section as a frozen dataclass.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


def setting(default: Any, unit: str, doc: str, *, secret: bool = False, reload: bool = False) -> Any:
    """A dataclass field with its unit and sentence; a callable default is a factory."""
    metadata = {"unit": unit, "doc": doc, "secret": secret, "reload": reload}
    if callable(default):
        return field(default_factory=default, metadata=metadata)
    return field(default=default, metadata=metadata)


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeConfig:
    """``node.*``"""

    role: str = setting("all", "all|master|worker", "Which services this process runs.")
    home: str = setting("~/.monofs", "directory", "Where this node keeps its journal, metadata, cache and secrets.")
    ready_file: str = setting(
        "", "file", "Written as JSON with the addresses of all doors once the node is ready; empty: none."
    )
    advertise: str = setting(
        "",
        "host",
        "Name or address under which other machines reach this one; empty: what a door listens on, or, where that is every address, the one in journal.peers, else the host's name.",
    )
    open_files: int = setting(65536, "descriptors", "Limit of open files to ask the system for at start.")


@dataclass(frozen=True, slots=True, kw_only=True)
class MasterConfig:
    """``master.*``"""

    host: str = setting("127.0.0.1", "address", "Address the master's RPC door listens on.")
    port: int = setting(19998, "port, 0 = any free", "Port of the master's RPC door.")
    max_connections: int = setting(20000, "connections", "More are closed at once.")
    list_threads: int = setting(8, "threads", "Calls to one mount's store that may be in flight from the master.")
    store_queue: int = setting(
        1024, "calls", "Calls that may wait for one mount's store before callers get Overloaded."
    )
    store_timeout_s: float = setting(30.0, "seconds", "How long the master waits for one answer of a store.")
    busy_wait_s: float = setting(
        5.0,
        "seconds",
        "How long a change waits for another change of the same path, and unmounting for uploads to be aborted, before it gets Busy.",
    )
    job_requests: int = setting(16, "requests", "Requests to stores and workers one job has in flight.")
    job_patience_s: float = setting(
        86400.0,
        "seconds",
        "How long a load, free or sync waits for a store, or for workers, before what it waits for counts as failed.",
    )
    events_token: str = setting(
        "",
        "text",
        "What senders of store events show as `Authorization: Bearer`; empty: events from loopback only.",
        secret=True,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class JournalConfig:
    """``journal.*``"""

    segment_bytes: int = setting(64 << 20, "bytes", "Size of one journal segment.")
    retain_bytes: int = setting(4 << 30, "bytes", "Most bytes of segments kept for members that lag behind.")
    queue_bytes: int = setting(64 << 20, "bytes", "Proposals waiting for the disk before callers get Overloaded.")
    batch_bytes: int = setting(4 << 20, "bytes", "Most bytes written with one fsync.")
    id: str = setting("", "name", "This master's name among several; goes with journal.peers.")
    peers: str = setting(
        "",
        "name=host:port,...",
        "The masters of the cluster, this one too, each with the address of its journal door; empty: this master is alone.",
    )
    host: str = setting("127.0.0.1", "address", "Address the journal door, for other masters, listens on.")
    port: int = setting(19200, "port, 0 = any free", "Port of the journal door; open only with journal.peers.")
    election_timeout_s: float = setting(
        0.6, "seconds", "A master that hears no leader for so long, up to twice as long by chance, stands for election."
    )
    keep_bytes: int = setting(
        1 << 30, "bytes", "Segments kept for masters that were away, though the database is ahead."
    )
    read_lease: bool = setting(
        False,
        "true, false",
        "A leader answers reads without asking the others for as long as they have just promised to follow it. The same on all masters, like"
        " journal.election_timeout_s; stop all of them to change it.",
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class NamespaceConfig:
    """``namespace.*``"""

    sync_interval_s: float = setting(
        60.0, "seconds", "How old metadata of a mount may be before its store is asked again; 0 always, -1 never."
    )
    store_patience_s: float = setting(
        5.0, "seconds", "How long a path already known waits for its store's answer before it is served as it is known."
    )
    absent_entries: int = setting(100_000, "entries", "How many paths known to be missing in a store are remembered.")
    replicas: int = setting(
        2,
        "workers",
        "Workers each slot lists, where so many exist: the owner, and those that serve while it is away; copies of cache-only files.",
    )
    replan_after_s: float = setting(
        300.0,
        "seconds",
        "How long a worker may be silent before its slots are given to others for good; until then the next in each slot's list serves.",
    )
    flush_interval_s: float = setting(1.0, "seconds", "Longest time between flushes of the memtable to the database.")
    flush_changes: int = setting(20_000, "changes", "A flush begins after this many changes.")
    map_size_bytes: int = setting(1 << 40, "bytes", "Address space of the metadata database; not disk space.")


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerConfig:
    """``worker.*``"""

    host: str = setting("127.0.0.1", "address", "Address the worker's RPC door listens on.")
    port: int = setting(29999, "port, 0 = any free", "Port of the worker's RPC door.")
    unix: str = setting("", "file", "Unix socket for readers on this machine; empty: worker.sock in the home.")
    masters: str = setting("", "host:port,...", "Masters a worker of role `worker` registers with.")
    weight: int = setting(
        100,
        "parts",
        "This worker's share of the slots beside those of others; 0: it owns none, and only keeps what it has.",
    )
    zone: str = setting(
        "",
        "text",
        "What may fail together with this worker (a rack, a room): a slot's workers are of distinct zones where there are as many zones as replicas.",
    )
    tiers: str = setting(
        "",
        "JSON list",
        'Storage directories, e.g. [{"name":"SSD","dir":"/data/cache","quota":"100GiB"}]; empty: one tier in the home.',
    )
    quota: str = setting(
        "80%", "bytes or percent", "Most bytes of the default tier, or a share of its file system's free space."
    )
    reserve: float = setting(0.02, "share", "Part of each file system that is never filled.")
    eviction: str = setting(
        "s3-fifo",
        "lru|lrfu|s3-fifo|sieve|w-tinylfu",
        "Which cached pages go first when room is needed; `monofs cache simulate` compares them on a recorded trace.",
    )
    allocation: str = setting(
        "max-free",
        "max-free|round-robin|greedy",
        "Which directory of a tier takes a new group of pages: the emptiest, each in turn, or the first with room.",
    )
    watermark: float = setting(
        0.97,
        "share",
        "Above this part of a storage directory pages move to a lower tier, or go, in the background, so that no page waits for room; 1: never.",
    )
    scrub_bytes_s: int = setting(
        4 << 20,
        "bytes a second",
        "How fast cached pages are compared with their CRCs in the background, each about once a week; 0: never.",
    )
    trace: str = setting(
        "",
        "file",
        "Record which groups of pages are asked for, in this file and an older FILE.1 of at most 64 MiB each; empty: no.",
    )
    fetch_bytes: int = setting(
        8 << 20, "bytes", "Largest range asked of a store in one request; a whole number of pages."
    )
    fetch_threads: int = setting(16, "threads", "Requests to stores in flight.")
    fetch_queue: int = setting(4096, "ranges", "Ranges waiting to be fetched before readers get Overloaded.")
    fetch_retries: int = setting(4, "tries", "Tries of one range before its readers get the store's error.")
    store_timeout_s: float = setting(30.0, "seconds", "How long a store may be silent within one request.")
    local_copy: str = setting(
        "always",
        "never|second_read|always",
        "Whether a worker that is asked for blocks of another's keeps what it got from there: never, from the second read on, or always.",
    )
    handover_bytes_s: int = setting(
        128 << 20, "bytes a second", "How fast cached blocks go to their new owners when workers come or go."
    )
    read_ahead_bytes: int = setting(32 << 20, "bytes", "Most bytes fetched ahead of one sequential reader.")
    io_threads: int = setting(4, "threads", "Threads that read or verify one storage directory.")
    descriptors_per_client: int = setting(256, "descriptors", "Open descriptors one client connection may hold.")
    heartbeat_interval_s: float = setting(1.0, "seconds", "Between heartbeats to the master.")
    max_connections: int = setting(20000, "connections", "More are closed at once.")
    write_threads: int = setting(16, "threads", "Puts and parts of uploads to stores in flight.")
    write_parts: int = setting(4, "parts", "Parts of one upload in flight.")
    write_bytes: int = setting(512 << 20, "bytes", "Bytes of unfinished writes held in memory before writers wait.")
    overwrite_keep_bytes: int = setting(
        64 << 20, "bytes", "Largest file read lately that is fetched whole before it is overwritten, for its readers."
    )
    write_idle_s: float = setting(3600.0, "seconds", "A write that gets no bytes for so long is given up.")


@dataclass(frozen=True, slots=True, kw_only=True)
class ConsoleConfig:
    """``console.*``"""

    host: str = setting(
        "127.0.0.1",
        "address",
        "Address of the console and /metrics; other than loopback: with TLS and security.authentication=required only.",
    )
    port: int = setting(19999, "port, 0 = any free, -1 = none", "Port of the console and /metrics.")
    names: str = setting("", "names,", "Host names the console answers to, beside its address and this machine's own.")
    price_per_million_gets: float = setting(
        0.4, "money", "What a million GET requests cost at the stores, for the money saved; 0: not shown."
    )
    price_per_gib: float = setting(0.0, "money", "What a GiB read from the stores costs, for the money saved.")


@dataclass(frozen=True, slots=True, kw_only=True)
class S3Config:
    """``s3.*``"""

    host: str = setting("127.0.0.1", "address", "Address a worker's S3 door listens on.")
    port: int = setting(39999, "port, 0 = any free, -1 = none", "Port of a worker's S3 door.")
    domains: str = setting(
        "",
        "names,",
        "Host names of the S3 door under which a bucket may stand in front, as in bucket.s3.example; by its path it is reached always.",
    )
    anonymous: str = setting("", "bucket/prefix,", "What anybody may read at the S3 door without a signature.")
    max_connections: int = setting(10000, "connections", "More at the S3 door are answered 503.")


@dataclass(frozen=True, slots=True, kw_only=True)
class SecurityConfig:
    """``security.*``"""

    cluster_secret_file: str = setting(
        "", "file", "The cluster's secret; empty: cluster.secret in the home, made at first start."
    )
    authentication: str = setting(
        "auto", "auto|required", "auto: needed except from loopback and Unix sockets; required: needed always."
    )
    insecure: bool = setting(
        False, "true|false", "Let doors on other addresses than loopback open without authentication."
    )
    tls_certificate: str = setting(
        "",
        "file",
        "PEM file with the certificate of this node's RPC doors and console, and those between it and its authority; read again when it changes; empty: no TLS.",
    )
    tls_key: str = setting(
        "", "file", "PEM file with the key of that certificate, without a password, not readable by everybody."
    )
    tls_ca: str = setting(
        "",
        "file",
        "PEM file of the authorities this node believes when it calls others; set, it calls them under TLS only.",
    )
    permissions: bool = setting(False, "true|false", "Enforce POSIX modes of the namespace.")


@dataclass(frozen=True, slots=True, kw_only=True)
class LogConfig:
    """``log.*``"""

    level: str = setting("info", "debug|info|warning|error", "Least severe messages written.", reload=True)
    file: str = setting("", "file", "JSON lines go here; empty: monofs.log in the home. '-' is standard error.")
    audit_file: str = setting("", "file", "Audit records go here; empty: audit.log in the home.")
    max_bytes: int = setting(64 << 20, "bytes", "A log file is rotated at this size; four old ones are kept.")


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """All sections of one node."""

    node: NodeConfig = field(default_factory=NodeConfig)
    master: MasterConfig = field(default_factory=MasterConfig)
    journal: JournalConfig = field(default_factory=JournalConfig)
    namespace: NamespaceConfig = field(default_factory=NamespaceConfig)
    worker: WorkerConfig = field(default_factory=WorkerConfig)
    console: ConsoleConfig = field(default_factory=ConsoleConfig)
    s3: S3Config = field(default_factory=S3Config)
    security: SecurityConfig = field(default_factory=SecurityConfig)
    log: LogConfig = field(default_factory=LogConfig)
