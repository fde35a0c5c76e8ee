"""Threads of the storage directories: reads of what is not in memory, and verification of groups before they are served.

Invariant: a group that is not ``verified`` (the last stop was unclean, or a read of it failed) is neither served nor written to
until the CRCs of all its pages were compared in a thread and the bad pages dropped. Not here: who reads.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

from monofs.config.schema import WorkerConfig
from monofs.model.errors import Internal, MonofsError
from monofs.observe.logs import logger
from monofs.tiering.cache import Cache, Group
from monofs.tiering.directory import Directory
from monofs.worker.fetcher import Fetcher
from monofs.worker.pool import Pool

log = logger(__name__)

IO_QUEUE = 4096
"""Reads of one directory that may wait before readers get ``Overloaded``."""
UNTAKEN_MAX = 32
"""Results (bytes of up to 1 MiB) that may wait for the reactor; threads pause then, so that a burst of reads stays small."""
UNTAKEN_S = 1.0
"""Longest such pause: a reactor that is gone must not hold threads."""
_T = TypeVar("_T")

Done = Callable[[MonofsError | None], None]
"""Called on the reactor: the bytes are ready, or why not."""


class Disks:
    """One pool of threads per storage directory. Methods: reactor thread only."""

    def __init__(self, config: WorkerConfig, cache: Cache, fetcher: Fetcher, reactor: Any) -> None:
        self._config, self._cache, self._fetcher, self._reactor = config, cache, fetcher, reactor
        self._pools: dict[Directory, Pool] = {}
        self._verifying: dict[Group, list[Done]] = {}
        self._untaken = threading.Semaphore(UNTAKEN_MAX)
        self._stopped = False

    def read(self, group: Group, offset: int, length: int, done: Callable[[memoryview | None], None]) -> None:
        """Read bytes of the group's file in a thread; None when they cannot be read. Raises ``Overloaded`` at the bound."""
        self._submit(group, lambda: self._cache.read(group, offset, length), done, lambda _: done(None))

    def open(self, group: Group, done: Callable[[int | MonofsError], None]) -> None:
        """A fresh descriptor of the group's file, opened in a thread; the caller closes it. Raises ``Overloaded``."""
        self._submit(group, lambda: self._cache.open_reader(group), done, done)

    def verify(self, group: Group, done: Done) -> None:
        """Compare all pages of the group with their CRCs, drop the bad ones, and call back; one check however many wait."""
        waiting = self._verifying.get(group)
        if waiting is not None:
            waiting.append(done)
            return
        self._verifying[group] = [done]
        self._fetcher.when_idle(group.content, group.number, lambda: self._check(group))

    def check(
        self,
        group: Group,
        done: Callable[[int], None],
        failed: Callable[[MonofsError], None],
        *,
        mask: int = -1,
        direct: bool = False,
    ) -> None:
        """Bitmap of the group's bad pages (of those in ``mask``), found at low priority while readers go on; or why they cannot be
        looked at now. ``direct``: of what the disk has, past the kernel's memory. Raises ``Overloaded`` at the bound.
        """
        mask &= group.present
        self._submit(group, lambda: self._cache.check_pages(group, mask, direct=direct), done, failed, urgent=False)

    def run(
        self, group: Group, work: Callable[[], _T], done: Callable[[_T], None], failed: Callable[[MonofsError], None]
    ) -> None:
        """Do something with the group's file in a thread of its directory. Raises ``Overloaded`` at the bound."""
        self._submit(group, work, done, failed)

    @property
    def queued(self) -> int:
        """Calls waiting for a thread."""
        return sum(pool.queued for pool in self._pools.values())

    def forget(self) -> None:
        """From now on results are dropped: the cache is about to close."""
        self._stopped = True

    def stop(self, timeout_s: float) -> None:
        """Wait for the threads; blocking, call it from a thread."""
        for pool in list(self._pools.values()):
            pool.stop(timeout_s)

    def _check(self, group: Group) -> None:
        if not group.alive:  # dropped while its last flight ended: readers look it up again
            self._verified(group, None)
            return
        mask = group.present
        try:
            self._submit(
                group,
                lambda: self._cache.check_pages(group, mask),
                partial(self._checked, group),
                partial(self._verified, group),
            )
        except MonofsError as error:
            self._verified(group, error)

    def _checked(self, group: Group, bad: int) -> None:
        if bad:
            self._cache.drop_pages(group, bad)  # this group is gone now: readers look it up again, and fetch
        else:
            group.verified = True
        self._verified(group, None)

    def _verified(self, group: Group, error: MonofsError | None) -> None:
        for done in self._verifying.pop(group, ()):
            done(error)

    def _submit(
        self,
        group: Group,
        work: Callable[[], _T],
        done: Callable[[_T], None],
        failed: Callable[[MonofsError], None],
        *,
        urgent: bool = True,
    ) -> None:
        """Run ``work`` in a thread, with the group held, and ``done`` with its result, or ``failed``, on the reactor."""

        def finished(tell: Callable[[], None], *, counted: bool) -> None:
            if counted:
                self._untaken.release()
            if not self._stopped:
                self._cache.release(group)
                tell()

        def run() -> None:
            counted = self._untaken.acquire(timeout=UNTAKEN_S)
            try:
                result = work()
            except MonofsError as error:
                tell = partial(failed, error)
            except Exception as error:  # noqa: BLE001 - whatever it is, somebody waits for it
                log.error("a cached file could not be looked at", exception=error, tier=group.tier)
                tell = partial(failed, Internal(f"a cached file could not be looked at: {type(error).__name__}"))
            else:
                tell = partial(done, result)
            self._reactor.callFromThread(finished, tell, counted=counted)

        self._cache.hold(group)
        try:
            self._pool(group).submit(run, urgent=urgent)
        except MonofsError:
            self._cache.release(group)
            raise

    def _pool(self, group: Group) -> Pool:
        directory = group.directory
        pool = self._pools.get(directory)
        if pool is None:
            pool = self._pools[directory] = Pool(f"disk-{group.tier}", self._config.io_threads, IO_QUEUE)
        return pool
