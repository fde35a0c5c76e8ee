"""ADOPT_PAGE: take over one page of a store's listing of one directory."""

from __future__ import annotations

from operator import lt

from monofs.metadata.draft import HEADERS_UNKNOWN, LOADED, MARKER, MOUNT, Draft
from monofs.metadata.entries import AdoptPage, Found
from monofs.metadata.ops.adoption import Adoption, Effect
from monofs.metadata.state import present
from monofs.model.errors import ConditionFailed, InvalidArgument, NotFound
from monofs.model.inode import Inode, decode_inode
from monofs.model.mount import Located
from monofs.model.paths import NAME_MAX_BYTES, Parts, format_path

FOUND_MAX = 1000
"""Names in one page."""
EXAMINED_MAX = 10_000
"""Names of the tree one page may look at. A page that speaks for more leaves the rest to the directory's next sync, and does not
count as complete."""
_SCAN = 1000
_SCAN_FIRST = 32
"""Names looked at first beyond as many as were found: a page of few names seldom speaks for many."""


def adopt_page(draft: Draft, change: AdoptPage) -> tuple[int, int, int]:
    """Returns how many names were added, changed and removed."""
    directory = change.directory
    place = draft.state.place_of(directory)
    inode = None if place is None else draft.state.get_inode(*place)
    if place is None or inode is None:
        raise NotFound("the directory that was listed is gone")
    covering, pinned = draft.state.mount_over(directory), draft.state.is_pinned(directory)
    adoption = Adoption(draft, covering, change.mount, change.read_index, pinned=pinned)
    if adoption.needs_path or change.key is not None:
        parts = present(draft.state.path_of(directory), "a directory below a mount has a path")
        check_key(draft.lookup(parts).located, change.key, parts)
        adoption.enter(parts)
        if adoption.is_held:
            return 0, 0, 0
    found = _checked(change)
    counts = [0, 0, 0, 0]
    whole = _settle_known(draft, change, adoption, found, counts)
    for key, entry in found.items():
        counts[adoption.settle(directory, key, None, entry)] += 1
    if change.marker is not None and inode.changed_index <= change.read_index and not inode.flags & MOUNT:
        inode = _settle_marker(draft, place, inode, *change.marker, change.marker_bytes, counts)
    if change.complete and whole:
        _mark_loaded(draft, place, inode)
    return counts[Effect.ADDED], counts[Effect.CHANGED], counts[Effect.REMOVED]


def _settle_known(
    draft: Draft, change: AdoptPage, adoption: Adoption, found: dict[bytes, Found], counts: list[int]
) -> bool:
    """Settle every name of the tree the page speaks for, taking them out of ``found``; False: there were too many."""
    directory, after, through = change.directory, change.after, change.through
    examined, limit = 0, min(len(found) + _SCAN_FIRST, _SCAN)
    while examined < EXAMINED_MAX:
        page = draft.state.children(directory, after, limit)
        for key, raw in page:
            if through is not None and key > through:
                return True
            counts[adoption.settle(directory, key, decode_inode(raw), found.pop(key, None))] += 1
        if len(page) < limit:
            return True
        examined += limit
        limit = min(_SCAN, EXAMINED_MAX - examined)
        after = page[-1][0]
    for key in [key for key in found if key > after]:
        known = draft.state.get_inode(directory, key)
        if known is not None:
            counts[adoption.settle(directory, key, known, found.pop(key))] += 1
    return False


def check_key(located: Located | None, asked: str | None, parts: Parts) -> None:
    """Raise ``ConditionFailed`` when the store was asked about a key that is not the path's any more."""
    if asked is not None and (located is None or asked != located.key):
        path = format_path(parts)
        raise ConditionFailed(f"{path} lies elsewhere in its store than when that was asked: ask again", path=path)


def _settle_marker(
    draft: Draft, place: tuple[int, bytes], inode: Inode, mtime_ns: int, fingerprint: str, size: int, counts: list[int]
) -> Inode:
    """Whether the store has the object ``dir/``; what it keeps with it is asked for when it is wanted. The directory's record then."""
    is_marker = bool(inode.flags & MARKER)
    if fingerprint and not (is_marker and inode.fingerprint == fingerprint):
        raw = draft.mark(
            place, inode, None, fingerprint=fingerprint, flags=HEADERS_UNKNOWN, mtime_ns=mtime_ns, size=size
        )
    elif is_marker and not fingerprint:
        raw = draft.unmark(place, inode)
    else:
        return inode
    counts[Effect.CHANGED] += 1
    return decode_inode(raw)


def _mark_loaded(draft: Draft, place: tuple[int, bytes], inode: Inode) -> None:
    if not inode.flags & LOADED:
        draft.put_inode(*place, draft.changed(inode, flags=inode.flags | LOADED))


def _checked(change: AdoptPage) -> dict[bytes, Found]:
    """The page by key. Raises ``InvalidArgument`` unless it is sorted, within its range, and of names the tree can hold."""
    found = change.found
    if len(found) > FOUND_MAX:
        raise InvalidArgument(f"a page of a listing holds at most {FOUND_MAX} names")
    keys = [entry.name + b"/" if entry.is_directory else entry.name for entry in found]
    if keys:
        if not all(map(lt, keys, keys[1:])):
            raise InvalidArgument("a page of a listing is sorted by key, each once")
        if keys[0] <= change.after or (change.through is not None and keys[-1] > change.through):
            raise InvalidArgument("a page of a listing holds names outside its range")
        check_names([entry.name for entry in found])
    return dict(zip(keys, found, strict=True))


def check_names(names: list[bytes]) -> None:
    """Raise ``InvalidArgument`` unless all of these may be directory entries; one pass in C over all of them."""
    blob = b"/".join(names)
    try:
        blob.decode()
        readable = True
    except UnicodeDecodeError:
        readable = False
    if (
        not readable
        or blob.count(b"/") != len(names) - 1
        or b"\0" in blob
        or max(map(len, names)) > NAME_MAX_BYTES
        or not all(names)
        or b"." in names
        or b".." in names
    ):
        raise InvalidArgument("a listing holds names no path can have")
