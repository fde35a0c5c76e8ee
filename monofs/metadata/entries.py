"""The bodies of entries: every change of the namespace there is but those of intents, as msgpack arrays that are only ever extended at their end.

``apply`` decides each against the state at its index (law 3); clock and random numbers travel inside.

Not here: intents (intent_entries.py), numbers of kinds and how the journal carries a body (entry_kinds.py).
"""

from __future__ import annotations

import msgspec

from monofs.model.attributes import Attributes
from monofs.model.ids import InodeId, MountId


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
    marker_bytes: int = 0
    """How many that object has. Other than 0: level 6."""


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
    """One file whose object was copied: ``parent`` and ``name`` of its record, old and new store key, what the store shows now.

    Or, its name with ``/``, from level 6 on: a directory below that was made while an earlier job was at work. Its record has the old key, which is where it
    lies with the one above it; so it needs none, and forgets it."""

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
