"""Bytes that no store has (law 5), and groups written before their length is known.

A *kept* group leaves the cache only when its content retires: eviction, `free`, `drop_clean` and bad pages leave it where it is. Its
record carries the mark; a page of it found bad is *lost*: it cannot be read, nobody can bring it again, and the others stay. Kept
groups of another cluster are set *aside*: out of sight, their files counted as used, until that cluster is served again.

Order of doing, which is law: pages written, `trim_file`, `sync_file` (ANY thread), then `commit` with ``keep`` (owner's thread), then a flush
of the index; only then may anybody be told that the bytes are safe. Not here: who decides what is kept (the worker's writers).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from monofs.model.block import GROUP_SIZE_BYTES, page_count
from monofs.model.errors import NotCached, PageCorrupt, invariant
from monofs.model.ids import ContentId, format_content_id
from monofs.observe.logs import logger
from monofs.observe.metrics import BAD_PAGES
from monofs.tiering import files as page_files
from monofs.tiering import recovery
from monofs.tiering.directory import Directory
from monofs.tiering.group import Group, mask_bytes
from monofs.tiering.holdings import Holdings, Why
from monofs.tiering.index import ASIDE, GROUPS, KEY, Index
from monofs.tiering.shares import Shares

log = logger(__name__)


class Aside(NamedTuple):
    """A kept group of another cluster; ``group`` None: its directory is not configured."""

    group: Group | None
    value: bytes


class Keeping(Holdings):
    """Groups that must not be lost."""

    def __init__(
        self,
        directories: list[Directory],
        index: Index,
        shares: Shares,
        call_soon: Callable[[Callable[[], None]], object],
        clock_ns: Callable[[], int],
        groups_max: int,
    ) -> None:
        super().__init__(directories, index, shares, call_soon, clock_ns, groups_max)
        self.kept: set[int] = set()
        """Contents with kept groups."""
        self.absent: dict[bytes, bytes] = {}
        """Records of kept groups whose directory is not configured: index key → record."""
        self.aside: dict[bytes, Aside] = {}
        """Key in the table ``aside`` → what is set aside."""

    # ---- writing before the length is known ---------------------------------------------------------------------------

    def seal(self, group: Group, length: int) -> None:
        """A group admitted at full length has ``length`` bytes: the content ends in it. Before its last page is reserved.

        Its file is cut with `trim_file`. Invariant: no page is present yet, and those reserved are whole pages below ``length``.
        """
        self._check_owner()
        invariant(0 < length <= group.length, "a group is sealed at no more than it was admitted for")
        invariant(not group.present, "a group is sealed before its pages can be read")
        invariant(
            mask_bytes(length, group.reserved) == mask_bytes(group.length, group.reserved)
            and group.reserved >> page_count(length) == 0,
            "the pages written before a group is sealed are whole ones below its end",
        )
        group.length = length
        group.crcs = bytes(4 * page_count(length))

    def trim_file(self, group: Group) -> None:
        """ANY thread, for a held group: cut the file of a sealed group. Raises ``TierUnusable``, ``NotCached``."""
        page_files.trim_file(group)

    def begin_sync(self, group: Group, pages: Sequence[int]) -> None:
        """ANY thread, for a held group: have the disk begin with pages that were written, before `sync_file`."""
        page_files.begin_sync(group, pages)

    def sync_file(self, group: Group) -> None:
        """ANY thread, for a held group: make its file durable. Raises ``TierFull``, ``TierUnusable``, ``NotCached``."""
        page_files.sync_file(group)

    # ---- kept ---------------------------------------------------------------------------------------------------------

    def check_kept(self, content: ContentId) -> None:
        """Raise why pages of a kept content that are missing here cannot be had: ``PageCorrupt``, ``NotCached``.

        Of other contents nothing is said: a store has them.
        """
        if content not in self.kept:
            return
        shown = format_content_id(content)
        for group in self.table.of(content):
            if not group.directory.attached:
                raise NotCached(
                    f"bytes of content {shown} lie in {group.directory.spec.directory}, which cannot be used now:"
                    f" {group.directory.error}"
                )
            if group.lost:
                raise PageCorrupt(
                    f"{group.lost.bit_count()} MiB of content {shown} are damaged on this worker's disk, and no store has them"
                )
        raise NotCached(f"bytes of content {shown} lie in a storage directory that is not configured any more")

    def _lose(self, group: Group, bad: int) -> None:
        """Pages of a kept group are bad: they are not read any more; a restart looks at them again."""
        size = mask_bytes(group.length, bad)
        BAD_PAGES(group.tier).add(bad.bit_count())
        log.error(
            "bytes that no store has are damaged",
            content=format_content_id(group.content),
            group=group.number,
            pages=f"{bad:x}",
            directory=group.directory.spec.directory,
        )
        group.present &= ~bad
        group.lost |= bad
        group.verified = True  # of what is left, every page was compared
        group.directory.charge(-size)
        if group.pinned:
            group.directory.pinned -= size
        self.shares.charge(group, -size)
        self._record(group)
        self._settle(group)

    def _forget_kept(self, content: ContentId) -> None:
        """The content retired."""
        if content not in self.kept:
            return
        self.kept.discard(content)
        prefix = content.to_bytes(8, "big")
        for key in [key for key in self.absent if key.startswith(prefix)]:
            del self.absent[key]
            self.index.put(GROUPS, key, None)

    @property
    def kept_bytes(self) -> int:
        """Bytes of kept pages that can be read."""
        return sum(group.present_bytes for content in self.kept for group in self.table.of(content) if group.kept)

    # ---- aside --------------------------------------------------------------------------------------------------------

    def _set_aside(self) -> None:
        """Take every kept group out of sight: content ids of another cluster mean other bytes."""
        if not self.kept:
            return
        prefix = self.run.cluster + self.run.incarnation.to_bytes(8, "big")
        log.error(
            "bytes that no store has are of another cluster: they are set aside until this worker serves that one again",
            cluster=self.run.cluster.hex(),
            contents=len(self.kept),
            bytes=self.kept_bytes,
        )
        recovery.raise_format(self.index, self.run, recovery.FORMAT_ASIDE)
        for group in [group for content in self.kept for group in self.table.of(content) if group.kept]:
            key, value = prefix + KEY.pack(*group.key), self._encoded(group)
            self.index.put(ASIDE, key, value)  # before its record goes: a crash between must find one of them
            self.hold(group)  # for good: its file stays
            self._kill(group, Why.DROPPED)
            self.aside[key] = Aside(group, value)
        for key, value in self.absent.items():
            self.index.put(ASIDE, prefix + key, value)
            self.index.put(GROUPS, key, None)
            self.aside[prefix + key] = Aside(None, value)
        self.absent.clear()
        self.kept.clear()

    def _bring_back(self, cluster: bytes) -> None:
        """Serve again what was set aside of this cluster. What a reader still holds from before waits for the next start."""
        for key, aside in list(self.aside.items()):
            if key[:16] != cluster:
                continue
            old = aside.group
            if old is None:
                self.absent[key[24:]] = aside.value
                self.index.put(GROUPS, key[24:], aside.value)
                self.kept.add(KEY.unpack(key[24:])[0])
            elif old.holds > 1 or self.table.get(*old.key) is not None:
                continue
            else:
                self._revive(old)
            del self.aside[key]
            self.index.put(ASIDE, key, None)

    def _revive(self, old: Group) -> None:
        directory = old.directory
        directory.lingering.discard(old)
        new = Group(
            old.content, old.number, old.file, old.length, directory, old.mount, old.cache_group, old.admitted_ns,
            old.read_ns, old.present, old.crcs, base=old.base, verified=old.verified, suspect=old.suspect, kept=True, lost=old.lost,
            layout=old.layout,
        )  # fmt: skip
        if old.block is not None:
            old.block.replace(old, new)
        new.pinned = new.content in self.pins
        self.table.add(new)
        self.shares.add(new)
        self.kept.add(new.content)
        directory.groups += 1
        directory.pinned += new.present_bytes if new.pinned else 0
        self._record(new)

    @property
    def aside_bytes(self) -> int:
        """Bytes of pages set aside."""
        return sum(aside.group.present_bytes for aside in self.aside.values() if aside.group is not None)

    def _load_kept(self, groups: Iterable[Group]) -> None:
        """At start: which contents are kept."""
        self.kept = {group.content for group in groups if group.kept}
        self.kept.update(KEY.unpack(key)[0] for key in self.absent)


GROWING = GROUP_SIZE_BYTES
"""Length to admit a group with whose content's size is not known."""
