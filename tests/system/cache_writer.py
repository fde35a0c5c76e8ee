"""A process that keeps a cache busy until it is killed: run by test_cache_kill.py, one forked child a life.

Commands on stdin, one a line: ``live HOME SEED`` forks a child that opens the cache in HOME, checks every page it finds, and then
fills, drops, pins and reads with three writer threads until it is killed. Its answers go to stdout: ``pid N``, then from the
child ``found N``, or ``wrong WHAT``. The parent of the children opens nothing, so forking it is safe.
"""

from __future__ import annotations

import hashlib
import os
import queue
import random
import sys
import threading

from monofs.model.block import PAGE_SIZE_BYTES
from monofs.model.errors import TierFull
from monofs.model.ids import ContentId, MountId
from monofs.tiering.cache import Cache, Group, TierSpec
from monofs.tiering.checks import check_cache
from monofs.tiering.group import mask_pages, page_bytes

QUOTA = 24 * PAGE_SIZE_BYTES
CONTENTS = 40
LENGTHS = (100, 70_000, PAGE_SIZE_BYTES, 2 * PAGE_SIZE_BYTES + 5, 4 * PAGE_SIZE_BYTES)


def page_data(content: int, page: int, size: int) -> bytes:
    seed = hashlib.sha256(f"{content}.{page}".encode()).digest()
    return (seed * (size // len(seed) + 1))[:size]


def say(text: str) -> None:
    os.write(1, f"{text}\n".encode())


class Life:
    """One run of a cache."""

    def __init__(self, home: str, seed: int) -> None:
        self.random = random.Random(seed)
        self.inbox: queue.SimpleQueue[object] = queue.SimpleQueue()
        self.work: queue.SimpleQueue[tuple[Group, int]] = queue.SimpleQueue()
        tiers = [TierSpec("TOP", f"{home}/top", QUOTA // 4), TierSpec("LOW", f"{home}/low", QUOTA)]
        self.cache = Cache(
            f"{home}/index",
            tiers,
            reserve=0.0,
            call_soon=self.inbox.put,
            index_interval_s=self.random.choice((0.001, 0.02, 1)),
        )
        self.flying = 0

    def run(self) -> None:
        self.cache.open()
        self.check()
        for _ in range(3):
            threading.Thread(target=self.write, daemon=True).start()
        while True:
            self.step()
            while not self.inbox.empty() or self.flying > 8:
                self.inbox.get()()  # type: ignore[operator]

    def check(self) -> None:
        """Every page found has the bytes of its content, although the CRCs were never asked."""
        pages = 0
        for group in self.cache:
            assert not group.verified or self.cache.run.was_clean
            fd = group.fd()
            for page in mask_pages(group.present):
                size = page_bytes(group.length, page)
                pages += 1
                if os.pread(fd, size, group.base + page * PAGE_SIZE_BYTES) != page_data(group.content, page, size):
                    say(f"wrong content {group.content} page {page}")
        for name, findings in check_cache(self.cache, pages=True).items():
            for finding in findings:
                say(f"wrong {name}: {finding}")
        say(f"found {pages}")

    def write(self) -> None:
        while True:
            group, mask = self.work.get()
            pages = []
            for page in mask_pages(mask):
                data = page_data(group.content, page, page_bytes(group.length, page))
                pages.append((page, self.cache.write_page(group, page, memoryview(data))))
            self.inbox.put(lambda group=group, pages=pages: self.land(group, pages))

    def land(self, group: Group, pages: list[tuple[int, int]]) -> None:
        self.flying -= 1
        self.cache.commit(group, pages)

    def step(self) -> None:
        content = ContentId(self.random.randrange(1, CONTENTS))
        cache, chance = self.cache, self.random.random()
        if chance < 0.75:
            try:
                group = cache.admit(content, 0, LENGTHS[content % len(LENGTHS)], MountId(1), 0)
                mask = cache.reserve(group, self.random.randrange(1, 16))
            except TierFull:
                return
            if mask:
                self.flying += 1
                self.work.put((group, mask))
            else:
                cache.hold(group)
                cache.release(group)  # an empty group goes
        elif chance < 0.85:
            cache.drop(content)
        elif chance < 0.9:
            (cache.pin if self.random.random() < 0.2 else cache.unpin)([content])
        elif chance < 0.97:
            found = cache.lookup(content, 0)
            if found is not None:
                cache.touch(found)
        else:
            found = cache.lookup(content, 0)
            if found is not None and found.present:
                cache.drop_pages(found, found.present & -found.present)


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
