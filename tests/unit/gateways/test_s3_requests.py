"""What requests ask for: each action by path and by host, what is refused, and what is said of configurations nobody keeps."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from refusals import attempt
from signed_requests import client, wire_head

from monofs.gateways.s3 import requests, subresources
from monofs.gateways.s3.errors import S3Error
from monofs.gateways.s3.head import decode
from monofs.gateways.s3.requests import Action, Request, Source, bucket_of_host, read_request, read_source

B, K, U = {"Bucket": "bucket"}, {"Key": "a/b c+d%2F~é"}, {"UploadId": "id"}
OBJECT = {**B, **K}
TAGS = {"Tagging": {"TagSet": []}}
ACTIONS = [
    ("list_buckets", {}, Action.LIST_BUCKETS),
    ("create_bucket", B, Action.CREATE_BUCKET),
    ("delete_bucket", B, Action.DELETE_BUCKET),
    ("head_bucket", B, Action.HEAD_BUCKET),
    ("get_bucket_location", B, Action.GET_BUCKET_LOCATION),
    ("get_bucket_tagging", B, Action.GET_BUCKET_TAGGING),
    ("put_bucket_tagging", {**B, **TAGS}, Action.PUT_BUCKET_TAGGING),
    ("delete_bucket_tagging", B, Action.DELETE_BUCKET_TAGGING),
    ("list_objects", {**B, "Prefix": "p"}, Action.LIST_OBJECTS),
    ("list_objects_v2", {**B, "Prefix": "p"}, Action.LIST_OBJECTS_V2),
    ("list_object_versions", B, Action.LIST_OBJECT_VERSIONS),
    ("list_multipart_uploads", B, Action.LIST_MULTIPART_UPLOADS),
    ("delete_objects", {**B, "Delete": {"Objects": [K]}}, Action.DELETE_OBJECTS),
    ("get_object", {**OBJECT, "PartNumber": 3, "ResponseExpires": 0}, Action.GET_OBJECT),
    ("head_object", OBJECT, Action.HEAD_OBJECT),
    ("put_object", OBJECT, Action.PUT_OBJECT),
    ("copy_object", {**OBJECT, "CopySource": OBJECT}, Action.COPY_OBJECT),
    ("delete_object", {**OBJECT, "VersionId": "null"}, Action.DELETE_OBJECT),
    ("get_object_attributes", {**OBJECT, "ObjectAttributes": ["ETag"]}, Action.GET_OBJECT_ATTRIBUTES),
    ("get_object_tagging", OBJECT, Action.GET_OBJECT_TAGGING),
    ("put_object_tagging", {**OBJECT, **TAGS}, Action.PUT_OBJECT_TAGGING),
    ("delete_object_tagging", OBJECT, Action.DELETE_OBJECT_TAGGING),
    ("create_multipart_upload", OBJECT, Action.CREATE_MULTIPART_UPLOAD),
    ("upload_part", {**OBJECT, **U, "PartNumber": 1}, Action.UPLOAD_PART),
    ("upload_part_copy", {**OBJECT, **U, "PartNumber": 1, "CopySource": OBJECT}, Action.UPLOAD_PART_COPY),
    ("complete_multipart_upload", {**OBJECT, **U}, Action.COMPLETE_MULTIPART_UPLOAD),
    ("abort_multipart_upload", {**OBJECT, **U}, Action.ABORT_MULTIPART_UPLOAD),
    ("list_parts", {**OBJECT, **U}, Action.LIST_PARTS),
    ("get_bucket_versioning", B, Action.BUCKET_CONFIGURATION),
    ("get_bucket_acl", B, Action.BUCKET_CONFIGURATION),
    ("get_object_acl", OBJECT, Action.OBJECT_CONFIGURATION),
    ("get_object_torrent", OBJECT, Action.OBJECT_CONFIGURATION),
]


@pytest.mark.parametrize("style", ["path", "virtual"])
@pytest.mark.parametrize(("method", "arguments", "action"), ACTIONS, ids=[each[0] for each in ACTIONS])
def test_each_action_of_boto3_is_understood(method, arguments, action, style):
    s3, sent = client(style)
    try:
        getattr(s3, method)(**arguments)
    except Exception:
        assert sent  # the empty answer was not to its liking, after it had asked
    request = read_request(sent[0].head, ["s3.example"])
    assert request.action is action
    assert request.bucket == arguments.get("Bucket", "")
    assert request.key == arguments.get("Key", "")
    if "CopySource" in arguments:
        assert read_source(request.head.headers["x-amz-copy-source"]) == Source("bucket", K["Key"])


def ask(method: str, target: str, **headers: str) -> Request:
    fields = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    return read_request(wire_head(method.encode(), target.encode(), fields), ["localhost"])


@pytest.mark.parametrize(
    ("method", "target", "headers", "code"),
    [
        ("POST", "/", {}, "MethodNotAllowed"),
        ("PATCH", "/bucket", {}, "MethodNotAllowed"),
        ("GET", "/bucket?delete", {}, "MethodNotAllowed"),
        ("POST", "/bucket/key", {}, "MethodNotAllowed"),
        ("OPTIONS", "/bucket/key", {}, "AccessForbidden"),
        ("GET", "/bucket?list-type=3", {}, "InvalidArgument"),
        ("GET", "/bucket?encoding-type=xml", {}, "InvalidArgument"),
        ("GET", "/bucket/key?versionId=abc", {}, "NoSuchVersion"),
        ("GET", "/bucket/key?versionId=", {}, "InvalidArgument"),
        ("GET", "/bucket/key?partNumber=0", {}, "InvalidArgument"),
        ("GET", "/bucket/key?partNumber=10001", {}, "InvalidArgument"),
        ("GET", "/bucket/key?partNumber=%C2%B2", {}, "InvalidArgument"),
        ("GET", "/bucket/key?partNumber=1", {"range": "bytes=0-1"}, "InvalidRequest"),
        ("PUT", "/bucket/key?uploadId=x", {}, "InvalidArgument"),
        ("PUT", "/bucket/key?partNumber=1", {}, "InvalidArgument"),
        ("PUT", "/bucket/key?partNumber=1&uploadId=", {}, "NoSuchUpload"),
        ("GET", "//key", {}, "InvalidURI"),
        ("GET", "/bucket/%zz", {}, "InvalidURI"),
        ("GET", "/bucket/%ff", {}, "InvalidURI"),
        ("GET", "/bucket?prefix=%ff", {}, "InvalidURI"),
        ("GET", "/bucket/key#fragment", {}, "InvalidURI"),
        ("GET", "bucket/key", {}, "InvalidURI"),
        ("GET", "*", {}, "InvalidURI"),
        ("GET", "http://other/bucket", {"host": "localhost"}, "InvalidURI"),
    ],
)
def test_what_s3_does_not_know_is_refused_with_its_code(method, target, headers, code):
    with pytest.raises(S3Error) as caught:
        ask(method, target, **headers)
    assert caught.value.code == code


def test_a_form_that_is_posted_to_a_bucket_is_an_upload():
    asked = ask("POST", "/bucket", content_type="multipart/form-data; boundary=x")
    assert (asked.action, asked.bucket, asked.key) == (Action.POST_OBJECT, "bucket", "")


def test_a_target_in_absolute_form_means_its_path():
    assert ask("GET", "http://localhost:1/b/k?x", host="localhost:1").key == "k"
    assert ask("GET", "HTTP://localhost", host="localhost").action is Action.LIST_BUCKETS


def test_of_a_repeated_name_the_first_value_counts_and_unknown_names_do_not():
    request = ask("GET", "/bucket/?prefix=a+b&prefix=c&x-id=ListObjects&max-keys=5000")
    assert request.action is Action.LIST_OBJECTS
    assert request.query["prefix"] == "a b"
    assert request.number("max-keys", 1000, 1000) == 1000
    assert request.number("max-parts", 7, 1000) == 7
    for text in ("x", "-1", "2147483648", "%C2%B2", "9" * 5000):
        assert attempt(ask("GET", f"/bucket?max-keys={text}").number, "max-keys", 1, 1) == (None, "InvalidArgument")


@pytest.mark.parametrize(
    ("host", "bucket"),
    [
        ("localhost:39999", ""),
        ("bucket.localhost:39999", "bucket"),
        ("Bucket.LocalHost", "bucket"),
        ("a.b.s3.example", "a.b"),
        ("notlocalhost", ""),
        (".localhost", ""),
        ("127.0.0.1:39999", ""),
        ("[::1]:39999", ""),
        ("[::1]", ""),
        ("", ""),
    ],
)
def test_a_bucket_stands_in_front_of_a_configured_domain_only(host, bucket):
    assert bucket_of_host(host, ["localhost", "s3.example"]) == bucket


def test_the_source_of_a_copy_has_a_bucket_and_a_key():
    assert read_source("/bucket/a%2Fb+c?versionId=null") == Source("bucket", "a/b+c")
    assert read_source("bucket//lead") == Source("bucket", "/lead")
    assert attempt(read_source, "bucket/key?versionId=x") == (None, "NoSuchVersion")
    for text in ("", "/", "bucket", "bucket/", "b/k?x=1", "b/%ff", "/?versionId=null"):
        assert attempt(read_source, text) == (None, "InvalidArgument")


@pytest.mark.parametrize("name", sorted(requests.BUCKET_CONFIGURATIONS))
def test_every_configuration_of_buckets_that_nobody_keeps_has_an_answer(name):
    request = ask("GET", f"/bucket?{name}")
    assert request.action is Action.BUCKET_CONFIGURATION
    found, code = attempt(subresources.answer, request, "me")
    assert found is None or found[0] == 200
    assert code in ("", "NotImplemented") or S3Error(code).status == 404
    if name != "acl":
        assert attempt(subresources.answer, ask("PUT", f"/bucket?{name}"), "me") == (None, "NotImplemented")


def test_removing_what_is_not_configured_succeeds_and_access_lists_say_what_is_so():
    assert subresources.answer(ask("DELETE", "/bucket?lifecycle"), "me") == (204, b"")
    assert attempt(subresources.answer, ask("DELETE", "/bucket?versioning"), "me") == (None, "NotImplemented")
    assert attempt(subresources.answer, ask("GET", "/bucket?metrics&id=x"), "me") == (None, "NoSuchConfiguration")
    assert attempt(subresources.answer, ask("GET", "/bucket/key?retention"), "me") == (
        None,
        "NoSuchObjectLockConfiguration",
    )
    assert attempt(subresources.answer, ask("GET", "/bucket/key?torrent"), "me") == (None, "NotImplemented")
    told = subresources.answer(ask("GET", "/bucket/key?acl"), "<me>")[1]
    put = ask("PUT", "/bucket/key?acl")
    assert subresources.answer(put, "<me>", told) == (200, b"")
    for body in (
        b"",
        told.replace(b"FULL_CONTROL", b"READ"),
        told.replace(b"me&gt;", b"you"),
        told.replace(b"<Grantee", b"<Other"),
    ):
        assert attempt(subresources.answer, put, "<me>", body)[1] in ("AccessControlListNotSupported", "MalformedXML")
    assert subresources.answer(ask("PUT", "/bucket/key?acl", x_amz_acl="private"), "me") == (200, b"")
    assert attempt(subresources.answer, ask("PUT", "/bucket/key?acl", x_amz_acl="public-read"), "me") == (
        None,
        "AccessControlListNotSupported",
    )


NAMES = [
    "acl",
    "uploads",
    "uploadId",
    "partNumber",
    "versionId",
    "list-type",
    "tagging",
    "encoding-type",
    "delete",
    "cors",
    "prefix",
]
QUERY = st.lists(
    st.tuples(st.sampled_from(NAMES), st.sampled_from(["", "=", "=1", "=null", "=%ff", "=url", "=%"])), max_size=3
)


@settings(max_examples=200)
@given(
    st.sampled_from([b"GET", b"HEAD", b"PUT", b"POST", b"DELETE", b"OPTIONS", b"\xff"]),
    st.one_of(st.binary(max_size=30), st.sampled_from([b"/", b"/b", b"/b/", b"/b/k"])),
    QUERY,
    st.lists(
        st.tuples(st.sampled_from([b"host", b"x-amz-copy-source", b"range", b"content-type"]), st.binary(max_size=20)),
        max_size=3,
    ),
)
def test_no_bytes_make_it_fail_otherwise_than_by_an_s3_error(method, path, query, headers):
    target = path + b"?" + "&".join(name + value for name, value in query).encode()
    head, _ = attempt(wire_head, method, target, headers)
    if head is None:
        return
    request, _ = attempt(read_request, head, ["localhost"])
    attempt(read_source, head.headers.get("x-amz-copy-source", ""))
    if request is not None:
        attempt(request.number, "partNumber", 1, 5)
        if request.configuration:
            attempt(subresources.answer, request, "me")


@given(st.text(st.characters(max_codepoint=255), max_size=20))
def test_any_text_of_a_header_is_decoded_or_refused(text):
    assert attempt(decode, text)[1] in ("", "InvalidURI")
