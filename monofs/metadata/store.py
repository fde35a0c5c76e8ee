"""The ordered store the state machine sees: two memtables over LMDB.

Reads look in the active memtable, the frozen one, then a snapshot of the database that is renewed after each flush. Writes go to the
active memtable. A flush freezes it, writes it together with the meta record of that moment in one synced transaction, and lets it go.

Invariant: the database always holds exactly the state at the applied index its meta record names. All methods are called on one
thread (the reactor's) unless they say otherwise. Not here: what the keys mean (tables.py), and who decides changes (namespace.py).
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable

import lmdb

from monofs.config.schema import NamespaceConfig
from monofs.metadata.flusher import Flush, Flusher
from monofs.metadata.memtable import Memtable
from monofs.metadata.snapshot import Snapshot, open_databases
from monofs.metadata.tables import Meta, NameChange, encode_record
from monofs.model.errors import Busy, DiskFull, HomeUnusable, MonofsError, NotReady, invariant
from monofs.observe import metrics

HOLD_BACK_FLUSHES = 4
"""Writers are held back when the active memtable has grown to so many flushes' worth while one is in progress."""
COPY_INTERVALS = 10
"""While the database is being copied, a flush is due after so many intervals, or twice the changes: pages it frees cannot be used again
before the copy has ended, and the file grows by them."""
FULL_BYTES = 1 << 20
"""Less room than this is none."""
GIVE_WAY_CHANGES = 1000
"""While a flush is in progress, the reactor stops for one slice of it (2,000 keys) each time it made so many changes."""
_WINDOW_MIN = 128
_MISSING: bytes = b"\0missing"
_FLUSHED = metrics.FLUSHED_INDEX()
_FLUSH_TIME = metrics.FLUSH_TIME()


class Store:
    """Opens (creating) ``directory`` and recovers nothing: what LMDB committed is the state.

    ``call_soon`` runs a function on the owner's thread; ``on_flushed(index)`` is called there after each flush, ``on_failure`` when one
    failed (the node must stop: nothing is written any more). Raises ``HomeUnusable``, ``DiskFull``.
    """

    def __init__(
        self,
        directory: str,
        config: NamespaceConfig,
        *,
        call_soon: Callable[[Callable[[], None]], None],
        on_flushed: Callable[[int], None],
        on_failure: Callable[[BaseException], None],
    ) -> None:
        self.directory = directory
        self._config = config
        self._call_soon = call_soon
        self._on_flushed = on_flushed
        self._on_failure = on_failure
        self._environment = _open_environment(directory, config.map_size_bytes)
        try:
            databases = open_databases(self._environment, create=True)
            self._databases = databases
            self._disk = Snapshot(self._environment, databases)
            self.meta = self._disk.meta() or Meta()
        except lmdb.Error as problem:
            self._environment.close()
            raise HomeUnusable(f"the namespace in {directory} cannot be opened: {problem}") from None
        except HomeUnusable:
            self._environment.close()
            raise
        self._active = Memtable()
        self._frozen: Memtable | None = None
        self._layers: tuple[Memtable, ...] = (self._active,)
        self._flushed_index = self.meta.applied_index
        self._flush_began = time.monotonic()
        self._next_way = 0
        self._closed = False
        self._failed = False
        self._copying = threading.Lock()
        self._flusher = Flusher(self._environment, databases, self._finished_elsewhere)

    # ---- reading

    def get(self, space: int, key: bytes) -> bytes | None:
        """The value of a key, or None."""
        for layer in self._layers:
            keys = layer.spaces.get(space)
            if keys is not None:
                value = keys.get(key, _MISSING)
                if value is not _MISSING:
                    return value
        return self._disk.get(space, key)

    def scan(self, space: int, after: bytes, limit: int) -> list[tuple[bytes, bytes]]:
        """Up to ``limit`` (key, value) of a space with keys greater than ``after``, in key order; fewer only at its end."""
        found: list[tuple[bytes, bytes]] = []
        while (missing := limit - len(found)) > 0:
            window, end = self._window(space, after, max(missing, _WINDOW_MIN))
            found += window[:missing]
            if end is None:
                break
            after = end
        return found

    def parents(self, after: int, limit: int) -> list[int]:
        """Up to ``limit`` ids of directories greater than ``after`` that have (or had, since the last flush) children, in order."""
        ids = {space for layer in self._layers for space in layer.spaces if space > after}
        ids.update(self._disk.parents(after, limit))
        return sorted(ids)[:limit]

    def _window(self, space: int, after: bytes, size: int) -> tuple[list[tuple[bytes, bytes]], bytes | None]:
        """All live keys in (after, end], with end chosen so that no layer has more than ``size`` there; None: to the end."""
        disk = self._disk.scan(space, after, size)
        runs = [layer.run(space, after, size) for layer in self._layers]
        ends = [run[-1] for run in runs if len(run) == size]
        if len(disk) == size:
            ends.append(disk[-1][0])
        end = min(ends, default=None)
        if not any(runs):
            return disk, end
        merged: dict[bytes, bytes | None] = dict(disk)
        for layer, run in zip(reversed(self._layers), reversed(runs), strict=True):
            keys = layer.spaces.get(space)
            if keys is not None:
                for key in run:
                    merged[key] = keys[key]
        shown: list[tuple[bytes, bytes]] = []
        for key in sorted(merged):
            if end is not None and key > end:
                break
            value = merged[key]
            if value is not None:
                shown.append((key, value))
        return shown, end

    # ---- writing

    def write(self, changes: list[NameChange]) -> None:
        """Take over the changes of one entry. ``meta`` must be set to the state after it before the next flush begins."""
        active = self._active
        active.apply(changes)
        if self._frozen is not None and active.changes >= self._next_way:
            self._next_way = active.changes + GIVE_WAY_CHANGES
            self._flusher.give_way()

    @property
    def held_back(self) -> bool:
        """Whether writers should be refused (Overloaded) until the flush in progress is through."""
        return self._frozen is not None and self._active.changes >= HOLD_BACK_FLUSHES * self._config.flush_changes

    @property
    def memtable_entries(self) -> int:
        """Changes not yet in the database."""
        return sum(layer.changes for layer in self._layers)

    @property
    def flushed_index(self) -> int:
        """The applied index the database holds."""
        return self._flushed_index

    def maybe_flush(self, now: float | None = None) -> bool:
        """Begin a flush when one is due by count or by time (``now``: ``time.monotonic()``, or a test's). Called every 100 ms."""
        if now is None:
            now = time.monotonic()
        interval_s = self._config.flush_interval_s * (COPY_INTERVALS if self._copying.locked() else 1)
        late = now - self._flush_began >= interval_s
        return self.flush(now) if late else self.flush_if_full()

    def flush_if_full(self) -> bool:
        """Begin a flush when enough changes are waiting. Called after every entry."""
        due = self._config.flush_changes
        changes = self._active.changes
        return changes >= due and (changes >= 2 * due or not self._copying.locked()) and self.flush()

    def flush(self, now: float | None = None) -> bool:
        """Begin a flush of everything applied so far; False when one is in progress or there is nothing to write."""
        if self._frozen is not None or self._failed or self.meta.applied_index == self._flushed_index:
            return False
        invariant(not self._closed, "a closed store is not flushed")
        self._flush_began = time.monotonic() if now is None else now
        self._frozen, self._active = self._active, Memtable()
        self._layers = (self._active, self._frozen)
        self._next_way = GIVE_WAY_CHANGES
        self._flusher.submit(Flush(self._frozen, encode_record(self.meta), self.meta.applied_index))
        return True

    def _finished_elsewhere(self, flush: Flush, problem: BaseException | None) -> None:
        """On the flusher's thread."""
        self._call_soon(lambda: self._finished(flush, problem))

    def _finished(self, flush: Flush, problem: BaseException | None) -> None:
        if self._closed or flush.memtable is not self._frozen:
            return
        if problem is not None:
            self._failed = True
            self._on_failure(_explain(problem, self.directory))
            return
        self._let_go(flush)
        self._on_flushed(flush.applied_index)
        self.flush_if_full()

    def _let_go(self, flush: Flush) -> None:
        self._frozen = None
        self._layers = (self._active,)
        self._disk.close()
        self._disk = Snapshot(self._environment, self._databases)
        self._flushed_index = flush.applied_index
        self._flusher.release(flush.memtable)
        _FLUSHED.value = flush.applied_index
        _FLUSH_TIME.observe(time.monotonic() - self._flush_began)

    # ---- the whole

    def snapshot(self) -> Snapshot:
        """What the database holds now (the memtables are not in it); close it soon. Any one thread may use it."""
        return Snapshot(self._environment, self._databases)

    def copy_into(self, fd: int) -> None:
        """Copy the database as of the last flush into an open file, compacted, while it is in use. ANY thread; takes as long as the disk.

        Raises ``Busy`` while another copy is made, ``NotReady`` after close, ``DiskFull``.
        """
        if not self._copying.acquire(blocking=False):
            raise Busy("the namespace is being copied already: try again shortly")
        try:
            if self._closed:
                raise NotReady("the node is stopping")
            self._environment.copyfd(fd, compact=True)
        except lmdb.Error as problem:
            raise _explain_copy(problem) from None
        finally:
            self._copying.release()

    def close(self) -> None:
        """Flush everything, join the writer, close the database. Blocks, for a copy being made too. ``on_flushed`` is not called any more.

        Raises what a failed last flush raised; the database is closed all the same.
        """
        if self._closed:
            return
        self._closed = True
        self._flusher.stop()
        problem: BaseException | None = None
        if not self._failed and self.meta.applied_index != self._flushed_index:
            problem = self._write_rest()
        self._disk.close()
        with self._copying:
            self._environment.close()
        if problem is not None:
            raise _explain(problem, self.directory)

    def _write_rest(self) -> BaseException | None:
        """Write what the flush in progress (over now, for better or worse) and the active memtable hold."""
        outcome: list[BaseException | None] = []
        flusher = Flusher(self._environment, self._databases, lambda _, problem: outcome.append(problem))
        rest = Memtable()
        for layer in reversed(self._layers):
            for space, keys in layer.spaces.items():
                rest.spaces.setdefault(space, {}).update(keys)
        flusher.submit(Flush(rest, encode_record(self.meta), self.meta.applied_index))
        flusher.stop()
        return outcome[0]


def _open_environment(directory: str, map_size_bytes: int) -> lmdb.Environment:
    try:
        os.makedirs(directory, mode=0o700, exist_ok=True)
        environment = lmdb.open(
            directory, map_size=map_size_bytes, max_dbs=32, mode=0o600, meminit=False, readahead=False, max_readers=64
        )
    except lmdb.DiskError as problem:
        raise DiskFull(f"no room for the namespace in {directory}: {problem}") from None
    except (lmdb.Error, OSError) as problem:
        raise HomeUnusable(f"the namespace in {directory} cannot be opened: {problem}") from None
    environment.reader_check()
    return environment


def _explain_copy(problem: lmdb.Error) -> MonofsError:
    """The error whoever asked for a copy sees; the database itself is unharmed."""
    if isinstance(problem, lmdb.DiskError) or "No space left" in str(problem) or "File too large" in str(problem):
        return DiskFull(f"no room for a copy of the namespace: {problem}")
    return HomeUnusable(f"the namespace cannot be copied: {problem}")


def _explain(problem: BaseException, directory: str) -> BaseException:
    """The error the operator sees for a flush that failed."""
    if isinstance(problem, lmdb.MapFullError):
        return DiskFull("the metadata database is full: raise namespace.map_size_bytes and restart")
    if isinstance(problem, lmdb.DiskError) or "No space left" in str(problem):
        return DiskFull(f"the disk of the metadata database is full: {problem}")
    if isinstance(problem, lmdb.Error) and _is_full(
        directory
    ):  # LMDB says I/O error when only a part of a write found room
        return DiskFull(f"the disk of the metadata database is full, no space is left in {directory}: {problem}")
    return problem


def _is_full(directory: str) -> bool:
    try:
        disk = os.statvfs(directory)
    except OSError:
        return False
    return disk.f_bavail * disk.f_frsize < FULL_BYTES
