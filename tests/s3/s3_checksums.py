"""Checksums as clients compute them, from the standard library and botocore's own where it has none."""

from __future__ import annotations

import base64
import hashlib
import zlib
from collections.abc import Callable

from anycrc import Model

ALGORITHMS: dict[str, Callable[[bytes], bytes]] = {
    "CRC32": lambda data: zlib.crc32(data).to_bytes(4, "big"),
    "CRC32C": lambda data: Model("CRC32-ISCSI").calc(data).to_bytes(4, "big"),
    "CRC64NVME": lambda data: Model("CRC64-NVME").calc(data).to_bytes(8, "big"),
    "SHA1": lambda data: hashlib.sha1(data).digest(),
    "SHA256": lambda data: hashlib.sha256(data).digest(),
}


def header_of(algorithm: str) -> str:
    """Where the checksum is sent and told."""
    return f"x-amz-checksum-{algorithm.lower()}"


def checksum(algorithm: str, data: bytes) -> str:
    """As headers have it."""
    return base64.b64encode(ALGORITHMS[algorithm](data)).decode()


def composite(algorithm: str, parts: list[bytes]) -> str:
    """Of an upload in parts: the checksum of their checksums, and how many."""
    whole = b"".join(ALGORITHMS[algorithm](part) for part in parts)
    return f"{checksum(algorithm, whole)}-{len(parts)}"


def md5(data: bytes) -> str:
    """As Content-MD5 has it."""
    return base64.b64encode(hashlib.md5(data).digest()).decode()
