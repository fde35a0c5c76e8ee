"""What was opened lately, for programs that take answers of some age: opened again while no master answers (design.md section 7).

Invariant: nothing is older than the bound the program gave (``consistency``), and linearizable programs have nothing here. The content is what its capability
says, so a file that changed meanwhile reads as the version opened before, whole and unmixed, or not at all. Not here: asking (session.py).
"""

from __future__ import annotations

import time

import msgspec

from monofs.client.info import Opened
from monofs.rpc.api import ReadOptions

KEPT = 4096
"""Files remembered; those opened longest ago go first."""
STALE_S = 3600.0
"""Of ``stale``: workers that hear no leader honour capabilities for so long."""
PATIENCE_S, AWAY_PATIENCE_S = 2.0, 0.1
"""How long masters are waited for when there is an answer here; and while they were silent just now."""
AWAY_S = 5.0


class Recent:
    """Path → what OPEN answered, of one process's session."""

    def __init__(self, options: ReadOptions) -> None:
        self.bound_s = {"bounded": options.bound_s, "stale": STALE_S}.get(options.consistency, 0.0)
        self._kept: dict[str, tuple[Opened, float]] = {}
        self._away_until_s = 0.0

    def keep(self, path: str, opened: Opened) -> None:
        """Remember an answer that came just now."""
        if self.bound_s <= 0:
            return
        self._kept.pop(path, None)
        self._kept[path] = (msgspec.structs.replace(opened, data=b"") if opened.data else opened), time.monotonic()
        while len(self._kept) > KEPT:
            self._kept.pop(next(iter(self._kept)), None)

    def find(self, path: str) -> Opened | None:
        """What is still young enough."""
        opened, at_s = self._kept.get(path, (None, 0.0))
        return opened if time.monotonic() - at_s <= min(self.bound_s, STALE_S) else None

    def patience_s(self) -> float:
        """How long to wait for a master when there is something here."""
        return AWAY_PATIENCE_S if time.monotonic() < self._away_until_s else PATIENCE_S

    def note_away(self) -> None:
        """No master answered."""
        self._away_until_s = time.monotonic() + AWAY_S
