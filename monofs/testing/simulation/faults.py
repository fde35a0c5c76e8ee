"""The troubles of the simulated world: what goes wrong, when, and to whom; and how everything is healed in the end.

Each trouble is a method named for it in ``world.TROUBLES``. They prefer the leader, because that is where it hurts. Bound: bit flips hit
one member of a run at most, never the last frame of its log (a damaged last frame cannot be told from a torn one: see docs/journal.md),
and a group never shrinks below ``VOTERS_MIN``.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from monofs.journal.raft.messages import Membership, NodeId, Refused
from monofs.testing.simulation.events import MS, SECOND
from monofs.testing.simulation.network import Weather
from monofs.testing.simulation.world import MEMBERS_MAX, VOTERS_MIN

if TYPE_CHECKING:
    from monofs.testing.simulation.member import Member
    from monofs.testing.simulation.world import World

ROOM_BYTES = 1 << 40
OPERATORS = frozenset({"membership", "transfer"})
"""They have a pace of their own: adding a member takes several steps."""


class Faults:
    """Brings trouble until :meth:`heal`."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.dice = world.events.random("faults")
        self.over = False
        self._kinds: list[Callable[[], None]] = [
            getattr(self, trouble.replace(" ", "_").replace("-", "_"))
            for trouble in sorted(world.plan.troubles - OPERATORS)
        ]
        self._operators: list[Callable[[], None]] = [
            getattr(self, trouble) for trouble in sorted(world.plan.troubles & OPERATORS)
        ]

    def start(self) -> None:
        """Begin."""
        self._next(self._kinds, self.world.plan.pace_ns)
        self._next(self._operators, self.world.plan.operators_ns)
        self.world.hear_election = self._elected
        self._flush()

    def _next(self, kinds: list[Callable[[], None]], pace_ns: int) -> None:
        if self.over or not kinds:
            return
        self.dice.choice(kinds)()
        self.world.events.after(int(self.dice.expovariate(1.0) * pace_ns) + MS, self._next, kinds, pace_ns)

    def _flush(self) -> None:
        """Not a trouble: machines become durable now and then, and logs shorter."""
        members = [m for m in self.world.members.values() if m.up and not m.paused]
        if members:
            member = self.dice.choice(members)
            member.do(member.life, member.flush, self.dice.choice((0, 5, 50)))
        self.world.events.after(self.dice.randrange(100 * MS, 600 * MS), self._flush)

    def _victim(self) -> Member | None:
        leader = self.world.leader()
        if leader is not None and self.dice.random() < 0.5:
            return leader
        members = [m for m in self.world.members.values() if m.up]
        return self.dice.choice(members) if members else None

    def _for_a_while(self, most_ns: int, undo: Callable[[], None]) -> None:
        self.world.events.after(self.dice.randrange(most_ns), undo)

    # ---- machines -----------------------------------------------------------------------------------------------------------

    def crash(self) -> None:
        """A process is killed."""
        if victim := self._victim():
            victim.crash(power=False)

    def power(self) -> None:
        """A machine loses power."""
        if victim := self._victim():
            victim.crash(power=True)

    def countdown(self) -> None:
        """A machine loses power inside one of the next changes of its disk."""
        if victim := self._victim():
            victim.disk.countdown = self.dice.randrange(12)

    def blackout(self) -> None:
        """All machines, or most of them, lose power at once."""
        share = self.dice.choice((0.6, 1.0))
        for member in self.world.members.values():
            if self.dice.random() < share:
                member.crash(power=self.dice.random() < 0.8)

    def pause(self) -> None:
        """A process stands still for a while."""
        if victim := self._victim():
            victim.pause()
            self.world.events.counts["pause"] += 1
            self._for_a_while(self.dice.choice((500 * MS, 3 * SECOND, 12 * SECOND)), victim.resume)

    # ---- network --------------------------------------------------------------------------------------------------------------

    def _cut(self, pairs: list[tuple[int, int]]) -> None:
        cuts = self.world.network.cuts
        new = [pair for pair in pairs if pair not in cuts]
        cuts.update(new)
        self.world.events.counts["cut"] += 1
        self._for_a_while(self.dice.choice((SECOND, 3 * SECOND, 8 * SECOND)), lambda: cuts.difference_update(new))

    def cut(self) -> None:
        """The group falls apart in two, or two members lose each other."""
        ids = sorted(self.world.members)
        if self.dice.random() < 0.3:
            one, other = self.dice.sample(ids, 2)
            self._cut([(one, other), (other, one)])
            return
        side = {one for one in ids if self.dice.random() < 0.5}
        if self.dice.random() < 0.5 and (leader := self.world.leader()):
            side = {int(leader.me), *self.dice.sample(ids, self.dice.randrange(len(ids) // 2))}
        self._cut([(a, b) for a in ids for b in ids if (a in side) != (b in side)])

    def one_way(self) -> None:
        """A member speaks and is not heard, or hears and cannot speak; to all or to one."""
        victim = self._victim()
        if victim is None:
            return
        me, others = int(victim.me), [other for other in sorted(self.world.members) if other != victim.me]
        if self.dice.random() < 0.4:
            others = [self.dice.choice(others)]
        self._cut([(me, other) for other in others] if self.dice.random() < 0.5 else [(other, me) for other in others])

    def weather(self) -> None:
        """Messages are lost, doubled, late."""
        network = self.world.network
        pick = self.dice.choice
        network.weather = Weather(
            lost=pick((0.0, 0.02, 0.2)), doubled=pick((0.0, 0.05, 0.3)), late=pick((0.0, 0.05, 0.3)),
            late_ns=pick((50 * MS, SECOND, 5 * SECOND)), most_ns=pick((2 * MS, 50 * MS)),
        )  # fmt: skip
        self._for_a_while(5 * SECOND, lambda: setattr(network, "weather", network.usual))

    # ---- disks ----------------------------------------------------------------------------------------------------------------

    def slow_disk(self) -> None:
        """Syncs take up to a second."""
        if victim := self._victim():
            victim.sync_most_ns = self.dice.choice((50 * MS, 300 * MS, 1000 * MS))
            self._for_a_while(5 * SECOND, lambda: setattr(victim, "sync_most_ns", 2 * MS))

    def slow_flush(self) -> None:
        """A machine's database lags behind; it takes no changes until it has caught up."""
        if victim := self._victim():
            machine, life = victim.machine, victim.life
            machine.held_back = True

            def go_on() -> None:
                machine.held_back = False
                victim.do(life, victim.run_soon)

            self._for_a_while(2 * SECOND, go_on)

    def full_disk(self) -> None:
        """There is no room for another segment."""
        if victim := self._victim():
            victim.disk.room_bytes = 0
            self._for_a_while(5 * SECOND, lambda: setattr(victim.disk, "room_bytes", ROOM_BYTES))

    def failed_sync(self) -> None:
        """The next sync fails."""
        if victim := self._victim():
            victim.disk.fail_syncs = 1

    def bit_flip(self) -> None:
        """A machine loses power, and a bit of what it had acknowledged turns."""
        world = self.world
        if world.flipped or not (victim := self._victim()):
            return
        victim.crash(power=True)
        if victim.flip_bit(self.dice):
            world.flipped.add(int(victim.me))
            world.events.counts["bit flip"] += 1

    # ---- operators --------------------------------------------------------------------------------------------------------------

    def transfer(self) -> None:
        """The leader is asked to give way."""
        if leader := self.world.leader():
            target = self.dice.choice(sorted(leader.driver.core.status().membership.voters))
            self._ask(leader, "transfer", lambda: leader.transfer(target))

    def membership(self) -> None:
        """Members are added, promoted, removed, replaced."""
        leader = self.world.leader()
        if leader is None:
            return
        for _ in range(self.dice.choice((1, 1, 2))):  # two at once are refused, unless that is forgotten
            now = leader.driver.core.status().membership
            wanted = self._other_membership(now)
            if wanted is not None and wanted != now:
                self._ask(leader, "membership change", partial(leader.change_membership, wanted))

    def _ask(self, leader: Member, what: str, ask: Callable[[], None]) -> None:
        def asked() -> None:
            try:
                ask()
            except Refused as refused:
                self.world.events.counts[f"{what} refused: {refused.reason}"] += 1
            else:
                self.world.events.counts[what] += 1
                self._maybe_hurt_soon()

        leader.do(leader.life, asked)

    def _elected(self) -> None:
        self._maybe_hurt_soon()

    def _maybe_hurt_soon(self) -> None:
        """Elections and changes are when trouble hurts most."""
        if self._kinds and not self.over and self.dice.random() < self.world.plan.hurt:
            self._for_a_while(self.dice.choice((30 * MS, 300 * MS, 1000 * MS)), self._hurt)

    def _hurt(self) -> None:
        if not self.over:
            self.dice.choice(self._kinds)()

    def _other_membership(self, now: Membership) -> Membership | None:
        world, dice = self.world, self.dice
        broken = [voter for voter in now.voters if world.members[voter].broken]
        removable = broken or list(now.voters)
        what = dice.choice(("learner", "promote", "remove", "reshuffle", "reshuffle", "forget", "book"))
        voters, learners = set(now.voters), set(now.learners)
        if what == "learner":
            learners.add(self._newcomer(now))
        elif what == "promote" and learners:
            voters.add(dice.choice(sorted(learners)))
        elif what == "remove" and len(voters) > VOTERS_MIN:
            voters.discard(dice.choice(removable))
        elif what == "reshuffle" and len(voters | learners) > VOTERS_MIN:
            everybody = [each for each in sorted(voters | learners) if each not in broken]
            voters = set(dice.sample(everybody, dice.randint(min(VOTERS_MIN, len(everybody)), len(everybody))))
            if dice.random() < 0.5:
                learners |= set(now.voters)
        elif what == "forget" and learners:
            learners.discard(dice.choice(sorted(learners)))
        elif what == "book":
            return Membership(now.voters, (), _sorted(learners - voters), dice.randbytes(3))
        if len(voters) < VOTERS_MIN:
            return None
        return Membership(_sorted(voters), (), _sorted(learners - voters), now.book)

    def _newcomer(self, now: Membership) -> NodeId:
        """A new machine, or one that was removed and is still there."""
        world = self.world
        former = [
            member.me for member in world.members.values() if not member.broken and member.me not in now.members()
        ]
        if former and (len(world.members) >= MEMBERS_MAX or self.dice.random() < 0.5):
            return self.dice.choice(former)
        if len(world.members) >= MEMBERS_MAX:
            return now.voters[0]
        new = world.add(len(world.members) + 1)
        new.start()
        return new.me

    # ---- the end ----------------------------------------------------------------------------------------------------------------

    def heal(self) -> None:
        """No more trouble, and what was is undone."""
        world = self.world
        self.over = world.calm = True
        world.network.heal()
        for member in world.members.values():
            member.disk.room_bytes, member.disk.fail_syncs, member.disk.countdown = ROOM_BYTES, 0, None
            member.sync_most_ns = 2 * MS
            member.resume()
            member.start()

    def remove_broken(self) -> None:
        """The operator's duty: a voter whose disk is damaged is removed."""
        leader = self.world.leader()
        if leader is None:
            return
        now = leader.driver.core.status().membership
        members = self.world.members
        voters = [voter for voter in now.voters if not members[voter].broken]
        learners = [learner for learner in now.learners if not members[learner].broken]
        if not now.is_joint and (len(voters) < len(now.voters) or len(learners) < len(now.learners)):
            self._ask(leader, "removal of the broken", lambda: leader.change_membership(
                Membership(_sorted(set(voters)), (), _sorted(set(learners)), now.book)))  # fmt: skip


def _sorted(ids: set[NodeId]) -> tuple[NodeId, ...]:
    return tuple(sorted(ids))
