"""What to fetch: cutting missing pages into ranges, and how far to read ahead. Pure: no I/O, no clock.

Invariant: the ranges of :func:`split_ranges` cover exactly the pages asked for, each once. Not here: who fetches, or when.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator

from monofs.model.block import GROUP_PAGES, PAGE_SIZE_BYTES, pages_mask

STREAMS_MAX = 4096
"""Sequential readers remembered; the one idle longest is forgotten first and starts again small."""
FIRST_WINDOW_BYTES = 4 * PAGE_SIZE_BYTES


def split_ranges(pages: int, most: int) -> list[tuple[int, int]]:
    """Cut a bitmap of pages into runs of at most ``most`` pages: (first, last) inclusive, ascending."""
    ranges: list[tuple[int, int]] = []
    while pages:
        first = (pages & -pages).bit_length() - 1
        rest = pages >> first
        length = min((~rest & (rest + 1)).bit_length() - 1, most)
        ranges.append((first, first + length - 1))
        pages &= ~pages_mask(first, first + length - 1)
    return ranges


def run_length(pages: int, first: int) -> int:
    """How many consecutive pages from ``first`` on are set in the bitmap."""
    rest = pages >> first
    return (~rest & (rest + 1)).bit_length() - 1


def group_masks(first_page: int, last_page: int) -> Iterator[tuple[int, int]]:
    """The groups that pages ``first_page`` to ``last_page`` of a content lie in: (group, bitmap within it)."""
    for group in range(first_page // GROUP_PAGES, last_page // GROUP_PAGES + 1):
        base = group * GROUP_PAGES
        yield group, pages_mask(max(first_page - base, 0), min(last_page - base, GROUP_PAGES - 1))


class ReadAhead:
    """Windows of sequential readers.

    A reader is known by the content and the byte where its next read would begin. It is sequential when it says so, or when it
    goes on where an earlier read ended. The window starts at four pages and doubles with every read up to ``most_bytes``; a new
    stretch is asked for when half of the window is used up, so that stores see large ranges. Random readers get nothing.
    """

    def __init__(self, most_bytes: int) -> None:
        self._most = most_bytes
        self._streams: OrderedDict[tuple[int, int], tuple[int, int]] = OrderedDict()

    def plan(self, content: int, offset: int, end: int, size: int, *, sequential: bool) -> int:
        """A read of bytes ``[offset, end)`` begins: the byte up to which pages should be on their way (at least ``end``)."""
        known = self._streams.pop((content, offset), None)
        window, ahead = known if known is not None else (0, end)
        if (sequential or known is not None) and self._most:
            window = min(max(window * 2, FIRST_WINDOW_BYTES), self._most)
            if ahead - end <= window // 2:
                ahead = min(end + window, size)
        if end < size:
            self._streams[(content, end)] = (window, ahead)
            if len(self._streams) > STREAMS_MAX:
                self._streams.popitem(last=False)
        return max(ahead, end)
