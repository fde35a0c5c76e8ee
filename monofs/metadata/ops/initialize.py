"""INITIALIZE: the first entry of a new home makes the cluster, and its root directory."""

from __future__ import annotations

from monofs.metadata.draft import EXPLICIT, Draft
from monofs.metadata.entries import Initialize
from monofs.metadata.tables import ABOVE_ROOT, FIRST_LEVEL, ROOT_KEY
from monofs.model.errors import ConditionFailed, InvalidArgument
from monofs.model.ids import INCARNATION_MAX
from monofs.model.inode import Inode, Kind


def initialize(draft: Draft, change: Initialize) -> None:
    """Refused with ``ConditionFailed`` when the namespace is initialised already."""
    meta = draft.meta
    if meta.cluster:
        raise ConditionFailed("this namespace is initialised already")
    if not change.cluster or not 0 < change.incarnation <= INCARNATION_MAX:
        raise InvalidArgument(f"a cluster has an id and an incarnation between 1 and {INCARNATION_MAX}")
    meta.cluster = change.cluster
    meta.incarnation = change.incarnation
    meta.data_key = change.data_key
    meta.capability_key = change.capability_key
    meta.level = FIRST_LEVEL
    meta.kept_index = 0
    root = Inode(
        kind=Kind.DIRECTORY,
        id=draft.new_inode_id(),
        mtime_ns=draft.now_ns,
        ctime_ns=draft.now_ns,
        mode=0o755,
        changed_index=draft.index,
        flags=EXPLICIT,
    )
    draft.add_inode(ABOVE_ROOT, ROOT_KEY, root)
