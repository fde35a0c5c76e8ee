"""One S3 request in hand: who asks, what for, and what may be said to the cluster on his behalf.

Invariant: nothing is asked of the cluster but with the rights of the key that signed the request, and nothing below a key's prefix is reached by
one that has another. Not here: what signatures are (``signing``), what the actions do.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

import msgspec
from twisted.internet.defer import Deferred

from monofs.gateways.http_exchange import Exchange
from monofs.gateways.http_head import Header
from monofs.gateways.s3 import keys
from monofs.gateways.s3.errors import S3Error, from_monofs
from monofs.gateways.s3.metadata import KEPT
from monofs.gateways.s3.requests import Request
from monofs.gateways.s3.signing import Signed
from monofs.model.errors import MonofsError
from monofs.model.paths import Parts, format_path, is_prefix
from monofs.model.principal import Principal, Right
from monofs.observe.tracing import show_trace
from monofs.rpc.api import Message, Method
from monofs.rpc.s3_keys import S3Key

XML = (b"Content-Type", b"application/xml")
_UPLOADS = keys.UPLOADS.decode()
_WRITTEN = {name: name.title().encode() for name in KEPT}
"""Headers that are kept by lower-case names, as AWS writes them: old clients look for just that."""


class Caller(Protocol):
    """A channel to a master or worker: rpc.client.Client or rpc.direct.DirectClient."""

    def call(self, method: Method, request: Message, answer_type: type[Any], timeout_s: float = 30.0) -> Deferred[Any]:
        """Ask; fails with a MonofsError."""


Ask = Callable[[Method, Message, type[Any], float], Any]
"""Asks a master with the rights of one key: the answer, or the MonofsError raised, where it is known at once; else a Deferred. ``ask`` of
rpc.direct.DirectClient, ``call`` of rpc.client.Client."""


class Masters(Protocol):
    """Channels with the rights of keys."""

    def hold(self, key: S3Key) -> Ask:
        """One that stays open until it is released as often as it was held."""

    def release(self, key: S3Key) -> None:
        """The request that held it is over."""


ANYBODY = S3Key("", "", Principal("anonymous", rights=Right.READ), (), 0)
"""Who signed nothing."""


class Asked(msgspec.Struct):
    """A request whose signature was verified."""

    exchange: Exchange
    request: Request
    signed: Signed | None
    key: S3Key
    master: Ask
    """With the key's rights."""
    aliases: Mapping[str, Parts]

    @property
    def headers(self) -> dict[str, str]:
        """Those of the request, by lower-case name."""
        return self.request.head.headers

    @property
    def bucket(self) -> Parts:
        """The directory of the bucket. Raises ``S3Error``."""
        bucket = self.request.bucket
        if bucket == _UPLOADS:
            raise S3Error("NoSuchBucket")
        return keys.bucket_parts(bucket, self.aliases)

    @property
    def owner(self) -> str:
        """Whose everything is, as documents tell it: of who asks, for whoever may use a bucket is as good as its owner."""
        return self.key.principal.name

    def place(self, key: str | None = None) -> keys.Place:
        """Where the request's key is, or another one of its bucket. Raises ``S3Error``."""
        return keys.place(self.bucket, self.request.key if key is None else key)

    def path(self, key: str | None = None) -> str:
        """The same as a path."""
        return self.place(key).path

    def check_right(self, right: Right) -> None:
        """Raise ``S3Error`` (AccessDenied) unless the key has it."""
        if not int(self.key.principal.rights) & int(right):
            raise S3Error(
                "AccessDenied", f"This access key has no right to {'read' if right is Right.READ else 'write'}."
            )

    def check_reach(self, key: str) -> None:
        """Raise ``S3Error`` (AccessDenied) unless a key is within reach of who asks."""
        if self.key.prefix and self._path_of(key) != format_path(self.key.prefix):
            self.check_reach_below(key)

    def check_reach_below(self, prefix: str) -> None:
        """The same for all that begins with a prefix: `team`, to which a key is bound, is also how `team-secret/` begins."""
        bound = self.key.prefix
        if bound and not self._path_of(prefix).startswith(f"{format_path(bound)}/"):
            raise S3Error("AccessDenied", f"This access key is bound to {format_path(bound)}.")

    def _path_of(self, key: str) -> str:
        """Also of what no key can be."""
        return f"{format_path(self.bucket).rstrip('/')}/{key}"

    def check_bucket(self) -> None:
        """The same for what is about the bucket as a whole: a key that is bound to a path in it may know that it is there."""
        if not self.is_near():
            raise S3Error("AccessDenied", f"This access key is bound to {format_path(self.key.prefix)}.")

    def is_near(self) -> bool:
        """Whether the bucket lies on the path the key is bound to, or below it."""
        bound, bucket = self.key.prefix, self.bucket
        return is_prefix(bound, bucket) or is_prefix(bucket, bound)

    def header_number(self, name: str, default: int, most: int) -> int:
        """A number from 0 in a header, of at most ``most`` (a larger one is as good). Raises ``S3Error`` (InvalidArgument)."""
        text = self.headers.get(name) or str(default)
        if not text.isascii() or not text.isdigit() or len(text) > 10:
            raise S3Error(
                "InvalidArgument", f"{name} has to be a number from 0.", ArgumentName=name, ArgumentValue=text
            )
        return min(int(text), most)

    def of(self, bucket: str, key: str) -> Asked:
        """The same request, as if about another object."""
        other = msgspec.structs.replace(self.request, bucket=bucket, key=key)
        return msgspec.structs.replace(self, request=other)

    async def ask(self, method: Method, request: Message, answer_type: type[Any], timeout_s: float = 30.0) -> Any:
        """The master's answer. Raises ``MonofsError``."""
        answer = self.master(method, request, answer_type, timeout_s)
        return await answer if isinstance(answer, Deferred) else answer

    def answer(self, status: int, headers: dict[str, str] | None = None, body: bytes = b"") -> None:
        """The whole answer; a body is a document."""
        told = self.fields(headers or {})
        if body:
            told.append(XML)
        self.exchange.answer(status, told, body)

    def fields(self, headers: Mapping[str, str]) -> list[Header]:
        """As they go out, with the id of the request, by which its lines in the logs are found."""
        return [*encoded(headers), (b"x-amz-request-id", show_trace(self.exchange.trace).encode())]


def encoded(headers: Mapping[str, str]) -> list[Header]:
    """As they go out."""
    return [(_WRITTEN.get(name) or name.encode("latin-1"), value.encode("latin-1")) for name, value in headers.items()]


def told(error: BaseException, *, bucket: bool = False, changing: bool = False) -> S3Error:
    """What a failure is called in S3; raises what is no refusal but a bug."""
    if isinstance(error, S3Error):
        return error
    if isinstance(error, MonofsError):
        return from_monofs(error, bucket=bucket, changing=changing)
    raise error
