"""Warming the cache: every page of files and of everything below directories.

Memory is bounded by the number of threads and one page of a listing; a file that cannot be loaded is counted and named (the first
1,000 of them), and the others go on; when nobody answers any more, or the caller is interrupted, all end at their next step.
Loading again finishes what was left: pages present cost one small request.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field, replace

from monofs.client.many import open_many
from monofs.client.reader import Reader
from monofs.client.session import Session
from monofs.model.errors import MonofsError, NoMaster, NoWorker
from monofs.model.options import ReadType
from monofs.rpc.api import ReadOptions

BATCH_FILES = 256
FAILURES_KEPT = 1000


@dataclass(frozen=True, slots=True)
class LoadProgress:
    """Counts so far. ``files`` and ``bytes`` are done, of ``files_found`` and ``bytes_found`` met until now (final once
    ``listed``); ``fetched_bytes`` came from stores; ``failed`` files are in ``failures`` (path, error), up to 1,000."""

    files: int = 0
    bytes: int = 0
    fetched_bytes: int = 0
    files_found: int = 0
    bytes_found: int = 0
    failed: int = 0
    listed: bool = False
    failures: tuple[tuple[str, MonofsError], ...] = field(default=(), repr=False)


class _Over(Exception):
    """The load ends before its files do."""


class Loader:
    """One run of load."""

    def __init__(
        self,
        get_session: Callable[[], Session],
        options: ReadOptions,
        threads: int,
        report: Callable[[LoadProgress], None] | None,
    ) -> None:
        self._session = get_session
        self._options = options
        self._threads = threads
        self._report = report
        self._lock = threading.Lock()
        self._counts = LoadProgress()
        self._over = threading.Event()
        self._silence: MonofsError | None = None

    def run(self, paths: Iterable[str]) -> LoadProgress:
        """Load files given by path, as they come. Raises ``NoWorker`` or ``NoMaster`` when nobody answered for ``timeout_s``."""
        waiting: set[Future[None]] = set()
        pool = ThreadPoolExecutor(self._threads, "monofs-load")
        try:
            batch: list[str] = []
            for path in paths:
                if self._over.is_set():
                    break
                batch.append(path)
                if len(batch) == BATCH_FILES:
                    self._submit(pool, waiting, batch)
                    batch = []
            self._submit(pool, waiting, batch)
            self._count(listed=True)
            for done in wait(waiting).done:
                done.result()
        except BaseException:
            self._over.set()  # threads in a request end after it, and who was interrupted need not wait for that
            pool.shutdown(wait=False, cancel_futures=True)
            raise
        pool.shutdown()
        if self._silence is not None:
            raise self._silence
        return self._counts

    def _submit(self, pool: ThreadPoolExecutor, waiting: set[Future[None]], paths: list[str]) -> None:
        if not paths or self._over.is_set():
            return
        for path, opened in zip(paths, open_many(self._session(), paths, self._options), strict=True):
            if self._over.is_set():
                return
            self._count(files_found=1)
            if isinstance(opened, MonofsError):
                self._fail(path, opened)
                continue
            self._count(bytes_found=opened.inode.size)
            reader = Reader(self._session, path, opened, self._options, ReadType.CACHE)
            waiting.add(pool.submit(self._load, reader))
            while len(waiting) >= 4 * self._threads:
                done, still = wait(waiting, return_when=FIRST_COMPLETED)
                waiting.intersection_update(still)
                for future in done:
                    future.result()

    def _load(self, reader: Reader) -> None:
        if self._over.is_set():
            return
        try:
            reader.fetch_all(self._step)
        except _Over:
            return
        except (NoMaster, NoWorker) as error:
            self._silence = error
            self._over.set()  # asking for every other file would take as long again
        except MonofsError as error:
            self._fail(reader.path, error)
        else:
            self._count(files=1)

    def _step(self, length: int, fetched: int) -> None:
        self._count(bytes=length, fetched_bytes=fetched)
        if self._over.is_set():
            raise _Over

    def _fail(self, path: str, error: MonofsError) -> None:
        with self._lock:
            kept = self._counts.failures
            if len(kept) < FAILURES_KEPT:
                self._counts = replace(self._counts, failures=(*kept, (path, error)))
        self._count(failed=1)

    def _count(self, *, listed: bool = False, **more: int) -> None:
        with self._lock:
            old = self._counts
            counts = {name: getattr(old, name) + value for name, value in more.items()}
            self._counts = new = replace(old, listed=old.listed or listed, **counts)
            if self._report is not None:
                self._report(new)
