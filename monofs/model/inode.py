"""The inode record: what the namespace keeps of one file or directory, stored inside its directory entry.

On disk it is a msgpack array that is only ever extended at its end (docs/formats.md). Decoders ignore fields they do not
know and fill fields that are missing with their defaults.
"""

from __future__ import annotations

from enum import IntEnum, IntFlag

import msgspec

from monofs.model.block import DEFAULT_LAYOUT
from monofs.model.ids import NO_CONTENT, ContentId, InodeId


class Kind(IntEnum):
    """What a directory entry is."""

    FILE = 1
    DIRECTORY = 2
    SYMLINK = 3
    LINK = 4


class Flag(IntFlag):
    """Bits of :attr:`Inode.flags`."""

    EXPLICIT = 1
    """A directory made by a user or holding a mount point: sync never removes it."""
    PERSISTED = 2
    """The under storage holds these bytes (files) or this prefix (directories)."""
    PINNED = 4
    """Never evicted; set on a directory it covers everything below."""
    INTENT = 8
    """Not used: what is open for a path is in the table of locks."""
    HEADERS_UNKNOWN = 16
    """User metadata was not fetched yet (listings do not carry it)."""
    LOADED = 32
    """A directory whose whole listing was taken over from the under storage at least once."""
    MOUNT = 64
    """A mount point."""
    MADE = 128
    """A directory made by mounting, as the mount point or on the way to it: goes when the last mount below goes and nothing else is there."""

    KEPT = 256
    """A directory below a mount that is EXPLICIT for the sake of what no store has below it, whatever mount points go."""
    IMPLIED = 512
    """A directory that nobody asked for: made on the way to a file. While it is empty, doors that know keys only do not show it."""
    MARKER = 1024
    """A directory that is an object without bytes, too: S3's ``dir/``, which stays and goes whatever lies below. ``fingerprint`` is its object's, if a store has it."""


ANY_VERSION = "*"
"""In the place of a fingerprint: whatever the store has there. Beneath a file that only the cache has lies an older version, or one of somebody
else that the tree never showed, or nothing."""


class Inode(msgspec.Struct, array_like=True, gc=False, frozen=True):
    """One record of the ``tree`` table. Times are integer nanoseconds since 1970 UTC; sizes are bytes."""

    kind: int
    id: InodeId
    content: ContentId = NO_CONTENT
    size: int = 0
    mtime_ns: int = 0
    ctime_ns: int = 0
    mode: int = 0o644
    uid: int = 0
    gid: int = 0
    acl: int = 0
    layout: int = DEFAULT_LAYOUT
    fingerprint: str = ""
    """Version of the bytes in the under storage: ``e:<etag>``, ``v:<version id>``, or ``t:<…>`` of times (see ufs/base.py)."""
    changed_index: int = 0
    """Journal index of the last entry that changed this record."""
    flags: int = 0
    target: str | None = None
    """Symlink target."""
    store_path: str | None = None
    """Store prefix of a renamed directory until its objects have moved."""
    attributes: int | None = None
    """Under which number table ``attributes`` has what is kept with the file; None: nothing is."""
    base: ContentId | None = None
    etag: str = ""
    """As the writer of the content named it (S3: without quotes); '': its store's, or none (``attributes.etag_of``)."""

    @property
    def is_directory(self) -> bool:
        """Whether other entries can lie below."""
        return self.kind == Kind.DIRECTORY


def encode_inode(inode: Inode) -> bytes:
    """As stored. Without an etag the field is left out: so records are what releases before level 4 make of the same entries."""
    raw = _encode(inode)
    return raw if inode.etag else _UNTAGGED + raw[len(_UNTAGGED) : -1]


_encode = msgspec.msgpack.Encoder().encode
_UNTAGGED = bytes([0xDC, 0, len(Inode.__struct_fields__) - 1])
"""Head of an array of all fields but the last."""
decode_inode = msgspec.msgpack.Decoder(Inode).decode
