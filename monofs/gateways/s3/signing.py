"""AWS Signature Version 4 as S3 uses it: who signed a request, and whether this is what was signed. Pure: time and keys are arguments.

Written from the S3 API Reference: "Authenticating Requests: Using the Authorization Header", "... Using Query Parameters", "Signature
Calculations ... Transferring Payload in Multiple Chunks", "... Including Trailing Headers". What they leave open is as botocore signs.

Invariant: :func:`authenticate` returns only for requests whose every ``x-amz-*`` header, host, path and query are covered by a signature under
the secret of the key it names; signatures are compared in constant time. Not here: version 2 (``signing_v2``), which keys exist, what they may do, and whether the body
is the one that was signed (``Signed.payload`` says what it has to be compared with).
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import lru_cache
from urllib.parse import unquote_to_bytes

import msgspec

from monofs.gateways.s3.errors import S3Error
from monofs.gateways.s3.head import Head
from monofs.model.hmac_key import HmacKey
from monofs.model.sigv4 import ALGORITHM, EMPTY_SHA256, UNSIGNED, day_key

SKEW_MAX_S = 900
EXPIRES_MAX_S = 604800
NAMES_MAX, NAMES_MAX_BYTES, CREDENTIAL_MAX_BYTES, DATE_MAX_BYTES = 200, 4 << 10, 256, 64
"""Of SignedHeaders, of a credential and of a date. What they are read as is kept before anybody knows whether a key signed it: longer ones are refused."""
STREAMING = "STREAMING-AWS4-HMAC-SHA256-PAYLOAD"
STREAMING_TRAILER = "STREAMING-AWS4-HMAC-SHA256-PAYLOAD-TRAILER"
STREAMING_UNSIGNED_TRAILER = "STREAMING-UNSIGNED-PAYLOAD-TRAILER"
STREAMED = frozenset({STREAMING, STREAMING_TRAILER, STREAMING_UNSIGNED_TRAILER})
"""Bodies in aws-chunked form."""
_USUAL_PAYLOADS = STREAMED | {UNSIGNED, EMPTY_SHA256}

_SHA256_BEGUN = hashlib.sha256()
"""Copied for each message: quicker than a new one, for which OpenSSL looks its method up."""
_RESERVED = re.compile(r"[^A-Za-z0-9._~-]").sub
_RESERVED_PATH = re.compile(r"[^A-Za-z0-9._~/-]").sub
_ESCAPES = {chr(byte): f"%{byte:02X}" for byte in range(256)}
_UNRESERVED_PATH = re.compile(r"[A-Za-z0-9._~/-]*\Z").match
_SHA256 = re.compile(r"[0-9a-fA-F]{64}\Z").match
_TIMESTAMP = re.compile(r"([0-9]{4})([0-9]{2})([0-9]{2})T([0-9]{2})([0-9]{2})([0-9]{2})Z\Z").match
_SPACES = re.compile(r"[ \t]+").sub
_SECONDS = re.compile(r"[0-9]{1,7}\Z").match
_AMAZONS = re.compile(r"x-amz-[!#$%&'*+.^_`|~0-9a-z-]+\Z").match
_CONTROL = re.compile(r"[\x00-\x1f\x7f]").search
_UNTAKEN = frozenset(
    {
        "algorithm", "content-sha256", "credential", "date", "expires", "security-token", "signature", "signedheaders",
        "checksum-crc32", "checksum-crc32c", "checksum-crc64nvme", "checksum-sha1", "checksum-sha256", "sdk-checksum-algorithm",
    }
)  # fmt: skip
"""Parameters of a URL, behind ``x-amz-``, that are no headers: of its signature; and the checksum of no bytes that SDKs sign before there is a body
(those of JavaScript by default), which S3 looks past."""


class Chain:
    """The signatures of the chunks of a body, each of which continues from the one before; the first from ``seed``, that of the request.

    Each is checked by itself, from what was claimed before it, in any order and thread: the body was signed when all of them are right."""

    __slots__ = ("_key", "_scope", "seed")

    def __init__(self, key: HmacKey, timestamp: str, scope: str, seed: str) -> None:
        self._key, self._scope, self.seed = key, f"{timestamp}\n{scope}", seed

    def check_chunk(self, before: str, sha256: str, claimed: str) -> None:
        """Raise ``S3Error`` (SignatureDoesNotMatch) unless a chunk whose data have this digest follows the signature ``before``."""
        self._check(f"{ALGORITHM}-PAYLOAD\n{self._scope}\n{before}\n{EMPTY_SHA256}\n{sha256}", claimed)

    def check_trailer(self, before: str, trailers: bytes, claimed: str) -> None:
        """The same for the trailers, each as ``name:value\\n``."""
        self._check(f"{ALGORITHM}-TRAILER\n{self._scope}\n{before}\n{hashlib.sha256(trailers).hexdigest()}", claimed)

    def _check(self, to_sign: str, claimed: str) -> None:
        signature = self._key.digest(to_sign.encode()).hex()
        if not hmac.compare_digest(signature.encode(), claimed.encode("utf-8", "replace")):
            raise S3Error("SignatureDoesNotMatch", "The signature of a chunk of the body does not match.")


class Signed(msgspec.Struct, frozen=True):
    """A request that was signed. ``payload`` is the SHA-256 its body must have, ``UNSIGNED`` or one of ``STREAMED``; ``chain`` is there when the
    chunks of the body are signed too."""

    access_key: str
    payload: str
    chain: Chain | None


def authenticate(head: Head, secret_of: Callable[[str], str | None], now_s: float) -> Signed | None:
    """Who signed this request; None when nobody did.

    ``secret_of`` gives the secret of an access key id, None of one that is unknown, removed or expired. Raises ``S3Error`` as S3 does.
    """
    authorization = head.headers.get("authorization")
    if head.pairs:
        query = dict(reversed(head.pairs))  # of a repeated name the first counts
        if "X-Amz-Algorithm" in query or "X-Amz-Signature" in query:
            if authorization is not None:
                raise S3Error(
                    "InvalidArgument",
                    "Only one of an Authorization header and a presigned URL may be sent.",
                    ArgumentName="Authorization",
                )
            return _check_presigned(head, query, secret_of, now_s)
        if "AWSAccessKeyId" in query and "Signature" in query:
            raise unsupported()
    return _check_header(head, authorization, secret_of, now_s) if authorization else None


def _check_header(head: Head, authorization: str, secret_of: Callable[[str], str | None], now_s: float) -> Signed:
    before, found, rest = authorization.partition("Signature=")
    claimed, _, after = rest.partition(",")
    credential, names = _read_authorization(before, found, after)
    headers = head.headers
    timestamp = headers.get("x-amz-date") or _timestamp_of_date(headers.get("date", ""))
    signed_s = _read_timestamp(timestamp)
    if signed_s is None:
        raise S3Error("AccessDenied", "A signed request needs a valid x-amz-date or Date header.")
    if credential.day != timestamp[:8]:
        raise S3Error("AuthorizationHeaderMalformed", "The day of the credential is not that of the request's date.")
    payload = headers.get("x-amz-content-sha256")
    if payload is None:
        if headers.get("content-length", "0") != "0" or "transfer-encoding" in headers:
            raise S3Error("MissingSecurityHeader", MissingHeaderName="x-amz-content-sha256")
        payload = EMPTY_SHA256  # curl before 8.0 signs a request without a body so, but leaves the header out
    check_payload(payload)
    secret = find_secret(secret_of, credential.access_key, headers.get("x-amz-security-token"))
    check_skew(signed_s, now_s, timestamp)
    return _check(head, names, payload, head.pairs, credential, secret, timestamp, claimed.strip())


def _check_presigned(head: Head, query: dict[str, str], secret_of: Callable[[str], str | None], now_s: float) -> Signed:
    malformed = "AuthorizationQueryParametersError"
    if query.get("X-Amz-Algorithm") != ALGORITHM:
        raise S3Error(malformed, f"X-Amz-Algorithm has to be {ALGORITHM}.")
    try:
        told, names = query["X-Amz-Credential"], query["X-Amz-SignedHeaders"]
        timestamp, expires, claimed = query["X-Amz-Date"], query["X-Amz-Expires"], query["X-Amz-Signature"]
    except KeyError as missing:
        raise S3Error(malformed, f"The URL lacks the parameter {missing.args[0]}.") from None
    credential = _read_credential(told, malformed)
    signed_s = _read_timestamp(timestamp)
    if signed_s is None:
        raise S3Error(malformed, "X-Amz-Date has to be of the form 20130524T000000Z.")
    if credential.day != timestamp[:8]:
        raise S3Error(malformed, "The day of X-Amz-Credential is not that of X-Amz-Date.")
    if not _SECONDS(expires) or not 1 <= int(expires) <= EXPIRES_MAX_S:
        raise S3Error(malformed, f"X-Amz-Expires has to be a number of seconds from 1 to {EXPIRES_MAX_S}.")
    payload = query.get("X-Amz-Content-Sha256") or head.headers.get("x-amz-content-sha256") or UNSIGNED
    try:
        check_payload(payload)
    except S3Error:
        raise S3Error("XAmzContentSHA256Mismatch", ClientComputedContentSHA256=payload) from None
    token = query.get("X-Amz-Security-Token") or head.headers.get("x-amz-security-token")
    secret = find_secret(secret_of, credential.access_key, token)
    ends_s = signed_s + int(expires)
    if now_s < signed_s - SKEW_MAX_S:
        raise S3Error("AccessDenied", "The URL is not valid yet.", ServerTime=iso(now_s))
    if now_s >= ends_s:
        raise S3Error("AccessDenied", "The URL has expired.", Expires=iso(ends_s), ServerTime=iso(now_s))
    pairs = [pair for pair in head.pairs if pair[0] != "X-Amz-Signature"]
    signed = _check(head, _read_names(names), payload, pairs, credential, secret, timestamp, claimed)
    take_headers(head, lambda name: name not in _UNTAKEN)
    return signed


def take_headers(head: Head, is_taken: Callable[[str], bool] = lambda _: True) -> None:
    """Make headers of the ``x-amz-*`` parameters of a URL, where SDKs put what they sign. ``is_taken`` is asked with what is behind ``x-amz-``. Raises
    ``S3Error`` (InvalidArgument)."""
    for parameter, value in head.pairs:
        name, text = parameter.lower(), value.encode().decode("latin-1").strip(" ")
        if not name.startswith("x-amz-") or not is_taken(name[6:]):
            continue
        if not _AMAZONS(name) or _CONTROL(text):
            raise S3Error("InvalidArgument", "A parameter of the URL cannot be a header.", ArgumentName=parameter)
        if head.headers.setdefault(name, text) != text:
            raise S3Error("InvalidArgument", f"{name} is said twice, and not the same.", ArgumentName=parameter)


def check_form(fields: Mapping[str, str], secret_of: Callable[[str], str | None]) -> str:
    """The access key id whose holder signed the ``policy`` of a form ("Browser-Based Uploads Using POST"), in version 4 or 2. ``fields``: by lower-case
    name. Raises ``S3Error``. Not here: what the policy says, and until when."""
    policy = fields["policy"].encode("utf-8", "replace")
    is_v2 = "x-amz-algorithm" not in fields and "awsaccesskeyid" in fields
    if is_v2:
        access_key, claimed = fields["awsaccesskeyid"], _field(fields, "signature")
        key = find_secret(secret_of, access_key, fields.get("x-amz-security-token")).encode()
        signature = base64.b64encode(hmac.digest(key, policy, "sha1"))
    else:
        claimed = _field(fields, "x-amz-signature")
        if _field(fields, "x-amz-algorithm") != ALGORITHM:
            raise S3Error("InvalidArgument", f"x-amz-algorithm has to be {ALGORITHM}.", ArgumentName="x-amz-algorithm")
        credential = _read_credential(_field(fields, "x-amz-credential"), "InvalidArgument")
        access_key, timestamp = credential.access_key, _field(fields, "x-amz-date")
        if _read_timestamp(timestamp) is None or credential.day != timestamp[:8]:
            raise S3Error(
                "InvalidArgument", "x-amz-date has to be of the day of x-amz-credential.", ArgumentName="x-amz-date"
            )
        secret = find_secret(secret_of, access_key, fields.get("x-amz-security-token"))
        signature = day_key(secret, credential.day, credential.region).digest(policy).hex().encode()
    if not hmac.compare_digest(signature, claimed.encode("utf-8", "replace")):
        raise S3Error("SignatureDoesNotMatch", AWSAccessKeyId=access_key, SignatureProvided=claimed)
    return access_key


def _field(fields: Mapping[str, str], name: str) -> str:
    value = fields.get(name)
    if not value:
        raise S3Error("InvalidArgument", f"A form with a policy needs the field {name}.", ArgumentName=name)
    return value


class _Credential(msgspec.Struct, frozen=True, gc=False):
    """Of a signature: whose key, for which day and region. ``scope`` is all of it but the access key id."""

    access_key: str
    day: str
    region: str
    scope: str


class _Names(msgspec.Struct, frozen=True, gc=False):
    """SignedHeaders."""

    listed: tuple[str, ...]
    each: frozenset[str]
    joined: str


def _check(
    head: Head,
    names: _Names,
    payload: str,
    pairs: list[tuple[str, str]],
    credential: _Credential,
    secret: str,
    timestamp: str,
    claimed: str,
) -> Signed:
    """Raise ``S3Error`` unless the signature ``claimed`` is that of ``head`` with the headers ``names`` and the query ``pairs``."""
    headers, signed = head.headers, names.each
    for name in headers:
        if name not in signed and name.startswith("x-amz-"):
            raise S3Error("AccessDenied", f"The header {name} was sent but not signed.", HeadersNotSigned=name)
    lines = "\n".join([f"{name}:{headers.get(name, '')}" for name in names.listed])
    if "  " in lines or "\t" in lines:
        lines = _SPACES(" ", lines)
    path, query = head.path, _canonical_query(pairs) if pairs else ""
    if not _UNRESERVED_PATH(path):
        path = _canonical_path(path)
    canonical = f"{head.method}\n{path}\n{query}\n{lines}\n\n{names.joined}\n{payload}"
    hashed = _SHA256_BEGUN.copy()
    hashed.update(canonical.encode("latin-1"))
    to_sign = f"{ALGORITHM}\n{timestamp}\n{credential.scope}\n{hashed.hexdigest()}"
    key = day_key(secret, credential.day, credential.region)
    signature = key.digest(to_sign.encode("latin-1")).hex()
    if not (claimed.isascii() and hmac.compare_digest(signature, claimed)):
        raise S3Error(
            "SignatureDoesNotMatch",
            AWSAccessKeyId=credential.access_key,
            StringToSign=to_sign,
            SignatureProvided=claimed,
            CanonicalRequest=canonical,
        )
    is_chain = payload in (STREAMING, STREAMING_TRAILER)
    chain = Chain(key, timestamp, credential.scope, signature) if is_chain else None
    return Signed(credential.access_key, payload, chain)


def _canonical_path(path: str) -> str:
    """Every byte but unreserved ones and slashes percent-encoded, once; nothing is normalised."""
    return _RESERVED_PATH(_escaped, unquote_to_bytes(path.encode("latin-1")).decode("latin-1"))


def _canonical_query(pairs: list[tuple[str, str]]) -> str:
    encoded = [(encode(name), encode(value)) for name, value in pairs]
    encoded.sort()
    return "&".join([f"{name}={value}" for name, value in encoded])


def encode(text: str) -> str:
    """``text`` as UTF-8, every byte but unreserved ones percent-encoded (a quarter of the time of ``urllib.parse.quote``)."""
    if text.isascii():
        return _RESERVED(_escaped, text)
    return _RESERVED(_escaped, text.encode().decode("latin-1"))


def _escaped(found: re.Match[str]) -> str:
    return _ESCAPES[found[0]]


@lru_cache(maxsize=256)
def _read_authorization(before: str, found: str, after: str) -> tuple[_Credential, _Names]:
    """Credential and SignedHeaders of an Authorization header, of the text before and behind its signature, which was ``found``: a client sends the same
    day after day. What raises is not kept."""
    algorithm, _, rest = before.partition(" ")
    if algorithm != ALGORITHM:
        if algorithm.startswith("AWS4-") or (algorithm == "AWS" and ":" in rest):
            raise unsupported()
        raise S3Error("InvalidArgument", "This type of authorization is not known.", ArgumentName="Authorization")
    if not found or rest.rpartition(",")[2].strip():
        raise S3Error("AuthorizationHeaderMalformed", "The Authorization header lacks Signature.")
    if len(rest) + len(after) > 2 * NAMES_MAX_BYTES:
        raise S3Error("AuthorizationHeaderMalformed", "The Authorization header is too long.")
    fields = {}
    for field in f"{rest},{after}".split(","):
        name, _, value = field.strip().partition("=")
        fields[name] = value
    try:
        credential, names = fields["Credential"], fields["SignedHeaders"]
    except KeyError as missing:
        raise S3Error("AuthorizationHeaderMalformed", f"The Authorization header lacks {missing.args[0]}.") from None
    return _read_credential(credential, "AuthorizationHeaderMalformed"), _read_names(names)


@lru_cache(maxsize=1024)
def _read_names(names: str) -> _Names:
    """The names of SignedHeaders, as they are signed: a client sends the same ones over and over."""
    if len(names) > NAMES_MAX_BYTES or names.count(";") >= NAMES_MAX:
        raise S3Error("AccessDenied", f"SignedHeaders may have {NAMES_MAX} names and {NAMES_MAX_BYTES} bytes.")
    joined = names.lower()
    listed = tuple(joined.split(";"))
    if "host" not in listed or not names.isascii():
        raise S3Error("AccessDenied", "The header host has to be signed.", HeadersNotSigned="host")
    each = frozenset(listed)
    if len(each) < len(listed):
        raise S3Error("AccessDenied", "SignedHeaders names a header twice.")
    return _Names(listed, each, joined)


@lru_cache(maxsize=1024)
def _read_credential(credential: str, malformed: str) -> _Credential:
    """Any region will do: a client uses the one it is configured with."""
    parts = credential.split("/") if len(credential) <= CREDENTIAL_MAX_BYTES else []
    if len(parts) != 5 or parts[3:] != ["s3", "aws4_request"] or not all(parts) or not credential.isascii():
        raise S3Error(malformed, "The credential has to be of the form <key id>/<yyyymmdd>/<region>/s3/aws4_request.")
    return _Credential(parts[0], parts[1], parts[2], credential[len(parts[0]) + 1 :])


def check_skew(signed_s: float, now_s: float, told: str) -> None:
    """Raise ``S3Error`` (RequestTimeTooSkewed) unless the clock of who signed, which ``told`` this time, is about ours."""
    if abs(now_s - signed_s) > SKEW_MAX_S:
        raise S3Error(
            "RequestTimeTooSkewed",
            f"The client's clock is {abs(now_s - signed_s):.0f} s {'ahead of' if signed_s > now_s else 'behind'} this server's; {SKEW_MAX_S} s are allowed.",
            RequestTime=told,
            ServerTime=iso(now_s),
            MaxAllowedSkewMilliseconds=SKEW_MAX_S * 1000,
        )


def find_secret(secret_of: Callable[[str], str | None], access_key: str, token: str | None) -> str:
    """The secret of a key. Raises ``S3Error``: InvalidAccessKeyId, InvalidToken."""
    secret = secret_of(access_key)
    if secret is None:
        raise S3Error("InvalidAccessKeyId", AWSAccessKeyId=access_key)
    if token:
        raise S3Error("InvalidToken")
    return secret


def check_payload(payload: str) -> None:
    """Raise ``S3Error`` (InvalidArgument) unless this can be x-amz-content-sha256."""
    if payload not in _USUAL_PAYLOADS and not _SHA256(payload):
        raise S3Error(
            "InvalidArgument",
            f"x-amz-content-sha256 has to be a SHA-256 in hexadecimal, {UNSIGNED}, or one of {', '.join(sorted(STREAMED))}.",
            ArgumentName="x-amz-content-sha256",
            ArgumentValue=payload,
        )


def unsupported() -> S3Error:
    """Of a way to sign that is none here."""
    return S3Error("InvalidRequest", f"Requests are signed with {ALGORITHM} here, or as in version 2.")


def _read_timestamp(text: str) -> float | None:
    """Seconds since 1970 of ``20130524T000000Z``; None when it is none, or before."""
    return _kept_timestamp(text) if len(text) <= DATE_MAX_BYTES else None


@lru_cache(maxsize=1024)
def _kept_timestamp(text: str) -> float | None:
    found = _TIMESTAMP(text)
    if found is None:
        return None
    try:
        year, month, day, hour, minute, second = map(int, found.groups())
        seconds = datetime(year, month, day, hour, minute, second, tzinfo=UTC).timestamp()
    except ValueError:
        return None
    return seconds if seconds >= 0 else None


def time_of(date: str) -> float | None:
    """Seconds since 1970 of a Date header, in either form; None when it is none."""
    return _read_timestamp(_timestamp_of_date(date))


def _timestamp_of_date(date: str) -> str:
    """The Date header in the form that is signed; empty when it is none."""
    if _TIMESTAMP(date):
        return date
    if len(date) > DATE_MAX_BYTES:
        return ""
    try:
        found = parsedate_to_datetime(date)
        return (found if found.tzinfo else found.replace(tzinfo=UTC)).astimezone(UTC).strftime("%Y%m%dT%H%M%SZ")
    except (ValueError, OverflowError, TypeError, IndexError):
        return ""


def iso(seconds: float) -> str:
    """As errors tell times."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
