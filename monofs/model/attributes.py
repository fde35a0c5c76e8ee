"""What is kept with a file or directory beside its bytes: headers of its content, user metadata, tags, checksums, parts; and its etag.

Written as S3 knows them, whatever door asks. Stores that keep headers with their objects are told them (:func:`store_headers`), and what such an
object came with is read back (:func:`from_store`). Pure. Bounds as S3's, and :data:`ATTRIBUTES_MAX_BYTES` for all together.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import parse_qsl, quote, urlencode

import msgspec

from monofs.model.errors import InvalidArgument
from monofs.model.inode import Inode

USER_MAX_BYTES = 2048
"""Names and values of user metadata."""
TAGS_MAX = 10
BUCKET_TAGS_MAX = 50
TAG_KEY_MAX = 128
TAG_VALUE_MAX = 256
ATTRIBUTES_MAX_BYTES = 16 << 10
BODY_MAX_BYTES = 4 << 10
"""Bytes of an object ``dir/``, which lie here: its directory has no content."""
ETAG_MAX = 64
EMPTY_ETAG = "d41d8cd98f00b204e9800998ecf8427e"
"""The MD5 of no bytes."""
USER_PREFIX = "x-amz-meta-"
OPERATION = "monofs-operation"
"""Name of the user metadata by which a store remembers which of our operations made an object; none of its owner's."""
HEADERS = frozenset(
    {
        "content-type",
        "content-encoding",
        "content-disposition",
        "content-language",
        "cache-control",
        "expires",
        "x-amz-storage-class",
        "x-amz-website-redirect-location",
    }
)
"""What stores keep with an object, besides user metadata."""
_NAME = re.compile(r"[a-z0-9!#$%&'*+.^_`|~-]+")


class Attributes(msgspec.Struct, array_like=True, gc=False, frozen=True):
    """One record of the table ``attributes``; only ever extended at its end."""

    headers: dict[str, str] = {}
    """Of :data:`HEADERS`, by lower-case name."""
    user: dict[str, str] = {}
    """User metadata, names without ``x-amz-meta-``."""
    tags: dict[str, str] = {}
    checksums: dict[str, str] = {}
    """Algorithm (crc32, crc32c, crc64nvme, sha1, sha256) → value in base64, as the writer sent it and it was verified."""
    composite: bool = False
    """The checksums are of the parts' checksums, not of the bytes."""
    parts: list[tuple[int, int, int]] = []
    """What it was joined from, as runs: (number of the first part, how many, bytes of each)."""
    part_checksums: list[bytes] = []
    """Of each part in order, or empty: not kept."""
    cors: str = ""
    """Of a directory that is a bucket: which pages of other origins may use it, as the document S3 has for that."""
    owner: str = ""
    """Of a directory that is a bucket: the name of who made it one; empty: no client of S3 did."""
    location: str = ""
    """Of a directory that is a bucket: the region it was asked for in; empty: none was named."""
    bucket_tags: dict[str, str] = {}
    """Of a directory that is a bucket; ``tags`` are those of the object ``dir/`` it may be besides."""
    body: bytes = b""
    """Of a directory that is an object ``dir/``."""


_FIRST = 7
"""Fields that are always written: releases before the others know those."""
_encode = msgspec.msgpack.Encoder().encode
decode_attributes = msgspec.msgpack.Decoder(Attributes).decode


def _short(kept: Attributes) -> list[Any]:
    """Its fields without those at the end that say nothing: so records are what releases before make of the same entries."""
    fields = list(msgspec.structs.astuple(kept))
    while len(fields) > _FIRST and not fields[-1]:
        fields.pop()
    return fields


def encode_attributes(attributes: Attributes) -> bytes:
    """As stored."""
    return _encode(_short(attributes))


def encode_holder(holder: Any) -> bytes:
    """A record or entry, whose field ``attributes`` may have some; likewise."""
    kept = getattr(holder, "attributes", None)
    if type(kept) is not Attributes:
        return _encode(holder)
    return _encode(msgspec.structs.replace(holder, attributes=_short(kept)))


def of_bucket(attributes: Attributes | None) -> dict[str, Any]:
    """What is kept with a directory because it is a bucket, whether or not it is the object ``dir/`` of another one: by names of fields."""
    kept = attributes or Attributes()
    return {
        "cors": kept.cors,
        "owner": kept.owner,
        "location": kept.location,
        "bucket_tags": kept.bucket_tags,
    }


def check_attributes(attributes: Attributes, *, directory: bool = False, marker: bool = False) -> None:
    """Raise ``InvalidArgument`` unless these may be kept with a file, a directory, or the object ``dir/``."""
    # five times for each PUT: what says nothing costs nothing
    if attributes.headers or attributes.user:
        _check_headers(attributes.headers, attributes.user)
    if not directory and (attributes.cors or attributes.owner or attributes.location or attributes.bucket_tags):
        raise InvalidArgument("rules, owner, location and tags of a bucket are kept with directories only")
    if attributes.body and not marker:
        raise InvalidArgument("bytes are kept with objects dir/ only: those of a file are its content")
    if len(attributes.body) > BODY_MAX_BYTES:
        raise InvalidArgument(f"a directory holds at most {BODY_MAX_BYTES} bytes of its own")
    if attributes.tags or attributes.bucket_tags:
        _check_tags(attributes.tags, TAGS_MAX)
        _check_tags(attributes.bucket_tags, BUCKET_TAGS_MAX)
    if len(encode_attributes(attributes)) > ATTRIBUTES_MAX_BYTES:
        raise InvalidArgument(f"what is kept with a file has at most {ATTRIBUTES_MAX_BYTES} bytes")


def _check_headers(headers: dict[str, str], user: dict[str, str]) -> None:
    unknown = headers.keys() - HEADERS
    if unknown:
        raise InvalidArgument(f"the header {min(unknown)} is none that is kept with a file")
    if not all(map(_NAME.fullmatch, user)):
        raise InvalidArgument("names of user metadata are those of HTTP headers, in lower case")
    if not all(value.isprintable() for value in (*headers.values(), *user.values())):
        raise InvalidArgument("headers and user metadata hold printable characters only")
    if sum(len(text.encode()) for pair in user.items() for text in pair) > USER_MAX_BYTES:
        raise InvalidArgument(f"user metadata has at most {USER_MAX_BYTES} bytes, names and values together")
    if OPERATION in user:
        raise InvalidArgument(f"the name {OPERATION} is monofs' own")


def _check_tags(tags: dict[str, str], most: int) -> None:
    if len(tags) > most or not all(
        0 < len(key) <= TAG_KEY_MAX and len(value) <= TAG_VALUE_MAX for key, value in tags.items()
    ):
        raise InvalidArgument(
            f"at most {most} tags are kept, of 1 to {TAG_KEY_MAX} characters, values of at most {TAG_VALUE_MAX}"
        )


def check_etag(etag: str) -> None:
    """Raise ``InvalidArgument`` unless a file may have this etag."""
    if len(etag) > ETAG_MAX or not etag.isascii() or not etag.isprintable() or '"' in etag:
        raise InvalidArgument(f"an etag has at most {ETAG_MAX} printable characters, and no quotes")


def store_headers(attributes: Attributes) -> dict[str, str]:
    """What a store that keeps headers with its objects is told."""
    told = dict(attributes.headers)
    told.update((USER_PREFIX + name, value) for name, value in attributes.user.items())
    if attributes.tags:
        told["x-amz-tagging"] = urlencode(attributes.tags, quote_via=quote)
    return told


def from_store(headers: Mapping[str, str]) -> Attributes:
    """What a store keeps with an object, by the headers of its answer (lower-case names); what goes beyond our bounds is left out."""
    kept = {name: value for name, value in headers.items() if name in HEADERS}
    user = {name[len(USER_PREFIX) :]: value for name, value in headers.items() if name.startswith(USER_PREFIX)}
    user.pop(OPERATION, None)
    tags = dict(parse_qsl(headers.get("x-amz-tagging", ""), keep_blank_values=True))
    try:
        check_attributes(found := Attributes(kept, user, tags))
    except InvalidArgument:
        return Attributes({name: value for name, value in kept.items() if len(value) <= USER_MAX_BYTES})
    return found


def etag_of(inode: Inode) -> str:
    """The etag of a file, without quotes: of its writer, or of its store, or one in the form of files joined from parts, which names this version as
    long as it lies where it does."""
    if inode.etag:
        return inode.etag
    if inode.fingerprint.startswith("e:"):
        return inode.fingerprint[2:]
    if not inode.size:
        return EMPTY_ETAG
    version = f"{inode.fingerprint or int(inode.content)}:{inode.size}"
    return hashlib.md5(version.encode(), usedforsecurity=False).hexdigest() + "-1"
