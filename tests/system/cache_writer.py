"""A process that keeps a cache busy until it is killed: run by test_cache_kill.py, one forked child a life.

Commands on stdin, one a line: ``live HOME SEED`` forks a child that opens the cache in HOME, checks every page it finds, and then
fills, drops, pins, keeps, moves and reads with three writer threads until it is killed. Its answers go to stdout: ``pid N``, then from the
child ``keeps C,C,…`` and ``found N``, or ``wrong WHAT``; ``kept C`` once a content no store has is safe, ``retired C`` before one is dropped.
The parent of the children opens nothing, so forking it is safe.
"""

from __future__ import annotations

import hashlib
import os
import queue
import random
import sys
import threading

from monofs.model.block import DEFAULT_LAYOUT, GROUP_PAGES, LAYOUT_WHOLE, PAGE_SIZE_BYTES
from monofs.model.errors import NotCached, TierFull
from monofs.model.ids import ContentId, MountId
from monofs.tiering import admission
from monofs.tiering.cache import Cache, Group, TierSpec
from monofs.tiering.checks import check_cache
from monofs.tiering.group import mask_pages, page_bytes
from monofs.tiering.orders import POLICIES

QUOTA = 24 * PAGE_SIZE_BYTES
CONTENTS = 40
KEPT_FROM = 1000
KEPT_MOST = 6
LENGTHS = (100, 70_000, PAGE_SIZE_BYTES, 2 * PAGE_SIZE_BYTES + 5, 4 * PAGE_SIZE_BYTES)


def page_data(content: int, page: int, size: int) -> bytes:
    seed = hashlib.sha256(f"{content}.{page}".encode()).digest()
    return (seed * (size // len(seed) + 1))[:size]


def data_of(group: Group, page: int) -> bytes:
    return page_data(group.content, group.number * GROUP_PAGES + page, page_bytes(group.length, page))


def say(text: str) -> None:
    os.write(1, f"{text}\n".encode())


class Life:
    """One run of a cache."""

    def __init__(self, home: str, seed: int) -> None:
        self.random = random.Random(seed)
        self.inbox: queue.SimpleQueue[object] = queue.SimpleQueue()
        self.work: queue.SimpleQueue[tuple[Group, int, bool]] = queue.SimpleQueue()
        self.next_kept = KEPT_FROM
        tiers = [TierSpec("TOP", f"{home}/top", QUOTA // 4), TierSpec("LOW", f"{home}/low", QUOTA)]
        self.cache = Cache(
            f"{home}/index",
            tiers,
            reserve=0.0,
            call_soon=self.inbox.put,
            index_interval_s=self.random.choice((0.001, 0.02, 1)),
            eviction=self.random.choice(POLICIES),
            watermark=self.random.choice((0.7, 1)),
            burst_ns=0,
        )
        self.flying = 0

    def run(self) -> None:
        admission.PART = 0  # groups of one block share a file, far beyond what is in it
        self.cache.open()
        self.check()
        for _ in range(3):
            threading.Thread(target=self.write, daemon=True).start()
        while True:
            self.step()
            self.cache.tend()
            while not self.inbox.empty() or self.flying > 8:
                self.inbox.get()()  # type: ignore[operator]

    def check(self) -> None:
        """Every page found has the bytes of its content, although the CRCs were never asked."""
        self.retire_again()
        pages = 0
        for group in self.cache:
            assert not group.verified or self.cache.run.was_clean
            fd = group.fd()
            for page in mask_pages(group.present):
                size = page_bytes(group.length, page)
                pages += 1
                if os.pread(fd, size, group.base + page * PAGE_SIZE_BYTES) != data_of(group, page):
                    say(f"wrong content {group.content} page {page}")
        for name, findings in check_cache(self.cache, pages=True).items():
            for finding in findings:
                say(f"wrong {name}: {finding}")
        whole = [group.content for group in self.cache if group.kept and group.present == group.pages]
        say(f"keeps {','.join(map(str, whole))}")
        self.next_kept = max([KEPT_FROM, *(content + 1 for content in whole)])
        say(f"found {pages}")

    def retire_again(self) -> None:
        """As a feed does that is heard again: a kept content whose file is gone was being dropped when the end came."""
        for group in [group for group in self.cache if group.kept]:
            try:
                group.fd()
            except NotCached:
                self.cache.drop(group.content)

    def write(self) -> None:
        while True:
            group, mask, keep = self.work.get()
            pages = []
            for page in mask_pages(mask):
                pieces = [(page, [memoryview(data_of(group, page))])]
                pages.extend(self.cache.write_pages(group, pieces, patient=True))
            if keep:
                self.cache.sync_file(group)
            self.inbox.put(lambda group=group, pages=pages, keep=keep: self.land(group, pages, keep=keep))

    def land(self, group: Group, pages: list[tuple[int, int]], *, keep: bool) -> None:
        self.flying -= 1
        self.cache.commit(group, pages, keep=keep)
        if keep:
            self.cache.index.flush()
            say(f"kept {group.content}")

    def step(self) -> None:
        content = ContentId(self.random.randrange(1, CONTENTS))
        cache, chance = self.cache, self.random.random()
        if chance < 0.75:
            try:
                number = self.random.randrange(3) if content % 3 == 0 else 0
                layout = LAYOUT_WHOLE if content % 3 == 0 else DEFAULT_LAYOUT
                length = LENGTHS[content % len(LENGTHS)]
                group = cache.admit(content, number, length, MountId(1), 0, layout=layout)
                mask = cache.reserve(group, self.random.randrange(1, 16))
            except TierFull:
                return
            if mask:
                self.flying += 1
                self.work.put((group, mask, False))
            else:
                cache.hold(group)
                cache.release(group)  # an empty group goes
        elif chance < 0.78:
            self.keep()
        elif chance < 0.85:
            cache.drop(content)
        elif chance < 0.9:
            (cache.pin if self.random.random() < 0.2 else cache.unpin)([content])
        elif chance < 0.97:
            found = cache.lookup(content, 0)
            if found is not None:
                cache.touch(found)
                cache.promote(found)
        else:
            found = cache.lookup(content, self.random.randrange(3))
            if found is not None and found.present:
                cache.drop_pages(found, found.present & -found.present)

    def keep(self) -> None:
        """One more content that no store has; one of the others ends when there are enough."""
        if len(self.cache.kept) >= KEPT_MOST:
            retired = ContentId(self.random.choice(sorted(self.cache.kept)))
            say(f"retired {retired}")
            self.cache.drop(retired)
            return
        content, self.next_kept = ContentId(self.next_kept), self.next_kept + 1
        try:
            group = self.cache.admit(content, 0, LENGTHS[content % len(LENGTHS)], MountId(0), 0, durable=True)
            self.cache.hold(group)
            try:
                mask = self.cache.reserve(group, group.pages)
            finally:
                self.cache.release(group)
        except TierFull:
            return
        self.flying += 1
        self.work.put((group, mask, True))


def main() -> None:
    for line in sys.stdin:
        _, home, seed = line.split()
        pid = os.fork()
        if not pid:
            try:
                Life(home, int(seed)).run()
            except BaseException as error:
                say(f"wrong {error!r}")
                os._exit(1)
        say(f"pid {pid}")
        os.waitpid(pid, 0)
        say("dead")


if __name__ == "__main__":
    main()
