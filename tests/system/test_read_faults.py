"""Reads through a whole node while its store misbehaves: right bytes or a typed error, nothing wrong cached, few requests."""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import boto3
import pytest

from monofs.model.errors import ContentChanged, MonofsError, UfsThrottled, UfsUnreachable
from monofs.testing.ceph import Ceph
from monofs.testing.nodes import ServedNode
from monofs.testing.storeproxy import Fault, StoreProxy

pytestmark = [pytest.mark.system, pytest.mark.ceph]
MIB = 1 << 20


def make_bytes(seed: int, size: int) -> bytes:
    """Bytes that differ from page to page."""
    run = random.Random(seed).randbytes(65_521)
    return (run * (size // len(run) + 1))[:size]


class House:
    """A node with one mount ``/s`` on a bucket behind a proxy."""

    def __init__(self, ceph: Ceph, directory: Path, *sets: str) -> None:
        self.bucket = f"faults-{random.randrange(1 << 40):x}"
        self.s3 = boto3.client(
            "s3",
            endpoint_url=ceph.endpoint,
            aws_access_key_id=ceph.access_key,
            aws_secret_access_key=ceph.secret_key,
            region_name="us-east-1",
        )
        self.s3.create_bucket(Bucket=self.bucket)
        self.proxy = StoreProxy(ceph.endpoint)
        self.proxy.start()
        self.node = ServedNode(str(directory / "home"), sets=["worker.store_timeout_s=2", *sets]).start()
        self.fs = self.node.connect()
        options = {
            "endpoint": self.proxy.endpoint,
            "access_key": ceph.access_key,
            "secret_key": ceph.secret_key,
            "region": "us-east-1",
        }
        self.fs.mount_add("/s", f"s3://{self.bucket}", options, sync_interval_s=0.0)

    def put(self, key: str, data: bytes) -> bytes:
        self.s3.put_object(Bucket=self.bucket, Key=key, Body=data)
        return data

    def stop(self) -> None:
        self.fs.close()
        self.node.stop()
        self.proxy.stop()

    def gets(self, key: str) -> int:
        return self.proxy.count("get", key.encode())

    def pages(self, path: str) -> int:
        """Pages of a file that are cached."""
        return sum(group.pages.bit_count() for groups in self.fs.cached([path]).values() for group in groups)


@pytest.fixture
def make_house(ceph: Ceph, tmp_path: Path) -> Iterator[Any]:
    houses: list[House] = []

    def make(*sets: str) -> House:
        directory = tmp_path / f"house{len(houses)}"
        directory.mkdir()
        houses.append(House(ceph, directory, *sets))
        return houses[-1]

    yield make
    for house in houses:
        house.stop()


@pytest.fixture
def house(make_house: Any) -> House:
    made: House = make_house()
    return made


def test_many_clients_missing_the_same_pages_cost_the_store_one_get_each(house: House) -> None:
    data = house.put("a", make_bytes(1, 20 * MIB))
    clients = [house.node.connect() for _ in range(16)]
    together = threading.Barrier(16)

    def read(client: Any) -> bytes:
        with client:
            client.stat("/s/a")
            together.wait(30)
            return bytes(client.read("/s/a"))

    with ThreadPoolExecutor(16) as pool:
        assert all(result == data for result in pool.map(read, clients))
    asked = sorted(one.range for one in house.proxy.seen("get", b"a"))
    assert len(asked) == len(set(asked)), "no range twice"
    spans = sorted(tuple(map(int, one.removeprefix("bytes=").split("-"))) for one in asked)
    assert sum(last - first + 1 for first, last in spans) == len(data), "and no byte twice"


def test_a_store_that_is_down_leaves_cached_files_readable_and_names_the_mount_for_others(house: House) -> None:
    warm, cold = house.put("warm", make_bytes(2, 3 * MIB)), house.put("cold", make_bytes(3, 3 * MIB))
    assert house.fs.read("/s/warm") == warm
    house.fs.stat("/s/cold")
    with house.fs.open("/s/warm") as kept, house.fs.open("/s/cold") as other:
        house.proxy.stop()
        assert kept.read() == warm
        with pytest.raises(MonofsError) as caught:
            other.read()
        assert isinstance(caught.value, UfsUnreachable)
        assert house.bucket in str(caught.value)
        house.proxy.start()
        assert other.read() == cold


def test_throttling_is_waited_out(house: House) -> None:
    data = house.put("a", make_bytes(4, 12 * MIB))
    house.proxy.add(Fault(kind="get", key=b"a", times=3, status=503))
    assert house.fs.read("/s/a") == data


def test_throttling_without_end_is_told_and_caches_nothing(house: House) -> None:
    house.put("a", make_bytes(5, MIB))
    house.proxy.add(Fault(kind="get", key=b"a", status=503))
    with pytest.raises(UfsThrottled):
        house.fs.read("/s/a")
    assert house.pages("/s/a") == 0
    assert 1 < house.gets("a") < 40, "tried again, but not for ever"


@pytest.mark.parametrize("cut", ["close", "reset", "hang"])
def test_a_body_that_breaks_off_is_taken_up_where_it_broke(house: House, cut: str) -> None:
    data = house.put("a", make_bytes(6, 10 * MIB))
    house.proxy.add(Fault(kind="get", key=b"a", times=1, cut=cut, after_bytes=3 * MIB + 1000))
    assert house.fs.read("/s/a") == data
    house.fs.verify()
    assert house.fs.read("/s/a") == data


def test_bytes_of_another_version_are_never_cached(house: House) -> None:
    data = house.put("a", make_bytes(7, 2 * MIB))
    house.proxy.add(Fault(kind="get", key=b"a", headers={"ETag": '"0123456789abcdef0123456789abcdef"'}))
    with pytest.raises(ContentChanged):
        house.fs.read("/s/a")
    house.proxy.clear()
    assert house.pages("/s/a") == 0
    assert house.fs.read("/s/a") == data


def test_a_file_replaced_in_mid_read_gives_old_bytes_then_content_changed_then_the_new_file(house: House) -> None:
    old = house.put("a", make_bytes(8, 80 * MIB))
    got = bytearray()
    with house.fs.open("/s/a") as file:
        got += file.read(MIB)
        new = house.put("a", make_bytes(9, 80 * MIB))
        with pytest.raises(ContentChanged):
            while piece := file.read(MIB):
                got += piece
    assert len(got) < len(old)
    assert got == old[: len(got)], "never a mix"
    assert house.fs.read("/s/a") == new


def test_a_reader_in_flight_finishes_a_file_that_is_all_cached(house: House) -> None:
    old = house.put("a", make_bytes(10, 5 * MIB))
    house.fs.read("/s/a")
    with house.fs.open("/s/a") as file:
        first = file.read(MIB)
        new = house.put("a", make_bytes(11, 4 * MIB))
        assert first + file.read() == old
    assert house.fs.read("/s/a") == new


def test_what_does_not_fit_is_served_and_counted(make_house: Any, tmp_path: Path) -> None:
    tiers = f'[{{"name":"SMALL","dir":"{tmp_path}/small","quota":"2MiB"}}]'
    house = make_house(f"worker.tiers={tiers}")
    data = house.put("a", make_bytes(12, 24 * MIB + 7))
    assert house.fs.read("/s/a") == data
    assert house.fs.read("/s/a", 5 * MIB, 100) == data[5 * MIB :][:100]
    status = next(iter(house.fs.worker_status().values()))
    assert status.tiers[0].used_bytes <= 2 * MIB
    assert status.counters["monofs_not_admitted{reason=full}"] > 0
