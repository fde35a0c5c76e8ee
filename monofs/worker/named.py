"""Where the contents that clients asked for lately lie in their stores, as their capabilities say: for people who look at a cache. Pure.

Invariant: at most ``KEPT`` contents, the ones shown longest ago go first. Not here: whether a path still has that content (the master knows).
"""

from __future__ import annotations

from collections import OrderedDict

from monofs.model.capability import Capability
from monofs.model.ids import ContentId, MountId

KEPT = 8192
UNKNOWN = MountId(-1)


class Named:
    """Content → (mount, key)."""

    def __init__(self) -> None:
        self._places: OrderedDict[ContentId, tuple[MountId, str]] = OrderedDict()

    def shown(self, capability: Capability) -> None:
        """A client showed this. One worker to another shows some without a key: they name nothing."""
        if not capability.key:
            return
        places = self._places
        places[capability.content] = capability.mount, capability.key
        places.move_to_end(capability.content)
        if len(places) > KEPT:
            places.popitem(last=False)

    def of(self, content: ContentId) -> tuple[MountId, str]:
        """Mount and store key below it; (-1, ''): nobody told lately."""
        return self._places.get(content, (UNKNOWN, ""))
