"""What a cache holds in memory: the life of a group from its file number to its unlink, making room, and copies without bad pages.

Invariants: a group is in the eviction order of its directory exactly if it has pages and is neither pinned nor kept nor being written
(a held one is passed over, and taken out until released); one that left the cache counts as used until nobody holds or writes it, nor another
in the same file; groups of one file go together;
room for a page is made below its policy's quota first, by its own policy's pages, then below the directory's; records follow every
change into the index's queue. Owner's thread only. Not here: the face callers see (`cache`), bytes that no store has (`keeping`).
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from enum import StrEnum
from operator import attrgetter

import msgspec

from monofs.model.errors import MonofsError, QuotaExceeded, TierFull, TierUnusable, invariant
from monofs.model.ids import ContentId
from monofs.observe.logs import logger
from monofs.observe.metrics import BAD_PAGES, EVICTED_BYTES
from monofs.tiering import recovery
from monofs.tiering.blockfile import BlockFile, file_bytes, file_groups, first_of, is_busy
from monofs.tiering.directory import Directory
from monofs.tiering.files import copy_pages
from monofs.tiering.group import Group, GroupTable, mask_bytes
from monofs.tiering.index import GROUPS, KEPT, KEY, META, NEXT_FILE, Index, Record
from monofs.tiering.past import Past
from monofs.tiering.shares import Rule, Shares

GONE_KEPT = 10_000
"""Groups that left lately and are remembered."""

log = logger(__name__)
_encode = msgspec.msgpack.encode
_read_ns = attrgetter("read_ns")


class Why(StrEnum):
    """Why a group left the cache."""

    EVICTED = "evicted"
    FREED = "freed"
    RETIRED = "retired"
    EXPIRED = "expired"
    DAMAGED = "damaged"
    HANDED = "handed"
    """Its owner has it now."""
    DROPPED = "dropped"
    """The worker met another cluster, or lost its place in the feed."""


class Holdings:
    """The groups of a cache and everything that changes because one comes or goes."""

    def __init__(
        self,
        directories: list[Directory],
        index: Index,
        shares: Shares,
        call_soon: Callable[[Callable[[], None]], object],
        clock_ns: Callable[[], int],
        groups_max: int,
    ) -> None:
        self.directories, self.index, self.shares = directories, index, shares
        self.table = GroupTable()
        self.gone: OrderedDict[tuple[ContentId, int], tuple[Why, int]] = OrderedDict()
        """Why and when groups left that had pages, the last 10,000; content and group number → (why, ns since 1970)."""
        self.pins: set[int] = set()
        self.run: recovery.Run
        self.blocks: dict[tuple[ContentId, int], BlockFile] = {}
        """Files that further groups of a block may join; content and the block's first group → file."""
        self._copies: dict[tuple[ContentId, int], Group] = {}
        self._call_soon, self._clock_ns, self._groups_max = call_soon, clock_ns, groups_max
        self.past = Past(self.release, clock_ns)
        self._next_file = self._claimed = 0
        self._owner = 0
        self._is_open = False

    def hold(self, group: Group) -> None:
        """Keep the group's file: no eviction until as many `release`; what is dropped meanwhile still counts as used."""
        invariant(group.alive or group.holds or group.reserved, "a group that is held is in the cache or held already")
        group.holds += 1

    def release(self, group: Group) -> None:
        """End one `hold`."""
        invariant(group.holds > 0, "a group is released as often as it was held")
        group.holds -= 1
        if not group.holds:
            self._settle(group)

    # ---- life, room, record ----------------------------------------------------------------------------------------------

    def _check_owner(self) -> None:
        invariant(threading.get_ident() == self._owner, "the cache changes on its owner's thread only")

    def _check_index(self) -> None:
        if self.index.is_behind:
            raise TierUnusable(f"the cache index cannot keep up: {self.index.error or 'its disk is slow'}")

    def _new_file(self) -> int:
        if self._next_file >= self.index.next_file:
            raise TierUnusable("the cache index cannot keep up: no file numbers are claimed")
        number = self._next_file
        self._next_file += 1
        if self._next_file + recovery.FILE_CLAIM // 2 > self._claimed:
            self._claimed = self._next_file + recovery.FILE_CLAIM
            self.index.put(META, NEXT_FILE, self._claimed.to_bytes(8, "big"))
        return number

    def _record(self, group: Group) -> None:
        self.index.put(GROUPS, KEY.pack(group.content, group.number), self._encoded(group))

    def _encoded(self, group: Group) -> bytes:
        known_good = group.verified and not group.lost
        return _encode(
            Record(
                group.directory.number, group.file, group.base, group.length, group.present | group.lost, group.crcs, group.mount,
                group.cache_group, KEPT if group.kept else 0, group.admitted_ns, self.run.generation if known_good else 0,
                group.layout,
            )
        )  # fmt: skip

    def _settle(self, group: Group) -> None:
        """Put the group where its state says: in the eviction order, out of it, or away for good."""
        if not group.alive:
            if not group.holds and not group.reserved:
                self._finish(group)
                self._list_file(group)
            return
        if not (group.present or group.reserved or group.holds or group.lost):
            self._kill(group, Why.DROPPED)
            self._list_file(group)
            return
        if group.listed and (group.pinned or group.reserved or group.kept):
            self._unlist(group)
        if group.holds or group.reserved or group.pinned or group.kept:
            return
        self._list_file(group)
        if group.policy:
            self._keep_quota(group.policy)

    def _list_file(self, group: Group) -> None:
        """Nobody needs the group any more: it may be evicted, and so may those in its file that were taken out meanwhile."""
        if is_busy(group):
            return
        for mate in file_groups(group):
            if mate.alive and mate.present and not (mate.listed or mate.pinned or mate.kept):
                mate.listed = True
                mate.directory.policy.admitted(mate, mate.present_bytes)

    def _unlist(self, group: Group) -> None:
        group.listed = False
        group.directory.policy.removed(group)

    def _kill(self, group: Group, why: Why) -> None:
        """Take the group out of the cache; its file goes when nobody holds or writes it."""
        if group.present or group.lost:
            self.index.put(GROUPS, KEY.pack(group.content, group.number), None)
            self.gone.pop(group.key, None)
            self.gone[group.key] = why, self._clock_ns()
            if len(self.gone) > GONE_KEPT:
                self.gone.popitem(last=False)
        self._detach(group)

    def _detach(self, group: Group) -> None:
        """The group is none any more; its record is another's business."""
        directory = group.directory
        group.alive = False
        self.table.remove(group)
        self.shares.remove(group)
        directory.groups -= 1
        if group.listed:
            self._unlist(group)
        if group.pinned:
            directory.pinned -= group.present_bytes
        directory.lingering.add(group)
        if not (group.holds or group.reserved):
            self._finish(group)

    def _finish(self, group: Group) -> None:
        """Unlink the file, unless another group in it is in the cache, held or being written."""
        groups, directory = file_groups(group), group.directory
        if any(mate.alive for mate in groups):
            return
        first = first_of(group.number, group.layout)
        if group.block is not None and first is not None and self.blocks.get((group.content, first)) is group.block:
            del self.blocks[group.content, first]
        if is_busy(group):
            return
        size, fds = file_bytes(group), [directory.files.forget(mate) for mate in groups]
        directory.lingering.difference_update(groups)
        directory.remove(group.file, size, [fd for fd in fds if fd is not None])
        if group.block is not None:
            group.block.groups = []
            for mate in groups:
                mate.block = None

    def _evict(self, group: Group, reason: str) -> None:
        """A group that was taken out of its order to make room leaves the cache. ``reason`` is for the metric."""
        for mate in [mate for mate in file_groups(group) if mate.alive]:
            EVICTED_BYTES(mate.tier, reason).add(mate.present_bytes)
            mate.directory.policy.evicted(mate)
            self._kill(mate, Why.EVICTED)

    def _take_victim(self, next_victim: Callable[[], Group | None]) -> Group | None:
        """The next victim nobody holds, taken out of its order with all of its file; held ones before it are taken out too: `release` lists
        them again, so that the next search need not pass them."""
        while (group := next_victim()) is not None:
            for mate in file_groups(group):
                if mate.listed:
                    self._unlist(mate)
            if not is_busy(group):
                return group
            group.directory.passed_ns = self._clock_ns()
        return None

    def _put_back(self, groups: list[Group]) -> None:
        """Not evicted after all."""
        for group in groups:
            self._settle(group)

    def _make_room(self, directory: Directory, need: int, policy: int) -> None:
        """Evict until ``need`` bytes of a policy can be written. Raises ``TierFull`` or ``QuotaExceeded``, with nothing evicted, when
        that cannot be reached."""
        victims = self._quota_victims(policy, need) if policy else []
        short = need - directory.free_bytes() - sum(file_bytes(g) for g in victims if g.directory is directory)
        if directory.policy.bytes >= short:
            while short > 0 and (group := self._take_victim(directory.policy.victim)) is not None:
                victims.append(group)
                short -= file_bytes(group)
        if short > 0:
            self._put_back(victims)
            if self.past.let_go():
                self._make_room(directory, need, policy)
                return
            raise TierFull(
                f"{directory.spec.directory}: {need} bytes do not fit and nothing more can be evicted"
                ": free or unpin something, or raise its quota (worker.quota, worker.tiers)",
                directory=directory.spec.directory,
            )
        for group in victims:
            self._evict(group, "room")

    def _evict_one(self, *, but: BlockFile | None = None) -> None:
        """Room for one group more, which will lie in the file ``but``."""
        spared = next((mate for mate in but.groups if mate.alive), None) if but is not None else None
        if spared is not None:
            self.hold(spared)
        group = self._take_victim(self._coldest)
        if spared is not None:
            self.release(spared)
        if group is None:
            raise TierFull(f"{self._groups_max} groups are cached and none can be evicted: free or unpin some")
        self._evict(group, "count")

    def _coldest(self) -> Group | None:
        found = [group for directory in self.directories if (group := directory.policy.victim()) is not None]
        return min(found, key=lambda group: (self.shares.rank_of(group.policy), group.read_ns), default=None)

    def _shrink(self, directory: Directory) -> None:
        """After a start with a smaller quota or less room: evict down to it."""
        while directory.writable and directory.free_bytes() < 0:
            group = self._take_victim(directory.policy.victim)
            if group is None:
                return
            self._evict(group, "room")

    def _open_block(self, block: BlockFile) -> None:
        """Further groups of its block may join a file, unless they join another already."""
        group = block.groups[0]
        first = first_of(group.number, group.layout)
        if first is not None:
            if self._block_at(group.content, first) is None:
                self.blocks[group.content, first] = block
            recovery.raise_format(self.index, self.run, recovery.FORMAT_BLOCKS)

    def _block_at(self, content: ContentId, first: int) -> BlockFile | None:
        """The file that a group of this block may join."""
        block = self.blocks.get((content, first))
        return block if block is not None and any(mate.alive for mate in block.groups) else None

    def _part(self, group: Group) -> None:
        """The group's bytes are not in the file of its block."""
        if group.block is not None:
            group.block.groups.remove(group)
            group.block = None

    # ---- policies -------------------------------------------------------------------------------------------------------

    def set_groups(self, rules: dict[int, Rule]) -> None:
        """Take over what policies say of their pages, by policy id; one that is not named says nothing. What is over a quota goes."""
        self._check_owner()
        if self.shares.set_rules(rules):
            for policy, _ in self.shares.held():
                self._keep_quota(policy)

    def regroup(self, content: ContentId, cache_group: int) -> None:
        """The content's pages are charged to the policy of ``cache_group`` from now on."""
        self._check_owner()
        for group in self.table.of(content):
            if group.policy == cache_group >> 1:
                continue
            if group.listed:
                self._unlist(group)
            self.shares.remove(group)
            group.cache_group = cache_group
            self.shares.add(group)
            if group.present:
                self._record(group)
            self._settle(group)

    def expire(self, most: int) -> int:
        """Drop groups that are older than their policy's time to live and not in use, at most ``most`` of each policy; how many."""
        self._check_owner()
        dropped, now_ns = 0, self._clock_ns()
        for _, share in self.shares.held():
            for group in share.expired(now_ns, most):
                self._kill(group, Why.EXPIRED)
                dropped += 1
        return dropped

    def group_bytes(self) -> dict[int, int]:
        """Bytes present or promised of each policy."""
        return {policy: share.used for policy, share in self.shares.held()}

    def _own_victim(self, policy: int) -> Group | None:
        """Of the policy's groups in all directories the one that goes next, taken out of its order."""

        def coldest() -> Group | None:
            found = [g for directory in self.directories if (g := directory.policy.victim_of(policy)) is not None]
            return min(found, key=_read_ns, default=None)

        return self._take_victim(coldest)

    def _quota_victims(self, policy: int, need: int) -> list[Group]:
        """What of the policy's own pages must go so that ``need`` more bytes stay within its quota. Raises ``QuotaExceeded``."""
        room = self.shares.room(policy)
        if room is None or need <= room:
            return []
        short, victims = need - room, []
        while short > 0:
            group = self._own_victim(policy)
            if group is None:
                break
            victims.append(group)
            short -= sum(mate.present_bytes for mate in file_groups(group) if mate.alive)
        else:
            return victims
        self._put_back(victims)
        raise QuotaExceeded(
            f"this worker's part of the cache quota of policy {policy} has no room for {need} more bytes: it is too small, or the rest of it is"
            " pinned or in use",
            policy=policy,
        )

    def _keep_quota(self, policy: int) -> None:
        """Evict what is over a quota that was lowered, as far as it is not in use."""
        while (room := self.shares.room(policy)) is not None and room < 0:
            group = self._own_victim(policy)
            if group is None:
                return
            self._evict(group, "quota")

    # ---- copies without bad pages --------------------------------------------------------------------------------------

    def drop_pages(self, group: Group, mask: int) -> None:
        """Drop bad pages. The group leaves the cache at once; its good pages come back as a new, verified group, copied to a new
        file in the background, if there is room and nobody admitted or dropped the group meanwhile."""
        self._check_owner()
        bad = mask & group.present
        if not bad or not group.alive:
            return
        invariant(not group.kept, "kept pages are never dropped because they are bad")
        BAD_PAGES(group.tier).add(bad.bit_count())
        log.warning("bad pages dropped", content=group.content, group=group.number, pages=f"{bad:x}", tier=group.tier)
        good, directory = group.present & ~bad, group.directory
        size = mask_bytes(group.length, good)
        self.hold(group)
        self._kill(group, Why.DAMAGED)
        try:
            if not good:
                return
            self._check_index()
            self._make_room(directory, size, 0)
            file = self._new_file()
        except MonofsError:
            good = 0  # no room for a copy: what was good is fetched again when it is asked for
        finally:
            if not good:
                self.release(group)
        if good:
            directory.promise(size)
            directory.copying += size
            self._copies[group.key] = group
            directory.keeper.submit(lambda: self._copy(group, good, file))

    def _forget_copies(self, content: ContentId) -> None:
        for key in [key for key in self._copies if key[0] == content]:
            del self._copies[key]

    def _copy(self, group: Group, good: int, file: int) -> None:
        """In the keeper."""
        try:
            copied = copy_pages(group, good, file, group.directory)
        except MonofsError:
            copied = 0
        self._call_soon(lambda: self._adopt_copy(group, good, copied, file))

    def _adopt_copy(self, old: Group, good: int, copied: int, file: int) -> None:
        if not self._is_open:
            return  # the next start sweeps the copy
        directory, size = old.directory, mask_bytes(old.length, good)
        kept = mask_bytes(old.length, copied)
        directory.copying -= size
        directory.renounce(size - kept)
        directory.keep(kept)
        wanted = self._copies.get(old.key) is old
        if wanted:
            del self._copies[old.key]
        if wanted and copied and self.table.get(*old.key) is None:
            new = Group(
                old.content, old.number, file, old.length, directory, old.mount, old.cache_group, old.admitted_ns,
                old.read_ns, copied, old.crcs, base=old.base, layout=old.layout,
            )  # fmt: skip
            new.pinned = new.content in self.pins
            self.table.add(new)
            self.shares.add(new)
            directory.groups += 1
            directory.pinned += kept if new.pinned else 0
            self._record(new)
            self._settle(new)
        else:
            directory.remove(file, kept)
        self.release(old)
