"""Names and key forms of the tables, and the meta record: the on-disk form of the namespace (docs/formats/metadata.md).

A *space* is one sorted run of keys: the children of one directory, named by its inode id (0 holds only the root), or one whole
other table, named by its negative number. A change of the state is (space, key, value), value None meaning deleted.

Invariant: a table number, a key form and the position of a field in a record never change their meaning.
"""

from __future__ import annotations

import hashlib
import struct
from enum import IntEnum

import msgspec

from monofs.model.attributes import Attributes, encode_holder

FORMAT_VERSION = 1
FIRST_LEVEL = 1
"""The entry level every cluster begins at, whatever release makes it: the state must not depend on who applies."""
LEVEL = 6
"""The highest entry level this release knows."""
SLOTS_LEVEL = 2
"""From which on ASSIGN_SLOTS may be proposed."""
REPLICAS_LEVEL = 3
"""From which on a policy may say replicas."""
LAYOUT_LEVEL = 3
"""From which on a policy may say a layout: records of files depend on it."""
IMPLIED_LEVEL = 4
"""From which on directories made on the way to a file are marked as such."""
S3_KEYS_LEVEL = 4
"""From which on S3 keys may be issued, and buckets named."""
ATTRIBUTES_LEVEL = 4
"""From which on files may have attributes and etags, and paths may be keys."""
MARKERS_LEVEL = 5
"""From which on directories may be objects, and keep attributes."""
REPLACED_TTLS_LEVEL = 5
"""From which on a time to live ends with the very file or directory it was set for, also when a file is replaced."""
HISTORY_LEVEL = 5
"""From which on ``JOBS_MAX`` jobs are remembered; before it, as many as may be open."""
ADDRESSES_LEVEL = 5
"""From which on it is remembered where workers listen."""
UPLOADS_LEVEL = 5
"""From which on uploads in parts may be open whose parts come through any worker."""
JOINED_LEVEL = 6
"""From which on MOVED may name directories, and while a MOVE job is open a file beside a directory of its name lies where its own record says."""
MARKER_BYTES_LEVEL = 6
"""From which on listings tell how many bytes an object ``dir/`` has."""
KEPT_LEVEL = 6
"""From which on PUBLISH of a write, too, may tell what is kept with the file."""

NameChange = tuple[int, bytes, bytes | None]
"""(space, key, value or None)."""


class Table(IntEnum):
    """Tables other than ``tree``; the space of a table is its negative number."""

    IDS = 1
    MOUNTS = 2
    APPLIED = 3
    RETIRED = 4
    WORKERS = 5
    REMOVAL = 6
    TOMBSTONES = 7
    GRAVES = 8
    META = 9
    INTENTS = 10
    LOCKS = 11
    JOBS = 12
    POLICIES = 13
    TTLS = 14
    EXPIRY = 15
    PLACES = 16
    KEYS = 17
    PLACEMENT = 18
    ATTRIBUTES = 19
    BUCKETS = 20


TREE_NAME = b"tree"
TABLE_NAMES: dict[Table, bytes] = {table: table.name.lower().encode() for table in Table}

IDS = -Table.IDS
MOUNTS = -Table.MOUNTS
APPLIED = -Table.APPLIED
RETIRED = -Table.RETIRED
WORKERS = -Table.WORKERS
REMOVAL = -Table.REMOVAL
TOMBSTONES = -Table.TOMBSTONES
GRAVES = -Table.GRAVES
INTENTS = -Table.INTENTS
LOCKS = -Table.LOCKS
JOBS = -Table.JOBS
POLICIES = -Table.POLICIES
TTLS = -Table.TTLS
EXPIRY = -Table.EXPIRY
PLACES = -Table.PLACES
KEYS = -Table.KEYS
PLACEMENT = -Table.PLACEMENT
ATTRIBUTES = -Table.ATTRIBUTES
BUCKETS = -Table.BUCKETS

META_KEY = b"meta"
ABOVE_ROOT = 0
"""The space that holds the root's own record, under :data:`ROOT_KEY`."""
ROOT_KEY = b"/"

FEED_CONTENTS_MAX = 1000
"""Contents in one record of the feed."""
FEED_RECORDS_MAX = 100_000
"""Records the feed keeps; the oldest fall out, and workers that have not seen them drop their clean pages."""
TOMBSTONES_MAX = 100_000
"""Tombstones kept; when the oldest falls out, listings older than it are refused (``Meta.buried_floor``)."""
INTENTS_MAX = 10_000
"""Open intents; more changes of stores are ``Overloaded``."""
UPLOADS_MAX = 5_000
"""Of them, UPLOADs: what clients leave behind must not be in the way of other changes."""
JOBS_OPEN_MAX = 1000
"""Jobs that run or are paused; a new one is ``Overloaded``."""
JOBS_MAX = 10_000
"""Jobs remembered; the oldest ended one falls out."""
JOBS_BYTES_MAX = 64 << 20
"""Bytes of records of ended jobs remembered: a job that names a hundred failures has twenty thousand, and may have more."""
FAILURES_MAX = 100
"""Failures a job names; more are counted."""
POLICIES_MAX = 10_000
TTLS_MAX = 1_000_000
MOUNTS_MAX = 1000
TOKENS_MAX = 1000
BUCKETS_MAX = 1000
WORKERS_MAX = 65_536
IDENTITY_BYTES = 16
"""Of a worker's home."""

PATH_KEY_BYTES = 400
"""Longest path that is its own key."""

_ID = struct.Struct(">Q")
pack_id = _ID.pack
"""An id or queue number as 8 bytes, big-endian."""


def unpack_id(key: bytes) -> int:
    """The first 8 bytes as an id."""
    return int(_ID.unpack_from(key)[0])


def path_key(path: str) -> bytes:
    """The key of a path in the tables keyed by one: its bytes, or of a longer one (LMDB keys have at most 511 bytes) the first 400, NUL,
    and the 16-byte BLAKE2b of the whole."""
    raw = path.encode()
    if len(raw) <= PATH_KEY_BYTES:
        return raw
    return raw[:PATH_KEY_BYTES] + b"\0" + hashlib.blake2b(raw, digest_size=16).digest()


class FeedKind(IntEnum):
    """What a record of the feed tells workers to do; the numbers are those of ``rpc.api.FeedKind``."""

    RETIRED = 1
    FREE = 2
    FREE_FORCED = 3
    PIN = 4
    UNPIN = 5


class FeedRecord(msgspec.Struct, array_like=True, gc=False):
    """One record of ``retired``, keyed by its feed index."""

    kind: int
    contents: list[int]


class Detached(msgspec.Struct, array_like=True, gc=False):
    """One record of ``removal``: a directory without a name whose children after ``after`` are still to be removed."""

    directory: int
    after: bytes = b""


class Grave(msgspec.Struct, array_like=True, gc=False):
    """One record of ``graves``: the tombstones in the order they were made, so that the oldest can be dropped."""

    parent: int
    key: bytes


class Tombstone(msgspec.Struct, array_like=True, gc=False):
    """One record of ``tombstones``: the journal index of the removal, and the number of its grave."""

    index: int
    grave: int


class IntentKind(IntEnum):
    """What an intent will do to its store."""

    WRITE = 1
    DELETE = 2
    RENAME = 3
    MAKE_DIRECTORY = 4
    COPY = 5
    UPLOAD = 6
    """A file in parts that come through any worker, over days; the leader publishes it. While it does not act nothing else waits for it."""


class Intent(msgspec.Struct, array_like=True, gc=False, frozen=True):
    """One record of ``intents``, keyed by its number: an act on a store that is about to be done, or may have been."""

    number: int
    kind: int
    name: str
    """What the store is told: ``<12 hex digits of the cluster id>-<incarnation>-<number>``, the latter two in hex."""
    path: str
    acting: bool
    """False: only parts of an upload are sent; the path is not locked and stays as it is."""
    mount: int
    """0: a write under no mount."""
    key: str
    """Effective store key of ``path``."""
    content: int = 0
    size: int = -1
    """-1: not known yet."""
    replaced: str = ""
    """Fingerprint of the version that is replaced, deleted, moved or copied; empty: nothing is there."""
    exclusive: bool = False
    """Fails when anything has the name."""
    if_match: str | None = None
    """Fails unless the file has this fingerprint."""
    write_type: str = "CACHE_THROUGH"
    mode: int = 0o644
    uid: int = 0
    gid: int = 0
    worker: int = 0
    upload: str = ""
    """Of a multipart upload or temporary file, recorded before its first part is sent."""
    target: str = ""
    target_key: str = ""
    target_replaced: str = ""
    client: bytes = b""
    sequence: int = 0
    lowest: int = 0
    created_ns: int = 0
    principal: str = ""
    parents: bool = False
    directory: bool = False
    """Of a rename or deletion: that of a directory (the store renames it in one step; the deleted one is empty)."""
    attributes: Attributes | None = None
    """Of a write or copy: what is kept with the file. None: of a write nothing, of a copy what its source came with in the store."""
    etag: str = ""
    """Of a copy: its source's."""
    as_key: bool = False
    """What is made is a file, though a directory has its name too."""
    if_content: int | None = None
    """Fails unless the file has this content."""
    by: str = ""
    """Who spoke for the principal, if not itself."""
    marker: bool = False
    """Of a directory that is made or deleted: the object ``dir/`` alone is meant; what lies below stays."""
    implied: bool = False
    """Of a directory that is deleted: only if a store of files knows that it was made on the way to a file."""
    tags_only: bool = False
    """Of a copy onto itself: of what is kept with the file only the tags change."""


class JobKind(IntEnum):
    """What a job does."""

    LOAD = 1
    FREE = 2
    DELETE = 3
    """Delete the objects below a prefix whose directory was removed from the tree."""
    MOVE = 4
    """Move the objects below a prefix whose directory was renamed in the tree."""
    SYNC = 5


class JobState(IntEnum):
    """Where a job stands. RUNNING and PAUSED are open."""

    RUNNING = 1
    PAUSED = 2
    DONE = 3
    STOPPED = 4
    FAILED = 5


class Job(msgspec.Struct, array_like=True, gc=False, frozen=True):
    """One record of ``jobs``, keyed by its number."""

    number: int
    kind: int
    state: int
    path: str
    """LOAD, FREE, SYNC: what they are about. DELETE: the path removed. MOVE: the directory's former path."""
    target: str = ""
    """MOVE: the path the directory was renamed to."""
    mount: int = 0
    key: str = ""
    """DELETE, MOVE: the store prefix, without its trailing slash."""
    directory: int = 0
    """DELETE: the detached inode; MOVE: the moved one."""
    created_ns: int = 0
    changed_ns: int = 0
    ended_ns: int = 0
    user: str = ""
    cursor: bytes = b""
    """Where a restart goes on; what it means is the job's own."""
    done: int = 0
    total: int = -1
    """-1: not known."""
    bytes_done: int = 0
    failed: int = 0
    failures: list[tuple[str, str]] = []
    """(path or key, error), the latest of each."""
    error: str = ""
    """Why it failed or waits."""
    arguments: dict[str, str] = {}
    doomed: list[str] = []
    """MOVE: old keys whose objects were copied and recorded, and are deleted next."""
    ended_index: int = 0
    """Journal index of its end: what a store showed before it is not believed about the names it covered."""
    counts: dict[str, int] = {}
    """What else is counted, by name: directories, changed, kept."""
    uploads: dict[str, str] = {}
    """MOVE: target key to the upload a large object is being copied by, to be aborted when the copy is not finished."""


class Policy(msgspec.Struct, array_like=True, gc=False, frozen=True):
    """One record of ``policies``, keyed by path: settings of a path and everything below. None: as above it."""

    id: int
    path: str
    sync_interval_ms: int | None = None
    write_type: str | None = None
    quota_bytes: int | None = None
    priority: str | None = None
    ttl_s: int | None = None
    """Cached pages are dropped so long after they were admitted."""
    changed_index: int = 0
    layout: int | None = None
    """Of contents that begin below the path, as in model.block."""
    replicas: int | None = None
    """On so many workers of its slot a cached block is kept."""


class Ttl(msgspec.Struct, array_like=True, gc=False, frozen=True):
    """One record of ``ttls``, keyed by path. ``inode``: whom it was set for; a later file of the same name is none of its business."""

    inode: int
    expires_ns: int
    action: str
    path: str = ""
    """The key, told whole: keys of long paths are not (:func:`path_key`)."""


class Places(msgspec.Struct, array_like=True, gc=False, frozen=True):
    """One record of ``places``, keyed by content id: who holds bytes that no store has. ``chains``: (first block, workers), in block order."""

    chains: list[tuple[int, list[int]]]


class KeyKind(IntEnum):
    """What a key is shown to."""

    TOKEN = 0
    """RPC doors (model/token.py)."""
    S3 = 1
    """S3 doors (model/s3_key.py)."""


class Key(msgspec.Struct, array_like=True, gc=False, frozen=True):
    """One record of ``keys``, keyed by its number: a token or S3 key that was issued and not removed. Nothing of its secret is here: that follows
    from the cluster's and what these fields and the cluster's id make up (model/token.py, model/s3_key.py)."""

    number: int
    name: str
    rights: int
    expires_s: int
    """Whole seconds since 1970 UTC; 0: never."""
    salt: bytes
    uid: int = 0
    groups: list[int] = []
    issued_ns: int = 0
    issuer: str = ""
    kind: int = KeyKind.TOKEN
    prefix: str = ""
    """Of an S3 key: the path it is bound to; empty: all."""


class Bucket(msgspec.Struct, array_like=True, gc=False, frozen=True):
    """One record of ``buckets``, keyed by name: a path that S3 doors show as a bucket."""

    path: str
    created_ns: int
    issuer: str = ""


class Placement(msgspec.Struct, array_like=True, gc=False, frozen=True):
    """The one record of ``placement``, under key 0: the slot table (model/slots.py), and what it was planned from."""

    epoch: int
    """Journal index of the ASSIGN_SLOTS that made it."""
    replicas: int
    shares: list[tuple[int, int, str]]
    """Worker, weight, zone of all that took part."""
    rows: bytes


class Meta(msgspec.Struct, array_like=True, gc=False):
    """The one record of ``meta``: everything of the state that is not a table. Written with every flush.

    Queues (feed, removal, graves) hold the numbers ``tail <= n < head`` without gaps; the feed starts at 1.
    """

    format: int = FORMAT_VERSION
    applied_index: int = 0
    applied_term: int = 0
    members: bytes = b""
    """Membership of the journal's group; empty: a single voter."""
    cluster: bytes = b""
    incarnation: int = 0
    level: int = 0
    crc: int = 0
    """Running CRC-32 of the changes of every entry."""
    now_ns: int = 0
    epoch: int = 0
    """How many workers were ever registered. The slot table has an epoch of its own, in ``placement``."""
    data_key: bytes = b""
    capability_key: bytes = b""
    last_inode: int = 0
    last_content: int = 0
    """Counter part of the last content id given in this incarnation."""
    last_mount: int = 0
    last_worker: int = 0
    inodes: int = 0
    """Records in ``tree``, those of detached subtrees included."""
    mounts_index: int = 0
    feed_tail: int = 1
    feed_head: int = 1
    removal_tail: int = 0
    removal_head: int = 0
    graves_tail: int = 0
    graves_head: int = 0
    buried_index: int = 0
    """Journal index of the newest tombstone ever made."""
    buried_floor: int = 0
    """Journal index of the newest tombstone ever dropped: listings read before it are refused."""
    last_intent: int = 0
    intents: int = 0
    """Open intents."""
    last_job: int = 0
    jobs_index: int = 0
    """Journal index of the last change of which jobs are open."""
    last_policy: int = 0
    policies_index: int = 0
    ttls: int = 0
    """Paths with a time to live."""
    last_key: int = 0
    keys_index: int = 0
    """Journal index of the last change of which tokens, S3 keys and named buckets there are."""
    kept_index: int = -1
    """Journal index of the last entry that made or moved, below a mount, a file that no store has. 0: none did; -1: not known, none did since an
    earlier release made this home."""
    last_attributes: int = 0


encode_record = msgspec.msgpack.Encoder().encode
_INTENT_FIELDS = len(Intent.__struct_fields__)
_PLAIN_TAIL = b"\xc0\xa0\xc2\xc0\xa0"
"""The fields of level 4 where they say nothing."""


def encode_intent(intent: Intent) -> bytes:
    """As stored. The fields of level 4, and of level 5, are left out while they say nothing: so records are what releases before make of the same entries."""
    raw = encode_holder(intent)
    if intent.marker or intent.implied or intent.tags_only:
        return raw
    raw = bytes([0xDC, 0, _INTENT_FIELDS - 3]) + raw[3:-3]
    if intent.by or intent.attributes is not None or intent.etag or intent.as_key or intent.if_content is not None:
        return raw
    return bytes([0xDC, 0, _INTENT_FIELDS - 8]) + raw[3 : -len(_PLAIN_TAIL)]


_KEY_FIELDS = len(Key.__struct_fields__) - 2


def encode_key(key: Key) -> bytes:
    """As stored; likewise."""
    raw = encode_record(key)
    return raw if key.kind or key.prefix else bytes([0x90 | _KEY_FIELDS]) + raw[1:-2]


decode_meta = msgspec.msgpack.Decoder(Meta).decode
decode_feed = msgspec.msgpack.Decoder(FeedRecord).decode
decode_detached = msgspec.msgpack.Decoder(Detached).decode
decode_grave = msgspec.msgpack.Decoder(Grave).decode
decode_intent = msgspec.msgpack.Decoder(Intent).decode
decode_job = msgspec.msgpack.Decoder(Job).decode
decode_policy = msgspec.msgpack.Decoder(Policy).decode
decode_ttl = msgspec.msgpack.Decoder(Ttl).decode
decode_places = msgspec.msgpack.Decoder(Places).decode
decode_key = msgspec.msgpack.Decoder(Key).decode
decode_bucket = msgspec.msgpack.Decoder(Bucket).decode
decode_placement = msgspec.msgpack.Decoder(Placement).decode
decode_tombstone = msgspec.msgpack.Decoder(Tombstone).decode
