"""A backup from the master to a file here: each chunk is compared as it comes, and the file has its name only when all is proved and synced.

Memory: two chunks. A connection that breaks is made again, and the transfer goes on at the last chunk that came whole.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Iterator

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
            transfer = Transfer(session)
            for data in transfer.pieces():
                _write(fd, data)
                advance(len(data), transfer.total_bytes)
            head = transfer.head
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


def _write(fd: int, data: bytes | bytearray) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(fd, rest) :]


class Transfer:
    """One copy on its way. ``total_bytes`` is known with the first piece, ``head`` after the last."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._copy = ""
        self.total_bytes = 0
        self._checker: Checker | None = None

    @property
    def head(self) -> CopyHead:
        """Which copy it is."""
        if self._checker is None:
            raise ProtocolError("the master sent no head")
        return self._checker.head

    @property
    def _offset(self) -> int:
        return 0 if self._checker is None else self._checker.offset

    def pieces(self) -> Iterator[bytes | bytearray]:
        """Everything, over as many connections as it takes; the last piece is given only when all is proved."""
        resumes = 0
        held: bytes | bytearray = b""
        while True:
            came = self._offset
            try:
                for data in self._receive():
                    if held:
                        yield held
                    held = data
                break
            except _AGAIN:
                resumes = 0 if self._offset > came else resumes + 1
                if not self._copy or resumes > RESUMES_MAX:
                    raise
        if self._checker is None:
            raise ProtocolError("the master sent no head")
        self._checker.finish()
        yield held
        try:
            self._session.ask(Method.BACKUP, BackupRequest(self._copy, done=True), Empty)
        except _AGAIN:
            pass  # it is dropped after a while anyway

    def _receive(self) -> Iterator[bytes | bytearray]:
        stream = self._session.stream(
            Method.BACKUP, BackupRequest(self._copy, self._offset), BackupInfo, timeout_s=STREAM_S
        )
        for element in stream:
            if isinstance(element, BackupInfo):
                self._copy, self.total_bytes = element.copy, element.total_bytes
                continue
            if self._checker is None:
                self._checker = Checker(unpack_head(element, "what the master sent"), "what the master sent")
            else:
                self._checker.take(element)
            yield element
