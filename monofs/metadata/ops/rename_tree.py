"""RENAME_TREE: a directory below a mount of an object store has its new name at once, and a MOVE job moves the objects after it.

Until the job is done its record says where they lie (``store_path``), and everything below inherits that.
"""

from __future__ import annotations

from monofs.metadata.draft import EXPLICIT, Draft, check_writable, existing, place_of
from monofs.metadata.entries import RenameTree
from monofs.metadata.ops.guarding import check_no_tree_job, check_unlocked, under_no_mount
from monofs.metadata.ops.jobs import begin_job
from monofs.metadata.ops.placing import way_to
from monofs.metadata.ops.rename import check_movable_onto, check_one_mount, check_replaced
from monofs.metadata.ops.set_ttl import move_ttls
from monofs.metadata.tables import Job, JobKind, JobState
from monofs.model.errors import NotADirectory
from monofs.model.inode import Kind
from monofs.model.paths import format_path, parse_path


def rename_tree(draft: Draft, change: RenameTree) -> tuple[int, int]:
    """(The job's number, 0); (0, 0) onto itself. Replaces an empty directory, as rename(2) does."""
    parts, onto = parse_path(change.source), parse_path(change.target)
    path, target_path = format_path(parts), format_path(onto)
    source, target = draft.lookup(parts), draft.lookup(onto)
    inode = existing(source, path)
    if inode.kind != Kind.DIRECTORY:
        raise NotADirectory(f"{path} is a file", path=path)
    if parts == onto:
        return 0, 0
    check_movable_onto(draft, parts, onto, inode, target)
    check_one_mount(source, target, path, target_path)
    located = source.located
    if located is None:
        raise under_no_mount(path)
    check_writable(located, path)
    check_replaced(draft, inode, target, onto)
    for each in (parts, onto):
        check_unlocked(draft, each)
        check_no_tree_job(draft, each)
    way = way_to(draft, onto, kept=bool(inode.flags & EXPLICIT))
    place, new_place = place_of(source, parts), (way.parent, onto[-1] + b"/")
    if target.inode is not None:
        draft.remove_directory(*new_place, target.inode)
    draft.move(place, new_place, draft.changed(inode, store_path=located.key))
    move_ttls(draft, path, target_path)
    job = Job(
        0,
        JobKind.MOVE,
        JobState.RUNNING,
        path,
        target=target_path,
        mount=located.mount.id,
        key=located.key,
        directory=inode.id,
        user=change.user,
    )
    return begin_job(draft, job), 0
