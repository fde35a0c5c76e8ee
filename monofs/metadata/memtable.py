"""A memtable: the changes since the last flush, as one dict per space.

Invariant: a key once in a memtable stays in it (a deletion is a None), so the sorted order of a space is only ever extended; and
a frozen memtable is never written again, so the flusher may read it from its own thread. Not here: merging with the database.
"""

from __future__ import annotations

from bisect import bisect_right
from itertools import islice

from monofs.metadata.tables import NameChange

RELEASE_SLICE = 1000


class Memtable:
    """Spaces of keys; ``changes`` counts what was put since it was made."""

    __slots__ = ("_sorted", "changes", "spaces")

    def __init__(self) -> None:
        self.spaces: dict[int, dict[bytes, bytes | None]] = {}
        self.changes = 0
        self._sorted: dict[int, list[bytes]] = {}

    def apply(self, changes: list[NameChange]) -> None:
        """Take over puts and deletions."""
        spaces = self.spaces
        for space, key, value in changes:
            keys = spaces.get(space)
            if keys is None:
                keys = spaces[space] = {}
            keys[key] = value
        self.changes += len(changes)

    def run(self, space: int, after: bytes, limit: int) -> list[bytes]:
        """Up to ``limit`` keys of a space greater than ``after``, sorted; deleted ones included.

        A page of a directory of 100,000 names must not sort them again: the order is kept, and names that came since are
        merged into it (two sorted runs, which costs one comparison a name).
        """
        keys = self.spaces.get(space)
        if keys is None:
            return []
        order = self._sorted.get(space)
        if order is None:
            order = self._sorted[space] = sorted(keys)
        elif len(order) != len(keys):
            order += sorted(islice(reversed(keys), len(keys) - len(order)))
            order.sort()
        start = bisect_right(order, after) if after else 0
        return order[start : start + limit]

    def release(self) -> None:
        """Let go of everything in small steps: freeing a large dict at once would hold the GIL for milliseconds."""
        self._sorted.clear()
        spaces = self.spaces
        while spaces:
            _, keys = spaces.popitem()
            while len(keys) > RELEASE_SLICE:
                for key in list(islice(keys, RELEASE_SLICE)):
                    del keys[key]
