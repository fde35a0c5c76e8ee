"""Many more cached files than descriptors: the table takes turns, and nobody reads another file's bytes."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest
from worker_world import MIB, World, make_bytes

FILES = 24
LIMIT = 4


@pytest.fixture
def files(world: World) -> list[tuple[bytes, bytes]]:
    """Cached files, many times as many as the worker may have open."""
    world.run(lambda: setattr(world.cache.files, "limit", LIMIT))
    made = [world.put(make_bytes(number, MIB // 4 + number)) for number in range(1, FILES + 1)]
    for token, data in made:
        assert world.read(token, 0, len(data)) == data
    return made


def opened(world: World) -> int:
    return int(world.run(lambda: len(world.cache.files)))


def pages_open(directory: Path) -> int:
    """Page files below ``directory`` that this process has open."""
    found = 0
    for fd in os.listdir("/proc/self/fd"):
        try:
            path = os.readlink(f"/proc/self/fd/{fd}")
            found += path.startswith(f"{directory}/") and "/files/" in path
        except FileNotFoundError:
            continue
    return found


def test_pieces_of_many_files_in_one_request_are_each_its_own_files(
    world: World, files: list[tuple[bytes, bytes]]
) -> None:
    """A descriptor that was closed to open another one has its number: it must not be read from again."""
    draw = random.Random(4)
    pieces = [(draw.randrange(FILES), draw.randrange(200_000), 100) for _ in range(400)]
    pieces += [(which, 5, 100) for which in [*range(FILES), *range(FILES)]]
    got = world.read_many([token for token, _ in files], pieces)
    assert got == b"".join(files[which][1][offset : offset + length] for which, offset, length in pieces)
    assert opened(world) <= LIMIT


def test_whatever_is_read_the_files_open_stay_bounded(
    world: World, files: list[tuple[bytes, bytes]], tmp_path: Path
) -> None:
    for _ in range(2):
        for token, data in files:
            assert world.read(token, 7, 1000) == data[7:1007]
            assert world.read(token, 0, len(data), pool=world.unix) == data
            assert opened(world) <= LIMIT
    assert 0 < pages_open(tmp_path) <= LIMIT + 2
