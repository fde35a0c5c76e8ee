"""One storage directory: whose it is, whether it can be used, how full it is, and removing its files.

Layout: ``monofs-tier.json`` (identity, and the lock that keeps two caches apart) and ``files/<00..ff>/<file number in hex>``.
Invariant: ``used`` is the sum of the bytes of all pages present or reserved in its groups, of groups that left the cache but are
still held, and of copies under way. Only the cache's thread changes the numbers, except where a method says ANY thread.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import secrets
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from monofs.model.block import PAGE_SIZE_BYTES
from monofs.model.errors import MonofsError, TierFull, TierUnusable
from monofs.observe.logs import logger
from monofs.observe.metrics import TIER_CAPACITY, TIER_USED
from monofs.tiering.eviction import Ranked
from monofs.tiering.files import FileTable, file_name
from monofs.tiering.group import Group
from monofs.tiering.keeper import Keeper
from monofs.tiering.pace import Pace
from monofs.tiering.spec import TierSpec

IDENTITY_FILE = "monofs-tier.json"
ACCEPT_FILE = "monofs-accept"
PROBE_INTERVAL_S = 5.0
WRITERS = 8
SLOW_TOLD_S = 60.0
"""Between lines in the log about one slow directory."""
LOOK_BYTES = 64 << 20
"""The file system is looked at again after this many bytes, at the latest."""
LATE_PART, LATE_BYTES = 16, 1 << 30
"""Files that left the cache and are not unlinked yet may hold one in so many bytes of the quota beyond it, at most so many, before writers wait."""

_MEMORY = frozenset((0x01021994, 0x858458F6))
"""tmpfs and ramfs, whose contents end with the boot."""
_LOCAL = _MEMORY | {0xEF53, 0x58465342, 0x9123683E, 0xF2F52010, 0x794C7630, 0x2FC12FC1, 0xCA451A4E}
"""ext4, XFS, Btrfs, F2FS, overlay, ZFS and bcachefs."""

log = logger(__name__)
_libc = ctypes.CDLL(None, use_errno=True)


class Identity(msgspec.Struct, frozen=True):
    """Contents of ``monofs-tier.json``."""

    format: int
    cache: str
    """Hex id of the cache (index) the directory belongs to."""
    directory: str
    """Hex id of the directory."""


class Known(msgspec.Struct, frozen=True, array_like=True):
    """What the index remembers of a directory."""

    number: int
    identity: str
    path: str
    beside: bool
    """Was on the same file system as the index, so it cannot be a disk that is not mounted."""


class Directory:
    """A storage directory. ``state``: ok, full (its file system), readonly, failing (no new pages), unusable (not attached)."""

    def __init__(
        self,
        spec: TierSpec,
        files: FileTable,
        reserve: float,
        new_policy: Callable[[], Ranked],
        *,
        writers: int = WRITERS,
    ) -> None:
        """``writers``: threads that may write to it while another is well."""
        self.pace = Pace(writers)
        self.others: Sequence[Directory] = ()
        self.spec, self.files, self.reserve, self._new_policy = spec, files, reserve, new_policy
        self.number = -1
        self.identity = ""
        self.quota = spec.quota_bytes
        self.attached = self.writable = self.beside = self.in_memory = False
        self.is_local = False
        """Its file system is one of this machine's kernel alone: opening and closing a file whose name is in memory, and reading bytes that are, wait
        for nobody. Of any other (FUSE, NFS and their kin, and what is not known) only threads touch a file."""
        self.error = ""
        self.policy = new_policy()
        self.used = self.reserved = self.pinned = self.groups = 0
        self.lingering: set[Group] = set()
        """Groups that left the cache and are still held or being written."""
        self.copying = 0
        """Bytes of copies under way."""
        self.passed_ns = 0
        """When a search for room last passed over a group because somebody held it (ns since 1970)."""
        self.pages_fd = self._identity_fd = -1
        self.named: set[str] = set()
        """Subdirectories of page files whose own names survive a loss of power, by what was synced since they were taken into use."""
        self.keeper = Keeper(spec.directory, self._tick)
        self._committed = self._freed = self._removed = 0
        self._seen = (0, 0, 0)
        """Last look: bytes the file system can give, and ``_committed`` and ``_removed`` at that moment."""
        self._probe_at = 0.0
        self._slow_told_s = float("-inf")
        self._unremoved: deque[int] = deque()
        self._used_gauge: Any = None

    @property
    def name(self) -> str:
        """Its path."""
        return self.spec.directory

    @property
    def tier(self) -> str:
        """Tier name."""
        return self.spec.name

    @property
    def durable(self) -> bool:
        """Whether bytes that no store has may lie here: as the setting says, else if they survive a reboot, or go together with the
        home and its journal."""
        marked = self.spec.durable
        return marked if marked is not None else not self.in_memory or self.spec.in_home

    @property
    def state(self) -> str:
        """One word for operators; ``error`` says more."""
        if not self.attached:
            return "unusable"
        if not self.writable:
            return "readonly" if self.error.startswith("read-only") else "failing"
        return "full" if self.room_bytes() < PAGE_SIZE_BYTES and self.used < self.quota else "ok"

    # ---- attaching ----------------------------------------------------------------------------------------------------

    def attach(self, cache: str, known: Known | None, index_directory: str) -> None:
        """Take the directory into use; ``known`` is what the index remembers of this path. Raises ``TierUnusable``, OSError."""
        path = self.spec.directory
        os.makedirs(path, mode=0o700, exist_ok=True)
        self.beside = os.stat(path).st_dev == os.stat(index_directory).st_dev
        kind = _file_system(path)
        self.in_memory, self.is_local = kind in _MEMORY, kind in _LOCAL
        identity = self._read_identity()
        if identity is None:
            self._check_may_begin(known)
            self._write_identity(cache)
            identity = self._read_identity()
        if identity is not None and identity.cache != cache and self.spec.in_home:
            # no other cache can own it: its index is gone, and what lies here with it
            log.warning("storage directory begins anew: its index is gone", directory=path)
            os.close(self._identity_fd)
            os.unlink(os.path.join(path, IDENTITY_FILE))
            self._write_identity(cache)
            identity = self._read_identity()
        if identity is None or identity.format != 1:
            raise TierUnusable(f"{path}: {IDENTITY_FILE} is of a newer format; run the monofs that wrote it")
        if identity.cache != cache:
            raise TierUnusable(
                f"{path} belongs to another cache; choose another directory, or empty this one (it holds cached pages only)"
            )
        self.identity = identity.directory
        self._prepare()
        self.attached = True
        self.look()

    def _read_identity(self) -> Identity | None:
        """The identity, with its file locked; None when there is none."""
        path = os.path.join(self.spec.directory, IDENTITY_FILE)
        try:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        except FileNotFoundError:
            return None
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            identity = msgspec.json.decode(os.read(fd, 4096), type=Identity)
        except BlockingIOError:
            os.close(fd)
            raise TierUnusable(f"{self.spec.directory} is in use by another cache") from None
        except msgspec.MsgspecError:
            os.close(fd)
            raise TierUnusable(f"{path} is damaged; empty the directory to use it again") from None
        self._identity_fd = fd
        return identity

    def _check_may_begin(self, known: Known | None) -> None:
        """An empty place where a known disk should be is most likely a mount point without its disk: do not fill it."""
        path = self.spec.directory
        if known is None or self.in_memory or self.spec.durable is False or (known.beside and self.beside):
            return
        if os.path.exists(os.path.join(path, ACCEPT_FILE)):
            return
        raise TierUnusable(
            f"{path} held cached pages before and is empty now: mount its disk and restart,"
            f" or create {os.path.join(path, ACCEPT_FILE)} to begin with the empty directory"
        )

    def _write_identity(self, cache: str) -> None:
        path = os.path.join(self.spec.directory, IDENTITY_FILE)
        body = msgspec.json.encode(Identity(1, cache, secrets.token_hex(16)))
        temporary = f"{path}.{os.getpid()}"
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            os.write(fd, body)
            os.fsync(fd)
            os.link(temporary, path)  # unlike rename, fails when another cache was faster
        finally:
            os.close(fd)
            os.unlink(temporary)
        _sync_directory(self.spec.directory)

    def _prepare(self) -> None:
        """A first try to write. A read-only directory still serves what it has."""
        pages = os.path.join(self.spec.directory, "files")
        try:
            os.makedirs(pages, mode=0o700, exist_ok=True)
            self.writable = True
        except OSError as error:
            if not os.path.isdir(pages):
                raise
            self.fail(error)
        self.pages_fd = os.open(pages, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        if self.writable:
            self._probe()

    def resolve_quota(self) -> None:
        """Compute a quota given as a share of the free space; call once ``used`` is known."""
        if self.spec.quota_share and self.attached:
            stat = os.fstatvfs(self.pages_fd)
            self.quota = int(self.spec.quota_share * (stat.f_bavail * stat.f_frsize + self.used))
        if not self.attached:
            self.quota = 0
        self._used_gauge = TIER_USED(self.spec.name, self.spec.directory)
        self._used_gauge.value = self.used
        TIER_CAPACITY(self.spec.name, self.spec.directory).value = self.quota

    def detach(self) -> None:
        """Close everything; the lock is gone."""
        for fd in (self.pages_fd, self._identity_fd):
            if fd >= 0:
                os.close(fd)
        self.pages_fd = self._identity_fd = -1
        self.named.clear()
        self.attached = self.writable = False
        self.policy = self._new_policy()
        self.lingering.clear()

    # ---- accounting ---------------------------------------------------------------------------------------------------

    def room_bytes(self) -> int:
        """Bytes the file system can take beyond its reserve, less what is promised. May be negative."""
        avail, committed, removed = self._seen
        return avail - self.reserved - (self._committed - committed) + (self._freed - removed)

    def free_bytes(self) -> int:
        """Bytes that can be reserved now without evicting. May be negative."""
        return min(self.quota - self.used, self.room_bytes())

    def charge(self, size: int) -> None:
        """Count ``size`` more (or fewer) bytes as used."""
        self.used += size
        if self._used_gauge is not None:
            self._used_gauge.value = self.used

    def promise(self, size: int) -> None:
        """``size`` bytes will be written."""
        self.charge(size)
        self.reserved += size

    def keep(self, size: int) -> None:
        """``size`` promised bytes are written."""
        self.reserved -= size
        self._committed += size
        if self._committed - self._seen[1] > LOOK_BYTES:
            self.keeper.wake()

    def renounce(self, size: int) -> None:
        """``size`` promised bytes will not be written."""
        self.reserved -= size
        self.charge(-size)

    def remove(self, file: int, size: int, fds: Sequence[int] = ()) -> None:
        """Unlink a file of ``size`` counted bytes, then close ``fds``, in the keeper; the bytes are free for the next admission at once."""
        self.charge(-size)
        self._freed += size
        self.keeper.submit(lambda: self._remove(file, size, fds))

    def close_file(self, fd: int) -> None:
        """Close a descriptor of one of its files, waiting for nobody."""
        if self.is_local:
            os.close(fd)
        else:
            self.keeper.submit(lambda: os.close(fd))

    def remove_later(self, file: int) -> None:
        """Unlink a file that was never counted."""
        self.keeper.submit(lambda: self._remove(file, 0, ()))

    def wait_for_room(self) -> None:
        """ANY thread: wait for removals asked for so far, while the disk has no room without them or too much of it waits for them. Raises
        ``TierUnusable`` when writing is not possible."""
        if self._is_late():
            self.keeper.wait(enough=lambda: not self._is_late())
        if not self.writable:
            raise TierUnusable(f"{self.spec.directory}: {self.error or 'not attached'}")

    def _is_late(self) -> bool:
        """Whether what is written now needs room that files have which are not unlinked yet. Plain reads: a moment old is good enough."""
        waiting = self._freed - self._removed
        if waiting <= 0:
            return False
        avail, committed, removed = self._seen
        has_room = avail - self.reserved - (self._committed - committed) + (self._removed - removed) >= 0
        return not has_room or waiting > min(self.quota // LATE_PART, LATE_BYTES)

    @property
    def is_well(self) -> bool:
        """ANY thread: whether pages can be written to it now, and are before long."""
        return self.writable and not self.pace.is_slow

    def enter(self, *, patient: bool) -> None:
        """ANY thread: begin to write; ends with ``pace.leave``. Raises ``TierUnusable`` when its disk is slow, others are not, and threads enough wait
        for it."""
        if not self.pace.enter(others_are_well=not patient and any(each.is_well for each in self.others)):
            now_s = time.monotonic()
            if now_s - self._slow_told_s > SLOW_TOLD_S:
                self._slow_told_s = now_s
                log.warning("a storage directory is slow; pages meant for it go past the cache", directory=self.name)
            raise TierUnusable(f"{self.spec.directory}: its disk is slow", directory=self.spec.directory)

    # ---- health (ANY thread) ------------------------------------------------------------------------------------------

    def fail(self, error: OSError) -> MonofsError:
        """Note what an operation ran into; returns the error to raise."""
        where = f"{self.spec.directory}: {error.strerror or error}"
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            self._seen = (0, self._committed + self.reserved, self._removed)
            return TierFull(
                f"{where}; the file system is full before the quota: lower the quota or make room",
                directory=self.spec.directory,
            )
        if error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EINTR):
            return TierUnusable(f"{where}; the process is short of it, raise node.open_files or add memory")
        was = self.writable
        self.writable = False
        self.error = f"read-only: {where}" if error.errno == errno.EROFS else where
        self._probe_at = time.monotonic() + PROBE_INTERVAL_S
        if was:
            log.error("storage directory fails", directory=self.spec.directory, error=self.error)
        return TierUnusable(self.error, directory=self.spec.directory)

    def look(self) -> None:
        """Ask the file system how much room it has."""
        committed, removed = self._committed, self._removed
        try:
            stat = os.fstatvfs(self.pages_fd)
        except OSError as error:
            self.fail(error)
            return
        avail = int(stat.f_bavail * stat.f_frsize - self.reserve * stat.f_blocks * stat.f_frsize)
        if stat.f_files and stat.f_favail <= self.reserve * stat.f_files:
            avail = min(avail, 0)  # out of inodes
        self._seen = (avail, committed, removed)

    def sync(self) -> None:
        """Make everything written to this file system durable. Raises OSError."""
        if _libc.syncfs(self.pages_fd) != 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))

    def _tick(self) -> None:
        if not self.attached:
            return
        began_s = time.monotonic()
        self.look()
        if not self.is_local:
            self.pace.answered(time.monotonic() - began_s)
        if not self.writable and time.monotonic() >= self._probe_at:
            self._probe()

    def _probe(self) -> None:
        """Write, sync and remove a small file; a directory that failed and can do this again is used again."""
        self._probe_at = time.monotonic() + PROBE_INTERVAL_S
        try:
            fd = os.open("probe", os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600, dir_fd=self.pages_fd)
            try:
                os.write(fd, b"monofs")
                os.fsync(fd)
            finally:
                os.close(fd)
            os.unlink("probe", dir_fd=self.pages_fd)
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                self.fail(error)
                return
        if not self.writable:
            log.info("storage directory is usable again", directory=self.spec.directory)
        self.writable, self.error = True, ""
        while self._unremoved and self._unlink(self._unremoved[0]):
            self._unremoved.popleft()

    def _remove(self, file: int, size: int, fds: Sequence[int]) -> None:
        if self.attached and not self._unlink(file):
            self._unremoved.append(file)
        for fd in fds:
            os.close(fd)
        self._removed += size

    def _unlink(self, file: int) -> bool:
        try:
            os.unlink(file_name(file), dir_fd=self.pages_fd)
        except FileNotFoundError:
            return True
        except OSError as error:
            self.fail(error)
            return False
        return True


def _file_system(path: str) -> int:
    """The kernel's number for the kind of file system a path is on (``f_type`` of statfs(2), linux/magic.h). Raises OSError."""
    found = ctypes.create_string_buffer(256)
    if _libc.statfs(os.fsencode(path), found) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), path)
    return ctypes.c_ulong.from_buffer(found).value & 0xFFFFFFFF


def _sync_directory(path: str) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
