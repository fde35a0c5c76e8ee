"""The head of a request as it came: method, path, query and headers, decoded once and kept as signed. Pure.

Text is latin-1: every byte of the wire is one character, so a signature is computed over exactly what was sent. Only what was percent-encoded
is UTF-8. Invariant: whatever bytes come, the result is a :class:`Head` or an ``S3Error``. Not here: what the request asks for (``requests``).
"""

from __future__ import annotations

import re
from urllib.parse import unquote_to_bytes

import msgspec

from monofs.gateways.s3.errors import S3Error

_TARGET = re.compile(r'[!"$-~\x80-\xff]*\Z').match
"""No white space or control characters, and no fragment."""
_BROKEN_ESCAPE = re.compile(r"%(?![0-9A-Fa-f]{2})").search


class Head(msgspec.Struct, frozen=True, gc=False):
    """``path``: as sent, from its first slash; ``pairs``: names and values of the query, decoded, in the order they came in;
    ``headers``: by lower-case name, without white space around them, repeated ones joined with commas (RFC 9110, section 5.3)."""

    method: str
    path: str
    pairs: list[tuple[str, str]]
    headers: dict[str, str]


def read_head(method: str, target: str, headers: dict[str, str]) -> Head:
    """The head of ``METHOD target`` with these headers, as ``http_head`` reads them. Raises ``S3Error`` (InvalidURI)."""
    is_plain = target.isascii() and target.isprintable() and " " not in target and "#" not in target
    if not is_plain and not _TARGET(target):
        raise S3Error("InvalidURI", "The request target has characters that have to be percent-encoded.")
    if "%" in target and _BROKEN_ESCAPE(target):
        raise S3Error("InvalidURI", "A percent sign in the request target is not followed by two hexadecimal digits.")
    if not target.startswith("/"):
        target = _without_authority(target, headers.get("host", ""))
    path, _, query = target.partition("?")
    return Head(method, path, _pairs(query) if query else [], headers)


def decode(text: str) -> str:
    """``text`` of a path or header with its percent-encoding undone, as UTF-8. Raises ``S3Error`` (InvalidURI)."""
    if "%" not in text and text.isascii():
        return text
    try:
        return unquote_to_bytes(text.encode("latin-1")).decode("utf-8")
    except UnicodeDecodeError:
        raise S3Error("InvalidURI", "The request target is not UTF-8 once its percent-encoding is undone.") from None


def _pairs(query: str) -> list[tuple[str, str]]:
    """Every ``name=value`` between ``&``; a missing value is empty, ``+`` is a space, as forms have it and S3 takes it."""
    pairs = []
    for pair in query.split("&"):
        if pair:
            name, _, value = pair.replace("+", " ").partition("=")
            pairs.append((decode(name), decode(value)))
    return pairs


def _without_authority(target: str, host: str) -> str:
    """The path of a target in absolute form (RFC 9112, section 3.2.2), which has to be of the host that is asked."""
    scheme, found, rest = target.partition("://")
    authority, slash, path = rest.partition("/")
    if not found or scheme.lower() not in ("http", "https") or authority.lower() != host.lower():
        raise S3Error("InvalidURI", "The request target has to be a path that begins with a slash.")
    return slash + path if slash else "/"
