"""Names of buckets: what S3 allows, so that every client can use them, in a host name too."""

from __future__ import annotations

import re

from monofs.model.errors import InvalidArgument

_NAME = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
_ADDRESS = re.compile(r"\d+\.\d+\.\d+\.\d+")


def check_bucket_name(name: str) -> None:
    """Raise ``InvalidArgument`` unless a bucket may be called this."""
    if not _NAME.fullmatch(name) or ".." in name or _ADDRESS.fullmatch(name):
        raise InvalidArgument(
            f"{name!r} is no name of a bucket: 3 to 63 lower-case letters, digits, dots and hyphens, a letter or digit at both ends, no address"
        )
