"""A file opened for writing, as Python's raw files are: sequential, whole or not at all.

Up to PART_BYTES are kept here and nothing is begun; a file that ends within them is written as one, and begun again where it changed in
the store meanwhile. A longer one streams, a few MiB in flight, and cannot be begun again.

Invariant: nothing is visible under the path before ``close`` (or ``commit`` of a staged writer) returns the file's record; ``abort``, an
exception inside ``with`` and a writer that is dropped leave the path as it was. ``close`` returns once, or raises what went wrong.
Safe between threads; belongs to the process that opened it. Not here: how bytes travel (sending.py).
"""

from __future__ import annotations

import io
import os
import threading
import warnings
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Any, Self

from monofs.client.errors import python_error
from monofs.client.info import FileInfo
from monofs.client.sending import PART_BYTES, WRITE_BYTES, How, Sending, check_again, write_whole
from monofs.client.session import Session
from monofs.client.staging import Staged, process_staging
from monofs.model.errors import Closed, MonofsError, NotSupported, UfsChanged
from monofs.model.inode import Inode


class Writer(io.RawIOBase):
    """See the module. ``path`` is the absolute path; after ``close``, ``info`` is what was published.

    ``staged``: ``close`` keeps the file back until ``commit``.
    """

    mode = "wb"

    def __init__(self, session: Callable[[], Session], path: str, how: How, *, staged: bool = False) -> None:
        super().__init__()
        self.path = path
        self.name = path
        self.info: FileInfo | None = None
        self._session = session
        self._how = how
        self._waits_for_commit = staged
        self._lock = threading.RLock()
        self._pid = os.getpid()
        self._kept: list[memoryview] = []
        """Full pieces of WRITE_BYTES that were not sent, while nothing is begun."""
        self._tail = bytearray()
        self._position = 0
        self._staged: Staged | None = None
        self._sending: Sending | None = None
        self._failure: MonofsError | None = None
        self._over = False

    # ---- writing ----

    def write(self, data: Any, /) -> int:
        """Append all of ``data`` (bytes, bytearray, any contiguous buffer); returns its length in bytes."""
        with self._lock:
            self._check()
            view = memoryview(data)
            if view.nbytes != len(view) or view.format != "B":
                view = view.cast("B")
            lasting = isinstance(view.obj, bytes)
            try:
                self._append(view, lasting=lasting)
            except MonofsError as error:
                raise self._fail(error) from error.__cause__
            except BaseException:
                self._drop()
                raise
            self._position += len(view)
            return len(view)

    def _append(self, view: memoryview, *, lasting: bool) -> None:
        """``lasting``: the memory does not change under us, and may be kept instead of copied."""
        done = 0
        while done < len(view):
            if lasting and not self._tail and len(view) - done >= WRITE_BYTES:
                self._take(view[done : done + WRITE_BYTES])
                done += WRITE_BYTES
                continue
            part = view[done : done + WRITE_BYTES - len(self._tail)]
            self._tail += part
            done += len(part)
            if len(self._tail) == WRITE_BYTES:
                full, self._tail = self._tail, bytearray()
                self._take(memoryview(full))

    def _take(self, piece: memoryview) -> None:
        """A full piece; the one that fills the part is sent only when more comes, so that a file of just a part is whole."""
        if self._sending is None and (len(self._kept) + 1) * WRITE_BYTES <= PART_BYTES:
            self._kept.append(piece)
            return
        if self._sending is None:
            self._sending = Sending(self._session(), self.path, self._how, -1)
            kept, self._kept = self._kept, []
            for each in kept:
                self._sending.send(each)
        self._sending.send(piece)

    def _check_usable(self) -> None:
        if os.getpid() != self._pid:
            raise self._cannot("was opened for writing by another process, which alone can write it")
        if self._failure is not None:
            raise self._failure

    def _check(self) -> None:
        self._check_usable()
        if self.closed or self._over:
            raise python_error(Closed(f"{self.path} is closed", path=self.path))

    def _fail(self, error: MonofsError) -> MonofsError:
        """Nothing of the file will be visible; every later call tells why."""
        if isinstance(error, UfsChanged):
            error = UfsChanged(f"{self.path} changed in the store while it was written: write it again", **error.detail)
        self._failure = python_error(error)
        self._drop()
        return self._failure

    # ---- the end ----

    def close(self) -> FileInfo | None:  # type: ignore[override]  # the record instead of None
        """Publish the file and return its record. Raises what the store or the cluster said; nothing is visible then.

        A staged writer waits for :meth:`commit`. Closing again does nothing.
        """
        if self.closed or os.getpid() != self._pid:
            super().close()
            return self.info
        with self._lock:
            try:
                if self._failure is not None:
                    raise self._failure
                if not self._over:
                    if self._waits_for_commit:
                        self._stage()
                    else:
                        self._publish()
            finally:
                super().close()
            return self.info

    def commit(self) -> FileInfo | None:
        """Publish what a staged writer was given. Raises as :meth:`close`."""
        with self._lock:
            self._check_usable()
            if not self._over:
                self._publish()
            super().close()
            return self.info

    def abort(self) -> None:
        """Give the file up: the path stays as it was. After ``close`` only a staged writer can."""
        if os.getpid() == self._pid:
            with self._lock:
                self._drop()
        super().close()

    def discard(self) -> None:
        """:meth:`abort`, by the name transactions of fsspec use."""
        self.abort()

    def _publish(self) -> None:
        self._over = True
        try:
            inode = self._finish()
        except MonofsError as error:
            raise self._fail(error) from error.__cause__
        except BaseException:
            self._drop()
            raise
        self._sending = None
        self._let_go()
        self.info = FileInfo(self.path, inode)

    def _finish(self) -> Inode:
        if self._sending is None:
            return write_whole(self._session(), self.path, self._pieces, self._position, self._how)
        try:
            return self._sending.finish(memoryview(self._tail))
        except UfsChanged as error:
            check_again(self.path, self._how, error, is_unclear=False)
            raise

    def _pieces(self) -> Iterator[memoryview]:
        if self._staged is not None:
            return self._staged.pieces(WRITE_BYTES)
        return iter([*self._kept, memoryview(self._tail)] if self._tail else self._kept)

    def _stage(self) -> None:
        """Closed, and to be committed later: a program may hold back more files than fit into memory."""
        if self._sending is None and self._staged is None:
            self._staged = process_staging().keep([*self._pieces()])
            self._kept, self._tail = [], bytearray()

    def _drop(self) -> None:
        self._over = True
        sending, self._sending = self._sending, None
        self._let_go()
        if sending is not None:
            sending.abort()

    def _let_go(self) -> None:
        staged, self._staged = self._staged, None
        self._kept, self._tail = [], bytearray()
        if staged is not None:
            staged.drop()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()
        else:
            self.abort()

    def __enter__(self) -> Self:
        self._check()
        return self

    def __del__(self) -> None:
        """A file nobody closed is given up: publishing half of it would be worse."""
        try:
            if self._over or os.getpid() != self._pid:
                return
            if not self.closed:
                warnings.warn(
                    f"{self.path} was opened for writing and never closed: not written", ResourceWarning, 1, self
                )
            self._drop()
        except AttributeError:
            pass  # not fully made

    # ---- the rest of a raw file ----

    def tell(self) -> int:
        """Bytes written so far."""
        if self.closed:
            self._check()
        return self._position

    def flush(self) -> None:
        """Nothing: bytes become visible with the file, at ``close``."""

    def readable(self) -> bool:
        """False."""
        return False

    def writable(self) -> bool:
        """True."""
        return True

    def seekable(self) -> bool:
        """False."""
        return False

    def readinto(self, _buffer: Any) -> int:
        """Not possible."""
        raise self._cannot("is open for writing: close it, then open it with 'rb'")

    def read(self, _size: int | None = -1, /) -> bytes:
        """Not possible."""
        raise self._cannot("is open for writing: close it, then open it with 'rb'")

    def readall(self) -> bytes:
        """Not possible."""
        return self.read()

    def seek(self, offset: int, whence: int = 0, /) -> int:
        """Only to where it is."""
        self._check()
        if (whence == 0 and offset == self._position) or (whence in (1, 2) and offset == 0):
            return self._position
        raise self._cannot(
            "is written from its beginning to its end: make it elsewhere (io.BytesIO, a local file), then put it"
        )

    def truncate(self, size: int | None = None, /) -> int:
        """Only to where it is."""
        self._check()
        if size is None or size == self._position:
            return self._position
        raise self._cannot("is written from its beginning to its end, and cannot be truncated")

    def _cannot(self, why: str) -> MonofsError:
        return python_error(NotSupported(f"{self.path} {why}", path=self.path))

    def __reduce__(self) -> tuple[Any, ...]:
        raise self._cannot("is open for writing and belongs to this process: open it in the other one")

    def __reduce_ex__(self, _protocol: Any) -> tuple[Any, ...]:
        return self.__reduce__()

    def __repr__(self) -> str:
        state = " closed" if self.closed else ""
        return f"<{type(self).__name__} {self.path!r}{state}>"


class TextWriter(io.TextIOWrapper):
    """Text over a :class:`Writer`: an exception inside ``with`` gives the file up, as for bytes."""

    def __init__(self, writer: Any, **options: Any) -> None:
        super().__init__(writer, **options)  # a raw file that takes all it is given needs no buffer
        self._writer = writer

    def abort(self) -> None:
        """See :meth:`Writer.abort`."""
        self._writer.abort()

    def __del__(self) -> None:
        """As of a :class:`Writer`: what nobody closed is given up."""
        writer = getattr(self, "_writer", None)
        if writer is not None and not writer.closed:
            writer.__del__()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()
        else:
            self.abort()
