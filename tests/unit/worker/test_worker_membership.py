"""A worker among others: registering, heartbeats, the feed, another cluster, a master that is silent."""

from __future__ import annotations

import os
import time

import pytest
from worker_world import CLUSTER, KEY, LIFE_S, MIB, ScriptedMaster, World, make_bytes

from monofs.model.block import SLOTS
from monofs.model.capability import CacheGroup
from monofs.model.errors import CapabilityExpired, CapabilityInvalid, HomeUnusable, NotReady
from monofs.model.slots import pack_delta, table_of
from monofs.rpc.addresses import host_id
from monofs.rpc.api import (
    DescriptorAnswer,
    DescriptorRequest,
    FeedItem,
    FeedKind,
    HeartbeatRequest,
    Method,
    RegisterRequest,
    SlotsKnown,
    SlotsNews,
)
from monofs.worker.gate import SILENCE_S
from monofs.worker.membership import is_cursor_lost, load_identity
from monofs.worker.peers import Asked, Peer


def registrations(master: ScriptedMaster) -> list[RegisterRequest]:
    return [request for request in master.requests if isinstance(request, RegisterRequest)]


def beats(master: ScriptedMaster) -> list[HeartbeatRequest]:
    return [request for request in master.requests if isinstance(request, HeartbeatRequest)]


# ---- registering --------------------------------------------------------------------------------------------------------


def test_a_worker_registers_with_its_identity_addresses_machine_and_cursor(world: World) -> None:
    (request,) = registrations(world.master)
    assert request.identity == load_identity(world.home)
    assert len(request.identity) == 16
    assert request.address == world.address
    assert request.unix == f"{world.home}/w.sock"
    assert request.host == host_id() != ""
    assert request.cursor == 0


def test_a_worker_stopped_before_a_master_knew_it_says_so(world: World) -> None:
    world.stop()
    world.master.silent = True
    outcome: list[object] = []

    def start() -> None:
        world._start().addErrback(lambda failure: outcome.append(failure.value))

    world.run(start)
    world.stop()
    assert [type(error) for error in outcome] == [NotReady]


def test_the_identity_outlives_restarts(world: World) -> None:
    before = load_identity(world.home)
    world.stop()
    world.start()
    assert [request.identity for request in registrations(world.master)] == [before, before]


def test_a_damaged_identity_is_refused_with_the_way_out(world: World) -> None:
    path = os.path.join(world.home, "worker", "identity")
    with open(path, "wb") as file:
        file.write(b"short")
    with pytest.raises(HomeUnusable, match="remove it"):
        load_identity(world.home)


def test_a_restarted_worker_tells_its_cluster_and_cursor(world: World) -> None:
    world.master.feed_head = 40
    world.on_beat()
    world.stop()
    world.start()
    last = registrations(world.master)[-1]
    assert (last.cluster, last.incarnation, last.cursor) == (CLUSTER, 1, 40)


def test_a_lost_master_is_registered_with_again(world: World) -> None:
    capability, data = world.put(make_bytes(1, MIB))
    world.on_beat()
    world.run(world.master.break_off)
    world.on_beat()
    assert len(registrations(world.master)) == 2
    assert world.read(capability, 0, 100) == data[:100]


def test_heartbeats_carry_the_room_used(world: World) -> None:
    capability, _ = world.put(make_bytes(2, 3 * MIB))
    world.read(capability, 0, 3 * MIB)
    world.on_beat()
    assert beats(world.master)[-1].used_bytes == 3 * MIB
    assert beats(world.master)[-1].worker == 7


def test_heartbeats_tell_the_cursor_a_crash_would_leave(world: World) -> None:
    world.master.feed_head = 40
    world.on_beat()
    world.cache.index.flush()
    world.on_beat()
    world.on_beat()
    told = [(beat.cursor, beat.durable) for beat in beats(world.master)]
    assert told[-1] == (40, 40)
    assert all(0 <= durable <= cursor for cursor, durable in told)


# ---- the slot table -----------------------------------------------------------------------------------------------------


def test_a_worker_follows_the_slot_table_and_tells_which_it_has(world: World) -> None:
    membership = world.worker._membership
    table = table_of(41, 1, b"\7\0" * SLOTS)
    world.master.slots = SlotsNews(41, [pack_delta(table.whole())], 5, [9])
    world.on_beat()
    world.master.slots = None
    world.on_beat()
    assert world.run(lambda: membership.slots) == table
    assert membership.silent == {9}
    assert beats(world.master)[-1].slots == SlotsKnown(41, table.digest, 5)
    other = table_of(50, 1, b"\1\0" * SLOTS)
    stray = other.delta_to(table_of(51, 1, b"\2\0" + b"\1\0" * (SLOTS - 1)))
    world.master.slots = SlotsNews(51, [pack_delta(stray)], 5)
    world.on_beat()
    world.master.slots = None
    world.on_beat()
    assert beats(world.master)[-1].slots == SlotsKnown(0, 0, 5), "a delta to another table: the whole is asked for"


def test_a_worker_knows_where_others_listen_before_it_follows_a_table_and_each_table_that_led_to_it(
    world: World,
) -> None:
    """Or it would take no owner for reachable, itself for the owner, and the store for the only one that has the bytes."""
    worker, seen = world.worker, []
    one, two, three = (table_of(epoch, 1, bytes([owner, 0]) * SLOTS) for epoch, owner in ((41, 1), (42, 2), (43, 7)))
    begin = worker._handing.begin
    worker._handing.begin = lambda: (seen.append(sorted(worker._peers._addresses)), begin())[1]  # type: ignore[method-assign]
    world.master.addresses = {1: "127.0.0.1:1", 2: "127.0.0.1:2", 7: world.address}
    deltas = [one.whole(), one.delta_to(two), two.delta_to(three)]
    world.master.slots = SlotsNews(43, [pack_delta(delta) for delta in deltas], 5, [])
    world.run(world.master.answer)
    world.on_reactor_until(lambda: bool(seen))
    assert seen == [[1, 2, 7]]
    token, _ = world.put(make_bytes(1, MIB))
    capability = world.run(worker._gate.open, token)
    assert world.run(worker._peers.first, capability, 0, Asked.BY_READER) == Peer(2, Asked.FORMER)
    assert world.run(worker._peers.former, capability, 0, [2]) == Peer(1, Asked.FORMER)


# ---- the feed -----------------------------------------------------------------------------------------------------------


def feed(world: World, kind: int, *contents: int) -> None:
    """Let the worker act on one more record."""
    index = world.master.feed_head + 1
    world.master.feed.append(FeedItem(index, kind, list(contents)))
    world.master.feed_head = index
    world.on_beat()


def test_retired_content_is_dropped_and_the_cursor_moves(world: World) -> None:
    capability, _ = world.put(make_bytes(3, MIB))
    other, data = world.put(make_bytes(4, MIB))
    world.read(capability, 0, MIB)
    world.read(other, 0, MIB)
    feed(world, FeedKind.RETIRED, world.content(1))
    assert world.present(1) == 0
    assert world.present(2) == 1
    assert world.run(lambda: world.cache.cursor) == 1
    assert world.read(other, 0, MIB) == data


def test_a_content_of_which_a_part_is_cached_is_read_to_its_end_when_it_has_retired(world: World) -> None:
    capability, data = world.put(make_bytes(3, 4 * MIB))
    assert world.read(capability, 0, MIB) == data[:MIB]
    assert world.present(1) == 1
    group = world.run(lambda: world.cache.lookup(world.content(1), 0))
    world.run(world.cache.hold, group)
    feed(world, FeedKind.RETIRED, world.content(1))
    assert world.read(capability, 0, 4 * MIB) == data
    assert world.present(1) == 0, "what has retired is not fetched into the cache"
    world.run(world.cache.release, group)


def test_free_spares_pinned_content_and_forced_free_does_not(world: World) -> None:
    for seed in (5, 6):
        capability, _ = world.put(make_bytes(seed, MIB))
        world.read(capability, 0, MIB)
    feed(world, FeedKind.PIN, world.content(1))
    feed(world, FeedKind.FREE, world.content(1), world.content(2))
    assert (world.present(1), world.present(2)) == (1, 0)
    feed(world, FeedKind.FREE_FORCED, world.content(1))
    assert world.present(1) == 0


def test_unpinned_content_can_be_freed(world: World) -> None:
    capability, _ = world.put(make_bytes(7, MIB))
    world.read(capability, 0, MIB)
    feed(world, FeedKind.PIN, world.content())
    feed(world, FeedKind.UNPIN, world.content())
    feed(world, FeedKind.FREE, world.content())
    assert world.present() == 0


def pinned(world: World) -> list[int]:
    return sorted(world.run(lambda: world.cache.pins))


@pytest.mark.parametrize("ask", ["read", "read_many", "fetch", "descriptor"])
def test_a_worker_that_never_heard_of_a_pin_takes_it_from_the_capability(world: World, ask: str) -> None:
    world.put(make_bytes(20, MIB), "k")
    capability = world.capability(1, MIB, "k", "e:1", group=CacheGroup.PINNED)
    world.read(world.capability(1, MIB, "k", "e:1"), 0, MIB)
    assert pinned(world) == []
    if ask == "read":
        world.read(capability, 0, 100)
    elif ask == "read_many":
        world.read_many([capability], [(0, 0, 100)])
    elif ask == "fetch":
        world.fetch(capability, 0, 1)
    else:
        answer, fds = world.unix.call_with_descriptors(
            Method.DESCRIPTOR, DescriptorRequest(capability, 0), DescriptorAnswer
        )
        for fd in fds:
            os.close(fd)
        assert answer.present
    assert pinned(world) == [world.content()]
    feed(world, FeedKind.FREE, world.content())
    assert world.present() == 1


@pytest.mark.parametrize("end", [FeedKind.UNPIN, FeedKind.RETIRED])
def test_a_pin_that_ended_does_not_come_back_with_an_older_capability(world: World, end: int) -> None:
    world.put(make_bytes(21, MIB), "k")
    capability = world.capability(1, MIB, "k", "e:1", group=CacheGroup.PINNED)
    world.read(capability, 0, MIB)
    assert pinned(world) == [world.content()]
    feed(world, end, world.content())
    world.read(capability, 0, MIB)
    assert pinned(world) == []
    world.master.now_ns = time.time_ns() + 2 * 10**9
    later = world.capability(1, MIB, "k", "e:1", group=CacheGroup.PINNED, age_s=-2)
    world.read(later, 0, MIB)
    assert pinned(world) == [world.content()]


def test_ends_beyond_what_is_remembered_cost_older_capabilities_their_pins(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("monofs.worker.pins.ENDED_KEPT", 100)
    world.put(make_bytes(22, MIB), "k")
    capability = world.capability(1, MIB, "k", "e:1", group=CacheGroup.PINNED)
    feed(world, FeedKind.UNPIN, world.content(), *range(10**6, 10**6 + 500))
    assert world.run(lambda: len(world.worker._pins._ended)) <= 100
    world.read(capability, 0, MIB)
    assert pinned(world) == []


def test_a_capability_given_before_the_worker_listened_pins_nothing(world: World) -> None:
    world.put(make_bytes(23, MIB), "k")
    world.read(world.capability(1, MIB, "k", "e:1", group=CacheGroup.PINNED, age_s=60), 0, MIB)
    assert pinned(world) == []


def test_a_worker_the_feed_left_behind_forgets_its_pins(world: World) -> None:
    feed(world, FeedKind.PIN, world.content())
    world.stop()
    world.master.feed_head, world.master.feed_tail = 500, 300
    world.start()
    assert pinned(world) == []


def test_a_feed_record_of_a_newer_release_is_passed_over(world: World) -> None:
    capability, data = world.put(make_bytes(8, MIB))
    world.read(capability, 0, MIB)
    feed(world, 99, world.content())
    assert world.run(lambda: world.cache.cursor) == 1
    assert world.read(capability, 0, MIB) == data


def test_a_long_feed_record_is_acted_on_in_full(world: World) -> None:
    capability, _ = world.put(make_bytes(9, MIB))
    world.read(capability, 0, MIB)
    feed(world, FeedKind.RETIRED, *range(5000), world.content())
    assert world.present() == 0


@pytest.mark.parametrize(
    ("cursor", "head", "tail", "lost"),
    [
        (0, 0, 1, False),  # nothing was ever fed
        (5, 5, 6, False),  # all was seen, all was trimmed
        (5, 9, 6, False),  # the next record is still there
        (5, 9, 7, True),  # record 6 may have been trimmed
        (0, 9, 5, True),
        (9, 9, 2, False),
        (10, 9, 2, True),  # the feed went back in time: a restored home
        (3, 0, 1, True),
    ],
)
def test_a_cursor_is_lost_when_records_after_it_may_be_gone(cursor: int, head: int, tail: int, lost: bool) -> None:
    assert is_cursor_lost(cursor, head, tail) is lost


def test_a_worker_the_feed_left_behind_drops_its_pages_and_goes_on_from_the_head(world: World) -> None:
    capability, data = world.put(make_bytes(10, MIB))
    world.read(capability, 0, MIB)
    world.stop()
    world.master.feed_head, world.master.feed_tail = 500, 300
    world.start()
    assert world.present() == 0
    assert world.run(lambda: world.cache.cursor) == 500
    assert world.read(capability, 0, MIB) == data


# ---- other clusters -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("cluster", "incarnation"), [(b"d" * 16, 1), (CLUSTER, 2)])
def test_pages_of_another_cluster_or_incarnation_are_dropped_before_anything_is_served(
    world: World, cluster: bytes, incarnation: int
) -> None:
    capability, _ = world.put(make_bytes(11, MIB))
    world.read(capability, 0, MIB)
    world.stop()
    world.master.cluster, world.master.incarnation, world.master.feed_head = cluster, incarnation, 70
    world.start()
    assert world.run(lambda: list(world.cache)) == []
    assert world.run(lambda: world.cache.cursor) == 70
    assert "what it had cached is dropped" in world.told[-1]
    if cluster != CLUSTER:
        with pytest.raises(CapabilityInvalid):
            world.read(capability, 0, MIB)


# ---- capabilities -----------------------------------------------------------------------------------------------------


def test_forged_and_expired_capabilities_read_nothing(world: World) -> None:
    world.put(make_bytes(12, MIB), "k")
    forged = world.capability(1, MIB, "k", "e:1", secret=b"x" * 32)
    expired = world.capability(1, MIB, "k", "e:1", life_s=-5)
    foreign = world.capability(1, MIB, "k", "e:1", cluster=b"z" * 16)
    for token, error in ((forged, CapabilityInvalid), (expired, CapabilityExpired), (foreign, CapabilityInvalid)):
        with pytest.raises(error):
            world.read(token, 0, 10)
        with pytest.raises(error):
            world.read_many([token], [(0, 0, 10)])
        with pytest.raises(error):
            world.fetch(token, 0, 1)
    with pytest.raises(CapabilityInvalid):
        world.read(b"", 0, 10)
    assert world.store.gets == []


def test_keys_change_with_a_heartbeat(world: World) -> None:
    world.put(make_bytes(13, MIB), "k")
    new = world.capability(1, MIB, "k", "e:1", secret=b"n" * 32)
    with pytest.raises(CapabilityInvalid):
        world.read(new, 0, 10)
    world.master.keys = {1: b"n" * 32, 2: KEY}
    world.on_beat()
    assert len(world.read(new, 0, 10)) == 10


def test_with_no_master_for_long_cached_bytes_are_served_to_old_capabilities_and_others_are_not(world: World) -> None:
    old = world.capability(1, 3 * MIB, "k", "e:1", life_s=LIFE_S)
    _, data = world.put(make_bytes(14, 3 * MIB), "k")
    world.read(old, MIB, 10)
    later = [0.0]

    def age(seconds: float) -> None:
        gate = world.worker._gate
        wall, monotonic = gate._wall, gate._monotonic
        gate._wall, gate._monotonic = (lambda: wall() + seconds), (lambda: monotonic() + seconds)
        later[0] += seconds

    world.master.silent = True
    world.run(world.master.break_off)
    world.run(age, LIFE_S + SILENCE_S + 1)
    assert world.read(old, MIB, MIB) == data[MIB : 2 * MIB]
    with pytest.raises(CapabilityExpired, match="no master"):
        world.read(old, 0, 10)
    with pytest.raises(CapabilityExpired):
        world.fetch(old, 0, 0b1)
    world.run(age, 3600.0)
    with pytest.raises(CapabilityExpired):
        world.read(old, MIB, 10)


def test_pins_beyond_the_bound_do_not_stop_the_feed(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("monofs.tiering.cache.PINS_MAX", 1)
    world.master.feed_head = 1
    world.master.feed = [FeedItem(1, FeedKind.PIN, [world.content(1), world.content(2)])]
    world.on_beat()
    assert world.run(lambda: (world.cache.cursor, len(world.cache.pins))) == (1, 1)
