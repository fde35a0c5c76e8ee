"""Making files in a directory: written beside their place under a hidden name, synced, and moved into it in one step.

A file in the making is ``.monofs-tmp-<operation>`` in the directory it is for. It is published by ``fsync``, a rename and ``fsync`` of the directory.
Which operation made a file stands in its extended attribute ``user.monofs.operation``, with mtime and inode, so that a later change of
the bytes, or a copy of the file, is not taken for that operation's; a file system without such attributes just cannot tell.

The mtime of a published file is set to a time the kernel's coarse clock does not show: any later write by anybody changes it, so
the fingerprint handed out is good at once (``racy`` False) wherever times are kept to the nanosecond.

Invariant: a name shows the old bytes or the new, whole and durable. A file that replaces another keeps its mode and owner.
Not here: deleting, renaming, directories (``local``).
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import re
import stat
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace

from monofs.model.errors import MonofsError, NotSupported, UfsBadBody, UfsChanged, UfsDenied, UfsNotFound, invariant
from monofs.observe.failpoints import failpoint
from monofs.ufs.base import MIB, NO_HEADERS, Coming, Condition, UfsEntry
from monofs.ufs.local_reading import (
    ABSENT,
    HIDDEN_PREFIX,
    SCAN,
    LocalReading,
    entry_of,
    fingerprint_of,
    is_unsafe,
    wait_until_told_apart,
)
from monofs.ufs.observe import Observed, observed

ATTRIBUTE = "user.monofs.operation"
IMPLIED = "user.monofs.implied"
"""Of directories that were made on the way to a file."""
COPY_BYTES = 16 * MIB
"""Bytes of one ``copy_file_range``; file systems that share blocks share them all the same."""
_OPERATION = re.compile(r"[A-Za-z0-9-]{1,100}")
_CREATE = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_WRITE = os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
_NO_ATTRIBUTES = (errno.ENOTSUP, errno.ENODATA, errno.EPERM, errno.EACCES, errno.ENOSYS, errno.ENOSPC, errno.EDQUOT)
_NO_COPY = (errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EPERM, errno.ETXTBSY, errno.EBADF)
_RENAME_NOREPLACE = 1
_LIBC = ctypes.CDLL(None, use_errno=True)


class Act:
    """One act in progress. ``begun``: from here on it may have been done, whatever is raised."""

    __slots__ = ("begun", "request")

    def __init__(self, request: Observed) -> None:
        self.begun = False
        self.request = request


class LocalFiles(LocalReading):
    """The store behind ``file://``, with the making of files; thread-safe."""

    def look(self, key: bytes) -> UfsEntry | None:
        """One file, and what its extended attribute says."""
        with observed(self._observe, "look"), self._mapped(key):
            try:
                with self._open_file(key) as fd:
                    return _looked_at(key, fd)
            except (OSError, UfsNotFound) as error:
                if self._is_absent(error):
                    return None
                raise

    def headers(self, key: bytes) -> tuple[str, dict[str, str]]:  # noqa: ARG002
        """None are kept."""
        return "", {}

    def tag(self, key: bytes, tags: Mapping[str, str]) -> None:  # noqa: ARG002
        """None are kept."""
        raise NotSupported(f"{self._name(key)} is a file: it has no tags")

    def put(
        self,
        key: bytes,
        data: Sequence[memoryview],
        operation: str,
        condition: Condition,
        headers: Mapping[str, str] = NO_HEADERS,  # noqa: ARG002
    ) -> UfsEntry:
        """Write, sync, publish."""

        def fill(fd: int) -> None:
            offset = 0
            for view in data:
                offset = _write_at(fd, view, offset)

        with self._acting("put", key) as act:
            act.request.bytes = sum(len(view) for view in data)
            return self._make(act, key, operation, condition, fill)

    def begin_upload(self, key: bytes, operation: str, headers: Mapping[str, str] = NO_HEADERS) -> str:  # noqa: ARG002
        """Make the hidden file; its id is the operation."""
        with self._acting("upload", key), self._make_parent(key) as (parent, _):
            os.close(_create(parent, hidden(operation)))
        return operation

    def put_part(self, key: bytes, upload: str, number: int, offset: int, data: Sequence[memoryview] | Coming) -> str:
        """Write at the offset; ``<number>:<offset>:<length>``. It is synced when the upload is completed."""
        at = offset
        with self._acting("part", key) as act, self._open_parent(key) as (parent, _):
            fd = os.open(hidden(upload), _WRITE, dir_fd=parent)
            try:
                for view in data:
                    at = _write_at(fd, view, at)
            finally:
                os.close(fd)
            act.request.bytes = at - offset
        return f"{number}:{offset}:{at - offset}"

    def complete_upload(
        self, key: bytes, upload: str, parts: Sequence[str], size: int, operation: str, condition: Condition
    ) -> UfsEntry:
        """Check that the parts cover the file, sync, publish."""
        with self._acting("complete", key) as act:
            try:
                with self._open_parent(key, SCAN) as (parent, name):
                    fd = os.open(hidden(upload), _WRITE, dir_fd=parent)
                    try:
                        self._check_whole(key, fd, parts, size)
                        return self._publish(act, parent, hidden(upload), fd, name, key, operation, condition)
                    finally:
                        os.close(fd)
            except (OSError, UfsChanged, UfsNotFound) as error:
                if not act.begun and (isinstance(error, UfsChanged) or self._is_absent(error)):
                    return self._made_before(key, operation, error)
                raise

    def abort_upload(self, key: bytes, upload: str) -> None:
        """Delete the hidden file."""
        with self._acting("abort", key):
            self._unlink_hidden(key, upload)

    def copy(
        self,
        source: bytes,
        fingerprint: str,
        target: bytes,
        operation: str,
        condition: Condition,
        *,
        begun: Callable[[str], None] | None = None,  # noqa: ARG002
        headers: Mapping[str, str] | None = None,  # noqa: ARG002
    ) -> UfsEntry:
        """Copy inside the kernel (sharing blocks where the file system can), check that the source is still the same, publish."""

        def fill(fd: int) -> None:
            try:
                with self._mapped(source), self._open_file(source) as given:
                    self._unchanged(given, source, fingerprint)
                    wait_until_told_apart(os.fstat(given))
                    size = self._unchanged(given, source, fingerprint)
                    _copy_bytes(given, fd, size)
                    self._unchanged(given, source, fingerprint)
                    os.fchmod(fd, stat.S_IMODE(os.fstat(given).st_mode))
            except MonofsError as error:
                error.detail["source"] = 1
                raise

        with self._acting("copy", target) as act:
            return self._make(act, target, operation, condition, fill)

    # ---- publishing -----------------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def _acting(self, kind: str, key: bytes) -> Iterator[Act]:
        """Observe an act and tell its failures in our words, with what is certain about them."""
        with observed(self._observe, kind) as request:
            act = Act(request)
            try:
                with self._mapped(key, "changed"):
                    yield act
            except MonofsError as error:
                if not act.begun:
                    error.detail["not_done"] = 1
                raise

    def _make(
        self, act: Act, key: bytes, operation: str, condition: Condition, fill: Callable[[int], None]
    ) -> UfsEntry:
        """A new file with what ``fill`` writes into it."""
        name = hidden(operation)
        try:
            with self._make_parent(key) as (parent, final):
                self._check_target(parent, final, key, condition)
                fd = _create(parent, name)
                try:
                    fill(fd)
                    return self._publish(act, parent, name, fd, final, key, operation, condition)
                except BaseException:
                    with contextlib.suppress(OSError):
                        os.unlink(name, dir_fd=parent)
                    raise
                finally:
                    os.close(fd)
        except UfsChanged as error:
            if error.detail.get("source"):
                raise
            return self._made_before(key, operation, error)

    def _publish(
        self,
        act: Act,
        parent: int,
        name: bytes,
        fd: int,
        final: bytes,
        key: bytes,
        operation: str,
        condition: Condition,
    ) -> UfsEntry:
        """Give the hidden file ``name`` its place. ``UfsChanged``: the condition does not hold, and nothing was done."""
        replaced = self._check_target(parent, final, key, condition)
        if replaced is not None:
            _take_after(fd, replaced)
        now_ns = time.time_ns()
        os.utime(fd, ns=(now_ns, now_ns))
        with contextlib.suppress(OSError):
            os.setxattr(fd, ATTRIBUTE, _mark(operation, os.fstat(fd)))
        os.fsync(fd)
        failpoint("local.temp-written")
        self._check_target(parent, final, key, condition)
        if condition.absent:
            try:
                rename_new(parent, name, parent, final)
            except FileExistsError:
                raise self._changed(key) from None
            act.begun = True
        else:
            act.begun = True
            os.rename(name, final, src_dir_fd=parent, dst_dir_fd=parent)
        failpoint("local.renamed")
        os.fsync(parent)
        found = os.fstat(fd)
        entry = entry_of(key, found)
        return replace(entry, racy=False) if found.st_mtime_ns == now_ns else entry

    def _check_target(self, parent: int, name: bytes, key: bytes, condition: Condition) -> os.stat_result | None:
        """What the new file replaces. Raises ``UfsChanged`` unless the condition holds."""
        try:
            found = os.stat(name, dir_fd=parent, follow_symlinks=False)
        except FileNotFoundError:
            if condition.fingerprint:
                raise self._changed(key) from None
            return None
        if condition.absent or stat.S_ISDIR(found.st_mode):
            raise self._changed(key)
        if not stat.S_ISREG(found.st_mode):
            raise UfsDenied(f"{self._name(key)} is a link or a device: monofs does not replace it")
        if condition.fingerprint and fingerprint_of(found) != condition.fingerprint:
            raise self._changed(key)
        return found

    def _made_before(self, key: bytes, operation: str, error: Exception) -> UfsEntry:
        """What this very operation published before, made durable once more; else ``error`` stands."""
        found = self.look(key)
        if found is None or found.operation != operation:
            raise error
        with self._open_parent(key, SCAN) as (parent, _):
            os.fsync(parent)
        return found

    def _check_whole(self, key: bytes, fd: int, parts: Sequence[str], size: int) -> None:
        end = 0
        for offset, length in sorted(_read_part(part) for part in parts):
            if offset > end:
                break
            end = max(end, offset + length)
        if end != size or os.fstat(fd).st_size != size:
            raise UfsBadBody(f"{self._name(key)}: the parts are not the {size} bytes that were to be written")

    def _changed(self, key: bytes) -> UfsChanged:
        return UfsChanged(f"{self._name(key)} changed in the store")

    def _is_absent(self, error: Exception) -> bool:
        """Whether an error says that a file or a directory above it is not there, below a root that is."""
        absent = isinstance(error, UfsNotFound) or (isinstance(error, OSError) and error.errno in ABSENT)
        return absent and os.path.isdir(self._root)

    def _unlink_hidden(self, key: bytes, operation: str) -> None:
        try:
            with self._open_parent(key, SCAN) as (parent, _):
                os.unlink(hidden(operation), dir_fd=parent)
        except (OSError, UfsNotFound) as error:
            if not self._is_absent(error):
                raise

    # ---- directories above ----------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def _make_parent(self, key: bytes) -> Iterator[tuple[int, bytes]]:
        """As ``_open_parent``, making the directories that are missing."""
        directory, _, name = key.rpartition(b"/")
        if is_unsafe(name):
            raise UfsNotFound(f"{self._name(key)} is not a name a directory can hold")
        with self._make_directory(directory) as fd:
            yield fd, name

    @contextlib.contextmanager
    def _make_directory(self, key: bytes) -> Iterator[int]:
        """A descriptor of directory ``key``, made with those above where they are missing, each durable in its parent."""
        fd = os.open(self._root, SCAN & ~os.O_NOFOLLOW)
        try:
            self._check_mounted(fd)
            for part in key.split(b"/") if key else ():
                if is_unsafe(part):
                    raise UfsNotFound(f"{self._name(key)} is not a name a directory can hold")
                below = self._enter(fd, part, key)
                os.close(fd)
                fd = below
            yield fd
        finally:
            os.close(fd)

    def _enter(self, fd: int, part: bytes, key: bytes) -> int:
        try:
            return os.open(part, SCAN, dir_fd=fd)
        except FileNotFoundError:
            made = True
            try:
                os.mkdir(part, dir_fd=fd)
            except FileExistsError:
                made = False
            os.fsync(fd)
            below = os.open(part, SCAN, dir_fd=fd)
            if made:
                with contextlib.suppress(OSError):  # a file system that keeps none keeps the directory
                    os.setxattr(below, IMPLIED, b"1")
            return below
        except OSError as error:
            if error.errno in (errno.ENOTDIR, errno.ELOOP):
                shown = part.decode("utf-8", "backslashreplace")
                raise UfsChanged(f"{self._name(key)}: {shown!r} is a file or a link in the store") from None
            raise


def is_implied(parent: int, name: bytes) -> bool:
    """Whether a directory was made on the way to a file, and nobody asked for it since."""
    fd = os.open(name, SCAN, dir_fd=parent)
    try:
        return bool(os.getxattr(fd, IMPLIED))
    except OSError:
        return False
    finally:
        os.close(fd)


def hidden(operation: str) -> bytes:
    """The name of what ``operation`` has in the making."""
    invariant(_OPERATION.fullmatch(operation) is not None, "the name of an operation has letters, digits and '-' only")
    return HIDDEN_PREFIX + operation.encode()


def rename_new(source: int, name: bytes, target: int, final: bytes) -> None:
    """Rename ``name`` in directory ``source`` to ``final`` in ``target`` unless that exists: then ``FileExistsError``.

    File systems without such a call get a hard link, or else, as the last resort, are asked first.
    """
    if _LIBC.renameat2(source, name, target, final, _RENAME_NOREPLACE) == 0:
        return
    number = ctypes.get_errno()
    if number not in (errno.EINVAL, errno.ENOSYS):
        raise OSError(number, os.strerror(number))
    try:
        os.link(name, final, src_dir_fd=source, dst_dir_fd=target, follow_symlinks=False)
    except FileExistsError:
        raise
    except OSError:
        try:
            os.stat(final, dir_fd=target, follow_symlinks=False)
        except FileNotFoundError:
            os.rename(name, final, src_dir_fd=source, dst_dir_fd=target)
            return
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST)) from None
    os.unlink(name, dir_fd=source)


def _create(parent: int, name: bytes) -> int:
    """A new file; what an earlier try of the same operation left is deleted."""
    try:
        return os.open(name, _CREATE, 0o666, dir_fd=parent)
    except FileExistsError:
        os.unlink(name, dir_fd=parent)
        return os.open(name, _CREATE, 0o666, dir_fd=parent)


def _write_at(fd: int, view: memoryview, offset: int) -> int:
    """Write all of ``view``; the offset behind it."""
    while view:
        written = os.pwrite(fd, view, offset)
        view, offset = view[written:], offset + written
    return offset


def _copy_bytes(source: int, target: int, size: int) -> None:
    done, in_kernel = 0, True
    while done < size:
        if in_kernel:
            try:
                copied = os.copy_file_range(source, target, min(COPY_BYTES, size - done), done, done)
            except OSError as error:
                if error.errno not in _NO_COPY:
                    raise
                in_kernel = False
                continue
        else:
            copied = _write_at(target, memoryview(os.pread(source, min(MIB, size - done), done)), done) - done
        if not copied:
            raise UfsBadBody(f"the source ended at byte {done}, before its size of {size}")
        done += copied


def _take_after(fd: int, replaced: os.stat_result) -> None:
    """Owner and mode of the file that is replaced, as far as this user may give them."""
    with contextlib.suppress(PermissionError):
        os.fchown(fd, replaced.st_uid, replaced.st_gid)
    with contextlib.suppress(PermissionError):
        os.fchmod(fd, stat.S_IMODE(replaced.st_mode))


def _mark(operation: str, found: os.stat_result) -> bytes:
    return f"{operation}:{found.st_mtime_ns}:{found.st_ino}".encode()


def _looked_at(key: bytes, fd: int) -> UfsEntry:
    found = os.fstat(fd)
    try:
        marked = os.getxattr(fd, ATTRIBUTE)
    except OSError as error:
        if error.errno not in _NO_ATTRIBUTES:
            raise
        marked = b""
    operation = marked.decode("ascii", "replace").partition(":")[0]
    entry = entry_of(key, found)
    if marked != _mark(operation, found):
        return entry
    return replace(entry, operation=operation, racy=entry.racy and found.st_mtime_ns % 1000 == 0)


def _read_part(part: str) -> tuple[int, int]:
    _, offset, length = part.split(":")
    return int(offset), int(length)
