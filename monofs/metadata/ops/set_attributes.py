"""SET_ATTRIBUTES: what is kept with a file or directory is replaced; its bytes stay."""

from __future__ import annotations

import msgspec

from monofs.metadata.draft import HEADERS_UNKNOWN, Draft, existing, place_of, with_body
from monofs.metadata.entries import SetAttributes
from monofs.metadata.state import present
from monofs.model.attributes import Attributes, check_attributes
from monofs.model.errors import ConditionFailed, IsADirectory, NotADirectory
from monofs.model.inode import Kind
from monofs.model.paths import format_path, parse_path


def set_attributes(draft: Draft, change: SetAttributes) -> bytes:
    """The record. ``ConditionFailed`` when the file has another content by now, or other attributes."""
    parts = parse_path(change.path)
    path = format_path(parts)
    found = draft.lookup_key(parts, as_key=not change.directory)
    inode = existing(found, path)
    if change.directory and inode.kind != Kind.DIRECTORY:
        raise NotADirectory(f"{path} is a file", path=path)
    if inode.kind == Kind.DIRECTORY and not change.directory:
        raise IsADirectory(f"{path} is a directory", path=path)
    if change.attributes is not None:
        check_attributes(change.attributes, directory=change.directory, marker=change.directory)
    learnt = bool(change.fingerprint)
    if inode.content != change.content or (learnt and inode.fingerprint != change.fingerprint):
        raise ConditionFailed(f"{path} has another content by now", path=path)
    if learnt and not inode.flags & HEADERS_UNKNOWN:
        return present(found.raw, "an inode has its record")
    if (inode.attributes or 0) != change.expected:
        raise ConditionFailed(f"what is kept with {path} was changed meanwhile", path=path)
    known, wanted = draft.state.attributes(inode), change.attributes
    if learnt:
        wanted = _joined(known, wanted)
    elif change.directory and _body(known) != _body(
        wanted
    ):  # which goes when the object is written anew, and not before
        wanted = msgspec.structs.replace(wanted or Attributes(), body=_body(known))
    draft.drop_attributes(inode)
    number = draft.put_attributes(wanted)
    changed = draft.changed(inode, flags=inode.flags & ~HEADERS_UNKNOWN, attributes=number)
    if learnt and change.directory:
        changed = with_body(changed, wanted)
        if change.size:
            changed = msgspec.structs.replace(changed, size=change.size)
    return draft.put_inode(*place_of(found, parts), changed)


def _body(kept: Attributes | None) -> bytes:
    return b"" if kept is None else kept.body


def _joined(known: Attributes | None, learnt: Attributes | None) -> Attributes | None:
    """What a store keeps with a version, and what it was not asked about."""
    if known is None:
        return learnt
    told = learnt or Attributes()
    joined = msgspec.structs.replace(
        known, headers=told.headers, user=told.user, tags=told.tags or known.tags, body=told.body
    )
    return None if joined == Attributes() else joined
