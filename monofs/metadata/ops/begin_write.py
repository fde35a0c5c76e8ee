"""BEGIN_WRITE, PUBLISH, REOPEN and RECORD_UPLOAD: a file is written, in one act or in parts that are published at the end.

A write whose size is known acts at once, so it locks its path here; one in parts leaves the path as it is and locks it when all parts
are there (PUBLISH), which is when its conditions are decided. An upload whose publishing came to nothing goes on as before (REOPEN).
"""

from __future__ import annotations

import msgspec

from monofs.metadata.draft import Draft
from monofs.metadata.intent_entries import BeginWrite, Publish, RecordUpload, Reopen
from monofs.metadata.ops.guarding import check_content, check_may_begin, check_new_key, check_unlocked
from monofs.metadata.ops.make_directory import MODE_BITS
from monofs.metadata.ops.opening import new_intent_number, open_for
from monofs.metadata.ops.placing import check_target, spot_of
from monofs.metadata.state import Lookup, present
from monofs.metadata.tables import INTENTS, UPLOADS_MAX, Intent, IntentKind, pack_id
from monofs.model.attributes import check_attributes, check_etag
from monofs.model.errors import Busy, ConditionFailed, InvalidArgument, Overloaded, WriteLost
from monofs.model.options import WriteType
from monofs.model.paths import format_path, parse_path

_WRITE_TYPES = frozenset(WriteType)


_UPLOADING = frozenset({IntentKind.WRITE, IntentKind.COPY, IntentKind.RENAME, IntentKind.UPLOAD})
_WRITING = frozenset({IntentKind.WRITE, IntentKind.UPLOAD})


def begin_write(draft: Draft, change: BeginWrite) -> bytes:
    """The intent. ``IsADirectory``, ``AlreadyExists``, ``ConditionFailed``, ``NotFound``, ``NotADirectory``, ``ReadOnly``, ``Busy``."""
    parts = parse_path(change.path)
    path = format_path(parts)
    check_may_begin(draft, change.asker)
    found = draft.lookup_key(parts, as_key=change.as_key)
    check_target(found, parts, path, parents=change.parents, exclusive=change.exclusive)
    _check_match(found, path, change.if_match, change.if_content)
    spot = spot_of(draft, found, parts, path)
    if change.write_type not in _WRITE_TYPES or (not spot.mount and change.write_type != WriteType.MUST_CACHE):
        raise InvalidArgument(f"{path} cannot be written with write type {change.write_type}", path=path)
    if change.attributes is not None:
        check_attributes(change.attributes)
    acting = change.size >= 0
    if change.upload:
        if acting or not spot.mount or change.write_type == WriteType.MUST_CACHE:
            raise InvalidArgument(f"{path} cannot be an upload: a store has it in parts of unknown number", path=path)
        if len(draft.state.open_intents.uploads) >= UPLOADS_MAX:
            raise Overloaded(f"{UPLOADS_MAX} uploads in parts are open: complete some, or abort them")
    if acting:
        check_unlocked(draft, parts)
        check_new_key(draft, found, spot, path)
    number, name = new_intent_number(draft)
    asker = change.asker
    intent = Intent(
        number=number,
        kind=IntentKind.UPLOAD if change.upload else IntentKind.WRITE,
        name=name,
        path=path,
        acting=acting,
        mount=spot.mount,
        key=spot.key,
        content=draft.new_content_id(change.size),
        size=change.size,
        replaced=spot.replaced,
        exclusive=change.exclusive,
        if_match=change.if_match,
        write_type=change.write_type,
        mode=change.mode & MODE_BITS,
        uid=asker.uid,
        gid=asker.gid,
        worker=change.worker,
        parents=change.parents,
        attributes=change.attributes,
        as_key=change.as_key,
        if_content=change.if_content,
    )
    return open_for(draft, change.asker, intent)


def publish(draft: Draft, change: Publish) -> bytes:
    """The intent, acting now. Decided as BEGIN_WRITE is, against the state of now; refused, the write stays open, to be abandoned.

    ``WriteLost`` when the write was given up, or when the parts were sent for what is another place now.
    """
    intent = open_write(draft, change.number)
    if change.size < 0:
        raise InvalidArgument("a file has no fewer than 0 bytes")
    if intent.kind == IntentKind.UPLOAD:
        intent = _with_its_end(intent, change)
    check_etag(change.etag)
    if change.attributes is not None:
        check_attributes(change.attributes)
        intent = msgspec.structs.replace(intent, attributes=change.attributes)
    if intent.acting:
        if intent.size != change.size:
            raise InvalidArgument(f"a write of {intent.size} bytes was published with {change.size}", path=intent.path)
        return present(draft.state.store.get(INTENTS, pack_id(intent.number)), "an open intent has its record")
    path = intent.path
    parts = parse_path(path)
    found = draft.lookup_key(parts, as_key=intent.as_key)
    check_target(found, parts, path, parents=intent.parents, exclusive=intent.exclusive)
    _check_match(found, path, intent.if_match, intent.if_content)
    spot = spot_of(draft, found, parts, path)
    check_unlocked(draft, parts)
    if (spot.mount, spot.key) != (intent.mount, intent.key):
        raise WriteLost(f"{path} lies elsewhere in its store than when this write began: write it again", path=path)
    check_new_key(draft, found, spot, path)
    published = msgspec.structs.replace(
        intent, acting=True, size=change.size, replaced=spot.replaced, etag=change.etag or intent.etag
    )
    return draft.change_intent(intent, published)


def _with_its_end(intent: Intent, change: Publish) -> Intent:
    """An upload with what its completion says."""
    if intent.acting:
        raise Busy(f"{intent.path} is being completed", path=intent.path, operation=intent.number)
    return msgspec.structs.replace(intent, exclusive=change.exclusive, if_content=change.if_content)


def reopen(draft: Draft, change: Reopen) -> None:
    """``WriteLost`` when it is not open any more. What belongs to the file that was to be made, and not to the upload, goes."""
    intent = open_write(draft, change.number)
    if intent.kind != IntentKind.UPLOAD:
        raise InvalidArgument(f"operation {change.number} is no upload", path=intent.path)
    if not intent.acting:
        return
    kept = intent.attributes
    if kept is not None:
        kept = msgspec.structs.replace(kept, checksums={}, composite=False, parts=[], part_checksums=[])
    opened = msgspec.structs.replace(
        intent, acting=False, size=-1, replaced="", exclusive=False, if_content=None, attributes=kept
    )
    draft.change_intent(intent, opened)


def record_upload(draft: Draft, change: RecordUpload) -> None:
    """Once for a write: a second upload would leave the first to nobody. A copy is made by the leader, who aborts one before it begins another."""
    intent = draft.state.intent(change.number)
    if intent is None or intent.kind not in _UPLOADING:
        raise WriteLost(f"operation {change.number} was given up")
    if intent.upload == change.upload:
        return
    if intent.upload and intent.kind in _WRITING:
        raise ConditionFailed(f"operation {intent.number} has an upload already", path=intent.path)
    draft.change_intent(intent, msgspec.structs.replace(intent, upload=change.upload))


def open_write(draft: Draft, number: int) -> Intent:
    """The open write or upload of this number; raises ``WriteLost``."""
    intent = draft.state.intent(number)
    if intent is None or intent.kind not in _WRITING:
        raise WriteLost(f"the write with operation {number} was given up: write the file again")
    return intent


def _check_match(found: Lookup, path: str, if_match: str | None, if_content: int | None) -> None:
    inode = found.inode
    if if_match is not None and (inode is None or inode.fingerprint != if_match):
        raise ConditionFailed(f"{path} is not the version that was asked for", path=path)
    check_content(inode, path, if_content)
