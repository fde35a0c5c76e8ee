"""REMOVE_TREE: a directory and everything below it is gone from the tree at once; below a mount a DELETE job does the same in the store."""

from __future__ import annotations

from monofs.metadata.draft import Draft, check_writable, existing, parent_place, place_of
from monofs.metadata.entries import RemoveTree
from monofs.metadata.ops.guarding import check_movable, check_no_mounts_below, check_no_tree_job, check_unlocked
from monofs.metadata.ops.jobs import begin_job
from monofs.metadata.ops.set_ttl import drop_ttl
from monofs.metadata.state import present
from monofs.metadata.tables import Job, JobKind, JobState
from monofs.model.errors import NotADirectory
from monofs.model.inode import Kind
from monofs.model.paths import format_path, parse_path


def remove_tree(draft: Draft, change: RemoveTree) -> int:
    """The job's number, 0 under no mount. The job keeps the detached subtree readable, to know which versions were in it; REMOVE_BELOW
    takes it apart once the job ends. Times to live below stay behind, where they mean nothing any more."""
    parts = parse_path(change.path)
    path = format_path(parts)
    found = draft.lookup(parts)
    inode = existing(found, path)
    if inode.kind != Kind.DIRECTORY:
        raise NotADirectory(f"{path} is a file", path=path)
    check_movable(parts, inode, path)
    check_no_mounts_below(draft, parts, "removing")
    if found.located is not None:
        check_writable(found.located, path)
    check_unlocked(draft, parts)
    place = place_of(found, parts)
    draft.remove_directory(*place, inode)
    drop_ttl(draft, path)
    if found.located is None:
        draft.detach(inode.id)
        draft.touch(present(found.parent, "only the root has no parent"), parent_place(found, parts))
        return 0
    check_no_tree_job(draft, parts)
    located = found.located
    job = Job(
        0,
        JobKind.DELETE,
        JobState.RUNNING,
        path,
        mount=located.mount.id,
        key=located.key,
        directory=inode.id,
        user=change.user,
    )
    return begin_job(draft, job)
