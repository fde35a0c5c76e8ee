"""Blocks, groups and pages: how a content's bytes are cut.

A file is blocks (placement), a block is pages (fetching and presence). A *group* is 64 consecutive pages of a content: the unit
of the worker's index, with one 64-bit presence bitmap. With the default sizes (64 MiB blocks, 1 MiB pages) a group is a block.
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


def page_count(size: int) -> int:
    """How many pages hold ``size`` bytes."""
    return -(-size // PAGE_SIZE_BYTES)


def group_length(size: int, group: int) -> int:
    """Bytes of a content of ``size`` bytes that lie in ``group``."""
    return min(GROUP_SIZE_BYTES, size - group * GROUP_SIZE_BYTES)


def pages_mask(first: int, last: int) -> int:
    """Bitmap of pages ``first`` to ``last`` inclusive, numbered within their group."""
    return ((1 << (last - first + 1)) - 1) << first
