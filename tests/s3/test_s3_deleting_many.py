"""DeleteObjects."""

from __future__ import annotations

import pytest
from s3_checksums import checksum, md5
from s3_endpoints import Endpoint, Reply, path_of


def delete(endpoint: Endpoint, bucket: str, body: bytes, **headers: str) -> Reply:
    told = {"content-md5": md5(body), **headers}
    return endpoint.raw("POST", path_of(bucket, query="delete"), headers=told, body=body)


def test_many_are_deleted_and_told(endpoint: Endpoint, bucket: str, key: str) -> None:
    names = [f"{key}/{number}" for number in range(5)]
    for name in names:
        endpoint.raw("PUT", path_of(bucket, name), body=b"x")
    doomed = [{"Key": name} for name in [*names, f"{key}/missing"]]
    answer = endpoint.client.delete_objects(Bucket=bucket, Delete={"Objects": doomed})
    assert {each["Key"] for each in answer["Deleted"]} == {each["Key"] for each in doomed}
    assert "Errors" not in answer
    assert "Contents" not in endpoint.client.list_objects_v2(Bucket=bucket, Prefix=key)


def test_who_wants_quiet_is_told_nothing(endpoint: Endpoint, bucket: str, key: str) -> None:
    endpoint.raw("PUT", path_of(bucket, key), body=b"x")
    answer = endpoint.client.delete_objects(Bucket=bucket, Delete={"Objects": [{"Key": key}], "Quiet": True})
    assert "Deleted" not in answer
    assert "Errors" not in answer
    assert endpoint.raw("HEAD", path_of(bucket, key)).status == 404


def test_the_same_key_twice_is_no_failure(endpoint: Endpoint, bucket: str, key: str) -> None:
    endpoint.raw("PUT", path_of(bucket, key), body=b"x")
    answer = endpoint.client.delete_objects(Bucket=bucket, Delete={"Objects": [{"Key": key}, {"Key": key}]})
    assert "Errors" not in answer
    assert endpoint.raw("HEAD", path_of(bucket, key)).status == 404


def test_odd_keys_are_deleted(endpoint: Endpoint, bucket: str, key: str) -> None:
    names = [f"{key}/{odd}" for odd in ("a b", "<&>", "é", "a%20b", "a+b", "'\"", " x ")]
    for name in names:
        endpoint.client.put_object(Bucket=bucket, Key=name, Body=b"")
    doomed = {"Objects": [{"Key": name} for name in names]}
    answer = endpoint.client.delete_objects(Bucket=bucket, Delete=doomed)
    assert [each["Key"] for each in answer["Deleted"]] == names
    assert "Contents" not in endpoint.client.list_objects_v2(Bucket=bucket, Prefix=f"{key}/")


def test_the_null_version_is_deleted(endpoint: Endpoint, bucket: str, key: str) -> None:
    endpoint.raw("PUT", path_of(bucket, key), body=b"x")
    doomed = {"Objects": [{"Key": key, "VersionId": "null"}]}
    answer = endpoint.client.delete_objects(Bucket=bucket, Delete=doomed)
    assert [(each["Key"], each["VersionId"]) for each in answer["Deleted"]] == [(key, "null")]
    assert endpoint.raw("HEAD", path_of(bucket, key)).status == 404


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"nonsense",
        b"<Delete>",
        b"<Delete></Delete>",
        b"<Delete><Object></Object></Delete>",
        b"<Delete><Object><Key></Key></Object></Delete>",
        b"<Other><Object><Key>a</Key></Object></Other>",
        b'<!DOCTYPE a [<!ENTITY x "y">]><Delete><Object><Key>&x;</Key></Object></Delete>',
    ],
    ids=range(8),
)
def test_a_body_that_is_no_list_is_malformed(endpoint: Endpoint, bucket: str, body: bytes) -> None:
    assert delete(endpoint, bucket, body).told == (400, "MalformedXML")


def test_more_than_a_thousand_are_too_many(endpoint: Endpoint, bucket: str, key: str) -> None:
    endpoint.raw("PUT", path_of(bucket, f"{key}0"), body=b"x")
    objects = b"".join(b"<Object><Key>%s%d</Key></Object>" % (key.encode(), number) for number in range(1001))
    answer = delete(endpoint, bucket, b"<Delete>%s</Delete>" % objects)
    assert answer.told == (400, "MalformedXML")
    assert endpoint.raw("HEAD", path_of(bucket, f"{key}0")).status == 200


def test_a_wrong_digest_deletes_nothing(endpoint: Endpoint, bucket: str, key: str) -> None:
    endpoint.raw("PUT", path_of(bucket, key), body=b"x")
    body = b"<Delete><Object><Key>%s</Key></Object></Delete>" % key.encode()
    target = path_of(bucket, query="delete")
    assert endpoint.raw("POST", target, headers={"content-md5": md5(b"other")}, body=body).told == (400, "BadDigest")
    wrong = {"x-amz-checksum-crc32": checksum("CRC32", b"other")}
    assert endpoint.raw("POST", target, headers=wrong, body=body).told == (400, "BadDigest")
    assert endpoint.raw("HEAD", path_of(bucket, key)).status == 200


def test_a_list_needs_a_digest(endpoint: Endpoint, bucket: str, key: str) -> None:
    """API Reference: Content-MD5 or a checksum is required."""
    body = b"<Delete><Object><Key>%s</Key></Object></Delete>" % key.encode()
    answer = endpoint.raw("POST", path_of(bucket, query="delete"), body=body)
    assert answer.told == (400, "InvalidRequest")
