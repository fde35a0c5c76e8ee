"""FORGET: drop what is known of a path that its store has; the store is not touched, and the next access looks at it again."""

from __future__ import annotations

from monofs.metadata.draft import EXPLICIT, LOADED, PERSISTED, Draft, existing, parent_place, place_of
from monofs.metadata.entries import Forget
from monofs.metadata.ops.guarding import check_movable, check_no_mounts_below, check_no_tree_job, check_unlocked
from monofs.metadata.ops.set_ttl import drop_ttl
from monofs.metadata.state import present
from monofs.model.errors import InvalidArgument
from monofs.model.inode import Kind
from monofs.model.paths import format_path, parse_path


def forget(draft: Draft, change: Forget) -> None:
    """Of a directory everything below goes too. Refused where something would be lost: what no store has, and directories that may hold it."""
    parts = parse_path(change.path)
    path = format_path(parts)
    found = draft.lookup(parts)
    inode = existing(found, path)
    check_movable(parts, inode, path)
    directory = inode.kind == Kind.DIRECTORY
    if directory:
        check_no_mounts_below(draft, parts, "forgetting")
    if found.located is None or not inode.flags & PERSISTED or inode.flags & EXPLICIT:
        raise InvalidArgument(f"{path} cannot be forgotten: it is, or may hold, what no store has", path=path)
    check_unlocked(draft, parts)
    place = place_of(found, parts)
    if directory:
        check_no_tree_job(draft, parts)
        draft.remove_directory(*place, inode)
        draft.detach(inode.id)
    else:
        draft.remove_file(*place, inode)
    drop_ttl(draft, path)
    draft.bury(*place)
    parent = present(found.parent, "only the root has no parent")
    draft.put_inode(*parent_place(found, parts), draft.changed(parent, flags=parent.flags & ~LOADED))
