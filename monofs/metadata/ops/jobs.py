"""ADD_JOB and UPDATE_JOB: work in the background that survives restarts. Not here: doing it, and beginning tree jobs (remove_tree.py,
rename_tree.py), which owe a store something and therefore end only when it is done."""

from __future__ import annotations

import msgspec

from monofs.metadata.draft import Draft
from monofs.metadata.entries import AddJob, UpdateJob
from monofs.metadata.known_jobs import TREE_KINDS, is_open
from monofs.metadata.ops.guarding import check_room_for_job
from monofs.metadata.tables import FAILURES_MAX, Job, JobKind, JobState
from monofs.model.errors import InvalidArgument, NotFound
from monofs.model.ids import InodeId
from monofs.model.paths import format_path, parse_path

ARGUMENTS_MAX = 32
TEXT_MAX = 1000
"""Characters kept of an error, a failure's key or an argument."""
CURSOR_MAX_BYTES = 65_536
DOOMED_MAX = 2000
COUNTS_MAX = 32
UPLOADS_MAX = 1000
_KINDS = frozenset({JobKind.LOAD, JobKind.FREE, JobKind.SYNC})
_STATES = frozenset(JobState)


def add_job(draft: Draft, change: AddJob) -> int:
    """The job's number. ``Overloaded`` when as many jobs are open as are remembered."""
    if change.kind not in _KINDS:
        raise InvalidArgument(f"jobs of kind {change.kind} are not added by hand")
    arguments = change.arguments
    if len(arguments) > ARGUMENTS_MAX or any(len(text) > TEXT_MAX for item in arguments.items() for text in item):
        raise InvalidArgument(f"a job has at most {ARGUMENTS_MAX} arguments of {TEXT_MAX} characters")
    path = format_path(parse_path(change.path))
    job = Job(0, change.kind, JobState.RUNNING, path, arguments=arguments, user=change.user)
    return begin_job(draft, job)


def begin_job(draft: Draft, job: Job) -> int:
    """Add a job under the next number."""
    check_room_for_job(draft)
    meta = draft.meta
    meta.last_job += 1
    meta.jobs_index = draft.index
    begun = msgspec.structs.replace(
        job, number=meta.last_job, state=JobState.RUNNING, created_ns=draft.now_ns, changed_ns=draft.now_ns
    )
    draft.put_job(begun)
    return begun.number


def update_job(draft: Draft, change: UpdateJob) -> None:
    """An ended job stays as it is. DELETE and MOVE cannot be stopped and do not fail; MOVE is done by MOVED alone."""
    job = known_job(draft, change.number)
    if not is_open(job):
        return
    _check(job, change)
    given = {
        name: value
        for name in ("cursor", "done", "total", "bytes_done", "failed", "doomed", "counts", "uploads")
        if (value := getattr(change, name)) is not None
    }
    if change.error is not None:
        given["error"] = change.error[:TEXT_MAX]
    if change.failures is not None:
        given["failures"] = [(key[:TEXT_MAX], error[:TEXT_MAX]) for key, error in change.failures[-FAILURES_MAX:]]
    updated = msgspec.structs.replace(job, changed_ns=draft.now_ns, **given)
    state = job.state if change.state is None else change.state
    if state in (JobState.RUNNING, JobState.PAUSED):
        draft.put_job(msgspec.structs.replace(updated, state=state))
    else:
        end_job(draft, updated, state)


def end_job(draft: Draft, job: Job, state: int) -> None:
    """A job is over. The tree a DELETE job deleted in its store is taken apart from now on."""
    draft.meta.jobs_index = draft.index
    draft.put_job(
        msgspec.structs.replace(
            job,
            state=state,
            changed_ns=draft.now_ns,
            ended_ns=draft.now_ns,
            ended_index=draft.index,
            doomed=[],
            uploads={},
        )
    )
    if job.kind == JobKind.DELETE:
        draft.detach(InodeId(job.directory))


def known_job(draft: Draft, number: int) -> Job:
    """The job of this number; raises ``NotFound``."""
    job = draft.state.job(number)
    if job is None:
        raise NotFound(f"there is no job {number}, or it ended long ago")
    return job


def _check(job: Job, change: UpdateJob) -> None:
    state = change.state
    if state is not None and state not in _STATES:
        raise InvalidArgument(f"a job has no state {state}")
    owing = job.kind in TREE_KINDS
    if owing and (
        state in (JobState.STOPPED, JobState.FAILED) or (state == JobState.DONE and job.kind == JobKind.MOVE)
    ):
        raise InvalidArgument(f"job {job.number} still owes its store something: it can only be paused")
    if change.cursor is not None and len(change.cursor) > CURSOR_MAX_BYTES:
        raise InvalidArgument(f"the cursor of a job has at most {CURSOR_MAX_BYTES} bytes")
    if change.doomed is not None and len(change.doomed) > DOOMED_MAX:
        raise InvalidArgument(f"a job deletes at most {DOOMED_MAX} objects at a time")
    if len(change.counts or ()) > COUNTS_MAX or len(change.uploads or ()) > UPLOADS_MAX:
        raise InvalidArgument(f"a job counts at most {COUNTS_MAX} things and has at most {UPLOADS_MAX} uploads")
