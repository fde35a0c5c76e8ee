"""A chunked body as it comes in (RFC 9112 section 7.1): bytes in, pieces of the body out, nothing copied. Pure.

Our own code, because httptools neither stops at the end of a body nor bounds trailers. Strict, as chunks are where two readers of one
stream come apart most easily: lines end with CRLF, sizes are hexadecimal digits and nothing else, extensions are short.

Not here: aws-chunked, which is inside a body (s3/chunked.py).
"""

from __future__ import annotations

import re
from enum import Enum, auto

from monofs.gateways.http_head import BadRequest, Header

LINE_BYTES = 1024
"""Of a chunk's size with its extensions, or of a trailer."""
TRAILERS_BYTES = 8 << 10
_SIZE = re.compile(rb"([0-9A-Fa-f]{1,15})(?:;[\t\x20-\x7e\x80-\xff]*)?\r\n")
_TRAILER = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+):([\t\x20-\x7e\x80-\xff]*)\r\n")


class _At(Enum):
    SIZE = auto()
    DATA = auto()
    DATA_END = auto()
    TRAILER = auto()
    END = auto()


class ChunkDecoder:
    """Of one body. ``trailers`` are complete when :attr:`is_over`."""

    __slots__ = ("_at", "_left", "_line", "_trailer_bytes", "trailers")

    def __init__(self) -> None:
        self._at = _At.SIZE
        self._left = 0
        self._line = bytearray()
        self._trailer_bytes = 0
        self.trailers: list[Header] = []

    @property
    def is_over(self) -> bool:
        """The body has ended; what comes now is another request."""
        return self._at is _At.END

    def take(self, view: memoryview) -> tuple[memoryview, int]:
        """The next piece of the body, empty when there is none yet or the body is over, and how many bytes of ``view`` were used up. Raises BadRequest."""
        used = 0
        while used < len(view) and self._at is not _At.END:
            if self._at is _At.DATA:
                piece = view[used : used + self._left]
                self._left -= len(piece)
                if not self._left:
                    self._at = _At.DATA_END
                return piece, used + len(piece)
            used += self._take_line(view[used:])
        return view[:0], used

    def _take_line(self, view: memoryview) -> int:
        """As much of a line as there is; act on it when it is complete."""
        line = self._line
        some = bytes(view[: LINE_BYTES + 1 - len(line)])
        end = some.find(b"\n") + 1
        line += some[:end] if end else some
        if end:
            self._act(bytes(line))
            line.clear()
            return end
        if len(line) > LINE_BYTES:
            raise BadRequest(400, "a line between chunks is too long")
        return len(some)

    def _act(self, line: bytes) -> None:
        if self._at is _At.SIZE:
            found = _SIZE.fullmatch(line)
            if found is None:
                raise BadRequest(400, "a chunk does not begin with its size")
            self._left = int(found[1], 16)
            self._at = _At.DATA if self._left else _At.TRAILER
        elif self._at is _At.DATA_END:
            if line != b"\r\n":
                raise BadRequest(400, "a chunk is longer than its size")
            self._at = _At.SIZE
        elif line == b"\r\n":
            self._at = _At.END
        else:
            self._trailer_bytes += len(line)
            found = _TRAILER.fullmatch(line)
            if found is None or self._trailer_bytes > TRAILERS_BYTES:
                raise BadRequest(400 if found is None else 431, "a trailer cannot be read, or there are too many")
            self.trailers.append((found[1].lower(), found[2].strip(b" \t")))
