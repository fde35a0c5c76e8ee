"""Chunked bodies: whatever the reads, the same body; whatever is sent, an end or a refusal."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from monofs.gateways.http_body import ChunkDecoder
from monofs.gateways.http_head import BadRequest


def decode(stream: bytes, cuts: list[int] | None = None) -> tuple[bytes, ChunkDecoder, int]:
    """The body, the decoder, and how many bytes it left."""
    decoder, body = ChunkDecoder(), b""
    places = [0, *sorted({cut % (len(stream) + 1) for cut in cuts or []}), len(stream)]
    left = 0
    for start, end in pairwise(places):
        view = memoryview(stream)[start:end]
        while view and not decoder.is_over:
            piece, used = decoder.take(view)
            assert used > 0
            assert len(piece) <= used
            body += piece
            view = view[used:]
        left += len(view)
    return body, decoder, left


def test_a_body_is_its_chunks() -> None:
    body, decoder, left = decode(
        b'5\r\nhello\r\n0006;name="value"\r\n world\r\n0\r\nX-Check: abc \r\nx-amz-b:\r\n\r\nGET'
    )
    assert (body, left, decoder.is_over) == (b"hello world", 3, True)
    assert decoder.trailers == [(b"x-check", b"abc"), (b"x-amz-b", b"")]


@given(
    st.lists(st.binary(min_size=1, max_size=50)), st.lists(st.integers(0, 5000), max_size=30), st.binary(max_size=20)
)
def test_reads_make_no_difference(chunks: list[bytes], cuts: list[int], behind: bytes) -> None:
    stream = b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks) + b"0\r\nA: b\r\n\r\n"
    body, decoder, left = decode(stream + behind, cuts)
    assert (body, decoder.is_over, left) == (b"".join(chunks), True, len(behind))
    assert decoder.trailers == [(b"a", b"b")]


@pytest.mark.parametrize(
    "stream",
    [
        b"5\nhello\r\n0\r\n\r\n",
        b"5\r\nhello\n0\r\n\r\n",
        b"5\r\nhello0\r\n\r\n",
        b"5\r\nhello!\r\n0\r\n\r\n",
        b"0x5\r\nhello\r\n0\r\n\r\n",
        b"+5\r\nhello\r\n0\r\n\r\n",
        b"-5\r\nhello\r\n0\r\n\r\n",
        b" 5\r\nhello\r\n0\r\n\r\n",
        b"5 \r\nhello\r\n0\r\n\r\n",
        b"5\rhello\r\n0\r\n\r\n",
        b"5\r\r\nhello\r\n0\r\n\r\n",
        b"5;a\rb\r\nhello\r\n0\r\n\r\n",
        b"5;a\nb\r\nhello\r\n0\r\n\r\n",
        b"5;a\0\r\nhello\r\n0\r\n\r\n",
        b"\r\n0\r\n\r\n",
        b";a\r\n\r\n",
        b"1_0\r\n0123456789abcdef\r\n0\r\n\r\n",
        b"fffffffffffffffff\r\n",
        b"5;" + b"a" * 2000,
        b"0\r\nA : b\r\n\r\n",
        b"0\r\n A: b\r\n\r\n",
        b"0\r\nA: b\n\r\n",
        b"0\r\nA\r\n\r\n",
        b"0\r\nA: b\0\r\n\r\n",
        b"0\r\n" + b"A: b\r\n" * 2000 + b"\r\n",
    ],
)
def test_chunks_that_others_may_read_otherwise_are_refused(stream: bytes) -> None:
    for cuts in ([], list(range(len(stream)))):
        with pytest.raises(BadRequest):
            decode(stream, cuts)


@given(st.lists(st.sampled_from([b"\r\n", b"0", b"5", b"a", b";", b"\n", b"\r", b"\0", b":", b" ", b"\r\n\r\n"])) | st.binary().map(lambda raw: [raw]), st.lists(st.integers(0, 500), max_size=10))  # fmt: skip
def test_random_bytes_are_a_body_or_refused_whatever_the_reads(parts: list[bytes], cuts: list[int]) -> None:
    results = []
    for places in ([], cuts):
        try:
            body, decoder, left = decode(b"".join(parts), places)
            results.append((body, decoder.is_over, left, decoder.trailers))
        except BadRequest as error:
            results.append(error.reason)
    assert results[0] == results[1]
