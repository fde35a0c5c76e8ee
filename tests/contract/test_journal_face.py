"""What every journal keeps, whoever stands behind the face: the single voter, and the double that loses leadership."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from monofs.config.schema import JournalConfig
from monofs.journal.face import ENTRY_MAX_BYTES, Consistency, Entry, Journal, Role
from monofs.journal.single import SingleVoter
from monofs.model.errors import EntryTooLarge, NotLeader, OutcomeUnknown
from monofs.testing.journal import FlakyJournal, ListMachine, MemoryJournal, Turns

Made = tuple[Journal, ListMachine, Turns]


def single(directory: Path, turns: Turns, machine: ListMachine) -> SingleVoter:
    def fail(error: BaseException) -> None:
        raise error

    voter = SingleVoter(str(directory), machine, JournalConfig(), call_soon=turns.call_soon, on_failure=fail)
    voter.start()
    return voter


@pytest.fixture(params=["single", "memory", "flaky over single", "flaky over machine"])
def made(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Made]:
    turns, machine = Turns(), ListMachine()
    voter = single(tmp_path / "j", turns, machine) if "single" in request.param else None
    journal: Journal
    if request.param == "memory":
        journal = MemoryJournal(machine, call_soon=turns.call_soon)
    elif "flaky" in request.param:
        journal = FlakyJournal(voter or machine, call_soon=turns.call_soon, seed=7, hint="127.0.0.1:19998")
    else:
        assert voter is not None
        journal = voter
    yield journal, machine, turns
    if voter is not None:
        voter.stop()


def run(made: Made, count: int) -> dict[int, Any]:
    journal, _, turns = made
    results: dict[int, Any] = {}

    def answer(n: int) -> Callable[[Any], None]:
        def done(result: Any) -> None:
            assert n not in results, "answered once"
            results[n] = result

        return done

    for n in range(count):
        journal.propose(Entry(1, 1, b"%d" % n), answer(n))
        assert n not in results, "never from inside the call"
        if n % 50 == 0:
            turns.run_waiting()
    turns.run(lambda: len(results) == count)
    return results


def test_an_answer_is_the_truth(made: Made) -> None:
    results = run(made, 2000)
    made[2].run_waiting()
    applied = [entry.body for _, _, entry in made[1].applied]
    assert len(set(applied)) == len(applied), "no entry is applied twice"
    at = {body: index for index, _, entry in made[1].applied for body in [entry.body]}
    for n, result in results.items():
        if isinstance(result, NotLeader):
            assert b"%d" % n not in at
        elif not isinstance(result, OutcomeUnknown):
            assert at[b"%d" % n] == result


def test_indexes_are_applied_without_a_gap(made: Made) -> None:
    run(made, 500)
    assert [index for index, _, _ in made[1].applied] == list(range(1, len(made[1].applied) + 1))


def test_roles_alternate_and_each_leadership_has_a_higher_term(made: Made) -> None:
    roles: list[tuple[Role, int]] = []
    made[0].on_role(lambda role, term: roles.append((role, term)))
    assert roles[0][0] is Role.LEADER
    run(made, 1000)
    made[2].run_waiting()
    assert all(a[0] is not b[0] for a, b in pairwise(roles))
    terms = [term for role, term in roles if role is Role.LEADER]
    assert terms == sorted(set(terms))
    assert roles[-1][0] is Role.LEADER, "leadership comes back by itself"


def test_a_stale_read_needs_no_leader(made: Made) -> None:
    answers: list[Any] = []
    for _ in range(100):
        made[0].read_barrier(Consistency.STALE, answers.append)
    made[2].run_waiting()
    assert answers == [None] * 100


def test_an_entry_too_large_is_refused(made: Made) -> None:
    results: list[Any] = []
    while not results or isinstance(results[-1], NotLeader | OutcomeUnknown):
        count = len(results)
        made[0].propose(Entry(1, 1, bytes(ENTRY_MAX_BYTES + 1)), results.append)
        made[2].run(lambda count=count: len(results) > count)
    assert isinstance(results[-1], EntryTooLarge)
    assert made[1].applied == []


def test_status_has_the_agreed_keys(made: Made) -> None:
    run(made, 10)
    status = made[0].status()
    assert status.keys() >= {
        "role",
        "term",
        "first_index",
        "last_index",
        "applied_index",
        "segments",
        "bytes",
        "queue_bytes",
    }
    assert status["applied_index"] == made[1].applied_index
    made[0].release(made[1].applied_index)


def test_the_double_does_all_it_may(capsys: pytest.CaptureFixture[str]) -> None:
    turns, machine = Turns(), ListMachine()
    journal = FlakyJournal(machine, call_soon=turns.call_soon, lose=0.05, unknown=0.2, hint="here:1")
    assert capsys.readouterr().err == f"FlakyJournal seed {journal.seed}\n"
    results = run((journal, machine, turns), 2000)
    turns.run_waiting()
    assert all(journal.counts[fate] for fate in ("lost", "not_leader", "dropped", "early", "late"))
    hints = {result.detail["leader"] for result in results.values() if isinstance(result, NotLeader)}
    assert hints == {"here:1"}
    unknown = [n for n, result in results.items() if isinstance(result, OutcomeUnknown)]
    bodies = {entry.body for _, _, entry in machine.applied}
    assert {b"%d" % n in bodies for n in unknown} == {True, False}


def test_the_same_seed_does_the_same(tmp_path: Path) -> None:
    runs = []
    for _ in range(2):
        turns, machine = Turns(), ListMachine()
        results = run((FlakyJournal(machine, call_soon=turns.call_soon, seed=3), machine, turns), 500)
        runs.append([type(results[n]).__name__ for n in range(500)])
    assert runs[0] == runs[1]
