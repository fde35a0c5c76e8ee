"""Workers and the master are killed under a mixed load at their S3 doors; afterwards every byte and every listing is as acknowledged."""

import functools
import hashlib
import random
import threading
import time

import boto3
import botocore.exceptions
from botocore.config import Config
from s3_world import REGION, three_workers

PART = 5 << 20
FAILED = (botocore.exceptions.ClientError, botocore.exceptions.BotoCoreError)
WRITERS = 4


def client(world, worker):
    return connect(world.endpoints[worker], world.access, world.secret)


@functools.cache
def connect(endpoint, access, secret):
    return boto3.client(
        "s3",
        endpoint_url=endpoint,
        aws_access_key_id=access,
        aws_secret_access_key=secret,
        region_name=REGION,
        config=Config(retries={"max_attempts": 1}, connect_timeout=5, read_timeout=20),
    )


class Writer:
    """One writer with keys of its own: puts, overwrites, deletes, joins parts, reads and lists, and knows what may be there."""

    def __init__(self, world, number):
        self.world, self.number, self.random = world, number, random.Random(number)
        self.may_be = {}
        """Key to what may be there: None for nothing, else digests. One value: that must be there."""
        self.wrong, self.done, self.refused = [], 0, 0

    def run(self, over):
        while not over.is_set():
            key = f"w{self.number}/d{self.random.randrange(3)}/k{self.random.randrange(6)}"
            s3 = client(self.world, self.random.randrange(3))
            act = self.random.choice((self.put, self.put, self.put_parts, self.delete, self.read, self.read, self.list))
            try:
                act(s3, key)
                self.done += 1
            except FAILED as error:
                self.refused += 1
                code = (getattr(error, "response", None) or {}).get("Error", {}).get("Code")
                if code in ("SignatureDoesNotMatch", "InvalidArgument", "BadDigest", "MalformedXML"):
                    self.wrong.append(f"{act.__name__} {key}: {error}")

    def _change(self, key, value, act):
        """Until it is acknowledged both may be there."""
        before = self.may_be.get(key, {None})
        self.may_be[key] = before | {value}
        act()
        self.may_be[key] = {value}

    def put(self, s3, key):
        body = self.random.randbytes(self.random.choice((0, 100, 70_000, 1_500_000)))
        self._change(key, digest(body), lambda: s3.put_object(Bucket="load", Key=key, Body=body))

    def put_parts(self, s3, key):
        pieces = [self.random.randbytes(PART), self.random.randbytes(1000)]
        upload = s3.create_multipart_upload(Bucket="load", Key=key)["UploadId"]
        parts = []
        for number, piece in enumerate(pieces, 1):
            other = client(self.world, self.random.randrange(3))
            told = other.upload_part(Bucket="load", Key=key, UploadId=upload, PartNumber=number, Body=piece)
            parts.append({"PartNumber": number, "ETag": told["ETag"]})
        self._change(
            key,
            digest(b"".join(pieces)),
            lambda: s3.complete_multipart_upload(
                Bucket="load", Key=key, UploadId=upload, MultipartUpload={"Parts": parts}
            ),
        )

    def delete(self, s3, key):
        self._change(key, None, lambda: s3.delete_object(Bucket="load", Key=key))

    def read(self, s3, key):
        try:
            found = digest(s3.get_object(Bucket="load", Key=key)["Body"].read())
        except s3.exceptions.NoSuchKey:
            found = None
        if found not in self.may_be.get(key, {None}):
            self.wrong.append(f"read {key}: {found} is none of {self.may_be.get(key)}")

    def list(self, s3, key):
        told = s3.list_objects_v2(Bucket="load", Prefix=f"w{self.number}/").get("Contents", [])
        self.compare({each["Key"] for each in told})

    def compare(self, listed):
        """What is listed against what may be."""
        must = {key for key, values in self.may_be.items() if None not in values}
        may = {key for key, values in self.may_be.items() if values != {None}}
        if not must <= listed <= may:
            self.wrong.append(f"listed {sorted(listed)}, must {sorted(must)}, may {sorted(may)}")


def digest(data):
    return hashlib.sha256(data).hexdigest()


def test_what_was_acknowledged_is_there_whoever_is_killed(tmp_path):
    (tmp_path / "store").mkdir()
    with three_workers(tmp_path) as world, world.master.connect() as fs:
        fs.mount_add("/load", f"file://{tmp_path}/store")
        writers = [Writer(world, number) for number in range(WRITERS)]
        over = threading.Event()
        threads = [threading.Thread(target=writer.run, args=(over,)) for writer in writers]
        for thread in threads:
            thread.start()
        for victim in (world.workers[1], world.master, world.workers[2], world.master):
            before = sum(writer.done for writer in writers)
            wait_until(lambda before=before: sum(writer.done for writer in writers) >= before + 30)
            victim.kill()
            victim.start()
        before = sum(writer.done for writer in writers)
        wait_until(lambda: sum(writer.done for writer in writers) >= before + 30)
        over.set()
        for thread in threads:
            thread.join()
        problems = [problem for writer in writers for problem in writer.wrong]
        for writer in writers:
            for key in writer.may_be:
                writer.read(client(world, 0), key)
            writer.list(client(world, 1), "")
        problems += [problem for writer in writers for problem in writer.wrong]
        assert problems == []


def wait_until(is_so):
    end = time.monotonic() + 90
    while not is_so():
        assert time.monotonic() < end
        time.sleep(0.05)
