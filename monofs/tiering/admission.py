"""From nothing to pages that may be read: admitting groups, promising room, writing, committing.

The path of a page: `admit` (a file number in a directory, `Allocation` says which) → `reserve` (room, by evicting) → `write_pages` in a thread → `commit`
(presence in memory, record to the index's queue). Invariants: a page is present only after its write returned; what is promised counts as
used. Owner's thread only, except what says ANY thread. Not here: how room is made (`holdings`), ahead of need (`moving`).
"""

from __future__ import annotations

from collections.abc import Sequence

from monofs.model.block import DEFAULT_LAYOUT, GROUP_SIZE_BYTES, PAGE_SIZE_BYTES, page_count
from monofs.model.errors import TierFull, TierUnusable, invariant
from monofs.model.ids import ContentId, MountId
from monofs.tiering import files as page_files
from monofs.tiering.blockfile import PART, BlockFile, base_of, first_of
from monofs.tiering.directory import Directory
from monofs.tiering.group import Group, mask_bytes
from monofs.tiering.holdings import Why
from monofs.tiering.moving import Moving
from monofs.tiering.trace import Recorder


class Admission(Moving):
    """How pages come into the cache."""

    _trace: Recorder | None = None

    def admit(
        self,
        content: ContentId,
        group: int,
        length: int,
        mount: MountId,
        cache_group: int,
        *,
        layout: int = DEFAULT_LAYOUT,
        durable: bool = False,
    ) -> Group:
        """The group, new if needed, in a directory that has or can make room for its next page. ``length``: its bytes (``GROWING``
        when they are not known yet). ``durable``: only where bytes may lie that no store has.

        Raises ``TierFull``, ``TierUnusable``, ``QuotaExceeded``.
        """
        self._check_owner()
        invariant(0 < length <= GROUP_SIZE_BYTES, "a group has 1 byte to 64 pages")
        found = self.table.get(content, group)
        if found is not None:
            if found.directory.attached and found.length == length:
                return found
            invariant(not found.kept, "kept pages are not replaced")
            self._kill(found, Why.DAMAGED)
        self._check_index()
        first = first_of(group, layout)
        block = None if first is None else self._join(content, group, first, length, cache_group >> 1, durable=durable)
        if block is None:
            directory = self._place(length, cache_group >> 1, durable=durable)
            file = self._new_file()
        else:
            directory, file = block.groups[-1].directory, block.groups[-1].file
        if self.table.count >= self._groups_max:
            self._evict_one(but=block)
        now = self._clock_ns()
        crcs = bytes(4 * page_count(length))
        new = Group(content, group, file, length, directory, mount, cache_group, now, now, crcs=crcs, layout=layout)
        if first is not None:
            new.base = base_of(group, first)
            is_first = block is None and self._block_at(content, first) is None
            if is_first and _has_part(directory, new.base + length):
                block = BlockFile()
            if block is not None:
                block.join(new)
            if is_first and block is not None:
                self._open_block(block)
        new.pinned = content in self.pins
        self.table.add(new)
        self.shares.add(new)
        directory.groups += 1
        if self._trace is not None:
            self._trace.record_new(content, group, length, now, self._burst_ns)
        return new

    def passed_by(self, content: ContentId, group: int, length: int) -> None:
        """A group of so many bytes is read past the cache, which has no room for it."""
        if self._trace is not None:
            self._trace.record_new(content, group, length, self._clock_ns(), self._burst_ns)

    def _join(
        self, content: ContentId, number: int, first: int, length: int, policy: int, *, durable: bool
    ) -> BlockFile | None:
        """The file of the group's block, with room for its first page; None: it needs a file of its own."""
        block = self._block_at(content, first)
        if block is None or number in block.numbers:
            return None
        mate = next(mate for mate in block.groups if mate.alive)
        directory = mate.directory
        if (
            not directory.writable
            or (durable and not directory.durable)
            or not _has_part(directory, base_of(number, first) + length)
        ):
            return None
        self.hold(mate)  # or the file could be chosen to make room for itself
        try:
            self._make_room(directory, min(length, PAGE_SIZE_BYTES), policy)
        except TierFull:
            return None
        finally:
            self.release(mate)
        return block

    def _place(self, length: int, policy: int, *, durable: bool) -> Directory:
        """A directory for a group of a policy, with room for its first page, made if needed."""
        need = min(length, PAGE_SIZE_BYTES)
        writable = [directory for directory in self.directories if directory.writable]
        if not writable:
            raise TierUnusable("; ".join(f"{d.spec.directory}: {d.error}" for d in self.directories) or "no tiers")
        if durable:
            writable = [directory for directory in writable if directory.durable]
            if not writable:
                raise TierUnusable(
                    "no storage directory of this worker may hold bytes that no store has: add a durable one to worker.tiers"
                )
        well = [directory for directory in writable if directory.is_well] or writable
        directory = self._allocation.choose(well, need, length) or self._allocation.choose(writable, need, length)
        if directory is None and self.past.let_go():
            return self._place(length, policy, durable=durable)
        if directory is None:
            raise TierFull(
                "no storage directory has room, all cached pages are pinned, kept or in use: free or unpin something, or raise a quota"
                " (worker.quota, worker.tiers)"
            )
        self._make_room(directory, need, policy)
        return directory

    def reserve(self, group: Group, mask: int) -> int:
        """Promise room to those pages of ``mask`` neither present nor promised; returns their bitmap. All or nothing.

        They count as used until `commit` (then as present) or `unreserve`. Raises ``TierFull``, ``TierUnusable``, ``QuotaExceeded``.
        """
        self._check_owner()
        mask &= group.pages & ~(group.present | group.reserved | group.lost)
        if not mask or not group.alive:
            return 0
        self._check_index()
        directory = group.directory
        if not directory.writable:
            raise TierUnusable(f"{directory.spec.directory}: {directory.error}")
        size = mask_bytes(group.length, mask)
        self.hold(group)  # must not be chosen to make room for itself
        try:
            self._make_room(directory, size, group.policy)
            group.reserved |= mask
            directory.promise(size)
            self.shares.charge(group, size)
        finally:
            self.release(group)
        self._tend_soon(directory)
        return mask

    def unreserve(self, group: Group, mask: int) -> None:
        """Give back what was promised and will not be committed; only once no thread writes these pages any more."""
        self._check_owner()
        mask &= group.reserved
        if not mask:
            return
        size = mask_bytes(group.length, mask)
        group.reserved &= ~mask
        group.directory.renounce(size)
        if group.alive:
            self.shares.charge(group, -size)
        self._settle(group)

    def write_page(self, group: Group, page: int, data: memoryview) -> int:
        """ANY thread, for a group held or reserved: write one whole page to the file; returns its CRC-32. Changes no state.

        Raises ``TierFull``, ``TierUnusable``, ``NotCached``, ``InvalidArgument``.
        """
        return page_files.write_page(group, page, data)

    def write_pages(
        self, group: Group, pages: Sequence[tuple[int, Sequence[memoryview]]], *, patient: bool = False
    ) -> list[tuple[int, int]]:
        """As `write_page`, several pages, each given in pieces; (page, CRC) each. ``patient``: however slow the disk is."""
        return page_files.write_pages(group, pages, patient=patient)

    def commit(self, group: Group, pages: list[tuple[int, int]], *, keep: bool = False) -> None:
        """Make pages readable whose `write_page` returned; (page, CRC) each. Pages already present are left alone; pages that
        were not reserved are now, so this raises ``TierFull`` or ``TierUnusable`` too. A group that left the cache takes nothing.

        ``keep``: no store has them (`keeping` says what must have been done before).
        """
        self._check_owner()
        mask = 0
        for page, _ in pages:
            mask |= 1 << page
        mask &= group.pages & ~(group.present | group.lost)
        if mask & ~group.reserved:
            self.reserve(group, mask)
            mask &= group.reserved
        if not mask:
            return
        if keep and group.alive:
            group.kept = True
            self.kept.add(group.content)
        crcs = bytearray(group.crcs)
        for page, crc in pages:
            if mask >> page & 1:
                crcs[4 * page : 4 * page + 4] = crc.to_bytes(4, "little")
        size = mask_bytes(group.length, mask)
        group.crcs = bytes(crcs)  # before the bits: a thread that sees a bit finds its CRC
        group.present |= mask
        if group.block is not None:
            group.block.written = True
        group.reserved &= ~mask
        group.directory.keep(size)
        if group.alive:
            if group.pinned:
                group.directory.pinned += size
            self._record(group)
        self._settle(group)


def _has_part(directory: Directory, size: int) -> bool:
    """Whether one file may have so many bytes: what is read goes as a whole, so it must not be all there is room for."""
    return PART * size <= directory.quota
