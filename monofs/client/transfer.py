"""Many files at once: trees between local disks and monofs, and within it.

Memory is bounded by the number of threads, a few MiB each, and one page of a listing. A file that fails is counted and named (the
first 1,000 of them), and the others go on; when nobody answers any more, or the caller is interrupted, all end at their next file.

Invariant: a target is replaced whole or not at all, locally too. A move deletes a source only in the version that was copied, after the
copy was read back and compared. Not here: one file's bytes (sending.py).
"""

from __future__ import annotations

import os
import secrets
import stat
import threading
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING

from monofs.client.errors import python_error
from monofs.client.info import FileInfo
from monofs.client.reader import Reader
from monofs.client.sending import PART_BYTES, WRITE_BYTES, How, pieces_of, write_whole
from monofs.client.spreading import spread
from monofs.model.block import GROUP_SIZE_BYTES
from monofs.model.errors import (
    AlreadyExists,
    ContentChanged,
    InvalidArgument,
    IsADirectory,
    MonofsError,
    NoMaster,
    NotSupported,
    NoWorker,
)
from monofs.model.options import ReadType

if TYPE_CHECKING:
    from monofs.client.changing import Changing
    from monofs.client.reading import Reading

FAILURES_KEPT = 1000
READ_BYTES = 4 << 20


@dataclass(frozen=True, slots=True)
class TransferProgress:
    """Counts so far. ``files`` and ``bytes`` are done, of ``files_found`` and ``bytes_found`` met until now (final once ``listed``);
    ``skipped`` existed already; ``failed`` ones are in ``failures`` (path, error), up to 1,000."""

    files: int = 0
    bytes: int = 0
    files_found: int = 0
    bytes_found: int = 0
    skipped: int = 0
    failed: int = 0
    listed: bool = False
    failures: tuple[tuple[str, Exception], ...] = field(default=(), repr=False)
    job: int = 0
    """Of a rename: the job that goes on in the store; 0: none."""


Progress = Callable[[TransferProgress], None]
Count = Callable[[int], None]


@dataclass(frozen=True, slots=True)
class _Task:
    """One file: what it is called in failures, its bytes, and the work; or the error that was met finding it. ``files`` 0: a directory."""

    name: str
    size: int
    work: Callable[[Count], None]
    files: int = 1


class Transfer:
    """One run."""

    def __init__(self, fs: Changing, threads: int, report: Progress | None) -> None:
        if not 1 <= threads <= 256:
            raise InvalidArgument(f"threads must be 1 to 256, not {threads}")
        self._fs, self._threads, self._report = fs, threads, report
        self._keep = False
        """Files that exist are left as they are."""
        self._lock = threading.Lock()
        self._counts = TransferProgress()
        self._over = threading.Event()
        self._silence: MonofsError | None = None

    # ---- what is done --------------------------------------------------------------------------------------------------

    def upload(self, local: str, path: str, how: How, *, recursive: bool, follow: bool) -> TransferProgress:
        """See FileSystem.upload."""
        self._keep = how.exclusive
        if not os.path.isdir(local):
            return self._one(_Task(local, os.stat(local).st_size, lambda count: self._put(local, path, how, count)))
        if not recursive:
            raise IsADirectory(f"{local} is a directory: give recursive=True", path=local)
        return self._run(self._local_files(local, path, how, follow=follow))

    def download(self, path: str, local: str, *, recursive: bool, overwrite: bool) -> TransferProgress:
        """See FileSystem.download."""
        self._keep = not overwrite
        top = self._fs.stat(path)

        def task(info: FileInfo, to: str) -> _Task:
            return _Task(info.path, info.size, lambda count: self._get(info, to, count, overwrite=overwrite))

        if not top.is_dir:
            return self._one(task(top, local))
        if not recursive:
            raise IsADirectory(f"{path} is a directory: give recursive=True", path=path)

        def tasks() -> Iterator[_Task]:
            os.makedirs(local, exist_ok=True)
            for info in self._fs.walk(path):
                to = os.path.join(local, info.path[len(path.rstrip("/")) + 1 :])
                yield _Task(info.path, 0, _maker(to), files=0) if info.is_dir else task(info, to)

        return self._run(tasks())

    def copy(self, source: str, target: str, *, recursive: bool, overwrite: bool) -> TransferProgress:
        """See FileSystem.copy."""
        self._keep = not overwrite

        def work(info: FileInfo, to: str, count: Count) -> None:
            count(self._fs.copy_file(info.path, to, overwrite=overwrite).size)

        return self._tree(source, target, work, recursive=recursive)

    def move(self, source: str, target: str) -> TransferProgress:
        """See FileSystem.move, between stores."""
        directories: list[str] = []

        def work(info: FileInfo, to: str, count: Count) -> None:
            copied = copy_through(self._fs, info.path, to, How(), count)
            past_cache = ReadType.STORE if copied.info.is_persisted else None
            if checksum(self._fs, to, past_cache) != copied.crc:
                raise ContentChanged(f"{to} is not what was copied there: {info.path} is kept", path=info.path)
            if self._fs.stat(info.path, sync_interval_s=0.0).inode.content != copied.content:
                raise ContentChanged(f"{info.path} changed while it was moved: it is kept", path=info.path)
            self._fs.delete(info.path)

        self._tree(source, target, work, recursive=True, directories=directories)
        for path in reversed(directories):
            try:
                self._fs.delete(path)
            except MonofsError as error:
                self._fail(path, error)
        return self._counts

    def _tree(
        self,
        source: str,
        target: str,
        work: Callable[[FileInfo, str, Count], None],
        *,
        recursive: bool,
        directories: list[str] | None = None,
    ) -> TransferProgress:
        """``work`` for each file at or below ``source``. Empty directories are made, others come with their files."""
        top = self._fs.stat(source)
        if source == target or (top.is_dir and f"{target}/".startswith(f"{source.rstrip('/')}/")):
            raise InvalidArgument(f"{source} cannot go onto or into itself, {target}")

        def task(info: FileInfo) -> _Task:
            to = target + info.path[len(source.rstrip("/")) :]
            if info.is_dir:
                return _Task(info.path, 0, self._directory_maker(to), files=0)
            return _Task(info.path, info.size, lambda count: work(info, to, count))

        if not top.is_dir:
            return self._one(task(top))
        if not recursive:
            raise IsADirectory(f"{source} is a directory: give recursive=True", path=source)

        def tasks() -> Iterator[_Task]:
            above: FileInfo | None = top
            if directories is not None:
                directories.append(source)
            for info in self._fs.walk(source):
                if above is not None and not info.path.startswith(f"{above.path.rstrip('/')}/"):
                    yield task(above)
                above = info if info.is_dir else None
                if not info.is_dir:
                    yield task(info)
                elif directories is not None:
                    directories.append(info.path)
            if above is not None:
                yield task(above)

        return self._run(tasks())

    # ---- one file ------------------------------------------------------------------------------------------------------

    def _put(self, local: str, path: str, how: How, count: Count) -> None:
        fd = os.open(local, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            status = os.fstat(fd)
            if not stat.S_ISREG(status.st_mode):
                raise NotSupported(f"{local} is not a regular file", path=local)
            how = replace(how, mode=status.st_mode & 0o777)
            session = self._fs._session()
            if status.st_size <= PART_BYTES:
                data = memoryview(_read_up_to(fd, PART_BYTES + 1))
                if len(data) <= PART_BYTES:  # it may have grown
                    write_whole(session, path, lambda: pieces_of(data), len(data), how, count)
                    return
            write_whole(session, path, lambda: _pieces_of_file(fd), status.st_size, how, count)
        finally:
            os.close(fd)

    def _get(self, info: FileInfo, local: str, count: Count, *, overwrite: bool) -> None:
        directory = os.path.dirname(os.path.abspath(local))
        if not overwrite and os.path.lexists(local):
            raise AlreadyExists(f"{local} exists already", path=local)
        os.makedirs(directory, exist_ok=True)
        temporary = os.path.join(directory, f".monofs-{secrets.token_hex(8)}.part")
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        try:
            with open(fd, "wb", buffering=0) as file:
                self._fill(info.path, file.fileno(), count)
            if info.mtime_ns:
                os.utime(temporary, ns=(info.mtime_ns, info.mtime_ns))
            if overwrite:
                os.replace(temporary, local)
                return
            os.link(temporary, local)
        except FileExistsError:
            raise AlreadyExists(f"{local} exists already", path=local) from None
        finally:
            if os.path.lexists(temporary):
                os.unlink(temporary)

    def _fill(self, path: str, fd: int, count: Count) -> None:
        """One version of the file; of one that changes meanwhile, the next, once."""
        for last in (False, True):
            reader = self._fs.reader(path)
            done: list[int] = []

            def part(reader: Reader, offset: int, end: int, done: list[int] = done) -> None:
                view = memoryview(bytearray(min(READ_BYTES, end - offset)))
                while offset < end:
                    length = reader.read_into(offset, view[: end - offset])
                    _write_all(fd, view[:length], offset)
                    offset += length
                    done.append(length)
                    count(length)

            try:
                spread(_blocks_of(reader, part))
                return
            except ContentChanged:
                if last:
                    raise
                count(-sum(done))
                os.ftruncate(fd, 0)
            finally:
                reader.forget()

    # ---- local directories ---------------------------------------------------------------------------------------------

    def _local_files(self, local: str, path: str, how: How, *, follow: bool) -> Iterator[_Task]:
        top = os.path.realpath(local)
        stack = [(local, path)]
        while stack:
            directory, above = stack.pop()
            try:
                with os.scandir(directory) as found:
                    entries = sorted(found, key=lambda entry: entry.name)
            except OSError as error:
                yield _Task(directory, 0, _raiser(error))
                continue
            if not entries:
                yield _Task(directory, 0, self._directory_maker(above), files=0)
            for entry in entries:
                to = f"{above.rstrip('/')}/{entry.name}"
                problem = _problem(entry, top, follow=follow)
                if problem:
                    yield _Task(entry.path, 0, _raiser(NotSupported(f"{entry.path} {problem}", path=entry.path)))
                elif entry.is_dir():
                    stack.append((entry.path, to))
                else:
                    yield self._local_file(entry, to, how)

    def _local_file(self, entry: os.DirEntry[str], to: str, how: How) -> _Task:
        where = os.path.realpath(entry.path) if entry.is_symlink() else entry.path
        try:
            size = entry.stat().st_size
        except OSError as error:
            return _Task(entry.path, 0, _raiser(error))
        return _Task(entry.path, size, lambda count: self._put(where, to, how, count))

    def _directory_maker(self, path: str) -> Callable[[Count], None]:
        def work(_: Count) -> None:
            self._fs.make_directory(path, parents=True, exist_ok=True)

        return work

    # ---- many at a time ------------------------------------------------------------------------------------------------

    def _one(self, task: _Task) -> TransferProgress:
        """A single file raises its error."""
        self._count(files_found=1, bytes_found=task.size, listed=True)
        task.work(lambda length: self._count(bytes=length))
        self._count(files=1)
        return self._counts

    def _run(self, tasks: Iterator[_Task]) -> TransferProgress:
        waiting: set[Future[None]] = set()
        pool = ThreadPoolExecutor(self._threads, "monofs-transfer")
        try:
            for task in tasks:
                if self._over.is_set():
                    break
                self._count(files_found=task.files, bytes_found=task.size)
                waiting.add(pool.submit(self._do, task))
                while len(waiting) >= 4 * self._threads:
                    done, waiting = wait(waiting, return_when=FIRST_COMPLETED)
                    for future in done:
                        future.result()
            self._count(listed=True)
            for future in wait(waiting).done:
                future.result()
        except BaseException:
            self._over.set()
            pool.shutdown(wait=False, cancel_futures=True)
            raise
        pool.shutdown()
        if self._silence is not None:
            raise self._silence
        return self._counts

    def _do(self, task: _Task) -> None:
        if self._over.is_set():
            return
        done = 0

        def count(length: int) -> None:
            nonlocal done
            done += length
            self._count(bytes=length)

        try:
            task.work(count)
        except AlreadyExists as error:
            self._count(bytes=-done)
            if self._keep:
                self._count(skipped=1)
            else:
                self._fail(task.name, error)
        except (NoMaster, NoWorker) as error:
            self._silence = error
            self._over.set()  # asking for every other file would take as long again
        except (MonofsError, OSError) as error:
            self._count(bytes=-done)
            self._fail(task.name, error)
        else:
            self._count(files=task.files)

    def _fail(self, name: str, error: Exception) -> None:
        error = python_error(error) if isinstance(error, MonofsError) else error
        with self._lock:
            kept = self._counts.failures
            if len(kept) < FAILURES_KEPT:
                self._counts = replace(self._counts, failures=(*kept, (name, error)))
        self._count(failed=1)

    def _count(self, *, listed: bool = False, **more: int) -> None:
        with self._lock:
            old = self._counts
            counts = {name: getattr(old, name) + value for name, value in more.items()}
            self._counts = new = replace(old, listed=old.listed or listed, **counts)
            if self._report is not None:
                self._report(new)


# ---- through this process -----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Copied:
    """What a copy read and made: the record at the target, content id of the source, CRC-32 of the bytes."""

    info: FileInfo
    content: int
    crc: int


def copy_through(fs: Changing, source: str, target: str, how: How, count: Count | None = None) -> Copied:
    """Copy one version of a file by reading and writing it. Raises ``ContentChanged`` when that version goes away meanwhile."""
    reader = fs.reader(source)
    crc = 0

    def pieces() -> Iterator[memoryview]:
        nonlocal crc
        crc = 0
        for offset in range(0, reader.size, WRITE_BYTES):
            view = memoryview(bytearray(min(WRITE_BYTES, reader.size - offset)))
            reader.read_into(offset, view)
            crc = zlib.crc32(view, crc)
            yield view

    inode = write_whole(fs._session(), target, pieces, reader.size, how, count)
    reader.forget()
    return Copied(FileInfo(target, inode), reader.opened.inode.content, crc)


def checksum(fs: Reading, path: str, read_type: str | None = None) -> int:
    """CRC-32 of a file's bytes."""
    reader = fs.reader(path, read_type=read_type)
    view, crc = memoryview(bytearray(WRITE_BYTES)), 0
    for offset in range(0, reader.size, WRITE_BYTES):
        crc = zlib.crc32(view[: reader.read_into(offset, view)], crc)
    reader.forget()
    return crc


# ---- local files --------------------------------------------------------------------------------------------------------


def _problem(entry: os.DirEntry[str], top: str, *, follow: bool) -> str:
    """Why a local entry is not uploaded; '' if it is."""
    if not entry.is_symlink():
        return "" if entry.is_dir() or entry.is_file() else "is neither a file nor a directory"
    leads = os.path.realpath(entry.path)
    if entry.is_dir():
        if not follow:
            return "is a symbolic link to a directory: give follow_symlinks=True (`put --follow-symlinks`)"
        here = os.path.realpath(os.path.dirname(entry.path))
        return "is a symbolic link to a directory it lies in" if f"{here}/".startswith(f"{leads}/") else ""
    if not entry.is_file():
        return "is a symbolic link to nothing that could be read"
    if follow or leads.startswith(f"{top}/"):
        return ""
    return f"is a symbolic link out of {top}: give follow_symlinks=True (`put --follow-symlinks`)"


def _blocks_of(reader: Reader, part: Callable[[Reader, int, int], None]) -> Iterator[Callable[[], None]]:
    """A task for each 64 MiB of a file: of a large one, several workers send at the same time."""
    if reader.opened.inode.size > GROUP_SIZE_BYTES:
        reader.read_into(0, memoryview(bytearray(1)))  # settles which version it is, for all of them
    if reader.size <= GROUP_SIZE_BYTES:
        yield partial(part, reader, 0, reader.size)
        return
    for start in range(0, reader.size, GROUP_SIZE_BYTES):
        end = min(start + GROUP_SIZE_BYTES, reader.size)

        def read(start: int = start, end: int = end) -> None:
            beside = reader.beside()
            try:
                part(beside, start, end)
            finally:
                beside.forget()

        yield read


def _read_up_to(fd: int, length: int) -> bytearray:
    data = bytearray(min(length, os.fstat(fd).st_size + 1))
    filled = 0
    while filled < len(data):
        got = os.preadv(fd, [memoryview(data)[filled:]], filled)
        if not got:
            break
        filled += got
    return data[:filled]


def _pieces_of_file(fd: int) -> Iterator[memoryview]:
    offset = 0
    while True:
        view = memoryview(bytearray(WRITE_BYTES))
        length = os.preadv(fd, [view], offset)
        if not length:
            return
        offset += length
        yield view[:length]


def _write_all(fd: int, view: memoryview, offset: int) -> None:
    while view:
        written = os.pwrite(fd, view, offset)
        view, offset = view[written:], offset + written


def _maker(directory: str) -> Callable[[Count], None]:
    return lambda _: os.makedirs(directory, exist_ok=True)


def _raiser(error: Exception) -> Callable[[Count], None]:
    def work(_: Count) -> None:
        raise error

    return work
