"""Signed requests of our own: what obstore cannot express (listings; keys with ``//``, ``..`` or control characters).

botocore's signer, urllib3's connections, nothing between them that would normalise a key. One try per request: the caller retries.

Every answer is bounded: a listing by ``LIST_BYTES_MAX``, an object by the range asked for.
"""

from __future__ import annotations

import contextlib
import ssl
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from urllib.parse import quote

import urllib3
import urllib3.exceptions as failures
from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import ReadOnlyCredentials

from monofs import __version__
from monofs.model.errors import UfsBadBody, UfsOption, UfsUnreachable
from monofs.observe.tracing import current_trace, show_trace
from monofs.ufs.s3_errors import BeyondEnd, Where, read_refusal, refusal_error, untrusted
from monofs.ufs.s3_settings import S3Settings

USER_AGENT = f"monofs/{__version__}"
CONNECT_TIMEOUT_S = 10.0
LIST_BYTES_MAX = 16 << 20
"""1,000 keys of 1,024 bytes, every byte percent-encoded, with all their elements, stay below a third of this."""
CHUNK_BYTES = 1 << 20
POOL_CONNECTIONS = 64


@dataclass(frozen=True, slots=True)
class Answer:
    """A successful answer whose body has not been read."""

    status: int
    headers: Mapping[str, str]
    chunks: Iterator[bytes]


class S3Requests:
    """GET requests to one bucket; thread-safe."""

    def __init__(self, settings: S3Settings, timeout_s: float) -> None:
        self._settings = settings
        self._path = b"/" if settings.host_style else f"/{settings.bucket}/".encode()
        self._manager = urllib3.PoolManager(
            maxsize=POOL_CONNECTIONS,
            block=False,
            ssl_context=_tls(settings),
            timeout=urllib3.Timeout(connect=min(CONNECT_TIMEOUT_S, timeout_s), read=timeout_s),
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
        target = quote(self._path + key if key or self._settings.host_style else self._path[:-1], safe="/-._~")
        if query:
            target += "?" + "&".join(f"{name}={quote(value, safe='-._~')}" for name, value in sorted(query.items()))
        signed, access_key = self._sign(target, headers)
        with self._translated(what):
            answer = self._pool.urlopen(
                "GET",
                target,
                headers=signed,
                retries=False,
                redirect=False,
                preload_content=False,
                decode_content=False,
            )
        try:
            if answer.status == 416:
                raise BeyondEnd
            if answer.status not in (200, 206):
                with self._translated(what):
                    body = answer.read(65536)
                refusal = read_refusal(
                    answer.status,
                    body,
                    request_id=answer.headers.get("x-amz-request-id", ""),
                    region=answer.headers.get("x-amz-bucket-region", ""),
                )
                raise refusal_error(refusal, Where(what, self._settings.bucket, self._settings.endpoint, access_key))
            yield Answer(answer.status, answer.headers, self._chunks(answer, what, most_bytes))
        except BaseException:
            answer.close()
            raise
        answer.release_conn()

    def _sign(self, target: str, headers: Mapping[str, str]) -> tuple[dict[str, str], str]:
        """Headers to send, and the access key they are signed with (empty: unsigned)."""
        trace = current_trace()
        agent = f"{USER_AGENT} ({show_trace(trace)})" if trace else USER_AGENT  # the store's log names our request too
        plain = {"User-Agent": agent, "Accept-Encoding": "identity", **headers}
        keys = self._settings.credentials.current()
        if keys is None:
            return plain, ""
        request = AWSRequest(method="GET", url=self._settings.base + target, headers=dict(headers))
        credentials = ReadOnlyCredentials(keys.access_key, keys.secret_key, keys.token)
        S3SigV4Auth(credentials, "s3", self._settings.region).add_auth(request)
        return {**plain, **dict(request.headers.items())}, keys.access_key

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
            raise UfsUnreachable(f"no TLS connection to {endpoint}: {_reason(error)}") from None
        except (failures.NameResolutionError, failures.LocationParseError):
            raise UfsUnreachable(f"the host name of {self._settings.base} cannot be resolved") from None
        except failures.NewConnectionError as error:
            raise UfsUnreachable(f"no connection to {endpoint}: {_reason(error)}") from None
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
