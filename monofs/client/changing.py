"""Opening files, writing them, and changing the tree: a part of the file system object.

Every change is asked for under a number of its own, so that a retry over a lost answer is done once (session.py). Not here: what a
program writes piece by piece (writer.py), trees of files (transfer.py).
"""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any, overload

from monofs.client.administration import LONG_TIMEOUT_S
from monofs.client.errors import public
from monofs.client.file import MonofsFile
from monofs.client.info import Changed, FileInfo, Moved
from monofs.client.reading import Reading, clean
from monofs.client.sending import How, pieces_of, write_whole
from monofs.client.transfer import Progress, Transfer, TransferProgress, copy_through
from monofs.client.writer import TextWriter, Writer
from monofs.model.errors import (
    CrossMount,
    InvalidArgument,
    NotADirectory,
    NotSupported,
)
from monofs.model.options import WriteType
from monofs.rpc.api import (
    CopyRequest,
    CreateRequest,
    DeleteRequest,
    Empty,
    MakeDirectoryRequest,
    MayWriteRequest,
    Method,
    RemoveTreeAnswer,
    RemoveTreeRequest,
    RenameRequest,
    TouchRequest,
)

TEXT_BUFFER_BYTES = 256 << 10
THREADS = 8


class Changing(Reading):
    """Base of FileSystem."""

    # ---- opening ----

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
        write_type: str | None = None,
        if_match: str | None = None,
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
        write_type: str | None = None,
        if_match: str | None = None,
    ) -> Any:
        """Open a file: ``rb`` gives a :class:`MonofsFile`, ``wb`` (replace) and ``xb`` (only if it does not exist) a :class:`Writer`;
        ``r``, ``w`` and ``x`` are the same as text (UTF-8 unless told).

        A reader reads the content it found, to the end. What is written becomes visible, whole, when the file is closed; an
        exception inside ``with`` leaves the path as it was. ``write_type`` and ``if_match`` as in :meth:`write`.
        Raises ``NotFound``, ``IsADirectory``, ``AlreadyExists``, ``NotSupported`` for appending and updating.
        """
        kind = check_mode(path, mode)
        if kind == "r":
            file = self._open_raw(path)
            if "b" in mode:
                return file
            buffered = io.BufferedReader(file, TEXT_BUFFER_BYTES)
            return io.TextIOWrapper(buffered, encoding=encoding or "utf-8", errors=errors, newline=newline)
        writer = self.writer(path, exclusive=kind == "x", write_type=write_type, if_match=if_match)
        if "b" in mode:
            return writer
        return TextWriter(writer, encoding=encoding or "utf-8", errors=errors, newline=newline)

    @public
    def writer(
        self,
        path: str,
        *,
        write_type: str | None = None,
        exclusive: bool = False,
        if_match: str | None = None,
        parents: bool = True,
        mode: int = 0o644,
        staged: bool = False,
        make: Callable[..., Writer] = Writer,
    ) -> Writer:
        """Open for writing; arguments as in :meth:`write`. ``staged``: closing keeps the file back until ``commit()``.
        ``make``: what other doors make of it.

        Asks first whether the file could be written now, so that most errors come here and not at the end.
        """
        how = _how(write_type, exclusive, if_match, parents, mode)
        self._session().ask(Method.MAY_WRITE, MayWriteRequest(path, parents, exclusive), Empty)
        return make(self._session, clean(path), how, staged=staged)

    # ---- whole files ----

    @public
    def write(
        self,
        path: str,
        data: Any,
        *,
        write_type: str | None = None,
        exclusive: bool = False,
        if_match: str | None = None,
        parents: bool = True,
        mode: int = 0o644,
    ) -> FileInfo:
        """Make a file of ``data`` (any contiguous buffer), or replace it; the answer means it is there as its write type says.

        ``write_type``: CACHE_THROUGH, THROUGH or MUST_CACHE; None: as the path's policy says, else CACHE_THROUGH.
        ``exclusive``: only if nothing has the name, else ``AlreadyExists``. ``if_match``: only if the file has this
        ``FileInfo.fingerprint``, else ``ConditionFailed``. ``parents``: directories above come into being.
        Raises ``ReadOnly``, ``IsADirectory``, ``Busy``, ``QuotaExceeded``, ``TierFull`` and what the store answered.
        """
        how = _how(write_type, exclusive, if_match, parents, mode)
        view = memoryview(data).cast("B")
        inode = write_whole(self._session(), path, lambda: pieces_of(view), len(view), how)
        return FileInfo(clean(path), inode)

    @public
    def create(self, path: str, *, mode: int = 0o644) -> FileInfo:
        """Make an empty file. Raises ``AlreadyExists``."""
        try:
            answer = self._session().change(Method.CREATE, lambda number: CreateRequest(path, mode, number), Changed)
        except NotSupported:  # below a mount it is a write like any other
            return self.write(path, b"", exclusive=True, parents=False, mode=mode)
        return FileInfo(clean(path), answer.inode)

    @public
    def touch(self, path: str, *, parents: bool = True) -> FileInfo:
        """Make an empty file, or set the modification time of what exists to now, where the store can."""
        answer = self._session().change(Method.TOUCH, lambda number: TouchRequest(path, parents, number), Changed)
        return FileInfo(clean(path), answer.inode)

    # ---- the tree ----

    @public
    def make_directory(
        self, path: str, *, mode: int = 0o755, parents: bool = False, exist_ok: bool = False
    ) -> FileInfo:
        """Make a directory. Raises ``AlreadyExists`` (FileExistsError), ``NotFound`` without its parent."""
        answer = self._session().change(
            Method.MAKE_DIRECTORY,
            lambda number: MakeDirectoryRequest(path, mode, parents, exist_ok, number),
            Changed,
        )
        return FileInfo(clean(path), answer.inode)

    @public
    def delete(self, path: str, *, recursive: bool = False) -> None:
        """Delete a file or an empty directory, in the store too; ``recursive``: a directory with everything below.

        Raises ``NotEmpty``, ``NotFound``, ``ReadOnly``, ``Busy``.
        """
        if recursive:
            try:
                self.remove_tree(path)
                return
            except NotADirectory:
                pass  # a file, perhaps: deleting it tells
        self._session().change(Method.DELETE, lambda number: DeleteRequest(path, number), Empty)

    @public
    def remove_tree(self, path: str) -> int:
        """Remove a directory and everything below, at once in the tree; returns the job that deletes the objects in the store.

        0: nothing is left to delete. Raises ``NotADirectory``, ``NotFound``, ``ReadOnly``, ``Busy``.
        """
        return (
            self._session()
            .change(Method.REMOVE_TREE, lambda number: RemoveTreeRequest(path, number), RemoveTreeAnswer)
            .job
        )

    @public
    def rename(self, source: str, target: str) -> int:
        """Rename a file or directory, replacing ``target`` as rename(2) does; returns the job that moves the objects below a directory.

        0: nothing is left to move. Raises ``CrossMount`` between stores (:meth:`move` copies), ``Busy``, ``NotEmpty``.
        """
        answer = self._session().change(
            Method.RENAME, lambda number: RenameRequest(source, target, number), Moved, timeout_s=self._copying_s()
        )
        return answer.job

    @public
    def move(
        self, source: str, target: str, *, progress: Progress | None = None, threads: int = THREADS
    ) -> TransferProgress:
        """:meth:`rename`; between stores: copy, read back and compare, then delete file by file what was copied.

        A single file raises what went wrong. Of a directory, what changed meanwhile or could not be copied stays, and is named in
        ``failures`` of the result. ``job`` of the result is as of :meth:`rename`.
        """
        try:
            return TransferProgress(listed=True, job=self.rename(source, target))
        except CrossMount:
            return Transfer(self, threads, progress).move(clean(source), clean(target))

    @public
    def copy(
        self,
        source: str,
        target: str,
        *,
        overwrite: bool = True,
        recursive: bool = False,
        progress: Progress | None = None,
        threads: int = THREADS,
    ) -> TransferProgress:
        """Copy a file to ``target``, or with ``recursive`` a directory with everything below; the store itself copies where it can.

        A single file raises what went wrong; of many, ``failures`` of the result names those that did, and without ``overwrite``
        existing ones are counted as ``skipped``.
        """
        transfer = Transfer(self, threads, progress)
        return transfer.copy(clean(source), clean(target), recursive=recursive, overwrite=overwrite)

    @public
    def copy_file(self, source: str, target: str, *, overwrite: bool = True, parents: bool = True) -> FileInfo:
        """Copy one file; returns what ``target`` is now. Raises ``IsADirectory``, ``AlreadyExists`` without ``overwrite``."""
        try:
            answer = self._session().change(
                Method.COPY,
                lambda number: CopyRequest(source, target, parents, not overwrite, number),
                Changed,
                timeout_s=self._copying_s(),
            )
        except (CrossMount, NotSupported):
            how = How(exclusive=not overwrite, parents=parents)
            return copy_through(self, clean(source), clean(target), how).info
        return FileInfo(clean(target), answer.inode)

    def _copying_s(self) -> float:
        """A store copies large objects for minutes."""
        return max(LONG_TIMEOUT_S, self._options.timeout_s)

    # ---- to and from local files ----

    @public
    def upload(
        self,
        local: str,
        path: str,
        *,
        recursive: bool = False,
        overwrite: bool = True,
        follow_symlinks: bool = False,
        write_type: str | None = None,
        progress: Progress | None = None,
        threads: int = THREADS,
    ) -> TransferProgress:
        """Copy a local file to ``path``, or with ``recursive`` a directory with everything below it.

        Symbolic links below a directory are followed where they lead to files inside it; to others only with
        ``follow_symlinks``. Failures and ``overwrite`` as in :meth:`copy`. ``progress`` is called after every step, from several
        threads but never at the same time.
        """
        transfer = Transfer(self, threads, progress)
        how = _how(write_type, not overwrite, None, True, 0o644)
        return transfer.upload(local, clean(path), how, recursive=recursive, follow=follow_symlinks)

    @public
    def download(
        self,
        path: str,
        local: str,
        *,
        recursive: bool = False,
        overwrite: bool = True,
        progress: Progress | None = None,
        threads: int = THREADS,
    ) -> TransferProgress:
        """Copy a file to a local path, or with ``recursive`` a directory with everything below it.

        A local file has its name once it is complete, and the file's time. Failures and ``overwrite`` as in :meth:`copy`.
        """
        transfer = Transfer(self, threads, progress)
        return transfer.download(clean(path), local, recursive=recursive, overwrite=overwrite)


def check_mode(path: str, mode: str) -> str:
    """``r``, ``w`` or ``x``. Raises ``NotSupported`` with what to do instead, ``InvalidArgument`` for what is no mode."""
    kinds = set(mode) & set("rwax")
    if len(kinds) != 1 or not set(mode) <= set("rwaxbt+") or len(set(mode)) != len(mode) or {"b", "t"} <= set(mode):
        raise InvalidArgument(f"mode {mode!r} is none of rb, wb, xb, r, w, x")
    kind = kinds.pop()
    if kind == "a":
        raise NotSupported(
            f"{path}: files are not appended to: write another file beside it, or all of it again with 'wb'", path=path
        )
    if "+" in mode:
        raise NotSupported(
            f"{path}: files are not changed in place: read it, then write all of it again with 'wb'", path=path
        )
    return kind


def _how(write_type: str | None, exclusive: bool, if_match: str | None, parents: bool, mode: int) -> How:
    if write_type and write_type not in WriteType.__members__:
        raise InvalidArgument(f"write_type {write_type!r} is none of {', '.join(WriteType)}")
    if exclusive and if_match is not None:
        raise InvalidArgument("exclusive and if_match exclude each other")
    return How(write_type or "", exclusive, if_match, parents, mode)
