"""UPDATE_MOUNT: replace what a mount was given."""

from __future__ import annotations

import msgspec

from monofs.metadata.draft import Draft
from monofs.metadata.entries import UpdateMount
from monofs.metadata.ops.add_mount import check_ufs_mode
from monofs.metadata.tables import MOUNTS, encode_record, pack_id
from monofs.model.errors import ConditionFailed, MountNotFound
from monofs.model.mount import Mount
from monofs.model.paths import parse_path


def update_mount(draft: Draft, change: UpdateMount) -> Mount:
    """``ConditionFailed`` when the mount changed since the proposer merged its options."""
    mount = mount_at(draft, change.path)
    if mount.changed_index != change.expected_index:
        raise ConditionFailed(f"the mount at {mount.path} was changed by someone else: look again", path=mount.path)
    check_ufs_mode(change.ufs_mode)
    updated = msgspec.structs.replace(
        mount,
        options=change.options,
        sealed=change.sealed,
        readonly=change.readonly,
        changed_index=draft.index,
        sync_interval_ms=change.sync_interval_ms,
        ufs_mode=change.ufs_mode,
    )
    draft.changes.append((MOUNTS, pack_id(mount.id), encode_record(updated)))
    draft.meta.mounts_index = draft.index
    return updated


def mount_at(draft: Draft, path: str) -> Mount:
    """The mount whose mount point is ``path``; raises ``MountNotFound``."""
    parts = parse_path(path)
    for at, mount in draft.state.mounts():
        if at == parts:
            return mount
    raise MountNotFound(f"nothing is mounted at {path}", path=path)
