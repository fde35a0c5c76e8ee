"""A count-min sketch of how often keys were met lately (Cormode and Muthukrishnan 2005), aged as TinyLFU does it. Pure.

Four rows of counters up to 15, a byte each, at least as many columns as groups are cached: 4 to 8 bytes a group. After ten additions a
column all counters are halved. Invariant: an estimate is never less than the additions since the last halving, up to 15, and half of
what it was then.
"""

from __future__ import annotations

_SEEDS = (0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9, 0xD6E8FEB86659FD93)
"""Odd numbers whose bits are mixed: multiply, keep the upper bits (Dietzfelbinger et al. 1997)."""
_WORD = (1 << 64) - 1
_HALVES = bytes(value >> 1 for value in range(256))
_MOST = 15
_FIRST_COLUMNS = 1024
_COLUMNS_MAX = 1 << 24
_SAMPLE = 10


class Sketch:
    """Counters shared by the orders of one cache; ``groups`` is how many they hold."""

    __slots__ = ("_added", "_mask", "_rows", "groups")

    def __init__(self) -> None:
        self.groups = 0
        self._rows = [bytearray(_FIRST_COLUMNS) for _ in _SEEDS]
        self._mask = _FIRST_COLUMNS - 1
        self._added = 0

    def add(self, key: int) -> None:
        """The key was met: its lowest counters grow."""
        if self.groups > self._mask:
            self._grow()
        mask = self._mask
        places = [(key * seed & _WORD) >> 40 & mask for seed in _SEEDS]
        lowest = min([row[place] for row, place in zip(self._rows, places, strict=True)])
        if lowest < _MOST:
            for row, place in zip(self._rows, places, strict=True):
                if row[place] == lowest:
                    row[place] = lowest + 1
        self._added += 1
        if self._added >= _SAMPLE * mask:
            self._added //= 2
            self._rows = [row.translate(_HALVES) for row in self._rows]

    def count(self, key: int) -> int:
        """About how often it was met lately, 0 to 15."""
        mask = self._mask
        return min([row[(key * seed & _WORD) >> 40 & mask] for row, seed in zip(self._rows, _SEEDS, strict=True)])

    def _grow(self) -> None:
        """Twice the columns: a key finds what it had, in either half."""
        if self._mask + 1 < _COLUMNS_MAX:
            self._rows = [row + row for row in self._rows]
            self._mask = 2 * self._mask + 1
