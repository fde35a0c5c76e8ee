"""The face of an under storage (UFS): what monofs asks of any store mounted into the tree.

All methods block and are called from pool threads, never from the reactor thread; implementations are thread-safe. A key is
relative to the mount's root, has no leading slash, and is the *exact* key in the store: ``a//b``, ``d/``, ``../x`` and bytes that are not
UTF-8 occur and must never be normalised, dropped or escape the root. Keys are ``bytes``: what cannot be a path (see
``model.paths.name_problem``) is reported in ``UfsPage.odd``, not raised.

Errors are the 6xxx family only; an implementation translates everything its libraries raise, and no message carries a secret.

Invariant: ``read`` yields exactly the bytes asked for, of exactly the version asked for, or raises. What was yielded
before a raise is of that version too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from monofs.model.errors import MonofsError, UfsBadBody, UfsFailed, UfsFull, UfsThrottled, UfsUnreachable
from monofs.model.inode import ANY_VERSION

MIB = 1 << 20
PARTS_MAX = 10_000
"""Parts of one upload (S3's bound, kept by all stores)."""
PART_SIZES = ((1_000, 8 * MIB), (5_000, 32 * MIB), (PARTS_MAX, 128 * MIB))
"""(last part number, bytes of each part up to it): an upload of unknown size starts with small parts and may still reach 758 GiB."""


def part_size(number: int) -> int:
    """How long part ``number`` (from 1) of an upload is to be, unless it is the last one. Raises ``UfsFull`` beyond the last."""
    for last, size in PART_SIZES:
        if number <= last:
            return size
    raise UfsFull(f"a file of more than {PARTS_MAX:,} parts (758 GiB) cannot be written in one go")


def may_be_done(error: MonofsError) -> bool:
    """Whether an act that raised ``error`` may have been done all the same: then only ``look`` can tell.

    A store that knows better (nothing was sent; the server refused) says so with ``not_done`` in the error's detail.
    """
    unclear = isinstance(error, UfsUnreachable | UfsFailed | UfsThrottled | UfsBadBody)
    return unclear and not error.detail.get("not_done")


@dataclass(frozen=True, slots=True)
class UfsEntry:
    """One object or directory of a store.

    ``name`` is the last component, without a slash, for entries of a listing; for ``status`` it is the whole key. Directories have
    size 0, but where their marker is told. ``fingerprint`` names the version of the bytes: ``e:<etag without quotes>``, ``v:<version id>`` or
    ``t:<size>:<mtime_ns>:<ctime_ns>:<inode>``; empty for directories, likewise. LIST and HEAD give the same fingerprint for the same bytes.
    """

    name: bytes
    is_directory: bool
    size: int = 0
    mtime_ns: int = 0
    fingerprint: str = ""
    mode: int | None = None
    uid: int | None = None
    gid: int | None = None
    racy: bool = False
    """Local stores: the file changed less than 2 s before it was looked at; look again before trusting the fingerprint."""
    operation: str = ""
    """Of ``look`` only: the name of the monofs operation that made this version; '' if none did."""


@dataclass(frozen=True, slots=True)
class UfsPage:
    """One page of a listing, sorted by ``name`` with ``/`` appended to directories (the order of S3 keys)."""

    entries: list[UfsEntry]
    next: bytes | None
    """Pass as ``after`` to go on; None: this was the last page. It is a position in key order: every name of the directory
    (with its ``/``) that is greater than the previous position and not greater than this one is in this page."""
    odd: list[bytes] = field(default_factory=list)
    """Keys below the directory that no path can name, at most 100 a page."""
    marker: tuple[int, str, int] | None = None
    """Of the first page of a directory of an object store: mtime in ns, fingerprint ('' if it has none) and bytes of its marker."""


@dataclass(frozen=True, slots=True)
class Condition:
    """What must be at a key for an act to be done there; else it raises ``UfsChanged`` and nothing was done.

    Stores that cannot check it themselves are asked first: then a change from outside within that moment is overwritten.
    """

    fingerprint: str = ""
    """This version; '' with ``absent`` False: anything."""
    absent: bool = False
    """Nothing."""


ANYTHING = Condition()
NO_HEADERS: Mapping[str, str] = {}


def replacing(version: str) -> Condition:
    """Exactly this version is replaced; '': nothing is there; ``ANY_VERSION``: whatever is there."""
    if version == ANY_VERSION:
        return ANYTHING
    return Condition(fingerprint=version) if version else Condition(absent=True)


@dataclass(frozen=True, slots=True)
class Coming:
    """Bytes of a part, ``size`` of them, that come while it is sent: there for one try. ``pieces`` may wait, and raise when no more will come."""

    size: int
    pieces: Iterator[memoryview]

    def __iter__(self) -> Iterator[memoryview]:
        return self.pieces


class UnderStorage(Protocol):
    """A mounted store.

    Acts (everything that changes the store) take the ``operation`` that does them, a short name of letters, digits and ``-`` the store
    keeps with what it makes, so that :meth:`look` can tell later who made it. An act that raises ``UfsUnreachable``, ``UfsFailed``, ``UfsThrottled`` or
    ``UfsBadBody`` may have been done (see :func:`may_be_done`); any other error says that it was not. An act may be asked for again with the same
    ``operation``: where its condition does not hold any more because it was done before, it tells of that success instead of ``UfsChanged``.
    """

    scheme: str
    renames: bool
    """Whether :meth:`rename` moves files and directories in one step."""
    part_bytes: int
    """Good size of one part of an upload; files up to this are put whole."""

    @property
    def skew_s(self) -> float:
        """How far the store's clock is ahead of ours, as last seen; 0 while no difference can be told."""

    def check(self) -> bool:
        """Prove that the root exists and may be listed and read; the first call of every mount. False: nothing lies below the root.

        Raises ``UfsDenied``, ``UfsBucketNotFound``, ``UfsUnreachable``, ``UfsOption``: each saying what to correct.
        """

    def status(self, key: bytes) -> tuple[UfsEntry | None, UfsEntry | None]:
        """What lies at ``key``: (file, directory). Both may be present: an object ``a`` beside a prefix ``a/``."""

    def list(self, key: bytes, *, after: bytes = b"", limit: int = 1000) -> UfsPage:
        """The direct children of directory ``key`` (``b''``: the root) that sort after ``after``, at most ``limit``.

        A directory marker ``key/`` itself is not a child. A missing directory raises ``UfsNotFound`` where the store can tell,
        else gives an empty page.
        """

    def read(self, key: bytes, offset: int, length: int, fingerprint: str) -> Iterator[memoryview]:
        """Yield views that add up to bytes ``[offset, offset + length)`` of the version ``fingerprint`` (never beyond the end). What they show never
        changes, also after the next one.

        Raises ``UfsChanged`` when the store holds another version, ``UfsNotFound`` when it is gone, ``UfsBadBody`` when the
        body ends early, ``UfsThrottled`` for 503/SlowDown, ``UfsUnreachable``, ``UfsDenied``, ``UfsFailed``. No retries inside
        beyond the first byte; the caller decides.
        """

    # ---- changing ---------------------------------------------------------------------------------------------------

    def look(self, key: bytes) -> UfsEntry | None:
        """The file at ``key`` with its ``operation``; None: there is none. Asked when an act did not tell how it ended."""

    def headers(self, key: bytes) -> tuple[str, dict[str, str]]:
        """What the store keeps with a file beside its bytes: (fingerprint, values by lower-case header name, tags as ``x-amz-tagging``); ``UfsNotFound``.
        Stores of files keep nothing."""

    def tag(self, key: bytes, tags: Mapping[str, str]) -> None:
        """Replace the tags of a file, whatever version it has. Only of stores of objects."""

    def put(
        self,
        key: bytes,
        data: Sequence[memoryview],
        operation: str,
        condition: Condition,
        headers: Mapping[str, str] = NO_HEADERS,
    ) -> UfsEntry:
        """Make a file of these bytes, at most ``part_bytes``, visible whole or not at all; directories above come into being.

        Returns it as a listing would show it. ``UfsChanged`` when the condition does not hold. ``headers`` (``attributes.store_headers``) are kept with
        it where the store keeps any.
        """

    def begin_upload(self, key: bytes, operation: str, headers: Mapping[str, str] = NO_HEADERS) -> str:
        """Begin a file in parts; nothing is visible before ``complete_upload``. The id is recorded before the first part is sent."""

    def put_part(self, key: bytes, upload: str, number: int, offset: int, data: Sequence[memoryview] | Coming) -> str:
        """Send part ``number`` (from 1, in the order of their offsets; all but the last at least ``part_bytes`` long, see :func:`part_size`);
        what ``complete_upload`` needs to know of it. May be repeated, and called by several threads for different parts. When ``data`` raises, that is
        raised, and there is no such part."""

    def complete_upload(
        self, key: bytes, upload: str, parts: Sequence[str], size: int, operation: str, condition: Condition
    ) -> UfsEntry:
        """Make the file visible, durably. ``UfsChanged``: the condition does not hold; the upload is still there to be aborted."""

    def abort_upload(self, key: bytes, upload: str) -> None:
        """Forget an upload and its parts; one that is gone, completed or never begun is no error."""

    def copy(
        self,
        source: bytes,
        fingerprint: str,
        target: bytes,
        operation: str,
        condition: Condition,
        *,
        begun: Callable[[str], None] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> UfsEntry:
        """Copy this version of a file within the store, without its bytes passing through here. ``UfsChanged`` (of either), ``UfsNotFound``. ``headers``:
        in the place of those the store keeps with the source.

        A large file is copied by an upload of its own: ``begun`` is called with its id before the first part, to be recorded; it is
        aborted here when the copy fails, and with :meth:`abort_upload` of ``target`` by whoever finds it recorded after a crash.
        """

    def rename(self, source: bytes, target: bytes, condition: Condition, *, directory: bool) -> UfsEntry:
        """Only where ``renames``: move a file (replacing one that meets ``condition``) or a directory (replacing an empty one)."""

    def delete(self, key: bytes) -> None:
        """Delete a file; one that is not there is no error."""

    def delete_many(self, keys: Sequence[bytes]) -> dict[bytes, MonofsError]:
        """Delete up to 1,000 files, or directory markers (keys that end in ``/``); which could not be deleted, and why.

        Raises only when the store could not be asked at all."""

    def make_directory(
        self,
        key: bytes,
        operation: str,
        headers: Mapping[str, str] | None = None,
        body: bytes = b"",
        replaced: str = "",
    ) -> UfsEntry:
        """Make a directory (object stores: its marker ``key/``, whose fingerprint the entry tells) and those above; one that exists is no error.
        ``headers``: object stores put the marker anew, with these, and with ``body``; with ``replaced`` this version of it alone, else ``UfsChanged``."""

    def remove_directory(self, key: bytes, *, implied: bool = False) -> None:
        """Remove an empty directory (object stores: its marker, if there is one); a missing one is no error. ``UfsNotEmpty``. ``implied``: stores of files
        do so only where they know that it was made on the way to a file, and by nobody else."""

    def scan(self, key: bytes, *, after: bytes = b"", limit: int = 1000) -> UfsPage:
        """All files and directory markers below directory ``key`` (``b''``: the root) whose names sort after ``after``, flat.

        ``name`` is relative to ``key`` (``b/c.txt``; markers and local directories end in ``/``, ``is_directory``), in byte order. A missing
        directory is an empty page. For local stores a directory comes before what it holds. Keys that no path can name are entries too;
        ``odd`` names what can be neither read nor deleted (links, sockets and the like of local stores).
        """

    def remove_tree(self, key: bytes, operation: str) -> bool:
        """Take a whole directory out of sight in one step, to be deleted by :meth:`sweep`; False: this store cannot, use ``scan`` and
        ``delete_many``. A missing one is no error. While what ``operation`` took away before is not swept, another call does nothing."""

    def sweep(self, operation: str, key: bytes) -> None:
        """Delete what ``operation`` left unfinished at or beside ``key``: temporary files, removed trees. Nothing of any other operation."""

    def close(self) -> None:
        """Release connections; calls in flight may fail."""
