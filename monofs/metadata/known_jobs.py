"""The jobs remembered: the open ones kept decoded in memory, of those that ended where they stand in the order of ending; and what tree jobs *cover*.

A tree job (DELETE, MOVE) covers the natural keys below its prefix: while it is open the store shows there what the tree has left behind, so
nothing of it is adopted. What was read from the store before the job's end is not believed after it either; hence the ended ones count
as long as they are remembered.

Invariant: equal to the table ``jobs``. An ended job costs a few hundred bytes here, whatever it tells.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import Counter
from collections.abc import Iterator
from operator import attrgetter
from typing import NamedTuple

import msgspec

from monofs.metadata.store import Store
from monofs.metadata.tables import JOBS, Job, JobKind, JobState, decode_job, pack_id
from monofs.model.paths import Parts, is_prefix, parse_path

_PAGE = 1000
OPEN_STATES = frozenset({JobState.RUNNING, JobState.PAUSED})
TREE_KINDS = frozenset({JobKind.DELETE, JobKind.MOVE})


class Ended(NamedTuple):
    """An ended job. ``size``: bytes of its record."""

    at_index: int
    size: int
    kind: int
    state: int


class KnownJobs:
    """All jobs."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.open: dict[int, Job] = {}
        """By number, oldest first."""
        self.open_trees: dict[int, Job] = {}
        self.is_moving = False
        """Whether a MOVE job is open: only then do records lie in their store elsewhere than their path says."""
        self.counts: Counter[tuple[int, int]] = Counter()
        """(kind, state) → how many."""
        self.ended_bytes = 0
        """Of the records of all that ended."""
        self._ended: dict[int, Ended] = {}
        self._order: list[tuple[int, int]] = []
        """(index of its end, number) of those that ended, in order."""
        self._ended_trees: list[Job] = []
        """By the index of their end; without what does not matter for what they cover."""
        self._numbers: list[int] = []
        after = b""
        while page := store.scan(JOBS, after, _PAGE):
            for _, raw in page:
                job = decode_job(raw)
                self.take(job.number, (job, len(raw)))
            after = page[-1][0]

    def __len__(self) -> int:
        return len(self._numbers)

    def take(self, number: int, told: tuple[Job, int] | None) -> None:
        """Take over how a job stands now, and how many bytes its record has; None: it is forgotten."""
        self._drop(number, is_forgotten=told is None)
        if told is not None:
            self._put(*told)
        self.is_moving = any(each.kind == JobKind.MOVE for each in self.open_trees.values())

    def _drop(self, number: int, *, is_forgotten: bool) -> None:
        job, ended = self.open.get(number), self._ended.pop(number, None)
        if job is not None:
            self.counts[job.kind, job.state] -= 1
        if ended is not None:
            self.counts[ended.kind, ended.state] -= 1
            self.ended_bytes -= ended.size
            del self._order[bisect_left(self._order, (ended.at_index, number))]
            if ended.kind in TREE_KINDS:
                self._ended_trees = [each for each in self._ended_trees if each.number != number]
        if is_forgotten:
            self.open.pop(number, None)
            self.open_trees.pop(number, None)
            at = bisect_left(self._numbers, number)
            del self._numbers[at : at + 1]

    def _put(self, job: Job, size: int) -> None:
        number = job.number
        self.counts[job.kind, job.state] += 1
        at = bisect_left(self._numbers, number)
        if self._numbers[at : at + 1] != [number]:
            self._numbers.insert(at, number)
        if is_open(job):
            self.open[number] = job  # one that is open already keeps its place in the order
            if job.kind in TREE_KINDS:
                self.open_trees[number] = job
            return
        self.open.pop(number, None)
        self.open_trees.pop(number, None)
        self._ended[number] = Ended(job.ended_index, size, job.kind, job.state)
        self.ended_bytes += size
        insort(self._order, (job.ended_index, number))
        if job.kind in TREE_KINDS:
            slim = msgspec.structs.replace(job, failures=[], arguments={}, counts={}, error="")
            insort(self._ended_trees, slim, key=attrgetter("ended_index"))

    def get(self, number: int) -> Job | None:
        """The job of this number, if it is remembered."""
        job = self.open.get(number)
        if job is None and number in self._ended:
            raw = self._store.get(JOBS, pack_id(number))
            return None if raw is None else decode_job(raw)
        return job

    def before(self, number: int) -> Iterator[Job]:
        """Those with a lower number, newest first; of 0: all."""
        at = bisect_left(self._numbers, number) if number else len(self._numbers)
        return self._all(self._numbers[each] for each in range(at - 1, -1, -1))

    def first_ended(self) -> Iterator[tuple[int, Ended]]:
        """Those that ended, by number, in the order of ending."""
        return ((number, self._ended[number]) for _, number in self._order)

    def last_ended(self, limit: int) -> list[Job]:
        """The ``limit`` that ended last."""
        return list(self._all(number for _, number in self._order[len(self._order) - limit :])) if limit else []

    def _all(self, numbers: Iterator[int]) -> Iterator[Job]:
        return (job for number in numbers if (job := self.get(number)) is not None)

    def covering(self, mount: int, key: str) -> Job | None:
        """The open tree job that covers a natural key (of a directory: with its trailing slash)."""
        for job in self.open_trees.values():
            if job.mount == mount and covers(job, key):
                return job
        return None

    def unsettled(self, mount: int, read_index: int) -> list[Job]:
        """Tree jobs whose covers a look at the store at ``read_index`` may not contradict: those open, and those that ended since."""
        found = [job for job in self.open_trees.values() if job.mount == mount]
        for job in reversed(self._ended_trees):
            if job.ended_index <= read_index:
                break
            if job.mount == mount:
                found.append(job)
        return found

    def has_moved(self, mount: int, read_index: int) -> bool:
        """Whether a MOVE ended after ``read_index``: since then the key of a directory may be another one than it was."""
        return any(job.kind == JobKind.MOVE and not is_open(job) for job in self.unsettled(mount, read_index))

    def over(self, parts: Parts) -> Job | None:
        """The open tree job one of whose paths is ``parts``, above it or below it."""
        for job in self.open_trees.values():
            for path in filter(None, (job.path, job.target)):
                at = parse_path(path)
                if is_prefix(at, parts) or is_prefix(parts, at):
                    return job
        return None


def is_open(job: Job) -> bool:
    """Whether a job runs or is paused."""
    return job.state in OPEN_STATES


def covers(job: Job, key: str) -> bool:
    """Whether a natural key lies below the prefix of a tree job."""
    return key.startswith(job.key + "/")
