"""Names and key forms of the tables, and the meta record: the on-disk form of the namespace (docs/formats/metadata.md).

A *space* is one sorted run of keys: the children of one directory, named by its inode id (0 holds only the root), or one whole
other table, named by its negative number. A change of the state is (space, key, value), value None meaning deleted.

Invariant: a table number, a key form and the position of a field in a record never change their meaning.
"""

from __future__ import annotations

import struct
from enum import IntEnum

import msgspec

FORMAT_VERSION = 1
LEVEL = 1
"""The highest entry level this release knows."""

NameChange = tuple[int, bytes, bytes | None]
"""(space, key, value or None)."""


class Table(IntEnum):
    """Tables other than ``tree``; the space of a table is its negative number."""

    IDS = 1
    MOUNTS = 2
    APPLIED = 3
    RETIRED = 4
    WORKERS = 5
    REMOVAL = 6
    TOMBSTONES = 7
    GRAVES = 8
    META = 9


TREE_NAME = b"tree"
TABLE_NAMES: dict[Table, bytes] = {table: table.name.lower().encode() for table in Table}

IDS = -Table.IDS
MOUNTS = -Table.MOUNTS
APPLIED = -Table.APPLIED
RETIRED = -Table.RETIRED
WORKERS = -Table.WORKERS
REMOVAL = -Table.REMOVAL
TOMBSTONES = -Table.TOMBSTONES
GRAVES = -Table.GRAVES

META_KEY = b"meta"
ABOVE_ROOT = 0
"""The space that holds the root's own record, under :data:`ROOT_KEY`."""
ROOT_KEY = b"/"

FEED_CONTENTS_MAX = 1000
"""Contents in one record of the feed."""
FEED_RECORDS_MAX = 100_000
"""Records the feed keeps; the oldest fall out, and workers that have not seen them drop their clean pages."""
TOMBSTONES_MAX = 100_000
"""Tombstones kept; when the oldest falls out, listings older than it are refused (``Meta.buried_floor``)."""
MOUNTS_MAX = 1000
WORKERS_MAX = 65_536

_ID = struct.Struct(">Q")
pack_id = _ID.pack
"""An id or queue number as 8 bytes, big-endian."""


def unpack_id(key: bytes) -> int:
    """The first 8 bytes as an id."""
    return int(_ID.unpack_from(key)[0])


class FeedKind(IntEnum):
    """What a record of the feed tells workers to do; the numbers are those of ``rpc.api.FeedKind``."""

    RETIRED = 1
    FREE = 2
    FREE_FORCED = 3
    PIN = 4
    UNPIN = 5


class FeedRecord(msgspec.Struct, array_like=True, gc=False):
    """One record of ``retired``, keyed by its feed index."""

    kind: int
    contents: list[int]


class Detached(msgspec.Struct, array_like=True, gc=False):
    """One record of ``removal``: a directory without a name whose children after ``after`` are still to be removed."""

    directory: int
    after: bytes = b""


class Grave(msgspec.Struct, array_like=True, gc=False):
    """One record of ``graves``: the tombstones in the order they were made, so that the oldest can be dropped."""

    parent: int
    key: bytes


class Tombstone(msgspec.Struct, array_like=True, gc=False):
    """One record of ``tombstones``: the journal index of the removal, and the number of its grave."""

    index: int
    grave: int


class Meta(msgspec.Struct, array_like=True, gc=False):
    """The one record of ``meta``: everything of the state that is not a table. Written with every flush.

    Queues (feed, removal, graves) hold the numbers ``tail <= n < head`` without gaps; the feed starts at 1.
    """

    format: int = FORMAT_VERSION
    applied_index: int = 0
    applied_term: int = 0
    members: bytes = b""
    """Membership of the journal's group; empty: a single voter."""
    cluster: bytes = b""
    incarnation: int = 0
    level: int = 0
    crc: int = 0
    """Running CRC-32 of the changes of every entry."""
    now_ns: int = 0
    epoch: int = 0
    data_key: bytes = b""
    capability_key: bytes = b""
    last_inode: int = 0
    last_content: int = 0
    """Counter part of the last content id given in this incarnation."""
    last_mount: int = 0
    last_worker: int = 0
    inodes: int = 0
    """Records in ``tree``, those of detached subtrees included."""
    mounts_index: int = 0
    feed_tail: int = 1
    feed_head: int = 1
    removal_tail: int = 0
    removal_head: int = 0
    graves_tail: int = 0
    graves_head: int = 0
    buried_index: int = 0
    """Journal index of the newest tombstone ever made."""
    buried_floor: int = 0
    """Journal index of the newest tombstone ever dropped: listings read before it are refused."""


encode_record = msgspec.msgpack.Encoder().encode
decode_meta = msgspec.msgpack.Decoder(Meta).decode
decode_feed = msgspec.msgpack.Decoder(FeedRecord).decode
decode_detached = msgspec.msgpack.Decoder(Detached).decode
decode_grave = msgspec.msgpack.Decoder(Grave).decode
decode_tombstone = msgspec.msgpack.Decoder(Tombstone).decode
