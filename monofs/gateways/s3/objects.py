"""GetObject, HeadObject, PutObject, CopyObject, DeleteObject(s), GetObjectAttributes and object tagging.

A key ending in a slash is a directory: its few bytes are kept beside it, and it exists as an object where somebody made it. Invariant: what an answer says of an object
(ETag, length, headers) and its bytes are of one content.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Awaitable, Callable
from email.utils import formatdate
from functools import lru_cache
from typing import Any, TypeVar

import msgspec
from twisted.internet.defer import Deferred, DeferredSemaphore, gatherResults

from monofs.gateways.http_head import join_headers
from monofs.gateways.s3 import bodies, documents, subresources
from monofs.gateways.s3.asking import Asked, encoded, told
from monofs.gateways.s3.bytes_out import Body, gather
from monofs.gateways.s3.checksums import ALGORITHMS, COMPOSITE, FULL_OBJECT, show
from monofs.gateways.s3.conditions import WriteCondition, check_read, check_source, may_use_range, read_write_condition
from monofs.gateways.s3.errors import S3Error
from monofs.gateways.s3.files import Files, Found
from monofs.gateways.s3.metadata import (
    CUSTOMER_KEY,
    DEFAULT_TYPE,
    USER_PREFIX,
    check_supported,
    is_replacing,
    read_metadata,
    read_wanted,
    replaced,
)
from monofs.gateways.s3.ranges import Span, part_span, read_range
from monofs.gateways.s3.receiving import PIECE_BYTES, Receiving, whole
from monofs.gateways.s3.requests import PART_NUMBER_MAX, Source, read_source
from monofs.model.attributes import BODY_MAX_BYTES, EMPTY_ETAG, Attributes, etag_of, of_bucket
from monofs.model.errors import (
    ConditionFailed,
    ContentChanged,
    CrossMount,
    MonofsError,
    NotADirectory,
    NotCached,
    NotEmpty,
    NotFound,
    UfsChanged,
)
from monofs.model.inode import Inode, decode_inode
from monofs.model.paths import format_path
from monofs.model.principal import Right
from monofs.rpc.api import (
    CopyRequest,
    DeleteRequest,
    Empty,
    InodeAnswer,
    MakeDirectoryRequest,
    Method,
    SetAttributesRequest,
)

COPY_MAX_BYTES = 5 << 30
"""Of one CopyObject (API Reference)."""
PARTS_MOST = 1000
"""Of one GetObjectAttributes."""
SMALL_BYTES = 64 << 10
"""Of a body that is awaited before anything is asked of the cluster."""
DELETING = 16
"""Deletions of one DeleteObjects under way."""
TRIES = 5
"""At an object that is written anew all the time."""
_CHANGED = (ConditionFailed, ContentChanged, NotCached, UfsChanged)
_T = TypeVar("_T")
_SHAPING = frozenset({"range", "if-range", "if-match", "if-none-match", "if-modified-since", "if-unmodified-since"})
"""Headers of a request that have a say in the status and the bytes of the answer; its query may, too."""


class Objects:
    """The actions on objects of one door."""

    def __init__(self, files: Files, reactor: Any) -> None:
        self._files, self._reactor = files, reactor

    # ---- reading --------------------------------------------------------------------------------------------------------

    def get(self, asked: Asked) -> Awaitable[None] | None:
        """GetObject and HeadObject. None: it is answered; a small file that is at hand takes plain calls only."""
        asked.check_right(Right.READ)
        asked.check_reach(asked.request.key)
        if CUSTOMER_KEY in asked.headers:
            raise S3Error("InvalidRequest", "The object is not encrypted with a key of its client's.")
        doing = self._get(asked)
        return None if doing is None else self._until_told(asked, doing)

    def _get(self, asked: Asked) -> Awaitable[None] | None:
        found = self._look(asked, opens=asked.exchange.method == "GET", learn_later=True)
        return self._tell(asked, found) if isinstance(found, Found) else self._get_later(asked, found)

    async def _get_later(self, asked: Asked, finding: Awaitable[Found]) -> None:
        found = await finding
        if asked.exchange.method == "GET":
            found.check_whole()
        telling = self._tell(asked, found)
        if telling is not None:
            await telling

    async def _learn(self, asked: Asked, found: Found) -> None:
        """The first to ask for an object that others made: its store is asked for what it keeps beside the bytes, and for the bytes, at the same time."""
        try:
            span, _, _ = self._shape(asked, found)
        except S3Error:
            pass  # no bytes are wanted; told when all is known that is told with it
        else:
            first, length = (0, found.inode.size) if span is None else (span.first, span.length)
            if length and not found.data:
                self._files.fetch(found, first, length)
        known = await self._stat(asked)
        if known.inode.content != found.inode.content:
            raise ContentChanged("the object was written anew before any of it was read")
        telling = self._tell(asked, msgspec.structs.replace(found, record=known.record, unlearnt=False))
        if telling is not None:
            await telling

    async def _until_told(self, asked: Asked, doing: Awaitable[None] | None) -> None:
        """The end of an answer that has begun to be looked for; begun again when the object was written anew before anything was told of it."""
        for left in reversed(range(TRIES)):
            try:
                if doing is not None:
                    await doing
                return
            except _CHANGED:
                if not left or asked.exchange.begun:
                    raise
            doing = self._get(asked)

    def _tell(self, asked: Asked, found: Found) -> Awaitable[None] | None:
        """Answer with the object, or what is asked for of it; None: it is done."""
        if found.unlearnt:
            return self._learn(asked, found)
        exchange, size = asked.exchange, found.record.inode.size
        if _SHAPING.isdisjoint(exchange.headers) and not asked.request.query:
            status, first, length = 200, 0, size
            lines = self._lines(asked, found)
        else:
            span, status, headers = self._shape(asked, found)
            first, length = (0, size) if span is None else (span.first, span.length)
            headers |= _described(asked, found, whole=span is None)
            lines = join_headers(encoded(headers))
        lines = b"%bx-amz-request-id: %016x\r\n" % (lines, exchange.trace)
        data = found.data
        if exchange.method == "HEAD" or not length:
            exchange.begin(status, lines, length)
            exchange.end()
        elif data:
            exchange.answer(status, lines, data if len(data) == length else memoryview(data)[first : first + length])
        else:
            return Body(exchange, self._files.sources, status, lines, length).send(found.token, first, found.workers)
        return None

    def _lines(self, asked: Asked, found: Found) -> bytes:
        """Headers of an answer with the whole object, to a request that says nothing of them."""
        kept, checked = found.record.lines, "x-amz-checksum-mode" in asked.headers and _wants_checksums(asked)
        lines = kept.get(checked)
        if lines is None:
            lines = kept[checked] = join_headers(encoded(_validators(found) | _described(asked, found, whole=True)))
        return lines

    def _shape(self, asked: Asked, found: Found) -> tuple[Span | None, int, dict[str, str]]:
        """What is asked for, None: all; status and headers that tell so. Raises ``S3Error`` when it is not to be told."""
        headers = _validators(found)
        try:
            check_read(asked.headers, found.etag, found.mtime_s, time.time())
            span, status = self._span(asked, found, headers)
        except S3Error as error:
            if error.code in ("NotModified", "PreconditionFailed"):
                error.headers = {**headers, **error.headers}
            raise
        return span, status, headers

    def _look(self, asked: Asked, *, opens: bool, learn_later: bool = False) -> Found | Awaitable[Found]:
        """The object of the request: a file, which may be opened, or for a key that ends in a slash a directory that is told as one; plainly where it is
        known at once. Raises, or waiting for it does, ``S3Error`` (NoSuchKey), ``MonofsError``."""
        place = asked.place()
        if place.is_directory:  # before it is put anew, what its store has now counts
            return self._files.marker(asked, place.parts, now=asked.exchange.method not in ("GET", "HEAD"))
        return self._files.look(asked, place.path, opens=opens, learn_later=learn_later)

    async def _stat(self, asked: Asked, *, opens: bool = False) -> Found:
        found = self._look(asked, opens=opens)
        return found if isinstance(found, Found) else await found

    def _span(self, asked: Asked, found: Found, headers: dict[str, str]) -> tuple[Span | None, int]:
        """What is asked for, None: all; and the status."""
        size, number = found.inode.size, asked.request.part_number()
        if number is not None:
            sizes = part_sizes(found.attributes)
            span = part_span(number, sizes, size)
            if sizes:
                headers["x-amz-mp-parts-count"] = str(len(sizes))
            if span is not None:
                headers["Content-Range"] = span.content_range(size)
            return span, 206
        text = asked.headers.get("range")
        if text is None or not may_use_range(asked.headers, found.etag, found.mtime_s):
            return None, 200
        span = read_range(text, size)
        if span is None:
            return None, 200
        headers["Content-Range"] = span.content_range(size)
        return span, 206

    async def attributes(self, asked: Asked) -> None:
        """GetObjectAttributes."""
        asked.check_right(Right.READ)
        asked.check_reach(asked.request.key)
        found = await self._stat(asked)
        wanted = read_wanted(asked.headers)
        kept = found.attributes
        sizes = part_sizes(kept)
        parts = None
        if sizes:
            marker = asked.header_number("x-amz-part-number-marker", 0, PART_NUMBER_MAX)
            most = asked.header_number("x-amz-max-parts", PARTS_MOST, PARTS_MOST)
            shown = [
                documents.Part(number, sizes[number - 1], "", 0, _part_elements(kept, number))
                for number in range(marker + 1, min(marker + most, len(sizes)) + 1)
            ]
            following = marker + most if most and marker + most < len(sizes) else 0
            parts = documents.Parts(shown, marker, following, most, len(sizes))
        body = documents.attributes_document(
            wanted,
            documents.Attributes(found.etag, found.inode.size, _elements(kept), _kind(kept), parts),
        )
        asked.answer(200, {"Last-Modified": formatdate(found.mtime_s, usegmt=True)}, body)

    # ---- writing --------------------------------------------------------------------------------------------------------

    async def put(self, asked: Asked) -> None:
        """PutObject."""
        asked.check_right(Right.WRITE)
        asked.check_reach(asked.request.key)
        check_supported(asked.headers)
        wanted = read_write_condition(asked.headers)
        attributes = read_attributes(asked.headers)
        receiving = Receiving(asked, self._reactor)
        place = asked.place()
        # a small body is soon here: its bucket is looked for when the write begins, which saves asking
        looks_later = receiving.size <= SMALL_BYTES and not (
            place.is_directory or wanted.etags or asked.exchange.expects
        )
        if not looks_later:
            await self._files.check_bucket(asked)
        if place.is_directory:
            await self._put_directory(asked, receiving, attributes, wanted)
            return
        path = place.path
        condition = await self._files.condition(asked, path, wanted)
        condition["within"] = format_path(asked.bucket)  # which may be gone since it was looked for
        inode = await self.store(asked, path, receiving, attributes, condition)
        asked.answer(200, {"ETag": f'"{inode.etag or receiving.etag}"', **_checked(receiving)})

    async def store(
        self, asked: Asked, path: str, receiving: Receiving, attributes: Attributes, condition: dict[str, Any]
    ) -> Inode:
        """The body of a request as a file. Raises ``S3Error``, ``MonofsError``."""
        receiving.begin()
        try:
            return await self.store_from(asked, path, await receiving.read(), receiving, attributes, condition)
        finally:
            receiving.stop()

    async def store_from(
        self,
        asked: Asked,
        path: str,
        begun: tuple[memoryview, bool],
        receiving: Receiving,
        attributes: Attributes,
        condition: dict[str, Any],
    ) -> Inode:
        """The same of a body whose first piece, ``begun``, was read."""
        first, is_last = begun

        def kept() -> tuple[Attributes, str]:
            return with_checksum(attributes, receiving), receiving.etag

        if is_last:
            now, etag = kept()
            return await self._files.write_whole(asked, path, first, now, etag, condition)

        async def pieces() -> AsyncIterator[tuple[memoryview, bool]]:
            yield first, False
            last = False
            while not last:
                piece, last = await receiving.read()
                yield piece, last

        return await self._files.write(asked, path, pieces(), attributes, condition, kept)

    async def _put_directory(
        self, asked: Asked, receiving: Receiving, attributes: Attributes, wanted: WriteCondition
    ) -> None:
        _check_marker(receiving.size)
        receiving.begin()
        try:
            body, _ = await receiving.read()
        finally:
            receiving.stop()
        kept = with_checksum(msgspec.structs.replace(attributes, body=bytes(body)), receiving)
        await self._make_directory(asked, kept, wanted)
        asked.answer(200, {"ETag": f'"{receiving.etag}"', **_checked(receiving)})

    async def _make_directory(
        self, asked: Asked, kept: Attributes, wanted: WriteCondition, replaced: str = ""
    ) -> Inode:
        """A marker is the directory itself. ``replaced``: only this version of it."""
        if wanted:  # a look, too, at what its store has
            wanted.check(await self._marker_etag(asked))
        request = MakeDirectoryRequest(
            asked.path(),
            parents=True,
            exist_ok=not wanted.absent,
            marker=True,
            attributes=kept,
            replaced=replaced,
        )
        return _inode(await asked.ask(Method.MAKE_DIRECTORY, request, InodeAnswer))

    async def _marker_etag(self, asked: Asked) -> str | None:
        try:
            return (await self._files.marker(asked, asked.place().parts)).etag
        except (NotFound, NotADirectory):
            return None

    async def copy(self, asked: Asked) -> None:
        """CopyObject."""
        asked.check_right(Right.WRITE)
        asked.check_right(Right.READ)
        check_supported(asked.headers)
        wanted = read_write_condition(asked.headers)
        asked.check_reach(asked.request.key)
        asked.place()
        await self._files.check_bucket(asked)
        await of_one_version(lambda: self._copy(asked, wanted), lambda: not wanted)

    async def _copy(self, asked: Asked, wanted: WriteCondition) -> None:
        headers, target = asked.headers, asked.place()
        found, source, path = await self.source(asked)
        replaces, retags = is_replacing(headers), is_replacing(headers, "x-amz-tagging-directive")
        if source == Source(asked.request.bucket, asked.request.key) and not replaces:
            raise S3Error(
                "InvalidRequest",
                "This copy request is illegal because it is trying to copy an object to itself without changing its metadata.",
            )
        if found.inode.size > COPY_MAX_BYTES:
            raise S3Error("InvalidRequest", "An object above 5 GiB is copied in parts.")
        kept = copied_attributes(found.attributes, headers, replaces=replaces, retags=retags)
        if target.is_directory:
            _check_marker(found.inode.size)
            body = bytes(await self.piece(found, 0, found.inode.size))
            replaced = found.inode.fingerprint if found.inode.is_directory and path == target.path else ""
            inode = await self._make_directory(asked, msgspec.structs.replace(kept, body=body), wanted, replaced)
            etag = inode.etag or EMPTY_ETAG
        else:
            inode = await self._copied(asked, found, path, target.path, kept, wanted)
            etag = etag_of(inode)
        document = documents.copied_document(etag, inode.mtime_ns // 1_000_000_000, _elements(kept), _kind(kept))
        asked.answer(200, {}, document)

    async def source(self, asked: Asked) -> tuple[Found, Source, str]:
        """What a copy reads, opened, and where it is. Raises ``S3Error``."""
        source = read_source(asked.headers["x-amz-copy-source"])
        other = asked.of(source.bucket, source.key)
        other.check_reach(source.key)
        try:
            found = await self._stat(other, opens=True)
        except (NotFound, NotADirectory):
            await self._files.check_bucket(other)
            raise
        check_source(asked.headers, found.etag, found.mtime_s, time.time())
        found.check_whole()
        return found, source, other.path()

    async def _copied(
        self, asked: Asked, found: Found, source: str, target: str, kept: Attributes, wanted: WriteCondition
    ) -> Inode:
        """By the store where it can; else the bytes go through here."""
        condition = await self._files.condition(asked, target, wanted)
        if source == target and not condition:
            request = SetAttributesRequest(target, int(found.inode.content), found.inode.attributes or 0, kept)
            return _inode(await asked.ask(Method.SET_ATTRIBUTES, request, InodeAnswer))
        if not condition and not found.inode.is_directory:
            try:
                request_ = CopyRequest(
                    source, target, attributes=kept, as_key=True, if_content=int(found.inode.content)
                )
                return _inode(await asked.ask(Method.COPY, request_, InodeAnswer, 600.0))
            except CrossMount:
                pass
        size = found.inode.size

        async def pieces() -> AsyncIterator[tuple[memoryview, bool]]:
            for offset in range(0, max(size, 1), PIECE_BYTES):
                piece = await self.piece(found, offset, min(PIECE_BYTES, size - offset))
                yield piece, offset + len(piece) >= size

        etag = found.etag if "-" not in found.etag else ""
        return await self._files.write(asked, target, pieces(), kept, condition, lambda: (kept, etag))

    async def piece(self, found: Found, offset: int, length: int) -> memoryview:
        """Bytes of an open file, in memory."""
        if not length:
            return memoryview(b"")
        if found.data:
            return memoryview(found.data)[offset : offset + length]
        files = self._files
        return await gather(files.sources, files.local, found.token, offset, length, found.workers)

    # ---- deleting -------------------------------------------------------------------------------------------------------

    async def delete(self, asked: Asked) -> None:
        """DeleteObject: what is not there is deleted."""
        asked.check_right(Right.WRITE)
        asked.check_reach(asked.request.key)
        wanted = read_write_condition(asked.headers)
        if not await of_one_version(lambda: self._delete(asked, asked.request.key, wanted)):
            await self._files.check_bucket(asked)
        asked.answer(204)

    async def _delete(self, asked: Asked, key: str, wanted: WriteCondition) -> bool:
        """Whether there was anything. Raises ``S3Error``, ``MonofsError``; ``ConditionFailed`` when it was written anew since it was compared."""
        place = asked.place(key)
        path = place.path
        try:
            found = await (
                self._files.marker(asked, place.parts) if place.is_directory else self._files.stat(asked, path)
            )
            content = None
            if wanted:
                wanted.check(found.etag)
                content = None if place.is_directory else int(found.inode.content)
            request = DeleteRequest(path, as_key=not place.is_directory, if_content=content, marker=place.is_directory)
            await asked.ask(Method.DELETE, request, Empty)
        except (NotFound, NotADirectory):
            if wanted:
                raise S3Error("NoSuchKey") from None
            return False
        except NotEmpty:
            pass  # as a prefix it stays
        return True

    async def delete_many(self, asked: Asked) -> None:
        """DeleteObjects."""
        asked.check_right(Right.WRITE)
        doomed, quiet = bodies.read_delete(await whole(asked, self._reactor, bodies.DELETE_MAX_BYTES))
        await self._files.check_bucket(asked)
        semaphore = DeferredSemaphore(DELETING)

        async def one(each: bodies.Doomed) -> documents.Refused | tuple[str, str]:
            try:
                if each.version not in ("", "null"):
                    raise S3Error("NoSuchVersion")
                asked.check_reach(each.key)
                wanted = WriteCondition(etags=(each.etag,) if each.etag else ())
                await of_one_version(lambda: self._delete(asked, each.key, wanted))
            except (S3Error, MonofsError) as error:
                return documents.Refused(each.key, each.version, told(error, changing=True))
            return each.key, each.version

        def ended(each: bodies.Doomed) -> Deferred[documents.Refused | tuple[str, str]]:
            return Deferred.fromCoroutine(one(each))

        done = await gatherResults([semaphore.run(ended, each) for each in doomed])
        refused = [each for each in done if isinstance(each, documents.Refused)]
        deleted = [each for each in done if not isinstance(each, documents.Refused)]
        asked.answer(200, {}, documents.deleted_document(deleted, refused, quiet=quiet))

    # ---- tags -----------------------------------------------------------------------------------------------------------

    async def get_tags(self, asked: Asked) -> None:
        """GetObjectTagging."""
        asked.check_right(Right.READ)
        asked.check_reach(asked.request.key)
        found = await self._stat(asked)
        asked.answer(200, {}, documents.tagging_document(found.attributes.tags))

    async def put_tags(self, asked: Asked) -> None:
        """PutObjectTagging."""
        tags = bodies.read_tagging(await whole(asked, self._reactor, bodies.TAGGING_MAX_BYTES), bodies.OBJECT_TAGS_MAX)
        await self._tag(asked, tags)
        asked.answer(200)

    async def delete_tags(self, asked: Asked) -> None:
        """DeleteObjectTagging."""
        await self._tag(asked, {})
        asked.answer(204)

    async def _tag(self, asked: Asked, tags: dict[str, str]) -> None:
        asked.check_right(Right.WRITE)
        asked.check_reach(asked.request.key)
        await self._files.tag(asked, asked.path(), await self._stat(asked), tags)

    async def configuration(self, asked: Asked) -> None:
        """Any sub-resource that is not kept."""
        asked.check_right(Right.READ if asked.request.head.method == "GET" else Right.WRITE)
        asked.check_reach(asked.request.key)
        await self._stat(asked)
        sent = b""
        if asked.request.head.method == "PUT":
            sent = await whole(asked, self._reactor, bodies.CREATE_MAX_BYTES)
        status, body = subresources.answer(asked.request, asked.owner, sent)
        asked.answer(status, {}, body)


async def of_one_version(act: Callable[[], Awaitable[_T]], may_repeat: Callable[[], bool] = lambda: True) -> _T:
    """What ``act`` does with an object it looks up; once more when the object was written anew before all of it was read."""
    for _ in range(TRIES - 1):
        try:
            return await act()
        except _CHANGED:
            if not may_repeat():
                raise
    return await act()


def read_attributes(headers: dict[str, str]) -> Attributes:
    """What a request wants kept with its object. Raises ``S3Error``."""
    kept = read_metadata(headers)
    user = {name[len(USER_PREFIX) :]: value for name, value in kept.items() if name.startswith(USER_PREFIX)}
    tags = bodies.read_tagging_header(headers.get("x-amz-tagging", ""))
    return Attributes({name: value for name, value in kept.items() if not name.startswith(USER_PREFIX)}, user, tags)


def with_checksum(attributes: Attributes, receiving: Receiving) -> Attributes:
    """With the checksum that was sent along and found right."""
    found = receiving.checksum
    if found is None:
        return attributes
    return msgspec.structs.replace(attributes, checksums={found[0].lower(): found[1]})


def _checked(receiving: Receiving) -> dict[str, str]:
    """What the answer to an upload tells of the checksum that came along."""
    found = receiving.checksum
    return {} if found is None else {ALGORITHMS[found[0]].header: found[1], "x-amz-checksum-type": FULL_OBJECT}


def _check_marker(size: int) -> None:
    """Raise ``S3Error`` (InvalidArgument) unless an object whose key ends in a slash can have so many bytes."""
    if size > BODY_MAX_BYTES:
        raise S3Error(
            "InvalidArgument",
            f"A key that ends in a slash is a directory here, and holds at most {BODY_MAX_BYTES} bytes.",
        )


def copied_attributes(source: Attributes, headers: dict[str, str], *, replaces: bool, retags: bool) -> Attributes:
    """Those of a copy."""
    fresh, source = read_attributes(headers), msgspec.structs.replace(source, body=b"", **of_bucket(None))
    kept = msgspec.structs.replace(source, headers=fresh.headers, user=fresh.user) if replaces else source
    return msgspec.structs.replace(kept, tags=fresh.tags) if retags else kept


def part_sizes(attributes: Attributes) -> list[int]:
    """Bytes of each part an object was joined from."""
    return [size for _, count, size in attributes.parts for _ in range(count)]


def _inode(answer: InodeAnswer) -> Inode:
    return decode_inode(answer.inode)


@lru_cache(maxsize=4096)
def _http_date(seconds: int) -> str:
    return formatdate(seconds, usegmt=True)


def _validators(found: Found) -> dict[str, str]:
    headers = {"ETag": f'"{found.etag}"', "Last-Modified": _http_date(found.mtime_s)}
    kept = found.attributes.headers
    for name in ("cache-control", "expires"):
        if name in kept:
            headers[name] = kept[name]
    return headers


def _described(asked: Asked, found: Found, *, whole: bool) -> dict[str, str]:
    kept = found.attributes
    headers = {"content-type": DEFAULT_TYPE, **kept.headers, "Accept-Ranges": "bytes"}
    headers |= replaced(asked.request.query)
    headers |= {USER_PREFIX + name: value for name, value in kept.user.items()}
    if kept.tags:
        headers["x-amz-tagging-count"] = str(len(kept.tags))
    if whole and _wants_checksums(asked):
        for name, value in kept.checksums.items():
            headers[f"x-amz-checksum-{name}"] = value
        if kept.checksums:
            headers["x-amz-checksum-type"] = _kind(kept)
    return headers


def _wants_checksums(asked: Asked) -> bool:
    return asked.headers.get("x-amz-checksum-mode", "").upper() == "ENABLED"


def _elements(kept: Attributes) -> dict[str, str]:
    return {ALGORITHMS[name.upper()].element: value for name, value in kept.checksums.items()}


def _part_elements(kept: Attributes, number: int) -> dict[str, str]:
    if not kept.part_checksums:
        return {}
    return {ALGORITHMS[name.upper()].element: show(kept.part_checksums[number - 1]) for name in kept.checksums}


def _kind(kept: Attributes) -> str:
    return "" if not kept.checksums else COMPOSITE if kept.composite else FULL_OBJECT
