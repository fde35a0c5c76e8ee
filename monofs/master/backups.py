"""BACKUP: a copy of the namespace database, made beside it and sent from there, so that no slow reader holds up the database.

One copy at a time. It is kept while somebody reads it and for ``KEPT_S`` after, so that a connection that broke can go on where it was; the
next backup, or whoever has it all, ends that. Memory: one chunk for each reader and what its connection has not taken yet. Not here: how a
copy is made and what it looks like (metadata/copying.py, copyfile.py).
"""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred, succeed
from twisted.internet.threads import deferToThreadPool

from monofs import __version__
from monofs.master.access import check_access
from monofs.master.auditing import audited
from monofs.master.flushing import flush_through
from monofs.metadata.copying import COPY_PREFIX, DatabaseCopy, check_room, copy_database
from monofs.metadata.namespace import Namespace
from monofs.model.errors import Busy, ConnectionLost, MonofsError, NotFound
from monofs.model.principal import Right
from monofs.observe.logs import logger
from monofs.rpc.api import BackupInfo, BackupRequest, Empty
from monofs.rpc.service import Call

KEPT_S = 600.0
"""How long a copy nobody reads is kept."""

log = logger(__name__)


class _Held:
    """A copy and who reads it."""

    __slots__ = ("copy", "id", "readers", "timer")

    def __init__(self, copy: DatabaseCopy) -> None:
        self.copy = copy
        self.id = secrets.token_hex(8)
        self.readers = 0
        self.timer: Any = None


class Backups:
    """The handler of one master."""

    def __init__(self, namespace: Namespace, *, reactor: Any, now_ns: Callable[[], int]) -> None:
        self._namespace, self._reactor, self._now_ns = namespace, reactor, now_ns
        self._held: _Held | None = None
        self._making: Deferred[Any] | None = None
        self._reading = 0
        self._idle: Deferred[None] | None = None
        self._stopped = False

    def backup(self, request: BackupRequest, call: Call) -> Deferred[Empty]:
        """Make a copy, or go on with one, and send it: one ITEM that says what it is, then DATA, a frame for the head and for each chunk."""
        if request.done:
            check_access(call.principal, Right.ADMIN)
            self._end(request.copy)
            return succeed(Empty())
        record = audited(call, "backup", "/", "")
        try:
            check_access(call.principal, Right.ADMIN)
        except MonofsError as error:
            record(error)
            raise
        return record.around(self._backup(request, call))

    async def _backup(self, request: BackupRequest, call: Call) -> Empty:
        held = self._find(request.copy) if request.copy else await self._make(call)
        if call.closed and not request.copy:  # whoever asked never heard of it
            self._drop(held)
            raise ConnectionLost("whoever asked for the backup is gone")
        held.readers += 1
        self._reading += 1
        if held.timer is not None:
            held.timer.cancel()
            held.timer = None
        try:
            first = held.copy.head.border(request.offset)
            call.item(BackupInfo(held.id, held.copy.head.total_bytes))
            await self._send(held.copy, first, call)
        finally:
            held.readers -= 1
            self._reading -= 1
            self._rest(held)
        return Empty()

    async def _send(self, copy: DatabaseCopy, first: int, call: Call) -> None:
        pool = self._reactor.getThreadPool()
        for number in range(first, copy.head.chunks):
            frame = await deferToThreadPool(self._reactor, pool, copy.read, number)
            while not call.closed and not call.writable:
                writable: Deferred[None] = Deferred()
                call.when_writable(lambda waiter=writable: waiter.callback(None))  # type: ignore[misc] # bound now
                await writable
            if call.closed or self._stopped:
                raise ConnectionLost(f"the backup was broken off at chunk {number} of {copy.head.chunks}")
            call.data(memoryview(frame))

    def _end(self, id: str) -> None:
        held = self._held
        if held is not None and held.id == id and not held.readers:
            self._drop(held)

    def _find(self, id: str) -> _Held:
        if self._held is None or self._held.id != id:
            raise NotFound("this copy is not held any more: begin the backup anew")
        return self._held

    async def _make(self, call: Call) -> _Held:
        if self._making is not None or (self._held is not None and self._held.readers):
            raise Busy("another backup is being made: try again when it is through")
        if self._held is not None:
            self._drop(self._held)
        call.waits_for = "the namespace to be copied"
        making = self._making = Deferred.fromCoroutine(self._copy())
        try:
            held = self._held = _Held(await making)
        finally:
            self._making = None
            self._settle()
        if self._stopped:
            self._drop(held)
            raise ConnectionLost("the node is stopping")
        return held

    async def _copy(self) -> DatabaseCopy:
        store, began = self._namespace.store, time.monotonic()
        await flush_through(store, self._namespace.applied_index, self._reactor)
        check_room(store)
        path = os.path.join(store.directory, COPY_PREFIX + secrets.token_hex(8))

        def make() -> DatabaseCopy:
            return copy_database(store, path, software=__version__, now_ns=self._now_ns())

        copy: DatabaseCopy = await deferToThreadPool(self._reactor, self._reactor.getThreadPool(), make)
        log.info(
            "namespace copied",
            index=copy.head.index,
            bytes=copy.head.size_bytes,
            seconds=round(time.monotonic() - began, 3),
        )
        return copy

    def _rest(self, held: _Held) -> None:
        """Nobody may be reading it now."""
        if not held.readers and held is self._held:
            if self._stopped:
                self._drop(held)
            else:
                held.timer = self._reactor.callLater(KEPT_S, self._drop, held)
        self._settle()

    def _drop(self, held: _Held) -> None:
        if held.timer is not None and held.timer.active():
            held.timer.cancel()
        held.timer = None
        if held is self._held:
            self._held = None
        # in a thread: to unlink a gigabyte takes a third of a second. What cannot be unlinked is at the next start.
        removed = deferToThreadPool(self._reactor, self._reactor.getThreadPool(), held.copy.remove)
        removed.addErrback(lambda failure: log.warning("a copy stays until the next start", error=str(failure.value)))

    def _settle(self) -> None:
        if self._idle is not None and self._making is None and not self._reading:
            idle, self._idle = self._idle, None
            idle.callback(None)

    async def stop(self) -> None:
        """Break off what is sent, wait for the thread that copies, remove the copy: the database is closed next."""
        self._stopped = True
        if self._making is not None or self._reading:
            self._idle = Deferred()
            await self._idle
        if self._held is not None:
            self._drop(self._held)
