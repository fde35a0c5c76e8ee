"""What jobs share that change a store: whose act it is, which objects came after a moment, and claims kept as long as a thread acts.

Invariant: a claim is released only when no thread of this process can still act at its keys, however long the act outlives the patience
of who asked for it: a deletion that lands late must not meet what was written at its key meanwhile.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, TypeVar

from twisted.internet.defer import Deferred

from monofs.master.locks import Claim
from monofs.master.stores import Act, MountedStore
from monofs.metadata.namespace import Namespace
from monofs.metadata.tables import Job
from monofs.model.errors import MountNotFound, NotReady
from monofs.model.mount import Mount
from monofs.model.paths import Parts, name_problem, parse_path
from monofs.ufs.base import UfsEntry, UnderStorage

T = TypeVar("T")
SECOND_NS = 1_000_000_000
SKEW_KNOWN_TO_S = 1.0
OUTLIVED_LOOK_S = 1.0
"""How often is looked whether a thread that outlived its asker is through."""


def operation_of(namespace: Namespace, job: Job) -> str:
    """What the store is told of a job's acts."""
    return f"{namespace.cluster[:6].hex()}-{namespace.incarnation:x}-j{job.number:x}"


def mount_of(namespace: Namespace, job: Job) -> Mount:
    """The mount whose store a job changes. ``MountNotFound`` once it was removed."""
    for _, mount in namespace.mounts():
        if mount.id == job.mount:
            return mount
    raise MountNotFound(f"the mount of job {job.number} is gone: what it had left to do in the store stays undone")


def began_ns(job: Job, store: MountedStore) -> int:
    """When a job was added, by its store's clock; rather early than late where the clocks differ."""
    skew_s = store.skew_s
    return job.created_ns + (round((skew_s - SKEW_KNOWN_TO_S) * 1e9) if skew_s else 0)


def came_after(entry: UfsEntry, moment_ns: int) -> bool:
    """Whether a store's entry may be newer than a moment of its clock. Whole seconds are cut-off times: the truth is up to a second later."""
    cut_ns = SECOND_NS - 1 if entry.mtime_ns % SECOND_NS == 0 else 0
    return entry.mtime_ns + cut_ns > moment_ns


def is_version(entry: UfsEntry, fingerprint: str, mtime_ns: int) -> bool:
    """Whether an object is the version a record tells of: the same bytes written at the same time (stores round times differently)."""
    return entry.fingerprint == fingerprint and abs(entry.mtime_ns - mtime_ns) < SECOND_NS


def path_of(mount: Mount, key: bytes) -> Parts | None:
    """The path that names a key (a directory's may end in ``/``); None: no path can."""
    names = tuple(key.removesuffix(b"/").split(b"/"))
    return None if any(name_problem(name) for name in names) else (*parse_path(mount.path), *names)


class _Act:
    """Whether a thread has begun an act, has ended it, or never will begin."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._begun = self._ended = self._given_up = False

    def begin(self) -> None:
        """On the thread. Raises ``NotReady`` when nobody wants it any more."""
        with self._lock:
            if self._given_up:
                raise NotReady("this act was given up before it began")
            self._begun = True

    def end(self) -> None:
        """On the thread."""
        with self._lock:
            self._ended = True

    def is_over(self) -> bool:
        """Whether no thread is at it, and none will be from now on."""
        with self._lock:
            self._given_up = True
            return self._ended or not self._begun


class Guard:
    """Claimed keys and the acts done at them."""

    def __init__(self, claim: Claim, reactor: Any) -> None:
        self.keys, self.refused = frozenset(claim.keys), frozenset(claim.refused)
        self._claim, self._reactor = claim, reactor
        self._acts: list[_Act] = []

    def act(
        self, store: MountedStore, kind: Act, key: str, function: Callable[[UnderStorage], T], *, size: int = 0
    ) -> Deferred[T]:
        """As ``MountedStore.act``, at claimed keys."""
        one = _Act()
        self._acts.append(one)

        def act(ufs: UnderStorage) -> T:
            one.begin()
            try:
                return function(ufs)
            finally:
                one.end()

        return store.act(kind, key, act, size=size)

    def release(self) -> None:
        """Release the claim as soon as all acts are over; to be called once, whatever happened."""
        self._acts = [one for one in self._acts if not one.is_over()]
        if self._acts:
            self._reactor.callLater(OUTLIVED_LOOK_S, self.release)
        else:
            self._claim.release()
