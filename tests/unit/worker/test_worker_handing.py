"""Groups that go to their owners when the table changes."""

from __future__ import annotations

import time
from array import array
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from test_worker_peers import make_worlds, read
from worker_world import MIB, World, make_bytes

from monofs.model.block import LAYOUT_WHOLE, SLOTS, slot_of
from monofs.model.capability import CacheGroup
from monofs.model.errors import NotCached, Unreachable
from monofs.model.slots import table_of
from monofs.rpc.api import FeedItem, FeedKind, Method, ReadRequest
from monofs.testing.masters import wait_until
from monofs.worker.peers import Asked, Peer, PeerFailed

__all__ = ["make_worlds"]


def change(worlds: Sequence[World], owner: int, epoch: int) -> None:
    """All slots are one worker's now, and all hear of it."""
    tell(worlds, array("H", [owner] * SLOTS), epoch)


def tell(worlds: Sequence[World], owners: array[int], epoch: int) -> None:
    addresses = {number: world.address for number, world in enumerate(worlds, 1)}
    table = table_of(epoch, 1, owners.tobytes())

    def hear(world: World, number: int) -> None:
        world.worker._peers.hear(addresses)
        world.worker._peers.follow(number, table, ())
        world.worker._handing.begin()

    for number, world in enumerate(worlds, 1):
        world.run(hear, world, number)


def groups(world: World) -> int:
    return int(world.run(lambda: world.cache.table.count))


def handed(world: World) -> bool:
    return world.run(lambda: world.worker._handing.left) == 0


def test_what_a_worker_owns_no_more_goes_to_who_does(make_worlds: Callable[..., list[World]]) -> None:
    old, new = worlds = make_worlds(2)
    change(worlds, 1, epoch=1)
    files = [old.put(make_bytes(number, MIB + number)) for number in range(12)]
    large = old.put(make_bytes(99, 70 * MIB))
    for capability, data in [*files, large]:
        assert read(old, capability, 0, len(data)) == data
    asked = len(old.store.gets)
    change(worlds, 2, epoch=2)
    wait_until(lambda: handed(old) and groups(old) == 0, "not all was handed over")
    for capability, data in [*files, large]:
        assert read(new, capability, 0, len(data)) == data
    assert len(old.store.gets) == asked, "nothing went cold"


def test_no_more_goes_out_than_the_limit_lets(make_worlds: Callable[..., list[World]]) -> None:
    old, new = worlds = make_worlds(2, handover_bytes_s=1)
    change(worlds, 1, epoch=1)
    for number in range(3):
        capability, data = old.put(make_bytes(number, MIB))
        assert read(old, capability, 0, MIB) == data
    change(worlds, 2, epoch=2)
    wait_until(lambda: groups(new) == 1, "nothing is handed over")

    def longest_pause_s() -> float:
        reactor = old.thread.reactor
        return max(float(call.getTime() - reactor.seconds()) for call in reactor.getDelayedCalls())

    wait_until(lambda: old.run(longest_pause_s) > MIB / 2, "a MiB at a byte a second takes no MiB of seconds")
    assert (groups(old), groups(new)) == (2, 1)


def test_all_goes_to_an_owner_that_failed_once_and_answers_again(
    make_worlds: Callable[..., list[World]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("monofs.worker.handing.AGAIN_S", 0.3)
    monkeypatch.setattr("monofs.worker.peers.SILENT_FIRST_S", 0.2)
    old, _ = worlds = make_worlds(2)
    change(worlds, 1, epoch=1)
    for number in range(12):
        capability, data = old.put(make_bytes(number, MIB))
        assert read(old, capability, 0, MIB) == data
    silent = PeerFailed("worker 2 did not answer")
    silent.__cause__ = Unreachable("nobody listens")
    old.run(old.worker._peers.failed, Peer(2, Asked.BY_READER), silent)
    change(worlds, 2, epoch=2)
    wait_until(lambda: handed(old) and groups(old) == 0, "not all was handed over")


def test_what_an_owner_cannot_be_given_now_goes_to_nobody_else_unless_the_master_hears_it_not(
    make_worlds: Callable[..., list[World]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who comes is not known everywhere at once. What the next in the list got would be fetched again by the owner, which asks the former one."""
    monkeypatch.setattr("monofs.worker.handing.AGAIN_S", 0.01)
    old, new, stand_in = worlds = make_worlds(3)
    change(worlds, 1, epoch=1)
    capability, data = old.put(make_bytes(1, MIB))
    assert read(old, capability, 0, MIB) == data
    table = table_of(2, 2, array("H", [2, 3] * SLOTS).tobytes())

    def follow(world: World, number: int, known: Sequence[int], silent: Sequence[int] = ()) -> None:
        world.worker._peers.hear({each: worlds[each - 1].address for each in known})
        world.worker._peers.follow(number, table, silent)
        world.worker._handing.begin()

    old.run(follow, old, 1, [1, 3])
    wait_until(lambda: not old.run(lambda: old.worker._handing.is_walking), "it goes on for ever")
    assert [groups(world) for world in worlds] == [1, 0, 0]
    for number in (2, 3):
        worlds[number - 1].run(follow, worlds[number - 1], number, [1, 2, 3])
    assert read(new, capability, 0, MIB) == data
    assert len(old.store.gets) == 1, "the former owner had it"
    other, data = old.put(make_bytes(2, MIB))
    old.run(old.worker._peers.follow, 1, table_of(3, 1, array("H", [1] * SLOTS).tobytes()), ())
    assert read(old, other, 0, MIB) == data
    table = table_of(4, 2, array("H", [2, 3] * SLOTS).tobytes())
    old.run(follow, old, 1, [1, 3], [2])
    wait_until(lambda: bool(stand_in.present(2)), "who stands in for a silent owner was given nothing")


@pytest.mark.parametrize("layout", [26, 27, LAYOUT_WHOLE])
def test_every_group_goes_to_the_owner_of_its_block(make_worlds: Callable[..., list[World]], layout: int) -> None:
    """So a reader finds all of it there: it asks the owner of the block, whichever group it wants."""
    old, *others = worlds = make_worlds(3)
    change(worlds, 1, epoch=1)
    capability, data = old.put(make_bytes(5, 150 * MIB), layout=layout)
    assert read(old, capability, 0, len(data)) == data
    content = old.content(1)
    owners = array("H", [3] * SLOTS)
    owners[slot_of(content, 0)] = 2
    blocks = {number: 2 if layout == LAYOUT_WHOLE or number << 26 >> layout == 0 else 3 for number in range(3)}
    tell(worlds, owners, epoch=2)
    wait_until(lambda: handed(old) and groups(old) == 0, "not all was handed over")
    for number, worker in blocks.items():
        assert [bool(world.present(1, number)) for world in others] == [worker == 2, worker == 3]
    asked = len(old.store.gets)
    for number, worker in blocks.items():
        end = min((number + 1) * 64 * MIB, len(data))
        assert (
            read(worlds[worker - 1], capability, number * 64 * MIB, end - number * 64 * MIB)
            == data[number * 64 * MIB : end]
        )
    assert len(old.store.gets) == asked, "nothing went cold"


def test_a_reader_is_read_ahead_for_in_blocks_of_the_worker_only(make_worlds: Callable[..., list[World]]) -> None:
    first, _ = worlds = make_worlds(2)
    for counter, (layout, expected) in enumerate(((26, False), (LAYOUT_WHOLE, True)), 1):
        capability, data = first.put(make_bytes(6, 80 * MIB), layout=layout)
        content = first.content(counter)
        slots = [slot_of(content, 0), slot_of(content, 1)]
        owners = array("H", [1] * SLOTS)
        owners[slots[1]] = 2
        tell(worlds, owners, epoch=counter)
        request = ReadRequest(capability, 56 * MIB, 8 * MIB, sequential=True)
        buffer = bytearray(8 * MIB)
        first.tcp.read_into(Method.READ, request, buffer)
        assert buffer == data[56 * MIB : 64 * MIB]
        answer: Any = first.fetch(capability, 0, 1 << 50, ahead=32)
        assert answer.present >> 50 & 1
        first.on_reactor_until(lambda: not first.worker._fetcher.count)
        assert bool(first.present(counter, 1)) is expected


def test_what_has_no_room_there_stays_here(
    make_worlds: Callable[..., list[World]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("monofs.worker.handing.AGAIN_S", 0.01)
    old, new = worlds = make_worlds(2)
    change(worlds, 1, epoch=1)
    capability, data = old.put(make_bytes(1, 2 * MIB))
    assert read(old, capability, 0, 2 * MIB) == data
    new.run(lambda: [setattr(directory, "quota", MIB) for directory in new.cache.directories])
    change(worlds, 2, epoch=2)
    wait_until(lambda: not old.run(lambda: old.worker._handing.is_walking), "it goes on for ever")
    assert read(old, capability, 0, 2 * MIB, asked=2) == data


def test_nobody_gives_what_it_does_not_have(make_worlds: Callable[..., list[World]]) -> None:
    """A giver that lost the group meanwhile: the owner asks no store for a file it has no name of, and readers get it as ever."""
    old, new = worlds = make_worlds(2)
    change(worlds, 2, epoch=1)
    capability, data = old.put(make_bytes(1, MIB))
    token = old.run(lambda: old.worker._gate.vouch(old.worker._gate.open(capability).content, MIB, 26, 1, 0, 0))
    answer: Any = new.fetch(token, 0, 1, giver=1)
    assert not answer.present
    assert old.store.gets == []
    assert read(new, capability, 0, MIB) == data
    with pytest.raises(NotCached):
        read(old, capability, 0, MIB, asked=2)


def test_bytes_that_changed_on_the_disk_are_not_handed_over_as_good_ones(
    make_worlds: Callable[..., list[World]],
) -> None:
    old, new = worlds = make_worlds(2)
    change(worlds, 1, epoch=1)
    capability, data = old.put(make_bytes(1, 3 * MIB))
    assert read(old, capability, 0, 3 * MIB) == data
    with open(old.path_of(), "r+b") as file:
        file.seek(MIB + 5)
        file.write(b"rotten")
    change(worlds, 2, epoch=2)
    wait_until(lambda: not old.run(lambda: old.worker._handing.is_walking), "it goes on for ever")
    assert read(new, capability, 0, 3 * MIB) == data


def test_a_pin_goes_along_unless_it_has_ended_here_or_there(make_worlds: Callable[..., list[World]]) -> None:
    old, new = worlds = make_worlds(2)
    change(worlds, 1, epoch=1)
    for number in (1, 2, 3):
        _, data = old.put(make_bytes(number, MIB))
        token = old.capability(number, MIB, f"object-{number}", f"e:{number}", group=CacheGroup.PINNED)
        assert read(old, token, 0, MIB) == data
    old.on_beat()
    assert len(old.run(lambda: set(old.cache.pins))) == 3
    for world, ended in ((old, [1]), (new, [1, 2])):
        world.master.feed_head = 1
        world.master.feed = [FeedItem(1, FeedKind.UNPIN, [world.content(number) for number in ended])]
        world.on_beat()
    later_ns = time.time_ns() + 10 * 10**9
    old.run(lambda: old.worker._gate.hear(later_ns))
    change(worlds, 2, epoch=2)
    wait_until(lambda: handed(old) and groups(old) == 0, "not all was handed over")
    assert new.run(lambda: set(new.cache.pins)) == {new.content(3)}
