"""The first GET of objects that others made: what it asks of their store, and when."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator

import boto3
import pytest
from s3_world import REGION, new_key

from monofs.testing.buckets import Bucket
from monofs.testing.nodes import ServedNode
from monofs.testing.storeproxy import Fault, StoreProxy

pytestmark = pytest.mark.ceph
WAIT_S = 60.0


@pytest.fixture
def bucket(make_bucket: Callable[[], Bucket]) -> Bucket:
    return make_bucket()


@pytest.fixture
def store(bucket: Bucket) -> Iterator[StoreProxy]:
    """Before the bucket's server."""
    with StoreProxy(bucket.endpoint) as proxy:
        yield proxy


@pytest.fixture
def others(bucket: Bucket) -> boto3.client:
    """A client of the bucket itself."""
    options = bucket.options
    return boto3.client(
        "s3",
        endpoint_url=options["endpoint"],
        aws_access_key_id=options["access_key"],
        aws_secret_access_key=options["secret_key"],
        region_name=REGION,
    )


@pytest.fixture
def s3(s3_node: ServedNode, bucket: Bucket, store: StoreProxy) -> Iterator[boto3.client]:
    """A client of a node where the bucket is mounted as `cold`, through the proxy."""
    access, secret = new_key(s3_node, f"cold-{store.port}")
    with s3_node.connect() as fs:
        fs.mount_add("/cold", bucket.uri, {**bucket.options, "endpoint": store.endpoint})
        yield boto3.client(
            "s3",
            endpoint_url=s3_node.doors["s3"],
            aws_access_key_id=access,
            aws_secret_access_key=secret,
            region_name=REGION,
        )
        fs.mount_remove("/cold")


def test_a_listed_object_costs_its_store_one_head_and_one_get_at_the_same_time(
    bucket: Bucket, others: boto3.client, store: StoreProxy, s3: boto3.client
) -> None:
    data = bytes(range(250)) * 400
    others.put_object(Bucket=bucket.name, Key="o", Body=data, ContentType="text/x-mine", Metadata={"by": "others"})
    assert [each["Key"] for each in s3.list_objects_v2(Bucket="cold")["Contents"]] == ["o"]
    store.forget()
    meeting = threading.Barrier(2)
    met: list[str] = []

    def meet(kind: str) -> Callable[[], None]:
        def wait() -> None:
            meeting.wait(WAIT_S)
            met.append(kind)

        return wait

    for kind in ("head", "get"):
        store.add(Fault(kind=kind, key=b"o", times=1, after_bytes=-1, call=meet(kind)))
    found = s3.get_object(Bucket="cold", Key="o")
    assert found["Body"].read() == data
    assert (found["ContentType"], found["Metadata"]) == ("text/x-mine", {"by": "others"})
    assert sorted(met) == ["get", "head"], "neither waited for the other's answer"
    for _ in range(2):
        assert s3.get_object(Bucket="cold", Key="o", Range="bytes=5-9")["Body"].read() == data[5:10]
        assert s3.head_object(Bucket="cold", Key="o")["Metadata"] == {"by": "others"}
    assert (store.count("head", b"o"), store.count("get", b"o")) == (1, 1)


def test_no_bytes_are_asked_for_where_a_condition_wants_none(
    bucket: Bucket, others: boto3.client, store: StoreProxy, s3: boto3.client
) -> None:
    etag = others.put_object(Bucket=bucket.name, Key="o", Body=b"bytes", CacheControl="max-age=5")["ETag"]
    s3.list_objects_v2(Bucket="cold")
    with pytest.raises(s3.exceptions.ClientError) as refused:
        s3.get_object(Bucket="cold", Key="o", IfNoneMatch=etag)
    answer = refused.value.response["ResponseMetadata"]
    assert (answer["HTTPStatusCode"], answer["HTTPHeaders"]["cache-control"]) == (304, "max-age=5")
    assert store.count("get", b"o") == 0
