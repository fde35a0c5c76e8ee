"""The same master over a journal that loses leadership and does not know outcomes: nothing wrong, nothing twice, and it converges."""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from master_house import House, write

from monofs.model.errors import (
    AlreadyExists,
    NotFound,
    NotLeader,
    OutcomeUnknown,
    Overloaded,
)
from monofs.rpc import api
from monofs.rpc.api import Method, RequestId

SEEDS = (1, 2, 3)


def persist(ask: Callable[[], Any]) -> Any:
    """As a client does: the same request again while its outcome is unknown or nobody leads."""
    for _ in range(200):
        try:
            return ask()
        except (NotLeader, OutcomeUnknown, Overloaded):
            continue
    raise AssertionError("200 tries were not enough")


def numbered(client: bytes, sequence: int) -> RequestId:
    return RequestId(client, sequence, sequence)


@pytest.mark.parametrize("seed", SEEDS)
def test_what_the_store_shows_is_taken_over_whole_and_once(
    make_house: Callable[..., House], data: Path, seed: int
) -> None:
    dice = random.Random(seed)
    house = make_house(flaky=seed)
    house.journal._unknown = house.journal._lose = 0.2
    for directory in ("", "d", "d/e"):
        (data / directory).mkdir(exist_ok=True)
        for number in range(15):
            write(data / directory / f"f{number}", b"1")
    persist(lambda: house.mount("/lake", data, request=numbered(b"client", 1)))
    for _ in range(15):
        victim = dice.choice(sorted(data.rglob("f*")))
        if dice.random() < 0.5:
            victim.unlink()
        write(victim.with_name(f"g{dice.randrange(9)}"), os.urandom(dice.randrange(1, 9)))
        house.now_s += 61
        persist(lambda: house.list("/lake/d/e"))
        persist(lambda: house.ask(Method.STAT_MANY, api.StatManyRequest([f"/lake/d/g{n}" for n in range(9)])))
    house.now_s += 61
    for directory in ("", "d", "d/e"):
        shown = persist(lambda at=directory: house.list(f"/lake/{at}".rstrip("/") or "/lake"))
        there = sorted(entry.name + ("/" if entry.is_dir() else "") for entry in (data / directory).iterdir())
        assert shown == there
        for name in shown:
            if not name.endswith("/"):
                inode = persist(lambda at=directory, name=name: house.stat(f"/lake/{at}/{name}".replace("//", "/")))
                assert inode.size == (data / directory / name).stat().st_size
    checks = persist(lambda: house.ask(Method.FSCK, api.Empty())).checks
    assert [finding for findings in checks.values() for finding in findings] == []
    assert sum(house.journal.counts.values()) > 0


@pytest.mark.parametrize("seed", SEEDS)
def test_numbered_changes_apply_once_whatever_happens_to_their_answers(
    make_house: Callable[..., House], seed: int
) -> None:
    house = make_house(flaky=seed)
    house.journal._unknown = house.journal._lose = 0.2
    client = os.urandom(16)
    for sequence in range(1, 40):
        path = f"/f{sequence}"
        persist(
            lambda at=path, number=sequence: house.ask(
                Method.CREATE, api.CreateRequest(at, request=numbered(client, number))
            )
        )
        if sequence % 3 == 0:
            with pytest.raises(AlreadyExists):
                persist(lambda at=path: house.ask(Method.CREATE, api.CreateRequest(at)))
    assert len(persist(lambda: house.list("/"))) == 39


@pytest.mark.parametrize("seed", SEEDS)
def test_mounting_unmounting_and_freeing_end_as_asked(make_house: Callable[..., House], data: Path, seed: int) -> None:
    house = make_house(flaky=seed)
    house.journal._unknown = house.journal._lose = 0.2
    for number in range(10):
        (data / f"d{number}").mkdir()
        write(data / f"d{number}" / "f", b"1")
    client = os.urandom(16)
    for number in range(3):
        persist(lambda at=number: house.mount("/lake", data, request=numbered(client, 2 * at + 1)))
        for directory in range(10):
            persist(lambda at=directory: house.list(f"/lake/d{at}"))
        assert persist(lambda: house.ask(Method.FREE, api.FreeRequest("/lake", recursive=True))).files == 10
        remove = api.MountRemoveRequest("/lake", numbered(client, 2 * number + 2))
        persist(lambda request=remove: house.ask(Method.MOUNT_REMOVE, request))
        for path in ("/lake", "/lake/d1/f"):
            with pytest.raises(NotFound):
                persist(lambda at=path: house.stat(at))
    while house.loop.do(house.namespace.pending_removal):
        persist(lambda: house.ask(Method.PING, api.Empty()))
        house.loop.do(house.master._duties.maybe_remove)
    assert house.namespace.counts()["inodes"] == 1
    checks = persist(lambda: house.ask(Method.FSCK, api.Empty())).checks
    assert [finding for findings in checks.values() for finding in findings] == []
