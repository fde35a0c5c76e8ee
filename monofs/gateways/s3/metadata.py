"""What S3 keeps with an object beside its bytes, read from the headers of a request, and the headers of an answer made of it. Pure.

API Reference, PutObject and GetObject: *system metadata* (``KEPT``), *user metadata* (``x-amz-meta-*``, 2 KB), and ``response-*`` parameters that
replace the former in one answer. Values are latin-1 text: the bytes that came are the bytes that go. Invariant: no value ever holds a control
character, so none can end a header line. Not here: tags (``bodies``), checksums (``checksums``).
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from monofs.gateways.s3.errors import S3Error

KEPT = ("content-type", "cache-control", "content-disposition", "content-encoding", "content-language", "expires")
"""Headers that are stored and sent back as they came."""
USER_PREFIX = "x-amz-meta-"
USER_MAX_BYTES = 2048
VALUE_MAX_BYTES = 4096
DEFAULT_TYPE = "binary/octet-stream"
"""The Content-Type of an object that was stored without one."""
CUSTOMER_KEY = "x-amz-server-side-encryption-customer-algorithm"
ATTRIBUTES = frozenset({"ETag", "Checksum", "ObjectParts", "StorageClass", "ObjectSize"})

_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]").search
_CLASSES = frozenset({"STANDARD", "REDUCED_REDUNDANCY"})
_ACLS = frozenset({"private", "bucket-owner-full-control"})
_BUCKET_ACLS = frozenset({"private", "public-read", "public-read-write", "authenticated-read"})
_UNKNOWN = {
    "x-amz-server-side-encryption": "Encryption by request is not implemented: monofs does not encrypt what it stores.",
    CUSTOMER_KEY: "Encryption by keys of clients is not implemented.",
    "x-amz-copy-source-server-side-encryption-customer-algorithm": "Encryption by keys of clients is not implemented.",
    "x-amz-object-lock-mode": "Object lock is not implemented.",
    "x-amz-object-lock-retain-until-date": "Object lock is not implemented.",
    "x-amz-object-lock-legal-hold": "Object lock is not implemented.",
    "x-amz-website-redirect-location": "Websites are not implemented.",
    "x-amz-write-offset-bytes": "Appending is not implemented.",
    "x-amz-if-match-last-modified-time": "This condition exists for directory buckets only.",
    "x-amz-if-match-size": "This condition exists for directory buckets only.",
}
"""Headers that ask for what would silently not be so."""


def check_supported(headers: Mapping[str, str]) -> None:
    """Raise ``S3Error`` when a changing request asks for what monofs does not do: NotImplemented, InvalidStorageClass, AccessControlListNotSupported."""
    for name in headers:
        if not name.startswith("x-amz-"):
            continue
        if name in _UNKNOWN:
            raise S3Error("NotImplemented", _UNKNOWN[name], Header=name)
        if name.startswith("x-amz-grant-") or (name == "x-amz-acl" and headers[name] not in _ACLS):
            raise S3Error("AccessControlListNotSupported")
        if name == "x-amz-storage-class" and headers[name] not in _CLASSES:
            raise S3Error("InvalidStorageClass", StorageClassRequested=headers[name])


def check_creation(headers: Mapping[str, str]) -> None:
    """Raise ``S3Error`` when CreateBucket asks for what no bucket has: NotImplemented; InvalidArgument for a canned list that is none.

    Those that are some are taken, for many programs send one, and mean nothing: the bucket is its users', as all are.
    """
    if headers.get("x-amz-bucket-object-lock-enabled", "").lower() == "true":
        raise S3Error("NotImplemented", "Object lock is not implemented.", Header="x-amz-bucket-object-lock-enabled")
    acl = headers.get("x-amz-acl", "private")
    if acl not in _BUCKET_ACLS:
        raise S3Error(
            "InvalidArgument", "There is no canned list of this name.", ArgumentName="x-amz-acl", ArgumentValue=acl
        )


def read_metadata(headers: Mapping[str, str]) -> dict[str, str]:
    """Headers to store with an object, system and user metadata, by lower-case name. Raises ``S3Error``: MetadataTooLarge, InvalidArgument."""
    found: dict[str, str] = {}
    used = 0
    for name, value in headers.items():
        if name.startswith(USER_PREFIX):
            used += len(name) - len(USER_PREFIX) + len(value)
        elif name == "content-encoding":
            value = _without_chunking(value)
            if not value:
                continue
        elif name not in KEPT:
            continue
        if len(value) > VALUE_MAX_BYTES:
            raise S3Error(
                "InvalidArgument", f"The header {name} is longer than {VALUE_MAX_BYTES} bytes.", ArgumentName=name
            )
        if _CONTROL(value):
            raise S3Error("InvalidArgument", f"The header {name} has a control character.", ArgumentName=name)
        found[name] = value
    if used > USER_MAX_BYTES:
        raise S3Error("MetadataTooLarge", Size=used, MaxSizeAllowed=USER_MAX_BYTES)
    return found


def replaced(query: Mapping[str, str]) -> dict[str, str]:
    """Headers that ``response-*`` parameters put in the place of stored ones. Raises ``S3Error`` (InvalidArgument)."""
    found: dict[str, str] = {}
    for name in KEPT:
        value = query.get(f"response-{name}")
        if value:
            if _CONTROL(value) or len(value) > VALUE_MAX_BYTES:
                raise S3Error(
                    "InvalidArgument", f"response-{name} is no value of a header.", ArgumentName=f"response-{name}"
                )
            found[name] = value.encode().decode("latin-1")
    return found


def is_replacing(headers: Mapping[str, str], directive: str = "x-amz-metadata-directive") -> bool:
    """Whether a copy takes metadata (or tags: ``x-amz-tagging-directive``) from the request instead of from its source. Raises ``S3Error``."""
    value = headers.get(directive, "COPY")
    if value not in ("COPY", "REPLACE"):
        raise S3Error(
            "InvalidArgument", f"{directive} has to be COPY or REPLACE.", ArgumentName=directive, ArgumentValue=value
        )
    return value == "REPLACE"


def read_wanted(headers: Mapping[str, str]) -> list[str]:
    """What GetObjectAttributes is asked for: x-amz-object-attributes. Raises ``S3Error`` (InvalidArgument)."""
    text = headers.get("x-amz-object-attributes", "")
    wanted = [each.strip() for each in text.split(",")]
    if not ATTRIBUTES.issuperset(wanted):
        raise S3Error(
            "InvalidArgument",
            f"x-amz-object-attributes has to name some of {', '.join(sorted(ATTRIBUTES))}.",
            ArgumentName="x-amz-object-attributes",
            ArgumentValue=text,
        )
    return wanted


def _without_chunking(encoding: str) -> str:
    """Content-Encoding without ``aws-chunked``, which belongs to the transfer."""
    if "aws-chunked" not in encoding.lower():
        return encoding
    kept = [each.strip() for each in encoding.split(",") if each.strip().lower() != "aws-chunked"]
    return ",".join(each for each in kept if each)
