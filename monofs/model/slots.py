"""The slot table as a value: 65,536 slots, each an ordered list of workers; and deltas from one table to the next.

The head of a slot's list is its owner, which clean reads go to; the list is also the chain of writes. A table is known by its *epoch*, the
journal index it came into force at (0: the empty table, before there was one), and its *digest*, so that a delta is never put on another table.

Invariant: every slot lists the same number of distinct workers. Not here: who decides (master/placement.py), who lives (master/members.py).
"""

from __future__ import annotations

import sys
import zlib
from array import array
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from heapq import nsmallest
from itertools import combinations

import msgspec

from monofs.model.block import PAGE_SIZE_BYTES, SLOTS
from monofs.model.errors import ConditionFailed, InvalidArgument

REPLICAS_MAX = 8
WEIGHT_MAX = 1_000_000
ZONE_MAX = 255
"""Characters of a zone's name."""
WORKER_MAX = 65_535
"""Greatest worker id a table can name: ids are two bytes."""
FORMER_S = 600.0
"""How long after a change of the table its former owners are asked first: what is wanted of them comes over within this time, or goes cold."""
FORMERS_MAX = 4
"""Tables kept for that, and at most so many owners asked in vain: each costs a round trip, a GET more than that."""
DELTA_BYTES_MAX = 2 * SLOTS * (REPLICAS_MAX + 1) + 4096
"""Most bytes of a delta, unpacked."""


class SlotDelta(msgspec.Struct, array_like=True, gc=False, frozen=True):
    """What turns the table of epoch ``base`` into that of ``epoch``. With no ``slots`` its rows are the whole table, and any base will do."""

    base: int
    epoch: int
    replicas: int
    slots: bytes
    """The slots that change, ascending, two bytes each, little-endian."""
    rows: bytes
    """For each of them its workers, two bytes each, little-endian."""
    digest: int
    """Of the table that results."""


class SlotTable:
    """One table; treat it as a value."""

    __slots__ = ("_rows", "digest", "epoch", "replicas")

    def __init__(self, epoch: int, replicas: int, rows: array[int]) -> None:
        self.epoch, self.replicas = epoch, replicas
        self._rows = rows
        self.digest = zlib.crc32(_bytes_of(rows), replicas)

    def owners(self, slot: int) -> Sequence[int]:
        """The workers of a slot, its owner first; none in the empty table."""
        at = slot * self.replicas
        return self._rows[at : at + self.replicas]

    def serving(self, slot: int, live: Collection[int]) -> list[int]:
        """Whom of ``live`` to ask for a slot: those it lists, in order, else one that everybody finds alike."""
        listed = [worker for worker in self.owners(slot) if worker in live]
        return listed or ([sorted(live)[slot % len(live)]] if live else [])

    def sequence(self, slot: int, live: Collection[int], count: int) -> list[int]:
        """The first ``count`` of ``live`` for a slot that is read from so many: those it lists, in order, then in an order of the slot's own."""
        listed = [worker for worker in self.owners(slot) if worker in live]
        if len(listed) < count:
            others = (worker for worker in live if worker not in listed)
            listed += nsmallest(
                count - len(listed), others, key=lambda worker: (zlib.crc32(b"%d %d" % (slot, worker)), worker)
            )
        return listed[:count]

    def workers(self) -> list[int]:
        """All workers that have slots, ascending."""
        return sorted(set(self._rows))

    def counts(self) -> dict[int, int]:
        """Worker to the number of slots it owns."""
        return dict(Counter(self._rows[:: self.replicas or 1]))

    def span(self, worker: int) -> tuple[int, int]:
        """How many slots the workers of lower ids own, and they together with this one: what is divided by slots is divided by this."""
        owners = self._rows[:: self.replicas or 1]
        first = sum(owner < worker for owner in owners)
        return first, first + owners.count(worker)

    def spans(self) -> dict[int, tuple[int, int]]:
        """:meth:`span` of each worker that owns slots."""
        spans, end = {}, 0
        for worker, count in sorted(self.counts().items()):
            spans[worker] = end, end + count
            end += count
        return spans

    def problem(self, workers: Iterable[int]) -> str | None:
        """What is wrong with this table in a cluster of these workers; None: nothing."""
        width, rows = self.replicas, self._rows
        if not 0 < width <= REPLICAS_MAX or len(rows) != SLOTS * width:
            return f"{len(rows)} places for {width} replicas of {SLOTS} slots"
        unknown = set(rows).difference(workers)
        if unknown:
            return f"slots are given to worker {min(unknown)}, which was never registered"
        for one, other in combinations(range(width), 2):
            for slot, (left, right) in enumerate(zip(rows[one::width], rows[other::width], strict=True)):
                if left == right:
                    return f"slot {slot} lists worker {left} twice"
        return None

    def rows(self) -> bytes:
        """Of all slots in order, the workers, two bytes each, little-endian."""
        return _bytes_of(self._rows)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, SlotTable):
            return NotImplemented
        return (self.epoch, self.replicas, self._rows) == (other.epoch, other.replicas, other._rows)

    __hash__ = None  # type: ignore[assignment] # a table is no key

    def whole(self) -> SlotDelta:
        """The delta that makes this table out of any."""
        return SlotDelta(0, self.epoch, self.replicas, b"", self.rows(), self.digest)

    def delta_to(self, after: SlotTable) -> SlotDelta:
        """The delta that turns this table into ``after``."""
        if self.replicas != after.replicas or not self.replicas:
            return after.whole()
        width, old, new = self.replicas, self._rows, after._rows
        changed = [at for at, (was, now) in enumerate(zip(old, new, strict=True)) if was != now]
        slots = array("H", dict.fromkeys(at // width for at in changed))
        if len(slots) == SLOTS:
            return after.whole()
        rows = array("H")
        for slot in slots:
            rows += new[slot * width : (slot + 1) * width]
        return SlotDelta(self.epoch, after.epoch, width, _bytes_of(slots), _bytes_of(rows), after.digest)

    def apply(self, delta: SlotDelta) -> SlotTable:
        """The table that ``delta`` leads to. ``ConditionFailed``: it belongs to another table; ``InvalidArgument``: it is damaged."""
        width, slots, rows = delta.replicas, _numbers_of(delta.slots), _numbers_of(delta.rows)
        whole = not slots and len(rows) == SLOTS * width
        if not 0 <= width <= REPLICAS_MAX or (not whole and len(rows) != len(slots) * width):
            raise InvalidArgument(f"a delta of {len(slots)} slots has {len(rows)} workers for {width} replicas")
        if not whole:
            if (self.epoch, self.replicas) != (delta.base, width):
                raise ConditionFailed(f"a delta to the slot table of epoch {delta.base} met the one of {self.epoch}")
            merged = self._rows[:]
            for position, slot in enumerate(slots):
                merged[slot * width : (slot + 1) * width] = rows[position * width : (position + 1) * width]
            rows = merged
        table = SlotTable(delta.epoch, width, rows)
        if table.digest != delta.digest:
            raise ConditionFailed(f"the slot table of epoch {delta.epoch} was told in part: ask for it as a whole")
        return table


def part_of(quota_bytes: int, span: tuple[int, int]) -> int:
    """The part of a quota of the worker with this :meth:`SlotTable.span`, in whole pages as far as there are; all parts sum to the quota exactly."""
    pages, rest = divmod(quota_bytes, PAGE_SIZE_BYTES)
    first, end = (pages * each // SLOTS for each in span)
    return (end - first) * PAGE_SIZE_BYTES + (rest if span[0] < span[1] == SLOTS else 0)


def table_of(epoch: int, replicas: int, rows: bytes) -> SlotTable:
    """A table from its rows as :meth:`SlotTable.rows` gives them."""
    return SlotTable(epoch, replicas, _numbers_of(rows))


def pack_delta(delta: SlotDelta) -> bytes:
    """A delta as it travels."""
    return zlib.compress(msgspec.msgpack.encode(delta), 1)


def unpack_delta(packed: bytes) -> SlotDelta:
    """A delta as it came. ``InvalidArgument``: it is damaged."""
    unpacker = zlib.decompressobj()
    try:
        raw = unpacker.decompress(packed, DELTA_BYTES_MAX)
        if not unpacker.eof:
            raise InvalidArgument("a delta of the slot table is cut off, or longer than any can be")
        return _decode(raw)
    except (zlib.error, msgspec.MsgspecError) as problem:
        raise InvalidArgument(f"a delta of the slot table cannot be read: {problem}") from None


def follow(table: SlotTable, deltas: Sequence[bytes]) -> SlotTable:
    """The table that packed deltas lead to; the empty one when they do not fit, so that the whole is asked for next."""
    try:
        for packed in deltas:
            table = table.apply(unpack_delta(packed))
    except (ConditionFailed, InvalidArgument):
        return EMPTY
    return table


_decode = msgspec.msgpack.Decoder(SlotDelta).decode


def _bytes_of(numbers: array[int]) -> bytes:
    if sys.byteorder == "big":
        numbers = numbers[:]
        numbers.byteswap()
    return numbers.tobytes()


def _numbers_of(raw: bytes) -> array[int]:
    if len(raw) % 2:
        raise InvalidArgument("numbers of two bytes come in an odd number of bytes")
    numbers = array("H", raw)
    if sys.byteorder == "big":
        numbers.byteswap()
    return numbers


EMPTY = SlotTable(0, 0, array("H"))
"""Before any worker was given slots."""
