"""The stores of the mounts this worker knows, opened when first needed.

Invariant: a store is closed only when nobody reads through it, and a mount whose options changed is opened anew before its next
read. Secrets of mounts live in memory here and nowhere else on a worker. Thread-safe. Not here: what is read.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

from monofs.model.errors import MountNotFound
from monofs.observe import metrics
from monofs.rpc.api import MountGrant
from monofs.ufs.base import UnderStorage
from monofs.ufs.registry import open_ufs

OpenStore = Callable[[str, dict[str, str]], UnderStorage]
"""URI and options to a store; given by tests and tools that bring their own."""


class MountUnknown(MountNotFound):
    """This worker has not heard of the mount: it was made a moment ago, or is gone."""

    retry = True


class Opened:
    """One mount's store as one set of options describes it."""

    __slots__ = ("_open", "_users", "grant", "lock", "retired", "store")

    def __init__(self, grant: MountGrant) -> None:
        self.grant = grant
        self.lock = threading.Lock()
        self.store: UnderStorage | None = None
        self.retired = False
        self._users = 0

    def enter(self, open_store: Callable[[MountGrant], UnderStorage]) -> UnderStorage:
        """Begin a use; opens the store the first time (which may block)."""
        with self.lock:
            if self.store is None:
                self.store = open_store(self.grant)
            self._users += 1
            return self.store

    def leave(self) -> None:
        """End a use; the last one closes a store that was replaced."""
        with self.lock:
            self._users -= 1
            self._maybe_close()

    def retire(self) -> None:
        """The mount is gone or has other options now."""
        with self.lock:
            self.retired = True
            self._maybe_close()

    def _maybe_close(self) -> None:
        if self.retired and not self._users and self.store is not None:
            store, self.store = self.store, None
            store.close()


class Stores:
    """Mount id → store."""

    def __init__(self, open_store: OpenStore | None, *, timeout_s: float) -> None:
        self._open_store, self._timeout_s = open_store, timeout_s
        self._opened: dict[int, Opened] = {}

    def update(self, grants: list[MountGrant]) -> list[Opened]:
        """Take over the mounts as they are now; returns what the caller must ``retire`` in a thread (closing may block)."""
        before, now = self._opened, {}
        for grant in grants:
            known = before.get(grant.id)
            now[grant.id] = known if known is not None and known.grant == grant else Opened(grant)
        self._opened = now
        return [opened for mount, opened in before.items() if now.get(mount) is not opened]

    def find(self, mount: int) -> Opened:
        """Raises ``MountUnknown``."""
        opened = self._opened.get(mount)
        if opened is None:
            raise MountUnknown(
                f"mount {mount} is not known to this worker: it was removed, or made a moment ago", mount=mount
            )
        return opened

    def enter(self, opened: Opened) -> UnderStorage:
        """Begin reading; end with ``opened.leave()``."""
        return opened.enter(self._open)

    def is_current(self, opened: Opened) -> bool:
        """Whether the mount still has the options ``opened`` was made with."""
        return self._opened.get(opened.grant.id) is opened

    def describe(self, mount: int) -> str:
        """How errors name a mount: its URI and, if set, the endpoint (without user information)."""
        opened = self._opened.get(mount)
        if opened is None:
            return f"mount {mount}"
        endpoint = opened.grant.options.get("endpoint", "").rpartition("@")[2]
        return f"{opened.grant.uri} at {endpoint}" if endpoint else opened.grant.uri

    def awaited(self, mount: int, key: str) -> str:
        """What a call waits for that needs bytes of a file, for its deadline's message."""
        return f"the store {self.describe(mount)} to send {key or 'the file'}"

    def _open(self, grant: MountGrant) -> UnderStorage:
        if self._open_store is not None:
            return self._open_store(grant.uri, grant.options)
        observe = metrics.store_observer(grant.id)
        return open_ufs(grant.uri, grant.options, timeout_s=self._timeout_s, observe=observe)
