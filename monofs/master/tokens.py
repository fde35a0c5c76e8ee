"""TOKEN_ADD, TOKEN_LIST, TOKEN_REMOVE, KEY_ROTATE, and who is told which tokens there are: the doors of this master, and workers by heartbeat.

A token's text, or the secret of an S3 key, is made here of its record and the cluster secret, and told in one answer; neither the journal nor a log ever
holds it.

Invariant: only a principal with the ADMIN right issues, lists or removes tokens, and no token gives the NODE right.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import LoopingCall

from monofs.master.access import check_access
from monofs.master.auditing import audited
from monofs.master.proposing import Proposer
from monofs.metadata.entries import AddToken, RemoveToken, RotateKey
from monofs.metadata.namespace import Namespace
from monofs.metadata.tables import S3_KEYS_LEVEL, Key, KeyKind, decode_key
from monofs.model.errors import InvalidArgument, NotFound, NotReady
from monofs.model.principal import Right
from monofs.model.s3_key import access_key_id, check_s3_body, key_number, s3_secret
from monofs.model.token import (
    SALT_BYTES,
    Token,
    check_body,
    check_name,
    encode_token,
    format_rights,
    format_token,
    parse_rights,
    shown_token,
    token_secret,
)
from monofs.rpc.api import (
    BucketInfo,
    Empty,
    KeyRotateRequest,
    S3KeyGrant,
    TokenAddAnswer,
    TokenAddRequest,
    TokenGrant,
    TokenInfo,
    TokenListAnswer,
    TokenRemoveRequest,
)
from monofs.rpc.service import Call
from monofs.rpc.tokens import Tokens

LOOK_S = 1.0
"""A master that does not lead finds out so often what was applied."""


def token_grant(namespace: Namespace) -> TokenGrant:
    """What workers are told; they judge ends by themselves."""
    salts: dict[int, bytes] = {}
    s3: list[S3KeyGrant] = []
    for key in namespace.tokens():
        if key.kind == KeyKind.TOKEN:
            salts[key.number] = key.salt
        else:
            s3.append(
                S3KeyGrant(key.number, key.salt, key.name, key.rights, key.expires_s, key.uid, key.groups, key.prefix)
            )
    held = namespace.known_buckets.by_name
    buckets = [BucketInfo(name, held[name].path, held[name].created_ns, held[name].issuer) for name in sorted(held)]
    return TokenGrant(salts, namespace.meta.last_key, s3, buckets)


def follow_tokens(namespace: Namespace, proposer: Proposer, tokens: Tokens, *, reactor: Any) -> LoopingCall:
    """Keep what the doors of this master honour equal to the namespace. The loop returned is the caller's to stop."""
    seen = -1

    def look() -> None:
        nonlocal seen
        if seen != namespace.meta.keys_index:
            seen = namespace.meta.keys_index
            grant = token_grant(namespace)
            tokens.take(grant.salts, grant.last)

    proposer.on_applied(look)
    loop = LoopingCall(look)
    loop.clock = reactor
    loop.start(LOOK_S)
    return loop


class Issuing:
    """Handlers of one master."""

    def __init__(
        self, namespace: Namespace, proposer: Proposer, cluster_secret: bytes, now_ns: Callable[[], int]
    ) -> None:
        self._namespace, self._proposer, self._secret, self._now_ns = namespace, proposer, cluster_secret, now_ns

    def add(self, request: TokenAddRequest, call: Call) -> Deferred[TokenAddAnswer]:
        """Issue a token."""
        return audited(call, "token add", request.name, "").around(self._add(request, call))

    async def _add(self, request: TokenAddRequest, call: Call) -> TokenAddAnswer:
        check_access(call.principal, Right.ADMIN)
        check_name(request.name)
        rights, salt = parse_rights(request.rights), os.urandom(SALT_BYTES)
        expires_s = 0
        if request.expires_s is not None:
            if not 0 < request.expires_s < 1e10:
                raise InvalidArgument("a token expires after a time above 0 seconds, or never")
            expires_s = int(self._now_ns() / 1e9 + request.expires_s) + 1
        check_body(rights, expires_s, request.uid, request.groups, salt)
        if request.s3:
            check_s3_body(0, rights, request.prefix)
            check_s3_level(self._namespace)
        raw = await self._proposer.propose(
            AddToken(
                self._proposer.stamp(request.request),
                request.name,
                rights.value,
                expires_s,
                salt,
                request.uid,
                request.groups,
                call.principal.name,
                KeyKind.S3 if request.s3 else KeyKind.TOKEN,
                request.prefix if request.s3 else "",
            )
        )
        return self._issued(decode_key(raw))

    def _issued(self, key: Key) -> TokenAddAnswer:
        if key.kind == KeyKind.S3:
            secret = s3_secret(self._secret, self._namespace.cluster, key.number, key.salt)
            return TokenAddAnswer(secret, self._info(key))
        body = self._body(key)
        return TokenAddAnswer(format_token(body, token_secret(self._secret, body)), self._info(key))

    def rotate(self, request: KeyRotateRequest, call: Call) -> Deferred[TokenAddAnswer]:
        """Issue an S3 key in the place of another one."""
        return audited(call, "s3 key rotate", request.key, "").around(self._rotate(request, call))

    async def _rotate(self, request: KeyRotateRequest, call: Call) -> TokenAddAnswer:
        check_access(call.principal, Right.ADMIN)
        if not 0 <= request.ends_in_s < 1e10:
            raise InvalidArgument("a key ends in a time from now, or at once")
        check_s3_level(self._namespace)
        ends_s = int(self._now_ns() / 1e9 + request.ends_in_s) + 1 if request.ends_in_s else 0
        change = RotateKey(
            self._proposer.stamp(request.request),
            self._number(request.key),
            os.urandom(SALT_BYTES),
            ends_s,
            call.principal.name,
        )
        try:
            raw = await self._proposer.propose(change)
        except NotFound:
            raise NotFound(f"there is no S3 key {request.key}: `monofs token s3 ls` lists them") from None
        return self._issued(decode_key(raw))

    def list(self, _: Empty, call: Call) -> TokenListAnswer:
        """All tokens issued and not removed."""
        check_access(call.principal, Right.ADMIN)
        return TokenListAnswer([self._info(key) for key in self._namespace.tokens()])

    def remove(self, request: TokenRemoveRequest, call: Call) -> Deferred[Empty]:
        """Honour a token no longer."""
        return audited(call, "token rm", request.token, "").around(self._remove(request, call))

    async def _remove(self, request: TokenRemoveRequest, call: Call) -> Empty:
        check_access(call.principal, Right.ADMIN)
        change = RemoveToken(self._proposer.stamp(request.request), self._number(request.token))
        try:
            await self._proposer.propose(change)
        except NotFound:
            raise NotFound(
                f"there is no token or S3 key {request.token}: `monofs token ls` and `monofs token s3 ls` list them"
            ) from None
        return Empty()

    def _number(self, wanted: str) -> int:
        """0: there is none. It is proposed all the same: the same request may have been answered before."""
        if wanted.isascii() and wanted.isdigit():
            return int(wanted) if len(wanted) < 19 else 0
        number = key_number(wanted)
        held = self._namespace.known_keys.by_number.get(number)
        if held is not None and held.kind == KeyKind.S3 and access_key_id(number, held.salt) == wanted:
            return number
        named = (key for key in self._namespace.tokens() if key.kind == KeyKind.TOKEN and key.name == wanted)
        return next((key.number for key in named), 0)

    def _body(self, key: Key) -> bytes:
        cluster = self._namespace.cluster
        return encode_token(
            Token(key.number, key.name, key.rights, key.expires_s, cluster, key.salt, key.uid, key.groups)
        )

    def _info(self, key: Key) -> TokenInfo:
        return TokenInfo(
            key.number,
            key.name,
            format_rights(key.rights),
            key.issued_ns,
            key.expires_s,
            key.issuer,
            access_key_id(key.number, key.salt) if key.kind == KeyKind.S3 else shown_token(self._body(key)),
            bool(key.expires_s) and self._now_ns() >= key.expires_s * 10**9,
            key.uid,
            key.groups,
            key.kind == KeyKind.S3,
            key.prefix,
        )


def check_s3_level(namespace: Namespace) -> None:
    """Raise ``NotReady`` while a master takes part that knows no S3 keys."""
    if namespace.level < S3_KEYS_LEVEL:
        raise NotReady(
            "S3 keys can be issued, and buckets named, once every master runs this release: start it on the others"
        )
