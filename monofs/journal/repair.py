"""Looking at the journal of a stopped node, and giving up its end: what ``monofs admin journal`` does.

Nothing is changed but by :func:`cut_after`, which discards everything written after an entry, for ever; the node then starts as if it had
never been written. Later segments are emptied before earlier ones, so a cut that was interrupted can be repeated. All hold the journal's lock.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

from monofs.journal.files import REAL_FILES
from monofs.journal.frames import BLOCK_BYTES, Decoded, Frame, decode_records
from monofs.journal.recovery import Log, Segment, check_damaged, list_segments, open_settled, read_frame
from monofs.journal.segments import lock_directory
from monofs.model.errors import InvalidArgument, JournalCorrupt, JournalFailed, NotFound


class FrameAt(NamedTuple):
    """A whole frame at a byte of its segment."""

    offset: int
    frame: Frame
    holds: Decoded

    @property
    def last_index(self) -> int:
        """Where the log ended when this had been written."""
        return self.frame.first_index + self.frame.entries - 1


class File(NamedTuple):
    """A segment file. ``segment`` None: ``note`` says why it holds none."""

    name: str
    segment: Segment | None
    note: str


@contextmanager
def locked(directory: str) -> Iterator[None]:
    """Keep the node from starting meanwhile. Raises ``NotFound``, ``HomeInUse``, ``JournalFailed``."""
    try:
        fd = lock_directory(directory)
    except (FileNotFoundError, NotADirectoryError):
        raise NotFound(f"{directory} is no directory of a journal") from None
    except OSError as error:
        raise JournalFailed(f"cannot open {directory}: {error.strerror}") from error
    try:
        yield
    finally:
        REAL_FILES.close(fd)


def files_of(directory: str) -> list[File]:
    """All segment files: what was discarded, then the log in order, then what holds nothing."""
    contents = list_segments(directory)
    found = [File(os.path.basename(older.path), older, "discarded: not part of the log") for older in contents.older]
    found += [File(os.path.basename(segment.path), segment, "") for segment in contents.chain]
    found += [File(os.path.basename(path), None, "its header is damaged") for path in contents.damaged]
    return found + [File(os.path.basename(path), None, "empty") for path in contents.free]


def frames_of(segment: Segment) -> Iterator[FrameAt]:
    """The frames of a segment that are whole and follow one another from its beginning on."""
    header = segment.header
    offset, crc = header.frames_at, header.previous_crc
    fd = open_settled(segment.path)
    try:
        while (frame := read_frame(fd, offset, header.size)) is not None:
            if (frame.serial, frame.previous_crc) != (header.serial, crc):
                return
            yield FrameAt(offset, frame, decode_records(frame))
            offset, crc = offset + frame.size, frame.crc
    except (OSError, JournalCorrupt):
        return  # unreadable from here on
    finally:
        REAL_FILES.close(fd)


def verify(directory: str) -> tuple[str | None, int | None]:
    """Read all of the log as a start would that has nothing. Returns what is wrong, and the byte of a torn tail in the last segment.

    A torn tail is no damage: a start cuts it off. Raises ``HomeUnusable`` (newer format).
    """
    log = Log(directory)
    try:
        for _ in log.frames(None):
            pass
        check_damaged(log)
    except (JournalCorrupt, JournalFailed) as error:
        return error.message, None
    return None, log.tail.offset if log.tail is not None and log.tail.torn else None


def cut_after(directory: str, index: int) -> None:
    """Discard everything written after the log last ended with entry ``index``.

    Raises ``InvalidArgument`` when it never did; then nothing was changed.
    """
    contents = list_segments(directory)
    kept: tuple[int, int] | None = None
    for number, segment in enumerate(contents.chain):
        if segment.header.first_index == index + 1:
            kept = number, segment.header.frames_at
        for at in frames_of(segment):
            if at.last_index == index:
                kept = number, at.offset + at.frame.size
    if kept is None:
        raise InvalidArgument(f"no frame ends with entry {index}: `monofs admin journal dump` shows what is whole")
    number, offset = kept
    for path in [*contents.damaged, *(segment.path for segment in reversed(contents.chain[number + 1 :]))]:
        _zero(path, 0, BLOCK_BYTES)
    _zero(contents.chain[number].path, offset, contents.chain[number].header.size)


def _zero(path: str, start: int, end: int) -> None:
    zeros = bytes(1 << 20)
    try:
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
        try:
            while start < end:
                start += os.pwrite(fd, zeros[: end - start], start)
            os.fsync(fd)
        finally:
            os.close(fd)
    except OSError as error:
        raise JournalFailed(f"cannot write {path}: {error.strerror}") from error
