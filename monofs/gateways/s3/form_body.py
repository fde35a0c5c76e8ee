"""The body of an HTML form (RFC 7578, multipart/form-data) as it comes: small fields, then one file whose bytes are handed on. Pure.

S3 takes the fields before the file, and ignores what follows it ("Browser-Based Uploads Using POST", API Reference). Invariant: whatever bytes come, the
result is fields, pieces of the file and an end, or an ``S3Error``; of a form there is never more in memory than ``FIELDS_MAX_BYTES`` of fields and what
came last. Not here: what the fields mean (``forms``).
"""

from __future__ import annotations

import re
from collections.abc import Callable

from monofs.gateways.s3.errors import S3Error

FIELDS_MAX_BYTES = 64 << 10
"""Of all that comes before the file. AWS: 20 KB."""
BOUNDARY_MAX_BYTES = 70
"""RFC 2046, section 5.1.1."""

_PARAMETER = re.compile(r';\s*([A-Za-z0-9!#$&.^_*+-]+)="?((?<=")(?:[^"\\]|\\.)*|[^";\s]*)"?')
_QUOTED = re.compile(r'\\(")').sub


class FormBody:
    """One form. ``on_fields`` is called once, before the first byte of the file, with the fields by lower-case name, first ones first, and the file's
    name and Content-Type; what it raises ends the form."""

    def __init__(self, content_type: str, on_fields: Callable[[dict[str, str], str, str], None]) -> None:
        """Raises ``S3Error`` (MalformedPOSTRequest) for a Content-Type without a boundary."""
        boundary = _parameters(content_type).get("boundary", "")
        if not 1 <= len(boundary) <= BOUNDARY_MAX_BYTES:
            raise _malformed("its Content-Type has no valid boundary")
        self._delimiter = b"\r\n--" + boundary.encode("latin-1")
        self._on_fields = on_fields
        self._fields: dict[str, str] = {}
        self._buffer = bytearray(b"\r\n")  # as if a line had ended: the first delimiter is found like the others
        self._head = 0
        """Bytes of the form before the file."""
        self._field: str | None = None
        self._in_part = self._in_file = self._ended = False

    def feed(self, data: bytes | memoryview) -> list[memoryview]:
        """What of these bytes is the file's. Raises ``S3Error``."""
        if self._ended:
            return []  # what follows the file
        self._buffer += data
        if not self._in_file:
            self._read_fields()
        return self._read_file() if self._in_file else []

    def finish(self) -> None:
        """No more comes. Raises ``S3Error`` unless there was a file, complete."""
        if not self._ended:
            if self._in_file:
                raise S3Error("IncompleteBody", "The form ends within its file.")
            raise S3Error("IncorrectNumberOfFilesInPostRequest")

    def _read_fields(self) -> None:
        while not self._in_file:
            if self._field is None and self._in_part:
                taken = self._take(b"\r\n\r\n")
                if taken is None:
                    return
                self._begin_part(taken)
                continue
            taken = self._take(self._delimiter)
            if taken is None:
                return
            if self._field is not None:
                try:
                    self._fields.setdefault(self._field, taken.decode())
                except UnicodeDecodeError:
                    raise _malformed("a field is not UTF-8") from None
            self._field, self._in_part = None, True

    def _begin_part(self, head: bytes) -> None:
        """``head``: what follows a delimiter, up to the empty line: a line end and headers, or two dashes at the end of all parts."""
        if head.startswith(b"--"):
            raise S3Error("IncorrectNumberOfFilesInPostRequest")
        headers = {}
        for line in head.decode("utf-8", "replace").split("\r\n")[1:]:
            name, _, value = line.partition(":")
            headers[name.strip().lower()] = value.strip()
        found = _parameters(headers.get("content-disposition", ""))
        self._field = found.get("name", "").lower()
        if not self._field:
            raise _malformed("a field has no name")
        if self._field == "file":
            self._in_file = True
            self._on_fields(self._fields, found.get("filename", ""), headers.get("content-type", ""))

    def _take(self, end: bytes) -> bytes | None:
        """What lies before ``end``; None when it has not come. Raises ``S3Error`` when too much has."""
        at = self._buffer.find(end)
        if self._head + (len(self._buffer) if at < 0 else at) > FIELDS_MAX_BYTES:
            raise S3Error("MaxPostPreDataLengthExceededError")
        if at < 0:
            if self._in_part and self._field is None and self._buffer.startswith(b"--"):
                raise S3Error("IncorrectNumberOfFilesInPostRequest")
            return None
        taken = bytes(self._buffer[:at])
        del self._buffer[: at + len(end)]
        self._head += at + len(end)
        return taken

    def _read_file(self) -> list[memoryview]:
        at = self._buffer.find(self._delimiter)
        if at >= 0:
            self._ended = True
            piece = bytes(self._buffer[:at])
            self._buffer.clear()
        else:
            kept = len(self._delimiter) - 1  # may be the beginning of one
            piece = bytes(self._buffer[:-kept])
            del self._buffer[:-kept]
        return [memoryview(piece)] if piece else []


def _parameters(value: str) -> dict[str, str]:
    """Parameters of a header such as Content-Disposition, by lower-case name. Browsers write quotes in names as ``%22``, others as ``\\"``."""
    return {name.lower(): _QUOTED(r"\1", text) for name, text in _PARAMETER.findall(value)}


def _malformed(why: str) -> S3Error:
    return S3Error("MalformedPOSTRequest", f"The body is no well-formed multipart/form-data: {why}.")
