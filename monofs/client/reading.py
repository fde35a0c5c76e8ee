"""Looking at the namespace and reading from it: a part of the file system object.

Not here: opening by mode and everything that changes something (changing.py), how bytes are read (reader.py, many.py).
"""

from __future__ import annotations

import asyncio
import builtins
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from typing import Any, TypeVar

from monofs.client.cluster import WorkerLink
from monofs.client.connected import Connected
from monofs.client.errors import public, public_iterator, python_error
from monofs.client.file import MonofsFile
from monofs.client.info import FileInfo, Found, ListPage
from monofs.client.many import Piece, clip, read_bytes, read_many, stat_many, submit_many
from monofs.client.reader import Reader, bytes_along, check_readable
from monofs.model.block import block_count
from monofs.model.errors import ContentChanged, MonofsError, NotADirectory, NotFound
from monofs.model.ids import ContentId
from monofs.model.options import SYNC_NEVER_S, LoadType
from monofs.rpc.api import (
    CachedAnswer,
    CachedGroup,
    CachedRequest,
    ListRequest,
    Method,
    ReadOptions,
    StatRequest,
    WhyAnswer,
)

LIST_PAGE = 1000
CACHED_MAX = 10_000
HOLDERS_MAX = 64
"""Workers asked which pages of a file they have."""
CACHED_S = 5.0
"""How long one may take to say it."""
T = TypeVar("T")


class Reading(Connected):
    """Base of FileSystem."""

    # ---- looking ----

    @public
    def stat(self, path: str, *, sync_interval_s: float | None = None) -> FileInfo:
        """What lies at ``path``; ``sync_interval_s`` for this call, as in :func:`connect`.

        Raises ``NotFound`` (FileNotFoundError), ``NotADirectory``.
        """
        options = self._freshness(sync_interval_s)
        found = self._session().look(Method.STAT, StatRequest(path, options), Found, options)
        return FileInfo(clean(path), found.inode, found.mount, found.pinned)

    @public
    def stat_many(self, paths: Sequence[str], *, only_known: bool = False) -> builtins.list[FileInfo | MonofsError]:
        """:meth:`stat` of many paths in few requests; errors stand in the place of their paths. ``only_known``: as the masters know them, however old; no
        store is looked at."""
        options = ReadOptions(SYNC_NEVER_S, LoadType.NEVER) if only_known else self._options.look
        found = stat_many(self._session(), paths, options)
        return [
            python_error(one) if isinstance(one, MonofsError) else FileInfo(clean(p), one.inode, one.mount, one.pinned)
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
        for page in self._pages(path, self._freshness(sync_interval_s)):
            yield from _entries(path, page)

    @public
    def list_page(
        self, path: str = "/", after: bytes = b"", limit: int = LIST_PAGE, *, sync_interval_s: float | None = None
    ) -> tuple[builtins.list[FileInfo], bytes | None]:
        """At most ``limit`` children of a directory whose keys follow ``after``, and what to give as ``after`` for the next ones; None: there are no more.

        ``after`` may be any name, also one that is not there. Raises as :meth:`list`.
        """
        options = self._freshness(sync_interval_s)
        page = self._session().look(Method.LIST, ListRequest(path, after, limit, options), ListPage, options)
        return [*_entries(path, page)], page.next

    @public_iterator
    def names(self, path: str = "/") -> Iterator[str]:
        """Only the names of a directory's children; those of directories end in ``/``."""
        for page in self._pages(path, self._options.look):
            for name in page.names:
                yield name.decode()

    @public_iterator
    def walk(self, path: str = "/", *, sync_interval_s: float | None = None) -> Iterator[FileInfo]:
        """Everything below ``path``, each directory before what it holds; of a file, the file itself."""
        top = self.stat(path, sync_interval_s=sync_interval_s)
        if not top.is_dir:
            yield top
            return
        options = self._freshness(sync_interval_s)

        def entries(path: str) -> Iterator[FileInfo]:
            for page in self._pages(path, options, deep=True):
                yield from _entries(path, page)

        stack = [entries(path)]
        while stack:
            for info in stack[-1]:
                yield info
                if info.is_dir:
                    stack.append(entries(info.path))
                    break
            else:
                stack.pop()

    def _pages(self, path: str, options: ReadOptions, *, deep: bool = False) -> Iterator[ListPage]:
        after = b""
        while True:
            request = ListRequest(path, after, LIST_PAGE, options, deep=deep)
            page = self._session().look(Method.LIST, request, ListPage, options)
            yield page
            if page.next is None:
                return
            after = page.next

    def _freshness(self, sync_interval_s: float | None) -> ReadOptions:
        return self._options.look if sync_interval_s is None else ReadOptions(sync_interval_s, self._options.read.load)

    @public
    def why(self, path: str) -> dict[str, Any]:
        """Facts about a path: mount, content, age against its bound, where it is cached."""
        return self._session().ask(Method.WHY, StatRequest(path, self._options.read), WhyAnswer).facts

    # ---- reading ----

    def _open_raw(self, path: str) -> MonofsFile:
        return MonofsFile(self.reader(path), self._open_raw)

    @public
    def reader(self, path: str, *, read_type: str | None = None) -> Reader:
        """What other doors build their own file objects on."""
        options, read_type = self._options.read, read_type or self._options.read_type
        opened = self._session().open(path, options, bytes_along(read_type))
        check_readable(path, opened)
        return Reader(self._session, clean(path), opened, options, read_type)

    @public
    def read(self, path: str, offset: int = 0, length: int | None = None) -> bytes:
        """Bytes of a file; ``offset`` < 0 counts from the end, ``length`` None reaches to it."""
        try:
            return self._read(path, offset, length, self._options.read)
        except ContentChanged:  # nothing of it was returned yet: once more, of what is there now
            return self._read(path, offset, length, ReadOptions(0.0, self._options.read.load))

    def _read(self, path: str, offset: int, length: int | None, options: ReadOptions) -> bytes:
        opened = self._session().open(path, options, bytes_along(self._options.read_type))
        check_readable(path, opened)
        start, count = clip(opened.inode.size, offset, length)
        reader = Reader(self._session, path, opened, options, self._options.read_type, may_reopen=False)
        return read_bytes(reader, start, count)

    @public
    def read_many(self, pieces: Iterable[Piece], *, on_error: str = "raise") -> builtins.list[bytes | MonofsError]:
        """Many pieces ``(path, offset, length)`` in few requests, in order; offsets and lengths as in :meth:`read`. An open file may stand for
        a path: it is not opened again.

        All pieces of one path are of one version of it. ``on_error``: ``raise`` the first error, or ``return`` errors in the
        place of their pieces. All bytes are held in memory at once.
        """
        return _told(read_many(self._session, pieces, self._options.read, self._options.read_type), on_error)

    @public
    def submit_many(self, pieces: Iterable[Piece]) -> builtins.list[Future[bytes]]:
        """:meth:`read_many` begun and not waited for: a future for each piece, in order. Those of one path end together.

        The futures belong to this process. Raises ``Overloaded`` while 1,024 calls are on their way.
        """
        return submit_many(self._session, pieces, self._options.read, self._options.read_type)

    async def read_many_async(
        self, pieces: Iterable[Piece], *, on_error: str = "raise"
    ) -> builtins.list[bytes | MonofsError]:
        """:meth:`read_many` for asyncio: the loop goes on meanwhile."""
        wanted = builtins.list(pieces)
        return await asyncio.wrap_future(self._submit(lambda: self.read_many(wanted, on_error=on_error)))

    @public
    def _submit(self, work: Callable[[], T]) -> Future[T]:
        return self._session().ahead.submit(work)

    # ---- the cache ----

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

    @public
    def cached_on(self, path: str) -> dict[str, CachedAnswer | MonofsError]:
        """By worker address: which groups of a file are cached there, and which left lately and why; errors of workers that do not answer.

        All workers are asked; where there are more than ``HOLDERS_MAX``, so many of those that its blocks' slots list.
        """
        found, session = self.stat(path), self._session()
        if not found.content:
            return {}
        cluster = session.cluster
        links = cluster.links()
        if len(links) > HOLDERS_MAX:
            listed: dict[int, WorkerLink] = {}
            for block in range(block_count(found.size, found.inode.layout)):
                listed |= {link.info.id: link for link in cluster.listed(ContentId(found.content), block)}
                if len(listed) >= HOLDERS_MAX:
                    break
            links = [listed[number] for number in sorted(listed)]
        request = CachedRequest([found.content])
        return session.ask_each(links, Method.CACHED, request, CachedAnswer, min(self._options.timeout_s, CACHED_S))


def _told(results: builtins.list[bytes | MonofsError], on_error: str) -> builtins.list[bytes | MonofsError]:
    """Errors as Python's, in their place, or the first one raised."""
    for position, result in enumerate(results):
        if isinstance(result, MonofsError):
            if on_error == "raise":
                raise result
            results[position] = python_error(result)
    return results


def _entries(path: str, page: ListPage) -> Iterator[FileInfo]:
    base = clean(path).rstrip("/") + "/"
    for position, (name, inode) in enumerate(zip(page.names, page.inodes, strict=True)):
        mount = page.mounts.get(position, 0) if page.mounts else 0
        yield FileInfo(base + name.rstrip(b"/").decode(), inode, mount, bool(inode.flags & _PINNED))


_PINNED = 4  # model.inode.Flag.PINNED as a plain number: a listing asks a hundred thousand times


def clean(path: str) -> str:
    """A path without its last slash."""
    return path[:-1] if len(path) > 1 and path.endswith("/") else path
