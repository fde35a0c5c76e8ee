"""The documents S3 is sent. Pure: bytes in, records out.

API Reference: "Request Syntax" of DeleteObjects, CompleteMultipartUpload, PutObjectTagging, PutBucketTagging, CreateBucket. Each has a bound in
bytes, which is also what a door has to hold in memory of it, and one in elements. Raised is ``S3Error``: MalformedXML unless said otherwise.
"""

from __future__ import annotations

import re
from typing import NamedTuple
from urllib.parse import unquote_to_bytes
from xml.etree.ElementTree import Element

from monofs.gateways.s3.checksums import BY_ELEMENT, read_value
from monofs.gateways.s3.errors import S3Error
from monofs.gateways.s3.requests import PART_NUMBER_MAX
from monofs.gateways.s3.xml import find, find_all, name_of, parse

DELETE_MAX_BYTES = 8 << 20
"""1,000 keys of 1,024 bytes, each byte a reference of six, and their elements."""
DELETE_MAX = 1000
COMPLETE_MAX_BYTES = 8 << 20
"""10,000 parts with all their checksums, indented."""
TAGGING_MAX_BYTES = 256 << 10
OBJECT_TAGS_MAX = 10
BUCKET_TAGS_MAX = 50
TAG_KEY_MAX = 128
TAG_VALUE_MAX = 256
CREATE_MAX_BYTES = 64 << 10

_CONTROL = re.compile(r"[\x00-\x1f\x7f]").search
_LOCATION = re.compile(r"[A-Za-z0-9:_.-]{0,64}\Z").match
"""Names of regions; radosgw's are of a zone group and a placement."""


class Doomed(NamedTuple):
    """An object to delete; ``etag`` is the one it must have, empty for any."""

    key: str
    version: str
    etag: str


class Completed(NamedTuple):
    """A part as CompleteMultipartUpload names it; ``checksums``: digest by element (``ChecksumCRC32``)."""

    number: int
    etag: str
    checksums: dict[str, bytes]


def read_delete(body: bytes) -> tuple[list[Doomed], bool]:
    """The objects of DeleteObjects, and whether the answer is to be quiet."""
    root = parse(body, "Delete", DELETE_MAX_BYTES, 8 * DELETE_MAX)
    objects = [_doomed(each) for each in find_all(root, "Object")]
    if not 1 <= len(objects) <= DELETE_MAX:
        raise S3Error("MalformedXML", f"DeleteObjects takes 1 to {DELETE_MAX} objects, not {len(objects)}.")
    return objects, (find(root, "Quiet") or "").strip().lower() == "true"


def read_completion(body: bytes) -> list[Completed]:
    """The parts of CompleteMultipartUpload. Raises InvalidPartOrder unless their numbers ascend."""
    root = parse(body, "CompleteMultipartUpload", COMPLETE_MAX_BYTES, 10 * PART_NUMBER_MAX)
    parts = [_completed(each) for each in find_all(root, "Part")]
    if not 1 <= len(parts) <= PART_NUMBER_MAX:
        raise S3Error("MalformedXML", f"CompleteMultipartUpload takes 1 to {PART_NUMBER_MAX} parts, not {len(parts)}.")
    before = 0
    for part in parts:
        if part.number <= before:
            raise S3Error("InvalidPartOrder")
        before = part.number
    return parts


def read_tagging(body: bytes, most: int) -> dict[str, str]:
    """The tags of PutObjectTagging or PutBucketTagging, of which there are at most ``most``. Raises InvalidTag for tags that may not be."""
    root = parse(body, "Tagging", TAGGING_MAX_BYTES, 1000)
    sets = find_all(root, "TagSet")
    if len(sets) != 1:
        raise S3Error("MalformedXML", "A Tagging has one TagSet.")
    return _tags(sets[0], most)


def read_tagging_header(text: str) -> dict[str, str]:
    """The tags of the header x-amz-tagging: ``key=value&...``, percent-encoded. Raises InvalidTag, InvalidArgument."""
    pairs = []
    for pair in text.split("&"):
        if pair:
            name, _, value = pair.replace("+", " ").partition("=")
            try:
                pairs.append(
                    (
                        unquote_to_bytes(name.encode("latin-1")).decode(),
                        unquote_to_bytes(value.encode("latin-1")).decode(),
                    )
                )
            except UnicodeDecodeError:
                raise S3Error("InvalidArgument", "x-amz-tagging is not UTF-8.", ArgumentName="x-amz-tagging") from None
    return check_tags(pairs, OBJECT_TAGS_MAX)


def check_tags(pairs: list[tuple[str, str]], most: int) -> dict[str, str]:
    """These tags. Raises InvalidTag: User Guide, "Categorizing your objects using tags"."""
    if len(pairs) > most:
        raise S3Error("InvalidTag", f"There are at most {most} tags.")
    tags: dict[str, str] = {}
    for key, value in pairs:
        if not 1 <= len(key) <= TAG_KEY_MAX or len(value) > TAG_VALUE_MAX:
            raise S3Error(
                "InvalidTag",
                f"A tag's key has 1 to {TAG_KEY_MAX} characters, its value at most {TAG_VALUE_MAX}.",
                TagKey=key[:TAG_KEY_MAX],
            )
        if key.startswith("aws:") or _CONTROL(key + value):
            raise S3Error(
                "InvalidTag",
                "A tag's key does not begin with aws:, and neither key nor value has control characters.",
                TagKey=key,
            )
        if key in tags:
            raise S3Error("InvalidTag", "Two tags have the same key.", TagKey=key)
        tags[key] = value
    return tags


def read_creation(body: bytes) -> tuple[str, dict[str, str]]:
    """Location constraint and tags of CreateBucket; no body says neither. Raises ``S3Error``: InvalidLocationConstraint; NotImplemented for
    directory buckets."""
    if not body.strip():
        return "", {}
    root = parse(body, "CreateBucketConfiguration", CREATE_MAX_BYTES, 1000)
    if find_all(root, "Bucket") or find_all(root, "Location"):
        raise S3Error("NotImplemented", "Directory buckets are not implemented.")
    location, sets = (find(root, "LocationConstraint") or "").strip(), find_all(root, "Tags")
    if not _LOCATION(location):
        raise S3Error("InvalidLocationConstraint", LocationConstraint=location)
    return location, _tags(sets[0], BUCKET_TAGS_MAX) if sets else {}


def _doomed(element: Element) -> Doomed:
    key = find(element, "Key")
    if not key:
        raise S3Error("MalformedXML", "An Object needs a Key.")
    if find(element, "LastModifiedTime") is not None or find(element, "Size") is not None:
        raise S3Error("NotImplemented", "Deleting by time or size exists for directory buckets only.")
    return Doomed(key, find(element, "VersionId") or "", (find(element, "ETag") or "").strip().strip('"'))


def _completed(element: Element) -> Completed:
    number, etag, checksums = "", "", {}
    for child in element:
        name, text = name_of(child), (child.text or "").strip()
        if name == "PartNumber":
            number = text
        elif name == "ETag":
            etag = text.strip('"')
        elif name.startswith("Checksum"):
            if name not in BY_ELEMENT:
                raise S3Error("NotImplemented", f"{name} is not known here; known are {', '.join(BY_ELEMENT)}.")
            checksums[name] = read_value(BY_ELEMENT[name], text)
    if (
        not etag
        or not number.isascii()
        or not number.isdigit()
        or len(number) > 5
        or not 1 <= int(number) <= PART_NUMBER_MAX
    ):
        raise S3Error("MalformedXML", f"A Part needs an ETag and a PartNumber from 1 to {PART_NUMBER_MAX}.")
    return Completed(int(number), etag, checksums)


def _tags(element: Element, most: int) -> dict[str, str]:
    pairs = []
    for tag in find_all(element, "Tag"):
        key, value = find(tag, "Key"), find(tag, "Value")
        if key is None or value is None:
            raise S3Error("MalformedXML", "A Tag needs a Key and a Value.")
        pairs.append((key, value))
    return check_tags(pairs, most)
