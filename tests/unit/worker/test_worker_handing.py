"""Groups that go to their owners when the table changes."""

from __future__ import annotations

import time
from array import array
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from test_worker_peers import make_worlds, read
from worker_world import MIB, World, make_bytes

from monofs.model.block import SLOTS
from monofs.model.capability import CacheGroup
from monofs.model.errors import NotCached
from monofs.model.slots import table_of
from monofs.rpc.api import FeedItem, FeedKind
from monofs.testing.masters import wait_until

__all__ = ["make_worlds"]


def change(worlds: Sequence[World], owner: int, epoch: int) -> None:
    """All slots are one worker's now, and all hear of it."""
    addresses = {number: world.address for number, world in enumerate(worlds, 1)}
    table = table_of(epoch, 1, array("H", [owner] * SLOTS).tobytes())

    def tell(world: World, number: int) -> None:
        world.worker._peers.hear(addresses)
        world.worker._peers.follow(number, table, ())
        world.worker._handing.begin()

    for number, world in enumerate(worlds, 1):
        world.run(tell, world, number)


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
    token = old.run(lambda: old.worker._gate.vouch(old.worker._gate.open(capability).content, MIB, 1, 0, 0))
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
