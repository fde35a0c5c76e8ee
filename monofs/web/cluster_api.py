"""`/api/v1` about the cluster: overview, workers, mounts, jobs, intents, journal, policies, configuration.

Each function asks the cluster through the viewer's file system object and gives what that told (records.py). The live topics (topics.py) are the same functions. Not here: files (files_api.py).
"""

from __future__ import annotations

import time
from itertools import chain
from typing import Any

import msgspec

from monofs.model.errors import InvalidArgument, MonofsError, NotFound, NotReady, NotSupported
from monofs.model.principal import Right
from monofs.model.slots import REPLICAS_MAX
from monofs.rpc.api import FsckAnswer, IntentInfo, JobInfo, MountInfo, PolicyInfo, QuorumAnswer, Setting, TierStatus
from monofs.web.routes import Parameter, Routes
from monofs.web.sending import Sent
from monofs.web.viewers import Viewer

ANSWER_S = 2.5
"""How long a worker may take to tell of itself."""
ENDED_LIVE = 100
"""Jobs followed live, but those that are open (static/js/pages/jobs.js): the others are told page by page."""
_SAYS = [each for each in msgspec.structs.fields(PolicyInfo) if each.name not in ("path", "id", "used_bytes")]
PolicySet: Any = msgspec.defstruct(
    "PolicySet",
    [("path", str), *((each.name, each.type, None) for each in _SAYS)],
    namespace={
        "__doc__": "What a policy says of a path and everything below; null: as above it. Of nothing but a path: there is none any more."
    },
    forbid_unknown_fields=True,
)


class WorkerTold(msgspec.Struct):
    """A worker as the master knows it, and, where it was asked itself, its tiers and counters."""

    address: str
    live: bool
    leaving: bool
    weight: int
    zone: str
    slots: int
    capacity_bytes: int | None = None
    used_bytes: int | None = None
    heard_s: float | None = None
    """Since its last heartbeat: 0 while it comes in time, then whole seconds, of a longer silence the first two digits; null: it never came."""
    totals: dict[str, float] = {}
    tiers: list[TierStatus] = []
    counters: dict[str, float] = {}
    console: str = ""
    """Where its own console is; '': it has none."""
    error: str = ""


class MountAdd(msgspec.Struct, forbid_unknown_fields=True):
    """A store to be mounted. ``dry_run``: reach it only."""

    path: str
    uri: str
    options: dict[str, str] = {}
    readonly: bool = False
    shared: bool = False
    sync_interval_s: float | None = None
    ufs_mode: str = "readWrite"
    dry_run: bool = False


class MountChange(msgspec.Struct, forbid_unknown_fields=True):
    """What is to change; an option with an empty value is removed. ``dry_run``: only show what it would be."""

    path: str
    options: dict[str, str] = {}
    replace: bool = False
    readonly: bool | None = None
    sync_interval_s: float | None = None
    ufs_mode: str | None = None
    dry_run: bool = False


class JobArgument(msgspec.Struct):
    """``kind``: boolean (true or false), size (bytes), integer within ``least`` and ``most``, choice of ``choices`` (value to what it does), or path."""

    title: str
    kind: str
    doc: str = ""
    choices: dict[str, str] = {}
    least: int | None = None
    most: int | None = None


class JobKindTold(msgspec.Struct):
    """``arguments``: by name; one that is not given is as the job does it by itself."""

    doc: str
    arguments: dict[str, JobArgument] = {}


JOB_KINDS = {
    "load": JobKindTold(
        "Brings everything at and below a path into the cache; what is cached is not fetched again.",
        {
            "replicas": JobArgument("Copies", "integer", "of each block, on as many workers", {}, 1, REPLICAS_MAX),
            "bandwidth": JobArgument("Most bytes a second", "size", "such as 200MiB, that all workers move for it"),
            "verify": JobArgument(
                "Compare pages with their checksums",
                "choice",
                choices={
                    "after": "after loading, and load again what differs",
                    "only": "only: load nothing, name what is not cached or differs",
                },
            ),
            "metadata_only": JobArgument("Only names and sizes, no bytes", "boolean"),
            "index": JobArgument("Only what a list names", "path", "a file of the tree that holds a path a line"),
        },
    ),
    "free": JobKindTold(
        "Drops cached copies of everything at and below a path: the next read fetches from the store again. Nothing in a store is touched; what no store has yet stays.",
        {"force": JobArgument("Pinned ones too", "boolean")},
    ),
    "sync": JobKindTold("Looks at the store, at and below a path, and takes over what changed there."),
}


class JobAdd(msgspec.Struct, forbid_unknown_fields=True):
    """``kind``: as ``/jobs/kinds`` lists them; ``arguments`` as the kind knows them."""

    kind: str
    path: str
    arguments: dict[str, str] = {}


class MasterAdd(msgspec.Struct, forbid_unknown_fields=True):
    """``address``: host:port of its journal door."""

    name: str
    address: str


class PathOnly(msgspec.Struct, forbid_unknown_fields=True):
    """A path."""

    path: str


class Done(msgspec.Struct):
    """It was done."""

    done: bool = True
    note: str = ""


class WorkersTold(msgspec.Struct):
    """All workers together. ``totals``: what those that live did since they began."""

    live: int = 0
    silent: int = 0
    leaving: int = 0
    used_bytes: int = 0
    capacity_bytes: int = 0
    totals: dict[str, float] = {}


class Overview(msgspec.Struct):
    """The state of the cluster: sections of `monofs admin report --json`; ``workers`` is its section ``all_workers``."""

    cluster: dict[str, Any]
    journal: dict[str, Any]
    namespace: dict[str, int]
    mounts: dict[str, dict[str, Any]]
    workers: WorkersTold


def _report(viewer: Viewer, *sections: str, worker: int = 0) -> dict[str, dict[str, Any]]:
    """Of the master that leads. Raises ``NotReady`` while none does: what another knows of workers is not so."""
    report: dict[str, dict[str, Any]] = viewer.fs.report("cluster", *sections, worker=worker)
    if not report["cluster"]["leads"]:
        raise NotReady("no master leads now")
    return report


def overview(viewer: Viewer) -> Overview:
    """The state of the cluster in one glance."""
    report = _report(viewer, "journal", "namespace", "mounts", "all_workers")
    if "all_workers" not in report:
        raise NotSupported("the master that leads is of an older release, which does not tell this")
    together = WorkersTold(**report["all_workers"])
    return Overview(report["cluster"], report["journal"], report["namespace"], report["mounts"], together)


def workers(viewer: Viewer) -> dict[str, WorkerTold]:
    """Workers by id, as the master knows them."""
    return {number: _worker(row) for number, row in _report(viewer, "workers")["workers"].items()}


def worker(viewer: Viewer, id: int) -> WorkerTold:
    """One worker, asked itself."""
    row = _report(viewer, "workers", worker=id)["workers"].get(str(id))
    if row is None:
        raise NotFound(f"there is no worker {id}: see the list of workers")
    told = _worker(row)
    if not told.live:
        told.error = "it is silent: what it has is not known"
        return told
    for answer in viewer.fs.worker_status(id, timeout_s=ANSWER_S).values():
        if isinstance(answer, MonofsError):
            told.error = answer.message
        else:
            told.tiers, told.counters = answer.tiers, answer.counters
    return told


def _worker(row: dict[str, Any]) -> WorkerTold:
    return WorkerTold(**{name: row[name] for name in _ROW if name in row})


_ROW = tuple(name for name in WorkerTold.__struct_fields__ if name not in ("tiers", "counters", "error"))


def decommission(viewer: Viewer, id: int, stay: bool) -> Done:
    """Take a worker out of the slot table, so that it hands over what it has; or, with stay, let it in again."""
    epoch = viewer.fs.decommission(id, stay=stay)
    return Done(note=f"slot table {epoch}")


def mounts(viewer: Viewer) -> dict[str, MountInfo]:
    """Mounts by path, without their secrets."""
    return {mount.path: mount for mount in viewer.fs.mount_list()}


def mount_add(viewer: Viewer, body: MountAdd) -> MountInfo:
    """Mount a store; it is reached first."""
    told: MountInfo = viewer.fs.mount_add(
        body.path,
        body.uri,
        body.options,
        readonly=body.readonly,
        shared=body.shared,
        dry_run=body.dry_run,
        sync_interval_s=body.sync_interval_s,
        ufs_mode=body.ufs_mode,
    )
    return told


def mount_change(viewer: Viewer, body: MountChange) -> MountInfo:
    """Change a mount."""
    told: MountInfo = viewer.fs.mount_update(
        body.path,
        body.options,
        replace=body.replace,
        readonly=body.readonly,
        sync_interval_s=body.sync_interval_s,
        dry_run=body.dry_run,
        ufs_mode=body.ufs_mode,
    )
    return told


def mount_remove(viewer: Viewer, path: str, discard: bool) -> Done:
    """Unmount; the store is not touched."""
    told = viewer.fs.mount_remove(path, discard=discard)
    return Done(note=str(msgspec.to_builtins(told)))


def mount_test(viewer: Viewer, body: PathOnly) -> MountInfo:
    """Reach the store of a mount."""
    told: MountInfo = viewer.fs.mount_test(body.path)
    return told


def jobs(viewer: Viewer, ended: int = ENDED_LIVE) -> dict[str, JobInfo]:
    """Jobs that run or are paused, and those that ended last, by number; what failed is told of one job."""
    return {str(job.number): job for job in viewer.fs.jobs(ended)}


def job_history(viewer: Viewer, before: int, limit: int) -> dict[str, JobInfo]:
    """Jobs with a lower number, the newest first, as many as one answer holds; ask on below the lowest until there are none."""
    return {str(job.number): job for job in viewer.fs.jobs_before(before, limit)}


def job(viewer: Viewer, number: int) -> JobInfo:
    """One job."""
    told: JobInfo = viewer.fs.job(number)
    return told


def job_kinds(_: Viewer) -> dict[str, JobKindTold]:
    """Jobs that can be begun, with their arguments."""
    return JOB_KINDS


def job_add(viewer: Viewer, body: JobAdd) -> JobInfo:
    """Begin a job."""
    if body.kind not in JOB_KINDS:
        raise InvalidArgument(f"a job is {', '.join(JOB_KINDS)}, not {body.kind[:100]!r}")
    told: JobInfo = viewer.fs.start_job(body.kind, body.path, **body.arguments)
    return told


def job_steer(viewer: Viewer, number: int, action: str) -> JobInfo:
    """Pause, resume or stop a job."""
    told: JobInfo = viewer.fs.steer_job(number, action)
    return told


def intents(viewer: Viewer) -> dict[str, IntentInfo]:
    """Changes of stores that are under way, by number."""
    return {str(intent.number): intent for intent in viewer.fs.intents()}


def journal(viewer: Viewer) -> QuorumAnswer:
    """The group of masters as its leader sees it."""
    told: QuorumAnswer = viewer.fs.quorum(of_leader=True)
    return told


def journal_figures(viewer: Viewer) -> dict[str, Any]:
    """The journal of the master that leads: indexes, segments, bytes, and how long its disk takes for a batch."""
    sections = _report(viewer, "journal")
    figures: dict[str, Any] = dict(sections["journal"]) | {
        name: sections["cluster"][name] for name in ("term", "leads", "version", "level", "incarnation", "uptime_s")
    }
    return figures


def backup(viewer: Viewer) -> Sent:
    """A copy of the whole namespace, as of one moment, as a file for `monofs admin restore`."""
    total: list[int] = []
    pieces = viewer.fs.backup_pieces(total.append)
    first = next(pieces)  # it is under way, or refused before anything was sent
    stamp = time.strftime("%Y%m%d-%H%M%S", time.gmtime())
    return Sent(
        f"monofs-{stamp}.backup", total[0], lambda *_: chain([first], pieces), close=pieces.close, is_listed=True
    )


def journal_transfer(viewer: Viewer, name: str) -> Done:
    """Hand leadership to a master by name."""
    viewer.fs.change_quorum("transfer", name)
    return Done()


def journal_add(viewer: Viewer, body: MasterAdd) -> Done:
    """Take in a master that was started on an empty home, as a learner."""
    viewer.fs.change_quorum("add", body.name, body.address)
    return Done()


def journal_promote(viewer: Viewer, name: str) -> Done:
    """Let a learner vote that has caught up."""
    viewer.fs.change_quorum("promote", name)
    return Done()


def journal_remove(viewer: Viewer, name: str) -> Done:
    """Take a master out of the group, a dead one too."""
    viewer.fs.change_quorum("remove", name)
    return Done()


def fsck(viewer: Viewer) -> FsckAnswer:
    """Check every named invariant of the namespace; what does not hold is listed under its name."""
    told: FsckAnswer = viewer.fs.fsck()
    return told


def policies(viewer: Viewer) -> dict[str, PolicyInfo]:
    """Policies by path."""
    return {policy.path: policy for policy in viewer.fs.policies()}


def policy_set(viewer: Viewer, body: Any) -> PolicyInfo:
    """Replace the policy of a path; of nothing but a path, remove it."""
    fields = {each.name: getattr(body, each.name) for each in _SAYS if getattr(body, each.name) is not None}
    if not fields:
        viewer.fs.remove_policy(body.path)
        return PolicyInfo(body.path)
    told: PolicyInfo = viewer.fs.set_policy(body.path, **fields)
    return told


def configuration(viewer: Viewer) -> list[Setting]:
    """Every setting of the leading master, with its source."""
    told: list[Setting] = viewer.fs.conf()
    return told


NUMBER = Parameter("number", "The job's number.", "integer", least=1)
WORKER = Parameter("id", "The worker's id.", "integer", least=1, most=65_535)


def add_routes(routes: Routes) -> None:
    """All of the above."""
    read, admin = Right.READ, Right.ADMIN
    routes.add("GET", "/overview", overview, read, Overview)
    routes.add("GET", "/workers", workers, read, dict[str, WorkerTold])
    routes.add("GET", "/workers/{id}", worker, read, WorkerTold, WORKER, asks="workers")
    stay = Parameter("stay", "Let it in again.", "boolean", default=False)
    routes.add("POST", "/workers/{id}/decommission", decommission, admin, Done, WORKER, stay)
    path = Parameter("path", "Where it is mounted.")
    discard = Parameter(
        "discard", "Give up files no store has, and uploads in parts that are not complete.", "boolean", default=False
    )
    routes.add("GET", "/mounts", mounts, read, dict[str, MountInfo])
    routes.add("POST", "/mounts", mount_add, admin, MountInfo, body=MountAdd, asks="store")
    routes.add("PATCH", "/mounts", mount_change, admin, MountInfo, body=MountChange, asks="store")
    routes.add("DELETE", "/mounts", mount_remove, admin, Done, path, discard)
    routes.add("POST", "/mounts/test", mount_test, read, MountInfo, body=PathOnly, asks="store")
    ended = Parameter("ended", "Of the jobs that ended, so many.", "integer", default=50, most=500)
    before = Parameter("before", "0: the newest.", "integer", default=0)
    limit = Parameter("limit", "0: as many as one answer holds.", "integer", default=0, most=500)
    routes.add("GET", "/jobs", jobs, read, dict[str, JobInfo], ended)
    routes.add("GET", "/jobs/history", job_history, read, dict[str, JobInfo], before, limit)
    routes.add("GET", "/jobs/kinds", job_kinds, read, dict[str, JobKindTold])
    routes.add("POST", "/jobs", job_add, Right.WRITE, JobInfo, body=JobAdd)
    routes.add("GET", "/jobs/{number}", job, read, JobInfo, NUMBER)
    action = Parameter("action", "pause, resume or stop.")
    routes.add("POST", "/jobs/{number}/{action}", job_steer, Right.WRITE, JobInfo, NUMBER, action)
    routes.add("GET", "/intents", intents, read, dict[str, IntentInfo])
    routes.add("GET", "/journal", journal, read, QuorumAnswer)
    routes.add("GET", "/journal/figures", journal_figures, read, dict[str, Any])
    routes.add("GET", "/backup", backup, admin, bytes)
    name = Parameter("name", "A master.")
    routes.add("POST", "/journal/transfer/{name}", journal_transfer, admin, Done, name)
    routes.add("POST", "/journal/members", journal_add, admin, Done, body=MasterAdd)
    routes.add("POST", "/journal/promote/{name}", journal_promote, admin, Done, name)
    routes.add("DELETE", "/journal/members/{name}", journal_remove, admin, Done, name)
    routes.add("POST", "/fsck", fsck, admin, FsckAnswer)
    routes.add("GET", "/policies", policies, read, dict[str, PolicyInfo])
    routes.add("PUT", "/policies", policy_set, admin, PolicyInfo, body=PolicySet)
    routes.add("GET", "/configuration", configuration, read, list[Setting])
