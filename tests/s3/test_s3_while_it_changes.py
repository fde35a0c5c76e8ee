"""Objects that are written anew while they are read and copied."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from threading import Event
from typing import Any

import pytest
from botocore.exceptions import ResponseStreamingError
from s3_endpoints import Endpoint, refused

from monofs.testing.nodes import ServedNode

ENDPOINTS = ("monofs", "directory")
SIZE = 3 << 20


@pytest.fixture
def changing(endpoint: Endpoint, bucket: str, key: str) -> Iterator[str]:
    """A key that is written again and again, each time with another byte only, which its metadata tell."""
    enough = Event()

    def write(value: int) -> None:
        body = bytes([value]) * (SIZE + value)
        endpoint.client.put_object(Bucket=bucket, Key=key, Body=body, Metadata={"value": str(value)})

    def write_on() -> None:
        value = 0
        while not enough.is_set():
            value = (value + 1) % 256
            write(value)

    write(0)
    with ThreadPoolExecutor(1) as pool:
        writing = pool.submit(write_on)
        yield key
        enough.set()
        writing.result()


def check_whole(answer: Any) -> None:
    """boto3 compares the checksum too."""
    value = int(answer["Metadata"]["value"])
    assert answer["Body"].read() == bytes([value]) * (SIZE + value)


def cut(answer: Any) -> bool:
    """Whether an answer ended early, as it does when the bytes it is made of go before it has them all, and nobody else holds them."""
    try:
        check_whole(answer)
    except ResponseStreamingError:
        return True
    return False


def test_a_reader_gets_one_version_or_sees_that_it_has_not_all(endpoint: Endpoint, bucket: str, changing: str) -> None:
    cuts = [cut(endpoint.client.get_object(Bucket=bucket, Key=changing)) for _ in range(40)]
    assert not all(cuts)


def cached_bytes(node: ServedNode) -> int:
    with node.connect() as fs:
        return sum(tier.used_bytes for worker in fs.worker_status().values() for tier in worker.tiers)


def test_who_reads_an_object_that_is_written_anew_or_deleted_gets_the_old_one_to_its_end(
    endpoint: Endpoint, bucket: str, key: str, s3_node: ServedNode
) -> None:
    """More than sockets hold. That the worker has heard of it is seen by what nobody reads, and goes at once."""
    size = 48 << 20
    old = [os.urandom(size), os.urandom(size)]
    named = [{"Bucket": bucket, "Key": f"{key}-{each}"} for each in ("overwritten", "deleted", "unread")]
    for each, body in zip(named, [*old, old[0]], strict=True):
        endpoint.client.put_object(**each, Body=body)
    answers = [endpoint.client.get_object(**each)["Body"] for each in named[:2]]
    begun = [answer.read(1 << 20) for answer in answers]
    before = cached_bytes(s3_node)
    endpoint.client.put_object(**named[0], Body=b"new")
    for each in named[1:]:
        endpoint.client.delete_object(**each)
    deadline = time.monotonic() + 60
    while cached_bytes(s3_node) > before - size // 2:
        assert time.monotonic() < deadline, "the worker did not hear of what is gone"
    assert [first + answer.read() for first, answer in zip(begun, answers, strict=True)] == old
    assert endpoint.client.get_object(**named[0])["Body"].read() == b"new"


def test_a_copy_is_of_one_version_and_says_so(endpoint: Endpoint, bucket: str, changing: str) -> None:
    for _ in range(15):
        endpoint.client.copy_object(Bucket=bucket, Key="copy", CopySource={"Bucket": bucket, "Key": changing})
        check_whole(endpoint.client.get_object(Bucket=bucket, Key="copy"))


def test_a_part_that_is_copied_is_of_one_version(endpoint: Endpoint, bucket: str, changing: str) -> None:
    upload = endpoint.client.create_multipart_upload(Bucket=bucket, Key="joined")["UploadId"]
    named = {"Bucket": bucket, "Key": "joined", "UploadId": upload}
    for _ in range(15):
        copied = endpoint.client.upload_part_copy(
            **named, PartNumber=1, CopySource={"Bucket": bucket, "Key": changing}
        )["CopyPartResult"]
        parts = {"Parts": [{"PartNumber": 1, "ETag": copied["ETag"]}]}
    endpoint.client.complete_multipart_upload(**named, MultipartUpload=parts)
    body = endpoint.client.get_object(Bucket=bucket, Key="joined")["Body"].read()
    assert body == bytes([body[0]]) * (SIZE + body[0])


def test_a_marker_is_made_on_the_condition_that_is_given(endpoint: Endpoint, bucket: str, key: str) -> None:
    named = {"Bucket": bucket, "Key": f"{key}/"}
    assert refused(endpoint.client.put_object, **named, IfMatch='"none"')[0] in (404, 412)
    assert refused(endpoint.client.head_object, **named)[0] == 404
    tag = endpoint.client.put_object(**named)["ETag"]
    assert refused(endpoint.client.put_object, **named, IfMatch='"none"') == (412, "PreconditionFailed")
    assert endpoint.client.put_object(**named, IfMatch=tag)["ETag"] == tag
