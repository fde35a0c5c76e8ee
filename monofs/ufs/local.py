"""A directory of this machine (or a network file system mounted on it) as a store: the whole of it, with deleting, renaming and trees.

Built in layers, each a file: what is there (``local_reading``), the making of files (``local_files``). Every change is durable when its call
returns: the directories it changed are synced.

A whole directory is removed by a rename to ``.monofs-tmp-<operation>`` in the root, out of everybody's sight, and deleted from there by ``sweep``.
Nothing here follows a link, and nothing is limited by how deep a tree is: neither descriptors nor the stack grow with it.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import count, groupby, islice

from monofs.model.errors import MonofsError, UfsChanged, UfsNotEmpty, UfsNotFound
from monofs.ufs.base import MIB, Condition, UfsEntry, UfsPage
from monofs.ufs.local_files import IMPLIED, Act, LocalFiles, hidden, is_implied, rename_new
from monofs.ufs.local_reading import HIDDEN_PREFIX, ODD_MAX, SCAN, entry_of
from monofs.ufs.observe import observed

_NOT_EMPTY = (errno.ENOTEMPTY, errno.EEXIST)
_CANNOT_HIDE = (errno.EACCES, errno.EPERM, errno.EXDEV, errno.EBUSY)


class LocalStore(LocalFiles):
    """The store behind ``file://``; thread-safe. It keeps no descriptor open between calls."""

    scheme = "file"
    renames = True
    skew_s = 0.0
    part_bytes = 8 * MIB

    def rename(self, source: bytes, target: bytes, condition: Condition, *, directory: bool) -> UfsEntry:
        """One rename; directories above the target come into being. Within one file system only."""
        with (
            self._acting("rename", source) as act,
            self._open_parent(source, SCAN) as (old, name),
        ):
            found = os.stat(name, dir_fd=old, follow_symlinks=False)
            if not (stat.S_ISDIR(found.st_mode) if directory else stat.S_ISREG(found.st_mode)):
                raise UfsNotFound(f"{self._name(source)} is not a {'directory' if directory else 'file'} in the store")
            with self._make_parent(target) as (new, final):
                if not directory:
                    self._check_target(new, final, target, condition)
                self._move(act, (old, name), (new, final), target, condition)
                os.fsync(new)
                os.fsync(old)
                return entry_of(target, os.stat(final, dir_fd=new, follow_symlinks=False))

    def _move(
        self, act: Act, old: tuple[int, bytes], new: tuple[int, bytes], target: bytes, condition: Condition
    ) -> None:
        try:
            if condition.absent:
                rename_new(*old, *new)
            else:
                os.rename(old[1], new[1], src_dir_fd=old[0], dst_dir_fd=new[0])
        except OSError as error:
            if error.errno == errno.EEXIST and condition.absent:
                raise self._changed(target) from None
            if error.errno in _NOT_EMPTY:
                raise UfsNotEmpty(f"{self._name(target)} is not empty in the store") from None
            if error.errno == errno.ENOTDIR:
                raise UfsChanged(f"{self._name(target)} is a file in the store") from None
            raise
        act.begun = True

    # ---- deleting -------------------------------------------------------------------------------------------------------

    def delete(self, key: bytes) -> None:
        """Unlink; a directory or a link of that name is no file, and stays."""
        for error in self._delete_all([key]).values():
            raise error

    def delete_many(self, keys: Sequence[bytes]) -> dict[bytes, MonofsError]:
        """Files directory by directory, each synced once; then directories, the deepest first."""
        with self._acting("delete", b""), self._open_directory(b""):
            pass  # a root that is gone must not look like files that are
        files = sorted((key for key in keys if not key.endswith(b"/")), key=_split)
        failed: dict[bytes, MonofsError] = {}
        for _, together in groupby(files, key=lambda key: _split(key)[0]):
            some = list(together)
            try:
                failed |= self._delete_all(some)
            except MonofsError as error:
                failed |= dict.fromkeys(some, error)
        for key in sorted((key for key in keys if key.endswith(b"/")), reverse=True):
            try:
                self.remove_directory(key[:-1])
            except MonofsError as error:
                failed[key] = error
        return failed

    def _delete_all(self, keys: Sequence[bytes]) -> dict[bytes, MonofsError]:
        """Unlink files of one directory; which could not be, and why."""
        failed: dict[bytes, MonofsError] = {}
        with self._acting("delete", keys[0]) as act:
            try:
                with self._open_parent(keys[0], SCAN) as (parent, _):
                    for key in keys:
                        try:
                            self._unlink(act, parent, key)
                        except MonofsError as error:
                            failed[key] = error
                    if act.begun:
                        os.fsync(parent)
            except (OSError, UfsNotFound) as error:
                if not self._is_absent(error):
                    raise
        return failed

    def _unlink(self, act: Act, parent: int, key: bytes) -> None:
        name = _split(key)[1]
        with self._mapped(key, "deleted"):
            try:
                if stat.S_ISREG(os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode):
                    os.unlink(name, dir_fd=parent)
                    act.begun = True
            except FileNotFoundError:
                pass

    # ---- directories ----------------------------------------------------------------------------------------------------

    def make_directory(
        self,
        key: bytes,
        operation: str,  # noqa: ARG002
        headers: Mapping[str, str] | None = None,  # noqa: ARG002
        body: bytes = b"",  # noqa: ARG002
        replaced: str = "",  # noqa: ARG002
    ) -> UfsEntry:
        """Make it and those above."""
        with self._acting("make", key), self._make_directory(key) as fd:
            with contextlib.suppress(OSError):
                os.removexattr(fd, IMPLIED)
            return entry_of(key, os.fstat(fd))

    def remove_directory(self, key: bytes, *, implied: bool = False) -> None:
        """One rmdir; a file or a link of that name is no directory, and stays."""
        with self._acting("delete", key) as act:
            try:
                with self._open_parent(key, SCAN) as (parent, name):
                    if implied and not is_implied(parent, name):
                        raise UfsNotEmpty(f"{self._name(key)} was made as a directory")
                    os.rmdir(name, dir_fd=parent)
                    act.begun = True
                    os.fsync(parent)
            except (OSError, UfsNotFound) as error:
                if isinstance(error, OSError) and error.errno in _NOT_EMPTY:
                    raise UfsNotEmpty(f"{self._name(key)} is not empty in the store") from None
                if not self._is_absent(error):
                    raise

    # ---- trees ----------------------------------------------------------------------------------------------------------

    def scan(self, key: bytes, *, after: bytes = b"", limit: int = 1000) -> UfsPage:
        """A walk in key order; the directories on the way to ``after`` are listed again for every page, as far as no snapshot serves."""
        entries: list[UfsEntry] = []
        odd: list[bytes] = []
        position = after
        with observed(self._observe, "list"), self._mapped(key):
            for name, found in self._walk(key, after, limit):
                if len(entries) >= limit or len(odd) >= ODD_MAX:
                    return UfsPage(entries, position, odd)
                position = name
                if isinstance(found, bytes):
                    odd.append(found)
                else:
                    entries.append(replace(found, name=name))
        return UfsPage(entries, None, odd)

    def _walk(self, key: bytes, after: bytes, limit: int) -> Iterator[tuple[bytes, UfsEntry | bytes]]:
        """(name relative to ``key``, entry or odd key) of all that lies below and sorts after ``after``."""
        base, levels = b"", []
        while b"/" in after:
            part, _, after = after.partition(b"/")
            levels.append((base, self._level(key, base, part + b"/", limit)))
            base += part + b"/"
        levels.append((base, self._level(key, base, after, limit)))
        while levels:
            base, level = levels[-1]
            name, found = next(level, (b"", None))
            if found is None:
                levels.pop()
                continue
            yield base + name, found
            if name.endswith(b"/") and isinstance(found, UfsEntry):
                levels.append((base + name, self._level(key, base + name, b"", limit)))

    def _level(self, key: bytes, base: bytes, after: bytes, limit: int) -> Iterator[tuple[bytes, UfsEntry | bytes]]:
        """One directory of a walk, some names at a time; one that is gone is empty. No descriptor is held in between."""
        directory = (key + b"/" + base if key else base).removesuffix(b"/")
        wanted = limit + ODD_MAX
        while True:
            try:
                with self._open_directory(directory, SCAN) as fd:
                    names, complete = self._names_after(fd, directory, after, limit)
                    some = list(islice(names, wanted))
                    looked = [(name, self._look(fd, directory, name, any_name=True)) for name in some]
            except (OSError, UfsNotFound) as error:
                if self._is_absent(error):
                    return
                raise
            for name, found in looked:
                if found is not None:
                    yield name, found
            if complete and len(some) < wanted:
                return
            after = some[-1]

    def remove_tree(self, key: bytes, operation: str) -> bool:
        """One rename into the root; False where that is another file system, or may not be written."""
        name = hidden(operation)
        with self._acting("delete", key) as act, self._open_directory(b"", SCAN) as root:
            try:
                with self._open_parent(key, SCAN) as (parent, old):
                    if not stat.S_ISDIR(os.stat(old, dir_fd=parent, follow_symlinks=False).st_mode):
                        return True
                    rename_new(parent, old, root, name)
                    act.begun = True
                    os.fsync(root)
                    os.fsync(parent)
            except (OSError, UfsNotFound) as error:
                if isinstance(error, FileExistsError) or self._is_absent(error):
                    return True  # taken away before, or never there
                if isinstance(error, OSError) and error.errno in _CANNOT_HIDE:
                    return False
                raise
        return True

    def sweep(self, operation: str, key: bytes) -> None:
        """Delete the hidden file beside ``key``, and the hidden file or tree in the root."""
        with self._acting("delete", key):
            for directory in {b"", key.rpartition(b"/")[0]}:
                try:
                    with self._open_directory(directory, SCAN) as fd:
                        if _delete_tree(fd, hidden(operation)):
                            os.fsync(fd)
                except (OSError, UfsNotFound) as error:
                    if not self._is_absent(error):
                        raise


def _split(key: bytes) -> tuple[bytes, bytes]:
    """Directory and name."""
    directory, _, name = key.rpartition(b"/")
    return directory, name


def _delete_tree(parent: int, name: bytes) -> bool:
    """Delete a file or a whole directory; False: there was none. Directories inside are moved up to be emptied there, so the depth does not matter.

    What cannot be deleted is left, and the first reason is raised when all the rest is gone."""
    try:
        if not stat.S_ISDIR(os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode):
            os.unlink(name, dir_fd=parent)
            return True
    except FileNotFoundError:
        return False
    top = os.open(name, SCAN, dir_fd=parent)
    try:
        fresh = (HIDDEN_PREFIX + b"%d" % number for number in count())
        _empty(top, top, fresh)
    finally:
        os.close(top)
    os.rmdir(name, dir_fd=parent)
    return True


def _empty(fd: int, top: int, fresh: Iterator[bytes]) -> None:
    """Delete what lies in directory ``fd`` as long as something goes. Raises the ``OSError`` of what stays."""
    progress, reason = 1, None
    while progress:
        progress, reason = _delete_inside(fd, top, fresh)
    if reason is not None:
        raise reason


def _delete_inside(fd: int, top: int, fresh: Iterator[bytes]) -> tuple[int, OSError | None]:
    """Delete what lies in directory ``fd``: files, and at the ``top`` emptied directories; elsewhere directories are moved to the top.

    How many names went, and why the first of the others stayed."""
    gone, reason = 0, None
    with os.scandir(fd) as entries:
        for entry in entries:
            name = os.fsencode(entry.name)
            try:
                if not entry.is_dir(follow_symlinks=False):
                    os.unlink(name, dir_fd=fd)
                elif fd == top:
                    _delete_directory(name, top, fresh)
                else:
                    _move_up(fd, name, top, fresh)
                gone += 1
            except OSError as error:
                reason = reason or error
    return gone, reason


def _delete_directory(name: bytes, top: int, fresh: Iterator[bytes]) -> None:
    try:
        os.rmdir(name, dir_fd=top)
        return
    except OSError as error:
        if error.errno not in _NOT_EMPTY:
            raise
    inner = os.open(name, SCAN, dir_fd=top)
    try:
        _empty(inner, top, fresh)
    finally:
        os.close(inner)
    os.rmdir(name, dir_fd=top)


def _move_up(fd: int, name: bytes, top: int, fresh: Iterator[bytes]) -> None:
    while True:
        try:
            rename_new(fd, name, top, next(fresh))
            return
        except FileExistsError:
            continue
