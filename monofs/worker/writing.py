"""One write at a worker: bytes in order, out to the store and the cache, and its end.

The path: bytes are collected into parts. A file within one part is one call in a thread: its pages into the cache, then the put. A longer
one sends its parts, and writes their pages, as they fill. After the last byte: readers of what is replaced are spared, the act makes the file
visible, its pages become readable, END_WRITE gives it its name, and the writer gets its record. Bytes without a store (MUST_CACHE) are fsynced,
while the path is locked, and kept before END_WRITE instead.

Invariants: bytes are taken in the order of their offsets, each once; exactly one of END_WRITE and ABANDON_WRITE is said to the master, unless
it cannot be reached, and then its own look around finds the write; of what is abandoned no page and no upload stays, unless nobody knows
whether it was done. Reactor thread only. Not here: the table of writes (writers.py), tries at the store (uploading.py).
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

from twisted.internet.defer import CancelledError, Deferred, succeed
from twisted.internet.task import deferLater

from monofs.config.schema import WorkerConfig
from monofs.model.attributes import Attributes, check_attributes, check_etag, store_headers
from monofs.model.block import PAGE_SIZE_BYTES
from monofs.model.capability import CacheGroup, Capability
from monofs.model.errors import (
    Busy,
    ConditionFailed,
    Internal,
    InvalidArgument,
    InvariantBroken,
    MonofsError,
    Overloaded,
    UfsUnknown,
    WriteLost,
    from_code,
)
from monofs.model.ids import ContentId
from monofs.model.options import WriteType
from monofs.observe import metrics
from monofs.observe.failpoints import failpoint
from monofs.observe.logs import logger
from monofs.observe.tracing import TRACE, current_trace, show_trace
from monofs.rpc.api import (
    AbandonWriteAnswer,
    AbandonWriteRequest,
    Empty,
    EndWriteRequest,
    Failure,
    InodeAnswer,
    Message,
    Method,
    PublishAnswer,
    PublishRequest,
    RecordUploadRequest,
    WriteAnswer,
    WriteRequest,
)
from monofs.rpc.service import Call
from monofs.tiering.cache import Cache
from monofs.ufs.base import UfsEntry, part_size
from monofs.worker.disks import Disks
from monofs.worker.membership import MasterClient
from monofs.worker.pins import Pins
from monofs.worker.room import Room
from monofs.worker.sparing import Sparing
from monofs.worker.stores import Stores
from monofs.worker.threads import Threads
from monofs.worker.uploading import Part, Upload
from monofs.worker.warming import Batch, Warming

log = logger(__name__)

WRITE_BYTES_MAX = PAGE_SIZE_BYTES
KEPT_PART_BYTES = 2 << 20
"""How much of a file without a store is written to the disk at a time: the last of it while its writer waits."""
UNANSWERED_MAX = 16
"""WRITEs of one file that may wait for room; a writer that sends more gets ``Overloaded``."""
MASTER_S = 30.0
END_PATIENCE_S = 600.0
"""How long a master that does not answer is told the end of a write again and again."""
PUBLISH_PATIENCE_S = 60.0
BACK_OFF_FIRST_S = 0.1
BACK_OFF_MOST_S = 5.0
_T = TypeVar("_T")


@dataclass(slots=True, frozen=True)
class Tools:
    """What writes are made of."""

    config: WorkerConfig
    cache: Cache
    disks: Disks
    stores: Stores
    threads: Threads
    room: Room
    pins: Pins
    sparing: Sparing
    master: MasterClient
    worker: Callable[[], int]
    reactor: Any
    fatal: Callable[[BaseException], None]
    on_written: Callable[[ContentId], None]


class Writing:
    """One operation from its first byte to its end. ``on_over`` is called once, when nothing more will happen."""

    def __init__(self, tools: Tools, token: bytes, capability: Capability, on_over: Callable[[Writing], None]) -> None:
        self._tools, self._token, self.capability, self._on_over = tools, token, capability, on_over
        kept = not capability.mount or capability.write_type == WriteType.MUST_CACHE
        self._is_kept = kept
        self._upload = (
            None
            if kept
            else Upload(tools.config, tools.stores, tools.threads, tools.reactor, capability, self._record_upload)
        )
        self._is_safe = kept and capability.content in tools.cache.kept
        """Bytes that no store has are on the disk, those of a write sent again to a restarted worker included: from now on only the
        retirement of their content takes them away."""
        self._warming: Warming | None = None
        if capability.write_type != WriteType.THROUGH and not self._is_safe:
            self._warming = Warming(tools.cache, tools.disks, capability, keep=kept)
        self.received = 0
        self.heard_at = time.monotonic()
        self.error: MonofsError | None = None
        self.answer: WriteAnswer | None = None
        self.closing = self.over = False
        self._began = time.monotonic()
        self._pieces: list[memoryview] = []
        self._filled = 0
        self._number = 1
        self._limit = self._part_bytes(1)
        self._shipped = 0
        """Parts on their way."""
        self._landed: Deferred[None] | None = None
        self._waiting: list[Call] = []
        """Calls whose answer waits for room, or for the end."""
        self._held: list[tuple[int, Call]] = []
        """Of these, those that wait for a part to leave, with the bytes they are answered with."""
        self.tokens = [token]
        self._attributes: Attributes | None = None
        self._etag = ""
        self._trace = current_trace()
        self._tasks: set[Deferred[None]] = set()

    @property
    def operation(self) -> int:
        """The number of the master's intent."""
        return self.capability.operation

    # ---- bytes ----------------------------------------------------------------------------------------------------------

    def take(self, request: WriteRequest, call: Call) -> Message | None:
        """A WRITE. Raises ``InvalidArgument`` for bytes that leave a gap or are too many, ``Overloaded``, or why the write has failed."""
        offset, data, last = request.offset, request.data, request.last
        self.heard_at = time.monotonic()
        if self.error is not None:
            raise self.error
        if len(data) > WRITE_BYTES_MAX:
            raise InvalidArgument(f"{len(data)} bytes in one request; at most {WRITE_BYTES_MAX}")
        if not 0 <= offset <= self.received:
            raise InvalidArgument(
                f"bytes at {offset} come before those at {self.received}: they are to be sent in order"
            )
        fresh = data[self.received - offset :]
        if self.closing:
            return self._take_again(fresh, call, last=last)
        size = self.capability.size
        end = self.received + len(fresh)
        if 0 <= size < end or (last and 0 <= size != end):
            raise InvalidArgument(f"{end} bytes of a file that was announced with {size}")
        if len(self._waiting) >= UNANSWERED_MAX:
            raise Overloaded(f"{UNANSWERED_MAX} requests of this file wait for room; wait for their answers")
        if fresh and self._tools.room.is_over(self.operation):
            raise Overloaded("too many bytes of unfinished files are in this worker's memory; try again shortly")
        if request.attributes is not None or request.etag:
            self._note_attributes(request)
        try:
            self._collect(fresh)
        except MonofsError as error:  # no room that must be had, or too many parts
            self.give_up(error)
            raise
        if last:
            self.closing = True
            self._waiting.append(call)
            call.waits_for = f"the file to be written to {self._tools.stores.describe(self.capability.mount)}"
            self._own(self._finish())
            return None
        return self._answer_when_room(call)

    def _note_attributes(self, request: WriteRequest) -> None:
        check_etag(request.etag)
        if request.attributes is not None:
            check_attributes(request.attributes)
            self._attributes = request.attributes
            if self._upload is not None and not self.received:
                self._upload.headers = store_headers(request.attributes)
        self._etag = request.etag

    def _take_again(self, fresh: memoryview, call: Call, *, last: bool) -> Message | None:
        if fresh:
            raise InvalidArgument("bytes were sent behind the last ones")
        if not last:
            return WriteAnswer(self.received)
        self._waiting.append(call)
        return None

    def _answer_when_room(self, call: Call) -> Message | None:
        """The answer; None: it waits for a part to leave, or for room."""
        call.waits_for = "room for unfinished writes in the worker's memory (worker.write_bytes)"
        self._waiting.append(call)
        if self._shipped > self._tools.config.write_parts:
            self._held.append((self.received, call))
        else:
            self._tools.room.wait(self.operation, partial(self._answer, self.received, call))
        return None

    def _answer(self, received: int, call: Call) -> None:
        if call in self._waiting:
            self._waiting.remove(call)
            call.answer(WriteAnswer(received))

    def _collect(self, data: memoryview) -> None:
        """Add bytes to the part; one that is full goes when more come."""
        while data:
            if self._filled == self._limit:
                self._ship()
            piece = data[: self._limit - self._filled]
            self._pieces.append(piece)
            self._filled += len(piece)
            self.received += len(piece)
            self._tools.room.take(self.operation, len(piece))
            data = data[len(piece) :]

    def _part_bytes(self, number: int) -> int:
        return KEPT_PART_BYTES if self._is_kept else part_size(number)

    def _cut(self) -> Part:
        """The part collected so far."""
        part = Part(self._number, self.received - self._filled, self._pieces)
        self._pieces, self._filled = [], 0
        return part

    def _ship(self) -> None:
        """Send a full part of a file that goes on."""
        size, part = self._filled, self._cut()
        try:
            self._number += 1
            self._limit = self._part_bytes(self._number)
            batches = self._plan(part, -1)
        except MonofsError:
            self._tools.room.give(self.operation, size)
            raise
        self._shipped += 1
        self._tools.room.send(size)
        self._own(self._carry(part, batches, size))

    def _plan(self, part: Part, size: int) -> list[Batch]:
        """Room for the part's pages in the cache. Raises when there is none and there must be."""
        if self._warming is None:
            return []
        try:
            return self._warming.plan(part.offset, part.pieces, size)
        except MonofsError as error:
            self._cool(error)
            return []

    def _cool(self, error: MonofsError) -> None:
        """The cache cannot take the file: go on without, unless it is the only place."""
        if self._is_kept:
            raise error
        warming, self._warming = self._warming, None
        if warming is not None:
            warming.drop()
            metrics.WRITES_UNCACHED(type(error).__name__).value += 1

    async def _carry(self, part: Part, batches: Sequence[Batch], size: int) -> None:
        """One part to where it belongs."""
        try:
            sent = self._send(part) if self._upload is not None else None
            failed: MonofsError | None = None
            try:
                await self._warm(batches)
            except MonofsError as error:
                failed = error
            if sent is not None:
                await sent
            if failed is not None:
                raise failed
        except MonofsError as error:
            self.give_up(error)
        finally:
            self._tools.room.sent(self.operation, size)
            self._shipped -= 1
            held, self._held = self._held, []
            for received, call in held:
                self._tools.room.wait(self.operation, partial(self._answer, received, call))
            if not self._shipped and self._landed is not None:
                landed, self._landed = self._landed, None
                landed.callback(None)

    def _send(self, part: Part) -> Deferred[None]:
        assert self._upload is not None  # noqa: S101 - it has a store
        return self._upload.send(part)

    async def _warm(self, batches: Sequence[Batch]) -> None:
        if self._warming is not None and batches:
            try:
                await self._warming.add(batches)
            except MonofsError as error:
                self._cool(error)

    # ---- the end --------------------------------------------------------------------------------------------------------

    async def _finish(self) -> None:
        size, part = self._filled, self._cut()
        self._tools.room.send(size)
        try:
            if self._shipped:
                self._landed = Deferred()
                await self._landed
            if self.error is None:
                await self._conclude(part)
        except MonofsError as error:
            self.give_up(error)
        finally:
            self._tools.room.sent(self.operation, size)

    async def _conclude(self, part: Part) -> None:
        entry = None
        if self._is_safe:
            self._check_whole()
        elif self._upload is None:
            await self._keep(part)
        elif part.number == 1:
            entry = await self._put(part, self._upload)
        else:
            entry = await self._complete(part, self._upload)
        if self.error is not None:  # given up meanwhile: the cluster is another one
            return
        if not self._is_kept:
            self._commit()
        await self._end(entry)

    def _check_whole(self) -> None:
        """What was kept before is all of the file; else the worker died over it, and nobody was told that it is there."""
        groups = self._tools.cache.groups(self.capability.content)
        kept_bytes = sum(group.length for group in groups if group.kept and group.present == group.pages)
        if kept_bytes != self.received:
            self._is_safe = False
            raise WriteLost("this worker was stopped while it made the file safe: write it again")

    async def _put(self, part: Part, upload: Upload) -> UfsEntry:
        """One thread job: pages, then the put."""
        batches = self._plan(part, self.received)
        warming = self._warming
        crcs: list[tuple[int, list[tuple[int, int]]]] = []
        trouble: list[MonofsError] = []

        def write_pages() -> None:
            if warming is None or not batches:
                return
            try:
                crcs.extend(warming.write(batches))
            except MonofsError as error:
                trouble.append(error)

        if warming is not None:
            warming.begin()
        try:
            await self._tools.sparing.spare(self.capability)
            replaced = self.capability.fingerprint
            if self.capability.size < 0:
                replaced = (await self._publish()).replaced
            entry = await upload.put(part.pieces, replaced, write_pages)
        finally:
            if warming is not None:
                warming.written(crcs)
        if trouble:
            self._cool(trouble[0])
        return entry

    async def _complete(self, part: Part, upload: Upload) -> UfsEntry:
        """The last part, then the act on all of them."""
        sent = self._send(part)
        failed: MonofsError | None = None
        try:
            await self._warm(self._plan(part, self.received))
        except MonofsError as error:
            failed = error
        await sent
        if failed is not None:
            raise failed
        await self._tools.sparing.spare(self.capability)
        return await upload.complete(self.received, (await self._publish()).replaced)

    async def _publish(self) -> PublishAnswer:
        """Lock the path; a write whose size was announced has it locked since it began."""
        worker = self._tools.worker()
        request = PublishRequest(self.operation, self.received, worker, self._attributes, self._etag)
        answer = await self._ask(Method.PUBLISH, request, PublishAnswer, PUBLISH_PATIENCE_S)
        if self.capability.mount and answer.key != self.capability.key:
            raise ConditionFailed("the directory was moved while the file was written: write it again")
        return answer

    async def _keep(self, part: Part) -> None:
        """Lock the path, and make bytes that no store has safe on this worker's disks."""
        publishing: Deferred[Any] = (
            succeed(None) if self.capability.size >= 0 else Deferred.fromCoroutine(self._publish())
        )
        try:
            await self._sync_pages(part)
        except BaseException:
            publishing.addErrback(lambda _: None).cancel()  # ABANDON_WRITE takes the lock away
            raise
        await publishing
        if self._warming is None or not self.received:
            return
        self._commit()
        await self._flushed()
        self._is_safe = True
        failpoint("write.acted")

    async def _sync_pages(self, part: Part) -> None:
        warming = self._warming
        if warming is not None and self.received:
            is_all = part.number == 1
            await warming.add(self._plan(part, self.received), synced=is_all)
            failpoint("write.begun")
            if not is_all:
                await warming.sync()

    def _flushed(self) -> Deferred[None]:
        """Fires once the index has on its disk what it was told so far."""
        done: Deferred[None] = Deferred()

        def told(error: MonofsError | None) -> None:
            if not done.called:  # given up meanwhile
                done.callback(None) if error is None else done.errback(error)

        self._tools.cache.index.when_flushed(told)
        return done

    def _commit(self) -> None:
        warming, self._warming = self._warming, None
        if warming is None:
            return
        try:
            warming.commit()
        except MonofsError:
            if self._is_kept:
                raise
        if self.capability.group & CacheGroup.PINNED:
            self._tools.pins.honour(self.capability)

    async def _end(self, entry: UfsEntry | None) -> None:
        """The name: from now on the master knows."""
        made = entry if entry is not None else UfsEntry(b"", is_directory=False)
        request = EndWriteRequest(
            self.operation,
            self.received,
            made.mtime_ns,
            made.fingerprint,
            persisted=entry is not None,
            mode=-1 if made.mode is None else made.mode,
            uid=made.uid or 0,
            gid=made.gid or 0,
            worker=self._tools.worker(),
            capability=self._token,
            attributes=self._attributes,
            etag=self._etag,
        )
        try:
            answer = await self._ask(Method.END_WRITE, request, InodeAnswer, END_PATIENCE_S)
        except MonofsError as error:
            self._ended_badly(error)
            return
        failpoint("write.ended")
        self.answer = WriteAnswer(self.received, answer.inode)
        self._tools.on_written(self.capability.content)
        mount, write_type = str(self.capability.mount), self.capability.write_type
        metrics.WRITTEN_BYTES(mount, write_type).value += self.received
        metrics.WRITE_TIME(write_type).observe(time.monotonic() - self._began)
        for call in self._close():
            call.answer(self.answer)

    def _ended_badly(self, error: MonofsError) -> None:
        """The act is done and the master does not take it: it finds out what lies in the store by itself."""
        log.warning("the end of a write was not accepted", **self._account(error))
        if not error.retry and not self._is_safe:
            self._tools.cache.drop(self.capability.content)
        self.error = error
        self._fail_waiting(error)

    # ---- giving up ------------------------------------------------------------------------------------------------------

    def give_up(self, error: MonofsError) -> None:
        """The write ends without a file."""
        if self.error is None and not self.over:
            self.error = error
            self._own(self._abandon(error))

    def lose(self, error: MonofsError) -> None:
        """The cluster is another one: neither its master nor its stores know of this write."""
        if self._upload is not None:
            self._upload.lose()
        self.error = error
        self._drop_pages()
        self._fail_waiting(error)

    def forget(self) -> None:
        """The worker ends, before the write did: nothing more is done for it."""
        for task in list(self._tasks):
            task.cancel()
        self._drop_pages()

    async def abort(self) -> None:
        """The writer does not want it any more. Raises ``Busy`` once the last byte was sent."""
        if self.closing:
            raise Busy("the file is being published: its end decides")
        if self.error is None:
            self.error = InvalidArgument("the write was aborted")
            await self._abandon(self.error)

    async def _abandon(self, error: MonofsError) -> None:
        self._drop_pages()
        if self._upload is not None and not isinstance(error, UfsUnknown):
            try:
                await self._upload.abort()
            except MonofsError as trouble:
                log.warning("an upload could not be aborted; the master will", **self._account(trouble))
        if not self.over:
            self.error = await self._tell(error)
            self._fail_waiting(self.error)

    def _drop_pages(self) -> None:
        warming, self._warming = self._warming, None
        if warming is not None:
            warming.drop()
        if self._is_kept and not self._is_safe:
            self._tools.cache.drop(self.capability.content)

    async def _tell(self, error: MonofsError) -> MonofsError:
        """Tell the master; what it says the writer should hear."""
        failure = Failure(error.code, error.message, error.detail)
        request = AbandonWriteRequest(self.operation, failure, isinstance(error, UfsUnknown), self._tools.worker())
        try:
            answer = await self._tools.master.call(Method.ABANDON_WRITE, request, AbandonWriteAnswer, MASTER_S)
        except MonofsError as trouble:
            log.warning("the master was not told that a write is abandoned; it will see", **self._account(trouble))
            return error
        return from_code(answer.error.code, answer.error.message, answer.error.detail)

    def _fail_waiting(self, error: MonofsError) -> None:
        for call in self._close():
            call.fail(error)

    # ---- common ---------------------------------------------------------------------------------------------------------

    def _close(self) -> list[Call]:
        """Nothing more will happen; the calls to be told."""
        if self.over:
            return []
        self.over = True
        room = self._tools.room
        room.give(self.operation, self._filled)
        self._pieces, self._filled = [], 0
        room.forget(self.operation)
        waiting, self._waiting = self._waiting, []
        self._on_over(self)
        return waiting

    def _record_upload(self, upload: str) -> Deferred[Any]:
        request = RecordUploadRequest(self.operation, upload, self._tools.worker())
        return Deferred.fromCoroutine(self._ask(Method.RECORD_UPLOAD, request, Empty, PUBLISH_PATIENCE_S))

    async def _ask(self, method: Method, request: Message, answer_type: type[_T], patience_s: float) -> _T:
        """Ask the master, again while that can help and ``patience_s`` have not passed."""
        deadline, pause_s = time.monotonic() + patience_s, BACK_OFF_FIRST_S
        while True:
            if self.over:
                raise WriteLost("the write was given up")
            try:
                answer: _T = await self._tools.master.call(method, request, answer_type, MASTER_S)
                return answer
            except MonofsError as error:
                if not error.retry or time.monotonic() >= deadline:
                    raise
            await deferLater(self._tools.reactor, pause_s * (0.5 + random.random()))  # noqa: S311 - spreads load
            pause_s = min(2 * pause_s, BACK_OFF_MOST_S)

    def _own(self, work: Coroutine[Any, Any, None]) -> None:
        """Run a part of this write; what it does not handle is a bug, and ends the write."""
        token = TRACE.set(self._trace)
        try:
            task = Deferred.fromCoroutine(work)
        finally:
            TRACE.reset(token)
        self._tasks.add(task)
        task.addErrback(self._crashed).addCallback(lambda _: self._tasks.discard(task))

    def _crashed(self, failure: Any) -> None:
        error = failure.value
        if isinstance(error, CancelledError):
            return
        log.error("a write failed inside the worker", exception=error, operation=self.operation)
        if isinstance(error, InvariantBroken):
            self._tools.fatal(error)
        told = f"writing failed inside the worker: {type(error).__name__}"
        self.give_up(UfsUnknown(told) if self.closing and self._upload is not None else Internal(told))

    def _account(self, error: MonofsError) -> dict[str, Any]:
        return {
            "trace": show_trace(self._trace),
            "operation": self.operation,
            "mount": self.capability.mount,
            "key": self.capability.key,
            "error": error.message,
            "code": error.code,
        }
