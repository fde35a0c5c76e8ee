"""The rules by which the namespace takes over what a store shows, for one name at a time (design, knowing the store).

A listing or a look at one path is old news by the time it is applied. It carries the journal index read before the store was
asked, and a name is passed over when its record or its tombstone is newer than that, when an intent locks it, when a tree job covers it,
when it holds what the store does not have, or when it was listed at the former prefix of a renamed directory and is of a new file there.
What the namespace made for itself (explicit directories, mount points) is never removed.

Invariant: content ids never come to mean other bytes: another fingerprint or size gives a new one and retires the old.
"""

from __future__ import annotations

from enum import IntEnum

from monofs.metadata.draft import EXPLICIT, HEADERS_UNKNOWN, MARKER, MOUNT, PERSISTED, PINNED, Draft
from monofs.metadata.entries import Found
from monofs.metadata.known_jobs import covers
from monofs.metadata.open_intents import path_bytes
from monofs.metadata.state import join_key, present
from monofs.metadata.tables import MARKER_BYTES_LEVEL
from monofs.model.block import DEFAULT_LAYOUT
from monofs.model.errors import ConditionFailed, MountNotFound
from monofs.model.ids import NO_CONTENT, MountId
from monofs.model.inode import Inode, Kind
from monofs.model.mount import Mount
from monofs.model.paths import Parts, parse_path

FILE_MODE = 0o644
DIRECTORY_MODE = 0o755
_MODE_BITS = 0o7777
_SAME_TIME_NS = 1_000_000_000
"""Times of one version may differ by less than this: stores round them differently in listings and in answers for one object."""


class Effect(IntEnum):
    """What adopting one name did."""

    NOTHING = 0
    ADDED = 1
    CHANGED = 2
    REMOVED = 3


class Adoption:
    """Adopts names into a draft. ``covering`` is the mount that covers them now; raises when it is not the one that was asked.
    ``pinned``: a directory above them is pinned, and so is every new content.

    :meth:`enter` tells in which directory the next names lie."""

    __slots__ = (
        "_covers",
        "_draft",
        "_key",
        "_looked",
        "_mount",
        "_natural",
        "_parts",
        "_path",
        "_pinned",
        "_read_index",
        "_remembers",
        "is_guarded",
        "is_held",
        "needs_path",
        "say_layouts",
    )

    def __init__(self, draft: Draft, covering: Mount | None, mount: MountId, read_index: int, *, pinned: bool) -> None:
        if covering is None or covering.id != mount:
            raise MountNotFound("the mount that was asked does not cover this path any more")
        if read_index < covering.changed_index or read_index < draft.meta.buried_floor:
            raise ConditionFailed("what the store showed is older than a change of the mount: ask the store again")
        self._draft = draft
        self._mount = covering.path
        self._pinned = pinned
        self._read_index = read_index
        self._remembers = draft.meta.buried_index > read_index
        self._covers = draft.state.known_jobs.unsettled(mount, read_index)
        self.is_guarded = bool(self._covers or draft.meta.intents)
        """Whether anything is under way that a name may have to be kept from."""
        self.say_layouts = draft.state.known_policies.say_layouts
        self.needs_path = self.is_guarded or self.say_layouts
        """If not, no path is looked at."""
        self._parts: Parts = ()
        self._path, self._key, self._natural = b"", "", ""
        self._looked: str | None = None
        self.is_held = False
        """Whether nothing is adopted in this directory: it, or one above it, is being changed, or a tree job covers it."""

    def enter(self, parts: Parts, *, looked: str | None = None) -> None:
        """The names settled from now on lie in this directory. ``looked``: the key of the one name that was looked at by itself. Only
        needed if ``needs_path``."""
        draft, self._parts = self._draft, parts
        natural = present(draft.state.natural_key(parts), "what is adopted lies below a mount")
        listed = present(draft.lookup(parts).located, "what is adopted lies below a mount")
        self._path, self._key, self._natural = path_bytes(parts), listed.key, natural.key
        self._looked = looked
        intents = self._draft.state.open_intents
        self.is_held = bool(intents.at(self._path) or intents.above(parts)) or self._is_covered(natural.key + "/")

    def settle(self, parent: int, key: bytes, known: Inode | None, found: Found | None) -> Effect:
        """Bring one name (``key`` with ``/`` for directories) in line with what the store showed; None: not there."""
        if self.is_guarded and self._is_kept(key, known, found):
            return Effect.NOTHING
        if known is None:
            if found is None or (self._remembers and self._draft.state.tombstone(parent, key) > self._read_index):
                return Effect.NOTHING
            self._add(parent, key, found)
            return Effect.ADDED
        if known.changed_index > self._read_index:
            return Effect.NOTHING
        if found is None:
            return self._remove(parent, key, known)
        if known.kind == Kind.DIRECTORY:
            return self._change_directory(parent, key, known, found)
        return self._change_file(parent, key, known, found)

    def _is_kept(self, key: bytes, known: Inode | None, found: Found | None) -> bool:
        """Whether the tree is the truth about a name, whatever the store showed."""
        if self.is_held:
            return True
        is_directory = key.endswith(b"/")
        name = (key[:-1] if is_directory else key,)
        path = self._path + b"/" + name[0]
        intents = self._draft.state.open_intents
        if intents.at(path):
            return True
        natural, listed = join_key(self._natural, name), self._looked or join_key(self._key, name)
        if self._is_covered(natural + "/" if is_directory else natural):
            return True
        if known is None:
            return natural != listed and self._is_anothers(listed)
        if known.store_path is not None and known.store_path != listed:
            return True  # its object lies elsewhere: what was listed is not it
        if not is_directory or found is not None:
            return False
        below = path + b"/"
        return (
            natural != listed
            or intents.below(path) != 0
            or any(job.target.encode().startswith(below) for job in self._covers)
        )

    def _is_anothers(self, listed: str) -> bool:
        """Whether what was listed where a directory's objects still lie was made since at the path that its key says."""
        parts = (*parse_path(self._mount), *listed.encode().split(b"/"))
        if self._draft.state.open_intents.at(path_bytes(parts)):
            return True
        there = self._draft.lookup(parts)
        return there.inode is not None and there.located is not None and there.located.key == listed

    def _is_covered(self, natural: str) -> bool:
        return any(covers(job, natural) for job in self._covers)

    def _add(self, parent: int, key: bytes, found: Found) -> None:
        draft = self._draft
        tells_bytes = bool(found.fingerprint) and draft.meta.level >= MARKER_BYTES_LEVEL
        if found.is_directory:
            default, kind, content, flags = DIRECTORY_MODE, Kind.DIRECTORY, NO_CONTENT, PERSISTED
            if found.fingerprint:
                flags |= MARKER | HEADERS_UNKNOWN
        else:
            default, kind, content = FILE_MODE, Kind.FILE, draft.new_content_id(found.size)
            flags = PERSISTED | HEADERS_UNKNOWN
            if self._pinned:
                draft.pin(content)
        inode = Inode(
            kind=kind,
            id=draft.new_inode_id(),
            content=content,
            size=found.size if not found.is_directory or tells_bytes else 0,
            mtime_ns=found.mtime_ns,
            ctime_ns=draft.now_ns,
            mode=default if found.mode < 0 else found.mode & _MODE_BITS,
            uid=found.uid,
            gid=found.gid,
            layout=self._layout(key),
            fingerprint=found.fingerprint,
            changed_index=draft.index,
            flags=flags,
        )
        draft.add_inode(parent, key, inode)

    def _layout(self, key: bytes) -> int:
        """Of a content that begins; one that stays keeps its own, for its pages lie by it."""
        return self._draft.state.layout_for((*self._parts, key)) if self.say_layouts else DEFAULT_LAYOUT

    def _remove(self, parent: int, key: bytes, known: Inode) -> Effect:
        if known.flags & (EXPLICIT | MOUNT) or not known.flags & PERSISTED:
            return Effect.NOTHING
        if known.kind == Kind.DIRECTORY:
            # Whole, unlooked at. Sound, for all that can lie below is what the store showed. Not so are: what no store has (END makes the
            # directories above it EXPLICIT), mount points (likewise), what is being changed (below a lock, _is_kept), what was written since
            # the store was asked (END confirms the directories above it), and what lies elsewhere in the store (_is_kept: no directory is
            # removed from above or below one whose objects are being moved; once that is done, all lies where its path says).
            self._draft.detach(known.id)
            self._draft.remove_directory(parent, key, known)
        else:
            self._draft.remove_file(parent, key, known)
        self._draft.bury(parent, key)
        return Effect.REMOVED

    def _change_directory(self, parent: int, key: bytes, known: Inode, found: Found) -> Effect:
        if known.flags & MOUNT:
            return Effect.NOTHING
        mtime_ns, mode, uid, gid = _attributes(known, found)
        flags = known.flags | PERSISTED
        if (mtime_ns, mode, uid, gid, flags) == (known.mtime_ns, known.mode, known.uid, known.gid, known.flags):
            return Effect.NOTHING
        self._draft.put_inode(
            parent,
            key,
            Inode(
                kind=known.kind,
                id=known.id,
                size=known.size,
                mtime_ns=mtime_ns,
                ctime_ns=self._draft.now_ns,
                mode=mode,
                uid=uid,
                gid=gid,
                acl=known.acl,
                changed_index=self._draft.index,
                flags=flags,
                store_path=known.store_path,
                fingerprint=known.fingerprint,
                attributes=known.attributes,
                etag=known.etag,
            ),
        )
        return Effect.CHANGED

    def _change_file(self, parent: int, key: bytes, known: Inode, found: Found) -> Effect:
        if not known.flags & PERSISTED:
            return Effect.NOTHING
        draft = self._draft
        mtime_ns, mode, uid, gid = _attributes(known, found)
        content, layout, attributes, etag = known.content, known.layout, known.attributes, known.etag
        if known.fingerprint != found.fingerprint or known.size != found.size:
            draft.retire(known.content)
            draft.drop_attributes(known)
            attributes, etag = None, ""
            content, layout = draft.new_content_id(found.size), self._layout(key)
            if self._pinned or known.flags & PINNED:
                draft.pin(content)
            mtime_ns = found.mtime_ns
        elif (mtime_ns, mode, uid, gid) == (known.mtime_ns, known.mode, known.uid, known.gid):
            return Effect.NOTHING
        draft.put_inode(
            parent,
            key,
            Inode(
                kind=known.kind,
                id=known.id,
                content=content,
                size=found.size,
                mtime_ns=mtime_ns,
                ctime_ns=draft.now_ns,
                mode=mode,
                uid=uid,
                gid=gid,
                acl=known.acl,
                layout=layout,
                fingerprint=found.fingerprint,
                changed_index=draft.index,
                flags=known.flags | HEADERS_UNKNOWN,
                store_path=known.store_path,
                attributes=attributes,
                etag=etag,
            ),
        )
        return Effect.CHANGED


def _attributes(known: Inode, found: Found) -> tuple[int, int, int, int]:
    """(mtime, mode, uid, gid) after adopting: what the store does not tell, or tells only more coarsely, stays."""
    mtime_ns = known.mtime_ns
    if found.mtime_ns and abs(found.mtime_ns - mtime_ns) >= _SAME_TIME_NS:
        mtime_ns = found.mtime_ns
    if found.mode < 0:
        return mtime_ns, known.mode, known.uid, known.gid
    return mtime_ns, found.mode & _MODE_BITS, found.uid, found.gid
