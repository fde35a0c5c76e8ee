"""What waits for what: changes for changes, changes for the keys a job is at, and the job for changes."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from master_house import House, write
from scribe import Scribe

from monofs.config.schema import Config, MasterConfig
from monofs.master.locks import Claim, Locks
from monofs.model.errors import Busy, MountPoint
from monofs.rpc import api
from monofs.rpc.api import Method


@pytest.fixture
def house(make_house: Callable[..., House], data: Path) -> House:
    made = make_house(Config(master=MasterConfig(busy_wait_s=30.0)))
    made.mount("/lake", data)
    return made


@pytest.fixture
def scribe(house: House) -> Scribe:
    return Scribe(house)


def locks(house: House) -> Locks:
    found: Any = house.master._background
    return found.mover._locks


def claim(house: House, *keys: str) -> Claim:
    made: Claim = house.loop.do(locks(house).try_claim, 1, keys)
    return made


def test_nothing_begins_at_or_below_a_claimed_key_until_it_is_released(
    house: House, scribe: Scribe, data: Path
) -> None:
    held = claim(house, "d", "f")
    assert (held.keys, held.refused) == (("d", "f"), ())
    waiting = [scribe.begin_later(path, 1) for path in ("/lake/f", "/lake/d/e/g")]
    made = house.begin(Method.MAKE_DIRECTORY, api.MakeDirectoryRequest("/lake/d/h", parents=True))
    scribe.write("/lake/other", b"1")
    scribe.write("/lake/dd", b"1")
    assert house.ask(Method.INTENT_LIST, api.Empty()).intents == []
    house.loop.do(held.release)
    for wait in waiting:
        begun = wait()
        scribe.end(begun, scribe.put(begun, b"1"), 1)
    made()
    assert house.list("/lake", 0) == ["d/", "dd", "f", "other"]


def test_what_is_being_changed_is_not_claimed(house: House, scribe: Scribe) -> None:
    begun = scribe.begin("/lake/d/f", 1)
    held = claim(house, "d/f", "d", "d/g", "d/f/below")
    assert (held.keys, held.refused) == (("d/g",), ("d/f", "d", "d/f/below"))
    scribe.end(begun, scribe.put(begun, b"1"), 1)
    again = claim(house, "d/f", "d/g")
    assert (again.keys, again.refused) == (("d/f",), ("d/g",)), "claimed already"
    house.loop.do(held.release)
    house.loop.do(again.release)
    assert claim(house, "d/f", "d/g").refused == ()


def test_who_waits_too_long_for_a_claim_is_told_what_it_is_for(house: House, scribe: Scribe) -> None:
    house.loop.do(lambda: locks(house).try_claim(1, ["f"], told="job 7 moves it"))
    house.impatient()
    with pytest.raises(Busy, match="job 7 moves it"):
        scribe.begin("/lake/f", 1)


def test_claims_of_one_mount_are_none_of_anothers_business(house: House, scribe: Scribe, tmp_path: Path) -> None:
    (tmp_path / "second").mkdir()
    house.mount("/second", tmp_path / "second")
    claim(house, "f")
    scribe.write("/second/f", b"1")
    scribe.write("/f", b"1")


def test_many_writers_of_one_path_all_come_to_their_turn(house: House, scribe: Scribe, data: Path) -> None:
    with ThreadPoolExecutor(20) as writers:
        written = list(writers.map(lambda number: scribe.write("/lake/f", b"%02d" % number), range(20)))
    last = max(written, key=lambda inode: inode.changed_index)
    assert house.stat("/lake/f") == last
    assert len({inode.content for inode in written}) == 20


def test_changes_of_different_paths_do_not_wait_for_each_other(house: House, scribe: Scribe) -> None:
    house.impatient()
    begun = [scribe.begin(f"/lake/d/f{number}", 1) for number in range(50)]
    for one in reversed(begun):
        scribe.end(one, scribe.put(one, b"1"), 1)
    assert len(house.list("/lake/d")) == 50


def test_what_cannot_be_changed_at_all_is_told_at_once(house: House, data: Path) -> None:
    write(data / "f", b"1")
    for method, request in (
        (Method.DELETE, api.DeleteRequest("/lake")),
        (Method.RENAME, api.RenameRequest("/lake", "/other")),
        (Method.REMOVE_TREE, api.RemoveTreeRequest("/")),
    ):
        with pytest.raises(MountPoint, match="mount"):  # within the thirty seconds this house waits for what may go
            house.ask(method, request)


def test_changes_under_no_mount_wait_for_writes_there_too(house: House, scribe: Scribe) -> None:
    begun = scribe.begin("/plain/f", 1)
    deleted = house.begin(Method.DELETE, api.DeleteRequest("/plain/f"))
    scribe.end(begun, None, 1)
    deleted()
    assert house.list("/plain") == []
