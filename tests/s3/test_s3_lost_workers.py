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
from botocore.exceptions import ClientError
from s3_world import REGION, new_key

from monofs.testing.masters import wait_until
from monofs.testing.nodes import ServedNode

pytestmark = pytest.mark.system
LONG = bytes(range(256)) * (36 << 10)
"""9 MiB: more than a door keeps of a body."""


@pytest.fixture(params=["write.ended=kill"])
def pair(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[tuple[Any, ServedNode]]:
    """A client of one worker's door, and the other worker, which is killed when the first write of it has ended and nobody was told; or at the failpoint
    that is the parameter."""
    with ServedNode(str(tmp_path / "master"), sets=["node.role=master"]) as master:
        secret = os.path.join(master.home, "cluster.secret")
        sets = [
            "node.role=worker",
            f"worker.masters={master.doors['rpc']}",
            f"security.cluster_secret_file={secret}",
        ]
        with (
            ServedNode(str(tmp_path / "door"), sets=sets) as door,
            ServedNode(str(tmp_path / "other"), sets=sets, environment={"MONOFS_FAILPOINTS": request.param}) as other,
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


@pytest.mark.parametrize(
    ("pair", "body"),
    [
        ("write.ended=kill", b"short"),
        ("write.ended=kill", LONG),
        ("write.acted=kill", LONG),
        ("write.published=kill", LONG),
    ],
    indirect=["pair"],
    ids=["short", "long", "long, not journaled", "long, not acted"],
)
def test_a_creation_whose_worker_died_at_its_end_is_told_whether_it_was_done(
    pair: tuple[Any, ServedNode], body: bytes
) -> None:
    s3, other = pair
    assert other.process is not None
    named: dict[str, Any] = {"Bucket": "bucket", "Body": body, "IfNoneMatch": "*"}
    with ThreadPoolExecutor(1) as pool:
        tries = []
        while other.process.poll() is None:
            assert len(tries) < 200, "no write was its own"
            tries.append(pool.submit(s3.put_object, **named, Key=f"k{len(tries)}"))
            while not tries[-1].done() and other.process.poll() is None:
                pass
        other.environment = {}
        other.start()
    for number, putting in enumerate(tries):
        error = putting.exception()
        if error is None:
            assert putting.result()["ResponseMetadata"]["HTTPStatusCode"] == 200
        else:
            assert isinstance(error, ClientError), error
            assert error.response["ResponseMetadata"]["HTTPStatusCode"] in (500, 503)
            s3.put_object(**named, Key=f"k{number}")  # nothing of it is there
        assert s3.get_object(Bucket="bucket", Key=f"k{number}")["Body"].read() == body
