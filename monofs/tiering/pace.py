"""How many threads may write to one storage directory at a time, so that a slow disk does not keep those that others need.

A directory is *slow* while a write takes longer than ``SLOW_S``, and for ``SLOW_FOR_S`` after one did, or after nobody got in for so long; for twice as long each
time it is tried and still slow, up to ``SLOW_FOR_MOST_S``: whoever tries it waits. Invariant, where
another directory is well: no more than ``most`` threads are in one directory, and in a slow one nobody waits to get in. Who is not let in does not
write: the bytes go past the cache. ANY thread. Not here: which directory takes new groups (`admission` passes slow ones over).
"""

from __future__ import annotations

import threading
import time

SLOW_S = 0.25
"""A write of a page that takes longer. A disk that works writes one in 2 to 20 ms."""
SLOW_FOR_S, SLOW_FOR_MOST_S = 5.0, 300.0
SLOW_WRITERS = 2
"""Threads that may try whether a slow directory is better now."""


class Pace:
    """Of one directory."""

    def __init__(self, most: int) -> None:
        """``most``: threads in it, less than all."""
        self._most = most
        self._began_s: dict[int, float] = {}
        """Thread → when its write began (time.monotonic)."""
        self._slow_until_s = self._slow_for_s = 0.0
        self._changed = threading.Condition()

    @property
    def is_slow(self) -> bool:
        """Whether other directories are to be preferred."""
        now_s = time.monotonic()
        oldest_s = min(list(self._began_s.values()), default=now_s)
        return now_s < self._slow_until_s or now_s - oldest_s > SLOW_S

    def enter(self, *, others_are_well: bool) -> bool:
        """Begin to write, then :meth:`leave`; False: too many do."""
        with self._changed:
            is_refused = others_are_well and not self._may_enter()
            if is_refused and not self.is_slow:  # many come at once, maybe
                is_refused = not self._changed.wait_for(self._may_enter, SLOW_S)
            if is_refused:
                self._slow_until_s = time.monotonic() + SLOW_FOR_S
                return False
            self._began_s[threading.get_ident()] = time.monotonic()
            return True

    def leave(self, pages: int) -> None:
        """So many pages were written, or not."""
        with self._changed:
            now_s = time.monotonic()
            if now_s - self._began_s.pop(threading.get_ident()) <= SLOW_S * pages:
                self._slow_for_s = 0.0
            elif now_s >= self._slow_until_s:
                self._slow_for_s = min(2 * self._slow_for_s or SLOW_FOR_S, SLOW_FOR_MOST_S)
                self._slow_until_s = now_s + self._slow_for_s
            self._changed.notify()

    def answered(self, seconds: float) -> None:
        """A file system that is asked over a wire, of whatever kind, took so long to tell its room: it is found slow before somebody's page is. (Of a disk
        that says nothing: the kernel knows it.)"""
        if seconds > SLOW_S:
            with self._changed:
                self._slow_until_s = max(self._slow_until_s, time.monotonic() + SLOW_FOR_S)

    def _may_enter(self) -> bool:
        return len(self._began_s) < (SLOW_WRITERS if self.is_slow else self._most)
