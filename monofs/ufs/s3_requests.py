"""Signed requests to one bucket: all that is asked of S3, by AWS Signature Version 4 in the ``Authorization`` header.

Nothing between the key and the wire normalises it. One try per request: the caller retries. A body is a list of views, sent without a copy and in small
pieces, so that a slow line is not taken for a silent one; or it comes while it is sent, and then its hash is no part of the signature.

Every answer is bounded: a listing by ``LIST_BYTES_MAX``, an object by the range asked for, any other by ``REPLY_BYTES_MAX``.

Not here: connections (``http_client``), what to ask for (``s3_reading``, ``s3_objects``, ``s3_uploads``).
"""

from __future__ import annotations

import contextlib
import hashlib
import re
import ssl
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from urllib.parse import quote

from monofs import __version__
from monofs.model.errors import MonofsError, UfsBadBody, UfsFailed, UfsOption
from monofs.model.sigv4 import ALGORITHM, EMPTY_SHA256, SERVICE_SCOPE, UNSIGNED, day_key
from monofs.observe.tracing import current_trace, show_trace
from monofs.ufs.base import Coming
from monofs.ufs.http_client import Answer, Server
from monofs.ufs.s3_documents import is_error
from monofs.ufs.s3_errors import BeyondEnd, Where, read_refusal, refusal_error
from monofs.ufs.s3_settings import Keys, S3Settings

USER_AGENT = f"monofs/{__version__}"
CONNECT_TIMEOUT_S = 10.0
LIST_BYTES_MAX = 16 << 20
"""1,000 keys of 1,024 bytes, every byte percent-encoded, with all their elements, stay below a third of this."""
REPLY_BYTES_MAX = 16 << 20
"""As many keys that could not be deleted stay below it too."""
ERROR_BYTES_MAX = 64 << 10
SEND_BYTES = 256 << 10
"""Pieces of a body: each must go out within the time a connection may take."""
SLOW_TIMEOUTS = 4
"""Copying and joining parts happen before the answer: they may be silent this many times as long."""
_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]").search


@dataclass(frozen=True, slots=True)
class Reply:
    """A successful answer to a changing request, read whole."""

    headers: Mapping[str, str]
    body: bytes


class S3Requests:
    """Requests to one bucket; thread-safe. ``skew_s``: how far the store's clock is ahead of ours, as last seen."""

    def __init__(self, settings: S3Settings, timeout_s: float) -> None:
        self.skew_s = 0.0
        self._settings = settings
        self._path = b"/" if settings.host_style else f"/{settings.bucket}/".encode()
        self._silence_s = timeout_s
        self._is_guarded = settings.base.startswith("https:")
        self._server = Server(settings.base, settings.endpoint, _tls(settings), min(CONNECT_TIMEOUT_S, timeout_s))
        self._date = ""

    def close(self) -> None:
        """Close idle connections."""
        self._server.close()

    def list(self, query: Mapping[str, bytes], what: str) -> bytes:
        """The body of a listing; ``query`` is everything but ``list-type`` and ``encoding-type``."""
        query = {**query, "list-type": b"2", "encoding-type": b"url"}
        with self.get(b"", query, {}, what, LIST_BYTES_MAX) as answer:
            return self._whole(answer, what, LIST_BYTES_MAX)

    @contextlib.contextmanager
    def get(
        self, key: bytes, query: Mapping[str, bytes], headers: Mapping[str, str], what: str, room: int
    ) -> Iterator[Answer]:
        """One GET, of some ``room`` bytes. The block reads the ``body``; the connection is kept for reuse when it read it all.

        Raises ``BeyondEnd``, or the 6xxx family for whatever goes wrong.
        """
        with self._asked("GET", key, query, headers, what, (), self._silence_s, room) as answer:
            if answer.status == 416:
                raise BeyondEnd
            if answer.status not in (200, 206):
                raise self._refused(answer, what)
            yield answer

    def send(
        self,
        method: str,
        key: bytes,
        query: Mapping[str, bytes],
        headers: Mapping[str, str],
        what: str,
        body: Sequence[bytes | memoryview] | Coming = (),
        *,
        slow: bool = False,
    ) -> Reply:
        """One request that changes something, or a HEAD. ``slow``: the store acts before it answers.

        Raises the 6xxx family; an error inside an answer of status 200 too.
        """
        silence_s = self._silence_s * (SLOW_TIMEOUTS if slow else 1)
        with self._asked(method, key, query, headers, what, body, silence_s, 0) as answer:
            if not 200 <= answer.status < 300 or answer.status == 206:
                raise self._refused(answer, what)
            whole = self._whole(answer, what, REPLY_BYTES_MAX)
            if is_error(whole):
                raise refusal_error(read_refusal(500, whole), self.where(what))
            return Reply(answer.headers, whole)

    def body(self, answer: Answer, what: str, most_bytes: int) -> Iterator[memoryview]:
        """The body of an answer. Raises ``UfsBadBody`` when it is longer than it may be, too."""
        total = 0
        for piece in answer.pieces():
            total += len(piece)
            if total > most_bytes:
                raise UfsBadBody(f"{self._settings.endpoint} sent more than {most_bytes} bytes for {what}")
            yield piece

    def _whole(self, answer: Answer, what: str, most_bytes: int) -> bytes:
        whole = bytearray()
        for piece in self.body(answer, what, most_bytes):
            whole += piece  # a buffer of its own for each of very many would be more than they hold
        return bytes(whole)

    @contextlib.contextmanager
    def _asked(
        self,
        method: str,
        key: bytes,
        query: Mapping[str, bytes],
        headers: Mapping[str, str],
        what: str,
        body: Sequence[bytes | memoryview] | Coming,
        silence_s: float,
        room: int,
    ) -> Iterator[Answer]:
        """Any answer, its body unread."""
        head = self.head(method, key, query, headers, body)
        with self._server.ask(method, head, _pieces(body), silence_s, what, room) as answer:
            self._note_date(answer.headers.get("date", ""))
            yield answer

    def _refused(self, answer: Answer, what: str) -> MonofsError:
        body = bytearray()
        for piece in answer.pieces():
            body += piece
            if len(body) > ERROR_BYTES_MAX:
                break
        refusal = read_refusal(
            answer.status,
            bytes(body),
            request_id=answer.headers.get("x-amz-request-id", ""),
            region=answer.headers.get("x-amz-bucket-region", ""),
        )
        return refusal_error(refusal, self.where(what))

    def where(self, what: str) -> Where:
        """What errors about it tell of the request."""
        keys = self._settings.credentials.given
        return Where(what, self._settings.bucket, self._settings.endpoint, keys.access_key if keys else "")

    def _note_date(self, date: str) -> None:
        if date == self._date:
            return  # of the same second
        self._date = date
        try:
            skew_s = parsedate_to_datetime(date).timestamp() + 0.5 - time.time()
        except (ValueError, OverflowError):
            return
        self.skew_s = skew_s if abs(skew_s) > 1.5 else 0.0

    def head(
        self,
        method: str,
        key: bytes,
        query: Mapping[str, bytes],
        headers: Mapping[str, str],
        body: Sequence[bytes | memoryview] | Coming,
    ) -> bytes:
        """A request to its empty line. Raises ``UfsFailed`` for a header that cannot be sent, ``UfsDenied`` without credentials."""
        target = quote(self._path + key if key or self._settings.host_style else self._path[:-1], safe="/-._~")
        asked = "&".join(f"{name}={quote(value, safe='-._~')}" for name, value in sorted(query.items()))
        fields = {"host": self._server.host, **{name.lower(): value for name, value in headers.items()}}
        if method in ("PUT", "POST"):
            fields["content-length"] = str(size_of(body))
        keys = self._settings.credentials.current()
        if keys is not None:
            fields["authorization"] = self._sign(keys, method, target, asked, fields, self._hash(body))
        trace = current_trace()
        fields["user-agent"] = f"{USER_AGENT} ({show_trace(trace)})" if trace else USER_AGENT  # for the store's log
        fields["accept-encoding"] = "identity"
        lines = [f"{name}: {value}\r\n" for name, value in fields.items()]
        if any(map(_CONTROL, fields.values())):
            raise UfsFailed("a header with a line break or another control character cannot be sent", not_done=1)
        return f"{method} {target}{'?' if asked else ''}{asked} HTTP/1.1\r\n{''.join(lines)}\r\n".encode()

    def _hash(self, body: Sequence[bytes | memoryview] | Coming) -> str:
        """Of the body as the signature has it: not over TLS, which guards it already."""
        if isinstance(body, Coming) or (body and self._is_guarded):
            return UNSIGNED
        if not body:
            return EMPTY_SHA256
        found = hashlib.sha256()
        for each in body:
            found.update(each)
        return found.hexdigest()

    def _sign(self, keys: Keys, method: str, target: str, query: str, fields: dict[str, str], payload: str) -> str:
        """The value of ``Authorization``, which covers all ``fields``; adds those that belong to it."""
        stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
        day, region = stamp[:8], self._settings.region
        fields["x-amz-date"], fields["x-amz-content-sha256"] = stamp, payload
        if keys.token:
            fields["x-amz-security-token"] = keys.token
        names = sorted(fields)
        lines = "".join([f"{name}:{' '.join(fields[name].split())}\n" for name in names])
        listed = ";".join(names)
        canonical = f"{method}\n{target}\n{query}\n{lines}\n{listed}\n{payload}"
        scope = f"{day}/{region}/{SERVICE_SCOPE}"
        to_sign = f"{ALGORITHM}\n{stamp}\n{scope}\n{hashlib.sha256(canonical.encode()).hexdigest()}"
        signature = day_key(keys.secret_key, day, region).digest(to_sign.encode()).hex()
        return f"{ALGORITHM} Credential={keys.access_key}/{scope}, SignedHeaders={listed}, Signature={signature}"


def size_of(body: Sequence[bytes | memoryview] | Coming) -> int:
    """Its bytes."""
    return body.size if isinstance(body, Coming) else sum(len(each) for each in body)


def _pieces(body: Sequence[bytes | memoryview] | Coming) -> Iterable[bytes | memoryview]:
    return (each[at : at + SEND_BYTES] for each in body for at in range(0, len(each), SEND_BYTES))


def _tls(settings: S3Settings) -> ssl.SSLContext:
    """The system's authorities and those of ``ca_file``; none are asked with ``verify_tls=false``."""
    context = ssl.create_default_context()
    if not settings.verify_tls:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    if settings.ca_file:
        try:
            context.load_verify_locations(settings.ca_file)
        except OSError as error:  # SSLError is one
            reason = error.strerror or "no certificates in it"
            raise UfsOption(f"option ca_file: {settings.ca_file} cannot be used: {reason}") from None
    return context
