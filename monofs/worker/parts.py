"""This worker's part of each policy's quota, so that all workers together keep to it. Pure.

A quota is divided by the slots that workers own (:func:`monofs.model.slots.part_of`), and each worker works its part out itself: the master tells quotas
and the table, as ever. When another table comes, a part *shrinks at once and grows late*: only when the master says that every live worker follows that
table, so has shrunk. What cannot go (it is in use, pinned, or in no store) is told to the master, and the others together leave as much of their parts free
meanwhile: more at once, less only when the table is settled, for only then is it known what everybody holds.

Invariant, over live workers that follow a table: `QUOTA_INVARIANT`. The argument: all parts are at most those of the table that was last said to be
settled, because whoever came later has none before his own is. A worker may come to hold its part without what it leaves, or what it holds already; who is told to
leave less is told at least what all others hold over their parts, less what those leave of theirs, so what it grows by is free. Who is lost counts no more, and
comes back with no part if its slots were given away, else with what it holds. Before the first table, and below a master that says nothing of parts, a
worker keeps the whole quota. Not here: making room (tiering).
"""

from __future__ import annotations

from monofs.model.slots import SlotTable, part_of

QUOTA_INVARIANT = "the-parts-of-a-quota-sum-to-at-most-the-quota"
SPANS_MAX = 16
"""Tables followed before one is settled; beyond that a part is nothing."""
_NOTHING = (0, 0)


class Parts:
    """Of one worker."""

    def __init__(self) -> None:
        self._spans: set[tuple[int, int]] = set()
        """Of this worker in the tables it has followed since the last settled one; none: it follows none yet."""
        self._span, self._epoch = _NOTHING, 0
        self._holds = False
        """It began anew: until its part is settled, that is no more than it holds."""
        self._leaves: dict[int, int] = {}
        """Policy id → bytes of its part that it leaves to others."""

    def registered(self, *, listed: bool | None) -> None:
        """A master took this worker in: whether the table lists it; None: there is none, or the master does not say."""
        if listed is None:
            return
        if not listed:
            self._add(_NOTHING)
        elif not self._spans:
            self._holds = True

    def unknown(self) -> None:
        """The master says nothing of parts."""
        self._spans, self._holds, self._leaves = set(), False, {}

    def follow(self, worker: int, table: SlotTable) -> None:
        """Another table; the empty one stands for one that is on its way."""
        if table.epoch:
            self._span, self._epoch = table.span(worker), table.epoch
            self._add(self._span)

    def told(self, settled: int, to_leave: dict[int, int]) -> None:
        """Which table's parts all live workers keep to (0: not all do), and how much of each policy's part to leave to others that hold more than theirs."""
        if settled and settled == self._epoch:
            self._spans, self._holds = {self._span}, False
            self._leaves = to_leave
        else:
            more = {policy: max(count, self._leaves.get(policy, 0)) for policy, count in to_leave.items()}
            self._leaves = self._leaves | more

    def of(self, policy: int, quota_bytes: int, used_bytes: int) -> int:
        """How much of a policy's quota this worker may fill, when it has so much used."""
        most = used_bytes if self._holds else quota_bytes
        return max(0, min(most, self._part(quota_bytes)) - self._leaves.get(policy, 0))

    def over(self, quota_bytes: int, used_bytes: int) -> int:
        """How many of the used bytes are too many."""
        return max(0, used_bytes - self._part(quota_bytes))

    def left(self, policy: int, quota_bytes: int, used_bytes: int) -> int:
        """How much of its part this worker leaves to others until it is told otherwise."""
        return max(0, min(self._leaves.get(policy, 0), self._part(quota_bytes) - used_bytes))

    def _part(self, quota_bytes: int) -> int:
        return min((part_of(quota_bytes, span) for span in self._spans), default=quota_bytes)

    def _add(self, span: tuple[int, int]) -> None:
        self._spans.add(span if len(self._spans) < SPANS_MAX else _NOTHING)
