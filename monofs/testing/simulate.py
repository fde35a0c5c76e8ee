"""Run the simulated world over many seeds: ``python -m monofs.testing.simulate --seeds 10000``.

Seeds are printed before they run. One that fails is told with its reason, and kept in ``--keep`` (by default the file whose seeds the tests
run, when started at the top of a checkout). ``--seed N --trace`` shows all that happened in one. Exit code 1: a seed failed.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor

from monofs.testing.simulation.run import Report, simulate

KEPT = "tests/unit/journal/raft/seeds.txt"
_CHUNK = 20


def main(arguments: list[str] | None = None) -> int:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m monofs.testing.simulate", description=__doc__)
    parser.add_argument("--seeds", type=int, default=1000, help="how many seeds to run (1000)")
    parser.add_argument("--first", type=int, default=0, help="the first of them (0)")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes (one per core)")
    parser.add_argument("--seed", type=int, help="run this one seed only")
    parser.add_argument("--trace", action="store_true", help="with --seed: print everything that happens")
    parser.add_argument("--keep", default=KEPT, help=f"append seeds that fail to this file if it exists ({KEPT})")
    options = parser.parse_args(arguments)
    if options.seed is not None:
        return _one(options.seed, trace=options.trace)
    return _many(options.first, options.seeds, options.jobs, options.keep)


def _one(seed: int, *, trace: bool) -> int:
    _say(f"seed {seed}")
    report = simulate(seed, tracing=trace)
    for line in report.trace:
        _say(line)
    _say(_shown(report.counts))
    _say(f"seed {seed}: {report.failure or 'good'} ({report.operations} operations, {report.steps} events)")
    return 1 if report.failure else 0


def _many(first: int, count: int, jobs: int, keep: str) -> int:
    _say(f"seeds {first} to {first + count - 1}, {jobs} processes")
    counts: Counter[str] = Counter()
    failed = operations = steps = done = 0
    slowest = (0.0, first)
    for report in _reports(first, count, jobs):
        done += 1
        slowest = max(slowest, (report.calm_s, report.seed))
        counts += report.counts
        operations, steps = operations + report.operations, steps + report.steps
        if report.failure:
            failed += 1
            _say(f"seed {report.seed} FAILED: {report.failure}")
            _keep(keep, report)
        if done % 100 == 0:
            _say(f"{done} seeds run, {failed} failed")
    _say(_shown(counts))
    _say(
        f"{done} seeds, {operations} operations, {steps} events, longest recovery {slowest[0]:.1f} s (seed {slowest[1]}), {failed} failed"
    )
    return 1 if failed else 0


def _reports(first: int, count: int, jobs: int) -> Iterator[Report]:
    chunks = [range(at, min(at + _CHUNK, first + count)) for at in range(first, first + count, _CHUNK)]
    if jobs == 1:
        for chunk in chunks:
            yield from _run_chunk(chunk)
        return
    with ProcessPoolExecutor(jobs) as pool:
        for reports in pool.map(_run_chunk, chunks):
            yield from reports


def _run_chunk(seeds: range) -> list[Report]:
    _say(f"seeds {seeds.start} to {seeds.stop - 1}")
    return [simulate(seed) for seed in seeds]


def _keep(path: str, report: Report) -> None:
    if os.path.exists(path):
        with open(path, "a", encoding="utf-8") as file:
            file.write(f"{report.seed}  # {(report.failure or '')[:150]}\n")


def _shown(counts: Counter[str]) -> str:
    return "\n".join(f"{count:9} {what}" for what, count in sorted(counts.items()))


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
