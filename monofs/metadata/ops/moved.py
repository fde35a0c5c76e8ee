"""MOVED: objects of a MOVE job were copied. Their records name the new keys; the old objects are doomed, and deleted next."""

from __future__ import annotations

import msgspec

from monofs.metadata.draft import PERSISTED, Draft
from monofs.metadata.entries import Moved, MovedFile
from monofs.metadata.known_jobs import is_open
from monofs.metadata.ops.jobs import DOOMED_MAX, end_job, known_job
from monofs.metadata.state import join_key
from monofs.metadata.tables import Job, JobKind, JobState
from monofs.model.errors import ConditionFailed, InvalidArgument, Overloaded
from monofs.model.inode import Inode, Kind
from monofs.model.paths import Parts, format_path

FILES_MAX = 1000


def moved(draft: Draft, change: Moved) -> tuple[int, ...]:
    """The positions of the files that were taken over. The others changed meanwhile, or are being changed: their copies are nobody's."""
    job = known_job(draft, change.number)
    if job.kind != JobKind.MOVE or not is_open(job):
        raise ConditionFailed(f"job {job.number} moves nothing (any more)")
    if len(change.files) > FILES_MAX:
        raise InvalidArgument(f"at most {FILES_MAX} files are moved in one entry")
    if len(job.doomed) + len(change.files) > DOOMED_MAX:
        raise Overloaded(f"job {job.number} has {len(job.doomed)} objects to delete first")
    homes: dict[int, _Home | None] = {}
    taken: list[int] = []
    doomed = list(job.doomed)
    for position, file in enumerate(change.files):
        if file.parent not in homes:
            homes[file.parent] = _home_of(draft, file.parent)
        home = homes[file.parent]
        inode = draft.state.get_inode(file.parent, file.name)
        if home is None or inode is None:
            continue
        if inode.kind == Kind.DIRECTORY:
            if inode.store_path == file.old_key == join_key(home.key, (file.name[:-1],)):
                draft.put_inode(file.parent, file.name, draft.changed(inode, store_path=None))
                taken.append(position)
            continue
        if not _is_as_copied(draft, home, inode, file):
            continue
        renamed = draft.changed(inode, store_path=file.new_key, mtime_ns=file.mtime_ns)
        draft.put_inode(file.parent, file.name, msgspec.structs.replace(renamed, fingerprint=file.fingerprint))
        doomed.append(file.old_key)
        taken.append(position)
    if change.last:
        _finish(draft, job, doomed)
    else:
        draft.put_job(msgspec.structs.replace(job, doomed=doomed, changed_ns=draft.now_ns))
    return tuple(taken)


class _Home(msgspec.Struct):
    """Where a directory is in the tree, and where its objects are."""

    parts: Parts
    key: str


def _home_of(draft: Draft, directory: int) -> _Home | None:
    parts = draft.state.path_of(directory)
    located = None if parts is None else draft.lookup(parts).located
    return None if parts is None or located is None else _Home(parts, located.key)


def _is_as_copied(draft: Draft, home: _Home, inode: Inode, file: MovedFile) -> bool:
    if inode.kind != Kind.FILE or inode.content != file.content or not inode.flags & PERSISTED:
        return False
    if (inode.store_path or join_key(home.key, (file.name,))) != file.old_key:
        return False
    return not draft.state.open_intents.is_touched(format_path((*home.parts, file.name)))


def _finish(draft: Draft, job: Job, doomed: list[str]) -> None:
    if doomed:
        raise ConditionFailed(f"job {job.number} has {len(doomed)} objects to delete before it is done")
    place = draft.state.place_of(job.directory)
    inode = None if place is None else draft.state.get_inode(*place)
    if place is not None and inode is not None:
        draft.put_inode(*place, draft.changed(inode, store_path=None))
    end_job(draft, job, JobState.DONE)
