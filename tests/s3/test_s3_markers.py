"""Objects whose keys end in a slash are like others, whatever lies below."""

from __future__ import annotations

import hashlib
from typing import Any

from s3_endpoints import Endpoint, path_of, refused


def names_of(endpoint: Endpoint, bucket: str, **asked: Any) -> list[str]:
    """Keys and common prefixes of a listing, one a page."""
    found, token = [], {}
    while True:
        page = endpoint.client.list_objects_v2(Bucket=bucket, MaxKeys=1, **asked, **token)
        found += [each["Key"] for each in page.get("Contents", [])]
        found += [each["Prefix"] for each in page.get("CommonPrefixes", [])]
        if not page["IsTruncated"]:
            return found
        token = {"ContinuationToken": page["NextContinuationToken"]}


def test_a_marker_is_listed_beside_what_lies_below_it(endpoint: Endpoint, fresh: str) -> None:
    keys = ["a", "a/", "a/b", "a/c/", "a/c/d", "a/e/f/", "g/h", "i/"]
    if endpoint.name == "directory":  # no file beside a directory of its name
        keys.remove("a")
    for key in reversed(keys):
        endpoint.client.put_object(Bucket=fresh, Key=key)
    assert names_of(endpoint, fresh) == keys
    assert names_of(endpoint, fresh, Delimiter="/") == [*keys[: keys.index("a/")], "a/", "g/", "i/"]
    assert names_of(endpoint, fresh, Prefix="a/", Delimiter="/") == ["a/", "a/b", "a/c/", "a/e/"]
    assert names_of(endpoint, fresh, Prefix="a/c", Delimiter="/") == ["a/c/"]
    assert names_of(endpoint, fresh, Prefix="a/e/", Delimiter="/") == ["a/e/f/"]
    assert names_of(endpoint, fresh, StartAfter="a/c/") == ["a/c/d", "a/e/f/", "g/h", "i/"]
    assert names_of(endpoint, fresh, StartAfter="a/c") == ["a/c/", "a/c/d", "a/e/f/", "g/h", "i/"]
    for key in keys:
        assert endpoint.client.head_object(Bucket=fresh, Key=key)["ContentLength"] == 0
    for key in ("a/e/", "g/", "a/c/d/"):
        assert refused(endpoint.client.head_object, Bucket=fresh, Key=key)[0] == 404, key


def test_a_marker_keeps_headers_metadata_and_tags(endpoint: Endpoint, bucket: str, key: str) -> None:
    named = {"Bucket": bucket, "Key": f"{key}/"}
    endpoint.client.put_object(**named, ContentType="text/own", Metadata={"a": "1"}, Tagging="t=1")
    endpoint.client.put_object(Bucket=bucket, Key=f"{key}/inside", Body=b"x")
    found = endpoint.client.head_object(**named)
    assert (found["ContentType"], found["Metadata"]) == ("text/own", {"a": "1"})
    assert endpoint.client.get_object_tagging(**named)["TagSet"] == [{"Key": "t", "Value": "1"}]
    endpoint.client.put_object_tagging(**named, Tagging={"TagSet": [{"Key": "t", "Value": "2"}]})
    assert endpoint.client.get_object_tagging(**named)["TagSet"] == [{"Key": "t", "Value": "2"}]
    assert endpoint.client.head_object(**named)["Metadata"] == {"a": "1"}
    endpoint.client.copy_object(
        **named, CopySource=f"{bucket}/{key}/", Metadata={"b": "2"}, MetadataDirective="REPLACE"
    )
    assert endpoint.client.head_object(**named)["Metadata"] == {"b": "2"}
    endpoint.client.copy_object(Bucket=bucket, Key=f"{key}-copy/", CopySource=f"{bucket}/{key}/")
    assert endpoint.client.head_object(Bucket=bucket, Key=f"{key}-copy/")["Metadata"] == {"b": "2"}
    endpoint.client.put_object(**named)
    assert endpoint.client.head_object(**named)["Metadata"] == {}
    assert refused(endpoint.client.head_object, Bucket=bucket, Key=key)[0] == 404


def test_a_marker_stays_when_what_lies_below_goes(endpoint: Endpoint, bucket: str, key: str) -> None:
    for name in (f"{key}/", f"{key}/deep/inside", f"{key}/inside"):
        endpoint.client.put_object(Bucket=bucket, Key=name, Metadata={"name": name})
    for name in (f"{key}/deep/inside", f"{key}/inside"):
        assert endpoint.raw("DELETE", path_of(bucket, name)).status == 204
    assert names_of(endpoint, bucket, Prefix=key) == [f"{key}/"]
    assert endpoint.client.head_object(Bucket=bucket, Key=f"{key}/")["Metadata"] == {"name": f"{key}/"}


def test_what_lies_below_stays_when_a_marker_goes(endpoint: Endpoint, bucket: str, key: str) -> None:
    for name in (f"{key}/", f"{key}/inside"):
        endpoint.client.put_object(Bucket=bucket, Key=name, Body=b"", Metadata={"name": name})
    doomed = {"Objects": [{"Key": f"{key}/"}]}
    assert [each["Key"] for each in endpoint.client.delete_objects(Bucket=bucket, Delete=doomed)["Deleted"]] == [
        f"{key}/"
    ]
    assert names_of(endpoint, bucket, Prefix=key) == [f"{key}/inside"]
    assert refused(endpoint.client.head_object, Bucket=bucket, Key=f"{key}/")[0] == 404
    endpoint.client.put_object(Bucket=bucket, Key=f"{key}/")
    assert endpoint.client.head_object(Bucket=bucket, Key=f"{key}/")["Metadata"] == {}
    for name in (f"{key}/inside", f"{key}/"):
        endpoint.client.delete_object(Bucket=bucket, Key=name)
    assert names_of(endpoint, bucket, Prefix=key) == []


def test_a_marker_that_is_not_to_be_there_is_made_over_what_lies_below(
    endpoint: Endpoint, bucket: str, key: str
) -> None:
    named = {"Bucket": bucket, "Key": f"{key}/"}
    endpoint.client.put_object(Bucket=bucket, Key=f"{key}/inside", Body=b"x")
    endpoint.client.put_object(**named, IfNoneMatch="*")
    assert refused(endpoint.client.put_object, **named, IfNoneMatch="*") == (412, "PreconditionFailed")
    assert names_of(endpoint, bucket, Prefix=key) == [f"{key}/", f"{key}/inside"]


def test_a_marker_has_bytes(endpoint: Endpoint, fresh: str) -> None:
    named = {"Bucket": fresh, "Key": "d/"}
    put = endpoint.client.put_object(**named, Body=b"some bytes", ContentType="text/own")
    assert put["ETag"] == f'"{hashlib.md5(b"some bytes").hexdigest()}"'
    endpoint.client.put_object(Bucket=fresh, Key="d/inside", Body=b"x")
    found = endpoint.client.get_object(**named)
    assert (found["Body"].read(), found["ContentLength"], found["ETag"]) == (b"some bytes", 10, put["ETag"])
    assert found["ContentType"] == "text/own"
    head = endpoint.client.head_object(**named)
    assert (head["ContentLength"], head["ETag"]) == (10, put["ETag"])
    assert endpoint.client.get_object(**named, Range="bytes=5-7")["Body"].read() == b"byt"
    assert refused(endpoint.client.get_object, **named, Range="bytes=10-") == (416, "InvalidRange")
    told = {
        each["Key"]: (each["Size"], each["ETag"]) for each in endpoint.client.list_objects_v2(Bucket=fresh)["Contents"]
    }
    assert told["d/"] == (10, put["ETag"])
    assert refused(endpoint.client.get_object, **named, IfNoneMatch=put["ETag"])[0] == 304


def test_a_marker_with_bytes_is_copied_replaced_and_deleted(endpoint: Endpoint, bucket: str, key: str) -> None:
    named = {"Bucket": bucket, "Key": f"{key}/"}
    etag = endpoint.client.put_object(**named, Body=b"bytes")["ETag"]
    endpoint.client.put_object_tagging(**named, Tagging={"TagSet": [{"Key": "t", "Value": "1"}]})
    for copy in (f"{key}-file", f"{key}-copy/"):
        copied = endpoint.client.copy_object(Bucket=bucket, Key=copy, CopySource=f"{bucket}/{key}/")
        assert copied["CopyObjectResult"]["ETag"].strip('"') == etag.strip('"')
        assert endpoint.raw("GET", path_of(bucket, copy)).body == b"bytes"
    endpoint.client.copy_object(**named, CopySource=f"{bucket}/{key}-file")
    assert endpoint.raw("GET", path_of(bucket, f"{key}/")).body == b"bytes"
    endpoint.client.put_object(**named)
    assert endpoint.client.head_object(**named)["ContentLength"] == 0
    endpoint.client.put_object(**named, Body=b"again")
    assert endpoint.raw("DELETE", path_of(bucket, f"{key}/")).status == 204
    assert refused(endpoint.client.head_object, **named)[0] == 404
