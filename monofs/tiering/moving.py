"""Groups that change their tier: down ahead of need instead of being lost, up when readers ask for that.

`tend` keeps a part of every directory free, so that nobody who writes a page waits for room: from the lowest tier up, the groups that
go next move to a lower tier that has room for them, or leave. Up goes what is read a second time by somebody who asks for it. A move copies the pages to a new file in the mover's thread, comparing
their CRCs, and then a new group takes the old one's place, in memory and with one record in the index; who holds the old one goes on
reading it. Invariants: room for the copy is promised before it is made and nothing is promised of the room the old file has; a group
that changed meanwhile (pages written or found bad, dropped, kept) stays what it is, and the copy goes; kept groups never move.

A group that must go while a page waits for its room is dropped, not moved: the page would have to wait for the copy. Owner's thread only.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

from monofs.model.block import PAGE_SIZE_BYTES
from monofs.model.errors import ConfigError, MonofsError
from monofs.model.ids import ContentId
from monofs.observe.logs import logger
from monofs.observe.metrics import MOVED_BYTES
from monofs.tiering.blockfile import BlockFile, file_bytes, file_groups
from monofs.tiering.directory import Directory
from monofs.tiering.eviction import Allocation
from monofs.tiering.files import copy_pages
from monofs.tiering.group import Group, mask_bytes
from monofs.tiering.index import Index
from monofs.tiering.keeper import Keeper
from monofs.tiering.keeping import Keeping
from monofs.tiering.shares import Shares

MOVES_MAX = 8
"""Groups on their way at a time, of up to 64 MiB each."""
BURST_NS = 10**9
"""Reads of a group that come within so long of one that counted are part of it."""
WISHES_MAX = 65_536
"""Groups remembered as wanted in the top tier once."""
TENDED_MAX = 256
"""Groups that leave one directory in one turn."""

log = logger(__name__)


class Moving(Keeping):
    """Groups between tiers."""

    def __init__(
        self,
        directories: list[Directory],
        index: Index,
        shares: Shares,
        call_soon: Callable[[Callable[[], None]], object],
        clock_ns: Callable[[], int],
        groups_max: int,
        *,
        allocation: Allocation,
        watermark: float,
    ) -> None:
        super().__init__(directories, index, shares, call_soon, clock_ns, groups_max)
        if not 0 < watermark <= 1:
            raise ConfigError(f"worker.watermark: {watermark} must be more than 0 and at most 1")
        self._allocation, self._watermark = allocation, watermark
        self._tiers = list(dict.fromkeys(directory.tier for directory in directories))
        self.mover = Keeper("moves", lambda: None)
        self.moves: set[Group] = set()
        """Groups on their way."""
        self._is_due = False
        self._burst_ns = BURST_NS
        self._wishes: OrderedDict[tuple[ContentId, int], int] = OrderedDict()
        """Groups read by somebody who wants them in the top tier, and when first (ns since 1970)."""

    def tend(self) -> None:
        """Make room ahead of need, as far as it is missing now. Called by itself when pages were promised room; call it now and then
        for what else takes room away, or gives it."""
        self._check_owner()
        self._is_due = False
        self.past.tend()
        for directory in reversed(self.directories):  # lower tiers first: what comes down finds room
            missing = self._headroom(directory) - directory.free_bytes()
            if missing > 0 and directory.writable and not self.index.is_behind:
                self._free(directory, missing)

    def _tend_soon(self, directory: Directory) -> None:
        if not self._is_due and directory.free_bytes() < self._headroom(directory):
            self._is_due = True
            self._call_soon(lambda: self.tend() if self._is_open else None)

    def _headroom(self, directory: Directory) -> int:
        """Bytes to be kept free: whole pages, so that a directory of a few pages can be filled to the last."""
        return int((1 - self._watermark) * directory.quota) // PAGE_SIZE_BYTES * PAGE_SIZE_BYTES

    def _free(self, directory: Directory, missing: int) -> None:
        missing -= sum(group.present_bytes for group in self.moves if group.directory is directory)
        lower = self._below(directory)
        for _ in range(TENDED_MAX):
            if missing <= 0 or (lower and len(self.moves) >= MOVES_MAX):
                return
            group = self._take_victim(directory.policy.victim)
            if group is None:
                return
            missing -= file_bytes(group)
            target = self._allocation.with_room(lower, _size(_alive(group)))
            if target is None:
                self._evict(group, "ahead")
            else:
                self._move(_alive(group), target)

    def promote(self, group: Group) -> None:
        """The group was read by somebody who wants it in the top tier: move it there with all of its file, if it was before and there is
        room now. What is read once is as well read where it is: a scan must not push out what is read again."""
        self._check_owner()
        if group.tier == self._tiers[0] or not group.listed or len(self.moves) >= MOVES_MAX:
            return
        if not self._is_wished_again(group) or any(mate.reserved for mate in file_groups(group)):
            return
        top = [d for d in self.directories if d.tier == self._tiers[0] and d.writable]
        groups = _alive(group)
        target = self._allocation.with_room(top, _size(groups))
        if target is not None and not self.index.is_behind:
            for mate in groups:
                if mate.listed:
                    self._unlist(mate)
            self._move(groups, target)

    def _is_wished_again(self, group: Group) -> bool:
        """Whether this is another read than the first one that wished for it."""
        now_ns = self._clock_ns()
        first_ns = self._wishes.setdefault(group.key, now_ns)
        if len(self._wishes) > WISHES_MAX:
            self._wishes.popitem(last=False)
        return now_ns - first_ns >= max(self._burst_ns, 1)

    def _below(self, directory: Directory) -> list[Directory]:
        lower = self._tiers[self._tiers.index(directory.tier) + 1 :]
        return [each for each in self.directories if each.writable and each.tier in lower]

    def _move(self, groups: list[Group], target: Directory) -> None:
        """Begin to move the groups of a file, which nobody holds and which were taken out of their order."""
        masks, size = [group.present for group in groups], _size(groups)
        for group in groups:
            self.hold(group)
        try:
            file = self._new_file()
        except MonofsError:
            for group in groups:
                self.release(group)
            return
        target.promise(size)
        target.copying += size
        self.moves.update(groups)
        self._tend_soon(target)

        def copy() -> None:
            copied: list[int] = []
            try:
                for group, mask in zip(groups, masks, strict=True):
                    if not self._is_open:
                        break
                    target.wait_for_room()
                    copied.append(copy_pages(group, mask, file, target, joins=bool(copied)))
            except MonofsError as error:
                log.warning("a group could not change its tier", directory=target.spec.directory, error=error.message)
            self._call_soon(lambda: self._moved(groups, target, file, masks, copied))

        self.mover.submit(copy)

    def _moved(self, groups: list[Group], target: Directory, file: int, masks: list[int], copied: list[int]) -> None:
        """The copies are made, or not all: ``copied`` is shorter then."""
        if not self._is_open:
            return  # the next start sweeps the copy
        size = sum(mask_bytes(old.length, mask) for old, mask in zip(groups, masks, strict=True))
        self.moves.difference_update(groups)
        target.copying -= size
        target.keep(size)
        same = [
            old.alive and old.present == mask and not (old.reserved or old.kept)
            for old, mask in zip(groups, masks, strict=True)
        ]
        if all(same) and copied == masks and target.attached:
            self._take_place(groups, target, file)
        else:
            target.remove(file, size)
            for old, mask, is_same, found in zip(groups, masks, same, copied, strict=False):
                if is_same and mask & ~found:
                    self.drop_pages(old, mask & ~found)
        for old in groups:
            self.release(old)

    def _take_place(self, groups: list[Group], target: Directory, file: int) -> None:
        source, size = groups[0].directory, _size(groups)
        self._wishes.pop(groups[0].key, None)
        direction = "demoted" if self._tiers.index(target.tier) > self._tiers.index(source.tier) else "promoted"
        MOVED_BYTES(target.tier, direction).add(size)
        block = BlockFile() if groups[0].block is not None else None
        for old in groups:
            new = Group(
                old.content, old.number, file, old.length, target, old.mount, old.cache_group, old.admitted_ns,
                old.read_ns, old.present, old.crcs, base=old.base, pinned=old.pinned, heat=old.heat, layout=old.layout,
            )  # fmt: skip
            self._detach(old)
            self.table.add(new)
            self.shares.add(new)
            target.groups += 1
            target.pinned += new.present_bytes if new.pinned else 0
            self._record(new)
            if block is not None:
                block.join(new)
        if block is not None:
            self._open_block(block)
        for group in block.groups if block is not None else [new]:
            self._settle(group)


def _alive(group: Group) -> list[Group]:
    """The groups in its file that are in the cache, in their order."""
    return sorted((mate for mate in file_groups(group) if mate.alive), key=lambda mate: mate.number)


def _size(groups: list[Group]) -> int:
    return sum(group.present_bytes for group in groups)
