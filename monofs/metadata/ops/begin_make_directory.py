"""BEGIN_MAKE_DIRECTORY: a directory below a mount is to be made, in its store too."""

from __future__ import annotations

from monofs.metadata.draft import HEADERS_UNKNOWN, MOUNT, Draft, parent_directory
from monofs.metadata.intent_entries import BeginMakeDirectory
from monofs.metadata.ops.begin_rename import IN_VAIN
from monofs.metadata.ops.guarding import check_may_begin, check_unlocked, under_no_mount
from monofs.metadata.ops.make_directory import MODE_BITS, asked_for, may_mark
from monofs.metadata.ops.opening import new_intent_number, open_for
from monofs.metadata.ops.placing import spot_of
from monofs.metadata.tables import MARKERS_LEVEL, Intent, IntentKind
from monofs.model.errors import AlreadyExists, ConditionFailed, NotFound
from monofs.model.inode import Inode, Kind
from monofs.model.paths import format_path, parse_path


def begin_make_directory(draft: Draft, change: BeginMakeDirectory) -> bytes:
    """The intent; of a directory that exists, with ``exist_ok``, its record led by a NUL byte."""
    parts = parse_path(change.path)
    path = format_path(parts)
    check_may_begin(draft, change.asker)
    found = draft.lookup(parts)
    marker = change.marker and draft.meta.level >= MARKERS_LEVEL
    if found.inode is not None:
        if found.inode.kind != Kind.DIRECTORY or not (
            change.exist_ok or (marker and may_mark(draft, found.inode, exist_ok=False))
        ):
            raise AlreadyExists(f"{path} exists already", path=path)
        if not change.marker or found.inode.flags & MOUNT:
            return IN_VAIN + asked_for(draft, found, parts)
    else:
        parent_directory(found, path)
    if found.located is None:
        raise under_no_mount(path)
    if change.replaced and not _is_known(draft, found.inode, change.replaced):
        raise ConditionFailed(f"the object {path}/ is another one by now, or not known whole", path=path)
    spot = spot_of(draft, found, parts, path)
    if found.depth < len(parts) - 1 and not change.parents:
        raise NotFound(f"the directory that should hold {path} does not exist", path=path)
    check_unlocked(draft, parts)
    number, name = new_intent_number(draft)
    asker = change.asker
    intent = Intent(
        number=number,
        kind=IntentKind.MAKE_DIRECTORY,
        name=name,
        path=path,
        acting=True,
        mount=spot.mount,
        key=spot.key,
        mode=change.mode & MODE_BITS,
        uid=asker.uid,
        gid=asker.gid,
        parents=change.parents,
        directory=True,
        attributes=change.attributes,
        marker=marker,
        replaced=change.replaced,
    )
    return open_for(draft, change.asker, intent)


def _is_known(draft: Draft, inode: Inode | None, fingerprint: str) -> bool:
    """Whether the object ``dir/`` is this version, and what its store has of it is known here, its bytes too."""
    if inode is None or inode.fingerprint != fingerprint or inode.flags & HEADERS_UNKNOWN:
        return False
    kept = draft.state.attributes(inode)
    return inode.size == (0 if kept is None else len(kept.body))
