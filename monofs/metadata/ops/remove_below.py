"""REMOVE_BELOW: take detached subtrees apart, a bounded number of records an entry."""

from __future__ import annotations

from monofs.metadata.draft import Draft
from monofs.metadata.entries import RemoveBelow
from monofs.metadata.state import present
from monofs.metadata.tables import IDS, REMOVAL, Detached, decode_detached, encode_record, pack_id
from monofs.model.errors import InvalidArgument
from monofs.model.inode import Inode, Kind, decode_inode

RECORDS_MAX = 10_000


def remove_below(draft: Draft, change: RemoveBelow) -> int:
    """Returns how many detached directories are left; 0: all is done. ``limit`` is at most 10,000 records."""
    if not 0 < change.limit <= RECORDS_MAX:
        raise InvalidArgument(f"between 1 and {RECORDS_MAX} records are removed in one entry")
    meta = draft.meta
    left = change.limit
    while left > 0 and meta.removal_tail < draft.state.meta.removal_head:
        number = meta.removal_tail
        raw = draft.state.store.get(REMOVAL, pack_id(number))
        record = decode_detached(present(raw, "detached directories are numbered without gaps"))
        children = draft.state.children(record.directory, record.after, left)
        for key, child in children:
            _remove(draft, record.directory, key, decode_inode(child))
        if len(children) == left:
            rest = Detached(record.directory, children[-1][0])
            draft.changes.append((REMOVAL, pack_id(number), encode_record(rest)))
        else:
            draft.changes.append((REMOVAL, pack_id(number), None))
            meta.removal_tail += 1
        left -= max(len(children), 1)
    return meta.removal_head - meta.removal_tail


def _remove(draft: Draft, parent: int, key: bytes, inode: Inode) -> None:
    draft.changes.append((parent, key, None))
    draft.stale.append((parent, key))
    draft.meta.inodes -= 1
    if inode.kind == Kind.DIRECTORY:
        draft.changes.append((IDS, pack_id(inode.id), None))
        draft.drop_attributes(inode)
        draft.detach(inode.id)
    else:
        draft.drop_content(inode)
