"""Bodies in aws-chunked form: what clients send comes out whole in any pieces, and nothing else is finished."""

from __future__ import annotations

import hashlib
import hmac
import io
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from signed_requests import client

from monofs.gateways.s3.chunked import LARGE_BYTES, LINE_MAX, TRAILERS_MAX, ChunkedDecoder
from monofs.gateways.s3.errors import S3Error
from monofs.gateways.s3.signing import Chain
from monofs.model.sigv4 import day_key

STAMP, SCOPE = "20130524T000000Z", "20130524/us-east-1/s3/aws4_request"
SECRET = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"


@pytest.fixture(scope="module", params=[LARGE_BYTES, 20, 1], ids="large from {}".format, autouse=True)
def large(request: pytest.FixtureRequest) -> Iterator[None]:
    """From which size on chunks are hashed apart."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("monofs.gateways.s3.chunked.LARGE_BYTES", request.param)
        yield


def decoded(body: bytes, decoder: ChunkedDecoder, cuts: list[int] | None = None) -> bytes:
    """The body fed in pieces that end at ``cuts``, and hashed in others, later."""
    found, at = b"", 0
    for end in [*sorted(cuts or []), len(body)]:
        found += b"".join(decoder.feed(body[at:end]))
        at = max(at, end)
    if decoder.large is not None:
        for begin in range(0, len(found), 7):
            decoder.large.update(memoryview(found)[begin : begin + 7])
    decoder.finish()
    return found


def signed_body(chunks: list[bytes], seed: str, trailers: bytes = b"", *, between: bytes = b"") -> bytes:
    """The chunks signed anew, after the documentation, by other code than ours."""

    def signature(kind: str, before: str, *hashed: bytes) -> str:
        lines = "\n".join(hashlib.sha256(each).hexdigest() for each in hashed)
        key = f"AWS4{SECRET}".encode()
        for part in SCOPE.split("/"):
            key = hmac.digest(key, part.encode(), "sha256")
        return hmac.new(
            key, f"AWS4-HMAC-SHA256-{kind}\n{STAMP}\n{SCOPE}\n{before}\n{lines}".encode(), "sha256"
        ).hexdigest()

    body = b""
    for chunk in [*chunks, b""]:
        seed = signature("PAYLOAD", seed, b"", chunk)
        body += f"{len(chunk):x};chunk-signature={seed}\r\n".encode() + chunk + (b"\r\n" if chunk else b"")
    if trailers:
        last = signature("TRAILER", seed, trailers)
        body += trailers.replace(b"\n", b"\r\n") + between + f"x-amz-trailer-signature:{last}\r\n".encode()
    return body + b"\r\n"


def chain(seed: str) -> Chain:
    return Chain(day_key(SECRET, *SCOPE.split("/")[:2]), STAMP, SCOPE, seed)


def refused(body: bytes, decoder: ChunkedDecoder) -> str:
    with pytest.raises(S3Error) as caught:
        decoded(body, decoder)
    return caught.value.code


def test_the_signed_chunks_of_the_documentation_are_believed():
    signatures = [
        "ad80c730a21e5b8d04586a2213dd63b9a0e99e0e2307b0ade35a65485a288648",
        "0055627c9e194cb4542bae2aa5492e3c1575bbb81b612b7d234b86a503ef5497",
        "b6c6ea8a5354eaf15b3cb7646744f4275b71ea724fed81ceb9323e279d449df9",
    ]
    body = b"10000;chunk-signature=%b\r\n%b\r\n400;chunk-signature=%b\r\n%b\r\n0;chunk-signature=%b\r\n\r\n" % (
        signatures[0].encode(),
        b"a" * 65536,
        signatures[1].encode(),
        b"a" * 1024,
        signatures[2].encode(),
    )
    seed = "4f232c4386841ef735655705268965c44a0e4690baa4adea153f7db9fa80a0a9"
    assert decoded(body, ChunkedDecoder(66560, chain(seed))) == b"a" * 66560


@pytest.mark.parametrize("between", [b"", b"\r\n"])
@pytest.mark.parametrize("end", [b"\r\n", b"\n"])
def test_the_signed_trailer_of_the_documentation_is_believed_as_clients_write_it(between, end):
    body = b"10000;chunk-signature=b474d8862b1487a5145d686f57f013e54db672cee1c953b3010fb58501ef5aa2\r\n" + b"a" * 65536
    body += (
        b"\r\n400;chunk-signature=1c1344b170168f8e65b41376b44b20fe354e373826ccbbe2c1d40a8cae51e5c7\r\n" + b"a" * 1024
    )
    body += b"\r\n0;chunk-signature=2ca2aba2005185cf7159c6277faf83795951dd77a3a99e6e65d5c9f85863f992\r\n"
    body += b"x-amz-checksum-crc32c:sOO8/Q==" + end + between
    body += b"x-amz-trailer-signature:d81f82fc3505edab99d459891051a732e8730629a2e4a59689829ca17fe2e435\r\n\r\n"
    seed = "106e2a8a18243abcf37539882f36619c00e2dfc72633413f02d3b74544bfeb8e"
    decoder = ChunkedDecoder(66560, chain(seed), ["x-amz-checksum-crc32c"])
    assert decoded(body, decoder) == b"a" * 66560
    assert decoder.trailers == {"x-amz-checksum-crc32c": "sOO8/Q=="}


def test_what_boto3_streams_comes_out_whole_with_its_checksum():
    content = bytes(range(256)) * 9000
    s3, sent = client()
    s3.put_object(Bucket="b", Key="k", Body=io.BytesIO(content), ChecksumAlgorithm="CRC32")
    headers = sent[0].head.headers
    decoder = ChunkedDecoder(int(headers["x-amz-decoded-content-length"]), None, [headers["x-amz-trailer"]])
    assert decoded(sent[0].content, decoder) == content
    assert list(decoder.trailers) == ["x-amz-checksum-crc32"]


CHUNKS = st.lists(st.binary(min_size=1, max_size=40), max_size=5)
CUTS = st.lists(st.integers(0, 900), max_size=12)


@settings(max_examples=100)
@given(CHUNKS, CUTS, st.booleans())
def test_a_body_comes_out_the_same_however_it_is_cut(chunks, cuts, is_signed):
    whole = b"".join(chunks)
    name, seed = "x-amz-checksum-crc32", "0" * 64
    if is_signed:
        body = signed_body(chunks, seed, f"{name}:AAAAAA==\n".encode())
    else:
        body = (
            b"".join(b"%x\r\n%b\r\n" % (len(each), each) for each in chunks)
            + f"0\r\n{name}: AAAAAA== \r\n\r\n".encode()
        )
    decoder = ChunkedDecoder(len(whole), chain(seed) if is_signed else None, [name])
    assert decoded(body, decoder, cuts) == whole
    assert decoder.trailers == {name: "AAAAAA=="}


@settings(max_examples=150)
@given(CHUNKS.filter(bool), st.data())
def test_a_signed_body_with_any_byte_changed_is_never_finished(chunks, data):
    seed, whole = "0" * 64, b"".join(chunks)
    body = bytearray(signed_body(chunks, seed, b"x-a:1\n"))
    at = data.draw(st.integers(0, len(body) - 1))
    body[at] ^= data.draw(st.sampled_from([1, 2, 16, 128]))
    decoder = ChunkedDecoder(len(whole), chain(seed), ["x-a"])
    try:
        found = decoded(bytes(body), decoder)
    except S3Error:
        return
    assert (found, decoder.trailers) == (whole, {"x-a": "1"})  # white space and the case of a size say nothing


def test_a_body_is_as_long_as_it_was_announced():
    assert refused(b"5\r\nhello\r\n0\r\n\r\n", ChunkedDecoder(6, None)) == "IncompleteBody"
    assert refused(b"5\r\nhello\r\n0\r\n\r\n", ChunkedDecoder(4, None)) == "IncompleteBody"
    assert refused(b"5\r\nhello\r\n", ChunkedDecoder(5, None)) == "IncompleteBody"
    assert refused(b"5\r\nhel", ChunkedDecoder(5, None)) == "IncompleteBody"
    assert refused(b"", ChunkedDecoder(0, None)) == "IncompleteBody"
    assert decoded(b"0\r\n\r\n", ChunkedDecoder(0, None)) == b""


def test_a_missing_last_empty_line_and_one_too_many_are_taken():
    assert decoded(b"5\r\nhello\r\n0\r\n", ChunkedDecoder(5, None)) == b"hello"
    assert decoded(b"5\r\nhello\r\n0\r\nx-a:1\n\r\n\r\n", ChunkedDecoder(5, None, ["x-a"])) == b"hello"


def test_chunks_and_trailers_that_are_not_of_the_form_are_refused():
    assert refused(b"5\r\nhelloo\r\n", ChunkedDecoder(5, None)) == "InvalidChunkSizeError"
    assert refused(b"-5\r\nhello\r\n", ChunkedDecoder(5, None)) == "InvalidChunkSizeError"
    assert (
        refused(b"5;chunk-signature=" + b"0" * 64 + b"\r\nhello\r\n", ChunkedDecoder(5, None))
        == "InvalidChunkSizeError"
    )
    assert refused(b"5\r\nhello\r\n0\r\n\r\n", ChunkedDecoder(5, chain("0" * 64))) == "InvalidChunkSizeError"
    assert refused(b"f" * 17 + b"\r\n", ChunkedDecoder(5, None)) == "InvalidChunkSizeError"
    assert refused(b"0\r\n\r\n", ChunkedDecoder(0, None, ["x-a"])) == "MalformedTrailerError"
    assert refused(b"0\r\nx-b:1\r\n\r\n", ChunkedDecoder(0, None, ["x-a"])) == "MalformedTrailerError"
    assert refused(b"0\r\nx-a:1\r\nx-a:1\r\n\r\n", ChunkedDecoder(0, None, ["x-a"])) == "MalformedTrailerError"
    assert refused(b"0\r\nx-a\r\n\r\n", ChunkedDecoder(0, None, ["x-a"])) == "MalformedTrailerError"
    assert refused(b"0\r\n\r\nmore\r\n", ChunkedDecoder(0, None)) == "InvalidRequest"
    unsigned = signed_body([b"hello"], "0" * 64, b"x-a:1\n").partition(b"x-amz-trailer-signature")[0]
    assert refused(unsigned + b"\r\n", ChunkedDecoder(5, chain("0" * 64), ["x-a"])) == "IncompleteBody"
    early = signed_body([b"hello"], "0" * 64, b"x-a:1\n").replace(b"x-a:1\r\n", b"")
    assert refused(early, ChunkedDecoder(5, chain("0" * 64), ["x-a"])) == "MalformedTrailerError"


def test_lines_and_trailers_are_held_only_up_to_their_bounds():
    endless = ChunkedDecoder(5, None)
    with pytest.raises(S3Error) as caught:
        for _ in range(LINE_MAX + 2):
            endless.feed(b"1")
    assert caught.value.code == "InvalidRequest"
    empty = b"\r\n" * (TRAILERS_MAX + 1)
    assert (
        refused(signed_body([], "0" * 64).removesuffix(b"\r\n") + empty, ChunkedDecoder(0, chain("0" * 64), ["x"]))
        == "MalformedTrailerError"
    )
    assert refused(b"0\r\n" + empty, ChunkedDecoder(0, None)) == "InvalidRequest"


@settings(max_examples=200)
@given(
    st.lists(
        st.one_of(st.binary(max_size=20), st.sampled_from([b"5\r\nhello\r\n", b"0\r\n", b"x-a:1\r\n", b"\r\n"])),
        max_size=8,
    ),
    st.booleans(),
)
def test_no_bytes_make_it_fail_otherwise_than_by_an_s3_error(pieces, is_signed):
    decoder = ChunkedDecoder(5, chain("0" * 64) if is_signed else None, ["x-a"])
    try:
        for piece in pieces:
            decoder.feed(memoryview(piece))
        decoder.finish()
    except S3Error:
        pass
