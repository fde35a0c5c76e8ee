"""Reading the namespace: resolving paths, listing, mounts, the feed. What ``apply`` decides against and handlers answer from.

Invariant: nothing here changes the state; caches only ever hold what the store holds (every change of a name drops or replaces its
cache entry). Not here: deciding and making changes (draft.py, ops/, namespace.py).
"""

from __future__ import annotations

from collections import OrderedDict
from typing import NamedTuple, TypeVar

import msgspec

from monofs.metadata.sessions import Sessions
from monofs.metadata.store import Store
from monofs.metadata.tables import (
    ABOVE_ROOT,
    IDS,
    MOUNTS,
    RETIRED,
    ROOT_KEY,
    WORKERS,
    Meta,
    decode_feed,
    pack_id,
    unpack_id,
)
from monofs.model.errors import InvariantBroken
from monofs.model.ids import InodeId
from monofs.model.inode import Flag, Inode, decode_inode
from monofs.model.mount import Located, Mount
from monofs.model.paths import Parts, parse_path

LOOKUP_CACHE_MAX = 65_536
"""Names whose records are kept decoded: about 500 bytes each."""
_SCAN_MAX = 1000
_DEPTH_MAX = 4096

T = TypeVar("T")
_PINNED = int(Flag.PINNED)
_MOUNT = int(Flag.MOUNT)
decode_mount = msgspec.msgpack.Decoder(Mount).decode


class Lookup(NamedTuple):
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
        self._names: OrderedDict[tuple[int, bytes], tuple[Inode, bytes]] = OrderedDict()
        self._root: tuple[Inode, bytes] | None = None
        self._mounts: list[tuple[Parts, Mount]] = []
        self._mount_at: dict[int, tuple[int, Mount]] = {}
        self._mounts_known = -1
        self._workers = {unpack_id(key): value for key, value in store.scan(WORKERS, b"", 1 << 17)}

    @property
    def meta(self) -> Meta:
        """Counters and identity."""
        return self.store.meta

    # ---- names

    def get_inode(self, parent: int, key: bytes) -> Inode | None:
        """The record under exactly this key (directories with their ``/``)."""
        raw = self.store.get(parent, key)
        return None if raw is None else decode_inode(raw)

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
            if inode.kind != 2:
                return Lookup(None, None, inode, depth, _locate(mounted, parts), flags & _PINNED != 0, here)
            directory = inode.id
            hit = names.get((directory, name)) or self._load(directory, name)
            if hit is None:
                return Lookup(None, None, inode, depth, _locate(mounted, parts), flags & _PINNED != 0, here)
            above, here = here, directory
            parent = inode
            inode, raw = hit
            depth += 1
            flags |= inode.flags
            if inode.flags & _MOUNT:
                mounted = mount_at.get(inode.id, mounted)
        return Lookup(
            inode, raw, parent, depth, _locate(mounted, parts) if mounted else None, flags & _PINNED != 0, above
        )

    def _load(self, parent: int, name: bytes) -> tuple[Inode, bytes] | None:
        get = self.store.get
        raw = get(parent, name + b"/") or get(parent, name)
        if raw is None:
            return None
        names = self._names
        if len(names) >= LOOKUP_CACHE_MAX:
            names.popitem(last=False)
        hit = names[parent, name] = decode_inode(raw), raw
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

    # ---- mounts, workers, feed

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

    def workers(self) -> dict[int, bytes]:
        """Worker id to the 16 random bytes that identify its home."""
        return self._workers

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


def present(value: T | None, statement: str) -> T:
    """``value``, which ``statement`` says is there; a missing one is a bug that stops the node."""
    if value is None:
        raise InvariantBroken(statement)
    return value
