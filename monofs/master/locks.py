"""Waiting for what is in the way of a change: the lock of an intent, a tree job, a batch of such a job, another change about to begin.

In ``apply`` whatever is in the way is ``Busy`` at once. Here, on the leader, a change waits for it to go, woken by its end, for at most
``master.busy_wait_s``; then it gets ``Busy`` that tells what it waited for.

Beside the locks of the state there are two kinds in memory, for the moments in which the state does not have them yet. A *beginning*: a
change that is on its way through the journal. A *claim*: names a tree job is working at in its store, whose objects nobody may
make or replace meanwhile::

    claim = locks.try_claim(mount.id, ["logs/a", "logs/b"])   # natural keys, no trailing slash
    try:
        ...claim.keys    # nothing begins at these, or below them, until the release
        ...claim.refused # these are being changed right now: come back later
    finally:
        claim.release()

Invariant: no change begins at or below a claimed key, and no key is claimed at or below which a change has begun and not ended.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Hashable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from twisted.internet.defer import Deferred

from monofs.master.proposing import Proposer
from monofs.metadata.namespace import Namespace
from monofs.metadata.tables import Intent, IntentKind, Job, JobKind
from monofs.model.errors import Busy
from monofs.model.ids import MountId
from monofs.model.paths import Parts, format_path

JOB_STEP_S = 0.2
INTENT_NAMES = {
    IntentKind.WRITE: "write",
    IntentKind.DELETE: "delete",
    IntentKind.RENAME: "rename",
    IntentKind.MAKE_DIRECTORY: "mkdir",
    IntentKind.COPY: "copy",
    IntentKind.UPLOAD: "upload",
}


class Place(NamedTuple):
    """A name a change is about. ``tree``: it concerns everything below as well."""

    parts: Parts
    mount: int
    """0: under no mount."""
    key: str
    """Natural key: what the path says, wherever the object lies."""
    tree: bool = False


class Obstacle(NamedTuple):
    """What is in the way; ``waker`` names its end."""

    waker: Hashable
    told: str


class Claim:
    """Natural keys of one mount at and below which nothing begins until :meth:`release`."""

    def __init__(self, locks: Locks, mount: int, keys: tuple[str, ...], refused: tuple[str, ...], told: str) -> None:
        self._locks = locks
        self.mount, self.keys, self.refused, self.told = mount, keys, refused, told

    def release(self) -> None:
        """Let changes of the keys begin; to be called once, whatever happened."""
        self._locks.release(self)


class Locks:
    """Of one master. ``reactor`` gives time and timers."""

    def __init__(self, namespace: Namespace, proposer: Proposer, *, busy_wait_s: float, reactor: Any) -> None:
        self._namespace, self._busy_wait_s, self._reactor = namespace, busy_wait_s, reactor
        self._jobs_index = -1
        proposer.on_applied(self._look_at_jobs)
        self._claims: dict[tuple[int, str], Claim] = {}
        self._beginning: dict[tuple[int, str], Place] = {}
        self._waiting: dict[Hashable, list[Deferred[None]]] = {}

    # ---- beginning ----------------------------------------------------------------------------------------------------

    async def begin(
        self,
        places: Sequence[Place],
        propose: Callable[[], Deferred[Any]],
        *,
        room: Callable[[], Awaitable[None]] | None = None,
    ) -> Any:
        """What ``propose`` gives, once nothing is in the way of ``places``. ``room`` is awaited before each try: it has objects moved away
        that lie where something is to be made. ``Busy`` after ``master.busy_wait_s``."""
        until = self._reactor.seconds() + self._busy_wait_s
        refused: Busy | None = None
        while True:
            if room is not None:
                await room()
            obstacle = self.obstacle(places)
            if obstacle is not None:
                refused = None
                await self._gone(obstacle, places, until)
                continue
            if refused is not None:
                await self._job_moved_on(refused, until)
            try:
                return await self._propose(places, propose)
            except Busy as error:
                refused = error

    async def _job_moved_on(self, refused: Busy, until: float) -> None:
        """Wait until a job that stood in the way in ``apply`` may be a step further. What else is busy stays so, such as a mount point."""
        job, left_s = refused.detail.get("job"), until - self._reactor.seconds()
        if job is None or left_s <= 0:
            raise refused
        await self._woken(("job", job), min(left_s, JOB_STEP_S))

    async def _propose(self, places: Sequence[Place], propose: Callable[[], Deferred[Any]]) -> Any:
        keys = [(each.mount, each.key) for each in places]
        self._beginning.update(zip(keys, places, strict=True))
        try:
            return await propose()
        finally:
            for key in keys:
                self._beginning.pop(key, None)
            for key in keys:
                self.wake(key)

    async def _gone(self, obstacle: Obstacle, places: Sequence[Place], until: float) -> None:
        left_s = until - self._reactor.seconds()
        path = format_path(places[0].parts)
        if left_s <= 0 or not await self._woken(obstacle.waker, left_s):
            raise Busy(f"{path} cannot be changed now: {obstacle.told}; try again later", path=path)

    async def _woken(self, waker: Hashable, most_s: float) -> bool:
        """Whether ``waker`` ended within ``most_s``."""
        waiter: Deferred[None] = Deferred()
        self._waiting.setdefault(waker, []).append(waiter)
        late = False

        def expire() -> None:
            nonlocal late
            late = True
            waiting = self._waiting[waker]
            waiting.remove(waiter)
            if not waiting:
                del self._waiting[waker]
            waiter.callback(None)

        timer = self._reactor.callLater(most_s, expire)
        await waiter
        if timer.active():
            timer.cancel()
        return not late

    def wake(self, waker: Hashable) -> None:
        """``waker`` ended: ``("intent", number)``, ``("job", number)``, or what this class made itself.

        A tree job may wake its own number whenever it moved on: who waits looks again."""
        for waiter in self._waiting.pop(waker, ()):
            waiter.callback(None)

    def awaited_intents(self) -> list[int]:
        """Those whose end somebody waits for."""
        return [waker[1] for waker in self._waiting if isinstance(waker, tuple) and waker[0] == "intent"]

    # ---- what is in the way? ------------------------------------------------------------------------------------------

    def obstacle(self, places: Iterable[Place]) -> Obstacle | None:
        """What a change of these places would have to wait for; None: nothing."""
        for place in places:
            found = self._in_memory(place) or self._in_state(place)
            if found is not None:
                return found
        return None

    def _in_memory(self, place: Place) -> Obstacle | None:
        mount = place.mount
        for key in _at_and_above(place.key):
            claim = self._claims.get((mount, key))
            if claim is not None:
                return Obstacle(claim, claim.told)
            beginning = self._beginning.get((mount, key))
            if beginning is not None:
                return Obstacle((mount, key), f"another change of {format_path(beginning.parts)} is about to begin")
        if self._beginning:
            below = place.key + "/" if place.key else ""
            for at, other in self._beginning.items():
                if at[0] == mount and at[1].startswith(below):
                    return Obstacle(at, f"a change of {format_path(other.parts)} is about to begin")
        return None

    def _in_state(self, place: Place) -> Obstacle | None:
        namespace, parts = self._namespace, place.parts
        number = namespace.open_intents.in_the_way(parts)
        intent = namespace.intent(number) if number else None
        if intent is not None:
            return Obstacle(("intent", number), describe_intent(intent))
        job = namespace.known_jobs.over(parts) if place.tree else None
        return None if job is None else Obstacle(("job", job.number), describe_job(job))

    # ---- claims -------------------------------------------------------------------------------------------------------

    def try_claim(self, mount: MountId | int, natural_keys: Iterable[str], *, told: str = "a job moves it") -> Claim:
        """Claim what of these keys is not being changed. ``told`` says to those who wait what the claim is for."""
        wanted = list(natural_keys)
        begun = {key for at, each in self._beginning.items() if at[0] == mount for key in _at_and_above(each.key)}
        keys: list[str] = []
        refused: list[str] = []
        for key in wanted:
            is_free = key not in begun and not any((mount, each) in self._claims for each in _at_and_above(key))
            (keys if is_free and not self._is_locked(mount, key) else refused).append(key)
        claim = Claim(self, mount, tuple(keys), tuple(refused), told)
        self._claims.update(dict.fromkeys(((mount, key) for key in keys), claim))
        return claim

    def release(self, claim: Claim) -> None:
        """See :meth:`Claim.release`."""
        for key in claim.keys:
            if self._claims.get((claim.mount, key)) is claim:
                del self._claims[claim.mount, key]
        self.wake(claim)

    def _is_locked(self, mount: int, key: str) -> bool:
        """Whether an intent locks the path of a natural key, or one above or below it."""
        namespace = self._namespace
        parts = next((at for at, each in namespace.mounts() if each.id == mount), ()) + tuple(key.encode().split(b"/"))
        return bool(namespace.open_intents.in_the_way(parts))

    def _look_at_jobs(self) -> None:
        """Something was applied: wake those who wait for jobs that are not open any more."""
        if self._jobs_index == self._namespace.meta.jobs_index:
            return
        self._jobs_index = self._namespace.meta.jobs_index
        is_open = self._namespace.known_jobs.open_trees
        for waker in [each for each in self._waiting if isinstance(each, tuple) and each[0] == "job"]:
            if waker[1] not in is_open:
                self.wake(waker)


def describe_intent(intent: Intent) -> str:
    """An intent as those who wait for it are told."""
    target = f" to {intent.target}" if intent.target else ""
    return (
        f"a {INTENT_NAMES[IntentKind(intent.kind)]} of {intent.path}{target}, begun by {intent.principal or 'monofs'}, "
        f"is in progress (operation {intent.number})"
    )


def describe_job(job: Job) -> str:
    """A tree job as those who wait for it are told."""
    doing = "deletes" if job.kind == JobKind.DELETE else "moves"
    return f"job {job.number} {doing} what was below {job.path} in the store"


def _at_and_above(key: str) -> Iterator[str]:
    """A key and the prefixes above it, without their slashes; '' is the mount's root."""
    yield key
    while key:
        key = key.rpartition("/")[0]
        yield key
