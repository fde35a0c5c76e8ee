"""Every method and its messages: the one place where masters, workers and clients agree.

A request and an answer are msgpack arrays, only ever extended at their end; a method number is never reused. Methods marked
*stream* answer with ITEM or DATA frames before the final frame. Paths are absolute strings (model/paths.py), times integer
nanoseconds or float seconds as the name says, sizes bytes.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Any

import msgspec

PROTOCOL_VERSION = 1


class Method(IntEnum):
    """Method numbers. 1-9 any node, 10-59 master for clients, 60-79 master for workers, 100-149 worker."""

    PING = 1
    STAT = 10
    STAT_MANY = 11
    LIST = 12
    OPEN = 13
    OPEN_MANY = 14
    RENEW = 15
    WHY = 16
    CLUSTER = 17
    MAKE_DIRECTORY = 20
    CREATE = 21
    DELETE = 22
    RENAME = 23
    SET_PIN = 24
    FREE = 25
    MOUNT_ADD = 30
    MOUNT_LIST = 31
    MOUNT_REMOVE = 32
    MOUNT_UPDATE = 33
    MOUNT_TEST = 34
    REPORT = 40
    CONF = 41
    FSCK = 42
    REGISTER = 60
    HEARTBEAT = 61
    READ = 100
    READ_MANY = 101
    DESCRIPTOR = 102
    FETCH = 103
    RELEASE = 104
    WORKER_STATUS = 105
    CACHED = 106
    VERIFY = 107


class Message(msgspec.Struct, array_like=True, gc=False):
    """Base of all wire messages; treat them as values, never change one."""


class Empty(Message):
    """A request or answer without content."""


class Pong(Message):
    """Answer of PING."""

    version: str
    role: str
    now_ns: int


# ---- reading the namespace --------------------------------------------------------------------------------------------


class ReadOptions(msgspec.Struct, array_like=True, gc=False, frozen=True):
    """How fresh an answer must be. ``sync_interval_s`` None: the path's own; -1 never look, 0 always look."""

    sync_interval_s: float | None = None
    load: str = "ONCE"


class StatRequest(Message):
    """STAT."""

    path: str
    options: ReadOptions = ReadOptions()


class StatAnswer(Message):
    """``inode`` is the stored record (model.inode.Inode) spliced in unchanged."""

    inode: msgspec.Raw
    mount: int = 0
    pinned: bool = False


class StatManyRequest(Message):
    """STAT_MANY: at most 1,000 paths."""

    paths: list[str]
    options: ReadOptions = ReadOptions()


class Failure(Message):
    """An error for one item of a batch."""

    code: int
    message: str
    detail: dict[str, str | int | None] = {}


class StatManyAnswer(Message):
    """One element a path, in order: a StatAnswer, or a Failure in ``failures`` under the same position."""

    answers: list[StatAnswer | None]
    failures: dict[int, Failure] = {}


class ListRequest(Message):
    """LIST: one page of a directory's children in key order. ``after`` is the ``next`` of the page before."""

    path: str
    after: bytes = b""
    limit: int = 1000
    options: ReadOptions = ReadOptions()


class ListAnswer(Message):
    """``names[i]`` (directories end in ``/``) belongs to ``inodes[i]``. ``next`` None: the last page."""

    names: list[bytes]
    inodes: list[msgspec.Raw]
    next: bytes | None
    mounts: dict[int, int] = {}
    """Position → mount id, for children that are mount points."""


class OpenRequest(Message):
    """OPEN for reading."""

    path: str
    options: ReadOptions = ReadOptions()


class OpenAnswer(Message):
    """Everything a reader needs. ``capability`` is empty for files of zero bytes."""

    inode: msgspec.Raw
    capability: bytes
    expires_s: int
    epoch: int
    mount: int = 0


class OpenManyRequest(Message):
    """OPEN_MANY: at most 1,000 paths."""

    paths: list[str]
    options: ReadOptions = ReadOptions()


class OpenManyAnswer(Message):
    """As StatManyAnswer, of OpenAnswers."""

    answers: list[OpenAnswer | None]
    failures: dict[int, Failure] = {}


class RenewRequest(Message):
    """RENEW capabilities that are still valid or expired less than an hour ago; at most 1,000."""

    capabilities: list[bytes]


class RenewAnswer(Message):
    """One token a capability, in order; empty bytes where the file is to be opened again: too old, retired, or not ours."""

    capabilities: list[bytes]
    expires_s: int


class WhyAnswer(Message):
    """WHY (a StatRequest): facts for people and for `--json`, keyed by name."""

    facts: dict[str, Any]


# ---- the cluster ------------------------------------------------------------------------------------------------------


class WorkerInfo(Message):
    """A worker as clients see it. ``unix`` is a socket path on the worker's own machine, '' if none."""

    id: int
    address: str
    unix: str = ""
    host: str = ""
    """Boot id of the worker's machine: equal to the client's own means the Unix socket can be used."""
    live: bool = True
    capacity_bytes: int = 0
    used_bytes: int = 0


class ClusterAnswer(Message):
    """CLUSTER (Empty): who serves what. ``slots`` maps slot ranges to owners as (first slot, worker ids) in slot order."""

    cluster: bytes
    incarnation: int
    epoch: int
    workers: list[WorkerInfo]
    slots: list[tuple[int, list[int]]]
    master: str = ""
    version: str = ""


# ---- changing the namespace -------------------------------------------------------------------------------------------


class RequestId(msgspec.Struct, array_like=True, gc=False, frozen=True):
    """Law 3: who asks, which number, and the lowest number whose answer has not arrived. An empty client: no retry safety."""

    client: bytes = b""
    sequence: int = 0
    lowest: int = 0


class MakeDirectoryRequest(Message):
    """MAKE_DIRECTORY."""

    path: str
    mode: int = 0o755
    parents: bool = False
    exist_ok: bool = False
    request: RequestId = RequestId()


class CreateRequest(Message):
    """CREATE an empty, cache-only file; refused below a mount until writing through lands."""

    path: str
    mode: int = 0o644
    request: RequestId = RequestId()


class DeleteRequest(Message):
    """DELETE a file or an empty directory from the namespace; refused below a mount until writing through lands."""

    path: str
    request: RequestId = RequestId()


class RenameRequest(Message):
    """RENAME within the cache-only part of the namespace."""

    source: str
    target: str
    request: RequestId = RequestId()


class SetPinRequest(Message):
    """SET_PIN on a file or directory."""

    path: str
    pinned: bool
    request: RequestId = RequestId()


class FreeRequest(Message):
    """FREE the cached pages of a file or of everything below a directory. ``force`` frees pinned ones too."""

    path: str
    recursive: bool = False
    force: bool = False


class FreeAnswer(Message):
    """``files`` whose pages were dropped on every live worker; ``pinned`` files that were kept; ``behind`` live workers that have
    not acted yet (they will: the order lies in their feed)."""

    files: int
    pinned: int
    behind: int = 0


class InodeAnswer(Message):
    """Answer of a change: the record as it is now."""

    inode: msgspec.Raw


# ---- mounts -----------------------------------------------------------------------------------------------------------


class MountAddRequest(Message):
    """MOUNT_ADD. ``options`` carry secrets in clear: this travels on authenticated or loopback connections only."""

    path: str
    uri: str
    options: dict[str, str] = {}
    readonly: bool = False
    shared: bool = False
    dry_run: bool = False
    sync_interval_s: float | None = None
    request: RequestId = RequestId()


class MountUpdateRequest(Message):
    """MOUNT_UPDATE: ``options`` merge into the present ones (``replace``: replace them); an empty value removes one."""

    path: str
    options: dict[str, str] = {}
    replace: bool = False
    readonly: bool | None = None
    sync_interval_s: float | None = None
    dry_run: bool = False
    request: RequestId = RequestId()


class MountRemoveRequest(Message):
    """MOUNT_REMOVE: forgets the metadata and cache below, never touches the store."""

    path: str
    request: RequestId = RequestId()


class MountTestRequest(Message):
    """MOUNT_TEST an existing mount."""

    path: str


class MountInfo(Message):
    """A mount without its secrets: ``secrets`` names the options that are set but not shown."""

    id: int
    path: str
    uri: str
    options: dict[str, str]
    secrets: list[str]
    readonly: bool
    shared: bool
    sync_interval_s: float | None
    state: str = "ok"
    error: str = ""
    note: str = ""
    """What whoever adds a mount should know, such as that its store is empty."""


class MountListAnswer(Message):
    """MOUNT_LIST (Empty), sorted by path."""

    mounts: list[MountInfo]


# ---- administration ---------------------------------------------------------------------------------------------------


class ReportAnswer(Message):
    """REPORT (Empty): sections → name → value, for people and `--json`."""

    sections: dict[str, dict[str, Any]]


class Setting(Message):
    """One effective setting."""

    name: str
    value: str
    default: str
    source: str
    unit: str
    doc: str


class ConfAnswer(Message):
    """CONF (Empty)."""

    settings: list[Setting]


class FsckAnswer(Message):
    """FSCK (Empty): every named check, with up to 100 findings each (an empty list: it holds)."""

    checks: dict[str, list[str]]
    inodes: int
    seconds: float


# ---- worker to master -------------------------------------------------------------------------------------------------


class RegisterRequest(Message):
    """REGISTER: a worker (identified by the 16 random bytes of its home) announces itself."""

    identity: bytes
    address: str
    unix: str
    host: str
    capacity_bytes: int
    used_bytes: int
    cursor: int
    """Last feed index this worker has acted on; 0: none."""
    cluster: bytes = b""
    incarnation: int = 0


class MountGrant(Message):
    """A mount as a worker needs it, secrets in clear, kept in memory only."""

    id: int
    uri: str
    options: dict[str, str]
    changed_index: int


class RegisterAnswer(Message):
    """``keys`` maps capability key ids to 32-byte keys."""

    worker: int
    cluster: bytes
    incarnation: int
    epoch: int
    keys: dict[int, bytes]
    mounts: list[MountGrant]
    lease_s: float
    now_ns: int
    feed_head: int
    """Where the feed stands: a worker with no pages may start from here."""
    feed_tail: int
    """The oldest index still in the feed: a worker whose cursor is older drops its clean pages."""


class FeedKind(IntEnum):
    """What workers are told to do with contents."""

    RETIRED = 1
    """Unlink: no path has these contents any more."""
    FREE = 2
    """Drop clean, unpinned pages."""
    FREE_FORCED = 3
    """Drop clean pages, pinned or not."""
    PIN = 4
    UNPIN = 5


class FeedItem(Message):
    """One feed record."""

    index: int
    kind: int
    contents: list[int]


class HeartbeatRequest(Message):
    """HEARTBEAT: answered at once when there is feed beyond ``cursor`` or mounts/keys changed, else after ``wait_s``.

    ``durable``: the cursor a restart of the worker would begin with; feed behind it is not needed any more. -1: ``cursor``.
    """

    worker: int
    cursor: int
    capacity_bytes: int
    used_bytes: int
    mounts_index: int
    wait_s: float = 1.0
    durable: int = -1


class HeartbeatAnswer(Message):
    """``mounts`` and ``keys`` are None when unchanged since ``mounts_index``."""

    feed: list[FeedItem]
    cursor: int
    epoch: int
    now_ns: int
    keys: dict[int, bytes] | None = None
    mounts: list[MountGrant] | None = None
    mounts_index: int = 0


# ---- worker -----------------------------------------------------------------------------------------------------------


class ReadRequest(Message):
    """READ, stream of DATA: bytes ``[offset, offset + length)``; beyond the end is cut off.

    ``cache`` is a model.options.ReadType.
    """

    capability: bytes
    offset: int
    length: int
    cache: str = "CACHE"
    sequential: bool = False
    """The reader goes forward: read ahead."""


class ReadManyRequest(Message):
    """READ_MANY, stream of DATA: at most 1,024 pieces as (capability number, offset, length), 16 MiB in all, answered as one
    run of bytes in request order. A piece that cannot be read fails the whole request."""

    capabilities: list[bytes]
    pieces: list[tuple[int, int, int]]
    cache: str = "CACHE"


class DescriptorRequest(Message):
    """DESCRIPTOR (Unix socket only): the file that holds a group of a content."""

    capability: bytes
    group: int


class DescriptorAnswer(Message):
    """Comes with one descriptor when ``present`` is not 0. Page p of the group lies at ``base + p * PAGE_SIZE_BYTES``.

    Presence only grows: pages not in ``present`` must be asked for with FETCH, never read from the file.
    """

    present: int
    base: int
    length: int
    lease: int
    """Give back with RELEASE (or by closing the connection)."""
    file: int = 0
    """Which file of the worker this is; a FetchAnswer with another number tells of pages that are not in it."""


class FetchRequest(Message):
    """FETCH: make pages of a group present, without sending them. ``pages`` is a bitmap. ``ahead`` more pages may follow."""

    capability: bytes
    group: int
    pages: int
    ahead: int = 0
    cache: str = "CACHE"


class FetchAnswer(Message):
    """The group's presence now. ``cached`` False: there was no room; read with READ instead."""

    present: int
    cached: bool = True
    fetched_bytes: int = 0
    """Bytes this request sent for to the store, read ahead ones too (0: all was there, or on its way for another)."""
    file: int = 0
    """The group's file now. Another number than the descriptor's: ask for a new DESCRIPTOR (the group was evicted and came
    back, or lost a bad page); ``present`` is about the new file only."""


class ReleaseRequest(Message):
    """RELEASE descriptor leases."""

    leases: list[int]


class TierStatus(Message):
    """One storage directory."""

    tier: str
    directory: str
    capacity_bytes: int
    used_bytes: int
    pinned_bytes: int
    groups: int
    state: str
    error: str = ""


class WorkerStatusAnswer(Message):
    """WORKER_STATUS (Empty)."""

    worker: int
    tiers: list[TierStatus]
    counters: dict[str, float]


class CachedRequest(Message):
    """CACHED: which pages of these contents are here; at most 10,000."""

    contents: list[int]


class CachedGroup(Message):
    """A cached group, with when its first page was admitted and last read."""

    content: int
    group: int
    pages: int
    bytes: int
    tier: str
    pinned: bool
    admitted_ns: int
    read_ns: int


class CachedAnswer(Message):
    """Answer of CACHED."""

    groups: list[CachedGroup]


class VerifyAnswer(Message):
    """VERIFY (Empty): every page read and compared with its CRC; ``bad`` lists what was dropped."""

    pages: int
    bad: list[str]
