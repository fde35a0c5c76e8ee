"""ASSIGN_SLOTS: which workers each slot lists. What the leader planned is taken over as it is, or refused; nothing is planned here."""

from __future__ import annotations

from monofs.metadata.draft import Draft
from monofs.metadata.entries import AssignSlots
from monofs.metadata.tables import Placement
from monofs.model.errors import ConditionFailed, InvalidArgument, NotReady
from monofs.model.slots import SlotDelta


def assign_slots(draft: Draft, change: AssignSlots) -> int:
    """The epoch of the new table. Refused when it was planned for another table, or is none."""
    if not draft.meta.cluster:
        raise NotReady("the namespace is not initialised yet")
    known = draft.state.slots
    if change.base != known.epoch:
        raise ConditionFailed(
            f"slots were planned for the table of epoch {change.base}, which is of {known.epoch} by now"
        )
    delta = SlotDelta(change.base, draft.index, change.replicas, change.slots, change.rows, change.digest)
    table = known.apply(delta)
    problem = table.problem(draft.state.workers())
    if problem is not None:
        raise InvalidArgument(problem)
    draft.put_placement(Placement(table.epoch, table.replicas, change.shares, table.rows()), table)
    return table.epoch
