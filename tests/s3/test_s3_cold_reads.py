"""The first GET of objects that others made: what it asks of their store, and when."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator

import boto3
import pytest
from s3_endpoints import refused
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


def test_bytes_that_others_put_into_an_object_of_a_directory_outlive_tags_and_a_copy_onto_itself(
    bucket: Bucket, others: boto3.client, s3: boto3.client
) -> None:
    theirs, ours = {"Bucket": bucket.name, "Key": "d/"}, {"Bucket": "cold", "Key": "d/"}
    etag = others.put_object(**theirs, Body=b"theirs", Metadata={"by": "others"})["ETag"]
    tags = {"TagSet": [{"Key": "t", "Value": "1"}]}
    s3.put_object_tagging(**ours, Tagging=tags)
    assert others.get_object(**theirs)["Body"].read() == b"theirs"
    assert others.get_object_tagging(**theirs)["TagSet"] == tags["TagSet"]
    s3.copy_object(**ours, CopySource="cold/d/", Metadata={"by": "us"}, MetadataDirective="REPLACE")
    found = others.get_object(**theirs)
    assert (found["Body"].read(), found["Metadata"]["by"]) == (b"theirs", "us")
    told = s3.get_object(**ours)
    assert (told["Body"].read(), told["ContentLength"], told["ETag"]) == (b"theirs", 6, etag)
    assert [(each["Key"], each["Size"]) for each in s3.list_objects_v2(Bucket="cold")["Contents"]] == [("d/", 6)]
    s3.copy_object(Bucket="cold", Key="file", CopySource="cold/d/")
    assert others.get_object(Bucket=bucket.name, Key="file")["Body"].read() == b"theirs"


def test_bytes_of_an_object_of_a_directory_that_others_put_again_are_those_that_are_told_and_kept(
    bucket: Bucket, others: boto3.client, s3: boto3.client
) -> None:
    theirs, ours = {"Bucket": bucket.name, "Key": "d/"}, {"Bucket": "cold", "Key": "d/"}
    for body in (b"first", b"second"):
        others.put_object(**theirs, Body=body)
        s3.list_objects_v2(Bucket="cold")
    assert s3.get_object(**ours)["Body"].read() == b"second"
    for body in (b"third", b"fourth"):
        others.put_object(**theirs, Body=body)
        s3.put_object_tagging(**ours, Tagging={"TagSet": [{"Key": "t", "Value": "1"}]})
        assert s3.get_object(**ours)["Body"].read() == body
        others.put_object(**theirs, Body=body + b" more")
        s3.copy_object(**ours, CopySource="cold/d/", Metadata={"by": "us"}, MetadataDirective="REPLACE")
        assert others.get_object(**theirs)["Body"].read() == body + b" more"


def test_more_bytes_than_are_kept_of_an_object_of_a_directory_stay_in_its_store(
    bucket: Bucket, others: boto3.client, s3: boto3.client
) -> None:
    theirs, ours = {"Bucket": bucket.name, "Key": "d/"}, {"Bucket": "cold", "Key": "d/"}
    etag = others.put_object(**theirs, Body=bytes(5000), Metadata={"by": "others"}, Tagging="t=1")["ETag"]
    head = s3.head_object(**ours)
    assert (head["ContentLength"], head["ETag"], head["Metadata"]) == (5000, etag, {"by": "others"})
    assert s3.get_object_tagging(**ours)["TagSet"] == [{"Key": "t", "Value": "1"}]
    copied = {"CopySource": "cold/d/", "MetadataDirective": "REPLACE"}
    for call, more in (
        (s3.get_object, {}),
        (s3.put_object_tagging, {"Tagging": {"TagSet": []}}),
        (s3.delete_object_tagging, {}),
        (s3.copy_object, copied),
    ):
        assert refused(call, **ours, **more) == (400, "InvalidArgument"), call
    assert refused(s3.copy_object, Bucket="cold", Key="file", CopySource="cold/d/") == (400, "InvalidArgument")
    found = others.get_object(**theirs)
    assert (found["Body"].read(), found["Metadata"]) == (bytes(5000), {"by": "others"})
    s3.put_object(**ours, Body=b"anew")
    assert others.get_object(**theirs)["Body"].read() == b"anew"
