"""BEGIN_DELETE: a file or an empty directory below a mount is to be deleted, in its store too."""

from __future__ import annotations

from monofs.metadata.draft import Draft, check_writable, existing
from monofs.metadata.intent_entries import BeginDelete
from monofs.metadata.ops.delete import is_forlorn
from monofs.metadata.ops.guarding import (
    check_content,
    check_may_begin,
    check_movable,
    check_not_moved,
    check_unlocked,
    under_no_mount,
)
from monofs.metadata.ops.opening import new_intent_number, open_for
from monofs.metadata.ops.placing import version_of
from monofs.metadata.tables import Intent, IntentKind
from monofs.model.errors import NotEmpty
from monofs.model.inode import Kind
from monofs.model.paths import format_path, parse_path


def begin_delete(draft: Draft, change: BeginDelete) -> bytes:
    """The intent. A file no store has is deleted there all the same: an older version may lie under its name."""
    parts = parse_path(change.path)
    path = format_path(parts)
    check_may_begin(draft, change.asker)
    found = draft.lookup_key(parts, as_key=change.as_key)
    inode = existing(found, path)
    check_content(inode, path, change.if_content)
    check_movable(parts, inode, path)
    if found.located is None:
        raise under_no_mount(path)
    check_writable(found.located, path)
    directory = inode.kind == Kind.DIRECTORY
    if change.implied and not is_forlorn(draft, found, parts):
        raise NotEmpty(f"{path} is no directory that only led to others", path=path)
    if directory and not change.marker and draft.state.children(inode.id, b"", 1):
        raise NotEmpty(f"{path} is not empty", path=path)
    check_unlocked(draft, parts)
    if directory:
        check_not_moved(draft, parts)
    number, name = new_intent_number(draft)
    intent = Intent(
        number=number,
        kind=IntentKind.DELETE,
        name=name,
        path=path,
        acting=True,
        mount=found.located.mount.id,
        key=found.located.key,
        replaced=version_of(inode),
        directory=directory,
        marker=directory and change.marker,
        implied=change.implied,
    )
    return open_for(draft, change.asker, intent)
