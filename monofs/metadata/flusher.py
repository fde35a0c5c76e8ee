"""The one thread that writes to the metadata database.

A flush is one transaction: every key of a frozen memtable and the meta record that belongs to it, synced by its commit. The
transaction begins, puts and commits on this thread (LMDB write locks belong to threads). Keys are sorted and put in slices of at most
2,000, each taken from the memtable as it stands: locality within a slice is what counts, and sorting everything at once would hold
the GIL for a tenth of a second.

Giving way: py-lmdb drops the GIL at every put, so beside a busy reactor each put costs two thread switches (20,000 puts: 0.6 s
measured, against 8 ms alone). The reactor therefore stops for one slice at a time (:meth:`Flusher.give_way`, below 1 ms) as often as
its own writes ask for it.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator
from itertools import islice
from typing import NamedTuple

import lmdb

from monofs.metadata.memtable import Memtable
from monofs.metadata.snapshot import Databases
from monofs.metadata.tables import META_KEY, Table, pack_id

SLICE = 2000
"""Keys sorted and put without a pause."""
GIVE_WAY_S = 0.002
"""Longest time the reactor waits for one slice: a page of the database may have to come from the disk."""


class Flush(NamedTuple):
    """What one transaction writes: a frozen memtable, and the meta record of the state it leads to."""

    memtable: Memtable
    meta: bytes
    applied_index: int


Finished = Callable[[Flush, BaseException | None], None]


class Flusher:
    """Writes one :class:`Flush` at a time; ``finished`` is called on this thread."""

    def __init__(self, environment: lmdb.Environment, databases: Databases, finished: Finished) -> None:
        self._environment = environment
        self._databases = databases
        self._finished = finished
        self._work: queue.SimpleQueue[Flush | Memtable | None] = queue.SimpleQueue()
        self._slice_done = threading.Semaphore(0)
        self._putting = False
        self._thread = threading.Thread(target=self._run, name="monofs-flush", daemon=True)
        self._thread.start()

    def submit(self, flush: Flush) -> None:
        """Write ``flush``; the caller waits for ``finished`` before the next."""
        self._putting = True
        self._work.put(flush)

    def release(self, memtable: Memtable) -> None:
        """Free a memtable nobody reads any more."""
        self._work.put(memtable)

    def give_way(self) -> None:
        """Wait (at most 2 ms) until the flush in progress has put one more slice; at once when it only waits for the disk."""
        if self._putting:
            while self._slice_done.acquire(blocking=False):
                pass
            self._slice_done.acquire(timeout=GIVE_WAY_S)

    def stop(self) -> None:
        """Finish what is queued and join."""
        self._work.put(None)
        self._thread.join()

    def _run(self) -> None:
        while (work := self._work.get()) is not None:
            if isinstance(work, Memtable):
                work.release()
                continue
            try:
                self._write(work)
            except BaseException as problem:  # noqa: BLE001 - whatever failed, the node must hear of it and stop
                self._putting = False
                self._finished(work, problem)
            else:
                self._finished(work, None)
            del work

    def _write(self, flush: Flush) -> None:
        transaction = self._environment.begin(write=True)
        try:
            for table, puts, deletes in slices(flush.memtable):
                database = self._databases[table]
                for key in deletes:
                    transaction.delete(key, b"", database)
                for key, value in puts:
                    transaction.put(key, value, True, True, False, database)
                self._slice_done.release()
            transaction.put(META_KEY, flush.meta, db=self._databases[Table.META])
            self._putting = False
            self._slice_done.release()
            transaction.commit()
        except BaseException:
            transaction.abort()
            raise


Puts = list[tuple[bytes, bytes]]


def slices(memtable: Memtable) -> Iterator[tuple[int, Puts, list[bytes]]]:
    """Everything in a memtable as (table number, sorted puts, sorted deletions), at most :data:`SLICE` keys at a time.

    Directories with few changes share a slice, in the order of their ids.
    """
    spaces = memtable.spaces
    names = iter(spaces)
    puts: Puts = []
    deletes: list[bytes] = []
    while chunk := sorted(islice(names, SLICE)):
        for space in chunk:
            table, prefix = (0, pack_id(space)) if space >= 0 else (-space, b"")
            items = iter(spaces[space].items())
            while part := list(islice(items, SLICE - len(puts) - len(deletes) if table == 0 else SLICE)):
                if table and (puts or deletes):
                    yield 0, sorted(puts), sorted(deletes)
                    puts, deletes = [], []
                for key, value in part:
                    if value is None:
                        deletes.append(prefix + key)
                    else:
                        puts.append((prefix + key, value))
                if table or len(puts) + len(deletes) >= SLICE:
                    yield table, sorted(puts), sorted(deletes)
                    puts, deletes = [], []
    if puts or deletes:
        yield 0, sorted(puts), sorted(deletes)
