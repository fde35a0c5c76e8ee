"""Requests signed by botocore, the independent signer that S3's own clients use, as the door would read them."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Any
from urllib.parse import urlsplit

import boto3
from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSPreparedRequest, AWSRequest, AWSResponse
from botocore.config import Config
from botocore.credentials import Credentials

from monofs.gateways.s3.head import Head, read_head

KEY, SECRET = "MFABCDEFGHIJKLMNOPQR", "a-secret-of-forty-characters-0123456789_"


def secret_of(access_key: str) -> str | None:
    return SECRET if access_key == KEY else None


def head_of(method: str, url: str, headers: Any) -> Head:
    """What comes over the wire for a request to ``url``."""
    parts = urlsplit(url)
    target = parts.path + (f"?{parts.query}" if parts.query else "")
    fields = [
        (name.encode(), value if isinstance(value, bytes) else str(value).encode()) for name, value in headers.items()
    ]
    if not any(name.lower() == b"host" for name, _ in fields):
        fields.append((b"Host", parts.netloc.encode()))
    return wire_head(method.encode(), target.encode(), fields)


def wire_head(method: bytes, target: bytes, fields: list[tuple[bytes, bytes]]) -> Head:
    """A head whose lines came as these bytes."""
    headers: dict[str, str] = {}
    for raw_name, raw_value in fields:
        name, value = raw_name.decode("latin-1").lower(), raw_value.decode("latin-1").strip(" \t")
        headers[name] = f"{headers[name]},{value}" if name in headers else value
    return read_head(method.decode("latin-1"), target.decode("latin-1"), headers)


def sign(
    method: str,
    url: str,
    headers: list[tuple[str, str]],
    *,
    region: str = "us-east-1",
    payload: str = "UNSIGNED-PAYLOAD",
) -> Head:
    """A request of these very parts; repeated headers stay repeated."""

    class Signer(S3SigV4Auth):
        def payload(self, request: AWSRequest) -> str:
            return payload

    request = AWSRequest(method=method, url=url)
    for name, value in headers:
        request.headers.add_header(name, value)
    Signer(Credentials(KEY, SECRET), "s3", region).add_auth(request)
    return head_of(method, url, request.headers)


class Sent(AWSPreparedRequest):
    """A request that boto3 was about to send."""

    head: Head
    content: bytes


@cache
def _client(style: str) -> tuple[Any, list[Sent]]:
    session = boto3.Session(aws_access_key_id=KEY, aws_secret_access_key=SECRET, region_name="eu-central-1")
    made = session.client("s3", endpoint_url="https://s3.example", config=Config(s3={"addressing_style": style}))
    sent: list[Sent] = []

    def keep(request: Any, **kwargs: Any) -> AWSResponse:
        request.head = head_of(request.method, request.url, request.headers)
        body = request.body
        request.content = body.read() if hasattr(body, "read") else (body or b"")
        sent.append(request)
        return AWSResponse(request.url, 200, {}, _Empty())

    made.meta.events.register("before-send.s3", keep)
    return made, sent


def client(style: str = "path") -> tuple[Any, list[Sent]]:
    """A boto3 client whose requests end in the list, which begins empty, instead of a network. Making one takes half a second: they are kept."""
    made, sent = _client(style)
    sent.clear()
    return made, sent


class _Empty:
    def stream(self, *args: Any, **kwargs: Any) -> Iterator[bytes]:
        return iter(())
