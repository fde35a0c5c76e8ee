"""Files of the tree as objects: looked up, opened, written, each with the rights of who asks.

Invariant: a write is published with its last bytes, which are sent only when all is verified; what fails before is aborted, and no byte of it is ever
seen. A whole file in memory is sent again when its worker is lost in the middle, there or elsewhere, and is written once; of a longer one whose worker is lost
at its end is told what became of it. Not here: HTTP, S3's documents.
"""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from functools import lru_cache
from typing import Any, Protocol, TypeVar

import msgspec
from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater

from monofs.gateways.s3.asking import Asked, Caller, told
from monofs.gateways.s3.bytes_out import Sources, Streaming
from monofs.gateways.s3.conditions import WriteCondition
from monofs.gateways.s3.errors import S3Error
from monofs.model.attributes import EMPTY_ETAG, Attributes, decode_attributes, etag_of, of_bucket
from monofs.model.block import GROUP_SIZE_BYTES, PAGE_SIZE_BYTES, pages_mask
from monofs.model.errors import (
    ConnectionLost,
    InvariantBroken,
    MonofsError,
    NotADirectory,
    NotFound,
    NotReady,
    NoWorker,
    OutcomeUnknown,
    Unreachable,
    WriteLost,
)
from monofs.model.inode import Flag, Inode, decode_inode
from monofs.model.options import LoadType
from monofs.model.paths import Parts, format_path
from monofs.rpc.api import (
    NIL,
    AbortWriteRequest,
    BeginWriteAnswer,
    BeginWriteRequest,
    Empty,
    FetchAnswer,
    FetchRequest,
    InodeAnswer,
    ListKeysAnswer,
    ListKeysRequest,
    MakeDirectoryRequest,
    Method,
    OpenAnswer,
    OpenPartRequest,
    OpenRequest,
    ReadOptions,
    SetAttributesRequest,
    StatAnswer,
    StatRequest,
    WriteAnswer,
    WriteRequest,
)

DATA_BYTES = 128 << 10
"""A file up to this size may come with its OPEN: where the master is in this process, or else up to half of it."""
FETCH_BYTES = 4 << 20
"""Brought ahead of a read; the read brings the rest."""
LOOK_S = 30.0
WRITE_S = 3600.0
"""The last WRITE waits for the store."""
IN_FLIGHT = 4
"""WRITEs of one file that may have no answer yet, a MiB each: a worker that is another one is sent more while it takes them."""
IN_FLIGHT_ALL = 32
"""Of all files together; beyond, each has one. A channel refuses what it cannot send (``rpc.client.UNSENT_MAX_BYTES``)."""
PATIENCE_S = 60.0
"""So long a small file whose worker is lost is sent again, and what became of a longer one asked; a worker is given up when it was silent for 10."""
PAUSE_S = 0.1
RECORDS_KEPT = 4096
"""Some KiB each."""
USUAL = ReadOptions()
NOW = ReadOptions(sync_interval_s=0)
KNOWN = ReadOptions(sync_interval_s=-1, load=LoadType.NEVER)
"""No store is asked."""
NOTHING = Attributes()
NO_ATTRIBUTES = bytes(NIL)
_T = TypeVar("_T")
_LOST = (WriteLost, ConnectionLost, Unreachable, NoWorker, NotReady)
"""Of a worker that knows nothing of a write (any more), or, restarted, no master yet."""


class Record:
    """What the master keeps of a file, decoded. It never changes, so what is made of it is kept with it: ``lines``."""

    __slots__ = ("attributes", "etag", "inode", "lines", "mtime_s")

    def __init__(self, inode: Inode, attributes: Attributes) -> None:
        self.inode, self.attributes = inode, attributes
        self.etag = etag_of(inode)
        """Without quotes."""
        self.mtime_s = inode.mtime_ns // 1_000_000_000
        """Whole seconds, as S3 tells times."""
        self.lines: dict[bool, bytes] = {}
        """Headers of an answer with all of it, by whether checksums are told."""


@lru_cache(maxsize=RECORDS_KEPT)
def read_record(inode: bytes, attributes: bytes) -> Record:
    """A record of these bytes. Those read again and again are decoded once."""
    return Record(decode_inode(inode), NOTHING if attributes == NO_ATTRIBUTES else decode_attributes(attributes))


class Found(msgspec.Struct, frozen=True):
    """A file as the master told it."""

    record: Record
    token: bytes = b""
    workers: Sequence[int] = ()
    data: bytes = b""
    unlearnt: bool = False
    """What its store keeps with it has still to be asked for."""

    @property
    def inode(self) -> Inode:
        """As stored."""
        return self.record.inode

    @property
    def attributes(self) -> Attributes:
        """What is kept beside the bytes."""
        return self.record.attributes

    @property
    def etag(self) -> str:
        """Without quotes."""
        return self.record.etag

    @property
    def mtime_s(self) -> int:
        """Whole seconds."""
        return self.record.mtime_s

    def check_whole(self) -> None:
        """Raise ``S3Error`` where bytes of an object ``dir/`` are in its store alone, which cannot be read, nor kept when it is put anew."""
        inode = self.inode
        if not inode.is_directory:
            return
        if inode.flags & Flag.HEADERS_UNKNOWN:
            raise S3Error("ServiceUnavailable", "What the store has of this object is not known now.")
        if inode.size != len(self.data):
            raise S3Error(
                "InvalidArgument",
                f"This object has {inode.size} bytes in its store, more than are kept of one that is a directory: write it anew, or use its store.",
            )


class Worker(Caller, Streaming, Protocol):
    """This node's own worker."""


class Files:
    """The cluster's files, for one door."""

    def __init__(
        self, sources: Sources, local: Worker, writer: Callable[[int], Awaitable[Caller | None]], reactor: Any
    ) -> None:
        """``local``: this node's own worker; ``writer``: a channel to a worker by its number."""
        self.sources, self.local, self._writer, self._reactor = sources, local, writer, reactor
        self._in_flight = 0

    def look(
        self,
        asked: Asked,
        path: str,
        *,
        opens: bool,
        as_key: bool = True,
        learn_later: bool = False,
        options: ReadOptions = USUAL,
    ) -> Found | Deferred[Found]:
        """A file, or if not ``as_key``, a directory of this path, and if it ``opens``, what it takes to read it; plainly where it is known at
        once. ``learn_later``: an opened one may come ``unlearnt``. Raises, or the Deferred fails with, ``MonofsError``."""
        if opens:
            request = OpenRequest(
                path, data_bytes=DATA_BYTES, attributes=True, as_key=as_key, data_alone=True, learn_later=learn_later
            )
            opened = asked.master(Method.OPEN, request, OpenAnswer, LOOK_S)
            return _opened(opened) if isinstance(opened, OpenAnswer) else opened.addCallback(_opened)
        request_ = StatRequest(path, options, attributes=True, as_key=as_key)
        answer = asked.master(Method.STAT, request_, StatAnswer, LOOK_S)
        return _known(answer) if isinstance(answer, StatAnswer) else answer.addCallback(_known)

    async def stat(self, asked: Asked, path: str, *, as_key: bool = True, options: ReadOptions = USUAL) -> Found:
        """:meth:`look` without opening. Raises ``MonofsError``."""
        found = self.look(asked, path, opens=False, as_key=as_key, options=options)
        return found if isinstance(found, Found) else await found

    async def open(self, asked: Asked, path: str) -> Found:
        """:meth:`look` that opens. Raises ``MonofsError``."""
        found = self.look(asked, path, opens=True)
        return found if isinstance(found, Found) else await found

    async def check_known_bucket(self, asked: Asked) -> Found:
        """:meth:`check_bucket` by what is known: no store is asked, so anybody may."""
        return await self.check_bucket(asked, KNOWN)

    async def check_bucket(self, asked: Asked, options: ReadOptions = USUAL) -> Found:
        """The directory of the bucket. Raise ``S3Error`` (NoSuchBucket) unless the bucket of the request is there."""
        try:
            found = await self.stat(asked, format_path(asked.bucket), as_key=False, options=options)
        except MonofsError as error:
            raise told(error, bucket=True) from None
        if not found.inode.is_directory:
            raise S3Error("NoSuchBucket")
        return found

    async def stat_file(self, asked: Asked, path: str, *, as_key: bool = True) -> Found | None:
        """A file, or if not ``as_key``, a directory; None where there is none."""
        try:
            return await self.stat(asked, path, as_key=as_key)
        except (NotFound, NotADirectory):
            return None

    async def marker(self, asked: Asked, parts: Parts, *, now: bool = False) -> Found:
        """The object ``dir/``: a directory that is one, or that listings tell as one because it is empty. ``now``: as its store has it at this moment.
        Raises ``MonofsError``."""
        path = format_path(parts)
        found = await self.stat(asked, path, as_key=False)
        now |= bool(found.inode.flags & Flag.HEADERS_UNKNOWN)  # the store has another one by now, or does not answer
        if now or not found.inode.flags & Flag.MARKER:
            key = parts[-1] + b"/"
            options = NOW if now else USUAL
            request = ListKeysRequest(format_path(parts[:-1]), key, limit=1, options=options)
            if (await asked.ask(Method.LIST_KEYS, request, ListKeysAnswer)).keys != [key]:
                raise NotFound(f"{path} is no object", path=path)
            found = await self.stat(asked, path, as_key=False)
        inode = found.inode
        told = inode if inode.size else msgspec.structs.replace(inode, etag=EMPTY_ETAG)
        return Found(Record(told, found.attributes), data=found.attributes.body)

    async def tag(self, asked: Asked, path: str, found: Found, tags: dict[str, str]) -> None:
        """Replace the tags of an object. Raises ``MonofsError``."""
        if found.inode.flags & Flag.MARKER:  # put anew, so that a store has them, too
            found.check_whole()
            kept = msgspec.structs.replace(
                found.attributes, tags=tags, **of_bucket(None)
            )  # which stays with the directory
            version = found.inode.fingerprint
            marker = MakeDirectoryRequest(path, exist_ok=True, marker=True, attributes=kept, replaced=version)
            await asked.ask(Method.MAKE_DIRECTORY, marker, InodeAnswer)
            return
        await self.keep(asked, path, found, tags=tags)

    async def keep(self, asked: Asked, path: str, found: Found, **changed: Any) -> None:
        """Replace some of what is kept with a file, or with a directory. Raises ``MonofsError``."""
        inode, kept = found.inode, msgspec.structs.replace(found.attributes, **changed)
        request = SetAttributesRequest(
            path, int(inode.content), inode.attributes or 0, kept, directory=inode.is_directory
        )
        await asked.ask(Method.SET_ATTRIBUTES, request, InodeAnswer)

    def fetch(self, found: Found, first: int, length: int) -> None:
        """Have the first of these bytes brought into this node's cache, for a read that is to come: that one tells what goes wrong."""
        number = first // GROUP_SIZE_BYTES
        at = first - number * GROUP_SIZE_BYTES
        end = min(at + min(length, FETCH_BYTES), GROUP_SIZE_BYTES)
        pages = pages_mask(at // PAGE_SIZE_BYTES, (end - 1) // PAGE_SIZE_BYTES)
        fetching = self.local.call(Method.FETCH, FetchRequest(found.token, number, pages), FetchAnswer)
        fetching.addErrback(lambda failure: failure.trap(MonofsError))

    async def condition(self, asked: Asked, path: str, wanted: WriteCondition) -> dict[str, Any]:
        """What a change of ``path`` is conditional on, in the master's terms. Raises ``S3Error`` when it does not hold now."""
        if wanted.absent:
            return {"exclusive": True}
        if not wanted.etags:
            return {}
        found = await self.stat_file(asked, path)
        wanted.check(None if found is None else found.etag)
        assert found is not None  # noqa: S101 - check raised
        return {"if_content": int(found.inode.content)}

    # ---- writing --------------------------------------------------------------------------------------------------------

    async def write_whole(
        self, asked: Asked, path: str, data: memoryview, attributes: Attributes, etag: str, condition: dict[str, Any]
    ) -> Inode:
        """A small file whose bytes are at hand and verified. Raises ``MonofsError``."""
        begun = await self._begin(asked, path, len(data), attributes, condition)
        deadline_s = self._reactor.seconds() + PATIENCE_S
        while True:
            try:
                request = WriteRequest(begun.capability, 0, data, True, attributes, etag)
                return decode_inode((await (await self._write(begun, request))).inode)
            except _LOST:
                if self._reactor.seconds() > deadline_s:
                    raise
            again = {"instead": begun.capability, "reached": True}
            try:
                begun = await self._begin(asked, path, len(data), attributes, {**condition, **again})
            except NotReady:  # its worker is heard of, and tells what became of it
                await deferLater(self._reactor, PAUSE_S)
                continue
            if bytes(begun.inode) != bytes(NIL):
                return decode_inode(begun.inode)

    async def write(
        self,
        asked: Asked,
        path: str,
        pieces: AsyncIterator[tuple[memoryview, bool]],
        attributes: Attributes,
        condition: dict[str, Any],
        last: Callable[[], tuple[Attributes, str]],
    ) -> Inode:
        """A file as its bytes come, a MiB at most at a time; ``last`` gives what is kept with it and its etag once the last ones are there. Raises
        ``S3Error``, ``MonofsError``."""
        begun = await self._begin(asked, path, -1, attributes, condition)
        unanswered = deque[WriteRequest]()
        try:
            try:
                answer = await self._write_all(begun, pieces, attributes, last, unanswered)
            except _LOST as error:
                if not unanswered or not unanswered[-1].last:
                    raise
                return await self._settle(asked, path, begun, unanswered, error)
            return decode_inode(answer.inode)
        except BaseException:
            await self._abort(begun)
            raise

    async def _settle(
        self, asked: Asked, path: str, begun: BeginWriteAnswer, unanswered: deque[WriteRequest], error: MonofsError
    ) -> Inode:
        """The worker was lost after the last bytes were sent; of all but those ``unanswered`` none is at hand any more. The master tells what became of the
        file; or the worker, which is heard of, does."""
        deadline_s = self._reactor.seconds() + PATIENCE_S
        question = {"instead": begun.capability, "reached": True, "settle": True}
        while self._reactor.seconds() < deadline_s:
            try:
                told = await self._begin(asked, path, -1, NOTHING, question)
                if bytes(told.inode) != bytes(NIL):
                    return decode_inode(told.inode)
                await self._abort(told)  # begun by a master that does not know the question
                break
            except NotReady:
                await deferLater(self._reactor, PAUSE_S)
            except WriteLost as lost:  # nothing was done
                raise Unreachable(lost.message) from None
            try:
                answers = [await (await self._write(begun, request)) for request in unanswered]
            except _LOST as again:
                error = again
            else:
                return decode_inode(answers[-1].inode)
        raise OutcomeUnknown(f"whether {path} was written is not known: {error.message}")

    async def write_part(
        self, asked: Asked, operation: int, number: int, size: int, pieces: AsyncIterator[tuple[memoryview, bool]]
    ) -> str:
        """A part of an upload of a store as its bytes come, a MiB at most at a time; how the store calls it. Raises ``S3Error``, ``MonofsError``:
        ``WriteLost`` for an upload that is not open."""
        opened = await asked.ask(Method.OPEN_PART, OpenPartRequest(operation, number, size), BeginWriteAnswer)
        try:
            answer = await self._write_all(opened, pieces, None, lambda: (None, ""), deque())
        except WriteLost as error:  # by its worker, not for want of an upload
            raise Unreachable(error.message) from None
        except BaseException:
            await self._abort(opened)
            raise
        return answer.tag

    async def _begin(
        self, asked: Asked, path: str, size: int, attributes: Attributes, condition: dict[str, Any]
    ) -> BeginWriteAnswer:
        request = BeginWriteRequest(path, size=size, attributes=attributes, as_key=True, **condition)
        answer: BeginWriteAnswer = await asked.ask(Method.BEGIN_WRITE, request, BeginWriteAnswer)
        return answer

    async def _channel(self, worker: int) -> Caller:
        channel = await self._writer(worker)
        if channel is None:
            raise NoWorker(f"where worker {worker}, which is to take the bytes, listens is not known")
        return channel

    async def _write_all(
        self,
        begun: BeginWriteAnswer,
        pieces: AsyncIterator[tuple[memoryview, bool]],
        first: Attributes | None,
        last: Callable[[], tuple[Attributes | None, str]],
        unanswered: deque[WriteRequest],
    ) -> WriteAnswer:
        """The answer to the last WRITE. ``unanswered``: what was sent and has no answer, by the end."""
        offset, flying = 0, deque[Deferred[WriteAnswer]]()
        try:
            async for piece, is_last in pieces:
                kept, etag = last() if is_last else (None if offset else first, "")
                request = WriteRequest(begun.capability, offset, piece, is_last, kept, etag)
                unanswered.append(request)
                flying.append(await self._write(begun, request))
                offset += len(piece)
                while is_last or len(flying) == IN_FLIGHT or (flying and self._in_flight > IN_FLIGHT_ALL):
                    answer = await flying.popleft()
                    unanswered.popleft()
                    if is_last and not flying:
                        return answer
            raise InvariantBroken("the last bytes of a file say that they are")
        finally:
            for each in flying:  # the first that failed was told
                each.addErrback(lambda failure: failure.trap(MonofsError))

    async def _write(self, begun: BeginWriteAnswer, request: WriteRequest) -> Deferred[WriteAnswer]:
        """Its answer is on its way."""
        channel = await self._channel(begun.worker)
        self._in_flight += 1
        return channel.call(Method.WRITE, request, WriteAnswer, WRITE_S).addBoth(self._has_landed)

    def _has_landed(self, result: _T) -> _T:
        self._in_flight -= 1
        return result

    async def _abort(self, begun: BeginWriteAnswer) -> None:
        try:
            channel = await self._channel(begun.worker)
            await channel.call(Method.ABORT_WRITE, AbortWriteRequest(begun.capability), Empty)
        except MonofsError:
            pass  # its worker gives it up when nothing more comes


def _known(answer: StatAnswer) -> Found:
    return Found(read_record(bytes(answer.inode), bytes(answer.attributes)))


def _opened(answer: OpenAnswer) -> Found:
    record = read_record(bytes(answer.inode), bytes(answer.attributes))
    return Found(record, answer.capability, answer.workers, answer.data, answer.unlearnt)
