"""Is a history of concurrent operations on a map of registers linearizable? Wing & Gong's search with Lowe's memoisation.

Each key is judged alone (linearizability is local: Herlihy & Wing 1990, theorem 1). A search state is the set of operations that have
taken effect and the register's value; a state seen before is not entered again (Lowe, "Testing for linearizability", 2017). An operation
that reads, legal here and now, takes effect at once and for good: moving it to the front of any continuation changes nothing for the
others. So only writes branch, and a history with little concurrency costs about its length. Operations whose outcome was never learnt
stay open for ever: they may take effect at any moment after their call, or never. Invariant: "not linearizable" is only said after the
whole space was searched, "linearizable" only of an order that was found; beyond ``states_max`` the answer is "undecided".
Recording histories is not here; an operation that surely had no effect is simply left out of one.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Iterable
from enum import StrEnum
from typing import NamedTuple

STATES_MAX = 2_000_000
"""Search states for one key; more give ``Undecided``."""

UNSEEN = "<not told>"
"""As ``Operation.seen`` of a compare-and-set that failed without telling which value it met."""

Value = Hashable
"""What a register holds; None: the key is absent."""


class Kind(StrEnum):
    """What an operation does."""

    GET = "get"
    PUT = "put"
    CAS = "cas"


class Operation(NamedTuple):
    """One call of a client. ``called`` and ``returned`` are positions in one total order of all calls and returns.

    ``returned`` None: the outcome is unknown. ``value`` is written by put and cas, ``expected`` is compared by cas (put of None deletes).
    ``seen`` is what get returned, and what a failed cas found; ``done``: the cas wrote.
    """

    kind: Kind
    key: Hashable
    called: int
    returned: int | None
    value: Value = None
    expected: Value = None
    seen: Value = None
    done: bool = True
    client: Hashable = None


class Linearizable(NamedTuple):
    """An order was found for every key. ``states`` counts search states."""

    states: int


class NotLinearizable(NamedTuple):
    """No order exists for ``key``. ``stuck``: of the longest order found, the operations of which one had to come next, and the value then."""

    key: Hashable
    stuck: tuple[Operation, ...]
    value: Value
    states: int


class Undecided(NamedTuple):
    """The search of ``key`` met its bound; every other key is linearizable or undecided, too."""

    key: Hashable
    states: int


Verdict = Linearizable | NotLinearizable | Undecided


def check(history: Iterable[Operation], *, initial: Value = None, states_max: int = STATES_MAX) -> Verdict:
    """Judge a history; keys hold ``initial`` before it. A key that is wrong outweighs one that is undecided."""
    keys: defaultdict[Hashable, list[Operation]] = defaultdict(list)
    for operation in history:
        keys[operation.key].append(operation)
    undecided: Undecided | None = None
    states = 0
    for operations in keys.values():
        verdict = _Search(operations, initial, states_max).run()
        states += verdict.states
        if isinstance(verdict, NotLinearizable):
            return verdict
        if isinstance(verdict, Undecided):
            undecided = verdict
    return undecided or Linearizable(states)


class _Search:
    """The search over one key.

    A state is (base, mask, open mask, value): completed operations in order of their calls, all before ``base`` and those whose bit is set
    in ``mask`` (bit 0 is ``base``) have taken effect; so a state's size follows the concurrency, not the length of the history.
    """

    def __init__(self, operations: list[Operation], initial: Value, states_max: int) -> None:
        self.key = operations[0].key
        self.done = sorted((o for o in operations if o.returned is not None), key=lambda o: o.called)
        self.open = _useful(self.done, [o for o in operations if o.returned is None and o.kind is not Kind.GET])
        self.initial = initial
        self.states_max = states_max

    def run(self) -> Verdict:
        total = len(self.done)
        first = (0, 0, 0, self.initial)
        seen = {first}
        stack = [first]
        best, best_count = first, -1
        while stack:
            base, mask, opened, value = stack.pop()
            base, mask = self._read(base, mask, value)
            if base == total:
                return Linearizable(len(seen))
            count = base + mask.bit_count()
            if count > best_count:
                best, best_count = (base, mask, opened, value), count
            for state in self._writes(base, mask, opened, value):
                if state not in seen:
                    if len(seen) >= self.states_max:
                        return Undecided(self.key, len(seen))
                    seen.add(state)
                    stack.append(state)
        base, mask, _, value = best
        stuck = tuple(self.done[i] for i in self._callable(base, mask))
        return NotLinearizable(self.key, stuck, value, len(seen))

    def _callable(self, base: int, mask: int) -> list[int]:
        """Completed operations that may take effect next: those called before the first pending one returned."""
        found, limit = [], None
        for index in range(base, len(self.done)):
            operation = self.done[index]
            if limit is not None and operation.called > limit:
                break
            if not mask >> (index - base) & 1:
                found.append(index)
                returned = operation.returned
                limit = returned if limit is None or (returned is not None and returned < limit) else limit
        return found

    def _read(self, base: int, mask: int, value: Value) -> tuple[int, int]:
        """Let all that is pending, legal and changes nothing take effect."""
        while True:
            taken = 0
            for index in self._callable(base, mask):
                operation = self.done[index]
                if operation.kind is Kind.GET:
                    legal = operation.seen == value
                elif operation.kind is Kind.CAS and not operation.done:
                    legal = operation.expected != value and operation.seen in (value, UNSEEN)
                else:
                    continue
                if legal:
                    taken |= 1 << (index - base)
            if not taken:
                return base, mask
            base, mask = _normal(base, mask | taken)

    def _writes(self, base: int, mask: int, opened: int, value: Value) -> list[tuple[int, int, int, Value]]:
        """The states that one write leads to; open ones first, so that completed ones are tried before them."""
        states = []
        pending = self._callable(base, mask)
        limit = min(self.done[index].returned or 0 for index in pending)
        for number, operation in enumerate(self.open):
            if operation.called > limit:
                break
            if not opened >> number & 1 and (operation.kind is Kind.PUT or operation.expected == value):
                states.append((base, mask, opened | 1 << number, operation.value))
        for index in reversed(pending):
            operation = self.done[index]
            if operation.kind is Kind.PUT or (
                operation.kind is Kind.CAS and operation.done and operation.expected == value
            ):
                states.append((*_normal(base, mask | 1 << (index - base)), opened, operation.value))
        return states


def _normal(base: int, mask: int) -> tuple[int, int]:
    """Move ``base`` over the operations that have taken effect."""
    over = (~mask & (mask + 1)).bit_length() - 1  # the lowest zero bit
    return base + over, mask >> over


def _useful(done: list[Operation], unknown: list[Operation]) -> list[Operation]:
    """The open writes that can matter, by call: those whose value was met by a completed operation or by a useful open cas.

    Taking any other out of an order leaves it legal, because nothing in it says that the value was ever there.
    """
    met: set[Value] = set()
    for operation in done:
        if operation.kind is Kind.GET:
            met.add(operation.seen)
        elif operation.kind is Kind.CAS:
            if not operation.done and operation.seen == UNSEEN:
                return sorted(unknown, key=lambda o: o.called)  # it met some value or other: any could be it
            met.add(operation.expected if operation.done else operation.seen)
    while True:
        useful = [o for o in unknown if o.value in met]
        more = {o.expected for o in useful if o.kind is Kind.CAS} - met
        if not more:
            return sorted(useful, key=lambda o: o.called)
        met |= more
