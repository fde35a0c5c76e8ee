"""Tokens: what a program shows instead of the cluster secret, with a name, rights and an end.

A token is its *body* (number, name, rights, end, cluster, salt, …) and its *secret*, which follows from the body by a key derived from
the cluster secret: so a server that is shown a body computes the secret anew, and the secret itself never travels (rpc/handshake.py).
As text: ``mft1.<body>.<secret>``, both base64url without padding.

Invariant: whoever changes one bit of a body does not know its secret. Pure: time is an argument. Not here: which tokens are honoured
(rpc/tokens.py) and where that is remembered (metadata, table ``keys``).
"""

from __future__ import annotations

import base64
import hmac
import re

import msgspec

from monofs.model.errors import InvalidArgument
from monofs.model.principal import ANONYMOUS, NODE, Principal, Right

PREFIX = "mft1"
"""Version of the text form, and what scanners for leaked secrets look for."""
SALT_BYTES = 16
SECRET_BYTES = 32
BODY_MAX_BYTES = 1024
TEXT_MAX = 2048
NAME_MAX = 64
GROUPS_MAX = 16
SHOWN_CHARACTERS = 12
GRANTABLE = Right.READ | Right.WRITE | Right.ADMIN
"""What a token can give: never the right to speak as a node."""
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]*")
_RESERVED = frozenset({ANONYMOUS.name, NODE.name, "ttl", "monofs"})
_ID_MAX = 0xFFFFFFFE
_EXPIRES_MAX_S = 1 << 40


class Token(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """The body. ``expires_s``: whole seconds since 1970 UTC, 0: never. ``salt``: 16 random bytes, so that no other body is ever the same."""

    number: int
    name: str
    rights: int
    expires_s: int
    cluster: bytes
    salt: bytes
    uid: int = 0
    groups: list[int] = []

    def principal(self) -> Principal:
        """Whom it lets in."""
        return Principal(self.name, self.uid, tuple(self.groups), Right(self.rights) & GRANTABLE)

    def is_expired(self, now_s: float) -> bool:
        """Whether its time has passed."""
        return bool(self.expires_s) and now_s >= self.expires_s


encode_token = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Token).decode


def decode_token(body: bytes) -> Token | None:
    """The token of a body; None when it is none."""
    if len(body) > BODY_MAX_BYTES:
        return None
    try:
        return _decode(body)
    except (ValueError, RecursionError):
        return None


def token_secret(cluster_secret: bytes, body: bytes) -> bytes:
    """The secret that belongs to a body: HMAC-SHA256 under a key that serves nothing else."""
    return hmac.digest(hmac.digest(cluster_secret, b"monofs token 1", "sha256"), body, "sha256")


def format_token(body: bytes, secret: bytes) -> str:
    """The text an operator is given, once."""
    return f"{PREFIX}.{_to_text(body)}.{_to_text(secret)}"


def parse_token(text: str) -> tuple[bytes, bytes]:
    """(body, secret) of a token's text. Raises ``InvalidArgument``, without a word of the text."""
    parts = text.strip().split(".")
    if len(parts) == 3 and parts[0] == PREFIX and len(text) <= TEXT_MAX:
        body, secret = _from_text(parts[1]), _from_text(parts[2])
        if secret is not None and len(secret) == SECRET_BYTES and body is not None and decode_token(body) is not None:
            return body, secret
    raise InvalidArgument(
        f"this is no token: one begins with {PREFIX}. and is a single line, as `monofs token add` prints it"
    )


def shown_token(body: bytes) -> str:
    """The beginning of its text, by which an operator knows which one lies in a file; nothing of its secret."""
    return f"{PREFIX}.{_to_text(body)[:SHOWN_CHARACTERS]}…"


def check_name(name: str) -> None:
    """Raise ``InvalidArgument`` unless a token may be called this: it stands for its holder in logs, and never for a number."""
    if not _NAME.fullmatch(name) or len(name) > NAME_MAX or name.isdigit():
        raise InvalidArgument(
            f"a token's name has 1 to {NAME_MAX} letters, digits and . _ @ -, begins with a letter or digit, and is no number"
        )
    if name in _RESERVED:
        raise InvalidArgument(f"the name {name} means another kind of caller: choose another one")


def check_body(rights: int, expires_s: int, uid: int, groups: list[int], salt: bytes) -> None:
    """Raise ``InvalidArgument`` unless a token may be made of these."""
    if not rights or rights & ~int(GRANTABLE):
        raise InvalidArgument("a token gives read, write, admin, or several of them")
    if not 0 <= expires_s < _EXPIRES_MAX_S:
        raise InvalidArgument("a token expires at a time after 1970, or never")
    if len(groups) > GROUPS_MAX or not all(0 <= each <= _ID_MAX for each in (uid, *groups)):
        raise InvalidArgument(f"a token has one uid and at most {GROUPS_MAX} groups, numbers from 0 to {_ID_MAX}")
    if len(salt) != SALT_BYTES:
        raise InvalidArgument(f"the salt of a token has {SALT_BYTES} bytes")


def parse_rights(text: str) -> Right:
    """``read,write`` → rights. Writing and administering include reading: neither goes without looking. Raises ``InvalidArgument``."""
    rights = Right(0)
    for word in text.split(","):
        right = Right.__members__.get(word.strip().upper())
        if right is None or right not in GRANTABLE:
            raise InvalidArgument(f"{word.strip()!r} is no right: give read, write or admin, several with commas")
        rights |= right
    return rights | Right.READ


def format_rights(rights: int) -> str:
    """``read,write``."""
    return ",".join(str(right.name).lower() for right in GRANTABLE if right & rights)


def _to_text(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _from_text(text: str) -> bytes | None:
    """None when it is not base64url in the one form it is written in."""
    try:
        data = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
    except ValueError:
        return None
    return data if _to_text(data) == text else None
