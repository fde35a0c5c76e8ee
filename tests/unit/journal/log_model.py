"""What a replicated log must hold, as plain lists, and dice that change it as a Raft core does."""

from __future__ import annotations

import random
from typing import NamedTuple

from monofs.journal.face import Entry
from monofs.journal.frames import RECORD_BYTES, pack_membership
from monofs.journal.log_files import LogFiles
from monofs.journal.raft.messages import EntryType, HardState, LogEntry, Membership, NodeId, Persist, Position

START = Membership((NodeId(1), NodeId(2), NodeId(3)), book=b"three")
NOWHERE = Position(0, 0)


def normal(index: int, term: int, body: bytes = b"x") -> LogEntry:
    return LogEntry(term, index, EntryType.NORMAL, Entry(7, 1, body), len(body) + RECORD_BYTES)


def empty(index: int, term: int) -> LogEntry:
    return LogEntry(term, index, EntryType.EMPTY, None, RECORD_BYTES)


def change(index: int, term: int, membership: Membership) -> LogEntry:
    return LogEntry(term, index, EntryType.MEMBERSHIP, membership, len(pack_membership(membership)) + RECORD_BYTES)


class LogModel(NamedTuple):
    """``entries`` follow ``base``, at which ``start`` is in force."""

    state: HardState = HardState(0, NodeId(0))
    base: Position = NOWHERE
    start: Membership = START
    entries: tuple[LogEntry, ...] = ()

    @property
    def last(self) -> Position:
        return Position(self.entries[-1].index, self.entries[-1].term) if self.entries else self.base

    def position(self, index: int) -> Position:
        return (
            self.base if index == self.base.index else Position(index, self.entries[index - self.base.index - 1].term)
        )

    def membership_at(self, index: int) -> Membership:
        changes = [e.data for e in self.entries if e.index <= index and e.type is EntryType.MEMBERSHIP]
        return changes[-1] if changes else self.start

    def after(self, batch: Persist, entries: int | None = None) -> LogModel:
        """With the batch, or with only so many of its entries."""
        kept = self.entries
        if batch.truncate_from is not None:
            kept = kept[: batch.truncate_from - self.base.index - 1]
        return self._replace(state=batch.hard_state or self.state, entries=(*kept, *batch.entries[:entries]))

    def may_become(self, batch: Persist) -> list[LogModel]:
        """What a crash while the batch is written may leave."""
        voted = self._replace(state=batch.hard_state or self.state)
        return [self, voted, *(self.after(batch, n) for n in range(len(batch.entries) + 1))]

    def reset(self, position: Position, membership: Membership) -> LogModel:
        return LogModel(self.state, position, membership)

    def random_batch(self, dice: random.Random, floor: int) -> Persist:
        """What a core may ask for; entries up to ``floor`` are never cut off."""
        state, cut, term = self.state, None, max(self.state.term, 1)
        if dice.random() < 0.4:
            state = HardState(term + 1, NodeId(dice.randint(0, 3)))
            term = state.term
            if self.last.index > floor and dice.random() < 0.7:
                cut = dice.randint(floor + 1, self.last.index)
        first = cut or self.last.index + 1
        before = self.after(Persist(None, cut, [])).last.term
        count = dice.choice((0, 1, 1, 2, 3, 30))
        entries = [random_entry(dice, index, max(term, before)) for index in range(first, first + count)]
        return Persist(state if state != self.state else None, cut, entries)


def random_entry(dice: random.Random, index: int, term: int) -> LogEntry:
    sort = dice.random()
    if sort < 0.1:
        return empty(index, term)
    if sort < 0.2:
        return change(index, term, random_membership(dice))
    return normal(index, term, b"%d." % index + bytes(dice.choice((0, 10, 900, 3000, 9000, 30_000))))


def random_membership(dice: random.Random) -> Membership:
    nodes = sorted(dice.sample(range(1, 12), 7))
    sets = tuple(NodeId(n) for n in nodes)
    return Membership(sets[:3], sets[3:5], sets[5:], bytes([dice.randint(0, 255)]) * dice.choice((0, 30, 4096)))


def check(log: LogFiles, model: LogModel, low: int) -> None:
    """Everything from ``low`` on can be read, and is that of the model."""
    assert log.last_index == model.last.index
    wanted = [entry for entry in model.entries if entry.index >= low]
    found: list[LogEntry] = []
    while len(found) < len(wanted):
        more = log.read(low + len(found), 20_000)
        assert more
        found += more
    assert found == wanted
    assert log.read(model.last.index + 1, 1) is None
