"""Reading a ListObjectsV2 answer. Pure: bytes in, one merged page out.

Listings are asked for with ``encoding-type=url``, so any key survives XML. Keys come back with space as ``+`` (AWS, MinIO) or ``%20``
(radosgw), and a literal plus as ``%2B`` everywhere.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from operator import itemgetter
from typing import NamedTuple
from urllib.parse import unquote_to_bytes
from xml.etree import ElementTree as ET

from monofs.model.errors import UfsBadBody

_FORBIDDEN = re.compile(
    r"[\x00-\x08\x0b\x0c\x0e-\x1f\ufffe\uffff]|&#(?:x0*(?:[0-8bcBCeEfF]|1[0-9a-fA-F]|[fF]{3}[eEfF])|0*(?:[0-8]|1[124-9]|2\d|3[01]));"
)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Listed(NamedTuple):
    """A key, or a common prefix (``etag`` None), in full."""

    key: bytes
    size: int
    mtime_ns: int
    etag: str | None


class ListPage(NamedTuple):
    """One answer; ``items`` are in key order. Cut: more keys follow the last one.

    Continuation tokens are not used: radosgw's are keys written into XML unencoded. ``start-after`` says the same everywhere.
    """

    items: list[Listed]
    cut: bool


def read_list_page(body: bytes) -> ListPage:
    """Raises ``UfsBadBody`` for anything that is not a complete listing."""
    try:
        root = _parse(body)
        name = root.tag.rpartition("}")
        space = f"{name[0]}}}" if name[1] else ""
        if name[2] != "ListBucketResult":
            raise ValueError(f"unexpected <{name[2]}>")
        contents = [_item(element, space) for element in root.iterfind(f"{space}Contents")]
        cut = root.findtext(f"{space}IsTruncated") == "true"
        encoded = root.findtext(f"{space}EncodingType") == "url"
        prefixes = [
            Listed(_key(element.text or "", encoded=encoded), 0, 0, None)
            for element in root.iterfind(f"{space}CommonPrefixes/{space}Prefix")
        ]
        items = [
            Listed(_key(key, encoded=encoded), int(size), _time_ns(time), etag.strip('"') if etag[:2] != "W/" else "")
            for key, size, time, etag in contents
        ]
    except (ET.ParseError, ValueError, TypeError, KeyError) as error:
        raise UfsBadBody(f"the store's listing cannot be read: {error}") from None
    if prefixes:
        items = sorted(items + prefixes, key=itemgetter(0))
    if cut and not items:
        raise UfsBadBody("the store's listing is cut but empty")
    return ListPage(items, cut)


def _parse(body: bytes) -> ET.Element:
    """The document. Elements other than keys may echo characters XML forbids; those are dropped, and only when they stop the parser."""
    try:
        return ET.fromstring(body)  # noqa: S314 - expat >= 2.4.1 refuses entity bombs; the body is bounded
    except ET.ParseError:
        if b"<EncodingType>url</EncodingType>" not in body:
            raise
        return ET.fromstring(_FORBIDDEN.sub("", body.decode("utf-8", "replace")))  # noqa: S314 - as above


def _item(element: ET.Element, space: str) -> tuple[str, str, str, str]:
    fields = {child.tag: child.text or "" for child in element}
    return fields[f"{space}Key"], fields[f"{space}Size"], fields[f"{space}LastModified"], fields.get(f"{space}ETag", "")


def _key(text: str, *, encoded: bool) -> bytes:
    if not encoded:
        return text.encode("utf-8")
    return unquote_to_bytes(text.replace("+", " "))


def _time_ns(text: str) -> int:
    delta = datetime.fromisoformat(text) - _EPOCH
    return (delta.days * 86400 + delta.seconds) * 1_000_000_000 + delta.microseconds * 1000
