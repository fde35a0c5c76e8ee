"""Buckets: CreateBucket, HeadBucket, ListBuckets, DeleteBucket, GetBucketLocation, and the sub-resources tools look at first."""

from __future__ import annotations

import pytest
from s3_endpoints import Endpoint, path_of, refused

ENDPOINTS = ("monofs", "radosgw")


def test_a_bucket_that_was_made_is_there(endpoint: Endpoint) -> None:
    name = endpoint.new_name()
    made = endpoint.client.create_bucket(Bucket=name)
    assert made["ResponseMetadata"]["HTTPStatusCode"] == 200
    assert endpoint.client.head_bucket(Bucket=name)["ResponseMetadata"]["HTTPStatusCode"] == 200
    assert name in [each["Name"] for each in endpoint.client.list_buckets()["Buckets"]]


def test_a_bucket_tells_where_it_was_made(endpoint: Endpoint) -> None:
    assert endpoint.raw("PUT", f"/{(name := endpoint.new_name())}").headers["location"] == f"/{name}"


def test_a_bucket_is_made_again_by_who_made_it_and_stays_as_it_is(endpoint: Endpoint, fresh: str) -> None:
    endpoint.client.put_object(Bucket=fresh, Key="kept", Body=b"x")
    endpoint.client.put_bucket_tagging(Bucket=fresh, Tagging={"TagSet": [{"Key": "a", "Value": "1"}]})
    assert endpoint.raw("PUT", f"/{fresh}").status == 200
    assert endpoint.raw("GET", f"/{fresh}/kept").body == b"x"
    assert endpoint.client.get_bucket_tagging(Bucket=fresh)["TagSet"] == [{"Key": "a", "Value": "1"}]


def test_a_bucket_that_another_user_made_is_told_so(endpoint: Endpoint, fresh: str) -> None:
    told = refused(endpoint.others_client.create_bucket, Bucket=fresh)
    assert told == (409, "BucketAlreadyExists")
    assert refused(endpoint.others_client.create_bucket, Bucket=fresh, ACL="public-read") == told


def test_who_signs_nothing_is_told_of_no_bucket(endpoint: Endpoint, fresh: str) -> None:
    answer = endpoint.raw("GET", "/", signed=False)
    assert (answer.status, answer.document.tag) == (200, "ListAllMyBucketsResult")
    assert not list(answer.document.iter("Bucket"))


@pytest.mark.parametrize(
    ("method", "target"),
    [
        ("GET", "/not-there"),
        ("GET", "/not-there?list-type=2"),
        ("DELETE", "/not-there"),
        ("GET", "/not-there/key"),
        ("PUT", "/not-there/key"),
        ("DELETE", "/not-there/key"),
    ],
)
def test_that_a_bucket_is_not_there_is_told_to_everybody(endpoint: Endpoint, method: str, target: str) -> None:
    assert endpoint.raw(method, target, signed=False).told == (404, "NoSuchBucket")
    assert endpoint.raw("HEAD", target, signed=False).status == 404


def test_an_empty_location_is_where_aws_began(endpoint: Endpoint, fresh: str) -> None:
    assert endpoint.client.get_bucket_location(Bucket=fresh)["LocationConstraint"] in (None, "default")


@pytest.mark.parametrize(
    "name",
    [
        "ab",
        "Upper",
        "under_score",
        "-begins",
        "ends-",
        "a..b",
        "a.-b",
        "a-.b",
        "192.168.1.1",
        "a" * 64,
        "xn--bucket",
        "sp%20ace",
    ],
)
def test_a_name_that_is_none_is_refused(endpoint: Endpoint, name: str) -> None:
    assert endpoint.raw("PUT", f"/{name}").told == (400, "InvalidBucketName")


def test_a_canned_list_that_is_none_is_refused(endpoint: Endpoint) -> None:
    target = f"/{endpoint.new_name()}"
    assert endpoint.raw("PUT", target, headers={"x-amz-acl": "public-ready"}).told == (400, "InvalidArgument")
    assert endpoint.raw("HEAD", target).status == 404


def test_a_malformed_configuration_is_refused(endpoint: Endpoint) -> None:
    target = f"/{endpoint.new_name()}"
    assert endpoint.raw("PUT", target, body=b"<Create").told == (400, "MalformedXML")
    assert endpoint.raw("HEAD", target).status == 404


@pytest.mark.parametrize(
    ("method", "query"),
    [
        ("GET", ""),
        ("GET", "list-type=2"),
        ("GET", "location"),
        ("GET", "versions"),
        ("GET", "uploads"),
        ("GET", "versioning"),
        ("GET", "acl"),
        ("GET", "tagging"),
        ("GET", "cors"),
        ("GET", "policy"),
        ("GET", "lifecycle"),
        ("DELETE", ""),
        ("DELETE", "tagging"),
    ],
)
def test_a_bucket_that_is_not_there_is_no_such_bucket(endpoint: Endpoint, method: str, query: str) -> None:
    assert endpoint.raw(method, path_of("not-there", query=query)).told == (404, "NoSuchBucket")


def test_head_of_a_bucket_that_is_not_there_has_no_body(endpoint: Endpoint) -> None:
    answer = endpoint.raw("HEAD", "/not-there")
    assert (answer.status, answer.body) == (404, b"")


@pytest.mark.parametrize(
    ("method", "query"), [("GET", ""), ("PUT", ""), ("HEAD", ""), ("DELETE", ""), ("GET", "tagging")]
)
def test_a_key_in_a_bucket_that_is_not_there(endpoint: Endpoint, method: str, query: str) -> None:
    answer = endpoint.raw(method, path_of("not-there", "key", query))
    assert answer.status == 404
    assert method == "HEAD" or answer.code == "NoSuchBucket"


def test_a_bucket_goes_when_it_is_empty_and_only_then(endpoint: Endpoint, fresh: str) -> None:
    endpoint.client.put_object(Bucket=fresh, Key="a/b", Body=b"x")
    assert refused(endpoint.client.delete_bucket, Bucket=fresh) == (409, "BucketNotEmpty")
    endpoint.client.delete_object(Bucket=fresh, Key="a/b")
    assert endpoint.client.delete_bucket(Bucket=fresh)["ResponseMetadata"]["HTTPStatusCode"] == 204
    assert refused(endpoint.client.delete_bucket, Bucket=fresh) == (404, "NoSuchBucket")
    assert fresh not in [each["Name"] for each in endpoint.client.list_buckets()["Buckets"]]


def test_buckets_are_listed_in_order_with_their_owner(endpoint: Endpoint) -> None:
    for _ in range(3):
        endpoint.make_bucket()
    found = endpoint.client.list_buckets()
    names = [each["Name"] for each in found["Buckets"]]
    assert names == sorted(names)
    assert all(each["CreationDate"].year >= 2020 for each in found["Buckets"])
    assert found["Owner"]["ID"]


def test_buckets_are_listed_in_pages(endpoint: Endpoint) -> None:
    wanted = [endpoint.make_bucket() for _ in range(3)]
    pages = list(endpoint.client.get_paginator("list_buckets").paginate(PaginationConfig={"PageSize": 2}))
    assert all(len(page["Buckets"]) <= 2 for page in pages)
    assert set(wanted) <= {each["Name"] for page in pages for each in page["Buckets"]}


def test_buckets_are_listed_by_prefix(endpoint: Endpoint) -> None:
    name = endpoint.new_name("prefixed")
    endpoint.client.create_bucket(Bucket=name)
    assert [each["Name"] for each in endpoint.client.list_buckets(Prefix=name)["Buckets"]] == [name]


@pytest.mark.parametrize(
    ("query", "code"),
    [
        ("tagging", "NoSuchTagSet"),
        ("cors", "NoSuchCORSConfiguration"),
        ("policy", "NoSuchBucketPolicy"),
        ("lifecycle", "NoSuchLifecycleConfiguration"),
        ("website", "NoSuchWebsiteConfiguration"),
        ("encryption", "ServerSideEncryptionConfigurationNotFoundError"),
        ("replication", "ReplicationConfigurationNotFoundError"),
        ("object-lock", "ObjectLockConfigurationNotFoundError"),
        ("publicAccessBlock", "NoSuchPublicAccessBlockConfiguration"),
    ],
)
def test_what_was_never_configured_is_told_so(endpoint: Endpoint, bucket: str, query: str, code: str) -> None:
    answer = endpoint.raw("GET", path_of(bucket, query=query))
    assert answer.told == (404, code)


@pytest.mark.parametrize(
    ("query", "root"),
    [
        ("versioning", "VersioningConfiguration"),
        ("acl", "AccessControlPolicy"),
        ("requestPayment", "RequestPaymentConfiguration"),
        ("logging", "BucketLoggingStatus"),
        ("notification", "NotificationConfiguration"),
        ("accelerate", "AccelerateConfiguration"),
    ],
)
def test_what_is_off_says_so(endpoint: Endpoint, bucket: str, query: str, root: str) -> None:
    answer = endpoint.raw("GET", path_of(bucket, query=query))
    assert (answer.status, answer.document.tag) == (200, root)


@pytest.mark.parametrize(
    "query", ["tagging", "cors", "policy", "lifecycle", "website", "encryption", "publicAccessBlock"]
)
def test_removing_what_was_never_configured_succeeds(endpoint: Endpoint, fresh: str, query: str) -> None:
    assert endpoint.raw("DELETE", path_of(fresh, query=query)).status == 204
    assert endpoint.raw("HEAD", path_of(fresh)).status == 200


def test_methods_that_buckets_do_not_know_are_not_allowed(endpoint: Endpoint, bucket: str) -> None:
    for method, target in (("POST", f"/{bucket}"), ("PUT", "/"), ("DELETE", "/"), ("PATCH", f"/{bucket}")):
        assert endpoint.raw(method, target).told == (405, "MethodNotAllowed"), (method, target)
