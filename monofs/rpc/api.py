"""Every method and its messages: the one place where masters, workers and clients agree.

A request and an answer are msgpack arrays, only ever extended at their end; a method number is never reused. Methods marked
*stream* answer with ITEM or DATA frames before the final frame. Paths are absolute strings (model/paths.py), times integer
nanoseconds or float seconds as the name says, sizes bytes.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Any

import msgspec

from monofs.model.attributes import Attributes

PROTOCOL_VERSION = 1


class Method(IntEnum):
    """Method numbers. 1-9 any node, 10-59 and 70-79 master for clients, 60-69 master for workers, 80-89 master for masters, 100-149 worker."""

    PING = 1
    STAT = 10
    STAT_MANY = 11
    LIST = 12
    OPEN = 13
    OPEN_MANY = 14
    RENEW = 15
    WHY = 16
    CLUSTER = 17
    MAY_WRITE = 18
    COMPARE = 19
    MAKE_DIRECTORY = 20
    CREATE = 21
    DELETE = 22
    RENAME = 23
    SET_PIN = 24
    FREE = 25
    BEGIN_WRITE = 26
    COPY = 27
    REMOVE_TREE = 28
    TOUCH = 29
    MOUNT_ADD = 30
    MOUNT_LIST = 31
    MOUNT_REMOVE = 32
    MOUNT_UPDATE = 33
    MOUNT_TEST = 34
    TOKEN_ADD = 35
    TOKEN_LIST = 36
    TOKEN_REMOVE = 37
    KEY_ROTATE = 38
    REPORT = 40
    CONF = 41
    FSCK = 42
    INTENT_LIST = 43
    JOB_ADD = 44
    JOB_LIST = 45
    JOB_STEER = 46
    POLICY_SET = 47
    POLICY_LIST = 48
    SET_TTL = 49
    NEEDS_SYNC = 50
    CONNECTION_LIST = 51
    LIST_KEYS = 52
    SET_ATTRIBUTES = 53
    BUCKET_SET = 54
    BUCKET_LIST = 55
    BACKUP = 58
    QUORUM = 56
    QUORUM_CHANGE = 57
    REGISTER = 60
    HEARTBEAT = 61
    RECORD_UPLOAD = 62
    PUBLISH = 63
    END_WRITE = 64
    ABANDON_WRITE = 65
    DECOMMISSION = 66
    BEGIN_UPLOAD = 70
    OPEN_PART = 71
    COMPLETE_UPLOAD = 72
    ABORT_UPLOAD = 73
    STEP = 80
    WHO = 81
    SNAPSHOT = 82
    READ = 100
    READ_MANY = 101
    DESCRIPTOR = 102
    FETCH = 103
    RELEASE = 104
    WORKER_STATUS = 105
    CACHED = 106
    VERIFY = 107
    WRITE = 108
    ABORT_WRITE = 109
    HOT = 110
    KEEP_PARTS = 111


_encode = msgspec.msgpack.Encoder().encode
_SIX_FIELDS = b"\x96"
_BYTES_32 = b"\xc6"
"""How bytes begin whose length takes four of them (the specification of MessagePack)."""


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
    """How fresh an answer must be. ``sync_interval_s`` None: the path's own; -1 never look, 0 always look. ``consistency``: of masters, as
    journal.face.Consistency; ``bound_s`` is that of ``bounded``. With ``load`` NEVER no store is asked for attributes either. STAT, STAT_MANY and LIST heed it, everything else is linearizable."""

    sync_interval_s: float | None = None
    load: str = "ONCE"
    consistency: str = "linearizable"
    bound_s: float = 0.0


NIL = msgspec.Raw(b"\xc0")


class StatRequest(Message):
    """STAT. ``attributes``: those of a file are wanted, too; a store that has them is asked for them once. ``as_key``: the path is a key of an object
    store: a file is meant, though a directory has its name too."""

    path: str
    options: ReadOptions = ReadOptions()
    attributes: bool = False
    as_key: bool = False


class StatAnswer(Message):
    """``inode`` is the stored record (model.inode.Inode) spliced in unchanged, and so are ``attributes`` (model.attributes.Attributes), nil where there
    are none or none were asked for."""

    inode: msgspec.Raw
    mount: int = 0
    pinned: bool = False
    attributes: msgspec.Raw = NIL


class StatManyRequest(Message):
    """STAT_MANY: at most 1,000 paths."""

    paths: list[str]
    options: ReadOptions = ReadOptions()
    attributes: bool = False
    as_key: bool = False


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
    attributes: bool = False
    """As far as they are known here."""
    deep: bool = False
    """All below will be listed: pages may be shorter, and a store told of them in other ways than directory by directory."""


class ListAnswer(Message):
    """``names[i]`` (directories end in ``/``) belongs to ``inodes[i]``, and to ``attributes[i]`` where those were asked for. ``next`` None: the last page."""

    names: list[bytes]
    inodes: list[msgspec.Raw]
    next: bytes | None
    mounts: dict[int, int] = {}
    """Position → mount id, for children that are mount points."""
    attributes: list[msgspec.Raw] = []


class ListKeysRequest(Message):
    """LIST_KEYS: what lies below a directory as one flat, sorted run of keys relative to it, as object stores list a bucket: those that begin with
    ``prefix`` and are greater than ``after``, at most ``limit`` (1,000) of them. Keys with ``delimiter`` behind the prefix are told as one common
    prefix, up to and with the first of it."""

    path: str
    prefix: bytes = b""
    delimiter: bytes = b""
    after: bytes = b""
    limit: int = 1000
    options: ReadOptions = ReadOptions()


class ListKeysAnswer(Message):
    """``keys[i]`` belongs to ``inodes[i]``; a key that ends in ``/`` is an empty directory. ``prefixes`` are sorted, too, and count for the limit. ``next``
    None: there is no more; else ``after`` of the next page, which may be no key of anything: a page may end early, even empty."""

    keys: list[bytes]
    inodes: list[msgspec.Raw]
    prefixes: list[bytes]
    next: bytes | None


class OpenRequest(Message):
    """OPEN for reading."""

    path: str
    options: ReadOptions = ReadOptions()
    data_bytes: int = 0
    """A file of at most so many bytes may come with the answer, whole."""
    attributes: bool = False
    """As of STAT."""
    as_key: bool = False
    data_alone: bool = False
    """Where the bytes come with the answer, no capability and no workers are wanted."""
    learn_later: bool = False
    """With ``attributes``: where a store has still to be asked for them, the answer does not wait for it, and says so (``unlearnt``)."""


class OpenAnswer(Message):
    """Everything a reader needs. ``capability`` is empty for files of zero bytes, and where the data come alone."""

    inode: msgspec.Raw
    capability: bytes
    expires_s: int
    epoch: int
    mount: int = 0
    workers: list[int] = []
    """Who holds bytes that no store has: these are asked, whatever the slot table says. Empty: any worker can get them."""
    data: bytes = b""
    """All bytes of the file, if they were asked for and the worker in the master's process had them at hand; else none of them."""
    replicas: int = 1
    """So many workers of a slot's list keep its blocks: readers spread over them."""
    attributes: msgspec.Raw = NIL
    unlearnt: bool = False
    """What its store keeps with the file has still to be asked for: STAT with ``attributes`` does."""


class OpenManyRequest(Message):
    """OPEN_MANY: at most 1,000 paths."""

    paths: list[str]
    options: ReadOptions = ReadOptions()
    attributes: bool = False
    as_key: bool = False


class OpenManyAnswer(Message):
    """As StatManyAnswer, of OpenAnswers."""

    answers: list[OpenAnswer | None]
    failures: dict[int, Failure] = {}


class MayWriteRequest(Message):
    """MAY_WRITE: would BEGIN_WRITE be accepted now? Answered with Empty, or with the error it would meet."""

    path: str
    parents: bool = True
    exclusive: bool = False


class CompareRequest(Message):
    """COMPARE one page of a directory, or one file, with its store, changing nothing; ``after`` is the ``next`` of the page before."""

    path: str
    after: bytes = b""


class Difference(Message):
    """Where tree and store do not agree. ``problem``: missing in store, unknown here, other size, other version, other kind."""

    path: str
    problem: str
    here: str = ""
    store: str = ""


class CompareAnswer(Message):
    """``directories`` of this page, for who goes on below them; ``files`` compared; ``unpersisted`` files no store should have."""

    differences: list[Difference]
    directories: list[str]
    files: int
    unpersisted: int
    next: bytes | None


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
    keeps: bool = False
    """It keeps what it got from others for its readers: those on its machine ask it first, whatever they want."""


class SlotsKnown(Message):
    """The slot table somebody has: its epoch and digest (0, 0: none), and ``live`` of the last SlotsNews."""

    epoch: int = 0
    digest: int = 0
    live: int = 0


class SlotsNews(Message):
    """What is new of the slot table: ``deltas`` (model/slots.py, packed) are put on it in order. None though ``epoch`` is another: ask again later."""

    epoch: int
    deltas: list[bytes]
    live: int = 0
    """Names this state of ``silent``."""
    silent: list[int] | None = None
    """Registered workers that do not live now; None: as told under the ``live`` that was shown."""


class ClusterRequest(Message):
    """CLUSTER. ``slots`` None: the table is not wanted. ``workers``: the ``listed`` of the answer before, whose workers are still known; 0: tell them."""

    slots: SlotsKnown | None = None
    workers: int = 0


class ClusterAnswer(Message):
    """Who serves what. ``slots`` was the table in an earlier release, and is empty.

    ``awaited``: the master leads since a moment, and workers it knows of have not come to it yet. ``listed`` names this list of ``workers``, which is
    empty when the request named the same.
    """

    cluster: bytes
    incarnation: int
    epoch: int
    workers: list[WorkerInfo]
    slots: list[tuple[int, list[int]]]
    master: str = ""
    version: str = ""
    awaited: bool = False
    news: SlotsNews | None = None
    listed: int = 0


# ---- changing the namespace -------------------------------------------------------------------------------------------


class RequestId(msgspec.Struct, array_like=True, gc=False, frozen=True):
    """Law 3: who asks, which number, and the lowest number whose answer has not arrived. An empty client: no retry safety."""

    client: bytes = b""
    sequence: int = 0
    lowest: int = 0


class MakeDirectoryRequest(Message):
    """MAKE_DIRECTORY. ``marker``: the object ``dir/`` of S3 is made, with ``attributes``, also of a directory that is there already; without ``exist_ok``
    if it is not told as a key yet. Without ``marker`` a new directory gets ``attributes``: those of a bucket, and no ``body``. ``NotReady`` when there
    are any while a master takes part that keeps none. ``replaced``: only if its store has that object with this fingerprint, and what it has of it is
    known; else ``ConditionFailed`` or ``UfsChanged``."""

    path: str
    mode: int = 0o755
    parents: bool = False
    exist_ok: bool = False
    request: RequestId = RequestId()
    marker: bool = False
    attributes: Attributes | None = None
    replaced: str = ""


class CreateRequest(Message):
    """CREATE an empty file under no mount in one entry; below a mount, BEGIN_WRITE makes files."""

    path: str
    mode: int = 0o644
    request: RequestId = RequestId()


class DeleteRequest(Message):
    """DELETE a file or an empty directory, in the store too when it lies below a mount. ``as_key``: the file, though a directory has its name too;
    ``if_content``: only if the file has this content, else ``ConditionFailed``; ``marker``: the object ``dir/``, whatever lies below."""

    path: str
    request: RequestId = RequestId()
    as_key: bool = False
    if_content: int | None = None
    marker: bool = False


class RenameRequest(Message):
    """RENAME a file or directory within one mount, or within the part under no mount; replaces as rename(2) does.

    Below a mount of an object store a directory is renamed at once, and a job moves its objects (``RenameAnswer.job``)."""

    source: str
    target: str
    request: RequestId = RequestId()


class RenameAnswer(Message):
    """``inode`` is the record under its new name; ``job`` moves the objects below a directory (0: nothing is left to move)."""

    inode: msgspec.Raw
    job: int = 0


class RemoveTreeRequest(Message):
    """REMOVE_TREE: a directory and everything below it, at once in the tree."""

    path: str
    request: RequestId = RequestId()


class RemoveTreeAnswer(Message):
    """``job`` deletes the objects in the store; 0: nothing is left to delete."""

    job: int


class BeginWriteRequest(Message):
    """BEGIN_WRITE. ``size`` >= 0 when all bytes are at hand, else -1. ``write_type`` '': as the path's policy says, else CACHE_THROUGH.

    ``if_match``: only if the file has this fingerprint. ``exclusive``: only if nothing has the name. ``instead``: the capability of a write
    whose worker was never reached: it is given up, and another worker takes the bytes; ``NoWorker`` when there is none. ``reached``: that worker may
    have bytes of it; then the write is given up only once the worker is silent (else ``NotReady``), and what became of it is asked of the store first."""

    path: str
    mode: int = 0o644
    parents: bool = True
    exclusive: bool = False
    if_match: str | None = None
    size: int = -1
    write_type: str = ""
    request: RequestId = RequestId()
    instead: bytes = b""
    reached: bool = False
    attributes: Attributes | None = None
    """What is kept with the file, as far as it is known now: the first WRITE says it to the store, the last one may say more."""
    as_key: bool = False
    """The file may lie beside a directory of its name, and below a file, where the store can have both."""
    if_content: int | None = None
    """Only if the file has this content: for files without a fingerprint."""
    within: str = ""
    """Only below this directory, which has to be there: ``NotFound``, though directories come into being below it."""
    settle: bool = False
    """With ``reached``, from who has the bytes no more: nothing is begun. The record the write made is answered; ``WriteLost`` when it made none."""


class BeginWriteAnswer(Message):
    """Send the bytes to ``worker`` with WRITE and this capability. A file of zero bytes is written too: one WRITE, ``last``.

    ``inode`` other than nil: nothing is to be sent, for the write given up (``reached``) had made the file after all, and its condition would now
    meet that file as another's. Only answered to a request with a condition, or to ``settle``."""

    capability: bytes
    operation: int
    worker: int
    write_type: str
    epoch: int = 0
    inode: msgspec.Raw = NIL


class BeginUploadRequest(Message):
    """BEGIN_UPLOAD: a file whose parts come through any worker, in any order, until it is completed or aborted."""

    path: str
    attributes: Attributes
    """The store is told them."""


class BeginUploadAnswer(Message):
    """``operation`` 0: no store takes parts for this path."""

    operation: int


class OpenPartRequest(Message):
    """OPEN_PART: part ``number`` of an upload, of ``size`` bytes, is to be sent. Answered with BeginWriteAnswer: the bytes go to its worker as those of a
    file; the answer to the last WRITE has the ``tag``."""

    operation: int
    number: int
    size: int


class UploadedPart(msgspec.Struct, array_like=True, gc=False, frozen=True):
    """A part as it is joined. ``tag``: as the store named it."""

    number: int
    size: int
    tag: str


class CompleteUploadRequest(Message):
    """COMPLETE_UPLOAD: join these parts to the file, with ``attributes``. Answered with InodeAnswer. ``exclusive``, ``if_content`` as of BEGIN_WRITE. Where it is
    refused the upload goes on; ``WriteLost``: there is none, or no more."""

    operation: int
    parts: list[UploadedPart]
    attributes: Attributes
    exclusive: bool = False
    if_content: int | None = None


class AbortUploadRequest(Message):
    """ABORT_UPLOAD: answered once its parts are gone from the store; one that is not open is no error."""

    operation: int


class CopyRequest(Message):
    """COPY a file to another path of the same mount without moving its bytes through monofs. ``CrossMount`` otherwise. ``attributes``: the copy's; None:
    those of the source."""

    source: str
    target: str
    parents: bool = True
    exclusive: bool = False
    request: RequestId = RequestId()
    attributes: Attributes | None = None
    as_key: bool = False
    """Of both paths."""
    if_content: int | None = None
    """Only if the source has this content, to which ``attributes`` belong; else ``ConditionFailed``."""


class SetAttributesRequest(Message):
    """SET_ATTRIBUTES: replace what is kept with a file that still has this content, and attributes under this number (0: none), as its record names both;
    else ``ConditionFailed``. Answered with InodeAnswer. An object in a store is tagged there, or copied onto itself. ``directory``: of the directory of this path;
    stores are not told of those."""

    path: str
    content: int
    expected: int
    attributes: Attributes | None
    request: RequestId = RequestId()
    directory: bool = False


class TouchRequest(Message):
    """TOUCH: make an empty file, or set the mtime of an existing file or directory to now where the store can."""

    path: str
    parents: bool = True
    request: RequestId = RequestId()


class SetTtlRequest(Message):
    """SET_TTL: ``action`` (options.TtlAction) is done once ``duration_s`` have passed; None removes the TTL. Covers all below."""

    path: str
    duration_s: float | None = None
    action: str = "free"
    request: RequestId = RequestId()


class NeedsSyncRequest(Message):
    """NEEDS_SYNC: what was seen of a path and everything below is not trusted any more; the next access looks at the store."""

    path: str


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
    ufs_mode: str = "readWrite"


class MountUpdateRequest(Message):
    """MOUNT_UPDATE: ``options`` merge into the present ones (``replace``: replace them); an empty value removes one."""

    path: str
    options: dict[str, str] = {}
    replace: bool = False
    readonly: bool | None = None
    sync_interval_s: float | None = None
    dry_run: bool = False
    request: RequestId = RequestId()
    ufs_mode: str | None = None


class MountRemoveRequest(Message):
    """MOUNT_REMOVE: forgets the metadata and cache below, never touches the store. ``WouldLose`` when files below are in no store, uploads
    in parts are not complete, or changes cannot be done any more, unless ``discard``. ``Busy`` while changes are under way in the store, such as an
    upload that it does not abort."""

    path: str
    request: RequestId = RequestId()
    discard: bool = False


class MountRemoveAnswer(Message):
    """What went with the mount: paths of files that no store had, the first 1,000, and changes that were given up, the first 100."""

    lost: list[str] = []
    given_up: list[str] = []


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
    ufs_mode: str = "readWrite"
    asked: dict[str, float] = {}
    """What the master that answers asked the store since it began, but bytes: ``requests``, ``failed``, ``seconds`` of all of them."""


class MountListAnswer(Message):
    """MOUNT_LIST (Empty), sorted by path."""

    mounts: list[MountInfo]


# ---- administration ---------------------------------------------------------------------------------------------------


class ReportRequest(Message):
    """REPORT: these sections; none named: all. ``worker``: of the section ``workers`` this one only; 0: all."""

    sections: list[str] = []
    worker: int = 0


class ReportAnswer(Message):
    """REPORT: sections → name → value, for people and `--json`."""

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


class ConnectionInfo(Message):
    """One connection to a node's RPC doors. ``peer``: its address, or process and user; ``credential``: by what it came in (none, cluster secret, token and its number);
    ``since_ns``: since 1970 UTC; ``pending``: requests that wait for their answer; ``release``: of its software, as it says itself."""

    peer: str
    door: str
    name: str
    credential: str
    rights: str
    since_ns: int
    pending: int
    release: str


class ConnectionListAnswer(Message):
    """CONNECTION_LIST (Empty), for the right admin: connections of the node asked, oldest first, at most 2,000 of ``total``. ``clients``: programs whose changes are remembered for
    their retries."""

    connections: list[ConnectionInfo]
    total: int
    clients: int


class FsckAnswer(Message):
    """FSCK (Empty): every named check, with up to 100 findings each (an empty list: it holds)."""

    checks: dict[str, list[str]]
    inodes: int
    seconds: float


class BackupRequest(Message):
    """BACKUP, stream: one ITEM (BackupInfo), then DATA: from byte ``offset`` on the file form of a copy of the namespace database
    (docs/formats/copy.md), a frame for its head and for each chunk. ``copy`` '': a new one; else the one begun before, at a border between
    chunks (``NotFound`` when it is not held any more). ``done``: all of it arrived, nothing is sent."""

    copy: str = ""
    offset: int = 0
    done: bool = False


class BackupInfo(Message):
    """Which copy is sent, and its length."""

    copy: str
    total_bytes: int


# ---- tokens -----------------------------------------------------------------------------------------------------------


class TokenAddRequest(Message):
    """TOKEN_ADD: ``rights`` as ``read,write``; ``expires_s`` from now, None: never. Only a principal with the ADMIN right may."""

    name: str
    rights: str
    expires_s: float | None = None
    uid: int = 0
    groups: list[int] = []
    request: RequestId = RequestId()
    s3: bool = False
    """An S3 key for the user ``name``, with ``read`` or ``read,write``."""
    prefix: str = ""
    """Of an S3 key: the path it is bound to; empty: all."""


class TokenInfo(Message):
    """An issued token, or S3 key. ``shown``: how its text begins, nothing of its secret; of an S3 key its access key id. ``expires_s``: since 1970, 0:
    never."""

    number: int
    name: str
    rights: str
    issued_ns: int
    expires_s: int
    issuer: str
    shown: str
    expired: bool = False
    uid: int = 0
    groups: list[int] = []
    s3: bool = False
    prefix: str = ""


class TokenAddAnswer(Message):
    """``token`` (of an S3 key: its secret access key) is told this once. It travels as it is: on loopback, a Unix socket or under TLS, or whoever listens has it too."""

    token: str
    info: TokenInfo


class TokenListAnswer(Message):
    """TOKEN_LIST (Empty): those not removed, oldest first."""

    tokens: list[TokenInfo]


class TokenRemoveRequest(Message):
    """TOKEN_REMOVE by name or number, of an S3 key by access key id or number: it lets nobody in any more, and connections that came in by it are
    closed."""

    token: str
    request: RequestId = RequestId()


class KeyRotateRequest(Message):
    """KEY_ROTATE: a new S3 key of the same user, rights, path and end as the one with this access key id or number, which ends in ``ends_in_s``
    (0: at once). Answered with TokenAddAnswer."""

    key: str
    ends_in_s: float = 0.0
    request: RequestId = RequestId()


class BucketSetRequest(Message):
    """BUCKET_SET: S3 doors show the directory ``path`` as the bucket ``name``; '' : no longer. Only a principal with the ADMIN right may."""

    name: str
    path: str
    request: RequestId = RequestId()


class BucketInfo(Message):
    """A directory that S3 doors show as a bucket of this name."""

    name: str
    path: str
    created_ns: int
    issuer: str = ""


class BucketListAnswer(Message):
    """BUCKET_LIST (Empty): by name."""

    buckets: list[BucketInfo]


# ---- intents, jobs, policies ------------------------------------------------------------------------------------------


class IntentInfo(Message):
    """An open intent. ``kind`` is write, delete, rename, mkdir or copy; ``state`` says what is being waited for."""

    number: int
    kind: str
    path: str
    target: str
    mount: int
    key: str
    state: str
    created_ns: int
    principal: str
    worker: int = 0
    upload: str = ""
    error: str = ""


class IntentListAnswer(Message):
    """INTENT_LIST (Empty): all open intents, oldest first."""

    intents: list[IntentInfo]


class JobAddRequest(Message):
    """JOB_ADD: ``kind`` load, free or sync. Arguments as text: recursive, force, metadata_only, …"""

    kind: str
    path: str
    arguments: dict[str, str] = {}
    request: RequestId = RequestId()


class JobInfo(Message):
    """A job. ``state``: running, paused, done, stopped, failed. ``total`` -1: not known. ``eta_s`` and ``rate`` of this run, None: unknown."""

    number: int
    kind: str
    state: str
    path: str
    target: str
    created_ns: int
    changed_ns: int
    ended_ns: int
    user: str
    done: int
    total: int
    bytes_done: int
    failed: int
    failures: list[tuple[str, str]]
    error: str
    rate: float | None = None
    eta_s: float | None = None
    counts: dict[str, int] = {}
    """What else is counted, by name: directories, changed, kept; ``total_bytes``: of all items together, where known."""
    arguments: dict[str, str] = {}
    """What it was begun with."""


class JobListRequest(Message):
    """JOB_LIST: one job (``NotFound`` if it is not remembered); with 0 those numbered below ``before`` (0: all), newest first, as many as one answer holds:
    ask on below the last of them until there are none. Of a list, none tells its failures."""

    number: int = 0
    before: int = 0
    limit: int = 0
    """At most so many; 0: as many as one answer holds."""
    is_now: bool = False
    """Instead all that are open, and of the others the ``limit`` that ended last."""


class JobListAnswer(Message):
    """Answer of JOB_LIST; JOB_ADD and JOB_STEER answer with one job."""

    jobs: list[JobInfo]


class JobSteerRequest(Message):
    """JOB_STEER: ``action`` pause, resume or stop. Jobs that owe a store something (delete, move) cannot be stopped."""

    number: int
    action: str
    request: RequestId = RequestId()


class PolicyInfo(Message):
    """Settings of a path and everything below; None: as above it."""

    path: str
    sync_interval_s: float | None = None
    write_type: str | None = None
    quota_bytes: int | None = None
    priority: str | None = None
    ttl_s: int | None = None
    id: int = 0
    used_bytes: int = 0
    """Cached bytes charged to it, of all live workers, as last told."""
    layout: int | None = None
    """How files that begin below it are cut into blocks: the exponent of a block's size, 255: not at all."""
    replicas: int | None = None
    """On so many workers of its slot a cached block is kept."""


class PolicySetRequest(Message):
    """POLICY_SET: replaces the path's policy; all None removes it. Answered with the PolicyInfo."""

    policy: PolicyInfo
    request: RequestId = RequestId()


class PolicyListAnswer(Message):
    """POLICY_LIST (Empty), sorted by path."""

    policies: list[PolicyInfo]


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
    operations: list[int] = []
    """Writes this worker is at: the master abandons those it does not name."""
    weight: int = 100
    """Its share of the slots, beside those of others; 0: none."""
    zone: str = ""
    """What it shares with others that may fail together with it."""
    keeps: bool = False
    """As of :class:`WorkerInfo`."""
    console: str = ""
    """Where its own console is; '': it has none."""
    life: int = 0
    """Drawn by chance when it began: with another one it may have less cached than it had. 0: not told."""


class GroupSpec(Message):
    """A cache group as workers keep it: those of pages whose capability names policy ``id``. Quota 0: none, else that of the whole cluster; ttl 0: none."""

    id: int
    quota_bytes: int
    priority: str
    ttl_s: int
    replicas: int = 1


class MountGrant(Message):
    """A mount as a worker needs it, secrets in clear, kept in memory only."""

    id: int
    uri: str
    options: dict[str, str]
    changed_index: int
    ufs_mode: str = "readWrite"


class S3KeyGrant(Message):
    """An S3 key workers honour; its secret follows from number and salt (model/s3_key.py)."""

    number: int
    salt: bytes
    name: str
    rights: int
    expires_s: int = 0
    uid: int = 0
    groups: list[int] = []
    prefix: str = ""


class TokenGrant(Message):
    """Which tokens workers honour: number to salt; ``last`` is the newest number ever given. And what S3 doors go by: keys, and buckets that have a
    name of their own."""

    salts: dict[int, bytes]
    last: int
    s3: list[S3KeyGrant] = []
    buckets: list[BucketInfo] = []


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
    groups: list[GroupSpec] = []
    tokens: TokenGrant | None = None
    tokens_index: int = 0
    listed: bool | None = None
    """Whether the slot table lists this worker; None: there is none."""
    begun: int = 0
    """The last operation begun before: writes up to it that this worker did not name are given up."""


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
    policies_index: int = 0
    group_bytes: dict[int, int] = {}
    """Policy id → bytes cached."""
    operations: list[int] | None = None
    """Writes this worker is at; None: not told. One begun half a minute ago that a heartbeat does not name is resolved."""
    tokens_index: int = 0
    slots: SlotsKnown | None = None
    """The slot table this worker has; None: it wants none."""
    troubles: dict[int, str] = {}
    """Mount id → why its store, which failed again and again, is not asked now."""
    totals: list[float] = []
    """What it has done since it began, in the order of observe.totals.TOTALS."""
    over: dict[int, int] = {}
    """Policy id → bytes held over this worker's part of the quota, because they cannot go now."""
    left: dict[int, int] = {}
    """Policy id → bytes of its part that this worker leaves free for such others, until it is told otherwise."""


class PartsNews(Message):
    """How far workers are with their parts of quotas (worker/parts.py)."""

    settled: int
    """Epoch of the table in force when all live workers follow it, else 0."""
    over: dict[int, int]
    """Policy id → bytes of its part this worker is to leave free, because others hold more than theirs."""


class HeartbeatAnswer(Message):
    """``mounts`` and ``keys`` are None when unchanged since ``mounts_index``."""

    feed: list[FeedItem]
    cursor: int
    epoch: int
    now_ns: int
    keys: dict[int, bytes] | None = None
    mounts: list[MountGrant] | None = None
    mounts_index: int = 0
    groups: list[GroupSpec] | None = None
    """None: unchanged since ``policies_index``."""
    policies_index: int = 0
    tokens: TokenGrant | None = None
    """None: unchanged since ``tokens_index``."""
    tokens_index: int = 0
    slots: SlotsNews | None = None
    """None: table and liveness are as the worker knows them. They end no wait: they come with the answer that is due."""
    parts: PartsNews | None = None
    """None: this master does not know of parts."""


class RecordUploadRequest(Message):
    """RECORD_UPLOAD: answered with Empty once the store's id of an upload is journaled; before that no part is sent."""

    operation: int
    upload: str
    worker: int = 0
    """Who sends it; only the intent's own worker may. So in the three below."""


class PublishRequest(Message):
    """PUBLISH: all parts are sent. Answered once the path is locked."""

    operation: int
    size: int
    worker: int = 0
    attributes: Attributes | None = None
    etag: str = ""
    """Likewise as END_WRITE will tell them: should the worker not come to that, the file has them all the same."""


class PublishAnswer(Message):
    """``replaced``: the fingerprint the act is conditional on; '': nothing may be there (``exclusive``) or nothing is known to be."""

    replaced: str
    exclusive: bool
    key: str


class EndWriteRequest(Message):
    """END_WRITE: the act is done. ``fingerprint`` '' and no store: the worker itself keeps the bytes, fsynced. Answered with InodeAnswer."""

    operation: int
    size: int
    mtime_ns: int = 0
    fingerprint: str = ""
    persisted: bool = True
    mode: int = -1
    uid: int = 0
    gid: int = 0
    worker: int = 0
    capability: bytes = b""
    """That of the write: by it a master that has forgotten the operation finds the file it ended with."""
    attributes: Attributes | None = None
    """In the place of those BEGIN_WRITE said."""
    etag: str = ""
    """Not kept where the store has its own."""


class AbandonWriteRequest(Message):
    """ABANDON_WRITE: the act failed with ``error``. ``unknown``: it may have been done all the same; the master finds out."""

    operation: int
    error: Failure
    unknown: bool = False
    worker: int = 0


class AbandonWriteAnswer(Message):
    """``error`` is what the writer is told: ``AlreadyExists`` or ``ConditionFailed`` where its own condition did not hold, ``UfsUnknown``
    where nobody knows yet, ``UfsChanged`` where beginning again has a chance."""

    error: Failure


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
    asked: int = 0
    """On whose behalf: 0 a reader's; by another worker, 1 of the owner (served from the cache or the store, never asked on), 2 of the
    former owner (from the cache, else ``NotCached``)."""
    spread: bool = False
    """Asked here because the block is hot (:class:`ServedAnswer`): what comes from its owner is kept."""
    past_owner: bool = False
    """Asked here because the owner does not answer: what is missing comes from the store, and nobody waits for the owner once more."""


class ReadManyRequest(Message):
    """READ_MANY, stream of DATA: at most 1,024 pieces as (capability number, offset, length), 16 MiB in all, answered as one
    run of bytes in request order. A piece that cannot be read fails the whole request."""

    capabilities: list[bytes]
    pieces: list[tuple[int, int, int]]
    cache: str = "CACHE"
    spread: bool = False
    """As of a READ, for one of the pieces at least."""
    past_owner: bool = False
    """As of a READ, for one of the pieces at least."""
    asked: int = 0
    """As of a READ; with 2 nothing is sent unless all of it is cached."""


class ServedAnswer(Message):
    """Ends READ and READ_MANY. ``hot``: (content, block, n) of blocks that readers should read from any of n workers more for the next ten seconds:
    the next ones of the order in which :meth:`model.slots.SlotTable.sequence` puts all."""

    hot: list[tuple[int, int, int]] = []


class DescriptorRequest(Message):
    """DESCRIPTOR (Unix socket only): the file that holds a group of a content."""

    capability: bytes
    group: int
    cache: str = "CACHE"
    """As of a READ: with ``CACHE_PROMOTE``, reads through the descriptor count for moving the group up."""


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
    giver: int = 0
    """The worker that asks, and has them: they are read from there or not at all, and the capability names no store's object."""
    age_ms: int = 0
    """With ``giver``: how long ago they came into its cache; their time to live goes on."""
    check: bool = False
    """Bring nothing: compare what is present with its checksums, drop what differs, and tell what is left of ``pages``."""
    keep: bool = False
    """The pages are wanted in this worker's cache, also if it is not their owner and keeps (``worker.local_copy``) only what is read again."""
    unread: bool = False
    """Nobody reads them now (a load): they are neither hits nor misses."""


class FetchAnswer(Message):
    """The group's presence now. ``cached`` False: there was no room; read with READ instead."""

    present: int
    cached: bool = True
    fetched_bytes: int = 0
    """Bytes this request sent for to the store, read ahead ones too (0: all was there, or on its way for another)."""
    file: int = 0
    """The group's file now. Another number than the descriptor's: ask for a new DESCRIPTOR (the group was evicted and came
    back, or lost a bad page); ``present`` is about the new file only."""


class WriteRequest(Message):
    """WRITE bytes at ``offset`` (those sent before end there; what was received already is passed over), at most 1 MiB.

    ``last``: the file ends with them; it is published, and the answer carries its record. Several may be in flight, in order.
    ``data`` stays where it arrived, uncopied, and is not to be changed by who sends it in one process.

    ``attributes`` of the first one reach the store with the file; those of the last one, with ``etag``, are what is kept."""

    capability: bytes
    offset: int
    data: memoryview
    last: bool = False
    attributes: Attributes | None = None
    etag: str = ""

    def buffers(self) -> tuple[bytes, memoryview, bytes]:
        """It as it is encoded, ``data`` not copied."""
        before = (_encode(self.capability), _encode(self.offset), _BYTES_32, len(self.data).to_bytes(4))
        after = (_encode(self.last), _encode(self.attributes), _encode(self.etag))
        return b"".join((_SIX_FIELDS, *before)), self.data, b"".join(after)


class WriteAnswer(Message):
    """``inode`` after ``last``, else nil; of a part ``tag``. ``received`` bytes so far."""

    received: int
    inode: msgspec.Raw = msgspec.Raw(b"\xc0")
    tag: str = ""


class KeepPartsRequest(Message):
    """KEEP_PARTS: an upload is about to be the file with this content, joined from these parts: what is here of them can be read from now on. Answered
    with Empty."""

    content: int
    parts: list[UploadedPart]


class AbortWriteRequest(Message):
    """ABORT_WRITE: nothing of it becomes visible."""

    capability: bytes


class ReleaseRequest(Message):
    """RELEASE descriptor leases."""

    leases: list[int]
    kept: list[int] = []
    """Leases the client means to keep (at most 4,096): the answer says which of them to give back."""


class ReleaseAnswer(Message):
    """``recalled``: of the leases kept, those whose room the worker wants. The client closes them within a minute."""

    recalled: list[int] = []


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
    held_bytes: int = 0
    """Of the used bytes, those of files unlinked already that readers still hold."""


class DecommissionRequest(Message):
    """DECOMMISSION: a worker leaves: it gets no slots any more, and hands over what it has. ``stay``: it gets its share again."""

    worker: int
    stay: bool = False


class DecommissionAnswer(Message):
    """``epoch`` of the table without (with) it."""

    epoch: int


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


class Gone(Message):
    """Why a group is not cached any more: evicted, freed, retired, expired, damaged; when."""

    content: int
    group: int
    why: str
    at_ns: int


class CachedAnswer(Message):
    """Answer of CACHED. ``gone``: what is remembered of groups of these contents that left this worker's cache lately."""

    groups: list[CachedGroup]
    gone: list[Gone] = []


class HotRequest(Message):
    """HOT: the contents read most lately, and the groups that left last; at most ``most`` (1,000) of each."""

    most: int = 100


class HotContent(Message):
    """``reads``: of its groups, one a second at most, each worth half after ten minutes. ``mount`` and ``key``: where its store has it, as a client
    told last; -1: nobody told lately."""

    content: int
    reads: float
    read_ns: int
    cached_bytes: int
    tiers: list[str]
    pinned: bool
    mount: int = -1
    key: str = ""


class LeftGroup(Message):
    """A group that left the cache, and why: evicted, freed, retired, expired, damaged."""

    content: int
    group: int
    why: str
    at_ns: int
    mount: int = -1
    key: str = ""


class HotAnswer(Message):
    """``hot``: most read first. ``left``: the last to leave first."""

    worker: int
    hot: list[HotContent]
    left: list[LeftGroup]


class VerifyAnswer(Message):
    """VERIFY (Empty): every page read and compared with its CRC; ``bad`` lists what was dropped."""

    pages: int
    bad: list[str]


# ---- masters among themselves -------------------------------------------------------------------------------------------


class StepRequest(Message):
    """STEP: messages of the journal's core (formats/wire.md), best effort. ``rpc``: where clients reach the sender, ``journal``: where members do. ``digest``: the CRC of the
    sender's state after entry ``digest_index``, from a leader; 0: none. ``lease_ms``: its election timeout where leaders read by a lease, which all must have in
    common; 0: they do not. ``level``: the highest entry level the sender knows."""

    cluster: bytes
    sender: int
    rpc: str
    journal: str
    digest_index: int = 0
    digest: int = 0
    messages: list[bytes] = []
    lease_ms: int = 0
    level: int = 0


class WhoRequest(Message):
    """WHO: who are you? The asker says the same of itself."""

    name: str
    member: int


class WhoAnswer(Message):
    """A master on its journal door. ``membership``: of the group it belongs to, empty while it belongs to none. ``commit_index``, ``commit_term``: the last entry it
    knows to be committed, at which that membership is in force; 0: the membership may yet be taken back."""

    name: str
    member: int
    rpc: str
    cluster: bytes = b""
    membership: bytes = b""
    commit_index: int = 0
    commit_term: int = 0


class SnapshotRequest(Message):
    """SNAPSHOT: piece ``number`` of the leader's state at entry ``index``, in the form of backups: -1 is the head, then chunks from 0 on."""

    cluster: bytes
    sender: int
    index: int
    number: int
    data: bytes


class SnapshotAnswer(Message):
    """The piece the receiver wants next; as many as there are: it has them all."""

    next: int


class QuorumMember(Message):
    """One member as the answering master sees it. ``match``: the last entry known to be on its disk, -1 when not known here. ``copied``: the share of the whole state
    that it has got, while one is sent to it; -1: none is."""

    id: int
    name: str
    journal: str
    rpc: str
    voter: bool
    role: str
    match: int = -1
    heard_s: float = -1.0
    state: str = ""
    copied: float = -1.0


class QuorumAnswer(Message):
    """QUORUM: the group of masters. ``changing``: a change of voters is in progress. ``crc``: of the state at ``applied_index``. ``removed``: that the master asked is no
    longer in the group, and what to do; empty: it is, as far as it knows."""

    me: int
    role: str
    term: int
    leader: int
    commit_index: int
    last_index: int
    applied_index: int
    changing: bool
    members: list[QuorumMember]
    crc: int = 0
    removed: str = ""


class QuorumChangeRequest(Message):
    """QUORUM_CHANGE. ``action``: add (a learner), promote, remove, transfer; ``address`` of the journal door, for add."""

    action: str
    name: str
    address: str = ""
