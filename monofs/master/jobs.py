"""Jobs: what takes longer than a request. Records in the namespace, worked on by the leader; handlers JOB_ADD, JOB_LIST, JOB_STEER.

A job runs while its record says RUNNING and this master leads; :meth:`Jobs.wake` compares the two after every change of a record or of
the role, so a restart goes on where the journal says. Jobs that owe a store something (DELETE, MOVE) begin at once and never fail: they try again
until they are through. Of the others ``RUNS_MAX`` run at a time, oldest first.

Not here: what each kind does (``job_*.py``), and how one run counts, waits and ends (``job_run.py``).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Coroutine
from itertools import islice
from typing import Any

import msgspec
from twisted.internet.defer import CancelledError, Deferred, DeferredList

from monofs.master.access import R_OK, W_OK, check_access
from monofs.master.auditing import audited
from monofs.master.job_run import Backoff, Halted, Run
from monofs.master.proposing import Proposer
from monofs.master.reading import Reading
from monofs.master.stores import Unclear
from monofs.metadata.entries import AddJob, UpdateJob
from monofs.metadata.namespace import Namespace
from monofs.metadata.tables import Job, JobKind, JobState
from monofs.model.errors import Internal, InvalidArgument, MonofsError, NotFound, NotSupported
from monofs.model.paths import format_path, parse_path
from monofs.model.principal import Right
from monofs.model.slots import REPLICAS_MAX
from monofs.observe.logs import logger
from monofs.observe.metrics import JOBS
from monofs.rpc.api import JobAddRequest, JobInfo, JobListAnswer, JobListRequest, JobSteerRequest
from monofs.rpc.service import Call

log = logger(__name__)
Work = Callable[[Run], Coroutine[Deferred[Any], Any, None]]
RUNS_MAX = 16
"""LOAD, FREE and SYNC jobs at work at a time."""
PAGE = 500
"""Jobs of one answer; 16 KB each at most."""
OWING = frozenset({JobKind.DELETE, JobKind.MOVE})
"""What a change that was acknowledged still has to do in the store."""
ADDABLE = {"load": JobKind.LOAD, "free": JobKind.FREE, "sync": JobKind.SYNC}
BANDWIDTH_MAX = 1 << 50
_TRUTH = ("true or false", lambda text: text in ("true", "false"))
_VERIFY = ("after or only", lambda text: text in ("after", "only"))
ARGUMENTS: dict[JobKind, dict[str, tuple[str, Callable[[str], bool]]]] = {
    JobKind.LOAD: {
        "metadata_only": _TRUTH,
        "bandwidth": (
            f"bytes a second, 1 to {BANDWIDTH_MAX}",
            lambda text: _is_whole(text) and 0 < int(text) <= BANDWIDTH_MAX,
        ),
        "replicas": (f"1 to {REPLICAS_MAX}", lambda text: _is_whole(text) and 0 < int(text) <= REPLICAS_MAX),
        "verify": _VERIFY,
        "index": ("an absolute path", lambda text: text.startswith("/")),
        "nul": _TRUTH,
    },
    JobKind.FREE: {"force": _TRUTH},
    JobKind.SYNC: {},
}
"""Of each kind what it may be told, and what that must be."""
STEERS = {"pause": JobState.PAUSED, "resume": JobState.RUNNING, "stop": JobState.STOPPED}
_OPEN = (JobState.RUNNING, JobState.PAUSED)


class Jobs:
    """The jobs of one master. ``works`` tells how each kind is worked on."""

    def __init__(
        self,
        namespace: Namespace,
        proposer: Proposer,
        reading: Reading,
        works: dict[JobKind, Work],
        *,
        permissions: bool,
        requests: int,
        patience_s: float,
        reactor: Any,
        clock: Callable[[], float],
    ) -> None:
        self._namespace, self._proposer, self._reading, self._works = namespace, proposer, reading, works
        self._patience_s = patience_s
        self._permissions, self._requests, self._reactor, self._clock = permissions, requests, reactor, clock
        self._runs: dict[int, tuple[Run, Deferred[None]]] = {}
        self._known_index = -1
        self._stopped = False
        proposer.on_role(self._hear_role)
        proposer.on_applied(self.maybe_wake)

    # ---- which run ----------------------------------------------------------------------------------------------------

    def maybe_wake(self) -> None:
        """Call after any change that may have added or ended a job."""
        if self._namespace.meta.jobs_index != self._known_index:
            self.wake()

    def wake(self) -> None:
        """Let run what is to run, and nothing else."""
        if self._stopped or not self._proposer.leads:
            return
        self._known_index = self._namespace.meta.jobs_index
        known = self._namespace.known_jobs
        _measure(known.counts)
        wanted = {job.number: job for job in known.open.values() if job.state == JobState.RUNNING}
        for number, (run, _) in self._runs.items():
            if number not in wanted:
                run.halt()
        room = RUNS_MAX - sum(run.job.kind not in OWING for run, _ in self._runs.values())
        for number, job in sorted(wanted.items()):
            if number in self._runs:
                continue
            if job.kind not in OWING:
                room -= 1
                if room < 0:
                    continue
            self._begin(job)

    def _begin(self, job: Job) -> None:
        run = Run(
            job,
            self._proposer,
            requests=self._requests,
            reactor=self._reactor,
            clock=self._clock,
            patience_s=math.inf if job.kind in OWING else self._patience_s,
        )
        log.info("job runs", job=job.number, kind=JobKind(job.kind).name, path=job.path, cursor=repr(job.cursor))
        working = Deferred.fromCoroutine(self._work(run))
        self._runs[job.number] = run, working
        working.addBoth(self._ended, run)

    async def _work(self, run: Run) -> None:
        """Work until the job is done, or not to be worked on now. The outcome is journaled before this ends."""
        number, work, backoff = run.job.number, self._works[JobKind(run.job.kind)], Backoff()
        while True:
            try:
                try:
                    await work(run)
                finally:
                    await run.settle()
            except Halted:
                return await self._save_halted(run)
            except CancelledError:
                raise
            except (MonofsError, Unclear) as error:
                problem: Exception = error
            except Exception as error:  # noqa: BLE001 - a bug in one job must not end the others
                log.error("job failed", job=number, exception=error)
                problem = Internal()
            else:
                return await self._save_ended(run, JobState.DONE, "")
            if run.job.kind not in OWING:
                return await self._save_ended(run, JobState.FAILED, str(problem))
            log.warning("job waits", job=number, error=str(problem))
            run.waits(problem)
            try:
                await run.pause(backoff.next_s())
            except Halted:
                return await self._save_halted(run)

    async def _save_halted(self, run: Run) -> None:
        if self._proposer.leads:
            await run.save()

    async def _save_ended(self, run: Run, state: JobState, error: str) -> None:
        await run.save(state=state, error=error)
        log.info("job ended", job=run.job.number, state=state.name, done=run.done, failed=run.failed, error=error)

    def _ended(self, outcome: Any, run: Run) -> None:
        run.close()
        del self._runs[run.job.number]
        if isinstance(outcome, BaseException) or outcome is not None:
            log.info("job run ended early", job=run.job.number, why=str(getattr(outcome, "value", outcome)))
        self.wake()

    def _hear_role(self, leads: bool) -> None:
        if leads:
            self.wake()
        else:
            self._cancel()

    def _cancel(self) -> None:
        for run, working in list(self._runs.values()):
            run.cancel()
            working.cancel()

    def stop(self) -> Deferred[Any]:
        """End all runs at their present step; what they have done is found again in the journal."""
        self._stopped = True
        working = [each for _, each in self._runs.values()]
        self._cancel()
        return DeferredList(working)

    # ---- handlers -----------------------------------------------------------------------------------------------------

    def add(self, request: JobAddRequest, call: Call) -> Deferred[JobListAnswer]:
        """Begin a LOAD, FREE or SYNC job of a path."""
        record = audited(call, f"job add {request.kind}"[:64], request.path, "")
        return record.around(self._add(request, call))

    async def _add(self, request: JobAddRequest, call: Call) -> JobListAnswer:
        kind = ADDABLE.get(request.kind)
        if kind is None:
            raise InvalidArgument(f"a job is one of {', '.join(ADDABLE)}, not {request.kind!r}")
        for name, value in request.arguments.items():
            if name not in ARGUMENTS[kind]:
                known = ", ".join(sorted(ARGUMENTS[kind])) or "no arguments"
                raise InvalidArgument(f"a {request.kind} job knows {known}, not {name!r}")
            must_be, is_so = ARGUMENTS[kind][name]
            if not is_so(value):
                raise InvalidArgument(f"{name} is {must_be}, not {value[:80]!r}")
        self._check_replicas(int(request.arguments.get("replicas", 1)))
        parts = parse_path(request.path)
        right = Right.WRITE if kind is JobKind.FREE else Right.READ
        for each in (parts, *(parse_path(request.arguments[name]) for name in ("index",) if name in request.arguments)):
            check_access(call.principal, right, self._reading.chain(each), R_OK if self._permissions else 0)
        stamp = self._proposer.stamp(request.request)
        number = await self._proposer.propose(
            AddJob(stamp, kind, format_path(parts), request.arguments, call.principal.name)
        )
        self.wake()
        return JobListAnswer([self._info(self._existing(number))])

    def _check_replicas(self, replicas: int) -> None:
        width = self._namespace.slots.replicas
        if replicas > max(1, width):
            raise InvalidArgument(
                f"{replicas} copies of a block need as many workers, and each block has {max(1, width)}: as many as the cluster has, and"
                " namespace.replicas says at most"
            )

    def list(self, request: JobListRequest, call: Call) -> JobListAnswer:
        """One job, those of now, or a page of all, newest first."""
        check_access(call.principal, Right.READ)
        if request.number:
            return JobListAnswer([self._info(self._existing(request.number))])
        if request.before < 0 or request.limit < 0:
            raise InvalidArgument("before and limit are 0 or more")
        known = self._namespace.known_jobs
        if request.is_now:
            jobs = [*known.open.values(), *known.last_ended(min(request.limit, PAGE))]
            return JobListAnswer([self._listed(job) for job in sorted(jobs, key=lambda job: -job.number)])
        page = islice(known.before(request.before), min(request.limit or PAGE, PAGE))
        return JobListAnswer([self._listed(job) for job in page])

    def steer(self, request: JobSteerRequest, call: Call) -> Deferred[JobListAnswer]:
        """Pause, resume or stop a job."""
        record = audited(call, f"job {request.action}"[:64], str(request.number), "")
        return record.around(self._steer(request, call))

    async def _steer(self, request: JobSteerRequest, call: Call) -> JobListAnswer:
        state = STEERS.get(request.action)
        if state is None:
            raise InvalidArgument(f"a job is steered by {', '.join(STEERS)}, not {request.action!r}")
        job = self._existing(request.number)
        chain = self._reading.chain(parse_path(job.path))
        check_access(call.principal, Right.WRITE, chain, W_OK if self._permissions and chain else 0)
        if job.state not in _OPEN:
            raise InvalidArgument(f"job {job.number} has ended ({JobState(job.state).name.lower()})")
        if state is JobState.STOPPED and job.kind in OWING:
            owed = "removed: its objects" if job.kind == JobKind.DELETE else "renamed: its objects"
            raise NotSupported(
                f"job {job.number} cannot be stopped, only paused: {job.path} was {owed} are still to follow in the store"
            )
        if job.state != state:
            await self._proposer.propose(UpdateJob(self._proposer.stamp(request.request), job.number, state))
        self.wake()
        return JobListAnswer([self._info(self._existing(request.number))])

    def _existing(self, number: int) -> Job:
        job = self._namespace.job(number)
        if job is None:
            raise NotFound(f"there is no job {number}, or it ended too long ago to be remembered")
        return job

    def _listed(self, job: Job) -> JobInfo:
        return msgspec.structs.replace(self._info(job), failures=[])

    def _info(self, job: Job) -> JobInfo:
        run = None
        if job.number in self._runs and job.state in _OPEN:
            run = self._runs[job.number][0]
            state = job.state
            job = run.shown()
        else:
            state = job.state
        rate = run.rate if run is not None else None
        return JobInfo(
            job.number,
            JobKind(job.kind).name.lower(),
            JobState(state).name.lower(),
            job.path,
            job.target,
            job.created_ns,
            job.changed_ns,
            job.ended_ns,
            job.user,
            job.done,
            job.total,
            job.bytes_done,
            job.failed,
            job.failures,
            job.error,
            rate,
            run.left_s if run is not None else None,
            job.counts,
            job.arguments,
        )


def _is_whole(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) < 20


def _measure(counts: Counter[tuple[int, int]]) -> None:
    """Set the gauge of jobs by kind and state."""
    for kind in JobKind:
        for state in JobState:
            JOBS(kind.name.lower(), state.name.lower()).value = counts[kind, state]
