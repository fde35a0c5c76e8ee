"""The slot table, kept as a value in memory, and what it was planned from. Invariant: equal to the table ``placement``."""

from __future__ import annotations

from monofs.metadata.store import Store
from monofs.metadata.tables import PLACEMENT, Placement, decode_placement, pack_id
from monofs.model.slots import EMPTY, SlotTable, table_of

PLACEMENT_KEY = pack_id(0)


class KnownSlots:
    """The table in force; the empty one before there was any."""

    def __init__(self, store: Store) -> None:
        self.table: SlotTable = EMPTY
        self.shares: list[tuple[int, int, str]] = []
        raw = store.get(PLACEMENT, PLACEMENT_KEY)
        if raw is not None:
            found = decode_placement(raw)
            self.take(found, table_of(found.epoch, found.replicas, found.rows))

    def take(self, placement: Placement, table: SlotTable) -> None:
        """Take over a new table."""
        self.table, self.shares = table, placement.shares
