"""The namespace as the journal's state machine: every change of it happens in :meth:`Namespace.apply`.

Order of one entry: decode; move ``now``; a request answered before gets its answer again; the operation decides against the state and
fills a draft, or refuses; the draft (a refusal: an empty one) is taken over by the store, the caches and the running CRC together.

Invariant: two namespaces that applied the same entries are equal, whatever was flushed or restarted in between; their CRCs tell.
"""

from __future__ import annotations

import struct
import zlib
from copy import copy
from typing import Any

from monofs.metadata.draft import Draft
from monofs.metadata.entries import Stamp
from monofs.metadata.entry_kinds import EntryKind, decode_entry
from monofs.metadata.ops import OPERATIONS
from monofs.metadata.sessions import FRESH
from monofs.metadata.state import State
from monofs.metadata.tables import NameChange
from monofs.model.entry import Entry
from monofs.model.errors import MonofsError, UnknownEntry
from monofs.model.ids import JournalIndex, Term
from monofs.model.inode import Inode
from monofs.observe import metrics

_APPLIED = metrics.APPLIED_INDEX()
_INODES = metrics.INODES()
_FOLD_ENTRY = struct.Struct(">QQQQQ").pack
_FOLD_CHANGE = struct.Struct(">qII").pack
_DELETED = 0xFFFFFFFF
_ALWAYS = frozenset({EntryKind.END, EntryKind.ABANDON})
"""The act was done whatever became of who asked: its outcome is applied even where it can be nobody's answer any more."""


class Namespace(State):
    """Implements ``journal.face.StateMachine`` over a store it shares with its owner (who closes it)."""

    # ---- identity

    @property
    def applied_index(self) -> JournalIndex:
        """The last index applied; after a restart, the one the database holds."""
        return JournalIndex(self.meta.applied_index)

    @property
    def cluster(self) -> bytes:
        """Id of the cluster; empty before INITIALIZE."""
        return self.meta.cluster

    @property
    def incarnation(self) -> int:
        """Upper 16 bits of the content ids given now."""
        return self.meta.incarnation

    @property
    def level(self) -> int:
        """Which entry kinds may be proposed."""
        return self.meta.level

    @property
    def now_ns(self) -> int:
        """The state's clock: the latest of all entries' clocks."""
        return self.meta.now_ns

    @property
    def data_key(self) -> bytes:
        """The key of mount secrets, wrapped."""
        return self.meta.data_key

    @property
    def capability_key(self) -> bytes:
        """The key capabilities are signed with, wrapped."""
        return self.meta.capability_key

    @property
    def applied_term(self) -> int:
        """Term of the entry at ``applied_index``."""
        return self.meta.applied_term

    @property
    def members(self) -> bytes:
        """Membership of the journal's group as applied last, encoded; empty: none yet."""
        return self.meta.members

    @property
    def crc(self) -> int:
        """Running CRC-32 of all changes: equal on every node at the same index."""
        return self.meta.crc

    @property
    def held_back(self) -> bool:
        """Whether the flush lags so much that changes should wait."""
        return self.store.held_back

    def clients(self) -> dict[bytes, int]:
        """Client id to the state's time of its last change, for EXPIRE_CLIENTS."""
        return {client: session.seen_ns for client, session in self.sessions.clients.items()}

    def counts(self) -> dict[str, int]:
        """How much of everything there is."""
        return {
            "inodes": self.meta.inodes,
            "mounts": len(self.mounts()),
            "clients": len(self.sessions.clients),
            "answers": self.sessions.held,
            "workers": len(self._workers),
            "feed": self.meta.feed_head - self.meta.feed_tail,
            "removal": self.meta.removal_head - self.meta.removal_tail,
            "tombstones": self.meta.graves_head - self.meta.graves_tail,
            "intents": self.meta.intents,
            "jobs": len(self.known_jobs),
            "policies": len(self.known_policies.by_path),
            "ttls": self.meta.ttls,
            "tokens": len(self.known_keys.by_number),
            "buckets": len(self.known_buckets.by_name),
            "memtable": self.store.memtable_entries,
        }

    # ---- changing

    def apply(self, index: JournalIndex | int, term: Term | int, entry: Entry) -> Any:
        """Apply the entry at ``index`` and return its result; a refusal is a ``MonofsError`` returned.

        An index applied before changes nothing and gives None. Raises ``UnknownEntry``; any other exception is a bug or a storage
        error: the node stops.
        """
        if index <= self.meta.applied_index:
            return None
        change = decode_entry(entry)
        stamp: Stamp = change.stamp
        draft = Draft(self, index, max(self.meta.now_ns, stamp.now_ns))
        result = self.sessions.recall(stamp, draft.now_ns)
        if result is FRESH:
            draft, result = self._decide(draft, entry.kind, change)
            if stamp.client:
                draft.changes += self.sessions.remember(stamp, draft.now_ns, result)
        elif entry.kind in _ALWAYS:
            held = result
            draft, result = self._decide(draft, entry.kind, change)
            if not draft.kept:
                result = held
        self._take_over(draft, int(term))
        return result

    def take_membership(self, index: JournalIndex | int, term: Term | int, membership: bytes) -> None:
        """Keep what the journal says of its members from ``index`` on, so that a copy of this state can begin a log. Said of the present index at
        every start, too."""
        if index < self.meta.applied_index:
            return
        meta = copy(self.meta)
        meta.applied_index, meta.applied_term, meta.members = int(index), int(term), membership
        self.store.meta = meta
        _APPLIED.value = index

    def _decide(self, draft: Draft, kind: int, change: Any) -> tuple[Draft, Any]:
        """Run the operation: the draft that stands, and the result."""
        try:
            result = OPERATIONS[kind](draft, change)
            draft.finish()
        except UnknownEntry:
            raise
        except MonofsError as refusal:
            result = refusal.with_traceback(None)
            draft = Draft(self, draft.index, draft.now_ns)
        self.sessions.drop(draft.expired)
        for worker, record in draft.workers.items():
            self._take_worker(worker, record)
        return draft, result

    def _take_over(self, draft: Draft, term: int) -> None:
        meta = draft.meta
        meta.applied_index = draft.index
        meta.applied_term = term
        meta.now_ns = draft.now_ns
        changes = draft.changes
        meta.crc = fold(
            meta.crc, (draft.index, draft.now_ns, meta.last_inode, meta.last_content, meta.feed_head), changes
        )
        self.store.write(changes)
        self.store.meta = meta
        self._refresh(draft)
        _APPLIED.value = draft.index
        _INODES.value = meta.inodes
        self.store.flush_if_full()

    def _refresh(self, draft: Draft) -> None:
        names = self._names
        for parent, key in draft.stale:
            names.pop((parent, key[:-1] if key.endswith(b"/") else key), None)
        for parent, key, inode, raw in draft.refreshed:
            self._refresh_directory(parent, key, inode, raw)
        if draft.kept:
            for take, kept_key, record in draft.kept:
                take(kept_key, record)
            self.follow_moves()

    def _refresh_directory(self, parent: int, key: bytes, inode: Inode, raw: bytes) -> None:
        if not parent:
            self._root = inode, raw
        elif (parent, key[:-1]) in self._names:
            self._names[parent, key[:-1]] = inode, raw


def fold(crc: int, header: tuple[int, int, int, int, int], changes: list[NameChange]) -> int:
    """CRC-32 continued over one entry: the header as five 8-byte numbers, then for each change space (8 bytes, signed), key length
    and value length (4 bytes each; a deletion has 0xffffffff), key, value."""
    parts = [_FOLD_ENTRY(*header)]
    for space, key, value in changes:
        if value is None:
            parts += (_FOLD_CHANGE(space, len(key), _DELETED), key)
        else:
            parts += (_FOLD_CHANGE(space, len(key), len(value)), key, value)
    return zlib.crc32(b"".join(parts), crc)
