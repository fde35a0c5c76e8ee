"""The servers our tests stand on do what their descriptions say."""

from __future__ import annotations

import hashlib
import os
import re

import pytest
from ufs_worlds import Refused, S3World, file_of, read_all
from urllib3.exceptions import ProtocolError

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


HONOURED = {
    "ceph": {"put absent", "put match, bare"},
    "moto": {"put absent", "put match", "put match, bare", "complete absent"},
}
"""The conditions each server keeps to, as docs/under-storage.md says: of any other it takes no notice, or refuses it always."""


@pytest.mark.parametrize("name", [pytest.param("ceph", marks=pytest.mark.ceph), "moto"])
def test_servers_make_of_conditions_what_the_documentation_says(request: pytest.FixtureRequest, name: str) -> None:
    server = request.getfixturevalue(name)
    world = S3World(server.endpoint, server.access_key, server.secret_key, lambda _: False)
    there, etag = b"there", hashlib.md5(b"there").hexdigest()

    def is_done(act: str, headers: dict[str, str]) -> bool:
        world.request("PUT", b"k", there)
        try:
            if act == "put":
                world.request("PUT", b"k", b"new", headers=headers)
            elif act == "complete":
                upload = re.findall(rb"<UploadId>(.*?)<", world.request("POST", b"k", query="uploads="))[0].decode()
                world.request("PUT", b"k", b"new", query=f"partNumber=1&uploadId={upload}")
                tag = hashlib.md5(b"new").hexdigest()
                part = f'<Part><PartNumber>1</PartNumber><ETag>"{tag}"</ETag></Part>'
                document = f"<CompleteMultipartUpload>{part}</CompleteMultipartUpload>".encode()
                world.request("POST", b"k", document, query=f"uploadId={upload}", headers=headers)
            else:
                world.request("PUT", b"source", b"new")
                world.request("PUT", b"k", headers={"x-amz-copy-source": "/contract/source", **headers})
        except Refused:
            return False
        return True

    honoured = set()
    for act in ("put", "complete", "copy"):
        assert is_done(act, {})
        if not is_done(act, {"If-None-Match": "*"}):
            honoured.add(f"{act} absent")
        for form, quote in (("", '"'), (", bare", "")):
            right, wrong = quote + etag + quote, quote + "0" * 32 + quote
            if is_done(act, {"If-Match": right}) and not is_done(act, {"If-Match": wrong}):
                honoured.add(f"{act} match{form}")
    if not is_done("copy", {"x-amz-copy-source-if-match": '"' + "0" * 32 + '"'}):
        honoured.add("copy source")
    assert honoured == HONOURED[name]
    world.close()


def test_a_lost_answer_is_of_a_request_that_landed_and_an_early_cut_is_not(moto: Moto) -> None:
    with StoreProxy(moto.endpoint) as proxy:
        world = S3World(proxy.endpoint, moto.access_key, moto.secret_key, lambda _: False)
        root = world.root()
        for fault, lands in (
            (Fault(kind="put", cut="close", after_bytes=-1, times=1), True),
            (Fault(kind="put", status=500, lands=True, times=1), True),
            (Fault(kind="put", cut="reset", early=True, times=1), False),
            (Fault(kind="put", status=500, times=1), False),
        ):
            proxy.add(fault)
            with pytest.raises((Refused, ProtocolError)):
                root.put(b"f", b"data")
            assert fault.used == 1
            assert (root.store.look(b"f") is not None) == lands
            root.delete(b"f")
        twice = proxy.add(Fault(kind="put", twice=True, times=1))
        root.put(b"f", b"data")
        assert (twice.used, file_of(root.store, b"f").size) == (1, 4)
        world.close()
