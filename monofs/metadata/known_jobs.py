"""The jobs remembered, kept decoded in memory, and what tree jobs *cover*.

A tree job (DELETE, MOVE) covers the natural keys below its prefix: while it is open the store shows there what the tree has left behind, so
nothing of it is adopted. What was read from the store before the job's end is not believed after it either; hence the ended ones count
as long as they are remembered.

Invariant: equal to the table ``jobs``.
"""

from __future__ import annotations

from monofs.metadata.store import Store
from monofs.metadata.tables import JOBS, Job, JobKind, JobState, decode_job
from monofs.model.paths import Parts, is_prefix, parse_path

_PAGE = 1000
OPEN_STATES = frozenset({JobState.RUNNING, JobState.PAUSED})
TREE_KINDS = frozenset({JobKind.DELETE, JobKind.MOVE})


class KnownJobs:
    """All jobs by number, oldest first."""

    def __init__(self, store: Store) -> None:
        self.by_number: dict[int, Job] = {}
        self.open_trees: dict[int, Job] = {}
        self._trees: dict[int, Job] = {}
        self.is_moving = False
        """Whether a MOVE job is open: only then do records lie in their store elsewhere than their path says."""
        after = b""
        while page := store.scan(JOBS, after, _PAGE):
            for _, raw in page:
                job = decode_job(raw)
                self.take(job.number, job)
            after = page[-1][0]

    def take(self, number: int, job: Job | None) -> None:
        """Take over how a job stands now; None: it is forgotten."""
        _set(self.by_number, number, job)
        _set(self._trees, number, job if job is not None and job.kind in TREE_KINDS else None)
        tree = self._trees.get(number)
        _set(self.open_trees, number, tree if tree is not None and is_open(tree) else None)
        self.is_moving = any(each.kind == JobKind.MOVE for each in self.open_trees.values())

    def covering(self, mount: int, key: str) -> Job | None:
        """The open tree job that covers a natural key (of a directory: with its trailing slash)."""
        for job in self.open_trees.values():
            if job.mount == mount and covers(job, key):
                return job
        return None

    def unsettled(self, mount: int, read_index: int) -> list[Job]:
        """Tree jobs whose covers a look at the store at ``read_index`` may not contradict: those open, and those that ended since."""
        return [
            job for job in self._trees.values() if job.mount == mount and (is_open(job) or job.ended_index > read_index)
        ]

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


def _set(held: dict[int, Job], number: int, job: Job | None) -> None:
    """Known jobs keep their place in the order."""
    if job is None:
        held.pop(number, None)
    else:
        held[number] = job
