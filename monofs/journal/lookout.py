"""What a member shows and tells of its group: gauges, and, while it leads, log lines on members that are not heard and on how many more may be lost.

Each trouble is told when it begins and when it is over; the same one again not within ``QUIET_S``, so that a member that starts and dies every second
fills no log. Time is an argument. Not here: what follows from silence (raft/).
"""

from __future__ import annotations

from typing import NamedTuple

from monofs.journal.book import decode_book
from monofs.journal.raft.messages import NodeId, Role, Status
from monofs.journal.raft.quorum import majority
from monofs.observe.logs import logger
from monofs.observe.metrics import (
    JOURNAL_INDEX,
    JOURNAL_LAG,
    JOURNAL_QUEUE_BYTES,
    JOURNAL_ROLE,
    JOURNAL_TERM,
    JOURNAL_VOTERS,
)

SILENT_S = 2.0
"""A member not heard for so long is counted as lost: far beyond the time between two messages of a leader."""
QUIET_S = 300.0
GROUP = ""
"""The trouble that is the whole group's."""

_LAST, _COMMIT, _APPLIED = JOURNAL_INDEX("last"), JOURNAL_INDEX("commit"), JOURNAL_INDEX("applied")
_TERM, _LEADS, _QUEUE_BYTES = JOURNAL_TERM(), JOURNAL_ROLE(), JOURNAL_QUEUE_BYTES()
log = logger(__name__)


class Margin(NamedTuple):
    """Voters a leader hears, itself among them, of those there are, and how many are a majority."""

    voters: int
    heard: int
    needed: int

    @property
    def spare(self) -> int:
        """How many more may be lost."""
        return self.heard - self.needed


def margin(status: Status, silent: set[NodeId]) -> Margin:
    """Of a leader; while a change of voters is under way, of the group that bears less."""
    groups = [group for group in (status.membership.voters, status.membership.outgoing) if group]
    margins = [Margin(len(group), len(set(group) - silent), majority(len(group))) for group in groups]
    return min(margins, key=lambda each: each.spare)


class Troubles:
    """What is wrong now and was told, by key and words."""

    def __init__(self) -> None:
        self._told: dict[str, str] = {}
        self._begun_s: dict[tuple[str, str], float] = {}
        """When each was told last, for ``QUIET_S``."""

    def change(self, troubles: dict[str, str], now_s: float) -> tuple[dict[str, str], list[str]]:
        """What is to be told: troubles that begin, or are others now; keys of those told of that are over."""
        self._begun_s = {told: begun_s for told, begun_s in self._begun_s.items() if now_s - begun_s < QUIET_S}
        begun = {
            key: words
            for key, words in troubles.items()
            if self._told.get(key) != words and (key, words) not in self._begun_s
        }
        over = [key for key in self._told if key not in troubles]
        for key in over:
            del self._told[key]
        for key, words in begun.items():
            self._told[key] = words
            self._begun_s[key, words] = now_s
        return begun, over


class Lookout:
    """Looks at a core's status now and then."""

    def __init__(self, tick_s: float) -> None:
        self._tick_s, self._troubles = tick_s, Troubles()

    def look(self, status: Status, *, leads: bool, queued_bytes: int, now_s: float) -> None:
        """Show it, and tell what has changed."""
        _LAST.value, _COMMIT.value, _APPLIED.value = status.last, status.commit, status.applied
        _TERM.value, _LEADS.value, _QUEUE_BYTES.value = status.term, int(leads), queued_bytes
        JOURNAL_LAG.children.clear()
        JOURNAL_VOTERS.children.clear()
        if status.role is not Role.LEADER:
            self._troubles = Troubles()
            return
        names = {seat.id: seat.name for seat in decode_book(status.membership.book)}
        silent = set()
        for peer, progress in status.peers.items():
            JOURNAL_LAG(names.get(peer, f"{peer:x}")).value = status.last - progress.match
            if progress.heard_ticks_ago * self._tick_s > SILENT_S:
                silent.add(peer)
        found = margin(status, silent)
        for what, count in found._asdict().items():
            JOURNAL_VOTERS(what).value = count
        self._tell(found, sorted(names.get(peer, f"{peer:x}") for peer in silent), now_s)

    def _tell(self, found: Margin, silent: list[str], now_s: float) -> None:
        troubles = dict.fromkeys(silent, "silent")
        if found.spare <= 0 and found.voters > 1:
            troubles[GROUP] = ", ".join(silent)
        begun, over = self._troubles.change(troubles, now_s)
        for key in begun:
            if key == GROUP:
                log.warning("the loss of one more voter would stop the group", **found._asdict(), silent=begun[GROUP])
            else:
                log.warning("a master is not heard", master=key)
        for key in over:
            if key == GROUP:
                log.info("the group bears a loss again", **found._asdict())
            else:
                log.info("a master is heard again", master=key)
