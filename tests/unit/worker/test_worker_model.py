"""Random reads against a model: whatever is asked, in whatever order and way, the bytes are those of the store."""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from worker_world import MIB, PATIENCE_S, World, make_bytes

from monofs.model.block import GROUP_PAGES, GROUP_SIZE_BYTES, PAGE_SIZE_BYTES
from monofs.model.errors import TierFull
from monofs.rpc.api import DescriptorAnswer, DescriptorRequest, Method, MountGrant
from monofs.ufs.registry import open_ufs

SIZES = [1, MIB - 1, MIB, MIB + 1, 9 * MIB + 13, GROUP_SIZE_BYTES - 1, GROUP_SIZE_BYTES, GROUP_SIZE_BYTES + 5]
DATA = {size: make_bytes(size, size) for size in SIZES}

edges = st.sampled_from([0, 1, MIB - 1, MIB, MIB + 1, GROUP_SIZE_BYTES - 1, GROUP_SIZE_BYTES, GROUP_SIZE_BYTES + 4])
offsets = st.one_of(edges, st.integers(0, GROUP_SIZE_BYTES + 10))
lengths = st.one_of(st.integers(0, 70_000), st.sampled_from([MIB, 2 * MIB + 1, 12 * MIB]))
step = st.tuples(
    st.sampled_from(["read", "read", "many", "descriptor", "no_cache", "sequential", "free", "drop"]),
    st.sampled_from(SIZES),
    offsets,
    lengths,
)


@pytest.mark.parametrize("quota", [1 << 40, 24 * MIB, MIB // 2])
def test_any_sequence_of_reads_gives_the_stores_bytes(make_world: Callable[..., World], quota: int) -> None:
    world = make_world(quota=quota)
    capabilities = {size: world.put(DATA[size])[0] for size in SIZES}
    contents = {size: world.content(1 + SIZES.index(size)) for size in SIZES}

    @settings(
        max_examples=25,
        deadline=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
    )
    @given(st.lists(step, min_size=1, max_size=12))
    def sequence(steps: list[tuple[str, int, int, int]]) -> None:
        for how, size, offset, length in steps:
            want = DATA[size][offset : offset + length]
            capability = capabilities[size]
            if how == "free":
                world.run(lambda size=size: world.cache.free([contents[size]], force=True))
            elif how == "drop":
                world.run(lambda size=size: world.cache.drop(contents[size]))
            elif how == "many":
                pieces = [(0, offset, length), (0, offset // 2, min(length, 5000)), (0, offset, 0)]
                assert world.read_many([capability], pieces) == want + DATA[size][offset // 2 :][: min(length, 5000)]
            elif how == "descriptor":
                assert read_local(world, capability, size, offset, length) == want
            else:
                options = {"no_cache": {"cache": "NO_CACHE"}, "sequential": {"sequential": True}}.get(how, {})
                assert world.read(capability, offset, length, **options) == want

    sequence()
    assert world.run(lambda: world.cache.used_bytes) <= quota


def read_local(world: World, capability: bytes, size: int, offset: int, length: int) -> bytes:
    """As a client on the same machine reads: descriptor, FETCH for missing pages, READ where there is no room."""
    out = b""
    position, end = offset, min(offset + length, size)
    while position < end:
        group, page = position // GROUP_SIZE_BYTES, position % GROUP_SIZE_BYTES // PAGE_SIZE_BYTES
        stop = min(end, (position // PAGE_SIZE_BYTES + 1) * PAGE_SIZE_BYTES)
        try:
            answer, fd = world.unix.call_with_descriptor(
                Method.DESCRIPTOR, DescriptorRequest(capability, group), DescriptorAnswer, PATIENCE_S
            )
        except TierFull:  # readers hold as much as they may while room is looked for
            out += world.read(capability, position, stop - position)
            position = stop
            continue
        if fd is None or not answer.present >> page & 1:
            fetched = world.fetch(capability, group, 1 << page)
            if not fetched.cached or fetched.file != answer.file:
                out += world.read(capability, position, stop - position)
                position = stop
                if fd is not None:
                    os.close(fd)
                continue
        assert fd is not None
        out += os.pread(fd, stop - position, answer.base + position - group * GROUP_SIZE_BYTES)
        os.close(fd)
        position = stop
    return out


def test_a_sparse_file_of_5_gb_reads_right_at_every_edge(make_world: Callable[..., World], tmp_path: object) -> None:
    """Through the real store of local files; only islands of the file hold anything."""
    path, size = f"{tmp_path}/sparse", 5_000_000_000
    islands = [0, MIB, GROUP_SIZE_BYTES, 17 * GROUP_SIZE_BYTES - 1000, (1 << 32) - 500, size - 5000]
    with open(path, "wb") as file:
        file.truncate(size)
        for seed, at in enumerate(islands):
            file.seek(at)
            file.write(make_bytes(seed, min(4000, size - at)))
    os.utime(path, ns=(1, 1))
    store = open_ufs(f"file://{tmp_path}", {})
    entry, _ = store.status(b"sparse")
    assert entry is not None

    world = make_world(quota=300 * MIB, opens_real_stores=True)
    world.master.mounts, world.master.mounts_index = [MountGrant(1, f"file://{tmp_path}", {}, 2)], 2
    world.on_beat()
    capability = world.capability(1, size, "sparse", entry.fingerprint)
    with open(path, "rb") as file:
        for at in islands:
            begin = max(at - 3000, 0)
            for length in (10, 8000, 3 * MIB):
                file.seek(begin)
                assert world.read(capability, begin, length) == file.read(length)
        pieces = [(0, at, 4000) for at in islands]
        expected = b"".join(os.pread(file.fileno(), 4000, at) for at in islands)
        assert world.read_many([capability], pieces) == expected
        file.seek(size - 100)
        assert world.read(capability, size - 100, GROUP_SIZE_BYTES) == file.read()
    assert size // PAGE_SIZE_BYTES < GROUP_PAGES * 75
