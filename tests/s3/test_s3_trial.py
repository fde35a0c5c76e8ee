"""What a new user does on his first day, and what goes wrong on it: commands of the manual, jobs whose tasks and committer are processes of their own,
an upload cut off in the middle, a wrong secret. Old URLs and clocks that are off: ``test_s3_signed_requests``."""

import os
import signal
import subprocess
import sys

import boto3
import pytest
from s3_world import REGION, three_workers

PART = 5 << 20
UPLOAD_PART = """
import boto3, os, sys
door, bucket, key, upload, number = sys.argv[1:]
s3 = boto3.client("s3", endpoint_url=door)
body = number.encode() * (5 << 20)
print(s3.upload_part(Bucket=bucket, Key=key, UploadId=upload, PartNumber=int(number), Body=body)["ETag"])
"""
UPLOAD_AND_HANG = """
import boto3, sys, time
door, bucket, key, path = sys.argv[1:]
s3 = boto3.client("s3", endpoint_url=door)
upload = s3.create_multipart_upload(Bucket=bucket, Key=key, Metadata={"of": "first try"})["UploadId"]
source = open(path, "rb")
for number in (1, 2, 3):
    s3.upload_part(Bucket=bucket, Key=key, UploadId=upload, PartNumber=number, Body=source.read(5 << 20))
class Stuck:
    sent = 0
    def __len__(self): return 5 << 20
    def read(self, size=-1):
        if self.sent >= 1 << 20:
            print("half", flush=True)
            time.sleep(600)
        piece = source.read(min(size, 1 << 16))
        self.sent += len(piece)
        return piece
from botocore.config import Config
s3 = boto3.client("s3", endpoint_url=door, config=Config(request_checksum_calculation="when_required", s3={"payload_signing_enabled": False}))
s3.upload_part(Bucket=bucket, Key=key, UploadId=upload, PartNumber=4, Body=Stuck(), ContentLength=5 << 20)
"""


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    with three_workers(tmp_path_factory.mktemp("s3trial")) as made:
        yield made


def client(world, worker=0):
    return boto3.client(
        "s3",
        endpoint_url=world.endpoints[worker],
        aws_access_key_id=world.access,
        aws_secret_access_key=world.secret,
        region_name=REGION,
    )


@pytest.fixture
def bucket(world, request):
    name = request.node.name.replace("_", "-")[-60:].strip("-")
    client(world).create_bucket(Bucket=name)
    return name


def python(world, code, *arguments):
    return subprocess.Popen(
        [sys.executable, "-c", code, *arguments],
        env=world.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def keys(world, bucket, worker):
    return [each["Key"] for each in client(world, worker).list_objects_v2(Bucket=bucket).get("Contents", [])]


def test_a_committer_completes_what_tasks_uploaded_elsewhere(world, bucket):
    """As Hadoop's committers do: a task tells what it uploaded, the job's end makes all of it visible, or nothing."""
    driver, files = client(world), ("out/part-0", "out/part-1", "out/failed")
    uploads = {key: driver.create_multipart_upload(Bucket=bucket, Key=key)["UploadId"] for key in files}
    tasks = {
        (key, number, attempt): python(
            world, UPLOAD_PART, world.endpoints[(number + attempt) % 3], bucket, key, uploads[key], str(number)
        )
        for key in files
        for number in (1, 2)
        for attempt in range(1 + (number == 2))  # the second task runs twice, as where one seems to be slow
    }
    told = {}
    for name, task in tasks.items():
        out, err = task.communicate(timeout=120)
        assert task.returncode == 0, err
        told[name] = out.strip()
    assert keys(world, bucket, 1) == []
    committer = client(world, 2)
    for key in files[:2]:
        parts = [{"PartNumber": number, "ETag": told[key, number, 0]} for number in (1, 2)]
        named = {"Bucket": bucket, "Key": key, "UploadId": uploads[key], "MultipartUpload": {"Parts": parts}}
        committer.complete_multipart_upload(**named)
        committer.complete_multipart_upload(**named)  # a committer that is started again does so again
    committer.abort_multipart_upload(Bucket=bucket, Key="out/failed", UploadId=uploads["out/failed"])
    assert keys(world, bucket, 1) == ["out/part-0", "out/part-1"]
    assert "Uploads" not in driver.list_multipart_uploads(Bucket=bucket)
    body = client(world, 1).get_object(Bucket=bucket, Key="out/part-1")["Body"].read()
    assert body == b"1" * PART + b"2" * PART


def test_an_upload_that_was_cut_off_goes_on_where_it_was(world, bucket, tmp_path):
    data = os.urandom(6 * PART + 7)
    (tmp_path / "data").write_bytes(data)
    first = python(world, UPLOAD_AND_HANG, world.endpoints[0], bucket, "big", str(tmp_path / "data"))
    line = first.stdout.readline()
    first.send_signal(signal.SIGKILL)
    _, err = first.communicate(timeout=60)
    assert line == "half\n", err
    s3 = client(world, 1)
    assert keys(world, bucket, 1) == []
    [upload] = s3.list_multipart_uploads(Bucket=bucket, Prefix="big")["Uploads"]
    named = {"Bucket": bucket, "Key": "big", "UploadId": upload["UploadId"]}
    pages = s3.get_paginator("list_parts").paginate(**named, PaginationConfig={"PageSize": 2})
    there = {part["PartNumber"]: part for page in pages for part in page["Parts"]}
    assert {number: part["Size"] for number, part in there.items()} == {1: PART, 2: PART, 3: PART}
    for number in range(4, 8):
        there[number] = s3.upload_part(**named, PartNumber=number, Body=data[(number - 1) * PART : number * PART])
    parts = [{"PartNumber": number, "ETag": part["ETag"]} for number, part in sorted(there.items())]
    s3.complete_multipart_upload(**named, MultipartUpload={"Parts": parts})
    found = client(world, 2).get_object(Bucket=bucket, Key="big")
    assert found["Metadata"] == {"of": "first try"}
    assert found["Body"].read() == data


def test_an_upload_that_was_cut_off_is_thrown_away(world, bucket, tmp_path):
    (tmp_path / "data").write_bytes(bytes(6 * PART))
    first = python(world, UPLOAD_AND_HANG, world.endpoints[0], bucket, "big", str(tmp_path / "data"))
    line = first.stdout.readline()
    first.send_signal(signal.SIGKILL)
    _, err = first.communicate(timeout=60)
    assert line == "half\n", err
    s3 = client(world, 2)
    [upload] = s3.list_multipart_uploads(Bucket=bucket)["Uploads"]
    s3.abort_multipart_upload(Bucket=bucket, Key="big", UploadId=upload["UploadId"])
    assert "Uploads" not in client(world).list_multipart_uploads(Bucket=bucket)
    s3.delete_bucket(Bucket=bucket)


def test_the_aws_command_says_what_is_wrong(world, bucket):
    if not os.path.exists("/usr/bin/aws"):
        pytest.skip("awscli is not installed")

    def aws(*words, **environment):
        command = ["/usr/bin/aws", "--endpoint-url", world.endpoints[0], "s3", *words]
        environment = {**world.environment, **environment}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
        assert done.returncode != 0, done.stdout
        return done.stderr

    assert "SignatureDoesNotMatch" in aws("ls", f"s3://{bucket}/", AWS_SECRET_ACCESS_KEY="wrong")
    assert "InvalidAccessKeyId" in aws("ls", f"s3://{bucket}/", AWS_ACCESS_KEY_ID="MFAAAAAAAAAAAAAAAAAA")
    assert "NoSuchBucket" in aws("ls", "s3://nowhere-at-all/")
    assert "404" in aws("cp", f"s3://{bucket}/none", "-")
    assert "an empty component" in aws("cp", __file__, f"s3://{bucket}/a//b")
