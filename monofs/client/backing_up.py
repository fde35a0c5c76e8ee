"""A backup from the master to a file here: each chunk is compared as it comes, and the file has its name only when all is proved and synced.

Memory: one chunk. A connection that breaks is made again, and the transfer goes on at the last chunk that came whole.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable

from monofs.client.session import Session
from monofs.metadata.copyfile import Checker, CopyHead, unpack_head
from monofs.model.errors import (
    AlreadyExists,
    Busy,
    ConnectionLost,
    DeadlineExceeded,
    InvalidArgument,
    NotReady,
    Overloaded,
    ProtocolError,
    Unreachable,
)
from monofs.rpc.api import BackupInfo, BackupRequest, Empty, Method

STREAM_S = 3600.0
"""One request for a copy; a longer transfer goes on with another."""
RESUMES_MAX = 5
"""How often a transfer goes on without a single chunk having come since the last time."""

_AGAIN = (ConnectionLost, Unreachable, DeadlineExceeded, NotReady, Overloaded)
Advance = Callable[[int, int], None]
"""Hears bytes come since the last call, and bytes in all."""


def receive_backup(session: Session, path: str, *, overwrite: bool, advance: Advance) -> CopyHead:
    """See FileSystem.backup."""
    part = f"{path}.part"
    if os.path.isdir(path):
        raise InvalidArgument(f"{path} is a directory: name a file", path=path)
    if not overwrite and os.path.lexists(path):
        raise AlreadyExists(f"{path} exists already", path=path)
    fd = os.open(part, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise Busy(f"{part} is being written by another process", path=part) from None
        try:
            os.ftruncate(fd, 0)
            head = _Transfer(session, fd, path, advance).run()
            os.fsync(fd)
            _publish(part, path, overwrite=overwrite)
        except BaseException:
            os.unlink(part)
            raise
    finally:
        os.close(fd)
    return head


def _publish(part: str, path: str, *, overwrite: bool) -> None:
    if overwrite:
        os.replace(part, path)
    else:
        try:
            os.link(part, path)
        except FileExistsError:
            raise AlreadyExists(f"{path} exists already", path=path) from None
        os.unlink(part)
    directory = os.open(os.path.dirname(os.path.abspath(path)), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


class _Transfer:
    """One copy on its way."""

    def __init__(self, session: Session, fd: int, name: str, advance: Advance) -> None:
        self._session, self._fd, self._name, self._advance = session, fd, name, advance
        self._copy = ""
        self._total = 0
        self._checker: Checker | None = None

    @property
    def _offset(self) -> int:
        return 0 if self._checker is None else self._checker.offset

    def run(self) -> CopyHead:
        """Everything, over as many connections as it takes."""
        resumes = 0
        while True:
            came = self._offset
            try:
                self._receive()
                break
            except _AGAIN:
                resumes = 0 if self._offset > came else resumes + 1
                if not self._copy or resumes > RESUMES_MAX:
                    raise
        checker = self._checker
        if checker is None:
            raise ProtocolError("the master sent no head")
        checker.finish()
        try:
            self._session.ask(Method.BACKUP, BackupRequest(self._copy, done=True), Empty)
        except _AGAIN:
            pass  # it is dropped after a while anyway
        return checker.head

    def _receive(self) -> None:
        stream = self._session.stream(
            Method.BACKUP, BackupRequest(self._copy, self._offset), BackupInfo, timeout_s=STREAM_S
        )
        for element in stream:
            if isinstance(element, BackupInfo):
                self._copy, self._total = element.copy, element.total_bytes
                continue
            if self._checker is None:
                self._checker = Checker(unpack_head(element, "what the master sent"), "what the master sent")
            else:
                self._checker.take(element)
            self._write(element)
            self._advance(len(element), self._total)

    def _write(self, data: bytes | bytearray) -> None:
        rest = memoryview(data)
        while rest:
            rest = rest[os.write(self._fd, rest) :]
