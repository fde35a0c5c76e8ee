"""The S3 door of a worker: every request is authenticated, routed to its action, and answered with what it did or with S3's error for why not.

Invariant: no action runs for a request whose signature was not verified, but reading where ``s3.anonymous`` names the path, and that of forms, which carry
theirs in their body. Not here: HTTP (gateways/http.py), the actions (``objects``, ``listings``, ``buckets``, ``multipart``, ``forms``).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from typing import Any

from msgspec.structs import replace

from monofs.gateways.http import Exchange, Header
from monofs.gateways.s3 import cors, documents, signing_v2
from monofs.gateways.s3.asking import ANYBODY, Asked, Masters, told
from monofs.gateways.s3.buckets import Buckets
from monofs.gateways.s3.errors import S3Error
from monofs.gateways.s3.files import Files
from monofs.gateways.s3.forms import Forms
from monofs.gateways.s3.head import Head, read_head
from monofs.gateways.s3.listings import Listings
from monofs.gateways.s3.multipart import Multipart
from monofs.gateways.s3.objects import Objects
from monofs.gateways.s3.requests import Action, Request, read_request
from monofs.gateways.s3.signing import Signed, authenticate
from monofs.model.errors import MonofsError, NotFound
from monofs.model.paths import Parts, parse_path
from monofs.observe.tracing import show_trace
from monofs.rpc.api import BucketInfo
from monofs.rpc.s3_keys import S3Key, S3Keys

CHANGING = frozenset({"PUT", "POST", "DELETE"})
_ABOUT_BUCKETS = frozenset(
    {
        Action.LIST_OBJECTS,
        Action.LIST_OBJECTS_V2,
        Action.LIST_OBJECT_VERSIONS,
        Action.LIST_MULTIPART_UPLOADS,
        Action.DELETE_OBJECTS,
        Action.CREATE_BUCKET,
        Action.DELETE_BUCKET,
    }
)
_LISTING = frozenset({Action.LIST_OBJECTS, Action.LIST_OBJECTS_V2, Action.LIST_OBJECT_VERSIONS})
"""Of whose answer `prefix` says what is in it."""
_ABOUT_UPLOADS = frozenset({Action.LIST_MULTIPART_UPLOADS, Action.LIST_PARTS})


class S3Door:
    """The handler of one door."""

    def __init__(
        self,
        files: Files,
        *,
        keys: S3Keys,
        masters: Masters,
        domains: Sequence[str] = (),
        anonymous: Sequence[str] = (),
        reactor: Any,
    ) -> None:
        """``anonymous``: ``bucket/prefix`` that anybody may read."""
        self._files, self._keys, self._masters = files, keys, masters
        self._domains, self._anonymous = domains, tuple(anonymous)
        objects, listings, buckets = Objects(files, reactor), Listings(keys, self._anonymous), Buckets(files, reactor)
        multipart = Multipart(files, objects, reactor)
        forms = Forms(files, objects, self._find, masters, keys.now_s, reactor)
        self._named: Mapping[str, BucketInfo] = {}
        self._parts: Mapping[str, Parts] = {}
        self._actions: dict[Action, Callable[[Asked], Awaitable[None] | None]] = {
            Action.LIST_BUCKETS: listings.buckets,
            Action.CREATE_BUCKET: buckets.create,
            Action.DELETE_BUCKET: buckets.delete,
            Action.HEAD_BUCKET: buckets.head,
            Action.GET_BUCKET_LOCATION: buckets.location,
            Action.GET_BUCKET_TAGGING: buckets.get_tags,
            Action.PUT_BUCKET_TAGGING: buckets.put_tags,
            Action.DELETE_BUCKET_TAGGING: buckets.delete_tags,
            Action.GET_BUCKET_CORS: buckets.get_cors,
            Action.PUT_BUCKET_CORS: buckets.put_cors,
            Action.DELETE_BUCKET_CORS: buckets.delete_cors,
            Action.BUCKET_CONFIGURATION: buckets.configuration,
            Action.OBJECT_CONFIGURATION: objects.configuration,
            Action.LIST_OBJECTS: listings.objects,
            Action.LIST_OBJECTS_V2: listings.objects_v2,
            Action.LIST_OBJECT_VERSIONS: listings.versions,
            Action.GET_OBJECT: objects.get,
            Action.HEAD_OBJECT: objects.get,
            Action.PUT_OBJECT: objects.put,
            Action.POST_OBJECT: forms.post,
            Action.COPY_OBJECT: objects.copy,
            Action.DELETE_OBJECT: objects.delete,
            Action.DELETE_OBJECTS: objects.delete_many,
            Action.GET_OBJECT_ATTRIBUTES: objects.attributes,
            Action.GET_OBJECT_TAGGING: objects.get_tags,
            Action.PUT_OBJECT_TAGGING: objects.put_tags,
            Action.DELETE_OBJECT_TAGGING: objects.delete_tags,
            Action.CREATE_MULTIPART_UPLOAD: multipart.create,
            Action.UPLOAD_PART: multipart.part,
            Action.UPLOAD_PART_COPY: multipart.part_copy,
            Action.COMPLETE_MULTIPART_UPLOAD: multipart.complete,
            Action.ABORT_MULTIPART_UPLOAD: multipart.abort,
            Action.LIST_PARTS: multipart.list_parts,
            Action.LIST_MULTIPART_UPLOADS: multipart.list_uploads,
        }

    def handle(self, exchange: Exchange) -> Coroutine[Any, Any, None] | None:
        """One request; None: it is answered, or will be without our waiting for anything."""
        try:
            head = read_head(exchange.method, exchange.target, exchange.headers)
        except S3Error as error:
            self._refuse(exchange, error)
            return None
        crosses = head.method == "OPTIONS" or "origin" in head.headers
        return self._cross(exchange, head) if crosses else self._handle(exchange, head)

    def _handle(self, exchange: Exchange, head: Head) -> Coroutine[Any, Any, None] | None:
        try:
            request, signed, key = self._understand(head)
        except S3Error as error:
            self._refuse(exchange, error)
            return None
        asked, doing = Asked(exchange, request, signed, key, self._masters.hold(key), self._aliases()), None
        try:
            try:
                is_let = signed is not None or request.action is Action.POST_OBJECT or self._is_open(request)
                doing = self._actions[request.action](asked) if is_let else self._turn_away(asked)
            except MonofsError as error:
                doing = self._explain(asked, error)
        except S3Error as error:
            self._refuse(exchange, error)
        finally:
            if doing is None:
                self._masters.release(key)
        return None if doing is None else self._act(asked, doing)

    async def _cross(self, exchange: Exchange, head: Head) -> None:
        """A request of a page of another origin: what the bucket's rules say of it goes out with its answer, also when that is a refusal. A preflight is
        answered, or refused with ``S3Error``; nobody signs one."""
        rules: Sequence[cors.Rule] = ()
        master = self._masters.hold(ANYBODY)
        try:
            request = read_request(replace(head, method="GET", pairs=[]), self._domains)
            asked = Asked(exchange, request, None, ANYBODY, master, self._aliases())
            rules = cors.kept_rules((await self._files.check_known_bucket(asked)).attributes.cors)
        except S3Error:
            pass  # where no bucket is, no rule is
        finally:
            self._masters.release(ANYBODY)
        try:
            allowed = cors.allow(rules, head)
            if head.method == "OPTIONS" and allowed is None:
                raise S3Error("AccessForbidden")
        except S3Error as error:
            self._refuse(exchange, error)
            return
        if head.method == "OPTIONS":
            exchange.answer(200, allowed or ())
            return
        exchange.also = tuple(allowed or ())
        doing = self._handle(exchange, head)
        if doing is not None:
            await doing

    def _understand(self, head: Head) -> tuple[Request, Signed | None, S3Key]:
        """Raises ``S3Error`` for what is no request, or not signed by a key that is honoured."""
        may_be = head.pairs or head.headers.get("authorization", "").startswith("AWS ")
        if may_be and signing_v2.is_signed_so(head):
            signed: Signed | None = signing_v2.authenticate(head, self._secret_of, self._keys.now_s(), self._domains)
        else:
            signed = authenticate(head, self._secret_of, self._keys.now_s())
        request = read_request(head, self._domains)
        key = ANYBODY if signed is None else self._keys.find(signed.access_key)
        if key is None:
            raise S3Error("InvalidAccessKeyId")
        return request, signed, key

    def _find(self, access_key: str) -> S3Key | None:
        key = self._keys.find(access_key)
        return None if key is None or self._keys.is_expired(key) else key

    def _secret_of(self, access_key: str) -> str | None:
        key = self._keys.find(access_key)
        return None if key is None or (key.expires_s and self._keys.is_expired(key)) else key.secret

    def _aliases(self) -> Mapping[str, Parts]:
        if self._named is not self._keys.buckets:
            self._named = self._keys.buckets
            self._parts = {name: parse_path(each.path) for name, each in self._named.items()}
        return self._parts

    async def _turn_away(self, asked: Asked) -> None:
        """What nobody may do who signs nothing; but that a bucket is not there, as far as is known, everybody is told, as by S3."""
        if asked.request.bucket and asked.request.action is not Action.CREATE_BUCKET:
            await self._files.check_known_bucket(asked)
        raise S3Error("AccessDenied", "This request is not signed.")

    def _is_open(self, request: Request) -> bool:
        """Whether anybody may do this: reading what ``s3.anonymous`` names, or below it, and its name; uploads are not to be read."""
        if request.action is Action.LIST_BUCKETS:
            return True
        if request.head.method not in ("GET", "HEAD") or not request.bucket or request.action in _ABOUT_UPLOADS:
            return False
        prefix = request.query.get("prefix", "") if request.action in _LISTING else ""
        about = f"{request.bucket}/{request.key or prefix}"
        if not any(
            (request.key and about == each) or about.startswith(f"{each.rstrip('/')}/") for each in self._anonymous
        ):
            return False
        if any(name.startswith("response-") for name in request.query):
            raise S3Error("InvalidRequest", "Who signs nothing cannot choose the headers of an answer.")
        return True

    async def _act(self, asked: Asked, doing: Awaitable[None]) -> None:
        """What takes more than plain calls."""
        try:
            try:
                await doing
            except MonofsError as error:
                await self._explain(asked, error)
        except S3Error as error:
            self._refuse(asked.exchange, error)
        finally:
            self._masters.release(asked.key)

    async def _explain(self, asked: Asked, error: MonofsError) -> None:
        """Raise what an error of the cluster is in S3; in the middle of an answer there is nothing to say."""
        if asked.exchange.begun:
            asked.exchange.cut()
            return
        about_bucket = asked.request.action in _ABOUT_BUCKETS
        if isinstance(error, NotFound) and not about_bucket:
            await self._files.check_bucket(asked)  # whether it is the bucket that is missing
        raise told(error, bucket=about_bucket, changing=asked.exchange.method in CHANGING) from None

    def _refuse(self, exchange: Exchange, error: S3Error) -> None:
        if exchange.begun:
            exchange.cut()
            return
        headers, body = refusal(error, exchange.target, exchange.trace)
        if error.status == 304:
            body = b""
        exchange.answer(error.status, headers, body)


def refusal(error: S3Error, target: str, trace: int) -> tuple[list[Header], bytes]:
    """Headers and document of an error."""
    request_id = show_trace(trace)
    resource = target.partition("?")[0]
    headers = [(name.encode("latin-1"), value.encode("latin-1", "replace")) for name, value in error.headers.items()]
    headers.append((b"x-amz-request-id", request_id.encode()))
    if error.status == 304:
        return headers, b""
    headers.append((b"Content-Type", b"application/xml"))
    return headers, documents.error_document(error, resource=resource, request_id=request_id, host_id="monofs")
