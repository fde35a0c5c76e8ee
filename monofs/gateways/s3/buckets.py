"""CreateBucket, DeleteBucket, HeadBucket, GetBucketLocation, and what is not kept of buckets.

A bucket is a directory below the root, or any path under an alias. Making one makes the directory; deleting one takes away the empty directory, with the
empty directories below it, and nothing else ever.
"""

from __future__ import annotations

from monofs.gateways.s3 import bodies, cors, documents, keys, subresources
from monofs.gateways.s3.asking import Asked, told
from monofs.gateways.s3.errors import S3Error
from monofs.gateways.s3.files import NOTHING, Files
from monofs.gateways.s3.metadata import check_creation
from monofs.gateways.s3.receiving import whole
from monofs.model.attributes import Attributes
from monofs.model.errors import AlreadyExists, MonofsError, NotEmpty, NotFound
from monofs.model.paths import Parts, format_path
from monofs.model.principal import Right
from monofs.rpc.api import (
    DeleteRequest,
    Empty,
    InodeAnswer,
    ListAnswer,
    ListKeysAnswer,
    ListKeysRequest,
    ListRequest,
    MakeDirectoryRequest,
    Method,
)

REGION = "us-east-1"
"""What is said of where a bucket is, unless it was asked for elsewhere; requests signed for any region are taken."""


class Buckets:
    """The actions on buckets of one door."""

    def __init__(self, files: Files, reactor: object) -> None:
        self._files, self._reactor = files, reactor

    async def head(self, asked: Asked) -> None:
        """HeadBucket."""
        asked.check_right(Right.READ)
        asked.check_bucket()
        found = await self._files.check_bucket(asked)
        asked.answer(200, {"x-amz-bucket-region": found.attributes.location or REGION})

    async def location(self, asked: Asked) -> None:
        """GetBucketLocation."""
        asked.check_right(Right.READ)
        asked.check_bucket()
        found = await self._files.check_bucket(asked)
        asked.answer(200, {}, documents.location_document(found.attributes.location or REGION))

    async def create(self, asked: Asked) -> None:
        """CreateBucket, wherever it is asked for: by who reaches all of the bucket, whose owner he becomes."""
        asked.check_right(Right.WRITE)
        asked.check_reach_below("")
        check_creation(asked.headers)
        location, tags = bodies.read_creation(await whole(asked, self._reactor, bodies.CREATE_MAX_BYTES))
        bucket = asked.request.bucket
        if bucket in asked.aliases:
            raise S3Error("BucketAlreadyOwnedByYou", BucketName=bucket)
        keys.check_new_bucket(bucket)
        kept = Attributes(owner=asked.owner, location="" if location == REGION else location, bucket_tags=tags)
        try:
            request = MakeDirectoryRequest(format_path(asked.bucket), attributes=kept)
            await asked.ask(Method.MAKE_DIRECTORY, request, InodeAnswer)
        except AlreadyExists:
            await self._check_again(asked, kept.location)
        except MonofsError as error:
            raise told(error, bucket=True) from None
        asked.answer(200, {"Location": f"/{bucket}"})

    async def _check_again(self, asked: Asked, location: str) -> None:
        """Raise ``S3Error`` unless a bucket that is there may be made again: in us-east-1, where AWS began, by who made it, and it stays as it is."""
        found = await self._files.stat_file(asked, format_path(asked.bucket), as_key=False)
        kept = NOTHING if found is None else found.attributes
        if found is None or not found.inode.is_directory or kept.owner not in ("", asked.owner):
            raise S3Error("BucketAlreadyExists", BucketName=asked.request.bucket)
        if not kept.owner or kept.location or location:
            raise S3Error("BucketAlreadyOwnedByYou", BucketName=asked.request.bucket)

    async def delete(self, asked: Asked) -> None:
        """DeleteBucket."""
        asked.check_right(Right.WRITE)
        asked.check_bucket()
        if asked.request.bucket in asked.aliases:
            raise S3Error("MethodNotAllowed", "This bucket is an alias of a path: its administrator removes it.")
        await self._files.check_bucket(asked)
        path = format_path(asked.bucket)
        try:
            page = await asked.ask(Method.LIST_KEYS, ListKeysRequest(path, limit=1), ListKeysAnswer)
            if page.keys or page.next is not None:
                raise S3Error("BucketNotEmpty")
            await self._remove(asked, asked.bucket)
        except MonofsError as error:
            raise told(error, bucket=True) from None
        asked.answer(204)

    async def _remove(self, asked: Asked, parts: Parts) -> None:
        """Directories that nobody asked for, from the deepest on; a file that has come meanwhile ends it with ``NotEmpty``."""
        position: bytes | None = b""
        while position is not None:
            page = await asked.ask(Method.LIST, ListRequest(format_path(parts), position), ListAnswer)
            for name in page.names:
                if not name.endswith(b"/"):
                    raise NotEmpty("a file is in the way")
                await self._remove(asked, (*parts, name[:-1]))
            position = page.next
        try:
            await asked.ask(Method.DELETE, DeleteRequest(format_path(parts)), Empty)
        except NotFound:
            pass

    async def get_tags(self, asked: Asked) -> None:
        """GetBucketTagging."""
        asked.check_right(Right.READ)
        asked.check_bucket()
        tags = (await self._files.check_bucket(asked)).attributes.bucket_tags
        if not tags:
            raise S3Error("NoSuchTagSet")
        asked.answer(200, {}, documents.tagging_document(tags))

    async def put_tags(self, asked: Asked) -> None:
        """PutBucketTagging. The tags of an alias are those of its directory, by whatever name."""
        asked.check_right(Right.WRITE)
        tags = bodies.read_tagging(await whole(asked, self._reactor, bodies.TAGGING_MAX_BYTES), bodies.BUCKET_TAGS_MAX)
        await self._tag(asked, tags)
        asked.answer(204)

    async def delete_tags(self, asked: Asked) -> None:
        """DeleteBucketTagging."""
        asked.check_right(Right.WRITE)
        await self._tag(asked, {})
        asked.answer(204)

    async def _tag(self, asked: Asked, tags: dict[str, str]) -> None:
        asked.check_reach_below("")
        found = await self._files.check_bucket(asked)
        if found.attributes.bucket_tags != tags:
            await self._files.keep(asked, format_path(asked.bucket), found, bucket_tags=tags)

    async def get_cors(self, asked: Asked) -> None:
        """GetBucketCors."""
        asked.check_right(Right.READ)
        asked.check_bucket()
        kept = (await self._files.check_bucket(asked)).attributes.cors
        if not kept:
            raise S3Error("NoSuchCORSConfiguration")
        asked.answer(200, {}, kept.encode())

    async def put_cors(self, asked: Asked) -> None:
        """PutBucketCors."""
        asked.check_right(Right.WRITE)
        rules = cors.read_rules(await whole(asked, self._reactor, cors.CORS_MAX_BYTES))
        await self._keep_cors(asked, cors.rules_document(rules))
        asked.answer(200)

    async def delete_cors(self, asked: Asked) -> None:
        """DeleteBucketCors."""
        asked.check_right(Right.WRITE)
        await self._keep_cors(asked, "")
        asked.answer(204)

    async def _keep_cors(self, asked: Asked, document: str) -> None:
        asked.check_reach_below("")
        found = await self._files.check_bucket(asked)
        if found.attributes.cors != document:
            await self._files.keep(asked, format_path(asked.bucket), found, cors=document)

    async def configuration(self, asked: Asked) -> None:
        """Any sub-resource that is not kept."""
        asked.check_right(Right.READ if asked.request.head.method == "GET" else Right.WRITE)
        asked.check_bucket()
        await self._files.check_bucket(asked)
        sent = b""
        if asked.request.head.method == "PUT":
            sent = await whole(asked, self._reactor, bodies.CREATE_MAX_BYTES)
        status, body = subresources.answer(asked.request, asked.owner, sent)
        asked.answer(status, {}, body)
