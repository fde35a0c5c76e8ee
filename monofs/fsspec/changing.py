"""What ``monofs://`` for fsspec changes: files written, copied, moved and removed, directories made; a part of the file system object.

``put``, ``get``, ``copy`` and ``pipe`` of many files run on this process's threads, a few at a time. Inside ``with fs.transaction`` files
that are opened, piped or put stay unseen until its end; copies, moves and removals are done at once.
"""

from __future__ import annotations

import io
import os
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from functools import partial
from glob import has_magic
from typing import TYPE_CHECKING, Any

from fsspec.callbacks import DEFAULT_CALLBACK
from fsspec.compression import compr
from fsspec.core import get_compression
from fsspec.spec import AbstractFileSystem
from fsspec.utils import stringify_path

from monofs.client.changing import check_mode
from monofs.client.errors import public
from monofs.client.writer import TextWriter, Writer
from monofs.fsspec.file import CompressedWriter, MonofsFsspecWriter

if TYPE_CHECKING:
    from monofs.client import FileSystem, TransferProgress

Pair = tuple[Any, Any]
FILES_AT_A_TIME = 8
WRITE_OPTIONS = ("write_type", "if_match")
"""Those of ``open`` and ``pipe`` that are ours; others fsspec's callers give are ignored, as everywhere."""


class Changing(AbstractFileSystem):  # type: ignore[misc]  # fsspec has no types
    """Base of MonofsFileSystem."""

    client: FileSystem

    # ---- files written -------------------------------------------------------------------------------------------------

    @public
    def open(
        self,
        path: str,
        mode: str = "rb",
        block_size: int | None = None,
        cache_options: Any = None,
        compression: str | None = None,
        **kwargs: Any,
    ) -> Any:
        """As fsspec has it; for writing, an exception inside ``with`` leaves the path as it was, as text and compressed too.

        ``write_type`` and ``if_match`` as of ``monofs.FileSystem.write``.
        """
        path = self._strip_protocol(path)
        if check_mode(path, mode) == "r":
            return super().open(path, mode, block_size, cache_options, compression, **kwargs)
        text = {name: kwargs.pop(name) for name in ("encoding", "errors", "newline") if name in kwargs}
        file = super().open(path, mode.replace("t", "").replace("b", "") + "b", block_size, cache_options, **kwargs)
        compression = get_compression(path, compression)
        if compression is not None:
            file = CompressedWriter(file, compr[compression](file, mode="w"))
        return file if "b" in mode else TextWriter(file, **text)

    def open_writer(self, path: str, mode: str, *, autocommit: bool = True, **options: Any) -> Writer:
        """Open for writing bytes."""
        options = {name: given for name, given in options.items() if name in WRITE_OPTIONS}
        exclusive = check_mode(path, mode) == "x"
        make = partial(MonofsFsspecWriter, self)
        return self.client.writer(path, exclusive=exclusive, staged=not autocommit, make=make, **options)

    def pipe_file(self, path: str, value: Any, mode: str = "overwrite", **kwargs: Any) -> None:
        """Make a file of ``value``; ``mode="create"`` raises FileExistsError where there is one."""
        path = self._strip_protocol(path)
        if self._intrans:
            with self.open(path, "xb" if mode == "create" else "wb", **kwargs) as file:
                file.write(value)
            return
        options = {name: given for name, given in kwargs.items() if name in WRITE_OPTIONS}
        self.client.write(path, value, exclusive=mode == "create", **options)
        self.invalidate_cache(path)

    def pipe(self, path: str | dict[str, Any], value: Any = None, **kwargs: Any) -> None:
        """Make one file of ``value``, or many of a dictionary."""
        if isinstance(path, dict):
            self._each(path.items(), lambda pair: self.pipe_file(*pair, **kwargs))
        else:
            self.pipe_file(path, value, **kwargs)

    def put_file(
        self,
        lpath: str | os.PathLike[str],
        rpath: str,
        callback: Any = DEFAULT_CALLBACK,
        mode: str = "overwrite",
        **kwargs: Any,
    ) -> None:
        """Copy one local file; a directory becomes a directory."""
        local, path = stringify_path(lpath), self._strip_protocol(rpath)
        if os.path.isdir(local):
            self.makedirs(path, exist_ok=True)
            return
        if self._intrans:
            self._put_staged(local, path, callback, "xb" if mode == "create" else "wb", **kwargs)
            return

        def show(progress: TransferProgress) -> None:
            callback.set_size(progress.bytes_found)
            callback.absolute_update(progress.bytes)

        self.client.upload(local, path, overwrite=mode != "create", progress=show, write_type=kwargs.get("write_type"))
        self.invalidate_cache(path)

    def _put_staged(self, local: str, path: str, callback: Any, mode: str, **kwargs: Any) -> None:
        with open(local, "rb") as source, self.open(path, mode, **kwargs) as target:
            callback.set_size(source.seek(0, io.SEEK_END))
            source.seek(0)
            while piece := source.read(self.blocksize):
                target.write(piece)
                callback.relative_update(len(piece))

    def touch(self, path: str, truncate: bool = True, **_: Any) -> None:
        """Make an empty file; ``truncate=False`` sets the time of an existing one and keeps its bytes."""
        path = self._strip_protocol(path)
        if truncate:
            self.client.write(path, b"")
        else:
            self.client.touch(path)
        self.invalidate_cache(path)

    # ---- the tree ------------------------------------------------------------------------------------------------------

    def mkdir(self, path: str, create_parents: bool = True, **_: Any) -> None:
        """Raises FileExistsError."""
        self.client.make_directory(self._strip_protocol(path), parents=create_parents)
        self.invalidate_cache(path)

    def makedirs(self, path: str, exist_ok: bool = False) -> None:
        """With parents. Raises FileExistsError unless ``exist_ok``."""
        self.client.make_directory(self._strip_protocol(path), parents=True, exist_ok=exist_ok)
        self.invalidate_cache(path)

    def rmdir(self, path: str) -> None:
        """Remove an empty directory."""
        self.rm_file(path)

    def rm_file(self, path: str) -> None:
        """Remove a file or an empty directory."""
        self.client.delete(self._strip_protocol(path))
        self.invalidate_cache(path)

    def rm(self, path: Any, recursive: bool = False, maxdepth: int | None = None) -> None:
        """Remove files; with ``recursive`` directories with everything below, at once: a job deletes their objects in the store."""
        if not recursive or maxdepth is not None:
            super().rm(path, recursive=recursive, maxdepth=maxdepth)
            return
        for each in self.expand_path(path):
            self.client.delete(each, recursive=True)
            self.invalidate_cache(each)

    def cp_file(self, path1: str, path2: str, **_: Any) -> None:
        """Copy one file, within a store by the store itself; a directory becomes a directory."""
        source, target = self._strip_protocol(path1), self._strip_protocol(path2)
        try:
            self.client.copy_file(source, target)
        except IsADirectoryError:
            if not self.isdir(source):
                raise
            self.makedirs(target, exist_ok=True)
        self.invalidate_cache(target)

    def mv(self, path1: Any, path2: Any, recursive: bool = False, maxdepth: int | None = None, **_: Any) -> None:
        """Rename a file or directory with all below it; into ``path2`` where that is a directory. Between stores: copy, compare, delete."""
        if path1 == path2:
            return
        path1, path2 = stringify_path(path1), stringify_path(path2)
        if isinstance(path1, list) or maxdepth is not None or has_magic(path1):
            super().mv(path1, path2, recursive=recursive, maxdepth=maxdepth)
            return
        source, target = self._strip_protocol(path1), self._strip_protocol(path2)
        if path2.endswith("/") or self.isdir(target):
            if path1.endswith("/"):  # what it holds, as of cp
                super().mv(path1, path2, recursive=recursive)
                return
            target = f"{target.rstrip('/')}/{source.rsplit('/', 1)[1]}"
        moved = self.client.move(source, target)
        self.invalidate_cache(source)
        self.invalidate_cache(target)
        if moved.failures:
            raise moved.failures[0][1]

    # ---- many at a time ------------------------------------------------------------------------------------------------

    def put(
        self, lpath: Any, rpath: Any, recursive: bool = False, callback: Any = DEFAULT_CALLBACK, **kwargs: Any
    ) -> None:
        """As fsspec has it, several files at a time."""
        names = _Names(self)
        AbstractFileSystem.put(names, lpath, rpath, recursive=recursive, maxdepth=kwargs.pop("maxdepth", None))
        self._each_with(callback, names.pairs, self.put_file, **kwargs)

    def get(
        self, rpath: Any, lpath: Any, recursive: bool = False, callback: Any = DEFAULT_CALLBACK, **kwargs: Any
    ) -> None:
        """As fsspec has it, several files at a time."""
        names = _Names(self)
        AbstractFileSystem.get(names, rpath, lpath, recursive=recursive, maxdepth=kwargs.pop("maxdepth", None))
        self._each_with(callback, names.pairs, self.get_file, **kwargs)

    def copy(self, path1: Any, path2: Any, recursive: bool = False, on_error: str | None = None, **kwargs: Any) -> None:
        """As fsspec has it, several files at a time."""
        names = _Names(self)
        AbstractFileSystem.copy(names, path1, path2, recursive=recursive, maxdepth=kwargs.pop("maxdepth", None))
        ignore = on_error == "ignore" or (on_error is None and recursive)

        def copy(pair: Pair) -> None:
            try:
                self.cp_file(*pair, **kwargs)
            except FileNotFoundError:
                if not ignore:
                    raise

        self._each_below(names.pairs, copy)

    def _each_with(self, callback: Any, pairs: list[Pair], work: Callable[..., None], **kwargs: Any) -> None:
        callback.set_size(len(pairs))
        lock = threading.Lock()

        def one(pair: Pair) -> None:
            with callback.branched(*pair) as child:
                work(*pair, callback=child, **kwargs)
            with lock:
                callback.relative_update(1)

        self._each_below(pairs, one)

    def _each_below(self, pairs: list[Pair], work: Callable[[Pair], None]) -> None:
        """:meth:`_each`, but directories before what goes into them: so they are made, and do not just come into being with their files."""
        above = {os.path.dirname(target.rstrip("/")) for _, target in pairs}
        files = []
        for pair in pairs:
            if pair[1].rstrip("/") in above:
                work(pair)
            else:
                files.append(pair)
        self._each(files, work)

    def _each(self, items: Iterable[Pair], work: Callable[[Pair], None]) -> None:
        """All of them, several at a time; after a failure no other is begun, and the first is raised."""
        wanted = list(items)
        if len(wanted) < 2 or self._intrans:
            for item in wanted:
                work(item)
            return
        with ThreadPoolExecutor(min(len(wanted), FILES_AT_A_TIME), "monofs-fsspec") as threads:
            futures = [threads.submit(work, item) for item in wanted]
            wait(futures, return_when=FIRST_EXCEPTION)
            for future in futures:
                future.cancel()
        for future in futures:
            if not future.cancelled():
                future.result()


class _Names:
    """A file system that only notes which file would go where, so that fsspec's own rules say it."""

    def __init__(self, fs: Any) -> None:
        self._fs = fs
        self.pairs: list[Pair] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._fs, name)

    def put_file(self, source: Any, target: Any, **_: Any) -> None:
        """Note it."""
        self.pairs.append((source, stringify_path(target)))

    get_file = cp_file = put_file
