"""What a cache holds in memory: the life of a group from its file number to its unlink, making room, and copies without bad pages.

Invariants: a group is in the eviction order of its directory exactly if it has pages and is neither pinned nor being written (a
held one is passed over, and taken out until released); one that left the cache counts as used until nobody holds or writes it;
records follow every change into the index's queue. Owner's thread only. Not here: the face callers see (`cache`).
"""

from __future__ import annotations

import threading
from collections.abc import Callable

import msgspec

from monofs.model.errors import MonofsError, TierFull, TierUnusable, invariant
from monofs.model.ids import ContentId
from monofs.observe.logs import logger
from monofs.observe.metrics import BAD_PAGES, EVICTED_BYTES
from monofs.tiering import recovery
from monofs.tiering.directory import Directory
from monofs.tiering.files import copy_pages
from monofs.tiering.group import Group, GroupTable, mask_bytes
from monofs.tiering.index import GROUPS, KEY, META, NEXT_FILE, Index, Record

log = logger(__name__)
_encode = msgspec.msgpack.encode


class Holdings:
    """The groups of a cache and everything that changes because one comes or goes."""

    def __init__(
        self,
        directories: list[Directory],
        index: Index,
        call_soon: Callable[[Callable[[], None]], object],
        groups_max: int,
    ) -> None:
        self.directories, self.index = directories, index
        self.table = GroupTable()
        self.pins: set[int] = set()
        self.run: recovery.Run
        self._copies: dict[tuple[ContentId, int], Group] = {}
        self._call_soon, self._groups_max = call_soon, groups_max
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
        record = Record(
            group.directory.number, group.file, group.base, group.length, group.present, group.crcs, group.mount,
            group.cache_group, 0, group.admitted_ns, self.run.generation if group.verified else 0,
        )  # fmt: skip
        self.index.put(GROUPS, KEY.pack(group.content, group.number), _encode(record))

    def _settle(self, group: Group) -> None:
        """Put the group where its state says: in the eviction order, out of it, or away for good."""
        if not group.alive:
            if not group.holds and not group.reserved:
                self._finish(group)
            return
        if not group.present and not group.reserved and not group.holds:
            self._kill(group)
            return
        fits = bool(group.present) and not (group.holds or group.reserved or group.pinned)
        if fits and not group.listed:
            group.listed = True
            group.directory.policy.admitted(group, group.present_bytes)
        elif group.listed and (group.pinned or group.reserved):
            self._unlist(group)

    def _unlist(self, group: Group) -> None:
        group.listed = False
        group.directory.policy.removed(group)

    def _kill(self, group: Group) -> None:
        """Take the group out of the cache; its file goes when nobody holds or writes it."""
        directory = group.directory
        group.alive = False
        self.table.remove(group)
        directory.groups -= 1
        if group.listed:
            self._unlist(group)
        if group.present:
            self.index.put(GROUPS, KEY.pack(group.content, group.number), None)
            if group.pinned:
                directory.pinned -= group.present_bytes
        if group.holds or group.reserved:
            directory.lingering.add(group)
        else:
            self._finish(group)

    def _finish(self, group: Group) -> None:
        group.directory.lingering.discard(group)
        group.directory.remove(group.file, group.present_bytes, group.directory.files.forget(group))

    def _make_room(self, directory: Directory, need: int) -> None:
        """Evict until ``need`` bytes can be written. Raises ``TierFull``, with nothing evicted, when that cannot be reached."""
        short = need - directory.free_bytes()
        if short <= 0:
            return
        victims: list[Group] = []
        parked: list[Group] = []
        if directory.policy.bytes >= short:
            for group in directory.policy.victims():
                if group.holds:
                    parked.append(group)
                    continue
                victims.append(group)
                short -= group.present_bytes
                if short <= 0:
                    break
        for group in parked:  # `release` lists them again, so that the next search need not pass them
            self._unlist(group)
        if short > 0:
            raise TierFull(
                f"{directory.spec.directory}: {need} bytes do not fit and nothing more can be evicted",
                directory=directory.spec.directory,
            )
        for group in victims:
            EVICTED_BYTES(group.tier).add(group.present_bytes)
            self._kill(group)

    def _evict_one(self) -> None:
        heads = [next((g for g in d.policy.victims() if not g.holds), None) for d in self.directories]
        oldest = min((group for group in heads if group is not None), key=lambda group: group.read_ns, default=None)
        if oldest is None:
            raise TierFull(f"{self._groups_max} groups are cached and none can be evicted")
        EVICTED_BYTES(oldest.tier).add(oldest.present_bytes)
        self._kill(oldest)

    def _shrink(self, directory: Directory) -> None:
        """After a start with a smaller quota or less room: evict down to it."""
        if not directory.writable:
            return
        for group in list(directory.policy.victims()) if directory.free_bytes() < 0 else ():
            if directory.free_bytes() >= 0:
                return
            EVICTED_BYTES(group.tier).add(group.present_bytes)
            self._kill(group)

    # ---- copies without bad pages --------------------------------------------------------------------------------------

    def drop_pages(self, group: Group, mask: int) -> None:
        """Drop bad pages. The group leaves the cache at once; its good pages come back as a new, verified group, copied to a new
        file in the background, if there is room and nobody admitted or dropped the group meanwhile."""
        self._check_owner()
        bad = mask & group.present
        if not bad or not group.alive:
            return
        BAD_PAGES(group.tier).add(bad.bit_count())
        log.warning("bad pages dropped", content=group.content, group=group.number, pages=f"{bad:x}", tier=group.tier)
        good, directory = group.present & ~bad, group.directory
        size = mask_bytes(group.length, good)
        self.hold(group)
        self._kill(group)
        try:
            if not good:
                return
            self._check_index()
            self._make_room(directory, size)
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
            copied = copy_pages(group, good, file)
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
                old.read_ns, copied, old.crcs,
            )  # fmt: skip
            new.pinned = new.content in self.pins
            self.table.add(new)
            directory.groups += 1
            directory.pinned += kept if new.pinned else 0
            self._record(new)
            self._settle(new)
        else:
            directory.remove(file, kept)
        self.release(old)
