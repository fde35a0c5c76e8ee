"""The end of a plan: whoever lost some slots without need gets them back, by exchanges between two slots, after which all workers own and are listed as before.

- A worker that does not own slot ``lost`` any more and owns slot ``gained`` instead: the owner of ``lost`` becomes that of ``gained``, and the worker that of
  ``lost``. Where one of them is not listed there, a place of each slot is exchanged, that first which moves fewest places; where it may not be listed there, a
  place is exchanged with a third slot before. What remains of changed owners is what shares force: each goes from a worker that is to own fewer to one that
  is to own more.
- A worker that slot ``lost`` lists no more and slot ``gained`` lists instead: it and another one of ``lost`` change places, if fewer have moved then. Owners stay.

Pure. Not here: who is to own and be listed for how much (placement.py).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from typing import Protocol

PAIRS_MAX = 50_000
"""Kinds of slots compared for each of the two; what is left then stays as it is."""
SCANS_MAX = 64
"""How often third slots are looked for in the whole table."""
Kind = tuple[int, tuple[int, ...], tuple[int, ...]]
"""Who owned a slot, whom it listed, and whom it lists, its owner first."""
Way = tuple[int, int, int]
"""Places that move more than now, who leaves ``lost``, and who comes there in exchange; -1: nobody has to."""


class Planner(Protocol):
    """A plan in which every slot has its owner and is full. Workers of one group never share a slot."""

    group: list[int]
    rows: list[list[int]]
    before: list[tuple[int, ...]]
    """Of each slot, who of the workers it listed before may stay."""
    owner: list[int]
    """Of each slot, who owned it before; -1: nobody that takes part."""


class Exchanges:
    """Of one plan."""

    def __init__(self, planner: Planner) -> None:
        self._planner, self._group, self._rows = planner, planner.group, planner.rows
        self._thirds = _Thirds(planner)

    def give_back(self) -> None:
        """Make them."""
        self._pair(self._owns, self._ways_to_own)
        self._pair(self._lists, self._ways_to_be_listed)

    def _pair(
        self, change: Callable[[Kind], tuple[list[int], list[int]]], ways: Callable[[int, Kind, Kind], Iterator[Way]]
    ) -> None:
        """Of each worker, the slots it has lost with those it has gained. ``change`` tells who lost and who gained a slot."""
        lost: dict[int, list[int]] = {}
        gained: dict[int, list[int]] = {}
        for slot, (owner, before, row) in enumerate(
            zip(self._planner.owner, self._planner.before, self._rows, strict=True)
        ):
            kind = owner, before, tuple(row)
            if owner == row[0] and before == kind[2]:
                continue
            for workers, table in zip(change(kind), (lost, gained), strict=True):
                for worker in workers:
                    table.setdefault(worker, []).append(slot)
        left = PAIRS_MAX
        for worker in sorted(lost.keys() & gained.keys()):
            mine, others = self._by_kind(lost[worker]), self._by_kind(gained[worker])
            left -= len(mine) * len(others)
            if left < 0:
                return
            found = []
            for one in mine:
                for other in others:
                    best = min(ways(worker, one, other), default=None)
                    if best is not None:
                        found.append((best, one, other))
            for (_, leaving, coming), one, other in sorted(found):
                slots, against = mine[one], others[other]
                while slots and against:
                    self._exchange(worker, slots.pop(), against.pop(), leaving, coming)
            if ways == self._ways_to_own and any(mine.values()) and any(others.values()):
                self._by_thirds(worker, mine, others)

    def _by_thirds(self, worker: int, mine: dict[Kind, list[int]], others: dict[Kind, list[int]]) -> None:
        """Those that are left, after a place of one of the two slots was exchanged with one of a third slot, whose owner stays."""
        taken = {slot for kinds in (mine, others) for slots in kinds.values() for slot in slots}
        found = []
        for one, slots in mine.items():
            for other, against in others.items():
                if not slots or not against:
                    continue
                heir = one[2][0]
                for is_gained, kind, coming in ((True, other, heir), (False, one, worker)):
                    for leaving in kind[2][0 if is_gained else 1 :] if coming not in kind[2] else ():
                        prepared = self._prepared(kind, leaving, coming)
                        if prepared is None:
                            continue
                        pair = (one, prepared) if is_gained else (prepared, other)
                        best = min(self._ways_to_own(worker, *pair), default=None)
                        if best is not None:
                            more = best[0] + (leaving in kind[1]) - (coming in kind[1])
                            found.append((more, is_gained, leaving, coming, best[1:], one, other))
        found.sort()
        for most in range(5):
            for more, is_gained, leaving, coming, way, one, other in found:
                slots, against = mine[one], others[other]
                while slots and against:
                    third = self._thirds.take(coming, leaving, most - more, taken)
                    if third < 0:
                        break
                    self._swap((against if is_gained else slots)[-1], third, leaving, coming)
                    self._exchange(worker, slots.pop(), against.pop(), *way)

    def _prepared(self, kind: Kind, leaving: int, coming: int) -> Kind | None:
        owner, before, row = kind
        if self._group[coming] in [self._group[each] for each in row if each != leaving]:
            return None
        return owner, before, tuple(coming if each == leaving else each for each in row)

    @staticmethod
    def _owns(kind: Kind) -> tuple[list[int], list[int]]:
        owner, _, row = kind
        return ([owner] if owner not in (-1, row[0]) else []), ([row[0]] if owner != row[0] else [])

    @staticmethod
    def _lists(kind: Kind) -> tuple[list[int], list[int]]:
        _, before, row = kind
        return [worker for worker in before if worker not in row], [
            worker for worker in row[1:] if worker not in before
        ]

    def _kind(self, slot: int) -> Kind:
        return self._planner.owner[slot], self._planner.before[slot], tuple(self._rows[slot])

    def _by_kind(self, slots: list[int]) -> dict[Kind, list[int]]:
        """As they are now: others may have exchanged."""
        kinds: dict[Kind, list[int]] = {}
        for slot in slots:
            kinds.setdefault(self._kind(slot), []).append(slot)
        return kinds

    def _ways_to_own(self, worker: int, lost: Kind, gained: Kind) -> Iterator[Way]:
        (was, _, row), (_, _, other) = lost, gained
        heir = row[0]
        if was != worker or heir == worker or other[0] != worker:
            return
        if worker in row and heir in other:
            yield 0, -1, -1
            return
        for leaving in row if heir in other else (heir,):
            for coming in other if worker in row else (worker,):
                yield from self._way(lost, gained, leaving, coming)

    def _ways_to_be_listed(self, worker: int, lost: Kind, gained: Kind) -> Iterator[Way]:
        if worker in lost[2] or worker not in gained[2][1:]:
            return
        for leaving in lost[2][1:]:
            for way in self._way(lost, gained, leaving, worker):
                if way[0] < 0:
                    yield way

    def _way(self, lost: Kind, gained: Kind, leaving: int, coming: int) -> Iterator[Way]:
        (_, before, row), (_, other_before, other) = lost, gained
        if leaving in other or coming in row:
            return
        groups = [self._group[each] for each in row if each != leaving]
        other_groups = [self._group[each] for each in other if each != coming]
        if self._group[coming] not in groups and self._group[leaving] not in other_groups:
            more = (leaving in before) - (coming in before) + (coming in other_before) - (leaving in other_before)
            yield more, leaving, coming

    def _exchange(self, worker: int, lost: int, gained: int, leaving: int, coming: int) -> None:
        row, other = self._rows[lost], self._rows[gained]
        owns, heir = other[0] == worker, row[0]
        if leaving >= 0:
            self._swap(lost, gained, leaving, coming)
        if owns:
            for each, head in ((row, worker), (other, heir)):
                each.remove(head)
                each.insert(0, head)

    def _swap(self, slot: int, other: int, leaving: int, coming: int) -> None:
        """``coming`` in the place of ``leaving``, and the other way round in the other slot."""
        for at, old, new in ((slot, leaving, coming), (other, coming, leaving)):
            row = self._rows[at]
            row[row.index(old)] = new


class _Thirds:
    """Slots that list a worker which is not their owner, and in which another one fits in its place."""

    def __init__(self, planner: Planner) -> None:
        self._planner, self._left = planner, SCANS_MAX
        self._found: dict[tuple[int, int], list[tuple[int, int]]] = {}

    def take(self, worker: int, by: int, most: int, taken: Collection[int]) -> int:
        """One that is not ``taken``, in which at most so many more places move when ``by`` is in the place of ``worker``; -1: none is known."""
        found = self._found.get((worker, by))
        if found is None:
            if not self._left:
                return -1
            self._left -= 1
            found = self._found[worker, by] = sorted(self._find(worker, by), reverse=True)
        while found and found[-1][0] <= most:
            _, slot = found.pop()
            if slot not in taken and self._fits(slot, worker, by):
                return slot
        return -1

    def _find(self, worker: int, by: int) -> Iterator[tuple[int, int]]:
        for slot, before in enumerate(self._planner.before):
            if self._fits(slot, worker, by):
                yield (worker in before) - (by in before), slot

    def _fits(self, slot: int, worker: int, by: int) -> bool:
        row, group = self._planner.rows[slot], self._planner.group
        return worker in row[1:] and group[by] not in [group[each] for each in row if each != worker]
