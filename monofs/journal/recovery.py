"""Reading a journal directory back: which segments make up the log, its entries in order, and where it ends.

Invariant: what is handed out is exactly a prefix of what was written, and never ends before the last entry acknowledged; if that
cannot be said, ``JournalCorrupt`` is raised. One frame is in flight at a time, so after a bad frame with no whole frame of the same
serial behind it nothing was ever acknowledged: a torn tail. With one behind it, acknowledged bytes are damaged. The same rule judges
a damaged segment header: without a frame of the serial that follows, it is a segment whose opening was cut short.
Nothing is written here; segments.py cuts the tail.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from itertools import pairwise
from typing import NamedTuple

from monofs.journal.frames import (
    BLOCK_BYTES,
    FRAME_PREFIX_ANY,
    Frame,
    HardState,
    Record,
    SegmentHeader,
    decode_frame,
    decode_header,
    decode_records,
    frame_prefix,
    frame_size,
)
from monofs.model.errors import JournalCorrupt, JournalFailed

SUFFIX = ".segment"
_SCAN_BYTES = 1 << 20


class Segment(NamedTuple):
    """A segment file with a whole header."""

    path: str
    header: SegmentHeader


class Tail(NamedTuple):
    """Where the log ends: appending goes on at byte ``offset`` of ``segment``. ``torn``: bytes to be zeroed lie there."""

    segment: Segment
    offset: int
    crc: int
    next_index: int
    torn: bool


class Contents(NamedTuple):
    """The files of a journal directory. ``chain`` is the log, oldest first; ``free`` hold nothing that is needed; ``damaged`` have
    a header that is not whole; ``short`` are shorter than their header says."""

    chain: list[Segment]
    older: list[Segment]
    free: list[str]
    damaged: list[str]
    short: list[str]


class Log:
    """The log of a directory, read once: first :meth:`entries` to its end, then ``tail`` and ``state`` are valid."""

    def __init__(self, directory: str) -> None:
        self.directory = directory
        self.contents = list_segments(directory)
        self.tail: Tail | None = None
        chain = self.contents.chain
        self.state = chain[-1].header.state if chain else HardState(0, 0)
        self.voters = chain[-1].header.voters if chain else ()
        self.last_of: dict[int, int] = {}  # serial -> index of its last entry

    def entries(self, applied: int) -> Iterator[Record]:
        """All entries above ``applied``, in order. Raises ``JournalCorrupt``, ``JournalFailed``.

        Segments that end at or below ``applied`` are not read.
        """
        chain = self.contents.chain
        for this, following in pairwise(chain):
            self.last_of[this.header.serial] = following.header.first_index - 1
        if chain and chain[0].header.first_index > applied + 1:
            lost = f"entries {applied + 1} to {chain[0].header.first_index - 1} are in no segment"
            raise self.corrupt(lost, self.contents.damaged)
        read_before = sum(segment.header.first_index <= applied + 1 for segment in chain)
        for position in range(max(read_before - 1, 0), len(chain)):
            following_header = chain[position + 1].header if position + 1 < len(chain) else None
            for frame in self._frames(chain[position], following_header):
                try:
                    records, state = decode_records(frame)
                except JournalCorrupt as error:
                    raise self.corrupt(error.message, [chain[position].path]) from error
                if state is not None and state.term >= self.state.term:
                    self.state = state
                for record in records:
                    if record.number > applied:
                        yield record
        if chain and self.tail is not None:
            self.last_of[chain[-1].header.serial] = self.tail.next_index - 1

    def _frames(self, segment: Segment, following: SegmentHeader | None) -> Iterator[Frame]:
        header = segment.header
        offset, crc, index = BLOCK_BYTES, header.previous_crc, header.first_index
        fd = open_settled(segment.path)
        try:
            while (frame := read_frame(fd, offset, header.size)) is not None and frame.serial == header.serial:
                if frame.previous_crc != crc or frame.first_index != index:
                    raise self.corrupt(f"the frame at byte {offset} does not follow index {index - 1}", [segment.path])
                yield frame
                offset, crc, index = offset + frame.size, frame.crc, index + frame.entries
            if following is not None:
                if following.first_index != index or following.previous_crc != crc:
                    raise self.corrupt(f"it breaks off at byte {offset}, after index {index - 1}", [segment.path])
                return
            later = find_frame(fd, offset + BLOCK_BYTES, header.size, frame_prefix(header.serial))
            if later is not None:
                what = f"bad bytes at {offset}, after index {index - 1}, and whole frames from byte {later} on"
                raise self.corrupt(what, [segment.path])
            torn = os.pread(fd, 12, offset) == frame_prefix(header.serial)
            self.tail = Tail(segment, offset, crc, index, torn)
        except OSError as error:
            raise self.corrupt(
                f"reading at byte {offset}, after index {index - 1}: {error.strerror}", [segment.path]
            ) from error
        finally:
            os.close(fd)

    def corrupt(self, what: str, paths: list[str]) -> JournalCorrupt:
        """The error that names the damage and the remedy."""
        names = ", ".join(os.path.basename(path) for path in paths) or "the segments"
        return JournalCorrupt(
            f"journal {self.directory}, {names}: {what}. Restore from a backup; or see what is whole with "
            f"`python -m monofs.journal.repair {self.directory}` and give up the rest with its --cut-after",
        )


def list_segments(directory: str) -> Contents:
    """Read all headers. Raises ``HomeUnusable`` for a newer format, ``JournalFailed`` when a file cannot be read."""
    found: list[Segment] = []
    free: list[str] = []
    damaged: list[str] = []
    short: list[str] = []
    for name in sorted(os.listdir(directory)):
        if not name.endswith(SUFFIX):
            continue
        path = os.path.join(directory, name)
        fd = open_settled(path)
        try:
            block = os.pread(fd, BLOCK_BYTES, 0)
            length = os.fstat(fd).st_size
        finally:
            os.close(fd)
        header = decode_header(block)
        if header is not None:
            found.append(Segment(path, header))
            if length < header.size:
                short.append(path)
        elif not any(block):
            free.append(path)
        else:
            damaged.append(path)
    found.sort(key=lambda segment: segment.header.serial)
    chain = _chain(found)
    older = found[: len(found) - len(chain)]
    return Contents(chain, older, free, damaged, short)


def check_damaged(log: Log) -> list[str]:
    """The damaged segments that may be reused: openings cut short. Raises ``JournalCorrupt`` for one that holds the log's next frames."""
    if log.contents.short:
        raise log.corrupt("the file is shorter than its header says", log.contents.short)
    chain = log.contents.chain
    prefix = frame_prefix(chain[-1].header.serial + 1) if chain else FRAME_PREFIX_ANY
    for path in log.contents.damaged:
        fd = open_settled(path)
        try:
            at = find_frame(fd, BLOCK_BYTES, os.fstat(fd).st_size, prefix)
        finally:
            os.close(fd)
        if at is not None:
            raise log.corrupt(f"its header is damaged, and whole frames stand from byte {at} on", [path])
    return log.contents.damaged


def _chain(found: list[Segment]) -> list[Segment]:
    """The longest run of serials that ends with the newest segment and has no start of a chain inside."""
    begin = len(found) - 1
    while begin > 0 and not found[begin].header.starts_chain:
        if found[begin - 1].header.serial != found[begin].header.serial - 1:
            break
        begin -= 1
    return found[max(begin, 0) :]


def open_settled(path: str) -> int:
    """Open for reading what the *disk* holds.

    A process before us may have died, or stopped after a failed fdatasync, with bytes in the page cache that the disk does not have;
    they would be replayed now and lost later. So: write out what is dirty, drop what is clean, then read.
    """
    try:
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
        try:
            os.fsync(fd)
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        except OSError:
            os.close(fd)
            raise
    except OSError as error:
        raise JournalFailed(f"cannot open journal segment {path}: {error.strerror}") from error
    return fd


def read_frame(fd: int, offset: int, limit: int) -> Frame | None:
    """The whole frame at ``offset``, or None; ``limit`` is the segment's size."""
    block = os.pread(fd, min(BLOCK_BYTES, max(limit - offset, 0)), offset)
    size = frame_size(block)
    if size is None or size > limit - offset:
        return None
    while len(block) < size:
        more = os.pread(fd, size - len(block), offset + len(block))
        if not more:
            return None
        block += more
    return decode_frame(block)


def find_frame(fd: int, start: int, limit: int, prefix: bytes) -> int | None:
    """Where, on a block boundary at or after ``start``, a whole frame with this prefix stands."""
    for base in range(start, limit, _SCAN_BYTES):
        chunk = os.pread(fd, min(_SCAN_BYTES, limit - base), base)
        at = chunk.find(prefix)
        while at >= 0:
            if at % BLOCK_BYTES == 0 and read_frame(fd, base + at, limit) is not None:
                return base + at
            at = chunk.find(prefix, at + 1)
    return None
