"""Reading the namespace: resolving paths, listing, mounts, the feed. What ``apply`` decides against and handlers answer from.

Invariant: nothing here changes the state; caches only ever hold what the store holds (every change of a name drops or replaces its
cache entry). Not here: deciding and making changes (draft.py, ops/, namespace.py).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Any, TypeVar

import msgspec
from msgspec.structs import replace

from monofs.metadata.entries import Stamp
from monofs.metadata.intent_entries import Asker
from monofs.metadata.known_buckets import KnownBuckets
from monofs.metadata.known_jobs import KnownJobs
from monofs.metadata.known_keys import KnownKeys
from monofs.metadata.known_policies import KnownPolicies
from monofs.metadata.known_slots import KnownSlots
from monofs.metadata.open_intents import OpenIntents, path_bytes
from monofs.metadata.sessions import Sessions
from monofs.metadata.store import Store
from monofs.metadata.tables import (
    ABOVE_ROOT,
    ATTRIBUTES,
    EXPIRY,
    IDENTITY_BYTES,
    IDS,
    JOINED_LEVEL,
    MOUNTS,
    PLACES,
    RETIRED,
    ROOT_KEY,
    TOMBSTONES,
    TTLS,
    WORKERS,
    Intent,
    Job,
    Key,
    Meta,
    Places,
    Policy,
    Ttl,
    decode_feed,
    decode_places,
    decode_tombstone,
    decode_ttl,
    pack_id,
    path_key,
    unpack_id,
)
from monofs.model.attributes import Attributes, decode_attributes
from monofs.model.errors import InvariantBroken
from monofs.model.ids import ContentId, InodeId
from monofs.model.inode import Flag, Inode, Kind, decode_inode
from monofs.model.mount import Located, Mount
from monofs.model.paths import Parts, parse_path
from monofs.model.slots import SlotTable

LOOKUP_CACHE_MAX = 65_536
"""Names of which it is known what has them: a record, kept decoded (about 500 bytes), or nothing."""
ATTRIBUTES_CACHE_MAX = 4096
"""Records of what is kept beside files, 100 bytes to some KiB each; of more, those kept longest go."""
_SCAN_MAX = 1000
_DEPTH_MAX = 4096

T = TypeVar("T")
_PINNED = int(Flag.PINNED)
_MOUNT = int(Flag.MOUNT)
_DIRECTORY = int(Kind.DIRECTORY)
decode_mount = msgspec.msgpack.Decoder(Mount).decode


class Lookup(msgspec.Struct, frozen=True, gc=False):
    """What a path leads to."""

    inode: Inode | None
    """The record; a directory wins over a file of the same name. None: nothing there."""
    raw: bytes | None
    """The record as stored."""
    parent: Inode | None
    """The deepest existing ancestor directory (None for the root itself); a file's record when the path goes on below a file."""
    depth: int
    """How many names of the path exist."""
    located: Located | None
    """The innermost mount that covers the path; None: cache-only."""
    pinned: bool
    """Whether the record or an ancestor is pinned."""
    above: int = ABOVE_ROOT
    """Inode id of the directory that holds ``parent``."""


class State:
    """The namespace as of the last entry applied."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.sessions = Sessions(store)
        self._locate: Callable[[tuple[int, Mount] | None, Parts], Located | None] = _locate
        """Changes place with :meth:`_locate_moved` while objects are being moved; an attribute, so that no lookup has to ask."""
        self.open_intents = OpenIntents(store)
        self.known_jobs = KnownJobs(store)
        self.known_policies = KnownPolicies(store)
        self.known_keys = KnownKeys(store)
        self.known_buckets = KnownBuckets(store)
        self.known_slots = KnownSlots(store)
        self.follow_moves()
        self._names: OrderedDict[tuple[int, bytes], tuple[Inode, bytes] | None] = OrderedDict()
        """(directory, name) → what has the name; None: nothing has."""
        self._attributes: dict[int, bytes] = {}
        """By number. A record never changes, and no number is used twice."""
        self._root: tuple[Inode, bytes] | None = None
        self._mounts: list[tuple[Parts, Mount]] = []
        self._mount_at: dict[int, tuple[int, Mount]] = {}
        self._mounts_known = -1
        self._workers: dict[int, bytes] = {}
        self._worker_ids: dict[bytes, int] = {}
        self._addresses: dict[int, str] = {}
        for key, record in store.scan(WORKERS, b"", 1 << 17):
            self._take_worker(unpack_id(key), record)

    def _take_worker(self, worker: int, record: bytes) -> None:
        identity, address = record[:IDENTITY_BYTES], record[IDENTITY_BYTES:].decode()
        self._workers[worker], self._worker_ids[identity], self._addresses[worker] = identity, worker, address

    @property
    def meta(self) -> Meta:
        """Counters and identity."""
        return self.store.meta

    # ---- names

    def get_inode(self, parent: int, key: bytes) -> Inode | None:
        """The record under exactly this key (directories with their ``/``)."""
        raw = self.store.get(parent, key)
        return None if raw is None else decode_inode(raw)

    def get_directory(self, parent: int, name: bytes) -> Inode | None:
        """The record of the directory of this name."""
        hit = self._hit(parent, name)
        return hit[0] if hit is not None and hit[0].kind == Kind.DIRECTORY else None

    def lookup(self, parts: Parts) -> Lookup:
        """Resolve a path. Never raises; before INITIALIZE there is not even a root."""
        root = self._root or self._load_root()
        if root is None:
            return Lookup(None, None, None, 0, None, False)
        inode, raw = root
        if self._mounts_known != self.store.meta.mounts_index:
            self._load_mounts()
        mount_at = self._mount_at
        mounted = mount_at.get(inode.id) if inode.flags & _MOUNT else None
        flags = inode.flags
        parent: Inode | None = None
        above = here = ABOVE_ROOT
        depth = 0
        names = self._names
        for name in parts:
            if inode.kind != _DIRECTORY:
                return Lookup(None, None, inode, depth, self._locate(mounted, parts), flags & _PINNED != 0, here)
            directory = inode.id
            hit = names.get((directory, name)) or self._load(directory, name)
            if hit is None:
                return Lookup(None, None, inode, depth, self._locate(mounted, parts), flags & _PINNED != 0, here)
            above, here = here, directory
            parent = inode
            inode, raw = hit
            depth += 1
            flags |= inode.flags
            if inode.flags & _MOUNT:
                mounted = mount_at.get(inode.id, mounted)
        return Lookup(
            inode, raw, parent, depth, self._locate(mounted, parts) if mounted else None, flags & _PINNED != 0, above
        )

    def lookup_key(self, parts: Parts) -> Lookup:
        """Resolve a path as a key of an object store: a file, though a directory has its name too, and below a file of which there is no such
        directory as if nothing were there."""
        found = self.lookup(parts)
        if found.inode is not None and found.inode.kind == _DIRECTORY and found.parent is not None:
            raw = self.store.get(found.parent.id, parts[-1])
            if raw is None:
                return replace(found, inode=None, raw=None, depth=found.depth - 1)
            inode = decode_inode(raw)
            joins = self.known_jobs.is_moving and self.meta.level >= JOINED_LEVEL
            located = self._locate_file(found.located, parts, inode) if joins else found.located
            return replace(found, inode=inode, raw=raw, located=located)
        if found.inode is None and found.parent is not None and found.parent.kind != Kind.DIRECTORY:
            depth = found.depth - 1
            above = self.lookup(parts[:depth])
            return replace(
                found,
                parent=above.inode,
                depth=depth,
                above=ABOVE_ROOT if above.parent is None else int(above.parent.id),
            )
        return found

    def _locate_file(self, located: Located | None, parts: Parts, inode: Inode) -> Located | None:
        """Where a file beside a directory of its name lies: as its own record says, or else with the directory that holds both."""
        above = None if located is None else self.lookup(parts[:-1]).located
        if located is None or above is None:
            return located
        return Located(above.mount, inode.store_path or join_key(above.key, parts[-1:]))

    def follow_moves(self) -> None:
        """Have lookups look for ``store_path`` while a MOVE job is open; without one, every object lies where its path says."""
        self._locate = self._locate_moved if self.known_jobs.is_moving else _locate

    def _locate_moved(self, mounted: tuple[int, Mount] | None, parts: Parts) -> Located | None:
        """The deepest record on the path that has a ``store_path`` tells where it lies, and the rest is appended."""
        if mounted is None:
            return None
        depth, mount = mounted
        inode: Inode | None = present(self._root, "a path was resolved, so there is a root")[0]
        base, start = "", depth
        for at, name in enumerate(parts):
            hit = None if inode is None or inode.kind != Kind.DIRECTORY else self._hit(inode.id, name)
            if hit is None:
                break
            inode = hit[0]
            if at >= depth and inode.store_path is not None:
                base, start = inode.store_path, at + 1
        return Located(mount, join_key(base, parts[start:]))

    def _hit(self, parent: int, name: bytes) -> tuple[Inode, bytes] | None:
        return self._names.get((parent, name)) or self._load(parent, name)

    def _load(self, parent: int, name: bytes) -> tuple[Inode, bytes] | None:
        names = self._names
        if (parent, name) in names:
            return None
        get = self.store.get
        raw = get(parent, name + b"/") or get(parent, name)
        if len(names) >= LOOKUP_CACHE_MAX:
            names.popitem(last=False)
        hit = names[parent, name] = None if raw is None else (decode_inode(raw), raw)
        return hit

    def _load_root(self) -> tuple[Inode, bytes] | None:
        raw = self.store.get(ABOVE_ROOT, ROOT_KEY)
        if raw is not None:
            self._root = decode_inode(raw), raw
        return self._root

    def children(self, directory: InodeId | int, after: bytes, limit: int) -> list[tuple[bytes, bytes]]:
        """(name, with ``/`` for directories; stored record) of a directory, in key order, beginning after ``after``."""
        return self.store.scan(directory, after, limit)

    def place_of(self, directory: int) -> tuple[int, bytes] | None:
        """Where a directory's record lies: (parent id, name with ``/``); None: there is no such directory."""
        raw = self.store.get(IDS, pack_id(directory))
        return None if raw is None else (unpack_id(raw), raw[8:])

    def mount_over(self, directory: int) -> Mount | None:
        """The innermost mount that covers a directory; None: there is none, or the directory is detached."""
        if self._mounts_known != self.meta.mounts_index:
            self._load_mounts()
        for _ in range(_DEPTH_MAX):
            found = self._mount_at.get(directory)
            if found is not None:
                return found[1]
            place = self.place_of(directory)
            if place is None or place[0] == ABOVE_ROOT:
                return None
            directory = place[0]
        return None

    def path_of(self, directory: int) -> Parts | None:
        """The path of a directory; None: there is no such directory, or it is detached."""
        names: list[bytes] = []
        for _ in range(_DEPTH_MAX):
            place = self.place_of(directory)
            if place is None:
                return None
            if place[0] == ABOVE_ROOT:
                return tuple(reversed(names))
            names.append(place[1][:-1])
            directory = place[0]
        return None

    def natural_key(self, parts: Parts) -> Located | None:
        """The innermost mount over a path, and the key the path says, wherever its object lies now; None: it is under no mount."""
        for at, mount in self.mounts():
            if parts[: len(at)] == at:
                return Located(mount, join_key("", parts[len(at) :]))
        return None

    def is_pinned(self, directory: int) -> bool:
        """Whether a directory or one above it is pinned."""
        for _ in range(_DEPTH_MAX):
            place = self.place_of(directory)
            inode = None if place is None else self.get_inode(*place)
            if place is None or inode is None:
                return False
            if inode.flags & _PINNED:
                return True
            directory = place[0]
        return False

    def tombstone(self, parent: int, key: bytes) -> int:
        """Journal index at which this name was removed; 0: no removal is remembered."""
        raw = self.store.get(TOMBSTONES, pack_id(parent) + key)
        return 0 if raw is None else decode_tombstone(raw).index

    def was_removed(self, parts: Parts, index: int) -> bool:
        """Whether a directory that had this path, or was above it, was removed after a journal index, whatever is there now. Removals that are remembered
        only: ``index`` is ``buried_floor`` or later."""
        if self.meta.buried_index <= index:
            return False
        directory = present(self._root, "there is a root to remove from")[0].id
        for name in parts:
            if self.tombstone(directory, name + b"/") > index:
                return True
            below = self.get_directory(directory, name)
            if below is None:
                break
            directory = below.id
        return False

    # ---- mounts

    def mounts(self) -> list[tuple[Parts, Mount]]:
        """All mounts, deepest first."""
        if self._mounts_known != self.meta.mounts_index:
            self._load_mounts()
        return self._mounts

    @property
    def mounts_index(self) -> int:
        """Journal index of the last change of any mount."""
        return self.meta.mounts_index

    def _load_mounts(self) -> None:
        found = [decode_mount(raw) for _, raw in self.store.scan(MOUNTS, b"", 1 << 17)]
        self._mounts = sorted(
            ((parse_path(mount.path), mount) for mount in found), key=lambda pair: (-len(pair[0]), pair[0])
        )
        self._mount_at = {}
        for parts, mount in self._mounts:
            directory = self._directory_at(parts)
            if directory is not None:
                self._mount_at[directory] = len(parts), mount
        self._mounts_known = self.meta.mounts_index

    def _directory_at(self, parts: Parts) -> int | None:
        root = self._root or self._load_root()
        directory = None if root is None else root[0].id
        for name in parts:
            inode = None if directory is None else self.get_inode(directory, name + b"/")
            directory = None if inode is None else inode.id
        return directory

    # ---- intents, jobs, policies, times to live

    def intent(self, number: int) -> Intent | None:
        """The open intent of this number."""
        return self.open_intents.by_number.get(number)

    def intents(self, after: int, limit: int) -> list[Intent]:
        """Up to ``limit`` open intents with a number greater than ``after``, oldest first."""
        held = self.open_intents.by_number
        return [held[number] for number in sorted(number for number in held if number > after)[:limit]]

    def intent_of(self, asker: Asker) -> Intent | None:
        """The open intent of a client's request."""
        return self.open_intents.asked(asker.client, asker.sequence)

    def lock_at(self, parts: Parts) -> int:
        """Number of the intent that locks exactly this path; 0: none."""
        return self.open_intents.at(path_bytes(parts))

    def locked_below(self, parts: Parts) -> int:
        """Number of an intent that locks something below this path; 0: none."""
        return self.open_intents.below(path_bytes(parts))

    def locked_above(self, parts: Parts) -> int:
        """Number of an intent that locks a directory above this path; 0: none."""
        return self.open_intents.above(parts)

    def recall(self, stamp: Stamp) -> Any:
        """What the request was answered, or why it will not be run; ``sessions.FRESH``: it was not applied yet."""
        return self.sessions.recall(stamp, max(self.meta.now_ns, stamp.now_ns))

    def job(self, number: int) -> Job | None:
        """The job of this number, if it is remembered."""
        return self.known_jobs.get(number)

    def open_tree_jobs(self) -> list[Job]:
        """The DELETE and MOVE jobs that run or are paused, oldest first."""
        held = self.known_jobs.open_trees
        return [held[number] for number in sorted(held)]

    def covering_job(self, mount: int, natural_key: str) -> Job | None:
        """The open tree job that covers a key (of a directory: with a trailing slash): nothing is adopted there before it ends."""
        return self.known_jobs.covering(mount, natural_key)

    def policies(self) -> list[Policy]:
        """All policies as they were set, sorted by path."""
        held = self.known_policies.by_path
        return [held[path] for path in sorted(held)]

    def policy_for(self, parts: Parts) -> Policy:
        """What policies say about a path: the deepest one over it, merged per field with those above it. ``id`` 0: none."""
        return self.known_policies.of(parts)

    def layout_for(self, parts: Parts) -> int:
        """The layout of a content that begins at a path now."""
        return self.known_policies.layout_of(parts)

    def ttl_of(self, path: str) -> Ttl | None:
        """The time to live that was set for exactly this path (as ``format_path`` gives it)."""
        raw = self.store.get(TTLS, path_key(path)) if self.meta.ttls else None
        return None if raw is None else decode_ttl(raw)

    def expired(self, now_ns: int, limit: int) -> list[Ttl]:
        """Up to ``limit`` times to live that have passed, the longest passed first; each names its path."""
        found: list[Ttl] = []
        if not self.meta.ttls:
            return found
        for key, _ in self.store.scan(EXPIRY, b"", limit):
            if unpack_id(key) > now_ns:
                break
            found.append(decode_ttl(present(self.store.get(TTLS, key[8:]), "what expires has a time to live")))
        return found

    def attributes(self, inode: Inode) -> Attributes | None:
        """What is kept with a file; None: nothing."""
        raw = self.raw_attributes(inode)
        return None if raw is None else decode_attributes(raw)

    def raw_attributes(self, inode: Inode) -> bytes | None:
        """The same as stored."""
        return None if inode.attributes is None else self.store.get(ATTRIBUTES, pack_id(inode.attributes))

    def remembered_attributes(self, inode: Inode) -> bytes | None:
        """The same for who reads one file after the other, not for ``apply``: of a record that went meanwhile what was stored."""
        number, kept = inode.attributes, self._attributes
        if number is None:
            return None
        raw = kept.get(number)
        if raw is None and (raw := self.raw_attributes(inode)) is not None:
            if len(kept) >= ATTRIBUTES_CACHE_MAX:
                del kept[next(iter(kept))]
            kept[number] = raw
        return raw

    def places(self, content: ContentId) -> Places | None:
        """Who holds bytes that no store has; None: a store has them."""
        raw = self.store.get(PLACES, pack_id(content))
        return None if raw is None else decode_places(raw)

    # ---- tokens, workers, slots, feed

    def tokens(self) -> list[Key]:
        """The tokens that were issued and not removed, expired ones too, oldest first."""
        held = self.known_keys.by_number
        return [held[number] for number in sorted(held)]

    def workers(self) -> dict[int, bytes]:
        """Worker id to the 16 random bytes that identify its home."""
        return self._workers

    def worker_of(self, identity: bytes) -> int:
        """The id of the worker whose home has this identity; 0: none was registered."""
        return self._worker_ids.get(identity, 0)

    def address_of(self, worker: int) -> str:
        """Where a worker listened when it registered last; '': it is not known."""
        return self._addresses.get(worker, "")

    @property
    def slots(self) -> SlotTable:
        """The slot table in force."""
        return self.known_slots.table

    def feed(self, after: int, limit: int) -> list[tuple[int, int, list[int]]]:
        """Up to ``limit`` records of the feed with an index greater than ``after``: (index, kind, contents)."""
        meta = self.meta
        first = max(after + 1, meta.feed_tail)
        found: list[tuple[int, int, list[int]]] = []
        for index in range(first, min(first + limit, meta.feed_head)):
            raw = self.store.get(RETIRED, pack_id(index))
            if raw is not None:
                record = decode_feed(raw)
                found.append((index, record.kind, record.contents))
        return found

    def feed_bounds(self) -> tuple[int, int]:
        """(Oldest index still in the feed, or head + 1 when it is empty; newest index ever given)."""
        return self.meta.feed_tail, self.meta.feed_head - 1

    def pending_removal(self) -> bool:
        """Whether detached subtrees are left to REMOVE_BELOW."""
        return self.meta.removal_head > self.meta.removal_tail


def _locate(mounted: tuple[int, Mount] | None, parts: Parts) -> Located | None:
    if mounted is None:
        return None
    return Located(mounted[1], b"/".join(parts[mounted[0] :]).decode())


def join_key(base: str, names: Parts) -> str:
    """A store key and the names below it."""
    rest = b"/".join(names).decode()
    return f"{base}/{rest}" if base and rest else base or rest


def present(value: T | None, statement: str) -> T:
    """``value``, which ``statement`` says is there; a missing one is a bug that stops the node."""
    if value is None:
        raise InvariantBroken(statement)
    return value
