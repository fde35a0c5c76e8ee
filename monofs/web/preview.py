"""What the first bytes of a file are, for people: a picture, JSON, text in some charset, or just bytes. Pure.

Bytes decide, the name does not, but that `.json` is tried as JSON. Invariant: the answer is bounded whatever the bytes are: ``TEXT_MAX`` characters or ``BYTES_MAX`` bytes as hex.
"""

from __future__ import annotations

import codecs
import re

import msgspec

from monofs.model.errors import InvalidArgument

LOOKED_AT_BYTES = 256 << 10
TEXT_MAX = 64 << 10
"""Characters of plain text."""
JSON_TEXT_MAX = 256 << 10
"""Characters of JSON, indented."""
JSON_DEPTH_MAX = 40
BYTES_MAX = 4096
CHARSETS = ("utf-8", "utf-16", "latin-1", "windows-1252", "shift_jis", "gb18030", "euc-kr", "koi8-r")
_MARKS = ((codecs.BOM_UTF8, "utf-8-sig"), (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"))
_CONTROL = re.compile(rb"[\x00-\x08\x0e-\x1a\x1c-\x1f\x7f]")
_STRING = re.compile(r'"(?:[^"\\]|\\.)*"', re.DOTALL)
_SVG = re.compile(rb"^(?:\xef\xbb\xbf)?\s*(?:<\?xml[^>]*>\s*)?(?:<!--.*?-->\s*)*(?:<!DOCTYPE svg[^>]*>\s*)?<svg[\s>]", re.DOTALL)  # fmt: skip


class Column(msgspec.Struct):
    """Of Parquet."""

    name: str
    type: str


class Preview(msgspec.Struct):
    """``kind``: empty, picture, json, text, bytes (``text`` is hex) or parquet. ``is_whole``: the file ends with what is shown. ``note``: what else to know."""

    kind: str
    size: int
    is_whole: bool = True
    text: str = ""
    charset: str = ""
    content_type: str = ""
    columns: list[Column] = []
    rows: list[list[str | None]] = []
    row_count: int = 0
    note: str = ""


def picture_type(start: bytes) -> str:
    """The MIME type of a picture browsers show, by its first bytes; '' of anything else."""
    if start.startswith(b"\x89PNG\r\n\x1a\n"):
        return "image/png"
    if start.startswith(b"\xff\xd8\xff"):
        return "image/jpeg"
    if start.startswith((b"GIF87a", b"GIF89a")):
        return "image/gif"
    if start[:4] == b"RIFF" and start[8:12] == b"WEBP":
        return "image/webp"
    return "image/svg+xml" if _SVG.match(start[:4096]) else ""


def preview_of(path: str, start: bytes, size: int, charset: str, picture_max_bytes: int) -> Preview:
    """``start``: the first ``LOOKED_AT_BYTES``. Raises ``InvalidArgument`` for a charset that is not known."""
    if charset not in ("auto", "bytes", *CHARSETS):
        raise InvalidArgument(f"charset is auto, bytes, or {', '.join(CHARSETS)}, not {charset[:50]!r}")
    if not start:
        return Preview("empty", size)
    if charset == "bytes":
        return as_bytes(start, size)
    kind = picture_type(start) if charset == "auto" else ""
    if kind and size <= picture_max_bytes:
        return Preview("picture", size, content_type=kind)
    is_whole = size <= len(start)
    if charset == "auto":
        charset = guess(start, is_whole=is_whole)
        if not charset:
            return as_bytes(start, size)
    if charset == "utf-16" and not start.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        charset = "utf-16-le"  # unmarked, as Windows writes it
    text = codecs.getincrementaldecoder(charset)(errors="replace").decode(start, final=is_whole)
    if is_whole and (path.lower().endswith(".json") or text.lstrip()[:1] in ("{", "[")):
        pretty = pretty_json(text)
        if pretty:
            return Preview("json", size, len(pretty) <= JSON_TEXT_MAX, pretty[:JSON_TEXT_MAX], charset)
    return Preview("text", size, is_whole and len(text) <= TEXT_MAX, text[:TEXT_MAX], charset)


def guess(start: bytes, *, is_whole: bool) -> str:
    """The charset of text; '': these are no text."""
    for mark, charset in _MARKS:
        if start.startswith(mark):
            return charset
    if _CONTROL.search(start):
        return ""
    try:
        codecs.getincrementaldecoder("utf-8")().decode(start, final=is_whole)
    except UnicodeDecodeError:
        return "windows-1252"
    return "utf-8"


def pretty_json(text: str) -> str:
    """Indented; '' when it is not JSON, or so deep that indenting would make it huge."""
    depth = deepest = 0
    for each in re.findall(r"[\[\]{}]", _STRING.sub("", text)):
        depth += 1 if each in "[{" else -1
        deepest = max(deepest, depth)
    if deepest > JSON_DEPTH_MAX:
        return ""
    try:
        return msgspec.json.format(text.encode(), indent=2).decode()
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        return ""


def as_bytes(start: bytes, size: int) -> Preview:
    """Offset, hex and ASCII, sixteen a line."""
    lines = []
    for offset in range(0, min(len(start), BYTES_MAX), 16):
        line = start[offset : offset + 16]
        shown = "".join(chr(byte) if 32 <= byte < 127 else "." for byte in line)
        lines.append(f"{offset:08x}  {line[:8].hex(' '):23}  {line[8:].hex(' '):23}  {shown}")
    return Preview("bytes", size, size <= BYTES_MAX, "\n".join(lines))
