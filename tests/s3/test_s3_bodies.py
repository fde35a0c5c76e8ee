"""What is said of a body, by headers, trailers and signatures, is true or the body is refused, and nothing of it is ever seen."""

from __future__ import annotations

import base64
import gzip
import hashlib
import random
import socket
from urllib.parse import urlsplit

import pytest
from botocore.awsrequest import AWSRequest
from s3_checksums import ALGORITHMS, checksum, header_of, md5
from s3_chunks import UNSIGNED_TRAILER, put_plain, put_signed
from s3_endpoints import UNSIGNED, Endpoint, Signer, path_of

ENDPOINTS = ("monofs", "radosgw")
DATA = b"The quick brown fox jumps over the lazy dog" * 100
PIECES = [DATA[:1000], DATA[1000:3000], DATA[3000:]]
LARGE = random.Random(7).randbytes((3 << 20) + 12_345)
"""More than a door holds before it is asked for it, in pieces that end nowhere special."""


def assert_absent(endpoint: Endpoint, bucket: str, key: str) -> None:
    assert endpoint.raw("HEAD", path_of(bucket, key)).status == 404


def read(endpoint: Endpoint, bucket: str, key: str) -> bytes:
    return endpoint.raw("GET", path_of(bucket, key)).body


# ---- checksums --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_checksum_in_a_header_is_kept_and_told(endpoint: Endpoint, bucket: str, key: str, algorithm: str) -> None:
    value, header = checksum(algorithm, DATA), header_of(algorithm)
    put = endpoint.raw("PUT", path_of(bucket, key), headers={header: value}, body=DATA)
    assert (put.status, put.headers[header]) == (200, value)
    for method in ("GET", "HEAD"):
        told = endpoint.raw(method, path_of(bucket, key), headers={"x-amz-checksum-mode": "ENABLED"}).headers
        assert (told[header], told["x-amz-checksum-type"]) == (value, "FULL_OBJECT")
        assert header not in endpoint.raw(method, path_of(bucket, key)).headers


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_checksum_in_a_trailer_is_kept_and_told(endpoint: Endpoint, bucket: str, key: str, algorithm: str) -> None:
    value, header = checksum(algorithm, DATA), header_of(algorithm)
    put = put_plain(endpoint, path_of(bucket, key), PIECES, {header: value})
    assert (put.status, put.headers[header]) == (200, value)
    told = endpoint.raw("GET", path_of(bucket, key), headers={"x-amz-checksum-mode": "ENABLED"})
    assert (told.body, told.headers[header]) == (DATA, value)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_wrong_checksum_is_a_bad_digest(endpoint: Endpoint, bucket: str, key: str, algorithm: str) -> None:
    value, header = checksum(algorithm, DATA + b"!"), header_of(algorithm)
    assert endpoint.raw("PUT", path_of(bucket, key), headers={header: value}, body=DATA).told == (400, "BadDigest")
    assert put_plain(endpoint, path_of(bucket, key), PIECES, {header: value}).told == (400, "BadDigest")
    assert_absent(endpoint, bucket, key)


def test_a_checksum_that_is_none_is_refused(endpoint: Endpoint, bucket: str, key: str) -> None:
    for value in ("", "not base64!", "AAAA", base64.b64encode(b"12345").decode()):
        answer = endpoint.raw("PUT", path_of(bucket, key), headers={"x-amz-checksum-crc32": value}, body=DATA)
        assert answer.told == (400, "InvalidRequest"), value
    assert_absent(endpoint, bucket, key)


def test_two_checksums_are_too_many(endpoint: Endpoint, bucket: str, key: str) -> None:
    headers = {header_of(each): checksum(each, DATA) for each in ("CRC32", "SHA256")}
    assert endpoint.raw("PUT", path_of(bucket, key), headers=headers, body=DATA).told == (400, "InvalidRequest")


def test_an_unknown_algorithm_is_refused(endpoint: Endpoint, bucket: str, key: str) -> None:
    headers = {"x-amz-sdk-checksum-algorithm": "CRC7"}
    assert endpoint.raw("PUT", path_of(bucket, key), headers=headers, body=DATA).status == 400


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_boto3_checks_what_it_wrote(endpoint: Endpoint, bucket: str, key: str, algorithm: str) -> None:
    if algorithm in ("CRC32C", "CRC64NVME"):
        pytest.skip("boto3 needs awscrt for these")
    put = endpoint.client.put_object(Bucket=bucket, Key=key, Body=DATA, ChecksumAlgorithm=algorithm)
    assert put[f"Checksum{algorithm}"] == checksum(algorithm, DATA)
    found = endpoint.client.get_object(Bucket=bucket, Key=key, ChecksumMode="ENABLED")
    assert (found["Body"].read(), found[f"Checksum{algorithm}"]) == (DATA, checksum(algorithm, DATA))


def test_of_a_part_of_the_bytes_no_checksum_is_told(endpoint: Endpoint, bucket: str, key: str) -> None:
    endpoint.raw("PUT", path_of(bucket, key), headers={"x-amz-checksum-crc32": checksum("CRC32", DATA)}, body=DATA)
    asked = {"x-amz-checksum-mode": "ENABLED", "range": "bytes=0-9"}
    assert "x-amz-checksum-crc32" not in endpoint.raw("GET", path_of(bucket, key), headers=asked).headers


# ---- digests ----------------------------------------------------------------------------------------------------------------


def test_content_md5_is_checked(endpoint: Endpoint, bucket: str, key: str) -> None:
    target = path_of(bucket, key)
    assert endpoint.raw("PUT", target, headers={"content-md5": md5(b"other")}, body=DATA).told == (400, "BadDigest")
    for wrong in ("", "AAAA", "not base64!"):
        assert endpoint.raw("PUT", target, headers={"content-md5": wrong}, body=DATA).told == (400, "InvalidDigest")
    assert_absent(endpoint, bucket, key)
    assert endpoint.raw("PUT", target, headers={"content-md5": md5(DATA)}, body=DATA).status == 200


def test_the_signed_sha256_is_checked(endpoint: Endpoint, bucket: str, key: str) -> None:
    answer = endpoint.raw("PUT", path_of(bucket, key), body=DATA, payload="0" * 64)
    assert answer.told == (400, "XAmzContentSHA256Mismatch")
    assert_absent(endpoint, bucket, key)
    assert endpoint.raw("PUT", path_of(bucket, key), body=DATA, payload=UNSIGNED).status == 200


def test_a_sha256_that_is_none_is_refused(endpoint: Endpoint, bucket: str, key: str) -> None:
    assert endpoint.raw("PUT", path_of(bucket, key), body=DATA, payload="nonsense").told == (400, "InvalidArgument")


# ---- aws-chunked --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "pieces", [[], [b"x"], PIECES, [b"a" * 70_000, b"b" * 70_000, b"c"]], ids=["none", "one", "three", "big"]
)
def test_signed_chunks_are_joined(endpoint: Endpoint, bucket: str, key: str, pieces: list[bytes]) -> None:
    assert put_signed(endpoint, path_of(bucket, key), pieces).status == 200
    assert read(endpoint, bucket, key) == b"".join(pieces)


@pytest.mark.parametrize("pieces", [[], [b"x"], PIECES], ids=["none", "one", "three"])
def test_signed_chunks_with_a_signed_trailer_are_joined(
    endpoint: Endpoint, bucket: str, key: str, pieces: list[bytes]
) -> None:
    data = b"".join(pieces)
    trailers = {"x-amz-checksum-crc32c": checksum("CRC32C", data)}
    assert put_signed(endpoint, path_of(bucket, key), pieces, trailers).status == 200
    assert read(endpoint, bucket, key) == data


def test_a_chunk_that_was_changed_is_refused(endpoint: Endpoint, bucket: str, key: str) -> None:
    for number in (0, 1, 2):
        answer = put_signed(endpoint, path_of(bucket, key), PIECES, break_chunk=number)
        assert answer.told == (403, "SignatureDoesNotMatch"), number
    assert_absent(endpoint, bucket, key)


@pytest.mark.parametrize(
    "sizes", [[64 << 10], [1 << 20], [100, 200_000, 9_000, 17_000]], ids=["64 KiB", "1 MiB", "mixed"]
)
def test_a_large_body_in_signed_chunks_is_what_was_signed(
    endpoint: Endpoint, bucket: str, key: str, sizes: list[int]
) -> None:
    pieces, at = [], 0
    while at < len(LARGE):
        pieces.append(LARGE[at : at + sizes[len(pieces) % len(sizes)]])
        at += len(pieces[-1])
    for number in (0, len(pieces) // 2, len(pieces) - 1):
        answer = put_signed(endpoint, path_of(bucket, key), pieces, break_chunk=number)
        assert answer.told == (403, "SignatureDoesNotMatch"), number
    assert_absent(endpoint, bucket, key)
    put = put_signed(endpoint, path_of(bucket, key), pieces, {"x-amz-checksum-crc32": checksum("CRC32", LARGE)})
    assert (put.status, put.headers["etag"]) == (200, f'"{hashlib.md5(LARGE).hexdigest()}"')
    assert read(endpoint, bucket, key) == LARGE


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_all_that_is_claimed_of_a_large_body_has_to_hold(
    endpoint: Endpoint, bucket: str, key: str, algorithm: str
) -> None:
    target, header, sha256 = path_of(bucket, key), header_of(algorithm), hashlib.sha256(LARGE).hexdigest()
    right, wrong = {header: checksum(algorithm, LARGE)}, {header: checksum(algorithm, DATA)}
    assert endpoint.raw("PUT", target, headers=wrong, body=LARGE, payload=sha256).told == (400, "BadDigest")
    answer = endpoint.raw("PUT", target, headers=right, body=LARGE, payload="0" * 64)
    assert answer.told == (400, "XAmzContentSHA256Mismatch")
    assert_absent(endpoint, bucket, key)
    put = endpoint.raw("PUT", target, headers={**right, "content-md5": md5(LARGE)}, body=LARGE, payload=sha256)
    assert (put.status, put.headers["etag"]) == (200, f'"{hashlib.md5(LARGE).hexdigest()}"')
    assert read(endpoint, bucket, key) == LARGE


def test_a_trailer_that_was_changed_is_refused(endpoint: Endpoint, bucket: str, key: str) -> None:
    trailers = {"x-amz-checksum-crc32": checksum("CRC32", DATA)}
    answer = put_signed(endpoint, path_of(bucket, key), PIECES, trailers, break_trailer=True)
    assert answer.told == (403, "SignatureDoesNotMatch")
    wrong = {"x-amz-checksum-crc32": checksum("CRC32", DATA + b"!")}
    assert put_signed(endpoint, path_of(bucket, key), PIECES, wrong).told == (400, "BadDigest")
    assert_absent(endpoint, bucket, key)


def test_unsigned_chunks_need_no_trailer(endpoint: Endpoint, bucket: str, key: str) -> None:
    assert put_plain(endpoint, path_of(bucket, key), PIECES, {}).status == 200
    assert read(endpoint, bucket, key) == DATA


def test_aws_chunked_is_no_encoding_of_the_object(endpoint: Endpoint, bucket: str, key: str) -> None:
    packed = gzip.compress(DATA)
    put_plain(endpoint, path_of(bucket, key), [packed], {}, content_encoding="gzip,aws-chunked")
    answer = endpoint.raw("GET", path_of(bucket, key))
    assert (answer.headers.get("content-encoding"), answer.body) == ("gzip", packed)
    put_plain(endpoint, path_of(bucket, key), PIECES, {})
    assert "content-encoding" not in endpoint.raw("GET", path_of(bucket, key)).headers


def test_chunks_of_another_length_than_was_said_are_refused(endpoint: Endpoint, bucket: str, key: str) -> None:
    for said in ("4299", "4301", "nonsense"):
        answer = put_plain(endpoint, path_of(bucket, key), PIECES, {}, x_amz_decoded_content_length=said)
        assert answer.status == 400, said
    assert_absent(endpoint, bucket, key)


def test_chunks_without_their_length_are_refused(endpoint: Endpoint, bucket: str, key: str) -> None:
    answer = endpoint.raw("PUT", path_of(bucket, key), body=b"0\r\n\r\n", payload=UNSIGNED_TRAILER)
    assert answer.told == (411, "MissingContentLength")


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"5\r\nhello",
        b"5\r\nhello\r\n",
        b"zz\r\nhello\r\n0\r\n\r\n",
        b"-5\r\nhello\r\n0\r\n\r\n",
        b"5\r\nhelloXX0\r\n\r\n",
        b"f" * 20 + b"\r\n",
    ],
    ids=range(7),
)
def test_chunks_that_are_malformed_are_refused(endpoint: Endpoint, bucket: str, key: str, body: bytes) -> None:
    headers = {"content-encoding": "aws-chunked", "x-amz-decoded-content-length": "5"}
    answer = endpoint.raw("PUT", path_of(bucket, key), headers=headers, body=body, payload=UNSIGNED_TRAILER)
    assert 400 <= answer.status < 500
    assert_absent(endpoint, bucket, key)


def test_a_trailer_that_was_announced_has_to_come(endpoint: Endpoint, bucket: str, key: str) -> None:
    headers = {"x_amz_trailer": "x-amz-checksum-crc32"}
    answer = put_plain(endpoint, path_of(bucket, key), PIECES, {}, **headers)
    assert answer.told == (400, "MalformedTrailerError")
    assert_absent(endpoint, bucket, key)


# ---- length and expectations --------------------------------------------------------------------------------------------------


def signed_put(endpoint: Endpoint, target: str, headers: dict[str, str]) -> bytes:
    request = AWSRequest(method="PUT", url=endpoint.url + target, headers=headers)
    from datetime import UTC, datetime

    Signer(endpoint.access_key, endpoint.secret_key, UNSIGNED, datetime.now(UTC)).add_auth(request)
    lines = [f"PUT {target} HTTP/1.1", f"Host: {urlsplit(endpoint.url).netloc}"]
    lines += [f"{name}: {value}" for name, value in request.headers.items()]
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


def test_a_put_without_a_length_is_refused(endpoint: Endpoint, bucket: str, key: str) -> None:
    answer = endpoint.talk(signed_put(endpoint, path_of(bucket, key), {"Connection": "close"}))
    assert answer.startswith(b"HTTP/1.1 411 "), answer
    assert b"<Code>MissingContentLength</Code>" in answer
    assert_absent(endpoint, bucket, key)


def test_a_body_in_chunks_of_http_is_taken(endpoint: Endpoint, bucket: str, key: str) -> None:
    head = signed_put(
        endpoint, path_of(bucket, key), {"Transfer-Encoding": "chunked", "x-amz-decoded-content-length": "5"}
    )
    answer = endpoint.talk(head + b"5\r\nhello\r\n0\r\n\r\n")
    assert answer.startswith((b"HTTP/1.1 200 ", b"HTTP/1.1 411 ", b"HTTP/1.1 501 ")), answer


def test_a_body_that_ends_early_leaves_nothing(endpoint: Endpoint, bucket: str, key: str) -> None:
    endpoint.talk(signed_put(endpoint, path_of(bucket, key), {"Content-Length": "100"}) + b"only this", ends=True)
    assert_absent(endpoint, bucket, key)


def test_who_expects_to_be_told_to_go_on_is_told(endpoint: Endpoint, bucket: str, key: str) -> None:
    head = signed_put(endpoint, path_of(bucket, key), {"Content-Length": "5", "Expect": "100-continue"})
    where = urlsplit(endpoint.url)
    with socket.create_connection((where.hostname, where.port), timeout=10) as link:
        link.sendall(head)
        assert link.recv(1000).upper().startswith(b"HTTP/1.1 100 CONTINUE\r\n\r\n")
        link.sendall(b"hello")
        assert link.recv(1000).startswith(b"HTTP/1.1 200 ")
    assert read(endpoint, bucket, key) == b"hello"


def test_who_expects_to_go_on_and_may_not_is_told_at_once(endpoint: Endpoint, bucket: str, key: str) -> None:
    head = signed_put(endpoint, path_of(bucket, key), {"Content-Length": "5", "Expect": "100-continue"})
    where = urlsplit(endpoint.url)
    with socket.create_connection((where.hostname, where.port), timeout=10) as link:
        link.sendall(head.replace(b"Signature=", b"Signature=0", 1))
        assert link.recv(1000).startswith(b"HTTP/1.1 403 ")
