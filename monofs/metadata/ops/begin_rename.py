"""BEGIN_RENAME: a file below a mount is to be renamed, or a directory where the store does that in one step."""

from __future__ import annotations

from monofs.metadata.draft import Draft, existing
from monofs.metadata.intent_entries import BeginRename
from monofs.metadata.ops.guarding import (
    check_may_begin,
    check_new_key,
    check_no_tree_job,
    check_unlocked,
    under_no_mount,
)
from monofs.metadata.ops.opening import new_intent_number, open_for
from monofs.metadata.ops.placing import spot_of, version_of
from monofs.metadata.ops.rename import check_movable_onto, check_one_mount, check_replaced
from monofs.metadata.state import present
from monofs.metadata.tables import Intent, IntentKind
from monofs.model.inode import Kind
from monofs.model.paths import format_path, parse_path

IN_VAIN = b"\0"
"""Leads a record that is the result because there is nothing to do."""


def begin_rename(draft: Draft, change: BeginRename) -> bytes:
    """The intent; of a path onto itself its record, led by a NUL byte. Replaces a file, or an empty directory by a directory."""
    parts, onto = parse_path(change.source), parse_path(change.target)
    path, target_path = format_path(parts), format_path(onto)
    check_may_begin(draft, change.asker)
    source, target = draft.lookup(parts), draft.lookup(onto)
    inode = existing(source, path)
    if parts == onto:
        return IN_VAIN + present(source.raw, "an inode has its record")
    check_movable_onto(draft, parts, onto, inode, target)
    check_one_mount(source, target, path, target_path)
    if source.located is None:
        raise under_no_mount(path)
    spot = spot_of(draft, target, onto, target_path)
    check_replaced(draft, inode, target, onto)
    check_unlocked(draft, parts)
    check_unlocked(draft, onto)
    directory = inode.kind == Kind.DIRECTORY
    if directory:
        check_no_tree_job(draft, parts)
        check_no_tree_job(draft, onto)
    else:
        check_new_key(draft, target, spot, target_path)
    number, name = new_intent_number(draft)
    intent = Intent(
        number=number,
        kind=IntentKind.RENAME,
        name=name,
        path=path,
        acting=True,
        mount=spot.mount,
        key=source.located.key,
        size=inode.size,
        replaced=version_of(inode),
        target=target_path,
        target_key=spot.key,
        target_replaced=spot.replaced,
        directory=directory,
    )
    return open_for(draft, change.asker, intent)
