"""The home directory of a node: its format, its lock and its cluster secret.

Invariants: at most one process serves a home, and never one of a newer format; a home that held the namespace of a cluster never begins
another one. The lock is an ``flock`` held for the life of the process, so kill -9 frees it.
"""

from __future__ import annotations

import fcntl
import os
import secrets
from dataclasses import dataclass

import msgspec

from monofs.model.errors import ConfigError, HomeInUse, HomeUnusable

HOME_FORMAT = 1
SECRET_BYTES = 32


class HomeFormat(msgspec.Struct):
    """``<home>/format``: JSON."""

    format: int
    software: str
    created_ns: int
    cluster: str = ""
    """Hex id of the cluster whose namespace lies here; empty before there is one, and in homes of workers."""


@dataclass(slots=True)
class Home:
    """A locked home. ``new`` when this process made it."""

    directory: str
    new: bool
    format: HomeFormat
    _lock: int

    def path(self, *names: str) -> str:
        """A path inside."""
        return os.path.join(self.directory, *names)

    def check_cluster(self, cluster: bytes) -> None:
        """Raise ``HomeUnusable`` unless ``cluster``, the id found in the namespace (empty: none), is the one that was noted here."""
        noted = self.format.cluster
        if noted and cluster.hex() != noted:
            found = f"that of cluster {cluster.hex()}" if cluster else "none"
            raise HomeUnusable(
                f"home {self.directory} held the namespace of cluster {noted}, and now there is {found}: put back journal/ and "
                "namespace/, restore a backup (monofs admin restore), or begin with a new home (--home)"
            )

    def check_begun(self) -> None:
        """Raise ``HomeUnusable`` when a cluster was noted here and there is neither journal nor database: before either is made anew."""
        if not os.path.exists(self.path("namespace", "data.mdb")) and not os.path.isdir(self.path("journal")):
            self.check_cluster(b"")

    def check_restorable(self, cluster: bytes) -> None:
        """Raise ``HomeUnusable`` when this is the home of another cluster than ``cluster``."""
        if self.format.cluster not in ("", cluster.hex()):
            raise HomeUnusable(
                f"home {self.directory} is that of another cluster, {self.format.cluster}: name a new one with --home"
            )

    def note_cluster(self, cluster: bytes) -> None:
        """Remember durably whose namespace lies here. Raises ``HomeUnusable``."""
        if self.format.cluster != cluster.hex():
            self.format.cluster = cluster.hex()
            try:
                write_durably(self.path("format"), msgspec.json.encode(self.format) + b"\n")
            except OSError as error:
                raise HomeUnusable(f"home {self.directory} cannot be written: {error.strerror}") from None

    def close(self) -> None:
        """Give the lock back."""
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1


def open_home(directory: str, *, software: str, now_ns: int) -> Home:
    """Make or open a home and lock it. Raises ``HomeInUse`` or ``HomeUnusable``, naming the directory and what to do."""
    directory = os.path.abspath(os.path.expanduser(directory))
    try:
        os.makedirs(directory, mode=0o700, exist_ok=True)
        if not os.path.lexists(os.path.join(directory, "lock")):
            _refuse_foreign(directory)  # before anything is written there
        lock = os.open(os.path.join(directory, "lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise HomeUnusable(f"home {directory} cannot be used: {error.strerror}; choose another with --home") from None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        holder = os.pread(lock, 32, 0).decode("ascii", "replace").strip()
        os.close(lock)
        shown = f" by process {holder}" if holder.isdigit() else ""
        raise HomeInUse(f"home {directory} is in use{shown}; stop it, or choose another home with --home") from None
    try:
        os.ftruncate(lock, 0)
        os.pwrite(lock, f"{os.getpid()}\n".encode(), 0)
        new, found = _check_format(directory, software, now_ns)
    except OSError as error:
        os.close(lock)
        raise HomeUnusable(f"home {directory} cannot be used: {error.strerror}") from None
    except HomeUnusable:
        os.close(lock)
        raise
    return Home(directory, new, found, lock)


def _check_format(directory: str, software: str, now_ns: int) -> tuple[bool, HomeFormat]:
    path = os.path.join(directory, "format")
    try:
        with open(path, "rb") as stream:
            found = msgspec.json.decode(stream.read(4096), type=HomeFormat)
    except FileNotFoundError:
        _refuse_foreign(directory)
        found = HomeFormat(HOME_FORMAT, software, now_ns)
        write_durably(path, msgspec.json.encode(found) + b"\n")
        return True, found
    except (msgspec.DecodeError, msgspec.ValidationError):
        raise HomeUnusable(f"{path} is damaged; restore the home from a backup") from None
    if found.format > HOME_FORMAT:
        raise HomeUnusable(
            f"home {directory} has format {found.format}, written by monofs {found.software}; this release knows formats "
            f"up to {HOME_FORMAT}: install monofs {found.software} or newer"
        )
    return False, found


def _refuse_foreign(directory: str) -> None:
    names = set(os.listdir(directory))
    foreign = sorted(names - {"lock", "cluster.secret", "format.new", "lost+found", "monofs.toml"})
    if foreign and "format" not in names:
        raise HomeUnusable(
            f"home {directory} holds other files ({', '.join(foreign[:3])}, …) and no monofs data; "
            "choose an empty directory with --home"
        ) from None


def load_secret(home: Home, file: str) -> bytes:
    """The cluster secret: from ``file``, or from the home, where it is made at first start (0600).

    Raises ``ConfigError`` when it is missing, too short, or readable by others.
    """
    path = os.path.expanduser(file) if file else home.path("cluster.secret")
    if not file and not os.path.exists(path):
        write_durably(path, secrets.token_hex(SECRET_BYTES).encode() + b"\n", mode=0o600)
    return read_secret(path)


def read_secret(path: str) -> bytes:
    """The cluster secret in a file. Raises ``ConfigError`` when it is missing, too short, or readable by others."""
    path = os.path.expanduser(path)
    try:
        with open(path, "rb") as stream:
            mode = os.fstat(stream.fileno()).st_mode
            secret = stream.read(4096).strip()
    except OSError as error:
        raise ConfigError(f"cannot read the cluster secret {path}: {error.strerror}") from None
    if mode & 0o077:
        raise ConfigError(f"the cluster secret {path} may be read by others: chmod 600 {path}")
    if len(secret) < 16:
        raise ConfigError(f"the cluster secret {path} is shorter than 16 characters")
    return secret


def write_durably(path: str, data: bytes, *, mode: int = 0o644) -> None:
    """Write a small file so that a crash leaves the old one or the new one."""
    temporary = f"{path}.new"
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, mode)
    try:
        os.write(fd, data)
        os.fsync(fd)
    finally:
        os.close(fd)
    os.replace(temporary, path)
    parent = os.open(os.path.dirname(path) or ".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(parent)
    finally:
        os.close(parent)
