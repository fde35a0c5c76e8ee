"""REGISTER_WORKER: a worker's lasting id, and where it was heard last."""

from __future__ import annotations

from monofs.metadata.draft import Draft
from monofs.metadata.entries import RegisterWorker
from monofs.metadata.tables import IDENTITY_BYTES, WORKERS, WORKERS_MAX, pack_id
from monofs.model.errors import InvalidArgument, Overloaded

ADDRESS_MAX = 300
"""Bytes of an address."""


def register_worker(draft: Draft, change: RegisterWorker) -> int:
    """The id an identity has, or a new one."""
    address = change.address.encode()
    if len(change.identity) != IDENTITY_BYTES or len(address) > ADDRESS_MAX:
        raise InvalidArgument(f"the identity of a worker has {IDENTITY_BYTES} bytes, its address at most {ADDRESS_MAX}")
    meta, worker = draft.meta, draft.state.worker_of(change.identity)
    if worker and change.address in ("", draft.state.address_of(worker)):
        return worker
    if not worker:
        if len(draft.state.workers()) >= WORKERS_MAX:
            raise Overloaded(f"this cluster has had {WORKERS_MAX} workers already")
        meta.last_worker += 1
        meta.epoch += 1
        worker = meta.last_worker
    draft.changes.append((WORKERS, pack_id(worker), change.identity + address))
    draft.workers[worker] = change.identity + address
    return worker
