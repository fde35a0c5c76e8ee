"""The small XML documents of changing requests: what is sent, and what comes back. Pure: values in, bytes out, and back.

Listings are read elsewhere (``s3_listing``), refusals too (``s3_errors``). An answer of status 200 may still hold an error: servers that
take long to act begin their answer before they know how it ends.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import NamedTuple
from xml.sax.saxutils import escape

from monofs.model.errors import UfsBadBody
from monofs.ufs.s3_listing import strong_etag

_HEAD = rb"\s*(?:<\?xml[^>]*\?>\s*)?"
_ERROR = re.compile(_HEAD + rb"<Error[\s>]")
_UPLOAD = re.compile(rb"<UploadId>([^<]+)</UploadId>")
_ETAG = re.compile(rb"<ETag>([^<]*)</ETag>")
_MODIFIED = re.compile(rb"<LastModified>([^<]+)</LastModified>")
_DELETED = re.compile(_HEAD + rb"<DeleteResult[\s/>]")
_FAILED = re.compile(rb"<Error>(.*?)</Error>", re.DOTALL)
_TAG = re.compile(rb"<Tag>(.*?)</Tag>", re.DOTALL)
_VALUE = re.compile(rb"<Value>([^<]*)</Value>")
_KEY = re.compile(rb"<Key>([^<]*)</Key>")
_PLAIN = re.compile(r"[^\x00-\x1f\x7f\ufffe\uffff]*\Z")
"""Keys an XML 1.0 document holds, and every server reads back, unchanged."""


class Made(NamedTuple):
    """What an answer tells of the object it made; ``etag`` is empty and ``modified_ns`` 0 where it does not."""

    etag: str
    modified_ns: int


def tags_document(tags: Mapping[str, str]) -> bytes:
    """The body of PutObjectTagging."""
    each = [f"<Tag><Key>{escape(key)}</Key><Value>{escape(value)}</Value></Tag>" for key, value in tags.items()]
    return (
        f'<Tagging xmlns="http://s3.amazonaws.com/doc/2006-03-01/"><TagSet>{"".join(each)}</TagSet></Tagging>'.encode()
    )


def read_tags(body: bytes) -> dict[str, str]:
    """What GetObjectTagging tells."""
    found = {}
    for tag in _TAG.findall(body):
        key, value = _KEY.search(tag), _VALUE.search(tag)
        if key is not None:
            found[_plain(key[1])] = "" if value is None else _plain(value[1])
    return found


def _plain(text: bytes) -> str:
    return html.unescape(text.decode("utf-8", "replace"))


def is_error(body: bytes) -> bool:
    """Whether an answer of status 200 holds an error."""
    return _ERROR.match(body) is not None


def read_upload_id(body: bytes, what: str) -> str:
    """The id of the upload that was begun. Raises ``UfsBadBody``."""
    found = _UPLOAD.search(body)
    if found is None:
        raise UfsBadBody(f"the store did not name the upload it began for {what}")
    return html.unescape(found[1].decode("utf-8", "replace")).strip()


def read_made(body: bytes) -> Made:
    """Etag and time of a copied or completed object."""
    etag, modified = _ETAG.search(body), _MODIFIED.search(body)
    modified_ns = 0
    if modified is not None:
        try:
            modified_ns = int(datetime.fromisoformat(modified[1].decode()).timestamp() * 1000) * 1_000_000
        except ValueError:
            pass  # a listing will tell
    return Made(strong_etag(html.unescape(etag[1].decode("utf-8", "replace"))) if etag else "", modified_ns)


def parts_document(parts: Iterable[tuple[int, str]]) -> bytes:
    """CompleteMultipartUpload of (number, etag without quotes), in order of their numbers."""
    listed = "".join(
        f'<Part><PartNumber>{number}</PartNumber><ETag>"{escape(etag)}"</ETag></Part>' for number, etag in sorted(parts)
    )
    return f'<CompleteMultipartUpload xmlns="http://s3.amazonaws.com/doc/2006-03-01/">{listed}</CompleteMultipartUpload>'.encode()


def is_plain(key: bytes) -> bool:
    """Whether a document can name ``key``."""
    try:
        return _PLAIN.match(key.decode("utf-8")) is not None
    except UnicodeDecodeError:
        return False


def delete_document(keys: Iterable[bytes]) -> bytes:
    """Delete of plain keys; the answer names only failures."""
    listed = "".join(f"<Object><Key>{escape(key.decode('utf-8'))}</Key></Object>" for key in keys)
    return f'<Delete xmlns="http://s3.amazonaws.com/doc/2006-03-01/"><Quiet>true</Quiet>{listed}</Delete>'.encode()


def read_failed(body: bytes, what: str) -> dict[bytes, bytes]:
    """Keys that were not deleted, each with its error document. Raises ``UfsBadBody``."""
    if not _DELETED.match(body):
        raise UfsBadBody(f"the store's answer for {what} is no DeleteResult")
    failed: dict[bytes, bytes] = {}
    for found in _FAILED.findall(body):
        key = _KEY.search(found)
        if key is None:
            raise UfsBadBody(f"the store did not say which key it failed to delete of {what}")
        failed[html.unescape(key[1].decode("utf-8", "replace")).encode()] = found
    return failed
