"""The simulated world: what it finds in the product (nothing), that it finds what is planted, and that it can be believed.

`python -m monofs.testing.simulate --seeds 10000` runs many more seeds; those that ever failed are kept in seeds.txt and run here.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from planted_bugs import BUGS, FOUND, plan_of

from monofs.testing.simulate import main
from monofs.testing.simulation.events import MS, SECOND
from monofs.testing.simulation.run import Report, simulate
from monofs.testing.simulation.world import Plan

SEEDS = range(120)
KEPT = Path(__file__).with_name("seeds.txt")
REACHED = (
    "bit flip",
    "corruption refused",
    "crash",
    "cut",
    "election",
    "entries fetched from the disk",
    "joint membership",
    "leadership handed over",
    "membership change",
    "pause",
    "power cut inside a change of the disk",
    "read at a follower",
    "read under a lease",
    "snapshot installed",
    "stopped: DiskFull",
    "stopped: JournalFailed",
    "torn tail",
    "truncation",
    "unknown outcome",
)


@pytest.fixture(scope="module")
def reports() -> list[Report]:
    return [simulate(seed) for seed in SEEDS]


def test_nothing_is_lost_and_everything_recovers_in_the_fixed_seeds(reports: list[Report]) -> None:
    assert [(report.seed, report.failure) for report in reports if report.failure] == []
    assert sum(report.operations for report in reports) > 100 * len(SEEDS)


def test_the_fixed_seeds_reach_every_interesting_state(reports: list[Report]) -> None:
    counts: Counter[str] = sum((report.counts for report in reports), Counter())
    assert {what: counts[what] for what in REACHED if counts[what] < 5} == {}
    assert counts["undecided history"] == 0


def kept_seeds() -> list[int]:
    lines = (line.partition("#")[0].strip() for line in KEPT.read_text().splitlines())
    return [int(line) for line in lines if line]


def test_seeds_that_failed_once_hold_today() -> None:
    failures = [(report.seed, report.failure) for report in map(simulate, kept_seeds()) if report.failure]
    assert failures == []


def test_a_seed_always_tells_the_same_story() -> None:
    for seed in (3, 4):
        first, second = simulate(seed, tracing=True), simulate(seed, tracing=True)
        assert len(first.trace) > 500
        assert first.trace == second.trace
        assert first == second
        assert simulate(seed).counts == first.counts, "being watched changes nothing"
    assert simulate(3, tracing=True).digest != simulate(4, tracing=True).digest


@pytest.mark.parametrize("bug", BUGS)
def test_a_planted_bug_is_found(bug: str) -> None:
    """The first seed that finds it is known; a few more are tried, because small changes of the world move it."""
    first = FOUND[bug]
    for seed in (first, *(seed for seed in range(60) if seed != first)):
        report = simulate(seed, plan=plan_of(bug), make_world=BUGS[bug])
        if report.failure:
            return
    pytest.fail(f"no seed finds: {bug}")


def test_the_plans_of_planted_bugs_are_good_without_the_bugs() -> None:
    for bug, seed in FOUND.items():
        assert simulate(seed, plan=plan_of(bug)).failure is None, bug


def test_followers_answer_reads_although_a_round_takes_longer_than_they_wait_to_ask_again() -> None:
    """Each used to ask under a new number before the answer to the old one could be there."""
    report = simulate(1, plan=Plan(clients=5, troubles=frozenset(), delay_ns=150 * MS, storm_ns=15 * SECOND))
    assert report.failure is None
    assert report.counts["read at a follower"] > 20
    assert report.counts["read given up by a follower"] <= 2


def test_the_command_runs_seeds_and_shows_a_trace(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--seeds", "2", "--first", "7", "--jobs", "1", "--keep", ""]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith("seeds 7 to 8")
    assert "2 seeds" in shown
    assert main(["--seed", "7", "--trace"]) == 0
    assert capsys.readouterr().out.startswith("seed 7\n")
