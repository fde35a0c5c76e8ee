"""Range and partNumber: RFC 9110, section 14, as GetObject keeps it."""

from __future__ import annotations

import pytest
from s3_endpoints import Endpoint, path_of

DATA = bytes(range(256)) * 4
SIZE = len(DATA)


@pytest.fixture(scope="session")
def ranged(endpoint: Endpoint, bucket: str) -> str:
    """The target of an object of 1,024 bytes."""
    target = path_of(bucket, "ranged")
    endpoint.raw("PUT", target, body=DATA)
    endpoint.raw("PUT", path_of(bucket, "ranged-empty"))
    return target


@pytest.mark.parametrize(
    ("asked", "first", "last"),
    [
        ("bytes=0-0", 0, 0),
        ("bytes=0-99", 0, 99),
        ("bytes=100-199", 100, 199),
        ("bytes=1000-", 1000, 1023),
        ("bytes=0-", 0, 1023),
        ("bytes=1023-", 1023, 1023),
        ("bytes=1000-5000", 1000, 1023),
        ("bytes=0-99999999999999999999999", 0, 1023),
        ("bytes=-1", 1023, 1023),
        ("bytes=-100", 924, 1023),
        ("bytes=-1024", 0, 1023),
        ("bytes=-5000", 0, 1023),
    ],
)
def test_a_range_is_answered_with_its_bytes(endpoint: Endpoint, ranged: str, asked: str, first: int, last: int) -> None:
    answer = endpoint.raw("GET", ranged, headers={"range": asked})
    assert (answer.status, answer.body) == (206, DATA[first : last + 1])
    assert answer.headers["content-range"] == f"bytes {first}-{last}/{SIZE}"
    assert answer.headers["content-length"] == str(last - first + 1)
    head = endpoint.raw("HEAD", ranged, headers={"range": asked})
    assert (head.status, head.headers["content-range"]) == (206, f"bytes {first}-{last}/{SIZE}")
    assert head.headers["content-length"] == str(last - first + 1)


@pytest.mark.parametrize("asked", ["bytes=1024-", "bytes=1024-2000", "bytes=99999999999999999999-", "bytes=-0"])
def test_a_range_of_nothing_is_unsatisfiable(endpoint: Endpoint, ranged: str, asked: str) -> None:
    assert endpoint.raw("GET", ranged, headers={"range": asked}).told == (416, "InvalidRange")


@pytest.mark.parametrize("asked", ["bytes=0-", "bytes=0-0", "bytes=-1", "bytes=5-"])
def test_no_range_of_an_empty_object_is_satisfiable(endpoint: Endpoint, bucket: str, ranged: str, asked: str) -> None:
    assert endpoint.raw("GET", path_of(bucket, "ranged-empty"), headers={"range": asked}).told == (416, "InvalidRange")


@pytest.mark.parametrize(
    "asked", ["bytes=0-1,4-5", "bytes=5-2", "bytes=", "bytes=-", "bytes=a-b", "lines=0-1", "0-1", "nonsense"]
)
def test_what_is_no_range_means_everything(endpoint: Endpoint, ranged: str, asked: str) -> None:
    answer = endpoint.raw("GET", ranged, headers={"range": asked})
    assert (answer.status, answer.body) == (200, DATA)


def test_a_range_has_conditions(endpoint: Endpoint, ranged: str) -> None:
    etag = endpoint.raw("HEAD", ranged).headers["etag"]
    asked = {"range": "bytes=0-9", "if-match": etag}
    assert endpoint.raw("GET", ranged, headers=asked).body == DATA[:10]
    assert endpoint.raw("GET", ranged, headers={**asked, "if-match": '"0"'}).told == (412, "PreconditionFailed")
    assert endpoint.raw("GET", ranged, headers={"range": "bytes=0-9", "if-none-match": etag}).status == 304


def test_a_range_counts_if_the_object_is_the_one_known(endpoint: Endpoint, ranged: str) -> None:
    etag = endpoint.raw("HEAD", ranged).headers["etag"]
    assert endpoint.raw("GET", ranged, headers={"range": "bytes=0-9", "if-range": etag}).body == DATA[:10]
    other = endpoint.raw("GET", ranged, headers={"range": "bytes=0-9", "if-range": '"0"'})
    assert (other.status, other.body) == (200, DATA)


def test_an_object_put_whole_is_its_only_part(endpoint: Endpoint, ranged: str) -> None:
    answer = endpoint.raw("GET", f"{ranged}?partNumber=1")
    assert (answer.status, answer.body) == (206, DATA)
    assert answer.headers["content-range"] == f"bytes 0-{SIZE - 1}/{SIZE}"
    assert endpoint.raw("GET", f"{ranged}?partNumber=2").told == (416, "InvalidPartNumber")
    for number in ("0", "10001", "-1", "x", ""):
        assert endpoint.raw("GET", f"{ranged}?partNumber={number}").told == (400, "InvalidArgument"), number


def test_a_part_and_a_range_exclude_each_other(endpoint: Endpoint, ranged: str) -> None:
    answer = endpoint.raw("GET", f"{ranged}?partNumber=1", headers={"range": "bytes=0-1"})
    assert answer.told == (400, "InvalidRequest")


@pytest.mark.parametrize("size", [100_000, (1 << 20) + 1])
def test_ranges_of_larger_objects(endpoint: Endpoint, bucket: str, key: str, size: int) -> None:
    data = (b"0123456789abcdef" * (size // 16 + 1))[:size]
    endpoint.client.put_object(Bucket=bucket, Key=key, Body=data)
    for first, last in ((0, 0), (65535, 65536), (size - 5, size - 1), (10, size - 10)):
        found = endpoint.client.get_object(Bucket=bucket, Key=key, Range=f"bytes={first}-{last}")
        assert found["Body"].read() == data[first : last + 1]
