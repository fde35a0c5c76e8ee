"""Reading a ListObjectsV2 answer. Pure: bytes in, one merged page out.

A page of 1,000 keys is 300 KB of XML; building a tree of it held the interpreter for 4.6 ms in one go, which a master's reactor feels
as a stop. The grammar is small and fixed, so fields are cut out by name, in any order: a third less work, in small steps.
No entity is ever expanded but the five of XML and numbers.

Listings are asked for with ``encoding-type=url``, so any key survives XML. Keys come back with space as ``+`` (AWS, MinIO) or ``%20``
(radosgw), and a literal plus as ``%2B`` everywhere. Continuation tokens are not used: radosgw's are keys written into XML
unencoded; ``start-after`` says the same everywhere.
"""

from __future__ import annotations

import html
import re
from datetime import UTC, datetime
from operator import itemgetter
from typing import NamedTuple
from urllib.parse import unquote_to_bytes

from monofs.model.errors import UfsBadBody

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_FIELD = re.compile(rb"<(Key|Size|LastModified|ETag)>([^<]*)</")
_GROUP = re.compile(rb"<CommonPrefixes>(.*?)</CommonPrefixes>", re.DOTALL)
_PREFIX = re.compile(rb"<Prefix>([^<]*)</Prefix>")
_START = re.compile(rb"\s*(?:<\?xml[^>]*\?>\s*)?<ListBucketResult[\s>]")


class Listed(NamedTuple):
    """A key, or a common prefix (``etag`` None), in full. ``etag`` is without quotes, empty when there is no strong one."""

    key: bytes
    size: int
    mtime_ns: int
    etag: str | None


class ListPage(NamedTuple):
    """One answer; ``items`` are in key order. Cut: more keys follow the last one."""

    items: list[Listed]
    cut: bool


def read_list_page(body: bytes) -> ListPage:
    """Raises ``UfsBadBody`` for anything that is not a complete listing."""
    if not _START.match(body) or not body.rstrip().endswith(b"</ListBucketResult>"):
        raise UfsBadBody("the store's listing is not a complete ListBucketResult")
    encoded = b"<EncodingType>url</EncodingType>" in body
    try:
        items = [_item(piece, encoded=encoded) for piece in body.split(b"<Contents>")[1:]]
        prefixes = [
            Listed(_key(prefix, encoded=encoded), 0, 0, None)
            for group in _GROUP.findall(body)
            for prefix in _PREFIX.findall(group)
        ]
    except (KeyError, ValueError, TypeError) as error:
        raise UfsBadBody(f"the store's listing cannot be read: {error!r}") from None
    if prefixes:
        items = sorted(items + prefixes, key=itemgetter(0))
    cut = b"<IsTruncated>true</IsTruncated>" in body
    if cut and not items:
        raise UfsBadBody("the store's listing is cut but empty")
    return ListPage(items, cut)


def _item(piece: bytes, *, encoded: bool) -> Listed:
    fields: dict[bytes, bytes] = dict(_FIELD.findall(piece))
    etag = fields.get(b"ETag", b"").removeprefix(b"&quot;").removesuffix(b"&quot;").decode()
    if "&" in etag:
        etag = html.unescape(etag)
    return Listed(
        _key(fields[b"Key"], encoded=encoded),
        int(fields[b"Size"]),
        _time_ns(fields[b"LastModified"].decode()),
        strong_etag(etag),
    )


def strong_etag(value: str) -> str:
    """An etag without its quotes; empty when there is none, or a weak one, which names no bytes."""
    return "" if value.startswith("W/") else value.strip('"')


def _key(text: bytes, *, encoded: bool) -> bytes:
    if b"&" in text:  # radosgw leaves a quote in URL encoding and escapes it for XML
        text = html.unescape(text.decode("utf-8")).encode("utf-8")
    if not encoded:
        return text
    return unquote_to_bytes(text.replace(b"+", b" ")) if b"%" in text or b"+" in text else text


def _time_ns(text: str) -> int:
    delta = datetime.fromisoformat(text) - _EPOCH
    return (delta.days * 86400 + delta.seconds) * 1_000_000_000 + delta.microseconds * 1000
