"""Buckets of an S3 server for tests: filled and emptied behind monofs' back, and named the way `monofs mount add` wants it.

Not here: the server (``ceph``, ``moto``) and faults (``storeproxy``).
"""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol

import boto3
from botocore.config import Config


class Server(Protocol):
    """What is asked of an S3 server: where it is, and keys that may make buckets."""

    endpoint: str
    access_key: str
    secret_key: str


class Buckets:
    """Makes buckets at one server; thread-safe."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._client = boto3.client(
            "s3",
            endpoint_url=server.endpoint,
            region_name="us-east-1",
            aws_access_key_id=server.access_key,
            aws_secret_access_key=server.secret_key,
            config=Config(s3={"addressing_style": "path"}, retries={"mode": "standard", "max_attempts": 5}),
        )
        self._count = 0

    def make(self) -> Bucket:
        """A fresh, empty bucket."""
        self._count += 1
        name = f"bucket-{self._count}"
        self._client.create_bucket(Bucket=name)
        return Bucket(self._server, self._client, name)

    def close(self) -> None:
        """Close connections."""
        self._client.close()


class Bucket:
    """One bucket. ``endpoint`` is where monofs is told to find it: set it to a proxy's to stand one between."""

    def __init__(self, server: Server, client: Any, name: str) -> None:
        self._server, self._client, self.name = server, client, name
        self.endpoint = server.endpoint
        self.uri = f"s3://{name}"

    def put(self, key: str, data: bytes) -> str:
        """Write one object; its ETag without quotes."""
        return str(self._client.put_object(Bucket=self.name, Key=key, Body=data)["ETag"]).strip('"')

    def put_all(self, objects: dict[str, bytes], *, threads: int = 8) -> None:
        """Write many objects at a time."""
        with ThreadPoolExecutor(threads) as pool:
            for _ in pool.map(lambda pair: self.put(*pair), objects.items()):
                pass

    def delete(self, *keys: str) -> None:
        """Remove objects."""
        for key in keys:
            self._client.delete_object(Bucket=self.name, Key=key)

    def get(self, key: str) -> bytes:
        """The bytes of one object."""
        return bytes(self._client.get_object(Bucket=self.name, Key=key)["Body"].read())

    def keys(self, prefix: str = "") -> list[str]:
        """All keys, in order; only those that begin with ``prefix``."""
        pages = self._client.get_paginator("list_objects_v2").paginate(Bucket=self.name, Prefix=prefix)
        return [entry["Key"] for page in pages for entry in page.get("Contents", [])]

    def uploads(self, prefix: str = "") -> dict[str, int]:
        """Uploads begun and neither completed nor aborted: key and id, and how many parts each has."""
        pages = self._client.get_paginator("list_multipart_uploads").paginate(Bucket=self.name, Prefix=prefix)
        found = [(entry["Key"], entry["UploadId"]) for page in pages for entry in page.get("Uploads", [])]
        return {
            f"{key} {upload}": len(self._client.list_parts(Bucket=self.name, Key=key, UploadId=upload).get("Parts", []))
            for key, upload in found
        }

    @property
    def options(self) -> dict[str, str]:
        """Options of a mount of this bucket, as ``mount_add`` takes them."""
        return {
            "endpoint": self.endpoint,
            "access_key": self._server.access_key,
            "secret_key": self._server.secret_key,
        }

    def words(self, **changed: str) -> Iterable[str]:
        """The same as words of a command line; ``changed`` replaces values, and leaves out empty ones."""
        return [
            word
            for name, value in (self.options | changed).items()
            if value
            for word in ("--option", f"{name}={value}")
        ]
