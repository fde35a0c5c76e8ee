"""`monofs.connect()` and the file system object it gives: the Python SDK.

Every public method raises MonofsError subclasses that are the matching OSErrors too (errors.py).

Not here: life, threads, forks and pickles (connected.py), mounts and administration (administration.py), how bytes are read
(reader.py, many.py) and how calls are retried (session.py).
"""

from __future__ import annotations

import builtins
import io
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from numbers import Real
from typing import Any, overload

from monofs.client.administration import Administration
from monofs.client.errors import public, public_iterator, python_error
from monofs.client.file import MonofsFile
from monofs.client.info import Changed, FileInfo, Found, ListPage, Opened
from monofs.client.load import Loader, LoadProgress
from monofs.client.many import Piece, clip, read_bytes, read_many, stat_many
from monofs.client.reader import Reader, check_readable
from monofs.client.session import Options
from monofs.model.errors import (
    ContentChanged,
    InvalidArgument,
    MonofsError,
    NotADirectory,
    NotFound,
    NotSupported,
)
from monofs.model.options import LoadType, ReadType
from monofs.rpc.addresses import split_addresses
from monofs.rpc.api import (
    CachedAnswer,
    CachedGroup,
    CachedRequest,
    CreateRequest,
    DeleteRequest,
    Empty,
    ListRequest,
    MakeDirectoryRequest,
    Method,
    OpenRequest,
    ReadOptions,
    RenameRequest,
    StatRequest,
    WhyAnswer,
)
from monofs.rpc.handshake import Credential

DEFAULT_MASTERS = "127.0.0.1:19998"
LIST_PAGE = 1000
CACHED_MAX = 10_000
TEXT_BUFFER_BYTES = 256 << 10


@public
def connect(
    masters: str | Sequence[str] | None = None,
    *,
    cluster_secret_file: str | None = None,
    timeout_s: float = 30.0,
    sync_interval_s: float | None = None,
    read_type: str = "CACHE",
) -> FileSystem:
    """Reach a cluster and return its file system.

    ``masters``: ``host:port``, several with commas or as a sequence; without it ``MONOFS_MASTERS``, else 127.0.0.1:19998.
    ``cluster_secret_file``: without it ``MONOFS_SECURITY_CLUSTER_SECRET_FILE``; none is needed on the master's own machine.
    ``timeout_s``: how long one operation may take, restarts and changes of leader included.
    ``sync_interval_s``: how old metadata of mounted stores may be; None: as each mount says, 0: look each time, -1: never.
    ``read_type``: CACHE, NO_CACHE or CACHE_PROMOTE. Raises ``NoMaster``, ``Unauthenticated``, ``InvalidArgument``.
    """
    fs = FileSystem(
        masters,
        cluster_secret_file=cluster_secret_file,
        timeout_s=timeout_s,
        sync_interval_s=sync_interval_s,
        read_type=read_type,
    )
    fs.ping()
    return fs


class FileSystem(Administration):
    """A cluster's namespace. Arguments as in :func:`connect`, which also proves that a master answers."""

    @public
    def __init__(
        self,
        masters: str | Sequence[str] | None = None,
        *,
        cluster_secret_file: str | None = None,
        timeout_s: float = 30.0,
        sync_interval_s: float | None = None,
        read_type: str = "CACHE",
    ) -> None:
        if read_type not in ReadType.__members__:
            raise InvalidArgument(f"read_type {read_type!r} is none of {', '.join(ReadType)}")
        _check_seconds("timeout_s", timeout_s)
        if sync_interval_s is not None:
            _check_seconds("sync_interval_s", sync_interval_s)
        if not timeout_s > 0:
            raise InvalidArgument(f"timeout_s must be positive, not {timeout_s}")
        file = cluster_secret_file or os.environ.get("MONOFS_SECURITY_CLUSTER_SECRET_FILE", "")
        self._setup(
            Options(
                masters=split_addresses(masters or os.environ.get("MONOFS_MASTERS", "") or DEFAULT_MASTERS),
                credential=Credential.from_file(file) if file else Credential(),
                timeout_s=timeout_s,
                read=ReadOptions(sync_interval_s, LoadType.ONCE),
                read_type=read_type,
            ),
            patient=False,
        )

    # ---- looking ----

    @public
    def stat(self, path: str, *, sync_interval_s: float | None = None) -> FileInfo:
        """What lies at ``path``; ``sync_interval_s`` for this call, as in :func:`connect`.

        Raises ``NotFound`` (FileNotFoundError), ``NotADirectory``.
        """
        found = self._session().ask(Method.STAT, StatRequest(path, self._freshness(sync_interval_s)), Found)
        return FileInfo(_clean(path), found.inode, found.mount, found.pinned)

    @public
    def stat_many(self, paths: Sequence[str]) -> builtins.list[FileInfo | MonofsError]:
        """:meth:`stat` of many paths in few requests; errors stand in the place of their paths."""
        found = stat_many(self._session(), paths, self._options.read)
        return [
            python_error(one) if isinstance(one, MonofsError) else FileInfo(_clean(p), one.inode, one.mount, one.pinned)
            for p, one in zip(paths, found, strict=True)
        ]

    def exists(self, path: str) -> bool:
        """Whether something lies at ``path``."""
        return self._maybe_stat(path) is not None

    def is_file(self, path: str) -> bool:
        """Whether ``path`` is a file."""
        found = self._maybe_stat(path)
        return found is not None and found.is_file

    def is_dir(self, path: str) -> bool:
        """Whether ``path`` is a directory."""
        found = self._maybe_stat(path)
        return found is not None and found.is_dir

    @public
    def _maybe_stat(self, path: str) -> FileInfo | None:
        try:
            return self.stat(path)
        except (NotFound, NotADirectory):
            return None

    @public_iterator
    def list(self, path: str = "/", *, sync_interval_s: float | None = None) -> Iterator[FileInfo]:
        """The children of a directory in key order (bytes, directories as if they ended in ``/``), page by page.

        Raises ``NotFound``, and ``NotADirectory`` for a file, when the first child is asked for.
        """
        base = _clean(path).rstrip("/") + "/"
        for page in self._pages(path, self._freshness(sync_interval_s)):
            for position, (name, inode) in enumerate(zip(page.names, page.inodes, strict=True)):
                mount = page.mounts.get(position, 0) if page.mounts else 0
                yield FileInfo(base + name.rstrip(b"/").decode(), inode, mount, bool(inode.flags & _PINNED))

    @public_iterator
    def names(self, path: str = "/") -> Iterator[str]:
        """Only the names of a directory's children; those of directories end in ``/``."""
        for page in self._pages(path, self._options.read):
            for name in page.names:
                yield name.decode()

    @public_iterator
    def walk(self, path: str = "/", *, sync_interval_s: float | None = None) -> Iterator[FileInfo]:
        """Everything below ``path``, each directory before what it holds; of a file, the file itself."""
        top = self.stat(path, sync_interval_s=sync_interval_s)
        if not top.is_dir:
            yield top
            return
        stack = [self.list(path, sync_interval_s=sync_interval_s)]
        while stack:
            for info in stack[-1]:
                yield info
                if info.is_dir:
                    stack.append(self.list(info.path, sync_interval_s=sync_interval_s))
                    break
            else:
                stack.pop()

    def _pages(self, path: str, options: ReadOptions) -> Iterator[ListPage]:
        after = b""
        while True:
            page = self._session().ask(Method.LIST, ListRequest(path, after, LIST_PAGE, options), ListPage)
            yield page
            if page.next is None:
                return
            after = page.next

    def _freshness(self, sync_interval_s: float | None) -> ReadOptions:
        return self._options.read if sync_interval_s is None else ReadOptions(sync_interval_s, self._options.read.load)

    @public
    def why(self, path: str) -> dict[str, Any]:
        """Facts about a path: mount, content, age against its bound, where it is cached."""
        return self._session().ask(Method.WHY, StatRequest(path, self._options.read), WhyAnswer).facts

    # ---- reading ----

    @overload
    def open(self, path: str, mode: str = "rb") -> MonofsFile: ...
    @overload
    def open(
        self,
        path: str,
        mode: str,
        *,
        encoding: str | None = None,
        errors: str | None = None,
        newline: str | None = None,
    ) -> Any: ...
    @public
    def open(
        self,
        path: str,
        mode: str = "rb",
        *,
        encoding: str | None = None,
        errors: str | None = None,
        newline: str | None = None,
    ) -> Any:
        """Open a file for reading: ``rb`` gives a :class:`MonofsFile`, ``r`` or ``rt`` an io.TextIOWrapper (UTF-8 unless told).

        One request; the file reads the content it found, to the end. Raises ``NotFound``, ``IsADirectory``,
        ``NotSupported`` for writing.
        """
        if mode not in ("rb", "r", "rt"):
            if set(mode) <= set("rwaxbt+"):
                raise NotSupported(f"mode {mode!r}: writing through monofs is not available yet; open with 'rb' or 'r'")
            raise InvalidArgument(f"mode {mode!r} is not one; open with 'rb' or 'r'")
        file = self._open_raw(path)
        if mode == "rb":
            return file
        buffered = io.BufferedReader(file, TEXT_BUFFER_BYTES)
        return io.TextIOWrapper(buffered, encoding=encoding or "utf-8", errors=errors, newline=newline)

    def _open_raw(self, path: str) -> MonofsFile:
        return MonofsFile(self.reader(path), self._open_raw)

    @public
    def reader(self, path: str) -> Reader:
        """What other doors build their own file objects on."""
        opened = self._session().ask(Method.OPEN, OpenRequest(path, self._options.read), Opened)
        check_readable(path, opened)
        return Reader(self._session, _clean(path), opened, self._options.read, self._options.read_type)

    @public
    def read(self, path: str, offset: int = 0, length: int | None = None) -> bytes:
        """Bytes of a file; ``offset`` < 0 counts from the end, ``length`` None reaches to it."""
        try:
            return self._read(path, offset, length, self._options.read)
        except ContentChanged:  # nothing of it was returned yet: once more, of what is there now
            return self._read(path, offset, length, ReadOptions(0.0, self._options.read.load))

    def _read(self, path: str, offset: int, length: int | None, options: ReadOptions) -> bytes:
        opened = self._session().ask(Method.OPEN, OpenRequest(path, options), Opened)
        check_readable(path, opened)
        start, count = clip(opened.inode.size, offset, length)
        reader = Reader(self._session, path, opened, options, self._options.read_type, may_reopen=False)
        return read_bytes(reader, start, count)

    @public
    def read_many(self, pieces: Iterable[Piece], *, on_error: str = "raise") -> builtins.list[bytes | MonofsError]:
        """Many pieces ``(path, offset, length)`` in few requests, in order; offsets and lengths as in :meth:`read`.

        All pieces of one path are of one version of it. ``on_error``: ``raise`` the first error, or ``return`` errors in the
        place of their pieces. All bytes are held in memory at once.
        """
        results = read_many(self._session, pieces, self._options.read, self._options.read_type)
        for position, result in enumerate(results):
            if isinstance(result, MonofsError):
                if on_error == "raise":
                    raise result
                results[position] = python_error(result)
        return results

    # ---- the cache ----

    @public
    def load(
        self,
        paths: str | Iterable[str],
        *,
        progress: Callable[[LoadProgress], None] | None = None,
        threads: int = 8,
    ) -> LoadProgress:
        """Bring files, and all files below directories, into the cache; returns the final counts, failures included.

        ``progress`` is called after every step, from several threads but never at the same time.
        """
        if not 1 <= threads <= 256:
            raise InvalidArgument(f"threads must be 1 to 256, not {threads}")
        wanted = [paths] if isinstance(paths, str) else paths
        files = (info.path for path in wanted for info in self.walk(path) if info.is_file)
        return Loader(self._session, self._options.read, threads, progress).run(files)

    @public
    def cached(self, paths: Sequence[str]) -> dict[str, builtins.list[CachedGroup]]:
        """Which groups of 64 pages of each file are cached, on any worker. Raises ``NotFound`` for a missing path."""
        contents: dict[int, builtins.list[str]] = {}
        result: dict[str, builtins.list[CachedGroup]] = {path: [] for path in paths}
        for path, found in zip(paths, self.stat_many(paths), strict=True):
            if isinstance(found, MonofsError):
                raise found
            if found.content:
                contents.setdefault(found.content, []).append(path)
        numbers = [*contents]
        for link in self._session().cluster.links():
            for start in range(0, len(numbers), CACHED_MAX):
                request = CachedRequest(numbers[start : start + CACHED_MAX])
                answer = link.pool().call(Method.CACHED, request, CachedAnswer, timeout_s=self._options.timeout_s)
                for group in answer.groups:
                    for path in contents[group.content]:
                        result[path].append(group)
        return result

    # ---- changing the cache-only part of the namespace ----

    @public
    def make_directory(
        self, path: str, *, mode: int = 0o755, parents: bool = False, exist_ok: bool = False
    ) -> FileInfo:
        """Make a directory. Raises ``AlreadyExists`` (FileExistsError), ``NotFound`` without its parent."""
        request = self._change(
            Method.MAKE_DIRECTORY,
            lambda number: MakeDirectoryRequest(path, mode, parents, exist_ok, number),
            Changed,
        )
        return FileInfo(_clean(path), request.inode)

    @public
    def create(self, path: str, *, mode: int = 0o644) -> FileInfo:
        """Create an empty file under no mount. Raises ``AlreadyExists``."""
        answer = self._change(Method.CREATE, lambda number: CreateRequest(path, mode, number), Changed)
        return FileInfo(_clean(path), answer.inode)

    @public
    def delete(self, path: str) -> None:
        """Delete a file or an empty directory under no mount. Raises ``NotEmpty``, ``NotFound``."""
        self._change(Method.DELETE, lambda number: DeleteRequest(path, number), Empty)

    @public
    def rename(self, source: str, target: str) -> None:
        """Rename within the part under no mount; a file at ``target`` is replaced as by rename(2)."""
        self._change(Method.RENAME, lambda number: RenameRequest(source, target, number), Empty)


_PINNED = 4  # model.inode.Flag.PINNED as a plain number: a listing asks a hundred thousand times


def _check_seconds(name: str, value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, Real):
        raise InvalidArgument(f"{name} is a number of seconds, not {value!r}")


def _clean(path: str) -> str:
    return path[:-1] if len(path) > 1 and path.endswith("/") else path
