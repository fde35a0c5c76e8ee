"""The worlds the under-storage contract runs in."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from ufs_worlds import LocalWorld, S3World, World

from monofs.testing.storeproxy import StoreProxy


def not_utf8(key: bytes) -> bool:
    return key.decode("utf-8", "ignore").encode() != key


def refused_by_radosgw(key: bytes) -> bool:
    return not_utf8(key) or len(key) > 1000


def refused_by_moto(key: bytes) -> bool:
    """Its router drops keys with line ends and loses bytes that are not UTF-8."""
    return not_utf8(key) or len(key) > 1000 or b"\n" in key or b"\r" in key


@pytest.fixture(scope="session", params=["local", pytest.param("ceph", marks=pytest.mark.ceph), "moto"])
def world(request: pytest.FixtureRequest) -> Iterator[World]:
    """Each kind of store in turn."""
    made: World
    if request.param == "local":
        made = LocalWorld()
    else:
        server = request.getfixturevalue(request.param)
        refused = refused_by_radosgw if request.param == "ceph" else refused_by_moto
        is_atomic = request.param == "ceph"  # moto looks, and then writes
        made = S3World(server.endpoint, server.access_key, server.secret_key, refused, is_atomic=is_atomic)
    yield made
    made.close()


@pytest.fixture(scope="session", params=[pytest.param("ceph", marks=pytest.mark.ceph), "moto"])
def proxied(request: pytest.FixtureRequest) -> Iterator[tuple[StoreProxy, S3World]]:
    """An S3 server behind a proxy that breaks answers."""
    server = request.getfixturevalue(request.param)
    with StoreProxy(server.endpoint) as proxy:
        world = S3World(proxy.endpoint, server.access_key, server.secret_key, refused_by_moto)
        yield proxy, world
        world.close()
