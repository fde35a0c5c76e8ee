"""A small state machine for the simulated masters: a map of registers with a table of sessions, and a CRC over all it ever did.

It stands where the namespace does, and keeps its laws: a change is decided in ``apply``; a retry under the same request id gets the first
answer; the state is durable at a *flush* now and then, with the index and term it belongs to and the membership in force, so a restart
begins at the last flush and the log brings the rest. ``Image`` is such a state: what a flush leaves on disk and what a snapshot carries.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

from monofs.journal.face import Entry
from monofs.journal.raft.messages import Membership
from monofs.journal.wire import decode_membership

GET, PUT, CAS = "get", "put", "cas"


class Request(NamedTuple):
    """What a client asks. ``number`` counts the requests of a session from 1; 0: a get, which is not journaled."""

    session: str
    number: int
    kind: str
    key: str
    value: str | None = None
    expected: str | None = None


class Answer(NamedTuple):
    """``done``: a cas or put wrote; ``seen``: the value met before (of a get: the value)."""

    done: bool
    seen: str | None


@dataclass(frozen=True, slots=True)
class Image:
    """A whole state at ``index``. ``term``: that of the entry there."""

    index: int
    term: int
    membership: Membership
    crc: int
    values: dict[str, str | None]
    sessions: dict[str, tuple[int, Answer]]


TOO_OLD = "too old"
"""Result of a request whose session has gone on: it was not applied now."""


def encode(request: Request) -> Entry:
    """The entry that asks for this."""
    return Entry(1, 1, json.dumps(request).encode())


class Registers:
    """The machine. ``applied_index`` and ``applied_term`` tell how far it is; ``durable`` is the last flush."""

    def __init__(self, durable: Image) -> None:
        self.durable = durable
        self.applied_index, self.applied_term = durable.index, durable.term
        self.membership, self.crc = durable.membership, durable.crc
        self.values = dict(durable.values)
        self.sessions = dict(durable.sessions)
        self.held_back = False
        """Too much waits for a flush: nothing is applied meanwhile."""
        self.hear: Callable[[int, int], None] = lambda index, crc: None
        """Told (index, CRC) after each change."""

    def apply(self, index: int, term: int, entry: Entry) -> Any:
        """Decide and do; returns an ``Answer`` or ``TOO_OLD``."""
        request = Request(*json.loads(entry.body))
        result = self._decide(request)
        self._applied(index, term, entry.body + repr(result).encode())
        return result

    def _decide(self, request: Request) -> Any:
        number, answer = self.sessions.get(request.session, (0, None))
        if request.number == number:
            return answer
        if request.number < number:
            return TOO_OLD
        seen = self.values.get(request.key)
        done = request.kind == PUT or seen == request.expected
        if done:
            self.values[request.key] = request.value
        result = Answer(done, seen)
        self.sessions[request.session] = request.number, result
        return result

    def take_membership(self, index: int, term: int, membership: bytes) -> None:
        """A membership was committed."""
        self.membership = decode_membership(membership)
        self._applied(index, term, membership)

    def _applied(self, index: int, term: int, what: bytes) -> None:
        self.crc = zlib.crc32(what, zlib.crc32(b"%d %d " % (index, term), self.crc))
        self.applied_index, self.applied_term = index, term
        self.hear(index, self.crc)

    def image(self) -> Image:
        """The state now, to be kept or sent."""
        return Image(
            self.applied_index, self.applied_term, self.membership, self.crc, dict(self.values), dict(self.sessions)
        )

    def flush(self) -> None:
        """Make the state durable."""
        self.durable = self.image()
