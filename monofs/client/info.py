"""What a client knows of a path, and the answers of a master decoded straight into it.

The wire messages carry inode records as raw bytes (rpc/api.py); the types here name the record instead, so that one pass of the
decoder yields a whole page of a listing.
"""

from __future__ import annotations

from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

import msgspec

from monofs.model.ids import NO_CONTENT, format_content_id
from monofs.model.inode import Flag, Inode, Kind
from monofs.rpc.api import Failure, Message


class FileKind(StrEnum):
    """What a path is."""

    FILE = "file"
    DIRECTORY = "directory"
    SYMLINK = "symlink"


_KINDS = {
    Kind.FILE: FileKind.FILE,
    Kind.LINK: FileKind.FILE,
    Kind.DIRECTORY: FileKind.DIRECTORY,
    Kind.SYMLINK: FileKind.SYMLINK,
}


class FileInfo(msgspec.Struct, frozen=True, gc=False):
    """One file or directory. A struct, not a dataclass: a listing makes 100,000 of them, ten times as fast.

    ``mount`` is the id of the mount it belongs to (0: none; listings name it for mount points only). ``pinned``: it or a
    directory above it is pinned (listings know only the entry's own pin).
    """

    path: str
    inode: Inode
    mount: int = 0
    pinned: bool = False

    def __repr__(self) -> str:
        when = datetime.fromtimestamp(self.mtime, UTC).isoformat(" ", "seconds") if self.mtime_ns else "unknown"
        return f"FileInfo({self.path!r}, {self.kind}, size={self.size}, mtime={when})"

    @property
    def name(self) -> str:
        """Last component; ``''`` for the root."""
        return self.path.rsplit("/", 1)[1]

    @property
    def kind(self) -> FileKind:
        """``file``, ``directory`` or ``symlink``."""
        return _KINDS[Kind(self.inode.kind)]

    @property
    def is_file(self) -> bool:
        """Whether it has bytes to read."""
        return self.inode.kind in (Kind.FILE, Kind.LINK)

    @property
    def is_dir(self) -> bool:
        """Whether other paths can lie below."""
        return self.inode.kind == Kind.DIRECTORY

    @property
    def size(self) -> int:
        """Bytes; 0 for directories."""
        return 0 if self.is_dir else self.inode.size

    @property
    def mtime(self) -> float:
        """Last modification, seconds since 1970 UTC."""
        return self.inode.mtime_ns / 1e9

    @property
    def mtime_ns(self) -> int:
        """Last modification, nanoseconds since 1970 UTC."""
        return self.inode.mtime_ns

    @property
    def mode(self) -> int:
        """Permission bits."""
        return self.inode.mode

    @property
    def uid(self) -> int:
        """Owner."""
        return self.inode.uid

    @property
    def gid(self) -> int:
        """Group."""
        return self.inode.gid

    @property
    def content(self) -> int:
        """Content id: another number means other bytes. 0 for directories and empty files."""
        return self.inode.content

    @property
    def content_id(self) -> str:
        """The content id as people see it, ``''`` when there is none."""
        return format_content_id(self.inode.content) if self.inode.content != NO_CONTENT else ""

    @property
    def fingerprint(self) -> str:
        """Version of the bytes in the store (``e:<etag>``, …), ``''`` when no store has them."""
        return self.inode.fingerprint

    @property
    def is_persisted(self) -> bool:
        """Whether a store holds it; False: it lives in the cache only."""
        return bool(self.inode.flags & Flag.PERSISTED)

    @property
    def is_mount(self) -> bool:
        """Whether it is a mount point."""
        return bool(self.inode.flags & Flag.MOUNT)


class Found(Message):
    """Answer of STAT, decoded."""

    inode: Inode
    mount: int = 0
    pinned: bool = False


class FoundMany(Message):
    """Answer of STAT_MANY, decoded."""

    answers: list[Found | None]
    failures: dict[int, Failure] = {}


class ListPage(Message):
    """Answer of LIST, decoded."""

    names: list[bytes]
    inodes: list[Inode]
    next: bytes | None
    mounts: dict[int, int] = {}


class Opened(Message):
    """Answer of OPEN, decoded."""

    inode: Inode
    capability: bytes
    expires_s: int
    epoch: int
    mount: int = 0
    workers: list[int] = []
    data: bytes = b""
    replicas: int = 1


class OpenedMany(Message):
    """Answer of OPEN_MANY, decoded."""

    answers: list[Opened | None]
    failures: dict[int, Failure] = {}


class Changed(Message):
    """Answer of a change, decoded."""

    inode: Inode


class Moved(Message):
    """Answer of RENAME, decoded."""

    inode: Inode
    job: int = 0


class Written(Message):
    """Answer of WRITE, decoded."""

    received: int
    inode: Inode | None = None


def describe(info: FileInfo) -> dict[str, Any]:
    """A file as `--json` and the API show it."""
    return {
        "path": info.path,
        "type": "directory" if info.is_dir else "file",
        "size": info.size,
        "mtime_ns": info.mtime_ns,
        "mode": f"{info.mode:04o}",
        "uid": info.uid,
        "gid": info.gid,
        "content": info.content_id or None,
        "fingerprint": info.fingerprint or None,
        "pinned": info.pinned,
        "mount_id": info.mount or None,
        "persistence": None if info.is_dir else "persisted" if info.is_persisted else "cache-only",
        "store_path": info.inode.store_path,
    }
