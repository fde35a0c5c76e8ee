"""Workers: registration, grants, leases, slots, and the feed they hear by long poll."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from master_house import House, write

from monofs.master.members import FEED_RECORDS, LEASE_S
from monofs.model.errors import InvalidArgument, PermissionDenied, SessionExpired
from monofs.model.principal import ANONYMOUS
from monofs.rpc import api
from monofs.rpc.api import FeedKind, Method

LONG_S = 20.0


def register(house: House, identity: bytes = b"w" * 16, cursor: int = 0) -> Any:
    request = api.RegisterRequest(identity, "127.0.0.1:29999", "/run/worker.sock", "boot", 1000, 10, cursor)
    return house.ask(Method.REGISTER, request)


def is_awaited(house: House) -> bool:
    answer = house.ask(Method.CLUSTER, api.ClusterRequest())
    return bool(answer.awaited)


def beat(
    house: House, worker: int, cursor: int = 0, mounts_index: int | None = None, wait_s: float = 0.0, durable: int = -1
) -> Any:
    index = house.namespace.mounts_index if mounts_index is None else mounts_index
    request = api.HeartbeatRequest(worker, cursor, 1000, 10, index, wait_s, durable)
    return house.begin(Method.HEARTBEAT, request) if wait_s else house.ask(Method.HEARTBEAT, request)


def test_a_worker_keeps_its_id_over_restarts_and_gets_what_it_needs(house: House, data: Path) -> None:
    mount = house.mount("/lake", data)
    answer = register(house)
    assert (answer.worker, answer.cluster, answer.incarnation) == (1, house.namespace.cluster, 1)
    assert [(grant.id, grant.uri) for grant in answer.mounts] == [(mount.id, mount.uri)]
    assert len(answer.keys[1]) == 32
    assert register(house).worker == 1
    assert house.namespace.workers() == {1: b"w" * 16}
    assert register(house, b"x" * 16).worker == 2
    house.restart()
    assert register(house).worker == 1
    with pytest.raises(InvalidArgument):
        register(house, b"short")


def test_only_nodes_are_given_keys_and_mount_secrets(house: House) -> None:
    for method, request in (
        (Method.REGISTER, api.RegisterRequest(b"w" * 16, "a:1", "", "", 0, 0, 0)),
        (Method.HEARTBEAT, api.HeartbeatRequest(1, 0, 0, 0, 0)),
    ):
        with pytest.raises(PermissionDenied, match="node right"):
            house.ask(method, request, ANONYMOUS)


def test_a_mount_whose_store_workers_do_not_ask_is_shown_as_unavailable_and_by_whom(house: House, data: Path) -> None:
    mount = house.mount("/lake", data)
    house.mount("/other", data, shared=True)
    index = house.namespace.mounts_index
    for identity in (b"w" * 16, b"x" * 16):
        worker = register(house, identity).worker
        troubles = {mount.id: f"it said no to {worker}"}
        house.ask(Method.HEARTBEAT, api.HeartbeatRequest(worker, 0, 1000, 10, index, 0.0, troubles=troubles))

    def shown() -> list[tuple[str, str]]:
        return [(info.state, info.error) for info in house.ask(Method.MOUNT_LIST, api.Empty()).mounts]

    assert shown() == [("unavailable", "workers 1, 2: it said no to 1"), ("ok", "")]
    beat(house, 1)
    assert shown() == [("unavailable", "worker 2: it said no to 2"), ("ok", "")]
    house.now_s += LEASE_S + 1
    house.loop.do(house.master.members.check_leases)
    assert shown() == [("ok", ""), ("ok", "")], "who is silent tells nothing"


def test_clients_are_told_which_workers_keep_copies_for_their_readers(house: House) -> None:
    for identity, keeps in ((b"w" * 16, True), (b"x" * 16, False)):
        request = api.RegisterRequest(identity, "127.0.0.1:29999", "/run/w.sock", "boot", 1000, 10, 0, keeps=keeps)
        beat(house, house.ask(Method.REGISTER, request).worker)
    shown = house.ask(Method.CLUSTER, api.ClusterRequest()).workers
    assert [(info.keeps, info.host, info.live) for info in shown] == [(True, "boot", True), (False, "boot", True)]


def test_a_worker_unknown_to_this_master_registers_again(house: House) -> None:
    worker = register(house).worker
    beat(house, worker)
    house.restart()
    with pytest.raises(SessionExpired, match="register again"):
        beat(house, worker)


def test_the_slot_table_of_a_new_leader_says_that_workers_are_to_come(house: House) -> None:
    assert not is_awaited(house)
    register(house)
    register(house, b"x" * 16)
    assert not is_awaited(house)
    house.restart()
    assert is_awaited(house)
    register(house)
    assert is_awaited(house)
    register(house, b"x" * 16)
    assert not is_awaited(house)
    house.restart()
    house.now_s += LEASE_S
    assert not is_awaited(house)


def test_a_heartbeat_waits_and_hears_of_a_retired_content_at_once(house: House, data: Path) -> None:
    write(data / "f", b"1")
    house.mount("/lake", data)
    content = house.stat("/lake/f").content
    worker = register(house).worker
    waiting = beat(house, worker, wait_s=LONG_S)
    house.ask(Method.PING, api.Empty())
    write(data / "f", b"changed")
    house.now_s += 61
    house.stat("/lake/f")
    answer = waiting()
    assert [(item.kind, item.contents) for item in answer.feed] == [(FeedKind.RETIRED, [content])]
    assert answer.cursor == answer.feed[-1].index
    assert beat(house, worker, answer.cursor).feed == []


def test_a_heartbeat_hears_of_a_mount_at_once_with_its_secrets(house: House, data: Path) -> None:
    worker = register(house).worker
    waiting = beat(house, worker, wait_s=LONG_S)
    house.ask(Method.PING, api.Empty())
    house.mount("/lake", data)
    answer = waiting()
    assert [grant.uri for grant in answer.mounts] == [f"file://{data}"]
    assert answer.mounts_index == house.namespace.mounts_index
    assert answer.keys is not None
    quiet = beat(house, worker)
    assert (quiet.mounts, quiet.keys) == (None, None)


def test_a_heartbeat_without_news_is_answered_when_its_wait_is_over(house: House) -> None:
    worker = register(house).worker
    assert beat(house, worker, wait_s=0.05)().feed == []


def test_a_new_heartbeat_ends_the_one_that_waits(house: House) -> None:
    worker = register(house).worker
    waiting = beat(house, worker, wait_s=LONG_S)
    house.ask(Method.PING, api.Empty())
    beat(house, worker)
    again = beat(house, worker, wait_s=LONG_S)
    assert waiting().feed == []
    house.stop()
    assert again().feed == []
    house.start()


def test_a_long_feed_is_heard_in_pieces(house: House, data: Path) -> None:
    write(data / "f", b"1")
    house.mount("/lake", data)
    house.stat("/lake/f")
    for _ in range(FEED_RECORDS + 5):
        house.ask(Method.FREE, api.FreeRequest("/lake/f"))
    worker = register(house).worker
    first = beat(house, worker)
    second = beat(house, worker, first.cursor)
    assert [len(first.feed), len(second.feed)] == [FEED_RECORDS, 5]


def test_a_worker_that_the_feed_left_behind_registers_again(
    house: House, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it missed is lost to it: it must hear that, not go on with what comes later."""
    monkeypatch.setattr("monofs.metadata.draft.FEED_RECORDS_MAX", 10)
    write(data / "f", b"1")
    house.mount("/lake", data)
    house.stat("/lake/f")
    for _ in range(11):
        house.ask(Method.FREE, api.FreeRequest("/lake/f"))
    worker = register(house).worker
    with pytest.raises(SessionExpired, match="no longer reaches back to 0"):
        beat(house, worker)
    assert len(beat(house, worker, 1).feed) == 10


def test_freeing_answers_when_every_live_worker_has_acted(house: House, data: Path) -> None:
    write(data / "f", b"1")
    house.mount("/lake", data)
    house.stat("/lake/f")
    worker = register(house).worker
    freeing = house.begin(Method.FREE, api.FreeRequest("/lake/f"))
    answer = beat(house, worker, wait_s=LONG_S)()
    assert answer.feed
    beat(house, worker, answer.cursor)
    assert freeing() == api.FreeAnswer(1, 0, 0)


def test_freeing_does_not_wait_for_ever_for_a_worker(house: House, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("monofs.master.pinning.FREE_WAIT_S", 0.05)
    write(data / "f", b"1")
    house.mount("/lake", data)
    house.stat("/lake/f")
    register(house)
    assert house.ask(Method.FREE, api.FreeRequest("/lake/f")) == api.FreeAnswer(1, 0, 1)


def test_the_feed_is_trimmed_once_every_worker_has_passed(house: House, data: Path) -> None:
    write(data / "f", b"1")
    house.mount("/lake", data)
    house.stat("/lake/f")
    first, second = register(house).worker, register(house, b"x" * 16).worker
    for _ in range(3):
        house.begin(Method.FREE, api.FreeRequest("/lake/f"))
    head = beat(house, first, wait_s=LONG_S)().cursor
    while head < 3:
        head = beat(house, first, head, wait_s=LONG_S)().cursor
    beat(house, first, head)
    house.loop.do(house.master._duties.trim)
    assert house.namespace.feed_bounds() == (1, 3)
    beat(house, second, 2)
    house.loop.do(house.master._duties.trim)
    assert house.namespace.feed_bounds() == (3, 3)
    beat(house, second, 3, durable=2)
    house.loop.do(house.master._duties.trim)
    assert house.namespace.feed_bounds() == (3, 3), "a crash of the second worker would need record 3 again"
    beat(house, second, 3, durable=3)
    house.loop.do(house.master._duties.trim)
    assert house.namespace.feed_bounds() == (4, 3)
    assert register(house, b"y" * 16).feed_tail == 4


def test_a_worker_not_heard_since_the_start_holds_the_feed_for_an_hour(house: House, data: Path) -> None:
    write(data / "f", b"1")
    house.mount("/lake", data)
    house.stat("/lake/f")
    register(house)
    house.restart()
    house.ask(Method.FREE, api.FreeRequest("/lake/f"))
    house.loop.do(house.master._duties.trim)
    assert house.namespace.feed_bounds() == (1, 1)
    house.now_s += 3601
    house.loop.do(house.master._duties.trim)
    assert house.namespace.feed_bounds() == (2, 1)


def test_clients_silent_for_an_hour_are_forgotten(house: House) -> None:
    client = os.urandom(16)
    house.ask(Method.CREATE, api.CreateRequest("/f", request=api.RequestId(client, 1, 1)))
    house.loop.do(house.master._duties.expire)
    assert list(house.namespace.clients()) == [client]
    house.master._proposer._now_ns = lambda: house.namespace.now_ns + 3601 * 10**9
    house.loop.do(house.master._duties.expire)
    assert house.namespace.clients() == {}
    with pytest.raises(SessionExpired):
        house.ask(Method.CREATE, api.CreateRequest("/g", request=api.RequestId(client, 2, 2)))
