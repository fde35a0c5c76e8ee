"""MAKE_DIRECTORY: make a directory, with its parents when asked."""

from __future__ import annotations

from monofs.metadata.draft import EXPLICIT, Draft, check_cache_only, parent_directory, parent_place
from monofs.metadata.entries import MakeDirectory
from monofs.metadata.ops.guarding import check_unlocked
from monofs.metadata.state import present
from monofs.model.errors import AlreadyExists, NotFound
from monofs.model.inode import Kind
from monofs.model.paths import parse_path

MODE_BITS = 0o7777


def make_directory(draft: Draft, change: MakeDirectory) -> bytes:
    """As mkdir(2), or ``mkdir -p`` with ``parents`` and ``exist_ok``. A file in the way is never accepted."""
    path = change.path
    parts = parse_path(path)
    found = draft.lookup(parts)
    if found.inode is not None:
        if found.inode.kind == Kind.DIRECTORY and change.exist_ok:
            return present(found.raw, "an inode has its record")
        raise AlreadyExists(f"{path} exists already", path=path)
    parent = parent_directory(found, path)
    check_cache_only(found.located, path)
    check_unlocked(draft, parts)
    missing = parts[found.depth :]
    if len(missing) > 1 and not change.parents:
        raise NotFound(f"the directory that should hold {path} does not exist", path=path)
    _, raw = draft.make_directories(
        parent.id, missing, mode=change.mode & MODE_BITS, uid=change.uid, gid=change.gid, flags=EXPLICIT
    )
    draft.touch(parent, parent_place(found, parts))
    return raw
