"""Objects made out of others or in parts: uploads, and copies within a bucket.

Parts are known to ``complete_upload`` as ``<number>:<etag>``. A copy keeps the source's user metadata, content headers and storage
class, and tags where a HEAD counts them; access lists are the bucket's. Copies above ``COPY_BYTES_MAX`` are uploads whose
parts the store reads itself.

Invariant: what a copy leaves at the target is the version of the source that was asked for. Servers that take no notice of
``x-amz-copy-source-if-match`` are found out by the etag of the copy, or else by looking at the source once more; but not where an object
was copied onto itself: its source is gone by then, and what lies there is all there is.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from urllib.parse import parse_qsl, quote

from monofs.model.attributes import OPERATION
from monofs.model.errors import MonofsError, UfsBadBody, UfsChanged, UfsNotFound
from monofs.ufs.base import NO_HEADERS, PARTS_MAX, Coming, Condition, UfsEntry
from monofs.ufs.observe import observed
from monofs.ufs.s3_documents import Made, parts_document, read_made, read_upload_id
from monofs.ufs.s3_listing import strong_etag
from monofs.ufs.s3_objects import META, S3Objects, has_tags, looked_at, not_done, unclear
from monofs.ufs.s3_requests import size_of

COPY_BYTES_MAX = 1 << 30
"""S3 copies up to 5 GB in one request; larger than this, several parts at a time are quicker and no answer is long in coming."""
COPY_PART_BYTES = 256 << 20
COPY_THREADS = 4


class S3Uploads(S3Objects):
    """The store behind ``s3://``, with uploads and copies; thread-safe."""

    def begin_upload(self, key: bytes, operation: str, headers: Mapping[str, str] = NO_HEADERS) -> str:
        """CreateMultipartUpload."""
        return self._begin_upload(key, {**headers, META + OPERATION: operation})

    def put_part(
        self,
        key: bytes,
        upload: str,
        number: int,
        offset: int,  # noqa: ARG002
        data: Sequence[memoryview] | Coming,
    ) -> str:
        """UploadPart."""
        query = {"partNumber": b"%d" % number, "uploadId": upload.encode()}
        with observed(self._observe, "part") as request:
            reply = self._requests.send("PUT", self._prefix + key, query, {}, self._name(key), data)
            request.bytes = size_of(data)
        return self._part(key, number, strong_etag(reply.headers.get("etag", "")))

    def complete_upload(
        self, key: bytes, upload: str, parts: Sequence[str], size: int, operation: str, condition: Condition
    ) -> UfsEntry:
        """CompleteMultipartUpload; then one HEAD, because the time a listing shows may be that of the beginning."""
        document = parts_document(_read_part(part) for part in parts)

        def send(headers: dict[str, str]) -> UfsEntry:
            query = {"uploadId": upload.encode()}
            with observed(self._observe, "complete"):
                reply = self._requests.send(
                    "POST", self._prefix + key, query, headers, self._name(key), [document], slow=True
                )
            return self._joined(key, size, operation, read_made(reply.body))

        return self._act("complete", key, operation, condition, send)

    def abort_upload(self, key: bytes, upload: str) -> None:
        """AbortMultipartUpload."""
        with observed(self._observe, "abort"), suppress(UfsNotFound):
            self._requests.send("DELETE", self._prefix + key, {"uploadId": upload.encode()}, {}, self._name(key))

    def copy(
        self,
        source: bytes,
        fingerprint: str,
        target: bytes,
        operation: str,
        condition: Condition,
        *,
        begun: Callable[[str], None] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> UfsEntry:
        """CopyObject, or UploadPartCopy of several parts; one HEAD before, to keep what the source's headers say, and where that counts tags, a
        GET of them, and a HEAD behind the copy."""
        with not_done():
            found, size = self._check_source(source, fingerprint)
            kept = dict(headers) if headers is not None else self._kept(source, found)
        retagged = {} if headers is None and "x-amz-tagging" not in kept else {"x-amz-tagging-directive": "REPLACE"}
        kept[META + OPERATION] = operation
        if size > COPY_BYTES_MAX:
            made = self._copy_parts(source, fingerprint, target, size, operation, condition, kept, begun)
        else:
            made = self._copy_whole(source, fingerprint, target, size, operation, condition, {**kept, **retagged})
        self._retag(target, operation, kept.get("x-amz-tagging", ""))
        return made

    def _retag(self, target: bytes, operation: str, tagging: str) -> None:
        """See to it that a copy has its tags: radosgw (16) keeps none where metadata are replaced."""
        if not tagging:
            return
        with unclear(self._name(target)):
            found = self._head(target)
            if found is not None and not has_tags(found) and looked_at(target, found).operation == operation:
                self.tag(target, dict(parse_qsl(tagging, keep_blank_values=True)))

    def _copy_whole(
        self,
        source: bytes,
        fingerprint: str,
        target: bytes,
        size: int,
        operation: str,
        condition: Condition,
        kept: Mapping[str, str],
    ) -> UfsEntry:
        wanted = self._wanted(source, fingerprint)

        def send(headers: dict[str, str]) -> UfsEntry:
            asked = {"x-amz-metadata-directive": "REPLACE", **kept, **wanted, **headers}
            try:
                with observed(self._observe, "copy"):
                    reply = self._requests.send("PUT", self._prefix + target, {}, asked, self._name(target), slow=True)
            except (UfsChanged, UfsNotFound):
                with not_done():
                    self._check_source(source, fingerprint)
                raise
            made = read_made(reply.body)
            if source != target and f"e:{made.etag}" != fingerprint:
                self._check_copied(source, fingerprint, target, operation)
            entry = self._made(target, size, made.etag)
            return entry if not made.modified_ns else _at(entry, made.modified_ns)

        return self._act("copy", target, operation, condition, send)

    # ---- uploads --------------------------------------------------------------------------------------------------------

    def _begin_upload(self, key: bytes, headers: Mapping[str, str]) -> str:
        with observed(self._observe, "upload"):
            reply = self._requests.send("POST", self._prefix + key, {"uploads": b""}, headers, self._name(key))
            return read_upload_id(reply.body, self._name(key))

    def _part(self, key: bytes, number: int, etag: str) -> str:
        if not etag:
            raise UfsBadBody(f"the store did not name part {number} of {self._name(key)}")
        return f"{number}:{etag}"

    def _joined(self, key: bytes, size: int, operation: str, made: Made) -> UfsEntry:
        """What the store shows after an upload was completed; what it told, where that was replaced already or cannot be seen."""
        try:
            with unclear(self._name(key)):
                found = self.look(key)
        except MonofsError:
            if not made.etag:
                raise
            found = None
        if found is not None and (found.operation == operation or found.fingerprint == f"e:{made.etag}"):
            return found
        if not made.etag:
            raise UfsBadBody(f"{self._name(key)} was completed, and the store shows another version")
        return self._made(key, size, made.etag)

    # ---- copies ---------------------------------------------------------------------------------------------------------

    def _wanted(self, source: bytes, fingerprint: str) -> dict[str, str]:
        path = f"/{self._settings.bucket}/".encode() + self._prefix + source
        headers = {"x-amz-copy-source": quote(path, safe="/-._~")}
        if fingerprint.startswith("e:"):
            headers["x-amz-copy-source-if-match"] = f'"{fingerprint[2:]}"'
        return headers

    def _check_source(self, source: bytes, fingerprint: str) -> tuple[Mapping[str, str], int]:
        """What its HEAD tells, and its size. Raises ``UfsNotFound`` or ``UfsChanged``, with ``source`` in the detail."""
        found = self._head(source)
        if found is None:
            raise UfsNotFound(f"{self._name(source)} does not exist", source=1)
        entry = looked_at(source, found)
        if entry.fingerprint != fingerprint:
            raise UfsChanged(f"{self._name(source)} changed in the store", source=1)
        return found, entry.size

    def _check_copied(self, source: bytes, fingerprint: str, target: bytes, operation: str) -> None:
        """After a copy whose etag does not tell what was copied: take it back unless the source is still the same."""
        with unclear(self._name(target)):
            try:
                self._check_source(source, fingerprint)
                return
            except (UfsChanged, UfsNotFound) as error:
                changed = error
            found = self.look(target)
            if found is not None and found.operation == operation:
                self._delete(target)
        raise changed

    def _copy_parts(
        self,
        source: bytes,
        fingerprint: str,
        target: bytes,
        size: int,
        operation: str,
        condition: Condition,
        kept: Mapping[str, str],
        begun: Callable[[str], None] | None,
    ) -> UfsEntry:
        with not_done():
            upload = self._begin_upload(target, kept)
        try:
            with not_done():
                if begun is not None:
                    begun(upload)
                step = max(COPY_PART_BYTES, -(-size // PARTS_MAX))
                ranges = [(at, min(at + step, size)) for at in range(0, size, step)]
                with ThreadPoolExecutor(COPY_THREADS, thread_name_prefix="s3-copy") as pool:
                    parts = list(
                        pool.map(
                            lambda item: self._copy_part(source, fingerprint, target, upload, *item),
                            enumerate(ranges, 1),
                        )
                    )
                self._check_source(source, fingerprint)
            return self.complete_upload(target, upload, parts, size, operation, condition)
        except BaseException:
            with suppress(MonofsError):  # what failed before is what is told; the upload was recorded
                self.abort_upload(target, upload)
            raise

    def _copy_part(
        self, source: bytes, fingerprint: str, target: bytes, upload: str, number: int, part: tuple[int, int]
    ) -> str:
        query = {"partNumber": b"%d" % number, "uploadId": upload.encode()}
        headers = {**self._wanted(source, fingerprint), "x-amz-copy-source-range": f"bytes={part[0]}-{part[1] - 1}"}
        with observed(self._observe, "part"):
            reply = self._requests.send("PUT", self._prefix + target, query, headers, self._name(target), slow=True)
        return self._part(target, number, read_made(reply.body).etag)

    def _delete(self, key: bytes) -> None:
        """DELETE; what is not there is deleted."""
        with observed(self._observe, "delete"), suppress(UfsNotFound):
            self._requests.send("DELETE", self._prefix + key, {}, {}, self._name(key))


def _read_part(part: str) -> tuple[int, str]:
    number, _, etag = part.partition(":")
    return int(number), etag


def _at(entry: UfsEntry, mtime_ns: int) -> UfsEntry:
    return UfsEntry(entry.name, False, entry.size, mtime_ns, entry.fingerprint)
