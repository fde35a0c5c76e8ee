"""What an S3 server's refusal means: status, code and message to one typed error that says what to correct. Pure.

A server's answer may echo signatures and tokens; only its ``Code``, ``Message`` and ``RequestId`` are ever quoted.
"""

from __future__ import annotations

import html
import re
from typing import NamedTuple

from monofs.model.errors import (
    MonofsError,
    UfsBucketNotFound,
    UfsChanged,
    UfsDenied,
    UfsFailed,
    UfsFull,
    UfsNotFound,
    UfsOption,
    UfsThrottled,
    UfsUnreachable,
)

MESSAGE_MAX = 200
_ELEMENT = re.compile(rb"<(Code|Message|RequestId|Region)>([^<]{0,2000})</\1>")

_THROTTLED = {
    "SlowDown",
    "ServiceUnavailable",
    "Throttling",
    "ThrottlingException",
    "TooManyRequests",
    "RequestLimitExceeded",
    "BandwidthLimitExceeded",
    "503SlowDown",
}
_TOKEN = {"ExpiredToken", "InvalidToken", "TokenRefreshRequired", "ExpiredTokenException"}
_ELSEWHERE = {
    "PermanentRedirect",
    "TemporaryRedirect",
    "AuthorizationHeaderMalformed",
    "IllegalLocationConstraintException",
    "InvalidRegionName",
}


_FULL = {
    "QuotaExceeded",
    "InsufficientStorage",
    "XMinioStorageFull",
    "XMinioAdminBucketQuotaExceeded",
    "NoSpaceLeft",
}
"""Codes of a store without room: radosgw, other servers, MinIO."""


class Refusal(NamedTuple):
    """An answer other than 2xx. ``region`` is the one the server names, if any."""

    status: int
    code: str = ""
    message: str = ""
    request_id: str = ""
    region: str = ""


def read_refusal(status: int, body: bytes, *, request_id: str = "", region: str = "") -> Refusal:
    """Pick the quotable parts out of an error document; anything may be absent."""
    found: dict[bytes, str] = {}
    for name, value in _ELEMENT.findall(body[:65536]):
        found.setdefault(name, html.unescape(value.decode("utf-8", "replace")).strip())
    return Refusal(
        status,
        found.get(b"Code", "")[:64],
        found.get(b"Message", "")[:MESSAGE_MAX],
        (request_id or found.get(b"RequestId", ""))[:128],
        (region or found.get(b"Region", ""))[:64],
    )


class Where(NamedTuple):
    """What a request was about. ``access_key`` (never the secret) is empty for unsigned requests."""

    what: str
    bucket: str
    endpoint: str
    access_key: str


def refusal_error(refusal: Refusal, where: Where) -> MonofsError:
    """The typed error for an answer other than 2xx."""
    error = _by_code(refusal, *where) or _by_status(refusal, where.what, where.endpoint)
    if refusal.code:
        error.detail["store_code"] = refusal.code
    if refusal.request_id:
        error.detail["request_id"] = refusal.request_id
    if (400 <= refusal.status < 500 and refusal.status not in (408, 429)) or refusal.status in (301, 307, 308, 501):
        error.detail["not_done"] = 1  # the server understood, and refused
    return error


class BeyondEnd(Exception):
    """416: the range asked for begins at or after the end of the object."""


def untrusted(endpoint: str) -> UfsUnreachable:
    """The server's certificate is not one we trust."""
    return UfsUnreachable(
        f"the certificate of {endpoint} is not trusted: give its authority with option ca_file", not_done=1
    )


def _by_code(refusal: Refusal, what: str, bucket: str, endpoint: str, access_key: str) -> MonofsError | None:
    status, code, message, _, region = refusal
    match code:
        case "NoSuchBucket":
            return UfsBucketNotFound(f"bucket {bucket!r} does not exist at {endpoint}")
        case "NoSuchKey" | "NoSuchVersion":
            return UfsNotFound(f"{what} does not exist")
        case "InvalidAccessKeyId":
            return UfsDenied(f"{endpoint} does not know access key {access_key!r}: correct option access_key")
        case "SignatureDoesNotMatch":
            return UfsDenied(f"the secret key does not belong to access key {access_key!r}: correct option secret_key")
        case "RequestTimeTooSkewed":
            return UfsDenied(f"the clocks of this machine and {endpoint} differ too much: set the clock")
        case "InvalidObjectState":
            return UfsDenied(f"{what} is archived: restore it from its storage class first")
        case "PreconditionFailed" | "ConditionalRequestConflict":
            return UfsChanged(f"{what} changed in the store")
        case "RequestTimeout":
            return UfsUnreachable(f"{endpoint} waited too long for a request about {what}")
        case "InvalidBucketName":
            return UfsOption(f"{endpoint} does not accept bucket name {bucket!r}")
    if code in _TOKEN:
        return UfsDenied(f"{endpoint} does not accept the session token ({code}): renew the credentials")
    if code in _FULL or status == 507:
        return UfsFull(f"{endpoint} has no room for {what} ({code or status}{': ' + message if message else ''})")
    if code in _THROTTLED:
        return UfsThrottled(f"{endpoint} asks to slow down ({code}) at {what}")
    if code in _ELSEWHERE or status in (301, 307, 308):
        there = f": set option region={region}" if region else f"{': ' + message if message else ''}; set option region"
        return UfsOption(f"bucket {bucket!r} is not served by {endpoint} ({code or status}){there} or endpoint")
    return None


def _by_status(refusal: Refusal, what: str, endpoint: str) -> MonofsError:
    status, code, message, *_ = refusal
    said = f"{status}{' ' + code if code else ''}{': ' + message if message else ''}"
    if status in (401, 403):
        return UfsDenied(f"{endpoint} refused access to {what} ({said}): the credentials lack the right")
    if status == 404:
        return UfsNotFound(f"{what} does not exist")
    if status == 412:
        return UfsChanged(f"{what} changed in the store")
    if status in (429, 503):
        return UfsThrottled(f"{endpoint} asks to slow down ({said}) at {what}")
    return UfsFailed(f"{endpoint} failed at {what}: {said}")
