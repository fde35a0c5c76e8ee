"""Bodies in aws-chunked form, as clients write them. API Reference: "Signature calculations: transferring payload in multiple chunks"."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Sequence
from datetime import UTC, datetime

from botocore.awsrequest import AWSRequest
from s3_endpoints import REGION, Endpoint, Reply, Signer

SIGNED = "STREAMING-AWS4-HMAC-SHA256-PAYLOAD"
SIGNED_TRAILER = "STREAMING-AWS4-HMAC-SHA256-PAYLOAD-TRAILER"
UNSIGNED_TRAILER = "STREAMING-UNSIGNED-PAYLOAD-TRAILER"


def plain(pieces: Sequence[bytes], trailers: dict[str, str]) -> bytes:
    """Unsigned chunks and trailers."""
    body = b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces if piece)
    return body + b"0\r\n" + b"".join(f"{name}:{value}\r\n".encode() for name, value in trailers.items()) + b"\r\n"


def put_plain(
    endpoint: Endpoint, target: str, pieces: Sequence[bytes], trailers: dict[str, str], **headers: str
) -> Reply:
    """A PUT of them."""
    size = sum(map(len, pieces))
    told = {"content-encoding": "aws-chunked", "x-amz-decoded-content-length": str(size)}
    if trailers:
        told["x-amz-trailer"] = ",".join(trailers)
    told |= {name.replace("_", "-"): value for name, value in headers.items()}
    return endpoint.raw("PUT", target, headers=told, body=plain(pieces, trailers), payload=UNSIGNED_TRAILER)


def put_signed(
    endpoint: Endpoint,
    target: str,
    pieces: Sequence[bytes],
    trailers: dict[str, str] | None = None,
    *,
    break_chunk: int = -1,
    break_trailer: bool = False,
    headers: dict[str, str] | None = None,
) -> Reply:
    """A PUT of chunks each of which is signed after the one before; ``break_chunk``: the one whose bytes are changed afterwards."""
    now = datetime.now(UTC)
    stamp, scope = now.strftime("%Y%m%dT%H%M%SZ"), f"{now:%Y%m%d}/{REGION}/s3/aws4_request"
    size = sum(map(len, pieces))
    told = {"content-encoding": "aws-chunked", "x-amz-decoded-content-length": str(size), **(headers or {})}
    if trailers is not None:
        told["x-amz-trailer"] = ",".join(trailers)
    request = AWSRequest(method="PUT", url=endpoint.url + target, headers=told)
    Signer(endpoint.access_key, endpoint.secret_key, SIGNED if trailers is None else SIGNED_TRAILER, now).add_auth(
        request
    )
    key = f"AWS4{endpoint.secret_key}".encode()
    for word in scope.split("/"):
        key = hmac.digest(key, word.encode(), "sha256")
    before = request.headers["Authorization"].rpartition("Signature=")[2]

    def sign(kind: str, *hashes: str) -> str:
        text = "\n".join([kind, stamp, scope, before, *hashes])
        return hmac.new(key, text.encode(), "sha256").hexdigest()

    empty = hashlib.sha256(b"").hexdigest()
    body = b""
    for number, piece in enumerate([*pieces, b""]):
        before = sign("AWS4-HMAC-SHA256-PAYLOAD", empty, hashlib.sha256(piece).hexdigest())
        sent = b"!" * len(piece) if number == break_chunk else piece
        body += b"%x;chunk-signature=%s\r\n%s" % (len(piece), before.encode(), sent)
        body += b"\r\n" if piece or trailers is None else b""
    if trailers is not None:
        lines = "".join(f"{name}:{value}\n" for name, value in trailers.items()).encode()
        before = sign("AWS4-HMAC-SHA256-TRAILER", hashlib.sha256(lines).hexdigest())
        signature = "0" * 64 if break_trailer else before
        body += lines.replace(b"\n", b"\r\n") + b"x-amz-trailer-signature:" + signature.encode() + b"\r\n\r\n"
    return endpoint.send("PUT", target, request.headers.items(), body)
