"""Reading a journal directory back: which segments make up the log, its entries in order, and where it ends.

Invariant: what is handed out is exactly a prefix of what was written, and never ends before the last entry acknowledged; if that
cannot be said, ``JournalCorrupt`` is raised. One frame is in flight at a time, so after a bad frame with no whole frame of the same
serial behind it nothing was ever acknowledged: a torn tail. With one behind it, acknowledged bytes are damaged. The same rule judges
a damaged segment header: without a frame of the serial that follows, it is a segment whose opening was cut short.
Frames stand in the order in which they were written, whatever indexes they hold: one that discards the end of the log (a *cut*) says so,
names the last entry it found there, and is torn or whole like any other. Nothing is written here; segments.py zeroes the tail.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from itertools import pairwise
from typing import NamedTuple

from monofs.journal.files import REAL_FILES, Files
from monofs.journal.frames import (
    BLOCK_BYTES,
    FRAME_PREFIX_ANY,
    HEADER_MAX_BYTES,
    KIND_MEMBERSHIP,
    Decoded,
    Frame,
    Record,
    SegmentHeader,
    decode_frame,
    decode_header,
    decode_records,
    frame_prefix,
    frame_size,
    unpack_membership,
)
from monofs.journal.outline import Outline
from monofs.journal.raft.messages import NOBODY, HardState, Membership, Position
from monofs.model.errors import HomeUnusable, JournalCorrupt, JournalFailed

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
    a header that is not whole; ``short`` are shorter than their header says. ``sizes`` are the lengths of all of them by path."""

    chain: list[Segment]
    older: list[Segment]
    free: list[str]
    damaged: list[str]
    short: list[str]
    sizes: dict[str, int]


class Log:
    """The log of a directory, read once: first :meth:`frames` or :meth:`entries` to the end, then the rest is valid.

    ``outline`` covers what was read; ``last_of`` gives the index before each following segment, by serial.
    """

    def __init__(self, directory: str, files: Files = REAL_FILES) -> None:
        self.directory = directory
        self.files = files
        self.contents = list_segments(directory, files)
        self.tail: Tail | None = None
        chain = self.contents.chain
        self.state = chain[-1].header.state if chain else HardState(0, NOBODY)
        self.outline = Outline(Position(0, 0), Membership(()))
        self.last_of: dict[int, int] = {}

    def entries(self, applied: int) -> Iterator[Record]:
        """All entries above ``applied``, in order, of a log that was never cut. Raises ``HomeUnusable`` for others, and what
        :meth:`frames` raises."""
        for decoded in self.frames(applied):
            if decoded.cut is not None:
                raise HomeUnusable(
                    f"the journal in {self.directory} was written as one of several masters: serve it as one"
                )
            for record in decoded.records:
                if record.number > applied:
                    yield record

    def frames(self, applied: int | None, *, whole: bool = False) -> Iterator[Decoded]:
        """What the frames hold that may matter to a state at ``applied``, in order; a cut takes back what came before.

        Segments wholly at or below ``applied`` are not read (None: all are); with ``whole``, the outline goes back to the oldest segment, and
        those of them in which the term changes are read for it. Raises ``JournalCorrupt``, ``JournalFailed``.
        """
        chain = self.contents.chain
        if not chain:
            return
        for this, following in pairwise(chain):
            self.last_of[this.header.serial] = following.header.first_index - 1
        begin = 0
        if applied is not None:
            if chain[0].header.first_index > applied + 1:
                lost = f"entries {applied + 1} to {chain[0].header.first_index - 1} are in no segment"
                raise self.corrupt(lost, self.contents.damaged)
            begin = max(n for n, segment in enumerate(chain) if segment.header.first_index <= applied + 1)
        oldest = chain[0 if whole else begin].header
        self.outline = Outline(oldest.base, oldest.membership)
        for position in range(0 if whole else begin, len(chain)):
            following_header = chain[position + 1].header if position + 1 < len(chain) else None
            self._check_base(chain[position])
            self.state = chain[position].header.state
            if position < begin and following_header is not None and self._pass_over(chain[position], following_header):
                continue
            for decoded in self._frames(chain[position], following_header):
                if position >= begin:
                    yield decoded
        if self.tail is not None:
            self.last_of[chain[-1].header.serial] = self.tail.next_index - 1

    def _pass_over(self, segment: Segment, following: SegmentHeader) -> bool:
        """Whether all there is to know about ``segment`` stands in the headers: its entries, if any, continue one term.

        One leader per term wrote each index once, so two entries of one term have only entries of that term between them.
        """
        header, outline = segment.header, self.outline
        same = (header.base_term, header.membership) == (following.base_term, following.membership)
        count = following.first_index - header.first_index
        if not same or not header.base_term or count < 0:
            return False
        outline.extend(count, (), (), serial=header.serial, offset=header.frames_at)
        return True

    def _check_base(self, segment: Segment) -> None:
        header, outline = segment.header, self.outline
        if not header.base_term:
            return
        if not outline.last.term and outline.last_index == outline.base.index:
            outline.terms[0] = outline.base._replace(term=header.base_term)  # not known before: learnt
        if (header.base, header.membership) != (outline.last, outline.membership):
            what = (
                f"it does not begin at index {outline.last.index} of term {outline.last.term}, as the one before ends"
            )
            raise self.corrupt(what, [segment.path])

    def _frames(self, segment: Segment, following: SegmentHeader | None) -> Iterator[Decoded]:
        header = segment.header
        offset, crc, outline, files = header.frames_at, header.previous_crc, self.outline, self.files
        fd = open_settled(segment.path, files)
        try:
            while (frame := read_frame(fd, offset, header.size, files)) is not None and frame.serial == header.serial:
                if frame.previous_crc != crc:
                    raise self._not_following(segment, offset)
                try:
                    yield self._take(segment, frame, offset)
                except JournalCorrupt as error:
                    raise self.corrupt(error.message, [segment.path]) from error
                offset, crc = offset + frame.size, frame.crc
            index = outline.last_index + 1
            if following is not None:
                if following.first_index != index or following.previous_crc != crc:
                    raise self.corrupt(f"it breaks off at byte {offset}, after index {index - 1}", [segment.path])
                return
            later = find_frame(fd, offset + BLOCK_BYTES, header.size, frame_prefix(header.serial), files)
            if later is not None:
                what = f"bad bytes at {offset}, after index {index - 1}, and whole frames from byte {later} on"
                raise self.corrupt(what, [segment.path])
            torn = files.pread(fd, 12, offset) == frame_prefix(header.serial)
            self.tail = Tail(segment, offset, crc, index, torn)
        except OSError as error:
            raise self.corrupt(
                f"reading at byte {offset}, after index {outline.last_index}: {error.strerror}", [segment.path]
            ) from error
        finally:
            files.close(fd)

    def _take(self, segment: Segment, frame: Frame, offset: int) -> Decoded:
        """Follow one frame: its cut, its entries, its hard state."""
        decoded, outline = decode_records(frame), self.outline
        follows = frame.first_index == outline.last_index + 1 if decoded.cut is None else outline.cut(decoded.cut)
        if not follows:
            raise self._not_following(segment, offset)
        term, runs, memberships = outline.last.term, [], []
        for record in decoded.records:
            if record.term != term:
                if record.term < term:
                    raise JournalCorrupt(f"the term of index {record.number} is lower than the one before it")
                term = record.term
                runs.append(Position(record.number, term))
            if record.entry.kind == KIND_MEMBERSHIP:
                membership = unpack_membership(record.entry.body)
                if membership is None:
                    raise JournalCorrupt(f"the membership of index {record.number} cannot be read")
                memberships.append((record.number, membership))
        outline.extend(frame.entries, runs, memberships, serial=frame.serial, offset=offset)
        if decoded.state is not None:
            if decoded.state.term < self.state.term:
                raise JournalCorrupt(f"the hard state beside index {frame.first_index} has an older term than before")
            self.state = decoded.state
        return decoded

    def _not_following(self, segment: Segment, offset: int) -> JournalCorrupt:
        what = f"the frame at byte {offset} does not follow index {self.outline.last_index}"
        return self.corrupt(what, [segment.path])

    def corrupt(self, what: str, paths: list[str]) -> JournalCorrupt:
        """The error that names the damage and the remedy."""
        names = ", ".join(os.path.basename(path) for path in paths) or "the segments"
        return JournalCorrupt(
            f"journal {self.directory}, {names}: {what}. Restore from a backup; or see what is whole with "
            f"`monofs admin journal verify {self.directory}` and give up the rest with `monofs admin journal cut`",
        )


def list_segments(directory: str, files: Files = REAL_FILES) -> Contents:
    """Read all headers. Raises ``HomeUnusable`` for a newer format, ``JournalFailed`` when a file cannot be read."""
    found: list[Segment] = []
    free: list[str] = []
    damaged: list[str] = []
    short: list[str] = []
    sizes: dict[str, int] = {}
    for name in sorted(files.listdir(directory)):
        if not name.endswith(SUFFIX):
            continue
        path = os.path.join(directory, name)
        fd = open_settled(path, files)
        try:
            data = files.pread(fd, HEADER_MAX_BYTES, 0)
            sizes[path] = files.fstat(fd).st_size
        finally:
            files.close(fd)
        header = decode_header(data)
        if header is not None:
            found.append(Segment(path, header))
            if sizes[path] < header.size:
                short.append(path)
        elif not any(data[:BLOCK_BYTES]):
            free.append(path)
        else:
            damaged.append(path)
    found.sort(key=lambda segment: segment.header.serial)
    chain = _chain(found)
    older = found[: len(found) - len(chain)]
    return Contents(chain, older, free, damaged, short, sizes)


def check_damaged(log: Log) -> list[str]:
    """The damaged segments that may be reused: openings cut short. Raises ``JournalCorrupt`` for one that holds the log's next frames."""
    if log.contents.short:
        raise log.corrupt("the file is shorter than its header says", log.contents.short)
    chain = log.contents.chain
    prefix = frame_prefix(chain[-1].header.serial + 1) if chain else FRAME_PREFIX_ANY
    for path in log.contents.damaged:
        fd = open_settled(path, log.files)
        try:
            at = find_frame(fd, BLOCK_BYTES, log.contents.sizes[path], prefix, log.files)
        finally:
            log.files.close(fd)
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


def open_settled(path: str, files: Files = REAL_FILES) -> int:
    """Open for reading what the *disk* holds.

    A process before us may have died, or stopped after a failed fdatasync, with bytes in the page cache that the disk does not have;
    they would be replayed now and lost later. So: write out what is dirty, drop what is clean, then read.
    """
    try:
        fd = files.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        try:
            files.fsync(fd)
            files.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        except OSError:
            files.close(fd)
            raise
    except OSError as error:
        raise JournalFailed(f"cannot open journal segment {path}: {error.strerror}") from error
    return fd


def read_frame(fd: int, offset: int, limit: int, files: Files = REAL_FILES) -> Frame | None:
    """The whole frame at ``offset``, or None; ``limit`` is the segment's size."""
    block = files.pread(fd, min(BLOCK_BYTES, max(limit - offset, 0)), offset)
    size = frame_size(block)
    if size is None or size > limit - offset:
        return None
    while len(block) < size:
        more = files.pread(fd, size - len(block), offset + len(block))
        if not more:
            return None
        block += more
    return decode_frame(block)


def find_frame(fd: int, start: int, limit: int, prefix: bytes, files: Files = REAL_FILES) -> int | None:
    """Where, on a block boundary at or after ``start``, a whole frame with this prefix stands."""
    for base in range(start, limit, _SCAN_BYTES):
        chunk = files.pread(fd, min(_SCAN_BYTES, limit - base), base)
        at = chunk.find(prefix)
        while at >= 0:
            if at % BLOCK_BYTES == 0 and read_frame(fd, base + at, limit, files) is not None:
                return base + at
            at = chunk.find(prefix, at + 1)
    return None
