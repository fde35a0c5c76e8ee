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

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Protocol


@dataclass(frozen=True, slots=True)
class UfsEntry:
    """One object or directory of a store.

    ``name`` is the last component, without a slash, for entries of a listing; for ``status`` it is the whole key. Directories have
    size 0. ``fingerprint`` names the version of the bytes: ``e:<etag without quotes>``, ``v:<version id>`` or
    ``t:<size>:<mtime_ns>:<ctime_ns>:<inode>``; empty for directories. LIST and HEAD give the same fingerprint for the same bytes.
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


@dataclass(frozen=True, slots=True)
class UfsPage:
    """One page of a listing, sorted by ``name`` with ``/`` appended to directories (the order of S3 keys)."""

    entries: list[UfsEntry]
    next: bytes | None
    """Pass as ``after`` to go on; None: this was the last page. It is a position in key order: every name of the directory
    (with its ``/``) that is greater than the previous position and not greater than this one is in this page."""
    odd: list[bytes] = field(default_factory=list)
    """Keys below the directory that no path can name, at most 100 a page."""


class UnderStorage(Protocol):
    """A mounted store."""

    scheme: str

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
        """Yield read-only views that add up to bytes ``[offset, offset + length)`` of the version ``fingerprint`` (never beyond the end).

        Raises ``UfsChanged`` when the store holds another version, ``UfsNotFound`` when it is gone, ``UfsBadBody`` when the
        body ends early, ``UfsThrottled`` for 503/SlowDown, ``UfsUnreachable``, ``UfsDenied``, ``UfsFailed``. No retries inside
        beyond the first byte; the caller decides.
        """

    def close(self) -> None:
        """Release connections; calls in flight may fail."""
