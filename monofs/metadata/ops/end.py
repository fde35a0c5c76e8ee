"""END and ABANDON: the act of an intent has an outcome, and the intent goes.

What was acted on is locked, so nothing else changed it; all the same each kind decides against the state of now, and what does not fit
becomes an error *returned*: the intent is closed in any case, and its content retired. Errors raised are those of a proposer that tells
what cannot be; they leave the intent as it is.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from monofs.metadata.draft import EXPLICIT, HEADERS_UNKNOWN, IMPLIED, MARKER, PERSISTED, PINNED, Draft, with_body
from monofs.metadata.entries import Found
from monofs.metadata.intent_entries import Abandon, End
from monofs.metadata.ops.make_directory import MODE_BITS
from monofs.metadata.ops.placing import way_to
from monofs.metadata.ops.set_ttl import drop_ttl, move_ttls
from monofs.metadata.state import present
from monofs.metadata.tables import ATTRIBUTES_LEVEL, MARKERS_LEVEL, REPLACED_TTLS_LEVEL, Intent, IntentKind
from monofs.model.attributes import Attributes, check_attributes, check_etag
from monofs.model.errors import ConditionFailed, InvalidArgument, MonofsError, NotEmpty, NotFound, from_code
from monofs.model.ids import NO_CONTENT, ContentId
from monofs.model.inode import Inode, Kind
from monofs.model.options import WriteType
from monofs.model.paths import Parts, format_path, parse_path


def end(draft: Draft, change: End) -> bytes | MonofsError | None:
    """The record of what was made, renamed or copied; None for a deletion. ``ConditionFailed`` when the intent is not open any more."""
    intent = open_intent(draft, change.number)
    if not intent.acting:
        raise InvalidArgument(f"operation {intent.number} does not act yet: publish it first", path=intent.path)
    _check_outcome(intent, change)
    draft.close_intent(intent)
    if _mount_now(draft, intent.path) != intent.mount or (
        intent.target and _mount_now(draft, intent.target) != intent.mount
    ):
        draft.retire(ContentId(intent.content))
        return ConditionFailed(
            f"{intent.path} does not lie below the mount any more it was changed in", path=intent.path
        )
    return _ENDS[IntentKind(intent.kind)](draft, intent, change)


def abandon(draft: Draft, change: Abandon) -> MonofsError:
    """The error, as a value: it is the answer to whoever asked. The content retires, for a worker may hold pages of it."""
    intent = open_intent(draft, change.number)
    draft.close_intent(intent)
    draft.retire(ContentId(intent.content))
    return from_code(change.code, change.message, {"path": intent.path})


def open_intent(draft: Draft, number: int) -> Intent:
    """The open intent of this number; raises ``ConditionFailed``."""
    intent = draft.state.intent(number)
    if intent is None:
        raise ConditionFailed(f"operation {number} is not open any more")
    return intent


def _check_outcome(intent: Intent, change: End) -> None:
    if intent.kind in (IntentKind.WRITE, IntentKind.UPLOAD):
        kept = intent.write_type == WriteType.MUST_CACHE
        if kept != (change.found is None):
            raise InvalidArgument(f"a write with {intent.write_type} cannot have ended so", path=intent.path)
        if change.size != intent.size:
            raise InvalidArgument(f"{intent.size} bytes were published, not {change.size}", path=intent.path)
        if kept and change.size and not change.workers:
            raise InvalidArgument("bytes that no store has are held by workers", path=intent.path)
        if change.attributes is not None:
            check_attributes(change.attributes)
        check_etag(change.etag)
    elif intent.kind in (IntentKind.COPY, IntentKind.MAKE_DIRECTORY) and change.found is None:
        raise InvalidArgument("what was made is there", path=intent.path)


def _mount_now(draft: Draft, path: str) -> int:
    located = draft.state.natural_key(parse_path(path))
    return 0 if located is None else located.mount.id


# ---- one kind each --------------------------------------------------------------------------------------------------


def _end_write(draft: Draft, intent: Intent, change: End) -> bytes:
    parts = parse_path(intent.path)
    content = ContentId(intent.content)
    if change.size == 0 and content != NO_CONTENT:
        draft.retire(content)
        content = NO_CONTENT
    kept = intent.attributes if change.attributes is None else change.attributes
    raw = _put_file(
        draft, intent, parts, intent.key, change.size, content, change.found, kept, change.etag or intent.etag
    )
    if change.found is None and content != NO_CONTENT:
        draft.put_places(content, change.workers)
    return raw


def _end_copy(draft: Draft, intent: Intent, change: End) -> bytes | MonofsError:
    if intent.target == intent.path:
        return _end_replaced(draft, intent, present(change.found, "what was made was found"))
    return _put_file(
        draft,
        intent,
        parse_path(intent.target),
        intent.target_key,
        intent.size,
        ContentId(intent.content),
        change.found,
        intent.attributes,
        intent.etag,
    )


def _end_replaced(draft: Draft, intent: Intent, found: Found) -> bytes | MonofsError:
    """What is kept with a file was replaced: its bytes are the same, though the store may name this version of them otherwise."""
    parts = parse_path(intent.path)
    there = draft.state.lookup_key(parts)
    inode = there.inode
    if inode is None or inode.fingerprint != intent.replaced:
        return ConditionFailed(f"{intent.path} has another content by now", path=intent.path)
    draft.drop_attributes(inode)
    changed = draft.changed(
        inode,
        mtime_ns=inode.mtime_ns if intent.tags_only else found.mtime_ns,
        flags=inode.flags & ~HEADERS_UNKNOWN,
        attributes=draft.put_attributes(None if intent.attributes == Attributes() else intent.attributes),
        fingerprint=found.fingerprint,
    )
    return draft.put_inode(present(there.parent, "a file lies in a directory").id, parts[-1], changed)


def _put_file(
    draft: Draft,
    intent: Intent,
    parts: Parts,
    key: str,
    size: int,
    content: ContentId,
    found: Found | None,
    attributes: Attributes | None,
    etag: str,
) -> bytes:
    """The name of new bytes: a new record, or that of the file replaced, whose content retires, and what was kept with it goes."""
    name = parts[-1]
    there = draft.lookup(parts)
    way = way_to(draft, parts, kept=found is None, uid=intent.uid, gid=intent.gid)
    known = there.inode
    if known is not None and known.kind == Kind.DIRECTORY:  # a store can have both
        known = draft.state.get_inode(way.parent, name)
    if there.pinned:
        draft.pin(content)
    mode, uid, gid = _owner(intent, found)
    flags = (0 if known is None else known.flags & PINNED) | (0 if found is None else PERSISTED)
    if intent.kind == IntentKind.COPY and attributes is None and draft.meta.level >= ATTRIBUTES_LEVEL:
        flags |= HEADERS_UNKNOWN  # the store copied what it keeps with the source, and that is not known either
    inode = Inode(
        kind=Kind.FILE,
        id=draft.new_inode_id() if known is None else known.id,
        content=content,
        size=size,
        mtime_ns=draft.now_ns if found is None else found.mtime_ns,
        ctime_ns=draft.now_ns,
        mode=mode,
        uid=uid,
        gid=gid,
        layout=draft.state.layout_for(parts),
        fingerprint="" if found is None else found.fingerprint,
        changed_index=draft.index,
        flags=flags,
        store_path=way.own_path(name, key) if intent.mount else None,
        attributes=draft.put_attributes(attributes),
        etag="" if found is not None and found.fingerprint.startswith("e:") else etag,
    )
    if known is None:
        return draft.add_inode(way.parent, name, inode)
    draft.drop_content(known)
    if draft.meta.level >= REPLACED_TTLS_LEVEL:  # it was set for what lay there: what comes after is not deleted by it
        drop_ttl(draft, format_path(parts), known.id)
    return draft.put_inode(way.parent, name, inode)


def _owner(intent: Intent, found: Found | None) -> tuple[int, int, int]:
    """(mode, uid, gid): as the store shows them where it keeps them, so that its next listing finds nothing changed."""
    if found is None or found.mode < 0:
        return intent.mode, intent.uid, intent.gid
    return found.mode & MODE_BITS, found.uid, found.gid


def _end_delete(draft: Draft, intent: Intent, change: End) -> NotEmpty | None:
    """What is gone already is deleted; a directory that is not empty (any more) stays, and so does one of which the object ``dir/``
    alone was deleted while the store shows more below."""
    parts = parse_path(intent.path)
    found = draft.lookup(parts)
    parent = found.parent
    if parent is None or parent.kind != Kind.DIRECTORY or found.depth < len(parts) - 1:
        return None
    key = parts[-1] + b"/" if intent.directory else parts[-1]
    known = draft.state.get_inode(parent.id, key)
    if known is None:
        return None
    if intent.directory:
        holds = bool(draft.state.children(known.id, b"", 1))
        if intent.marker and (holds or change.found is not None):
            if known.flags & MARKER:
                draft.unmark((parent.id, key), known)
            return None
        if holds:
            return NotEmpty(f"{intent.path} is not empty", path=intent.path)
        draft.remove_directory(parent.id, key, known)
    else:
        draft.remove_file(parent.id, key, known)
    drop_ttl(draft, intent.path, known.id)
    draft.bury(parent.id, key)
    return None


def _end_rename(draft: Draft, intent: Intent, change: End) -> bytes | MonofsError:
    """The record moves with its id and content: the bytes are the same, so what is cached stays warm."""
    parts, onto = parse_path(intent.path), parse_path(intent.target)
    slash = b"/" if intent.directory else b""
    source = draft.lookup(parts)
    parent = source.parent
    place = None if parent is None else (parent.id, parts[-1] + slash)
    inode = None if place is None or source.depth < len(parts) - 1 else draft.state.get_inode(*place)
    if place is None or inode is None:
        return NotFound(f"{intent.path} does not exist any more", path=intent.path)
    found = change.found
    kept = bool(inode.flags & EXPLICIT) if intent.directory else not inode.flags & PERSISTED
    if found is None and not intent.directory and not kept:
        return ConditionFailed(f"{intent.target} is not in the store it was renamed in", path=intent.target)
    way = way_to(draft, onto, kept=kept)
    target = way.parent, onto[-1] + slash
    replaced = draft.state.get_inode(*target)
    if replaced is not None:
        if intent.directory:
            if draft.state.children(replaced.id, b"", 1):
                return NotEmpty(f"{intent.target} is not empty", path=intent.target)
            draft.remove_directory(*target, replaced)
        else:
            draft.remove_file(*target, replaced)
    renamed = draft.changed(inode, store_path=way.own_path(onto[-1], intent.target_key))
    if found is not None and not intent.directory:
        renamed = msgspec.structs.replace(renamed, fingerprint=found.fingerprint, mtime_ns=found.mtime_ns)
    raw = draft.move(place, target, renamed)
    draft.bury(*place)
    move_ttls(draft, intent.path, intent.target)
    return raw


def _end_make_directory(draft: Draft, intent: Intent, change: End) -> bytes:
    parts = parse_path(intent.path)
    found = present(change.found, "a directory made was found")
    mode, uid, gid = _owner(intent, found)
    way = way_to(draft, parts, kept=False, uid=uid, gid=gid, mode=intent.mode)
    place = way.parent, parts[-1] + b"/"
    known, mtime_ns = draft.state.get_inode(*place), found.mtime_ns or draft.now_ns
    fingerprint = found.fingerprint if draft.meta.level >= MARKERS_LEVEL else ""
    if known is not None and (intent.marker or (fingerprint and not known.flags & MARKER)):
        more = PERSISTED if intent.marker else PERSISTED | HEADERS_UNKNOWN
        return draft.mark(place, known, intent.attributes, fingerprint=fingerprint, flags=more, mtime_ns=mtime_ns)
    if known is not None:
        return draft.put_inode(*place, draft.changed(known, flags=(known.flags | PERSISTED) & ~IMPLIED))
    flags = MARKER if intent.marker else MARKER | HEADERS_UNKNOWN if fingerprint else 0
    inode = Inode(
        kind=Kind.DIRECTORY,
        id=draft.new_inode_id(),
        mtime_ns=mtime_ns,
        ctime_ns=draft.now_ns,
        mode=mode,
        uid=uid,
        gid=gid,
        fingerprint=fingerprint,
        changed_index=draft.index,
        flags=PERSISTED | flags,
        store_path=way.own_path(parts[-1], intent.key),
        attributes=draft.put_attributes(intent.attributes),
    )
    return draft.add_inode(*place, with_body(inode, intent.attributes))


_ENDS: dict[IntentKind, Callable[[Draft, Intent, End], bytes | MonofsError | None]] = {
    IntentKind.WRITE: _end_write,
    IntentKind.DELETE: _end_delete,
    IntentKind.RENAME: _end_rename,
    IntentKind.MAKE_DIRECTORY: _end_make_directory,
    IntentKind.COPY: _end_copy,
    IntentKind.UPLOAD: _end_write,
}
