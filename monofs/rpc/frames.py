"""Frames: what both sides of a connection send, cut from a stream of bytes and put into one. Pure: no sockets, no clocks.

A frame is a 24-byte header and a body (docs/formats/wire.md). Invariants: any way to chop the stream gives the same frames;
a length over the bound is refused when its four bytes are known, before anything is kept for it; so a splitter never holds
more than its bound and the header.

Not here: what bodies mean (api.py), who may speak (handshake.py).
"""

from __future__ import annotations

import struct
from enum import IntEnum
from typing import NamedTuple

import msgspec

from monofs.model.errors import FrameTooLarge, MonofsError, ProtocolError, from_code
from monofs.rpc.api import Failure

HEADER_BYTES = 24
LENGTH_BYTES = 4
REST_BYTES = HEADER_BYTES - LENGTH_BYTES
"""Header bytes counted by the length field."""
HELLO_MAX_BYTES = 4096
"""Largest body either side accepts before the handshake is done."""
REQUEST_MAX_BYTES = (1 << 20) + (64 << 10)
"""A WRITE of one page, its capability and header."""
ANSWER_MAX_BYTES = 16 << 20
DATA_MAX_BYTES = 4 << 20
"""Largest body of a DATA frame, so that small answers are not stuck behind big ones."""
DESCRIPTORS_MAX = 16
"""Most descriptors one frame may own."""
LONGEST_DEADLINE_MS = 0xFFFFFFFF
_VIEWED_BYTES = 32 << 10
"""A body so long is not copied out of the bytes it came with, unless it would keep more than itself of them in memory."""

_HEADER = struct.Struct("!IBBHIIQ")
_LENGTH = struct.Struct("!I")
pack_header = _HEADER.pack
pack_header_into = _HEADER.pack_into
_unpack_header_from = _HEADER.unpack_from
_unpack_length_from = _LENGTH.unpack_from


class Kind(IntEnum):
    """What a frame is."""

    HELLO = 0
    REQUEST = 1
    ANSWER = 2
    """Final."""
    ERROR = 3
    """Final; the body is an api.Failure. Request 0: the whole connection."""
    ITEM = 4
    DATA = 5
    CANCEL = 6


LAST_KIND = int(Kind.CANCEL)


class Frame(NamedTuple):
    """One frame. ``request`` is chosen by the asker, unique among its requests in flight; ``deadline_ms`` 0: none given."""

    kind: int
    descriptors: int
    method: int
    request: int
    deadline_ms: int
    trace: int
    body: bytes | memoryview
    """A long one stays where it arrived."""


def pack(
    kind: int,
    method: int,
    request: int,
    body: bytes = b"",
    *,
    deadline_ms: int = 0,
    trace: int = 0,
    descriptors: int = 0,
) -> bytes:
    """The bytes of one frame."""
    return pack_header(REST_BYTES + len(body), kind, descriptors, method, request, deadline_ms, trace) + body


def unpack_header(data: bytes | bytearray | memoryview, offset: int = 0) -> tuple[int, int, int, int, int, int, int]:
    """(body bytes, kind, descriptors, method, request, deadline_ms, trace) of the header at ``offset``; bounds unchecked."""
    length, kind, descriptors, method, request, deadline_ms, trace = _unpack_header_from(data, offset)
    return length - REST_BYTES, kind, descriptors, method, request, deadline_ms, trace


def check_header(body_bytes: int, kind: int, descriptors: int, limit: int) -> None:
    """Raise FrameTooLarge or ProtocolError when a header is not acceptable from a peer with body bound ``limit``."""
    if body_bytes > limit:
        raise FrameTooLarge(
            f"a frame of {body_bytes} bytes was announced; this side accepts at most {limit}", limit=limit
        )
    if body_bytes < 0 or kind > LAST_KIND or descriptors > DESCRIPTORS_MAX:
        raise ProtocolError(f"not a monofs frame (kind {kind}, body {body_bytes} bytes, {descriptors} descriptors)")


class Splitter:
    """Cuts frames from bytes as they arrive.

    ``limit`` is the largest body accepted; raise it when the handshake is done. After a bad header ``error`` is set and
    whatever follows is dropped: the stream cannot be found again.
    """

    __slots__ = ("_held", "_need", "error", "limit")

    def __init__(self, limit: int = HELLO_MAX_BYTES) -> None:
        self.limit = limit
        self.error: MonofsError | None = None
        self._held = bytearray()
        self._need = 0

    @property
    def held_bytes(self) -> int:
        """Bytes of a frame that is not complete yet."""
        return len(self._held)

    @property
    def missing_bytes(self) -> int:
        """How many more the frame that has begun is known to have; 0: none has begun."""
        return self._need - len(self._held) if self._held else 0

    def feed(self, data: bytes) -> list[Frame]:
        """The frames completed by ``data``, in order."""
        if self.error is not None:
            return []
        frames: list[Frame] = []
        position = 0
        held = self._held
        if held:
            missing = self._need - len(held)
            if len(data) < missing:
                held += data
                return []
            self._held = bytearray()
            if self._need > HEADER_BYTES:  # a long frame is put together once, not with all that follows it
                held += memoryview(data)[:missing]
                length, kind, descriptors, method, request, deadline_ms, trace = _unpack_header_from(held)
                if kind > LAST_KIND or descriptors > DESCRIPTORS_MAX:
                    self._refuse(length, kind, descriptors)
                    return frames
                body: bytes | memoryview = memoryview(held)[HEADER_BYTES:]
                if length < _VIEWED_BYTES:
                    body = bytes(body)
                frames.append(Frame(kind, descriptors, method, request, deadline_ms, trace, body))
                position = missing
            else:
                data = bytes(held) + data
        end, limit = len(data), self.limit + REST_BYTES
        while end - position >= HEADER_BYTES:
            length, kind, descriptors, method, request, deadline_ms, trace = _unpack_header_from(data, position)
            if not REST_BYTES <= length <= limit or kind > LAST_KIND or descriptors > DESCRIPTORS_MAX:
                self._refuse(length, kind, descriptors)
                return frames
            after = position + LENGTH_BYTES + length
            if after > end:
                break
            kept = memoryview(data) if length >= max(_VIEWED_BYTES, end // 2) else data
            body = kept[position + HEADER_BYTES : after]
            frames.append(Frame(kind, descriptors, method, request, deadline_ms, trace, body))
            position = after
        if position < end:
            self._hold(data, position, end - position)
        return frames

    def _hold(self, data: bytes, position: int, size: int) -> None:
        """Keep the beginning of a frame, unless its length is already known to be too large."""
        self._need = HEADER_BYTES
        if size >= LENGTH_BYTES:
            (length,) = _unpack_length_from(data, position)
            if not REST_BYTES <= length <= self.limit + REST_BYTES:
                self._refuse(length, 0, 0)
                return
            if size >= HEADER_BYTES:
                self._need = LENGTH_BYTES + length
        else:
            self._need = LENGTH_BYTES
        self._held += memoryview(data)[position:]

    def _refuse(self, length: int, kind: int, descriptors: int) -> None:
        try:
            check_header(length - REST_BYTES, kind, descriptors, self.limit)
        except (FrameTooLarge, ProtocolError) as error:
            self.error = error


# ---- error bodies -----------------------------------------------------------------------------------------------------

_FAILURE_ENCODER = msgspec.msgpack.Encoder()
_FAILURE_DECODER = msgspec.msgpack.Decoder(Failure)
_MESSAGE_MAX = 4096


def encode_error(error: MonofsError) -> bytes:
    """The body of an ERROR frame; messages are cut at 4,096 characters."""
    return _FAILURE_ENCODER.encode(Failure(error.code, error.message[:_MESSAGE_MAX], error.detail))


def decode_error(body: bytes | memoryview) -> MonofsError:
    """The error a peer sent; ProtocolError when the body is not an error."""
    try:
        failure = _FAILURE_DECODER.decode(body)
        return from_code(failure.code, failure.message, failure.detail)
    except (ValueError, RecursionError, TypeError):
        return ProtocolError("the peer reported an error that cannot be read")
