"""A bandwidth kept over all requests of one job, whoever answers them. Pure: the clock is an argument.

Bytes are paid for before they are asked for, and given back where they were cached already: so the limit holds for any number of requests in
flight and of workers, and what was not used is not saved up.
"""

from __future__ import annotations

from collections.abc import Callable

from monofs.model.block import GROUP_PAGES, PAGE_SIZE_BYTES


class Pace:
    """Of one job; ``bytes_s`` 0: no limit."""

    def __init__(self, bytes_s: int, clock: Callable[[], float]) -> None:
        self._bytes_s, self._clock = bytes_s, clock
        self._due_s = 0.0

    @property
    def pages(self) -> int:
        """Most pages of one request: about a second's worth, so that a slow job does not ask in bursts."""
        if not self._bytes_s:
            return GROUP_PAGES
        return min(GROUP_PAGES, max(1, self._bytes_s // PAGE_SIZE_BYTES))

    def take(self, size_bytes: int) -> float:
        """How many seconds to wait before so many bytes may be asked for."""
        if not self._bytes_s:
            return 0.0
        now_s = self._clock()
        start_s = max(self._due_s, now_s)
        self._due_s = start_s + size_bytes / self._bytes_s
        return start_s - now_s

    def give_back(self, size_bytes: int) -> None:
        """So many bytes that were taken were not moved."""
        if self._bytes_s:
            self._due_s -= size_bytes / self._bytes_s
