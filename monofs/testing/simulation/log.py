"""The log of a simulated member: the product's segment files on its simulated disk, one object for each life."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

from monofs.config.schema import JournalConfig
from monofs.journal.frames import HEADER_MAX_BYTES, decode_header
from monofs.journal.log_files import SEGMENT_MIN_BYTES, LogFiles, Opened
from monofs.journal.raft.messages import NOBODY, HardState, LogEntry, Persist, Position
from monofs.journal.recovery import read_frame

if TYPE_CHECKING:
    from monofs.testing.simulation.disk import Disk
    from monofs.testing.simulation.events import Events
    from monofs.testing.simulation.machine import Image

DIRECTORY = "/home/journal"
_FILL_BYTES = 1 << 20


class SimulatedLog:
    """``LogFiles`` as the journal thread uses it, and counts of what happened there."""

    def __init__(self, disk: Disk, events: Events) -> None:
        self._disk, self._events = disk, events
        self.hard_state = HardState(0, NOBODY)
        """As durable."""
        self._files = LogFiles(DIRECTORY, JournalConfig(segment_bytes=SEGMENT_MIN_BYTES), files=disk)

    def open(self, state: Image, *, installed: bool) -> Opened:
        """Read it back; see ``LogFiles.open``."""
        opened = self._files.open(Position(state.index, state.term), state.membership, may_discard=installed)
        self.hard_state = opened.hard_state
        return opened

    def persist(self, batch: Persist) -> None:
        """One batch."""
        self._files.persist(batch)
        if batch.hard_state is not None:
            self.hard_state = batch.hard_state
        if batch.truncate_from is not None:
            self._events.counts["truncation"] += 1
        self._files.prepare(_FILL_BYTES)

    def release(self, index: int) -> None:
        """What the state holds durably may go."""
        self._files.release(index)

    def read(self, first_index: int, max_bytes: int) -> list[LogEntry] | None:
        """For a follower that lags."""
        return self._files.read(first_index, max_bytes)

    def is_over_bound(self) -> bool:
        """As ``LogDisk`` says it."""
        return self._files.live_bytes > self._files.retain_bytes

    def last_index(self) -> int:
        """The last durable entry."""
        return self._files.last_index

    def first_index(self) -> int:
        """The oldest entry that can be read."""
        return self._files.first_index


def flip_bit(disk: Disk, dice: random.Random) -> bool:
    """Turn one bit in one of the frames of a log at rest, but not in the last one; False when there is no such frame."""
    frames = []
    for name in disk.listdir(DIRECTORY):
        path = f"{DIRECTORY}/{name}"
        header = decode_header(disk.peek(path)[:HEADER_MAX_BYTES]) if name.endswith(".segment") else None
        if header is None:
            continue
        fd = disk.open(path, 0)
        offset = header.frames_at
        while (frame := read_frame(fd, offset, header.size, disk)) is not None and frame.serial == header.serial:
            frames.append((header.serial, path, offset, len(frame.payload)))
            offset += frame.size
        disk.close(fd)
    frames.sort()
    if len(frames) < 2:
        return False
    _, path, offset, size = dice.choice(frames[:-1])
    disk.flip_bit(path, offset + dice.randrange(32 + size), dice.randrange(8))
    return True
