"""Bodies on their way in: what boto3 sends arrives, and what was changed on the way, or was never what it claimed, does not."""

from __future__ import annotations

import hashlib
import io
import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from refusals import attempt
from signed_requests import client, secret_of

from monofs.gateways.s3.checksums import ALGORITHMS, show
from monofs.gateways.s3.incoming import Incoming, Received
from monofs.gateways.s3.signing import STREAMING_UNSIGNED_TRAILER, Signed, authenticate
from monofs.model.sigv4 import EMPTY_SHA256, UNSIGNED

GIB = 1 << 30


def received(headers: dict[str, str], signed: Signed, body: bytes, most_bytes: int = GIB) -> Received:
    incoming = Incoming(headers, signed, most_bytes)
    for at in range(0, len(body), 1000):
        for piece in incoming.decode(body[at : at + 1000]):
            for update in incoming.hashes:
                update(piece)
    return incoming.finish()


@pytest.mark.parametrize("algorithm", ["CRC32", "SHA1", "SHA256"])
@pytest.mark.parametrize("wrap", [bytes, io.BytesIO], ids=["whole", "streamed"])
def test_what_boto3_sends_arrives_and_not_with_any_byte_of_it_changed(algorithm, wrap):
    content = bytes(range(256)) * 20
    s3, sent = client()
    s3.put_object(Bucket="b", Key="k", Body=wrap(content), ChecksumAlgorithm=algorithm)
    headers = sent[0].head.headers
    signed = authenticate(sent[0].head, secret_of, time.time())
    assert signed is not None
    found = received(headers, signed, sent[0].content)
    assert (found.length, found.md5) == (len(content), hashlib.md5(content).digest())
    assert (found.checksum.algorithm.name, len(found.checksum.value or b"")) == (
        algorithm,
        ALGORITHMS[algorithm].size_bytes,
    )
    for at in (100, 2500, 5000):
        changed = bytearray(sent[0].content)
        changed[at] ^= 1
        assert attempt(received, headers, signed, bytes(changed))[1] in ("XAmzContentSHA256Mismatch", "BadDigest")


def code(body: bytes, payload: str = UNSIGNED, **headers: Any) -> str:
    named = {"content-length": str(len(body)), **{name.replace("_", "-"): value for name, value in headers.items()}}
    return attempt(
        received,
        {name: value for name, value in named.items() if value is not None},
        Signed("k", payload, None),
        body,
        100,
    )[1]


def test_a_body_without_claims_gets_the_checksum_aws_computes():
    found = received({"content-length": "9"}, Signed("k", UNSIGNED, None), b"123456789")
    assert (found.checksum.algorithm.name, (found.checksum.value or b"").hex()) == ("CRC64NVME", "ae8b14860a799888")


def test_each_claim_has_to_hold():
    md5, crc = show(hashlib.md5(b"body").digest()), show((0).to_bytes(4))
    assert code(b"body", content_md5=md5) == ""
    assert code(b"Body", content_md5=md5) == "BadDigest"
    assert code(b"body", x_amz_checksum_crc32=crc) == "BadDigest"
    assert code(b"body", EMPTY_SHA256) == "XAmzContentSHA256Mismatch"
    assert code(b"", EMPTY_SHA256.upper()) == ""
    assert code(b"", EMPTY_SHA256, x_amz_checksum_sha256=show(hashlib.sha256().digest())) == ""
    assert code(b"body", x_amz_trailer="x-amz-checksum-crc32") == "InvalidRequest"
    chunked = {"x_amz_decoded_content_length": "4", "x_amz_trailer": "x-amz-checksum-crc32"}
    trailer = "x-amz-checksum-crc32"
    assert (
        code(f"4\r\nbody\r\n0\r\n{trailer}:{crc}\r\n\r\n".encode(), STREAMING_UNSIGNED_TRAILER, **chunked)
        == "BadDigest"
    )
    assert (
        code(f"4\r\nbody\r\n0\r\n{trailer}:x\r\n\r\n".encode(), STREAMING_UNSIGNED_TRAILER, **chunked)
        == "InvalidRequest"
    )


def test_a_body_is_as_long_as_its_head_says_and_not_longer_than_it_may_be():
    assert code(b"body", content_length=None) == "MissingContentLength"
    assert code(b"body", STREAMING_UNSIGNED_TRAILER) == "MissingContentLength"
    assert code(b"body", content_length="5") == code(b"body", content_length="3") == "IncompleteBody"
    assert code(b"b" * 101) == "EntityTooLarge"
    assert (
        code(b"", content_length="9" * 5000)
        == code(b"", content_length="²")
        == code(b"", content_length="-1")
        == "InvalidArgument"
    )
    assert (
        code(b"4\r\nbody\r\n0\r\n\r\n", STREAMING_UNSIGNED_TRAILER, x_amz_decoded_content_length="101")
        == "EntityTooLarge"
    )


HEADERS = st.dictionaries(
    st.sampled_from(
        ["content-length", "content-md5", "x-amz-decoded-content-length", "x-amz-trailer", "x-amz-checksum-crc32"]
    ),
    st.one_of(st.text(max_size=10), st.sampled_from(["4", "AAAAAA==", "x-amz-checksum-crc32"])),
)


@settings(max_examples=100)
@given(HEADERS, st.sampled_from([UNSIGNED, EMPTY_SHA256, STREAMING_UNSIGNED_TRAILER]), st.binary(max_size=30))
def test_no_bytes_make_it_fail_otherwise_than_by_an_s3_error(headers, payload, body):
    attempt(received, headers, Signed("k", payload, None), body, 100)
