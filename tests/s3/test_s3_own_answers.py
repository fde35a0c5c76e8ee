"""What monofs answers where it cannot do as AWS does, because a tree is not a flat list of keys: docs/s3.md promises each of these."""

from __future__ import annotations

import time

import pytest
from s3_endpoints import Endpoint, path_of, refused
from s3_world import new_key

from monofs.testing.masters import wait_until
from monofs.testing.nodes import ServedNode

ENDPOINTS = ("monofs", "directory", "store")


@pytest.mark.parametrize(
    "key", ["a//b", "/a", "a//", "/", ".", "..", "a/../b", "a/./b", "x" * 256, ".monofs-tmp-1", "a\x00b"], ids=range(11)
)
def test_a_key_that_the_tree_cannot_hold_is_refused_with_the_reason(endpoint: Endpoint, bucket: str, key: str) -> None:
    target = path_of(bucket, key)
    for method in ("PUT", "GET", "DELETE"):
        answer = endpoint.raw(method, target, body=b"x" if method == "PUT" else b"")
        assert answer.told == (400, "InvalidArgument"), method
        assert answer.text("ArgumentName") == "Key"
    assert endpoint.raw("HEAD", target).status == 400
    assert endpoint.raw("POST", f"{target}?uploads").told == (400, "InvalidArgument")


def test_a_listing_of_what_no_key_can_begin_with_is_empty(endpoint: Endpoint, bucket: str) -> None:
    endpoint.raw("PUT", path_of(bucket, "there"), body=b"x")
    for prefix in ("a//", "/", "..", "../", "./"):
        assert "Contents" not in endpoint.client.list_objects_v2(Bucket=bucket, Prefix=prefix), prefix
        assert "Contents" not in endpoint.client.list_objects_v2(Bucket=bucket, Prefix=prefix, Delimiter="/"), prefix


def test_a_marker_with_more_than_a_few_bytes_is_refused(endpoint: Endpoint, bucket: str, key: str) -> None:
    assert endpoint.raw("PUT", path_of(bucket, f"{key}/"), body=bytes(4097)).told == (400, "InvalidArgument")
    assert endpoint.raw("HEAD", path_of(bucket, f"{key}/")).status == 404
    endpoint.raw("PUT", path_of(bucket, key), body=bytes(4097))
    copied = endpoint.raw("PUT", path_of(bucket, f"{key}-2/"), headers={"x-amz-copy-source": path_of(bucket, key)})
    assert copied.told == (400, "InvalidArgument")


def test_keys_the_tree_cannot_hold_are_told_by_deletions_of_many(endpoint: Endpoint, bucket: str, key: str) -> None:
    endpoint.raw("PUT", path_of(bucket, key), body=b"x")
    doomed = {"Objects": [{"Key": "a//b"}, {"Key": key}]}
    answer = endpoint.client.delete_objects(Bucket=bucket, Delete=doomed)
    assert [each["Key"] for each in answer["Deleted"]] == [key]
    assert [(each["Key"], each["Code"]) for each in answer["Errors"]] == [("a//b", "InvalidArgument")]


def test_what_nobody_keeps_is_not_implemented(endpoint: Endpoint, bucket: str, key: str) -> None:
    for query in ("policy", "lifecycle", "versioning", "website", "encryption", "replication", "object-lock"):
        assert endpoint.raw("PUT", path_of(bucket, query=query), body=b"<x/>").told == (501, "NotImplemented"), query
    for header, value in (
        ("x-amz-server-side-encryption", "AES256"),
        ("x-amz-object-lock-mode", "GOVERNANCE"),
        ("x-amz-website-redirect-location", "/x"),
    ):
        answer = endpoint.raw("PUT", path_of(bucket, key), headers={header: value}, body=b"x")
        assert answer.told == (501, "NotImplemented"), header
    answer = endpoint.raw("PUT", path_of(bucket, key), headers={"x-amz-acl": "public-read"}, body=b"x")
    assert answer.told == (400, "AccessControlListNotSupported")
    locked = endpoint.raw("PUT", f"/{endpoint.new_name()}", headers={"x-amz-bucket-object-lock-enabled": "true"})
    assert locked.told == (501, "NotImplemented")
    answer = endpoint.raw("PUT", path_of(bucket, key), headers={"x-amz-storage-class": "GLACIER"}, body=b"x")
    assert answer.told == (400, "InvalidStorageClass")
    assert endpoint.raw("HEAD", path_of(bucket, key)).status == 404


def test_no_page_of_another_origin_is_allowed_what_no_rule_says(endpoint: Endpoint, bucket: str, key: str) -> None:
    headers = {"Origin": "http://page", "Access-Control-Request-Method": "GET"}
    for target in (path_of(bucket, key), f"/{endpoint.new_name('missing')}", "/"):
        assert endpoint.send("OPTIONS", target, headers.items()).told == (403, "AccessForbidden"), target
    assert endpoint.send("OPTIONS", path_of(bucket, key), []).told == (400, "BadRequest")


def test_nothing_is_encrypted_with_keys_of_clients(endpoint: Endpoint, bucket: str, key: str) -> None:
    endpoint.raw("PUT", path_of(bucket, key), body=b"x")
    decrypting = {"x-amz-server-side-encryption-customer-algorithm": "AES256"}
    assert endpoint.raw("GET", path_of(bucket, key), headers=decrypting).told == (400, "InvalidRequest")
    assert endpoint.raw("HEAD", path_of(bucket, key), headers=decrypting).status == 400


def test_a_bucket_is_never_public_whatever_list_it_is_made_with(endpoint: Endpoint) -> None:
    name = endpoint.new_name()
    assert endpoint.raw("PUT", f"/{name}", headers={"x-amz-acl": "public-read-write"}).status == 200
    assert endpoint.raw("GET", f"/{name}", signed=False).told == (403, "AccessDenied")
    grants = endpoint.client.get_bucket_acl(Bucket=name)["Grants"]
    assert [each["Permission"] for each in grants] == ["FULL_CONTROL"]


def test_another_version_than_null_is_none(endpoint: Endpoint, bucket: str, key: str) -> None:
    endpoint.raw("PUT", path_of(bucket, key), body=b"x")
    assert endpoint.raw("GET", path_of(bucket, key, "versionId=abc")).told == (404, "NoSuchVersion")
    assert endpoint.raw("DELETE", path_of(bucket, key, "versionId=abc")).told == (404, "NoSuchVersion")


def test_uploads_hide_from_buckets(endpoint: Endpoint) -> None:
    """The room of uploads is no bucket, and nothing in it an object."""
    for target in ("/.monofs-uploads", "/.monofs-uploads/x"):
        assert endpoint.raw("GET", target).status in (400, 404), target
        assert endpoint.raw("PUT", target).status in (400, 403, 404), target
        assert endpoint.raw("DELETE", target).status in (400, 403, 404), target
    assert not [name["Name"] for name in endpoint.client.list_buckets()["Buckets"] if name["Name"].startswith(".")]


def test_a_key_lies_below_another_one_but_in_a_directory_of_files(endpoint: Endpoint, bucket: str, key: str) -> None:
    endpoint.raw("PUT", path_of(bucket, f"{key}/below"), body=b"x")
    if endpoint.name == "directory":
        told = refused(endpoint.client.put_object, Bucket=bucket, Key=f"{key}/below/more", Body=b"y")
        assert told == (400, "InvalidArgument")
    else:
        endpoint.client.put_object(Bucket=bucket, Key=f"{key}/below/more", Body=b"y")
        assert endpoint.raw("GET", path_of(bucket, f"{key}/below/more")).body == b"y"
    assert endpoint.raw("GET", path_of(bucket, f"{key}/below")).body == b"x"


def test_a_bucket_may_stand_in_the_host_name(endpoint: Endpoint, bucket: str, key: str) -> None:
    host = {"Host": f"{bucket}.s3.example:1234"}
    assert endpoint.raw("PUT", path_of(key), headers=host, body=b"x").status == 200
    assert endpoint.raw("GET", path_of(bucket, key)).body == b"x"
    listed = endpoint.raw("GET", f"/?list-type=2&prefix={key}", headers=host)
    assert [each.text for each in listed.document.iter("Key")] == [key]
    assert endpoint.raw("GET", path_of(bucket, key), headers={"Host": "s3.example"}).body == b"x"


def test_any_location_is_taken_and_told(endpoint: Endpoint) -> None:
    named = {"Bucket": endpoint.new_name(), "CreateBucketConfiguration": {"LocationConstraint": "eu-west-1"}}
    endpoint.client.create_bucket(**named)
    assert endpoint.client.get_bucket_location(Bucket=named["Bucket"])["LocationConstraint"] == "eu-west-1"
    assert endpoint.raw("HEAD", f"/{named['Bucket']}").headers["x-amz-bucket-region"] == "eu-west-1"
    for again in (named, {"Bucket": named["Bucket"]}):
        assert refused(endpoint.client.create_bucket, **again) == (409, "BucketAlreadyOwnedByYou")
    assert refused(endpoint.others_client.create_bucket, **named) == (409, "BucketAlreadyExists")


def test_a_bucket_that_no_client_made_is_everybodys(endpoint: Endpoint, s3_node: ServedNode) -> None:
    name = endpoint.new_name()
    assert s3_node.cli("fs", "mkdir", f"/{name}").returncode == 0
    for client in (endpoint.client, endpoint.others_client):
        assert refused(client.create_bucket, Bucket=name) == (409, "BucketAlreadyOwnedByYou")


def test_a_directory_that_another_door_made_is_told_where_nothing_is_below_it(
    endpoint: Endpoint, s3_node: ServedNode, bucket: str, key: str
) -> None:
    def names() -> list[str]:
        return [
            each["Key"] for each in endpoint.client.list_objects_v2(Bucket=bucket, Prefix=f"{key}/").get("Contents", [])
        ]

    is_store = endpoint.name == "store"  # whose mkdir puts the object
    assert s3_node.cli("fs", "mkdir", f"/{bucket}/{key}").returncode == 0
    assert names() == [f"{key}/"]
    assert endpoint.raw("GET", path_of(bucket, f"{key}/")).status == 200
    endpoint.raw("PUT", path_of(bucket, f"{key}/inside"), body=b"x")
    assert names() == [f"{key}/"] * is_store + [f"{key}/inside"]
    assert endpoint.raw("GET", path_of(bucket, f"{key}/")).status == (200 if is_store else 404)
    endpoint.raw("DELETE", path_of(bucket, f"{key}/inside"))
    assert names() == [f"{key}/"]
    endpoint.raw("DELETE", path_of(bucket, f"{key}/"))
    assert names() == []


def test_a_mounted_bucket_is_unmounted_not_deleted(endpoint: Endpoint, fresh: str) -> None:
    told = (204, "") if endpoint.name == "monofs" else (405, "MethodNotAllowed")
    assert endpoint.raw("DELETE", f"/{fresh}").told == told


def test_a_directory_under_a_name_of_its_own_is_a_bucket_of_the_day_it_was_given_it(s3_node: ServedNode) -> None:
    endpoint = Endpoint("monofs", s3_node.doors["s3"], *new_key(s3_node, "named"))
    below, name = endpoint.make_bucket(), endpoint.new_name("alias")
    endpoint.raw("PUT", path_of(below, "deep/file"), body=b"x")
    assert s3_node.cli("s3", "bucket", "add", name, f"/{below}/deep").returncode == 0
    made: dict[str, float] = {}

    def is_listed() -> bool:
        made.update(
            {each["Name"]: each["CreationDate"].timestamp() for each in endpoint.client.list_buckets()["Buckets"]}
        )
        return name in made

    wait_until(is_listed, "the name is listed")
    assert abs(time.time() - made[name]) < 600
    assert endpoint.raw("GET", path_of(name, "file")).body == b"x"


def test_a_bucket_that_is_an_object_of_another_one_keeps_its_own_tags_and_rules(s3_node: ServedNode) -> None:
    endpoint = Endpoint("monofs", s3_node.doors["s3"], *new_key(s3_node, "both"))
    below, name = endpoint.make_bucket(), endpoint.new_name("alias")
    client, named = endpoint.client, {"Bucket": below, "Key": "deep/"}
    client.put_object(**named, Metadata={"a": "1"})
    assert s3_node.cli("s3", "bucket", "add", name, f"/{below}/deep").returncode == 0
    wait_until(lambda: endpoint.raw("HEAD", f"/{name}").status == 200, "the name is known")
    many = [{"Key": str(number), "Value": "x"} for number in range(11)]
    rules = [{"AllowedMethods": ["GET"], "AllowedOrigins": ["*"]}]
    client.put_bucket_cors(Bucket=name, CORSConfiguration={"CORSRules": rules})
    client.put_bucket_tagging(Bucket=name, Tagging={"TagSet": many})
    assert client.get_object_tagging(**named)["TagSet"] == []
    assert len(client.get_bucket_tagging(Bucket=name)["TagSet"]) == 11
    assert client.head_object(**named)["Metadata"] == {"a": "1"}
    client.put_object_tagging(**named, Tagging={"TagSet": many[:1]})
    assert client.get_object_tagging(**named)["TagSet"] == many[:1]
    client.put_object(**named)
    client.put_object(Bucket=below, Key="deep/file")
    client.delete_object(**named)
    assert len(client.get_bucket_tagging(Bucket=name)["TagSet"]) == 11
    assert client.get_bucket_cors(Bucket=name)["CORSRules"] == rules


def test_a_key_that_is_bound_to_a_path_says_to_which(s3_node: ServedNode) -> None:
    bucket = Endpoint("monofs", s3_node.doors["s3"], *new_key(s3_node, "all")).make_bucket()
    endpoint = Endpoint("monofs", s3_node.doors["s3"], *new_key(s3_node, "bound", "--prefix", f"/{bucket}/mine"))
    assert endpoint.raw("PUT", path_of(bucket, "mine/file"), body=b"x").status == 200
    answer = endpoint.raw("PUT", path_of(bucket, "mines/file"), body=b"x")
    assert answer.told == (403, "AccessDenied")
    assert f"bound to /{bucket}/mine." in (answer.text("Message") or "")
