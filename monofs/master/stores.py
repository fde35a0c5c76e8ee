"""The under storages of the mounts as the master uses them: one per mount, behind its own bounded pool, with deadlines, bounded
retries and a breaker.

Retries: throttled, failed and cut answers are asked again up to three times with growing, jittered pauses. A store that cannot be reached is
not asked again at once: for a pause that doubles from half a second to thirty, calls fail at once with ``UfsPaused`` and the last error, so that
known metadata can be served without waiting for a dead store each time; the first call after the pause tries it.

Acts, which change a store, are never repeated here: one that may have been done ends with :class:`Unclear`, and who asked for it looks.
``noAccess`` asks a store nothing, ``readOnly`` lets nothing be changed: both as if it could not be reached.

Invariant: at most ``master.list_threads`` calls per mount are in a store and ``master.store_queue`` wait; each failure leaves one
line in the log, with the id of the request that caused it. Everything here is called on the reactor thread; only the functions run on pool threads.
"""

from __future__ import annotations

import math
import random
import threading
import time
from collections.abc import Callable
from typing import Any, Literal, NamedTuple, TypeVar

from twisted.internet.defer import Deferred, fail
from twisted.internet.task import deferLater
from twisted.python.failure import Failure

from monofs.config.schema import MasterConfig
from monofs.master.pool import Pool
from monofs.master.secrets import Vault
from monofs.model.breaker import Breaker
from monofs.model.errors import (
    STORE_AWAY,
    HomeUnusable,
    Internal,
    MonofsError,
    NotReady,
    Overloaded,
    UfsBadBody,
    UfsFailed,
    UfsNoAccess,
    UfsNotFound,
    UfsPaused,
    UfsThrottled,
    UfsUnreachable,
)
from monofs.model.ids import MountId
from monofs.model.mount import Mount
from monofs.model.options import UfsMode
from monofs.observe.logs import logger
from monofs.observe.metrics import forget_mount, know_mount, store_observer
from monofs.ufs.base import UnderStorage, may_be_done
from monofs.ufs.registry import learned_options

log = logger(__name__)
T = TypeVar("T")
OpenStore = Callable[..., UnderStorage]
"""``open_store(uri, options, timeout_s=..., observe=...)`` as ufs.registry.open_ufs."""
Clock = Callable[[], float]
"""Monotonic seconds."""
Kind = Literal["list", "head", "check", "scan"]
Act = Literal["put", "delete", "copy", "rename", "mkdir", "upload", "complete", "abort", "sweep", "tag"]
SLOWEST_COPY_BYTES_S = 4 << 20
"""A copy within a store may take as long as at this speed."""
TRIES = 3
PAUSE_S = 0.1
BREAK_FIRST_S = 0.5
BREAK_MOST_S = 30.0
RETRIED = (UfsThrottled, UfsFailed, UfsBadBody)
UNAVAILABLE = (*STORE_AWAY, Overloaded)
"""The store, or the queue before it, cannot tell right now."""


class Unclear(Exception):
    """An act on a store ended with ``error``, and may have been done or be done yet."""

    def __init__(self, error: MonofsError) -> None:
        self.error = error
        super().__init__(str(error))


class Probed(NamedTuple):
    """What was found out about a store."""

    holds_something: bool
    learned: dict[str, str]
    """Options to keep with the mount where the user gives none."""


class MountedStore:
    """One mount's store. ``index`` is the mount's ``changed_index`` it was opened with."""

    def __init__(
        self,
        mount: Mount,
        open_ufs: Callable[[], UnderStorage],
        pool: Pool,
        timeout_s: float,
        clock: Clock,
        reactor: Any,
    ):
        self.index = mount.changed_index
        self.object_store = mount.is_object_store
        self.breaker = Breaker(first_s=BREAK_FIRST_S, most_s=BREAK_MOST_S)
        self.silence = ""
        """Set when someone lost patience with it, until it answers: who knows what to serve without it does so at once."""
        self._path, self._uri, self._mode = mount.path, mount.uri, mount.ufs_mode
        self._open_ufs = open_ufs
        self._opening = threading.Lock()
        self._stopping = False
        self._ufs: UnderStorage | None = None
        self._pool, self._timeout_s, self._clock, self._reactor = pool, timeout_s, clock, reactor

    @property
    def renames(self) -> bool:
        """As ``UnderStorage.renames``, without opening it."""
        return not self.object_store

    @property
    def skew_s(self) -> float:
        """As ``UnderStorage.skew_s``; 0 before it was first asked."""
        return 0.0 if self._ufs is None else self._ufs.skew_s

    @property
    def busy(self) -> bool:
        """Whether background work should stay away: calls are queueing already."""
        return self._pool.waiting > 4

    def call(self, kind: Kind, key: str, function: Callable[[UnderStorage], T]) -> Deferred[T]:
        """Ask the store on a pool thread; ``key`` is for the log. Fails with the 6xxx family, or ``Overloaded``."""
        return Deferred.fromCoroutine(self._call(kind, key, function))

    async def _call(self, kind: Kind, key: str, function: Callable[[UnderStorage], T]) -> T:
        self._check_asked(changes=False)
        self._check_breaker()
        for tried in range(1, TRIES + 1):
            try:
                answer = await self._once(kind, key, function, tried)
            except RETRIED:
                if tried == TRIES:
                    raise
                await deferLater(self._reactor, PAUSE_S * 4 ** (tried - 1) * random.uniform(0.5, 1.5))  # noqa: S311
            else:
                return answer
        raise Internal("the last try neither answered nor failed")

    def act(self, kind: Act, key: str, function: Callable[[UnderStorage], T], *, size: int = 0) -> Deferred[T]:
        """Change the store, once. Fails with :class:`Unclear` when it may have been done; with any other error it was not. ``size`` bytes
        that the store copies by itself give it more time."""
        return Deferred.fromCoroutine(self._act(kind, key, function, size))

    async def _act(self, kind: Act, key: str, function: Callable[[UnderStorage], T], size: int) -> T:
        self._check_asked(changes=True)
        self._check_breaker()
        try:
            return await self._once(kind, key, function, 1, self._timeout_s + size / SLOWEST_COPY_BYTES_S)
        except MonofsError as error:
            if may_be_done(error) or self._stopping:
                raise Unclear(error) from error
            raise

    def _check_asked(self, *, changes: bool) -> None:
        if self._mode == UfsMode.NO_ACCESS or (changes and self._mode == UfsMode.READ_ONLY):
            raise UfsNoAccess(f"the store of {self._path} is set to {self._mode}: it is not asked", mount=self._path)

    def _check_breaker(self) -> None:
        wait_s, error = self.breaker.wait_s(self._clock()), self.breaker.error
        if wait_s and error is not None:
            again_s = math.ceil(wait_s)
            detail = {**error.detail, "again_s": again_s}
            raise UfsPaused(f"{error.message}; it is asked again within {again_s} s", **detail)

    async def _once(
        self, kind: Kind | Act, key: str, function: Callable[[UnderStorage], T], tried: int, limit_s: float = 0.0
    ) -> T:
        began = time.monotonic()
        try:
            answer = await self._pool.run(lambda: function(self._opened()), limit_s or self._timeout_s)
        except MonofsError as error:
            self.note(error)
            self._say_failed(kind, key, error, tried, time.monotonic() - began)
            raise
        if self._stopping:
            raise NotReady("the master is stopping: try again shortly")
        self.note(None)
        log.debug("store answered", mount=self._path, kind=kind, key=key, tried=tried, seconds=time.monotonic() - began)
        return answer

    def patiently(self, patience_s: float, begin: Callable[[], Deferred[T]]) -> Deferred[T]:
        """What ``begin`` asks of this store, for someone who can do without: fails with ``UfsUnreachable`` once the store was silent for
        ``patience_s``, and soon while it has been so. The question stays asked: its answer ends the silence."""
        if self.silence and self.busy:
            return fail(self._silent())  # enough is asked already to tell when it answers
        asked = begin()
        if asked.called:
            return asked
        outcome: Deferred[T] = Deferred()

        def lose_patience() -> None:
            self.silence = f"the store {self._uri} has not answered for {patience_s:g} s"
            outcome.errback(self._silent())

        timer = self._reactor.callLater(0 if self.silence else patience_s, lose_patience)

        def answered(result: T | Failure) -> None:
            if timer.active():
                timer.cancel()
                outcome.callback(result)

        asked.addBoth(answered)
        return outcome

    def _silent(self) -> UfsUnreachable:
        return UfsUnreachable(self.silence, mount=self._path)

    def _say_failed(self, kind: Kind | Act, key: str, error: MonofsError, tried: int, seconds: float) -> None:
        say = log.debug if isinstance(error, UfsNotFound) else log.info  # who lists what is gone is told, not logged
        say(
            "store request failed",
            mount=self._path,
            kind=kind,
            key=key,
            code=error.code,
            error=error.message,
            store_code=error.detail.get("store_code"),
            store_request=error.detail.get("request_id"),
            tried=tried,
            seconds=round(seconds, 4),
        )

    def note(self, error: MonofsError | None) -> None:
        """The store was asked: it failed with ``error``, or answered (None)."""
        if not isinstance(error, UNAVAILABLE):
            self.silence = ""
        was_down, now_s = self.breaker.error is not None, self._clock()
        if isinstance(error, UfsUnreachable):
            self.breaker.failed(error, now_s, now_s)
        elif not isinstance(error, UNAVAILABLE):  # a refusal shows that it is up
            self.breaker.answered()
        if was_down and self.breaker.error is None:
            log.info("store answers again", mount=self._path)
        elif not was_down and self.breaker.error is not None:
            log.warning("store cannot be reached", mount=self._path, error=str(error))

    def _opened(self) -> UnderStorage:
        with self._opening:
            if self._ufs is None:
                self._ufs = self._open_ufs()
            return self._ufs

    def close(self, *, stopping: bool = False) -> None:
        """Release the store's connections once what was asked before has begun; calls in flight may fail, and do with ``NotReady``
        when the master is ``stopping``: who asked must not go on to a namespace that is closed next."""
        self._stopping = stopping
        self._pool.run(self._close_ufs, self._timeout_s).addErrback(self._not_closed)
        self._pool.close()

    def _close_ufs(self) -> None:
        with self._opening:
            if self._ufs is not None:
                self._ufs.close()

    def _not_closed(self, failure: Failure) -> None:
        log.warning("store not closed", mount=self._path, error=str(failure.value))


class Stores:
    """The stores of all mounts, opened when first asked and again when a mount's options changed."""

    def __init__(
        self, config: MasterConfig, open_store: OpenStore, vault: Vault, *, reactor: Any, clock: Clock
    ) -> None:
        self._config, self._open_store, self._vault = config, open_store, vault
        self._reactor, self._clock = reactor, clock
        self._stores: dict[MountId, MountedStore] = {}
        self.told_by_workers: Callable[[MountId], str] = lambda _: ""
        """Why workers do not ask a mount's store; set once there are any."""
        self._probing = Pool("the store to be mounted", config.list_threads, config.store_queue, reactor=reactor)

    def of(self, mount: Mount) -> MountedStore:
        """The store of a mount; raises ``HomeUnusable`` when its secrets cannot be opened."""
        store = self._stores.get(mount.id)
        if store is not None and store.index == mount.changed_index:
            return store
        options = mount.options | self._vault.open(mount)
        timeout_s = self._config.store_timeout_s
        opened = MountedStore(
            mount,
            lambda: self._open_store(mount.uri, options, timeout_s=timeout_s, observe=store_observer(mount.id)),
            Pool(
                f"the store of mount {mount.path}",
                self._config.list_threads,
                self._config.store_queue,
                reactor=self._reactor,
            ),
            timeout_s,
            self._clock,
            self._reactor,
        )
        self._stores[mount.id] = opened
        know_mount(mount.id)
        if store is not None:
            store.close()
        return opened

    def probe(self, uri: str, options: dict[str, str]) -> Deferred[Probed]:
        """Open a store, let it check itself, close it: the proof every mount gives before it exists."""

        def check() -> Probed:
            ufs = self._open_store(uri, options, timeout_s=self._config.store_timeout_s)
            try:
                return Probed(ufs.check(), learned_options(uri))
            finally:
                ufs.close()

        return self._probing.run(check, self._config.store_timeout_s)

    def keep_only(self, mounts: set[MountId]) -> None:
        """Close the stores of mounts that are gone."""
        for mount in [each for each in self._stores if each not in mounts]:
            self._stores.pop(mount).close()
            forget_mount(mount)

    def trouble_of(self, mount: Mount) -> str:
        """:meth:`error_of`, else what workers say of the store that they do not ask now."""
        return self.error_of(mount) or self.told_by_workers(mount.id)

    def error_of(self, mount: Mount) -> str:
        """Why a mount's store cannot be asked; empty when it can, or was not asked yet."""
        store = self._stores.get(mount.id)
        if store is not None and store.index == mount.changed_index:
            return str(store.breaker.error or store.silence)
        try:
            self._vault.open(mount)
        except HomeUnusable as error:
            return str(error)
        return ""

    def close(self) -> None:
        """Release everything."""
        self._probing.close()
        for store in self._stores.values():
            store.close(stopping=True)
        self._stores.clear()
