"""When the parts of quotas that a new slot table gives may grow: once every live worker follows it. And who makes up for what is over a part somewhere. Pure.

A worker whose part is smaller by another table shrinks before it tells that it follows it; so when all live ones do, what the others may have more is
free. Workers on record that a new leader has not heard yet count as behind, for a lease. The worker that asks need not have told: it takes the table over
with the answer, before it grows.

What is over a part, because it cannot go, the others leave free of theirs: each as much as the rest of them does not, and no less than its share by slots. What
a worker leaves counts for others when it has told so, and no further than it was asked to with the last answer: so two that ask at a time do not both
rely on each other. Why this keeps every quota: worker/parts.py. Not here: who lives (members.py).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable

from monofs.model.slots import SlotTable, part_of
from monofs.rpc.api import PartsNews


class Tally:
    """Bytes by worker and policy, with their sums."""

    def __init__(self) -> None:
        self._of: dict[int, dict[int, int]] = {}
        """Worker → policy id → bytes; only workers that have any."""
        self.total: dict[int, int] = {}

    def set(self, worker: int, counts: dict[int, int]) -> None:
        """In place of what it had."""
        for by, each in ((-1, self._of.pop(worker, {})), (1, counts)):
            for policy, count in each.items():
                self.total[policy] = self.total.get(policy, 0) + by * count
                if not self.total[policy]:
                    del self.total[policy]
        if counts:
            self._of[worker] = counts

    def of(self, worker: int) -> dict[int, int]:
        """Of one worker."""
        return self._of.get(worker, {})

    def but(self, worker: int, policy: int) -> int:
        """Of all others."""
        return self.total.get(policy, 0) - self.of(worker).get(policy, 0)


class Settling:
    """Of one master."""

    def __init__(self) -> None:
        self._followed: dict[int, int] = {}
        """Live (or awaited) worker → epoch of the table it said it follows; 0: none."""
        self._epoch = 0
        self._spans: dict[int, tuple[int, int]] = {}
        """Of that table."""
        self._behind: set[int] = set()
        """Of them, those that do not follow the table of ``_epoch``."""
        self._over, self._left = Tally(), Tally()
        """What workers hold over their parts, and what they leave free of them."""

    def begin(self, awaited: Iterable[int]) -> None:
        """Nothing is known of these workers, which may have parts."""
        self._followed = dict.fromkeys(awaited, 0)
        self._behind = set(self._followed)
        self._over, self._left = Tally(), Tally()

    def heard(self, worker: int, followed: int, over: dict[int, int], left: dict[int, int]) -> None:
        """A worker lives, follows a table (0: none yet), holds so much over its parts, and leaves so much of them to others."""
        self._followed[worker] = followed
        (self._behind.discard if followed == self._epoch else self._behind.add)(worker)
        self._count(worker, over, left)

    def keep(self, workers: Collection[int]) -> None:
        """All others are lost, and what they hold counts no more."""
        for worker in self._followed.keys() - set(workers):
            del self._followed[worker]
            self._behind.discard(worker)
            self._count(worker, {}, {})

    def news(self, worker: int, table: SlotTable) -> PartsNews:
        """What a worker is answered, with the table in force or knowing it."""
        if table.epoch != self._epoch:
            self._epoch, self._spans = table.epoch, table.spans()
            self._behind = {each for each, followed in self._followed.items() if followed != table.epoch}
        return PartsNews(table.epoch if self._behind <= {worker} else 0, self._to_leave(worker))

    def _to_leave(self, worker: int) -> dict[int, int]:
        to_leave = {}
        for policy in self._over.total:
            over = self._over.but(worker, policy)
            share = part_of(over, self._spans.get(worker, (0, 0)))
            if count := max(over - self._left.but(worker, policy), share):
                to_leave[policy] = count
        left = self._left.of(worker)
        self._left.set(
            worker, {policy: min(left[policy], to_leave[policy]) for policy in left.keys() & to_leave.keys()}
        )
        return to_leave

    def _count(self, worker: int, over: dict[int, int], left: dict[int, int]) -> None:
        self._over.set(worker, over)
        self._left.set(worker, left)
