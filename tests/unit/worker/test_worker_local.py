"""Readers on the same machine: descriptors of cached files over the Unix socket, leases, FETCH."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable

import pytest
from worker_world import MIB, PATIENCE_S, World, make_bytes

from monofs.model.block import LAYOUT_WHOLE
from monofs.model.errors import InvalidArgument, NotSupported, Overloaded, TierFull
from monofs.model.options import Priority
from monofs.rpc.api import DescriptorAnswer, DescriptorRequest, Empty, GroupSpec, Method, ReleaseAnswer, ReleaseRequest


def ask(world: World, capability: bytes, group: int = 0) -> tuple[DescriptorAnswer, int | None]:
    request = DescriptorRequest(capability, group)
    return world.unix.call_with_descriptor(Method.DESCRIPTOR, request, DescriptorAnswer, PATIENCE_S)


def held(world: World) -> int:
    return int(world.run(lambda: sum(group.holds for group in world.cache)))


def test_a_descriptor_reads_the_pages_its_bitmap_names(world: World) -> None:
    capability, data = world.put(make_bytes(1, 5 * MIB + 7))
    world.read(capability, MIB, 2 * MIB)
    answer, fd = ask(world, capability)
    assert fd is not None
    assert (answer.present, answer.length) == (0b110, 5 * MIB + 7)
    assert os.pread(fd, 2 * MIB, answer.base + MIB) == data[MIB : 3 * MIB]
    os.close(fd)


def test_pages_fetched_later_appear_in_the_same_file(world: World) -> None:
    capability, data = world.put(make_bytes(2, 5 * MIB + 7))
    world.read(capability, 0, 1)
    answer, fd = ask(world, capability)
    assert fd is not None
    fetched = world.fetch(capability, 0, 0b100010)
    assert fetched.file == answer.file
    assert fetched.present == 0b100011
    assert fetched.fetched_bytes == MIB + 7
    assert os.pread(fd, MIB, answer.base + 5 * MIB) == data[5 * MIB :]
    assert world.fetch(capability, 0, 0b100010).fetched_bytes == 0, "a hit"
    os.close(fd)


def test_pages_read_ahead_count_for_the_request_that_sent_for_them(world: World) -> None:
    """So that what a load reports as fetched is what came from the store, however soon it came."""
    capability, data = world.put(make_bytes(9, 5 * MIB + 7))
    assert world.fetch(capability, 0, 0b1, ahead=5).fetched_bytes == len(data)
    assert world.fetch(capability, 0, 0b111110).fetched_bytes == 0


def test_a_group_that_was_freed_and_fetched_again_is_another_file(world: World) -> None:
    capability, _ = world.put(make_bytes(3, 2 * MIB))
    world.read(capability, 0, 1)
    answer, fd = ask(world, capability)
    assert fd is not None
    world.run(lambda: world.cache.free([world.content()], force=True))
    fetched = world.fetch(capability, 0, 0b11)
    assert fetched.file != answer.file
    os.close(fd)


def test_a_group_with_no_page_gives_no_descriptor(world: World) -> None:
    capability, _ = world.put(make_bytes(4, MIB))
    answer, fd = ask(world, capability)
    assert (answer.present, answer.lease, fd) == (0, 0, None)


def test_a_descriptor_cannot_write_and_shares_no_flags_with_the_cache(world: World) -> None:
    capability, data = world.put(make_bytes(5, MIB))
    world.read(capability, 0, MIB)
    _, fd = ask(world, capability)
    assert fd is not None
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.pwrite(fd, b"x", 0)
    fcntl.fcntl(fd, fcntl.F_SETFL, os.O_DIRECT)
    assert world.read(capability, 1, 1000) == data[1:1001]
    os.close(fd)


def test_descriptors_travel_over_the_unix_socket_only(world: World) -> None:
    capability, _ = world.put(make_bytes(6, MIB))
    world.read(capability, 0, MIB)
    with pytest.raises(NotSupported, match="Unix socket"):
        world.tcp.call(Method.DESCRIPTOR, DescriptorRequest(capability, 0), DescriptorAnswer, PATIENCE_S)


def test_a_group_beyond_the_end_is_refused(world: World) -> None:
    capability, _ = world.put(make_bytes(7, MIB))
    for group in (1, -1, 1 << 40):
        with pytest.raises(InvalidArgument, match="beyond the end"):
            ask(world, capability, group)
        with pytest.raises(InvalidArgument, match="beyond the end"):
            world.fetch(capability, group, 1)


def test_a_damaged_group_is_verified_before_its_descriptor_is_handed_out(world: World) -> None:
    capability, data = world.put(make_bytes(8, 3 * MIB))
    world.read(capability, 0, len(data))
    path = world.path_of()
    world.crash()
    with open(path, "r+b") as file:
        file.seek(MIB + 1)
        file.write(b"\xff\xfe\xfd")
    world.start()
    answer, fd = ask(world, capability)
    assert answer.present & 0b10 == 0
    if fd is not None:
        os.close(fd)
    fetched = world.fetch(capability, 0, 0b111)
    assert fetched.present == 0b111
    answer, fd = ask(world, capability)
    assert fd is not None
    assert os.pread(fd, 3 * MIB, answer.base) == data
    os.close(fd)


# ---- leases -------------------------------------------------------------------------------------------------------------


def test_a_lease_holds_the_group_until_it_is_released(world: World) -> None:
    capability, _ = world.put(make_bytes(9, MIB))
    world.read(capability, 0, MIB)
    answer, fd = ask(world, capability)
    assert held(world) == 1
    world.unix.call(Method.RELEASE, ReleaseRequest([answer.lease]), Empty, PATIENCE_S)
    assert held(world) == 0
    world.unix.call(Method.RELEASE, ReleaseRequest([answer.lease, 12345]), Empty, PATIENCE_S)
    assert held(world) == 0
    assert fd is not None
    os.close(fd)


def test_bytes_dropped_while_a_descriptor_is_out_count_as_used_and_stay_readable(world: World) -> None:
    capability, data = world.put(make_bytes(10, MIB))
    world.read(capability, 0, MIB)
    answer, fd = ask(world, capability)
    assert fd is not None
    world.run(lambda: world.cache.drop(world.content()))
    assert world.run(lambda: world.cache.used_bytes) == MIB
    assert os.pread(fd, MIB, answer.base) == data
    world.unix.call(Method.RELEASE, ReleaseRequest([answer.lease]), Empty, PATIENCE_S)
    assert world.run(lambda: world.cache.used_bytes) == 0
    os.close(fd)


def test_a_connection_that_closes_gives_its_leases_back(world: World) -> None:
    capability, _ = world.put(make_bytes(11, MIB))
    world.read(capability, 0, MIB)
    gone = world.run(lambda: len(world.worker._leases))
    _, fd = ask(world, capability)
    assert fd is not None
    os.close(fd)
    assert world.run(lambda: len(world.worker._leases)) == gone + 1
    world.unix.close()
    world.on_reactor_until(lambda: len(world.worker._leases) == 0)
    assert held(world) == 0


def test_a_client_may_hold_only_so_many_descriptors(make_world: Callable[..., World]) -> None:
    world = make_world(descriptors_per_client=3)
    capability, _ = world.put(make_bytes(12, MIB))
    world.read(capability, 0, MIB)
    answers = [ask(world, capability) for _ in range(3)]
    with pytest.raises(Overloaded, match="3 descriptors"):
        ask(world, capability)
    world.unix.call(Method.RELEASE, ReleaseRequest([answers[0][0].lease]), Empty, PATIENCE_S)
    answers.append(ask(world, capability))
    for _, fd in answers:
        assert fd is not None
        os.close(fd)


# ---- fetch --------------------------------------------------------------------------------------------------------------


def test_fetch_ahead_brings_pages_nobody_waits_for(world: World) -> None:
    capability, _ = world.put(make_bytes(13, 70 * MIB))
    world.fetch(capability, 0, 1 << 62, ahead=4)
    world.on_reactor_until(lambda: world.worker._fetcher.count == 0)
    assert world.present(1, 0) == 0b11 << 62
    assert world.present(1, 1) == 0b111


def test_fetch_ahead_ends_with_the_file_and_is_bounded(make_world: Callable[..., World]) -> None:
    world = make_world(read_ahead_bytes=4 * MIB)
    capability, _ = world.put(make_bytes(14, 20 * MIB))
    world.fetch(capability, 0, 0b1, ahead=1 << 40)
    world.on_reactor_until(lambda: world.worker._fetcher.count == 0)
    assert world.present() == 0b11111
    world.fetch(capability, 0, 1 << 19, ahead=10)
    world.on_reactor_until(lambda: world.worker._fetcher.count == 0)
    assert world.present() == 0b11111 | 1 << 19


def test_fetch_of_pages_beyond_the_end_asks_for_the_others(world: World) -> None:
    capability, _ = world.put(make_bytes(15, 2 * MIB))
    assert world.fetch(capability, 0, (1 << 64) - 1).present == 0b11


def keep(world: World, *leases: int) -> list[int]:
    """Those of the leases kept that the worker wants back."""
    return world.unix.call(Method.RELEASE, ReleaseRequest([], list(leases)), ReleaseAnswer, PATIENCE_S).recalled


@pytest.mark.parametrize(("quota", "wanted"), [(4 * MIB, True), (1 << 30, False)])
def test_descriptors_of_files_that_are_gone_are_asked_back_where_their_room_is_needed(
    make_world: Callable[..., World], quota: int, wanted: bool
) -> None:
    world = make_world(quota=quota)
    capability, data = world.put(make_bytes(1, 2 * MIB))
    world.read(capability, 0, len(data))
    answer, fd = ask(world, capability)
    assert fd is not None
    world.run(lambda: world.cache.free([world.content()], force=True))
    (tier,) = world.run(world.cache.status)
    assert (tier.used_bytes, tier.held_bytes, tier.groups) == (2 * MIB, 2 * MIB, 0)
    assert keep(world, answer.lease) == ([answer.lease] if wanted else [])
    os.close(fd)
    world.unix.call(Method.RELEASE, ReleaseRequest([answer.lease]), ReleaseAnswer, PATIENCE_S)
    (tier,) = world.run(world.cache.status)
    assert (tier.used_bytes, tier.held_bytes) == (0, 0)


def test_a_descriptor_of_a_group_that_eviction_passed_is_asked_back_and_one_it_did_not_is_not(
    make_world: Callable[..., World],
) -> None:
    world = make_world(quota=4 * MIB)
    first, second = (world.put(make_bytes(seed, 2 * MIB)) for seed in (1, 2))
    for capability, data in (first, second):
        world.read(capability, 0, len(data))
    answers = [ask(world, capability) for capability, _ in (first, second)]
    leases = [answer.lease for answer, _ in answers]
    assert keep(world, *leases) == [], "no room was looked for yet"
    third, data = world.put(make_bytes(3, MIB))
    assert world.read(third, 0, MIB) == data, "past the cache: all of it is held"
    assert keep(world, *leases) == leases
    world.unix.call(Method.RELEASE, ReleaseRequest(leases), ReleaseAnswer, PATIENCE_S)
    assert world.read(third, 0, MIB) == data
    assert world.present(3) == 1, "there is room now"
    for _, fd in answers:
        assert fd is not None
        os.close(fd)


def test_descriptors_of_what_is_over_a_quota_are_asked_back(world: World) -> None:
    """Else a program that reads on and on from it would keep others from their parts of the quota."""

    def set_quota(quota_bytes: int) -> None:
        world.master.groups = [GroupSpec(3, quota_bytes, Priority.MEDIUM, 0)]
        world.master.policies_index += 1
        world.on_beat()

    set_quota(4 * MIB)
    files = [world.capability(n, 2 * MIB, f"object-{n}", f"e:{n}", group=6) for n in (1, 2)]
    for number, capability in enumerate(files, 1):
        world.put(make_bytes(number, 2 * MIB))
        world.read(capability, 0, 2 * MIB)
    answers = [ask(world, capability) for capability in files]
    leases = [answer.lease for answer, _ in answers]
    assert keep(world, *leases) == []
    set_quota(2 * MIB)
    assert keep(world, *leases) == leases
    for lease in leases:
        world.unix.call(Method.RELEASE, ReleaseRequest([lease]), ReleaseAnswer, PATIENCE_S)
    assert world.run(world.cache.group_bytes) == {3: 2 * MIB}
    answers.append(ask(world, files[1]))
    assert keep(world, answers[-1][0].lease) == []
    for _, fd in answers:
        assert fd is not None
        os.close(fd)


def test_while_room_is_looked_for_only_half_of_a_directory_is_lent(make_world: Callable[..., World]) -> None:
    world = make_world(quota=4 * MIB)
    files = [world.put(make_bytes(seed, MIB)) for seed in range(1, 5)]
    for capability, data in files:
        world.read(capability, 0, len(data))
    lent = [ask(world, capability) for capability, _ in files]
    assert all(fd is not None for _, fd in lent), "all of it, while nobody needs the room"
    new, data = world.put(make_bytes(5, MIB))
    assert world.read(new, 0, MIB) == data
    assert world.present(5) == 0
    leases = [answer.lease for answer, _ in lent]
    assert keep(world, *leases) == leases
    world.unix.call(Method.RELEASE, ReleaseRequest(leases), ReleaseAnswer, PATIENCE_S)
    again = [ask(world, capability) for capability, _ in files[:2]]
    again.append(ask(world, files[0][0]))  # lent already
    for capability, _ in files[2:]:
        with pytest.raises(TierFull, match="over the socket"):
            ask(world, capability)
    assert world.read(new, 0, MIB) == data
    assert world.present(5) == 1, "the other half makes room"
    assert [world.present(number) for number in (1, 2)] == [1, 1]
    for _, fd in lent + again:
        assert fd is not None
        os.close(fd)


def test_a_file_of_several_groups_is_held_and_asked_back_as_a_whole(make_world: Callable[..., World]) -> None:
    world = make_world(quota=132 * MIB)
    capability, data = world.put(make_bytes(1, 66 * MIB), layout=LAYOUT_WHOLE)
    assert world.read(capability, 0, len(data)) == data
    answer, fd = ask(world, capability, 1)
    assert fd is not None
    assert keep(world, answer.lease) == []
    world.run(lambda: world.cache.free([world.content()], force=True))
    (tier,) = world.run(world.cache.status)
    assert (tier.used_bytes, tier.held_bytes) == (66 * MIB, 66 * MIB), "a lease of one group holds all"
    other, data = world.put(make_bytes(2, 66 * MIB))
    assert world.read(other, 0, len(data)) == data
    assert keep(world, answer.lease) == [answer.lease]
    os.close(fd)
    world.unix.call(Method.RELEASE, ReleaseRequest([answer.lease]), ReleaseAnswer, PATIENCE_S)
    (tier,) = world.run(world.cache.status)
    assert (tier.used_bytes, tier.held_bytes) == (66 * MIB, 0)


def test_a_lease_the_worker_knows_no_more_is_asked_back(world: World) -> None:
    assert keep(world, 12345) == [12345]
    with pytest.raises(InvalidArgument):
        keep(world, *range(5000))
