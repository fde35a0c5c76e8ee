"""Which group goes first when room is needed, and where a new group is put. Pure.

A policy keeps an order over the groups of one directory that may be evicted. It never sees pinned or kept groups or groups being
written; the cache skips held ones and takes them out until they are released.
"""

from __future__ import annotations

import heapq
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from operator import attrgetter
from typing import Protocol, TypeVar

from monofs.tiering.group import Group

_read_ns = attrgetter("read_ns")


class Lru:
    """Least recently read first."""

    __slots__ = ("_order", "bytes")

    def __init__(self) -> None:
        self._order: OrderedDict[Group, int] = OrderedDict()
        self.bytes = 0
        """Sum of the sizes of all groups in the order."""

    def admitted(self, group: Group, size: int) -> None:
        """``group`` with ``size`` bytes may be evicted from now on, as the newest."""
        self._order[group] = size
        self.bytes += size

    def touched(self, group: Group) -> None:
        """A group in the order was read: newest again."""
        self._order.move_to_end(group)

    def removed(self, group: Group) -> None:
        """A group in the order left it."""
        self.bytes -= self._order.pop(group)

    def victims(self) -> Iterator[Group]:
        """Oldest first; the order must not change while this is walked."""
        return iter(self._order)

    def __len__(self) -> int:
        return len(self._order)


class Ranked:
    """The order of one directory: one LRU for every policy that has groups here, those of a lower rank all before those of a higher.

    Within a rank the policies' orders are merged by the time of the last read.
    """

    __slots__ = ("_orders", "_rank_of", "bytes")

    def __init__(self, rank_of: Callable[[int], int]) -> None:
        """``rank_of`` tells the rank of a policy id at any time."""
        self._rank_of = rank_of
        self._orders: dict[int, Lru] = {}
        self.bytes = 0

    def admitted(self, group: Group, size: int) -> None:
        """As of :class:`Lru`. A group's policy must not change while it is in the order."""
        order = self._orders.get(group.policy)
        if order is None:
            order = self._orders[group.policy] = Lru()
        order.admitted(group, size)
        self.bytes += size

    def touched(self, group: Group) -> None:
        """As of :class:`Lru`."""
        self._orders[group.policy].touched(group)

    def removed(self, group: Group) -> None:
        """As of :class:`Lru`."""
        order = self._orders[group.policy]
        before = order.bytes
        order.removed(group)
        self.bytes -= before - order.bytes
        if not order:
            del self._orders[group.policy]

    def victims(self) -> Iterator[Group]:
        """Groups in the order they should go; the order must not change while this is walked."""
        orders = self._orders
        if len(orders) == 1:
            return next(iter(orders.values())).victims()
        ranks: dict[int, list[Lru]] = {}
        for policy, order in orders.items():
            ranks.setdefault(self._rank_of(policy), []).append(order)
        return chain.from_iterable(
            heapq.merge(*(order.victims() for order in ranks[rank]), key=_read_ns) for rank in sorted(ranks)
        )

    def of(self, policy: int) -> Iterator[Group]:
        """The groups of one policy, oldest first."""
        order = self._orders.get(policy)
        return order.victims() if order is not None else iter(())

    def coldest(self) -> tuple[int, int] | None:
        """Rank and time of the last read of the group that goes first."""
        victim = next(self.victims(), None)
        return (self._rank_of(victim.policy), victim.read_ns) if victim is not None else None

    def __len__(self) -> int:
        return sum(map(len, self._orders.values()))


class Place(Protocol):
    """What `choose_place` looks at: one storage directory that accepts writes."""

    policy: Ranked

    @property
    def tier(self) -> str:
        """Tier name."""

    def free_bytes(self) -> int:
        """Bytes that can be written without evicting."""


P = TypeVar("P", bound=Place)


def choose_place(places: Sequence[P], need: int) -> P | None:
    """The directory for a new group that needs ``need`` bytes now; None: not even eviction makes room anywhere.

    Tiers are tried in the order listed: within a tier, the directory with most free bytes. When none has room, the one whose
    next victim has the lowest rank, and of these the one read longest ago.
    """
    tiers: dict[str, P] = {}
    for place in places:
        best = tiers.get(place.tier)
        if best is None or place.free_bytes() > best.free_bytes():
            tiers[place.tier] = place
    for place in tiers.values():
        if place.free_bytes() >= need:
            return place
    coldest: tuple[tuple[int, int], P] | None = None
    for place in places:
        victim = place.policy.coldest()
        if victim is None or place.free_bytes() + place.policy.bytes < need:
            continue
        if coldest is None or victim < coldest[0]:
            coldest = (victim, place)
    return coldest[1] if coldest else None
