"""Where log lines go: a file of mode 0600 that is rotated while it is written, or standard error.

Invariants: a line that cannot be written (no room, a disk that fails) is counted in ``monofs_log_lines_lost`` and left out, standard
error is told once, and whoever logs goes on; the same for lines over ``LINES_MAX`` of one event in a second, unless the level is
debug. The audit log has no such bound: its lines are as many as changes. Lines are whole or not there.

Not here: what a line looks like (logs.py). A write goes to the kernel at once: a process that dies has lost none.
"""

from __future__ import annotations

import logging
import os
import stat
import sys
import time

from monofs.observe.metrics import LOG_LOST
from monofs.observe.recent import Recent

LINES_MAX = 100
"""Lines of one event in one second; the next one that is written says how many were left out."""
EVENTS_MAX = 1000
OLD_FILES = 4
MODE = 0o600


class Sparing:
    """Counts lines by event. Thread-safe under the handler's lock."""

    def __init__(self) -> None:
        self._seen: dict[tuple[str, str], list[int]] = {}

    def check(self, logger: str, event: str, second: int) -> int:
        """How many lines of this event were left out since the last one written; -1: leave this one out too."""
        seen = self._seen.get((logger, event))
        if seen is None:
            if len(self._seen) >= EVENTS_MAX:
                self._seen.clear()
            seen = self._seen[logger, event] = [second, 0, 0]
        if seen[0] != second:
            seen[0], seen[1] = second, 0
        seen[1] += 1
        if seen[1] > LINES_MAX:
            seen[2] += 1
            return -1
        left_out, seen[2] = seen[2], 0
        return left_out


class LogHandler(logging.Handler):
    """Writes formatted lines; :meth:`write` says where. Never raises."""

    def __init__(self, *, spare: bool) -> None:
        super().__init__()
        self.recent: Recent | None = None
        """Keeps the last lines."""
        self._sparing = Sparing() if spare else None
        self._told = False

    def emit(self, record: logging.LogRecord) -> None:
        """One line. Called by logging under this handler's lock."""
        try:
            if self._sparing is not None:
                left_out = self._sparing.check(record.name, str(record.msg), int(record.created))
                if left_out < 0:
                    LOG_LOST("rate").add()
                    return
                if left_out:
                    record.fields = {**getattr(record, "fields", {}), "left_out": left_out}
            line = self.format(record).encode("utf-8", "backslashreplace")
            if self.recent is not None:
                self.recent.put(line)
            self.write(line + b"\n")
        except Exception as error:  # noqa: BLE001 - a log must never stop whoever writes it
            LOG_LOST("failed").add()
            if not self._told:
                self._told = True
                self._tell(error)

    def write(self, line: bytes) -> None:
        """Put one line out. May raise."""
        raise NotImplementedError

    def _tell(self, error: Exception) -> None:
        try:
            sys.stderr.write(f"monofs: a log cannot be written: {error}\n")
        except (OSError, ValueError):
            return  # standard error is closed as well; the metric remains


class StreamLog(LogHandler):
    """Lines to standard error."""

    def write(self, line: bytes) -> None:
        """To the stream that is standard error now."""
        sys.stderr.write(line.decode())
        sys.stderr.flush()


class FileLog(LogHandler):
    """Lines to a file; at ``max_bytes`` it becomes ``<file>.1``, and so on up to ``OLD_FILES``.

    A file that someone else moved away (logrotate) is begun anew within a second. Raises ``OSError`` when it cannot be opened.
    """

    def __init__(self, file: str, max_bytes: int, *, spare: bool) -> None:
        super().__init__(spare=spare)
        self.file = os.path.abspath(file)
        self._max_bytes = max_bytes
        self._fd = -1
        self._size = 0
        self._is_file = True
        self._looked_s = 0.0
        self._open()

    def write(self, line: bytes) -> None:
        """Append, after rotating when it would not fit."""
        if self._fd == -1 or self._was_moved():
            self._open()
        if self._is_file and self._size and self._size + len(line) > self._max_bytes:
            self._rotate()
        written = os.write(self._fd, line)
        self._size += written
        if written < len(line):
            self._size -= written
            if self._is_file:
                os.ftruncate(self._fd, self._size)  # whole lines or none
            raise OSError(f"{self.file}: only a part of a line could be written")

    def close(self) -> None:
        """Close the file."""
        self.acquire()
        try:
            self._close()
        finally:
            self.release()
        super().close()

    def _open(self) -> None:
        self._close()
        fd = os.open(self.file, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOCTTY, MODE)
        found = os.fstat(fd)
        self._is_file = stat.S_ISREG(found.st_mode)  # else a pipe or a terminal: neither rotated nor closed to others
        if self._is_file and stat.S_IMODE(found.st_mode) != MODE and found.st_uid == os.geteuid():
            os.fchmod(fd, MODE)
        self._fd, self._size = fd, found.st_size

    def _rotate(self) -> None:
        self._close()
        try:
            for number in range(OLD_FILES, 0, -1):
                older = f"{self.file}.{number}"
                newer = f"{self.file}.{number - 1}" if number > 1 else self.file
                if os.path.exists(newer):
                    os.replace(newer, older)
        finally:
            self._open()

    def _was_moved(self) -> bool:
        """Looked at once a second: is the open file still the one with its name?"""
        now = time.monotonic()
        if now - self._looked_s < 1.0:
            return False
        self._looked_s = now
        try:
            return not os.path.samestat(os.fstat(self._fd), os.stat(self.file))
        except FileNotFoundError:
            return True

    def _close(self) -> None:
        fd, self._fd = self._fd, -1
        if fd != -1:
            os.close(fd)
