"""DELETE: remove a cache-only file or an empty directory."""

from __future__ import annotations

from monofs.metadata.draft import IMPLIED, MARKER, Draft, check_cache_only, existing, parent_place, place_of
from monofs.metadata.entries import Delete
from monofs.metadata.ops.guarding import check_content, check_movable, check_unlocked
from monofs.metadata.ops.set_ttl import drop_ttl
from monofs.metadata.state import Lookup, present
from monofs.model.errors import NotEmpty
from monofs.model.inode import Kind
from monofs.model.paths import Parts, format_path, parse_path


def delete(draft: Draft, change: Delete) -> None:
    """As unlink(2) and rmdir(2) in one; the root and mount points are ``MountPoint``. A key takes directories that only led to it along."""
    path = change.path
    parts = parse_path(path)
    found = draft.lookup_key(parts, as_key=change.as_key)
    inode = existing(found, path)
    check_content(inode, path, change.if_content)
    check_movable(parts, inode, path)
    check_cache_only(found.located, path)
    check_unlocked(draft, parts)
    place = place_of(found, parts)
    if inode.kind == Kind.DIRECTORY:
        if draft.state.children(inode.id, b"", 1):
            if change.marker and inode.flags & MARKER:
                draft.unmark(place, inode)
                return
            raise NotEmpty(f"{path} is not empty", path=path)
        draft.remove_directory(*place, inode)
    else:
        draft.remove_file(*place, inode)
    if draft.meta.ttls:
        drop_ttl(draft, format_path(parts), inode.id)
    parent = present(found.parent, "only the root has no parent")
    if (change.as_key or change.marker) and parent.flags & IMPLIED:
        _prune(draft, parts, place[1])
    else:
        draft.touch(parent, parent_place(found, parts))


def is_forlorn(draft: Draft, found: Lookup, parts: Parts) -> bool:
    """Whether a directory was only made on the way to others, and nobody said anything about it since."""
    inode = present(found.inode, "the directory is there")
    return bool(inode.flags & IMPLIED) and not found.pinned and draft.state.ttl_of(format_path(parts)) is None


def _prune(draft: Draft, parts: Parts, gone: bytes) -> None:
    """A key is gone, and with it the directories that were made on the way to it and hold nothing else; nobody asked for them."""
    while True:
        parts = parts[:-1]
        found = draft.lookup(parts)
        inode, place = present(found.inode, "what was deleted lay in a directory"), place_of(found, parts)
        others = any(name != gone for name, _ in draft.state.children(inode.id, b"", 2))
        if others or not is_forlorn(draft, found, parts):
            draft.touch(inode, place)
            return
        draft.remove_directory(*place, inode)
        gone = place[1]
