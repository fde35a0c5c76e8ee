"""The disk of a replicated log: the journal thread, and one that reads for followers that lag.

The journal thread takes one batch after the other, writes and syncs it, and hands it back; between batches it makes released segments free
and zero-fills the next one in slices. It does nothing else. Invariant: ``done`` is called once for each call that took one, in order, by
``call_soon``; an error is ``DiskFull`` or ``EntryTooLarge`` (nothing was written: the same batch may be given again), or what stopped the
journal for good (``JournalFailed``, a bug). What is written and how it is read stands in log_files.py. Everything but :meth:`LogDisk.open` and
:meth:`LogDisk.close` is called on the thread that ``call_soon`` means.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial
from queue import Empty, SimpleQueue
from time import perf_counter
from typing import Any

from monofs.config.schema import JournalConfig
from monofs.journal.files import REAL_FILES, Files
from monofs.journal.log_files import LogFiles, Opened
from monofs.journal.raft.messages import LogEntry, Membership, Persist, Position
from monofs.model.errors import DiskFull, EntryTooLarge
from monofs.observe.metrics import JOURNAL_BYTES, JOURNAL_FSYNC

_FILL_BYTES = 1 << 20
_FSYNC = JOURNAL_FSYNC()
_BYTES = JOURNAL_BYTES()

Persisted = Callable[[BaseException | None], None]
Read = Callable[[list[LogEntry] | None], None]


class LogDisk:
    """See the module. Bounded by its callers: a driver has one batch in flight, and one read for each follower."""

    def __init__(
        self,
        directory: str,
        config: JournalConfig,
        *,
        call_soon: Callable[[Callable[[], None]], None],
        on_failure: Callable[[BaseException], None],
        files: Files = REAL_FILES,
    ) -> None:
        """``on_failure`` hears, at most once, of a failure that no ``done`` can be told: of releasing or filling segments.

        Raises ``ConfigError``.
        """
        self._log = LogFiles(directory, config, files=files)
        self._call_soon = call_soon
        self._on_failure = on_failure
        self._jobs: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._reads: SimpleQueue[tuple[int, int, Read] | None] = SimpleQueue()
        self._fill_bytes = _FILL_BYTES
        self._told = False
        self._threads: list[threading.Thread] = []

    def open(self, applied: Position, membership: Membership, *, may_discard: bool) -> Opened:
        """See :meth:`LogFiles.open`. Blocks; then the threads run."""
        opened = self._log.open(applied, membership, may_discard=may_discard)
        for name, run in (("monofs-journal", self._write), ("monofs-journal-read", self._read)):
            self._threads.append(threading.Thread(target=run, name=name, daemon=True))
            self._threads[-1].start()
        return opened

    def close(self) -> None:
        """Do what is queued, end the threads, close the files. Blocks; may be called twice."""
        self._jobs.put(None)
        self._reads.put(None)
        for thread in self._threads:
            thread.join()
        self._threads.clear()
        self._log.close()

    # ---- what is asked --------------------------------------------------------------------------------------------------

    def persist(self, batch: Persist, done: Persisted) -> None:
        """Make ``batch`` durable. See :meth:`LogFiles.persist`."""
        self._jobs.put(partial(self._do, partial(self._persist, batch), done))

    def reset(self, position: Position, membership: Membership, done: Persisted) -> None:
        """Begin the log anew after a snapshot. See :meth:`LogFiles.reset`."""
        self._jobs.put(partial(self._do, partial(self._log.reset, position, membership), done))

    def release(self, index: int, keep_bytes: int = 0) -> None:
        """Let segments go. See :meth:`LogFiles.release`."""
        self._jobs.put(partial(self._do, partial(self._log.release, index, keep_bytes), self._tell))

    def read(self, first_index: int, max_bytes: int, done: Read) -> None:
        """Entries for a follower that lags. See :meth:`LogFiles.read`."""
        self._reads.put((first_index, max_bytes, done))

    @property
    def first_index(self) -> int:
        """The oldest entry that :meth:`read` gives."""
        return self._log.first_index

    @property
    def live_bytes(self) -> int:
        """Of segments that are not released."""
        return self._log.live_bytes

    @property
    def retain_bytes(self) -> int:
        """The bound of ``live_bytes``."""
        return self._log.retain_bytes

    @property
    def is_over_bound(self) -> bool:
        """More than ``journal.retain_bytes`` wait to be released: take no more entries until :meth:`release` has been called."""
        return self._log.live_bytes > self._log.retain_bytes

    @property
    def entry_max_bytes(self) -> int:
        """No body of an entry may be larger."""
        return self._log.entry_max_bytes

    def status(self) -> dict[str, Any]:
        """Indexes, counts, bytes, seconds. Figures of the journal thread may be one frame old."""
        segments, size = self._log.size()
        return {
            "first_index": self._log.first_index,
            "last_index": self._log.last_index,
            "segments": segments,
            "bytes": size,
            "fsync_p50_s": _FSYNC.quantile(0.5),
            "fsync_p99_s": _FSYNC.quantile(0.99),
        }

    # ---- the journal thread ---------------------------------------------------------------------------------------------

    def _write(self) -> None:
        while (job := self._next()) is not None:
            job()

    def _next(self) -> Callable[[], None] | None:
        """What is to be done next; upkeep while there is nothing."""
        while True:
            try:
                return self._jobs.get_nowait()
            except Empty:
                if not self._fill():
                    return self._jobs.get()

    def _do(self, act: Callable[[], None], done: Persisted) -> None:
        try:
            act()
        except Exception as error:  # noqa: BLE001 (handed to the thread that asked, which stops the node)
            self._call_soon(partial(self._settle, done, error))
        else:
            self._call_soon(partial(done, None))

    def _persist(self, batch: Persist) -> None:
        began = perf_counter()
        written = self._log.persist(batch)
        if written:
            _FSYNC.observe(perf_counter() - began)
            _BYTES.value += written
        self._fill_bytes = max(_FILL_BYTES, 2 * written)

    def _fill(self) -> bool:
        if self._log.failure is not None:
            return False
        try:
            return self._log.prepare(self._fill_bytes)
        except Exception as error:  # noqa: BLE001 (no batch in hand: the node must stop, not just this thread)
            self._call_soon(partial(self._tell, error))
            return False

    def _settle(self, done: Persisted, error: BaseException) -> None:
        done(error)
        self._told |= not isinstance(error, DiskFull | EntryTooLarge)

    def _tell(self, error: BaseException | None) -> None:
        if error is not None and not self._told:
            self._told = True
            self._on_failure(error)

    # ---- the reading thread ---------------------------------------------------------------------------------------------

    def _read(self) -> None:
        while (asked := self._reads.get()) is not None:
            first_index, max_bytes, done = asked
            self._call_soon(partial(done, self._log.read(first_index, max_bytes)))
