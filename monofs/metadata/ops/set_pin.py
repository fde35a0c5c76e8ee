"""SET_PIN: mark a file, or a directory and all below it, as never evicted."""

from __future__ import annotations

from monofs.metadata.draft import PINNED, Draft, existing, place_of
from monofs.metadata.entries import SetPin
from monofs.metadata.state import present
from monofs.model.paths import parse_path


def set_pin(draft: Draft, change: SetPin) -> bytes:
    """Setting what is set already changes nothing. Allowed below mounts: a pin concerns the cache alone."""
    parts = parse_path(change.path)
    found = draft.lookup(parts)
    inode = existing(found, change.path)
    flags = inode.flags | PINNED if change.pinned else inode.flags & ~PINNED
    if flags == inode.flags:
        return present(found.raw, "an inode has its record")
    return draft.put_inode(*place_of(found, parts), draft.changed(inode, flags=flags))
