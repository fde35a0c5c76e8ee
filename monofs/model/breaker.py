"""Whether to ask somebody who failed: not for a pause that doubles, then once, then as that went. Pure: time is an argument.

Who is asked may be a store (by masters and workers) or another worker. Invariant: while it is open, at most one request a pause goes through (the
*probe*), whatever becomes of that request. Not here: which errors are failures, and what those who may not ask are told.
"""

from __future__ import annotations

from monofs.model.errors import MonofsError


class Breaker:
    """Opens after ``failures`` in a row, the first of them begun at least ``span_s`` ago; its pause goes from ``first_s`` to ``most_s`` seconds."""

    __slots__ = (
        "_count",
        "_failures",
        "_first_s",
        "_most_s",
        "_pause_s",
        "_probing",
        "_since_s",
        "_span_s",
        "_until_s",
        "error",
    )

    def __init__(self, *, first_s: float, most_s: float, failures: int = 1, span_s: float = 0.0) -> None:
        self._failures, self._span_s, self._first_s, self._most_s = failures, span_s, first_s, most_s
        self.error: MonofsError | None = None
        """What it failed with last, from opening to closing."""
        self._count, self._probing = 0, False
        self._since_s = self._pause_s = self._until_s = 0.0

    def wait_s(self, now_s: float) -> float:
        """Seconds until it may be asked; 0: now. Who is given 0 asks: it may be the probe."""
        if self.error is None:
            return 0.0
        if now_s < self._until_s:
            return self._until_s - now_s
        self._probing, self._until_s = True, now_s + self._pause_s
        return 0.0

    def left_s(self, now_s: float) -> float:
        """:meth:`wait_s` for who only looks."""
        return max(0.0, self._until_s - now_s) if self.error is not None else 0.0

    def failed(self, error: MonofsError, now_s: float, began_s: float) -> None:
        """A request begun at ``began_s`` failed; what was under way when it opened makes the pause no longer."""
        if not self._count:
            self._since_s = began_s
        self._count += 1
        if self.error is None:
            if self._count < self._failures or now_s - self._since_s < self._span_s:
                return
        elif not self._probing:
            self.error = error
            return
        self.error, self._probing = error, False
        self._pause_s = min(self._most_s, self._pause_s * 2 or self._first_s)
        self._until_s = now_s + self._pause_s

    def answered(self) -> None:
        """It lives: ask as ever."""
        self.error, self._count, self._probing = None, 0, False
        self._pause_s = self._until_s = 0.0
