"""The stores of the mounts this worker knows, opened when first needed.

Invariant: a store is closed only when nobody reads through it, and a mount whose options changed is opened anew before its next
read. Secrets of mounts live in memory here and nowhere else on a worker. Thread-safe, but for what is about a store's *breakers* (reactor only): a
store that failed to be read, or written, again and again is not for a pause, then by one flight or write to see. Each has a breaker of its own: a store that
is full, or read-only, may well be read. Not here: what is read and written.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable

from monofs.model.breaker import Breaker
from monofs.model.errors import (
    DeadlineExceeded,
    MonofsError,
    MountNotFound,
    UfsBadBody,
    UfsFailed,
    UfsPaused,
    UfsThrottled,
    UfsUnreachable,
)
from monofs.observe import metrics
from monofs.observe.logs import logger
from monofs.rpc.api import MountGrant
from monofs.ufs.base import UnderStorage
from monofs.ufs.registry import open_ufs

log = logger(__name__)

OpenStore = Callable[[str, dict[str, str]], UnderStorage]
"""URI and options to a store; given by tests and tools that bring their own."""


FAILURES = 3
FAILING_S = 3.0
"""A store is down after so many failures in a row over so long: what is shorter the retries of flights ride out."""
PAUSE_FIRST_S = 1.0
PAUSE_MOST_S = 30.0
_DOWN = (UfsUnreachable, UfsFailed, DeadlineExceeded)
_UNTOLD = (UfsThrottled, UfsBadBody)
"""Whether it is down these do not tell."""


class MountUnknown(MountNotFound):
    """This worker has not heard of the mount: it was made a moment ago, or is gone."""

    retry = True


class Opened:
    """One mount's store as one set of options describes it."""

    __slots__ = ("_open", "_users", "grant", "lock", "reading", "retired", "store", "writing")

    def __init__(self, grant: MountGrant) -> None:
        self.grant = grant
        self.lock = threading.Lock()
        self.store: UnderStorage | None = None
        self.retired = False
        self.reading, self.writing = _breaker(), _breaker()
        self._users = 0

    @property
    def broken(self) -> Breaker | None:
        """What is not done with the store for a while."""
        return next((each for each in (self.reading, self.writing) if each.error is not None), None)

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
        for mount, opened in before.items():
            if opened.broken is not None and now.get(mount) is not opened:
                metrics.STORE_PAUSED(str(mount)).value = 0
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
        """Begin a use; end with ``opened.leave()``."""
        return opened.enter(self._open)

    def is_current(self, opened: Opened) -> bool:
        """Whether the mount still has the options ``opened`` was made with."""
        return self._opened.get(opened.grant.id) is opened

    # ---- whether to ask ------------------------------------------------------------------------------------------------

    def check(self, mount: int, *, writes: bool = False) -> None:
        """Raise ``UfsPaused`` while the store is not to be read (or written); else the caller does it: it may be the probe."""
        opened = self._opened.get(mount)
        if opened is None:
            return
        breaker = opened.writing if writes else opened.reading
        wait_s = breaker.wait_s(time.monotonic())
        if wait_s:
            metrics.STORE_REFUSED(str(mount)).value += 1
            told = self._trouble(opened, breaker, wait_s)
            raise UfsPaused(told, mount=mount, again_s=math.ceil(wait_s), not_done=1)

    def note(self, opened: Opened, error: MonofsError | None, began_s: float, *, writes: bool = False) -> None:
        """A read of the store (or an act on it) begun at ``began_s`` ended: with ``error``, or it brought something."""
        breaker = opened.writing if writes else opened.reading
        was_down = breaker.error is not None
        if isinstance(error, _DOWN):
            breaker.failed(error, time.monotonic(), began_s)
        elif error is None or (6000 <= error.code < 7000 and not isinstance(error, _UNTOLD)):
            breaker.answered()  # a refusal shows that it is up
        if was_down is (breaker.error is not None):
            return
        metrics.STORE_PAUSED(str(opened.grant.id)).value = int(opened.broken is not None)
        facts = {"mount": opened.grant.id, "act": "write" if writes else "read"}
        if was_down:
            log.info("a store answers again", uri=opened.grant.uri, **facts)
        else:
            log.warning("a store is not asked for a while", error=str(error), **facts)

    def note_silent(self, mount: int, error: MonofsError, began_s: float) -> None:
        """A read begun at ``began_s`` hangs and was given up."""
        opened = self._opened.get(mount)
        if opened is not None:
            self.note(opened, error, began_s)

    def troubles(self) -> dict[int, str]:
        """Mount id → why its store is not asked now."""
        now_s = time.monotonic()
        broken = [(opened, opened.broken) for opened in self._opened.values()]
        return {
            opened.grant.id: self._trouble(opened, breaker, breaker.left_s(now_s))
            for opened, breaker in broken
            if breaker
        }

    def _trouble(self, opened: Opened, breaker: Breaker, wait_s: float) -> str:
        error, where = breaker.error, self.describe(opened.grant.id)
        failed = "failed again and again" if breaker is opened.reading else "failed again and again when written to"
        again = f"it is asked again within {math.ceil(wait_s)} s" if wait_s else "it is being asked again"
        return f"the store {where} {failed}, and {again}; it said last: {error.message if error else ''}"

    # ---- in words ------------------------------------------------------------------------------------------------------

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


def _breaker() -> Breaker:
    return Breaker(failures=FAILURES, span_s=FAILING_S, first_s=PAUSE_FIRST_S, most_s=PAUSE_MOST_S)
