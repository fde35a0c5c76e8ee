"""Telling clients and workers of the slot table: the latest deltas to whoever knows a table they lead on from, the whole to others, nothing to who is up to date.

Bounds: the last ``DELTAS`` deltas are kept; whole tables go out at ``WHOLE_BYTES_S`` a second, so that thousands who come at once do not fill the
master's memory with them. Who is turned away asks again with its next call, and meanwhile goes by the workers that live (model/slots.py). A worker
that knows no table is told the last ones, too, so that it knows whom to ask for what it owns now.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from monofs.metadata.namespace import Namespace
from monofs.model.slots import FORMER_S, FORMERS_MAX, SlotTable, pack_delta
from monofs.rpc.api import SlotsKnown

DELTAS = 64
WHOLE_BYTES_S = 64 << 20


class Publisher:
    """Of one master. ``clock`` tells monotonic seconds."""

    def __init__(self, namespace: Namespace, clock: Callable[[], float]) -> None:
        self._namespace, self._clock = namespace, clock
        self._table: SlotTable = namespace.slots
        self._deltas: deque[tuple[int, int, bytes]] = deque(maxlen=DELTAS)
        """(epoch and digest of the table before, packed delta), in order."""
        self._whole = b""
        self._formers: deque[tuple[float, SlotTable, bytes]] = deque(maxlen=FORMERS_MAX)
        """When a table ceased to hold, that table, and it packed as a whole once it was asked for; in order."""
        self._second, self._sent = 0, 0

    def deltas(self, known: SlotsKnown, *, with_formers: bool = False) -> list[bytes]:
        """Packed deltas that lead on from the table somebody knows to the present one; none: it is the present one, or the whole must wait.
        ``with_formers``: who knows none is led through those of the last ``FORMER_S``."""
        table = self._namespace.slots
        if table is not self._table:
            self._take(table)
        if (known.epoch, known.digest) == (table.epoch, table.digest):
            return []
        for number, (epoch, digest, _) in enumerate(self._deltas):
            if epoch and (epoch, digest) == (known.epoch, known.digest):
                found = [packed for _, _, packed in list(self._deltas)[number:]]
                if sum(map(len, found)) <= len(table.rows()):
                    return found
                break
        self._whole = self._whole or pack_delta(table.whole())
        told = (self._led() if with_formers and not known.epoch else []) or [self._whole]
        second = int(self._clock())
        if second != self._second:
            self._second, self._sent = second, 0
        if self._sent > WHOLE_BYTES_S:
            return []
        self._sent += sum(map(len, told))
        return told

    def _led(self) -> list[bytes]:
        """The oldest of the former tables that still matter, and deltas from there; none: there is none, or it would be too much."""
        for at, (until_s, former, packed) in enumerate(self._formers):
            if until_s > self._clock():
                found = [packed for _, _, packed in list(self._deltas)[at - len(self._formers) :]]
                if sum(map(len, found)) <= len(former.rows()):
                    packed = packed or pack_delta(former.whole())
                    self._formers[at] = until_s, former, packed
                    return [packed, *found]
        return []

    def _take(self, table: SlotTable) -> None:
        self._deltas.append((self._table.epoch, self._table.digest, pack_delta(self._table.delta_to(table))))
        if self._table.epoch:
            self._formers.append((self._clock() + FORMER_S, self._table, b""))
        self._table, self._whole = table, b""
