"""A group: 64 pages of a content, cached in one file; and the table that finds it.

A `Group` object stands for its place in one file for its whole life. When a bad page forces a new file, a new object takes its place and
the old one is no longer ``alive``; so whoever holds a group holds its file. Only the cache changes a group, on its own thread.
Other threads may read ``present`` and then ``crcs``: a CRC is in place before its page's bit is, and neither changes later.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import msgspec

from monofs.model.block import DEFAULT_LAYOUT, PAGE_SIZE_BYTES, page_count
from monofs.model.ids import ContentId, MountId

if TYPE_CHECKING:
    from monofs.tiering.blockfile import BlockFile
    from monofs.tiering.directory import Directory


class Group(msgspec.Struct, gc=False, eq=False):
    """One cached group. ``gc=False``: a million of them must not slow every garbage collection; `Cache.close` breaks cycles."""

    content: ContentId
    number: int
    """Which group of the content."""
    file: int
    """File number, never used twice in one cache."""
    length: int
    """Bytes of the content that lie in this group; the size of the file."""
    directory: Directory
    mount: MountId
    cache_group: int
    admitted_ns: int
    read_ns: int
    present: int = 0
    """Bitmap of pages that may be read."""
    crcs: bytes = b""
    """CRC-32 of page p, little-endian, at ``4 * p``; zeros where not present."""
    reserved: int = 0
    """Bitmap of pages being written; they count as used and keep the group from eviction."""
    holds: int = 0
    base: int = 0
    """Page p lies at ``base + p * PAGE_SIZE_BYTES`` of the file."""
    pinned: bool = False
    verified: bool = True
    """False: check CRCs before the first byte is served."""
    suspect: bool = False
    """Was not verified when the cache was opened; once ``verified`` is set, `Cache.close` makes that durable."""
    alive: bool = True
    """False: no longer in the cache; what holders still read is unlinked when they release it."""
    listed: bool = False
    """Is in its directory's eviction order."""
    kept: bool = False
    """Holds bytes that no store has: leaves the cache only when its content retires."""
    lost: int = 0
    """Bitmap of pages of a kept group that were found bad: not readable, and nobody can bring them again."""
    heat: int = 0
    """What the order of eviction knows of it, also while it is out of the order; 0: nothing yet."""
    layout: int = DEFAULT_LAYOUT
    """How its content is cut into blocks: who owns the group depends on it."""
    block: BlockFile | None = None
    """Others whose bytes lie in the same file; None: the file is the group's own."""

    @property
    def tier(self) -> str:
        """Name of the tier."""
        return self.directory.spec.name

    @property
    def key(self) -> tuple[ContentId, int]:
        """Content and group number."""
        return self.content, self.number

    @property
    def policy(self) -> int:
        """Id of the policy whose quota and priority the pages are under; 0: none."""
        return self.cache_group >> 1

    @property
    def used_bytes(self) -> int:
        """Bytes of the pages present or promised."""
        return mask_bytes(self.length, self.present | self.reserved)

    @property
    def pages(self) -> int:
        """Bitmap of all pages the group can have."""
        return (1 << page_count(self.length)) - 1

    @property
    def present_bytes(self) -> int:
        """Bytes of the pages present."""
        return mask_bytes(self.length, self.present)

    def fd(self) -> int:
        """A read-only descriptor of the file, kept in a bounded table: valid while the group is held, else until the next call
        of the cache. Opens the file if needed, which may wait for the disk (``directory.files.ready(group)`` tells).

        Raises ``NotCached`` when the file is gone, ``Overloaded`` when all descriptors are held, ``TierUnusable``.
        """
        return self.directory.files.descriptor(self)


def page_bytes(length: int, page: int) -> int:
    """Bytes of one page of a group of ``length`` bytes: the last one may be short."""
    return min(PAGE_SIZE_BYTES, length - page * PAGE_SIZE_BYTES)


def mask_bytes(length: int, mask: int) -> int:
    """Bytes of the pages in ``mask`` of a group of ``length`` bytes."""
    size = mask.bit_count() * PAGE_SIZE_BYTES
    last = (length - 1) // PAGE_SIZE_BYTES
    if mask >> last & 1:
        size -= (last + 1) * PAGE_SIZE_BYTES - length
    return size


def mask_pages(mask: int) -> Iterator[int]:
    """Page numbers in ``mask``, ascending."""
    while mask:
        low = mask & -mask
        yield low.bit_length() - 1
        mask ^= low


class GroupTable:
    """Content and group number → group.

    Most contents have one group, which then is the value itself; others have a dict of number → group.
    """

    __slots__ = ("_contents", "count")

    def __init__(self) -> None:
        self._contents: dict[int, Group | dict[int, Group]] = {}
        self.count = 0

    def get(self, content: int, number: int) -> Group | None:
        """The group, if it is cached."""
        found = self._contents.get(content)
        if found is None:
            return None
        if isinstance(found, dict):
            return found.get(number)
        return found if found.number == number else None

    def add(self, group: Group) -> None:
        """Add a group that is not in the table."""
        found = self._contents.setdefault(group.content, group)
        self.count += 1
        if found is group:
            return
        if isinstance(found, dict):
            found[group.number] = group
        else:
            self._contents[group.content] = {found.number: found, group.number: group}

    def remove(self, group: Group) -> None:
        """Remove a group that is in the table."""
        found = self._contents[group.content]
        self.count -= 1
        if isinstance(found, dict):
            del found[group.number]
        if not isinstance(found, dict) or not found:
            del self._contents[group.content]

    def of(self, content: int) -> list[Group]:
        """All groups of a content."""
        found = self._contents.get(content)
        if found is None:
            return []
        return list(found.values()) if isinstance(found, dict) else [found]

    def contents(self) -> list[int]:
        """Ids of all contents with a group."""
        return list(self._contents)

    def __iter__(self) -> Iterator[Group]:
        for found in self._contents.values():
            if isinstance(found, dict):
                yield from found.values()
            else:
                yield found

    def clear(self) -> None:
        """Forget everything."""
        self._contents.clear()
        self.count = 0
