"""A store tells a node of its objects: radosgw's bucket notifications pushed to the console, and nobody asks for a sync."""

from __future__ import annotations

import time
import urllib.request
from collections.abc import Callable
from typing import Any

import boto3
from botocore.client import Config as BotoConfig

from monofs.model.errors import NotFound
from monofs.testing.buckets import Bucket
from monofs.testing.ceph import Ceph
from monofs.testing.nodes import ServedNode


def until(is_so: Callable[[], bool], what: str) -> None:
    end = time.monotonic() + 30
    while not is_so():
        assert time.monotonic() < end, what
        time.sleep(0.05)


def subscribe(ceph: Ceph, bucket: Bucket, address: str) -> None:
    """Have the bucket's events pushed to an address."""
    access: dict[str, Any] = {
        "endpoint_url": ceph.endpoint,
        "region_name": "default",
        "aws_access_key_id": ceph.access_key,
        "aws_secret_access_key": ceph.secret_key,
        "config": BotoConfig(retries={"max_attempts": 1}),
    }
    sns: Any = boto3.client("sns", **access)
    s3: Any = boto3.client("s3", **access)
    topic = sns.create_topic(Name=f"to-{bucket.name}", Attributes={"push-endpoint": address})["TopicArn"]
    events = ["s3:ObjectCreated:*", "s3:ObjectRemoved:*"]
    s3.put_bucket_notification_configuration(
        Bucket=bucket.name,
        NotificationConfiguration={"TopicConfigurations": [{"Id": "all", "TopicArn": topic, "Events": events}]},
    )
    for client in (sns, s3):
        client.close()


def test_a_bucket_tells_of_what_comes_changes_and_goes(ceph: Ceph, bucket: Bucket, node: ServedNode) -> None:
    bucket.put("d/first", b"1")
    with node.connect() as fs:
        fs.mount_add("/lake", bucket.uri, bucket.options, sync_interval_s=-1)
        assert [info.name for info in fs.list("/lake/d")] == ["first"]
        subscribe(ceph, bucket, f"{node.doors['console']}/events")
        bucket.put("d/a key+with %.txt", b"outside")
        bucket.put("d/first", b"changed")
        until(lambda: [info.name for info in fs.list("/lake/d")] == ["a key+with %.txt", "first"], "the new object")
        until(lambda: fs.stat("/lake/d/first").size == 7, "the changed object")
        assert fs.read("/lake/d/a key+with %.txt") == b"outside"
        bucket.delete("d/first")

        def is_gone() -> bool:
            try:
                fs.stat("/lake/d/first")
            except NotFound:
                return True
            return False

        until(is_gone, "the removed object")
        fs.write("/lake/d/own", b"written here")
        with urllib.request.urlopen(f"{node.doors['console']}/metrics", timeout=10) as answer:
            assert b'monofs_events_total{outcome="looked"}' in answer.read()
