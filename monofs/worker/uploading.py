"""The store's side of one write: one put, or parts and their completion; and finding out what became of an act that did not tell.

Parts may be sent again at will. The act that makes the file visible is conditional, so it may be tried again too: whenever a try may
have been done, the store is asked who made what lies there now. So what leaves here is the file made by this operation; or an error that
says it was not made; or ``UfsUnknown``: the store could not be asked, and the master goes on asking. A store that cannot be written is not tried
for a while (stores.py): what then begins fails at once, what has begun keeps its tries.

Invariant: no part is sent before the upload's id is journaled. Not here: bytes and their order (writing.py).
"""

from __future__ import annotations

import random
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater

from monofs.config.schema import WorkerConfig
from monofs.model.capability import Capability
from monofs.model.errors import (
    STORE_AWAY,
    Internal,
    MonofsError,
    UfsChanged,
    UfsNotFound,
    UfsPaused,
    UfsUnknown,
    WriteLost,
)
from monofs.observe import metrics
from monofs.observe.failpoints import failpoint
from monofs.observe.logs import logger
from monofs.ufs.base import Coming, UfsEntry, UnderStorage, may_be_done, replacing
from monofs.worker.stores import Stores
from monofs.worker.threads import Threads

log = logger(__name__)

TRIES = 5
"""Tries of an act, a part or a look before its error is believed."""
BACK_OFF_FIRST_S = 0.2
BACK_OFF_MOST_S = 4.0
_T = TypeVar("_T")


@dataclass(slots=True, frozen=True)
class Part:
    """Bytes of one part, not copied."""

    number: int
    offset: int
    pieces: Sequence[memoryview]


class Upload:
    """What one write does to its store. Reactor thread only."""

    def __init__(
        self,
        config: WorkerConfig,
        stores: Stores,
        threads: Threads,
        reactor: Any,
        capability: Capability,
        record: Callable[[str], Deferred[Any]],
    ) -> None:
        """``record`` journals the upload's id."""
        self._config, self._stores, self._threads, self._reactor = config, stores, threads, reactor
        self._mount, self._key = capability.mount, capability.key.encode()
        self._name = capability.operation_name
        self._record = record
        self.headers: dict[str, str] = {}
        """What the store is to keep with the file, besides its bytes."""
        self._id = ""
        self._began = self._beginning = False
        self._quiet: list[Deferred[None]] = []
        self._queue: deque[tuple[Part, Deferred[None]]] = deque()
        self._flying = 0
        self._tags: dict[int, str] = {}
        self._failure: MonofsError | None = None
        self._is_lost = self._was_stale = False

    def lose(self) -> None:
        """The cluster is another one: its mounts are not those this was begun for. Nothing more is asked of any store."""
        self._is_lost = True

    # ---- one put --------------------------------------------------------------------------------------------------------

    async def put(self, pieces: Sequence[memoryview], replaced: str, first: Callable[[], None]) -> UfsEntry:
        """Make the file of these bytes in place of the version ``replaced``, or of nothing; ``first`` is called in the thread before
        the first try.

        Raises ``UfsChanged`` when another version lies there, ``UfsUnknown``, or what the store says.
        """
        todo = [first]

        def act(store: UnderStorage) -> UfsEntry:
            while todo:
                todo.pop()()
            failpoint("write.begun")
            entry = store.put(self._key, pieces, self._name, replacing(replaced), self.headers)
            failpoint("write.acted")
            return entry

        return await self._conclude(act)

    # ---- parts ----------------------------------------------------------------------------------------------------------

    def take_up(self, upload: str) -> None:
        """Send parts of an upload that was begun and journaled by another."""
        self._id, self._began = upload, True

    def tag(self, number: int) -> str:
        """What the store named a part that it has."""
        return self._tags[number].partition(":")[2]

    def send(self, part: Part) -> Deferred[None]:
        """Send a part; fires when the store has it. At most ``worker.write_parts`` are on their way."""
        done: Deferred[None] = Deferred()
        self._queue.append((part, done))
        if not self._began:
            self._began = self._beginning = True
            Deferred.fromCoroutine(self._begin()).addErrback(self._fail).addCallback(self._has_begun)
        elif self._id:
            self._pump()
        return done

    async def stream(self, number: int, coming: Coming, is_late: Callable[[], bool]) -> None:
        """Send a part while its bytes come, in one try. A store that loses patience after some came late does not count as down."""

        def act(store: UnderStorage) -> str:
            try:
                return store.put_part(self._key, self._id, number, 0, coming)
            except STORE_AWAY as error:
                if is_late():
                    raise WriteLost(f"the part came too slowly, send it again: {error.message}") from None
                raise

        self._tags[number] = await self._once(act)

    async def complete(self, size: int, replaced: str) -> UfsEntry:
        """All parts are sent and the path is locked: make the file visible. Arguments and errors as of :meth:`put`."""
        parts = [self._tags[number] for number in sorted(self._tags)]

        def act(store: UnderStorage) -> UfsEntry:
            failpoint("write.published")
            entry = store.complete_upload(self._key, self._id, parts, size, self._name, replacing(replaced))
            failpoint("write.acted")
            return entry

        return await self._conclude(act)

    async def abort(self) -> None:
        """Forget the upload and its parts, once nothing of it is on its way. Raises when the store cannot be asked."""
        self._failure = self._failure or WriteLost("the upload was aborted")
        self._fail_waiting(self._failure)
        if self._beginning or self._flying:
            quiet: Deferred[None] = Deferred()
            self._quiet.append(quiet)
            await quiet
        if self._id:
            await self._patiently(lambda store: store.abort_upload(self._key, self._id))

    async def _begin(self) -> None:
        def act(store: UnderStorage) -> str:
            failpoint("write.begun")
            upload = store.begin_upload(self._key, self._name, self.headers)
            failpoint("write.upload-begun")
            return upload

        self._id = await self._patiently(act)
        if self._failure is None:
            await self._record(self._id)
            self._pump()

    def _has_begun(self, _: None) -> None:
        self._beginning = False
        self._maybe_quiet()

    def _pump(self) -> None:
        while self._queue and self._flying < self._config.write_parts and self._failure is None:
            part, done = self._queue.popleft()
            self._flying += 1
            sent = Deferred.fromCoroutine(self._send(part))
            sent.addBoth(self._landed)
            sent.chainDeferred(done)

    def _maybe_quiet(self) -> None:
        if not self._beginning and not self._flying:
            quiet, self._quiet = self._quiet, []
            for waiter in quiet:
                waiter.callback(None)

    async def _send(self, part: Part) -> None:
        def act(store: UnderStorage) -> str:
            failpoint("write.upload-recorded")
            tag = store.put_part(self._key, self._id, part.number, part.offset, part.pieces)
            failpoint("write.part-sent")
            return tag

        self._tags[part.number] = await self._patiently(act)

    def _landed(self, result: Any) -> Any:
        self._flying -= 1
        self._pump()
        self._maybe_quiet()
        return result

    def _fail(self, failure: Any) -> None:
        """The upload could not be begun."""
        error = failure.value
        if not isinstance(error, MonofsError):
            log.error("an upload failed", exception=error)
            error = Internal(f"an upload failed: {type(error).__name__}")
        self._failure = error
        self._fail_waiting(error)

    def _fail_waiting(self, error: MonofsError) -> None:
        waiting, self._queue = self._queue, deque()
        for _, done in waiting:
            done.errback(error)

    # ---- asking the store -----------------------------------------------------------------------------------------------

    async def _conclude(self, act: Callable[[UnderStorage], UfsEntry]) -> UfsEntry:
        """The outcome of an act that makes the file visible."""
        unclear = False
        for attempt in range(TRIES):
            try:
                return await self._once(act)
            except MonofsError as error:
                if isinstance(error, UfsPaused) and not attempt:
                    raise
                if not isinstance(error, UfsPaused):  # which says less than what the store said
                    failure = error
            unclear = unclear or may_be_done(failure)
            if unclear or isinstance(failure, UfsChanged | UfsNotFound):
                found = await self._look(failure)
                if found is not None and found.operation == self._name:
                    metrics.WRITES_UNCLEAR(str(self._mount), "done").value += 1
                    return found
            if isinstance(failure, UfsChanged | UfsNotFound) or not self._helps(failure) or attempt == TRIES - 1:
                break
            await self._pause(attempt)
        if unclear:
            metrics.WRITES_UNCLEAR(str(self._mount), "not_done").value += 1
        raise failure

    async def _look(self, cause: MonofsError) -> UfsEntry | None:
        """What lies at the key now. Raises ``UfsUnknown`` when the store cannot be asked."""
        try:
            return await self._patiently(lambda store: store.look(self._key), acts=False)
        except MonofsError as error:
            metrics.WRITES_UNCLEAR(str(self._mount), "unknown").value += 1
            raise UfsUnknown(
                f"{self._stores.describe(self._mount)} did not tell whether the file was written"
                f" ({cause.message}), and cannot be asked ({error.message})",
                mount=self._mount,
            ) from None

    async def _patiently(self, work: Callable[[UnderStorage], _T], *, acts: bool = True) -> _T:
        """The result of something that may be repeated at will; tried again while that can help. ``acts``: it writes to the store."""
        attempt = 0
        while True:
            try:
                return await self._once(work, acts=acts)
            except MonofsError as error:
                if not isinstance(error, UfsPaused):  # which says less than what the store said
                    failure = error
                elif not attempt:
                    raise
                attempt += 1
                if not self._helps(error) or attempt == TRIES:
                    raise failure from None
            await self._pause(attempt - 1)

    async def _once(self, work: Callable[[UnderStorage], _T], *, acts: bool = True) -> _T:
        if self._is_lost:
            raise WriteLost("this worker serves another cluster now")
        opened = self._stores.find(self._mount)  # here, where no mount changes meanwhile
        if acts:
            self._stores.check(self._mount, writes=True)
        began_s = time.monotonic()

        def call() -> _T:
            store = self._stores.enter(opened)
            try:
                return work(store)
            finally:
                opened.leave()

        try:
            result = await self._threads.run(call)
        except MonofsError as error:
            if acts:
                self._stores.note(opened, error, began_s, writes=True)
            raise
        else:
            if acts:
                self._stores.note(opened, None, began_s, writes=True)
            return result
        finally:
            self._was_stale = not self._stores.is_current(opened)

    def _helps(self, error: MonofsError) -> bool:
        """Whether trying again can help: the error says so, or the mount has other options since."""
        return not self._is_lost and (error.retry or self._was_stale)

    async def _pause(self, attempt: int) -> None:
        pause_s = min(BACK_OFF_FIRST_S * 2**attempt, BACK_OFF_MOST_S) * (0.5 + random.random())  # noqa: S311 - spreads load
        await deferLater(self._reactor, pause_s)
