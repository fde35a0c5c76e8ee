"""The cluster's keys: the data key that seals mounts' secrets, and the capability key, both wrapped by the cluster secret.

All sealing is AES-256-GCM with a random 96-bit nonce: ``version (1 byte, 1) | nonce (12) | ciphertext and tag``. The wrapping key is
HKDF-SHA256 of the cluster secret (no salt, info ``monofs wrap v1``, 32 bytes); the purpose and the cluster id are its
associated data. A mount's secrets are bound to its path and URI, so that a sealed map cannot be moved to another mount.

Invariant: what leaves this file in clear goes to an under storage or to an authenticated worker, never to a log or a message.
Rotation re-wraps the same keys: capability keys are a map by id for that; there is one, number 1, until a command adds another.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from monofs.model.errors import HomeUnusable
from monofs.model.mount import Mount

KEY_BYTES = 32
CAPABILITY_KEY_ID = 1
_NONCE_BYTES = 12
_VERSION = b"\x01"
_encode = msgspec.msgpack.Encoder(order="deterministic").encode
_decode = msgspec.msgpack.Decoder(dict[str, str]).decode


@dataclass(frozen=True, slots=True)
class Keys:
    """The cluster's keys in clear; never shown."""

    data: bytes = field(repr=False)
    capability: dict[int, bytes] = field(repr=False)


@dataclass(frozen=True, slots=True)
class WrappedKeys:
    """The same as the journal carries them."""

    data: bytes
    capability: bytes


def make_keys(secret: bytes, cluster: bytes) -> WrappedKeys:
    """Fresh random keys for a new cluster, wrapped by its ``secret``."""
    wrapping = AESGCM(_wrapping_key(secret))
    return WrappedKeys(
        _seal(wrapping, os.urandom(KEY_BYTES), b"data key " + cluster),
        _seal(wrapping, os.urandom(KEY_BYTES), b"capability key " + cluster),
    )


def unwrap_keys(secret: bytes, cluster: bytes, wrapped: WrappedKeys) -> Keys:
    """Raises ``HomeUnusable`` when the cluster secret is not the one the keys were wrapped with."""
    wrapping = AESGCM(_wrapping_key(secret))
    try:
        return Keys(
            _open(wrapping, wrapped.data, b"data key " + cluster),
            {CAPABILITY_KEY_ID: _open(wrapping, wrapped.capability, b"capability key " + cluster)},
        )
    except (InvalidTag, ValueError):
        raise HomeUnusable(
            "the cluster secret is not the one this home was made with: put the original cluster.secret back, "
            "or name it with --cluster-secret-file"
        ) from None


class Vault:
    """Seals and opens the secret options of mounts with the data key."""

    def __init__(self, data_key: bytes) -> None:
        self._cipher = AESGCM(data_key)

    def seal(self, path: str, uri: str, secrets: dict[str, str]) -> bytes:
        """Empty bytes when there is nothing to seal."""
        return _seal(self._cipher, _encode(secrets), _bound_to(path, uri)) if secrets else b""

    def open(self, mount: Mount) -> dict[str, str]:
        """The secret options of a mount. Raises ``HomeUnusable`` when its record was tampered with."""
        if not mount.sealed:
            return {}
        try:
            return _decode(_open(self._cipher, mount.sealed, _bound_to(mount.path, mount.uri)))
        except (InvalidTag, ValueError, msgspec.DecodeError):
            raise HomeUnusable(
                f"the secrets of mount {mount.path} cannot be opened: set them again with `monofs mount update`"
            ) from None


def _wrapping_key(secret: bytes) -> bytes:
    return HKDF(algorithm=SHA256(), length=KEY_BYTES, salt=None, info=b"monofs wrap v1").derive(secret)


def _bound_to(path: str, uri: str) -> bytes:
    return b"mount " + path.encode() + b"\0" + uri.encode()


def _seal(cipher: AESGCM, clear: bytes, bound_to: bytes) -> bytes:
    nonce = os.urandom(_NONCE_BYTES)
    return _VERSION + nonce + cipher.encrypt(nonce, clear, bound_to)


def _open(cipher: AESGCM, sealed: bytes, bound_to: bytes) -> bytes:
    if sealed[:1] != _VERSION:
        raise ValueError("unknown version of a sealed value")
    return cipher.decrypt(sealed[1 : 1 + _NONCE_BYTES], sealed[1 + _NONCE_BYTES :], bound_to)
