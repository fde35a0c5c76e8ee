"""Read-index rounds and the lease (thesis 6.4, 6.4.1): when a read may be answered, and from which index on.

A round is one heartbeat to all; it is confirmed once a quorum has answered it or a later one. Reads that wait when a round begins are
answered with the commit index of its beginning once it is confirmed: the leader was the leader *after* they were asked. Reads that come while a
round with reads is under way share the next one. Followers do the same with one request to the leader in place of a round.

The lease runs from the *sending* of the newest confirmed round, because that is when its followers' patience began at the earliest.
"""

from __future__ import annotations

from collections import deque
from typing import Any, NamedTuple

from monofs.journal.raft.messages import NodeId

MAX_ROUNDS = 1024  # unconfirmed rounds whose sending is remembered; older ones are forgotten (their reads are not)


class Read(NamedTuple):
    token: Any  # the caller's, or the context of a follower's request
    asker: NodeId  # NOBODY: asked here
    tick: int


class Asked(NamedTuple):
    """A follower's request under way."""

    context: int
    reads: list[Read]
    tick: int


class Reads:
    __slots__ = ("_rounds", "_sent_ns", "asked", "count", "is_lease_over", "lease_from_ns", "round", "waiting")

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        self.waiting: list[Read] = []
        self.asked: Asked | None = None
        self.count = 0  # all reads in here
        self.round = 0
        self._rounds: deque[tuple[int, int, list[Read]]] = deque()  # round, index, reads
        self._sent_ns: deque[tuple[int, int]] = deque()
        self.lease_from_ns: int | None = None
        self.is_lease_over = False  # for good in this term: another election was asked for

    def add(self, read: Read) -> None:
        self.waiting.append(read)
        self.count += 1

    @property
    def has_open_round(self) -> bool:
        return bool(self._rounds)

    def begin_round(self, now_ns: int, index: int | None) -> int:
        """A heartbeat goes out. `index`: the commit index when reads may be answered from it, else None and they go on waiting."""
        self.round += 1
        self._sent_ns.append((self.round, now_ns))
        if len(self._sent_ns) > MAX_ROUNDS:
            self._sent_ns.popleft()
        if index is not None and self.waiting:
            self._rounds.append((self.round, index, self.waiting))
            self.waiting = []
        return self.round

    def confirm(self, number: int) -> list[tuple[Read, int]]:
        """A quorum has answered round `number` or a later one: the reads this ends, each with its index."""
        while self._sent_ns and self._sent_ns[0][0] <= number:
            sent_round, sent_ns = self._sent_ns.popleft()
            if sent_round == number:
                self.lease_from_ns = sent_ns
        ended: list[tuple[Read, int]] = []
        while self._rounds and self._rounds[0][0] <= number:
            _, index, reads = self._rounds.popleft()
            ended.extend((read, index) for read in reads)
        self.count -= len(ended)
        return ended

    def restart(self) -> list[Read]:
        """Role or term changed: rounds count anew; whatever waited is given back."""
        reads = [read for _, _, group in self._rounds for read in group] + self.waiting
        if self.asked:
            reads = self.asked.reads + reads
        self.clear()
        return reads

    # --- a follower's side ----------------------------------------------------------------------------------------------------------

    def ask(self, context: int, tick: int) -> None:
        """One request to the leader now stands for all that waits."""
        self.asked = Asked(context, self.waiting, tick)
        self.waiting = []

    def answered(self, context: int) -> list[Read]:
        if self.asked is None or self.asked.context != context:
            return []
        reads, self.asked = self.asked.reads, None
        self.count -= len(reads)
        return reads

    def ask_again(self) -> None:
        """The leader is another, or none is known: what was asked waits again."""
        if self.asked:
            self.waiting = self.asked.reads + self.waiting
            self.asked = None

    def expire(self, before_tick: int) -> list[Read]:
        """The reads asked before that tick are given up, whether they wait or were asked of the leader."""
        groups = [self.asked.reads, self.waiting] if self.asked else [self.waiting]
        old = [read for group in groups for read in group if read.tick < before_tick]
        if old:
            self.waiting = [read for read in self.waiting if read.tick >= before_tick]
            if self.asked:
                asked = [read for read in self.asked.reads if read.tick >= before_tick]
                self.asked = self.asked._replace(reads=asked) if asked else None
            self.count -= len(old)
        return old
