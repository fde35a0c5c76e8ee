"""Large ranges: their blocks are asked for at the same time, and come out as one range of one version."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest

from monofs.model.errors import MonofsError
from monofs.testing.moto import Moto, missing
from monofs.testing.nodes import ServedNode
from monofs.testing.storeproxy import Fault, StoreProxy

pytestmark = [pytest.mark.system, pytest.mark.skipif(missing() is not None, reason=str(missing()))]
MIB = 1 << 20
BLOCK = 64 * MIB
PATIENCE_S = 20.0


def make_bytes(seed: int, size: int) -> bytes:
    run = random.Random(seed).randbytes(1_048_573)
    return (run * (size // len(run) + 1))[:size]


DATA = make_bytes(1, 2 * BLOCK + 12_345)


class Gathering:
    """Holds every GET of a key until GETs of so many blocks (or other stretches of ``size`` bytes) have come."""

    def __init__(self, proxy: StoreProxy, key: str, blocks: int, size: int = BLOCK) -> None:
        self._proxy, self._key, self._blocks, self._size = proxy, key.encode(), blocks, size
        self._met = threading.Event()
        self.missed = False
        proxy.add(Fault(kind="get", key=self._key, call=self._wait))

    def _wait(self) -> None:
        deadline = time.monotonic() + PATIENCE_S
        while not self._met.wait(0.01):
            starts = [
                int(seen.range.partition("=")[2].partition("-")[0]) for seen in self._proxy.seen("get", self._key)
            ]
            if len({start // self._size for start in starts}) >= self._blocks:
                self._met.set()
            elif time.monotonic() > deadline:
                self.missed = True
                self._met.set()


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Any, StoreProxy, Any]]:
    """(a connected client that reads over TCP, the proxy before the store, the store)."""
    directory = tmp_path_factory.mktemp("blocks")
    with Moto() as moto, StoreProxy(moto.endpoint) as proxy:
        keys = {"aws_access_key_id": moto.access_key, "aws_secret_access_key": moto.secret_key}
        s3 = boto3.client("s3", endpoint_url=moto.endpoint, region_name="us-east-1", **keys)
        s3.create_bucket(Bucket="blocks")
        options = {"access_key": moto.access_key, "secret_key": moto.secret_key, "region": "us-east-1"}
        with ServedNode(str(directory / "home"), sets=["worker.store_timeout_s=60"]) as node, node.connect() as fs:
            fs.mount_add("/s", "s3://blocks", {**options, "endpoint": proxy.endpoint}, sync_interval_s=0.0)
            for link in fs._session().cluster.links():
                link.is_local = False
            yield fs, proxy, s3


def put(house: tuple[Any, StoreProxy, Any], key: str, data: bytes) -> None:
    house[2].put_object(Bucket="blocks", Key=key, Body=data)


def test_the_blocks_of_a_large_range_are_asked_for_at_the_same_time(house: tuple[Any, StoreProxy, Any]) -> None:
    fs, proxy, _ = house
    put(house, "range", DATA)
    gathering = Gathering(proxy, "range", 3)
    begin, end = BLOCK - 5 * MIB + 3, 2 * BLOCK + 9000
    assert fs.read("/s/range", begin, end - begin) == DATA[begin:end]
    assert not gathering.missed, "blocks were read one after the other"


def test_a_download_asks_for_several_blocks_at_the_same_time(
    house: tuple[Any, StoreProxy, Any], tmp_path: Path
) -> None:
    fs, proxy, _ = house
    put(house, "whole", DATA)
    with fs.open("/s/whole") as file:
        file.pread(0, 1)  # the version is settled by its first byte, before all else
    gathering = Gathering(proxy, "whole", 3)
    told = []
    fs.download("/s/whole", str(tmp_path / "copy"), progress=told.append)
    assert (tmp_path / "copy").read_bytes() == DATA
    assert not gathering.missed, "blocks were read one after the other"
    assert told[-1].bytes == len(DATA)


def test_large_pieces_of_one_file_are_asked_for_at_the_same_time(house: tuple[Any, StoreProxy, Any]) -> None:
    fs, proxy, _ = house
    put(house, "pieces", DATA)
    gathering = Gathering(proxy, "pieces", 6, 8 * MIB)
    places = [(8 * MIB * number + 1000, 900_000 + number) for number in range(6)]
    read = fs.read_many([("/s/pieces", offset, length) for offset, length in places])
    assert read == [DATA[offset : offset + length] for offset, length in places]
    assert not gathering.missed, "pieces were read one after the other"


def test_a_block_that_fails_fails_the_range(house: tuple[Any, StoreProxy, Any]) -> None:
    fs, _, s3 = house
    put(house, "changing", DATA)
    with fs.open("/s/changing") as file:
        assert file.pread(0, 10) == DATA[:10]
        s3.put_object(Bucket="blocks", Key="changing", Body=DATA[::-1])
        with pytest.raises(MonofsError):
            file.pread(0, len(DATA))


def test_a_large_file_that_changed_since_it_was_opened_is_downloaded_as_it_is_now(
    house: tuple[Any, StoreProxy, Any], tmp_path: Path
) -> None:
    fs, proxy, s3 = house
    put(house, "fresh", DATA)
    now = make_bytes(2, BLOCK + 7 * MIB)
    proxy.add(
        Fault(
            kind="get", key=b"fresh", times=1, after_bytes=-1, early=True, status=0,
            call=lambda: s3.put_object(Bucket="blocks", Key="fresh", Body=now),
        )
    )  # fmt: skip
    fs.download("/s/fresh", str(tmp_path / "copy"))
    assert (tmp_path / "copy").read_bytes() == now
