"""Capabilities: what a master lets a client ask of workers, signed so that workers need not ask back.

Invariant: a worker serves bytes only for a capability whose HMAC-SHA256 it verified, of its own cluster, within its life.
Pure: time is an argument. Law 9 holds because the token names the store key and fingerprint, never a secret.
"""

from __future__ import annotations

import hmac
from functools import lru_cache

import msgspec

from monofs.model.errors import CapabilityExpired, CapabilityInvalid
from monofs.model.hmac_key import HmacKey
from monofs.model.ids import NO_CONTENT, ContentId, MountId

LIFE_S = 300
"""A capability lives five minutes; clients renew it while a file is open."""
GRACE_S = 3600
"""How old a capability workers honour for cached content while no leader is heard of."""
CAPABILITY_MAX_BYTES = 8192
_MAC_BYTES = 32


class Rights:
    """Bits of :attr:`Capability.rights`."""

    READ = 1
    WRITE = 2


class CacheGroup:
    """Values of :attr:`Capability.group`: ``policy id * 2``, plus 1 where a pin covers the path."""

    DEFAULT = 0
    PINNED = 1


class Capability(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """What is signed. ``issued_s`` and ``expires_s`` are whole seconds since 1970 UTC by the master's clock."""

    key_id: int
    cluster: bytes
    content: ContentId
    size: int
    layout: int
    mount: MountId
    """0: under no mount; the content exists only in the cache."""
    key: str
    """Store key below the mount's root."""
    fingerprint: str
    group: int
    """Cache group (quota, priority, pins) the pages are charged to: :class:`CacheGroup`. It tells how it was when the file was opened."""
    rights: int
    issued_s: int
    expires_s: int
    operation: int = 0
    """Of a write (``Rights.WRITE``): the number of its intent. ``fingerprint`` is then the version it replaces, '' for none."""
    operation_name: str = ""
    """What the store is told of the operation: metadata of the object, name of the temporary file."""
    write_type: str = ""
    replaced_content: ContentId = NO_CONTENT
    """Of a write: the content it replaces, so that a worker can keep it for who reads it still; ``replaced_size`` are its bytes."""
    replaced_size: int = 0
    upload: str = ""
    """Of one part of an upload: the store's id of that. ``operation`` is then the part's own, that of the upload is in ``operation_name`` alone, ``size`` are the bytes
    of the part."""
    part: int = 0
    """Its number."""
    part_offset: int = 0
    """Where its bytes will lie in the file, if parts go on as they came; -1: nobody knows."""


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Capability).decode
_key_of = lru_cache(maxsize=64)(HmacKey)


def seal_capability(capability: Capability, secret: bytes) -> bytes:
    """MAC (32 bytes) followed by the msgpack body."""
    body = _encode(capability)
    return _key_of(secret).digest(body) + body


def peek_capability(token: bytes) -> Capability:
    """What a token says, unverified: for who was given it by a master, not for who is shown it. Raises ``CapabilityInvalid``."""
    try:
        return _decode(token[_MAC_BYTES:])
    except ValueError:
        raise CapabilityInvalid("capability is not decodable") from None


def open_capability(
    token: bytes, secrets: dict[int, bytes], cluster: bytes, now_s: float, *, grace_s: float = 0.0
) -> Capability:
    """Verify a token and return what it grants.

    ``secrets`` maps key ids to keys (two are valid at a time). Raises ``CapabilityInvalid`` or ``CapabilityExpired``.
    """
    if not _MAC_BYTES < len(token) <= CAPABILITY_MAX_BYTES:
        raise CapabilityInvalid("capability has an impossible length")
    mac, body = token[:_MAC_BYTES], token[_MAC_BYTES:]
    try:
        capability = _decode(body)
    except ValueError:  # DecodeError, ValidationError, and UnicodeDecodeError for a text that is none
        raise CapabilityInvalid("capability is not decodable") from None
    secret = secrets.get(capability.key_id)
    if secret is None or not hmac.compare_digest(_key_of(secret).digest(body), mac):
        raise CapabilityInvalid("capability signature does not match")
    if capability.cluster != cluster:
        raise CapabilityInvalid("capability is of another cluster")
    if now_s > capability.expires_s + grace_s:
        raise CapabilityExpired("capability expired: open the file again")
    return capability
