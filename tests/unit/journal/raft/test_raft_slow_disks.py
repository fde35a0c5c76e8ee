"""Votes are durable before they are told: a group whose disks need longer than its election timeout finds a leader all the same, and keeps it."""

from __future__ import annotations

from random import Random

import pytest
from raft_world import World

from monofs.journal.raft.messages import Membership, NodeId, Role, Settings

TICK_S = 0.05
NODES = (NodeId(1), NodeId(2), NodeId(3))


class SlowGroup:
    """Three members that come into being; each write of a member takes so many seconds, give or take a third."""

    def __init__(self, seed: int, write_s: dict[NodeId, float]) -> None:
        print(f"seed {seed}")
        self.random, self._write_s = Random(seed), write_s
        self.world = World(random=self.random, settings=Settings(tick_s=TICK_S, heartbeat_ticks=2, election_ticks=12))
        for node in NODES:
            self.world.add(node, Membership(NODES)).is_slow = True
        for node in NODES:
            self.world.start(node)
        self.ticks = 0
        self._due: dict[tuple[NodeId, int], float] = {}

    def tick(self) -> None:
        """Messages arrive, time passes, and writes end whose time has come."""
        messages, self.world.net = self.world.net, []
        for message in messages:
            self.world.deliver(message)
        self.ticks += 1
        for member in self.world.alive():
            self.world.tick(member.id)
            if member.writing is not None:
                takes = self._write_s[member.id] / TICK_S * self.random.uniform(0.67, 1.33)
                if self.ticks >= self._due.setdefault((member.id, member.writing[0]), self.ticks + takes):
                    self.world.flush(member.id)

    def leader(self) -> NodeId | None:
        """Who leads, and has committed that."""
        return next((each.id for each in self.world.alive() if each.raft is not None and each.raft.is_settled), None)

    def wait_for_leader(self, within_s: float) -> NodeId:
        end = self.ticks + within_s / TICK_S
        while (leader := self.leader()) is None:
            assert self.ticks < end, (
                f"nobody leads after {within_s} s, terms {[self.world.raft(n).term for n in NODES]}"
            )
            self.tick()
        return leader


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("write_s", [0.6, 1.0, 2.0])
def test_disks_slower_than_the_election_timeout_do_not_keep_a_group_from_a_leader(seed: int, write_s: float) -> None:
    group = SlowGroup(seed, dict.fromkeys(NODES, write_s))
    leader = group.wait_for_leader(60.0)
    for number in range(5):
        index = group.world.act(leader, lambda raft, number=number: raft.propose([(number, 10)]))
        while group.world.raft(leader).commit < index:
            group.tick()
            assert group.world.raft(leader).role is Role.LEADER, "slow as it is, it is heard"


@pytest.mark.parametrize("seed", range(12))
def test_one_quick_disk_does_not_outrun_two_slow_ones(seed: int) -> None:
    SlowGroup(seed, {NODES[0]: 0.01, NODES[1]: 1.0, NODES[2]: 1.5}).wait_for_leader(60.0)


@pytest.mark.parametrize("seed", range(12))
def test_the_next_leader_is_looked_for_as_fast_as_ever_once_there_was_one(seed: int) -> None:
    group = SlowGroup(seed, dict.fromkeys(NODES, 1.0))
    group.world.crash(group.wait_for_leader(60.0))
    group._write_s = dict.fromkeys(NODES, 0.01)
    began, left = group.ticks, [each for each in group.world.alive() if each.raft is not None]
    while not any(each.raft is not None and each.raft.role is not Role.FOLLOWER for each in left):
        group.tick()
    assert group.ticks - began <= 24, "an election begins within two timeouts"
