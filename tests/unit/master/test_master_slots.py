"""The slot table of a running master: when it is planned, who serves meanwhile, and how it is told."""

from __future__ import annotations

import time
from collections.abc import Iterable
from pathlib import Path

import pytest
from master_house import House
from twisted.internet.defer import Deferred

from monofs.cli.output import exit_code
from monofs.master.members import LEASE_S
from monofs.master.planning import PLAN_PAUSE_S
from monofs.metadata.tables import ADDRESSES_LEVEL
from monofs.model.block import SLOTS, slot_of
from monofs.model.errors import NotFound, WorkersUsedUp, WouldLose
from monofs.model.slots import EMPTY, FORMER_S, WORKER_MAX, SlotTable, follow
from monofs.rpc import api
from monofs.rpc.api import Method, SlotsKnown


def register(house: House, number: int, *, weight: int = 100, zone: str = "") -> int:
    identity = number.to_bytes(16, "big")
    request = api.RegisterRequest(identity, f"127.0.0.1:{number}", "", "", 1000, 10, 0, weight=weight, zone=zone)
    return int(house.ask(Method.REGISTER, request).worker)


def beat(house: House, worker: int, known: SlotsKnown | None = None) -> api.HeartbeatAnswer:
    index = house.namespace.mounts_index
    answer = house.ask(Method.HEARTBEAT, api.HeartbeatRequest(worker, 0, 1000, 10, index, 0.0, slots=known))
    assert isinstance(answer, api.HeartbeatAnswer)
    return answer


def known(table: SlotTable, live: int = 0) -> SlotsKnown:
    return SlotsKnown(table.epoch, table.digest, live)


def planned(house: House, workers: Iterable[int]) -> SlotTable:
    """The table, once it is of these workers, and the plan that made it is over."""
    wanted, planning = sorted(workers), house.master._duties._planning
    end = time.monotonic() + 30
    while time.monotonic() < end:
        house.loop.do(lambda: Deferred.fromCoroutine(planning.maybe_plan()))
        table = house.loop.do(lambda: None if planning._is_planning else house.namespace.slots)
        if table is not None and table.workers() == wanted:
            return table
        time.sleep(0.005)
    raise AssertionError(f"no plan for {wanted} was made")


def pause(house: House) -> None:
    """Time passes until the next plan may be made; not while one is being made, which would count from its end."""
    end, planning = time.monotonic() + 30, house.master._duties._planning
    while house.loop.do(lambda: planning._is_planning):
        assert time.monotonic() < end, "a plan does not end"
        time.sleep(0.005)
    house.now_s += PLAN_PAUSE_S


def two(house: House) -> SlotTable:
    register(house, 1)
    planned(house, [1])
    register(house, 2)
    pause(house)
    return planned(house, [1, 2])


def later(house: House, seconds: float, *living: int) -> None:
    """Time passes, in which some workers are heard."""
    end = house.now_s + seconds
    while house.now_s < end:
        house.now_s = min(end, house.now_s + LEASE_S / 2)
        for worker in living:
            beat(house, worker)
    house.loop.do(house.master.members.check_leases)


def test_the_table_is_of_those_who_registered_and_its_epoch_is_the_entry_that_made_it(house: House) -> None:
    assert house.namespace.slots == EMPTY
    register(house, 1)
    one = planned(house, [1])
    assert one.epoch <= house.namespace.applied_index
    assert house.ask(Method.CLUSTER, api.ClusterRequest()).epoch == one.epoch
    register(house, 2)
    pause(house)
    table = planned(house, [1, 2])
    assert table.epoch > one.epoch
    assert table.counts() == {1: SLOTS // 2, 2: SLOTS // 2}
    assert table.replicas == 2
    house.restart()
    assert house.namespace.slots == table


def test_slots_go_by_weight_and_nobody_without_weight_gets_any(house: House) -> None:
    for number, weight in ((1, 100), (2, 300), (3, 0)):
        register(house, number, weight=weight, zone=f"rack-{number}")
    pause(house)
    assert planned(house, [1, 2]).counts() == {1: SLOTS // 4, 2: 3 * SLOTS // 4}
    shown = house.ask(Method.REPORT, api.ReportRequest()).sections["workers"]
    told = [(shown[number]["weight"], shown[number]["zone"], shown[number]["slots"]) for number in ("1", "2", "3")]
    assert told == [(100, "rack-1", SLOTS // 4), (300, "rack-2", 3 * SLOTS // 4), (0, "rack-3", 0)]


def test_a_silent_worker_is_stood_in_for_at_once_and_loses_its_slots_when_it_stays_away(house: House) -> None:
    table = two(house)
    slot = next(slot for slot in range(SLOTS) if list(table.owners(slot)) == [1, 2])
    assert house.master.members.owners(slot) == [1, 2]
    later(house, LEASE_S + 1, 2)
    assert house.master.members.owners(slot) == [2]
    replan_after_s = house.config.namespace.replan_after_s
    later(house, replan_after_s - LEASE_S - 2 - PLAN_PAUSE_S, 2)
    assert planned(house, [1, 2]) == table, "a restart moves nothing"
    later(house, 2, 2)
    assert planned(house, [2]).replicas == 1


def test_a_worker_that_no_number_is_left_for_is_told_so_and_takes_over_that_of_one_that_is_gone(house: House) -> None:
    register(house, 1)
    house.loop.do(lambda: setattr(house.namespace.meta, "last_worker", WORKER_MAX - 1))
    assert register(house, 2) == WORKER_MAX
    with pytest.raises(WorkersUsedUp, match="65,535 workers") as refused:
        register(house, 3)
    assert "worker/identity" in refused.value.hint
    assert register(house, 1) == 1, "whoever comes with an identity that is known"
    pause(house)
    assert planned(house, [1, WORKER_MAX]).counts() == {1: SLOTS // 2, WORKER_MAX: SLOTS // 2}


def test_others_are_told_when_a_worker_began_anew_within_its_lease(house: House) -> None:
    """It may have lost copies, and nobody missed it; one that only registers again has what it had."""

    def come(life: int) -> int:
        request = api.RegisterRequest((2).to_bytes(16, "big"), "127.0.0.1:2", "", "", 1000, 10, 0, life=life)
        house.ask(Method.REGISTER, request)
        news = beat(house, 1, known(house.namespace.slots)).slots
        assert news is not None
        assert news.silent == []
        return news.live

    two(house)
    first = come(1)
    assert come(1) == first
    assert come(2) != first


def test_a_leader_that_never_heard_a_worker_says_where_it_was(house: House) -> None:
    two(house)
    house.restart()
    workers = house.ask(Method.REPORT, api.ReportRequest()).sections["workers"]
    assert [(row["address"], row["live"]) for row in workers.values()] == [
        ("127.0.0.1:1", False),
        ("127.0.0.1:2", False),
    ]


def test_workers_that_came_before_the_level_rose_are_remembered_then(house: House) -> None:
    house.loop.do(lambda: setattr(house.namespace.meta, "level", ADDRESSES_LEVEL - 1))
    register(house, 1)
    assert house.namespace.address_of(1) == ""
    house.loop.do(house.master._duties.raise_level)
    assert house.namespace.address_of(1) == "127.0.0.1:1"
    applied = house.namespace.applied_index
    register(house, 1)
    assert house.namespace.applied_index == applied, "what is known is not journaled again"


def test_a_worker_that_restarts_keeps_its_slots(house: House) -> None:
    table = two(house)
    later(house, 3 * LEASE_S, 2)
    register(house, 1)
    assert planned(house, [1, 2]) == table
    assert house.master.members.owners(0) == list(table.owners(0))


def test_a_new_leader_plans_nothing_before_workers_had_time_to_come_to_it(house: House) -> None:
    table = two(house)
    house.restart()
    register(house, 2)
    later(house, house.config.namespace.replan_after_s - 2, 2)
    assert planned(house, [1, 2]) == table
    later(house, 3, 2)
    planned(house, [2])


def test_a_storm_of_registrations_makes_few_plans(house: House) -> None:
    register(house, 1)
    first = planned(house, [1])
    for number in range(2, 41):
        register(house, number)
    assert house.namespace.slots == first, "the next plan is made after a pause"
    before = house.namespace.applied_index
    pause(house)
    planned(house, range(1, 41))
    assert house.namespace.applied_index == before + 1


def test_who_knows_a_table_is_told_deltas_and_others_the_whole(house: House) -> None:
    register(house, 1)
    one = planned(house, [1])
    for number in (2, 3):
        register(house, number)
        pause(house)
        table = planned(house, range(1, number + 1))
    fresh = house.ask(Method.CLUSTER, api.ClusterRequest(SlotsKnown()))
    assert len(fresh.news.deltas) == 1
    assert follow(EMPTY, fresh.news.deltas) == table
    assert ([info.id for info in fresh.workers], fresh.news.silent) == ([1, 2, 3], [])
    again = house.ask(Method.CLUSTER, api.ClusterRequest(known(table, fresh.news.live), fresh.listed))
    assert (again.workers, again.news.deltas, again.news.silent) == ([], [], None)
    pause(house)
    register(house, 2, weight=90)
    deadline = time.monotonic() + 30
    while house.namespace.slots == table and time.monotonic() < deadline:
        planned(house, [1, 2, 3])
    newest = house.namespace.slots
    behind = house.ask(Method.CLUSTER, api.ClusterRequest(known(table)))
    assert follow(table, behind.news.deltas) == newest
    assert sum(map(len, behind.news.deltas)) < len(fresh.news.deltas[0]) + 40_000
    for strange in (known(one), SlotsKnown(table.epoch, table.digest ^ 1)):
        told = house.ask(Method.CLUSTER, api.ClusterRequest(strange)).news.deltas
        assert follow(one if strange.epoch == one.epoch else EMPTY, told) == newest
    assert house.ask(Method.CLUSTER, api.ClusterRequest()).news is None


def test_heartbeats_tell_of_the_table_and_of_who_is_silent_and_nothing_when_nothing_is_new(house: House) -> None:
    table = two(house)
    assert beat(house, 1).slots is None, "a worker of an earlier release does not ask"
    told = beat(house, 1, SlotsKnown()).slots
    assert told is not None
    assert (follow(EMPTY, told.deltas), told.silent) == (table, [])
    assert beat(house, 1, known(table, told.live)).slots is None
    later(house, LEASE_S + 1, 1)
    now = beat(house, 1, known(table, told.live)).slots
    assert now is not None
    assert (now.deltas, now.silent) == ([], [2])


def test_a_worker_that_comes_is_told_the_table_at_once_and_the_tables_before_for_a_while(house: House) -> None:
    """So it knows whom to ask for what it owns now, also when it learns that only once it owns it."""
    table = two(house)
    register(house, 3)
    index = house.namespace.mounts_index
    waits = api.HeartbeatRequest(3, 0, 1000, 10, index, 4.0, slots=SlotsKnown())
    told = house.ask(Method.HEARTBEAT, waits).slots
    assert follow(EMPTY, told.deltas) == table, "answered though the clock stands still"
    pause(house)
    after = planned(house, [1, 2, 3])
    later_s = house.now_s
    for _ in range(2):
        news = beat(house, 3, SlotsKnown()).slots
        assert news is not None
        tables = [follow(EMPTY, news.deltas[:count]) for count in range(1, len(news.deltas) + 1)]
        assert tables[-2:] == [table, after]
    assert len(house.ask(Method.CLUSTER, api.ClusterRequest(SlotsKnown())).news.deltas) == 1, "clients need none of it"
    house.now_s = later_s + FORMER_S + 1
    news = beat(house, 3, SlotsKnown()).slots
    assert news is not None
    assert len(news.deltas) == 1
    assert follow(EMPTY, news.deltas) == after


def test_whole_tables_go_out_at_a_bounded_rate(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("monofs.master.publishing.WHOLE_BYTES_S", 0)
    table = two(house)
    house.now_s = float(int(house.now_s) + 1)
    answers = [house.ask(Method.CLUSTER, api.ClusterRequest(SlotsKnown())).news for _ in range(3)]
    assert [len(news.deltas) for news in answers] == [1, 0, 0]
    assert {news.epoch for news in answers} == {table.epoch}
    house.now_s += 1
    assert len(house.ask(Method.CLUSTER, api.ClusterRequest(SlotsKnown())).news.deltas) == 1


def decommission(house: House, worker: int, *, stay: bool = False) -> int:
    answer = house.ask(Method.DECOMMISSION, api.DecommissionRequest(worker, stay))
    assert isinstance(answer, api.DecommissionAnswer)
    return answer.epoch


def test_a_worker_told_to_leave_owns_nothing_until_it_is_told_to_stay(house: House) -> None:
    before = two(house)
    epoch = decommission(house, 2)
    assert epoch > before.epoch
    assert house.namespace.slots.counts() == {1: SLOTS}
    later(house, 2 * PLAN_PAUSE_S, 1, 2)
    assert planned(house, [1]).epoch == epoch, "it lives, and stays out"
    register(house, 3)
    later(house, PLAN_PAUSE_S, 1, 2)
    planned(house, [1, 3])
    assert decommission(house, 2, stay=True) == house.namespace.slots.epoch
    assert house.namespace.slots.workers() == [1, 2, 3]


def test_another_master_and_a_restart_of_the_worker_change_nothing_about_its_leaving(house: House) -> None:
    two(house)
    decommission(house, 2)
    house.restart()
    assert house.namespace.slots.workers() == [1]
    register(house, 1)
    register(house, 2)
    pause(house)
    assert planned(house, [1]).counts() == {1: SLOTS}


def test_a_report_names_workers_a_new_leader_has_not_heard_and_those_told_to_leave(house: House) -> None:
    two(house)
    house.restart()
    register(house, 1)
    workers = house.ask(Method.REPORT, api.ReportRequest()).sections["workers"]
    assert {number: each["live"] for number, each in workers.items()} == {"1": True, "2": False}
    assert sum(each["slots"] for each in workers.values()) == SLOTS
    register(house, 2)
    decommission(house, 2)
    workers = house.ask(Method.REPORT, api.ReportRequest()).sections["workers"]
    assert {number: each["leaving"] for number, each in workers.items()} == {"1": False, "2": True}


def test_why_names_the_workers_of_each_block_of_a_file_but_not_of_very_many(house: House, tmp_path: Path) -> None:
    two(house)
    (tmp_path / "lake").mkdir()
    sizes = {"empty": 0, "small": 5, "three": (2 << 26) + 1, "many": 100 << 26}
    for name, size in sizes.items():
        with open(tmp_path / "lake" / name, "wb") as file:
            file.truncate(size)
    house.mount("/lake", tmp_path / "lake")
    why = {name: house.ask(Method.WHY, api.StatRequest(f"/lake/{name}")).facts for name in sizes}
    assert [(len(facts["placed"]), facts.get("placed_left_out", 0)) for facts in why.values()] == [
        (0, 0),
        (1, 0),
        (3, 0),
        (16, 84),
    ]
    table = house.namespace.slots
    content = house.stat("/lake/three").content
    assert why["three"]["placed"] == [
        {"block": block, "slot": slot_of(content, block), "workers": list(table.owners(slot_of(content, block)))}
        for block in range(3)
    ]


def test_why_says_for_how_long_a_worker_was_not_heard(house: House, tmp_path: Path) -> None:
    two(house)
    (tmp_path / "lake").mkdir()
    (tmp_path / "lake" / "f").write_bytes(b"12345")
    house.mount("/lake", tmp_path / "lake")

    def silent() -> object:
        return house.ask(Method.WHY, api.StatRequest("/lake/f")).facts.get("silent")

    beat(house, 1)
    assert silent() is None
    later(house, LEASE_S + 1, 2)
    assert silent() == {"127.0.0.1:1": LEASE_S + 1}
    later(house, 123, 2)
    assert silent() == {"127.0.0.1:1": 130}, (
        "in two digits, so that what is told of a file does not change all the time"
    )
    register(house, 1)
    assert silent() is None


def test_the_only_worker_cannot_leave_nor_one_that_never_was(house: House) -> None:
    register(house, 1)
    planned(house, [1])
    with pytest.raises(WouldLose, match="start another") as refused:
        decommission(house, 1)
    assert exit_code(refused.value) == 4, "nothing was changed while it was read"
    with pytest.raises(NotFound, match="admin report"):
        decommission(house, 9)
    assert house.namespace.slots.workers() == [1]


def test_an_order_to_leave_that_comes_while_a_plan_is_made_is_answered_when_the_worker_owns_nothing(
    house: House,
) -> None:
    two(house)
    pause(house)
    again = api.RegisterRequest((1).to_bytes(16, "big"), "127.0.0.1:1", "", "", 1000, 10, 0, weight=50)
    registered = house.begin(Method.REGISTER, again)  # which begins a plan
    left = house.begin(Method.DECOMMISSION, api.DecommissionRequest(2))
    registered()
    epoch = left().epoch
    assert (house.namespace.slots.workers(), house.namespace.slots.epoch) == ([1], epoch)


def test_of_two_orders_at_once_the_later_one_holds_and_both_are_answered(house: House) -> None:
    two(house)
    asked = [house.begin(Method.DECOMMISSION, api.DecommissionRequest(2, stay)) for stay in (False, True)]
    for answer in asked:
        answer()
    table = house.namespace.slots
    assert table.workers() == [1, 2]
    pause(house)
    assert planned(house, [1, 2]) == table
