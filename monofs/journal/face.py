"""The face of the journal: what a state machine gives it and what callers may ask of it.

Invariant: a result is handed to ``done`` only after its entry is fsynced on a majority of voters and applied here.
A single voter implements all of it; replication later changes nothing above this file. No reactor import here.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum
from typing import Any, Protocol

from monofs.model.entry import Entry as Entry
from monofs.model.errors import MonofsError
from monofs.model.ids import JournalIndex, Term

ENTRY_MAX_BYTES = 16 << 20
"""No entry body is larger; proposing one gives ``EntryTooLarge``."""


class StateMachine(Protocol):
    """What the journal drives. All calls come from one thread, in index order, never concurrently."""

    @property
    def applied_index(self) -> JournalIndex:
        """The last index applied, including what a restart found already durable."""

    def apply(self, index: JournalIndex, term: Term, entry: Entry) -> Any:
        """Change the state and return the result; an expected refusal is a ``MonofsError`` *returned*.

        A raised ``UnknownEntry`` or any other exception stops the node.
        """


class Consistency(StrEnum):
    """How fresh a read must be."""

    LINEARIZABLE = "linearizable"
    BOUNDED = "bounded"
    STALE = "stale"


class Role(StrEnum):
    """What this node is in the journal's group."""

    LEADER = "leader"
    FOLLOWER = "follower"


Done = Callable[[Any], None]
"""Receives an applied result, or a ``MonofsError`` (``NotLeader``, ``OutcomeUnknown``, ``EntryTooLarge``, ``Overloaded``, the
operation's own refusal). Called once, on the reactor thread, never from inside the call that took it."""


class Journal(Protocol):
    """What callers may ask. Everything is called on the reactor thread."""

    def propose(self, entry: Entry, done: Done) -> None:
        """Append, make durable, apply; then ``done(result)``. ``Overloaded`` when ``journal.queue_bytes`` are waiting."""

    def read_barrier(
        self, consistency: Consistency, done: Callable[[MonofsError | None], None], bound_s: float = 0.0
    ) -> None:
        """Call ``done(None)`` once a local read is as fresh as asked (may be called synchronously when it already is). ``bounded``: it shows
        everything acknowledged more than ``bound_s`` ago."""

    def check_leads(self) -> None:
        """Raise ``NotLeader``, naming who does if that is known, unless this member leads."""

    def on_role(self, listener: Callable[[Role, Term], None]) -> None:
        """Tell ``listener`` every change of role, and the present one at once if known."""

    def release(self, index: JournalIndex) -> None:
        """The state machine has made everything up to ``index`` durable itself: older segments may be reused."""

    def status(self) -> dict[str, Any]:
        """Role, term, first/last/applied index, segment count and bytes, fsync latency percentiles, queue length."""
