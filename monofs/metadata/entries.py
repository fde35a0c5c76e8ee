"""The entries of the namespace: every change there is, as msgpack arrays that are only ever extended at their end.

The journal carries them as (kind, version, body). ``apply`` decides each against the state at its index (law 3); clock and random
numbers travel inside. A kind number is never reused.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Any

import msgspec

from monofs.model.attributes import Attributes, encode_holder
from monofs.model.entry import Entry
from monofs.model.errors import UnknownEntry
from monofs.model.ids import InodeId, MountId

ENTRY_VERSION = 1
"""Version of all bodies below. A body is only extended at its end; a change of meaning is a new kind or version."""


class EntryKind(IntEnum):
    """Kinds of entries."""

    INITIALIZE = 1
    SET_LEVEL = 2
    EXPIRE_CLIENTS = 3
    ADD_MOUNT = 10
    UPDATE_MOUNT = 11
    REMOVE_MOUNT = 12
    ADOPT_PAGE = 20
    ADOPT_PATH = 21
    MAKE_DIRECTORY = 30
    CREATE = 31
    DELETE = 32
    RENAME = 33
    SET_PIN = 34
    FREE = 40
    TRIM_FEED = 41
    REGISTER_WORKER = 50
    REMOVE_BELOW = 51
    ASSIGN_SLOTS = 52
    BEGIN_WRITE = 60
    PUBLISH = 61
    RECORD_UPLOAD = 62
    BEGIN_DELETE = 63
    BEGIN_RENAME = 64
    BEGIN_MAKE_DIRECTORY = 65
    BEGIN_COPY = 66
    END = 67
    ABANDON = 68
    REMOVE_TREE = 69
    RENAME_TREE = 70
    MOVED = 71
    REOPEN = 72
    ADD_JOB = 80
    UPDATE_JOB = 81
    SET_POLICY = 82
    SET_TTL = 83
    FORGET = 84
    TOUCH = 85
    SET_ATTRIBUTES = 86
    ADD_TOKEN = 90
    REMOVE_TOKEN = 91
    ROTATE_KEY = 92
    SET_BUCKET = 93


class Stamp(msgspec.Struct, array_like=True, gc=False):
    """What every entry carries: the proposer's clock, and the request it answers (law 3; empty client: none)."""

    now_ns: int
    client: bytes = b""
    sequence: int = 0
    lowest: int = 0


class Change(msgspec.Struct, array_like=True, gc=False):
    """Base of all entry bodies. The first field of each is ``stamp``."""


class Initialize(Change):
    """The first entry of a new home. ``data_key`` is the wrapped key of mount secrets; ``capability_keys`` wrapped likewise."""

    stamp: Stamp
    cluster: bytes
    incarnation: int
    data_key: bytes
    capability_key: bytes


class SetLevel(Change):
    """Raise the level of entry kinds that may be proposed."""

    stamp: Stamp
    level: int


class ExpireClients(Change):
    """Forget clients silent for an hour."""

    stamp: Stamp
    clients: list[bytes]


class AddMount(Change):
    """Mount a store; makes the directories of ``path`` (explicit). Result: model.mount.Mount."""

    stamp: Stamp
    path: str
    uri: str
    options: dict[str, str]
    sealed: bytes
    readonly: bool
    shared: bool
    sync_interval_ms: int | None = None
    ufs_mode: str = "readWrite"


class UpdateMount(Change):
    """Replace a mount's options as a whole (merging was done by the proposer against ``expected_index``). Result: Mount."""

    stamp: Stamp
    path: str
    expected_index: int
    options: dict[str, str]
    sealed: bytes
    readonly: bool
    sync_interval_ms: int | None = None
    ufs_mode: str = "readWrite"


class RemoveMount(Change):
    """Forget a mount. Its subtree is detached at once (its directory record gets a fresh inode id) and removed by REMOVE_BELOW.

    Refused when another mount lies below, and while intents or tree jobs owe the store something, unless the mount's ``ufs_mode`` is
    noAccess and ``discards`` says that they are given up. ``searched``: the journal index at which the proposer began to look for files
    that no store has (-1: it did not); ``Busy`` when one came since. Result: what was given up, in words, at most 100 of them.
    """

    stamp: Stamp
    path: str
    discards: bool = True
    searched: int = -1


class RemoveBelow(Change):
    """Remove up to ``limit`` records of detached subtrees, retiring their contents. Result: how many are left to do (0: none)."""

    stamp: Stamp
    limit: int


class Found(msgspec.Struct, array_like=True, gc=False):
    """One entry as a store showed it. ``name`` without a slash. Times in ns; ``mode`` -1: the default for its kind. A directory's
    fingerprint and time are of its marker; a page that tells them (from level 5 on) does so of directories that are to be added."""

    name: bytes
    is_directory: bool
    size: int = 0
    mtime_ns: int = 0
    fingerprint: str = ""
    mode: int = -1
    uid: int = 0
    gid: int = 0


class AdoptPage(Change):
    """Take over one page of a store's listing of one directory.

    The page speaks for every name ``after < name <= through`` (with its ``/``; through None: to the end). Names in the tree in that
    range but not in ``found`` are removed, if the rules of sync allow: not EXPLICIT, not locked, PERSISTED, ``changed_index`` and
    tombstones not newer than ``read_index``. A new or changed fingerprint gives a new content id and retires the old.
    ``complete``: with this page the whole directory was taken over; sets LOADED. ``key``: the store key that was listed (None: not told);
    ``ConditionFailed`` when the directory lies elsewhere by now. Result: (added, changed, removed).
    """

    stamp: Stamp
    directory: InodeId
    mount: MountId
    read_index: int
    after: bytes
    through: bytes | None
    found: list[Found]
    complete: bool
    key: str | None = None
    marker: tuple[int, str] | None = None
    """Time and fingerprint of the object ``dir/`` of the directory, '' if it has none; None: not told. Other than None: level 5."""


class AdoptPath(Change):
    """Take over what a store showed for one path (both None: nothing there), making its parents as needed.

    ``key``: the store key that was looked at, as in ADOPT_PAGE. Result: the inode record (bytes) of the directory if present, else of the
    file, or NotFound as a value.
    """

    stamp: Stamp
    path: str
    mount: MountId
    read_index: int
    file: Found | None
    directory: Found | None
    key: str | None = None


class MakeDirectory(Change):
    """Make a directory. Result: inode record (bytes)."""

    stamp: Stamp
    path: str
    mode: int
    uid: int
    gid: int
    parents: bool
    exist_ok: bool
    marker: bool = False
    """The object ``dir/`` is made, with ``attributes``: of a directory that is there, too, and without ``exist_ok`` if that is none yet. True: level 5."""
    attributes: Attributes | None = None


class Create(Change):
    """Create an empty cache-only file. Result: inode record (bytes)."""

    stamp: Stamp
    path: str
    mode: int
    uid: int
    gid: int


class Delete(Change):
    """Delete a file or an empty directory. Result: None."""

    stamp: Stamp
    path: str
    as_key: bool = False
    """The file, though a directory has its name too; and the directories made on the way to it that hold nothing else. True: level 4."""
    if_content: int | None = None
    """Only if the file has this content. Other than None: level 4."""
    marker: bool = False
    """The object ``dir/``: of a directory that is not empty, that alone. True: level 5."""


class Rename(Change):
    """Rename within the cache-only part; replaces a file or an empty directory as rename(2) does. Result: inode record (bytes)."""

    stamp: Stamp
    source: str
    target: str


class SetPin(Change):
    """Set or clear PINNED. Result: inode record (bytes). The proposer then tells workers through FREE entries of kind PIN/UNPIN."""

    stamp: Stamp
    path: str
    pinned: bool


class Free(Change):
    """Append a feed record of the given kind (rpc.api.FeedKind number) with at most 1,000 contents. Result: its feed index."""

    stamp: Stamp
    kind: int
    contents: list[int]


class TrimFeed(Change):
    """Forget feed records up to and including ``through``: every live worker has acted on them. Result: None."""

    stamp: Stamp
    through: int


class RegisterWorker(Change):
    """Give a worker identity (16 bytes) its lasting id. Result: the id (int). ``address``: where it listens now (level 5); '': as it is known."""

    stamp: Stamp
    identity: bytes
    address: str = ""


class AssignSlots(Change):
    """Change the slot table of epoch ``base``: ``replicas``, ``slots``, ``rows`` and ``digest`` as in model.slots.SlotDelta. Level 2.

    ``shares``: (worker, weight, zone) of all that the plan was made for. ``ConditionFailed`` when the table is another one by now. Result: the new
    table's epoch, which is the index of this entry.
    """

    stamp: Stamp
    base: int
    replicas: int
    shares: list[tuple[int, int, str]]
    slots: bytes
    rows: bytes
    digest: int


class Asker(msgspec.Struct, array_like=True, gc=False):
    """For whom an intent is opened: its outcome is remembered as the answer of this request (law 3). ``client`` empty: nobody's."""

    client: bytes = b""
    sequence: int = 0
    lowest: int = 0
    principal: str = ""
    uid: int = 0
    gid: int = 0
    by: str = ""
    """Who spoke for the principal, if not itself. Other than '': level 4."""


class BeginWrite(Change):
    """Open a write. ``size`` >= 0: the act follows at once, so the path is locked; -1: parts are sent first and PUBLISH locks it.

    Result: the Intent, encoded. ``write_type`` was resolved by the proposer (policies), MUST_CACHE under no mount.
    """

    stamp: Stamp
    path: str
    mode: int
    parents: bool
    exclusive: bool
    if_match: str | None
    size: int
    write_type: str
    worker: int
    asker: Asker
    attributes: Attributes | None = None
    """Other than None: level 4."""
    as_key: bool = False
    if_content: int | None = None
    """Only if the file has this content. Other than None: level 4."""
    upload: bool = False
    """An UPLOAD is opened, not a WRITE. True: level 5."""


class Publish(Change):
    """All parts of a write or upload are sent: lock its path, check its conditions, note the size. Result: the Intent, encoded.

    Of an upload, whose conditions come with its end: ``exclusive``, ``if_content``; ``attributes`` are what is kept with the file, in the place of
    those it began with. Other than the defaults: level 5."""

    stamp: Stamp
    number: int
    size: int
    exclusive: bool = False
    if_content: int | None = None
    attributes: Attributes | None = None


class Reopen(Change):
    """An upload that acted was not made visible: its path is free, and it goes on. Result: None."""

    stamp: Stamp
    number: int


class RecordUpload(Change):
    """Note the store's id of an upload before its first part is sent. Result: None."""

    stamp: Stamp
    number: int
    upload: str


class BeginDelete(Change):
    """Open the deletion of a file or an empty directory below a mount. Result: the Intent, encoded."""

    stamp: Stamp
    path: str
    asker: Asker
    as_key: bool = False
    if_content: int | None = None
    marker: bool = False
    """As of DELETE. True: level 5."""
    implied: bool = False
    """Only a directory that nobody asked for, and about which nothing was said. True: level 5."""


class BeginRename(Change):
    """Open the renaming of a file (any store), or of a directory (stores that rename). Result: the Intent, encoded; or the record's
    bytes, with a leading NUL byte, when source and target are the same path."""

    stamp: Stamp
    source: str
    target: str
    asker: Asker


class BeginMakeDirectory(Change):
    """Open the making of a directory below a mount. Result: the Intent, encoded; or the record's bytes, with a leading NUL byte, when
    it exists and ``exist_ok``."""

    stamp: Stamp
    path: str
    mode: int
    parents: bool
    exist_ok: bool
    asker: Asker
    marker: bool = False
    """Open it for a directory that is there, too: its store may have nothing but names below it. True: level 4; from level 5 on the object ``dir/`` is
    made, with ``attributes``, as by MAKE_DIRECTORY."""
    attributes: Attributes | None = None
    """Other than None: level 5."""
    replaced: str = ""
    """Only if that object is this version, of which all is known here, in the tree and in its store; empty: whatever is there. Other than empty: level 5."""


class BeginCopy(Change):
    """Open the copying of a file to another path of the same mount. ``attributes`` None: those of the source. Result: the Intent, encoded."""

    stamp: Stamp
    source: str
    target: str
    parents: bool
    exclusive: bool
    asker: Asker
    attributes: Attributes | None = None
    """Other than None: level 4."""
    as_key: bool = False
    if_content: int | None = None
    """Only if the source has this content. Other than None: level 4."""
    expected: int = -1
    """Onto itself: only what is kept with the file is replaced, if its record names that by this number. Other than -1: level 5."""


class End(Change):
    """The act of an intent is done: what the store shows now (``found`` None: nothing, or no store), and the name changes.

    ``stamp`` carries the asker's request, so that the result is remembered for it. ``size`` is that of a write; ``workers`` hold its
    bytes where no store has them. Result: the inode record (bytes) of what was made, renamed or copied; None for a deletion.
    """

    stamp: Stamp
    number: int
    found: Found | None
    size: int = 0
    workers: list[int] = []
    attributes: Attributes | None = None
    """Of a write: in the place of those it began with. Other than None: level 4."""
    etag: str = ""
    """Of a write: the writer's name of its content. Other than '': level 4."""


class Abandon(Change):
    """The act of an intent was not done, or was taken over by a look at the store: the intent goes, its content retires.

    Result: the error (code, message) as a value, remembered for the asker.
    """

    stamp: Stamp
    number: int
    code: int
    message: str


class RemoveTree(Change):
    """Remove a directory and all below it from the tree at once; below a mount, a DELETE job does the same in the store.

    Result: the job's number; 0: there is nothing for a job to do.
    """

    stamp: Stamp
    path: str
    user: str


class RenameTree(Change):
    """Rename a directory below a mount of an object store at once, and add the MOVE job. Result: (job's number, 0)."""

    stamp: Stamp
    source: str
    target: str
    user: str


class MovedFile(msgspec.Struct, array_like=True, gc=False):
    """One file whose object was copied: ``parent`` and ``name`` of its record, old and new store key, what the store shows now."""

    parent: int
    name: bytes
    content: int
    old_key: str
    new_key: str
    fingerprint: str
    mtime_ns: int


class Moved(Change):
    """Objects of a MOVE job were copied: their records name the new keys, the old ones are ``doomed`` in the job.

    Files that changed meanwhile are left as they are; the result lists the positions of those that were taken over (tuple of ints).
    With ``last``, the directory's ``store_path`` goes and the job is done.
    """

    stamp: Stamp
    number: int
    files: list[MovedFile]
    last: bool = False


class AddJob(Change):
    """Add a LOAD, FREE or SYNC job. Result: its number."""

    stamp: Stamp
    kind: int
    path: str
    arguments: dict[str, str]
    user: str


class UpdateJob(Change):
    """Tell how a job stands. None leaves a value. An ended job stays as it is. Result: None."""

    stamp: Stamp
    number: int
    state: int | None = None
    cursor: bytes | None = None
    done: int | None = None
    total: int | None = None
    bytes_done: int | None = None
    failed: int | None = None
    failures: list[tuple[str, str]] | None = None
    error: str | None = None
    doomed: list[str] | None = None
    counts: dict[str, int] | None = None
    uploads: dict[str, str] | None = None


class SetPolicy(Change):
    """Set the policy of a path as a whole, or remove it (all None). Result: the policy's id; 0: removed."""

    stamp: Stamp
    path: str
    sync_interval_ms: int | None = None
    write_type: str | None = None
    quota_bytes: int | None = None
    priority: str | None = None
    ttl_s: int | None = None
    layout: int | None = None
    """Other than None: level 3."""
    replicas: int | None = None
    """Other than None: level 3."""


class SetTtl(Change):
    """Set when a path expires and what happens then; ``expires_ns`` 0 removes that. ``expected_ns``, if not 0: only if it expires then
    (the leader removes what it acted on). Result: None."""

    stamp: Stamp
    path: str
    expires_ns: int
    action: str = ""
    expected_ns: int = 0


class Forget(Change):
    """Drop what is known of a persisted path below a mount, cached pages included; the store is not touched. Result: None."""

    stamp: Stamp
    path: str


class Touch(Change):
    """Set the mtime of a file or directory under no mount to now. Result: the inode record (bytes)."""

    stamp: Stamp
    path: str


class SetAttributes(Change):
    """Replace what is kept with a file or directory, if it still has this content. Level 4. Result: the inode record (bytes).

    ``expected`` is the number the record names its present attributes by, 0 for none; ``fingerprint``, if not empty, makes it what the store was seen
    to keep with that version: taken over only where nothing is known of it yet."""

    stamp: Stamp
    path: str
    content: int
    expected: int
    attributes: Attributes | None
    fingerprint: str = ""
    directory: bool = False
    """Of the directory of this path. True: level 5."""
    size: int = 0
    """Of an object ``dir/`` whose bytes are too many to be kept, by ``fingerprint``: how many its store has."""


class AddToken(Change):
    """Issue a token; one of the same name that has expired goes. ``rights`` are bits of model.principal.Right. Result: the Key, encoded."""

    stamp: Stamp
    name: str
    rights: int
    expires_s: int
    salt: bytes
    uid: int = 0
    groups: list[int] = []
    issuer: str = ""
    kind: int = 0
    """tables.KeyKind; other than 0: level 4. S3 keys need no distinct names."""
    prefix: str = ""


class RotateKey(Change):
    """Issue an S3 key of the same name, rights, path and end as another one, which ends at ``ends_s`` (in whole seconds since 1970; past: at once).
    Level 4. Result: the Key, encoded."""

    stamp: Stamp
    number: int
    salt: bytes
    ends_s: int
    issuer: str = ""


class SetBucket(Change):
    """Show a path as a bucket of this name at S3 doors; no longer, when ``path`` is empty. Level 4. Result: None."""

    stamp: Stamp
    name: str
    path: str
    issuer: str = ""


class RemoveToken(Change):
    """Honour a token no longer. Result: None."""

    stamp: Stamp
    number: int


BODIES: dict[EntryKind, type[Change]] = {
    EntryKind.INITIALIZE: Initialize,
    EntryKind.SET_LEVEL: SetLevel,
    EntryKind.EXPIRE_CLIENTS: ExpireClients,
    EntryKind.ADD_MOUNT: AddMount,
    EntryKind.UPDATE_MOUNT: UpdateMount,
    EntryKind.REMOVE_MOUNT: RemoveMount,
    EntryKind.ADOPT_PAGE: AdoptPage,
    EntryKind.ADOPT_PATH: AdoptPath,
    EntryKind.MAKE_DIRECTORY: MakeDirectory,
    EntryKind.CREATE: Create,
    EntryKind.DELETE: Delete,
    EntryKind.RENAME: Rename,
    EntryKind.SET_PIN: SetPin,
    EntryKind.FREE: Free,
    EntryKind.TRIM_FEED: TrimFeed,
    EntryKind.REGISTER_WORKER: RegisterWorker,
    EntryKind.REMOVE_BELOW: RemoveBelow,
    EntryKind.ASSIGN_SLOTS: AssignSlots,
    EntryKind.BEGIN_WRITE: BeginWrite,
    EntryKind.PUBLISH: Publish,
    EntryKind.RECORD_UPLOAD: RecordUpload,
    EntryKind.BEGIN_DELETE: BeginDelete,
    EntryKind.BEGIN_RENAME: BeginRename,
    EntryKind.BEGIN_MAKE_DIRECTORY: BeginMakeDirectory,
    EntryKind.BEGIN_COPY: BeginCopy,
    EntryKind.END: End,
    EntryKind.ABANDON: Abandon,
    EntryKind.REMOVE_TREE: RemoveTree,
    EntryKind.RENAME_TREE: RenameTree,
    EntryKind.MOVED: Moved,
    EntryKind.REOPEN: Reopen,
    EntryKind.ADD_JOB: AddJob,
    EntryKind.UPDATE_JOB: UpdateJob,
    EntryKind.SET_POLICY: SetPolicy,
    EntryKind.SET_TTL: SetTtl,
    EntryKind.FORGET: Forget,
    EntryKind.TOUCH: Touch,
    EntryKind.SET_ATTRIBUTES: SetAttributes,
    EntryKind.ADD_TOKEN: AddToken,
    EntryKind.REMOVE_TOKEN: RemoveToken,
    EntryKind.ROTATE_KEY: RotateKey,
    EntryKind.SET_BUCKET: SetBucket,
}

_KIND_OF = {body: kind for kind, body in BODIES.items()}
_DECODERS: dict[int, msgspec.msgpack.Decoder[Any]] = {
    int(kind): msgspec.msgpack.Decoder(body) for kind, body in BODIES.items()
}


def encode_entry(change: Change) -> Entry:
    """The journal entry that carries ``change``."""
    return Entry(int(_KIND_OF[type(change)]), ENTRY_VERSION, encode_holder(change))


def decode_entry(entry: Entry) -> Any:
    """The body of an entry, one of :data:`BODIES`.

    Raises ``UnknownEntry`` for a kind, version or body this release does not know: the node stops rather than skip a change.
    """
    kind, version, body = entry
    decoder = _DECODERS.get(kind)
    if decoder is None or version != ENTRY_VERSION:
        raise UnknownEntry(f"the journal holds an entry of kind {kind}, version {version}; this release knows it not")
    try:
        return decoder.decode(body)
    except msgspec.MsgspecError as problem:
        raise UnknownEntry(f"the body of a journal entry of kind {kind} cannot be decoded: {problem}") from None
