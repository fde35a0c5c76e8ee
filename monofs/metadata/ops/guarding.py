"""What stands in the way of a change: locks, jobs that move or delete whole directories, requests that were made before.

Every change of a name asks here, whether it takes an intent or not. Whoever is refused with ``Busy`` may try again: ``detail`` names
the operation or the job. A path is changed only where nothing at it, above it or below it is locked: what has no record yet may have
one when the intent ends, and a directory that is on its way cannot be made a file.
"""

from __future__ import annotations

from monofs.metadata.draft import MOUNT, Draft
from monofs.metadata.entries import Stamp
from monofs.metadata.intent_entries import Asker
from monofs.metadata.known_jobs import TREE_KINDS, covers
from monofs.metadata.ops.placing import Spot
from monofs.metadata.sessions import FRESH
from monofs.metadata.state import Lookup, join_key
from monofs.metadata.tables import (
    HISTORY_LEVEL,
    INTENTS_MAX,
    JOBS_BYTES_MAX,
    JOBS_MAX,
    JOBS_OPEN_MAX,
    Intent,
    IntentKind,
    Job,
    JobKind,
)
from monofs.model.errors import Busy, ConditionFailed, MonofsError, MountPoint, Overloaded
from monofs.model.inode import Inode
from monofs.model.paths import Parts, format_path, is_prefix, parse_path

_DOING = {
    IntentKind.WRITE: "written",
    IntentKind.DELETE: "deleted",
    IntentKind.RENAME: "renamed",
    IntentKind.MAKE_DIRECTORY: "made",
    IntentKind.COPY: "copied",
    IntentKind.UPLOAD: "uploaded in parts",
}


def check_unlocked(draft: Draft, parts: Parts) -> None:
    """Raise ``Busy`` when an intent locks the path, or something above or below it."""
    if draft.meta.intents:
        number = draft.state.open_intents.in_the_way(parts)
        if number:
            raise _busy(draft, format_path(parts), number)


def _busy(draft: Draft, path: str, number: int) -> Busy:
    intent = draft.state.intent(number)
    if intent is None:
        return Busy(f"another change of {path} is in progress", path=path, operation=number)
    shown = f"{path} cannot be changed now: {intent.path} is being {_DOING[IntentKind(intent.kind)]}"
    return Busy(shown, path=path, operation=number)


def check_no_tree_job(draft: Draft, parts: Parts) -> None:
    """Raise ``Busy`` when an open tree job is about the path, or something above or below it."""
    job = draft.state.known_jobs.over(parts)
    if job is not None:
        raise busy_job(format_path(parts), job)


def busy_job(path: str, job: Job) -> Busy:
    """A job stands in the way."""
    return Busy(f"{path} cannot be changed before {job_words(job, 'is done')}", path=path, job=job.number)


def job_words(job: Job, state: str = "") -> str:
    """A tree job and what it does."""
    doing = "deletes" if job.kind == JobKind.DELETE else "moves"
    return f"job {job.number}{' ' if state else ''}{state}, which {doing} what was below {job.path}"


def intent_words(intent: Intent) -> str:
    """An intent, what it does, and what of it may already be in the store."""
    upload = f" (upload {intent.upload})" if intent.upload else ""
    return f"{intent.path}, which is being {_DOING[IntentKind(intent.kind)]}{upload}"


def check_not_moved(draft: Draft, parts: Parts) -> None:
    """Raise ``Busy`` when objects at or below the path are still to be moved to it."""
    for job in draft.state.known_jobs.open_trees.values():
        if job.kind == JobKind.MOVE and is_prefix(parse_path(job.target), parts):
            raise busy_job(format_path(parts), job)


def check_no_mounts_below(draft: Draft, parts: Parts, doing: str) -> None:
    """Raise ``MountPoint`` when one lies at the path or below it."""
    for at, _ in draft.state.mounts():
        if is_prefix(parts, at):
            path = format_path(parts)
            raise MountPoint(f"{path} holds the mount {format_path(at)}: unmount it before {doing} {path}", path=path)


def check_movable(parts: Parts, inode: Inode | None, path: str) -> None:
    """Raise ``MountPoint`` for the root and mount points."""
    if not parts or (inode is not None and inode.flags & MOUNT):
        raise MountPoint(
            f"{path} is a mount point or the root: it cannot be deleted, renamed or replaced (`monofs mount rm` unmounts)",
            path=path,
        )


def check_content(inode: Inode | None, path: str, content: int | None) -> None:
    """Raise ``ConditionFailed`` unless a file has this content; None: any will do."""
    if content is not None and (inode is None or inode.content != content):
        raise ConditionFailed(f"{path} is not the version that was asked for", path=path)


def check_new_key(draft: Draft, found: Lookup, spot: Spot, path: str) -> None:
    """Raise ``Busy`` when a new object cannot be made at its key yet: the object there belongs to a file that was renamed with its
    directory and is still to be moved, or is about to be deleted by a job. What replaces an existing record has the key it owns."""
    if found.inode is not None:
        return
    for job in draft.state.known_jobs.open_trees.values():
        if job.mount != spot.mount or not covers(job, spot.key):
            continue
        if spot.key in job.doomed or (job.kind == JobKind.MOVE and _is_owned(draft, job, spot.key)):
            raise busy_job(path, job)


def _is_owned(draft: Draft, job: Job, key: str) -> bool:
    """Whether a file of the moved directory still lies at ``key``."""
    at, directory = job.key, job.directory
    *between, last = key[len(job.key) + 1 :].encode().split(b"/")
    for name in between:
        inode = draft.state.get_inode(directory, name + b"/")
        if inode is None:
            return False
        at = inode.store_path or join_key(at, (name,))
        directory = inode.id
    inode = draft.state.get_inode(directory, last)
    return inode is not None and (inode.store_path or join_key(at, (last,))) == key


def check_may_begin(draft: Draft, asker: Asker) -> None:
    """Raise ``Overloaded`` when too many intents are open; what a request was answered before; ``Busy`` while it is being carried out:
    it opens one intent, once."""
    if draft.meta.intents >= INTENTS_MAX:
        raise Overloaded(f"{INTENTS_MAX} changes of stores are in progress: try again shortly")
    if not asker.client:
        return
    intent = draft.state.intent_of(asker)
    if intent is not None:
        raise Busy("this request is being carried out", path=intent.path, operation=intent.number)
    held = draft.state.recall(Stamp(draft.now_ns, asker.client, asker.sequence, asker.lowest))
    if isinstance(held, MonofsError):
        raise held
    if held is not FRESH:
        raise Busy("this request was carried out already: ask for its answer")


def check_room_for_job(draft: Draft) -> None:
    """Raise ``Overloaded`` when as many jobs are open as may be; else see that one more is within what is remembered."""
    known = draft.state.known_jobs
    if len(known.open) >= JOBS_OPEN_MAX:
        raise Overloaded(f"{JOBS_OPEN_MAX} jobs are open: wait for one to end, or stop one")
    is_long = draft.meta.level >= HISTORY_LEVEL
    too_many = len(known) + 1 - (JOBS_MAX if is_long else JOBS_OPEN_MAX)
    too_large = known.ended_bytes - JOBS_BYTES_MAX if is_long else 0
    for number, ended in known.first_ended():
        if too_many <= 0 and too_large <= 0:
            break
        draft.forget_job(number)
        too_many, too_large = too_many - 1, too_large - ended.size
        if ended.kind in TREE_KINDS:  # what it covered is not known any more: believe nothing read before its end
            draft.meta.buried_floor = max(draft.meta.buried_floor, ended.at_index)


def under_no_mount(path: str) -> ConditionFailed:
    """An intent was asked for where there is no store to act on: the mount went since the proposer looked."""
    return ConditionFailed(f"{path} lies under no mount any more: try again", path=path)
