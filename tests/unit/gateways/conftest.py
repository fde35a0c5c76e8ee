"""Fixtures of the gateways' tests; what they are made of is in http_world.py."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from http_world import Shop

from monofs.rpc.tls import ServerTls
from monofs.testing.certificates import Authority
from monofs.testing.reactors import Loop


@pytest.fixture(scope="session")
def gateway_loop() -> Iterator[Loop]:
    running = Loop()
    yield running
    running.stop()


@pytest.fixture
def shop(gateway_loop: Loop, tmp_path: Any) -> Iterator[Shop]:
    standing = Shop(gateway_loop, str(tmp_path))
    yield standing
    standing.stop()


@pytest.fixture(scope="session")
def door_authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(str(tmp_path_factory.mktemp("door-authority")))


@pytest.fixture(scope="session")
def door_tls(door_authority: Authority) -> ServerTls:
    """What doors on loopback show."""
    files = door_authority.issue("door", "127.0.0.1", "localhost")
    return ServerTls(files.certificate, files.key, foreign=True)
