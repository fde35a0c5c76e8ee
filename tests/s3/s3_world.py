"""Three workers with an S3 door each, one master, and what clients need to reach them."""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import boto3
import botocore.exceptions

from monofs.testing.nodes import ServedNode

REGION = "us-east-1"


@dataclass
class World:
    """``endpoints``: one URL for each worker. ``access`` and ``secret`` may do everything."""

    master: ServedNode
    workers: list[ServedNode]
    access: str
    secret: str

    @property
    def endpoints(self) -> list[str]:
        return [worker.doors["s3"] for worker in self.workers]

    @property
    def environment(self) -> dict[str, str]:
        """For programs that take the key from there."""
        return {
            "PATH": os.environ["PATH"],
            "HOME": self.master.home,
            "AWS_ACCESS_KEY_ID": self.access,
            "AWS_SECRET_ACCESS_KEY": self.secret,
            "AWS_DEFAULT_REGION": REGION,
            "AWS_EC2_METADATA_DISABLED": "true",
        }


@contextlib.contextmanager
def three_workers(directory: Path) -> Iterator[World]:
    """A cluster whose workers are reached through S3."""
    with contextlib.ExitStack() as stack:
        master = stack.enter_context(ServedNode(str(directory / "master"), sets=["node.role=master"]))
        secret = os.path.join(master.home, "cluster.secret")
        sets = [
            "node.role=worker",
            f"worker.masters={master.doors['rpc']}",
            f"security.cluster_secret_file={secret}",
        ]
        workers = [stack.enter_context(ServedNode(str(directory / f"w{n}"), sets=sets)) for n in range(3)]
        yield World(master, workers, *new_key(master, "matrix", doors=[each.doors["s3"] for each in workers]))


def new_key(node: ServedNode, name: str, *flags: str, doors: Sequence[str] = ()) -> tuple[str, str]:
    """An access key id and its secret, once all ``doors`` (the node's own, unless given) know them."""
    done = node.cli("token", "s3", "add", "--user", name, "--json", *flags)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    key = told["access_key_id"], told["secret_access_key"]
    end = time.monotonic() + 30
    for door in doors or [node.doors["s3"]]:
        while not is_known(door, *key):
            assert time.monotonic() < end, f"{door} did not hear of a key"
            time.sleep(0.02)
    return key


def is_known(door: str, access: str, secret: str) -> bool:
    """Whether a door has heard of a key."""
    s3 = boto3.client(
        "s3", endpoint_url=door, aws_access_key_id=access, aws_secret_access_key=secret, region_name=REGION
    )
    try:
        s3.list_buckets()
    except botocore.exceptions.ClientError as error:
        return error.response["Error"]["Code"] != "InvalidAccessKeyId"
    return True
