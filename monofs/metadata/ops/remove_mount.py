"""REMOVE_MOUNT: forget a mount and everything known of its store, which itself is never touched."""

from __future__ import annotations

from collections.abc import Container

import msgspec

from monofs.metadata.draft import EXPLICIT, KEPT, LOADED, MADE, MOUNT, PERSISTED, Draft, place_of
from monofs.metadata.entries import RemoveMount
from monofs.metadata.ops.add_mount import chain
from monofs.metadata.ops.guarding import intent_words, job_words
from monofs.metadata.ops.jobs import end_job
from monofs.metadata.ops.update_mount import mount_at
from monofs.metadata.state import State, present
from monofs.metadata.tables import IDS, MOUNTS, Intent, Job, JobState, pack_id
from monofs.model.errors import Busy, MountPoint, WouldLose
from monofs.model.ids import ContentId
from monofs.model.mount import Mount
from monofs.model.options import UfsMode
from monofs.model.paths import Parts, format_path, is_prefix, parse_path

WAY_OUT = "wait; to give it up, set the mount's mode to noAccess and unmount with --discard"
NAMED_MAX = 5
"""Mounts, or changes under way, named in a refusal."""
TOLD_MAX = 100
"""Changes given up that the result names."""


def remove_mount(draft: Draft, change: RemoveMount) -> list[str]:
    """The subtree is detached at once, and REMOVE_BELOW takes it apart. A mount point that mounting made goes, and so do directories above it
    that mounting made and that hold nothing else; one that was there before stays, empty, under a fresh inode id."""
    mount = mount_at(draft, change.path)
    parts = parse_path(mount.path)
    check_removable(draft.state, mount, change.searched)
    given_up = _settle_debts(draft, mount, discards=change.discards)
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
            _release_ancestors(draft, parts, outer)
        else:
            flags &= ~PERSISTED
        fresh = draft.changed(inode, flags=flags, id=draft.new_inode_id(), mtime_ns=draft.now_ns)
        draft.put_inode(*place, fresh)
        draft.changes.append((IDS, pack_id(inode.id), None))
        draft.changes.append((IDS, pack_id(fresh.id), pack_id(place[0]) + place[1]))
    draft.detach(inode.id)
    draft.changes.append((MOUNTS, pack_id(mount.id), None))
    draft.meta.mounts_index = draft.index
    return given_up


def check_removable(state: State, mount: Mount, searched: int, *, spared: Container[int] = ()) -> None:
    """Raise ``MountPoint`` when other mounts lie below; ``Busy`` when files that no store has were made since the index ``searched``, or while changes,
    but for the intents ``spared``, are under way in its store. In mode noAccess none is."""
    parts = parse_path(mount.path)
    below = sorted(format_path(at) for at, _ in state.mounts() if at != parts and is_prefix(parts, at))
    if below:
        more = f" and {len(below) - NAMED_MAX} more" if len(below) > NAMED_MAX else ""
        shown = ", ".join(below[:NAMED_MAX]) + more
        raise MountPoint(f"other mounts lie below {mount.path}: unmount them first: {shown}", path=mount.path)
    if 0 <= searched < state.meta.kept_index:
        raise Busy(
            f"files that no store has were made while {mount.path} was searched for them: try again", path=mount.path
        )
    if mount.ufs_mode == UfsMode.NO_ACCESS:
        return
    for intent in _intents(state, mount):
        if intent.number not in spared:
            raise Busy(f"{intent.path} is being changed in {mount.uri}: {WAY_OUT}", path=mount.path)
    for job in _jobs(state, mount):
        raise Busy(f"job {job.number} is not done in {mount.uri}: {WAY_OUT}", path=mount.path, job=job.number)


def _intents(state: State, mount: Mount) -> list[Intent]:
    return [intent for intent in state.open_intents.by_number.values() if intent.mount == mount.id]


def _jobs(state: State, mount: Mount) -> list[Job]:
    return [job for job in state.open_tree_jobs() if job.mount == mount.id]


def _settle_debts(draft: Draft, mount: Mount, *, discards: bool) -> list[str]:
    """Where changes cannot be done any more (mode noAccess): ``WouldLose``, or they are given up, their contents retire, and whoever waits hears that
    the operation is not open any more. Returns what is given up."""
    intents, jobs = _intents(draft.state, mount), _jobs(draft.state, mount)
    owed = [intent_words(intent) for intent in intents] + [job_words(job) for job in jobs]
    if owed and not discards:
        more = f" and {len(owed) - NAMED_MAX} more" if len(owed) > NAMED_MAX else ""
        raise WouldLose(
            f"{mount.uri} is set to {mount.ufs_mode} while changes there are not done: {'; '.join(owed[:NAMED_MAX])}{more}: "
            "set another mode and wait for them, or give them up with --discard: uploads they began stay in the store",
            path=mount.path,
        )
    for intent in intents:
        draft.close_intent(intent)
        draft.retire(ContentId(intent.content))
    for job in jobs:
        end_job(draft, msgspec.structs.replace(job, error=f"the mount {mount.path} was removed"), JobState.STOPPED)
    return owed[:TOLD_MAX]


def _release_ancestors(draft: Draft, parts: Parts, outer: Parts) -> None:
    """Directories of the outer mount that were explicit only for this mount point are its sync's to judge again."""
    others = [at for at, _ in draft.state.mounts() if at != parts]
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
