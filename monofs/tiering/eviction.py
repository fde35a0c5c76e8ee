"""Which group goes first when room is needed, over the policies of a directory; and where a new group is put. Pure.

It never sees pinned or kept groups or groups being written; the cache takes held ones out until they are released.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator, Sequence
from operator import attrgetter
from typing import Protocol, TypeVar

from monofs.model.errors import ConfigError
from monofs.tiering.group import Group
from monofs.tiering.orders import NewOrder, Order

_read_ns = attrgetter("read_ns")


class Ranked:
    """The order of one directory: one order for every policy that has groups here, those of a lower rank all before those of a higher.

    Within a rank, the policy whose next victim was read longest ago gives it.
    """

    __slots__ = ("_new_order", "_orders", "_rank_of", "bytes")

    def __init__(self, rank_of: Callable[[int], int], new_order: NewOrder) -> None:
        """``rank_of`` tells the rank of a policy id at any time."""
        self._rank_of, self._new_order = rank_of, new_order
        self._orders: dict[int, Order] = {}
        self.bytes = 0

    def admitted(self, group: Group, size: int) -> None:
        """As of :class:`Order`. A group's policy must not change while it is in the order."""
        order = self._orders.get(group.policy)
        if order is None:
            order = self._orders[group.policy] = self._new_order()
        order.admitted(group, size)
        self.bytes += size

    def touched(self, group: Group) -> None:
        """As of :class:`Order`."""
        self._orders[group.policy].touched(group)

    def removed(self, group: Group) -> None:
        """As of :class:`Order`."""
        order = self._orders[group.policy]
        before = order.bytes
        order.removed(group)
        self.bytes -= before - order.bytes

    def evicted(self, group: Group) -> None:
        """As of :class:`Order`."""
        order = self._orders.get(group.policy)
        if order is not None:  # else its last group went, and this one with it
            order.evicted(group)

    def victim(self) -> Group | None:
        """As of :class:`Order`."""
        orders = self._orders
        if len(orders) == 1:
            return next(iter(orders.values())).victim()
        best: tuple[int, int] | None = None
        found = None
        for policy in list(orders):
            group = self.victim_of(policy)
            if group is None:
                del orders[policy]
                continue
            age = self._rank_of(policy), group.read_ns
            if best is None or age < best:
                best, found = age, group
        return found

    def victim_of(self, policy: int) -> Group | None:
        """The group of one policy that goes next."""
        order = self._orders.get(policy)
        return order.victim() if order is not None else None

    def coldest(self) -> tuple[int, int] | None:
        """Rank and time of the last read of the group that goes first."""
        victim = self.victim()
        return (self._rank_of(victim.policy), victim.read_ns) if victim is not None else None

    def __iter__(self) -> Iterator[Group]:
        ranks: dict[int, list[Order]] = {}
        for policy, order in self._orders.items():
            ranks.setdefault(self._rank_of(policy), []).append(order)
        for rank in sorted(ranks):
            yield from heapq.merge(*ranks[rank], key=_read_ns)

    def __len__(self) -> int:
        return sum(map(len, self._orders.values()))


class Place(Protocol):
    """What `Allocation` looks at: one storage directory that accepts writes."""

    policy: Ranked

    @property
    def name(self) -> str:
        """Unlike that of any other."""

    @property
    def tier(self) -> str:
        """Tier name."""

    def free_bytes(self) -> int:
        """Bytes that can be written without evicting."""


P = TypeVar("P", bound=Place)
ALLOCATIONS = ("max-free", "round-robin", "greedy")
"""Values of ``worker.allocation``."""


class Allocation:
    """Which directory takes a new group, or one that moves.

    Tiers are tried in the order listed; within a tier the directory is, of those with room, the one with most free bytes
    (``max-free``), the next one in turn (``round-robin``) or the first one listed (``greedy``).
    """

    def __init__(self, how: str) -> None:
        """Raises ``ConfigError``."""
        if how not in ALLOCATIONS:
            raise ConfigError(f"worker.allocation: {how!r} is not one of {', '.join(ALLOCATIONS)}")
        self._how = how
        self._last: dict[str, str] = {}
        """Tier → the directory that took a group last."""

    def with_room(self, places: Sequence[P], need: int) -> P | None:
        """A directory with ``need`` free bytes; None: there is none."""
        tiers: dict[str, list[P]] = {}
        for place in places:
            tiers.setdefault(place.tier, []).append(place)
        for tier, members in tiers.items():
            roomy = [place for place in members if place.free_bytes() >= need]
            if roomy:
                return self._among(tier, members, roomy)
        return None

    def choose(self, places: Sequence[P], need: int, whole: int) -> P | None:
        """For a group that needs ``need`` bytes now and ``whole`` in the end: a directory with room for all of it, else one with room
        for what it needs now, else the one whose next victim has the lowest rank, and of these the one read longest ago; None: not
        even eviction makes room anywhere."""
        found = self.with_room(places, whole) or self.with_room(places, need)
        if found is not None:
            return found
        coldest: tuple[tuple[int, int], P] | None = None
        for place in places:
            victim = place.policy.coldest()
            if victim is None or place.free_bytes() + place.policy.bytes < need:
                continue
            if coldest is None or victim < coldest[0]:
                coldest = (victim, place)
        return coldest[1] if coldest else None

    def _among(self, tier: str, members: list[P], roomy: list[P]) -> P:
        if self._how == "greedy":
            return roomy[0]
        if self._how == "max-free":
            return max(roomy, key=lambda place: place.free_bytes())
        names = [place.name for place in members]
        last = names.index(self._last[tier]) if self._last.get(tier) in names else -1
        chosen = min(roomy, key=lambda place: (names.index(place.name) - last - 1) % len(names))
        self._last[tier] = chosen.name
        return chosen
