"""Blocks, groups and pages: how a content's bytes are cut.

A file is blocks (placement), a block is pages (fetching and presence). A *group* is 64 consecutive pages of a content: the unit
of the worker's index, with one 64-bit presence bitmap. How large blocks are says the *layout* of a content: the exponent of their size, or
``LAYOUT_WHOLE``. Invariant: a block is one or more whole groups, so a group has one owner. With the default layout a group is a block.
"""

from __future__ import annotations

import struct
import zlib

from monofs.model.ids import ContentId

PAGE_SIZE_BYTES = 1 << 20
GROUP_PAGES = 64
GROUP_SIZE_BYTES = PAGE_SIZE_BYTES * GROUP_PAGES
DEFAULT_LAYOUT = 26
"""Block size exponent: 2**26 = 64 MiB."""
LAYOUT_MOST = 40
"""The largest block that is not the whole file: 1 TiB."""
LAYOUT_WHOLE = 255
"""The whole file is one block."""
SLOTS = 65536

_SLOT_KEY = struct.Struct(">QI")


def slot_of(content: ContentId, block: int) -> int:
    """The placement slot of a block: crc32 of content id (8 bytes big-endian) and block number (4), modulo 65,536."""
    return zlib.crc32(_SLOT_KEY.pack(content, block)) % SLOTS


def block_of(offset: int, layout: int) -> int:
    """The block number that holds byte ``offset``."""
    return 0 if layout == LAYOUT_WHOLE else offset >> layout


def block_of_group(group: int, layout: int) -> int:
    """The block that a group lies in."""
    return block_of(group * GROUP_SIZE_BYTES, layout)


def block_start(offset: int, layout: int) -> int:
    """The first byte of the block that holds byte ``offset``."""
    return 0 if layout == LAYOUT_WHOLE else offset >> layout << layout


def block_end(offset: int, layout: int) -> int | None:
    """The byte behind the block that holds byte ``offset``; None: it is the whole file."""
    return None if layout == LAYOUT_WHOLE else ((offset >> layout) + 1) << layout


def block_count(size: int, layout: int) -> int:
    """How many blocks hold ``size`` bytes."""
    return block_of(size - 1, layout) + 1 if size else 0


def is_layout(layout: int) -> bool:
    """Whether files may have it: blocks of less than a group would give a group two owners."""
    return layout == LAYOUT_WHOLE or DEFAULT_LAYOUT <= layout <= LAYOUT_MOST


def page_count(size: int) -> int:
    """How many pages hold ``size`` bytes."""
    return -(-size // PAGE_SIZE_BYTES)


def group_length(size: int, group: int) -> int:
    """Bytes of a content of ``size`` bytes that lie in ``group``."""
    return min(GROUP_SIZE_BYTES, size - group * GROUP_SIZE_BYTES)


def pages_mask(first: int, last: int) -> int:
    """Bitmap of pages ``first`` to ``last`` inclusive, numbered within their group."""
    return ((1 << (last - first + 1)) - 1) << first
