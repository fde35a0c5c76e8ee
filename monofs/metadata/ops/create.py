"""CREATE: an empty cache-only file."""

from __future__ import annotations

from monofs.metadata.draft import Draft, check_cache_only, parent_directory, parent_place
from monofs.metadata.entries import Create
from monofs.metadata.ops.guarding import check_unlocked
from monofs.metadata.ops.make_directory import MODE_BITS
from monofs.model.errors import AlreadyExists, NotFound
from monofs.model.inode import Inode, Kind
from monofs.model.paths import parse_path


def create(draft: Draft, change: Create) -> bytes:
    """As open(2) with O_CREAT and O_EXCL: ``AlreadyExists`` when anything has the name."""
    path = change.path
    parts = parse_path(path)
    found = draft.lookup(parts)
    if found.inode is not None:
        raise AlreadyExists(f"{path} exists already", path=path)
    parent = parent_directory(found, path)
    if found.depth < len(parts) - 1:
        raise NotFound(f"the directory that should hold {path} does not exist", path=path)
    check_cache_only(found.located, path)
    check_unlocked(draft, parts)
    inode = Inode(
        kind=Kind.FILE,
        id=draft.new_inode_id(),
        mtime_ns=draft.now_ns,
        ctime_ns=draft.now_ns,
        mode=change.mode & MODE_BITS,
        uid=change.uid,
        gid=change.gid,
        changed_index=draft.index,
    )
    raw = draft.add_inode(parent.id, parts[-1], inode)
    draft.touch(parent, parent_place(found, parts))
    return raw
