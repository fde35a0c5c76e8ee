"""``monofs://`` for fsspec, sync and async.

Synchronous methods go straight to the client: fsspec's way through its IO loop costs more than a cached read. Asynchronous ones run the same
calls on a bounded pool of threads, made when first used in each process; no loop and no thread is started for synchronous users, so
instances work after fork, forkserver and spawn.

Paths begin with ``/``. ``monofs:///path`` uses ``MONOFS_MASTERS`` (or 127.0.0.1:19998), ``monofs://host:port/path`` that master.
Listings are not cached unless asked for: masters answer from memory, and a listing kept here would hide changes.
Not here: what changes something (changing.py).
"""

from __future__ import annotations

import asyncio
import datetime as dt
import functools
import inspect
import os
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from difflib import get_close_matches
from typing import Any, TypeVar

from fsspec.asyn import AsyncFileSystem, get_loop
from fsspec.callbacks import DEFAULT_CALLBACK
from fsspec.spec import AbstractFileSystem
from fsspec.utils import isfilelike, stringify_path

from monofs.client import FileInfo, FileSystem, Writer
from monofs.client.errors import python_error
from monofs.fsspec.changing import Changing
from monofs.fsspec.file import BLOCK_BYTES, MonofsFsspecFile
from monofs.model.errors import MonofsError, NotADirectory
from monofs.model.ids import NO_CONTENT, format_content_id
from monofs.model.inode import Inode, Kind

THREADS_MAX = 16
"""Calls of asynchronous methods running at a time, per instance and process; more wait."""
COPY_BYTES = 4 << 20
LISTINGS_MAX = 1000
LISTINGS_EXPIRE_S = 60.0

_TYPES = {Kind.FILE: "file", Kind.LINK: "file", Kind.DIRECTORY: "directory", Kind.SYMLINK: "link"}
_PROTOCOL = "monofs"
T = TypeVar("T")


class MonofsFileSystem(Changing, AsyncFileSystem):  # type: ignore[misc]  # fsspec has no types
    """Arguments as of :func:`monofs.connect`; ``use_listings_cache``, ``listings_expiry_time`` (60 s) and ``max_paths`` (1,000)
    as fsspec has them, off by default."""

    protocol = _PROTOCOL
    root_marker = "/"
    blocksize = BLOCK_BYTES
    mirror_sync_methods = False
    cachable = True
    async_impl = True

    def __init__(
        self,
        masters: str | None = None,
        *,
        cluster_secret_file: str | None = None,
        token: str | None = None,
        token_file: str | None = None,
        tls_ca: str | None = None,
        timeout_s: float = 30.0,
        sync_interval_s: float | None = None,
        read_type: str = "CACHE",
        stores: Mapping[str, Mapping[str, str]] | None = None,
        asynchronous: bool = False,
        loop: asyncio.AbstractEventLoop | None = None,
        batch_size: int | None = None,
        use_listings_cache: bool = False,
        listings_expiry_time: float | None = LISTINGS_EXPIRE_S,
        max_paths: int | None = LISTINGS_MAX,
        **storage_options: Any,
    ) -> None:
        if self._cached:
            return
        if storage_options:
            raise TypeError(_unknown(storage_options))
        self.asynchronous = asynchronous
        self.batch_size = batch_size
        self._loop = loop
        # Not AsyncFileSystem's own: it would start fsspec's IO thread, which synchronous callers never need.
        AbstractFileSystem.__init__(
            self,
            use_listings_cache=use_listings_cache,
            listings_expiry_time=listings_expiry_time,
            max_paths=max_paths,
        )
        self._masters = masters
        self._threads: tuple[int, ThreadPoolExecutor] | None = None
        try:
            self.client = FileSystem(
                masters,
                cluster_secret_file=cluster_secret_file,
                token=token,
                token_file=token_file,
                tls_ca=tls_ca,
                timeout_s=timeout_s,
                sync_interval_s=sync_interval_s,
                read_type=read_type,
                stores=stores,
            )
        except MonofsError as error:
            raise python_error(error) from None

    @property
    def loop(self) -> Any:
        """The loop given, or fsspec's own, started now."""
        return self._loop or get_loop()

    @property
    def fsid(self) -> str:
        """Equal for objects that see the same cluster: its id."""
        return f"{_PROTOCOL}-{self.client.cluster().cluster.hex()}"

    # ---- paths ----------------------------------------------------------------------------------------------------------

    @classmethod
    def _strip_protocol(cls, path: Any) -> Any:
        if isinstance(path, list):
            return [cls._strip_protocol(each) for each in path]
        path = stringify_path(path)
        if path.startswith(_PROTOCOL + "://"):
            _, slash, path = path[len(_PROTOCOL) + 3 :].partition("/")
            path = slash + path
        elif path.startswith(_PROTOCOL + "::"):
            path = path[len(_PROTOCOL) + 2 :]
        path = path.rstrip("/")
        return path if path.startswith("/") else "/" + path

    def unstrip_protocol(self, name: str) -> str:
        """The URL of a path; with this object's masters when they were named."""
        return f"{_PROTOCOL}://{self._masters or ''}{self._strip_protocol(name)}"

    @staticmethod
    def _get_kwargs_from_urls(path: str) -> dict[str, str]:
        path = stringify_path(path)
        if not path.startswith(_PROTOCOL + "://"):
            return {}
        address = path[len(_PROTOCOL) + 3 :].partition("/")[0]
        if not address:
            return {}
        return {"masters": ",".join(one if _has_port(one) else f"{one}:19998" for one in address.split(","))}

    # ---- looking --------------------------------------------------------------------------------------------------------

    def describe(self, path: str, inode: Inode) -> dict[str, Any]:
        """fsspec's dictionary for one file or directory: times in seconds, ``content`` names the version of the bytes."""
        return {
            "name": path,
            "size": inode.size,
            "type": _TYPES[Kind(inode.kind)],
            "mtime": inode.mtime_ns / 1e9,
            "created": inode.ctime_ns / 1e9,
            "mode": inode.mode,
            "uid": inode.uid,
            "gid": inode.gid,
            "content": format_content_id(inode.content) if inode.content != NO_CONTENT else None,
            "fingerprint": inode.fingerprint or None,
        }

    def info(self, path: str, **_: Any) -> dict[str, Any]:
        """Raises FileNotFoundError, NotADirectoryError."""
        path = self._strip_protocol(path)
        return self.describe(path, self.client.stat(path).inode)

    def exists(self, path: str, **_: Any) -> bool:
        """Whether something lies at ``path``; errors of the cluster are raised, not taken for an answer."""
        return self.client.exists(self._strip_protocol(path))

    def isfile(self, path: str) -> bool:
        """Whether ``path`` is a file."""
        return self.client.is_file(self._strip_protocol(path))

    def isdir(self, path: str) -> bool:
        """Whether ``path`` is a directory."""
        return self.client.is_dir(self._strip_protocol(path))

    def sizes(self, paths: list[str]) -> list[int]:
        """Bytes of each file, in few requests."""
        found = self.client.stat_many([self._strip_protocol(path) for path in paths])
        return [_value(one).size for one in found]

    def ls(self, path: str, detail: bool = True, *, refresh: bool = False, **_: Any) -> list[Any]:
        """Children in key order; of a file, the file."""
        path = self._strip_protocol(path)
        entries = None if refresh else self._listed(path)
        if entries is None:
            try:
                entries = [self.describe(info.path, info.inode) for info in self.client.list(path)]
            except NotADirectory:
                entries = [self.info(path)]
            if self.dircache.use_listings_cache:
                self.dircache[path] = entries
        return list(entries) if detail else [entry["name"] for entry in entries]

    def _listed(self, path: str) -> list[dict[str, Any]] | None:
        if not self.dircache.use_listings_cache:
            return None
        try:
            entries: list[dict[str, Any]] = self.dircache[path]
        except KeyError:
            return None
        return entries

    def invalidate_cache(self, path: str | None = None) -> None:
        """Forget kept listings: of a path, all above it and all below, or all."""
        if path is None or not self.dircache.use_listings_cache:
            self.dircache.clear()
        else:
            path = self._strip_protocol(path)
            for kept in list(self.dircache):
                if f"{path}/".startswith(kept.rstrip("/") + "/") or kept.startswith(f"{path}/"):
                    self.dircache.pop(kept, None)
        super().invalidate_cache(path)

    def find(
        self, path: str, maxdepth: int | None = None, withdirs: bool = False, detail: bool = False, **kwargs: Any
    ) -> Any:
        """Everything below ``path``, sorted; without recursion, so of any depth."""
        if maxdepth is not None and maxdepth < 1:
            raise ValueError("maxdepth must be at least 1")
        path = self._strip_protocol(path)
        found: dict[str, dict[str, Any]] = {}
        try:
            top = self.client.stat(path)
        except (FileNotFoundError, NotADirectoryError):
            return {} if detail else []
        if not top.is_dir or (withdirs and path != "/"):
            found[path] = self.describe(path, top.inode)
        if top.is_dir:
            start = path.rstrip("/") + "/" + kwargs.get("prefix", "")
            for info in self._below(path, maxdepth, start):
                if withdirs or not info.is_dir:
                    found[info.path] = self.describe(info.path, info.inode)
        return dict(sorted(found.items())) if detail else sorted(found)

    def _below(self, path: str, maxdepth: int | None, start: str) -> Iterator[FileInfo]:
        if maxdepth is None and start == path.rstrip("/") + "/":
            yield from self.client.walk(path)
            return
        stack = [self.client.list(path)]
        while stack:
            for info in stack[-1]:
                if len(stack) == 1 and not info.path.startswith(start):
                    continue
                yield info
                if info.is_dir and (maxdepth is None or len(stack) < maxdepth):
                    stack.append(self.client.list(info.path))
                    break
            else:
                stack.pop()

    def du(self, path: str, total: bool = True, maxdepth: int | None = None, withdirs: bool = False, **_: Any) -> Any:
        """Bytes below ``path``, or of each file."""
        sizes = {name: info["size"] for name, info in self.find(path, maxdepth, withdirs, detail=True).items()}
        return sum(sizes.values()) if total else sizes

    def created(self, path: str) -> dt.datetime:
        """When its record last changed (no store tells when an object was first made), UTC."""
        return _datetime(self.info(path)["created"])

    def modified(self, path: str) -> dt.datetime:
        """Last modification, UTC."""
        return _datetime(self.info(path)["mtime"])

    def checksum(self, path: str) -> int:
        """The content id: another number means other bytes."""
        return self.client.stat(self._strip_protocol(path)).content

    def ukey(self, path: str) -> str:
        """The content id as text; for what has none, its inode and time of change."""
        info = self.client.stat(self._strip_protocol(path))
        return info.content_id or f"{info.inode.id:x}@{info.inode.mtime_ns:x}"

    # ---- reading --------------------------------------------------------------------------------------------------------

    def _open(self, path: str, mode: str = "rb", **options: Any) -> MonofsFsspecFile | Writer:
        return self.open_raw(path) if mode == "rb" else self.open_writer(path, mode, **options)

    def open_raw(self, path: str) -> MonofsFsspecFile:
        """Open for reading bytes."""
        return MonofsFsspecFile(self, self.client.reader(path))

    def cat_file(self, path: str, start: int | None = None, end: int | None = None, **_: Any) -> bytes:
        """Bytes ``[start, end)``; negative numbers count from the end."""
        begin = start or 0
        if end is None or (end >= begin >= 0):
            return self.client.read(self._strip_protocol(path), begin, None if end is None else end - begin)
        data: bytes = self.cat_ranges([path], [start], [end], on_error="raise")[0]
        return data

    def cat_ranges(
        self,
        paths: list[str],
        starts: Any,
        ends: Any,
        max_gap: int | None = None,  # noqa: ARG002 - pieces travel together anyway
        on_error: str = "return",
        **_: Any,
    ) -> list[Any]:
        """Many ranges in few requests; errors stand in the place of their ranges, or the first is raised."""
        if not isinstance(paths, list):
            raise TypeError("paths must be a list")
        paths = [self._strip_protocol(path) for path in paths]
        starts = starts if isinstance(starts, list | tuple) else [starts] * len(paths)
        ends = ends if isinstance(ends, list | tuple) else [ends] * len(paths)
        if not len(paths) == len(starts) == len(ends):
            raise ValueError("paths, starts and ends differ in length")
        sizes = self._sizes_for(paths, starts, ends)
        pieces = []
        for path, start, end in zip(paths, starts, ends, strict=True):
            begin, stop = start or 0, end
            if path in sizes and (begin < 0 or (stop is not None and stop < 0)):
                begin = max(0, sizes[path] + begin) if begin < 0 else begin
                stop = sizes[path] + stop if stop is not None and stop < 0 else stop
            pieces.append((path, begin, None if stop is None else max(0, stop - begin)))
        return self.client.read_many(pieces, on_error="raise" if on_error == "raise" else "return")

    def _sizes_for(self, paths: list[str], starts: Any, ends: Any) -> dict[str, int]:
        """Sizes of files with ranges that count from the end, except plain suffixes, which need none."""
        wanted = {
            path
            for path, start, end in zip(paths, starts, ends, strict=True)
            if (end is not None and (end < 0 or (start or 0) < 0))
        }
        found = self.client.stat_many(sorted(wanted)) if wanted else []
        return {one.path: one.size for one in found if isinstance(one, FileInfo)}

    def cat(self, path: Any, recursive: bool = False, on_error: str = "raise", **_: Any) -> Any:
        """The bytes of one file, or a dictionary of many, in few requests."""
        paths = self.expand_path(path, recursive=recursive)
        if recursive:
            paths = [one for one, info in zip(paths, self.client.stat_many(paths), strict=True) if _is_file(info)]
        contents = self.client.read_many([(one, 0, None) for one in paths], on_error="return")
        result = dict(zip(paths, contents, strict=True))
        if on_error == "raise":
            for content in contents:
                _value(content)
        elif on_error == "omit":
            result = {name: content for name, content in result.items() if not isinstance(content, Exception)}
        if len(paths) > 1 or isinstance(path, list) or paths[0] != self._strip_protocol(path):
            return result
        return result[paths[0]]

    def get_file(
        self, rpath: str, lpath: Any = None, callback: Any = DEFAULT_CALLBACK, outfile: Any = None, **_: Any
    ) -> None:
        """Copy one file to a local path or an open file; a directory becomes a directory."""
        rpath = self._strip_protocol(rpath)
        if outfile is None and isfilelike(lpath):
            outfile = lpath
        if outfile is not None:
            self._copy_out(rpath, outfile, callback)
            return
        lpath = stringify_path(lpath)
        if self.isdir(rpath):
            os.makedirs(lpath, exist_ok=True)
            return
        os.makedirs(os.path.dirname(os.path.abspath(lpath)), exist_ok=True)
        with self.open_raw(rpath) as source, open(lpath, "wb") as target:
            _copy(source, target, callback)

    def _copy_out(self, rpath: str, target: Any, callback: Any) -> None:
        with self.open_raw(rpath) as source:
            _copy(source, target, callback)

    # ---- asynchronous: the same on threads ------------------------------------------------------------------------------

    async def _run(self, work: Callable[..., T], *args: Any, **kwargs: Any) -> T:
        """Run a blocking call of the client on this process's pool."""
        threads = self._threads
        if threads is None or threads[0] != os.getpid():
            with _pools_lock:
                threads = self._threads
                if threads is None or threads[0] != os.getpid():
                    pool = ThreadPoolExecutor(THREADS_MAX, "monofs-fsspec")
                    threads = self._threads = (os.getpid(), pool)
        call = functools.partial(work, *args, **kwargs)
        return await asyncio.get_running_loop().run_in_executor(threads[1], call)


def _asynchronous(name: str) -> Any:
    method = getattr(MonofsFileSystem, name)

    async def run(self: MonofsFileSystem, *args: Any, **kwargs: Any) -> Any:
        kwargs.pop("batch_size", None)
        return await self._run(method, self, *args, **kwargs)

    run.__name__ = run.__qualname__ = f"_{name}"
    run.__doc__ = f"Asynchronous :meth:`{name}`."
    return run


_BOTH = (
    "info",
    "exists",
    "isfile",
    "isdir",
    "size",
    "sizes",
    "ls",
    "find",
    "glob",
    "du",
    "expand_path",
    "cat_file",
    "cat_ranges",
    "cat",
    "get_file",
    "mkdir",
    "makedirs",
    "rmdir",
    "rm",
    "rm_file",
    "mv",
    "touch",
    "pipe_file",
    "put_file",
    "cp_file",
)
for _name in _BOTH:
    setattr(MonofsFileSystem, f"_{_name}", _asynchronous(_name))

_pools_lock = threading.Lock()


def _renew_lock() -> None:
    global _pools_lock
    _pools_lock = threading.Lock()


os.register_at_fork(after_in_child=_renew_lock)


def _unknown(given: dict[str, Any]) -> str:
    known = [name for name in inspect.signature(MonofsFileSystem.__init__).parameters if name != "self"][:-1]
    name = next(iter(given))
    close = get_close_matches(name, known, 1)
    meant = f": did you mean {close[0]!r}?" if close else f"; there are {', '.join(known)}"
    return f"monofs has no storage option {name!r}{meant}"


def _has_port(address: str) -> bool:
    return address.rpartition(":")[2].isdigit() and not address.endswith("]")


def _value(result: T | MonofsError) -> T:
    if isinstance(result, MonofsError):
        raise result
    return result


def _is_file(info: FileInfo | MonofsError) -> bool:
    return isinstance(info, MonofsError) or not info.is_dir


def _datetime(seconds: float) -> dt.datetime:
    return dt.datetime.fromtimestamp(seconds, tz=dt.UTC)


def _copy(source: MonofsFsspecFile, target: Any, callback: Any) -> None:
    callback.set_size(source.size)
    view = memoryview(bytearray(min(COPY_BYTES, max(1, source.size))))
    while count := source.readinto(view):
        target.write(view[:count])
        callback.relative_update(count)
