"""DELETE: remove a cache-only file or an empty directory."""

from __future__ import annotations

from monofs.metadata.draft import Draft, check_cache_only, existing, parent_place, place_of
from monofs.metadata.entries import Delete
from monofs.metadata.ops.guarding import check_movable, check_unlocked
from monofs.metadata.ops.set_ttl import drop_ttl
from monofs.metadata.state import present
from monofs.model.errors import NotEmpty
from monofs.model.inode import Kind
from monofs.model.paths import format_path, parse_path


def delete(draft: Draft, change: Delete) -> None:
    """As unlink(2) and rmdir(2) in one; the root and mount points are ``MountPoint``."""
    path = change.path
    parts = parse_path(path)
    found = draft.lookup(parts)
    inode = existing(found, path)
    check_movable(parts, inode, path)
    check_cache_only(found.located, path)
    check_unlocked(draft, parts)
    place = place_of(found, parts)
    if inode.kind == Kind.DIRECTORY:
        if draft.state.children(inode.id, b"", 1):
            raise NotEmpty(f"{path} is not empty", path=path)
        draft.remove_directory(*place, inode)
    else:
        draft.remove_file(*place, inode)
    if draft.meta.ttls:
        drop_ttl(draft, format_path(parts))
    draft.touch(present(found.parent, "only the root has no parent"), parent_place(found, parts))
