"""TRIM_FEED: forget what every worker has acted on."""

from __future__ import annotations

from monofs.metadata.draft import Draft
from monofs.metadata.entries import TrimFeed
from monofs.metadata.tables import RETIRED, pack_id

RECORDS_MAX = 10_000


def trim_feed(draft: Draft, change: TrimFeed) -> None:
    """At most 10,000 records go in one entry; ``feed_bounds`` tells whether some are left."""
    meta = draft.meta
    end = min(change.through + 1, meta.feed_head, meta.feed_tail + RECORDS_MAX)
    for index in range(meta.feed_tail, end):
        draft.changes.append((RETIRED, pack_id(index), None))
    meta.feed_tail = max(meta.feed_tail, end)
