"""What an operator asks: the report, the settings, the check, and being alive."""

from __future__ import annotations

from pathlib import Path

import pytest
from master_house import House, write

from monofs import __version__
from monofs.metadata.fsck import CHECKS
from monofs.model.errors import NotReady
from monofs.rpc import api
from monofs.rpc.api import Method


def test_the_report_tells_of_every_part(house: House, data: Path) -> None:
    write(data / "f", b"1")
    house.mount("/lake", data)
    house.stat("/lake/f")
    house.ask(Method.REGISTER, api.RegisterRequest(b"w" * 16, "127.0.0.1:1", "", "", 5, 1, 0))
    sections = house.ask(Method.REPORT, api.ReportRequest()).sections
    assert sections["cluster"]["leads"] is True
    assert sections["journal"]["role"] == "leader"
    assert sections["namespace"]["inodes"] == 3
    assert sections["mounts"]["/lake"]["state"] == "ok"
    assert sections["workers"]["1"]["live"] is True
    assert sections["freshness"]["present"] == 1
    assert sections["odd_names"] == {"seen": 0, "shown": []}


def test_the_check_covers_what_was_changed_a_moment_ago(house: House, data: Path) -> None:
    for number in range(20):
        write(data / f"f{number}", b"1")
    house.mount("/lake", data)
    house.list("/lake")
    answer = house.ask(Method.FSCK, api.Empty())
    assert answer.checks == {name: [] for name in CHECKS}
    assert answer.inodes == 22


def test_ping_and_conf_answer(house: House) -> None:
    pong = house.ask(Method.PING, api.Empty())
    assert (pong.version, pong.role) == (__version__, "master")
    assert house.ask(Method.CONF, api.Empty()).settings == []


def test_a_master_that_stopped_says_so(house: House) -> None:
    house.loop.do(house.master.stop)
    with pytest.raises(NotReady, match="starting or stopping"):
        house.stat("/")
