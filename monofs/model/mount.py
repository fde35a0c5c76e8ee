"""Mounts: which under storage shows at which path."""

from __future__ import annotations

import msgspec

from monofs.model.ids import MountId


class Mount(msgspec.Struct, array_like=True, frozen=True):
    """One record of the ``mounts`` table. Secrets are never in ``options``: they lie encrypted in ``sealed``."""

    id: MountId
    path: str
    uri: str
    """Root of the mount in its store: ``s3://bucket/prefix`` or ``file:///dir``, without a trailing slash."""
    options: dict[str, str] = {}
    sealed: bytes = b""
    """AES-256-GCM of the msgpack map of secret options (docs/formats.md); empty when there are none."""
    readonly: bool = False
    shared: bool = False
    created_ns: int = 0
    changed_index: int = 0
    sync_interval_ms: int | None = None
    """None: the cluster's ``namespace.sync_interval_s``; -1000: never."""
    ufs_mode: str = "readWrite"
    """``options.UfsMode``: what may be done with the store now."""

    @property
    def is_object_store(self) -> bool:
        """Whether names are keys there: a file may lie beside a directory of its name, and renaming is copying."""
        return not self.uri.startswith("file:")


class Located(msgspec.Struct, frozen=True):
    """Where a path of the namespace lies in a store."""

    mount: Mount
    key: str
    """Key below the mount's root, no leading slash; ``''`` is the root itself. Directories have no trailing slash here.

    The *effective* key: where the object lies now. Below a directory that was renamed and whose objects have not all moved, that is
    not where the path says (``Inode.store_path``)."""
