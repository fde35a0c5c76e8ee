"""DELETE: remove a cache-only file or an empty directory."""

from __future__ import annotations

from monofs.metadata.draft import INTENT, MOUNT, Draft, check_cache_only, parent_place, place_of
from monofs.metadata.entries import Delete
from monofs.metadata.state import Lookup, present
from monofs.model.errors import Busy, NotADirectory, NotEmpty, NotFound
from monofs.model.inode import Inode, Kind
from monofs.model.paths import parse_path


def delete(draft: Draft, change: Delete) -> None:
    """As unlink(2) and rmdir(2) in one; the root and mount points are ``Busy``."""
    path = change.path
    parts = parse_path(path)
    found = draft.lookup(parts)
    inode = existing(found, path)
    if not parts or inode.flags & MOUNT:
        raise Busy(f"{path} is a mount point or the root: it cannot be deleted", path=path)
    check_cache_only(found.located, path)
    if inode.flags & INTENT:
        raise Busy(f"another change of {path} is in progress", path=path)
    place = place_of(found, parts)
    if inode.kind == Kind.DIRECTORY:
        if draft.state.children(inode.id, b"", 1):
            raise NotEmpty(f"{path} is not empty", path=path)
        draft.remove_directory(*place, inode)
    else:
        draft.remove_file(*place, inode)
    draft.touch(present(found.parent, "only the root has no parent"), parent_place(found, parts))


def existing(found: Lookup, path: str) -> Inode:
    """The record a path leads to; raises ``NotFound`` or ``NotADirectory``."""
    if found.inode is not None:
        return found.inode
    if found.parent is not None and found.parent.kind != Kind.DIRECTORY:
        raise NotADirectory(f"a component of {path} is a file", path=path)
    raise NotFound(f"{path} does not exist", path=path)
