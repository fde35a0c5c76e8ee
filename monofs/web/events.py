"""``POST /events``: what stores tell of their objects, as AWS sends it, and MinIO and Ceph after it; also wrapped by SNS.

A body is ``{"Records": [{"eventName": "ObjectCreated:Put", "s3": {"bucket": {"name": …}, "object": {"key": …}}}, …]}`` of at most 1 MiB; keys
are URL-encoded with ``+`` for space (Ceph sends them as they are; both readings of such a key are passed on). Answered 200 as soon as the
events are taken: what becomes of them is seen in ``monofs_events_total``.

Who may send is told by ``master.events_token`` (``Authorization: Bearer …``), or, without one, by a loopback address. Not here: what an event
causes (master/events.py).
"""

from __future__ import annotations

import hmac
from collections.abc import Callable, Sequence
from ipaddress import ip_address
from typing import Any
from urllib.parse import unquote_plus

import msgspec
from twisted.web.http import Request
from twisted.web.resource import Resource

from monofs.observe.logs import logger

log = logger(__name__)
BODY_MAX_BYTES = 1 << 20
Take = Callable[[Sequence[tuple[str, str, str]]], bool]
"""Takes (bucket, key, etag of what was made or '' for a removal); False: this node cannot take any now."""
_MADE, _GONE = "ObjectCreated", ("ObjectRemoved", "LifecycleExpiration")


class _Bucket(msgspec.Struct):
    name: str = ""


class _Object(msgspec.Struct, rename={"etag": "eTag"}):
    key: str = ""
    etag: str = ""


class _Entity(msgspec.Struct):
    bucket: _Bucket = msgspec.field(default_factory=_Bucket)
    object: _Object = msgspec.field(default_factory=_Object)


class _Record(msgspec.Struct, rename={"name": "eventName", "source": "eventSource"}):
    name: str = ""
    source: str = ""
    s3: _Entity = msgspec.field(default_factory=_Entity)


class _Body(msgspec.Struct, rename={"records": "Records", "message": "Message", "kind": "Type"}):
    records: list[_Record] | None = None
    message: str | None = None
    kind: str = ""


_decode = msgspec.json.Decoder(_Body).decode


def read_events(body: bytes) -> list[tuple[str, str, str]]:
    """The events of a body as (bucket, key, etag). Raises ``msgspec.MsgspecError`` for anything but a JSON object of this form."""
    told = _decode(body)
    if told.records is None and told.message is not None:
        if told.kind == "SubscriptionConfirmation":
            log.warning("SNS asks to confirm a subscription: confirm it in its console", message=told.message[:500])
            return []
        told = _decode(told.message.encode())
    events: list[tuple[str, str, str]] = []
    for record in told.records or ():
        name = record.name.removeprefix("s3:")
        bucket, key = record.s3.bucket.name, record.s3.object.key
        if not bucket or not key or not name.startswith((_MADE, *_GONE)):
            continue
        etag = record.s3.object.etag.strip('"') if name.startswith(_MADE) else ""
        events.append((bucket, unquote_plus(key), etag))
        if record.source.startswith("ceph") and unquote_plus(key) != key:
            events.append((bucket, key, etag))
    return events


class EventsDoor(Resource):
    """The resource. ``token`` '': loopback only."""

    isLeaf = True

    def __init__(self, token: str, take: Take) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._token, self._take = token.encode(), take

    def render_POST(self, request: Request) -> bytes:
        """200 ``{"taken": n}``, 400, 401, 413, or 503 when this node does not lead."""
        if not self._may_send(request):
            return _refused(
                request, 401, "events need the token of master.events_token, or come from loopback without one"
            )
        body: Any = request.content
        data = body.read(BODY_MAX_BYTES + 1)
        if len(data) > BODY_MAX_BYTES:
            return _refused(request, 413, f"a body has at most {BODY_MAX_BYTES} bytes: send fewer records at a time")
        try:
            events = read_events(data)
        except (msgspec.MsgspecError, UnicodeError) as problem:
            return _refused(request, 400, f"not a notification of S3 events: {problem}")
        if not self._take(events):
            return _refused(request, 503, "this node does not take events now: send them again")
        request.setHeader(b"content-type", b"application/json")
        return msgspec.json.encode({"taken": len(events)}) + b"\n"

    def render_GET(self, request: Request) -> bytes:
        """There is nothing to be had."""
        request.setHeader(b"allow", b"POST")
        return _refused(request, 405, "events are sent here with POST")

    def _may_send(self, request: Request) -> bool:
        if self._token:
            shown = request.getHeader(b"authorization") or b""
            return hmac.compare_digest(shown, b"Bearer " + self._token)
        try:
            return ip_address(request.getClientAddress().host).is_loopback
        except (AttributeError, ValueError):
            return False


def _refused(request: Request, code: int, why: str) -> bytes:
    request.setResponseCode(code)
    request.setHeader(b"content-type", b"text/plain; charset=utf-8")
    if code == 401:
        request.setHeader(b"www-authenticate", b"Bearer")
    return why.encode() + b"\n"
