"""REGISTER_WORKER: a worker's lasting id."""

from __future__ import annotations

from monofs.metadata.draft import Draft
from monofs.metadata.entries import RegisterWorker
from monofs.metadata.tables import WORKERS, WORKERS_MAX, pack_id
from monofs.model.errors import InvalidArgument, Overloaded

IDENTITY_BYTES = 16


def register_worker(draft: Draft, change: RegisterWorker) -> int:
    """The id an identity has, or a new one."""
    if len(change.identity) != IDENTITY_BYTES:
        raise InvalidArgument(f"the identity of a worker has {IDENTITY_BYTES} bytes")
    known = draft.state.worker_of(change.identity)
    if known:
        return known
    if len(draft.state.workers()) >= WORKERS_MAX:
        raise Overloaded(f"this cluster has had {WORKERS_MAX} workers already")
    meta = draft.meta
    meta.last_worker += 1
    meta.epoch += 1
    draft.changes.append((WORKERS, pack_id(meta.last_worker), change.identity))
    draft.new_workers[meta.last_worker] = change.identity
    return meta.last_worker
