"""The durable index: LMDB tables written by one thread in synced batches.

Invariants: what is queued together is committed together and in order, so the index may lag behind the files but a later change
is never durable before an earlier one; every write transaction begins, puts and commits on the writer thread. A commit that fails
is tried again each second; meanwhile nothing new is admitted (``error``). Not here: what records mean to the cache.
"""

from __future__ import annotations

import fcntl
import os
import struct
import threading
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import lmdb
import msgspec

from monofs.model.block import DEFAULT_LAYOUT
from monofs.model.errors import HomeInUse, HomeUnusable, TierUnusable
from monofs.observe.logs import logger

INTERVAL_S = 1.0
BATCH_CHANGES = 10_000
QUEUE_MAX = 200_000
"""Changes waiting for the disk before nothing more is admitted."""
MAP_SIZE_BYTES = 1 << 36
"""Address space, not disk space: 4 million full groups take 1.3 GiB."""
STOP_TIMEOUT_S = 30.0
TABLES = ("groups", "pins", "order", "meta", "aside")
GROUPS, PINS, ORDER, META, ASIDE = range(5)
KEPT = 1
"""Bit of :attr:`Record.flags`: bytes that no store has."""
KEY = struct.Struct(">QI")
NEXT_FILE = b"next_file"
CURSOR = b"cursor"

log = logger(__name__)

Flushed = Callable[[TierUnusable | None], None]
"""What is told of a flush: nothing, or why there was none."""


class Record(msgspec.Struct, array_like=True, gc=False):
    """A group as stored; the key is content (8 bytes big-endian) and group number (4). Only ever extended at the end."""

    directory: int
    file: int
    base: int
    length: int
    present: int
    crcs: bytes
    mount: int
    cache_group: int
    flags: int
    """``KEPT`` or 0. A bit that this version does not know means: written by a newer one, refuse."""
    admitted_ns: int
    generation: int
    """Number of the run in which the pages were last known to be good; 0: not known."""
    layout: int = DEFAULT_LAYOUT


class Index:
    """LMDB environment, queue and writer thread."""

    def __init__(
        self,
        directory: str,
        *,
        interval_s: float = INTERVAL_S,
        call_soon: Callable[[Callable[[], None]], object] = lambda call: call(),
    ) -> None:
        """``call_soon`` runs what :meth:`when_flushed` was given where it belongs."""
        self.directory, self._interval_s, self._call_soon = directory, interval_s, call_soon
        self.error = ""
        self.next_file = 0
        """File numbers below this are durably claimed."""
        self.cursor = 0
        """The feed cursor a restart would find."""
        self._env: lmdb.Environment | None = None
        self._tables: list[Any] = []
        self._lock_fd = -1
        self._pending: list[dict[bytes, bytes | None]] = [{} for _ in TABLES]
        self._queued = self._written = self._goal = self._failures = 0
        self._waiting: list[tuple[int, Flushed]] = []
        self._stopping = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._run, name="tier index", daemon=True)

    # ---- opening ------------------------------------------------------------------------------------------------------

    def open(self) -> None:
        """Lock and open. Raises ``HomeInUse``, ``HomeUnusable``."""
        try:
            os.makedirs(self.directory, mode=0o700, exist_ok=True)
            lock = os.path.join(self.directory, "owner.lock")
            self._lock_fd = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            fcntl.flock(self._lock_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self.close()
            raise HomeInUse(f"the cache index {self.directory} is in use by another process") from None
        except OSError as error:
            self.close()
            raise HomeUnusable(f"the cache index {self.directory} cannot be opened: {error.strerror}") from None
        try:
            self._env = lmdb.open(
                self.directory,
                map_size=MAP_SIZE_BYTES,
                max_dbs=len(TABLES),
                max_readers=16,
                mode=0o600,
                readahead=False,
            )
            self._tables = [self._env.open_db(name.encode()) for name in TABLES]
        except lmdb.Error as error:
            self.close()
            raise HomeUnusable(
                f"the cache index {self.directory} is damaged: {error}; remove it and the pages to begin empty"
            ) from None

    def meta(self, name: bytes) -> bytes | None:
        """A durable meta value."""
        assert self._env is not None  # noqa: S101
        with self._env.begin(db=self._tables[META]) as txn:
            value = txn.get(name)
            return bytes(value) if value is not None else None

    def scan(self, table: int) -> Iterator[tuple[bytes, bytes]]:
        """All durable keys and values of a table in key order; for start-up, before `start`."""
        assert self._env is not None  # noqa: S101
        with self._env.begin(db=self._tables[table]) as txn:
            yield from txn.cursor()

    def count(self, table: int) -> int:
        """Durable entries of a table."""
        assert self._env is not None  # noqa: S101
        with self._env.begin() as txn:
            return int(txn.stat(self._tables[table])["entries"])

    def start(self) -> None:
        """Start the writer."""
        self._thread.start()

    # ---- changing -----------------------------------------------------------------------------------------------------

    @property
    def is_behind(self) -> bool:
        """The queue is at its bound, or the disk refuses."""
        return bool(self.error) or len(self._pending[GROUPS]) >= QUEUE_MAX

    @property
    def progress(self) -> tuple[int, int]:
        """Changes made durable since the start, and changes queued: what a crash now would lose."""
        written = self._written
        return written, self._queued - written

    def put(self, table: int, key: bytes, value: bytes | None) -> None:
        """Queue a put (None: a delete)."""
        with self._changed:
            pending = self._pending[table]
            pending[key] = value
            self._queued += 1
            if self._queued == self._written + 1 or len(pending) == BATCH_CHANGES:
                self._changed.notify_all()

    def flush(self, timeout_s: float | None = None) -> None:
        """Wait until everything queued is durable. Raises ``TierUnusable`` when the disk refuses or ``timeout_s`` ran out."""
        with self._changed:
            goal, failures = self._queued, self._failures
            self._goal = max(self._goal, goal)
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._written >= goal or self._failures > failures, timeout_s)
            if self._written < goal:
                raise self._refusal()

    def when_flushed(self, done: Flushed) -> None:
        """Call ``done`` once everything queued is durable, or with why that cannot be; never, when the index is closed before."""
        with self._changed:
            if self._written < self._queued:
                self._goal = self._queued
                self._waiting.append((self._queued, done))
                self._changed.notify_all()
                return
        self._call_soon(lambda: done(None))

    def _tell(self, upto: int, error: TierUnusable | None) -> None:
        """All that waited for changes up to this one."""
        told = [done for goal, done in self._waiting if goal <= upto]
        self._waiting = [each for each in self._waiting if each[0] > upto]
        if told:
            self._call_soon(partial(_tell_all, told, error))

    def _refusal(self) -> TierUnusable:
        return TierUnusable(f"the cache index {self.directory} cannot be written: {self.error or 'disk is slow'}")

    def close(self) -> None:
        """Stop the writer (what is queued and not flushed is lost) and release the lock."""
        if self._thread.is_alive():
            with self._changed:
                self._stopping = True
                self._changed.notify_all()
            self._thread.join(STOP_TIMEOUT_S)
        if self._env is not None and not self._thread.is_alive():
            self._env.close()
        self._env = None
        if self._lock_fd >= 0:
            os.close(self._lock_fd)
            self._lock_fd = -1

    # ---- the writer ---------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._queued > self._written or self._stopping)
                self._changed.wait_for(self._is_due, self._interval_s)
                if self._stopping:
                    return
                batch, self._pending = self._pending, [{} for _ in TABLES]
                upto = self._queued
            try:
                self._write(batch)
            except Exception as error:  # noqa: BLE001 - whatever it is, the queue must survive it and callers must hear of it
                self._put_back(batch, str(error) or repr(error))
            else:
                self.error = ""
                with self._changed:
                    self._written = upto
                    self._changed.notify_all()
                    self._tell(upto, None)

    def _is_due(self) -> bool:
        return (
            self._stopping
            or self._goal > self._written  # a flush is tried once even after a failure
            or (len(self._pending[GROUPS]) >= BATCH_CHANGES and not self.error)
        )

    def _write(self, batch: list[dict[bytes, bytes | None]]) -> None:
        assert self._env is not None  # noqa: S101
        with self._env.begin(write=True) as txn:
            for table, changes in zip(self._tables, batch, strict=True):
                cursor = txn.cursor(table)
                puts = [(key, value) for key, value in sorted(changes.items()) if value is not None]
                for key, value in changes.items():
                    if value is None and cursor.set_key(key):
                        cursor.delete()
                if puts:
                    cursor.putmulti(puts)
        claimed = batch[META].get(NEXT_FILE)
        if claimed is not None:
            self.next_file = int.from_bytes(claimed, "big")
        cursor_now = batch[META].get(CURSOR)
        if cursor_now is not None:
            self.cursor = int.from_bytes(cursor_now, "big")

    def _put_back(self, batch: list[dict[bytes, bytes | None]], error: str) -> None:
        if not self.error:
            log.error("cache index cannot be written", directory=self.directory, error=error)
        with self._changed:
            for changes, newer in zip(batch, self._pending, strict=True):
                changes.update(newer)
            self._pending = batch
            self.error = error
            self._failures += 1
            self._goal = self._written
            self._changed.notify_all()
            self._tell(self._queued, self._refusal())


def _tell_all(told: list[Flushed], error: TierUnusable | None) -> None:
    for done in told:
        done(error)
