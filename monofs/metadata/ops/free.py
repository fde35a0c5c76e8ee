"""FREE: tell workers through the feed to drop, pin or unpin contents."""

from __future__ import annotations

from monofs.metadata.draft import Draft
from monofs.metadata.entries import Free
from monofs.metadata.tables import FEED_CONTENTS_MAX, FeedKind
from monofs.model.errors import InvalidArgument

_KINDS = frozenset({FeedKind.FREE, FeedKind.FREE_FORCED, FeedKind.PIN, FeedKind.UNPIN})


def free(draft: Draft, change: Free) -> int:
    """Returns the feed index. Kind RETIRED is refused: only the namespace itself knows that no path has a content."""
    if change.kind not in _KINDS:
        raise InvalidArgument(f"feed records of kind {change.kind} cannot be asked for")
    if not 0 < len(change.contents) <= FEED_CONTENTS_MAX:
        raise InvalidArgument(f"a feed record names 1 to {FEED_CONTENTS_MAX} contents")
    return draft.append_feed(change.kind, change.contents)
