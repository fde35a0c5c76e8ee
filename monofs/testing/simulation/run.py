"""One seed from its beginning to its end: a storm of troubles under clients, then calm, and the judgement.

Safety first: the checks of the ledger after everything that happens; in the end the clients' history must be linearizable, final reads of
all keys included, so nothing acknowledged was lost. Then liveness: in the calm, within bounded virtual time, every client is answered,
and all members agree on everything.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

from monofs.testing.linearizability import Linearizable, NotLinearizable, check
from monofs.testing.simulation.events import SECOND
from monofs.testing.simulation.faults import Faults
from monofs.testing.simulation.world import Plan, Violation, World

CALM_NS = 60 * SECOND
"""Virtual time within which a healed group must have answered everybody, and again to have become one."""
STEPS_MAX = 1_000_000
"""Events of a run; more mean that something never rests."""
LINEARIZABILITY_STATES = 300_000


class Report(NamedTuple):
    """How a seed ended. ``failure`` None: as it should. ``calm_s``: virtual time until a healed group had answered everybody and was one."""

    seed: int
    failure: str | None
    counts: Counter[str]
    operations: int
    steps: int
    calm_s: float
    trace: list[str]
    digest: int


def simulate(
    seed: int, *, plan: Plan | None = None, make_world: Callable[..., World] = World, tracing: bool = False
) -> Report:
    """Run one seed. Nothing outside of the arguments has an influence on the result."""
    world = make_world(seed, plan or Plan.of(seed), tracing=tracing)
    failure: str | None = None
    try:
        with _quiet():
            _run(world)
    except Violation as violation:
        failure = str(world.failure or violation)
    except Exception as error:
        failure = f"raised: {error!r}"
        if tracing:
            raise
    events = world.events
    return Report(
        seed, failure, events.counts, len(world.history), events.steps, world.calm_s, events.lines, events.digest()
    )


@contextmanager
def _quiet() -> Iterator[None]:
    """Members that fail say so in the log; here they do so all the time."""
    log = logging.getLogger("monofs.journal")
    level = log.level
    log.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        log.setLevel(level)


def _run(world: World) -> None:
    events, faults = world.events, Faults(world)
    for member in list(world.members.values()):
        member.start()
    for client in world.clients:
        client.start()
    events.after(SECOND, faults.start)
    _until(world, lambda: False, world.plan.storm_ns)
    faults.heal()
    calm_from_ns = events.now_ns
    answered = [client.completed for client in world.clients]
    _require(
        world,
        lambda: all(client.completed >= before + 2 for client, before in zip(world.clients, answered, strict=True)),
        "clients are not answered",
        each=faults.remove_broken,
    )
    for client in world.clients:
        client.read_all()
    _require(world, lambda: all(client.stopping for client in world.clients), "final reads are not answered")
    _require(world, lambda: _agree(world), "the members do not become one", each=faults.remove_broken)
    world.calm_s = (events.now_ns - calm_from_ns) / SECOND
    for client in world.clients:
        client.finish()
    verdict = check(world.history, states_max=LINEARIZABILITY_STATES)
    if isinstance(verdict, NotLinearizable):
        world.violated(f"the history is not linearizable: {verdict}", None)
    if not isinstance(verdict, Linearizable):
        events.counts["undecided history"] += 1


def _until(world: World, holds: Callable[[], bool], within_ns: int, each: Callable[[], None] | None = None) -> bool:
    """Let things happen until ``holds`` (looked at every virtual 100 ms), at most so long."""
    events = world.events
    end = events.now_ns + within_ns
    look = events.now_ns
    while events.now_ns < end and events.step():
        if world.failure is not None:
            raise world.failure
        if events.steps > STEPS_MAX:
            world.violated(f"more than {STEPS_MAX} events", None)
        if events.now_ns >= look:
            look = events.now_ns + SECOND // 10
            if holds():
                return True
            if each is not None:
                each()
    return False


def _require(world: World, holds: Callable[[], bool], otherwise: str, each: Callable[[], None] | None = None) -> None:
    if not _until(world, holds, CALM_NS, each):
        shown = ", ".join(f"{member}: {member.describe()}" for member in world.members.values())
        world.violated(f"no progress in the calm: {otherwise} ({shown})", None)


def _agree(world: World) -> bool:
    """One leader; all its members are there, have applied all it has, and know no other membership."""
    leader = world.leader()
    if leader is None:
        return False
    status = leader.driver.core.status()
    if status.commit != status.last or status.membership.is_joint:
        return False
    members = [world.members[each] for each in status.membership.members()]
    return all(
        member.up and member.driver.applied == status.last and member.machine.crc == leader.machine.crc
        for member in members
    )
