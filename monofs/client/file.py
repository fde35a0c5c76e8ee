"""A file opened for reading, as Python's raw files are.

Reads of bytes that lie complete on this machine cost one ``preadv`` and no lock: targets.md asks for 0.9 of a plain file, so the
first lines of ``readinto``, ``read`` and the ``pread`` pair are written straight. Everything else goes through reader.py.
Reads fill their buffer: short counts happen at the end of the file only.

Threads may share a file with ``pread`` and ``pread_into``; the position of ``read`` and ``seek`` belongs to one thread at a time,
as with any raw Python file. A file open at a fork goes on in both processes, each with its own position.
"""

from __future__ import annotations

import io
import mmap
import os
from collections.abc import Callable, Iterator
from typing import Any

from monofs.client.descriptors import Descriptor, Hot
from monofs.client.errors import python_error
from monofs.client.reader import Reader
from monofs.model.block import block_count
from monofs.model.errors import Closed, ContentChanged, InvalidArgument, MonofsError, NotSupported

LINE_BYTES = 64 << 10
_preadv, _pread = os.preadv, os.pread


class MappedFile(mmap.mmap):
    """A mapping that keeps the worker from counting its bytes as free while it exists."""

    descriptor: Descriptor


class MonofsFile(io.RawIOBase):
    """See the module. ``size`` is in bytes, ``path`` the absolute path, ``content`` the content id read from."""

    __slots__ = ("_end", "_hot", "_is_shut", "_own", "_pinned", "_position", "_reader", "_reopen")
    mode = "rb"

    def __init__(self, reader: Reader, reopen: Callable[[str], MonofsFile]) -> None:
        super().__init__()
        self._reader = reader
        self._is_shut = False
        self._hot = reader.hot
        self._position = 0
        self._own: int | None = None
        self._pinned: Descriptor | None = None
        self._reopen = reopen
        self.path = reader.path
        self.name = reader.path
        self._end = reader.opened.inode.size

    # ---- reading ----

    def readinto(self, buffer: Any) -> int:
        """Fill ``buffer`` from the position on; 0 at the end."""
        position = self._position
        held = self._hot.last
        if held is None or not held.start <= position < held.end:
            held = self._hot.at(position)
        if held is not None:
            count = _preadv(held.fd, (buffer,), position + held.shift)
            held.used = True
            position += count
            if position != held.end or position == self._end:  # not cut where the group ends
                self._position = position
                return count
        count = self._slow(self._position, buffer)
        self._position += count
        return count

    def read(self, size: int | None = -1, /) -> bytes:
        """``size`` bytes from the position on, all of the rest with -1 or None; fewer at the end of the file only."""
        data = self.pread(self._position, -1 if size is None else size)
        self._position += len(data)
        return data

    def readall(self) -> bytes:
        """Everything from the position on."""
        return self.read(-1)

    def pread(self, offset: int, size: int = -1) -> bytes:
        """``size`` bytes at ``offset`` (-1: up to the end); the position stays. For any number of threads."""
        held = self._hot.last
        if held is None or not held.start <= offset < held.end:
            held = self._hot.at(offset)
        if held is not None and size >= 0:
            data = _pread(held.fd, size, offset + held.shift)
            held.used = True
            end = offset + len(data)
            if end != held.end or end == self._end:
                return data
        self._check(offset)
        before = self._reader.opened.inode.size
        left = max(0, before - offset)
        if size >= 0:
            left = min(left, size)
        # A bytes object that is filled in place: BytesIO shares what it alone refers to.
        whole = io.BytesIO(bytes(left))
        with whole.getbuffer() as view:
            count = self._slow(offset, view)
        if self._end != before:  # opened anew before its first byte, and of another size: cut where that one ends
            return self.pread(offset, size)
        return whole.getvalue() if count == left else whole.getvalue()[:count]

    def pread_into(self, offset: int, buffer: Any) -> int:
        """Fill ``buffer`` with the bytes at ``offset``; the position stays. For any number of threads."""
        held = self._hot.last
        if held is None or not held.start <= offset < held.end:
            held = self._hot.at(offset)
        if held is not None:
            count = _preadv(held.fd, (buffer,), offset + held.shift)
            held.used = True
            end = offset + count
            if end != held.end or end == self._end:
                return count
        return self._slow(offset, buffer)

    def _slow(self, offset: int, buffer: Any) -> int:
        self._check(offset)
        view = memoryview(buffer)
        if view.nbytes != len(view) or view.format != "B":
            view = view.cast("B")
        try:
            count = self._reader.read_into(offset, view)
        except MonofsError as error:
            raise python_error(error) from error.__cause__
        self._end = self._reader.opened.inode.size
        return count

    def _check(self, offset: int) -> None:
        if self.closed:
            raise python_error(Closed(f"{self.path} is closed", path=self.path))
        if offset < 0:
            raise python_error(InvalidArgument(f"offset {offset} is negative"))

    # ---- lines ----

    def readline(self, size: int | None = -1, /) -> bytes:
        """One line with its newline, at most ``size`` bytes of it."""
        most = -1 if size is None else size
        line = bytearray()
        step = 512  # most lines are short; long ones take few more reads
        while most < 0 or len(line) < most:
            chunk = self.pread(self._position + len(line), step if most < 0 else min(step, most - len(line)))
            newline = chunk.find(b"\n")
            line += chunk if newline < 0 else chunk[: newline + 1]
            if newline >= 0 or not chunk:
                break
            step = min(2 * step, LINE_BYTES)
        self._position += len(line)
        return bytes(line)

    def __iter__(self) -> Iterator[bytes]:
        """Lines, read in large pieces."""
        step = LINE_BYTES
        while chunk := self.pread(self._position, step):
            lines = chunk.split(b"\n")
            tail = lines.pop()
            if not lines and len(chunk) == step:
                step *= 2  # a line longer than the piece
                continue
            expected = self._position
            for line in lines:
                if self._position != expected:
                    break  # the caller moved on by other means: go on from there
                self._position = expected = expected + len(line) + 1
                yield line + b"\n"
            else:
                if tail and len(chunk) < step and self._position == expected:
                    self._position += len(tail)
                    yield tail

    # ---- the rest of a raw file ----

    @property
    def size(self) -> int:
        """Bytes of the file."""
        return self._reader.size

    @property
    def content(self) -> int:
        """Content id of the bytes this file reads."""
        return self._reader.opened.inode.content

    def seek(self, offset: int, whence: int = 0, /) -> int:
        """Set the position; past the end is allowed and reads nothing there."""
        if (
            whence or offset < 0 or self._is_shut
        ):  # ``closed`` of io.IOBase costs a dictionary look-up: a tenth of a small read
            offset = self._target(offset, whence)
        self._position = offset
        return offset

    def _target(self, offset: int, whence: int) -> int:
        self._check(0)
        if whence == 1:
            offset += self._position
        elif whence == 2:
            offset += self._reader.size
        elif whence != 0:
            raise python_error(InvalidArgument(f"whence must be 0, 1 or 2, not {whence}"))
        if offset < 0:
            raise python_error(InvalidArgument(f"position {offset} is negative"))
        return offset

    def tell(self) -> int:
        """The position."""
        if self.closed:
            self._check(0)
        return self._position

    def readable(self) -> bool:
        """True."""
        return True

    def seekable(self) -> bool:
        """True."""
        return True

    def writable(self) -> bool:
        """False."""
        return False

    def write(self, _data: Any, /) -> int:
        """Not possible."""
        raise python_error(NotSupported(f"{self.path} is open for reading: open it with 'wb' to write all of it anew"))

    def truncate(self, _size: int | None = None, /) -> int:
        """Not possible."""
        return self.write(b"")

    def fileno(self) -> int:
        """A descriptor of its own of the cached file, where the whole file lies complete on this machine in one file: up to 64 MiB, or any size with the layout `whole`.

        Raises io.UnsupportedOperation elsewhere; ``FileSystem.load`` brings a file here. Its position is not this object's.
        """
        self._check(0)
        if self._own is None:
            descriptor = self._whole(fetch=False)
            if descriptor.base != 0:
                raise self._not_local()
            try:
                # The worker's descriptor shares its position with every other process that got it: open the file anew.
                self._own = os.open(f"/proc/self/fd/{descriptor.fd}", os.O_RDONLY | os.O_CLOEXEC)
            except OSError:
                raise self._not_local() from None
            self._pinned = descriptor
        return self._own

    def mmap(self) -> MappedFile:
        """Map the whole file, read-only, after fetching what is missing; for files on this machine of 1 byte to 64 MiB, or any size with the layout `whole`.

        A page the disk can no longer give kills a process that touches it (SIGBUS): that is what mapping means.
        Raises io.UnsupportedOperation where there is no local file.
        """
        self._check(0)
        descriptor = self._whole(fetch=True)
        if descriptor.base % mmap.ALLOCATIONGRANULARITY:
            raise self._not_local()
        mapped = MappedFile(descriptor.fd, self._reader.size, access=mmap.ACCESS_READ, offset=descriptor.base)
        mapped.descriptor = descriptor
        return mapped

    def settled(self) -> Reader:
        """Its reader, for other ways to read it: from now on of this content and no other."""
        self._check(0)
        self._reader.settle()
        return self._reader

    def _whole(self, *, fetch: bool) -> Descriptor:
        try:
            descriptor = self._reader.whole_descriptor(fetch=fetch)
        except MonofsError as error:
            raise python_error(error) from error.__cause__
        if descriptor is None:
            raise self._not_local()
        return descriptor

    def _not_local(self) -> MonofsError:
        if block_count(self._reader.size, self._reader.opened.inode.layout) > 1:
            why = (
                "is larger than a block, so its cached bytes lie in several files: read it with pread, or have it begin under a policy "
                "with --layout whole (files known before keep theirs)"
            )
        elif not self._reader.size:
            why = "is empty, so there is no cached file of it"
        else:
            why = "is not one complete cached file on this machine"
        return python_error(NotSupported(f"{self.path} {why}", path=self.path))

    def close(self) -> None:
        """Forget the content; descriptors stay with the process for the next reader."""
        if not self.closed:
            self._is_shut = True
            self._hot = Hot()  # an empty one: every call takes the way that looks whether the file is closed
            self._reader.forget()
            own, self._own, self._pinned = self._own, None, None
            if own is not None:
                os.close(own)
        super().close()

    def __reduce__(self) -> tuple[Any, ...]:
        """Open the same path again where it is unpickled, at the same position; another content raises there."""
        return (_restore, (self._reopen, self.path, self.content, self._position))

    def __repr__(self) -> str:
        state = " closed" if self.closed else ""
        return f"<MonofsFile {self.path!r}{state}>"


def _restore(reopen: Callable[[str], MonofsFile], path: str, content: int, position: int) -> MonofsFile:
    file = reopen(path)
    if file.content != content:
        file.close()
        raise python_error(ContentChanged(f"{path} changed since the file object was pickled", path=path))
    file.seek(position)
    return file
