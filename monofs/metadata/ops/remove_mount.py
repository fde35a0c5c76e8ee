"""REMOVE_MOUNT: forget a mount and everything known of its store, which itself is never touched."""

from __future__ import annotations

import msgspec

from monofs.metadata.draft import EXPLICIT, KEPT, LOADED, MADE, MOUNT, PERSISTED, Draft, place_of
from monofs.metadata.entries import RemoveMount
from monofs.metadata.ops.add_mount import chain
from monofs.metadata.ops.jobs import end_job
from monofs.metadata.ops.update_mount import mount_at
from monofs.metadata.state import present
from monofs.metadata.tables import IDS, MOUNTS, JobState, pack_id
from monofs.model.errors import Busy
from monofs.model.ids import ContentId
from monofs.model.mount import Mount
from monofs.model.options import UfsMode
from monofs.model.paths import Parts, format_path, is_prefix, parse_path

_WAY_OUT = "wait, or give it up by setting the mount's mode to noAccess before unmounting"
NAMED_MAX = 5
"""Mounts named in a refusal."""


def remove_mount(draft: Draft, change: RemoveMount) -> None:
    """The subtree is detached at once, and REMOVE_BELOW takes it apart. A mount point that mounting made goes, and so do directories above it
    that mounting made and that hold nothing else; one that was there before stays, empty, under a fresh inode id."""
    mount = mount_at(draft, change.path)
    parts = parse_path(mount.path)
    others = [at for at, _ in draft.state.mounts() if at != parts]
    below = sorted(format_path(at) for at in others if is_prefix(parts, at))
    if below:
        more = f" and {len(below) - NAMED_MAX} more" if len(below) > NAMED_MAX else ""
        shown = ", ".join(below[:NAMED_MAX]) + more
        raise Busy(f"other mounts lie below {mount.path}: unmount them first: {shown}", path=mount.path)
    _settle_debts(draft, mount)
    found = draft.lookup(parts)
    inode = present(found.inode, "a mount has its mount point")
    outer = next((at for at, _ in draft.state.mounts() if at != parts and is_prefix(at, parts)), None)
    flags = inode.flags & ~(MOUNT | LOADED)
    place = place_of(found, parts)
    if outer is None and flags & MADE:
        draft.remove_directory(*place, inode)
        _remove_ancestors(draft, parts)
    else:
        if outer is not None:
            flags = (flags | PERSISTED) & ~(EXPLICIT | MADE | KEPT)
            _release_ancestors(draft, parts, outer, others)
        else:
            flags &= ~PERSISTED
        fresh = draft.changed(inode, flags=flags, id=draft.new_inode_id(), mtime_ns=draft.now_ns)
        draft.put_inode(*place, fresh)
        draft.changes.append((IDS, pack_id(inode.id), None))
        draft.changes.append((IDS, pack_id(fresh.id), pack_id(place[0]) + place[1]))
    draft.detach(inode.id)
    draft.changes.append((MOUNTS, pack_id(mount.id), None))
    draft.meta.mounts_index = draft.index


def _settle_debts(draft: Draft, mount: Mount) -> None:
    """Raise ``Busy`` while changes are under way in the mount's store. In mode noAccess nothing can be done there any more: they are given
    up, their contents retire, and whoever waits hears that the operation is not open any more."""
    given_up = mount.ufs_mode == UfsMode.NO_ACCESS
    for intent in draft.state.open_intents.by_number.values():
        if intent.mount != mount.id:
            continue
        if not given_up:
            raise Busy(f"{intent.path} is being changed in {mount.uri}: {_WAY_OUT}", path=mount.path)
        draft.close_intent(intent)
        draft.retire(ContentId(intent.content))
    for job in draft.state.open_tree_jobs():
        if job.mount != mount.id:
            continue
        if not given_up:
            raise Busy(f"job {job.number} is not done in {mount.uri}: {_WAY_OUT}", path=mount.path, job=job.number)
        end_job(draft, msgspec.structs.replace(job, error=f"the mount {mount.path} was removed"), JobState.STOPPED)


def _release_ancestors(draft: Draft, parts: Parts, outer: Parts, others: list[Parts]) -> None:
    """Directories of the outer mount that were explicit only for this mount point are its sync's to judge again."""
    for depth, (directory, place) in enumerate(chain(draft, parts)):
        at = parts[:depth]
        if depth > len(outer) and not directory.flags & KEPT and not any(is_prefix(at, other) for other in others):
            flags = (directory.flags | PERSISTED) & ~(EXPLICIT | MADE)
            draft.put_inode(*place, draft.changed(directory, flags=flags))


def _remove_ancestors(draft: Draft, parts: Parts) -> None:
    """The mount point goes: from the deepest up, directories that mounting made and that held nothing else."""
    for directory, place in reversed(chain(draft, parts)):
        if not directory.flags & MADE or len(draft.state.children(directory.id, b"", 2)) > 1:
            break
        draft.remove_directory(*place, directory)
