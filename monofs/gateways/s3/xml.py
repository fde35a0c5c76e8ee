"""XML as S3 writes and reads it: text that is safe in a document, and small documents of strangers. Pure.

Invariant: whatever bytes are parsed, the work is bounded by their number, nothing is fetched, and no entity is ever declared or expanded; what
is refused is ``MalformedXML``. Not here: what the documents mean (``documents``, ``bodies``).
"""

from __future__ import annotations

import re
from html import escape as _escape_markup
from urllib.parse import quote
from xml.etree.ElementTree import Element, ParseError, fromstring

from monofs.gateways.s3.errors import S3Error

HEAD = '<?xml version="1.0" encoding="UTF-8"?>\n'
NAMESPACE = ' xmlns="http://s3.amazonaws.com/doc/2006-03-01/"'
DEPTH_MAX = 8
"""The deepest body S3 knows has five levels."""

_PLAIN = re.compile(r"[^&<>\"'\x00-\x1f\x7f\ufffe\uffff]*\Z").match
_CONTROL = re.compile("[\x00-\x1f\x7f\ufffe\uffff]")
_UNRESERVED = re.compile(r"[A-Za-z0-9._~/-]*\Z").match


def escape(text: str) -> str:
    """``text`` as content of an element. Control characters become references, as at AWS.

    XML 1.0 has no way to say most of them, so strict readers refuse such a document: clients that meet such keys ask for ``encoding-type=url``.
    """
    if _PLAIN(text):
        return text
    return _CONTROL.sub(lambda found: f"&#x{ord(found[0]):X};", _escape_markup(text, quote=True))


def escape_prose(text: str) -> str:
    """``text`` that people read: what no document can hold is shown as U+FFFD, so the document always parses."""
    if _PLAIN(text):
        return text
    return _escape_markup(_CONTROL.sub(lambda found: found[0] if found[0] in "\t\n" else "\ufffd", text), quote=True)


def encode_url(text: str) -> str:
    """``text`` under ``encoding-type=url``: UTF-8, percent-encoded but for letters, digits and ``-._~/``.

    A space is ``%20``, which both readers that take ``+`` for a space and those that do not understand.
    """
    return text if _UNRESERVED(text) else quote(text, safe="/-._~")


def parse(body: bytes, root: str, most_bytes: int, most_elements: int) -> Element:
    """The document ``body``, whose outermost element is ``root``, in S3's namespace, another one or none.

    Raises ``S3Error`` (MalformedXML) when it is not well-formed UTF-8, larger or deeper than the bounds, has a document type (the only way to declare
    entities), or begins with another element.
    """
    if len(body) > most_bytes:
        raise S3Error("MalformedXML", f"The XML of this request is longer than {most_bytes} bytes.")
    try:
        text = body.decode("utf-8-sig")
        if "<!DOCTYPE" in text:
            raise S3Error(
                "MalformedXML", "The XML of this request has a document type declaration, which is not accepted."
            )
        if text.count("<") > 2 * most_elements:
            raise S3Error("MalformedXML", f"The XML of this request has more than {most_elements} elements.")
        found = fromstring(text)  # noqa: S314 - a str, so no encoding hides a document type, and without one there are no entities
    except (ParseError, UnicodeDecodeError) as error:
        raise S3Error("MalformedXML", f"The XML of this request is not well-formed: {error}.") from None
    level = [found]
    for _ in range(DEPTH_MAX):
        level = [child for element in level for child in element]
    if level:
        raise S3Error("MalformedXML", f"The XML of this request is deeper than {DEPTH_MAX} elements.")
    if name_of(found) != root:
        raise S3Error("MalformedXML", f"The XML of this request has to begin with the element {root}.")
    return found


def name_of(element: Element) -> str:
    """Its name without its namespace."""
    return element.tag.rpartition("}")[2]


def find(element: Element, name: str) -> str | None:
    """The text of the first child called ``name``."""
    for child in element:
        if name_of(child) == name:
            return child.text or ""
    return None


def find_all(element: Element, name: str) -> list[Element]:
    """Every child called ``name``."""
    return [child for child in element if name_of(child) == name]
