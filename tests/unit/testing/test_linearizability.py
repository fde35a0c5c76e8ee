"""The checker against histories known to be good and bad, and against a slow one that tries every order."""

from __future__ import annotations

import itertools
import random

from monofs.testing.linearizability import (
    UNSEEN,
    Kind,
    Linearizable,
    NotLinearizable,
    Operation,
    Undecided,
    Value,
    check,
)


def put(value: Value, called: int, returned: int | None, key: str = "k") -> Operation:
    return Operation(Kind.PUT, key, called, returned, value=value)


def get(seen: Value, called: int, returned: int | None, key: str = "k") -> Operation:
    return Operation(Kind.GET, key, called, returned, seen=seen)


def cas(expected: Value, value: Value, called: int, returned: int | None) -> Operation:
    return Operation(Kind.CAS, "k", called, returned, value=value, expected=expected)


def failed(expected: Value, seen: Value, called: int, returned: int | None) -> Operation:
    return Operation(Kind.CAS, "k", called, returned, value="never", expected=expected, seen=seen, done=False)


def is_good(*history: Operation) -> bool:
    verdict = check(history)
    assert not isinstance(verdict, Undecided)
    return isinstance(verdict, Linearizable)


def test_what_happened_one_after_the_other_must_agree_in_that_order() -> None:
    assert is_good(get(None, 1, 2), put("a", 3, 4), get("a", 5, 6), cas("a", "b", 7, 8), get("b", 9, 10))
    assert is_good(put("a", 1, 2), put(None, 3, 4), get(None, 5, 6))
    assert not is_good(put("a", 1, 2), cas("x", "b", 3, 4))


def test_concurrent_operations_may_take_effect_in_any_order() -> None:
    assert is_good(put("a", 1, 10), put("b", 2, 9), get("b", 3, 4), get("a", 5, 6))
    assert is_good(put("a", 1, 10), get(None, 2, 3), get("a", 4, 5))
    assert not is_good(put("a", 1, 10), get("a", 2, 3), get(None, 4, 5)), "once seen, a write stays seen"


def test_a_stale_read_is_found() -> None:
    verdict = check([put("a", 1, 2), put("b", 3, 4), get("a", 5, 6)])
    assert isinstance(verdict, NotLinearizable)
    assert verdict.key == "k"
    assert verdict.stuck == (get("a", 5, 6),)
    assert verdict.value == "b"


def test_a_lost_write_is_found() -> None:
    assert not is_good(put("a", 1, 2), get(None, 3, 4))
    assert not is_good(put("a", 1, 2), cas("a", "b", 3, 4), get("a", 5, 6))
    assert not is_good(cas(None, "a", 1, 5), cas(None, "b", 2, 6)), "only one of two may win"


def test_a_read_from_the_future_is_found() -> None:
    assert not is_good(get("a", 1, 2), put("a", 3, 4))
    assert not is_good(get("a", 1, 2), put("a", 3, None)), "also when the write's outcome is unknown"


def test_an_unknown_outcome_may_take_effect_late_or_never() -> None:
    assert is_good(put("a", 1, None), put("b", 2, 3), get("b", 4, 5), get("a", 6, 7))
    assert is_good(put("a", 1, None), put("b", 2, 3), get("b", 4, 5), get("b", 6, 7))
    assert not is_good(put("a", 1, None), put("b", 2, 3), get("a", 4, 5), get("b", 6, 7)), "but not undone"


def test_an_unknown_outcome_takes_effect_once() -> None:
    assert not is_good(put("a", 1, None), put("b", 2, 3), get("a", 4, 5), put("c", 6, 7), get("a", 8, 9))
    assert is_good(put("a", 1, None), put("c", 2, None), get("a", 4, 5), get("c", 8, 9))


def test_unknown_outcomes_may_build_on_each_other() -> None:
    assert is_good(put("a", 1, None), cas("a", "b", 2, None), cas("b", "c", 3, None), get(None, 4, 5), get("c", 6, 7))
    assert not is_good(put("a", 1, None), cas("x", "b", 2, None), get("b", 6, 7))


def test_a_write_applied_twice_is_found() -> None:
    assert not is_good(put("a", 1, 2), put("b", 3, 4), get("b", 5, 6), get("a", 7, 8))
    assert not is_good(cas(None, "a", 1, 2), cas("a", None, 3, 4), get(None, 5, 6), get("a", 7, 8))


def test_a_failed_cas_met_another_value() -> None:
    assert is_good(put("a", 1, 2), failed("b", "a", 3, 4))
    assert is_good(put("a", 1, 2), failed("b", UNSEEN, 3, 4))
    assert not is_good(put("a", 1, 2), failed("a", UNSEEN, 3, 4))
    assert not is_good(put("a", 1, 2), failed("b", "c", 3, 4))
    assert is_good(put("a", 1, 2), put("x", 3, None), failed("a", UNSEEN, 4, 5)), "the open write explains it"


def test_keys_are_judged_apart() -> None:
    assert is_good(put("a", 1, 2, key="x"), get(None, 3, 4, key="y"))
    verdict = check([put("a", 1, 2, key="x"), put("b", 1, 2, key="y"), get(None, 3, 4, key="y")])
    assert isinstance(verdict, NotLinearizable)
    assert verdict.key == "y"


def test_a_search_beyond_its_bound_is_undecided() -> None:
    # Many concurrent writes, none read, and then a read of something never written: every subset must be tried.
    history = [put(n, n, 100 + n) for n in range(20)] + [get("never", 200, 201)]
    verdict = check(history, states_max=5000)
    assert verdict == Undecided("k", 5000)
    wrong = check([*history, get("never", 1, 2, key="l")], states_max=5000)
    assert isinstance(wrong, NotLinearizable), "a key that is wrong outweighs one that is undecided"


def test_a_long_history_costs_about_its_length() -> None:
    history, value = _simulated(random.Random(7), operations=30_000, clients=6, keys=3)
    verdict = check(history)
    assert isinstance(verdict, Linearizable)
    assert verdict.states < 4 * len(history)
    lost = [*history, Operation(Kind.GET, "k0", 10**9, 10**9 + 1, seen="nobody wrote this")]
    assert isinstance(check(lost), NotLinearizable)
    assert value


def test_the_checker_agrees_with_one_that_tries_every_order() -> None:
    dice = random.Random(11)
    verdicts = []
    for _ in range(1500):
        history = _anything(dice)
        good = _try_every_order(history)
        assert isinstance(check(history), Linearizable) == good, history
        verdicts.append(good)
    assert 300 < sum(verdicts) < 1200, "both kinds were tried"


def _anything(dice: random.Random) -> list[Operation]:
    """A few operations with overlapping calls over few values; often linearizable, often not."""
    positions = list(range(2 * 5))
    dice.shuffle(positions)
    history = []
    for n in range(dice.randint(2, 5)):
        called, returned = sorted(positions[2 * n : 2 * n + 2])
        end = None if dice.random() < 0.25 else returned
        kind = dice.choice(list(Kind))
        values = [None, "a", "b"]
        seen = dice.choice([*values, UNSEEN]) if kind is Kind.CAS else dice.choice(values)
        history.append(
            Operation(kind, "k", called, end, dice.choice(values), dice.choice(values), seen, dice.random() < 0.6)
        )
    return history


def _try_every_order(history: list[Operation]) -> bool:
    done = [o for o in history if o.returned is not None]
    unknown = [o for o in history if o.returned is None]
    for count in range(len(unknown) + 1):
        for chosen in itertools.combinations(unknown, count):
            if any(_is_legal(order) for order in itertools.permutations([*done, *chosen])):
                return True
    return False


def _is_legal(order: tuple[Operation, ...]) -> bool:
    value: Value = None
    for position, operation in enumerate(order):
        if any(later.returned is not None and later.returned < operation.called for later in order[position + 1 :]):
            return False
        unknown = operation.returned is None
        if operation.kind is Kind.GET:
            if not unknown and operation.seen != value:
                return False
        elif operation.kind is Kind.PUT:
            value = operation.value
        else:
            wrote = operation.expected == value
            if not unknown and wrote != operation.done:
                return False
            if not unknown and not wrote and operation.seen not in (value, UNSEEN):
                return False
            value = operation.value if wrote else value
    return True


def _simulated(dice: random.Random, *, operations: int, clients: int, keys: int) -> tuple[list[Operation], Value]:
    """A history of a real register: each operation takes effect at a moment between call and return; some never answer."""
    registers: dict[str, Value] = {f"k{n}": None for n in range(keys)}
    open_: list[Operation | None] = [None] * clients
    effects: list[Operation | None] = [None] * clients
    history: list[Operation] = []
    clock = 0
    while len(history) < operations:
        clock += 1
        client = dice.randrange(clients)
        asked, effect = open_[client], effects[client]
        if asked is None:
            key = f"k{dice.randrange(keys)}"
            expected = registers[key] if dice.random() < 0.5 else "other"
            open_[client] = Operation(dice.choice(list(Kind)), key, clock, None, f"v{clock}", expected)
        elif effect is None:
            value = registers[asked.key]  # type: ignore[index]
            wrote = asked.kind is Kind.PUT or (asked.kind is Kind.CAS and asked.expected == value)
            if wrote:
                registers[asked.key] = asked.value  # type: ignore[index]
            effects[client] = asked._replace(seen=value, done=wrote)
        else:
            history.append(effect if dice.random() < 0.01 else effect._replace(returned=clock))
            open_[client] = effects[client] = None
    return history, registers["k0"]
