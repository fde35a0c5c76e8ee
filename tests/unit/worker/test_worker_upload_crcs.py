"""An upload into the cache: the CRC of each of its bytes is computed once, wherever in the process that is done."""

from __future__ import annotations

import binascii
import random
import sys
import zlib
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import anycrc
import pytest
from worker_world import MIB, World

from monofs.rpc.api import MountGrant
from monofs.testing.buckets import Buckets

PIECE_BYTES = 1000
"""Fewer are a header or a key, none of an upload."""


class Computed:
    """Everything that a CRC is computed of from now on, by whichever function: zlib's, binascii's and anycrc's, also where a module has a name of its own for one."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.pieces: list[bytes] = []
        modules = [module for name, module in list(sys.modules.items()) if name.startswith("monofs.")]
        known = [zlib.crc32, binascii.crc32]
        model = type(anycrc.Model("CRC32"))
        for module in [zlib, binascii, *modules]:
            for name, value in list(vars(module).items()):
                if value in known or isinstance(getattr(value, "__self__", None), model):
                    monkeypatch.setattr(module, name, self._recorded(value))

    def _recorded(self, function: Callable[..., int]) -> Callable[..., int]:
        def recorded(data: Any, *rest: Any) -> int:
            if len(data) >= PIECE_BYTES:
                self.pieces.append(bytes(data))
            return function(data, *rest)

        return recorded

    def spans(self, data: bytes) -> list[tuple[int, int]]:
        """Where in ``data`` the pieces lie, in its order; -1: it is of something else."""
        return sorted((data.find(piece), len(piece)) for piece in self.pieces)


@pytest.fixture(params=["a directory", "a bucket"])
def mounted(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[MountGrant]:
    if request.param == "a directory":
        (tmp_path / "store").mkdir()
        yield MountGrant(1, f"file://{tmp_path}/store", {}, 2)
        return
    with closing(Buckets(request.getfixturevalue("moto"))) as buckets:
        bucket = buckets.make()
        yield MountGrant(1, bucket.uri, bucket.options, 2)


@pytest.mark.parametrize("size", [5 * MIB + 1234, 20 * MIB + 1234], ids=["one put", "parts"])
@pytest.mark.parametrize("announced", [True, False], ids=["of a size told before", "of any size"])
def test_the_crc_of_each_byte_of_an_upload_is_computed_once(
    make_world: Callable[..., World], mounted: MountGrant, monkeypatch: pytest.MonkeyPatch, size: int, announced: bool
) -> None:
    world = make_world(opens_real_stores=True)
    world.master.mounts, world.master.mounts_index = [mounted], 2
    world.on_beat()
    data = random.Random(size).randbytes(size)
    computed = Computed(monkeypatch)
    world.write(world.write_capability(1, size if announced else -1), data, piece=700_001)
    assert world.present(1) == (1 << -(-size // MIB)) - 1, "it is cached"
    spans = computed.spans(data)
    assert [begin for begin, _ in spans] == [sum(length for _, length in spans[:n]) for n in range(len(spans))]
    assert sum(length for _, length in spans) == size
