"""SET_TTL: when a path expires, and what happens then. Not here: doing it (the leader does, and removes what it acted on)."""

from __future__ import annotations

from monofs.metadata.draft import MOUNT, Draft, existing
from monofs.metadata.entries import SetTtl
from monofs.metadata.tables import (
    EXPIRY,
    PATH_KEY_BYTES,
    REPLACED_TTLS_LEVEL,
    TTLS,
    TTLS_MAX,
    Ttl,
    decode_ttl,
    encode_record,
    pack_id,
    path_key,
)
from monofs.model.errors import InvalidArgument, Overloaded
from monofs.model.options import TtlAction
from monofs.model.paths import format_path, parse_path

MOVED_MAX = 1000
"""Times to live below a directory that are renamed with it; more stay behind, where they mean nothing any more."""
_ACTIONS = frozenset(TtlAction)


def set_ttl(draft: Draft, change: SetTtl) -> None:
    """Setting replaces. Removing asks nothing of the path: it may be gone."""
    parts = parse_path(change.path)
    path = format_path(parts)
    before = draft.state.ttl_of(path)
    if change.expected_ns and (before is None or before.expires_ns != change.expected_ns):
        return
    if not change.expires_ns:
        drop_ttl(draft, path)
        return
    if change.action not in _ACTIONS or not 0 < change.expires_ns < 1 << 63:
        raise InvalidArgument(f"a path expires at a time after 1970, with one of {', '.join(TtlAction)}", path=path)
    inode = existing(draft.lookup(parts), path)
    if change.action != TtlAction.FREE and (not parts or inode.flags & MOUNT):
        raise InvalidArgument(f"{path} is a mount point or the root: it may only be freed in time", path=path)
    if before is None and draft.meta.ttls >= TTLS_MAX:
        raise Overloaded(f"{TTLS_MAX} paths have a time to live already")
    drop_ttl(draft, path)
    _put(draft, Ttl(inode.id, change.expires_ns, change.action, path))


def drop_ttl(draft: Draft, path: str, inode: int | None = None) -> None:
    """A path does not expire any more; ``inode``: only if it was this one that did, for a file may lie beside a directory."""
    ttl = draft.state.ttl_of(path) if draft.meta.ttls else None
    if ttl is not None and (inode is None or ttl.inode == inode or draft.meta.level < REPLACED_TTLS_LEVEL):
        _remove(draft, ttl)


def move_ttls(draft: Draft, source: str, target: str) -> None:
    """Times to live go with what is renamed; what was replaced has none."""
    if not draft.meta.ttls:
        return
    drop_ttl(draft, target)
    ttl = draft.state.ttl_of(source)
    moved = [] if ttl is None else [ttl]
    prefix = source + "/"
    start = prefix.encode()[:PATH_KEY_BYTES]
    for key, raw in draft.state.store.scan(TTLS, start, MOVED_MAX):
        if not key.startswith(start):
            break
        below = decode_ttl(raw)
        if below.path.startswith(prefix):
            moved.append(below)
    for each in moved:
        _remove(draft, each)
        _put(draft, Ttl(each.inode, each.expires_ns, each.action, target + each.path[len(source) :]))


def _put(draft: Draft, ttl: Ttl) -> None:
    key = path_key(ttl.path)
    draft.changes.append((TTLS, key, encode_record(ttl)))
    draft.changes.append((EXPIRY, pack_id(ttl.expires_ns) + key, b""))
    draft.meta.ttls += 1


def _remove(draft: Draft, ttl: Ttl) -> None:
    key = path_key(ttl.path)
    draft.changes.append((TTLS, key, None))
    draft.changes.append((EXPIRY, pack_id(ttl.expires_ns) + key, None))
    draft.meta.ttls -= 1
