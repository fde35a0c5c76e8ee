"""The pages of one write on their way into the cache.

Pages are written as they come and nobody can read them before :meth:`commit`: until then they are only promised room, so a write that
is given up leaves nothing. While the size is not known, groups are admitted at full length and the last is sealed. With ``keep`` the
bytes are those of a content no store has: they lie in durable directories, and are safe against a loss of power before anybody hears so.

Invariant: room is given back only once no thread writes any more. Not here: the store's side (uploading.py), the order (writing.py).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from twisted.internet.defer import Deferred

from monofs.model.block import GROUP_PAGES, GROUP_SIZE_BYTES, PAGE_SIZE_BYTES, group_length
from monofs.model.capability import Capability
from monofs.model.errors import MonofsError, TierUnusable
from monofs.tiering.cache import GROWING, Cache, Group
from monofs.worker.disks import Disks

Pieces = Sequence[memoryview]
GroupPages = list[tuple[int, list[memoryview]]]
"""Pages of one group, each in pieces."""


@dataclass(slots=True, frozen=True)
class Batch:
    """Pages with room promised to them, to be written by a thread."""

    group: Group
    pages: GroupPages
    trims: bool


class Warming:
    """One write's pages. Reactor thread only, but for :meth:`write`."""

    def __init__(self, cache: Cache, disks: Disks, capability: Capability, *, keep: bool) -> None:
        self._cache, self._disks, self._capability, self._keep = cache, disks, capability, keep
        self._groups: dict[int, Group] = {}
        self._crcs: dict[int, list[tuple[int, int]]] = {}
        self._writing = 0
        self._dropped = False
        self._size = capability.size

    def plan(self, offset: int, pieces: Pieces, size: int = -1) -> list[Batch]:
        """Promise room to the pages of these bytes; ``size`` >= 0: the content ends with them, and all before them are written. What
        :meth:`write` is to write.

        All pages but the content's last are whole. Raises ``TierFull``, ``QuotaExceeded``, ``TierUnusable``.
        """
        if size >= 0:
            self._size = size
        batches: list[Batch] = []
        for number, pages in _by_group(offset, pieces):
            group, trims = self._group(number)
            mask = sum(1 << page for page, _ in pages)
            if self._cache.reserve(group, mask) != mask:
                raise TierUnusable("the cache was emptied while the file was written")
            batches.append(Batch(group, pages, trims))
        return batches

    def write(self, batches: Sequence[Batch]) -> list[tuple[int, list[tuple[int, int]]]]:
        """ANY thread: write what was planned; for :meth:`written`. Raises ``TierFull``, ``TierUnusable``, ``NotCached``."""
        return [(batch.group.number, self._write(batch)) for batch in batches]

    def begin(self) -> None:
        """A thread will write; until :meth:`written`, nothing is given back."""
        self._writing += 1

    def written(self, crcs: Sequence[tuple[int, list[tuple[int, int]]]]) -> None:
        """The thread is through."""
        self._writing -= 1
        for number, found in crcs:
            self._crcs.setdefault(number, []).extend(found)
        if self._dropped and not self._writing:
            self._give_back()

    async def add(self, batches: Sequence[Batch], *, synced: bool = False) -> None:
        """Write what was planned in the threads of its directories. ``synced``: it is all there is, and is made durable at once."""
        crcs: list[tuple[int, list[tuple[int, int]]]] = []
        self.begin()
        try:
            for batch in batches:
                found = await self._on_disk(batch.group, partial(self._write, batch, synced=synced))
                crcs.append((batch.group.number, found))
        finally:
            self.written(crcs)

    def commit(self) -> None:
        """All pages are written: make them readable. Raises ``TierUnusable`` when the cache was emptied meanwhile."""
        groups, self._groups = self._groups, {}
        for number, group in groups.items():
            self._cache.commit(group, self._crcs.pop(number, []), keep=self._keep)
            self._cache.release(group)
        if self._keep and not all(group.alive and group.present == group.pages for group in groups.values()):
            raise TierUnusable("the cache was emptied while the file was written")

    async def conclude(self, size: int, pages: set[int], tail_at: int, tail: memoryview) -> None:
        """Of an upload that is a file of ``size`` bytes now: these whole pages of the content, and its last bytes ``tail``, are what was written,
        all else is given back; make it readable. Raises ``TierFull``, ``QuotaExceeded``, ``TierUnusable``."""
        if self._writing:  # a part came too late, and where it lies nothing can be given back
            self.drop()
            return
        self._size = size
        self.begin()
        try:
            for number, group in list(self._groups.items()):
                good = {page for page in range(GROUP_PAGES) if number * GROUP_PAGES + page in pages}
                crcs = self._crcs[number] = [each for each in self._crcs.get(number, []) if each[0] in good]
                self._cache.unreserve(group, group.reserved & ~sum(1 << page for page, _ in crcs))
                if not crcs or not group.alive:
                    del self._groups[number]
                    self._cache.release(group)
                elif group.length != group_length(size, number):
                    self._cache.seal(group, group_length(size, number))
                    await self._on_disk(group, partial(self._cache.trim_file, group))
            if tail and not self._dropped:
                await self.add(self.plan(tail_at, [tail], size))
        finally:
            self.written([])
        self.commit()

    async def sync(self) -> None:
        """Make the files durable. Before :meth:`commit`."""
        for group in self._groups.values():
            await self._on_disk(group, partial(self._cache.sync_file, group))

    def drop(self) -> None:
        """Give everything back that was not committed."""
        self._dropped = True
        if not self._writing:
            self._give_back()

    def _give_back(self) -> None:
        groups, self._groups = self._groups, {}
        for group in groups.values():
            self._cache.unreserve(group, group.reserved)
            self._cache.release(group)

    def _group(self, number: int) -> tuple[Group, bool]:
        """The group, admitted if needed; whether its file may be longer than it now is."""
        group, trims = self._groups.get(number), False
        known = self._size >= 0
        length = group_length(self._size, number) if known else GROWING
        if group is None:
            capability = self._capability
            group = self._cache.admit(
                capability.content,
                number,
                length,
                capability.mount,
                capability.group,
                layout=capability.layout,
                durable=self._keep,
            )
            self._cache.hold(group)  # until the end: empty, it would not outlive a refusal
            self._groups[number] = group
        elif group.length != length:
            self._cache.seal(group, length)
            trims = True
        return group, trims

    def _write(self, batch: Batch, *, synced: bool = False) -> list[tuple[int, int]]:
        crcs = self._cache.write_pages(batch.group, batch.pages, patient=self._keep)
        if batch.trims:
            self._cache.trim_file(batch.group)
        if synced:
            self._cache.sync_file(batch.group)
        elif self._keep:
            self._cache.begin_sync(batch.group, [page for page, _ in batch.pages])
        return crcs

    def _on_disk(self, group: Group, work: Any) -> Deferred[Any]:
        done: Deferred[Any] = Deferred()
        try:
            self._disks.run(group, work, done.callback, done.errback)
        except MonofsError as error:
            done.errback(error)
        return done


def _by_group(offset: int, pieces: Pieces) -> Iterator[tuple[int, GroupPages]]:
    """Cut bytes that begin at a page into pages, by group."""
    number, pages = offset // GROUP_SIZE_BYTES, []
    page, current, filled = offset % GROUP_SIZE_BYTES // PAGE_SIZE_BYTES, [], 0
    for piece in pieces:
        rest = piece
        while rest:
            taken = rest[: PAGE_SIZE_BYTES - filled]
            current.append(taken)
            rest, filled = rest[len(taken) :], filled + len(taken)
            if filled < PAGE_SIZE_BYTES:
                continue
            pages.append((page, current))
            page, current, filled = page + 1, [], 0
            if page == GROUP_PAGES:
                yield number, pages
                number, pages, page = number + 1, [], 0
    if current:
        pages.append((page, current))
    if pages:
        yield number, pages
