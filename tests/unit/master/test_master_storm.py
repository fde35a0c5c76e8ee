"""Everything at once: readers, mounts, frees and a store that changes meanwhile; no answer is wrong in kind, and in the end all agrees."""

from __future__ import annotations

import os
import random
import shutil
from pathlib import Path
from typing import Any

import pytest
from master_house import House, write

from monofs.model.errors import (
    Busy,
    IsADirectory,
    MountExists,
    MountNotFound,
    MountPoint,
    NotADirectory,
    NotEmpty,
    NotFound,
)
from monofs.rpc import api
from monofs.rpc.api import Method, ReadOptions

EXPECTED = (NotFound, IsADirectory, NotADirectory, MountExists, MountNotFound, NotEmpty, Busy, MountPoint)


def shake(dice: random.Random, data: Path) -> None:
    """One change of the store behind the master's back."""
    name = data / f"{dice.choice('abc')}" / f"{dice.choice('xyz')}"
    act = dice.randrange(5)
    if act == 0 and name.exists():
        shutil.rmtree(name) if name.is_dir() else name.unlink()
    elif act == 1 and not name.exists():
        name.mkdir(parents=True, exist_ok=True)
    elif act == 2 and name.parent.exists():
        shutil.rmtree(name.parent)
    elif not name.is_dir():
        name.parent.mkdir(exist_ok=True)
        write(name, os.urandom(dice.randrange(1, 20)))


def question(dice: random.Random, data: Path) -> tuple[Method, api.Message]:
    options = ReadOptions(dice.choice([None, 0.0, 0.0, 5.0, -1.0]), dice.choice(["ONCE", "ONCE", "ALWAYS", "NEVER"]))
    top, below = dice.choice("abc"), dice.choice("xyz")
    path = dice.choice([f"/lake/{top}", f"/lake/{top}/{below}", f"/lake/{top}/{below}/deep"])
    many = [f"/lake/{one}/{two}" for one in "abc" for two in "xyz"]
    uri = f"file://{data}"
    return dice.choice(
        [
            (Method.STAT, api.StatRequest(path, options)),
            (Method.OPEN, api.OpenRequest(path, options)),
            (Method.LIST, api.ListRequest(path, b"", dice.choice([1, 2, 1000]), options)),
            (Method.LIST, api.ListRequest("/lake", b"", 1000, options)),
            (Method.OPEN_MANY, api.OpenManyRequest(many, options)),
            (Method.FREE, api.FreeRequest("/lake", recursive=True)),
            (Method.SET_PIN, api.SetPinRequest(path, dice.random() < 0.5)),
            (Method.WHY, api.StatRequest(path, options)),
            (Method.MOUNT_ADD, api.MountAddRequest(dice.choice(["/lake", "/lake/m"]), uri, shared=True)),
            (Method.MOUNT_REMOVE, api.MountRemoveRequest(dice.choice(["/lake/m", "/lake/m", "/lake"]))),
        ]
    )


def tree_of(house: House, path: str) -> dict[str, Any]:
    """Everything below a path, looked at anew: sizes of files by path."""
    found: dict[str, Any] = {}
    for name in house.list(path, 0.0):
        below = f"{path.rstrip('/')}/{name.rstrip('/')}"
        if name.endswith("/"):
            found[below] = None
            found |= tree_of(house, below)
        else:
            found[below] = house.stat(below, 0.0).size
    return found


def there(data: Path, top: str) -> dict[str, Any]:
    """What ``tree_of`` should find."""
    sizes = {path: path.stat().st_size if path.is_file() else None for path in data.rglob("*")}
    return {f"{top}/{path.relative_to(data)}": size for path, size in sizes.items()}


@pytest.mark.parametrize("seed", [11, 12, 13, 14])
def test_a_storm_of_questions_and_changes_ends_in_agreement(house: House, data: Path, seed: int) -> None:
    dice = random.Random(seed)
    house.mount("/lake", data)
    for _ in range(12):
        waiting = []
        for _ in range(12):
            shake(dice, data)
            waiting.append(house.begin(*question(dice, data)))
            house.now_s += dice.choice([0.0, 0.1, 10.0])
        for wait in waiting:
            try:
                wait()
            except EXPECTED:
                pass  # what was asked for came or went meanwhile
    house.mount("/final", data, shared=True)
    assert tree_of(house, "/final") == there(data, "/final")
    house.now_s += 100
    for _ in range(3):
        shake(dice, data)
    mounted = {mount.path for mount in house.ask(Method.MOUNT_LIST, api.Empty()).mounts}
    for top in ("/final", "/lake") if mounted == {"/final", "/lake"} else ("/final",):
        assert tree_of(house, top) == there(data, top)
    checks = house.ask(Method.FSCK, api.Empty()).checks
    assert [finding for findings in checks.values() for finding in findings] == []
