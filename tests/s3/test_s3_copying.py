"""CopyObject: bytes, metadata, tags, and what is refused. Conditions: ``test_s3_conditional_requests``."""

from __future__ import annotations

import pytest
from s3_checksums import checksum
from s3_endpoints import Endpoint, Reply, path_of

HEADERS = {
    "content-type": "text/own",
    "cache-control": "no-store",
    "x-amz-meta-color": "blue",
    "x-amz-tagging": "k=v&l=w",
}


@pytest.fixture
def source(endpoint: Endpoint, bucket: str, key: str) -> str:
    """``bucket/key`` of an object."""
    endpoint.raw("PUT", path_of(bucket, key), headers=HEADERS, body=b"copied")
    return f"{bucket}/{key}"


def copy(endpoint: Endpoint, source: str, target: str, **headers: str) -> Reply:
    told = {"x-amz-copy-source": source} | {name.replace("_", "-"): value for name, value in headers.items()}
    return endpoint.raw("PUT", target, headers=told)


def tags(endpoint: Endpoint, target: str) -> dict[str, str]:
    found = endpoint.raw("GET", f"{target}?tagging").document.iter("Tag")
    return {each.findtext("Key") or "": each.findtext("Value") or "" for each in found}


def test_a_copy_is_the_same_bytes_and_metadata(endpoint: Endpoint, bucket: str, key: str, source: str) -> None:
    target = path_of(bucket, f"{key}-copy")
    answer = copy(endpoint, source, target)
    assert (answer.status, answer.document.tag) == (200, "CopyObjectResult")
    found = endpoint.raw("GET", target)
    assert found.body == b"copied"
    assert answer.text("ETag") == found.headers["etag"]
    assert answer.text("LastModified").endswith("Z")
    told = ("content-type", "cache-control", "x-amz-meta-color")
    assert {name: found.headers[name] for name in told} == {name: HEADERS[name] for name in told}
    assert tags(endpoint, target) == {"k": "v", "l": "w"}


def test_the_etag_of_a_copy_is_that_of_its_bytes(endpoint: Endpoint, bucket: str, key: str, source: str) -> None:
    copy(endpoint, source, path_of(bucket, f"{key}-copy"))
    heads = [endpoint.raw("HEAD", path_of(bucket, name)).headers["etag"] for name in (key, f"{key}-copy")]
    assert heads[0] == heads[1]


def test_a_copy_may_replace_metadata(endpoint: Endpoint, bucket: str, key: str, source: str) -> None:
    target = path_of(bucket, f"{key}-copy")
    headers = {"x_amz_metadata_directive": "REPLACE", "x_amz_meta_other": "1", "content_type": "a/b"}
    assert copy(endpoint, source, target, **headers).status == 200
    found = endpoint.raw("HEAD", target).headers
    assert (found["x-amz-meta-other"], found["content-type"]) == ("1", "a/b")
    assert "x-amz-meta-color" not in found
    assert "cache-control" not in found
    assert tags(endpoint, target) == {"k": "v", "l": "w"}


def test_a_copy_that_does_not_replace_ignores_what_is_sent(
    endpoint: Endpoint, bucket: str, key: str, source: str
) -> None:
    target = path_of(bucket, f"{key}-copy")
    assert copy(endpoint, source, target, x_amz_meta_other="1").status == 200
    found = endpoint.raw("HEAD", target).headers
    assert found["x-amz-meta-color"] == "blue"
    assert "x-amz-meta-other" not in found


def test_a_copy_may_replace_tags(endpoint: Endpoint, bucket: str, key: str, source: str) -> None:
    target = path_of(bucket, f"{key}-copy")
    headers = {"x_amz_tagging_directive": "REPLACE", "x_amz_tagging": "new=1"}
    assert copy(endpoint, source, target, **headers).status == 200
    assert tags(endpoint, target) == {"new": "1"}
    assert endpoint.raw("HEAD", target).headers["x-amz-meta-color"] == "blue"


def test_a_copy_onto_itself_has_to_change_something(endpoint: Endpoint, bucket: str, key: str, source: str) -> None:
    target = path_of(bucket, key)
    assert copy(endpoint, source, target).told == (400, "InvalidRequest")
    headers = {"x_amz_metadata_directive": "REPLACE", "x_amz_meta_color": "red"}
    assert copy(endpoint, source, target, **headers).status == 200
    found = endpoint.raw("GET", target)
    assert (found.body, found.headers["x-amz-meta-color"]) == (b"copied", "red")
    assert "cache-control" not in found.headers


def test_a_copy_goes_to_another_bucket(endpoint: Endpoint, fresh: str, key: str, source: str) -> None:
    assert copy(endpoint, "/" + source, path_of(fresh, "sub/dir/copy")).status == 200
    assert endpoint.raw("GET", path_of(fresh, "sub/dir/copy")).body == b"copied"


def test_a_copy_replaces_what_is_there(endpoint: Endpoint, bucket: str, key: str, source: str) -> None:
    target = path_of(bucket, f"{key}-copy")
    endpoint.raw("PUT", target, headers={"x-amz-meta-gone": "1"}, body=b"there")
    assert copy(endpoint, source, target).status == 200
    found = endpoint.raw("GET", target)
    assert found.body == b"copied"
    assert "x-amz-meta-gone" not in found.headers


@pytest.mark.parametrize("size", [0, 100_000, (2 << 20) + 1])
def test_a_copy_of_any_size(endpoint: Endpoint, bucket: str, key: str, size: int) -> None:
    data = (b"0123456789" * (size // 10 + 1))[:size]
    endpoint.client.put_object(Bucket=bucket, Key=key, Body=data, Metadata={"a": "b"})
    endpoint.client.copy_object(Bucket=bucket, Key=f"{key}-copy", CopySource={"Bucket": bucket, "Key": key})
    found = endpoint.client.get_object(Bucket=bucket, Key=f"{key}-copy")
    assert (found["Body"].read(), found["Metadata"]) == (data, {"a": "b"})


def test_a_marker_is_copied(endpoint: Endpoint, bucket: str, key: str) -> None:
    endpoint.raw("PUT", path_of(bucket, f"{key}/"))
    assert copy(endpoint, f"{bucket}/{key}/", path_of(bucket, f"{key}-copy/")).status == 200
    assert copy(endpoint, f"{bucket}/{key}/", path_of(bucket, f"{key}-plain")).status == 200
    for name in (f"{key}-copy/", f"{key}-plain"):
        answer = endpoint.raw("GET", path_of(bucket, name))
        assert (answer.status, answer.body) == (200, b""), name


def test_a_source_that_ends_in_a_slash_is_another(endpoint: Endpoint, bucket: str, key: str, source: str) -> None:
    assert copy(endpoint, f"{source}/", path_of(bucket, f"{key}-copy")).told == (404, "NoSuchKey")


def test_a_source_of_odd_characters_is_percent_encoded(endpoint: Endpoint, bucket: str, key: str) -> None:
    odd = f"{key}/a b+c%41é?x"
    endpoint.client.put_object(Bucket=bucket, Key=odd, Body=b"odd")
    endpoint.client.copy_object(Bucket=bucket, Key=f"{key}-copy", CopySource={"Bucket": bucket, "Key": odd})
    assert endpoint.raw("GET", path_of(bucket, f"{key}-copy")).body == b"odd"


def test_a_checksum_goes_along(endpoint: Endpoint, bucket: str, key: str) -> None:
    value = checksum("SHA256", b"copied")
    endpoint.raw("PUT", path_of(bucket, key), headers={"x-amz-checksum-sha256": value}, body=b"copied")
    answer = copy(endpoint, f"{bucket}/{key}", path_of(bucket, f"{key}-copy"))
    assert answer.text("ChecksumSHA256") == value
    asked = {"x-amz-checksum-mode": "ENABLED"}
    found = endpoint.raw("HEAD", path_of(bucket, f"{key}-copy"), headers=asked).headers
    assert found["x-amz-checksum-sha256"] == value


@pytest.mark.parametrize(
    ("source", "told"),
    [
        ("{bucket}/never-made", (404, "NoSuchKey")),
        ("not-there/key", (404, "NoSuchBucket")),
        ("nonsense", (400, "InvalidArgument")),
        ("", (400, "InvalidArgument")),
        ("{bucket}/", (400, "InvalidArgument")),
        ("{bucket}/never-made?versionId=", (400, "InvalidArgument")),
    ],
    ids=range(6),
)
def test_a_source_that_is_none_is_refused(
    endpoint: Endpoint, bucket: str, key: str, source: str, told: tuple[int, str]
) -> None:
    answer = copy(endpoint, source.replace("{bucket}", bucket), path_of(bucket, key))
    assert answer.told == told
    assert endpoint.raw("HEAD", path_of(bucket, key)).status == 404


def test_a_copy_into_a_bucket_that_is_not_there(endpoint: Endpoint, source: str) -> None:
    assert copy(endpoint, source, path_of("not-there", "key")).told == (404, "NoSuchBucket")


@pytest.mark.parametrize("name", ["x_amz_metadata_directive", "x_amz_tagging_directive"])
def test_a_directive_that_is_none_is_refused(endpoint: Endpoint, bucket: str, key: str, source: str, name: str) -> None:
    answer = copy(endpoint, source, path_of(bucket, f"{key}-copy"), **{name: "KEEP"})
    assert answer.told == (400, "InvalidArgument")
