"""A backup of the home of a stopped master: what is left when no majority is there any more, or when a node does not start.

The database is copied beside the new file, and what the journal holds beyond it is applied to the copy, to its end: also entries of which nobody can
tell any more whether they were acknowledged. Invariant: the home is locked meanwhile and nothing in it is changed, so that it may still be a member of its group.
Not here: restoring (restoring.py), backups of a master that serves (master/backups.py).
"""

from __future__ import annotations

import os
import queue
import shutil
import tempfile
import time
from collections.abc import Callable

import monofs
from monofs.config.loader import load_config
from monofs.journal.frames import KIND_EMPTY, KIND_MEMBERSHIP, Record
from monofs.journal.recovery import Log
from monofs.metadata.copyfile import CopyHead, read_copy
from monofs.metadata.copying import copy_database, is_installed, settle_install
from monofs.metadata.namespace import Namespace
from monofs.metadata.store import Store
from monofs.model.errors import AlreadyExists, DiskFull, HomeUnusable
from monofs.node.home import open_home

GROWTH_BYTES = 64 << 20
"""What the journal's last entries may add to a database."""


def back_up_home(directory: str, path: str, *, overwrite: bool) -> CopyHead:
    """Write a backup of the namespace in the home ``directory`` to the file ``path``, which appears when it is complete and proved.

    Raises ``HomeInUse`` while a node serves the home, ``HomeUnusable`` when it is none of a master, ``JournalCorrupt``, ``AlreadyExists``, ``DiskFull``.
    """
    if not os.path.isfile(os.path.join(directory, "namespace", "data.mdb")):
        raise HomeUnusable(f"{directory} is not the home of a master that was started before")
    if not overwrite and os.path.lexists(path):
        raise AlreadyExists(f"{path} exists already", path=path)
    beside = os.path.dirname(os.path.abspath(path))
    home = open_home(directory, software=monofs.__version__, now_ns=time.time_ns())
    try:
        home.check_begun()
        with tempfile.TemporaryDirectory(prefix=".monofs-backup-", dir=beside) as scratch:
            _check_room(home.directory, scratch)
            shutil.copytree(home.path("namespace"), os.path.join(scratch, "namespace"))
            _replay(scratch, home.path("journal"))
            head, part = _write(scratch)
            os.replace(part, path)
    finally:
        home.close()
    fd = os.open(beside, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
    return head


def _check_room(directory: str, scratch: str) -> None:
    """The database is there three times for a moment: copied, compacted, and as a file of chunks; and it may grow."""
    need = 3 * os.stat(os.path.join(directory, "namespace", "data.mdb")).st_size + GROWTH_BYTES
    disk = os.statvfs(scratch)
    if disk.f_bavail * disk.f_frsize < need:
        raise DiskFull(
            f"a backup of a stopped home needs {need} bytes beside it for a while: name a file where there is room"
        )


def _open(scratch: str) -> Store:
    waiting: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
    settings = load_config(environ={}).config.namespace
    directory = os.path.join(scratch, "namespace")
    return Store(directory, settings, call_soon=waiting.put, on_flushed=lambda _: None, on_failure=_fail)


def _fail(error: BaseException) -> None:
    raise error


def _replay(scratch: str, journal: str) -> None:
    """Apply what the database does not have yet: at most what came between two flushes. What a later leader took back is not in it."""
    directory = os.path.join(scratch, "namespace")
    noted = settle_install(directory)
    store = _open(scratch)
    try:
        if is_installed(store, noted):  # a state that came from elsewhere: the journal is older
            return
        pending: dict[int, Record] = {}
        for decoded in Log(journal).frames(store.meta.applied_index):
            if decoded.cut is not None:
                for index in [each for each in pending if each >= decoded.cut.first_index]:
                    del pending[index]
            pending.update((record.number, record) for record in decoded.records)
        namespace = Namespace(store)
        for index, record in sorted(pending.items()):
            if record.entry.kind not in (KIND_EMPTY, KIND_MEMBERSHIP):
                namespace.apply(index, record.term, record.entry)
    finally:
        store.close()  # writes what was replayed


def _write(scratch: str) -> tuple[CopyHead, str]:
    store = _open(scratch)
    try:
        copy = copy_database(store, os.path.join(scratch, "copy"), software=monofs.__version__, now_ns=time.time_ns())
    finally:
        store.close()
    part = os.path.join(scratch, "backup")
    with open(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.writelines(copy.read(number) for number in range(-1, copy.head.chunks))
        file.flush()
        os.fsync(file.fileno())
    return read_copy(part), part
