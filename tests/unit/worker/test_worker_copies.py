"""Copies of cached blocks that a policy wants on several workers: made, asked for before the store, and made whole again."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec
import pytest
from test_worker_handing import change, handed
from test_worker_peers import make_worlds, read
from worker_world import KEY, MIB, World, make_bytes

from monofs.model.block import SLOTS
from monofs.model.capability import peek_capability, seal_capability
from monofs.model.errors import Unreachable
from monofs.model.principal import NODE
from monofs.model.slots import SlotTable, pack_delta, table_of
from monofs.rpc.api import Empty, GroupSpec, KeepPartsRequest, Method, MountGrant, SlotsNews, UploadedPart
from monofs.rpc.direct import DirectClient
from monofs.testing.masters import wait_until
from monofs.ufs.registry import open_ufs
from monofs.worker.peers import Asked, Peer, PeerFailed

__all__ = ["make_worlds"]
POLICY = 5
GROUP = 2 * POLICY


def tell(worlds: Sequence[World], listed: Sequence[int], epoch: int = 1, replicas: int = 2) -> None:
    """Every slot lists these workers, and the policy wants so many copies; told to those that are listed."""
    addresses = {number: world.address for number, world in enumerate(worlds, 1)}
    table = table_of(epoch, len(listed), array("H", [*listed] * SLOTS).tobytes())

    def hear(world: World, number: int) -> None:
        world.worker._peers.replicas = {POLICY: replicas}
        world.worker._peers.hear(addresses)
        world.worker._peers.follow(number, table, ())
        world.worker._handing.begin()

    for number in listed:
        worlds[number - 1].run(hear, worlds[number - 1], number)


def put(world: World, number: int, size: int = 2 * MIB, group: int = GROUP) -> tuple[bytes, bytes]:
    """A file of the policy; capability and bytes."""
    _, data = world.put(make_bytes(number, size))
    return world.capability(number, size, f"object-{number}", f"e:{number}", group=group), data


def pages(world: World) -> int:
    return int(world.run(lambda: sum(group.present.bit_count() for group in world.cache)))


def test_what_a_policy_wants_twice_is_copied_to_the_other_worker_of_its_slot(
    make_worlds: Callable[..., list[World]],
) -> None:
    first, second, _ = worlds = make_worlds(3)
    wanted, data = put(first, 1)
    other, rest = put(first, 2, group=0)
    tell(worlds, [1, 2], replicas=1)
    assert read(first, wanted, 0, 2 * MIB) == data
    assert read(first, other, 0, 2 * MIB) == rest
    tell(worlds, [1, 2, 3], epoch=2)
    wait_until(lambda: pages(second) == 2, "no copy was made")
    assert pages(first) == 4, "what is copied stays"
    asked = len(first.store.gets)
    assert read(second, wanted, 0, 2 * MIB) == data
    assert len(first.store.gets) == asked
    wait_until(lambda: pages(worlds[2]) == 0, "the third worker has a copy too")


def test_an_owner_that_has_lost_a_page_gets_it_from_who_keeps_a_copy(make_worlds: Callable[..., list[World]]) -> None:
    first, second = worlds = make_worlds(2)
    tell(worlds, [1, 2])
    capability, data = put(first, 1)
    assert read(second, capability, 0, 2 * MIB) == data, "through the owner"
    asked = len(first.store.gets)
    first.run(lambda: first.cache.free([first.content(1)], force=True))
    assert read(first, capability, 0, 2 * MIB) == data
    assert len(first.store.gets) == asked
    for world in worlds:
        world.run(lambda world=world: world.cache.free([world.content(1)], force=True))
    assert read(second, capability, 0, 2 * MIB) == data
    assert len(first.store.gets) > asked, "neither had it"


def test_copies_are_made_whole_after_a_worker_is_gone(make_worlds: Callable[..., list[World]]) -> None:
    first, second, third = worlds = make_worlds(3)
    tell(worlds, [1, 2])
    files = [put(first, number) for number in range(1, 9)]
    for capability, data in files:
        assert read(second, capability, 0, 2 * MIB) == data
    asked = len(first.store.gets)
    first.stop()
    tell(worlds, [2, 3], epoch=2)
    wait_until(lambda: pages(third) == 16, "the copies are not made whole")
    for capability, data in files:
        assert read(third, capability, 0, 2 * MIB) == data
    assert len(first.store.gets) == asked


def test_what_had_no_room_there_is_not_offered_again_and_again(make_worlds: Callable[..., list[World]]) -> None:
    first, second = worlds = make_worlds(2)
    tell(worlds, [1, 2], replicas=1)
    capability, data = put(first, 1)
    assert read(first, capability, 0, 2 * MIB) == data
    assert read(second, capability, 0, 2 * MIB) == data
    second.run(lambda: second.cache._evict_one())
    assert pages(second) == 0
    tell(worlds, [1, 2], epoch=2)
    marker, more = put(first, 2)
    assert read(first, marker, 0, 2 * MIB) == more
    tell(worlds, [1, 2], epoch=3)
    wait_until(lambda: pages(second) == 2, "what was not evicted is not copied")
    assert not second.run(lambda: second.cache.groups(second.content(1)))


def test_a_group_is_as_old_there_as_it_was_here(make_worlds: Callable[..., list[World]]) -> None:
    old, new = worlds = make_worlds(2)
    change(worlds, 1, epoch=1)
    capability, data = old.put(make_bytes(1, MIB))
    assert read(old, capability, 0, MIB) == data

    def admitted(world: World) -> int:
        return int(world.run(lambda: world.cache.groups(world.content(1))[0].admitted_ns))

    hour_ns = 3600 * 10**9
    old.run(lambda: old.cache.age(old.cache.groups(old.content(1))[0], hour_ns))
    began = admitted(old)
    change(worlds, 2, epoch=2)
    wait_until(lambda: handed(old) and pages(old) == 0, "it is not handed over")
    assert abs(admitted(new) - began) < 60 * 10**9


def test_what_is_written_is_copied_at_once(make_worlds: Callable[..., list[World]], tmp_path: Path) -> None:
    """Not when everything is looked at the next time, minutes later."""
    (tmp_path / "store").mkdir()
    first, second = worlds = make_worlds(2, opens_real_stores=True)
    first.master.mounts = [MountGrant(1, f"file://{tmp_path}/store", {}, 2)]
    first.master.mounts_index = 2
    first.on_beat()
    tell(worlds, [1, 2])
    wait_until(lambda: first.run(lambda: first.worker._handing._copying is not None), "it does not look for copies")
    for number, size in enumerate((100, 10 * MIB), 1):
        data = make_bytes(number, size)
        first.write(first.write_capability(number, size, group=GROUP), data)
        wait_until(lambda: pages(second) == pages(first), "it is not copied")
        first.master.replaced = first.master.ended[-1].fingerprint
    assert pages(second) == 11


def test_parts_are_copied_at_once_when_their_upload_is_completed(
    make_worlds: Callable[..., list[World]], tmp_path: Path
) -> None:
    (tmp_path / "store").mkdir()
    first, second = worlds = make_worlds(2, opens_real_stores=True)
    first.master.mounts = [MountGrant(1, f"file://{tmp_path}/store", {}, 2)]
    first.master.mounts_index = 2
    first.on_beat()
    tell(worlds, [1, 2])
    wait_until(lambda: first.run(lambda: first.worker._handing._copying is not None), "it does not look for copies")
    store = open_ufs(f"file://{tmp_path}/store", {}, timeout_s=30.0)
    whole = peek_capability(first.write_capability(1, 2 * MIB, group=GROUP))
    upload = store.begin_upload(b"file", whole.operation_name)
    part = msgspec.structs.replace(whole, upload=upload, part=1, part_offset=0)
    tag = first.write(seal_capability(part, KEY), make_bytes(1, 2 * MIB)).tag
    keep = KeepPartsRequest(first.content(1), [UploadedPart(1, 2 * MIB, tag)])
    first.run(DirectClient(first.direct.service, NODE).call, Method.KEEP_PARTS, keep, Empty, 20.0)
    wait_until(lambda: pages(second) == 2, "they are not copied")
    store.close()


def pair(first: World, second: World) -> SlotTable:
    """Worker 7 owns everything and 2 is to have copies, of which the first hears by its master and the second is told; the table of that."""
    addresses = {7: first.address, 2: second.address}
    table = table_of(1, 2, array("H", [7, 2] * SLOTS).tobytes())
    second.run(second.worker._peers.hear, addresses)
    second.run(second.worker._peers.follow, 2, table, ())
    first.master.addresses, first.master.policies_index = addresses, 1
    first.master.groups = [GroupSpec(POLICY, 0, "MEDIUM", 0, 2)]
    return table


def test_a_worker_that_was_away_for_a_moment_gets_again_what_it_lost(
    make_worlds: Callable[..., list[World]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("monofs.worker.peers.SILENT_FIRST_S", 1000.0)
    first, second = make_worlds(2)
    table = pair(first, second)
    capability, data = put(first, 1)
    assert read(first, capability, 0, 2 * MIB) == data

    def has_copy() -> bool:
        first.master.slots = None  # what was told once is not told again
        first.on_beat()
        return pages(second) == 2

    first.master.slots = SlotsNews(1, [pack_delta(table.whole())], 5, [])
    first.on_beat()
    wait_until(has_copy, "no copy was made")
    second.run(lambda: second.cache.drop(second.content(1)))
    silent = PeerFailed("worker 2 did not answer")
    silent.__cause__ = Unreachable("it is away")
    first.run(first.worker._peers.failed, Peer(2, Asked.BY_READER), silent)
    assert not has_copy()
    first.master.slots = SlotsNews(1, [], 6, [])
    first.on_beat()
    wait_until(has_copy, "its copy is not made again")


def test_a_worker_that_was_away_for_long_gets_again_what_it_lost(make_worlds: Callable[..., list[World]]) -> None:
    """That it lives is heard together with where it listens, and before copies are looked for."""
    first, second = make_worlds(2)
    table = pair(first, second)
    capability, data = put(first, 1)
    assert read(first, capability, 0, 2 * MIB) == data

    def told(live: int, silent: list[int], whole: bool = False) -> None:
        first.master.slots = SlotsNews(1, [pack_delta(table.whole())] if whole else [], live, silent)
        first.on_beat(1)
        first.master.slots = None  # what was told once is not told again

    told(5, [], whole=True)
    wait_until(lambda: pages(second) == 2, "no copy was made")
    second.run(lambda: second.cache.drop(second.content(1)))
    told(6, [2])
    assert pages(second) == 0
    told(7, [])
    wait_until(lambda: pages(second) == 2, "its copy is not made again")
