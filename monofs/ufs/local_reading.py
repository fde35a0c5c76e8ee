"""What lies in a directory of this machine (or of a network file system mounted on it): listings, statuses, bytes of one version.

Every component below the root is opened relative to its parent's descriptor with ``O_NOFOLLOW``, so no key, symbolic link or race
leads out of the root. The root itself is opened by path for each call: it may be a symbolic link, and a file system mounted
there later is noticed, and one that was there and is gone makes the store unreachable, not empty.

Symbolic links, FIFOs, sockets and devices are never opened: a listing names them in ``odd`` and they read as missing. Names
starting with ``.monofs-tmp-`` are our own unfinished files and do not exist for readers.

Invariant: the bytes yielded lie between two ``fstat`` of one descriptor that both give the fingerprint asked for, and were read
when any later change had to give another one.

Limits: a listing sorts the names of one directory in memory, at most ``NAMES_MAX`` of them; a larger directory is scanned anew
for every page. Not here: what changes the directory (``local``, ``local_files``).
"""

from __future__ import annotations

import contextlib
import errno
import heapq
import os
import stat
import threading
import time
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

from monofs.model.errors import (
    MonofsError,
    UfsBadBody,
    UfsBucketNotFound,
    UfsChanged,
    UfsDenied,
    UfsFailed,
    UfsFull,
    UfsNotFound,
    UfsUnreachable,
)
from monofs.model.paths import name_problem
from monofs.ufs.base import UfsEntry, UfsPage
from monofs.ufs.local_root import is_mounted, normal_uri, root_path
from monofs.ufs.observe import Observer, observed

HIDDEN_PREFIX = b".monofs-tmp-"
RACY_NS = 2_000_000_000
"""A file or directory that changed less than this before it was looked at may change again under the same times."""
TICK_NS = 20_000_000
"""Changes further apart than this get different times: two ticks of the slowest kernel clock (100 Hz)."""
CHUNK_BYTES = 1 << 20
ODD_MAX = 100
NAMES_MAX = 1_000_000
SNAPSHOTS_MAX = 8
SNAPSHOT_LIFE_S = 60.0

DIRECTORY = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
SCAN = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
ABSENT = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG)
_UNREACHABLE = (
    errno.ETIMEDOUT,
    errno.EHOSTDOWN,
    errno.EHOSTUNREACH,
    errno.ENOTCONN,
    errno.ECONNREFUSED,
    errno.ENETDOWN,
)


@dataclass(frozen=True, slots=True)
class _Snapshot:
    """Sorted names of one directory (``/`` after directories) and the identity of the directory when they were read."""

    identity: tuple[int, int, int, int]
    names: list[bytes]
    taken_s: float


class LocalReading:
    """The asking half of the store behind ``file://``; thread-safe. It keeps no descriptor open between calls."""

    def __init__(self, uri: str, *, own_file_system: bool | None = None, observe: Observer | None = None) -> None:
        """``own_file_system``: the root must be a mount point, need not be one, or (None) must stay one once it was seen as one."""
        self._root = root_path(uri)
        self._shown = normal_uri(uri)
        self._observe = observe
        self._lock = threading.Lock()
        self._snapshots: OrderedDict[bytes, _Snapshot] = OrderedDict()
        self._device = -1
        self._must_be_mounted = own_file_system is True
        self._may_be_unmounted = own_file_system is False

    def check(self) -> bool:
        """Prove that the root is a directory that may be listed."""
        with (
            observed(self._observe, "list"),
            self._mapped(b""),
            self._open_directory(b"", SCAN) as fd,
            os.scandir(fd) as entries,
        ):
            return next(entries, None) is not None

    def status(self, key: bytes) -> tuple[UfsEntry | None, UfsEntry | None]:
        """One ``lstat`` below the root: a name is a file or a directory, never both."""
        with observed(self._observe, "head"), self._mapped(key):
            if not key:
                with self._open_directory(b"") as fd:
                    return None, entry_of(b"", os.fstat(fd))
            try:
                with self._open_parent(key) as (fd, name):
                    found = os.stat(name, dir_fd=fd, follow_symlinks=False)
            except OSError as error:
                if error.errno in ABSENT and os.path.isdir(self._root):
                    return None, None
                raise  # a root that is gone must never look like files that were deleted
            except UfsNotFound:
                return None, None
        if stat.S_ISDIR(found.st_mode):
            return None, entry_of(key, found)
        return (entry_of(key, found), None) if stat.S_ISREG(found.st_mode) else (None, None)

    def list(self, key: bytes, *, after: bytes = b"", limit: int = 1000) -> UfsPage:
        """A page of one directory. Names come from a snapshot only while the directory provably has not changed since."""
        with observed(self._observe, "list"), self._mapped(key), self._open_directory(key, SCAN) as fd:
            names, complete = self._names_after(fd, key, after, limit)
            entries: list[UfsEntry] = []
            odd: list[bytes] = []
            position = after
            for name in names:
                if len(entries) >= limit or len(odd) >= ODD_MAX:
                    complete = False
                    break
                position = name
                found = self._look(fd, key, name)
                if isinstance(found, UfsEntry):
                    entries.append(found)
                elif found is not None:
                    odd.append(found)
            if complete:
                with self._lock:
                    self._snapshots.pop(key, None)
            return UfsPage(entries, None if complete else position, odd)

    def read(self, key: bytes, offset: int, length: int, fingerprint: str) -> Iterator[memoryview]:
        """Yield the range in pieces of at most 1 MiB, each checked by ``fstat`` before it is handed out."""
        with observed(self._observe, "get") as request, self._mapped(key), self._open_file(key) as fd:
            self._unchanged(fd, key, fingerprint)
            wait_until_told_apart(os.fstat(fd))
            size = self._unchanged(fd, key, fingerprint)
            end = min(offset + length, size)
            while offset < end:
                chunk = os.pread(fd, min(CHUNK_BYTES, end - offset), offset)
                self._unchanged(fd, key, fingerprint)
                if not chunk:
                    raise UfsBadBody(f"{self._name(key)} ended at byte {offset}, before its size of {size}")
                offset += len(chunk)
                request.bytes += len(chunk)
                yield memoryview(chunk)

    def close(self) -> None:
        """Forget the names kept for listings."""
        with self._lock:
            self._snapshots.clear()

    # ---- opening below the root -----------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def _open_directory(self, key: bytes, flags: int = DIRECTORY) -> Iterator[int]:
        """A descriptor of directory ``key``; the last one opened with ``flags``."""
        parts = key.split(b"/") if key else []
        fd = os.open(self._root, (flags if not parts else DIRECTORY) & ~os.O_NOFOLLOW)
        try:
            self._check_mounted(fd)
            for depth, part in enumerate(parts, 1):
                if is_unsafe(part):
                    raise UfsNotFound(f"{self._name(key)} is not a name a directory can hold")
                below = os.open(part, flags if depth == len(parts) else DIRECTORY, dir_fd=fd)
                os.close(fd)
                fd = below
            yield fd
        finally:
            os.close(fd)

    def _check_mounted(self, root: int) -> None:
        """Raise ``UfsUnreachable`` when the root was a mount point and its file system is gone: the empty directory that is left must
        not look like files that were deleted."""
        device = os.fstat(root).st_dev
        if device == self._device or self._may_be_unmounted:
            return
        mounted = is_mounted(root)
        if self._must_be_mounted and not mounted:
            raise UfsUnreachable(
                f"the file system of {self._shown} is not mounted any more: mount it again; to serve the directory "
                "below it, use `monofs mount update` with --option own_file_system=false"
            )
        self._device, self._must_be_mounted = device, mounted

    @contextlib.contextmanager
    def _open_parent(self, key: bytes, flags: int = DIRECTORY) -> Iterator[tuple[int, bytes]]:
        directory, _, name = key.rpartition(b"/")
        if is_unsafe(name):
            raise UfsNotFound(f"{self._name(key)} is not a name a directory can hold")
        with self._open_directory(directory, flags) as fd:
            yield fd, name

    @contextlib.contextmanager
    def _open_file(self, key: bytes) -> Iterator[int]:
        """A descriptor of a regular file. A FIFO or device is looked at, never opened."""
        with self._open_parent(key) as (parent, name):
            if not stat.S_ISREG(os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode):
                raise UfsNotFound(f"{self._name(key)} is not a regular file")
            fd = os.open(name, _FILE, dir_fd=parent)
        try:
            yield fd
        finally:
            os.close(fd)

    def _unchanged(self, fd: int, key: bytes, fingerprint: str) -> int:
        """The size of the open file; raises ``UfsChanged`` when it is not the version asked for."""
        found = os.fstat(fd)
        if not stat.S_ISREG(found.st_mode):
            raise UfsNotFound(f"{self._name(key)} is not a regular file")
        if fingerprint_of(found) != fingerprint:
            raise UfsChanged(f"{self._name(key)} changed since it was listed")
        return found.st_size

    # ---- listing --------------------------------------------------------------------------------------------------------

    def _names_after(self, fd: int, key: bytes, after: bytes, limit: int) -> tuple[Iterator[bytes], bool]:
        """Sorted names of the directory greater than ``after``, and whether these are all (else: enough for one page)."""
        began_ns, found = time.time_ns(), os.fstat(fd)
        identity = (found.st_dev, found.st_ino, found.st_mtime_ns, found.st_ctime_ns)
        with self._lock:
            self._forget_old()
            kept = self._snapshots.get(key)
            if kept is not None and kept.identity == identity:
                self._snapshots.move_to_end(key)
                return _tail(kept.names, after), True
        names = _scan(fd)
        held: list[bytes] = []
        for name in names:
            held.append(name)
            if len(held) > NAMES_MAX:
                wanted = limit + ODD_MAX + 1
                least = heapq.nsmallest(wanted, _beyond(held, names, after))
                return iter(least), len(least) < wanted
        held.sort()
        if began_ns - max(found.st_mtime_ns, found.st_ctime_ns) >= RACY_NS and len(held) > limit:
            self._remember(key, _Snapshot(identity, held, time.monotonic()))
        return _tail(held, after), True

    def _remember(self, key: bytes, snapshot: _Snapshot) -> None:
        with self._lock:
            self._snapshots[key] = snapshot
            total = sum(len(kept.names) for kept in self._snapshots.values())
            while len(self._snapshots) > SNAPSHOTS_MAX or total > NAMES_MAX:
                total -= len(self._snapshots.popitem(last=False)[1].names)

    def _forget_old(self) -> None:
        horizon = time.monotonic() - SNAPSHOT_LIFE_S
        for key in [key for key, kept in self._snapshots.items() if kept.taken_s < horizon]:
            del self._snapshots[key]

    def _look(self, fd: int, key: bytes, name: bytes, *, any_name: bool = False) -> UfsEntry | bytes | None:
        """The entry of a name, or its key when it is odd; ``any_name``: a name that is no path's is not.

        None: gone since the scan, or now of the other kind, whose sorting name differs."""
        bare = name.removesuffix(b"/")
        try:
            found = os.stat(bare, dir_fd=fd, follow_symlinks=False)
        except FileNotFoundError:
            return None
        is_directory = stat.S_ISDIR(found.st_mode)
        if not (is_directory or stat.S_ISREG(found.st_mode)) or (name_problem(bare) and not any_name):
            shown = bare + b"/" if is_directory else bare
            return key + b"/" + shown if key else shown
        return entry_of(bare, found) if is_directory == name.endswith(b"/") else None

    # ---- errors ---------------------------------------------------------------------------------------------------------

    def _name(self, key: bytes) -> str:
        return f"{self._shown}/{key.decode('utf-8', 'backslashreplace')}"

    @contextlib.contextmanager
    def _mapped(self, key: bytes, done: str = "read") -> Iterator[None]:
        """Turn what the system says into the 6xxx family; ``done``: what may not be done to ``key``."""
        try:
            yield
        except OSError as error:
            raise self._translate(error, key, done) from None

    def _translate(self, error: OSError, key: bytes, done: str) -> MonofsError:
        what, why = self._name(key), error.strerror
        if error.errno in ABSENT:
            if not key or not os.path.isdir(self._root):
                return UfsBucketNotFound(f"{self._shown} is not a directory on this machine: {why}")
            return UfsNotFound(f"{what} does not exist")
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS, errno.EXDEV):
            return UfsDenied(f"{what} may not be {done} by the user monofs runs as: {why}")
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            return UfsFull(f"there is no room for {what}: {why}")
        if error.errno in _UNREACHABLE:
            return UfsUnreachable(f"{what} cannot be reached: {why}")
        return UfsFailed(f"{what}: {why}")


def is_unsafe(part: bytes) -> bool:
    """Whether opening ``part`` below a directory could mean anything but an entry of that directory that readers may see."""
    return part in (b"", b".", b"..") or b"\0" in part or part.startswith(HIDDEN_PREFIX)


def fingerprint_of(found: os.stat_result) -> str:
    """``t:size:mtime_ns:ctime_ns:inode``."""
    return f"t:{found.st_size}:{found.st_mtime_ns}:{found.st_ctime_ns}:{found.st_ino}"


def entry_of(name: bytes, found: os.stat_result) -> UfsEntry:
    """What a listing shows, under ``name``."""
    mode, uid, gid = stat.S_IMODE(found.st_mode), found.st_uid, found.st_gid
    if stat.S_ISDIR(found.st_mode):
        return UfsEntry(name, True, 0, found.st_mtime_ns, "", mode, uid, gid)
    racy = time.time_ns() - max(found.st_mtime_ns, found.st_ctime_ns) < RACY_NS
    return UfsEntry(name, False, found.st_size, found.st_mtime_ns, fingerprint_of(found), mode, uid, gid, racy)


def wait_until_told_apart(found: os.stat_result) -> None:
    """Sleep until a change made from now on must show in the file's times.

    A file changed twice within one tick of the clock keeps its times: bytes read between the two would pass for both versions.
    """
    newest_ns = max(found.st_mtime_ns, found.st_ctime_ns)
    tick_ns = RACY_NS if found.st_mtime_ns % 10**9 == found.st_ctime_ns % 10**9 == 0 else TICK_NS
    wait_ns = newest_ns + tick_ns - time.time_ns()
    if wait_ns > 0:
        time.sleep(min(wait_ns, tick_ns) / 1e9)  # a clock of another machine may be ahead of ours


def _scan(fd: int) -> Iterator[bytes]:
    """All names a reader may see, in no order, ``/`` after directories."""
    with os.scandir(fd) as entries:
        for entry in entries:
            name = os.fsencode(entry.name)
            if not name.startswith(HIDDEN_PREFIX):
                yield name + b"/" if entry.is_dir(follow_symlinks=False) else name


def _tail(names: list[bytes], after: bytes) -> Iterator[bytes]:
    return islice(names, bisect_right(names, after), None) if after else iter(names)


def _beyond(held: list[bytes], rest: Iterator[bytes], after: bytes) -> Iterator[bytes]:
    for group in (held, rest):
        yield from (name for name in group if name > after)
