"""A bucket of S3, or of a server that speaks its protocol, as a store: the whole of it, with deleting and directories.

Built in layers, each a file: signed requests (``s3_requests``), what is there (``s3_reading``), one whole object (``s3_objects``), uploads
and copies (``s3_uploads``). There are no retries in any of them: the caller sees each failure once.

A directory is its marker, the empty object ``key/``, or nothing but the keys below it.
"""

from __future__ import annotations

import hashlib
from base64 import b64encode
from collections.abc import Mapping, Sequence

from monofs.model.attributes import OPERATION
from monofs.model.errors import MonofsError, NotSupported, UfsChanged, UfsNotEmpty
from monofs.ufs.base import ANYTHING, MIB, Condition, UfsEntry
from monofs.ufs.observe import observed
from monofs.ufs.s3_documents import delete_document, is_plain, read_failed
from monofs.ufs.s3_errors import read_refusal, refusal_error
from monofs.ufs.s3_objects import META
from monofs.ufs.s3_uploads import S3Uploads


class S3Store(S3Uploads):
    """The store behind ``s3://``; thread-safe."""

    scheme = "s3"
    renames = False
    part_bytes = 8 * MIB

    @property
    def skew_s(self) -> float:
        """By the dates of its answers, to the second."""
        return self._requests.skew_s

    def rename(self, source: bytes, target: bytes, condition: Condition, *, directory: bool) -> UfsEntry:  # noqa: ARG002
        """S3 has no such call: copy, then delete."""
        raise NotSupported(f"{self._settings.uri} cannot rename: its objects are copied and deleted")

    def delete(self, key: bytes) -> None:
        """DELETE."""
        self._delete(key)

    def delete_many(self, keys: Sequence[bytes]) -> dict[bytes, MonofsError]:
        """One DeleteObjects for the keys its document can hold, one DELETE for each of the others."""
        failed: dict[bytes, MonofsError] = {}
        plain = [self._prefix + key for key in keys if is_plain(self._prefix + key)]
        if plain:
            failed = self._delete_plain(plain)
        for key in keys:
            if is_plain(self._prefix + key):
                continue
            try:
                self._delete(key)
            except MonofsError as error:
                failed[key] = error
        return failed

    def make_directory(
        self,
        key: bytes,
        operation: str,
        headers: Mapping[str, str] | None = None,
        body: bytes = b"",
        replaced: str = "",
    ) -> UfsEntry:
        """Put its marker, without ``headers`` unless there is one."""
        if not key:
            return UfsEntry(key, True)
        marker = key + b"/"
        told = {
            META + OPERATION: operation,
            **({"content-type": "application/x-directory"} if headers is None else headers),
        }

        def send(condition: dict[str, str]) -> UfsEntry:
            with observed(self._observe, "put"):
                etag = self._put(marker, (memoryview(body),) if body else (), {**told, **condition})
            return self._made(marker, len(body), etag)

        try:
            condition = Condition(fingerprint=replaced) if replaced else ANYTHING
            condition = Condition(absent=True) if headers is None else condition
            made: UfsEntry | None = self._act("put", marker, operation, condition, send)
        except UfsChanged:
            if replaced:
                raise
            made = self.look(marker)
        return UfsEntry(key, True) if made is None else UfsEntry(key, True, 0, made.mtime_ns, made.fingerprint)

    def remove_directory(self, key: bytes, *, implied: bool = False) -> None:  # noqa: ARG002
        """Delete its marker, if nothing else lies below."""
        marker = self._prefix + key + b"/"
        found = self._ask(marker, "", max_keys=2).items
        if any(item.key != marker for item in found):
            raise UfsNotEmpty(f"{self._name(key)} is not empty in the store")
        if found:
            self._delete(key + b"/")

    def remove_tree(self, key: bytes, operation: str) -> bool:  # noqa: ARG002
        """Never: there is no such call."""
        return False

    def sweep(self, operation: str, key: bytes) -> None:
        """Nothing: an upload is known by its id alone, and aborted by it."""

    def _delete_plain(self, full: Sequence[bytes]) -> dict[bytes, MonofsError]:
        what = f"{self._settings.uri} (deleting)"
        document = delete_document(full)
        md5 = b64encode(hashlib.md5(document, usedforsecurity=False).digest()).decode()
        headers = {"Content-MD5": md5, "Content-Type": "application/xml"}
        with observed(self._observe, "delete"):
            reply = self._requests.send("POST", b"", {"delete": b""}, headers, what, [document], slow=True)
            refused = read_failed(reply.body, what)
        failed: dict[bytes, MonofsError] = {}
        for key, said in refused.items():
            relative = key[len(self._prefix) :]
            refusal = read_refusal(403 if b"<Code>AccessDenied<" in said else 500, said)
            if refusal.code not in ("NoSuchKey", "NoSuchVersion"):
                failed[relative] = refusal_error(refusal, self._requests.where(self._name(relative)))
        return failed
