"""A small cache on real files, with contents whose bytes follow from their ids."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable
from pathlib import Path

from monofs.model.block import DEFAULT_LAYOUT, PAGE_SIZE_BYTES
from monofs.model.ids import ContentId, MountId
from monofs.tiering.cache import Cache, Group, TierSpec
from monofs.tiering.checks import check_cache
from monofs.tiering.group import mask_pages, page_bytes

PAGE = PAGE_SIZE_BYTES


def page_data(content: int, group: int, page: int, size: int) -> bytes:
    seed = hashlib.sha256(f"{content}.{group}.{page}".encode()).digest()
    return (seed * (size // len(seed) + 1))[:size]


class Rig:
    """A cache, its owner's queue, and what tests do with it."""

    def __init__(
        self, home: Path, tiers: list[TierSpec] | None = None, *, quota: int = 8 * PAGE, **options: object
    ) -> None:
        self.home = home
        self.tiers = tiers or [TierSpec("DISK", str(home / "tier"), quota)]
        self.queue: list[Callable[[], None]] = []
        self.clock = itertools.count(1)
        self.options = options
        self.layouts: dict[int, int] = {}
        """Of contents that have not the default."""
        self.cache = self.new()

    def new(self) -> Cache:
        options = {"reserve": 0.0, "index_interval_s": 3600.0, "eviction": "lru", "burst_ns": 0, **self.options}
        return Cache(
            str(self.home / "index"), self.tiers, call_soon=self.queue.append, clock_ns=self.clock.__next__, **options
        )

    def open(self) -> Cache:
        self.cache.open()
        return self.cache

    def reopen(self) -> Cache:
        """After a clean stop."""
        self.cache.close()
        self.cache = self.new()
        return self.open()

    def pump(self) -> None:
        """Let keepers finish and run what they handed to the owner's thread, until nothing is left."""
        self.cache.settle()
        while self.queue:
            self.queue.pop(0)()
            self.cache.settle()

    def write(self, group: Group, mask: int) -> list[tuple[int, int]]:
        """Write pages with their right bytes; (page, CRC) each."""
        return [
            (page, self.cache.write_page(group, page, memoryview(self.data(group, page)))) for page in mask_pages(mask)
        ]

    def data(self, group: Group, page: int) -> bytes:
        return page_data(group.content, group.number, page, page_bytes(group.length, page))

    def admit(
        self,
        content: int,
        length: int = PAGE,
        number: int = 0,
        *,
        policy: int = 0,
        durable: bool = False,
        layout: int | None = None,
    ) -> Group:
        layout = self.layouts.get(content, DEFAULT_LAYOUT) if layout is None else layout
        return self.cache.admit(
            ContentId(content), number, length, MountId(1), 2 * policy, layout=layout, durable=durable
        )

    def fill(
        self, content: int, length: int = PAGE, mask: int | None = None, number: int = 0, *, policy: int = 0
    ) -> Group:
        """Admit a group and make pages present, all or ``mask``."""
        group = self.admit(content, length, number, policy=policy)
        mask = group.pages if mask is None else mask
        self.cache.reserve(group, mask)
        self.cache.commit(group, self.write(group, mask & ~group.present))
        return group

    def keep(self, content: int, length: int = PAGE, number: int = 0) -> Group:
        """A whole group that no store has, durable."""
        group = self.admit(content, length, number, durable=True)
        pages = self.cache.reserve(group, group.pages)
        crcs = self.write(group, pages)
        self.cache.sync_file(group)
        self.cache.commit(group, crcs, keep=True)
        self.cache.index.flush()
        return group

    def cached(self) -> set[int]:
        return {group.content for group in self.cache}

    def used(self) -> int:
        return self.cache.used_bytes

    def file(self, group: Group) -> Path:
        return Path(group.directory.spec.directory) / "files" / f"{group.file & 255:02x}" / f"{group.file:x}"

    def files(self) -> list[Path]:
        self.cache.settle()
        return sorted(path for spec in self.tiers for path in Path(spec.directory).glob("files/*/*"))

    def corrupt(self, group: Group, page: int, offset: int = 0) -> None:
        with self.file(group).open("r+b") as file:
            file.seek(group.base + page * PAGE + offset)
            byte = file.read(1)
            file.seek(group.base + page * PAGE + offset)
            file.write(bytes([byte[0] ^ 255]))

    def check(self, *, disk: bool = True, pages: bool = True) -> None:
        findings = check_cache(self.cache, disk=disk, pages=pages and disk)
        broken = {name: found for name, found in findings.items() if found}
        assert not broken, broken
