"""Which group goes first when room is needed, and where a new group is put. Pure.

A policy keeps an order over the groups of one directory that may be evicted. It never sees pinned groups or groups being
written; the cache skips held ones and takes them out until they are released.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from typing import Protocol, TypeVar

from monofs.tiering.group import Group


class Policy(Protocol):
    """What the cache tells an eviction policy and asks of it."""

    bytes: int
    """Sum of the sizes of all groups in the order."""

    def admitted(self, group: Group, size: int) -> None:
        """``group`` with ``size`` bytes may be evicted from now on."""

    def touched(self, group: Group) -> None:
        """A group in the order was read."""

    def removed(self, group: Group) -> None:
        """A group in the order left it."""

    def victims(self) -> Iterator[Group]:
        """Groups in the order they should go; the order must not change while this is walked."""

    def __len__(self) -> int: ...


class Lru:
    """Least recently read first."""

    __slots__ = ("_order", "bytes")

    def __init__(self) -> None:
        self._order: OrderedDict[Group, int] = OrderedDict()
        self.bytes = 0

    def admitted(self, group: Group, size: int) -> None:
        """Newest."""
        self._order[group] = size
        self.bytes += size

    def touched(self, group: Group) -> None:
        """Newest again."""
        self._order.move_to_end(group)

    def removed(self, group: Group) -> None:
        """Forget it."""
        self.bytes -= self._order.pop(group)

    def victims(self) -> Iterator[Group]:
        """Oldest first."""
        return iter(self._order)

    def __len__(self) -> int:
        return len(self._order)


class Place(Protocol):
    """What `choose_place` looks at: one storage directory that accepts writes."""

    policy: Policy

    @property
    def tier(self) -> str:
        """Tier name."""

    def free_bytes(self) -> int:
        """Bytes that can be written without evicting."""


P = TypeVar("P", bound=Place)


def choose_place(places: Sequence[P], need: int) -> P | None:
    """The directory for a new group that needs ``need`` bytes now; None: not even eviction makes room anywhere.

    Tiers are tried in the order listed: within a tier, the directory with most free bytes. When none has room, the one whose
    next victim was read longest ago.
    """
    tiers: dict[str, P] = {}
    for place in places:
        best = tiers.get(place.tier)
        if best is None or place.free_bytes() > best.free_bytes():
            tiers[place.tier] = place
    for place in tiers.values():
        if place.free_bytes() >= need:
            return place
    coldest: tuple[int, P] | None = None
    for place in places:
        victim = next(place.policy.victims(), None)
        if victim is None or place.free_bytes() + place.policy.bytes < need:
            continue
        if coldest is None or victim.read_ns < coldest[0]:
            coldest = (victim.read_ns, place)
    return coldest[1] if coldest else None
