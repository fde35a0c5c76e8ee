"""Uploads in parts below a mount of a store are uploads of that store: each byte goes there once, and is warm; nothing is lost or left whoever is killed."""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import os
import random
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from itertools import count
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import boto3
import pytest
from boto3.s3.transfer import TransferConfig
from botocore.awsrequest import AWSRequest
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError
from s3_endpoints import UNSIGNED, Endpoint, Signer
from s3_world import REGION, new_key

from monofs.testing.buckets import Bucket
from monofs.testing.ceph import Ceph
from monofs.testing.nodes import ServedNode
from monofs.testing.storeproxy import Fault, StoreProxy

pytestmark = pytest.mark.ceph
MIB = 1 << 20
PART = 5 * MIB
_names = count(1)


class Ground:
    """A node on lasting ports whose failpoints are set by a file."""

    def __init__(self, directory: Path) -> None:
        self.failpoints = directory / "failpoints"
        environment = {"MONOFS_FAILPOINTS": f"@{self.failpoints}"}
        self.node = ServedNode(str(directory / "home"), environment=environment).start()
        self.endpoint = Endpoint("store", self.node.doors["s3"], *new_key(self.node, "ann"))
        self.client = boto3.client(
            "s3",
            endpoint_url=self.endpoint.url,
            aws_access_key_id=self.endpoint.access_key,
            aws_secret_access_key=self.endpoint.secret_key,
            region_name=REGION,
            config=Config(retries={"total_max_attempts": 1}, connect_timeout=5, read_timeout=60),
        )

    def arm(self, text: str) -> None:
        whole = self.failpoints.with_suffix(".new")
        whole.write_text(f"{text}\n,number{next(_names)}=none")
        whole.replace(self.failpoints)

    def mount(self, bucket: Bucket, endpoint: str = "") -> str:
        """A bucket of the store as one of the door."""
        name = f"lake-{next(_names)}"
        with self.node.connect() as fs:
            fs.mount_add(f"/{name}", bucket.uri, {**bucket.options, "endpoint": endpoint or bucket.endpoint})
        return name


@pytest.fixture(scope="module")
def ground(tmp_path_factory: pytest.TempPathFactory, warm: None) -> Iterator[Ground]:
    made = Ground(tmp_path_factory.mktemp("uploads"))
    yield made
    made.client.close()
    made.node.stop()


@pytest.fixture
def behind(make_bucket: Callable[[], Bucket]) -> Bucket:
    """A fresh bucket of the store."""
    return make_bucket()


def insist(ground: Ground, act: Callable[[], Any]) -> Any:
    """Until it succeeds, as clients do; a node that died is started again, disarmed."""
    end = time.monotonic() + 90
    while True:
        try:
            return act()
        except (ClientError, BotoCoreError) as error:
            answer = (getattr(error, "response", None) or {}).get("ResponseMetadata", {})
            if answer.get("HTTPStatusCode", 500) < 500 or time.monotonic() > end:
                raise
        assert ground.node.process is not None
        with contextlib.suppress(Exception):
            ground.node.process.wait(0.2)
        if ground.node.process.poll() is not None:
            ground.arm("")
            ground.node.start()


def etag_of(*parts: bytes) -> str:
    return f'"{hashlib.md5(b"".join(hashlib.md5(part).digest() for part in parts)).hexdigest()}-{len(parts)}"'


@pytest.mark.parametrize("part", [PART, 5_300_000], ids=["parts of whole pages", "parts of any size"])
def test_each_byte_goes_to_the_store_once(ground: Ground, ceph: Ceph, behind: Bucket, part: int) -> None:
    name, seen = ground.mount(behind), len(ceph.accesses())
    data = random.Random(7).randbytes(2 * part + 1234)
    path = ground.failpoints.with_name("data")
    path.write_bytes(data)
    config = TransferConfig(multipart_threshold=1, multipart_chunksize=part, max_concurrency=3)
    ground.client.upload_file(str(path), name, "f", Config=config)
    sent = [access.size for access in ceph.accesses()[seen:] if access.method == "PUT"]
    assert sorted(sent) == [1234, part, part]
    etag = etag_of(*(data[at : at + part] for at in range(0, len(data), part)))
    assert ground.client.get_object(Bucket=name, Key="f")["Body"].read() == data
    listed = ground.client.list_objects_v2(Bucket=name)["Contents"]
    assert [each["ETag"] for each in listed] == [ground.client.head_object(Bucket=name, Key="f")["ETag"]] == [etag]
    if part == PART:
        assert ceph.gets(behind.name) == 0, "what was written is warm"
    assert (behind.get("f"), behind.uploads()) == (data, {})


POINTS = {
    "begin": ("intent.begun",),
    "part": ("write.part-sent",),
    "complete": ("write.published", "intent.acted", "intent.ended"),
}


@pytest.mark.parametrize(("step", "point"), [(step, point) for step, points in POINTS.items() for point in points])
def test_killed_between_any_two_steps_an_upload_goes_on_or_is_done(
    ground: Ground, behind: Bucket, step: str, point: str
) -> None:
    name, parts = ground.mount(behind), [os.urandom(PART), b"tail"]
    where = {"Bucket": name, "Key": "f"}

    def doing(what: str) -> None:
        ground.arm(f"{point}=kill" if step == what else "")

    doing("begin")
    upload = {**where, "UploadId": insist(ground, lambda: ground.client.create_multipart_upload(**where))["UploadId"]}
    named = []
    for number, part in enumerate(parts, 1):
        doing("part" if number == 2 else "")
        done = insist(ground, lambda n=number, p=part: ground.client.upload_part(**upload, PartNumber=n, Body=p))
        named.append({"PartNumber": number, "ETag": done["ETag"]})
    doing("complete")
    told = {**upload, "MultipartUpload": {"Parts": named}}
    assert insist(ground, lambda: ground.client.complete_multipart_upload(**told))["ETag"] == etag_of(*parts)
    assert ground.client.get_object(**where)["Body"].read() == b"".join(parts)
    assert (behind.get("f"), behind.uploads()) == (b"".join(parts), {})
    with ground.node.connect() as fs:
        end = time.monotonic() + 60
        while fs.intents():
            assert time.monotonic() < end
            time.sleep(0.05)
        assert not any(fs.fsck().checks.values())


def test_a_completion_that_takes_long_says_so_meanwhile(ground: Ground, ceph: Ceph, behind: Bucket) -> None:
    with StoreProxy(ceph.endpoint) as proxy, ThreadPoolExecutor(2) as pool:
        name, asked = ground.mount(behind, proxy.endpoint), {}
        proxy.add(Fault("post", b"fine", query="uploadId=", delay_s=3.0))
        proxy.add(Fault("post", b"refused", query="uploadId=", delay_s=3.0, status=400, code="InvalidPart"))
        for key in ("fine", "refused"):
            where = {"Bucket": name, "Key": key}
            upload = ground.client.create_multipart_upload(**where)["UploadId"]
            etag = ground.client.upload_part(**where, UploadId=upload, PartNumber=1, Body=b"x")["ETag"]
            asked[key] = pool.submit(complete, ground, name, key, upload, etag)
        for key, told in (("fine", b"<ETag>"), ("refused", b"<Code>InvalidPart</Code>")):
            status, body = asked[key].result()
            head, _, document = body.partition(b"\n")
            assert (status, head[:5]) == (200, b"<?xml")
            assert document[:1] == b"\n", "white space while the store was silent"
            assert told in document


def complete(ground: Ground, bucket: str, key: str, upload: str, etag: str) -> tuple[int, bytes]:
    """By hand: boto3 shows no white space."""
    at, target = ground.endpoint, f"/{bucket}/{key}?uploadId={upload}"
    body = (
        f"<CompleteMultipartUpload><Part><PartNumber>1</PartNumber><ETag>{etag}</ETag></Part></CompleteMultipartUpload>"
    )
    request = AWSRequest(method="POST", url=at.url + target, headers={})
    Signer(at.access_key, at.secret_key, UNSIGNED, datetime.now(UTC)).add_auth(request)
    link = http.client.HTTPConnection(urlsplit(at.url).netloc, timeout=60)
    try:
        link.request("POST", target, body, dict(request.headers.items()))
        answer = link.getresponse()
        return answer.status, answer.read()
    finally:
        link.close()
