"""Short random lives of small groups: every check after every event, no read of the past; healed, each group goes on by itself.

A seed that failed stays in `KEPT`. `MONOFS_RAFT_SEEDS=1000:2000` runs others.
"""

from __future__ import annotations

import os
from random import Random
from typing import Any

import pytest
from raft_world import World

from monofs.journal.raft.messages import Membership, NodeId, Refused, Role, Settings

SEEDS = range(*map(int, os.environ.get("MONOFS_RAFT_SEEDS", "0:240").split(":")))
KEPT: tuple[int, ...] = ()
EVENTS = 500
NET_AT_MOST = 60


class Life:
    def __init__(self, seed: int) -> None:
        self.random = random = Random(seed)
        self.count = random.choice((3, 3, 4, 5))
        settings = Settings(
            lease=random.random() < 0.4,
            max_append_bytes=random.choice((25, 1000)),
            max_inflight_appends=random.choice((2, 16)),
            window_bytes=random.choice((40, 100_000)),
            max_uncommitted_bytes=random.choice((200, 100_000)),
            caught_up_entries=2,
        )
        self.world = World(random=random, settings=settings)
        voters = tuple(NodeId(node) for node in range(1, random.choice((self.count, 3)) + 1))
        for node in range(1, self.count + 1):
            # who is no voter from the start is new and knows of no membership
            self.world.add(node, Membership(voters if node in voters else ()))
        for node in range(1, self.count + 1):
            self.world.start(node)
        self.number = 0
        self.loss = random.choice((0.0, 0.05, 0.3))
        self.actions = [self.time, self.time, *[self.message] * 12, self.propose, self.propose, self.read, self.fault]

    def run(self) -> None:
        for _ in range(EVENTS):
            self.random.choice(self.actions)()
        self.heal()

    def anyone(self) -> int | None:
        alive = self.world.alive()
        return self.random.choice(alive).id if alive else None

    def leader(self) -> int | None:
        """The leader of the highest term, or sometimes just anyone."""
        leaders = [m.raft for m in self.world.alive() if m.raft and m.raft.role is Role.LEADER]
        if not leaders or self.random.random() < 0.1:
            return self.anyone()
        return self.random.choice(leaders).me

    def time(self) -> None:
        """The same for all clocks; a node that is paused misses its tick, and not the time."""
        step_ns = int(self.world.settings.tick_s * 1e9)
        for member in self.world.members.values():
            member.now_ns += step_ns
        for member in self.world.alive():
            if self.random.random() < 0.9:
                raft = member.raft
                self.world.act(member.id, lambda raft, now_ns=member.now_ns: raft.tick(now_ns))
                assert raft is not None

    def message(self) -> None:
        net = self.world.net
        if not net:
            return
        at = 0 if self.random.random() < 0.7 else self.random.randrange(len(net))
        message = net.pop(at)
        if self.random.random() < self.loss or len(net) > NET_AT_MOST:
            self.world.lose(message)
            return
        if self.random.random() < 0.05 and type(message).__name__ != "InstallSnapshot":
            net.insert(self.random.randrange(len(net) + 1), message)
        self.world.deliver(message)

    def propose(self) -> None:
        node = self.leader()
        if node is None:
            return
        self.number += 1
        payloads = [(f"{self.number}.{part}", 10) for part in range(self.random.choice((1, 1, 3, 8)))]
        self.asked(node, lambda raft: raft.propose(payloads))

    def read(self) -> None:
        node = self.leader() if self.random.random() < 0.6 else self.anyone()
        if node is not None:
            self.number += 1
            self.world.read(node, self.number)

    def asked(self, node: int, what: Any) -> None:
        try:
            self.world.act(node, what)
        except Refused:
            pass  # and nothing of it is in the log: the checks see to that

    def fault(self) -> None:
        self.random.choice(
            (
                self.crash,
                self.restart,
                self.cut,
                self.mend,
                self.slow,
                self.flush,
                self.compact,
                self.transfer,
                self.change,
                self.change,
            )
        )()

    def crash(self) -> None:
        node = self.anyone()
        if node is not None and len(self.world.alive()) > self.count // 2:
            self.world.crash(node)

    def restart(self) -> None:
        for member in self.world.members.values():
            if member.raft is None or self.random.random() < 0.1:
                self.world.crash(member.id)
                self.world.start(member.id, restarted=True)
                return

    def cut(self) -> None:
        pairs = [(a, b) for a in self.world.members for b in self.world.members if a != b]
        if self.random.random() < 0.5:
            lonely = self.random.choice(list(self.world.members))
            self.world.cuts |= {(a, b) for a, b in pairs if lonely in (a, b)}
        else:
            self.world.cuts.add(self.random.choice(pairs))

    def mend(self) -> None:
        self.world.cuts.clear()

    def slow(self) -> None:
        node = self.anyone()
        if node is not None:
            self.world.members[NodeId(node)].is_slow = self.random.random() < 0.7
            self.world.members[NodeId(node)].is_installing_slowly = self.random.random() < 0.7

    def flush(self) -> None:
        for member in self.world.alive():
            if member.installing:
                member.is_installing_slowly = self.random.random() < 0.5
                self.world.finish_install(member.id)
            if member.writing:
                member.is_slow = self.random.random() < 0.5
                self.world.flush(member.id)

    def compact(self) -> None:
        node = self.anyone()
        if node is not None:
            raft = self.world.raft(node)
            self.world.compact(node, self.random.randint(raft.log.floor, raft.applied))

    def transfer(self) -> None:
        node, target = self.leader(), self.random.choice(list(self.world.members))
        if node is not None:
            self.asked(node, lambda raft: raft.transfer(target))

    def change(self) -> None:
        node = self.leader()
        if node is None:
            return
        everyone = list(self.world.members)
        voters = sorted(self.random.sample(everyone, self.random.randint(1, len(everyone))))
        learners = [other for other in everyone if other not in voters and self.random.random() < 0.7]
        if self.random.random() < 0.5:
            voters = list(self.world.raft(node).log.membership.voters)
            learners = [other for other in everyone if other not in voters]
        target = Membership(tuple(voters), (), tuple(learners))
        self.asked(node, lambda raft: raft.propose_membership(target))

    # --- liveness -------------------------------------------------------------------------------------------------------------------

    def heal(self) -> None:
        """All alive, connected and quick: within a few elections somebody leads, and what is then proposed all voters apply."""
        world = self.world
        self.loss = 0.0
        world.cuts.clear()
        for member in world.members.values():
            member.is_slow = member.is_installing_slowly = False
            if member.installing:
                world.finish_install(member.id)
            if member.raft is None:
                world.start(member.id, restarted=True)
            if member.writing:
                world.flush(member.id)
        wanted: int | None = None
        for _ in range(300):
            self.time()
            while world.net:
                world.deliver(world.net.pop(0))
            leaders = [m.raft for m in world.alive() if m.raft and m.raft.role is Role.LEADER]
            newest = max(leaders, key=lambda raft: raft.term, default=None)
            if newest is None:
                continue
            voters = newest.log.membership
            if wanted is None or not any(data == "last" for _, data in world.members[newest.me].disk.state):
                wanted = newest.log.last_index
                if newest.transferee == 0 and not any(
                    entry.data == "last" for entry in newest.log.between(newest.applied + 1, wanted)
                ):
                    self.asked(newest.me, lambda raft: raft.propose([("last", 10)]))
                continue
            if not voters.is_joint and all(
                ("last" in dict(map(reversed, world.members[v].disk.state))) for v in voters.voters
            ):
                return
        raise AssertionError(f"healed, yet it does not go on: {[m.raft.status() for m in world.alive() if m.raft]}")


@pytest.mark.parametrize("part", range(8))
def test_short_lives_keep_every_law(part: int) -> None:
    for seed in [*KEPT, *SEEDS][part::8]:
        try:
            Life(seed).run()
        except BaseException as error:
            error.add_note(f"seed {seed}")
            raise
