"""Page files: writing, checking, copying and reading them, and the table of descriptors open for reading.

Functions may be called from any thread for a group that is held or has reserved pages (so that its file stays); they open the
file themselves and share no descriptor. `FileTable` belongs to the cache's own thread. Invariants: bytes of a page present are
never written again; every write goes through a descriptor of its own, so none can be handed to a reader by mistake.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import mmap
import os
import threading
from collections import OrderedDict
from collections.abc import Sequence
from typing import TYPE_CHECKING

import anycrc

from monofs.model.block import PAGE_SIZE_BYTES
from monofs.model.errors import InvalidArgument, NotCached, Overloaded
from monofs.tiering.group import Group, mask_pages, page_bytes

if TYPE_CHECKING:
    from monofs.tiering.directory import Directory

SHORTAGES = (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EINTR)
"""What opening a file meets that says nothing of the file."""
_local = threading.local()
_crc = anycrc.Model("CRC32").calc
"""zlib's, at four times its speed; it holds the GIL, 80 µs for a page."""

_libc = ctypes.PyDLL(
    None, use_errno=True
)  # openat2 as used here never waits: giving up the GIL would cost more than the call
_sync_file_range = getattr(ctypes.CDLL(None), "sync_file_range", None)
"""Gives up the GIL; None on systems without it (sync_file_range(2), Linux)."""
_SYNC_FILE_RANGE_WRITE = 2
_SYS_OPENAT2 = 437
_RESOLVE_CACHED = 0x20
_how = (ctypes.c_uint64 * 3)(os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW, 0, _RESOLVE_CACHED)


def file_name(file: int) -> str:
    """Where a file number lies below its storage directory: ``<last byte in hex>/<number in hex>``."""
    return f"{file & 255:02x}/{file:x}"


def open_file(group: Group, flags: int) -> int:
    """Open the group's file. Raises OSError."""
    return _open_in(group.directory, flags, group.file)


def _open_in(directory: Directory, flags: int, file: int) -> int:
    name, below = file_name(file), directory.pages_fd
    flags |= os.O_CLOEXEC | os.O_NOFOLLOW
    try:
        return os.open(name, flags, 0o600, dir_fd=below)
    except FileNotFoundError:
        if not flags & os.O_CREAT:
            raise
    with contextlib.suppress(FileExistsError):  # another thread made it
        os.mkdir(name[:2], 0o700, dir_fd=below)
        directory.named.discard(name[:2])
    return os.open(name, flags, 0o600, dir_fd=below)


def open_now(group: Group) -> int | None:
    """A fresh descriptor as of :func:`open_reader` if the kernel has the name in memory, so that no disk is waited for; else None.

    None on systems that cannot tell (Linux before 5.12).
    """
    fd = _libc.syscall(
        _SYS_OPENAT2, group.directory.pages_fd, file_name(group.file).encode(), _how, ctypes.sizeof(_how)
    )
    return fd if fd >= 0 else None


def open_reader(group: Group) -> int:
    """A fresh descriptor that can only read, to be closed by the caller; made to be given to other processes.

    Raises ``NotCached`` when the file is gone, ``TierUnusable`` when the directory fails.
    """
    try:
        return open_file(group, os.O_RDONLY)
    except FileNotFoundError:
        raise NotCached("the cached file is gone") from None
    except OSError as error:
        raise group.directory.fail(error) from None


def write_page(group: Group, page: int, data: memoryview) -> int:
    """Write all bytes of one page; returns their CRC-32. As :func:`write_pages`."""
    return write_pages(group, [(page, [data])])[0][1]


def write_pages(
    group: Group, pages: Sequence[tuple[int, Sequence[memoryview]]], *, patient: bool = False
) -> list[tuple[int, int]]:
    """Write whole pages, each given as the pieces it consists of; (page, CRC-32) each. Waits for files evicted before to be
    unlinked only where the disk needs their room. ``patient``: also in a directory that is slow.

    Raises ``TierFull``, ``TierUnusable`` (its disk is slow, too), ``InvalidArgument`` for a wrong length, ``NotCached`` when the file was removed.
    """
    crcs: list[tuple[int, int]] = []
    for page, pieces in pages:
        size = sum(map(len, pieces))
        if size != page_bytes(group.length, page):
            raise InvalidArgument(f"page {page} has {page_bytes(group.length, page)} bytes, not {size}")
    group.directory.enter(patient=patient)
    try:
        group.directory.wait_for_room()
        fd = _open_writer(group)
        try:
            for page, pieces in pages:
                crc, offset = 0, group.base + page * PAGE_SIZE_BYTES
                for piece in pieces:
                    _write_all(fd, piece, offset)
                    crc, offset = _crc(piece, crc), offset + len(piece)
                crcs.append((page, crc))
        finally:
            os.close(fd)
    except OSError as error:
        raise group.directory.fail(error) from None
    finally:
        group.directory.pace.leave(len(pages))
    return crcs


def trim_file(group: Group) -> None:
    """Cut the file of a sealed group to the group's length. Raises ``TierUnusable``, ``NotCached``."""
    try:
        fd = open_file(group, os.O_WRONLY)
        try:
            os.ftruncate(fd, group.base + group.length)
        finally:
            os.close(fd)
    except FileNotFoundError:
        raise NotCached("the cached file is gone") from None
    except OSError as error:
        raise group.directory.fail(error) from None


def begin_sync(group: Group, pages: Sequence[int]) -> None:
    """Have the disk begin with these pages, so that little is left for the :func:`sync_file` that is to come, which tells what fails."""
    if _sync_file_range is None:
        return
    with contextlib.suppress(OSError):
        fd = open_file(group, os.O_RDONLY)
        try:
            for page in pages:
                offset, length = group.base + page * PAGE_SIZE_BYTES, page_bytes(group.length, page)
                _sync_file_range(fd, ctypes.c_int64(offset), ctypes.c_int64(length), _SYNC_FILE_RANGE_WRITE)
        finally:
            os.close(fd)


def sync_file(group: Group) -> None:
    """Make the file, its size and its name survive a loss of power. Raises ``TierFull``, ``TierUnusable``, ``NotCached``."""
    try:
        fd = open_file(group, os.O_RDONLY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)
        directory, name = group.directory, file_name(group.file)[:2]
        fd = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=directory.pages_fd)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)
        if name not in directory.named:
            os.fsync(directory.pages_fd)
            directory.named.add(name)
    except FileNotFoundError:
        raise NotCached("the cached file is gone") from None
    except OSError as error:
        raise group.directory.fail(error) from None


def _open_writer(group: Group) -> int:
    block = group.block
    # before looking: another thread may make the file, and its page be committed, meanwhile
    if group.present or (block is not None and block.written):
        try:
            fd = open_file(group, os.O_WRONLY)
        except FileNotFoundError:
            raise NotCached("the cached file is gone") from None
    elif not (group.alive or group.holds or group.reserved):
        raise NotCached("the group has left the cache")
    else:
        fd = open_file(group, os.O_WRONLY | os.O_CREAT)
    try:
        if block is not None:
            with block.growing:
                if os.fstat(fd).st_size < group.base + group.length:
                    os.ftruncate(fd, group.base + group.length)
        elif group.length > PAGE_SIZE_BYTES and not group.present:
            os.ftruncate(fd, group.base + group.length)
    except OSError:
        os.close(fd)
        raise
    return fd


def _write_all(fd: int, data: memoryview, offset: int) -> None:
    done = 0
    while done < len(data):
        written = os.pwrite(fd, data[done:], offset + done)
        if not written:
            raise OSError(errno.EIO, "write made no progress")
        done += written


def check_pages(group: Group, mask: int, *, direct: bool = False) -> int:
    """Bitmap of those pages of ``mask`` that are present but whose bytes do not match their CRC or cannot be read. ``direct``: read
    past the kernel's memory, where the file system can.

    Raises ``Overloaded`` when this process is short of descriptors or memory, which says nothing of the pages.
    """
    mask &= group.present
    crcs = group.crcs
    try:
        fd = open_file(group, os.O_RDONLY)
    except OSError as error:
        if error.errno in SHORTAGES:
            raise Overloaded(
                f"cached files cannot be opened ({error.strerror}): try again shortly; raise node.open_files if this persists"
            ) from None
        return mask
    bad = 0
    try:
        if direct:
            _set_direct(fd, on=True)
        for page in mask_pages(mask):
            if _read_page(fd, group, page, crcs) is None:
                bad |= 1 << page
    finally:
        os.close(fd)
    return bad


def _set_direct(fd: int, *, on: bool) -> None:
    flags = fcntl.fcntl(fd, fcntl.F_GETFL)
    with contextlib.suppress(OSError):  # this file system cannot (tmpfs, say): its files are read as they come
        fcntl.fcntl(fd, fcntl.F_SETFL, flags | os.O_DIRECT if on else flags & ~os.O_DIRECT)


def copy_pages(group: Group, mask: int, file: int, target: Directory, *, joins: bool = False) -> int:
    """Copy pages of ``mask`` whose CRC holds into a new file of ``target`` numbered ``file``; returns the bitmap of pages copied. ``joins``: behind
    another group of its block, which was copied before.

    Raises ``TierFull`` or ``TierUnusable``, also when this process is short of descriptors or memory, which says nothing of the pages; the new file
    may exist then.
    """
    crcs, copied = group.crcs, 0
    try:
        source = open_file(group, os.O_RDONLY)
    except OSError as error:
        if error.errno in SHORTAGES:
            raise group.directory.fail(error) from None
        return 0
    try:
        fd = _open_in(target, os.O_WRONLY | (0 if joins else os.O_CREAT | os.O_EXCL), file)
        try:
            os.ftruncate(fd, group.base + group.length)
            for page in mask_pages(mask & group.present):
                data = _read_page(source, group, page, crcs)
                if data is not None:
                    _write_all(fd, data, group.base + page * PAGE_SIZE_BYTES)
                    copied |= 1 << page
        finally:
            os.close(fd)
    except OSError as error:
        raise target.fail(error) from None
    finally:
        os.close(source)
    return copied


def _read_page(fd: int, group: Group, page: int, crcs: bytes) -> memoryview | None:
    """The page in this thread's buffer; None when it cannot be read in full or its CRC differs."""
    buffer: memoryview | None = getattr(_local, "buffer", None)
    if buffer is None:
        buffer = _local.buffer = memoryview(
            mmap.mmap(-1, PAGE_SIZE_BYTES)
        )  # at a page's border, as direct reads need it
    view, offset, done = buffer[: page_bytes(group.length, page)], group.base + page * PAGE_SIZE_BYTES, 0
    while done < len(view):
        try:
            count = os.preadv(
                fd, [buffer[done:]], offset + done
            )  # up to the buffer's end: direct reads want whole sectors
        except OSError as error:
            if error.errno != errno.EINVAL or not fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_DIRECT:
                return None  # EIO: the medium lost it, which is what a CRC that differs means too
            _set_direct(fd, on=False)  # not on this file system, or not from the middle of a sector
            continue
        if not count:
            return None
        done += count
    return view if _crc(view, 0) == int.from_bytes(crcs[4 * page : 4 * page + 4], "little") else None


class FileTable:
    """Descriptors open for reading, at most ``limit``; the one used longest ago is closed, unless its group is held."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.closed = 0
        """How many were closed to make room: who remembers a descriptor's number sees that it may be another file's now."""
        self._fds: OrderedDict[Group, int] = OrderedDict()

    def __len__(self) -> int:
        return len(self._fds)

    def ready(self, group: Group) -> int | None:
        """The group's descriptor if it is open, or can be opened without waiting for the disk. None where even a descriptor would have to be waited for
        (``Directory.is_local``)."""
        fd = self._fds.get(group)
        if fd is not None:
            self._fds.move_to_end(group)
        elif group.alive and group.directory.is_local and self._has_room():
            fd = open_now(group)
            if fd is not None:
                self._fds[group] = fd
        return fd

    def descriptor(self, group: Group) -> int:
        """The group's descriptor, opened if needed. Raises ``NotCached``, ``Overloaded``, ``TierUnusable``."""
        fd = self._fds.get(group)
        if fd is not None:
            self._fds.move_to_end(group)
            return fd
        if not (group.alive or group.holds or group.reserved):
            raise NotCached("the group has left the cache")
        if not self._has_room():
            raise Overloaded(f"all {self.limit} descriptors of cached files are in use")
        fd = self._fds[group] = open_reader(group)
        return fd

    def adopt(self, group: Group, fd: int) -> None:
        """Keep a descriptor a thread has opened; closes it when there is one already, no room, or the group is gone."""
        if group in self._fds or not group.alive or not self._has_room():
            os.close(fd)
        else:
            self._fds[group] = fd

    def forget(self, group: Group) -> int | None:
        """Take the group's descriptor out of the table; the caller closes it."""
        return self._fds.pop(group, None)

    def close(self) -> None:
        """Close all."""
        while self._fds:
            os.close(self._fds.popitem()[1])

    def _has_room(self) -> bool:
        """Whether one more may be open, after closing one that nobody holds."""
        for _ in range(len(self._fds)):
            if len(self._fds) < self.limit:
                return True
            group, fd = self._fds.popitem(last=False)
            if group.holds:
                self._fds[group] = fd
            else:
                os.close(fd)
                self.closed += 1
        return len(self._fds) < self.limit
