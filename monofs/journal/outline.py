"""What a log is without its entries: where it begins and ends, the terms of its entries, its memberships, and where entries lie.

Invariant: after the same cuts and extensions two outlines are equal, whether they were made by writing or by reading back. Everything is
bounded by what is retained: a run for each term, an item for each membership, a place for each 256 KiB. One thread changes it; another may
copy its lists at any time. Bytes and files are not here.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from typing import NamedTuple

from monofs.journal.raft.messages import Membership, Position

PLACE_BYTES = 256 << 10
"""How far apart the places kept in memory are: what is read in vain to find an entry."""


class Place(NamedTuple):
    """The frame that begins with entry ``first_index`` stands at byte ``offset`` of the segment ``serial``."""

    first_index: int
    serial: int
    offset: int


class Cut(NamedTuple):
    """Entries ``first_index`` to ``last_index`` are discarded; what is before ends in ``term`` and has ``membership``."""

    first_index: int
    term: int
    last_index: int
    membership: Membership


class Outline:
    """``terms[0]`` is the position before the first entry; the others are (first index, term) of each run of one term. Term 0 there means
    that it is not known. ``memberships`` are (index, membership), the first one in force at the beginning."""

    def __init__(self, base: Position, membership: Membership) -> None:
        self.last_index = base.index
        self.terms = [base]
        self.memberships = [(base.index, membership)]
        self.places: list[Place] = []
        self._apart = True  # the next frame gets a place of its own

    @property
    def base(self) -> Position:
        """The position before the first entry."""
        return self.terms[0]

    @property
    def last(self) -> Position:
        """The position of the last entry."""
        return Position(self.last_index, self.terms[-1].term)

    @property
    def membership(self) -> Membership:
        """The one in force at the end."""
        return self.memberships[-1][1]

    def term_of(self, index: int) -> int | None:
        """The term of an entry or of the base (0: not known); None outside."""
        return term_in(self.terms, index) if index <= self.last_index else None

    def membership_at(self, index: int) -> Membership:
        """The one in force at ``index``, which is not below the base."""
        return next(membership for at, membership in reversed(self.memberships) if at <= index or at == self.base.index)

    def cut_at(self, first_index: int) -> Cut:
        """The cut that discards everything from ``first_index`` on."""
        term = self.term_of(first_index - 1) or 0
        return Cut(first_index, term, self.last_index, self.membership_at(first_index - 1))

    def cut(self, cut: Cut) -> bool:
        """Discard; False when the cut contradicts what is known. A cut below the base lowers the base."""
        before = Position(cut.first_index - 1, cut.term)
        if cut.last_index != self.last_index or cut.first_index > cut.last_index:
            return False
        if before.index < self.base.index:
            self.terms, self.memberships, self.places = [before], [(before.index, cut.membership)], []
        else:
            known = self.term_of(before.index)
            if known and known != cut.term:
                return False
            while self.terms[-1].index > before.index:
                self.terms.pop()
            while self.memberships[-1][0] > before.index:
                self.memberships.pop()
            while self.places and self.places[-1].first_index > before.index:
                self.places.pop()
            if self.membership != cut.membership:
                return False
        self.last_index = before.index
        self._apart = True
        return True

    def extend(
        self,
        count: int,
        runs: Sequence[Position],
        memberships: Sequence[tuple[int, Membership]],
        *,
        serial: int,
        offset: int,
    ) -> None:
        """``count`` entries follow, written at that place; ``runs``: where among them a term begins that is not the one before."""
        if not count:
            return
        places = self.places
        if self._apart or not places or places[-1].serial != serial or offset - places[-1].offset >= PLACE_BYTES:
            places.append(Place(self.last_index + 1, serial, offset))
            self._apart = False
        self.terms.extend(runs)
        self.memberships.extend(memberships)
        self.last_index += count

    def drop_before(self, serial: int) -> None:
        """Segments older than ``serial`` are gone."""
        places = self.places
        gone = next((n for n, place in enumerate(places) if place.serial >= serial), len(places))
        if gone:
            self.drop_to((places[gone].first_index if gone < len(places) else self.last_index + 1) - 1)
            del places[:gone]

    def drop_to(self, index: int) -> None:
        """The log begins behind ``index``."""
        self.terms[:] = [Position(index, self.term_of(index) or 0), *(run for run in self.terms if run.index > index)]
        later = [(at, membership) for at, membership in self.memberships if at > index]
        self.memberships[:] = [(index, self.membership_at(index)), *later]


def term_in(terms: Sequence[Position], index: int) -> int | None:
    """The term of ``index`` among runs (the first is the base); None before them."""
    at = bisect_right(terms, index, key=lambda run: run.index) - 1
    return terms[at].term if at >= 0 else None
