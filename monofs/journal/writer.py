"""The journal thread: it takes whatever is queued, makes it one frame on the disk, and hands it back. It does nothing else.

There is no batch timer: what arrived while the last frame was being synced is the next one (at most ``batch_bytes`` and
``BATCH_ENTRIES``). Indexes are given here, when a frame is made, so a proposal that was refused never had one. Between frames the thread
zero-fills the next segment in slices. Invariant: after any ``OSError`` but no room, nothing is written again, ever.

The queue is a deque (append and popleft are atomic); the reactor thread wakes this one only when it said that it is idle. The work per
entry, packing 25 bytes, is here and not in ``propose`` because the next frame must start without waiting for the reactor's turn.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from queue import SimpleQueue
from time import perf_counter
from typing import NamedTuple

from monofs.journal.face import Done, Entry
from monofs.journal.frames import RECORD_BYTES, pack_entry
from monofs.journal.segments import Segments
from monofs.model.errors import DiskFull
from monofs.observe.metrics import JOURNAL_BYTES, JOURNAL_FSYNC

BATCH_ENTRIES = 1024
"""Most entries in one frame: bounds how long their application holds the reactor."""

_FILL_BYTES = 1 << 20
_FSYNC = JOURNAL_FSYNC()
_BYTES = JOURNAL_BYTES()

Proposal = tuple[Entry, Done]


class Batch(NamedTuple):
    """What comes back. ``error`` None: durable from ``first_index`` on; ``DiskFull``: nothing was written; other: unknown."""

    first_index: int
    proposals: list[Proposal]
    size_bytes: int
    error: Exception | None


class Writer:
    """The thread. ``hand_back`` is called on it after each batch was put into ``completed``."""

    def __init__(self, segments: Segments, *, batch_bytes: int, hand_back: Callable[[], None]) -> None:
        self.queue: deque[Proposal] = deque()
        self.completed: deque[Batch] = deque()
        self.released = 0
        self.live_bytes = segments.live_bytes
        self.segments = segments
        self._batch_bytes = batch_bytes
        self._hand_back = hand_back
        self._kicks: SimpleQueue[None] = SimpleQueue()
        self._idle = False
        self._stopping = False
        self._halted = False
        self._thread = threading.Thread(target=self._run, name="monofs-journal", daemon=True)

    def start(self) -> None:
        """Begin to write."""
        self._thread.start()

    def add(self, proposal: Proposal) -> None:
        """Queue a proposal; reactor thread only."""
        self.queue.append(proposal)
        if self._idle:
            self._idle = False
            self._kicks.put(None)

    def release(self, index: int) -> None:
        """Segments that end at or below ``index`` may be reused."""
        self.released = index
        self._kicks.put(None)

    def stop(self) -> None:
        """Write what is queued, then end; returns when the thread has ended. It may be called twice."""
        self._stopping = True
        self._kicks.put(None)
        if self._thread.is_alive():
            self._thread.join()

    def halt(self) -> list[Proposal]:
        """End after the frame in flight, if any; returns the proposals that were never written."""
        self._halted = True
        self.stop()
        never_written = list(self.queue)
        self.queue.clear()
        return never_written

    def _run(self) -> None:
        try:
            while self._wait():
                batch = self._take()
                if not self._write(batch):
                    return
        except Exception as error:  # noqa: BLE001 (from upkeep, no batch in hand: the node must stop, not just this thread)
            self._back(Batch(0, [], 0, error))

    def _wait(self) -> bool:
        """True when proposals are queued, False when it is time to end; upkeep while there is nothing to do."""
        queue, segments = self.queue, self.segments
        while not queue:
            if self._stopping:
                return False
            if self._upkeep(_FILL_BYTES):
                continue
            self._idle = True  # from here on `add` kicks; what it added before is seen by this look
            if queue or self._stopping or (segments.sealed and segments.sealed[0].last_index <= self.released):
                self._idle = False
                continue
            self._kicks.get()
            self._idle = False
        return not self._halted

    def _take(self) -> list[Proposal]:
        queue, room = self.queue, self._batch_bytes
        batch = [queue.popleft()]
        room -= len(batch[0][0].body) + RECORD_BYTES
        while queue and len(batch) < BATCH_ENTRIES:
            room -= len(queue[0][0].body) + RECORD_BYTES
            if room < 0:
                break
            batch.append(queue.popleft())
        return batch

    def _write(self, batch: list[Proposal]) -> bool:
        """Make one frame of ``batch``; False when the thread must end."""
        segments = self.segments
        first = index = segments.next_index
        term, size, parts = segments.state.term, sum(len(entry.body) for entry, _ in batch), []
        began = perf_counter()
        try:
            for entry, _ in batch:
                parts.append(pack_entry(index, term, entry))
                parts.append(entry.body)
                index += 1
            written = segments.append(len(batch), parts)
        except DiskFull as error:
            self._back(Batch(first, batch, size, error))
            return True
        except Exception as error:  # noqa: BLE001 (handed to the reactor thread, which stops the node)
            self._back(Batch(first, batch, size, error))
            return False
        _FSYNC.observe(perf_counter() - began)
        _BYTES.value += written
        self._back(Batch(first, batch, size, None))
        self._upkeep(max(_FILL_BYTES, 2 * written))
        return True

    def _upkeep(self, budget_bytes: int) -> bool:
        segments = self.segments
        segments.reclaim(self.released)
        more = segments.prepare(budget_bytes)
        self.live_bytes = segments.live_bytes
        return more

    def _back(self, batch: Batch) -> None:
        self.completed.append(batch)
        self._hand_back()
