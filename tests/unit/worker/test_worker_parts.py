"""Quotas divided among workers: whatever tables come, whoever comes, goes, is silent or holds on to pages, all together keep to the quota."""

from __future__ import annotations

import itertools
import random
from array import array
from collections.abc import Callable

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from worker_world import MIB, World, make_bytes

from monofs.master.settling import Settling
from monofs.model.block import SLOTS
from monofs.model.options import Priority
from monofs.model.slots import EMPTY, SlotTable, pack_delta, part_of
from monofs.rpc.api import GroupSpec, HeartbeatRequest, PartsNews, SlotsNews
from monofs.worker.parts import QUOTA_INVARIANT, SPANS_MAX, Parts

POLICY, QUOTA = 3, 40 * MIB + 5
ROUNDS = 5
"""In so many heartbeats of every worker parts are what they are to be."""


def table_of_parts(epoch: int, weights: dict[int, int]) -> SlotTable:
    """A table in which workers own slots by weight."""
    rows, total = array("H"), sum(weights.values())
    for worker, weight in weights.items():
        rows.extend([worker] * (SLOTS * weight // total))
    rows.extend([worker] * (SLOTS - len(rows)))
    return SlotTable(epoch, 1, rows)


TABLES = [
    table_of_parts(epoch, weights)
    for epoch, weights in enumerate(
        ({1: 1}, {1: 1, 2: 1}, {1: 1, 2: 1, 3: 1}, {2: 1, 3: 1}, {1: 5, 3: 1, 4: 1}, {4: 1}, {1: 1, 2: 2, 3: 3, 4: 4}),
        1,
    )
]


class Keeper:
    """A worker: its parts, what it has cached of one policy, and how much of that cannot go now."""

    def __init__(self, number: int) -> None:
        self.number, self.used, self.stuck = number, 0, 0
        self.is_known = self.is_counted = self.is_lost_anew = False
        self.begin_anew()

    def begin_anew(self) -> None:
        self.parts, self.table = Parts(), EMPTY
        self.forget_request()

    def forget_request(self) -> None:
        self.is_asking, self.reply = False, None

    def most(self) -> int:
        return self.parts.of(POLICY, QUOTA, self.used)

    def keep_parts(self) -> None:
        self.used = max(self.stuck, min(self.used, self.most()))

    def take(self) -> None:
        if self.reply is None:
            return
        (tables, news), self.reply = self.reply, None
        for self.table in tables:
            self.parts.follow(self.number, self.table)
        self.parts.told(news.settled, news.over)
        self.keep_parts()
        self.is_lost_anew &= not news.settled
        # what one that comes back has in use counts once it is told of; one that began anew while it was lost may hold too much until then
        self.is_counted |= self.used <= self.most() and not self.is_lost_anew


class Cluster:
    """Workers, the master's view of them, and every message on its way."""

    def __init__(self, chance: random.Random) -> None:
        self.chance, self.settling, self.tables = chance, Settling(), [TABLES[0]]
        self.epoch = 1
        self.keepers = {number: Keeper(number) for number in (1, 2, 3, 4)}
        self.live: set[int] = set()

    def step(self) -> None:
        keeper = self.keepers[self.chance.choice(list(self.keepers))]
        acts = [
            self.ask,
            self.answer,
            Keeper.take,
            self.fill,
            self.hold,
            self.let_go,
            self.plan,
            self.restart,
            self.register,
            self.lose,
            self.lead,
        ]
        (act,) = self.chance.choices(acts, (40, 40, 40, 25, 12, 2, 4, 1, 2, 2, 1))
        act(keeper)
        self.check()

    def register(self, keeper: Keeper) -> None:
        keeper.parts.registered(listed=keeper.number in self.tables[-1].workers())
        keeper.keep_parts()
        keeper.forget_request()
        self.settling.heard(keeper.number, 0, {}, {})
        self.live.add(keeper.number)
        keeper.is_known = True
        if self.chance.random() < 0.5:  # whoever comes is planned for
            self.plan(keeper)

    def ask(self, keeper: Keeper) -> None:
        """One that was lost, and lives after all, goes on where it was."""
        may_ask = keeper.is_known and not keeper.is_asking and keeper.reply is None
        if may_ask and (keeper.number in self.live or self.chance.random() < 0.05):
            self.live.add(keeper.number)
            keeper.is_asking = True
            over, left = keeper.parts.over(QUOTA, keeper.used), keeper.parts.left(POLICY, QUOTA, keeper.used)
            told = ({POLICY: count} if count else {} for count in (over, left))
            self.settling.heard(keeper.number, keeper.table.epoch, *told)

    def answer(self, keeper: Keeper) -> None:
        if keeper.number in self.live and keeper.is_asking:
            keeper.is_asking = False
            news = [table for table in self.tables if table.epoch > keeper.table.epoch]
            keeper.reply = news if keeper.table.epoch else news[-1:], self.settling.news(keeper.number, self.tables[-1])

    def fill(self, keeper: Keeper) -> None:
        if keeper.is_known:
            keeper.used = max(keeper.used, keeper.most() // self.chance.choice((1, 1, 2)))

    def hold(self, keeper: Keeper) -> None:
        keeper.stuck = keeper.used // self.chance.choice((1, 2))

    def let_go(self, keeper: Keeper) -> None:
        keeper.stuck = 0
        keeper.keep_parts()

    def restart(self, keeper: Keeper) -> None:
        """Its pages stay, what is pinned above all; until it has registered it serves nobody."""
        keeper.begin_anew()
        keeper.is_lost_anew = keeper.number not in self.live
        keeper.stuck = self.chance.choice((0, keeper.stuck))
        self.register(keeper)

    def lose(self, keeper: Keeper) -> None:
        self.live.discard(keeper.number)
        self.settling.keep(self.live)
        keeper.is_counted = False
        keeper.forget_request()

    def plan(self, _: Keeper) -> None:
        self.epoch += 1
        chosen = self.chance.choice([each for each in TABLES if each.epoch != self.tables[-1].epoch])
        self.tables.append(SlotTable(self.epoch, 1, array("H", chosen._rows)))

    def lead(self, _: Keeper) -> None:
        """Another master leads: it knows nothing but the table. What the one before said last may still come."""
        self.settling = Settling()
        self.settling.begin(self.live)
        for keeper in self.keepers.values():
            keeper.is_asking = False

    def calm(self) -> None:
        """Nothing happens any more, and everybody wants all there is, but what cannot go stays."""
        keepers = list(self.keepers.values())
        for _ in range(ROUNDS):
            for act in (self.ask, self.answer, Keeper.take):
                for keeper in self.chance.sample(keepers, len(keepers)):
                    act(keeper)
                    keeper.used = max(keeper.used, keeper.most())
                    self.check()

    def check(self) -> None:
        counted = {number: keeper.used for number, keeper in self.keepers.items() if keeper.is_counted}
        assert sum(counted.values()) <= QUOTA, f"{QUOTA_INVARIANT}: {counted} of {QUOTA}"


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.integers(0, 2**32))
def test_parts_never_sum_to_more_than_the_quota(seed: int) -> None:
    cluster = Cluster(random.Random(seed))
    for keeper in cluster.keepers.values():
        cluster.register(keeper)
    for _ in range(300):
        cluster.step()


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.integers(0, 2**32))
@example(0x5DE6F1)  # one that was lost comes back with pinned pages, whose room others have pinned meanwhile
def test_all_of_a_quota_is_used_soon_whoever_holds_on_to_pages(seed: int) -> None:
    cluster = Cluster(random.Random(seed))
    for keeper in cluster.keepers.values():
        cluster.register(keeper)
    for _ in range(300):
        cluster.step()
    for keeper in cluster.keepers.values():
        if keeper.number not in cluster.live:
            cluster.register(keeper)
    cluster.calm()
    held = sum(keeper.stuck for keeper in cluster.keepers.values())
    assert sum(keeper.used for keeper in cluster.keepers.values()) == max(QUOTA, held)


def test_parts_grow_to_the_whole_quota_once_all_follow_one_table() -> None:
    cluster = Cluster(random.Random(1))
    for keeper in cluster.keepers.values():
        cluster.register(keeper)
    cluster.plan(cluster.keepers[1])
    cluster.tables.append(SlotTable(cluster.epoch + 1, 1, array("H", TABLES[-1]._rows)))
    for _ in range(3):
        for keeper in cluster.keepers.values():
            for act in (cluster.ask, cluster.answer, Keeper.take):
                act(keeper)
    most = [keeper.most() for keeper in cluster.keepers.values()]
    assert sum(most) == QUOTA
    assert most == pytest.approx([QUOTA * share / 10 for share in (1, 2, 3, 4)], abs=MIB + 5)


def test_what_one_holds_over_its_part_is_left_by_the_others_together_not_by_each_of_them() -> None:
    settling, halves = Settling(), table_of_parts(5, {2: 1, 3: 1})
    settling.heard(1, 5, {POLICY: 8 * MIB}, {})
    for worker in (2, 3):
        settling.heard(worker, 5, {}, {})
    told = [settling.news(worker, halves) for worker in (2, 3)]
    assert told == [PartsNews(5, {POLICY: 8 * MIB})] * 2, "neither has said so yet"
    for worker in (2, 3):
        settling.heard(worker, 5, {}, {POLICY: 8 * MIB})
    assert [settling.news(worker, halves).over for worker in (2, 3)] == [{POLICY: 4 * MIB}] * 2
    settling.heard(3, 5, {}, {POLICY: 3 * MIB})
    assert settling.news(2, halves).over == {POLICY: 5 * MIB}, "the other cannot leave all of its share"
    settling.keep({2, 3})
    assert settling.news(2, halves).over == {}


@pytest.mark.parametrize("forgets", ["a worker", "the master"])
def test_nobody_grows_into_what_another_holds_because_that_is_not_known_for_a_moment(forgets: str) -> None:
    cluster = Cluster(random.Random(1))
    one, other = cluster.keepers[1], cluster.keepers[2]
    cluster.keepers = {1: one, 2: other}
    for keeper in (one, other):
        cluster.register(keeper)
    cluster.tables.append(table_of_parts(10, {1: 1}))
    cluster.calm()
    one.stuck = one.used
    cluster.tables.append(table_of_parts(11, {1: 1, 2: 1}))
    cluster.calm()
    assert (one.used, other.used) == (QUOTA, 0)
    if forgets == "a worker":
        one.begin_anew()
        cluster.register(one)
    else:
        cluster.lead(one)
    for act in (cluster.ask, cluster.answer, Keeper.take, cluster.fill):
        act(other)
    cluster.check()


def test_a_worker_that_comes_back_to_slots_that_were_given_away_has_no_part_before_the_others_made_room() -> None:
    both, alone, both_again = (table_of_parts(*each) for each in ((1, {1: 1, 2: 1}), (2, {2: 1}), (3, {1: 1, 2: 1})))
    back, stayed = Parts(), Parts()
    settling = Settling()
    for worker, parts in ((1, back), (2, stayed)):
        parts.registered(listed=True)
        settling.heard(worker, 1, {}, {})
        parts.follow(worker, both)
    for worker, parts in ((1, back), (2, stayed)):
        parts.told(settling.news(worker, both).settled, {})
    settling.keep({2})
    stayed.follow(2, alone)
    settling.heard(2, 2, {}, {})
    stayed.told(settling.news(2, alone).settled, {})
    assert stayed.of(POLICY, QUOTA, QUOTA) == QUOTA
    back.registered(listed=False)
    settling.heard(1, 0, {}, {})
    assert back.of(POLICY, QUOTA, QUOTA // 2) == 0
    back.follow(1, both_again)
    back.told(settling.news(1, both_again).settled, {})
    assert back.of(POLICY, QUOTA, 0) == 0, "the other has not heard of that table"


@given(st.integers(0, 1 << 50), st.lists(st.integers(1, SLOTS - 1), max_size=20))
def test_parts_of_any_quota_sum_to_it(quota: int, borders: list[int]) -> None:
    edges = [0, *sorted(borders), SLOTS]
    assert sum(part_of(quota, span) for span in itertools.pairwise(edges)) == quota


def test_a_worker_that_follows_table_after_table_and_hears_of_no_settled_one_keeps_nothing_in_the_end() -> None:
    parts = Parts()
    for epoch in range(1, SPANS_MAX + 2):
        parts.follow(1, table_of_parts(epoch, {1: epoch, 2: 1}))
    assert parts.of(POLICY, QUOTA, 0) == 0
    parts.told(epoch, {})
    assert parts.of(POLICY, QUOTA, 0) > 0


def test_a_worker_keeps_its_part_of_a_quota_and_tells_what_cannot_go(make_world: Callable[..., World]) -> None:
    world = make_world()
    master = world.master
    master.listed, master.groups = True, [GroupSpec(POLICY, 4 * MIB, Priority.MEDIUM, 0)]
    world.put(make_bytes(1, 3 * MIB))
    token = world.capability(1, 3 * MIB, "object-1", "e:1", group=2 * POLICY)

    def told(table: SlotTable, settled: int, over: dict[int, int]) -> None:
        master.slots = SlotsNews(table.epoch, [pack_delta(table.whole())], 0)
        master.parts = PartsNews(settled, over)
        master.policies_index += 1
        world.on_beat()
        world.on_beat()

    alone = table_of_parts(5, {7: 1})
    told(alone, alone.epoch, {})
    assert world.read(token, 0, 3 * MIB) == make_bytes(1, 3 * MIB)
    assert world.present(1) == 7
    held = world.run(lambda: world.cache.lookup(world.content(1), 0))
    world.run(lambda: world.cache.hold(held))
    told(table_of_parts(6, {7: 1, 8: 1}), 0, {})
    assert world.present(1) == 7, "it is in use"
    assert [request.over for request in master.requests if isinstance(request, HeartbeatRequest)][-1] == {POLICY: MIB}
    world.run(lambda: world.cache.release(held))
    assert world.present(1) == 0
    told(table_of_parts(7, {7: 1}), 0, {})
    assert world.fetch(token, 0, 7).cached is False, "not before all follow"
    told(table_of_parts(7, {7: 1}), 7, {POLICY: MIB})
    assert world.fetch(token, 0, 7).cached


def test_a_worker_that_is_led_over_a_table_in_which_it_has_no_part_keeps_nothing(
    make_world: Callable[..., World],
) -> None:
    """Others may have grown by that one, while this worker was lost."""
    world = make_world()
    master = world.master
    master.listed, master.groups = True, [GroupSpec(POLICY, 4 * MIB, Priority.MEDIUM, 0)]
    world.put(make_bytes(1, 3 * MIB))
    token = world.capability(1, 3 * MIB, "object-1", "e:1", group=2 * POLICY)
    first, between, last = table_of_parts(5, {7: 1}), table_of_parts(6, {8: 1}), table_of_parts(7, {7: 1})
    master.slots, master.parts = SlotsNews(5, [pack_delta(first.whole())], 0), PartsNews(5, {})
    master.policies_index += 1
    world.on_beat()
    world.on_beat()
    assert world.read(token, 0, 3 * MIB) == make_bytes(1, 3 * MIB)
    assert world.present(1) == 7
    deltas = [pack_delta(first.delta_to(between)), pack_delta(between.delta_to(last))]
    master.slots, master.parts = SlotsNews(7, deltas, 0), PartsNews(0, {})
    world.on_beat()
    world.on_beat()
    assert world.present(1) == 0
