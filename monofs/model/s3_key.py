"""S3 keys: what programs that speak S3 show, with a user's name, rights, a path they are bound to, and an end.

The access key id names the key's number and a part of its salt: ``MF`` and 18 letters and digits (base32, upper case). The secret follows from number,
salt and cluster by a key derived from the cluster secret that serves nothing else: whoever has that computes it, and nothing secret is stored. What
a key allows is looked up by its number, so it may be changed; a token of the RPC (token.py) follows from other things by another key, and neither
can be used in the place of the other.

Pure: time is an argument. Not here: signatures, and which keys are honoured (rpc/s3_keys.py).
"""

from __future__ import annotations

import base64
import hmac
import struct

import msgspec

from monofs.model.errors import InvalidArgument
from monofs.model.paths import format_path, parse_path
from monofs.model.principal import Right

ACCESS_KEY_PREFIX = "MF"
ACCESS_KEY_CHARACTERS = 20
S3_RIGHTS = Right.READ | Right.WRITE
"""What an S3 key can give."""
_SALT_SHOWN = 7
_SECRET_BYTES = 30
_NUMBER_MAX = 0xFFFFFFFF
_pack = struct.Struct(">I").pack
_ALPHABET = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZ234567")


def access_key_id(number: int, salt: bytes) -> str:
    """The 20 characters that name a key."""
    return ACCESS_KEY_PREFIX + base64.b32encode(_pack(number) + salt[:_SALT_SHOWN]).decode().rstrip("=")


def key_number(access_key: str) -> int:
    """The number an access key id names; 0: it is no id of ours."""
    body = access_key.removeprefix(ACCESS_KEY_PREFIX)
    if len(access_key) != ACCESS_KEY_CHARACTERS or len(body) == len(access_key) or not set(body) <= _ALPHABET:
        return 0
    return int.from_bytes(base64.b32decode(body + "======")[:4], "big")


def s3_secret(cluster_secret: bytes, cluster: bytes, number: int, salt: bytes) -> str:
    """The secret access key that belongs to a key: 40 characters of base64url."""
    key = hmac.digest(cluster_secret, b"monofs s3 key 1", "sha256")
    digest = hmac.digest(key, msgspec.msgpack.encode([number, cluster, salt]), "sha256")
    return base64.urlsafe_b64encode(digest[:_SECRET_BYTES]).decode()


def check_s3_body(number: int, rights: int, prefix: str) -> None:
    """Raise ``InvalidArgument`` unless an S3 key may be made of these."""
    if not rights or rights & ~int(S3_RIGHTS):
        raise InvalidArgument("an S3 key gives read, or read and write")
    if number > _NUMBER_MAX:
        raise InvalidArgument(f"more than {_NUMBER_MAX} keys cannot be named")
    if prefix and prefix != format_path(parse_path(prefix)):
        raise InvalidArgument(f"{prefix!r} is no path without a slash at its end")
