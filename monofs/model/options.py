"""Options a caller may give per call, path or mount; names and meanings are those users of the field know."""

from __future__ import annotations

from enum import StrEnum


class ReadType(StrEnum):
    """What a read does to the cache."""

    NO_CACHE = "NO_CACHE"
    CACHE = "CACHE"
    CACHE_PROMOTE = "CACHE_PROMOTE"


class LoadType(StrEnum):
    """Whether a path missing here is looked for in the under storage."""

    ONCE = "ONCE"
    ALWAYS = "ALWAYS"
    NEVER = "NEVER"


SYNC_NEVER_S = -1.0
"""A sync interval that never looks at the store again."""
