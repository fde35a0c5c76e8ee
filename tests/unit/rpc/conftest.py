"""Fixtures of the rpc tests; what they are made of is in rpc_world.py."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from rpc_world import House, Loop

from monofs.rpc.tls import ClientTls, ServerTls
from monofs.testing.certificates import Authority


@pytest.fixture(scope="session")
def loop() -> Iterator[Loop]:
    running = Loop()
    yield running
    running.stop()


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(str(tmp_path_factory.mktemp("authority")))


@pytest.fixture(scope="session")
def server_tls(authority: Authority) -> ServerTls:
    """What doors on loopback show."""
    files = authority.issue("door", "127.0.0.1", "localhost")
    return ServerTls(files.certificate, files.key)


@pytest.fixture(scope="session")
def client_tls(authority: Authority) -> ClientTls:
    return ClientTls(authority.ca)


@pytest.fixture
def house(loop: Loop, tmp_path: Any) -> Iterator[House]:
    standing = House(loop, str(tmp_path))
    yield standing
    standing.stop()
