"""Options a caller may give per call, path or mount; names and meanings are those users of the field know."""

from __future__ import annotations

from enum import StrEnum

from monofs.model.errors import InvalidArgument


class ReadType(StrEnum):
    """What a read does to the cache."""

    NO_CACHE = "NO_CACHE"
    """What is cached is served; what is not is not added."""
    CACHE = "CACHE"
    CACHE_PROMOTE = "CACHE_PROMOTE"
    STORE = "STORE"
    """From the store, whatever is cached: for comparing the two."""


class LoadType(StrEnum):
    """Whether a path missing here is looked for in the under storage."""

    ONCE = "ONCE"
    ALWAYS = "ALWAYS"
    NEVER = "NEVER"


class WriteType(StrEnum):
    """What a write promises before it is answered. ``ASYNC_THROUGH`` is not offered before chains of workers are."""

    MUST_CACHE = "MUST_CACHE"
    """Kept by workers only, never written to a store."""
    CACHE_THROUGH = "CACHE_THROUGH"
    """In the store, and warm in the cache as far as there is room."""
    THROUGH = "THROUGH"
    """In the store; nothing is added to the cache."""


class UfsMode(StrEnum):
    """What may be done with the store of a mount, for times when it is serviced."""

    READ_WRITE = "readWrite"
    READ_ONLY = "readOnly"
    NO_ACCESS = "noAccess"
    """Nothing is asked of the store; what is known and cached is served."""


class TtlAction(StrEnum):
    """What happens to a path when its time to live has passed."""

    FREE = "free"
    """Its cached pages are dropped."""
    DELETE_CACHE_METADATA = "delete_cache_metadata"
    """Its cached pages and what is known of it are dropped; the next access looks at the store again."""
    DELETE = "delete"
    """It is deleted here and in its store."""


class Priority(StrEnum):
    """Which cached pages go first when room is needed: all LOW ones before any MEDIUM one, those before HIGH ones."""

    HIGH = "HIGH"
    MEDIUM = "MEDIUM"
    LOW = "LOW"


SYNC_NEVER_S = -1.0
"""A sync interval that never looks at the store again."""
SYNC_INTERVAL_MAX_S = 10 * 365 * 86400.0


def sync_interval_ms(interval_s: float | None) -> int | None:
    """A sync interval as it is journaled, in milliseconds; None: not set. Raises ``InvalidArgument``."""
    if interval_s is None:
        return None
    if interval_s != SYNC_NEVER_S and not 0 <= interval_s <= SYNC_INTERVAL_MAX_S:
        raise InvalidArgument(f"a sync interval is -1 (never), 0 (always) or seconds, not {interval_s:g}")
    return round(interval_s * 1000)
