"""Uploads in parts: what is known of each is a file, and of each part; completion joins them under the key in one act.

``/.monofs-uploads/<id>/``: ``upload`` (bucket, key, what is to be kept with the object), ``<part number>`` for each part. They lie under no mount, so
with ``namespace.replicas`` copies, fsynced; any worker may take a part and complete. Below a mount of an object store the upload is one of that store too (its
``operation`` at the master), and the files of parts are empty: etag, size and checksums, for the bytes were passed on. Elsewhere they are the parts.

Invariant: the object appears whole with its last byte, made of exactly the parts that were named, or not at all; until then, and when it fails, the parts
stay. An abandoned upload goes by its time to live, and from its store by its age.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import AsyncIterator
from typing import Any

import msgspec

from monofs.gateways.s3 import bodies, documents
from monofs.gateways.s3.asking import Asked
from monofs.gateways.s3.checksums import (
    ALGORITHMS,
    BY_HEADER,
    COMPOSITE,
    FULL_OBJECT,
    Algorithm,
    Claim,
    composite,
    full_object,
    multipart_etag,
    read_algorithm,
    read_kind,
    read_object_claim,
    read_value,
    show,
)
from monofs.gateways.s3.conditions import WriteCondition, read_write_condition
from monofs.gateways.s3.errors import S3Error
from monofs.gateways.s3.files import Files, Found, read_record
from monofs.gateways.s3.keys import UPLOADS
from monofs.gateways.s3.metadata import check_supported
from monofs.gateways.s3.objects import Objects, of_one_version, read_attributes, with_checksum
from monofs.gateways.s3.ranges import Span, read_copied_range
from monofs.gateways.s3.receiving import PIECE_BYTES, Receiving, whole
from monofs.gateways.s3.requests import PART_NUMBER_MAX
from monofs.gateways.s3.slow_answer import answer_slowly
from monofs.model.attributes import ATTRIBUTES_MAX_BYTES, Attributes, encode_attributes, etag_of
from monofs.model.errors import MonofsError, NotADirectory, NotCached, NotFound, UfsNotFound, WriteLost
from monofs.model.inode import decode_inode
from monofs.model.options import TtlAction
from monofs.model.principal import Right
from monofs.rpc.api import (
    AbortUploadRequest,
    BeginUploadAnswer,
    BeginUploadRequest,
    CompleteUploadRequest,
    Empty,
    InodeAnswer,
    ListAnswer,
    ListRequest,
    Method,
    RemoveTreeAnswer,
    RemoveTreeRequest,
    SetTtlRequest,
    UploadedPart,
)

ROOM = f"/{UPLOADS.decode()}"
RECORD = "upload"
ID_BYTES = 16
AGE_S = 7 * 86_400.0
"""After so long an upload that was neither completed nor aborted is removed with its parts."""
COMPLETE_S = 3600.0
"""A store joins 10,000 parts before it answers."""
PART_MIN_BYTES = 5 << 20
UPLOADS_MOST = 1000
IN_UPLOAD = {"parents": False}
"""A part is written only as long as its upload is there: after it, nobody would remove the part."""
_ID_CHARACTERS = frozenset("0123456789abcdef")


class Upload(msgspec.Struct):
    """What is known of an upload, as JSON."""

    bucket: str
    key: str
    path: str
    begun_s: int
    attributes: Attributes
    algorithm: str = ""
    kind: str = ""
    operation: int = 0
    """Of the upload of a store; 0: the parts are files."""


class PartFile(msgspec.Struct):
    """One part that came."""

    number: int
    found: Found

    @property
    def size(self) -> int:
        """Of one that a store has told beside its empty file."""
        told = self.found.attributes.parts
        return told[0][2] if told else self.found.inode.size


_encode, _decode = msgspec.json.encode, msgspec.json.Decoder(Upload).decode


class Multipart:
    """The actions on uploads of one door."""

    def __init__(self, files: Files, objects: Objects, reactor: Any) -> None:
        self._files, self._objects, self._reactor = files, objects, reactor

    async def create(self, asked: Asked) -> None:
        """CreateMultipartUpload."""
        asked.check_right(Right.WRITE)
        asked.check_reach(asked.request.key)
        headers = asked.headers
        check_supported(headers)
        place = asked.place()
        if place.is_directory:
            raise S3Error("InvalidArgument", "A key that ends in a slash is a directory here, and too small for parts.")
        await self._files.check_bucket(asked)
        algorithm = kind = ""
        if "x-amz-checksum-algorithm" in headers:
            found = read_algorithm(headers["x-amz-checksum-algorithm"])
            algorithm, kind = found.name, read_kind(found, headers.get("x-amz-checksum-type"))
        number, attributes = os.urandom(ID_BYTES).hex(), read_attributes(headers)
        begun = await asked.ask(Method.BEGIN_UPLOAD, BeginUploadRequest(asked.path(), attributes), BeginUploadAnswer)
        upload = Upload(
            asked.request.bucket,
            asked.request.key,
            asked.path(),
            int(time.time()),
            attributes,
            algorithm,
            kind,
            begun.operation,
        )
        try:
            await self._files.write_whole(
                asked, f"{ROOM}/{number}/{RECORD}", memoryview(_encode(upload)), Attributes(), "", {"exclusive": True}
            )
        except MonofsError:
            await self._abort(asked, upload)  # nobody knows its number
            raise
        await asked.ask(Method.SET_TTL, SetTtlRequest(f"{ROOM}/{number}", AGE_S, TtlAction.DELETE), Empty)
        told = {"x-amz-checksum-algorithm": algorithm, "x-amz-checksum-type": kind} if algorithm else {}
        asked.answer(200, told, documents.begun_document(upload.bucket, upload.key, number))

    async def part(self, asked: Asked) -> None:
        """UploadPart."""
        upload, number = await self._upload(asked), asked.request.part_number() or 0
        receiving = Receiving(asked, self._reactor)
        claimed = receiving.claim
        if upload.algorithm and claimed is not None and claimed.algorithm.name != upload.algorithm:
            raise S3Error("InvalidRequest", f"The parts of this upload have checksums of {upload.algorithm}.")
        etag = await self._take(asked, upload, number, receiving)
        headers = {"ETag": f'"{etag}"'}
        if receiving.checksum is not None:
            headers[ALGORITHMS[receiving.checksum[0]].header] = receiving.checksum[1]
        asked.answer(200, headers)

    async def _take(self, asked: Asked, upload: Upload, number: int, receiving: Receiving) -> str:
        """The etag of a part. Raises ``S3Error``, ``MonofsError``."""
        if upload.operation:
            receiving.begin()
            try:
                etag = await self._pass_on(asked, upload, number, receiving.size, receiving.pieces())
            finally:
                receiving.stop()
            await self._note(asked, number, receiving.size, with_checksum(Attributes(), receiving), etag)
            return etag
        try:
            await self._objects.store(asked, self._path(asked, number), receiving, Attributes(), IN_UPLOAD)
        except NotFound:
            raise S3Error("NoSuchUpload") from None
        return receiving.etag

    async def _pass_on(
        self, asked: Asked, upload: Upload, number: int, size: int, pieces: AsyncIterator[tuple[memoryview, bool]]
    ) -> str:
        """Have the store take a part; how it calls it."""
        try:
            return await self._files.write_part(asked, upload.operation, number, size, pieces)
        except (WriteLost, UfsNotFound):
            raise S3Error("NoSuchUpload") from None

    async def _note(self, asked: Asked, number: int, size: int, kept: Attributes, etag: str) -> None:
        """Remember a part that the store has."""
        kept = msgspec.structs.replace(kept, parts=[(number, 1, size)])
        try:
            await self._files.write_whole(asked, self._path(asked, number), memoryview(b""), kept, etag, IN_UPLOAD)
        except NotFound:
            raise S3Error("NoSuchUpload") from None

    async def part_copy(self, asked: Asked) -> None:
        """UploadPartCopy."""
        asked.check_right(Right.READ)
        upload, number = await self._upload(asked), asked.request.part_number() or 0
        hashed, etag, mtime_s = await of_one_version(lambda: self._copy_part(asked, upload, number))
        body = documents.copied_document(etag, mtime_s, hashed.elements(), part=True)
        asked.answer(200, {}, body)

    async def _copy_part(self, asked: Asked, upload: Upload, number: int) -> tuple[_Hashed, str, int]:
        found, _, _ = await self._objects.source(asked)
        text = asked.headers.get("x-amz-copy-source-range")
        size = found.inode.size
        span = Span(0, size - 1) if text is None else read_copied_range(text, size)
        hashed = _Hashed(ALGORITHMS[upload.algorithm] if upload.algorithm else None)

        async def pieces() -> AsyncIterator[tuple[memoryview, bool]]:
            for at in range(0, max(span.length, 1), PIECE_BYTES):
                piece = await self._objects.piece(found, span.first + at, min(PIECE_BYTES, span.length - at))
                hashed.update(piece)
                yield piece, at + len(piece) >= span.length

        def kept() -> tuple[Attributes, str]:
            return Attributes(checksums=hashed.checksums()), hashed.etag()

        if upload.operation:
            etag = await self._pass_on(asked, upload, number, span.length, pieces())
            await self._note(asked, number, span.length, kept()[0], etag)
            return hashed, etag, int(time.time())
        path = self._path(asked, number)
        inode = await self._files.write(asked, path, pieces(), Attributes(), IN_UPLOAD, kept)
        return hashed, hashed.etag(), inode.mtime_ns // 1_000_000_000

    async def complete(self, asked: Asked) -> None:
        """CompleteMultipartUpload."""
        asked.check_right(Right.WRITE)
        asked.check_reach(asked.request.key)
        wanted = read_write_condition(asked.headers)
        claimed = read_object_claim(asked.headers)
        headers = {name: value for name, value in asked.headers.items() if name not in BY_HEADER}
        body = await whole(asked, self._reactor, bodies.COMPLETE_MAX_BYTES, headers=headers)
        named = bodies.read_completion(body)
        await answer_slowly(asked, self._reactor, self._complete(asked, named, claimed, wanted))

    async def _complete(
        self, asked: Asked, named: list[bodies.Completed], claimed: Claim | None, wanted: WriteCondition
    ) -> bytes:
        """The document that tells of it. Raises ``S3Error``, ``MonofsError``."""
        upload: Upload | None = None
        try:
            upload = await self._upload(asked)
            etag, kept = await self._join(asked, upload, named, claimed, wanted)
        except (S3Error, NotFound, NotCached, WriteLost) as error:
            # where parts are files a worker has lost what it had joined of them, and the upload is there still
            is_gone = isinstance(error, WriteLost) and upload is not None and upload.operation != 0
            if not is_gone and await self._is_open(asked):
                raise
            etag, kept = await self._completed_before(asked, named)
        if upload is not None:  # else the number is of no upload, or of one of another key
            await self._remove(asked)
        return self._completed_document(asked, etag, kept)

    async def _join(
        self, asked: Asked, upload: Upload, named: list[bodies.Completed], claimed: Claim | None, wanted: WriteCondition
    ) -> tuple[str, Attributes]:
        """Etag and attributes of the object. Raises ``S3Error``, ``MonofsError``: ``WriteLost`` when its store has no such upload any more."""
        parts = {part.number: part for part in await self._parts(asked)}
        chosen = [self._chosen(parts.get(each.number), each, upload) for each in named]
        kept = msgspec.structs.replace(
            upload.attributes, **self._checksums(claimed, upload, chosen), parts=_runs(chosen)
        )
        if len(encode_attributes(kept)) > ATTRIBUTES_MAX_BYTES:
            kept = msgspec.structs.replace(kept, part_checksums=[])
        condition = await self._files.condition(asked, upload.path, wanted)
        if upload.operation:
            joined = [UploadedPart(part.number, part.size, part.found.etag) for part in chosen]
            request = CompleteUploadRequest(upload.operation, joined, kept, **condition)
            answer = await asked.ask(Method.COMPLETE_UPLOAD, request, InodeAnswer, COMPLETE_S)
            return etag_of(decode_inode(answer.inode)), kept
        for part in chosen[:-1]:
            if part.size < PART_MIN_BYTES:
                raise S3Error(
                    "EntityTooSmall",
                    PartNumber=part.number,
                    ETag=part.found.etag,
                    MinSizeAllowed=PART_MIN_BYTES,
                    ProposedSize=part.size,
                )
        etag = multipart_etag([bytes.fromhex(part.found.etag) for part in chosen])
        inode = await self._files.write(
            asked, upload.path, self._joined(asked, chosen), kept, condition, lambda: (kept, etag)
        )
        return etag_of(inode), kept

    async def _is_open(self, asked: Asked) -> bool:
        try:
            await self._upload(asked)
        except S3Error:
            return False
        return True

    async def _completed_before(self, asked: Asked, named: list[bodies.Completed]) -> tuple[str, Attributes]:
        """A client that lost the answer sends the same again, or did so while the first was under way, and is told the same while the object is what
        these parts make (User Guide, "Multipart upload completion"). Raises ``S3Error`` (NoSuchUpload)."""
        found = await self._files.stat_file(asked, asked.path())
        try:
            etag = multipart_etag([bytes.fromhex(each.etag) for each in named])
        except ValueError:
            etag = ""
        if found is None or found.etag != etag:
            raise S3Error("NoSuchUpload")
        return etag, found.attributes

    def _completed_document(self, asked: Asked, etag: str, kept: Attributes) -> bytes:
        bucket, key = asked.request.bucket, asked.request.key
        elements = {ALGORITHMS[name.upper()].element: value for name, value in kept.checksums.items()}
        kind = "" if not elements else COMPOSITE if kept.composite else FULL_OBJECT
        return documents.completed_document(f"/{bucket}/{key}", bucket, key, etag, elements, kind)

    async def _joined(self, asked: Asked, parts: list[PartFile]) -> AsyncIterator[tuple[memoryview, bool]]:
        """All bytes of the parts, in order; a part is opened when its turn comes."""
        for part in parts:
            found = await self._files.open(asked, self._path(asked, part.number))
            if found.inode.content != part.found.inode.content:
                raise S3Error("InvalidPart", f"Part {part.number} was uploaded anew meanwhile.")
            size, is_last = found.inode.size, part is parts[-1]
            for at in range(0, max(size, 1), PIECE_BYTES):
                piece = await self._objects.piece(found, at, min(PIECE_BYTES, size - at))
                yield piece, is_last and at + len(piece) >= size

    def _chosen(self, part: PartFile | None, named: bodies.Completed, upload: Upload) -> PartFile:
        if part is None or part.found.etag != named.etag.strip('"'):
            raise S3Error("InvalidPart", PartNumber=named.number, ETag=named.etag)
        kept = part.found.attributes.checksums
        for element, digest in named.checksums.items():
            name = element.removeprefix("Checksum").lower()
            if name in kept and kept[name] != show(digest):
                raise S3Error("InvalidPart", f"Part {named.number} has another checksum.", PartNumber=named.number)
        if upload.algorithm and upload.kind == COMPOSITE and upload.algorithm.lower() not in kept:
            raise S3Error("InvalidRequest", f"Part {named.number} was uploaded without its {upload.algorithm}.")
        return part

    def _checksums(self, claimed: Claim | None, upload: Upload, parts: list[PartFile]) -> dict[str, Any]:
        """The checksum of the whole, where all parts have theirs; compared with the one the request claims."""
        name = upload.algorithm.lower()
        values = [part.found.attributes.checksums.get(name, "") for part in parts]
        if not name or not all(values):
            return {}
        algorithm = ALGORITHMS[upload.algorithm]
        digests = [read_value(algorithm, value) for value in values]
        if upload.kind == COMPOSITE:
            value = composite(algorithm, digests)
        else:
            sizes = (part.size for part in parts)
            value = show(full_object(algorithm, zip(digests, sizes, strict=True)))
        if claimed is not None and claimed.algorithm is algorithm and show(claimed.value or b"") != value.split("-")[0]:
            raise S3Error("BadDigest", f"The object does not have this {algorithm.name}.")
        return {"checksums": {name: value}, "composite": upload.kind == COMPOSITE, "part_checksums": digests}

    async def abort(self, asked: Asked) -> None:
        """AbortMultipartUpload."""
        await self._abort(asked, await self._upload(asked))
        await self._remove(asked)
        asked.answer(204)

    async def _abort(self, asked: Asked, upload: Upload) -> None:
        if upload.operation:
            await asked.ask(Method.ABORT_UPLOAD, AbortUploadRequest(upload.operation), Empty)

    async def list_parts(self, asked: Asked) -> None:
        """ListParts."""
        upload = await self._upload(asked, right=Right.READ)
        request = asked.request
        marker, most = request.number("part-number-marker", 0, 10_000), request.number("max-parts", 1000, 1000)
        found = await self._parts(asked, marker, most + 1)
        shown = [
            documents.Part(
                part.number,
                part.size,
                part.found.etag,
                part.found.mtime_s,
                {ALGORITHMS[name.upper()].element: value for name, value in part.found.attributes.checksums.items()},
            )
            for part in found[:most]
        ]
        following = shown[-1].number if len(found) > most and shown else 0
        body = documents.parts_document(
            upload.bucket,
            upload.key,
            request.query["uploadId"],
            asked.owner,
            documents.Parts(shown, marker, following, most),
            algorithm=upload.algorithm,
            kind=upload.kind,
        )
        asked.answer(200, {}, body)

    async def list_uploads(self, asked: Asked) -> None:
        """ListMultipartUploads."""
        asked.check_right(Right.READ)
        request, query = asked.request, asked.request.query
        prefix, delimiter = query.get("prefix", ""), query.get("delimiter", "")
        asked.check_reach_below(prefix)
        await self._files.check_bucket(asked)
        most = request.number("max-uploads", UPLOADS_MOST, UPLOADS_MOST)
        after = query.get("key-marker", ""), query.get("upload-id-marker", "")
        listing = documents.Listing(request.bucket, prefix, delimiter, most, request.url_encoded, asked.owner)
        found = sorted(
            (upload.key.encode(), number, upload)
            for number, upload in await self._uploads(asked)
            if upload.bucket == request.bucket and upload.key.startswith(prefix)
        )
        shown: list[documents.Upload] = []
        prefixes: list[str] = []
        next_upload = ""
        for raw, number, upload in found:
            key = raw.decode()
            if (key, number) <= after if after[1] else key <= after[0]:
                continue
            at = key.find(delimiter, len(prefix)) if delimiter else -1
            common = key[: at + len(delimiter)] if at >= 0 else ""
            if common and (common in prefixes or common <= after[0]):
                continue
            if len(shown) + len(prefixes) >= most:
                listing.next = shown[-1].key if shown else prefixes[-1]
                next_upload = shown[-1].upload_id if shown else ""
                break
            if common:
                prefixes.append(common)
            else:
                shown.append(documents.Upload(key, number, upload.begun_s, upload.algorithm, upload.kind))
        listing.prefixes = prefixes
        body = documents.uploads_document(
            listing, shown, key_marker=after[0], upload_marker=after[1], next_upload=next_upload
        )
        asked.answer(200, {}, body)

    # ---- what is there --------------------------------------------------------------------------------------------------

    async def _uploads(self, asked: Asked) -> list[tuple[str, Upload]]:
        found: list[tuple[str, Upload]] = []
        for name, _, _ in await self._names(asked, ROOM):
            number = name.rstrip(b"/").decode()
            try:
                found.append((number, await self._read(asked, number)))
            except (S3Error, NotFound):
                continue  # just begun, or just ended
        return found

    async def _names(self, asked: Asked, path: str) -> list[tuple[bytes, msgspec.Raw, msgspec.Raw]]:
        """What a directory holds: name, inode and attributes."""
        names: list[tuple[bytes, msgspec.Raw, msgspec.Raw]] = []
        position: bytes | None = b""
        while position is not None:
            try:
                page: ListAnswer = await asked.ask(
                    Method.LIST, ListRequest(path, position, attributes=True), ListAnswer
                )
            except (NotFound, NotADirectory):
                break
            names += zip(page.names, page.inodes, page.attributes, strict=True)
            position = page.next
        return names

    async def _upload(self, asked: Asked, right: Right = Right.WRITE) -> Upload:
        """The upload of the request. Raises ``S3Error`` (NoSuchUpload)."""
        asked.check_right(right)
        asked.check_reach(asked.request.key)
        upload = await self._read(asked, asked.request.query["uploadId"])
        if (upload.bucket, upload.key) != (asked.request.bucket, asked.request.key):
            raise S3Error("NoSuchUpload")
        return upload

    async def _read(self, asked: Asked, number: str) -> Upload:
        if len(number) != 2 * ID_BYTES or not _ID_CHARACTERS.issuperset(number):
            raise S3Error("NoSuchUpload")
        try:
            found = await self._files.open(asked, f"{ROOM}/{number}/{RECORD}")
        except (NotFound, NotADirectory):
            raise S3Error("NoSuchUpload") from None
        return _decode(bytes(await self._objects.piece(found, 0, found.inode.size)))

    async def _parts(self, asked: Asked, after: int = 0, most: int = PART_NUMBER_MAX) -> list[PartFile]:
        """Parts that came, by number, with what is kept of each."""
        found = [
            PartFile(int(name), Found(read_record(bytes(inode), bytes(attributes))))
            for name, inode, attributes in await self._names(asked, f"{ROOM}/{asked.request.query['uploadId']}")
            if name.isascii() and name.isdigit() and int(name) > after
        ]
        return sorted(found, key=lambda part: part.number)[:most]

    def _path(self, asked: Asked, number: int | None) -> str:
        return f"{ROOM}/{asked.request.query['uploadId']}/{number}"

    async def _remove(self, asked: Asked) -> None:
        path = f"{ROOM}/{asked.request.query['uploadId']}"
        try:
            await asked.ask(Method.REMOVE_TREE, RemoveTreeRequest(path), RemoveTreeAnswer)
        except NotFound:
            pass  # by another request


class _Hashed:
    """ETag and checksum of a part that is copied."""

    def __init__(self, algorithm: Algorithm | None) -> None:
        self._md5 = hashlib.md5(usedforsecurity=False)
        self._algorithm = algorithm
        self._sum = None if algorithm is None else algorithm.new()

    def update(self, data: memoryview) -> None:
        self._md5.update(data)
        if self._sum is not None:
            self._sum.update(data)

    def etag(self) -> str:
        return self._md5.hexdigest()

    def checksums(self) -> dict[str, str]:
        if self._algorithm is None or self._sum is None:
            return {}
        return {self._algorithm.name.lower(): show(self._sum.digest())}

    def elements(self) -> dict[str, str]:
        return {ALGORITHMS[name.upper()].element: value for name, value in self.checksums().items()}


def _runs(parts: list[PartFile]) -> list[tuple[int, int, int]]:
    """Sizes of parts as runs: (number of the first, how many, bytes of each)."""
    runs: list[tuple[int, int, int]] = []
    for part in parts:
        size = part.size
        if runs and runs[-1][2] == size and runs[-1][0] + runs[-1][1] == part.number:
            first, count, _ = runs[-1]
            runs[-1] = (first, count + 1, size)
        else:
            runs.append((part.number, 1, size))
    return runs
