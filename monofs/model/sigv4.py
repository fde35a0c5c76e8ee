"""What both sides of AWS Signature Version 4 share: who signs requests to a store, and who verifies those to the S3 door.

Source: the S3 API Reference, "Authenticating Requests: Using the Authorization Header". Not here: canonical requests, whose form the signer chooses
(``ufs/s3_requests``) and the verifier is sent (``gateways/s3/signing``).
"""

from __future__ import annotations

import hashlib
from functools import lru_cache

from monofs.model.hmac_key import HmacKey

ALGORITHM = "AWS4-HMAC-SHA256"
SERVICE_SCOPE = "s3/aws4_request"
EMPTY_SHA256 = hashlib.sha256(b"").hexdigest()
UNSIGNED = "UNSIGNED-PAYLOAD"
DAY_KEYS_MAX = 4096
"""Keys of one day, region and secret that are kept; each costs four HMACs to make."""


@lru_cache(maxsize=DAY_KEYS_MAX)
def day_key(secret: str, day: str, region: str) -> HmacKey:
    """The key that signs for one day and region: "Calculate Signature", the signing key."""
    key = f"AWS4{secret}".encode()
    for part in (day, region, *SERVICE_SCOPE.split("/")):
        key = HmacKey(key).digest(part.encode())
    return HmacKey(key)
