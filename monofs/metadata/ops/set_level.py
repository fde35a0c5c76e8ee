"""SET_LEVEL: let newer kinds of entries be proposed."""

from __future__ import annotations

from monofs.metadata.draft import Draft
from monofs.metadata.entries import SetLevel
from monofs.metadata.tables import LEVEL
from monofs.model.errors import InvalidArgument, UnknownEntry


def set_level(draft: Draft, change: SetLevel) -> None:
    """The level never falls. Raises ``UnknownEntry``, which stops the node, above what this release knows: others went on with it."""
    if change.level < draft.meta.level:
        raise InvalidArgument(f"the entry level is {draft.meta.level}: it never falls")
    if change.level > LEVEL:
        raise UnknownEntry(
            f"this release knows entries up to level {LEVEL}, and the cluster goes on with level {change.level}"
        )
    draft.meta.level = change.level
