"""Bodies in ``aws-chunked`` form: chunks that name their length and may be signed, then trailers. Pure and incremental.

Written from the S3 API Reference, "Signature Calculations for the Authorization Header: Transferring Payload in Multiple Chunks" and "...
Including Trailing Headers", and from what clients send where these are silent (a ``\\n`` before the ``\\r\\n`` of a trailer, an empty line before
the trailers' signature, one more at the end).

Invariant: what was handed out is believed only when :meth:`ChunkedDecoder.finish` has returned: the signature of a chunk is checked after its
last byte, the announced length and the trailers after the last chunk. So a caller stores as it goes, and publishes afterwards. Decoding hashes small
chunks; large ones are hashed apart (:class:`LargeChunks`), as a digest of the body is, in whatever thread. Memory is bounded by ``LINE_MAX`` and
``TRAILERS_MAX``, and an entry for each large chunk that is not hashed yet, whatever is sent; pieces are views of what was fed. Not here: comparing
checksums (``checksums``).
"""

from __future__ import annotations

import hashlib
import re
from collections import deque
from collections.abc import Iterable
from typing import Any, NamedTuple

from monofs.gateways.s3.errors import S3Error
from monofs.gateways.s3.signing import Chain
from monofs.model.errors import invariant

LINE_MAX = 256
"""Bytes of the line before a chunk; a size and a signature are 100."""
TRAILERS_MAX = 4096
"""Bytes of all trailers together; a checksum and a signature are 200."""

LARGE_BYTES = 16 << 10
"""A signed chunk from this size on is hashed apart."""

_SIZE = re.compile(rb"([0-9a-fA-F]{1,16})(?:;chunk-signature=([0-9a-f]{64}))?[ \t]*\Z").match
_TRAILER = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*([\x20-\x7e]*?)[ \t]*\Z").match
_SIGNATURE = "x-amz-trailer-signature"


class _LargeChunk(NamedTuple):
    """Where one lies in the body, its claimed signature, and the one before that."""

    start: int
    size: int
    before: str
    claimed: str


class LargeChunks:
    """The signatures of the large chunks of one body, checked while their data are hashed."""

    __slots__ = ("_at", "_chain", "_chunk", "_digest", "_expected")

    def __init__(self, chain: Chain) -> None:
        self._chain = chain
        self._at = 0
        self._chunk: _LargeChunk | None = None
        self._digest = hashlib.sha256()
        self._expected: deque[_LargeChunk] = deque()

    def expect(self, chunk: _LargeChunk) -> None:
        """Its head has come; before any byte of it is handed out."""
        self._expected.append(chunk)

    def update(self, piece: memoryview) -> None:
        """ANY thread, one at a time: take in the next bytes of the body, those of small chunks included. Raises ``S3Error`` (SignatureDoesNotMatch)."""
        at, end = self._at, self._at + len(piece)
        while self._chunk is not None or (self._expected and self._expected[0].start < end):
            if self._chunk is None:
                self._chunk, self._digest = self._expected.popleft(), hashlib.sha256()
            chunk = self._chunk
            self._digest.update(piece[max(chunk.start - at, 0) : chunk.start + chunk.size - at])
            if chunk.start + chunk.size > end:
                break
            self._chain.check_chunk(chunk.before, self._digest.hexdigest(), chunk.claimed)
            self._chunk = None
        self._at = end

    def finish(self) -> None:
        """All of the body was taken in."""
        invariant(
            self._chunk is None and not self._expected, "every signed chunk was hashed before its body is believed"
        )


class ChunkedDecoder:
    """One body. ``length``: bytes it has once decoded (x-amz-decoded-content-length); ``chain``: of a body whose chunks are signed;
    ``announced``: names of the trailers it ends with (x-amz-trailer), lower-case."""

    __slots__ = (
        "_announced",
        "_before",
        "_chain",
        "_claimed",
        "_digest",
        "_left",
        "_length",
        "_line",
        "_rest",
        "_state",
        "_used",
        "large",
        "trailers",
    )

    def __init__(self, length: int, chain: Chain | None, announced: Iterable[str] = ()) -> None:
        self.trailers: dict[str, str] = {}
        self.large = None if chain is None else LargeChunks(chain)
        """What has to be given all pieces, too, before :meth:`finish`, where chunks are signed."""
        self._length = length
        self._rest = length  # bytes of the chunks to come
        self._left = 0  # bytes of this chunk to come
        self._chain = chain
        self._announced = frozenset(announced)
        self._digest: Any = None  # of a small chunk
        self._before, self._claimed = "", "" if chain is None else chain.seed
        self._line = b""
        self._used = 0
        self._state = _size

    def feed(self, data: bytes | memoryview) -> list[memoryview]:
        """The pieces of the body in ``data``, in order. Raises ``S3Error`` when the body is not what it should be; nothing may be fed afterwards."""
        pieces: list[memoryview] = []
        view, at = memoryview(data), 0
        while at < len(view):
            if self._left:
                piece = view[at : at + self._left]
                at += len(piece)
                self._left -= len(piece)
                if self._digest is not None:
                    self._digest.update(piece)
                pieces.append(piece)
            else:
                at = self._take_line(view, at)
        return pieces

    @property
    def plain_bytes(self) -> int:
        """So many of the bytes to come are data, and nothing else."""
        return self._left

    def finish(self) -> None:
        """The end of the body, of which all was hashed. Raises ``S3Error`` (IncompleteBody, MalformedTrailerError) unless it is whole."""
        ended = (
            self._state is _trailer and not self._line and self._has_trailers()
        )  # some leave out the last empty line
        if self._state is not _done and not ended:
            raise S3Error("IncompleteBody", "The body ended before its last chunk.")
        if self.large is not None:
            self.large.finish()

    def _take_line(self, view: memoryview, at: int) -> int:
        """Take what belongs to a line from ``at`` on; act on it when it is whole. Returns where to go on."""
        most = LINE_MAX + 1 - len(self._line)
        found = bytes(view[at : at + most])
        end = found.find(b"\n")
        if end < 0:
            self._line += found
            if len(self._line) > LINE_MAX:
                raise S3Error("InvalidRequest", f"A line of an aws-chunked body is longer than {LINE_MAX} bytes.")
            return at + len(found)
        line, self._line = self._line + found[:end], b""
        self._state(self, line.removesuffix(b"\r"))
        return at + end + 1

    def _begin_chunk(self, line: bytes) -> None:
        found = _SIZE(line)
        if found is None or (found[2] is None) is (self._chain is not None):
            raise S3Error(
                "InvalidChunkSizeError",
                "The line before a chunk has no size, or a signature more or less than it should.",
            )
        size = int(found[1], 16)
        if size > self._rest:
            raise S3Error("IncompleteBody", "The body has more bytes than x-amz-decoded-content-length says.")
        if size == 0 and self._rest:
            raise S3Error("IncompleteBody", "The body has fewer bytes than x-amz-decoded-content-length says.")
        if self.large is not None:
            self._before, self._claimed = self._claimed, found[2].decode()
            if size >= LARGE_BYTES:
                self.large.expect(_LargeChunk(self._length - self._rest, size, self._before, self._claimed))
            else:
                self._digest = hashlib.sha256()
        self._left = size
        self._rest -= size
        if size:
            self._state = _after
        else:
            self._check_small()
            self._state = _trailer

    def _end_chunk(self, line: bytes) -> None:
        if line:
            raise S3Error("InvalidChunkSizeError", "A chunk is longer than the size before it.")
        self._check_small()
        self._state = _size

    def _check_small(self) -> None:
        if self._chain is not None and self._digest is not None:
            self._chain.check_chunk(self._before, self._digest.hexdigest(), self._claimed)
            self._digest = None

    def _take_trailer(self, line: bytes) -> None:
        self._used += len(line) + 1
        if self._used > TRAILERS_MAX:
            raise S3Error("MalformedTrailerError", f"The trailers are longer than {TRAILERS_MAX} bytes.")
        if not line:
            if self._has_trailers():
                self._state = _done
            elif self._chain is None:
                raise S3Error("MalformedTrailerError", "A trailer that x-amz-trailer names is missing.")
            return  # before the signature of the trailers some clients send an empty line
        found = _TRAILER(line)
        if found is None:
            raise S3Error("MalformedTrailerError", "A trailer is not of the form name:value.")
        name, value = found[1].decode().lower(), found[2].decode()
        if name == _SIGNATURE and self._chain is not None:
            self._check_trailers(value)
        elif name not in self._announced or name in self.trailers:
            raise S3Error(
                "MalformedTrailerError", f"The trailer {name} was not announced by x-amz-trailer, or comes twice."
            )
        else:
            self.trailers[name] = value

    def _has_trailers(self) -> bool:
        """Whether all trailers are here that need no signature of their own."""
        return len(self.trailers) == len(self._announced) and (self._chain is None or not self._announced)

    def _check_trailers(self, claimed: str) -> None:
        if len(self.trailers) != len(self._announced) or self._chain is None:
            raise S3Error("MalformedTrailerError", "A trailer that x-amz-trailer names is missing.")
        signed = "".join(f"{name}:{self.trailers[name]}\n" for name in sorted(self.trailers))
        self._chain.check_trailer(self._claimed, signed.encode(), claimed)
        self._state = _done

    def _take_rest(self, line: bytes) -> None:
        self._used += len(line) + 1
        if line or self._used > TRAILERS_MAX:
            raise S3Error("InvalidRequest", "Something follows the end of an aws-chunked body.")


_size = ChunkedDecoder._begin_chunk
_after = ChunkedDecoder._end_chunk
_trailer = ChunkedDecoder._take_trailer
_done = ChunkedDecoder._take_rest
"""What the next line is: the size of a chunk, the end of one, a trailer, nothing more."""
