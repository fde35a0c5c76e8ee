"""The files of a journal: opening segments, appending frames, reusing what is released, zero-filling new ones ahead of need.

Order is the law here: a file is zero-filled and synced under another name, then renamed, then the directory is synced; a segment's
header is synced before its first frame is written, so a header never lies about the frames behind it; a frame is written only after
the one before it was synced. Invariant: ``next_index`` counts only what is durable. One owner at a time: start-up, then the journal
thread. Any ``OSError`` that leaves here, except no room for a new segment (``DiskFull``), means the journal must not be written again.
A header of two blocks is written block by block, because a first block of old with a second of new would pass for an older segment.
"""

from __future__ import annotations

import errno
import fcntl
import os
from collections import deque
from collections.abc import Sequence
from typing import NamedTuple

from monofs.journal.files import REAL_FILES, Files
from monofs.journal.frames import (
    BLOCK_BYTES,
    FORMAT_VERSION,
    HEADER_MAX_BYTES,
    SegmentHeader,
    encode_frame,
    encode_header,
)
from monofs.journal.outline import Cut, Outline
from monofs.journal.raft.messages import NOBODY, HardState, Membership, Position
from monofs.journal.recovery import SUFFIX, Log, Segment, check_damaged
from monofs.model.errors import DiskFull, HomeInUse, JournalFailed, invariant
from monofs.observe.logs import logger

FREE_MAX = 2
"""Released segments kept for reuse; more are unlinked."""

_FILLING = ".filling"
_ZEROS = bytes(1 << 20)
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # the disk's, the user's or the process's limit
_log = logger(__name__)


class Sealed(NamedTuple):
    """A full segment whose entries are not all released yet. ``last_index``: where the log ended when the next one was opened."""

    path: str
    serial: int
    first_index: int
    last_index: int
    size: int


class Segments:
    """All segments of one directory, locked against other processes until :meth:`close`."""

    def __init__(self, directory: str, segment_bytes: int, files: Files = REAL_FILES) -> None:
        """Create the directory if need be and lock it. Raises ``HomeInUse``, ``OSError``."""
        self.directory = directory
        self.segment_bytes = segment_bytes
        self.state = HardState(0, NOBODY)
        self.outline = Outline(Position(0, 0), Membership(()))
        self.first_index = 1  # the oldest index still in the log; next_index when it is empty
        self.live_bytes = 0  # of segments whose entries are not released, the present one included
        self.sealed: deque[Sealed] = deque()
        self.free: deque[str] = deque()
        self.where: dict[int, tuple[str, int]] = {}  # serial -> path and size of the segments of the log
        self._files = files
        self._fd = -1
        self._path = ""
        self._size = 0
        self._serial = 0
        self._opened_index = 1
        self._offset = 0
        self._crc = 0
        self._filling: tuple[str, int, int] | None = None  # path, descriptor, bytes done
        self._no_room = False
        self._directory_fd = lock_directory(directory, files, create=True)
        for name in files.listdir(directory):
            if name.endswith(_FILLING):
                files.unlink(os.path.join(directory, name))

    @property
    def next_index(self) -> int:
        """The index of the entry that is appended next."""
        return self.outline.last_index + 1

    # ---- taking over a log ----------------------------------------------------------------------------------------------

    def resume(self, log: Log) -> None:
        """Go on after the end of ``log``, whose frames were read to the end; a torn tail is zeroed and synced first."""
        tail = log.tail
        invariant(tail is not None, "a log that is resumed has a tail")
        assert tail is not None  # noqa: S101 (for the type checker; the invariant above speaks)
        header = tail.segment.header
        self.state, self.outline = log.state, log.outline
        self._adopt_files(log)
        for path, of in log.contents.chain[:-1]:
            self.sealed.append(Sealed(path, of.serial, of.first_index, log.last_of[of.serial], of.size))
            self.where[of.serial] = path, of.size
        self._open(tail.segment)
        self._offset, self._crc = tail.offset, tail.crc
        self._opened_index = header.first_index
        self._recount()
        if tail.torn:
            _log.warning("torn tail cut", segment=tail.segment.path, byte=tail.offset, next_index=tail.next_index)
            self._zero_rest()
        if header.version < FORMAT_VERSION:
            self._offset = self._size  # what is written now goes into a segment of this version

    def begin(self, log: Log, base: Position, membership: Membership) -> None:
        """Start a new chain after ``base``; all that ``log`` holds is discarded, but for the hard state. Raises ``DiskFull``."""
        chain = log.contents.chain
        self.state = log.state
        self._adopt_files(log)
        # An unguessable first serial: nothing a user stored, and no segment of another journal, can pass for a frame of this one.
        self._serial = chain[-1].header.serial if chain else int.from_bytes(self._files.urandom(6), "big")
        self.outline = Outline(base, membership)
        self._activate(self._take_free(), previous_crc=0, starts_chain=True)
        # Only now: a crash while one of them was being overwritten would leave a log without its end.
        for path, _ in chain:
            self._set_free(path, log.contents.sizes[path])
        self._trim_free()

    def restart(self, base: Position, membership: Membership) -> None:
        """Discard the whole log while it is open, and start a new chain after ``base``. Raises ``DiskFull``: nothing was changed."""
        path = self._take_free()
        old = [*((sealed.path, sealed.size) for sealed in self.sealed), (self._path, self._size)]
        self.sealed.clear()
        self.where.clear()
        self._close_segment()
        self.outline = Outline(base, membership)
        self._activate(path, previous_crc=0, starts_chain=True)
        for each, size in old:
            self._set_free(each, size)
        self._trim_free()

    def _adopt_files(self, log: Log) -> None:
        older = [segment.path for segment in log.contents.older]
        for path in [*older, *log.contents.free, *check_damaged(log)]:
            self._set_free(path, log.contents.sizes[path])
        self._trim_free()

    def _set_free(self, path: str, size: int) -> None:
        if size == self.segment_bytes:
            self.free.append(path)
        else:
            self._files.unlink(path)

    def _zero_rest(self) -> None:
        for at in range(self._offset, self._size, len(_ZEROS)):
            self._write_all(self._fd, memoryview(_ZEROS)[: self._size - at], at)
        self._files.fdatasync(self._fd)

    # ---- appending ------------------------------------------------------------------------------------------------------

    def append(
        self,
        entries: int,
        parts: Sequence[bytes],
        *,
        cut: Cut | None = None,
        runs: Sequence[Position] | None = None,
        memberships: Sequence[tuple[int, Membership]] = (),
    ) -> int:
        """Write one frame of ``entries`` entries (``parts``: its records in pieces) and sync it; returns its bytes.

        ``cut``: what its first record discards. ``runs``: where among the entries a new term begins; None: all are of the hard state's.
        ``memberships``: those among the entries. Raises ``DiskFull`` before anything was written when a new segment is needed and
        there is no room for one.
        """
        first_index = self.next_index if cut is None else cut.first_index
        data, crc = encode_frame(self._serial, self._crc, first_index, entries, parts)
        if self._offset + len(data) > self._size:
            self._rotate()
            data, crc = encode_frame(self._serial, self._crc, first_index, entries, parts)
        invariant(self._offset + len(data) <= self._size, "a frame fits into an empty segment")
        self._write_all(self._fd, memoryview(data), self._offset)
        self._files.fdatasync(self._fd)
        outline = self.outline
        if cut is not None:
            invariant(outline.cut(cut), "a cut is that of the log as it is")
        if runs is None:
            term = self.state.term
            runs = () if outline.last.term == term else (Position(first_index, term),)
        outline.extend(entries, runs, memberships, serial=self._serial, offset=self._offset)
        self._offset += len(data)
        self._crc = crc
        return len(data)

    def make_room(self, sizes: Sequence[int]) -> None:
        """Have all the segments that frames of these sizes need. Raises ``DiskFull``."""
        offset, end, needed = self._offset, self._size, 0
        for size in sizes:
            if offset + size > end:
                offset, end, needed = HEADER_MAX_BYTES, self.segment_bytes, needed + 1
            offset += size
        while len(self.free) < needed:
            self._fill_one()

    def _rotate(self) -> None:
        path = self._take_free()
        self.sealed.append(Sealed(self._path, self._serial, self._opened_index, self.next_index - 1, self._size))
        self._close_segment()
        self._activate(path, previous_crc=self._crc, starts_chain=False)

    def _close_segment(self) -> None:
        self._files.close(self._fd)
        self._fd = -1

    def _activate(self, path: str, *, previous_crc: int, starts_chain: bool) -> None:
        outline = self.outline
        header = SegmentHeader(
            self._serial + 1,
            self.segment_bytes,
            self.next_index,
            previous_crc,
            starts_chain,
            self.state,
            outline.last.term,
            outline.membership,
        )
        self._open(Segment(path, header))
        data = memoryview(encode_header(header))
        for at in range(0, len(data), BLOCK_BYTES):
            self._write_all(self._fd, data[at : at + BLOCK_BYTES], at)
            self._files.fdatasync(self._fd)
        self._offset, self._crc, self._opened_index = len(data), previous_crc, self.next_index
        self._recount()

    def _open(self, segment: Segment) -> None:
        self._fd = self._files.open(segment.path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
        self._path, self._size, self._serial = segment.path, segment.header.size, segment.header.serial
        self.where[self._serial] = self._path, self._size

    # ---- room -----------------------------------------------------------------------------------------------------------

    def reclaim(self, released: int, keep_bytes: int = 0) -> None:
        """Make segments that end at or below ``released`` free, as long as ``keep_bytes`` of segments stay; at most ``FREE_MAX`` free ones are kept."""
        count, live = 0, self.live_bytes
        for sealed in self.sealed:
            live -= sealed.size
            if sealed.last_index > released or live < keep_bytes:
                break
            count += 1
        if not count:
            return
        for _ in range(count):
            gone = self.sealed.popleft()
            del self.where[gone.serial]
            self._set_free(gone.path, gone.size)
        self._no_room = False
        self._trim_free()
        self.outline.drop_before(self.sealed[0].serial if self.sealed else self._serial)
        self._recount()

    def prepare(self, budget_bytes: int) -> bool:
        """Zero-fill up to ``budget_bytes`` of the segment needed next, once the present one is half full.

        Returns whether more is left to do. No room is only logged here: the segment may be released before it is needed.
        """
        if self.free or self._no_room or self._offset < self._size // 2:
            return False
        try:
            return not self._fill(budget_bytes)
        except DiskFull as error:
            self._no_room = True
            _log.warning("no room for the next journal segment", directory=self.directory, error=str(error))
            return False

    def _recount(self) -> None:
        self.live_bytes = sum(sealed.size for sealed in self.sealed) + self._size
        self.first_index = self.sealed[0].first_index if self.sealed else self._opened_index

    def files(self) -> tuple[int, int]:
        """How many segment files there are, and their bytes; any thread."""
        return len(self.sealed) + len(self.free) + 1, self.live_bytes + len(self.free) * self.segment_bytes

    def close(self) -> None:
        """Close all descriptors and give up the lock."""
        if self._filling is not None:
            self._files.close(self._filling[1])
            self._filling = None
        if self._fd >= 0:
            self._close_segment()
        self._files.close(self._directory_fd)

    def _take_free(self) -> str:
        if not self.free:
            self._fill_one()
        return self.free.popleft()

    def _fill_one(self) -> None:
        self._no_room = False
        while not self._fill(self.segment_bytes):
            pass

    def _trim_free(self) -> None:
        while len(self.free) > FREE_MAX:
            self._files.unlink(self.free.popleft())

    def _fill(self, budget_bytes: int) -> bool:
        """Zero-fill on; True when a new free segment stands. Raises ``DiskFull`` and leaves nothing behind."""
        files = self._files
        try:
            if self._filling is None:
                self._filling = self._create()
            path, fd, done = self._filling
            end = min(done + budget_bytes, self.segment_bytes)
            for at in range(done, end, len(_ZEROS)):
                self._write_all(fd, memoryview(_ZEROS)[: end - at], at)
            self._filling = path, fd, end
            files.fsync(fd)
        except OSError as error:
            if error.errno not in _NO_ROOM:
                raise
            self._abandon()
            raise DiskFull(
                f"no room for a journal segment of {self.segment_bytes} bytes in {self.directory} "
                f"({error.strerror}): free some space there"
            ) from error
        if end < self.segment_bytes:
            return False
        files.close(fd)
        self._filling = None
        ready = path.removesuffix(_FILLING) + SUFFIX
        files.rename(path, ready)
        files.fsync(self._directory_fd)
        self.free.append(ready)
        return True

    def _create(self) -> tuple[str, int, int]:
        taken = {name.partition(".")[0] for name in self._files.listdir(self.directory)}
        number = next(n for n in range(len(taken) + 1) if f"{n:06d}" not in taken)
        path = os.path.join(self.directory, f"{number:06d}{_FILLING}")
        fd = self._files.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        self._filling = path, fd, 0
        self._files.posix_fallocate(fd, 0, self.segment_bytes)  # says at once when there is no room
        return self._filling

    def _abandon(self) -> None:
        if self._filling is not None:
            path, fd, _ = self._filling
            self._filling = None
            self._files.close(fd)
            self._files.unlink(path)

    def _write_all(self, fd: int, data: memoryview, offset: int) -> None:
        pwrite = self._files.pwrite
        done = pwrite(fd, data, offset)
        while done < len(data):
            more = pwrite(fd, data[done:], offset + done)
            if more <= 0:
                raise OSError(errno.EIO, "the disk took no more bytes")
            done += more


def lock_directory(directory: str, files: Files = REAL_FILES, *, create: bool = False) -> int:
    """Open a journal directory and keep other processes out until the descriptor is closed. Raises ``HomeInUse``, ``OSError``."""
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
    try:
        fd = files.open(directory, flags)
    except FileNotFoundError:
        if not create:
            raise
        files.makedirs(directory, 0o700)
        parent = files.open(os.path.dirname(os.path.abspath(directory)), flags)
        try:
            files.fsync(parent)
        finally:
            files.close(parent)
        fd = files.open(directory, flags)
    try:
        files.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        files.close(fd)
        raise HomeInUse(f"another process writes the journal in {directory}: stop it first") from None
    return fd


def write_failure(directory: str, error: BaseException) -> BaseException:
    """What an exception of writing or syncing means."""
    if isinstance(error, OSError):
        return JournalFailed(
            f"writing the journal in {directory} failed: {error}: check the disk, then start the node again"
        )
    return error
