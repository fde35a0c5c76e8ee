"""The trace of a worker: what a larger or smaller cache would have been asked for too."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from worker_world import MIB, World, make_bytes

from monofs.tiering.trace import Recorder, read_trace


def test_what_is_read_past_a_full_cache_is_asked_for_as_well(make_world: Callable[..., World], tmp_path: Path) -> None:
    world, path = make_world(quota=2 * MIB), str(tmp_path / "trace")
    recorder = Recorder(path)
    recorder.start()
    world.run(setattr, world.cache, "_trace", recorder)
    world.run(world.cache.pin, [world.content(1)])
    files = [world.put(make_bytes(number, size)) for number, size in enumerate((2 * MIB, 7 * MIB, 70 * MIB, MIB), 1)]
    for capability, data in files[:3]:
        for _ in range(2):  # at once: one access
            assert world.read(capability, 0, len(data)) == data
    capability, data = files[3]
    assert world.read(capability, 0, len(data), cache="NO_CACHE") == data, "which no cache would have kept"
    assert world.read_many([files[1][0]], [(0, 5, 100)]) == files[1][1][5:105]
    world.stop()
    asked = [(access.content, access.number, access.size) for access in read_trace(path)]
    first, second, third = (world.content(number) for number in (1, 2, 3))
    assert sorted(set(asked)) == [(first, 0, 2 * MIB), (second, 0, 7 * MIB), (third, 0, 64 * MIB), (third, 1, 6 * MIB)]
    assert len(asked) < 12, "once a second at most, however many pieces it is read in"
