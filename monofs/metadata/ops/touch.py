"""TOUCH: the mtime of a file or directory under no mount is now."""

from __future__ import annotations

from monofs.metadata.draft import Draft, check_cache_only, existing, place_of
from monofs.metadata.entries import Touch
from monofs.metadata.ops.guarding import check_unlocked
from monofs.model.paths import parse_path


def touch(draft: Draft, change: Touch) -> bytes:
    """The record. A file that is missing is made by CREATE."""
    parts = parse_path(change.path)
    found = draft.lookup(parts)
    inode = existing(found, change.path)
    check_cache_only(found.located, change.path)
    check_unlocked(draft, parts)
    return draft.put_inode(*place_of(found, parts), draft.changed(inode, mtime_ns=draft.now_ns))
