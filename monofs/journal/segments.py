"""The files of a journal: opening segments, appending frames, reusing what is released, zero-filling new ones ahead of need.

Order is the law here: a file is zero-filled and synced under another name, then renamed, then the directory is synced; a segment's
header is synced before its first frame is written, so a header never lies about the frames behind it; a frame is written only after
the one before it was synced. Invariant: ``next_index`` counts only what is durable. One owner at a time: start-up, then the journal
thread. Any ``OSError`` that leaves here, except no room for a new segment (``DiskFull``), means the journal must not be written again.
"""

from __future__ import annotations

import errno
import fcntl
import os
from collections import deque
from collections.abc import Sequence
from typing import NamedTuple

from monofs.journal.frames import BLOCK_BYTES, HardState, SegmentHeader, encode_frame, encode_header
from monofs.journal.recovery import SUFFIX, Log, Segment, check_damaged
from monofs.model.errors import DiskFull, HomeInUse, invariant
from monofs.observe.logs import logger

FREE_MAX = 2
"""Released segments kept for reuse; more are unlinked."""

_FILLING = ".filling"
_ZEROS = bytes(1 << 20)
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # the disk's, the user's or the process's limit
_log = logger(__name__)


class Sealed(NamedTuple):
    """A full segment whose entries are not all released yet."""

    path: str
    first_index: int
    last_index: int
    size: int


class Segments:
    """All segments of one directory, locked against other processes until :meth:`close`."""

    def __init__(self, directory: str, segment_bytes: int, voters: tuple[int, ...]) -> None:
        """Create the directory if need be and lock it. Raises ``HomeInUse``, ``OSError``."""
        self.directory = directory
        self.segment_bytes = segment_bytes
        self.state = HardState(0, 0)
        self.voters = voters
        self.next_index = 1
        self.first_index = 1  # the oldest index still in the log; next_index when it is empty
        self.live_bytes = 0  # of segments whose entries are not released, the present one included
        self.sealed: deque[Sealed] = deque()
        self.free: deque[str] = deque()
        self._fd = -1
        self._path = ""
        self._size = 0
        self._serial = 0
        self._opened_index = 1
        self._offset = 0
        self._crc = 0
        self._filling: tuple[str, int, int] | None = None  # path, descriptor, bytes done
        self._no_room = False
        if not os.path.isdir(directory):
            os.makedirs(directory, mode=0o700)
            _sync_directory(os.path.dirname(os.path.abspath(directory)))
        self._directory_fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(self._directory_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(self._directory_fd)
            raise HomeInUse(f"another process writes the journal in {directory}: stop it first") from None
        for name in os.listdir(directory):
            if name.endswith(_FILLING):
                os.unlink(os.path.join(directory, name))

    # ---- taking over a log ----------------------------------------------------------------------------------------------

    def resume(self, log: Log) -> None:
        """Go on after the end of ``log``, whose entries were read to the end; a torn tail is zeroed and synced first."""
        tail = log.tail
        invariant(tail is not None, "a log that is resumed has a tail")
        assert tail is not None  # noqa: S101 (for the type checker; the invariant above speaks)
        header = tail.segment.header
        self._adopt_files(log)
        for path, of in log.contents.chain[:-1]:
            self.sealed.append(Sealed(path, of.first_index, log.last_of[of.serial], of.size))
        self._open(tail.segment)
        self._offset, self._crc, self.next_index = tail.offset, tail.crc, tail.next_index
        self._opened_index = header.first_index
        self._recount()
        if tail.torn:
            _log.warning("torn tail cut", segment=tail.segment.path, byte=tail.offset, next_index=tail.next_index)
            self._zero_rest()

    def begin(self, log: Log, first_index: int) -> None:
        """Start a new chain at ``first_index``; all that ``log`` holds is discarded. Raises ``DiskFull``."""
        chain = log.contents.chain
        self._adopt_files(log)
        # An unguessable first serial: nothing a user stored, and no segment of another journal, can pass for a frame of this one.
        self._serial = chain[-1].header.serial if chain else int.from_bytes(os.urandom(6), "big")
        self.next_index = first_index
        self._activate(self._take_free(), previous_crc=0, starts_chain=True)
        # Only now: a crash while one of them was being overwritten would leave a log without its end.
        for path, _ in chain:
            self._set_free(path)
        self._trim_free()

    def _adopt_files(self, log: Log) -> None:
        self.state = log.state
        older = [segment.path for segment in log.contents.older]
        for path in [*older, *log.contents.free, *check_damaged(log)]:
            self._set_free(path)
        self._trim_free()

    def _set_free(self, path: str) -> None:
        if os.path.getsize(path) == self.segment_bytes:
            self.free.append(path)
        else:
            os.unlink(path)

    def _zero_rest(self) -> None:
        for at in range(self._offset, self._size, len(_ZEROS)):
            _write_all(self._fd, memoryview(_ZEROS)[: self._size - at], at)
        os.fdatasync(self._fd)

    # ---- appending ------------------------------------------------------------------------------------------------------

    def append(self, entries: int, parts: Sequence[bytes]) -> int:
        """Write one frame of ``entries`` entries (``parts``: their records in pieces) and sync it; returns its bytes.

        Raises ``DiskFull`` before anything was written when a new segment is needed and there is no room for one.
        """
        data, crc = encode_frame(self._serial, self._crc, self.next_index, entries, parts)
        if self._offset + len(data) > self._size:
            self._rotate()
            data, crc = encode_frame(self._serial, self._crc, self.next_index, entries, parts)
        invariant(self._offset + len(data) <= self._size, "a frame fits into an empty segment")
        _write_all(self._fd, memoryview(data), self._offset)
        os.fdatasync(self._fd)
        self._offset += len(data)
        self._crc = crc
        self.next_index += entries
        return len(data)

    def _rotate(self) -> None:
        path = self._take_free()
        self.sealed.append(Sealed(self._path, self._opened_index, self.next_index - 1, self._size))
        os.close(self._fd)
        self._fd = -1
        self._activate(path, previous_crc=self._crc, starts_chain=False)

    def _activate(self, path: str, *, previous_crc: int, starts_chain: bool) -> None:
        header = SegmentHeader(
            self._serial + 1, self.segment_bytes, self.next_index, previous_crc, starts_chain, self.state, self.voters
        )
        self._open(Segment(path, header))
        _write_all(self._fd, memoryview(encode_header(header)), 0)
        os.fdatasync(self._fd)
        self._offset, self._crc, self._opened_index = BLOCK_BYTES, previous_crc, self.next_index
        self._recount()

    def _open(self, segment: Segment) -> None:
        self._fd = os.open(segment.path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
        self._path, self._size, self._serial = segment.path, segment.header.size, segment.header.serial

    # ---- room -----------------------------------------------------------------------------------------------------------

    def reclaim(self, released: int) -> None:
        """Make segments that end at or below ``released`` free; keep at most ``FREE_MAX`` of them."""
        if not self.sealed or self.sealed[0].last_index > released:
            return
        while self.sealed and self.sealed[0].last_index <= released:
            self._set_free(self.sealed.popleft().path)
        self._no_room = False
        self._trim_free()
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
            os.close(self._filling[1])
            self._filling = None
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
        os.close(self._directory_fd)

    def _take_free(self) -> str:
        if not self.free:
            self._no_room = False
            while not self._fill(self.segment_bytes):
                pass
        return self.free.popleft()

    def _trim_free(self) -> None:
        while len(self.free) > FREE_MAX:
            os.unlink(self.free.popleft())

    def _fill(self, budget_bytes: int) -> bool:
        """Zero-fill on; True when a new free segment stands. Raises ``DiskFull`` and leaves nothing behind."""
        try:
            if self._filling is None:
                self._filling = self._create()
            path, fd, done = self._filling
            end = min(done + budget_bytes, self.segment_bytes)
            for at in range(done, end, len(_ZEROS)):
                _write_all(fd, memoryview(_ZEROS)[: end - at], at)
            self._filling = path, fd, end
            os.fsync(fd)
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
        os.close(fd)
        self._filling = None
        ready = path.removesuffix(_FILLING) + SUFFIX
        os.rename(path, ready)
        os.fsync(self._directory_fd)
        self.free.append(ready)
        return True

    def _create(self) -> tuple[str, int, int]:
        taken = {name.partition(".")[0] for name in os.listdir(self._directory_fd)}
        number = next(n for n in range(len(taken) + 1) if f"{n:06d}" not in taken)
        path = os.path.join(self.directory, f"{number:06d}{_FILLING}")
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        self._filling = path, fd, 0
        os.posix_fallocate(fd, 0, self.segment_bytes)  # says at once when there is no room
        return self._filling

    def _abandon(self) -> None:
        if self._filling is not None:
            path, fd, _ = self._filling
            self._filling = None
            os.close(fd)
            os.unlink(path)


def _write_all(fd: int, data: memoryview, offset: int) -> None:
    done = os.pwrite(fd, data, offset)
    while done < len(data):
        more = os.pwrite(fd, data[done:], offset + done)
        if more <= 0:
            raise OSError(errno.EIO, "the disk took no more bytes")
        done += more


def _sync_directory(path: str) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
