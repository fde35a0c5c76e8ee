"""MAKE_DIRECTORY: make a directory, with its parents when asked."""

from __future__ import annotations

from monofs.metadata.draft import (
    EXPLICIT,
    IMPLIED,
    MARKER,
    MOUNT,
    Draft,
    check_cache_only,
    parent_directory,
    parent_place,
    place_of,
)
from monofs.metadata.entries import MakeDirectory
from monofs.metadata.ops.guarding import check_unlocked
from monofs.metadata.state import Lookup, present
from monofs.model.errors import AlreadyExists, NotFound
from monofs.model.inode import Inode, Kind
from monofs.model.paths import Parts, parse_path

MODE_BITS = 0o7777


def make_directory(draft: Draft, change: MakeDirectory) -> bytes:
    """As mkdir(2), or ``mkdir -p`` with ``parents`` and ``exist_ok``. A file in the way is never accepted."""
    path = change.path
    parts = parse_path(path)
    found = draft.lookup(parts)
    if found.inode is not None:
        if change.marker and may_mark(draft, found.inode, exist_ok=change.exist_ok):
            check_cache_only(found.located, path)
            check_unlocked(draft, parts)
            return draft.mark(place_of(found, parts), found.inode, change.attributes, mtime_ns=draft.now_ns)
        if found.inode.kind == Kind.DIRECTORY and change.exist_ok:
            return asked_for(draft, found, parts)
        raise AlreadyExists(f"{path} exists already", path=path)
    parent = parent_directory(found, path)
    check_cache_only(found.located, path)
    check_unlocked(draft, parts)
    missing = parts[found.depth :]
    if len(missing) > 1 and not change.parents:
        raise NotFound(f"the directory that should hold {path} does not exist", path=path)
    below, mode, uid, gid, flags = parent.id, change.mode & MODE_BITS, change.uid, change.gid, EXPLICIT
    if change.marker:
        *way, name = missing
        if way:  # nobody asked for those
            on_the_way, _ = draft.make_directories(
                below, tuple(way), mode=mode, uid=uid, gid=gid, flags=EXPLICIT | IMPLIED
            )
            below = on_the_way.id
        missing, flags = (name,), EXPLICIT | MARKER
    _, raw = draft.make_directories(
        below, missing, mode=mode, uid=uid, gid=gid, flags=flags, attributes=change.attributes
    )
    draft.touch(parent, parent_place(found, parts))
    return raw


def may_mark(draft: Draft, inode: Inode, *, exist_ok: bool) -> bool:
    """Whether what has the name may be made an object: a directory, without ``exist_ok`` one that is not told as a key already."""
    if inode.kind != Kind.DIRECTORY or inode.flags & MOUNT:
        return False
    if exist_ok:
        return True
    return not inode.flags & MARKER and bool(inode.flags & IMPLIED or draft.state.children(inode.id, b"", 1))


def asked_for(draft: Draft, found: Lookup, parts: Parts) -> bytes:
    """The record of a directory that is there, which somebody asks for now: it is not one that was only made on the way to a file."""
    inode = present(found.inode, "the directory is there")
    if not inode.flags & IMPLIED:
        return present(found.raw, "an inode has its record")
    return draft.put_inode(*place_of(found, parts), draft.changed(inode, flags=inode.flags & ~IMPLIED))
