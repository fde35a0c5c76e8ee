"""How a slot is filled at which whoever wants more does not fit, and nobody moves who would have stayed.

A worker that is new in some slot gives its place there to the one that wants more, and goes to the hole, or takes the place of a third that is new, and
so on; or whoever was taken from the hole comes back, and gives up another of its places. These are the paths of an augmentation, in the words of flows: so
the planner (placement.py) moves about as little as zones allow. Pure. Not here: who wants how much.
"""

from __future__ import annotations

from typing import Protocol

REACH = 64
"""Groups that a way is looked for among."""


class Planner(Protocol):
    """A plan under way. A slot is *open* while its head is not settled; workers of one group never share a slot."""

    group: list[int]
    """Of each worker."""
    rows: list[list[int]]
    before: list[tuple[int, ...]]
    """What stayed of the rows before."""
    open: bytearray
    owner: list[int]
    """Of each slot, who owned it before, if it may go on."""
    heads: list[int]
    own: list[int]
    """How many slots each worker owns, and is to own."""

    def add(self, slot: int, place: int) -> None:
        """List a worker."""

    def head(self, slot: int, place: int) -> None:
        """Make a worker of a slot its owner."""

    def replace(self, slot: int, place: int, by: int) -> None:
        """Another worker in a worker's place."""


class Detours:
    """Of one plan, from when it is made."""

    def __init__(self, planner: Planner) -> None:
        self._planner = planner
        self._new: dict[int, tuple[list[int], list[int]]] = {}
        """Group → slots in which one of it is new: first those it does not own, then those it does."""
        self._stayed: dict[int, tuple[list[int], list[int]]] = {}
        """Worker → slots it was kept in, as above."""
        for slot, (row, before) in enumerate(zip(planner.rows, planner.before, strict=True)):
            for at, place in enumerate(row):
                owns = not at and not planner.open[slot]
                if place in before:
                    self._stayed.setdefault(place, ([], []))[owns].append(slot)
                else:
                    self._new.setdefault(planner.group[place], ([], []))[owns].append(slot)
        self._looked: dict[tuple[int, int, bool, bool], int] = {}

    def bring(self, place: int, hole: int) -> bool:
        """Place a worker, and fill a hole; False: there is no way."""
        planner = self._planner
        group, taken = planner.group, [planner.group[each] for each in planner.rows[hole]]
        if group[place] not in taken:
            return self._fill(hole, place)
        back = [each for each in planner.before[hole] if each not in planner.rows[hole] and group[each] not in taken]
        came: dict[int, tuple[int, int]] = {group[place]: (-1, -1)}
        queue = [group[place]]
        for at in queue:
            for worker in back:
                slot = self._find(at, worker, hole, stayed=True)
                if slot >= 0:
                    last = self._pass_on(place, came, at)
                    planner.replace(slot, worker, last)
                    return self._fill(hole, worker)
            for other in self._new:
                if other in came:
                    continue
                slot = self._find(at, other, hole, stayed=False)
                if slot < 0 or len(queue) == REACH:
                    continue
                came[other] = slot, at
                queue.append(other)
                if other not in taken:
                    return self._fill(hole, self._pass_on(place, came, other))
        return False

    def _fill(self, hole: int, place: int) -> bool:
        planner = self._planner
        planner.add(hole, place)
        if planner.open[hole] and planner.heads[place] < planner.own[place]:
            planner.head(hole, place)
        return True

    def _find(self, group: int, giver: int, hole: int, *, stayed: bool) -> int:
        """A slot other than the hole in which a worker of ``group`` fits in the place of one of the group ``giver`` that is new there; with ``stayed``, of the worker
        ``giver`` that is not. -1: there is none."""
        planner = self._planner
        owns = bool(planner.open[hole]) and (not stayed or planner.owner[hole] == giver)
        for each in (owns, not owns):  # what becomes of owners is as it was, if it can be
            slots = (self._stayed if stayed else self._new).get(giver, ([], []))[each]
            key = group, giver, stayed, each
            for at in range(self._looked.get(key, 0), len(slots)):
                slot = slots[at]
                giving = self._giving(slot, giver, stayed=stayed)
                others = (planner.group[each] for each in planner.rows[slot] if each != giving)
                if giving >= 0 and slot != hole and group not in others:
                    self._looked[key] = at
                    return slot
            self._looked[key] = len(slots)
        return -1

    def _giving(self, slot: int, giver: int, *, stayed: bool) -> int:
        row, before = self._planner.rows[slot], self._planner.before[slot]
        if stayed:
            return giver if giver in row else -1
        return next((each for each in row if self._planner.group[each] == giver and each not in before), -1)

    def _pass_on(self, place: int, came: dict[int, tuple[int, int]], group: int) -> int:
        """Each on the way takes the place of the next; the last, of ``group``, has none then."""
        steps: list[tuple[int, int]] = []
        while (step := came[group])[0] >= 0:
            steps.append((step[0], group))
            group = step[1]
        for slot, giver in reversed(steps):
            giving = self._giving(slot, giver, stayed=False)
            self._planner.replace(slot, giving, place)
            self._new.setdefault(self._planner.group[place], ([], []))[0].append(slot)
            place = giving
        return place
