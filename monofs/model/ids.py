"""Identifiers as distinct types, and the arithmetic of content ids.

Invariant: a content id names one version of one file's bytes for ever. Its upper 16 bits are the cluster incarnation
(raised by restore, forced recovery and a new home), its lower 48 bits a counter kept in the replicated state.
"""

from __future__ import annotations

from typing import NewType

InodeId = NewType("InodeId", int)
ContentId = NewType("ContentId", int)
MountId = NewType("MountId", int)
WorkerId = NewType("WorkerId", int)
JournalIndex = NewType("JournalIndex", int)
Term = NewType("Term", int)
Epoch = NewType("Epoch", int)
ClientId = NewType("ClientId", bytes)

NO_CONTENT = ContentId(0)
"""Directories, symlinks and files of zero bytes have no content to cache."""

COUNTER_BITS = 48
INCARNATION_MAX = (1 << 16) - 1


def make_content_id(incarnation: int, counter: int) -> ContentId:
    """Join a 16-bit incarnation and a 48-bit counter into one 64-bit content id."""
    return ContentId((incarnation << COUNTER_BITS) | counter)


def incarnation_of(content: ContentId) -> int:
    """The incarnation a content id was assigned in."""
    return content >> COUNTER_BITS


def format_content_id(content: ContentId) -> str:
    """How a content id is shown to people: ``incarnation-counter`` in hex, e.g. ``1-2af``."""
    return f"{content >> COUNTER_BITS:x}-{content & ((1 << COUNTER_BITS) - 1):x}"
