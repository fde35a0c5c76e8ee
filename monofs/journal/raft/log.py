"""The log of one member, in memory: a window of its newest entries, runs of terms before it, memberships by index.

Invariant: indexes are contiguous, terms never fall, and the membership in force is that of the newest membership entry *in the log*,
committed or not (thesis 4.1): cutting the log brings the former one back. Entries leave the window once they are applied and the window
is full; their terms stay known down to `floor`, because the segments still hold them and a follower may need them.

What is durable: `persisted` is the last index known to be; `hand_over` gives what is not, `persist_done` says that it is. Not here: files.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from itertools import islice

from monofs.journal.raft.messages import MAX_APPEND_ENTRIES, EntryType, LogEntry, Membership, Position


class Log:
    __slots__ = (
        "_handed",
        "_in_flight_to",
        "_memberships",
        "_run_first",
        "_run_term",
        "_truncated_from",
        "_window",
        "first_in_window",
        "floor",
        "last_index",
        "last_term",
        "persisted",
        "window_bytes",
    )

    def __init__(
        self, base: Position, membership: Membership, entries: Sequence[LogEntry], older: Sequence[Position] = ()
    ) -> None:
        self._window: list[LogEntry]
        self._memberships: list[tuple[int, Membership]]
        self._truncated_from: int | None
        self.reset(base, membership)
        if older:
            self._run_first = [run.index for run in older]
            self._run_term = [run.term for run in older]
            self.floor = self._run_first[0]
            self._memberships = [(self.floor, membership)]
        self.append(entries)
        self.persisted = self._handed = self._in_flight_to = self.last_index

    def reset(self, position: Position, membership: Membership) -> None:
        """The log is what a snapshot of `position` holds, and nothing after it."""
        self.floor = position.index  # the oldest index whose term is known; entries after it can be had
        self._run_first = [position.index]
        self._run_term = [position.term]
        self._window = []
        self.first_in_window = position.index + 1
        self.window_bytes = 0
        self.last_index, self.last_term = position
        self._memberships = [(position.index, membership)]
        self.persisted = self._handed = self._in_flight_to = position.index
        self._truncated_from = None

    # --- reading --------------------------------------------------------------------------------------------------------------------

    @property
    def last(self) -> Position:
        return Position(self.last_index, self.last_term)

    @property
    def membership(self) -> Membership:
        return self._memberships[-1][1]

    @property
    def membership_index(self) -> int:
        return self._memberships[-1][0]

    @property
    def membership_before(self) -> Membership:
        """The one in force before the membership was changed last, as far as the log knows."""
        return self._memberships[-2:][0][1]

    def membership_at(self, index: int) -> Membership:
        """The membership in force at `index`, which is at least `floor`."""
        return next(membership for at, membership in reversed(self._memberships) if at <= index)

    def term(self, index: int) -> int | None:
        if index == self.last_index:
            return self.last_term
        if not self.floor <= index < self.last_index:
            return None
        if index >= self.first_in_window:
            return self._window[index - self.first_in_window].term
        return self._run_term[bisect_right(self._run_first, index) - 1]

    def holds(self, position: Position) -> bool:
        return self.term(position.index) == position.term

    def first_of_run(self, index: int) -> int:
        """The first known index of the run of entries whose term is that of `index`."""
        return self._run_first[bisect_right(self._run_first, index) - 1]

    def last_of_term(self, term: int, *, at_most: int) -> int | None:
        """The last index up to `at_most` whose entry has exactly `term`."""
        run = bisect_left(self._run_term, term)
        if run == len(self._run_term) or self._run_term[run] != term or self._run_first[run] > at_most:
            return None
        end = self._run_first[run + 1] - 1 if run + 1 < len(self._run_first) else self.last_index
        return min(end, at_most)

    def between(self, first: int, last: int) -> list[LogEntry]:
        """Entries `first`..`last`, both inclusive, all in the window."""
        return self._window[first - self.first_in_window : last + 1 - self.first_in_window]

    def size_between(self, first: int, last: int) -> int:
        return sum([entry.size_bytes for entry in self.between(first, last)])

    def batch(self, first: int, max_bytes: int) -> tuple[LogEntry, ...]:
        """Entries from `first` on for one Append: at least one, no more than `max_bytes` else."""
        start = first - self.first_in_window
        size = 0
        for count, entry in enumerate(self._window[start : start + MAX_APPEND_ENTRIES]):
            size += entry.size_bytes
            if size > max_bytes and count:
                return tuple(self._window[start : start + count])
        return tuple(self._window[start : start + MAX_APPEND_ENTRIES])

    # --- changing -------------------------------------------------------------------------------------------------------------------

    def append(self, entries: Sequence[LogEntry]) -> None:
        """Entries that follow the last one without a gap, terms not falling."""
        if not entries:
            return
        if entries[-1].term != self.last_term:
            self._note_runs(entries)
        for entry in entries:
            self.window_bytes += entry.size_bytes
            if entry.type == EntryType.MEMBERSHIP:
                self._memberships.append((entry.index, entry.data))
        self._extend(entries)

    def append_normal(self, entries: list[LogEntry], size_bytes: int) -> None:
        """The same for a leader's own normal entries of its term, which its first entry of the term has begun."""
        self.window_bytes += size_bytes
        self._extend(entries)

    def _extend(self, entries: Sequence[LogEntry]) -> None:
        self._window.extend(entries)
        last = entries[-1]
        self.last_index, self.last_term = last.index, last.term

    def _note_runs(self, entries: Sequence[LogEntry]) -> None:
        term = self.last_term
        for entry in entries:
            if entry.term != term:
                term = entry.term
                self._run_first.append(entry.index)
                self._run_term.append(term)

    def truncate(self, first: int) -> None:
        """Cut the entries from `first` on; a membership among them was never in force (4.1)."""
        cut = first - self.first_in_window
        self.window_bytes -= self.size_between(first, self.last_index)
        del self._window[cut:]
        while self._run_first[-1] >= first:
            self._run_first.pop()
            self._run_term.pop()
        while self._memberships[-1][0] >= first:
            self._memberships.pop()
        self.last_index, self.last_term = first - 1, self._run_term[-1]
        if self._handed >= first:
            self._handed = first - 1
            self._truncated_from = min(first, self._truncated_from or first)
        self._in_flight_to = min(self._in_flight_to, first - 1)
        self.persisted = min(self.persisted, first - 1)

    def trim(self, max_bytes: int, *, applied: int) -> None:
        """Let applied, durable entries out of the window down to three quarters of `max_bytes` (so that it is done rarely)."""
        if self.window_bytes <= max_bytes:
            return
        may_go = max(0, min(applied, self.persisted) + 1 - self.first_in_window)
        size, count, enough = self.window_bytes, 0, max_bytes * 3 // 4
        for entry in islice(self._window, may_go):
            if size <= enough:
                break
            size -= entry.size_bytes
            count += 1
        del self._window[:count]
        self.first_in_window += count
        self.window_bytes = size

    def compact(self, index: int) -> None:
        """Entries up to `index` can no longer be had; the term of `index` itself stays known."""
        if not self.floor < index <= self.last_index:
            return
        run = bisect_right(self._run_first, index) - 1
        del self._run_first[:run], self._run_term[:run]
        self._run_first[0] = self.floor = index
        while len(self._memberships) > 1 and self._memberships[1][0] <= index:
            del self._memberships[0]

    # --- durability -----------------------------------------------------------------------------------------------------------------

    @property
    def is_dirty(self) -> bool:
        return self._handed < self.last_index or self._truncated_from is not None

    def hand_over(self) -> tuple[int | None, list[LogEntry]]:
        """Where to cut the log on disk (or None) and what to append; `persist_done` follows before the next."""
        truncate_from, self._truncated_from = self._truncated_from, None
        entries = self.between(self._handed + 1, self.last_index)
        self._handed = self._in_flight_to = self.last_index
        return truncate_from, entries

    def persist_done(self) -> None:
        self.persisted = max(self.persisted, self._in_flight_to)
