"""The planner of the slot table: from workers, the number of replicas and the table before to the table after. Pure and deterministic.

What it keeps to, in this order:

1. The workers of a slot are distinct, and lie in distinct zones where there are at least as many zones as replicas.
2. The slots a worker owns, and those it is listed for at all, are its share by weight, rounded down or up. Where a share is larger than there
   are slots (a heavy worker, a heavy zone), it is cut to that, and the others share the rest.
3. No more moves than these two ask for: who keeps its share keeps its slots; where the owner left, the next in the list becomes it.
4. What is moved goes where few slots are shared yet, so that each two workers share about as many as any other two (a balanced incomplete block
   design where one exists), and what a lost worker held is spread evenly over all others to read and to restore.

All in integers, all in the order of worker ids and slots: every machine finds the same table. 3,000 workers take a few tenths of a second of a
core, so this runs in a thread. Not here: who takes part and when a plan is made (planning.py).
"""

from __future__ import annotations

from array import array
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from heapq import heapify, heappop, heappush
from itertools import combinations

from monofs.master.detours import Detours
from monofs.master.exchanges import Exchanges
from monofs.model.block import SLOTS
from monofs.model.slots import EMPTY, SlotTable

WINDOW = 12
"""How many workers are compared for one place."""
SEARCH = 16 * WINDOW
"""Among how many they are looked for."""
ORDER = [number * 40503 % SLOTS for number in range(SLOTS)]
"""All slots, so that neighbours, which have the same owner at first, are far apart."""
_SCALE = 1 << 48
Heirs = dict[int, dict[int, tuple[list[int], list[int]]]]
"""Owner → who else is listed → in which slots: those that have another owner than before, and those that have not. Some may have changed since."""


@dataclass(frozen=True, slots=True)
class Share:
    """One worker that takes part: it gets slots by ``weight`` (an integer above 0)."""

    worker: int
    weight: int
    zone: str = ""


def plan_slots(shares: Sequence[Share], replicas: int, previous: SlotTable = EMPTY) -> tuple[int, array[int]]:
    """(replicas, rows) of the table for these workers; fewer replicas than asked for where there are fewer workers."""
    shares = sorted(shares, key=lambda share: share.worker)
    width = min(replicas, len(shares))
    if len(shares) <= 1:
        return width, array("H", [share.worker for share in shares]) * SLOTS
    planner = _Planner(shares, width, previous)
    planner.plan()
    return width, array("H", [shares[place].worker for row in planner.rows for place in row])


def shared_slots(rows: Iterable[Sequence[int]]) -> dict[tuple[int, int], int]:
    """How many rows each two workers share: what one must bear of the other's loss. All alike: the design is balanced."""
    rows = [sorted(row) for row in rows]
    everyone = sorted({worker for row in rows for worker in row})
    shared = dict.fromkeys(combinations(everyone, 2), 0)
    for row in rows:
        for pair in combinations(row, 2):
            shared[pair] += 1
    return shared


class _Planner:
    """Workers are their positions in ``shares`` here. A row is a slot's list; a slot is *open* while its head is not settled."""

    def __init__(self, shares: Sequence[Share], width: int, previous: SlotTable) -> None:
        self.width, self.count = width, len(shares)
        zones = sorted({share.zone for share in shares})
        by_zone = len(zones) >= width
        self.by_owner = by_zone or width > 2
        numbers = {zone: number for number, zone in enumerate(zones)}
        self.group = [numbers[share.zone] if by_zone else place for place, share in enumerate(shares)]
        """Workers of one group never share a slot."""
        self.weight = [share.weight for share in shares]
        self.rows, self.open = self._kept({share.worker: place for place, share in enumerate(shares)}, previous)
        self.before = [tuple(row) for row in self.rows]
        self.owner = [-1 if is_open else row[0] for row, is_open in zip(self.rows, self.open, strict=True)]
        """Of each slot, who owned it before, if it may go on."""
        self.held = [0] * self.count
        for row in self.rows:
            for place in row:
                self.held[place] += 1
        self.heads = [0] * self.count
        for row, is_open in zip(self.rows, self.open, strict=True):
            if row and not is_open:
                self.heads[row[0]] += 1
        self.own = self._owned()
        self.total, self.capped = self._totals()
        if width == 1:
            self.own = self.total
        self.rarity = [_SCALE // max(1, total) for total in self.total]
        self.shared: dict[int, int] = {}
        """Place * count + other place, both ways: the slots they share."""
        self.freed = [0] * self.count
        """Slots listing the worker in which another one made room: whoever comes there is to meet all alike."""
        self.given = [0] * self.count
        """Owned slots of the worker that listed one which was taken out: whoever comes there may own them."""
        self.coming = self._coming()

    def plan(self) -> None:
        """Bring the rows to the new shares."""
        for row in self.rows if self.width > 1 else ():
            self._note(row, 1)
        self._release()
        for slot in [slot for slot, is_open in enumerate(self.open) if is_open]:
            row = self.rows[slot]
            if row and self.heads[row[0]] < self.own[row[0]]:  # the next in the list becomes the owner
                self.head(slot, row[0])
        self._fill_heads()
        for group in self.capped:
            holes = [slot for slot in ORDER if len(self.rows[slot]) < self.width]
            self._fill(holes, [place for place in range(self.count) if self.group[place] == group])
        left = self._fill(self._holes(), range(self.count))
        self._mend(left)
        self._settle_heads()
        if any(self.before):
            Exchanges(self).give_back()

    # ---- shares -------------------------------------------------------------------------------------------------------

    def _kept(self, places: dict[int, int], previous: SlotTable) -> tuple[list[list[int]], bytearray]:
        """What stays of the table before, and whether each slot is open: its owner is no more."""
        rows: list[list[int]] = []
        is_open = bytearray(SLOTS)
        for slot in range(SLOTS):
            row: list[int] = []
            groups: list[int] = []
            before = previous.owners(slot)
            for worker in before:
                place = places.get(worker, -1)
                if place >= 0 and len(row) < self.width and self.group[place] not in groups:
                    row.append(place)
                    groups.append(self.group[place])
            is_open[slot] = not row or places.get(before[0]) != row[0]
            rows.append(row)
        return rows, is_open

    def _owned(self) -> list[int]:
        """How many slots each worker is to own. Best liked are the numbers that let the next in the list become owner of open slots; then those by
        which owning one slot more or less goes with being listed for one more or less."""
        weight = sum(self.weight)
        full = [held - self.width * SLOTS * each // weight for held, each in zip(self.held, self.weight, strict=True)]
        return _portions(SLOTS, self.weight, self._heads_to_be(), full)

    def _heads_to_be(self) -> list[int]:
        heads = self.heads[:]
        for row, is_open in zip(self.rows, self.open, strict=True):
            if row and is_open:
                heads[row[0]] += 1
        return heads

    def _totals(self) -> tuple[list[int], list[int]]:
        """How many slots are to list each worker, and the groups that every slot is to list. Best liked are the numbers by which whoever is to own
        more is listed for more, and whoever is to own fewer for fewer."""
        held = [
            held + max(0, own - to_be) - max(0, heads - own)
            for held, own, heads, to_be in zip(self.held, self.own, self.heads, self._heads_to_be(), strict=True)
        ]
        members: dict[int, list[int]] = {}
        for place, group in enumerate(self.group):
            members.setdefault(group, []).append(place)
        weights = {group: sum(self.weight[place] for place in places) for group, places in members.items()}
        left, weight = self.width * SLOTS, sum(weights.values())
        capped: list[int] = []
        for group in sorted(weights, key=lambda group: (-weights[group], group)):
            if left * weights[group] < SLOTS * weight:
                break
            capped.append(group)
            left, weight = left - SLOTS, weight - weights[group]
        rest = [group for group in sorted(weights) if group not in capped]
        shares = dict.fromkeys(capped, SLOTS)
        of_groups = [sum(held[place] for place in members[group]) for group in rest]
        shares |= dict(zip(rest, _portions(left, [weights[group] for group in rest], of_groups), strict=True))
        total = [0] * self.count
        for group, places in members.items():
            portions = _portions(shares[group], [self.weight[place] for place in places], [held[at] for at in places])
            for place, portion in zip(places, portions, strict=True):
                total[place] = portion
        return total, capped

    def _coming(self) -> int:
        """The group that most of what moves will come to; -1: there is none."""
        wants: dict[int, int] = {}
        for group, total, held in zip(self.group, self.total, self.held, strict=True):
            wants[group] = wants.get(group, 0) + max(0, total - held)
        most = max(wants, key=lambda group: (wants[group], group))
        return most if 2 * wants[most] > sum(wants.values()) else -1

    # ---- letting go ---------------------------------------------------------------------------------------------------

    def _release(self) -> None:
        """Take slots from workers that have more than their share: owned ones as far as they own too many, and first those they share most."""
        over = {place for place in range(self.count) if self.held[place] > self.total[place]}
        if not over:
            return
        owned: dict[int, list[int]] = {place: [] for place in over}
        listed: dict[int, list[int]] = {place: [] for place in over}
        for slot, row in enumerate(self.rows):
            for position, place in enumerate(row):
                if place in over:
                    (listed if position or self.open[slot] else owned)[place].append(slot)
        for place in sorted(over):
            surplus = self.held[place] - self.total[place]
            heads = min(surplus, max(0, self.heads[place] - self.own[place]))
            tails = min(surplus - heads, len(listed[place]))
            self._take(place, owned[place], surplus - tails)
            self._take(place, listed[place], tails)

    def _take(self, place: int, slots: list[int], count: int) -> None:
        """Take ``place`` out of ``count`` of these slots, evenly from those it shares with each other worker."""
        if not count:
            return
        alike: dict[tuple[tuple[int, ...], int], list[int]] = {}
        for slot in reversed(slots):
            owner = self.rows[slot][0] if self.by_owner else place
            alike.setdefault((tuple(sorted(self.rows[slot])), owner), []).append(slot)
        heap = [(self._taken(place, *kind), kind) for kind in alike]
        heapify(heap)
        while count:
            score, kind = heappop(heap)
            (row, owner), now = kind, self._taken(place, *kind)
            if now > score and heap and now > heap[0][0]:  # one of them made room elsewhere meanwhile
                heappush(heap, (now, kind))
                continue
            slot = alike[kind].pop()
            if owner != place:
                self.given[owner] += 1
            if self.rows[slot][0] == place and not self.open[slot]:
                self.open[slot] = True
                self.heads[place] -= 1
            self._note(row, -1)
            self.rows[slot].remove(place)
            self._note(self.rows[slot], 1)
            for other in self.rows[slot]:
                self.freed[other] += 1
            self.held[place] -= 1
            count -= 1
            if alike[kind]:
                heappush(heap, (self._taken(place, *kind), kind))

    def _taken(self, place: int, row: Sequence[int], owner: int) -> tuple[int, bool, bool, int, int]:
        """What is taken first, lowest: slots without room (a worker fills but one), where those who come may go, whose owner is another that owns too
        many, whose others made least room elsewhere, which ``place`` shares with them most."""
        idle = owner != place and self.heads[owner] - self.given[owner] <= self.own[owner]
        base, freed, close, barred = place * self.count, 0, 0, False
        for other in row:
            if other != place:
                barred |= self.group[other] == self.coming
                freed += self.freed[other] * self.rarity[other]
                close += self.shared.get(base + other, 0) * self.rarity[other]
        return -len(row), barred, idle, freed, -close

    # ---- filling ------------------------------------------------------------------------------------------------------

    def _fill_heads(self) -> None:
        """Fill open slots with workers that own too few."""
        wanting = [
            min(self.own[place] - self.heads[place], self.total[place] - self.held[place])
            for place in range(self.count)
        ]
        if any(self.held):
            slots = [slot for slot in ORDER if self.open[slot] and len(self.rows[slot]) < self.width]
            left = self._spend(slots, self._interleaved(wanting), self.head)
            if left and (holes := [slot for slot in slots if self.open[slot]]):
                detours = Detours(self)
                for place, slot in zip(left, holes, strict=False):
                    detours.bring(place, slot)
        else:  # nothing is placed yet: runs of slots, which make a small table
            runs = [place for place in range(self.count) for _ in range(wanting[place])]
            self._spend(list(range(SLOTS)), runs, self.head)

    def _fill(self, slots: list[int], places: Iterable[int]) -> list[int]:
        """Fill the holes of these slots with these workers, as far as they want more and fit. Returns the workers that are left over."""
        wanting = [0] * self.count
        for place in places:
            wanting[place] = self.total[place] - self.held[place]
        return self._spend(slots, self._interleaved(wanting), None)

    def _spend(self, slots: list[int], tokens: list[int], settle: Callable[[int, int], None] | None) -> list[int]:
        """Give each slot in turn the token, of the next few, whose worker shares least with those it has already."""
        group, shared, rarity, count = self.group, self.shared, self.rarity, self.count
        first, end = 0, len(tokens)
        for slot in slots:
            if first == end:
                break
            row = self.rows[slot]
            groups = [group[place] for place in row]
            factors = [(place * count, rarity[place]) for place in row]
            best, best_score = -1, 0
            seen = 0
            for at in range(first, min(first + SEARCH, end)):
                place = tokens[at]
                if group[place] in groups:
                    continue
                seen += 1
                score = 0
                for base, factor in factors:
                    together = shared.get(base + place)
                    if together:
                        score += together * factor
                score *= rarity[place]
                if best < 0 or score < best_score:
                    best, best_score = at, score
                if seen == WINDOW or not best_score:
                    break
            if best < 0:
                continue
            place, tokens[best] = tokens[best], tokens[first]
            first += 1
            self.add(slot, place)
            if settle is not None:
                settle(slot, place)
        return tokens[first:]

    def _holes(self) -> list[int]:
        """Slots that lack workers, one mention for each that is lacking."""
        width = self.width
        return [slot for slot in ORDER for _ in range(width - len(self.rows[slot]))]

    def _mend(self, left: list[int]) -> None:
        """Fill the last holes, whose slots list already whoever wants more: by others that had to move anyway, else, such a worker goes to a full
        slot without its group, from which another one goes to the hole: of so many groups one at least is not there yet."""
        starts: dict[int, int] = {}
        holes = self._holes()
        if not holes:
            return
        detours = Detours(self)
        while holes:
            slot = holes[-1]
            row = self.rows[slot]
            groups = [self.group[place] for place in row]
            fitting = next((at for at, place in enumerate(left) if self.group[place] not in groups), -1)
            if fitting >= 0:
                self.add(slot, left.pop(fitting))
                holes.pop()
                continue
            place = left.pop()
            if detours.bring(place, slot):
                holes.pop()
                continue
            other = self._without(self.group[place], starts)
            there = self.rows[other]
            if len(there) < self.width:
                self.add(other, place)
                holes.remove(other)
                continue
            moved = next(each for each in reversed(there) if self.group[each] not in groups)
            self.replace(other, moved, place)
            self.add(slot, moved)
            holes.pop()

    def _without(self, group: int, starts: dict[int, int]) -> int:
        """The next slot that does not list a group. There is one while the group wants more."""
        slot = starts.get(group, 0)
        while any(self.group[place] == group for place in self.rows[slot]):
            slot = (slot + 1) % SLOTS
        starts[group] = slot
        return slot

    def _interleaved(self, wanting: list[int]) -> list[int]:
        """Each worker as often as it wants slots, evenly mixed, and so are the groups."""
        seen: dict[int, int] = {}
        ranks = []
        for group in self.group:
            seen[group] = rank = seen.get(group, -1) + 1
            ranks.append(rank)
        tokens = [
            ((2 * number + 1) * _SCALE // (2 * count), ranks[place], place)
            for place, count in enumerate(wanting)
            for number in range(count)
        ]
        tokens.sort()
        return [place for _, _, place in tokens]

    # ---- owners -------------------------------------------------------------------------------------------------------

    def _settle_heads(self) -> None:
        """Give every slot an owner among its workers, and every worker its share of owned slots."""
        heads, own = self.heads, self.own
        for slot, is_open in enumerate(self.open):
            if is_open:
                self.head(slot, max(self.rows[slot], key=lambda place: own[place] - heads[place]))
        if self.width == 1:
            return
        for is_kept in (False, True):  # those that have another owner than before can have a third
            for slot, row in enumerate(self.rows):
                if heads[row[0]] > own[row[0]] and (row[0] == self.owner[slot]) == is_kept:
                    place = max(row, key=lambda place: own[place] - heads[place])
                    if heads[place] < own[place]:
                        self.head(slot, place)
        surplus = [place for place in range(self.count) for _ in range(heads[place] - own[place])]
        lost = [
            slot for slot, before in enumerate(self.owner) if before != self.rows[slot][0] and before in self.rows[slot]
        ]
        if not surplus and not lost:
            return
        heirs: Heirs = {}
        for slot in range(SLOTS):
            self._inherit(heirs, slot)
        for place in surplus:
            self._pass_on(place, heirs, most=self.count)
        for slot in lost:  # who lost one without need gets it back
            before, now = self.owner[slot], self.rows[slot][0]
            self.head(slot, before)
            if before != now and not self._pass_on(before, heirs, most=0):
                self.head(slot, now)

    def _inherit(self, heirs: Heirs, slot: int) -> None:
        row = self.rows[slot]
        mine = heirs.setdefault(row[0], {})
        for other in row[1:]:
            mine.setdefault(other, ([], []))[self.owner[slot] == row[0]].append(slot)

    def _pass_on(self, place: int, heirs: Heirs, *, most: int) -> bool:
        """Take one slot from a worker that owns too many, by a chain of slots that change owners, to one that owns too few, if there is one: by as few
        slots as can be that had their owner before, and ``most`` of them."""
        came: dict[int, tuple[int, int]] = {}
        seen = {place: (0, -1, -1)}
        queue = deque([place])
        while queue:
            at = queue.popleft()
            if at in came:
                continue
            cost, slot, before = seen[at]
            came[at] = slot, before
            if self.heads[at] < self.own[at]:
                while at != place:
                    slot, before = came[at]
                    self.head(slot, at)
                    self._inherit(heirs, slot)
                    at = before
                return True
            for other, by_kept in heirs.get(at, {}).items():
                for is_kept, slots in enumerate(by_kept):
                    if other in came or cost + is_kept > min(most, seen[other][0] - 1 if other in seen else most):
                        continue
                    while slots and self.rows[slots[-1]][0] != at:  # it has another owner by now
                        slots.pop()
                    if slots:
                        seen[other] = cost + is_kept, slots[-1], at
                        (queue.append if is_kept else queue.appendleft)(other)
        return False

    # ---- one slot -----------------------------------------------------------------------------------------------------

    def head(self, slot: int, place: int) -> None:
        """Make a worker of a slot its owner."""
        row = self.rows[slot]
        if self.open[slot]:
            self.open[slot] = False
        else:
            self.heads[row[0]] -= 1
        if row[0] != place:
            row.remove(place)
            row.insert(0, place)
        self.heads[place] += 1

    def add(self, slot: int, place: int) -> None:
        row, shared, count = self.rows[slot], self.shared, self.count
        for other in row:
            for key in (place * count + other, other * count + place):
                shared[key] = shared.get(key, 0) + 1
        row.append(place)
        self.held[place] += 1

    def replace(self, slot: int, place: int, by: int) -> None:
        """Another worker in a worker's place."""
        row = self.rows[slot]
        at = row.index(place)
        self._note(row, -1)
        row[at] = by
        self._note(row, 1)
        if not at and not self.open[slot]:
            self.open[slot] = True
            self.heads[place] -= 1
            if self.heads[by] < self.own[by]:
                self.head(slot, by)
        self.held[place] -= 1
        self.held[by] += 1

    def _note(self, row: Sequence[int], by: int) -> None:
        shared, count = self.shared, self.count
        for place in row:
            for other in row:
                if place != other:
                    key = place * count + other
                    shared[key] = shared.get(key, 0) + by


def _portions(amount: int, weights: list[int], liked: list[int], full: Sequence[int] = ()) -> list[int]:
    """``amount`` divided by weight, each portion rounded down or up: up where more than the lower is liked, then for the least ``full``, then for the
    largest remainders."""
    weight = sum(weights)
    portions = [amount * each // weight for each in weights]
    rests = [amount * each % weight for each in weights]
    order = sorted(
        (at for at, rest in enumerate(rests) if rest),
        key=lambda at: (liked[at] <= portions[at], full[at] if full else 0, -rests[at], at),
    )
    for at in order[: amount - sum(portions)]:
        portions[at] += 1
    return portions
