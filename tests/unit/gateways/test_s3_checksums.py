"""Checksums: the values clients compute, which of them a request may claim, and how those of parts are joined."""

from __future__ import annotations

import base64
import hashlib
import zlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from refusals import attempt

from monofs.gateways.s3.checksums import (
    ALGORITHMS,
    COMPOSITE,
    FULL_OBJECT,
    Claim,
    composite,
    full_object,
    multipart_etag,
    read_algorithm,
    read_claim,
    read_kind,
    read_md5,
    read_object_claim,
    read_trailer_names,
    read_value,
    show,
)

CRCS = [each for each in ALGORITHMS.values() if each.join is not None]


def digest_of(name: str, *pieces: bytes) -> bytes:
    running = ALGORITHMS[name].new()
    for piece in pieces:
        running.update(memoryview(piece))
    return running.digest()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("CRC32", "cbf43926"),
        ("CRC32C", "e3069283"),
        ("CRC64NVME", "ae8b14860a799888"),
        ("SHA1", hashlib.sha1(b"123456789").hexdigest()),
        ("SHA256", hashlib.sha256(b"123456789").hexdigest()),
    ],
)
def test_each_algorithm_has_the_check_value_of_its_catalogue(name, value):
    assert digest_of(name, b"1234", b"", b"56789").hex() == value
    assert len(digest_of(name)) == ALGORITHMS[name].size_bytes


@settings(max_examples=50)
@given(st.lists(st.binary(max_size=300), max_size=6))
def test_the_crc_of_all_bytes_follows_from_those_of_the_parts(parts):
    whole = b"".join(parts)
    assert digest_of("CRC32", whole) == zlib.crc32(whole).to_bytes(4)
    for algorithm in CRCS:
        joined = full_object(algorithm, [(digest_of(algorithm.name, part), len(part)) for part in parts])
        assert joined == digest_of(algorithm.name, whole)


def test_a_composite_checksum_and_etag_are_those_of_the_digests_with_their_number():
    digests = [hashlib.sha256(b"a").digest(), hashlib.sha256(b"b").digest()]
    expected = base64.b64encode(hashlib.sha256(b"".join(digests)).digest()).decode()
    assert composite(ALGORITHMS["SHA256"], digests) == f"{expected}-2"
    md5s = [hashlib.md5(b"a").digest()]
    assert multipart_etag(md5s) == f"{hashlib.md5(md5s[0]).hexdigest()}-1"


def test_a_request_claims_one_checksum_in_a_header_or_as_a_trailer():
    crc = ALGORITHMS["CRC32"]
    assert read_claim({"x-amz-checksum-crc32": "y/Q5Jg==", "x-amz-sdk-checksum-algorithm": "CRC32"}) == Claim(
        crc, b"\xcb\xf49&"
    )
    assert read_claim({"x-amz-trailer": " X-Amz-Checksum-CRC32 "}) == Claim(crc, None)
    assert (
        read_claim({"x-amz-checksum-mode": "ENABLED", "x-amz-checksum-algorithm": "CRC32", "x-amz-checksum-type": "x"})
        is None
    )
    assert read_claim({}) is None
    assert read_trailer_names({"x-amz-trailer": "a, B,"}) == ["a", "b"]


def test_the_checksum_of_a_completion_is_the_objects_with_or_without_the_number_of_parts():
    crc = Claim(ALGORITHMS["CRC32"], b"\xcb\xf49&")
    for text in ("y/Q5Jg==", "y/Q5Jg==-3"):
        assert read_object_claim({"x-amz-checksum-crc32": text, "x-amz-checksum-type": "COMPOSITE"}) == crc
    assert read_object_claim({}) is None
    for headers in (
        {"x-amz-checksum-crc32": "y/Q5Jg==-x"},
        {"x-amz-checksum-crc32": "AA=="},
        {"x-amz-checksum-crc32": "y/Q5Jg==", "x-amz-checksum-sha1": "x"},
    ):
        assert attempt(read_object_claim, headers) == (None, "InvalidRequest")


@pytest.mark.parametrize(
    ("headers", "code"),
    [
        ({"x-amz-checksum-crc32": "y/Q5Jg=="[:-1]}, "InvalidRequest"),
        ({"x-amz-checksum-crc32": "y/Q5Jg"}, "InvalidRequest"),
        ({"x-amz-checksum-crc32": "AAAAAAAA"}, "InvalidRequest"),
        ({"x-amz-checksum-crc32": "é"}, "InvalidRequest"),
        ({"x-amz-checksum-crc32": "y/Q5Jg==", "x-amz-checksum-crc32c": "y/Q5Jg=="}, "InvalidRequest"),
        ({"x-amz-checksum-crc32": "y/Q5Jg==", "x-amz-trailer": "x-amz-checksum-crc32"}, "InvalidRequest"),
        ({"x-amz-sdk-checksum-algorithm": "CRC32"}, "InvalidRequest"),
        ({"x-amz-sdk-checksum-algorithm": "SHA1", "x-amz-checksum-crc32": "y/Q5Jg=="}, "InvalidRequest"),
        ({"x-amz-checksum-xxhash64": "AAAAAAAAAAA="}, "NotImplemented"),
        ({"x-amz-trailer": "x-amz-checksum-md5"}, "NotImplemented"),
    ],
)
def test_claims_that_cannot_be_verified_are_refused(headers, code):
    assert attempt(read_claim, headers) == (None, code)


def test_content_md5_is_sixteen_bytes_or_an_invalid_digest():
    assert read_md5({}) is None
    assert read_md5({"content-md5": show(hashlib.md5(b"").digest())}) == hashlib.md5(b"").digest()
    for text in ("", "AAAA", "not base64!", hashlib.md5(b"").hexdigest()):
        assert attempt(read_md5, {"content-md5": text}) == (None, "InvalidDigest")


def test_an_upload_has_the_type_of_checksum_that_its_algorithm_knows():
    assert read_kind(read_algorithm("crc32"), None) == COMPOSITE
    assert read_kind(read_algorithm("CRC32C"), "full_object") == FULL_OBJECT
    assert read_kind(read_algorithm("CRC64NVME"), None) == FULL_OBJECT
    assert attempt(read_kind, read_algorithm("CRC64NVME"), COMPOSITE) == (None, "InvalidRequest")
    assert attempt(read_kind, read_algorithm("SHA256"), FULL_OBJECT) == (None, "InvalidRequest")
    assert attempt(read_algorithm, "MD4") == (None, "InvalidRequest")


@given(st.text(max_size=30))
def test_no_text_makes_it_fail_otherwise_than_by_an_s3_error(text):
    for algorithm in ALGORITHMS.values():
        attempt(read_value, algorithm, text)
    for name in ("x-amz-checksum-sha1", "x-amz-trailer", "x-amz-sdk-checksum-algorithm", "x-amz-checksum-" + text):
        attempt(read_claim, {name: text})
    attempt(read_md5, {"content-md5": text})
