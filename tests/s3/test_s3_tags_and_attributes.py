"""Tags of objects and buckets, and GetObjectAttributes."""

from __future__ import annotations

import hashlib

import pytest
from s3_checksums import checksum
from s3_endpoints import Endpoint, path_of, refused


def tags_of(endpoint: Endpoint, bucket: str, key: str) -> dict[str, str]:
    found = endpoint.client.get_object_tagging(Bucket=bucket, Key=key)
    return {each["Key"]: each["Value"] for each in found["TagSet"]}


def put_tags(endpoint: Endpoint, bucket: str, key: str, tags: dict[str, str]) -> None:
    pairs = [{"Key": name, "Value": value} for name, value in tags.items()]
    endpoint.client.put_object_tagging(Bucket=bucket, Key=key, Tagging={"TagSet": pairs})


def test_tags_are_put_replaced_and_removed(endpoint: Endpoint, bucket: str, key: str) -> None:
    endpoint.client.put_object(Bucket=bucket, Key=key, Body=b"x", Metadata={"a": "b"}, ContentType="c/d")
    before = endpoint.raw("HEAD", path_of(bucket, key)).headers
    assert tags_of(endpoint, bucket, key) == {}
    put_tags(endpoint, bucket, key, {"one": "1", "two": "", "ü +&=": "é <>"})
    assert tags_of(endpoint, bucket, key) == {"one": "1", "two": "", "ü +&=": "é <>"}
    put_tags(endpoint, bucket, key, {"three": "3"})
    assert tags_of(endpoint, bucket, key) == {"three": "3"}
    answer = endpoint.raw("DELETE", path_of(bucket, key, "tagging"))
    assert answer.status == 204
    assert tags_of(endpoint, bucket, key) == {}
    found = endpoint.client.get_object(Bucket=bucket, Key=key)
    assert (found["Body"].read(), found["Metadata"], found["ContentType"]) == (b"x", {"a": "b"}, "c/d")
    after = endpoint.raw("HEAD", path_of(bucket, key)).headers
    if endpoint.name != "radosgw":  # for which tags are a change of the object
        assert after["last-modified"] == before["last-modified"]


def test_tags_come_with_a_put(endpoint: Endpoint, bucket: str, key: str) -> None:
    endpoint.client.put_object(Bucket=bucket, Key=key, Body=b"x", Tagging="a=1&b=two%20words&c")
    assert tags_of(endpoint, bucket, key) == {"a": "1", "b": "two words", "c": ""}
    assert endpoint.client.get_object(Bucket=bucket, Key=key)["TagCount"] == 3
    endpoint.client.put_object(Bucket=bucket, Key=key, Body=b"y")
    assert tags_of(endpoint, bucket, key) == {}
    assert "x-amz-tagging-count" not in endpoint.raw("GET", path_of(bucket, key)).headers


@pytest.mark.parametrize(
    "tags",
    [
        {str(number): "" for number in range(11)},
        {"k" * 129: ""},
        {"k": "v" * 257},
        {"aws:k": ""},
    ],
    ids=["eleven", "long key", "long value", "aws"],
)
def test_tags_that_may_not_be_are_refused(endpoint: Endpoint, bucket: str, key: str, tags: dict[str, str]) -> None:
    endpoint.client.put_object(Bucket=bucket, Key=key, Body=b"x")
    pairs = [{"Key": name, "Value": value} for name, value in tags.items()]
    told = refused(endpoint.client.put_object_tagging, Bucket=bucket, Key=key, Tagging={"TagSet": pairs})
    assert told[0] == 400
    assert told[1] in ("InvalidTag", "BadRequest")
    assert tags_of(endpoint, bucket, key) == {}


def test_as_many_tags_as_may_be(endpoint: Endpoint, bucket: str, key: str) -> None:
    endpoint.client.put_object(Bucket=bucket, Key=key, Body=b"x")
    tags = {f"{number}" + "k" * 127: "v" * 256 for number in range(10)}
    put_tags(endpoint, bucket, key, tags)
    assert tags_of(endpoint, bucket, key) == tags


@pytest.mark.parametrize(
    "body", [b"", b"<Tagging/>", b"<Tagging><TagSet><Tag><Key>a</Key></TagSet></Tagging>", b"<Other/>"], ids=range(4)
)
def test_tags_that_are_malformed_are_refused(endpoint: Endpoint, bucket: str, key: str, body: bytes) -> None:
    endpoint.client.put_object(Bucket=bucket, Key=key, Body=b"x")
    assert endpoint.raw("PUT", path_of(bucket, key, "tagging"), body=body).told == (400, "MalformedXML")


def test_the_same_tag_twice_is_refused(endpoint: Endpoint, bucket: str, key: str) -> None:
    endpoint.client.put_object(Bucket=bucket, Key=key, Body=b"x")
    tag = b"<Tag><Key>a</Key><Value>1</Value></Tag>"
    body = b"<Tagging><TagSet>%s%s</TagSet></Tagging>" % (tag, tag)
    assert endpoint.raw("PUT", path_of(bucket, key, "tagging"), body=body).told == (400, "InvalidTag")


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE"])
def test_what_is_not_there_has_no_tags(endpoint: Endpoint, bucket: str, key: str, method: str) -> None:
    body = b"<Tagging><TagSet/></Tagging>" if method == "PUT" else b""
    assert endpoint.raw(method, path_of(bucket, key, "tagging"), body=body).told == (404, "NoSuchKey")


def test_tags_of_a_bucket_are_put_and_removed(endpoint: Endpoint, fresh: str) -> None:
    tags = [{"Key": "team", "Value": "a b"}, {"Key": "ü", "Value": ""}]
    endpoint.client.put_bucket_tagging(Bucket=fresh, Tagging={"TagSet": tags})
    found = endpoint.client.get_bucket_tagging(Bucket=fresh)["TagSet"]
    assert sorted(found, key=lambda each: each["Key"]) == tags
    endpoint.client.delete_bucket_tagging(Bucket=fresh)
    assert refused(endpoint.client.get_bucket_tagging, Bucket=fresh) == (404, "NoSuchTagSet")


def test_a_key_that_ends_in_a_slash_has_no_part_in_the_one_without(endpoint: Endpoint, bucket: str, key: str) -> None:
    endpoint.raw("PUT", path_of(bucket, key), headers={"x-amz-tagging": "a=1"}, body=b"x")
    for query in ("tagging", "acl", "attributes", ""):
        headers = {"x-amz-object-attributes": "ETag"}
        answer = endpoint.raw("GET", path_of(bucket, f"{key}/", query), headers=headers)
        assert answer.told == (404, "NoSuchKey"), query
    body = b"<Tagging><TagSet/></Tagging>"
    assert endpoint.raw("PUT", path_of(bucket, f"{key}/", "tagging"), body=body).told == (404, "NoSuchKey")
    assert tags_of(endpoint, bucket, key) == {"a": "1"}


# ---- GetObjectAttributes ------------------------------------------------------------------------------------------------------------


def test_attributes_are_those_asked_for(endpoint: Endpoint, bucket: str, key: str) -> None:
    value = checksum("CRC32C", b"data")
    endpoint.raw("PUT", path_of(bucket, key), headers={"x-amz-checksum-crc32c": value}, body=b"data")
    wanted = ["ETag", "ObjectSize", "StorageClass", "Checksum"]
    found = endpoint.client.get_object_attributes(Bucket=bucket, Key=key, ObjectAttributes=wanted)
    assert found["ETag"] == hashlib.md5(b"data").hexdigest()
    assert (found["ObjectSize"], found["StorageClass"]) == (4, "STANDARD")
    assert found["Checksum"] == {"ChecksumCRC32C": value, "ChecksumType": "FULL_OBJECT"}
    assert found["LastModified"]
    found = endpoint.client.get_object_attributes(Bucket=bucket, Key=key, ObjectAttributes=["ObjectSize"])
    assert found["ObjectSize"] == 4
    assert "ETag" not in found


def test_attributes_of_parts_come_in_pages(endpoint: Endpoint, bucket: str, key: str) -> None:
    number = endpoint.client.create_multipart_upload(Bucket=bucket, Key=key)["UploadId"]
    parts = []
    for part, data in ((1, b"a" * (5 << 20)), (2, b"b" * (5 << 20)), (3, b"c")):
        put = endpoint.client.upload_part(Bucket=bucket, Key=key, UploadId=number, PartNumber=part, Body=data)
        parts.append({"PartNumber": part, "ETag": put["ETag"]})
    endpoint.client.complete_multipart_upload(Bucket=bucket, Key=key, UploadId=number, MultipartUpload={"Parts": parts})
    asked = {"Bucket": bucket, "Key": key, "ObjectAttributes": ["ObjectParts", "ObjectSize"]}
    found = endpoint.client.get_object_attributes(**asked)
    assert found["ObjectSize"] == (10 << 20) + 1
    assert found["ObjectParts"]["TotalPartsCount"] == 3
    page = endpoint.client.get_object_attributes(**asked, MaxParts=1, PartNumberMarker=1)["ObjectParts"]
    assert (page["IsTruncated"], page["MaxParts"], page["PartNumberMarker"]) == (True, 1, 1)
    assert page["NextPartNumberMarker"] == 2
    target, headers = path_of(bucket, key, "attributes"), {"x-amz-object-attributes": "ObjectParts"}
    for name in ("x-amz-max-parts", "x-amz-part-number-marker"):
        assert endpoint.raw("GET", target, headers={**headers, name: "x"}).told == (400, "InvalidArgument")


def test_checksums_of_parts_are_told(endpoint: Endpoint, bucket: str, key: str) -> None:
    where = {"Bucket": bucket, "Key": key}
    begun = endpoint.client.create_multipart_upload(**where, ChecksumAlgorithm="SHA256")
    upload = {**where, "UploadId": begun["UploadId"]}
    parts, values = [], []
    for part, data in ((1, b"a" * (5 << 20)), (2, b"b")):
        values.append(checksum("SHA256", data))
        put = endpoint.client.upload_part(**upload, PartNumber=part, Body=data, ChecksumSHA256=values[-1])
        parts.append({"PartNumber": part, "ETag": put["ETag"], "ChecksumSHA256": values[-1]})
    listed = endpoint.client.list_parts(**upload)["Parts"]
    assert [(each["Size"], each["ChecksumSHA256"]) for each in listed] == [(5 << 20, values[0]), (1, values[1])]
    endpoint.client.complete_multipart_upload(**upload, MultipartUpload={"Parts": parts})
    found = endpoint.client.get_object_attributes(**where, ObjectAttributes=["ObjectParts", "Checksum"])
    assert [each["ChecksumSHA256"] for each in found["ObjectParts"]["Parts"]] == values
    assert found["Checksum"]["ChecksumType"] == "COMPOSITE"


@pytest.mark.parametrize("wanted", ["", "Nonsense", "ETag,Nonsense"])
def test_attributes_that_are_none_are_refused(endpoint: Endpoint, bucket: str, key: str, wanted: str) -> None:
    endpoint.raw("PUT", path_of(bucket, key), body=b"x")
    headers = {"x-amz-object-attributes": wanted}
    assert endpoint.raw("GET", path_of(bucket, key, "attributes"), headers=headers).told == (400, "InvalidArgument")
