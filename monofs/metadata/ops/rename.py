"""RENAME: rename(2) within the cache-only part. Moves one record, whatever lies below it."""

from __future__ import annotations

from monofs.metadata.draft import INTENT, MOUNT, Draft, check_cache_only, parent_directory, parent_place, place_of
from monofs.metadata.entries import Rename
from monofs.metadata.ops.delete import existing
from monofs.metadata.state import Lookup, present
from monofs.model.errors import Busy, CrossMount, InvalidArgument, IsADirectory, NotADirectory, NotEmpty, NotFound
from monofs.model.inode import Inode, Kind
from monofs.model.paths import Parts, is_prefix, parse_path


def rename(draft: Draft, change: Rename) -> bytes:
    """Replaces a file, or an empty directory by a directory. Renaming onto itself changes nothing."""
    source_parts, target_parts = parse_path(change.source), parse_path(change.target)
    source, target = draft.lookup(source_parts), draft.lookup(target_parts)
    inode = existing(source, change.source)
    if source_parts == target_parts:
        return present(source.raw, "an inode has its record")
    _check_movable(draft, change, source_parts, target_parts, inode, target)
    _check_mounts(source, target, change)
    _check_target(draft, change, inode, target, target_parts)
    return _move(draft, (source, source_parts), (target, target_parts))


def _check_movable(
    draft: Draft, change: Rename, source_parts: Parts, target_parts: Parts, inode: Inode, target: Lookup
) -> None:
    for parts, path, flags in (
        (source_parts, change.source, inode.flags),
        (target_parts, change.target, 0 if target.inode is None else target.inode.flags),
    ):
        if not parts or flags & MOUNT:
            raise Busy(f"{path} is a mount point or the root: it cannot be renamed or replaced", path=path)
        if flags & INTENT:
            raise Busy(f"another change of {path} is in progress", path=path)
    if inode.kind != Kind.DIRECTORY:
        return
    if is_prefix(source_parts, target_parts):
        raise InvalidArgument(f"{change.source} cannot be moved below itself", path=change.source)
    if any(is_prefix(source_parts, at) for at, _ in draft.state.mounts()):
        raise Busy(f"{change.source} holds mount points: unmount them before renaming it", path=change.source)


def _check_mounts(source: Lookup, target: Lookup, change: Rename) -> None:
    here = source.located.mount.id if source.located else 0
    there = target.located.mount.id if target.located else 0
    if here != there:
        raise CrossMount(
            f"{change.source} and {change.target} lie on different mounts: copy instead", path=change.source
        )
    check_cache_only(source.located, change.source)


def _check_target(draft: Draft, change: Rename, inode: Inode, target: Lookup, target_parts: Parts) -> None:
    path = change.target
    replaced = target.inode
    if replaced is None:
        parent_directory(target, path)
        if target.depth < len(target_parts) - 1:
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
