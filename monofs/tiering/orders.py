"""The orders of eviction: LRU, LRFU, S3-FIFO, SIEVE and W-TinyLFU, behind one interface. Pure.

An :class:`Order` ranks the groups of one storage directory and one policy that may be evicted. Invariants, which one contract suite
checks for all of them: ``bytes`` is the sum of the sizes given; ``victim`` names a group of the order as long as there is one, and
whoever takes each victim out meets every group exactly once; every call is O(1) amortised. What an order knows of a group stands in
``group.heat``, so that it lasts while the group is out of the order (pages being written, in use) and when it moves to another tier.
What is remembered of groups that are gone is shared by all orders of a cache, because a group may come back to another directory.

The sizes of queues are shares of the bytes in the order: a directory that is being emptied or filled needs no other rule. What counts
as a read is not decided here (`Cache.touch` counts at most one a second).
"""

from __future__ import annotations

import heapq
import math
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator
from functools import partial
from itertools import chain
from typing import Protocol

from monofs.model.errors import ConfigError
from monofs.tiering.group import Group
from monofs.tiering.sketch import Sketch


class Order(Protocol):
    """Which group goes first."""

    @property
    def bytes(self) -> int:
        """Sum of the sizes of all groups in the order."""

    def admitted(self, group: Group, size: int) -> None:
        """``group`` with ``size`` bytes may be evicted from now on: for the first time, or again."""

    def touched(self, group: Group) -> None:
        """A group in the order was read."""

    def removed(self, group: Group) -> None:
        """A group in the order left it."""

    def evicted(self, group: Group) -> None:
        """A group that was removed has left the cache to make room."""

    def victim(self) -> Group | None:
        """The group that goes next; it stays in the order, and first, until it is removed or something else happens."""

    def __iter__(self) -> Iterator[Group]:
        """All groups, those that go first as things stand before the others; nothing may change meanwhile."""

    def __len__(self) -> int: ...


class Queue(OrderedDict[Group, int]):
    """Groups with their sizes, first in, first out; ``bytes`` is the sum."""

    __slots__ = ("bytes",)

    def __init__(self) -> None:
        self.bytes = 0

    def add(self, group: Group, size: int) -> None:
        """At the end."""
        self[group] = size
        self.bytes += size

    def take(self, group: Group) -> int:
        """Out; returns its size."""
        size = self.pop(group)
        self.bytes -= size
        return size

    def first(self) -> Group | None:
        """The one longest in the queue."""
        return next(iter(self), None)


class Lru:
    """Least recently read first."""

    __slots__ = ("_queue",)

    def __init__(self) -> None:
        self._queue = Queue()

    @property
    def bytes(self) -> int:
        """As of :class:`Order`."""
        return self._queue.bytes

    def admitted(self, group: Group, size: int) -> None:
        """As the newest."""
        self._queue.add(group, size)

    def touched(self, group: Group) -> None:
        """Newest again."""
        self._queue.move_to_end(group)

    def removed(self, group: Group) -> None:
        """As of :class:`Order`."""
        self._queue.take(group)

    def evicted(self, group: Group) -> None:
        """Nothing is remembered."""

    def victim(self) -> Group | None:
        """The oldest."""
        return self._queue.first()

    def __iter__(self) -> Iterator[Group]:
        return iter(self._queue)

    def __len__(self) -> int:
        return len(self._queue)


class Clock:
    """The time of LRFU, in half-lives; and how many groups all orders hold."""

    __slots__ = ("groups", "now")

    def __init__(self) -> None:
        self.now = 0.0
        self.groups = 0


class Lrfu:
    """LRFU: least combined recency and frequency first (Lee et al., IEEE Transactions on Computers 50(12), 2001).

    The value C of a group is the sum, over all its reads, of ``(1/2) ** (age of that read)``. Ages are measured in half-lives of as
    many reads as groups are cached, so lambda follows the size of the cache. All values decay alike; hence ``log2 C + now`` orders
    groups for ever and changes only with a read: it is kept, in steps of 1/16, and groups of one step form a queue.
    """

    __slots__ = ("_clock", "_heap", "_steps", "bytes")

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._steps: dict[int, OrderedDict[Group, int]] = {}
        self._heap: list[int] = []
        """Every step that has groups, and some that have none any more."""
        self.bytes = 0

    def admitted(self, group: Group, size: int) -> None:
        """A new group has been read once."""
        self._clock.groups += 1
        if not group.heat:
            group.heat = self._read_again(0)
        self._put(group, size)
        self.bytes += size

    def touched(self, group: Group) -> None:
        """One read more."""
        heat = self._read_again(group.heat)
        if heat >> 4 != group.heat >> 4:
            size = self._take(group)
            group.heat = heat
            self._put(group, size)
        else:
            group.heat = heat

    def removed(self, group: Group) -> None:
        """As of :class:`Order`."""
        self._clock.groups -= 1
        self.bytes -= self._take(group)

    def evicted(self, group: Group) -> None:
        """Nothing is remembered."""

    def victim(self) -> Group | None:
        """The longest in the lowest step."""
        heap, steps = self._heap, self._steps
        while heap:
            if heap[0] in steps:
                return next(iter(steps[heap[0]]))
            heapq.heappop(heap)
        return None

    def __iter__(self) -> Iterator[Group]:
        return chain.from_iterable(self._steps[step] for step in sorted(self._steps))

    def __len__(self) -> int:
        return sum(map(len, self._steps.values()))

    def _read_again(self, heat: int) -> int:
        """``log2 C + now`` after a read now, in 1/256; never 0."""
        clock = self._clock
        clock.now += 1.0 / max(clock.groups, 1)
        now = clock.now
        return int(256 * (now + (math.log2(1.0 + 2.0 ** (heat / 256 - now)) if heat else 0.0))) + 1

    def _put(self, group: Group, size: int) -> None:
        step = group.heat >> 4
        queue = self._steps.get(step)
        if queue is None:
            queue = self._steps[step] = OrderedDict()
            heapq.heappush(self._heap, step)
            if len(self._heap) > 2 * len(self._steps) + 64:
                self._heap = list(self._steps)
                heapq.heapify(self._heap)
        queue[group] = size

    def _take(self, group: Group) -> int:
        step = group.heat >> 4
        queue = self._steps[step]
        size = queue.pop(group)
        if not queue:
            del self._steps[step]
        return size


class Ghosts:
    """Keys of groups evicted lately: at most as many as are cached, at least half of that; two generations."""

    __slots__ = ("_new", "_old", "groups")

    def __init__(self) -> None:
        self.groups = 0
        self._new: set[int] = set()
        self._old: set[int] = set()

    def add(self, group: Group) -> None:
        """It is gone."""
        self._new.add(_key(group))
        if 2 * len(self._new) > self.groups:
            self._old, self._new = self._new, set()

    def take(self, group: Group) -> bool:
        """Whether it was evicted lately; it is forgotten."""
        key = _key(group)
        for generation in (self._new, self._old):
            if key in generation:
                generation.remove(key)
                return True
        return False


SMALL_SHARE = 10
"""The small queue of S3-FIFO has one in so many bytes."""
_SMALL, _MAIN = 4, 8
"""Bits of ``heat`` in S3-FIFO: where a group is; below them, how often it was read, at most 3."""


class S3Fifo:
    """S3-FIFO: three static queues (Yang et al., SOSP 2023).

    A new group enters the *small* queue, which has a tenth of the bytes; leaving it, one that was read again goes to the *main* queue,
    any other goes, and its key to the *ghosts*: one that comes back while it is known there enters the main queue at once. The main
    queue gives as many more rounds as a group was read, up to 3. (The paper asks for two more reads in the small queue; one did a
    little better on every mix tried, for reads in quick succession were counted as one before: docs/decisions/0010-eviction.md.)
    """

    __slots__ = ("_ghosts", "_main", "_small")

    def __init__(self, ghosts: Ghosts) -> None:
        self._ghosts = ghosts
        self._small, self._main = Queue(), Queue()

    @property
    def bytes(self) -> int:
        """As of :class:`Order`."""
        return self._small.bytes + self._main.bytes

    def admitted(self, group: Group, size: int) -> None:
        """At the end of the queue it was in, or belongs in."""
        self._ghosts.groups += 1
        if not group.heat:
            group.heat = _MAIN if self._ghosts.take(group) else _SMALL
        (self._main if group.heat & _MAIN else self._small).add(group, size)

    def touched(self, group: Group) -> None:
        """One read more."""
        if group.heat & 3 != 3:
            group.heat += 1

    def removed(self, group: Group) -> None:
        """As of :class:`Order`."""
        self._ghosts.groups -= 1
        (self._main if group.heat & _MAIN else self._small).take(group)

    def evicted(self, group: Group) -> None:
        """Remembered, if it never reached the main queue."""
        if group.heat & _SMALL:
            self._ghosts.add(group)

    def victim(self) -> Group | None:
        """Moves groups that were read on to where they belong, until one is found that was not."""
        small, main = self._small, self._main
        while True:
            if small and (SMALL_SHARE * small.bytes >= small.bytes + main.bytes or not main):
                group = next(iter(small))
                if not group.heat & 3:
                    return group
                main.add(group, small.take(group))
                group.heat = _MAIN
            elif main:
                group = next(iter(main))
                if not group.heat & 3:
                    return group
                main.move_to_end(group)
                group.heat -= 1
            else:
                return None

    def __iter__(self) -> Iterator[Group]:
        return chain(self._small, self._main)

    def __len__(self) -> int:
        return len(self._small) + len(self._main)


class Sieve:
    """SIEVE: one queue, one hand (Zhang et al., NSDI 2024).

    The hand goes from the oldest group to the newest and over again, takes the first it meets that was not read since it last came
    by, and lets the others stay where they are. Kept as two queues: those before the hand, and those it has passed, which are older.
    """

    __slots__ = ("_ahead", "_passed")

    def __init__(self) -> None:
        self._ahead, self._passed = Queue(), Queue()

    @property
    def bytes(self) -> int:
        """As of :class:`Order`."""
        return self._ahead.bytes + self._passed.bytes

    def admitted(self, group: Group, size: int) -> None:
        """As the newest; the hand comes to it last."""
        self._ahead.add(group, size)

    def touched(self, group: Group) -> None:
        """The hand will pass it once."""
        group.heat = 1

    def removed(self, group: Group) -> None:
        """As of :class:`Order`."""
        (self._ahead if group in self._ahead else self._passed).take(group)

    def evicted(self, group: Group) -> None:
        """Nothing is remembered."""

    def victim(self) -> Group | None:
        """Moves the hand to the next that was not read."""
        while True:
            if not self._ahead:
                self._ahead, self._passed = self._passed, self._ahead
            group = self._ahead.first()
            if group is None or not group.heat:
                return group
            group.heat = 0
            self._passed.add(group, self._ahead.take(group))

    def __iter__(self) -> Iterator[Group]:
        return chain(self._ahead, self._passed)

    def __len__(self) -> int:
        return len(self._ahead) + len(self._passed)


_WINDOW, _PROBATION, _PROTECTED = 1, 2, 3
CANDIDATES_MAX = 64
"""Groups that wait to be compared; while the cache fills nobody asks, and who came earlier stays."""


class WTinyLfu:
    """W-TinyLFU: admission by frequency (Einziger, Friedman and Manes, ACM Transactions on Storage 13(4), 2017).

    New groups pass through a *window* (LRU) of 1 % of the bytes. Who leaves it is a candidate for the main part, a segmented LRU: it
    stays if it was read more often, by a count-min sketch of all reads that is halved now and then, than the one that would go for
    it. Groups of the main part that are read are *protected*, up to 80 % of it; the rest is on *probation*.
    """

    __slots__ = ("_candidates", "_loser", "_probation", "_protected", "_sketch", "_window")

    def __init__(self, sketch: Sketch) -> None:
        self._sketch = sketch
        self._window, self._probation, self._protected = Queue(), Queue(), Queue()
        self._candidates: deque[Group] = deque(maxlen=CANDIDATES_MAX)
        """Groups that left the window and were not compared yet; those that went on elsewhere are passed over."""
        self._loser: Group | None = None
        """Who lost the last comparison, until it goes or is read."""

    @property
    def bytes(self) -> int:
        """As of :class:`Order`."""
        return self._window.bytes + self._probation.bytes + self._protected.bytes

    def admitted(self, group: Group, size: int) -> None:
        """At the end of the queue it was in; a new one in the window, and it has been read once."""
        self._sketch.groups += 1
        if not group.heat:
            group.heat = _WINDOW
            self._sketch.add(_key(group))
        self._queue_of(group).add(group, size)
        window = self._window
        while len(window) > 1 and 100 * window.bytes > self.bytes:
            oldest = next(iter(window))
            oldest.heat = _PROBATION
            self._probation.add(oldest, window.take(oldest))
            self._candidates.append(oldest)

    def touched(self, group: Group) -> None:
        """One read more: the newest of its queue, or protected."""
        self._sketch.add(_key(group))
        if group.heat != _PROBATION:
            self._queue_of(group).move_to_end(group)
            return
        if group is self._loser:
            self._loser = None
        probation, protected = self._probation, self._protected
        group.heat = _PROTECTED
        protected.add(group, probation.take(group))
        while len(protected) > 1 and 5 * protected.bytes > 4 * (protected.bytes + probation.bytes):
            oldest = next(iter(protected))
            oldest.heat = _PROBATION
            probation.add(oldest, protected.take(oldest))

    def removed(self, group: Group) -> None:
        """As of :class:`Order`."""
        self._sketch.groups -= 1
        self._queue_of(group).take(group)
        if group is self._loser:
            self._loser = None

    def evicted(self, group: Group) -> None:
        """The sketch remembers every group that was read."""

    def victim(self) -> Group | None:
        """The next candidate or the oldest on probation, whichever was read less often."""
        if self._loser is not None:
            return self._loser
        oldest, candidates = self._probation.first(), self._candidates
        while oldest is not None and candidates:
            candidate = candidates.popleft()
            if candidate in self._probation and candidate is not oldest:
                wins = self._sketch.count(_key(candidate)) > self._sketch.count(_key(oldest))
                self._loser = oldest if wins else candidate
                return self._loser
        return oldest or self._protected.first() or self._window.first()

    def __iter__(self) -> Iterator[Group]:
        return chain(self._probation, self._protected, self._window)

    def __len__(self) -> int:
        return len(self._window) + len(self._probation) + len(self._protected)

    def _queue_of(self, group: Group) -> Queue:
        if group.heat == _WINDOW:
            return self._window
        return self._probation if group.heat == _PROBATION else self._protected


def _key(group: Group) -> int:
    return hash((group.content, group.number))  # of numbers: the same in every process


NewOrder = Callable[[], Order]
_POLICIES: dict[str, Callable[[], NewOrder]] = {
    "lru": lambda: Lru,
    "lrfu": lambda: partial(Lrfu, Clock()),
    "s3-fifo": lambda: partial(S3Fifo, Ghosts()),
    "sieve": lambda: Sieve,
    "w-tinylfu": lambda: partial(WTinyLfu, Sketch()),
}
EVICTION = "s3-fifo"
POLICIES = tuple(_POLICIES)
"""Values of ``worker.eviction``."""


def orders_of(policy: str) -> NewOrder:
    """What makes the orders of one cache. Raises ``ConfigError`` for an unknown policy."""
    make = _POLICIES.get(policy)
    if make is None:
        raise ConfigError(f"worker.eviction: {policy!r} is not one of {', '.join(POLICIES)}")
    return make()
