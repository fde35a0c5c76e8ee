"""A draft: what one entry will change, collected while its operation decides.

Operations read the state as it was before the entry, and put changes and counters here. A refused operation is a draft thrown away:
nothing of the state was touched (law 3). Ids come from counters in the state, the time from the entry: nothing here asks the machine.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

import msgspec

from monofs.metadata.known_slots import PLACEMENT_KEY
from monofs.metadata.open_intents import lock_paths
from monofs.metadata.state import Lookup, State, present
from monofs.metadata.tables import (
    ABOVE_ROOT,
    ATTRIBUTES,
    BUCKETS,
    FEED_CONTENTS_MAX,
    FEED_RECORDS_MAX,
    GRAVES,
    IDS,
    INTENTS,
    JOBS,
    KEYS,
    LOCKS,
    PLACEMENT,
    PLACES,
    POLICIES,
    REMOVAL,
    RETIRED,
    ROOT_KEY,
    TOMBSTONES,
    TOMBSTONES_MAX,
    Bucket,
    Detached,
    FeedKind,
    FeedRecord,
    Grave,
    Intent,
    Job,
    Key,
    Meta,
    NameChange,
    Placement,
    Places,
    Policy,
    Tombstone,
    decode_grave,
    decode_tombstone,
    encode_intent,
    encode_key,
    encode_record,
    pack_id,
    path_key,
)
from monofs.model.attributes import Attributes, encode_attributes, of_bucket
from monofs.model.errors import (
    InvariantBroken,
    NotADirectory,
    NotFound,
    NotReady,
    NotSupported,
    ReadOnly,
    invariant,
)
from monofs.model.ids import COUNTER_BITS, NO_CONTENT, ContentId, InodeId, make_content_id
from monofs.model.inode import Flag, Inode, Kind, encode_inode
from monofs.model.mount import Located
from monofs.model.options import UfsMode
from monofs.model.paths import Parts
from monofs.model.slots import SlotTable


class Draft:
    """The changes of one entry at ``index``; ``meta`` is a copy whose counters may be moved."""

    __slots__ = (
        "_buried",
        "_pinned",
        "_retired",
        "changes",
        "expired",
        "index",
        "kept",
        "meta",
        "now_ns",
        "refreshed",
        "stale",
        "state",
        "workers",
    )

    def __init__(self, state: State, index: int, now_ns: int) -> None:
        self.state = state
        self.index = index
        self.now_ns = now_ns
        self.meta: Meta = state.meta.__copy__()  # type: ignore[attr-defined] # copy.copy takes three times as long
        self.changes: list[NameChange] = []
        self.stale: list[tuple[int, bytes]] = []
        """(parent, key) of names whose lookup may give another record now."""
        self.refreshed: list[tuple[int, bytes, Inode, bytes]] = []
        """Directories whose record changed in place: kept in the lookup cache rather than dropped from it."""
        self.expired: list[bytes] = []
        """Clients whose answers are deleted."""
        self.kept: list[tuple[Callable[[Any, Any], None], Any, Any]] = []
        """What changes of the tables kept in memory, in order: (who takes it, key, record or None)."""
        self.workers: dict[int, bytes] = {}
        """Records of workers that are new or listen elsewhere."""
        self._retired: list[int] = []
        self._pinned: list[int] = []
        self._buried: set[bytes] = set()

    # ---- reading

    def lookup(self, parts: Parts) -> Lookup:
        """Resolve a path in the state before this entry. Raises ``NotReady`` in a namespace that was not initialised."""
        if not self.meta.cluster:
            raise NotReady("the namespace is not initialised yet")
        return self.state.lookup(parts)

    def lookup_key(self, parts: Parts, *, as_key: bool) -> Lookup:
        """The same; ``as_key``: as object stores know names (State.lookup_key)."""
        found = self.lookup(parts)
        return self.state.lookup_key(parts) if as_key else found

    # ---- records

    def add_inode(self, parent: int, key: bytes, inode: Inode) -> bytes:
        """Put the record of a new name; returns it as stored."""
        raw = encode_inode(inode)
        self.changes.append((parent, key, raw))
        self.stale.append((parent, key))
        self.meta.inodes += 1
        if inode.kind == Kind.DIRECTORY:
            self.changes.append((IDS, pack_id(inode.id), pack_id(parent) + key))
        return raw

    def put_inode(self, parent: int, key: bytes, inode: Inode) -> bytes:
        """Replace the record of a name that exists; returns it as stored."""
        raw = encode_inode(inode)
        self.changes.append((parent, key, raw))
        if inode.kind == Kind.DIRECTORY:
            self.refreshed.append((parent, key, inode, raw))
        else:
            self.stale.append((parent, key))
        return raw

    def remove_file(self, parent: int, key: bytes, inode: Inode) -> None:
        """Remove a file's name and retire its content."""
        self.changes.append((parent, key, None))
        self.stale.append((parent, key))
        self.meta.inodes -= 1
        self.drop_content(inode)

    def drop_content(self, inode: Inode) -> None:
        """A file has its content no more: retire it, and forget who held it where no store did, and what was kept with it."""
        self.drop_attributes(inode)
        if inode.content != NO_CONTENT:
            self._retired.append(inode.content)
            if not inode.flags & PERSISTED:
                self.changes.append((PLACES, pack_id(inode.content), None))

    def put_attributes(self, attributes: Attributes | None) -> int | None:
        """Keep what belongs to a file; the number its record names it by."""
        if attributes is None:
            return None
        self.meta.last_attributes += 1
        self.changes.append((ATTRIBUTES, pack_id(self.meta.last_attributes), encode_attributes(attributes)))
        return self.meta.last_attributes

    def drop_attributes(self, inode: Inode) -> None:
        """What was kept with a file goes."""
        if inode.attributes is not None:
            self.changes.append((ATTRIBUTES, pack_id(inode.attributes), None))

    def put_places(self, content: ContentId, workers: list[int]) -> None:
        """Note who holds bytes that no store has."""
        self.changes.append((PLACES, pack_id(content), encode_record(Places([(0, workers)]))))

    def remove_directory(self, parent: int, key: bytes, inode: Inode) -> None:
        """Remove an empty directory's name, and what was kept with it."""
        self.drop_attributes(inode)
        self.changes.append((parent, key, None))
        self.changes.append((IDS, pack_id(inode.id), None))
        self.stale.append((parent, key))
        self.meta.inodes -= 1

    def detach(self, directory: InodeId) -> None:
        """Leave everything below a directory to REMOVE_BELOW. The caller takes its name away, or gives it another id."""
        self.changes.append((REMOVAL, pack_id(self.meta.removal_head), encode_record(Detached(directory))))
        self.meta.removal_head += 1

    def move(self, source: tuple[int, bytes], target: tuple[int, bytes], inode: Inode) -> bytes:
        """Move one record to another name; returns it as stored."""
        raw = encode_inode(inode)
        self.changes.append((*source, None))
        self.changes.append((*target, raw))
        if inode.kind == Kind.DIRECTORY:
            self.changes.append((IDS, pack_id(inode.id), pack_id(target[0]) + target[1]))
        self.stale += (source, target)
        return raw

    def touch(self, directory: Inode, place: tuple[int, bytes]) -> None:
        """Tell that the entries of a cache-only directory changed: its times are the entry's."""
        self.put_inode(*place, self.changed(directory, mtime_ns=self.now_ns))

    def changed(
        self,
        inode: Inode,
        *,
        mtime_ns: int | None = None,
        flags: int | None = None,
        id: InodeId | None = None,
        store_path: str | msgspec.UnsetType | None = msgspec.UNSET,
        attributes: int | msgspec.UnsetType | None = msgspec.UNSET,
        fingerprint: str | None = None,
    ) -> Inode:
        """A copy of a record as changed by this entry."""
        return Inode(
            kind=inode.kind,
            id=inode.id if id is None else id,
            content=inode.content,
            size=inode.size,
            mtime_ns=inode.mtime_ns if mtime_ns is None else mtime_ns,
            ctime_ns=self.now_ns,
            mode=inode.mode,
            uid=inode.uid,
            gid=inode.gid,
            acl=inode.acl,
            layout=inode.layout,
            fingerprint=inode.fingerprint if fingerprint is None else fingerprint,
            changed_index=self.index,
            flags=inode.flags if flags is None else flags,
            target=inode.target,
            store_path=inode.store_path if store_path is msgspec.UNSET else store_path,
            attributes=inode.attributes if attributes is msgspec.UNSET else attributes,
            base=inode.base,
            etag=inode.etag,
        )

    def make_directories(
        self,
        parent: int,
        names: Parts,
        *,
        mode: int,
        uid: int,
        gid: int,
        flags: int,
        store_path: str | None = None,
        attributes: Attributes | None = None,
    ) -> tuple[Inode, bytes]:
        """Make a chain of new directories below ``parent``; returns the last one and its record as stored. ``store_path`` is that of the
        first, which the others lie below; ``attributes`` are kept with the last."""
        invariant(names, "at least one directory is made")
        for left, name in zip(reversed(range(len(names))), names, strict=True):
            kept = None if left else attributes
            inode = Inode(
                kind=Kind.DIRECTORY,
                id=self.new_inode_id(),
                mtime_ns=self.now_ns,
                ctime_ns=self.now_ns,
                mode=mode,
                uid=uid,
                gid=gid,
                changed_index=self.index,
                flags=flags,
                store_path=store_path,
                attributes=self.put_attributes(kept),
            )
            raw = self.add_inode(parent, name + b"/", with_body(inode, kept))
            parent, store_path = inode.id, None
        return inode, raw

    def mark(
        self,
        place: tuple[int, bytes],
        inode: Inode,
        attributes: Attributes | None,
        *,
        fingerprint: str = "",
        flags: int = 0,
        mtime_ns: int,
        size: int = 0,
    ) -> bytes:
        """Make a directory an object, with what is kept with it, and beside it what is kept with the directory as a bucket; returns its record as
        stored. ``flags``: more of them; ``size``: of bytes that only its store has."""
        number = self._keep(inode, attributes)
        flags |= inode.flags & ~(IMPLIED | HEADERS_UNKNOWN) | MARKER
        changed = self.changed(inode, mtime_ns=mtime_ns, flags=flags, attributes=number, fingerprint=fingerprint)
        changed = with_body(changed, attributes)
        return self.put_inode(*place, msgspec.structs.replace(changed, size=size) if size else changed)

    def unmark(self, place: tuple[int, bytes], inode: Inode) -> bytes:
        """A directory is no object any more; for doors that know keys only, it is what leads to those below it."""
        number = self._keep(inode, None)
        flags = inode.flags & ~(MARKER | HEADERS_UNKNOWN) | IMPLIED
        return self.put_inode(
            *place, with_body(self.changed(inode, flags=flags, attributes=number, fingerprint=""), None)
        )

    def _keep(self, inode: Inode, attributes: Attributes | None) -> int | None:
        """Replace what is kept with the object a directory is; what is kept with it as a bucket stays."""
        bucket = of_bucket(self.state.attributes(inode))
        if any(bucket.values()):
            attributes = msgspec.structs.replace(attributes or Attributes(), **bucket)
        self.drop_attributes(inode)
        return self.put_attributes(attributes)

    # ---- intents, jobs, policies, tokens

    def open_intent(self, intent: Intent) -> bytes:
        """Add an intent; returns it as stored."""
        self.meta.intents += 1
        return self._put_intent(intent)

    def change_intent(self, before: Intent, after: Intent) -> bytes:
        """Replace an intent, which may lock now what it did not before; returns it as stored."""
        self._unlock(before)
        return self._put_intent(after)

    def close_intent(self, intent: Intent) -> None:
        """Remove an intent and its locks."""
        self.meta.intents -= 1
        self._unlock(intent)
        self.changes.append((INTENTS, pack_id(intent.number), None))
        self.kept.append((self.state.open_intents.take, intent.number, None))

    def _put_intent(self, intent: Intent) -> bytes:
        raw = encode_intent(intent)
        number = pack_id(intent.number)
        self.changes.append((INTENTS, number, raw))
        for path in lock_paths(intent):
            self.changes.append((LOCKS, path_key(path), number))
        self.kept.append((self.state.open_intents.take, intent.number, intent))
        return raw

    def _unlock(self, intent: Intent) -> None:
        for path in lock_paths(intent):
            self.changes.append((LOCKS, path_key(path), None))

    def put_job(self, job: Job) -> None:
        """Add or replace a job."""
        raw = encode_record(job)
        self.changes.append((JOBS, pack_id(job.number), raw))
        self.kept.append((self.state.known_jobs.take, job.number, (job, len(raw))))

    def forget_job(self, number: int) -> None:
        """Remember an ended job no longer."""
        self.changes.append((JOBS, pack_id(number), None))
        self.kept.append((self.state.known_jobs.take, number, None))

    def put_policy(self, path: str, policy: Policy | None) -> None:
        """Set or remove the policy of a path."""
        self.changes.append((POLICIES, path_key(path), None if policy is None else encode_record(policy)))
        self.kept.append((self.state.known_policies.take, path, policy))
        self.meta.policies_index = self.index

    def put_key(self, number: int, key: Key | None) -> bytes:
        """Add or remove a token; returns it as stored."""
        raw = None if key is None else encode_key(key)
        self.changes.append((KEYS, pack_id(number), raw))
        self.kept.append((self.state.known_keys.take, number, key))
        self.meta.keys_index = self.index
        return raw or b""

    def put_bucket(self, name: str, bucket: Bucket | None) -> None:
        """Name a bucket, or take its name back."""
        self.changes.append((BUCKETS, name.encode(), None if bucket is None else encode_record(bucket)))
        self.kept.append((self.state.known_buckets.take, name, bucket))
        self.meta.keys_index = self.index

    def put_placement(self, placement: Placement, table: SlotTable) -> None:
        """Replace the slot table."""
        self.changes.append((PLACEMENT, PLACEMENT_KEY, encode_record(placement)))
        self.kept.append((self.state.known_slots.take, placement, table))

    # ---- counters and queues

    def new_inode_id(self) -> InodeId:
        """The next inode id; ids are never used again."""
        self.meta.last_inode += 1
        return InodeId(self.meta.last_inode)

    def new_content_id(self, size: int) -> ContentId:
        """The next content id; files of zero bytes have none."""
        if size == 0:
            return NO_CONTENT
        meta = self.meta
        counter = meta.last_content = meta.last_content + 1
        if counter >> COUNTER_BITS:
            raise InvariantBroken("content ids of one incarnation are not used up")
        return make_content_id(meta.incarnation, counter)

    def retire(self, content: ContentId) -> None:
        """No path has this content any more: tell the workers."""
        if content != NO_CONTENT:
            self._retired.append(content)

    def pin(self, content: ContentId) -> None:
        """A pin covers the path this new content belongs to: tell the workers."""
        if content != NO_CONTENT:
            self._pinned.append(content)

    def append_feed(self, kind: int, contents: list[int]) -> int:
        """Append a record to the feed, letting the oldest fall out beyond its bound; returns its index."""
        meta = self.meta
        index = meta.feed_head
        self.changes.append((RETIRED, pack_id(index), encode_record(FeedRecord(kind, contents))))
        meta.feed_head += 1
        if meta.feed_head - meta.feed_tail > FEED_RECORDS_MAX:
            self.changes.append((RETIRED, pack_id(meta.feed_tail), None))
            meta.feed_tail += 1
        return index

    def bury(self, parent: int, key: bytes) -> None:
        """Remember a removal, so that a listing that was read before it cannot bring the name back."""
        meta = self.meta
        number = meta.graves_head
        stone_key = pack_id(parent) + key
        self._buried.add(stone_key)
        self.changes.append((GRAVES, pack_id(number), encode_record(Grave(parent, key))))
        self.changes.append((TOMBSTONES, stone_key, encode_record(Tombstone(self.index, number))))
        meta.graves_head += 1
        meta.buried_index = self.index
        if meta.graves_head - meta.graves_tail > TOMBSTONES_MAX:
            self._forget_oldest_removal()

    def _forget_oldest_removal(self) -> None:
        """Drop the oldest tombstone. Listings older than it are refused from now on (``buried_floor``)."""
        meta = self.meta
        number = meta.graves_tail
        meta.graves_tail += 1
        raw = self.state.store.get(GRAVES, pack_id(number))
        grave = decode_grave(present(raw, "graves are numbered without gaps"))
        self.changes.append((GRAVES, pack_id(number), None))
        key = pack_id(grave.parent) + grave.key
        stone_raw = self.state.store.get(TOMBSTONES, key)
        if stone_raw is None or key in self._buried:
            return
        stone = decode_tombstone(stone_raw)
        if stone.grave == number:
            self.changes.append((TOMBSTONES, key, None))
            meta.buried_floor = max(meta.buried_floor, stone.index)

    def finish(self) -> None:
        """Put the contents retired and pinned by this entry into the feed."""
        for kind, contents in ((FeedKind.RETIRED, self._retired), (FeedKind.PIN, self._pinned)):
            for start in range(0, len(contents), FEED_CONTENTS_MAX):
                self.append_feed(kind, contents[start : start + FEED_CONTENTS_MAX])
        self._retired, self._pinned = [], []


def with_body(directory: Inode, attributes: Attributes | None) -> Inode:
    """Its record when these are kept with it: an object ``dir/`` is told with the size and etag of its bytes."""
    body = b"" if attributes is None else attributes.body
    etag = hashlib.md5(body, usedforsecurity=False).hexdigest() if body else ""
    return msgspec.structs.replace(directory, size=len(body), etag=etag)


def parent_place(found: Lookup, parts: Parts) -> tuple[int, bytes]:
    """Where the record of ``found.parent`` lies: (id of the directory above it, its key)."""
    depth = found.depth - 1 if found.inode is not None else found.depth
    return (found.above, parts[depth - 1] + b"/") if depth else (ABOVE_ROOT, ROOT_KEY)


def place_of(found: Lookup, parts: Parts) -> tuple[int, bytes]:
    """Where the record of ``found.inode`` lies."""
    if not parts:
        return ABOVE_ROOT, ROOT_KEY
    inode = present(found.inode, "a record that has a place exists")
    parent = present(found.parent, "every record but the root's has a parent")
    return parent.id, (parts[-1] + b"/" if inode.kind == Kind.DIRECTORY else parts[-1])


def existing(found: Lookup, path: str) -> Inode:
    """The record a path leads to; raises ``NotFound`` or ``NotADirectory``."""
    if found.inode is not None:
        return found.inode
    if found.parent is not None and found.parent.kind != Kind.DIRECTORY:
        raise NotADirectory(f"a component of {path} is a file", path=path)
    raise NotFound(f"{path} does not exist", path=path)


def parent_directory(found: Lookup, path: str) -> Inode:
    """The deepest existing ancestor of a path; raises ``NotADirectory`` when that is a file."""
    parent = present(found.parent, "every path but the root has an ancestor")
    if parent.kind != Kind.DIRECTORY:
        raise NotADirectory(f"a component of {path} is a file", path=path)
    return parent


def check_cache_only(located: Located | None, path: str) -> None:
    """Refuse changes below a mount: its store must be changed with it, which takes an intent."""
    if located is None:
        return
    check_writable(located, path)
    raise NotSupported(
        f"{path} lies below the mount {located.mount.path}: its store has to be changed with it", path=path
    )


def check_writable(located: Located, path: str) -> None:
    """Refuse changes below a mount that may not be changed now."""
    mount = located.mount
    if mount.readonly:
        raise ReadOnly(f"{path} lies below the read-only mount {mount.path}", path=path)
    if mount.ufs_mode != UfsMode.READ_WRITE:
        raise ReadOnly(f"{path} lies below the mount {mount.path}, which is in mode {mount.ufs_mode}", path=path)


EXPLICIT = int(Flag.EXPLICIT)
PERSISTED = int(Flag.PERSISTED)
PINNED = int(Flag.PINNED)
HEADERS_UNKNOWN = int(Flag.HEADERS_UNKNOWN)
LOADED = int(Flag.LOADED)
MOUNT = int(Flag.MOUNT)
MADE = int(Flag.MADE)
KEPT = int(Flag.KEPT)
IMPLIED = int(Flag.IMPLIED)
MARKER = int(Flag.MARKER)
