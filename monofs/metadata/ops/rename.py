"""RENAME: rename(2) within the cache-only part. Moves one record, whatever lies below it."""

from __future__ import annotations

from monofs.metadata.draft import Draft, check_cache_only, existing, parent_directory, parent_place, place_of
from monofs.metadata.entries import Rename
from monofs.metadata.ops.guarding import check_movable, check_no_mounts_below, check_unlocked
from monofs.metadata.ops.set_ttl import move_ttls
from monofs.metadata.state import Lookup, present
from monofs.model.errors import CrossMount, InvalidArgument, IsADirectory, NotADirectory, NotEmpty, NotFound
from monofs.model.inode import Inode, Kind
from monofs.model.paths import Parts, format_path, is_prefix, parse_path


def rename(draft: Draft, change: Rename) -> bytes:
    """Replaces a file, or an empty directory by a directory. Renaming onto itself changes nothing."""
    parts, onto = parse_path(change.source), parse_path(change.target)
    source, target = draft.lookup(parts), draft.lookup(onto)
    inode = existing(source, change.source)
    if parts == onto:
        return present(source.raw, "an inode has its record")
    check_movable_onto(draft, parts, onto, inode, target)
    check_one_mount(source, target, change.source, change.target)
    check_cache_only(source.located, change.source)
    check_replaced(draft, inode, target, onto)
    check_unlocked(draft, parts)
    check_unlocked(draft, onto)
    raw = _move(draft, (source, parts), (target, onto))
    move_ttls(draft, format_path(parts), format_path(onto))
    return raw


def check_movable_onto(draft: Draft, parts: Parts, onto: Parts, inode: Inode, target: Lookup) -> None:
    """Raise ``MountPoint`` for the root, mount points and what holds them, ``InvalidArgument`` below itself."""
    path = format_path(parts)
    check_movable(parts, inode, path)
    check_movable(onto, target.inode, format_path(onto))
    if inode.kind == Kind.DIRECTORY:
        if is_prefix(parts, onto):
            raise InvalidArgument(f"{path} cannot be moved below itself", path=path)
        check_no_mounts_below(draft, parts, "renaming")


def check_one_mount(source: Lookup, target: Lookup, path: str, target_path: str) -> None:
    """Raise ``CrossMount`` unless both lie below the same mount, or under none."""
    here = source.located.mount.id if source.located else 0
    there = target.located.mount.id if target.located else 0
    if here != there:
        raise CrossMount(f"{path} and {target_path} lie on different mounts: copy instead", path=path)


def check_replaced(draft: Draft, inode: Inode, target: Lookup, onto: Parts) -> None:
    """Raise unless what is at the target may be replaced by ``inode``, and there is a directory to hold it."""
    path = format_path(onto)
    replaced = target.inode
    if replaced is None:
        parent_directory(target, path)
        if target.depth < len(onto) - 1:
            raise NotFound(f"the directory that should hold {path} does not exist", path=path)
    elif replaced.kind == Kind.DIRECTORY:
        if inode.kind != Kind.DIRECTORY:
            raise IsADirectory(f"{path} is a directory", path=path)
        if draft.state.children(replaced.id, b"", 1):
            raise NotEmpty(f"{path} is not empty", path=path)
    elif inode.kind == Kind.DIRECTORY:
        raise NotADirectory(f"{path} is a file: a directory cannot replace it", path=path)


def _move(draft: Draft, source: tuple[Lookup, Parts], target: tuple[Lookup, Parts]) -> bytes:
    found, parts = source
    onto, onto_parts = target
    inode = present(found.inode, "what is renamed exists")
    parent = present(found.parent, "only the root has no parent")
    onto_parent = present(onto.parent, "only the root has no parent")
    if onto.inode is not None:
        remove = draft.remove_directory if onto.inode.kind == Kind.DIRECTORY else draft.remove_file
        remove(*place_of(onto, onto_parts), onto.inode)
    directory = inode.kind == Kind.DIRECTORY
    target_key = onto_parts[-1] + b"/" if directory else onto_parts[-1]
    raw = draft.move(place_of(found, parts), (onto_parent.id, target_key), draft.changed(inode))
    draft.touch(parent, parent_place(found, parts))
    if onto_parent.id != parent.id:
        draft.touch(onto_parent, parent_place(onto, onto_parts))
    return raw
