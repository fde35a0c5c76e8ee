"""Conditions of requests: what If-Match and its relatives say of the object that is there. Pure.

RFC 9110, section 13, in the order of section 13.2.2: If-Match, else If-Unmodified-Since; then If-None-Match, else If-Modified-Since. S3 keeps to it
(GetObject, HeadObject, CopyObject), with 412 for each condition of a copy's source. Changes know If-Match and If-None-Match only (Amazon S3 User
Guide, "Conditional requests"); what they say has to be decided where the change is, so it is handed on as a :class:`WriteCondition`.

ETags here are without quotes; all of ours are strong. Times are compared in whole seconds, as Last-Modified tells them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import NamedTuple

from monofs.gateways.s3.errors import S3Error

ANY = "*"
_TAGS = re.compile(r'[ \t]*(W/)?(?:"([^"]*)"|([^",\s]+))[ \t]*(?:,|\Z)')
_SOURCE = "x-amz-copy-source-"


class Tag(NamedTuple):
    """An entity tag as a client sent it."""

    etag: str
    weak: bool


class WriteCondition(NamedTuple):
    """What has to be at a key for a change to happen. ``absent``: nothing; else, unless ``etags`` is empty, an object with one of these
    (``ANY``: any object)."""

    absent: bool = False
    etags: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return self.absent or bool(self.etags)

    def check(self, etag: str | None) -> None:
        """Raise ``S3Error`` unless it holds of the object with this etag; None: there is no object."""
        if self.absent and etag is not None:
            raise S3Error("PreconditionFailed", "The key exists already.", Condition="If-None-Match")
        if self.etags and etag is None:
            raise S3Error("NoSuchKey")
        if self.etags and ANY not in self.etags and etag not in self.etags:
            raise S3Error("PreconditionFailed", "The ETag of the object is another one.", Condition="If-Match")


def check_read(headers: Mapping[str, str], etag: str, mtime_s: int, now_s: float) -> None:
    """Raise ``S3Error``, PreconditionFailed or NotModified, unless an object may be answered to GET or HEAD with these headers."""
    failed = _failed(headers, "", etag, mtime_s, now_s)
    if failed in ("if-none-match", "if-modified-since"):
        raise S3Error("NotModified")
    if failed:
        raise S3Error("PreconditionFailed", Condition=failed)


def check_source(headers: Mapping[str, str], etag: str, mtime_s: int, now_s: float) -> None:
    """The same for the source of a copy, whose conditions are x-amz-copy-source-if-*: each that does not hold is PreconditionFailed."""
    failed = _failed(headers, _SOURCE, etag, mtime_s, now_s)
    if failed:
        raise S3Error("PreconditionFailed", Condition=failed)


def may_use_range(headers: Mapping[str, str], etag: str, mtime_s: int) -> bool:
    """Whether a Range counts: If-Range (RFC 9110, section 13.1.5), if there is one, names this version by its strong etag or exact time."""
    text = headers.get("if-range")
    if text is None:
        return True
    if text.startswith(('"', "W/")):
        return text == f'"{etag}"'
    return _read_date(text) == mtime_s


def read_write_condition(headers: Mapping[str, str]) -> WriteCondition:
    """The condition of a PUT, copy, completion or DELETE. Raises ``S3Error`` (NotImplemented) for one that S3 does not know."""
    match, none = headers.get("if-match"), headers.get("if-none-match")
    if none is not None:
        if none.strip() != ANY:
            raise S3Error("NotImplemented", "If-None-Match of a change can only be *.", Header="If-None-Match")
        if match is not None:
            raise S3Error("NotImplemented", "A change has either If-Match or If-None-Match.", Header="If-Match")
        return WriteCondition(absent=True)
    if match is None:
        return WriteCondition()
    tags = read_tags(match)
    if not tags:
        raise S3Error("InvalidArgument", "If-Match is no ETag.", ArgumentName="If-Match", ArgumentValue=match)
    return WriteCondition(etags=tuple(tag.etag for tag in tags if not tag.weak) or ("",))


def read_tags(text: str) -> list[Tag]:
    """The entity tags of If-Match or If-None-Match, ``*`` as :data:`ANY`. Tags without quotes, which many clients send, count. What is malformed
    ends the list."""
    tags, at = [], 0
    while at < len(text) and (found := _TAGS.match(text, at)):
        tags.append(Tag(found[2] if found[3] is None else found[3], found[1] is not None))
        at = found.end()
    return tags


def _failed(headers: Mapping[str, str], prefix: str, etag: str, mtime_s: int, now_s: float) -> str:
    """The name of the first condition that does not hold, in the RFC's order; empty when all do."""
    match, none = headers.get(f"{prefix}if-match"), headers.get(f"{prefix}if-none-match")
    if match is not None:
        if not any(tag.etag in (etag, ANY) and not tag.weak for tag in read_tags(match)):
            return f"{prefix}if-match"
    else:
        until_s = _read_date(headers.get(f"{prefix}if-unmodified-since"))
        if until_s is not None and mtime_s > until_s:
            return f"{prefix}if-unmodified-since"
    if none is not None:
        if any(tag.etag in (etag, ANY) for tag in read_tags(none)):
            return f"{prefix}if-none-match"
    else:
        since_s = _read_date(headers.get(f"{prefix}if-modified-since"))
        if since_s is not None and since_s <= now_s and mtime_s <= since_s:
            return f"{prefix}if-modified-since"
    return ""


def _read_date(text: str | None) -> int | None:
    """Seconds since 1970 of an HTTP date; None when there is none, or it is none (then its condition is ignored: section 13.1.3)."""
    if text is None:
        return None
    try:
        found = parsedate_to_datetime(text)
        return int((found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp())
    except (ValueError, TypeError, IndexError, OverflowError):
        return None
