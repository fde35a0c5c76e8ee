"""PutObject, GetObject, HeadObject, DeleteObject: bytes, headers and metadata that come back as they went in."""

from __future__ import annotations

import hashlib
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from http.client import IncompleteRead

import pytest
from s3_endpoints import Endpoint, path_of, refused

MD5_OF_NOTHING = "d41d8cd98f00b204e9800998ecf8427e"


@pytest.mark.parametrize("size", [0, 1, 4096, 70_000, 3 << 20])
def test_bytes_come_back_with_their_md5_as_etag(endpoint: Endpoint, bucket: str, key: str, size: int) -> None:
    data = hashlib.shake_128(b"%d" % size).digest(size)
    etag = f'"{hashlib.md5(data).hexdigest()}"'
    assert endpoint.client.put_object(Bucket=bucket, Key=key, Body=data)["ETag"] == etag
    found = endpoint.client.get_object(Bucket=bucket, Key=key)
    assert (found["Body"].read(), found["ETag"], found["ContentLength"]) == (data, etag, size)
    head = endpoint.client.head_object(Bucket=bucket, Key=key)
    assert (head["ETag"], head["ContentLength"]) == (etag, size)


def test_head_says_what_get_says_without_a_body(endpoint: Endpoint, bucket: str, key: str) -> None:
    endpoint.client.put_object(Bucket=bucket, Key=key, Body=b"12345", ContentType="text/x", Metadata={"a": "b"})
    head, get = endpoint.raw("HEAD", path_of(bucket, key)), endpoint.raw("GET", path_of(bucket, key))
    assert (head.status, head.body, get.body) == (200, b"", b"12345")
    changing = {"date", "x-amz-request-id", "x-amz-id-2", "connection", "server"}
    assert {n: v for n, v in head.headers.items() if n not in changing} == {
        n: v for n, v in get.headers.items() if n not in changing
    }
    assert head.headers["content-length"] == "5"
    assert head.headers["accept-ranges"] == "bytes"
    assert head.headers["x-amz-request-id"]


def test_last_modified_is_the_time_of_the_put(endpoint: Endpoint, bucket: str, key: str) -> None:
    endpoint.client.put_object(Bucket=bucket, Key=key, Body=b"x")
    text = endpoint.raw("HEAD", path_of(bucket, key)).headers["last-modified"]
    assert text.endswith(" GMT")
    assert abs(parsedate_to_datetime(text) - datetime.now(UTC)) < timedelta(seconds=10)
    listed = endpoint.client.list_objects_v2(Bucket=bucket, Prefix=key)["Contents"][0]["LastModified"]
    assert abs(listed - parsedate_to_datetime(text)) < timedelta(seconds=1)


def test_headers_are_kept(endpoint: Endpoint, bucket: str, key: str) -> None:
    kept = {
        "CacheControl": "max-age=60, public",
        "ContentDisposition": 'attachment; filename="a b.txt"',
        "ContentEncoding": "gzip",
        "ContentLanguage": "de, en",
        "ContentType": "application/x-own; charset=utf-8",
    }
    expires = "Thu, 01 Dec 2033 16:00:00 GMT"
    endpoint.client.put_object(Bucket=bucket, Key=key, Body=b"x", Expires=expires, **kept)
    for ask in (endpoint.client.get_object, endpoint.client.head_object):
        found = ask(Bucket=bucket, Key=key)
        assert {name: found[name] for name in kept} == kept
        assert found["ExpiresString"] == expires


def test_a_type_that_was_not_said_is_bytes(endpoint: Endpoint, bucket: str, key: str) -> None:
    endpoint.raw("PUT", path_of(bucket, key), body=b"x")
    assert endpoint.raw("GET", path_of(bucket, key)).headers["content-type"] == "binary/octet-stream"


def test_metadata_is_kept_by_lower_case_names(endpoint: Endpoint, bucket: str, key: str) -> None:
    headers = {
        "x-amz-meta-Color": "blue",
        "x-amz-meta-empty": "",
        "X-AMZ-META-UPPER": "Kept As Is",
        "x-amz-meta-a_b.c": "1",
    }
    assert endpoint.raw("PUT", path_of(bucket, key), headers=headers, body=b"x").status == 200
    found = endpoint.raw("HEAD", path_of(bucket, key)).headers
    assert {name: value for name, value in found.items() if name.startswith("x-amz-meta-")} == {
        "x-amz-meta-color": "blue",
        "x-amz-meta-empty": "",
        "x-amz-meta-upper": "Kept As Is",
        "x-amz-meta-a_b.c": "1",
    }


def test_metadata_goes_with_what_it_described(endpoint: Endpoint, bucket: str, key: str) -> None:
    endpoint.client.put_object(Bucket=bucket, Key=key, Body=b"old", Metadata={"of": "old"}, ContentType="text/old")
    endpoint.client.put_object(Bucket=bucket, Key=key, Body=b"new")
    found = endpoint.client.get_object(Bucket=bucket, Key=key)
    assert (found["Metadata"], found["ContentType"], found["Body"].read()) == ({}, "binary/octet-stream", b"new")


def test_too_much_metadata_is_refused(endpoint: Endpoint, bucket: str, key: str) -> None:
    arguments = {"Bucket": bucket, "Key": key, "Metadata": {"a": "x" * 2100}}
    assert refused(endpoint.client.put_object, **arguments) == (400, "MetadataTooLarge")
    assert endpoint.raw("HEAD", path_of(bucket, key)).status == 404


@pytest.mark.parametrize(
    ("parameter", "header"),
    [
        ("ResponseContentType", "content-type"),
        ("ResponseContentLanguage", "content-language"),
        ("ResponseContentDisposition", "content-disposition"),
        ("ResponseContentEncoding", "content-encoding"),
        ("ResponseCacheControl", "cache-control"),
        ("ResponseExpires", "expires"),
    ],
)
def test_a_reader_may_replace_headers_of_his_answer(
    endpoint: Endpoint, bucket: str, parameter: str, header: str
) -> None:
    endpoint.client.put_object(Bucket=bucket, Key="replaced", Body=b"x", CacheControl="no-cache", ContentType="a/b")
    value = "Thu, 01 Dec 2033 16:00:00 GMT" if header == "expires" else "x-own; a=1"
    found = endpoint.client.get_object(Bucket=bucket, Key="replaced", **{parameter: value})
    assert found["ResponseMetadata"]["HTTPHeaders"][header] == value
    found["Body"].close()


def test_headers_are_replaced_for_who_signed(endpoint: Endpoint, bucket: str, key: str) -> None:
    answer = endpoint.raw("GET", path_of(bucket, key, "response-content-type=a"), signed=False)
    assert answer.status in (400, 403)


def test_what_is_not_there_is_no_such_key(endpoint: Endpoint, bucket: str, key: str) -> None:
    answer = endpoint.raw("GET", path_of(bucket, key))
    assert answer.told == (404, "NoSuchKey")
    assert answer.headers["content-type"] == "application/xml"
    assert answer.text("RequestId")
    head = endpoint.raw("HEAD", path_of(bucket, key))
    assert (head.status, head.body) == (404, b"")


def test_what_is_not_there_is_deleted_with_success(endpoint: Endpoint, bucket: str, key: str) -> None:
    answer = endpoint.raw("DELETE", path_of(bucket, key))
    assert (answer.status, answer.body) == (204, b"")


def test_what_was_deleted_is_gone(endpoint: Endpoint, bucket: str, key: str) -> None:
    endpoint.client.put_object(Bucket=bucket, Key=key, Body=b"x")
    endpoint.client.delete_object(Bucket=bucket, Key=key)
    assert endpoint.raw("GET", path_of(bucket, key)).told == (404, "NoSuchKey")
    assert "Contents" not in endpoint.client.list_objects_v2(Bucket=bucket, Prefix=key)


ODD = [
    "with space",
    "with+plus",
    "per%cent",
    "%41",
    "question?mark",
    "hash#tag",
    "amp&ersand=",
    "quotes\"'`",
    "<xml>&amp;",
    "colon:;,@$!*()",
    "back\\slash|{}^[]~",
    "tab\tnew\nline",
    "ünïcödé/日本語/🦊",
    "e\u0301 is not \u00e9",
    "dots...",
    ".hidden",
    "a/b/c/d/e/f/g",
    "trailing.",
    " leading",
    "ends with space ",
    "x" * 255,
    "/".join(["y" * 200] * 4),
]


@pytest.mark.parametrize("odd", ODD, ids=range(len(ODD)))
def test_an_odd_key_is_a_key(endpoint: Endpoint, bucket: str, odd: str) -> None:
    name = f"odd/{odd}"
    endpoint.client.put_object(Bucket=bucket, Key=name, Body=odd.encode())
    assert endpoint.client.get_object(Bucket=bucket, Key=name)["Body"].read() == odd.encode()
    listed = endpoint.client.list_objects_v2(Bucket=bucket, Prefix=name)
    assert [each["Key"] for each in listed["Contents"]] == [name]
    endpoint.client.delete_object(Bucket=bucket, Key=name)
    assert refused(endpoint.client.head_object, Bucket=bucket, Key=name)[0] == 404


def test_a_key_of_1024_bytes_is_a_key_and_one_more_is_none(endpoint: Endpoint, bucket: str) -> None:
    longest = "/".join(["k" * 200] * 5) + "/" + "k" * 19
    assert len(longest) == 1024
    endpoint.client.put_object(Bucket=bucket, Key=longest, Body=b"x")
    assert endpoint.client.get_object(Bucket=bucket, Key=longest)["Body"].read() == b"x"
    assert endpoint.raw("PUT", path_of(bucket, longest + "k"), body=b"x").told == (400, "KeyTooLongError")


def test_a_key_and_what_lies_below_it_are_two_objects(endpoint: Endpoint, fresh: str) -> None:
    for name in ("a", "a/b"):
        endpoint.client.put_object(Bucket=fresh, Key=name, Body=name.encode())
    for name in ("a", "a/b"):
        assert endpoint.client.get_object(Bucket=fresh, Key=name)["Body"].read() == name.encode()


def test_a_key_that_is_a_prefix_only_is_not_there(endpoint: Endpoint, bucket: str, key: str) -> None:
    endpoint.client.put_object(Bucket=bucket, Key=f"{key}/b/c", Body=b"x")
    for name in (key, f"{key}/", f"{key}/b", f"{key}/b/"):
        assert endpoint.raw("GET", path_of(bucket, name)).told == (404, "NoSuchKey"), name
        assert endpoint.raw("DELETE", path_of(bucket, name)).status == 204
    assert endpoint.raw("GET", path_of(bucket, f"{key}/b/c/d")).told == (404, "NoSuchKey")
    assert endpoint.client.get_object(Bucket=bucket, Key=f"{key}/b/c")["Body"].read() == b"x"


def test_a_directory_marker_is_an_object_without_bytes(endpoint: Endpoint, bucket: str, key: str) -> None:
    put = endpoint.client.put_object(Bucket=bucket, Key=f"{key}/", Body=b"")
    assert put["ETag"] == f'"{MD5_OF_NOTHING}"'
    found = endpoint.client.get_object(Bucket=bucket, Key=f"{key}/")
    assert (found["Body"].read(), found["ContentLength"], found["ETag"]) == (b"", 0, put["ETag"])
    assert endpoint.raw("HEAD", path_of(bucket, key)).status == 404
    endpoint.client.put_object(Bucket=bucket, Key=f"{key}/inside", Body=b"x")
    names = [each["Key"] for each in endpoint.client.list_objects_v2(Bucket=bucket, Prefix=key)["Contents"]]
    assert names == [f"{key}/", f"{key}/inside"]
    endpoint.client.delete_object(Bucket=bucket, Key=f"{key}/inside")
    endpoint.client.delete_object(Bucket=bucket, Key=f"{key}/")
    assert "Contents" not in endpoint.client.list_objects_v2(Bucket=bucket, Prefix=key)


def test_a_marker_that_is_deleted_leaves_what_lies_below(endpoint: Endpoint, bucket: str, key: str) -> None:
    endpoint.client.put_object(Bucket=bucket, Key=f"{key}/", Body=b"")
    endpoint.client.put_object(Bucket=bucket, Key=f"{key}/inside", Body=b"x")
    endpoint.client.delete_object(Bucket=bucket, Key=f"{key}/")
    assert endpoint.raw("HEAD", path_of(bucket, f"{key}/")).status == 404
    names = [each["Key"] for each in endpoint.client.list_objects_v2(Bucket=bucket, Prefix=key)["Contents"]]
    assert names == [f"{key}/inside"]


def test_the_null_version_is_the_only_one(endpoint: Endpoint, bucket: str, key: str) -> None:
    endpoint.client.put_object(Bucket=bucket, Key=key, Body=b"x")
    assert endpoint.client.get_object(Bucket=bucket, Key=key, VersionId="null")["Body"].read() == b"x"
    assert endpoint.raw("GET", path_of(bucket, key, "versionId=")).told == (400, "InvalidArgument")
    endpoint.client.delete_object(Bucket=bucket, Key=key, VersionId="null")
    assert endpoint.raw("HEAD", path_of(bucket, key)).status == 404


def test_an_overwrite_is_whole_or_not_at_all(endpoint: Endpoint, bucket: str, key: str) -> None:
    """A body that ends early, and one whose digest is wrong, leave what was there."""
    endpoint.client.put_object(Bucket=bucket, Key=key, Body=b"old")
    wrong = {"content-md5": "1B2M2Y8AsgTpgAmY7PhCfg=="}
    assert endpoint.raw("PUT", path_of(bucket, key), headers=wrong, body=b"new").told == (400, "BadDigest")
    assert endpoint.client.get_object(Bucket=bucket, Key=key)["Body"].read() == b"old"


def test_a_reader_sees_one_version_while_others_write(endpoint: Endpoint, bucket: str, key: str) -> None:
    """ETag, length, metadata and bytes of every answer belong together; a connection may be cut, never mixed."""
    versions = {name: name.encode() * 300_000 for name in ("a", "bc")}
    etags = {name: f'"{hashlib.md5(data).hexdigest()}"' for name, data in versions.items()}

    def write(name: str) -> None:
        endpoint.client.put_object(Bucket=bucket, Key=key, Body=versions[name], Metadata={"name": name})

    def read(number: int) -> bool:
        try:
            answer = endpoint.raw("GET", path_of(bucket, key))
        except IncompleteRead:
            return False
        assert answer.status == 200
        name = answer.headers["x-amz-meta-name"]
        assert (answer.headers["etag"], answer.body == versions[name]) == (etags[name], True)
        return True

    write("a")
    with ThreadPoolExecutor(4) as pool:
        reads = [pool.submit(read, number) for number in range(40)]
        for number in range(10):
            write(("bc", "a")[number % 2])
        done = [each.result() for each in reads]
    assert any(done)
    assert read(0)


def test_acls_that_say_what_is_so_are_taken(endpoint: Endpoint, bucket: str, key: str) -> None:
    endpoint.client.put_object(Bucket=bucket, Key=key, Body=b"x", ACL="private")
    found = endpoint.client.get_object_acl(Bucket=bucket, Key=key)
    assert [grant["Permission"] for grant in found["Grants"]] == ["FULL_CONTROL"]
    endpoint.client.put_object_acl(Bucket=bucket, Key=key, ACL="private")


@pytest.mark.parametrize("query", ["acl", "tagging", "attributes"])
def test_sub_resources_of_a_key_that_is_not_there(endpoint: Endpoint, bucket: str, key: str, query: str) -> None:
    headers = {"x-amz-object-attributes": "ETag"}
    assert endpoint.raw("GET", path_of(bucket, key, query), headers=headers).told == (404, "NoSuchKey")
