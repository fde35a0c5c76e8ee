"""Walking what the tree knows below a path, in slices, giving the reactor its turn between them.

Nothing is loaded from a store: only contents the tree knows can be cached. The tree may change between slices; what was there
all along is met exactly once.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any, NamedTuple

from twisted.internet.task import deferLater

from monofs.metadata.namespace import Namespace
from monofs.model.ids import NO_CONTENT, ContentId, InodeId
from monofs.model.inode import Flag, Inode, decode_inode
from monofs.model.paths import Parts, format_path

SLICE = 1000
UNPERSISTED_MAX = 1000
_PINNED = int(Flag.PINNED)
_PERSISTED = int(Flag.PERSISTED)
_EXPLICIT = int(Flag.EXPLICIT)
_MOUNT = int(Flag.MOUNT)


class Met(NamedTuple):
    """A file's content, whether a pin on the file or on a directory below the start covers it, and whether a store has it."""

    content: ContentId
    pinned: bool
    persisted: bool


async def walk_contents(namespace: Namespace, top: Inode, reactor: Any) -> AsyncIterator[list[Met]]:
    """Slices of contents below directory ``top`` (or of the file ``top``); memory O(slice times depth)."""
    if not top.is_directory:
        yield [] if top.content == NO_CONTENT else [_met(top, pinned=bool(top.flags & _PINNED))]
        return
    left: list[tuple[InodeId, bytes, bool]] = [(top.id, b"", False)]
    while left:
        directory, after, pinned = left.pop()
        records = namespace.children(directory, after, SLICE)
        if len(records) == SLICE:
            left.append((directory, records[-1][0], pinned))
        met: list[Met] = []
        for _, raw in records:
            inode = decode_inode(raw)
            covered = pinned or bool(inode.flags & _PINNED)
            if inode.is_directory:
                left.append((inode.id, b"", covered))
            elif inode.content != NO_CONTENT:
                met.append(_met(inode, pinned=covered))
        yield met
        await deferLater(reactor, 0)


def _met(inode: Inode, *, pinned: bool) -> Met:
    return Met(inode.content, pinned, bool(inode.flags & _PERSISTED))


async def find_unpersisted(namespace: Namespace, mount_point: Parts, reactor: Any) -> list[str]:
    """Paths of files below a mount point that no store has, the first 1,000 met; none if nothing is mounted there.

    All directories above such a file are EXPLICIT, up to the mount point: only those are entered.
    """
    met: list[str] = []
    top = namespace.lookup(mount_point).inode
    if top is None or not namespace.meta.kept_index:
        return met
    left: list[tuple[InodeId, Parts, bytes]] = [(top.id, mount_point, b"")]
    while left and len(met) < UNPERSISTED_MAX:
        directory, parts, after = left.pop()
        records = namespace.children(directory, after, SLICE)
        if len(records) == SLICE:
            left.append((directory, parts, records[-1][0]))
        for key, raw in records:
            inode = decode_inode(raw)
            if not inode.is_directory:
                if not inode.flags & _PERSISTED:
                    met.append(format_path((*parts, key)))
            elif inode.flags & _EXPLICIT and not inode.flags & _MOUNT:
                left.append((inode.id, (*parts, key[:-1]), b""))
        await deferLater(reactor, 0)
    return met[:UNPERSISTED_MAX]
