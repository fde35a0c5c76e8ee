"""Doors: whom they open for, where they can listen, and how they close."""

from __future__ import annotations

import os
from typing import Any

import pytest
from rpc_world import SECRET, House, Loop

from monofs.model.errors import ConfigError, Unauthenticated
from monofs.rpc import api
from monofs.rpc.api import Method
from monofs.rpc.handshake import Credential
from monofs.rpc.server import Security, listen_tcp, listen_unix
from monofs.rpc.sync import Pool
from monofs.testing.raw import Raw


def test_required_authentication_turns_anonymous_callers_away(house: House) -> None:
    listener = house.tcp(security=Security(secret=SECRET, authentication="required"))
    with pytest.raises(Unauthenticated):
        Pool(listener.address).call(Method.PING, api.Empty(), api.Pong)
    with Pool(listener.address, Credential(SECRET)) as pool:
        assert pool.server().principal == "node"


def test_a_door_for_everyone_does_not_open_without_a_secret(house: House, loop: Loop) -> None:
    with pytest.raises(ConfigError, match="insecure"):
        loop.do(listen_tcp, loop.reactor, house.service, "0.0.0.0", 0)


def test_a_taken_port_or_socket_says_so(house: House, loop: Loop) -> None:
    tcp, unix = house.tcp(), house.unix()
    host, _, port = tcp.address.rpartition(":")
    with pytest.raises(ConfigError, match="in use"):
        loop.do(listen_tcp, loop.reactor, house.service, host, int(port))
    with pytest.raises(ConfigError, match="another process"):
        loop.do(listen_unix, loop.reactor, house.service, unix.address)


def test_a_stale_unix_socket_is_replaced_and_long_paths_work(house: House, loop: Loop, tmp_path: Any) -> None:
    deep = tmp_path / ("d" * 120)
    deep.mkdir()
    path = str(deep / "door.sock")
    first = loop.do(listen_unix, loop.reactor, house.service, path)
    copy = first._sock.dup()
    os.rename(path, path + ".kept")
    loop.do(first.stop)
    copy.close()
    os.rename(path + ".kept", path)
    second = loop.do(listen_unix, loop.reactor, house.service, path)
    with Pool(path) as pool:
        assert pool.call(Method.PING, api.Empty(), api.Pong).role == "worker"
    loop.do(second.stop)
    assert not os.path.exists(path)


def test_a_unix_door_is_its_owners_unless_told_otherwise(house: House) -> None:
    before = os.umask(0o077)
    try:
        assert os.stat(house.unix().address).st_mode & 0o777 == 0o600
        assert os.stat(house.unix(mode=0o666).address).st_mode & 0o777 == 0o666
    finally:
        os.umask(before)


def test_stopping_a_door_ends_its_connections(house: House, loop: Loop) -> None:
    listener = house.tcp()
    with Raw(listener.address) as peer:
        peer.open()
        loop.do(listener.stop)
        with pytest.raises(EOFError):
            peer.frame()
    with pytest.raises(OSError):
        Raw(listener.address)
