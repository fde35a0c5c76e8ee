"""An S3 endpoint under conformance: asked through boto3, by requests signed by hand, or by bare bytes.

Here is what the tests ask with, the same for monofs and for radosgw. Not here: how endpoints are started (``conftest``) and where they differ
(``s3_differences``).
"""

from __future__ import annotations

import hashlib
import http.client
import re
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cached_property
from itertools import count
from typing import Any
from urllib.parse import quote, urlsplit
from xml.etree.ElementTree import Element, fromstring

import boto3
from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.config import Config
from botocore.credentials import Credentials
from botocore.exceptions import ClientError

UNSIGNED = "UNSIGNED-PAYLOAD"
EDGE = "----edge"
REGION = "us-east-1"
_numbers = count(1)


class Signer(S3SigV4Auth):
    """botocore's signer, with any payload hash and clock."""

    def __init__(self, access_key: str, secret_key: str, payload: str, now: datetime) -> None:
        super().__init__(Credentials(access_key, secret_key), "s3", REGION)
        self._payload, self._now = payload, now

    def payload(self, request: AWSRequest) -> str:
        return self._payload

    def add_auth(self, request: AWSRequest) -> None:
        request.context["timestamp"] = self._now.strftime("%Y%m%dT%H%M%SZ")
        self._modify_request_before_signing(request)
        to_sign = self.string_to_sign(request, self.canonical_request(request))
        self._inject_signature_to_request(request, self.signature(to_sign, request))


@dataclass
class Reply:
    """An answer. ``headers``: by lower-case name."""

    status: int
    headers: dict[str, str]
    body: bytes

    @cached_property
    def document(self) -> Element:
        """The XML of the body, without namespaces."""
        return fromstring(re.sub(rb' xmlns="[^"]*"', b"", self.body, count=1))

    def text(self, path: str) -> str | None:
        """The text of an element of the document."""
        return self.document.findtext(path)

    @property
    def code(self) -> str:
        """The code of the error; empty without one."""
        return self.text("Code") or "" if self.status >= 400 and self.body else ""

    @property
    def told(self) -> tuple[int, str]:
        """Status and code of the error."""
        return self.status, self.code


@dataclass
class Endpoint:
    """One endpoint and a user of it."""

    name: str
    url: str
    access_key: str
    secret_key: str
    make: Callable[[str], object] | None = None
    """Makes a bucket of this name; None: CreateBucket does."""
    other: tuple[str, str] = ("", "")
    """The key of another user."""

    @cached_property
    def client(self) -> Any:
        """A boto3 client that tells every failure."""
        return self.make_client()

    @cached_property
    def others_client(self) -> Any:
        """That of the other user."""
        access_key, secret_key = self.other
        return self.make_client(access_key=access_key, secret_key=secret_key)

    def make_client(self, **changed: Any) -> Any:
        """Another one: ``access_key=``, ``secret_key=``, or what botocore's Config takes."""
        keys = {name: changed.pop(name, getattr(self, name)) for name in ("access_key", "secret_key")}
        settings = {
            "s3": {"addressing_style": "path"},
            "retries": {"total_max_attempts": 1},
            "max_pool_connections": 128,
        }
        return boto3.client(
            "s3",
            endpoint_url=self.url,
            region_name=REGION,
            aws_access_key_id=keys["access_key"],
            aws_secret_access_key=keys["secret_key"],
            config=Config(**{**settings, **changed}),
        )

    def new_name(self, stem: str = "bucket") -> str:
        """A name nobody had."""
        return f"{stem}-{self.name}-{next(_numbers)}"

    def make_bucket(self) -> str:
        """A fresh, empty bucket."""
        name = self.new_name()
        if self.make is None:
            self.client.create_bucket(Bucket=name)
        else:
            self.make(name)
        return name

    def raw(
        self,
        method: str,
        target: str,
        *,
        headers: Mapping[str, str] | None = None,
        body: bytes = b"",
        payload: str | None = None,
        signed: bool = True,
        access_key: str = "",
        secret_key: str = "",
        clock: timedelta = timedelta(),
    ) -> Reply:
        """A request for exactly this ``target``, percent-encoded by the caller. ``payload``: its x-amz-content-sha256, that of the body unless given;
        ``clock``: how far the client's is off."""
        request = AWSRequest(method=method, url=self.url + target, headers=dict(headers or {}))
        if signed:
            hashed = hashlib.sha256(body).hexdigest() if payload is None else payload
            keys = access_key or self.access_key, secret_key or self.secret_key
            Signer(*keys, hashed, datetime.now(UTC) + clock).add_auth(request)
        return self.send(method, target, request.headers.items(), body)

    def send(self, method: str, target: str, headers: Any, body: bytes = b"") -> Reply:
        """A request with these headers, Host and Content-Length unless given."""
        connection = http.client.HTTPConnection(urlsplit(self.url).netloc, timeout=10)
        try:
            connection.putrequest(method, target, skip_host="Host" in dict(headers), skip_accept_encoding=True)
            names = set()
            for name, value in headers:
                names.add(name.lower())
                connection.putheader(name, value)
            if not names & {"content-length", "transfer-encoding"} and (body or method in ("PUT", "POST")):
                connection.putheader("Content-Length", str(len(body)))
            connection.endheaders(body or None)
            answer = connection.getresponse()
            data = answer.read()
            return Reply(answer.status, {name.lower(): value for name, value in answer.getheaders()}, data)
        finally:
            connection.close()

    def talk(self, data: bytes, *, ends: bool = False) -> bytes:
        """All that is answered to these bytes until the other side, or after two seconds we, have enough. ``ends``: nothing more will be sent."""
        where = urlsplit(self.url)
        with socket.create_connection((where.hostname, where.port), timeout=2) as link:
            link.sendall(data)
            if ends:
                link.shutdown(socket.SHUT_WR)
            answer = b""
            try:
                while piece := link.recv(65536):
                    answer += piece
            except TimeoutError:
                pass
            return answer


def post_form(
    endpoint: Endpoint,
    bucket: str,
    fields: Mapping[str, str],
    data: bytes | None = b"sent",
    *,
    filename: str = "own.txt",
    **headers: str,
) -> Reply:
    """A form as browsers send it, its file last."""
    body = b"".join(
        f'--{EDGE}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'.encode()
        for name, value in fields.items()
    )
    if data is not None:
        head = f'--{EDGE}\r\nContent-Disposition: form-data; name="file"; filename="{filename}"\r\nContent-Type: image/own\r\n\r\n'
        body += head.encode() + data + b"\r\n"
    body += f"--{EDGE}--\r\n".encode()
    sent = {"Content-Type": f"multipart/form-data; boundary={EDGE}", **headers}
    return endpoint.send("POST", f"/{bucket}", sent.items(), body)


def path_of(bucket: str, key: str = "", query: str = "") -> str:
    """The target of a path-style request."""
    return quote(f"/{bucket}/{key}" if key else f"/{bucket}", safe="/~") + (f"?{query}" if query else "")


def refused(call: Callable[..., Any], **arguments: Any) -> tuple[int, str]:
    """Status and code with which a call of boto3's is refused; HEAD has only its status, which boto3 shows as the code."""
    try:
        call(**arguments)
    except ClientError as error:
        return error.response["ResponseMetadata"]["HTTPStatusCode"], error.response["Error"]["Code"]
    raise AssertionError("was not refused")
