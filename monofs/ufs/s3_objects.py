"""Making one object whole: what stands at a key and who made it, the conditions of acts, and PUT.

Every object made here names its ``operation`` in its metadata (``x-amz-meta-monofs-operation``), which ``look`` reads back.

Invariant: an act whose condition the store refuses is asked about before it is said to have failed: a refusal by what that very
operation made before (a try whose answer was lost, a request delivered twice) is a success.

Not here: uploads in parts and copies (``s3_uploads``), deleting and directories (``s3``).
"""

from __future__ import annotations

import contextlib
import hashlib
import time
from base64 import b64encode
from collections.abc import Callable, Iterator, Mapping, Sequence
from email.utils import parsedate_to_datetime
from urllib.parse import quote, urlencode

from monofs.model.attributes import HEADERS, OPERATION, USER_PREFIX
from monofs.model.errors import MonofsError, UfsBadBody, UfsChanged, UfsFailed, UfsNotFound
from monofs.ufs.base import NO_HEADERS, Condition, UfsEntry, may_be_done
from monofs.ufs.observe import Observer, observed
from monofs.ufs.s3_conditions import S3Conditions, kind_of
from monofs.ufs.s3_documents import read_tags, tags_document
from monofs.ufs.s3_listing import strong_etag
from monofs.ufs.s3_reading import S3Reading, fingerprint_of
from monofs.ufs.s3_settings import S3Settings

META = USER_PREFIX
SECOND_NS = 1_000_000_000

Send = Callable[[dict[str, str]], UfsEntry]
"""One try of an act, with the headers of its condition."""


class S3Objects(S3Reading):
    """The store behind ``s3://``, as far as whole objects go; thread-safe."""

    def __init__(self, settings: S3Settings, *, timeout_s: float = 30.0, observe: Observer | None = None) -> None:
        super().__init__(settings, timeout_s=timeout_s, observe=observe)
        self._conditions = S3Conditions()

    def look(self, key: bytes) -> UfsEntry | None:
        """One HEAD; what it does not find is asked for by a LIST too, because a HEAD does not tell a missing bucket from a missing key."""
        headers = self._head(key)
        return None if headers is None else looked_at(key, headers)

    def headers(self, key: bytes) -> tuple[str, dict[str, str]]:
        """One HEAD; where that counts tags, they are asked for, too."""
        found = self._head(key)
        if found is None:
            raise UfsNotFound(f"{self._name(key)} does not exist")
        return looked_at(key, found).fingerprint, self._kept(key, found)

    def _kept(self, key: bytes, found: Mapping[str, str]) -> dict[str, str]:
        """What is kept with an object, by its HEAD's answer, tags as ``x-amz-tagging``."""
        kept = kept_headers(found)
        if has_tags(found):
            with observed(self._observe, "look"):
                reply = self._requests.send("GET", self._prefix + key, {"tagging": b""}, {}, self._name(key))
                kept["x-amz-tagging"] = urlencode(read_tags(reply.body), quote_via=quote)
        return kept

    def tag(self, key: bytes, tags: Mapping[str, str]) -> None:
        """PutObjectTagging, or DeleteObjectTagging."""
        document = tags_document(tags)
        with observed(self._observe, "tag"):
            if not tags:
                self._requests.send("DELETE", self._prefix + key, {"tagging": b""}, {}, self._name(key))
                return
            md5 = b64encode(hashlib.md5(document, usedforsecurity=False).digest()).decode()
            headers = {"Content-MD5": md5, "Content-Type": "application/xml"}
            self._requests.send("PUT", self._prefix + key, {"tagging": b""}, headers, self._name(key), [document])

    def put(
        self,
        key: bytes,
        data: Sequence[memoryview],
        operation: str,
        condition: Condition,
        headers: Mapping[str, str] = NO_HEADERS,
    ) -> UfsEntry:
        """One PUT where the server is known to honour the condition; see ``s3_conditions`` for how that is found out."""
        size = sum(len(each) for each in data)

        def send(conditional: dict[str, str]) -> UfsEntry:
            with observed(self._observe, "put") as request:
                etag = self._put(key, data, {**headers, META + OPERATION: operation, **conditional})
                request.bytes = size
            return self._made(key, size, etag)

        return self._act("put", key, operation, condition, send)

    # ---- conditions -----------------------------------------------------------------------------------------------------

    def _act(self, act: str, key: bytes, operation: str, condition: Condition, send: Send) -> UfsEntry:
        """Do what ``send`` does, where ``condition`` holds. ``UfsChanged`` says that it was not done."""
        kind = kind_of(condition)
        honoured = self._conditions.is_honoured(act, kind) if kind else True
        if not honoured or (kind and act != "put"):
            done = self._check_condition(key, operation, condition)
            if done is not None:
                return done
        sent = self._conditions.headers(act, condition)
        try:
            made = send(sent)
        except (UfsChanged, UfsNotFound) as error:
            return self._settle(act, key, operation, condition, send, sent, error)
        except MonofsError as error:
            if not kind or error.detail.get("store_code") != "NotImplemented":
                raise
            self._conditions.note(act, kind, honoured=False)
            return send({})
        return self._learn(kind, send, made) if act == "put" and honoured is None else made

    def _check_condition(self, key: bytes, operation: str, condition: Condition) -> UfsEntry | None:
        """Ask the store whether the condition holds; what this operation made before is returned. Raises ``UfsChanged``."""
        with not_done():
            found, _ = self.status(key)
        if (found is None) if condition.absent else (found is not None and found.fingerprint == condition.fingerprint):
            return None
        with unclear(self._name(key)):
            done = self.look(key) if found is not None else None
        if done is not None and done.operation == operation:
            return done
        raise self._changed(key)

    def _settle(
        self,
        act: str,
        key: bytes,
        operation: str,
        condition: Condition,
        send: Send,
        sent: dict[str, str],
        error: MonofsError,
    ) -> UfsEntry:
        """After a refusal: was it done before; does the condition hold all the same; or else raise."""
        while not error.detail.get("source"):
            with unclear(self._name(key)):
                found = self.look(key)
            if found is not None and found.operation == operation:
                return found
            if isinstance(error, UfsNotFound) and error.detail.get("store_code") != "NoSuchKey":
                break  # the upload is gone, or the bucket
            if kind_of(condition) != "match" or error.detail.get("store_code") == "ConditionalRequestConflict":
                break  # the latter tells of another act at the same moment, not of what lies there
            if found is None or found.fingerprint != condition.fingerprint:
                raise self._changed(key) from None
            self._conditions.note_refused(act, sent)
            sent = self._conditions.headers(act, condition)
            try:
                return send(sent)
            except (UfsChanged, UfsNotFound) as again:
                error = again
        raise error

    def _learn(self, kind: str, send: Send, made: UfsEntry) -> UfsEntry:
        """Put the same once more under a condition that is false now: a server that honours it refuses, for any other nothing changes."""
        try:
            made = send(self._conditions.false_headers(kind))
        except UfsChanged:
            self._conditions.note("put", kind, honoured=True)
        except MonofsError as error:
            if may_be_done(error):
                raise  # it may land later, on what others put by then: the caller has to look
        else:
            self._conditions.note("put", kind, honoured=False)
        return made

    def _changed(self, key: bytes) -> UfsChanged:
        return UfsChanged(f"{self._name(key)} changed in the store", not_done=1)

    # ---- requests -------------------------------------------------------------------------------------------------------

    def _head(self, key: bytes) -> Mapping[str, str] | None:
        full = self._prefix + key
        with observed(self._observe, "look"):
            try:
                return self._requests.send("HEAD", full, {}, {}, self._name(key)).headers
            except UfsNotFound:
                pass
        self._ask(full, "", max_keys=1, kind="look")
        return None

    def _put(self, key: bytes, data: Sequence[memoryview], headers: dict[str, str]) -> str:
        """The etag the answer tells, '' if none."""
        reply = self._requests.send("PUT", self._prefix + key, {}, headers, self._name(key), data)
        return strong_etag(reply.headers.get("etag", ""))

    def _made(self, key: bytes, size: int, etag: str) -> UfsEntry:
        """What a listing will show of an object made just now; a store that names no etag is asked."""
        if etag:
            now_s = int(time.time() + self._requests.skew_s)
            return UfsEntry(key, False, size, now_s * SECOND_NS, f"e:{etag}")
        with unclear(self._name(key)):
            found, _ = self.status(key)
        if found is None:
            raise UfsBadBody(f"{self._name(key)} was written, and the store does not show it")
        return found


@contextlib.contextmanager
def not_done() -> Iterator[None]:
    """Nothing was asked for yet: a failure in here says that the act was not done."""
    try:
        yield
    except MonofsError as error:
        error.detail["not_done"] = 1
        raise


@contextlib.contextmanager
def unclear(what: str) -> Iterator[None]:
    """The act was done, or may have been by an earlier try: a failure in here does not say that it was not."""
    try:
        yield
    except MonofsError as error:
        error.detail.pop("not_done", None)
        if may_be_done(error):
            raise
        raise UfsFailed(f"{what} may have been changed, and cannot be looked at: {error.message}") from None


def looked_at(key: bytes, headers: Mapping[str, str]) -> UfsEntry:
    """The entry a HEAD's answer tells of."""
    try:
        size = int(headers["content-length"])
        mtime_ns = int(parsedate_to_datetime(headers["last-modified"]).timestamp()) * SECOND_NS
    except (KeyError, ValueError, OverflowError) as error:
        raise UfsBadBody(f"the store's answer about {key!r} lacks its size or time: {error}") from None
    fingerprint = fingerprint_of(strong_etag(headers.get("etag", "")), size, mtime_ns)
    return UfsEntry(key, False, size, mtime_ns, fingerprint, operation=headers.get(META + OPERATION, ""))


def has_tags(headers: Mapping[str, str]) -> bool:
    """Whether a HEAD's answer counts tags."""
    return headers.get("x-amz-tagging-count", "0") != "0"


def kept_headers(headers: Mapping[str, str]) -> dict[str, str]:
    """What a HEAD's answer says is kept with an object, by lower-case name."""
    given = {name.lower(): value for name, value in headers.items()}
    return {name: _text(value) for name, value in given.items() if name in HEADERS or name.startswith(META)}


def _text(value: str) -> str:
    """A header's value as it was meant: HTTP libraries take its bytes for Latin-1."""
    try:
        return value.encode("latin-1").decode("utf-8")
    except UnicodeError:
        return value
