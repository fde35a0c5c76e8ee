"""What a request asks for: its action, bucket and key, from path or host, method and query. Pure.

S3 has no field for the action: the method, whether a key is named, and *sub-resources* in the query (``?uploads``) tell it together. The tables below
are that rule, one line an action (API Reference, "Actions"). What monofs does not keep of a bucket or object (``?policy``, ``?acl``, ...) has an
answer in ``subresources``.

Invariant: any head gives a :class:`Request` or an ``S3Error``; a sub-resource that is not understood is never taken for the plain action.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from enum import StrEnum
from typing import NamedTuple

import msgspec

from monofs.gateways.s3.errors import S3Error
from monofs.gateways.s3.head import Head, decode

PART_NUMBER_MAX = 10_000
UPLOAD_ID_MAX = 1024

_PORT = re.compile(r":[0-9]*\Z").sub


class Action(StrEnum):
    """What is asked for, by the name that S3's documentation and policies use."""

    LIST_BUCKETS = "ListBuckets"
    CREATE_BUCKET = "CreateBucket"
    DELETE_BUCKET = "DeleteBucket"
    HEAD_BUCKET = "HeadBucket"
    GET_BUCKET_LOCATION = "GetBucketLocation"
    GET_BUCKET_TAGGING = "GetBucketTagging"
    PUT_BUCKET_TAGGING = "PutBucketTagging"
    DELETE_BUCKET_TAGGING = "DeleteBucketTagging"
    GET_BUCKET_CORS = "GetBucketCors"
    PUT_BUCKET_CORS = "PutBucketCors"
    DELETE_BUCKET_CORS = "DeleteBucketCors"
    LIST_OBJECTS = "ListObjects"
    LIST_OBJECTS_V2 = "ListObjectsV2"
    LIST_OBJECT_VERSIONS = "ListObjectVersions"
    LIST_MULTIPART_UPLOADS = "ListMultipartUploads"
    DELETE_OBJECTS = "DeleteObjects"
    GET_OBJECT = "GetObject"
    HEAD_OBJECT = "HeadObject"
    PUT_OBJECT = "PutObject"
    POST_OBJECT = "PostObject"
    COPY_OBJECT = "CopyObject"
    DELETE_OBJECT = "DeleteObject"
    GET_OBJECT_ATTRIBUTES = "GetObjectAttributes"
    GET_OBJECT_TAGGING = "GetObjectTagging"
    PUT_OBJECT_TAGGING = "PutObjectTagging"
    DELETE_OBJECT_TAGGING = "DeleteObjectTagging"
    CREATE_MULTIPART_UPLOAD = "CreateMultipartUpload"
    UPLOAD_PART = "UploadPart"
    UPLOAD_PART_COPY = "UploadPartCopy"
    COMPLETE_MULTIPART_UPLOAD = "CompleteMultipartUpload"
    ABORT_MULTIPART_UPLOAD = "AbortMultipartUpload"
    LIST_PARTS = "ListParts"
    BUCKET_CONFIGURATION = "BucketConfiguration"
    """Any method on a sub-resource of a bucket that monofs does not keep: see ``subresources``."""
    OBJECT_CONFIGURATION = "ObjectConfiguration"
    """The same of an object."""


_BUCKET_PLAIN = {
    "GET": Action.LIST_OBJECTS,
    "HEAD": Action.HEAD_BUCKET,
    "PUT": Action.CREATE_BUCKET,
    "DELETE": Action.DELETE_BUCKET,
}
_BUCKET = {
    "location": {"GET": Action.GET_BUCKET_LOCATION},
    "tagging": {
        "GET": Action.GET_BUCKET_TAGGING,
        "PUT": Action.PUT_BUCKET_TAGGING,
        "DELETE": Action.DELETE_BUCKET_TAGGING,
    },
    "cors": {
        "GET": Action.GET_BUCKET_CORS,
        "PUT": Action.PUT_BUCKET_CORS,
        "DELETE": Action.DELETE_BUCKET_CORS,
    },
    "uploads": {"GET": Action.LIST_MULTIPART_UPLOADS},
    "versions": {"GET": Action.LIST_OBJECT_VERSIONS},
    "delete": {"POST": Action.DELETE_OBJECTS},
}
_OBJECT_PLAIN = {
    "GET": Action.GET_OBJECT,
    "HEAD": Action.HEAD_OBJECT,
    "PUT": Action.PUT_OBJECT,
    "DELETE": Action.DELETE_OBJECT,
}
_OBJECT = {
    "attributes": {"GET": Action.GET_OBJECT_ATTRIBUTES},
    "tagging": {
        "GET": Action.GET_OBJECT_TAGGING,
        "PUT": Action.PUT_OBJECT_TAGGING,
        "DELETE": Action.DELETE_OBJECT_TAGGING,
    },
    "uploads": {"POST": Action.CREATE_MULTIPART_UPLOAD},
    "uploadId": {
        "GET": Action.LIST_PARTS,
        "PUT": Action.UPLOAD_PART,
        "POST": Action.COMPLETE_MULTIPART_UPLOAD,
        "DELETE": Action.ABORT_MULTIPART_UPLOAD,
    },
}
BUCKET_CONFIGURATIONS = frozenset(
    {
        "abac", "accelerate", "acl", "analytics", "encryption", "intelligent-tiering", "inventory", "lifecycle", "logging",
        "metadataConfiguration", "metadataTable", "metrics", "notification", "object-lock", "ownershipControls", "policy", "policyStatus",
        "publicAccessBlock", "replication", "requestPayment", "session", "versioning", "website",
    }
)  # fmt: skip
"""Sub-resources of buckets that monofs does not keep."""
OBJECT_CONFIGURATIONS = frozenset(
    {"acl", "annotation", "encryption", "legal-hold", "renameObject", "restore", "retention", "select", "torrent"}
)
"""The same of objects."""
SUB_RESOURCES = frozenset(_BUCKET) | frozenset(_OBJECT) | BUCKET_CONFIGURATIONS | OBJECT_CONFIGURATIONS
"""Parameters of a query that say what is done."""
_COPYING = {Action.PUT_OBJECT: Action.COPY_OBJECT, Action.UPLOAD_PART: Action.UPLOAD_PART_COPY}
"""Actions that x-amz-copy-source makes other ones."""


class Request(msgspec.Struct, frozen=True, gc=False):
    """A request understood. ``bucket`` and ``key`` are empty where none is named; ``configuration`` is the sub-resource of a
    ``*_CONFIGURATION`` action; ``query`` has the first value of each name."""

    action: Action
    bucket: str
    key: str
    query: dict[str, str]
    head: Head
    configuration: str = ""

    def number(self, name: str, default: int, most: int) -> int:
        """A number from 0 of the query, of at most ``most`` (a larger one is as good). Raises ``S3Error`` (InvalidArgument)."""
        text = self.query.get(name)
        if not text:
            return default
        if not text.isascii() or not text.isdigit() or len(text) > 10 or int(text) > 0x7FFFFFFF:
            raise S3Error(
                "InvalidArgument",
                f"{name} has to be a number from 0 to 2147483647.",
                ArgumentName=name,
                ArgumentValue=text,
            )
        return min(int(text), most)

    def part_number(self) -> int | None:
        """The part that partNumber names, if it does. Raises ``S3Error`` (InvalidArgument)."""
        if "partNumber" not in self.query:
            return None
        text = self.query["partNumber"]
        if not text.isascii() or not text.isdigit() or len(text) > 5 or not 1 <= int(text) <= PART_NUMBER_MAX:
            raise S3Error(
                "InvalidArgument",
                f"partNumber has to be a number from 1 to {PART_NUMBER_MAX}.",
                ArgumentName="partNumber",
                ArgumentValue=text,
            )
        return int(text)

    @property
    def url_encoded(self) -> bool:
        """Whether keys of the answer are percent-encoded."""
        return self.query.get("encoding-type") == "url"


class Source(NamedTuple):
    """What a copy reads."""

    bucket: str
    key: str


def read_request(head: Head, domains: Sequence[str] = ()) -> Request:
    """What ``head`` asks for. ``domains``: host names under which a bucket may stand in front, as in ``bucket.s3.example``.

    Raises ``S3Error``: InvalidURI, InvalidArgument, InvalidRequest, MethodNotAllowed, NoSuchVersion, NotImplemented.
    """
    path = head.path
    bucket = bucket_of_host(head.headers.get("host", ""), domains) if domains else ""
    if bucket:
        key = decode(path[1:])
    else:
        bucket, _, key = path[1:].partition("/")
        if "%" in path or not path.isascii():
            bucket, key = decode(bucket), decode(key)
    if key and not bucket:
        raise S3Error("InvalidURI", "The path has a key but no bucket.")
    query = dict(reversed(head.pairs)) if head.pairs else {}
    if key:
        action, configuration = _object_action(head, query)
    elif bucket:
        action, configuration = _bucket_action(head, query)
    elif head.method == "GET":
        action, configuration = Action.LIST_BUCKETS, ""
    else:
        raise _not_allowed(head)
    request = Request(action, bucket, key, query, head, configuration)
    if query:
        _check_query(request)
    return request


def bucket_of_host(host: str, domains: Sequence[str]) -> str:
    """The bucket that stands in front of one of ``domains`` (lower-case) in a Host header; empty when none does."""
    name = _PORT("", host.lower())
    for domain in domains:
        if name.endswith(domain) and name[: -len(domain)].endswith("."):
            return name[: -len(domain) - 1]
    return ""


def read_source(text: str) -> Source:
    """The object that x-amz-copy-source names: ``[/]bucket/key[?versionId=null]``, percent-encoded. Raises ``S3Error``."""
    path, question, query = text.partition("?")
    try:
        bucket, _, key = decode(path).removeprefix("/").partition("/")
    except S3Error:
        raise _bad_source(text) from None
    if question and not query.startswith("versionId="):
        raise _bad_source(text)
    if not bucket or not key:
        raise _bad_source(text)
    if question:
        check_version(query.removeprefix("versionId="))
    return Source(bucket, key)


def check_version(version: str) -> None:
    """Raise ``S3Error`` unless ``version`` is the one every file has. InvalidArgument for an empty one, NoSuchVersion for all others."""
    if not version:
        raise S3Error("InvalidArgument", "A version id cannot be empty.", ArgumentName="versionId", ArgumentValue="")
    if version != "null":
        raise S3Error("NoSuchVersion", VersionId=version)


def _bucket_action(head: Head, query: dict[str, str]) -> tuple[Action, str]:
    method = head.method
    for name in query:
        if name in _BUCKET:
            return _of(_BUCKET[name], head), ""
        if name in BUCKET_CONFIGURATIONS:
            return Action.BUCKET_CONFIGURATION, name
    if method == "POST" and head.headers.get("content-type", "").lower().startswith("multipart/form-data"):
        return Action.POST_OBJECT, ""
    action = _of(_BUCKET_PLAIN, head)
    if action is Action.LIST_OBJECTS and "list-type" in query:
        if query["list-type"] != "2":
            raise S3Error(
                "InvalidArgument",
                "list-type can only be 2.",
                ArgumentName="list-type",
                ArgumentValue=query["list-type"],
            )
        return Action.LIST_OBJECTS_V2, ""
    return action, ""


def _object_action(head: Head, query: dict[str, str]) -> tuple[Action, str]:
    action = None
    for name in query:
        if name in _OBJECT:
            action = _of(_OBJECT[name], head)
            break
        if name in OBJECT_CONFIGURATIONS:
            return Action.OBJECT_CONFIGURATION, name
    if action is None:
        action = _of(_OBJECT_PLAIN, head)
    if "x-amz-copy-source" in head.headers:
        action = _COPYING.get(action, action)
    return action, ""


def _of(actions: dict[str, Action], head: Head) -> Action:
    action = actions.get(head.method)
    if action is None:
        raise _not_allowed(head)
    return action


def _check_query(request: Request) -> None:
    """What holds for the query of any action that has these names."""
    query, action = request.query, request.action
    if "versionId" in query and request.key:
        check_version(query["versionId"])
    if "uploadId" in query and (not query["uploadId"] or len(query["uploadId"]) > UPLOAD_ID_MAX):
        raise S3Error("NoSuchUpload")
    if query.get("encoding-type", "url") != "url":
        raise S3Error(
            "InvalidArgument",
            "encoding-type can only be url.",
            ArgumentName="encoding-type",
            ArgumentValue=query["encoding-type"],
        )
    if action in (Action.UPLOAD_PART, Action.UPLOAD_PART_COPY) and "partNumber" not in query:
        raise S3Error("InvalidArgument", "A part needs a partNumber.", ArgumentName="partNumber")
    if action is Action.PUT_OBJECT and "partNumber" in query:
        raise S3Error("InvalidArgument", "A part needs an uploadId.", ArgumentName="uploadId")
    part = request.part_number()
    if part is not None and action in (Action.GET_OBJECT, Action.HEAD_OBJECT) and "range" in request.head.headers:
        raise S3Error("InvalidRequest", "Range and partNumber cannot both be given.")


def _not_allowed(head: Head) -> S3Error:
    if head.method == "OPTIONS":
        return S3Error("AccessForbidden")
    return S3Error("MethodNotAllowed", Method=head.method)


def _bad_source(text: str) -> S3Error:
    return S3Error(
        "InvalidArgument",
        "x-amz-copy-source has to be of the form bucket/key, percent-encoded.",
        ArgumentName="x-amz-copy-source",
        ArgumentValue=text,
    )
