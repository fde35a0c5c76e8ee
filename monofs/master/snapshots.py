"""The whole state sent to a member whose next entries are gone, and received from a leader.

The leader copies its database to a file and sends that in the form of backups (formats/copy.md), piece by piece, each asked for by the answer before:
a transfer that broke off goes on where it was. The receiver proves every piece and the whole, puts the file where a start finds it, and starts its process
anew: opening is the one place where a state is put in the place of another. Invariant: what is installed is exactly one leader's state at one index, or nothing.

One transfer each way at a time. Not here: copying and installing (metadata/copying.py), when a member needs it (journal/raft).
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable
from functools import partial
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.threads import deferToThreadPool

import monofs
from monofs.journal.raft.messages import NodeId, Position, SnapshotWanted
from monofs.metadata.copyfile import Checker, CopyHead, pack_head, unpack_head
from monofs.metadata.copying import COPY_PREFIX, DatabaseCopy, check_room, copy_database
from monofs.metadata.store import Store
from monofs.model.errors import Busy, CopyDamaged, InvalidArgument, MonofsError, NotReady
from monofs.observe.logs import logger
from monofs.rpc.api import Method, SnapshotAnswer, SnapshotRequest
from monofs.rpc.client import Client

log = logger(__name__)

PIECE_S = 30.0
SYNC_PIECES = 16
"""The receiver syncs after so many pieces of a MiB."""
RECEIVED = "received.copy"
"""In the home: a whole state, proved; the next start installs it."""
_RECEIVING = "received.part"


class Sending:
    """A leader's side. ``sent(peer, position, ok)`` is called once for each :meth:`send`; ``offer(peer, position)`` sends the message that installs."""

    def __init__(
        self,
        store: Store,
        me: NodeId,
        *,
        reactor: Any,
        dial: Callable[[NodeId], Client | None],
        cluster: Callable[[], bytes],
        copied: Callable[[NodeId, int], None],
        offer: Callable[[NodeId, Position], None],
        sent: Callable[[NodeId, Position, bool], None],
    ) -> None:
        self._store, self._me, self._reactor = store, me, reactor
        self._dial, self._cluster, self._copied, self._offer, self._sent = dial, cluster, copied, offer, sent
        self._waiting: list[SnapshotWanted] = []
        self._shares: dict[NodeId, float] = {}
        self._busy = self._stopped = False

    def send(self, wanted: SnapshotWanted) -> None:
        """Queue a transfer; one at a time runs."""
        self._waiting.append(wanted)
        if not self._busy:
            self._busy = True
            Deferred.fromCoroutine(self._run()).addErrback(
                lambda failure: log.error("sending a state failed", exception=failure.value)
            )

    def copied_of(self, peer: NodeId) -> float:
        """The share of a state that a member has got, while one is sent to it; -1: none is."""
        return self._shares.get(peer, -1.0)

    def stop(self) -> None:
        """Begin no transfer any more, and let the present one end with its next piece."""
        self._stopped = True

    async def _run(self) -> None:
        try:
            while self._waiting and not self._stopped:
                wanted = self._waiting.pop(0)
                position, ok = Position(0, 0), False
                try:
                    position = await self._transfer(wanted)
                    ok = True
                except (MonofsError, OSError) as error:
                    log.warning(
                        "a state could not be sent; it will be tried again", member=wanted.peer, error=str(error)
                    )
                self._shares.pop(wanted.peer, None)
                self._sent(wanted.peer, position, ok)
        finally:
            self._busy = False

    async def _transfer(self, wanted: SnapshotWanted) -> Position:
        client = self._dial(wanted.peer)
        if client is None:
            raise NotReady("the member has no address")
        try:
            copy = await self._copy(wanted.least_index)
            try:
                position = Position(copy.head.index, copy.head.term)
                self._copied(wanted.peer, position.index)
                await self._stream(client, copy, wanted.peer)
                self._offer(wanted.peer, position)
                return position
            finally:
                await self._in_thread(copy.remove)  # to unlink a gigabyte takes a third of a second
        finally:
            client.close()

    async def _copy(self, least_index: int) -> DatabaseCopy:
        self._store.flush()
        path = os.path.join(self._store.directory, f"{COPY_PREFIX}{secrets.token_hex(8)}")
        check_room(self._store)
        make = partial(copy_database, self._store, path, software=monofs.__version__, now_ns=0)
        copy: DatabaseCopy = await self._in_thread(make)
        if copy.head.index < least_index:
            await self._in_thread(copy.remove)
            raise NotReady(
                f"the database holds entry {copy.head.index}, and {least_index} is needed: again after its next flush"
            )
        if not copy.head.members:  # of a master that was alone: what it holds of members is not flushed yet
            await self._in_thread(copy.remove)
            raise NotReady("the database says nothing of members yet: again after its next flush")
        log.info("a member needs the whole state", index=copy.head.index, bytes=copy.head.size_bytes)
        return copy

    async def _stream(self, client: Client, copy: DatabaseCopy, peer: NodeId) -> None:
        head, number = copy.head, -1
        while number < head.chunks:
            if self._stopped:
                raise NotReady("this master is stopping")
            data = await self._in_thread(partial(copy.read, number))
            request = SnapshotRequest(self._cluster(), self._me, head.index, number, bytes(data))
            answer: SnapshotAnswer = await client.call(Method.SNAPSHOT, request, SnapshotAnswer, PIECE_S)
            if not number < answer.next <= head.chunks:
                raise CopyDamaged(f"the receiver wants piece {answer.next} after {number}")
            number = answer.next
            self._shares[peer] = number / head.chunks

    def _in_thread(self, work: Callable[[], Any]) -> Deferred[Any]:
        return deferToThreadPool(self._reactor, self._reactor.getThreadPool(), work)


class Receiving:
    """The other side: pieces in order into a file; whole and proved, it takes the name ``RECEIVED``."""

    def __init__(self, home: str, *, reactor: Any, cluster: Callable[[], bytes]) -> None:
        self._part, self._whole = os.path.join(home, _RECEIVING), os.path.join(home, RECEIVED)
        self._reactor, self._cluster = reactor, cluster
        self._checker: Checker | None = None
        self._head: CopyHead | None = None
        self._next = 0
        self._busy = False

    async def take(self, request: SnapshotRequest) -> SnapshotAnswer:
        """One piece; its disk is waited for in a thread. Raises ``Busy``, ``CopyDamaged``, ``InvalidArgument``, ``OSError``: the transfer then
        begins anew."""
        if self._busy:
            raise Busy("a piece of a state is being written: send one at a time")
        self._busy = True
        try:
            pool = self._reactor.getThreadPool()
            self._next = await deferToThreadPool(self._reactor, pool, partial(self._take, request))
            return SnapshotAnswer(self._next)
        except BaseException:
            self._head = None
            raise
        finally:
            self._busy = False

    def is_whole(self, position: Position) -> bool:
        """Whether the state at ``position`` was received and proved."""
        head = self._head
        return head is not None and not self._busy and self._next == head.chunks and (head.index, head.term) == position

    def publish(self) -> None:
        """Give the file the name that the next start looks for, durably."""
        os.rename(self._part, self._whole)
        directory = os.open(os.path.dirname(self._whole), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)

    # ---- in a thread ------------------------------------------------------------------------------------------------------

    def _take(self, request: SnapshotRequest) -> int:
        head, checker = self._head, self._checker
        if request.number == -1:
            return self._begin(unpack_head(request.data, "the state sent"))
        if head is None or checker is None or request.index != head.index or request.number != self._next:
            raise InvalidArgument(f"piece {request.number} of a state that is not being received: begin with its head")
        checker.take(request.data)
        with open(self._part, "ab") as file:
            file.write(request.data)
            file.flush()
            if request.number + 1 == head.chunks:
                checker.finish()
                os.fsync(file.fileno())
            elif request.number % SYNC_PIECES == 0:
                os.fdatasync(
                    file.fileno()
                )  # a gigabyte at once would hold up everybody's fsyncs on this disk for seconds
        return request.number + 1

    def _begin(self, head: CopyHead) -> int:
        mine = self._cluster()
        if mine and head.cluster != mine:
            raise InvalidArgument("the state sent is that of another cluster")
        if not head.members:  # whoever began with it would take itself for a group of one, and lead
            raise InvalidArgument("the state sent says nothing of members: send one that does")
        if self._head is not None and (head.sha256, head.index) == (self._head.sha256, self._head.index):
            return self._next  # goes on where it broke off
        self._head, self._checker = head, Checker(head, "the state sent")
        with open(self._part, "wb") as file:
            file.write(pack_head(head))
        return 0
