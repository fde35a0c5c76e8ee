"""A group of simulated masters with everything around it, made from a seed.

``Plan`` says what a seed is about; most seeds leave some kinds of trouble out, because rare meetings of two are found sooner without the
noise of ten others. ``World`` holds the parts and the hooks by which a test plants a bug. Order of a run: run.py.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Never

from monofs.journal.driver import Driver
from monofs.journal.raft.core import Raft
from monofs.journal.raft.messages import Membership, NodeId, Settings
from monofs.testing.linearizability import Operation
from monofs.testing.simulation.clients import Client
from monofs.testing.simulation.events import MS, SECOND, Events
from monofs.testing.simulation.ledger import Ledger
from monofs.testing.simulation.machine import Image
from monofs.testing.simulation.member import Member
from monofs.testing.simulation.network import Network, Weather

TROUBLES = (
    "crash",
    "power",
    "countdown",
    "blackout",
    "cut",
    "one-way",
    "weather",
    "pause",
    "slow disk",
    "slow flush",
    "full disk",
    "failed sync",
    "bit flip",
    "membership",
    "transfer",
)
MEMBERS_MAX = 7
VOTERS_MIN = 3


class Violation(Exception):
    """Something happened that must never happen."""


@dataclass
class Plan:
    """What one seed is about. ``storm_ns``: how long troubles last; every ``pace_ns`` (on average) one comes, and every ``operators_ns`` an
    operator does something; ``hurt`` is the share of elections and changes that trouble follows closely. ``delay_ns``: most that a message takes in good weather; ``drift``: of clocks; ``encoded``: messages travel as bytes."""

    voters: int = 3
    learners: int = 0
    clients: int = 3
    keys: int = 3
    storm_ns: int = 20 * SECOND
    pace_ns: int = 700 * MS
    operators_ns: int = 700 * MS
    troubles: frozenset[str] = frozenset(TROUBLES)
    hurt: float = 0.3
    drift: float = 0.02
    delay_ns: int = 2 * MS
    encoded: bool = False
    settings: Settings = field(default_factory=Settings)

    @staticmethod
    def of(seed: int) -> Plan:
        """Drawn from the seed."""
        dice = random.Random(f"{seed}/plan")
        share = dice.choice((0.3, 0.5, 0.8))
        return Plan(
            voters=dice.choice((3, 3, 3, 4, 5, 5)),
            learners=dice.choice((0, 0, 1, 2)),
            clients=dice.randint(2, 6),
            keys=dice.randint(1, 3),
            storm_ns=dice.randint(10, 25) * SECOND,
            pace_ns=dice.choice((300, 700, 1500)) * MS,
            operators_ns=dice.choice((300, 1000)) * MS,
            troubles=frozenset(trouble for trouble in TROUBLES if dice.random() < share),
            drift=dice.choice((0.0, 0.02, 0.05)),
            delay_ns=dice.choice((2, 2, 20, 150)) * MS,
            encoded=dice.random() < 0.3,
            settings=Settings(
                tick_s=0.1,
                heartbeat_ticks=1,
                election_ticks=6,
                max_append_bytes=dice.choice((1, 200, 2000, 1 << 20)),
                max_inflight_appends=dice.choice((2, 16, 256)),
                inflight_bytes=dice.choice((2000, 1 << 20)),
                max_uncommitted_bytes=dice.choice((2000, 1 << 20)),
                window_bytes=dice.choice((500, 5000, 1 << 20)),
                caught_up_entries=20,
                lease=dice.random() < 0.4,
            ),
        )


class World:
    """The parts of a run. ``make_core`` and ``make_driver`` build a member's; tests put others in their place to plant bugs."""

    make_core: Callable[..., Raft] = Raft
    make_driver: Callable[..., Driver] = Driver

    def __init__(self, seed: int, plan: Plan, *, tracing: bool = False) -> None:
        self.plan, self.settings = plan, plan.settings
        self.events = Events(seed, tracing=tracing)
        self.network = Network(self.events, Weather(most_ns=plan.delay_ns))
        self.ledger = Ledger(self)
        self.history: list[Operation] = []
        self.failure: Violation | None = None
        self.hear_election: Callable[[], None] = lambda: None
        """Called when somebody begins to lead."""
        self.calm = False
        """The troubles are over: whoever stops is started again at once."""
        self.calm_s = 0.0
        self.members: dict[int, Member] = {}
        self.flipped: set[int] = set()
        self._dice = self.events.random("world")
        voters = tuple(NodeId(n) for n in range(1, plan.voters + 1))
        learners = tuple(NodeId(plan.voters + n) for n in range(1, plan.learners + 1))
        first = Image(0, 0, Membership(voters, (), learners), 0, {}, {})
        for each in (*voters, *learners):
            self.add(each, first)
        self.clients = [Client(self, f"c{n}", plan.keys) for n in range(plan.clients)]

    def add(self, me: int, image: Image | None = None) -> Member:
        """A machine with an empty disk; without an image it knows no members and waits to be told."""
        member = Member(self, me, image or Image(0, 0, Membership(()), 0, {}, {}), drift=self.plan.drift)
        self.members[me] = member
        return member

    def restart_delay_ns(self) -> int:
        """How long a stopped member stays away."""
        if self.calm:
            return self._dice.randrange(10 * MS, 100 * MS)
        return self._dice.randrange(50 * MS, self._dice.choice((500 * MS, 5 * SECOND)))

    def leader(self) -> Member | None:
        """Who thinks to lead, in the highest term."""
        leaders = [m for m in self.members.values() if m.up and not m.paused and m.is_leader()]
        return max(leaders, key=lambda m: m.driver.core.status().term, default=None)

    def check(self, member: Member) -> None:
        """Called after everything a member did."""
        if member.up:
            self.ledger.check(member)

    def violated(self, what: str, cause: BaseException | None) -> Never:
        """End the run."""
        violation = Violation(what)
        self.failure = self.failure or violation
        self.events.trace("!", what)
        raise violation from cause

    def expect_corrupt(self, member: Member) -> None:
        """A member refused its disk."""
        if int(member.me) not in self.flipped:
            self.violated(f"{member} refuses a disk that was never damaged", None)
        self.events.counts["corruption refused"] += 1
