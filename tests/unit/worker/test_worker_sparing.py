"""Readers of what is overwritten: a file read lately and partly cached is fetched whole before it goes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from worker_world import MIB, World, make_bytes

from monofs.model.errors import ContentChanged
from monofs.rpc.api import MountGrant
from monofs.ufs.local import LocalStore

SIZE = 3 * MIB + 5


@pytest.fixture
def overwrite(make_world: Callable[..., World], tmp_path: Path) -> Callable[..., tuple[World, bytes]]:
    """Read some of a file, overwrite it; the worker, and a token for the old content."""

    def go(*, reads: bool = True, **settings: Any) -> tuple[World, bytes]:
        store = tmp_path / "store"
        store.mkdir()
        (store / "file").write_bytes(make_bytes(1, SIZE))
        fingerprint = LocalStore(str(store)).status(b"file")[0].fingerprint  # type: ignore[union-attr]
        world = make_world(opens_real_stores=True, **settings)
        world.master.mounts, world.master.mounts_index = [MountGrant(1, f"file://{store}", {}, 2)], 2
        world.on_beat()
        old = world.capability(1, SIZE, "file", fingerprint)
        if reads:
            world.read(old, MIB, 100)
            assert world.present(1) == 0b10
        token = world.write_capability(
            2, 3, replaced=fingerprint, replaced_content=world.content(1), replaced_size=SIZE
        )
        world.write(token, b"new")
        return world, old

    return go


def test_a_reader_of_an_overwritten_file_reads_on(overwrite: Callable[..., tuple[World, bytes]]) -> None:
    world, old = overwrite()
    assert world.present(1) == 0b1111
    assert world.read(old, 0, SIZE) == make_bytes(1, SIZE)


def test_what_nobody_read_is_not_fetched(overwrite: Callable[..., tuple[World, bytes]]) -> None:
    world, old = overwrite(reads=False)
    assert world.present(1) == 0
    with pytest.raises(ContentChanged):
        world.read(old, 0, SIZE)


def test_what_is_too_large_is_not_fetched(overwrite: Callable[..., tuple[World, bytes]]) -> None:
    world, _ = overwrite(overwrite_keep_bytes=SIZE - 1)
    assert world.present(1) == 0b10
