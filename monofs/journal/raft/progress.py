"""What the leader knows of one follower, and what it may send it (thesis 3.5, 10.2.1).

`match` is durable there; `next` is what is sent next. The states:

    probe       where the logs part is not known: one Append at a time
    replicate   pipelined: `next` runs ahead of the answers, within the bounds of flow control
    fetch       the next entries have left the leader's window and are being read from its segments
    snapshot    the next entries are gone: a snapshot is on its way

Invariant: match < next; in replicate everything between has been sent.
"""

from __future__ import annotations

from collections import deque
from enum import Enum


class Sending(Enum):
    PROBE = "probe"
    REPLICATE = "replicate"
    FETCH = "fetch"
    SNAPSHOT = "snapshot"


class Progress:
    __slots__ = (
        "acked_round",
        "heard_tick",
        "inflight",
        "inflight_bytes",
        "is_heard",
        "is_paused",
        "is_ping_due",
        "match",
        "next",
        "state",
    )

    def __init__(self, next_index: int, tick: int) -> None:
        self.state = Sending.PROBE
        self.match = 0
        self.next = next_index
        self.is_paused = False  # probe: an Append or a failed snapshot waits for a sign of life
        self.is_ping_due = False  # replicate: find out by an empty Append whether one was lost
        self.inflight: deque[tuple[int, int]] = deque()  # last index and bytes of each unanswered Append
        self.inflight_bytes = 0
        self.acked_round = 0  # newest heartbeat round answered
        self.heard_tick = tick  # of the last message in this term; the beginning counts as one (check-quorum)
        self.is_heard = False  # anything in this term: whoever never spoke gets no snapshot

    def heard(self, tick: int) -> None:
        self.heard_tick = tick
        self.is_heard = True

    def become_probe(self, next_index: int) -> None:
        self.state = Sending.PROBE
        self.next = max(next_index, self.match + 1)
        self.is_paused = self.is_ping_due = False
        self._forget_inflight()

    def become_replicate(self) -> None:
        self.state = Sending.REPLICATE
        self.next = self.match + 1
        self.is_paused = self.is_ping_due = False
        self._forget_inflight()

    def become_snapshot(self) -> None:
        self.state = Sending.SNAPSHOT
        self.is_paused = self.is_ping_due = False
        self._forget_inflight()

    def sent(self, last_index: int, size_bytes: int) -> None:
        """An Append with entries up to `last_index` went out while pipelining."""
        self.inflight.append((last_index, size_bytes))
        self.inflight_bytes += size_bytes
        self.next = last_index + 1

    def accepted(self, index: int) -> None:
        """Everything up to `index` is durable there."""
        self.match = max(self.match, index)
        self.next = max(self.next, self.match + 1)
        while self.inflight and self.inflight[0][0] <= index:
            self.inflight_bytes -= self.inflight.popleft()[1]

    def has_room(self, max_appends: int, max_bytes: int) -> bool:
        return len(self.inflight) < max_appends and self.inflight_bytes < max_bytes

    def _forget_inflight(self) -> None:
        self.inflight.clear()
        self.inflight_bytes = 0
