"""The servers our tests stand on do what their descriptions say."""

from __future__ import annotations

import os

import pytest
from ufs_worlds import S3World, file_of, read_all

from monofs.model.errors import UfsUnreachable
from monofs.testing.ceph import Ceph
from monofs.testing.moto import Moto
from monofs.testing.storeproxy import Fault, StoreProxy


@pytest.mark.ceph
def test_radosgw_tells_every_get_it_answered(ceph: Ceph) -> None:
    world = S3World(ceph.endpoint, ceph.access_key, ceph.secret_key, lambda _: False)
    root = world.root()
    root.put(b"f", b"data")
    fingerprint = file_of(root.store, b"f").fingerprint
    before = ceph.gets(world.bucket)
    for _ in range(3):
        read_all(root.store, b"f", 0, 4, fingerprint)
        root.store.list(b"")
    assert ceph.gets(world.bucket) == before + 3
    world.close()


@pytest.mark.ceph
def test_radosgw_keeps_its_objects_when_its_gateway_stops(ceph: Ceph) -> None:
    world = S3World(ceph.endpoint, ceph.access_key, ceph.secret_key, lambda _: False)
    root = world.root()
    root.put(b"f", b"data")
    fingerprint = file_of(root.store, b"f").fingerprint
    ceph.stop_gateway()
    with pytest.raises(UfsUnreachable):
        read_all(root.store, b"f", 0, 4, fingerprint)
    ceph.start_gateway()
    assert read_all(root.store, b"f", 0, 4, fingerprint) == b"data"
    world.close()


def test_a_rule_applies_as_often_as_it_says_and_the_newest_first(moto: Moto) -> None:
    with StoreProxy(moto.endpoint) as proxy:
        world = S3World(proxy.endpoint, moto.access_key, moto.secret_key, lambda _: False)
        root = world.root()
        for key in (b"a", b"b"):
            root.put(key, key)
        fingerprints = {key: file_of(root.store, key).fingerprint for key in (b"a", b"b")}
        proxy.forget()
        full_key = root.uri.removeprefix("s3://contract/").encode() + b"/a"
        rule = proxy.add(Fault(kind="get", key=full_key, times=2, headers={"ETag": '"x"'}))
        for _ in range(2):
            with pytest.raises(Exception, match="changed"):
                read_all(root.store, b"a", 0, 1, fingerprints[b"a"])
        assert read_all(root.store, b"a", 0, 1, fingerprints[b"a"]) == b"a"
        assert read_all(root.store, b"b", 0, 1, fingerprints[b"b"]) == b"b"
        assert (rule.used, proxy.count("get"), proxy.count("get", full_key)) == (2, 4, 3)
        assert all(one.range == "bytes=0-0" for one in proxy.seen("get"))
        world.close()


def test_bodies_of_any_size_pass_the_proxy_unchanged(moto: Moto) -> None:
    with StoreProxy(moto.endpoint) as proxy:
        world = S3World(proxy.endpoint, moto.access_key, moto.secret_key, lambda _: False)
        root = world.root()
        for size in (0, 1, 65535, 65536, 65537, 3_000_001):
            data = os.urandom(size)
            root.put(b"f", data)
            assert read_all(root.store, b"f", 0, size + 1, file_of(root.store, b"f").fingerprint) == data
        world.close()
