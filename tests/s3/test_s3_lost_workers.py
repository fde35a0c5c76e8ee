"""A worker that dies over a PUT which came through another worker's door."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.config import Config
from s3_world import REGION, new_key

from monofs.testing.masters import wait_until
from monofs.testing.nodes import ServedNode

pytestmark = pytest.mark.system


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[tuple[Any, ServedNode]]:
    """A client of one worker's door, and the other worker, which is killed when the first write of it has ended and nobody was told."""
    with ServedNode(str(tmp_path / "master"), sets=["node.role=master"]) as master:
        secret = os.path.join(master.home, "cluster.secret")
        sets = [
            "node.role=worker",
            f"worker.masters={master.doors['rpc']}",
            f"security.cluster_secret_file={secret}",
        ]
        with (
            ServedNode(str(tmp_path / "door"), sets=sets) as door,
            ServedNode(
                str(tmp_path / "other"), sets=sets, environment={"MONOFS_FAILPOINTS": "write.ended=kill"}
            ) as other,
        ):
            (tmp_path / "data").mkdir()
            with master.connect() as fs:
                fs.mount_add("/bucket", f"file://{tmp_path / 'data'}")
                wait_until(
                    lambda: [bool(each["slots"]) for each in fs.report()["workers"].values()] == [True] * 2, "no slots"
                )
            access, word = new_key(master, "writer", doors=[door.doors["s3"]])
            yield (
                boto3.client(
                    "s3",
                    endpoint_url=door.doors["s3"],
                    aws_access_key_id=access,
                    aws_secret_access_key=word,
                    region_name=REGION,
                    config=Config(retries={"max_attempts": 0, "mode": "standard"}, read_timeout=120),
                ),
                other,
            )


def test_a_creation_whose_worker_died_at_its_end_is_told_that_it_was_done(pair: tuple[Any, ServedNode]) -> None:
    s3, other = pair
    assert other.process is not None
    with ThreadPoolExecutor(1) as pool:
        for number in range(200):
            named = {"Bucket": "bucket", "Key": f"k{number}"}
            putting = pool.submit(s3.put_object, **named, Body=b"%d" % number, IfNoneMatch="*")
            while not putting.done() and other.process.poll() is None:
                pass
            if other.process.poll() is not None:
                break
        assert other.process.poll() is not None, "no write was its own"
        other.environment = {}
        other.start()
        assert putting.result()["ResponseMetadata"]["HTTPStatusCode"] == 200
    assert s3.get_object(**named)["Body"].read() == b"%d" % number
