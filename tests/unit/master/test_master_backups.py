"""BACKUP at the master: who may, what is sent, how long a copy is held."""

from __future__ import annotations

import os
from typing import Any

import pytest
from master_house import House

from monofs.metadata.copyfile import Checker, unpack_head
from monofs.model.errors import InvalidArgument, NotFound, PermissionDenied
from monofs.model.principal import NODE, Principal, Right
from monofs.rpc.api import BackupInfo, BackupRequest, Empty, Method
from monofs.rpc.direct import DirectClient
from monofs.testing.masters import wait_until


def receive(house: House, request: BackupRequest, principal: Principal = NODE) -> tuple[BackupInfo, list[bytes]]:
    came: list[Any] = []
    client = DirectClient(house.service, principal)
    house.loop.do(lambda: client.stream(Method.BACKUP, request, came.append, Empty))
    return came[0], [bytes(each) for each in came[1:]]


def has_copies(house: House, count: int) -> bool:
    """Sooner or later: a thread removes them."""
    wait_until(lambda: len(copies(house)) == count, f"there are {copies(house)}, not {count}")
    return True


def copies(house: House) -> list[str]:
    return [name for name in os.listdir(house.directory / "namespace") if name.startswith("copy-")]


def test_what_is_sent_is_a_whole_copy_of_all_that_was_applied(house: House) -> None:
    house.mount("/lake", house.directory)
    info, frames = receive(house, BackupRequest())
    head = unpack_head(frames[0], "it")
    assert (head.index, head.crc) == (house.namespace.applied_index, house.namespace.crc)
    checker = Checker(head, "it")
    for frame in frames[1:]:
        checker.take(frame)
    checker.finish()
    assert info.total_bytes == sum(map(len, frames)) == checker.offset
    assert receive(house, BackupRequest(info.copy, 4096))[1] == frames[1:], "the same copy, from there on"
    assert receive(house, BackupRequest(info.copy, info.total_bytes))[1] == []
    with pytest.raises(InvalidArgument, match="no border"):
        receive(house, BackupRequest(info.copy, 17))


def test_a_copy_is_held_until_it_has_arrived_or_another_is_made(house: House) -> None:
    first, _ = receive(house, BackupRequest())
    assert has_copies(house, 1)
    second, _ = receive(house, BackupRequest())
    assert has_copies(house, 1)
    with pytest.raises(NotFound, match="begin the backup anew"):
        receive(house, BackupRequest(first.copy, 4096))
    house.ask(Method.BACKUP, BackupRequest(first.copy, done=True))
    assert len(copies(house)) == 1, "that was another one"
    house.ask(Method.BACKUP, BackupRequest(second.copy, done=True))
    assert has_copies(house, 0)


def test_a_copy_goes_with_the_master(house: House) -> None:
    receive(house, BackupRequest())
    house.restart()
    assert has_copies(house, 0)


@pytest.mark.parametrize("done", [False, True])
def test_only_administrators_may(house: House, done: bool) -> None:
    user = Principal("ada", rights=Right.READ | Right.WRITE)
    with pytest.raises(PermissionDenied, match="ada has no admin right"):
        receive(house, BackupRequest(done=done), user)
    assert copies(house) == []


def test_a_new_copy_asked_for_from_nowhere_is_held_no_longer_than_others(house: House) -> None:
    with pytest.raises(InvalidArgument, match="no border"):
        receive(house, BackupRequest(offset=-5))
    held = house.master._backups._held
    assert (held.readers, held.timer.active()) == (0, True)
    receive(house, BackupRequest())
    assert has_copies(house, 1)
