"""Replaying a trace against the orders of eviction a worker uses, and traces made up of a seed. Pure.

Invariant: the classes replayed are those a worker runs (`orders`), asked in the same way: a hit touches, a miss makes room first and is
then admitted. A simulated cache holds whole groups in one directory, and every group is as good as any other (no pins, policies or
time to live). Not here: reading files (`trace`), tables and plots (`monofs cache simulate`).
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import cast

from monofs.model.block import GROUP_SIZE_BYTES
from monofs.model.ids import ContentId, MountId
from monofs.tiering.directory import Directory
from monofs.tiering.group import Group
from monofs.tiering.orders import orders_of
from monofs.tiering.trace import Access

_NOWHERE = cast(Directory, None)
SMALLEST_BYTES = 64 << 10
SCAN_SHARE = 0.3
"""Of the accesses of ``scan``, those that belong to scans."""
SCAN_OBJECTS = 0.1
"""Length of one scan, as a share of all objects."""

NEW_SHARE = 0.2
"""Of the accesses of ``recent``, those of new objects."""
RECENT_SHARE = 0.1
"""Mean age of what ``recent`` reads, as a share of the number of objects given."""


@dataclass(frozen=True, slots=True)
class Result:
    """One policy at one size."""

    policy: str
    capacity_bytes: int
    accesses: int
    hits: int
    bytes: int
    hit_bytes: int

    @property
    def hit_ratio(self) -> float:
        """Accesses that were hits, 0 to 1."""
        return self.hits / self.accesses if self.accesses else 0.0

    @property
    def byte_hit_ratio(self) -> float:
        """Bytes asked for that were hits, 0 to 1."""
        return self.hit_bytes / self.bytes if self.bytes else 0.0


def footprint_bytes(trace: Sequence[Access]) -> int:
    """Bytes of all groups in a trace, each once."""
    return sum({(access.content, access.number): access.size for access in trace}.values())


def replay(trace: Sequence[Access], policy: str, capacity_bytes: int) -> Result:
    """How many accesses an empty cache of that size would have had at hand. Raises ``ConfigError`` for an unknown policy."""
    order = orders_of(policy)()
    cached: dict[tuple[int, int], Group] = {}
    hits = size_hit = size_all = 0
    for _, content, number, size in trace:
        size_all += size
        key = content, number
        group = cached.get(key)
        if group is not None:
            hits += 1
            size_hit += size
            order.touched(group)
            continue
        if size > capacity_bytes:
            continue
        while order.bytes + size > capacity_bytes and (victim := order.victim()) is not None:
            order.removed(victim)
            order.evicted(victim)
            del cached[victim.key]
        group = cached[key] = Group(ContentId(content), number, 0, size, _NOWHERE, MountId(0), 0, 0, 0)
        order.admitted(group, size)
    return Result(policy, capacity_bytes, len(trace), hits, size_all, size_hit)


# ---- made-up traces -----------------------------------------------------------------------------------------------------


def _zipf(chance: random.Random, objects: int, accesses: int, alpha: float) -> Iterator[int]:
    """Object ``k`` with a probability proportional to ``1 / k ** alpha``: what users of a service ask for."""
    weights = list(accumulate(1 / rank**alpha for rank in range(1, objects + 1)))
    ranks = chance.sample(range(objects), objects)
    for rank in chance.choices(range(objects), cum_weights=weights, k=accesses):
        yield ranks[rank]


def _scan(chance: random.Random, objects: int, accesses: int, alpha: float) -> Iterator[int]:
    """The same, and now and then somebody reads a tenth of as many other objects from first to last, each once and never again."""
    length = max(int(objects * SCAN_OBJECTS), 1)
    popular = _zipf(chance, objects, accesses, alpha)
    fresh = objects
    for _ in range(accesses):
        if chance.random() < SCAN_SHARE / (1 - SCAN_SHARE) / length:
            yield from range(fresh, fresh + length)
            fresh += length
        yield next(popular)


def _loop(_chance: random.Random, objects: int, accesses: int, _alpha: float) -> Iterator[int]:
    """All objects in the same order, over and over: a nightly report."""
    return (position % objects for position in range(accesses))


def _epochs(chance: random.Random, objects: int, accesses: int, _alpha: float) -> Iterator[int]:
    """All objects once in each epoch, shuffled anew: training."""
    for _ in range(0, accesses, objects):
        yield from chance.sample(range(objects), objects)


def _recent(chance: random.Random, objects: int, accesses: int, _alpha: float) -> Iterator[int]:
    """One access in five is of a new object, the others of objects that came lately: logs, and tables that grow."""
    newest = 0
    for _ in range(accesses):
        if chance.random() < NEW_SHARE:
            newest += 1
            yield newest
        else:
            yield max(newest - int(chance.expovariate(1 / (objects * RECENT_SHARE))), 0)


KINDS: dict[str, Callable[[random.Random, int, int, float], Iterator[int]]] = {
    "zipf": _zipf,
    "scan": _scan,
    "loop": _loop,
    "epochs": _epochs,
    "recent": _recent,
}


def generate(kind: str, *, objects: int, accesses: int, alpha: float, seed: int) -> list[Access]:
    """A trace of ``accesses`` accesses; objects have 64 KiB to 64 MiB, as many of each order of magnitude."""
    chance = random.Random(seed)  # noqa: S311 - the same seed makes the same trace
    doublings = (GROUP_SIZE_BYTES // SMALLEST_BYTES).bit_length() - 1
    sizes: dict[int, int] = {}
    trace: list[Access] = []
    for position, each in enumerate(KINDS[kind](chance, objects, accesses, alpha)):
        if position == accesses:
            break
        size = sizes.get(each)
        if size is None:
            size = sizes[each] = int(SMALLEST_BYTES * 2 ** (doublings * random.Random(seed * 2**40 + each).random()))  # noqa: S311
        trace.append(Access(position * 1000, each + 1, 0, size))
    return trace
