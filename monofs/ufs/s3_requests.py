"""Signed requests of our own: what obstore cannot express (listings, uploads in parts, copies; keys with ``//``, ``..`` or control characters).

botocore's signer, urllib3's connections, nothing between them that would normalise a key. One try per request: the caller retries.
A body is a list of views, sent without a copy and in small pieces, so that a slow line is not taken for a silent one; or it comes while it is sent, and
then its hash is no part of the signature.

Every answer is bounded: a listing by ``LIST_BYTES_MAX``, an object by the range asked for, any other by ``REPLY_BYTES_MAX``.
"""

from __future__ import annotations

import contextlib
import hashlib
import ssl
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import quote

import urllib3
import urllib3.exceptions as failures
from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import ReadOnlyCredentials

from monofs import __version__
from monofs.model.errors import MonofsError, UfsBadBody, UfsOption, UfsUnreachable
from monofs.observe.tracing import current_trace, show_trace
from monofs.ufs.base import Coming
from monofs.ufs.s3_documents import is_error
from monofs.ufs.s3_errors import BeyondEnd, Where, read_refusal, refusal_error, untrusted
from monofs.ufs.s3_settings import S3Settings

USER_AGENT = f"monofs/{__version__}"
CONNECT_TIMEOUT_S = 10.0
LIST_BYTES_MAX = 16 << 20
"""1,000 keys of 1,024 bytes, every byte percent-encoded, with all their elements, stay below a third of this."""
REPLY_BYTES_MAX = 16 << 20
"""As many keys that could not be deleted stay below it too."""
CHUNK_BYTES = 1 << 20
SEND_BYTES = 256 << 10
"""Pieces of a body: each must go out within the time a connection may take."""
POOL_CONNECTIONS = 64
SLOW_TIMEOUTS = 4
"""Copying and joining parts happen before the answer: they may be silent this many times as long."""


@dataclass(frozen=True, slots=True)
class Answer:
    """A successful answer whose body has not been read."""

    status: int
    headers: Mapping[str, str]
    chunks: Iterator[bytes]


@dataclass(frozen=True, slots=True)
class Reply:
    """A successful answer to a changing request, read whole."""

    headers: Mapping[str, str]
    body: bytes


class _Signer(S3SigV4Auth):  # type: ignore[misc]
    """botocore's signer, told the hash of the body instead of being given the body."""

    def payload(self, request: AWSRequest) -> str:
        return str(request.context["payload"])


class S3Requests:
    """Requests to one bucket; thread-safe. ``skew_s``: how far the store's clock is ahead of ours, as last seen."""

    def __init__(self, settings: S3Settings, timeout_s: float) -> None:
        self.skew_s = 0.0
        self._settings = settings
        self._path = b"/" if settings.host_style else f"/{settings.bucket}/".encode()
        self._connect_s, self._read_s = min(CONNECT_TIMEOUT_S, timeout_s), timeout_s
        self._silence = urllib3.Timeout(connect=self._connect_s, read=timeout_s)
        self._manager = urllib3.PoolManager(
            maxsize=POOL_CONNECTIONS,
            block=False,
            ssl_context=_tls(settings),
            retries=False,
        )
        self._pool = self._manager.connection_from_url(settings.base)

    def close(self) -> None:
        """Close idle connections."""
        self._manager.clear()

    def list(self, query: Mapping[str, bytes], what: str) -> bytes:
        """The body of a listing; ``query`` is everything but ``list-type`` and ``encoding-type``."""
        query = {**query, "list-type": b"2", "encoding-type": b"url"}
        with self.get(b"", query, {}, what, LIST_BYTES_MAX) as answer:
            return b"".join(answer.chunks)

    @contextlib.contextmanager
    def get(
        self, key: bytes, query: Mapping[str, bytes], headers: Mapping[str, str], what: str, most_bytes: int
    ) -> Iterator[Answer]:
        """One GET. The block reads ``chunks``; the connection is kept for reuse when it read them all.

        Raises ``BeyondEnd``, or the 6xxx family for whatever goes wrong, inside ``chunks`` too.
        """
        with self._asked("GET", key, query, headers, what, (), self._silence) as answer:
            if answer.status == 416:
                raise BeyondEnd
            if answer.status not in (200, 206):
                raise self._refused(answer, what)
            yield Answer(answer.status, answer.headers, self._chunks(answer, what, most_bytes))

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
        silence = urllib3.Timeout(connect=self._connect_s, read=self._read_s * SLOW_TIMEOUTS) if slow else self._silence
        with self._asked(method, key, query, headers, what, body, silence) as answer:
            if answer.status not in (200, 204):
                raise self._refused(answer, what)
            whole = b"".join(self._chunks(answer, what, REPLY_BYTES_MAX))
            if is_error(whole):
                raise refusal_error(read_refusal(500, whole), self._where(what))
            return Reply(answer.headers, whole)

    @contextlib.contextmanager
    def _asked(
        self,
        method: str,
        key: bytes,
        query: Mapping[str, bytes],
        headers: Mapping[str, str],
        what: str,
        body: Sequence[bytes | memoryview] | Coming,
        timeout: urllib3.Timeout,
    ) -> Iterator[urllib3.BaseHTTPResponse]:
        """Any answer, its body unread; the connection is kept for reuse when the block read it all."""
        target = quote(self._path + key if key or self._settings.host_style else self._path[:-1], safe="/-._~")
        if query:
            target += "?" + "&".join(f"{name}={quote(value, safe='-._~')}" for name, value in sorted(query.items()))
        if method in ("PUT", "POST"):
            headers = {**headers, "Content-Length": str(size_of(body))}
        with self._translated(what):
            answer = self._pool.urlopen(
                method,
                target,
                body=_pieces(body),
                headers=self._sign(method, target, headers, body),
                timeout=timeout,
                retries=False,
                redirect=False,
                preload_content=False,
                decode_content=False,
            )
        try:
            self._note_date(answer.headers.get("date"))
            yield answer
        except BaseException:
            answer.close()
            raise
        answer.release_conn()

    def _refused(self, answer: urllib3.BaseHTTPResponse, what: str) -> MonofsError:
        with self._translated(what):
            body = answer.read(65536)
        refusal = read_refusal(
            answer.status,
            body,
            request_id=answer.headers.get("x-amz-request-id", ""),
            region=answer.headers.get("x-amz-bucket-region", ""),
        )
        return refusal_error(refusal, self._where(what))

    def _where(self, what: str) -> Where:
        keys = self._settings.credentials.current()
        return Where(what, self._settings.bucket, self._settings.endpoint, keys.access_key if keys else "")

    def _note_date(self, date: str | None) -> None:
        try:
            skew_s = parsedate_to_datetime(date or "").timestamp() + 0.5 - time.time()
        except ValueError:
            return
        self.skew_s = skew_s if abs(skew_s) > 1.5 else 0.0

    def _sign(
        self, method: str, target: str, headers: Mapping[str, str], body: Sequence[bytes | memoryview] | Coming
    ) -> dict[str, Any]:
        """Headers to send. The body is part of the signature, but not over TLS, which guards it already."""
        trace = current_trace()
        agent = f"{USER_AGENT} ({show_trace(trace)})" if trace else USER_AGENT  # the store's log names our request too
        plain = {"User-Agent": agent, "Accept-Encoding": "identity", **headers}
        keys = self._settings.credentials.current()
        if keys is not None:
            request = AWSRequest(method=method, url=self._settings.base + target, headers=dict(headers))
            request.context["payload"] = (
                "UNSIGNED-PAYLOAD"
                if isinstance(body, Coming) or (body and self._settings.base.startswith("https:"))
                else _sha256(body)
            )
            credentials = ReadOnlyCredentials(keys.access_key, keys.secret_key, keys.token)
            _Signer(credentials, "s3", self._settings.region).add_auth(request)
            plain.update(request.headers.items())
        return {name: value if value.isascii() else value.encode() for name, value in plain.items()}

    def _chunks(self, answer: urllib3.BaseHTTPResponse, what: str, most_bytes: int) -> Iterator[bytes]:
        total = 0
        while True:
            with self._translated(what):
                chunk = answer.read(CHUNK_BYTES)
            if not chunk:
                return
            total += len(chunk)
            if total > most_bytes:
                raise UfsBadBody(f"{self._settings.endpoint} sent more than {most_bytes} bytes for {what}")
            yield chunk

    @contextlib.contextmanager
    def _translated(self, what: str) -> Iterator[None]:
        """Turn what urllib3 raises into the 6xxx family."""
        endpoint = self._settings.endpoint
        try:
            yield
        except failures.SSLError as error:
            if "CERTIFICATE_VERIFY_FAILED" in str(error):
                raise untrusted(endpoint) from None
            raise UfsUnreachable(f"no TLS connection to {endpoint}: {_reason(error)}", not_done=1) from None
        except (failures.NameResolutionError, failures.LocationParseError):
            raise UfsUnreachable(f"the host name of {self._settings.base} cannot be resolved", not_done=1) from None
        except failures.NewConnectionError as error:
            raise UfsUnreachable(f"no connection to {endpoint}: {_reason(error)}", not_done=1) from None
        except failures.ConnectTimeoutError:
            raise UfsUnreachable(f"no connection to {endpoint} in time at {what}", not_done=1) from None
        except failures.TimeoutError:
            raise UfsUnreachable(f"{endpoint} did not answer in time at {what}") from None
        except failures.IncompleteRead as error:
            raise UfsBadBody(f"the answer for {what} was cut short: {error}") from None
        except failures.ProtocolError as error:
            if "IncompleteRead" in str(error) or "Connection broken" in str(error):
                raise UfsBadBody(f"the answer for {what} was cut short") from None
            raise UfsUnreachable(f"the connection to {endpoint} broke at {what}: {_reason(error)}") from None
        except (failures.HTTPError, OSError) as error:
            raise UfsUnreachable(f"{endpoint} cannot be reached: {_reason(error)}") from None


def size_of(body: Sequence[bytes | memoryview] | Coming) -> int:
    """Its bytes."""
    return body.size if isinstance(body, Coming) else sum(len(each) for each in body)


def _pieces(body: Sequence[bytes | memoryview] | Coming) -> Any:
    """What urllib3 takes for a body of several buffers; None for an empty one."""
    if isinstance(body, Coming):
        return (each[at : at + SEND_BYTES] for each in body for at in range(0, len(each), SEND_BYTES))
    return [each[at : at + SEND_BYTES] for each in body for at in range(0, len(each), SEND_BYTES)] or None


def _sha256(body: Sequence[bytes | memoryview]) -> str:
    found = hashlib.sha256()
    for each in body:
        found.update(each)
    return found.hexdigest()


def _tls(settings: S3Settings) -> ssl.SSLContext:
    """The system's authorities and those of ``ca_file``, as obstore trusts them; none are asked with ``verify_tls=false``."""
    context = ssl.create_default_context()
    if not settings.verify_tls:
        urllib3.disable_warnings(failures.InsecureRequestWarning)  # the user asked for it; once is enough
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    if settings.ca_file:
        try:
            context.load_verify_locations(settings.ca_file)
        except OSError as error:  # SSLError is one
            reason = error.strerror or "no certificates in it"
            raise UfsOption(f"option ca_file: {settings.ca_file} cannot be used: {reason}") from None
    return context


def _reason(error: BaseException) -> str:
    """What the system said, else the words of the innermost cause."""
    cause: BaseException | None = error
    while cause is not None:
        for one in (cause, *cause.args):
            if isinstance(one, OSError) and one.strerror:
                return one.strerror
        innermost, cause = cause, cause.__cause__ or cause.__context__
    return (str(innermost) or type(innermost).__name__)[:200]
