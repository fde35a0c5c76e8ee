"""The head of an HTTP/1.x request: bytes in, a :class:`Head` or a :class:`BadRequest` out. Pure.

``httptools`` judges the syntax; what it lets pass and RFC 9112 does not, or only with a choice (framing in two ways, other protocols,
lists of codings), is refused here, because a proxy before us may choose otherwise and then sees other requests than we do (smuggling).

Invariant: a head that is accepted has exactly one length for everyone who reads the RFC. Not here: the body (http_body.py).
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

import httptools
import msgspec

from monofs.model.errors import Internal

Header = tuple[bytes, bytes]
Headers = Iterable[Header] | bytes
"""Of an answer: each by itself, or as :func:`join_headers` made them."""
METHODS = frozenset({"GET", "HEAD", "PUT", "POST", "DELETE", "OPTIONS", "PATCH", "TRACE"})
"""Others are answered 501: what they do to connections (CONNECT) or mean by their bodies is not known here."""
_NOTED = frozenset({"host", "connection", "content-length", "expect", "transfer-encoding"})
_ABSOLUTE = re.compile(r"https?://([^/?#@]+)((?:[/?][^#]*)?)", re.IGNORECASE)
_LENGTH_DIGITS = 18
_LINE_REST = 32
"""Of a request's first line beside its target."""


def join_headers(headers: Iterable[Header]) -> bytes:
    """The lines of these headers, as they are sent. Raises ``Internal`` when one has a line end in it."""
    lines = [b"%b: %b\r\n" % header for header in headers]
    joined = b"".join(lines)
    if joined.count(b"\n") != len(lines) or joined.count(b"\r") != len(lines):
        raise Internal("a header of an answer has line ends in it")
    return joined


class BadRequest(Exception):
    """What was said cannot be answered otherwise, and what follows it is not looked at: ``status``, ``reason`` for people."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status, self.reason = status, reason


class Head(msgspec.Struct, gc=False):
    """One request without its body."""

    method: str
    target: str
    """As it was sent: printable ASCII, not decoded, in origin, absolute or asterisk form."""
    minor: int
    """Of the version: HTTP/1.0 or HTTP/1.1."""
    headers: dict[str, str]
    """By lower-case name, without the white space around them, repeated ones joined with commas (RFC 9110, section 5.3). Every byte is one character
    (latin-1)."""
    length: int | None
    """Bytes of the body; None: chunked."""
    keeps: bool
    """Whether the client goes on with this connection."""
    expects: bool
    """Whether the client waits for `100 Continue` before it sends the body."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HeadLimits:
    """``httptools`` has none."""

    target_bytes: int = 8 << 10
    """A longer target is answered 414. A key of 1,024 bytes has 3,072 when all of it is escaped; a presigned query about 600."""
    head_bytes: int = 64 << 10
    """A longer head is answered 431."""
    headers: int = 200
    """More are answered 431."""


class HeadParser:
    """Parses one complete head after the other; one for many connections: each head has a parser of its own in httptools, which costs it half a
    microsecond, because what it keeps of a head (`Proxy-Connection: close`) may refuse the next."""

    def __init__(self, limits: HeadLimits) -> None:
        self._limits = limits
        self._is_complete = False

    def on_headers_complete(self) -> None:
        """For httptools."""
        self._is_complete = True

    def check_begun(self, block: bytes | bytearray) -> None:
        """``block``, not empty, is a head whose end has not come. Raises BadRequest when it cannot become one."""
        if not block[:1].isalpha():
            raise BadRequest(400, "this door speaks HTTP")
        if len(block) > self._limits.target_bytes + _LINE_REST and b"\n" not in block:
            raise BadRequest(414, "the request's first line is too long")
        if len(block) > self._limits.head_bytes:
            raise BadRequest(431, f"the headers have more than {self._limits.head_bytes} bytes")

    def parse(self, block: bytes) -> Head:
        """``block`` ends with its first empty line. Raises BadRequest."""
        limits = self._limits
        lines = block[:-4].decode("latin-1").split("\r\n")
        try:
            method, target, version = lines.pop(0).split(" ")
        except ValueError:
            raise BadRequest(400, "the request's first line is not METHOD TARGET VERSION") from None
        if len(target) > limits.target_bytes:
            raise BadRequest(414, f"the target has more than {limits.target_bytes} bytes")
        if len(block) > limits.head_bytes:
            raise BadRequest(431, f"the headers have more than {limits.head_bytes} bytes")
        if version != "HTTP/1.1" and version != "HTTP/1.0":
            raise BadRequest(505 if version[:5] == "HTTP/" else 400, "this door speaks HTTP/1.1 and HTTP/1.0")
        if method not in METHODS:
            is_one = method.isascii() and method.isalpha() and method.isupper()
            raise BadRequest(501 if is_one else 400, "no method of this name is known here")
        if len(lines) > limits.headers:
            raise BadRequest(431, f"there are more than {limits.headers} headers")
        self._check_syntax(block)
        return _read(method, target, 1 if version == "HTTP/1.1" else 0, lines)

    def _check_syntax(self, block: bytes) -> None:
        """By httptools, as far as it looks."""
        self._is_complete = False
        try:
            httptools.HttpRequestParser(self).feed_data(block)
        except httptools.HttpParserUpgrade:
            pass  # asked for by many clients, who go on without
        except httptools.HttpParserInvalidURLError:
            raise BadRequest(400, "the target has characters that must be escaped") from None
        except httptools.HttpParserError as error:
            raise BadRequest(400, str(error)) from None
        if not self._is_complete:
            raise BadRequest(400, "these are no headers")


def _read(method: str, target: str, minor: int, lines: list[str]) -> Head:
    """Whose syntax is right."""
    headers: dict[str, str] = {}
    noted: list[tuple[str, str]] = []
    hosts = 0
    for line in lines:
        name, _, value = line.partition(":")
        name, value = name.lower(), value.strip(" \t")
        headers[name] = f"{headers[name]},{value}" if name in headers else value
        if name in _NOTED:
            if name == "host":
                hosts += 1
            else:
                noted.append((name, value))
    if hosts > 1 or (hosts == 0 and minor):
        raise BadRequest(400, "a request has one Host")
    head = Head(method, target, minor, headers, 0, minor == 1, False)
    if noted:
        _note(head, noted)
    if target[0] != "/" or "#" in target:
        _make_origin_form(head)
    return head


def _note(head: Head, noted: list[tuple[str, str]]) -> None:
    """What headers say of the message itself."""
    lengths = 0
    for name, value in noted:
        if name == "connection":
            _note_connection(head, value)
        elif name == "content-length":
            lengths += 1
            if not (value.isascii() and value.isdigit()) or len(value) > _LENGTH_DIGITS:
                raise BadRequest(400, "Content-Length is not a number")
            head.length = int(value)
        elif name == "transfer-encoding":
            lengths += 1
            if value.lower() != "chunked" or head.minor == 0:
                raise BadRequest(400, "a Transfer-Encoding other than chunked is not understood")
            head.length = None
        elif head.minor == 0:
            pass  # HTTP/1.0 knows no Expect
        elif value.lower() == "100-continue":
            head.expects = True  # others are nothing to us: RFC 9110, section 10.1.1, leaves it to a server whether it answers 417, and S3 does not
    if lengths > 1:
        raise BadRequest(400, "the length of the body is told more than once")
    if head.length == 0:
        head.expects = False


def _note_connection(head: Head, value: str) -> None:
    options = [option.strip(" \t") for option in value.lower().split(",")]
    if "close" in options:
        head.keeps = False
    elif "keep-alive" in options and head.minor == 0:
        head.keeps = True


def _make_origin_form(head: Head) -> None:
    """RFC 9112 section 3.2: a target that names its host replaces Host; `*` stands for the server."""
    if head.target == "*" and head.method == "OPTIONS":
        return
    found = _ABSOLUTE.fullmatch(head.target)
    if found is None:
        raise BadRequest(400, "the target is neither a path nor a URL")
    host, path = found.groups()
    head.target = path if path[:1] == "/" else "/" + path
    head.headers = head.headers | {"host": host}
