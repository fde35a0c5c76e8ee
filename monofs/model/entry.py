"""A journal entry as every floor sees it: opaque to the journal, decoded by the state machine it is meant for."""

from __future__ import annotations

from typing import NamedTuple


class Entry(NamedTuple):
    """An opaque change: the state machine knows what ``kind`` and ``version`` mean; the journal does not."""

    kind: int
    version: int
    body: bytes
