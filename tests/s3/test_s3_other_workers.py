"""Objects that another worker takes than the one at whose door they are put."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError
from s3_world import REGION, World, three_workers

from monofs.testing.masters import wait_until

pytestmark = pytest.mark.system
BODIES = [os.urandom(size) for size in ((9 << 20) + 1, 5 << 20, (1 << 20) + 1, 300_000)] * 2


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with three_workers(tmp_path) as world:
        with world.master.connect() as fs:
            (tmp_path / "data").mkdir()
            fs.mount_add("/mounted", f"file://{tmp_path / 'data'}")
            fs.make_directory("/plain")
            wait_until(
                lambda: [bool(each["slots"]) for each in fs.report()["workers"].values()] == [True] * 3, "no slots"
            )
        yield world


def client(world: World, door: int) -> Any:
    return boto3.client(
        "s3",
        endpoint_url=world.endpoints[door],
        aws_access_key_id=world.access,
        aws_secret_access_key=world.secret,
        region_name=REGION,
        config=Config(retries={"max_attempts": 0, "mode": "standard"}, read_timeout=120),
    )


def put_all(s3: Any, bucket: str) -> list[bool]:
    """All bodies at the same time; which are there."""

    def put(number: int) -> bool:
        try:
            s3.put_object(Bucket=bucket, Key=f"k{number}", Body=BODIES[number])
        except ClientError:
            return False
        return True

    with ThreadPoolExecutor(len(BODIES)) as pool:
        return list(pool.map(put, range(len(BODIES))))


@pytest.mark.parametrize("bucket", ["plain", "mounted"])
def test_what_other_workers_take_is_what_was_sent(world: World, bucket: str) -> None:
    assert put_all(client(world, 0), bucket) == [True] * len(BODIES)
    for number, body in enumerate(BODIES):
        assert client(world, 1).get_object(Bucket=bucket, Key=f"k{number}")["Body"].read() == body


def test_a_worker_that_dies_over_large_objects_leaves_none_half(world: World) -> None:
    other = world.workers[2]
    assert other.process is not None
    other.kill()
    other.environment = {"MONOFS_FAILPOINTS": "write.begun=kill"}
    other.start()
    for _ in range(20):
        there = put_all(client(world, 0), "mounted")
        if other.process.poll() is not None:
            break
    assert other.process.poll() is not None, "no write was its own"
    for number, (body, is_there) in enumerate(zip(BODIES, there, strict=True)):
        try:
            found = client(world, 1).get_object(Bucket="mounted", Key=f"k{number}")["Body"].read()
        except ClientError:
            assert not is_there, number
        else:
            assert found == body, number
