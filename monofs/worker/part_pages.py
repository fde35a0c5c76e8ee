"""Pages of uploads whose parts come one by one: where each part will probably lie its pages are written now, and read once the upload is completed.

A part's place follows from its number and the size of the others (the master says it), which holds for what every client sends. What turns out to lie
elsewhere, and pages that two parts share, are given back and fetched when they are read. In memory wait the bytes behind the last whole page of what will
probably be the last part, or all of one so small that it can be no other, when it comes before any that tells its place; they count only if the store has
the part from the writing they came with.

Invariant: nobody reads a page of an upload before :meth:`PartPages.keep`, and then only those whose part the store joined, at its place, under the tag it gave.
All of it is for the sake of warmth: whatever goes wrong here is silent. Reactor thread only.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
from twisted.internet.task import LoopingCall

from monofs.model.block import PAGE_SIZE_BYTES
from monofs.model.capability import Capability
from monofs.model.errors import MonofsError
from monofs.model.ids import ContentId
from monofs.observe import metrics
from monofs.rpc.api import UploadedPart
from monofs.tiering.cache import Cache
from monofs.worker.disks import Disks
from monofs.worker.warming import Batch, Warming

UPLOADS_MOST = 256
"""Whose pages are kept: those that a part came of last."""
TAILS_BYTES = 64 << 20
"""Of all of them, in memory."""
IDLE_S = 900.0
"""After so long without a part the pages of an upload are given back."""


@dataclass(slots=True, frozen=True)
class _Tail:
    """The end of a part as one writer sent it: its bytes from ``at`` on."""

    number: int
    operation: int
    at: int
    data: bytes


_NONE = _Tail(0, 0, 0, b"")


class _Pages:
    """Of one upload."""

    def __init__(self, warming: Warming, now: float) -> None:
        self.warming = warming
        self.parts: dict[int, tuple[int, int, str]] = {}
        """Offset, size and tag of each part whose pages were written."""
        self.sent: dict[int, int] = {}
        """By whose writing the store has each of them."""
        self.tail = _NONE
        self.touched = now


class PartPages:
    """Of one worker."""

    def __init__(self, cache: Cache, disks: Disks, reactor: Any) -> None:
        self._cache, self._disks, self._reactor = cache, disks, reactor
        self._open: OrderedDict[ContentId, _Pages] = OrderedDict()
        self._sweep = LoopingCall(self._drop_idle)
        self._sweep.clock = reactor

    def plan(self, capability: Capability, at: int, pieces: Sequence[memoryview]) -> tuple[Warming, list[Batch]]:
        """Room for the pages that lie wholly in these bytes of a part, which begin at its byte ``at``; none while its place is not known. Raises ``TierFull``,
        ``QuotaExceeded``, ``TierUnusable``."""
        pages = self._open.get(capability.content) or self._begin(capability)
        pages.touched = self._reactor.seconds()
        self._open.move_to_end(capability.content)
        start, size = capability.part_offset + at, sum(map(len, pieces))
        first, last = (0, 0) if capability.part_offset < 0 else _pages_of(start, size)
        tail_at = max(0, last * PAGE_SIZE_BYTES - start) if first < last else 0
        if at + size == capability.size and capability.part >= pages.tail.number:
            self._keep_tail(pages, capability, at + tail_at, _cut(pieces, tail_at, size - tail_at))
        if first >= last:
            return pages.warming, []
        whole = _cut(pieces, first * PAGE_SIZE_BYTES - start, (last - first) * PAGE_SIZE_BYTES)
        return pages.warming, pages.warming.plan(first * PAGE_SIZE_BYTES, whole)

    def _keep_tail(self, pages: _Pages, capability: Capability, at: int, pieces: list[memoryview]) -> None:
        pages.tail = _NONE
        if sum(map(len, pieces)) + sum(len(each.tail.data) for each in self._open.values()) <= TAILS_BYTES:
            pages.tail = _Tail(capability.part, capability.operation, at, b"".join(pieces))

    def note(self, capability: Capability, tag: str) -> None:
        """The store has a part whose pages were written, and calls it so."""
        pages = self._open.get(capability.content)
        if pages is not None:
            pages.parts[capability.part] = capability.part_offset, capability.size, tag
            pages.sent[capability.part] = capability.operation

    async def keep(self, content: ContentId, parts: Sequence[UploadedPart]) -> None:
        """The upload is the file ``content``, of these parts: its pages can be read."""
        pages = self._open.pop(content, None)
        if pages is None:
            return
        kept: set[int] = set()
        at, tail_at, tail = 0, 0, memoryview(b"")
        for part in parts:
            place = pages.parts.get(part.number)
            if place == (at, part.size, part.tag):
                kept.update(range(*_pages_of(at, part.size)))
            is_last = part is parts[-1] and pages.tail.number == part.number
            is_last = is_last and pages.tail.operation == pages.sent.get(part.number)
            if is_last and place is not None and place[1:] == (part.size, part.tag):
                tail_at, tail = _from_page(at + pages.tail.at, pages.tail.data)
            at += part.size
        try:
            await pages.warming.conclude(at, kept, tail_at, tail)
        except MonofsError as error:
            pages.warming.drop()
            metrics.WRITES_UNCACHED(type(error).__name__).value += 1

    def drop_all(self) -> None:
        """Give all back: the cluster is another one, or the cache is about to close."""
        while self._open:
            self._open.popitem()[1].warming.drop()
        if self._sweep.running:
            self._sweep.stop()

    def _begin(self, capability: Capability) -> _Pages:
        if len(self._open) >= UPLOADS_MOST:
            self._open.popitem(last=False)[1].warming.drop()
        unknown = msgspec.structs.replace(capability, size=-1)
        warming = Warming(self._cache, self._disks, unknown, keep=False)
        pages = self._open[capability.content] = _Pages(warming, self._reactor.seconds())
        if not self._sweep.running:
            self._sweep.start(IDLE_S / 4, now=False)
        return pages

    def _drop_idle(self) -> None:
        limit = self._reactor.seconds() - IDLE_S
        while self._open and next(iter(self._open.values())).touched < limit:
            self._open.popitem(last=False)[1].warming.drop()
        if not self._open:
            self._sweep.stop()


def _pages_of(offset: int, size: int) -> tuple[int, int]:
    """The whole pages within these bytes: the first, and the one behind the last."""
    return -(-offset // PAGE_SIZE_BYTES), (offset + size) // PAGE_SIZE_BYTES


def _from_page(start: int, data: bytes) -> tuple[int, memoryview]:
    """What of these bytes lies behind the next page's beginning, and where that is."""
    first = -(-start // PAGE_SIZE_BYTES) * PAGE_SIZE_BYTES
    return first, memoryview(data)[first - start :]


def _cut(pieces: Sequence[memoryview], start: int, length: int) -> list[memoryview]:
    """``length`` bytes from ``start`` on."""
    found: list[memoryview] = []
    for piece in pieces:
        taken = piece[start : start + length] if start < len(piece) else piece[:0]
        start = max(0, start - len(piece))
        length -= len(taken)
        if taken:
            found.append(taken)
        if not length:
            break
    return found
