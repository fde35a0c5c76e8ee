"""Whom a client asks for a block: by the slot table, by who lives, and where a block is hot."""

from __future__ import annotations

import time
from array import array
from collections import Counter

import pytest

from monofs.client import cluster as module
from monofs.client.cluster import HOT_MAX, Cluster
from monofs.model.block import SLOTS, slot_of
from monofs.model.errors import ConnectionLost, Unreachable
from monofs.model.ids import ContentId
from monofs.model.slots import SlotTable, pack_delta, table_of
from monofs.rpc.addresses import host_id
from monofs.rpc.api import ClusterAnswer, ClusterRequest, ServedAnswer, SlotsNews, WorkerInfo
from monofs.rpc.sync import Pool

CONTENT = ContentId(77)
WORKERS = 9


def table(owners: list[int]) -> SlotTable:
    return table_of(5, len(owners), array("H", owners * SLOTS).tobytes())


def make(owners: list[int], infos: list[WorkerInfo] | None = None) -> Cluster:
    """A client of workers that all live, where these serve every slot."""
    workers = infos or [WorkerInfo(number, f"127.0.0.1:{number}") for number in range(1, WORKERS + 1)]

    def fetch(request: ClusterRequest, timeout_s: float | None) -> ClusterAnswer:
        news = SlotsNews(5, [pack_delta(table(owners).whole())], 1, [])
        return ClusterAnswer(b"c", 1, 5, workers, [], news=news, listed=1)

    return Cluster(fetch, lambda address: Pool(address))


def first(cluster: Cluster) -> int:
    return cluster.candidates(CONTENT, 0, 5)[0].info.id


def test_the_workers_of_the_slot_come_first_in_their_order() -> None:
    cluster = make([4, 2])
    assert [link.info.id for link in cluster.candidates(CONTENT, 0, 5)][:2] == [4, 2]


def test_a_hot_block_is_read_from_as_many_workers_as_was_told_and_others_are_not() -> None:
    cluster = make([4, 2])
    assert first(cluster) == 4
    cluster.heed(ServedAnswer([(CONTENT, 0, 3)]))
    asked = Counter(first(cluster) for _ in range(4000))
    expected = table([4, 2]).sequence(slot_of(CONTENT, 0), range(1, WORKERS + 1), 4)
    assert expected[:2] == [4, 2]
    assert set(asked) == set(expected)
    assert min(asked.values()) > 800
    links = {link.info.id: link for link in cluster.links()}
    assert [number for number in links if cluster.is_spread(CONTENT, 0, links[number])] == sorted(expected[1:])
    assert {cluster.candidates(CONTENT, 1, 5)[0].info.id for _ in range(100)} == {4}


def test_the_order_of_a_slot_is_the_same_for_all_and_changes_little_with_the_workers() -> None:
    known = table([4])
    for slot in range(200):
        whole = known.sequence(slot, range(1, 101), 8)
        assert whole == known.sequence(slot, [*range(100, 0, -1)], 8)
        assert whole[0] == 4
        assert len(set(whole)) == 8
        fewer = known.sequence(slot, [number for number in range(1, 101) if number != whole[3]], 8)
        assert [number for number in whole if number != whole[3]] == fewer[:7]


def test_it_is_forgotten_after_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SPREAD_S", 0.0)
    cluster = make([4, 2])
    assert first(cluster) == 4
    cluster.heed(ServedAnswer([(CONTENT, 0, 3)]))
    assert {first(cluster) for _ in range(100)} == {4}
    assert not cluster.hot


def test_what_each_answer_says_again_is_worked_out_once_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster, slot = make([4, 2]), slot_of(CONTENT, 0)
    first(cluster)
    cluster.heed(ServedAnswer([(CONTENT, 0, 3)]))
    known = cluster.hot[slot]
    cluster.heed(ServedAnswer([(CONTENT, 0, 3)]))
    assert cluster.hot[slot] is known
    cluster.heed(ServedAnswer([(CONTENT, 0, 4)]))
    assert len(cluster.hot[slot][0]) == 5, "what is new counts at once"
    monkeypatch.setattr(module, "HEED_S", 0.0)
    known = cluster.hot[slot]
    cluster.heed(ServedAnswer([(CONTENT, 0, 4)]))
    assert cluster.hot[slot] is not known


def test_only_so_many_are_remembered() -> None:
    cluster = make([4, 2])
    first(cluster)
    for block in range(2 * HOT_MAX):
        cluster.heed(ServedAnswer([(CONTENT, block, 1)]))
    assert len(cluster.hot) <= HOT_MAX


def test_a_worker_that_fails_is_asked_last_whatever_is_hot() -> None:
    cluster = make([4, 2])
    assert first(cluster) == 4
    cluster.heed(ServedAnswer([(CONTENT, 0, 3)]))
    for link in cluster.links():
        link.silent_until_s = 0.0 if link.info.id == 2 else float("inf")
    assert {first(cluster) for _ in range(200)} == {2}


def here(number: int, *, keeps: bool = True) -> WorkerInfo:
    """A worker on this machine."""
    return WorkerInfo(number, f"127.0.0.1:{number}", f"/run/{number}.sock", host_id(), keeps=keeps)


def elsewhere(number: int) -> WorkerInfo:
    return WorkerInfo(number, f"other:{number}", "/run/w.sock", "another machine", keeps=True)


def order(cluster: Cluster) -> list[int]:
    return [link.info.id for link in cluster.candidates(CONTENT, 0, 5)]


def test_a_worker_of_this_machine_comes_before_the_owner_if_it_keeps_copies() -> None:
    far = [elsewhere(number) for number in range(1, 40)]
    assert order(make([4, 2], [*far, here(40)]))[:3] == [40, 4, 2], "one of many, and not of the slot"
    assert order(make([4, 2], [*far, here(40, keeps=False)]))[:2] == [4, 2]


def test_of_several_on_this_machine_those_of_the_slot_come_first() -> None:
    far = [elsewhere(number) for number in range(1, 8)]
    assert order(make([4, 9], [*far, here(8), here(9)]))[:2] == [9, 4]
    assert order(make([9, 8], [*far, here(8), here(9)]))[:2] == [9, 8]
    cluster = make([4, 2], [*far, here(8), here(9)])
    assert {cluster.candidates(CONTENT, block, 5)[0].info.id for block in range(50)} == {8, 9}
    assert order(cluster)[0] == order(cluster)[0]


def test_a_worker_of_this_machine_that_fails_is_asked_last_or_as_any_other_over_tcp() -> None:
    cluster = make([4, 2], [elsewhere(2), elsewhere(4), here(8)])
    cluster.failed(cluster.worker(8), ConnectionLost("it broke"))
    assert order(cluster) == [4, 2, 8]
    cluster = make([4, 2], [elsewhere(2), elsewhere(4), here(8)])
    assert cluster.failed(cluster.worker(8), Unreachable("no such socket")), "another way to it is tried"
    assert order(cluster) == [4, 2, 8], "it may be in another container"


def test_a_worker_of_this_machine_that_began_anew_is_asked_through_its_socket_again() -> None:
    lists = [1, 1, 2]

    def fetch(request: ClusterRequest, timeout_s: float | None) -> ClusterAnswer:
        news = SlotsNews(5, [pack_delta(table([8]).whole())], 1, [])
        return ClusterAnswer(b"c", 1, 5, [here(8)], [], news=news, listed=lists.pop(0))

    cluster = Cluster(fetch, lambda address: Pool(address))
    link = cluster.worker(8)
    assert link.is_local
    cluster.failed(link, Unreachable("no such socket"))
    cluster.refresh()
    assert not link.is_local, "nothing is new"
    cluster.refresh()
    assert link.is_local, "some worker registered since"


def test_only_holders_are_asked_for_what_no_store_has() -> None:
    cluster = make([4, 2], [elsewhere(2), elsewhere(4), here(8)])
    assert [link.info.id for link in cluster.candidates(CONTENT, 0, 5, [2])] == [2]


def test_a_hot_block_is_read_from_the_worker_of_this_machine_alone() -> None:
    cluster = make([4, 2], [elsewhere(2), elsewhere(4), here(8)])
    assert first(cluster) == 8
    cluster.heed(ServedAnswer([(CONTENT, 0, 7)]))
    assert {first(cluster) for _ in range(100)} == {8}


def test_a_worker_that_lags_is_asked_after_those_that_keep_up_and_before_those_that_are_silent() -> None:
    cluster = make([4, 2, 3])
    assert first(cluster) == 4
    links = {link.info.id: link for link in cluster.links()}
    for _ in range(module.LAG_TIMES):
        links[4].raced(time.monotonic(), lost=True)
    cluster.failed(links[2], ConnectionLost("silent"))
    order = [link.info.id for link in cluster.candidates(CONTENT, 0, 5)]
    assert order[0] == 3
    assert order[-2:] == [4, 2]
    links[4].raced(time.monotonic(), lost=False)
    assert first(cluster) == 4


def test_only_who_is_asked_in_the_place_of_a_silent_owner_is_told_so() -> None:
    cluster = make([4, 2])
    first(cluster)
    links = {link.info.id: link for link in cluster.links()}
    assert not any(cluster.is_past_owner(CONTENT, 0, link) for link in links.values())
    cluster.failed(links[2], ConnectionLost("silent"))
    assert not cluster.is_past_owner(CONTENT, 0, links[4])
    cluster.failed(links[4], ConnectionLost("silent"))
    assert cluster.is_past_owner(CONTENT, 0, links[2])
    assert not cluster.is_past_owner(CONTENT, 0, links[4])
