"""AWS Signature Version 2, which boto3 makes presigned URLs with for us-east-1 by itself, and tools from before 2014 sign with. Pure.

Written from the User Guide, "Signing and authenticating REST requests (AWS signature version 2)". It covers less than version 4: not the host, and of
headers only ``x-amz-*``, Content-MD5, Content-Type and the date; of the query only the parameters it lists. Invariant: :func:`authenticate` returns
only for requests whose ``x-amz-*`` headers, path, and every parameter that says what is done are covered by a signature under the secret of the key; what a
URL has of such headers is then a header for everybody, so that what is signed is what is done.
"""

from __future__ import annotations

import base64
import hmac
from collections.abc import Callable, Sequence

from monofs.gateways.s3.errors import S3Error
from monofs.gateways.s3.head import Head
from monofs.gateways.s3.requests import SUB_RESOURCES, bucket_of_host
from monofs.gateways.s3.signing import (
    EXPIRES_MAX_S,
    SKEW_MAX_S,
    STREAMING_UNSIGNED_TRAILER,
    Signed,
    check_payload,
    check_skew,
    find_secret,
    iso,
    take_headers,
    time_of,
    unsupported,
)
from monofs.model.sigv4 import UNSIGNED

_COVERED = frozenset(
    {
        "accelerate", "acl", "analytics", "cors", "delete", "inventory", "lifecycle", "location", "logging", "metrics", "notification", "object-lock",
        "partNumber", "policy", "replication", "requestPayment", "restore", "select", "select-type", "tagging", "torrent", "uploadId", "uploads",
        "versionId", "versioning", "versions", "website", "response-cache-control", "response-content-disposition", "response-content-encoding",
        "response-content-language", "response-content-type", "response-expires",
    }
)  # fmt: skip
"""Parameters that are signed."""
_UNCOVERED = SUB_RESOURCES - _COVERED
"""Those that came later: with one of them a URL for an object would be one for something else."""


def is_signed_so(head: Head) -> bool:
    """Whether a request says that it is signed by this version and no other."""
    says_so = head.headers.get("authorization", "").startswith("AWS ")
    if not head.pairs:
        return says_so
    names = {name for name, _ in head.pairs}
    if "X-Amz-Algorithm" in names or "X-Amz-Signature" in names:
        return False
    return says_so or {"AWSAccessKeyId", "Signature"} <= names


def authenticate(
    head: Head, secret_of: Callable[[str], str | None], now_s: float, domains: Sequence[str] = ()
) -> Signed:
    """Who signed a request for which :func:`is_signed_so`; of a URL, ``head.headers`` gets its ``x-amz-*``. Raises ``S3Error`` as S3 does."""
    headers, query = head.headers, dict(reversed(head.pairs))
    bucket = bucket_of_host(headers.get("host", ""), domains)
    authorization = headers.get("authorization")
    if not query.keys().isdisjoint(_UNCOVERED):
        raise S3Error("InvalidRequest", "A signature of version 2 does not cover what is asked for; use version 4.")
    if authorization is not None:
        if "Signature" in query:
            raise S3Error(
                "InvalidArgument",
                "Only one of an Authorization header and a presigned URL may be sent.",
                ArgumentName="Authorization",
            )
        access_key, colon, claimed = authorization.removeprefix("AWS ").strip().partition(":")
        if not colon:
            raise S3Error("InvalidArgument", "This type of authorization is not known.", ArgumentName="Authorization")
        secret = find_secret(secret_of, access_key, headers.get("x-amz-security-token"))
        date = headers.get("x-amz-date", headers.get("date", ""))
        signed_s = time_of(date)
        if signed_s is None:
            raise S3Error("AccessDenied", "A signed request needs a valid x-amz-date or Date header.")
        check_skew(signed_s, now_s, date)
        if "x-amz-date" in headers:
            date = ""
    else:
        access_key, claimed, date = query["AWSAccessKeyId"], query["Signature"], query.get("Expires", "")
        take_headers(head)
        secret = find_secret(secret_of, access_key, headers.get("x-amz-security-token"))
        _check_expires(date, now_s)
    unsaid = STREAMING_UNSIGNED_TRAILER if "x-amz-decoded-content-length" in headers else UNSIGNED
    payload = headers.get("x-amz-content-sha256") or unsaid
    check_payload(payload)
    if payload.startswith("STREAMING-") and payload != STREAMING_UNSIGNED_TRAILER:
        raise unsupported()  # chunks are signed by version 4 only
    to_sign, resource = _to_sign(head, date), (f"/{bucket}" if bucket else "") + head.path
    resources = (
        [resource, resource + "/"] if resource.count("/") == 1 else [resource]
    )  # of a bucket clients sign either
    texts = [to_sign + each.encode("latin-1") + _parameters(head) for each in resources]
    signatures = [base64.b64encode(hmac.digest(secret.encode(), text, "sha1")) for text in texts]
    if not any(hmac.compare_digest(each, claimed.encode("utf-8", "replace")) for each in signatures):
        shown = texts[0].decode("utf-8", "replace")
        raise S3Error("SignatureDoesNotMatch", AWSAccessKeyId=access_key, StringToSign=shown, SignatureProvided=claimed)
    return Signed(access_key, payload, None)


def _check_expires(text: str, now_s: float) -> None:
    """The end of a URL's life, in seconds since 1970. As far ahead at most as version 4 has it: what is shared ends some day."""
    if not text.isascii() or not text.isdigit() or len(text) > 11:
        raise S3Error("AccessDenied", "Expires has to be a number of seconds since 1970.")
    if now_s >= int(text):
        raise S3Error("AccessDenied", "The URL has expired.", Expires=iso(int(text)), ServerTime=iso(now_s))
    if int(text) - now_s > EXPIRES_MAX_S + SKEW_MAX_S:
        raise S3Error("AccessDenied", f"Expires may be {EXPIRES_MAX_S} s ahead at most.", ServerTime=iso(now_s))


def _to_sign(head: Head, date: str) -> bytes:
    """All that comes before the resource. What a head has is latin-1 in it, byte for byte."""
    headers = head.headers
    first = [head.method, headers.get("content-md5", ""), headers.get("content-type", ""), date]
    lines = [each.encode("latin-1") for each in first]
    amazons = sorted(name for name in headers if name.startswith("x-amz-"))
    lines += [name.encode("latin-1") + b":" + headers[name].encode("latin-1").strip() for name in amazons]
    return b"\n".join([*lines, b""])


def _parameters(head: Head) -> bytes:
    signed = sorted([pair for pair in head.pairs if pair[0] in _COVERED])
    text = "&".join([f"{name}={value}" if value else name for name, value in signed])
    return f"?{text}".encode() if text else b""
