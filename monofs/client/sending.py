"""Sending one file's bytes to the worker a master named, and beginning again where that is safe.

The path of a write: BEGIN_WRITE at the master -> WRITEs of at most 1 MiB to the worker, a few in flight on one connection, the last one
with ``last`` -> the file's record. Bytes go from the caller's memory to the socket uncopied.

Invariant: WRITEs reach the worker in order, and a piece is kept until it is answered: after a broken connection everything unanswered
is sent again, and the worker passes over what it has. A write is begun again only by who still has all its bytes (:func:`write_whole`).
Not here: collecting what a program writes (writer.py), many files (transfer.py).
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from monofs.client.info import Written
from monofs.client.session import FIRST_PAUSE_S, LONGEST_PAUSE_S, Session
from monofs.model.errors import (
    AlreadyExists,
    CapabilityExpired,
    ConditionFailed,
    ConnectionLost,
    DeadlineExceeded,
    MonofsError,
    NotReady,
    NoWorker,
    OutcomeUnknown,
    Overloaded,
    ProtocolError,
    UfsChanged,
    Unreachable,
    WriteLost,
)
from monofs.model.inode import Inode
from monofs.rpc.api import (
    AbortWriteRequest,
    BeginWriteAnswer,
    BeginWriteRequest,
    Empty,
    Method,
    RenewAnswer,
    RenewRequest,
    WriteRequest,
)
from monofs.rpc.sync import Pipeline

PART_BYTES = 8 << 20
"""A file up to this size is announced with its size, and is one put to the store."""
WRITE_BYTES = 1 << 20
"""Bytes of one WRITE."""
IN_FLIGHT = 4
"""WRITEs sent and not answered."""
TRIES = 3
"""How often one file is begun when it changes in the store, or a worker forgets it, while it is written."""
WRITE_S = 120.0
"""Least time one WRITE may take: workers answer late while they hold too much, and the last one when the store has put the parts together."""
ABORT_S = 5.0

_AGAIN = (ConnectionLost, Unreachable, NotReady, Overloaded)


@dataclass(frozen=True, slots=True)
class How:
    """What a caller asks of one write; ``write_type`` '': as the path's policy says."""

    write_type: str = ""
    exclusive: bool = False
    if_match: str | None = None
    parents: bool = True
    mode: int = 0o644

    @property
    def is_conditional(self) -> bool:
        """Whether what the path holds decides."""
        return self.exclusive or self.if_match is not None


@dataclass(slots=True)
class _Piece:
    number: int
    offset: int
    data: memoryview
    last: bool


class Sending:
    """One try at one file, from BEGIN_WRITE on. For one thread at a time."""

    def __init__(
        self,
        session: Session,
        path: str,
        how: How,
        size: int,
        progress: Callable[[int], None] | None = None,
        *,
        is_whole: bool = False,
    ) -> None:
        """``size`` -1: not known yet. ``progress`` gets the bytes of each piece once the worker has them. ``is_whole``: the caller has all bytes
        still; when the worker is lost the write begins at another one, and ``WriteLost`` says to send from the start (:attr:`is_anew`).
        """
        self._session = session
        self._path = path
        self._progress = progress
        self._allowed_s = max(session.options.timeout_s, WRITE_S)
        self._how, self._size, self._is_whole = how, size, is_whole
        self._begin()
        self.start()

    def start(self) -> None:
        """From the first byte."""
        self.is_anew = False
        """The write was begun again, at another worker, and nothing of it sent."""
        self._is_reached = False
        """Whether the worker may have been sent anything."""
        self._pipeline: Pipeline | None = None
        self._unanswered: deque[_Piece] = deque()
        self._offset = 0
        self._inode: Inode | None = None
        self._ended = False
        self._pause_s = FIRST_PAUSE_S
        self._deadline_s = float("inf")
        self._renewed = False
        self.is_unclear = False
        """The connection broke after the last WRITE had left: the file may be published."""

    def _begin(self, instead: bytes = b"", *, reached: bool = False) -> None:
        how = self._how
        begun = self._session.change(
            Method.BEGIN_WRITE,
            lambda number: BeginWriteRequest(
                self._path,
                how.mode,
                how.parents,
                how.exclusive,
                how.if_match,
                self._size,
                how.write_type,
                number,
                instead,
                reached,
            ),
            BeginWriteAnswer,
            alone=True,
        )
        self._capability, self._worker = begun.capability, begun.worker

    def send(self, data: memoryview) -> None:
        """Send up to WRITE_BYTES, which must not change until they are answered; waits while IN_FLIGHT are not."""
        self._append(data, last=False)
        while len(self._unanswered) >= IN_FLIGHT:
            self._patiently(self._receive)

    def finish(self, data: memoryview) -> Inode:
        """Send what is left of the file, possibly nothing, have it published, and return its record."""
        self._append(data, last=True)
        while self._unanswered:
            self._patiently(self._receive)
        self._close()
        if self._inode is None:
            raise WriteLost(f"{self._path}: the worker did not say what was published", path=self._path)
        return self._inode

    def abort(self) -> None:
        """Give the write up, unless its end was sent. Errors do not matter: a worker gives up what it hears nothing of."""
        self._close()
        if self._ended:
            return
        try:
            link = self._session.cluster.worker(self._worker)
            link.pool().call(Method.ABORT_WRITE, AbortWriteRequest(self._capability), Empty, ABORT_S)
        except MonofsError:
            pass

    # ---- one connection ----

    def _append(self, data: memoryview, *, last: bool) -> None:
        piece = _Piece(0, self._offset, data, last)
        self._offset += len(data)
        self._unanswered.append(piece)
        self._ended = last
        self._patiently(lambda: self._send(piece))

    def _send(self, piece: _Piece) -> None:
        if self._pipeline is None:
            self._connect()
            return
        request = WriteRequest(self._capability, piece.offset, piece.data, piece.last)
        piece.number = self._pipeline.send(Method.WRITE, request.buffers(), self._allowed_s)

    def _connect(self) -> Pipeline:
        """Make a connection and send everything that has no answer."""
        link = self._session.cluster.worker(self._worker)
        self._pipeline = pipeline = link.pool().pipeline(self._session.options.timeout_s)
        self._is_reached = True
        for piece in self._unanswered:
            self._send(piece)
        return pipeline

    def _receive(self) -> None:
        pipeline = self._pipeline or self._connect()
        piece = self._unanswered[0]
        number, answer = pipeline.receive(Written, self._allowed_s)
        if isinstance(answer, MonofsError):
            raise answer
        if number != piece.number:
            raise ProtocolError(f"the worker answered a later piece of {self._path} first")
        self._unanswered.popleft()
        self._pause_s, self._deadline_s, self._renewed = FIRST_PAUSE_S, float("inf"), False
        if piece.last:
            self._inode = answer.inode
        if self._progress is not None:
            self._progress(len(piece.data))

    def _close(self) -> None:
        pipeline, self._pipeline = self._pipeline, None
        if pipeline is not None:
            pipeline.close()

    # ---- again ----

    def _patiently(self, step: Callable[[], object]) -> None:
        """Again while connections break, the worker restarts or the capability ends, until ``timeout_s`` passed without progress."""
        while True:
            try:
                step()
                return
            except _AGAIN as error:
                self.is_unclear = self.is_unclear or (self._ended and isinstance(error, ConnectionLost))
                self._close()
                self._wait(error)
            except CapabilityExpired:
                self._close()
                self._renew()
            except DeadlineExceeded as error:
                self._close()
                what = "; it may still be published" if self._ended else ""
                raise DeadlineExceeded(f"{self._path}: {error.message}{what}", **error.detail) from None
            except BaseException:
                self._close()
                raise
            step = self._connect

    def _wait(self, error: MonofsError) -> None:
        """Before another connection, by another way where there is one."""
        session, now_s = self._session, time.monotonic()
        session.check_open()
        self._deadline_s = min(self._deadline_s, now_s + session.options.timeout_s)
        if now_s + self._pause_s >= self._deadline_s:
            raise NoWorker(f"{self._path}: the worker that takes its bytes does not answer ({error})") from None
        try:
            link = session.cluster.worker(self._worker)
            if not session.cluster.failed(link, error):
                if not self._is_reached and isinstance(error, Unreachable):
                    self._begin(instead=self._capability)
                elif self._is_whole and not link.is_live and not (self.is_unclear and self._how.is_conditional):
                    self._begin(instead=self._capability, reached=True)
                    self.is_anew = True
                else:
                    session.cluster.look_again()
        except MonofsError:
            pass  # the next try tells
        if self.is_anew:
            raise WriteLost(f"{self._path}: the worker that took its bytes is gone", path=self._path)
        time.sleep(self._pause_s)
        self._pause_s = min(2 * self._pause_s, LONGEST_PAUSE_S)

    def _renew(self) -> None:
        answer = self._session.ask(Method.RENEW, RenewRequest([self._capability]), RenewAnswer)
        if self._renewed or not answer.capabilities or not answer.capabilities[0]:
            raise WriteLost(f"{self._path}: the write took too long and was given up", path=self._path) from None
        self._capability = answer.capabilities[0]
        self._renewed = True


# ---- files whose bytes are all at hand ---------------------------------------------------------------------------------


def write_whole(
    session: Session,
    path: str,
    read: Callable[[], Iterable[memoryview]],
    size: int,
    how: How,
    progress: Callable[[int], None] | None = None,
) -> Inode:
    """Write the pieces (of at most WRITE_BYTES) that ``read`` gives anew for each try; returns the record published.

    ``size`` in bytes. ``progress`` gets bytes taken by the worker, and a negative number when a try was in vain.
    """
    announced = size if size <= PART_BYTES else -1
    tries = done = 0

    def count(length: int) -> None:
        nonlocal done
        done += length
        if progress is not None:
            progress(length)

    sending = Sending(session, path, how, announced, count, is_whole=True)
    while True:
        tries += 1
        try:
            return _send_pieces(sending, read())
        except (UfsChanged, WriteLost) as error:
            check_again(path, how, error, is_unclear=sending.is_unclear)
            if tries == TRIES:
                raise
            count(-done)
            if sending.is_anew:
                sending.start()
            else:
                sending = Sending(session, path, how, announced, count, is_whole=True)
        except BaseException:
            sending.abort()
            raise


def _send_pieces(sending: Sending, pieces: Iterable[memoryview]) -> Inode:
    held = memoryview(b"")
    for piece in pieces:
        if held:
            sending.send(held)
        held = piece
    return sending.finish(held)


def check_again(path: str, how: How, error: MonofsError, *, is_unclear: bool) -> None:
    """Raise what a conditional write met; return where a plain one may begin again."""
    if isinstance(error, UfsChanged):
        if how.exclusive:
            raise AlreadyExists(f"{path} exists already", path=path) from None
        if how.if_match is not None:
            raise ConditionFailed(f"{path} is not the version {how.if_match!r} any more", path=path) from None
    elif is_unclear and how.is_conditional:
        raise OutcomeUnknown(f"{path}: the worker went away while publishing; look whether it is there") from None


def pieces_of(data: memoryview) -> Iterator[memoryview]:
    """``data`` in pieces of WRITE_BYTES."""
    for start in range(0, len(data), WRITE_BYTES):
        yield data[start : start + WRITE_BYTES]
