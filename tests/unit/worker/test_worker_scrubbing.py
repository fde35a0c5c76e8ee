"""The scrubber finds what rots before a reader does, at a bounded rate, and readers never get a wrong byte."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from worker_world import MIB, World, make_bytes

from monofs.observe import metrics
from monofs.tiering.group import Group
from monofs.worker.scrubbing import Scrubber


@pytest.fixture
def scrubbers(world: World) -> Iterator[list[Scrubber]]:
    started: list[Scrubber] = []
    yield started
    for scrubber in started:
        world.run(scrubber.stop)


def scrub(world: World, scrubbers: list[Scrubber], *, bytes_s: int = 1 << 40) -> None:
    """Begin a pass now."""

    def start() -> None:
        scrubber = Scrubber(world.cache, world.worker._disks, bytes_s, world.thread.reactor, first_s=0.0)
        scrubbers.append(scrubber)
        scrubber.start()

    world.run(start)


def group_of(world: World, counter: int) -> Group:
    group = world.run(lambda: world.cache.lookup(world.content(counter), 0))
    assert group is not None
    return group


def rot(world: World, group: Group, page: int) -> None:
    path = f"{group.directory.spec.directory}/files/{group.file & 255:02x}/{group.file:x}"
    with open(path, "r+b") as file:
        file.seek(page * MIB + 5)
        file.write(b"rotten")


def test_bad_pages_are_dropped_counted_and_fetched_again_by_the_next_reader(
    world: World, scrubbers: list[Scrubber]
) -> None:
    tokens = [world.put(make_bytes(counter, size)) for counter, size in ((1, 3 * MIB + 7), (2, MIB), (3, 20 * MIB))]
    for token, data in tokens:
        assert world.read(token, 0, len(data)) == data
    bad = group_of(world, 1)
    rot(world, bad, 1)
    counted, fetched = metrics.BAD_PAGES("DISK").value, len(world.store.gets)
    scrub(world, scrubbers)
    world.on_reactor_until(lambda: not bad.alive)
    world.on_reactor_until(lambda: bool(world.cache.groups(world.content(1))))
    assert world.present(1) == 0b1101
    assert metrics.BAD_PAGES("DISK").value == counted + 1
    token, data = tokens[0]
    assert world.read(token, 0, len(data)) == data
    assert len(world.store.gets) == fetched + 1
    assert world.present(1) == 0b1111


def test_every_page_is_looked_at_once_in_a_pass(world: World, scrubbers: list[Scrubber]) -> None:
    for counter, size in ((1, 20 * MIB + 1), (2, 100), (3, MIB)):
        token, data = world.put(make_bytes(counter, size))
        world.read(token, 0, len(data))
    before = metrics.SCRUBBED_BYTES("DISK").value
    scrub(world, scrubbers)
    world.on_reactor_until(lambda: metrics.SCRUBBED_BYTES("DISK").value >= before + 21 * MIB + 101)
    assert metrics.SCRUBBED_BYTES("DISK").value == before + 21 * MIB + 101
    assert all(world.present(counter) for counter in (1, 2, 3))


def test_what_an_unclean_stop_left_unverified_is_verified_on_the_way(world: World, scrubbers: list[Scrubber]) -> None:
    token, data = world.put(make_bytes(1, 3 * MIB))
    world.read(token, 0, len(data))
    world.crash()
    world.start()
    group = group_of(world, 1)
    assert not group.verified
    scrub(world, scrubbers)
    world.on_reactor_until(lambda: group.verified)


def test_it_reads_no_faster_than_it_may(world: World, scrubbers: list[Scrubber]) -> None:
    token, data = world.put(make_bytes(1, 30 * MIB))
    world.read(token, 0, len(data))
    before = metrics.SCRUBBED_BYTES("DISK").value
    scrub(world, scrubbers, bytes_s=1)  # a piece of 8 MiB, then a pause of 97 days
    world.on_reactor_until(lambda: metrics.SCRUBBED_BYTES("DISK").value > before)
    token, data = world.put(make_bytes(2, MIB))
    assert world.read(token, 0, len(data)) == data
    assert metrics.SCRUBBED_BYTES("DISK").value == before + 8 * MIB
