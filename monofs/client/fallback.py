"""Reading from the stores themselves while no worker lives, with credentials the program was given.

A program that wants this says so, mount by mount: which store, and with which options. So no secret of a mount ever leaves the cluster, and a store
hears from the program under a name of its own, which can be allowed to read and nothing else.

Invariant (law 1): bytes come from a read of exactly the fingerprint of the content that was opened, and only where the key in the store is what the
path says; anything else is not read. Nothing is written. Not here: whether a worker lives (session.py), what is read (reader.py).
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from monofs.model.capability import Capability, peek_capability
from monofs.model.errors import ContentChanged, InvalidArgument, MonofsError, UfsBadBody, UfsChanged, UfsNotFound
from monofs.model.paths import format_path, parse_path

if TYPE_CHECKING:
    from monofs.ufs.base import UnderStorage

TRIES = 3
PAUSE_S = 0.2


@dataclass(frozen=True, slots=True)
class StoreAccess:
    """One mount's store as a program may read it."""

    path: str
    """Of the mount in the tree."""
    uri: str
    options: tuple[tuple[str, str], ...] = field(repr=False)


def read_stores(stores: Mapping[str, Mapping[str, str]]) -> tuple[StoreAccess, ...]:
    """``{"/lake": {"uri": "s3://bucket/prefix", "access_key": ...}}``, the deepest mounts first. Raises ``InvalidArgument``, ``UfsOption``."""
    if not stores:
        return ()
    from monofs.ufs.registry import check_options  # a quarter of what a client imports, for those that need it

    found = []
    for path, given in stores.items():
        if not isinstance(given, Mapping):
            raise InvalidArgument(
                f'stores[{path!r}] is a mapping: {{"uri": "s3://bucket/prefix", ...}}, with the options of a mount'
            )
        options = dict(given)
        uri = options.pop("uri", "")
        if not uri:
            raise InvalidArgument(f"stores[{path!r}] names no uri")
        check_options(uri, options)
        found.append(StoreAccess(format_path(parse_path(path)), uri, tuple(sorted(options.items()))))
    return tuple(sorted(found, key=lambda access: -len(access.path)))


class Fallback:
    """The stores of one process. Thread-safe."""

    def __init__(self, stores: tuple[StoreAccess, ...], timeout_s: float) -> None:
        self._stores, self._timeout_s = stores, timeout_s
        self._lock = threading.Lock()
        self._opened: dict[str, UnderStorage] = {}

    def find(self, path: str, token: bytes) -> StoreFile | None:
        """The file of an opened path in its store; None: it is not to be read from there."""
        for access in self._stores:
            root = access.path.rstrip("/") + "/"
            if path.startswith(root):
                capability = peek_capability(token)
                key = path[len(root) :]
                # of a mount below, or renamed and not yet moved: the store has something else under this name
                if not capability.mount or not capability.fingerprint or capability.key != key:
                    return None
                return StoreFile(self, access, path, capability)
        return None

    def open(self, access: StoreAccess) -> UnderStorage:
        """The store, opened when first needed."""
        from monofs.ufs.registry import open_ufs  # as above

        with self._lock:
            store = self._opened.get(access.path)
            if store is None:
                store = self._opened[access.path] = open_ufs(
                    access.uri, dict(access.options), timeout_s=self._timeout_s
                )
            return store

    def close(self) -> None:
        """Close all stores."""
        with self._lock:
            opened, self._opened = self._opened, {}
        for store in opened.values():
            store.close()


class StoreFile:
    """One content in its store."""

    def __init__(self, fallback: Fallback, access: StoreAccess, path: str, capability: Capability) -> None:
        self._fallback, self._access, self._path, self._capability = fallback, access, path, capability

    def read_into(self, offset: int, view: memoryview) -> None:
        """Fill ``view``, which lies within the file. Raises ``ContentChanged``, and what the store answered."""
        for tried in range(1, TRIES + 1):
            try:
                self._read(offset, view)
                return
            except (UfsChanged, UfsNotFound):
                raise ContentChanged(
                    f"{self._path} has changed in {self._access.uri}: open it again", path=self._path
                ) from None
            except MonofsError as error:
                if not error.retry or tried == TRIES:
                    raise
            time.sleep(PAUSE_S * tried)

    def _read(self, offset: int, view: memoryview) -> None:
        capability, filled = self._capability, 0
        store = self._fallback.open(self._access)
        for data in store.read(capability.key.encode(), offset, len(view), capability.fingerprint):
            if filled + len(data) > len(view):
                raise UfsBadBody("the store sent more bytes than asked for")
            view[filled : filled + len(data)] = data
            filled += len(data)
        if filled < len(view):
            raise UfsBadBody(f"the store's answer ended {len(view) - filled} bytes early")
