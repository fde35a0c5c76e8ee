"""The page cache of a worker: groups of pages in files on tiered storage directories, found again after a restart.

Invariants, each named in `checks`: a page is present only after its write returned; used bytes never exceed the quota, of a directory
or a policy; a pinned, kept, held or half-written group is never evicted; a file number is never used twice, so a record can never meet
another group's bytes. Everything is called on the owner's thread except what says ANY thread.

Not here: how pages come in (`admission`), fetching, single flight, who may read.
"""

from __future__ import annotations

import os
import resource
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import chain

import msgspec

from monofs.model.block import GROUP_SIZE_BYTES
from monofs.model.errors import TierFull, TierUnusable, invariant
from monofs.model.ids import ContentId
from monofs.observe.logs import logger
from monofs.tiering import files as page_files
from monofs.tiering import recovery
from monofs.tiering.admission import Admission
from monofs.tiering.blockfile import file_groups, is_busy
from monofs.tiering.directory import WRITERS, Directory
from monofs.tiering.eviction import Allocation, Ranked
from monofs.tiering.files import FileTable
from monofs.tiering.group import Group
from monofs.tiering.holdings import Why
from monofs.tiering.hot import Hot
from monofs.tiering.index import CURSOR, GROUPS, KEY, META, PINS, Index
from monofs.tiering.keeping import GROWING, Aside
from monofs.tiering.moving import BURST_NS
from monofs.tiering.orders import EVICTION, orders_of
from monofs.tiering.shares import Rule, Shares
from monofs.tiering.spec import TierSpec, parse_tiers
from monofs.tiering.trace import Recorder

__all__ = ["GROWING", "Cache", "Group", "Rule", "TierSpec", "TierStatus", "Why", "parse_tiers"]

PRESSED_NS = 60 * 10**9
GROUPS_MAX = 4_000_000
"""Groups in memory (about 0.6 KB each) before the oldest makes room, whatever the quota."""
PINS_MAX = 4_000_000
DESCRIPTORS_MAX = 4096
STOP_TIMEOUT_S = 30.0
CONTENTS_SLICE = 10_000

log = logger(__name__)
_encode = msgspec.msgpack.encode


@dataclass(frozen=True, slots=True)
class TierStatus:
    """One storage directory; bytes are exact. ``state``: ok, full, readonly, failing or unusable, with ``error`` saying why."""

    tier: str
    directory: str
    capacity_bytes: int
    used_bytes: int
    pinned_bytes: int
    groups: int
    state: str
    error: str
    held_bytes: int = 0
    """Of the used bytes, those of groups that left the cache while somebody held them."""


class Cache(Admission):
    """All cached pages of one worker. See the module for what may be called where."""

    def __init__(
        self,
        index_directory: str,
        tiers: list[TierSpec],
        *,
        reserve: float,
        call_soon: Callable[[Callable[[], None]], object],
        clock_ns: Callable[[], int] = time.time_ns,
        index_interval_s: float = 1.0,
        groups_max: int = GROUPS_MAX,
        eviction: str = EVICTION,
        allocation: str = "max-free",
        watermark: float = 1.0,
        trace: str = "",
        writers: int = WRITERS,
        burst_ns: int = BURST_NS,
    ) -> None:
        """``reserve``: the share of each file system never filled. ``call_soon`` runs a callable on the owner's thread.
        ``eviction``: one of `orders.POLICIES`. ``allocation``: one of `eviction.ALLOCATIONS`. ``watermark``: how much of its quota a
        directory has in use before `tend` frees some. ``trace``: file to record accesses in; empty: none. ``writers``: threads
        that may write to one directory while another is well. Raises ``ConfigError``."""
        self.files, shares = FileTable(DESCRIPTORS_MAX), Shares()
        new_order = orders_of(eviction)
        directories = [
            Directory(spec, self.files, reserve, lambda: Ranked(shares.rank_of, new_order), writers=writers)
            for spec in tiers
        ]
        for directory in directories:
            directory.others = [each for each in directories if each is not directory]
        index = Index(index_directory, interval_s=index_interval_s, call_soon=call_soon)
        super().__init__(
            directories,
            index,
            shares,
            call_soon,
            clock_ns,
            groups_max,
            allocation=Allocation(allocation),
            watermark=watermark,
        )
        self._burst_ns = burst_ns
        self.hot = Hot(clock_ns())
        self._trace = Recorder(trace) if trace else None

    # ---- life ---------------------------------------------------------------------------------------------------------

    def open(self) -> None:
        """Recover; blocking. The calling thread becomes the owner. Raises ``HomeInUse``, ``HomeUnusable``, ``TierUnusable``."""
        self._owner = threading.get_ident()
        soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        self.files.limit = max(16, min(DESCRIPTORS_MAX, soft // 4))
        self.index.open()
        try:
            self._recover()
            if self._trace is not None:
                self._trace.start()
        except BaseException:
            self._abandon()
            raise
        for directory in self.directories:
            directory.keeper.start()
        self.mover.start()
        self._is_open = True
        for directory in self.directories:
            self._shrink(directory)
        log.info("cache open", groups=self.table.count, clean=self.run.was_clean, generation=self.run.generation)

    def close(self) -> None:
        """Make everything durable and mark the stop clean; blocking. What cannot be made durable leaves the stop unclean."""
        if not self._is_open:
            return
        self._is_open = False
        self.past.let_go()
        if self._trace is not None:
            self._trace.stop(STOP_TIMEOUT_S)
        stopped = [keeper.stop(STOP_TIMEOUT_S) for keeper in (self.mover, *(each.keeper for each in self.directories))]
        try:
            for directory in self.directories:
                if directory.attached:  # one that fails now may have taken pages before it did
                    directory.sync()
                recovery.store_order(self.index, directory, self._oldest_first(directory))
            for group in self.table:
                if group.suspect and group.verified and group.alive:
                    self._record(group)
            self.index.flush(STOP_TIMEOUT_S)
            if all(stopped):
                self.index.put(META, b"clean", b"1")
                self.index.flush(STOP_TIMEOUT_S)
        except (OSError, TierUnusable) as error:
            log.error("cache could not be closed cleanly; its pages will be verified", error=str(error))
        self._abandon()

    def _abandon(self) -> None:
        self.index.close()
        self.files.close()
        for directory in self.directories:
            directory.detach()
        for group in chain(self.table, *(directory.lingering for directory in self.directories)):
            group.block = None
        self.table.clear()
        self.blocks.clear()
        self.shares.clear()
        self.aside.clear()
        self.moves.clear()

    def _recover(self) -> None:
        index, directories = self.index, self.directories
        self.run = run = recovery.read_run(index)
        index.cursor = run.cursor
        recovery.attach_directories(index, run, directories)
        self.pins = recovery.load_pins(index)
        useless, self.absent = recovery.load_groups(index, run, directories, self.pins, self.table)
        self.aside = {key: Aside(*found) for key, found in recovery.load_aside(index, run, directories).items()}
        self._load_kept(self.table)
        missed = recovery.directories_of([*self.absent.values(), *(each.value for each in self.aside.values())])
        run.format = recovery.FORMAT_ASIDE if self.aside else recovery.FORMAT
        by_directory: dict[Directory, dict[int, list[Group]]] = {directory: {} for directory in directories}
        for group in self.table:
            by_directory[group.directory].setdefault(group.file, []).append(group)
        for aside in self.aside.values():
            if aside.group is not None:
                by_directory[aside.group.directory].setdefault(aside.group.file, []).append(aside.group)
                aside.group.directory.lingering.add(aside.group)
        for groups in by_directory.values():
            for block in recovery.find_blocks(groups):
                self._open_block(block)
        recovery.claim_run(index, run, directories, missed)
        self._next_file, self._claimed = run.next_file, run.next_file + recovery.FILE_CLAIM
        for key in useless:
            index.put(GROUPS, key, None)
        for directory, groups in by_directory.items():
            self._recover_directory(directory, groups)
        self._bring_back(run.cluster)

    def _recover_directory(self, directory: Directory, groups: dict[int, list[Group]]) -> None:
        if directory.attached:
            for group in recovery.sweep(self.run, directory, groups):
                if group.kept:  # whatever is left of it stays; what is not, is found when it is compared with its CRCs
                    group.verified = False
                    continue
                groups[group.file].remove(group)
                self._part(group)
                self.table.remove(group)
                self.index.put(GROUPS, KEY.pack(group.content, group.number), None)
                if not groups[group.file]:
                    del groups[group.file]
                    directory.remove_later(group.file)
        recovery.count_usage(directory, chain.from_iterable(groups.values()))
        directory.resolve_quota()
        for group in recovery.in_order(self.index, directory, groups):
            if group.alive:
                self.shares.add(group)
                self._settle(group)

    def _oldest_first(self, directory: Directory) -> Iterator[Group]:
        yield from directory.policy
        for group in self.table:
            if group.directory is directory and not group.listed:
                yield group

    # ---- identity and feed --------------------------------------------------------------------------------------------

    @property
    def cluster(self) -> bytes:
        """Id of the cluster whose contents are cached; empty before the first `adopt_cluster`."""
        return self.run.cluster

    @property
    def incarnation(self) -> int:
        """Its incarnation."""
        return self.run.incarnation

    def adopt_cluster(self, cluster: bytes, incarnation: int) -> None:
        """Serve this cluster from now on; pages, pins and cursor of any other are dropped first (law 1).

        What is kept is set aside when the cluster is another one. In another incarnation of the same it stays: a content id names its
        incarnation, so it means the same bytes, and nobody else has them.
        """
        self._check_owner()
        if (cluster, incarnation) == (self.run.cluster, self.run.incarnation):
            return
        self.drop_clean()
        if cluster != self.run.cluster:
            self._set_aside()
        self.unpin([ContentId(content) for content in self.pins])
        self.set_cursor(0)
        self.index.put(META, b"cluster", cluster)
        self.index.put(META, b"incarnation", incarnation.to_bytes(8, "big"))
        self.run.cluster, self.run.incarnation = cluster, incarnation
        self._bring_back(cluster)

    @property
    def cursor(self) -> int:
        """The last feed index acted on."""
        return self.run.cursor

    def set_cursor(self, cursor: int) -> None:
        """Remember a feed index: durable together with, never before, the drops and pins that came earlier."""
        self.run.cursor = cursor
        self.index.put(META, CURSOR, cursor.to_bytes(8, "big"))

    @property
    def durable_cursor(self) -> int:
        """The feed index acted on that a crash now would leave: never beyond `cursor`."""
        return min(self.index.cursor, self.run.cursor)

    # ---- finding -----------------------------------------------------------------------------------------------------

    def lookup(self, content: ContentId, group: int) -> Group | None:
        """The cached group; None when there is none or its directory is not attached."""
        found = self.table.get(content, group)
        return found if found is not None and found.directory.attached else None

    def readable(self, content: ContentId, group: int) -> Group | None:
        """The same for who reads the content, which may have retired meanwhile: then the group is not ``alive``."""
        return self.lookup(content, group) or self.past.get(content, group)

    def groups(self, content: ContentId) -> list[Group]:
        """All cached groups of a content."""
        return [group for group in self.table.of(content) if group.directory.attached]

    def __iter__(self) -> Iterator[Group]:
        """All cached groups as they are now; the cache may change meanwhile (look at ``alive``)."""
        return iter([group for group in self.table if group.directory.attached])

    def contents(self) -> Iterator[list[ContentId]]:
        """Ids of all contents cached now, in lists of at most 10,000; the cache may change between them."""
        ids = self.table.contents()
        for begin in range(0, len(ids), CONTENTS_SLICE):
            yield [ContentId(content) for content in ids[begin : begin + CONTENTS_SLICE]]

    def touch(self, group: Group) -> None:
        """The group was read. What comes within a second of a read that counted is part of it: else one scan of a file, in reads
        of 128 KiB, would count as hundreds, and no policy could tell it from a file that is read again and again."""
        now_ns = self._clock_ns()
        if abs(now_ns - group.read_ns) < self._burst_ns:  # a clock that was set back must not end all counting
            return
        if self._trace is not None:
            self._trace.record(group.content, group.number, group.length, now_ns)
        self.hot.touched(group.content, now_ns)
        for mate in file_groups(group):  # they go together, so what is read of one keeps all
            mate.read_ns = now_ns
            if mate.listed:
                mate.directory.policy.touched(mate)

    # ---- reading ------------------------------------------------------------------------------------------------------

    def read_ready(self, group: Group, offset: int, length: int) -> memoryview | None:
        """Bytes ``[offset, offset + length)`` of the group if they and the file's name are in memory: never waits for a disk.

        None: use `read` in a thread. The caller has seen the pages in ``present``.
        """
        fd = self.files.ready(group)
        if fd is None:
            return None
        buffer = bytearray(length)
        try:
            count = os.preadv(fd, [buffer], group.base + offset, os.RWF_NOWAIT)
        except OSError:
            return None  # EAGAIN: not in memory; EOPNOTSUPP: this file system cannot tell; EIO: `read` will say
        return memoryview(buffer) if count == length else None

    def read(self, group: Group, offset: int, length: int) -> memoryview | None:
        """ANY thread, for a held group: read bytes from the disk; None when they cannot be read in full.

        The descriptor used is kept, so that `read_ready` finds the file open, where that can be closed without waiting.
        """
        try:
            fd = page_files.open_file(group, os.O_RDONLY)
        except OSError:
            return None
        buffer, done = memoryview(bytearray(length)), 0
        try:
            while done < length:
                count = os.preadv(fd, [buffer[done:]], group.base + offset + done)
                if not count:
                    break
                done += count
        except OSError as error:
            log.warning("a cached page cannot be read", directory=group.directory.spec.directory, error=str(error))
        if group.directory.is_local:
            self._call_soon(lambda: self._adopt_descriptor(group, fd))
        else:
            os.close(fd)
        return buffer if done == length else None

    def open_reader(self, group: Group) -> int:
        """ANY thread, for a held group: a fresh read-only descriptor to give away; the caller closes it.

        Raises ``NotCached``, ``TierUnusable``.
        """
        return page_files.open_reader(group)

    def check_pages(self, group: Group, mask: int, *, direct: bool = False) -> int:
        """ANY thread, for a held group: bitmap of those present pages of ``mask`` whose bytes do not match their CRC. ``direct``: past
        the kernel's memory, where the file system can.

        When it is 0 for all of ``present``, set ``group.verified = True`` on the owner's thread.
        """
        return page_files.check_pages(group, mask, direct=direct)

    def _adopt_descriptor(self, group: Group, fd: int) -> None:
        if self._is_open:
            self.files.adopt(group, fd)
        else:
            os.close(fd)

    # ---- dropping -----------------------------------------------------------------------------------------------------

    def retire(self, content: ContentId) -> None:
        """As :meth:`drop`; who is reading it finds its pages in ``readable`` for a while."""
        groups = self.groups(content)
        is_read = self.past.is_read(groups)
        if is_read:
            for group in groups:
                self.hold(group)
        self.drop(content)
        if is_read:
            self.past.keep(content, groups)

    def drop(self, content: ContentId) -> None:
        """Drop everything of a content, pinned or not, and its pin: no path has it any more."""
        self._check_owner()
        self._forget_copies(content)
        for group in self.table.of(content):
            self._kill(group, Why.RETIRED)
        self._forget_kept(content)
        self._unpin(content)

    def drop_clean(self) -> None:
        """Drop every page that can be fetched again; pins and what no store has stay."""
        self._check_owner()
        self.past.let_go()
        self._copies.clear()
        for group in list(self.table):
            if not group.kept:
                self._kill(group, Why.DROPPED)

    def free(self, contents: Iterable[ContentId], force: bool) -> int:
        """Drop cached pages of contents, pinned ones only with ``force`` (they stay pinned), never those no store has; returns how
        many contents stayed."""
        self._check_owner()
        stayed = 0
        for content in contents:
            if (content in self.pins and not force) or content in self.kept:
                stayed += 1
                continue
            self._forget_copies(content)
            for group in self.table.of(content):
                self._kill(group, Why.FREED)
        return stayed

    def hand_over(self, group: Group) -> None:
        """The worker that owns the group has all its pages: drop it here, pinned or not."""
        self._check_owner()
        invariant(not group.kept, "what no store has is never given away")
        self._kill(group, Why.HANDED)

    def drop_file(self, group: Group) -> bool:
        """The group's file was removed by somebody: what lay in it is gone, and what was to join it needs another one. False: that cannot be it."""
        was_told = not group.alive  # by somebody else who was writing to it
        lost = [mate for mate in file_groups(group) if mate.alive]
        for mate in lost:
            if mate.present:
                self.drop_pages(mate, mate.present)
            else:
                self._kill(mate, Why.DROPPED)
        return was_told or bool(lost)

    def age(self, group: Group, age_ns: int) -> None:
        """The group's pages came from another worker, which has had them for so long: their time to live goes on."""
        self._check_owner()
        admitted_ns = self._clock_ns() - age_ns
        if group.alive and admitted_ns < group.admitted_ns:
            group.admitted_ns = admitted_ns
            self.shares.aged(group)
            self._record(group)

    def drop_pages(self, group: Group, mask: int) -> None:
        """Pages were found bad. A kept group loses them and keeps the rest; any other leaves the cache, see `holdings`."""
        self._check_owner()
        if not group.kept or not group.alive:
            super().drop_pages(group, mask)
        elif mask & group.present:
            self._lose(group, mask & group.present)

    def pin(self, contents: Iterable[ContentId]) -> None:
        """Never evict pages of these contents, cached now or later. Raises ``TierFull`` beyond 4 million pins."""
        self._check_owner()
        for content in contents:
            if content in self.pins:
                continue
            if len(self.pins) >= PINS_MAX:
                raise TierFull(f"more than {PINS_MAX} contents are pinned on this worker; unpin some")
            self.pins.add(content)
            self.index.put(PINS, content.to_bytes(8, "big"), b"")
            for group in self.table.of(content):
                group.pinned = True
                group.directory.pinned += group.present_bytes
                self._settle(group)

    def unpin(self, contents: Iterable[ContentId]) -> None:
        """End `pin`."""
        self._check_owner()
        for content in contents:
            self._unpin(content)

    def _unpin(self, content: ContentId) -> None:
        if content not in self.pins:
            return
        self.pins.discard(content)
        self.index.put(PINS, content.to_bytes(8, "big"), None)
        for group in self.table.of(content):
            group.pinned = False
            group.directory.pinned -= group.present_bytes
            self._settle(group)

    # ---- numbers ------------------------------------------------------------------------------------------------------

    @property
    def capacity_bytes(self) -> int:
        """Sum of the quotas of the directories in use."""
        return sum(directory.quota for directory in self.directories if directory.attached)

    @property
    def used_bytes(self) -> int:
        """Sum of the bytes used in the directories in use."""
        return sum(directory.used for directory in self.directories if directory.attached)

    def is_wanted(self, group: Group) -> bool:
        """Whether a group that is held should be let go: its directory has no room for another one, or less than is kept free, or its policy has more than
        its quota; and all of its file has left the cache, or the search for room has passed it."""
        directory = group.directory
        is_over = (self.shares.room(group.policy) or 0) < 0
        if not is_over and directory.free_bytes() >= max(GROUP_SIZE_BYTES, self._headroom(directory)):
            return False
        return not any(
            mate.listed or mate.pinned or mate.kept or mate.reserved for mate in file_groups(group) if mate.alive
        )

    def is_pressed(self, directory: Directory) -> bool:
        """Whether a search for room has met groups that somebody held, in the last minute."""
        return self._clock_ns() - directory.passed_ns < PRESSED_NS

    def status(self) -> list[TierStatus]:
        """One entry a storage directory, in the order of the settings."""
        return [
            TierStatus(
                tier=d.spec.name,
                directory=d.spec.directory,
                capacity_bytes=d.quota,
                used_bytes=d.used if d.attached else 0,
                pinned_bytes=d.pinned if d.attached else 0,
                groups=d.groups if d.attached else 0,
                state=d.state,
                error=d.error or self.index.error,
                held_bytes=sum(group.present_bytes for group in d.lingering if is_busy(group)),
            )
            for d in self.directories
        ]

    def settle(self, timeout_s: float = STOP_TIMEOUT_S) -> bool:
        """Wait until unlinks and copies asked for are done on the disks; blocking, for tests and tools."""
        waited = [keeper.wait(timeout_s) for keeper in (self.mover, *(each.keeper for each in self.directories))]
        return all(waited)
