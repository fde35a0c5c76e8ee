"""SET_LEVEL: let newer kinds of entries be proposed."""

from __future__ import annotations

from monofs.metadata.draft import Draft
from monofs.metadata.entries import SetLevel
from monofs.metadata.tables import LEVEL
from monofs.model.errors import InvalidArgument, NotSupported


def set_level(draft: Draft, change: SetLevel) -> None:
    """The level never falls; ``NotSupported`` above what this release knows."""
    if change.level < draft.meta.level:
        raise InvalidArgument(f"the entry level is {draft.meta.level}: it never falls")
    if change.level > LEVEL:
        raise NotSupported(f"this release knows entries up to level {LEVEL}, not {change.level}")
    draft.meta.level = change.level
