"""Pages of contents that retired while they were read: readers in the middle of them finish (design.md section 7).

Such groups are out of the cache like any that was dropped, but held; they count as used until they are let go: when nobody has read them for a while, the
longest unread first beyond ``PAST_BYTES``, and all before a write is refused for want of room. Invariant: nothing is kept that was not being read.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

from monofs.model.ids import ContentId
from monofs.tiering.group import Group

IDLE_NS = 60 * 10**9
"""No longer than a reader may stall, and one is cut off."""
PAST_BYTES = 1 << 30


class Past:
    """Of one cache. Owner's thread only."""

    def __init__(self, release: Callable[[Group], None], clock_ns: Callable[[], int]) -> None:
        self._release, self._clock_ns = release, clock_ns
        self._groups: OrderedDict[ContentId, dict[int, Group]] = OrderedDict()
        """By content, read longest ago first."""
        self._bytes: dict[ContentId, int] = {}

    def is_read(self, groups: list[Group]) -> bool:
        """Whether somebody reads these groups of a content, or did a moment ago."""
        since_ns = self._clock_ns() - IDLE_NS
        return any(group.holds or (group.read_ns > group.admitted_ns and group.read_ns > since_ns) for group in groups)

    def keep(self, content: ContentId, groups: list[Group]) -> None:
        """Take over one hold of each group, in the place of those of the content that were kept before."""
        if content in self._groups:
            self._let_go(content)
        self._groups[content] = {group.number: group for group in groups}
        self._bytes[content] = sum(group.present_bytes for group in groups)
        for group in groups:
            group.read_ns = self._clock_ns()
        while sum(self._bytes.values()) > PAST_BYTES:
            self._let_go(next(iter(self._groups)))

    def get(self, content: ContentId, number: int) -> Group | None:
        """A group, for a reader of the content; none that would have to be checked first, or whose directory is gone."""
        groups = self._groups.get(content)
        if groups is None:
            return None
        self._groups.move_to_end(content)
        group = groups.get(number)
        if group is None or not group.verified or not group.directory.attached:
            return None
        group.read_ns = self._clock_ns()
        return group

    def tend(self) -> None:
        """Let go what nobody reads any more."""
        since_ns = self._clock_ns() - IDLE_NS
        while self._groups:
            content, groups = next(iter(self._groups.items()))
            if any(group.read_ns > since_ns for group in groups.values()):
                return
            self._let_go(content)

    def let_go(self) -> bool:
        """Everything; whether there was anything."""
        had = bool(self._groups)
        while self._groups:
            self._let_go(next(iter(self._groups)))
        return had

    def _let_go(self, content: ContentId) -> None:
        del self._bytes[content]
        for group in self._groups.pop(content).values():
            self._release(group)
