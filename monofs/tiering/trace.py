"""A trace: which groups were asked for, in order; written by a worker on demand, read by the simulator. Format in docs/formats/cache.md.

The owner's thread only packs 24 bytes and queues them; a thread of its own writes each second. Invariants: two files of at most
``FILE_BYTES`` each, the older one with ``.1`` at its end; records are whole, and a file whose end was cut off is read up to there. What
cannot be written is counted and left out: a trace never holds up a read.
"""

from __future__ import annotations

import os
import struct
import threading
from collections import OrderedDict, deque
from collections.abc import Iterator
from typing import NamedTuple

from monofs.model.errors import ConfigError
from monofs.observe.logs import logger

MAGIC = b"MFSTRACE"
VERSION = 1
RECORD = struct.Struct("<QQII")
"""Microseconds since 1970, content id, group number, bytes of the content in the group."""
HEAD = struct.Struct("<8sII")
"""Magic, version, size of a record."""
FILE_BYTES = 64 << 20
QUEUE_MAX = 200_000
NEW_MAX = 4096
INTERVAL_S = 1.0

log = logger(__name__)


class Access(NamedTuple):
    """One access. ``content`` and ``number`` name the group, ``size`` its bytes."""

    time_us: int
    content: int
    number: int
    size: int


class Recorder:
    """Writes a trace to ``path``, after what is there already."""

    def __init__(self, path: str, *, file_bytes: int = FILE_BYTES) -> None:
        self._path, self._file_bytes = os.path.expanduser(path), file_bytes
        self._queue: deque[bytes] = deque()
        self._new: OrderedDict[tuple[int, int], int] = OrderedDict()
        """Groups recorded last that were not cached, and when (ns since 1970)."""
        self.lost = 0
        """Accesses that were left out."""
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="trace", daemon=True)
        self._file: int | None = None

    def start(self) -> None:
        """Begin. Raises ``ConfigError`` when the file cannot be written."""
        try:
            self._file = self._open()
        except OSError as error:
            raise ConfigError(f"worker.trace: {self._path} cannot be written: {error.strerror}") from None
        self._thread.start()

    def record(self, content: int, number: int, length: int, now_ns: int) -> None:
        """A group of so many bytes is asked for."""
        if len(self._queue) < QUEUE_MAX:
            self._queue.append(RECORD.pack(now_ns // 1000, content, number, length))
        else:
            self.lost += 1

    def record_new(self, content: int, number: int, length: int, now_ns: int, burst_ns: int) -> None:
        """A group that is not cached is asked for: it is admitted, or read past the cache, in many pieces perhaps; all within ``burst_ns`` are one."""
        before_ns = self._new.get((content, number))
        if before_ns is not None and abs(now_ns - before_ns) < burst_ns:
            return
        self._new[content, number] = now_ns
        self._new.move_to_end((content, number))
        if len(self._new) > NEW_MAX:
            self._new.popitem(last=False)
        self.record(content, number, length, now_ns)

    def stop(self, timeout_s: float) -> None:
        """Write what is queued and close; blocking."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join(timeout_s)

    def _run(self) -> None:
        over = failing = False
        while not over:
            over = self._stopping.wait(INTERVAL_S)  # what was queued before is still written
            records = b"".join(self._queue.popleft() for _ in range(len(self._queue)))
            try:
                if self._file is None:
                    self._file = self._open()
                if records:
                    self._write(self._file, records)
                failing = False
            except OSError as error:
                self.lost += len(records) // RECORD.size
                if not failing:
                    log.warning("the trace cannot be written", file=self._path, error=str(error))
                failing = True
                self._close()
        self._close()
        if self.lost:
            log.warning("the trace is not complete", file=self._path, left_out=self.lost)

    def _write(self, file: int, records: bytes) -> None:
        before = os.lseek(file, 0, os.SEEK_END)
        if before + len(records) > self._file_bytes and before > HEAD.size:
            self._close()
            os.replace(self._path, f"{self._path}.1")
            file = self._file = self._open()
            before = HEAD.size
        try:
            done = 0
            while done < len(records):
                done += os.write(file, records[done:])
        except OSError:
            os.ftruncate(file, before)  # whole records only
            raise

    def _open(self) -> int:
        """The file, with its head, and cut to whole records; one that is no trace is moved away."""
        file = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_APPEND, 0o600)
        size = os.fstat(file).st_size
        if size >= HEAD.size and os.pread(file, HEAD.size, 0) == HEAD.pack(MAGIC, VERSION, RECORD.size):
            os.ftruncate(file, size - (size - HEAD.size) % RECORD.size)
            return file
        if size:
            os.close(file)
            os.replace(self._path, f"{self._path}.1")
            return self._open()
        os.write(file, HEAD.pack(MAGIC, VERSION, RECORD.size))
        return file

    def _close(self) -> None:
        if self._file is not None:
            os.close(self._file)
            self._file = None


def read_trace(path: str) -> Iterator[Access]:
    """The accesses of a file. Raises ``ConfigError`` when it is not a trace, or of a newer version; OSError."""
    with open(path, "rb") as file:
        head = file.read(HEAD.size)
        if len(head) < HEAD.size or head[: len(MAGIC)] != MAGIC:
            raise ConfigError(f"{path} is not a trace of a monofs worker")
        _, version, size = HEAD.unpack(head)
        if version != VERSION or size < RECORD.size:
            raise ConfigError(f"{path} is a trace of version {version}; this monofs reads {VERSION}")
        while len(record := file.read(size)) == size:
            yield Access(*RECORD.unpack_from(record))
