"""A journal that behaves as one of several masters may: it loses leadership and does not know outcomes, at random but by seed.

``FlakyJournal`` stands over any journal, or over a bare state machine (then entries live in memory only). Invariant: it never lies. An
entry answered with a result was applied exactly once, at one index; ``NotLeader`` means it was not and will not be; ``OutcomeUnknown``
means one of: never applied, applied before the answer, applied after it. Roles alternate and each leadership has a higher term.
Durability is not here: see monofs/journal/single.py.
"""

from __future__ import annotations

import random
import sys
from collections import Counter
from collections.abc import Callable
from queue import Empty, SimpleQueue
from typing import Any, cast

from monofs.journal.face import ENTRY_MAX_BYTES, Consistency, Done, Entry, Journal, Role, StateMachine
from monofs.model.errors import AlreadyExists, DeadlineExceeded, EntryTooLarge, MonofsError, NotLeader, OutcomeUnknown
from monofs.model.ids import JournalIndex, Term

CallSoon = Callable[[Callable[[], None]], None]


class Turns:
    """A reactor's turns without a reactor: ``turns.call_soon`` from any thread, ``turns.run(until)`` on the one that tests."""

    def __init__(self) -> None:
        self._waiting: SimpleQueue[Callable[[], None]] = SimpleQueue()

    def call_soon(self, function: Callable[[], None]) -> None:
        """Run ``function`` in a later turn."""
        self._waiting.put(function)

    def run(self, until: Callable[[], bool], *, deadline_s: float = 60.0) -> None:
        """Turn until ``until()`` holds. Raises ``DeadlineExceeded`` when nothing comes any more."""
        while not until():
            try:
                self._waiting.get(timeout=deadline_s)()
            except Empty:
                raise DeadlineExceeded(f"nothing happened within {deadline_s} seconds") from None

    def run_waiting(self) -> None:
        """Run what waits now and what that adds, without waiting for other threads."""
        while not self._waiting.empty():
            self._waiting.get()()


class ListMachine:
    """The simplest state machine: it remembers every entry applied. Kind 0xFFFF is refused, 0xFFFE raises."""

    REFUSED, RAISES = 0xFFFF, 0xFFFE

    def __init__(self, applied_index: int = 0) -> None:
        self.applied_index = JournalIndex(applied_index)
        self.applied: list[tuple[int, int, Entry]] = []

    def apply(self, index: JournalIndex, term: Term, entry: Entry) -> Any:
        """Returns the index."""
        if entry.kind == self.RAISES:
            raise ValueError("this entry cannot be applied")
        self.applied_index = index
        self.applied.append((index, term, entry))
        return AlreadyExists("refused as asked") if entry.kind == self.REFUSED else index


class MemoryJournal:
    """A journal of one voter without a disk: entries are applied in order on the next turn. For tests of what stands above."""

    def __init__(self, machine: StateMachine, *, call_soon: CallSoon, term: int = 1) -> None:
        self.machine = machine
        self.term = Term(term)
        self._call_soon = call_soon

    def propose(self, entry: Entry, done: Done) -> None:
        """See ``face.Journal``."""
        if len(entry.body) > ENTRY_MAX_BYTES:
            error = EntryTooLarge(f"a change of {len(entry.body)} bytes is larger than {ENTRY_MAX_BYTES}: split it")
            self._call_soon(lambda: done(error))
            return
        self._call_soon(lambda: self._apply(entry, done))

    def _apply(self, entry: Entry, done: Done) -> None:
        done(self.machine.apply(JournalIndex(self.machine.applied_index + 1), self.term, entry))

    def read_barrier(
        self, consistency: Consistency, done: Callable[[MonofsError | None], None], bound_s: float = 0.0
    ) -> None:
        """Always fresh."""
        done(None)

    def check_leads(self) -> None:
        """It does."""

    def on_role(self, listener: Callable[[Role, Term], None]) -> None:
        """Leader for ever."""
        listener(Role.LEADER, self.term)

    def release(self, index: JournalIndex) -> None:
        """Nothing is kept."""

    def status(self) -> dict[str, Any]:
        """The keys of ``face.Journal``, as far as they mean something here."""
        applied = self.machine.applied_index
        return {"role": Role.LEADER.value, "term": self.term, "first_index": applied + 1, "last_index": applied,
                "applied_index": applied, "segments": 0, "bytes": 0, "queue_bytes": 0, "queue_entries": 0}  # fmt: skip


class FlakyJournal:
    """See the module. ``counts`` tells what was done to the callers: ``lost``, ``not_leader``, ``dropped``, ``early``, ``late``."""

    def __init__(
        self,
        inner: Journal | StateMachine,
        *,
        call_soon: CallSoon,
        seed: int | None = None,
        lose: float = 0.02,
        unknown: float = 0.05,
        away_turns: int = 5,
        hint: str | None = None,
    ) -> None:
        """``lose`` and ``unknown``: shares of proposals at which leadership is lost, or the outcome withheld. ``away_turns``: most
        turns of the reactor without leadership. ``hint``: what ``NotLeader`` names as leader (None: not known). The seed is printed."""
        self.seed = random.SystemRandom().getrandbits(32) if seed is None else seed
        sys.stderr.write(f"FlakyJournal seed {self.seed}\n")
        self.inner: Journal
        if hasattr(inner, "propose"):
            self.inner = cast(Journal, inner)
        else:
            self.inner = MemoryJournal(inner, call_soon=call_soon)
        self.counts: Counter[str] = Counter()
        self._random = random.Random(self.seed)
        self._call_soon = call_soon
        self._lose, self._unknown, self._away_turns, self._hint = lose, unknown, away_turns, hint
        self._listeners: list[Callable[[Role, Term], None]] = []
        self._inner_role: tuple[Role, Term] | None = None
        self._away = False
        self._term_raise = 0
        self._told: tuple[Role, Term] | None = None
        self.inner.on_role(self._inner_changed)

    # ---- roles ----------------------------------------------------------------------------------------------------------

    def on_role(self, listener: Callable[[Role, Term], None]) -> None:
        """See ``face.Journal``."""
        self._listeners.append(listener)
        if self._told is not None:
            listener(*self._told)

    def _inner_changed(self, role: Role, term: Term) -> None:
        self._inner_role = role, term
        self._tell()

    def _tell(self) -> None:
        if self._inner_role is None:
            return
        role, term = self._inner_role
        now = (Role.FOLLOWER if self._away else role), Term(term + self._term_raise)
        if self._told is None or now[0] is not self._told[0]:
            self._told = now
            for listener in list(self._listeners):
                listener(*now)

    def lose_leadership(self) -> None:
        """Step down now; come back by itself within ``away_turns`` turns of the reactor, with a higher term."""
        if self._away:
            return
        self.counts["lost"] += 1
        self._away = True
        self._tell()
        self._count_down(self._random.randint(1, self._away_turns))

    def _count_down(self, turns: int) -> None:
        if turns:
            self._call_soon(lambda: self._count_down(turns - 1))
            return
        self._away = False
        self._term_raise += 1
        self._tell()

    # ---- the rest of the face -------------------------------------------------------------------------------------------

    def propose(self, entry: Entry, done: Done) -> None:
        """See ``face.Journal``; the dice are thrown here."""
        if not self._away and self._random.random() < self._lose:
            self.lose_leadership()
        if self._away:
            self.counts["not_leader"] += 1
            self._call_soon(lambda: done(self._not_leader()))
        elif self._random.random() < self._unknown:
            self._withhold(entry, done)
        else:
            term = self._term_raise
            self.inner.propose(entry, lambda result: self._answer(done, result, term))

    def _withhold(self, entry: Entry, done: Done) -> None:
        fate = self._random.choice(("dropped", "early", "late"))
        self.counts[fate] += 1
        error = OutcomeUnknown("leadership was lost while the change was on its way: retry under the same request id")
        if fate == "early":  # applied, and then the answer is lost
            self.inner.propose(entry, lambda _result: done(error))
            return
        self._call_soon(lambda: done(error))
        if fate == "late":  # the answer first; the entry is applied by whoever leads next
            self._call_soon(lambda: self.inner.propose(entry, lambda _result: None))

    def _answer(self, done: Done, result: Any, term: int) -> None:
        """A leader deposed since does not know whether its entry was committed, although here it was."""
        if self._away or term != self._term_raise:
            self.counts["early"] += 1
            result = OutcomeUnknown(
                "leadership was lost before the change was committed: retry under the same request id"
            )
        done(result)

    def _not_leader(self) -> NotLeader:
        return NotLeader("this master does not lead: ask another", leader=self._hint)

    def check_leads(self) -> None:
        """See ``face.Journal``."""
        if self._away:
            raise self._not_leader()

    def read_barrier(
        self, consistency: Consistency, done: Callable[[MonofsError | None], None], bound_s: float = 0.0
    ) -> None:
        """See ``face.Journal``: without leadership only ``linearizable`` reads are refused."""
        if self._away and consistency is Consistency.LINEARIZABLE:
            self.counts["not_leader"] += 1
            done(self._not_leader())
        else:
            self.inner.read_barrier(consistency, done, bound_s)

    def release(self, index: JournalIndex) -> None:
        """See ``face.Journal``."""
        self.inner.release(index)

    def status(self) -> dict[str, Any]:
        """That of the journal below, with the role and term told last."""
        shown = self.inner.status()
        if self._told is not None:
            shown |= {"role": self._told[0].value, "term": self._told[1]}
        return shown
