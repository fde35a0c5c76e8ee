"""Buckets and keys, and where they stand in the tree. Pure.

A bucket is a directory below the root, or any path under an alias; a key is the path of a file below it, and one that ends in a slash that of a
directory. Invariant: a key has at most one place and a place one key, so listings tell exactly what can be read; a key that has no place is refused
with the reason (docs/s3.md, "Keys"), never changed into another one.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping
from functools import lru_cache
from typing import NamedTuple

from monofs.gateways.s3.errors import S3Error
from monofs.model import paths
from monofs.model.paths import PATH_MAX_BYTES, Parts, format_path, name_problem

KEY_MAX_BYTES = 1024
OWN_PREFIX = b".monofs-tmp-"
"""Names of files in the making: they exist for nobody."""
UPLOADS = paths.UPLOADS
"""The directory of uploads in parts: no bucket, and in none, not even in one that is the root."""

_TOKEN = "1"  # noqa: S105 - no secret
"""Version of what a token says."""
_BUCKET = re.compile(r"[a-z0-9](?:[a-z0-9.-]{1,61})[a-z0-9]\Z").match
_ADDRESS = re.compile(r"[0-9]+(?:\.[0-9]+){3}\Z").match
_RESERVED = ("xn--", "sthree-", "amzn-s3-demo-")
_RESERVED_ENDS = ("-s3alias", "--ol-s3", ".mrap", "--x-s3", "--table-s3")


class Place(NamedTuple):
    """Where a key is in the tree. ``is_directory``: the key ended in a slash."""

    parts: Parts
    is_directory: bool
    path: str
    """The parts as one."""


def bucket_parts(bucket: str, aliases: Mapping[str, Parts]) -> Parts:
    """The path of a bucket, whether it exists or not. Raises ``S3Error`` (InvalidBucketName) when it can be no directory's name."""
    alias = aliases.get(bucket)
    if alias is not None:
        if alias[:1] == (UPLOADS,):
            raise S3Error("NoSuchBucket")
        return alias
    return _top(bucket)


@lru_cache(maxsize=1024)
def _top(bucket: str) -> Parts:
    """A directory below the root."""
    name = bucket.encode()
    problem = name_problem(name)
    if problem is not None or name.startswith(OWN_PREFIX):
        raise S3Error(
            "InvalidBucketName", f"The bucket cannot exist: {problem or 'its name is reserved'}.", BucketName=bucket
        )
    return (name,)


def check_new_bucket(bucket: str) -> None:
    """Raise ``S3Error`` (InvalidBucketName) unless a bucket may be made under this name.

    User Guide, "General purpose bucket naming rules". Directories that were made otherwise are buckets whatever they are called.
    """
    fit = _BUCKET(bucket) and not any(pair in bucket for pair in ("..", ".-", "-.")) and not _ADDRESS(bucket)
    if not fit or bucket.startswith(_RESERVED) or bucket.endswith(_RESERVED_ENDS):
        raise S3Error(
            "InvalidBucketName",
            "A bucket's name has 3 to 63 lower-case letters, digits, hyphens and dots, begins and ends with a letter or digit, as does what is between two dots, and is no IP address.",
            BucketName=bucket,
        )


@lru_cache(maxsize=4096)
def place(bucket: Parts, key: str) -> Place:
    """Where ``key`` is below the directory of its bucket. Raises ``S3Error``: KeyTooLongError, InvalidArgument with the reason."""
    raw = key.encode()
    if len(raw) > KEY_MAX_BYTES:
        raise S3Error("KeyTooLongError", Size=len(raw), MaxSizeAllowed=KEY_MAX_BYTES)
    is_directory = raw.endswith(b"/")
    parts = tuple((raw[:-1] if is_directory else raw).split(b"/"))
    for name in parts:
        problem = name_problem(name)
        if problem is not None:
            raise _unplaced(
                key, "it has an empty component (two slashes, or one at its beginning)" if not name else problem
            )
        if name.startswith(OWN_PREFIX):
            raise _unplaced(key, f"names that begin with {OWN_PREFIX.decode()} are reserved")
    whole = (*bucket, *parts)
    if whole[0] == UPLOADS:
        raise _unplaced(key, f"{UPLOADS.decode()} is reserved")
    if sum(map(len, whole)) + len(whole) > PATH_MAX_BYTES:
        raise _unplaced(key, f"its path in the tree would be longer than {PATH_MAX_BYTES} bytes")
    return Place(whole, is_directory, format_path(whole))


def key_of(bucket: Parts, found: Place) -> str:
    """The key of a place below ``bucket``."""
    return b"/".join(found.parts[len(bucket) :]).decode("utf-8") + ("/" if found.is_directory else "")


def format_token(key: str) -> str:
    """The continuation token of a listing that goes on after ``key``: opaque to clients, and plain in URLs and XML."""
    return _TOKEN + base64.urlsafe_b64encode(key.encode()).decode()


def read_token(token: str) -> str:
    """The key of a continuation token. Raises ``S3Error`` (InvalidArgument)."""
    try:
        if token.startswith(_TOKEN):
            return base64.b64decode(token[len(_TOKEN) :].encode(), b"-_", validate=True).decode()
    except ValueError:  # UnicodeDecodeError and binascii.Error are
        pass
    raise S3Error(
        "InvalidArgument",
        "The continuation token is not one of this endpoint.",
        ArgumentName="continuation-token",
        ArgumentValue=token,
    )


def _unplaced(key: str, reason: str) -> S3Error:
    return S3Error(
        "InvalidArgument", f"The tree cannot hold this key: {reason}.", ArgumentName="Key", ArgumentValue=key
    )
