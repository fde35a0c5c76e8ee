"""When the parts of quotas that a new slot table gives may grow: once every live worker follows it. And what is over a part somewhere. Pure.

A worker whose part is smaller by another table shrinks before it tells that it follows it; so when all live ones do, what the others may have more is
free. Workers on record that a new leader has not heard yet count as behind, for a lease. The worker that asks need not have told: it takes the table over
with the answer, before it grows. Why this keeps every quota: worker/parts.py. Not here: who lives (members.py).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable


class Settling:
    """Of one master."""

    def __init__(self) -> None:
        self._followed: dict[int, int] = {}
        """Live (or awaited) worker → epoch of the table it said it follows; 0: none."""
        self._epoch = 0
        self._behind: set[int] = set()
        """Of them, those that do not follow the table of ``_epoch``."""
        self._over: dict[int, dict[int, int]] = {}
        """Worker → policy id → bytes it holds over its part; only workers that do."""
        self._total: dict[int, int] = {}

    def begin(self, awaited: Iterable[int]) -> None:
        """Nothing is known of these workers, which may have parts."""
        self._followed = dict.fromkeys(awaited, 0)
        self._behind = set(self._followed)
        self._over, self._total = {}, {}

    def heard(self, worker: int, followed: int, over: dict[int, int]) -> None:
        """A worker lives, follows a table (0: none yet), and holds so much over its parts."""
        self._followed[worker] = followed
        (self._behind.discard if followed == self._epoch else self._behind.add)(worker)
        self._count(worker, over)

    def keep(self, workers: Collection[int]) -> None:
        """All others are lost, and what they hold counts no more."""
        for worker in self._followed.keys() - set(workers):
            del self._followed[worker]
            self._behind.discard(worker)
            self._count(worker, {})

    def settled(self, worker: int, epoch: int) -> int:
        """``epoch``, the one of the table in force, if all live workers but ``worker`` follow it, else 0."""
        if epoch != self._epoch:
            self._epoch = epoch
            self._behind = {each for each, followed in self._followed.items() if followed != epoch}
        return epoch if self._behind <= {worker} else 0

    def over(self, worker: int) -> dict[int, int]:
        """Policy id → bytes that other live workers hold over their parts."""
        own = self._over.get(worker, {})
        return {policy: rest for policy, total in self._total.items() if (rest := total - own.get(policy, 0)) > 0}

    def _count(self, worker: int, over: dict[int, int]) -> None:
        for by, each in ((-1, self._over.pop(worker, {})), (1, over)):
            for policy, count in each.items():
                total = self._total.get(policy, 0) + by * count
                if total:
                    self._total[policy] = total
                else:
                    del self._total[policy]
        if over:
            self._over[worker] = over
