"""Documents: botocore reads in each what was put in, whatever the keys are; bodies of clients are read, and those of enemies are not."""

from __future__ import annotations

import datetime as dt
from typing import Any

import botocore.session
import pytest
from botocore.parsers import RestXMLParser
from botocore.serialize import create_serializer
from hypothesis import given, settings
from hypothesis import strategies as st
from refusals import attempt
from signed_requests import client

from monofs.gateways.s3 import bodies, documents
from monofs.gateways.s3.documents import Attributes, Entry, Listing, Part, Parts, Refused, Upload
from monofs.gateways.s3.errors import S3Error
from monofs.gateways.s3.xml import DEPTH_MAX, parse

MODEL = botocore.session.get_session().get_service_model("s3")
WHEN = dt.datetime(2023, 11, 14, 22, 13, 20, tzinfo=dt.UTC)
AT_S = 1_700_000_000
SAFE_KEY = st.text(
    st.characters(exclude_categories=["Cs", "Cc"], exclude_characters="\ufffe\uffff"), min_size=1, max_size=12
)
ANY_KEY = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12)


def read(action: str, body: bytes) -> dict[str, Any]:
    """What botocore makes of an answer to ``action``."""
    answer = {"body": body, "headers": {}, "status_code": 200}
    return RestXMLParser().parse(answer, MODEL.operation_model(action).output_shape)


def written(action: str, **parameters: Any) -> bytes:
    """The body that botocore sends for ``action``."""
    made = create_serializer("rest-xml").serialize_to_request(
        {"Bucket": "b", **parameters}, MODEL.operation_model(action)
    )
    return made["body"]


def listing(entries: list[Entry], prefixes: list[str], *, encoded: bool = False, following: str = "") -> Listing:
    return Listing("bucket", "p&/", "/", 1000, encoded, "me", entries, prefixes, following)


@settings(max_examples=40)
@given(st.lists(SAFE_KEY, max_size=3), SAFE_KEY)
def test_listings_hold_every_key_that_xml_can_say(keys, prefix):
    entries = [Entry(key, 5, "tag-1", AT_S, "CRC32", "COMPOSITE") for key in keys]
    found = read(
        "ListObjectsV2",
        documents.objects_v2_document(listing(entries, [prefix]), start_after=prefix, token="", fetch_owner=True),
    )
    assert [each["Key"] for each in found.get("Contents", [])] == keys
    assert found["CommonPrefixes"] == [{"Prefix": prefix}]
    assert (found["KeyCount"], found["IsTruncated"], found["StartAfter"], found["Prefix"]) == (
        len(keys) + 1,
        False,
        prefix,
        "p&/",
    )
    for each in found.get("Contents", []):
        assert (each["Size"], each["ETag"], each["LastModified"], each["StorageClass"]) == (
            5,
            '"tag-1"',
            WHEN,
            "STANDARD",
        )
        assert (each["ChecksumAlgorithm"], each["ChecksumType"], each["Owner"]["ID"]) == (["CRC32"], "COMPOSITE", "me")


@settings(max_examples=40)
@given(ANY_KEY, ANY_KEY)
def test_under_url_encoding_listings_hold_every_key_there_is(key, marker):
    from urllib.parse import unquote, unquote_plus

    found = read(
        "ListObjects",
        documents.objects_document(
            listing([Entry(key, 0, "t", AT_S)], [key], encoded=True, following=key), marker=marker
        ),
    )
    assert found["EncodingType"] == "url"
    for unquoted in (unquote, unquote_plus):
        assert unquoted(found["Contents"][0]["Key"]) == unquoted(found["NextMarker"]) == key
        assert unquoted(found["CommonPrefixes"][0]["Prefix"]) == key
        assert unquoted(found.get("Marker", "")) == marker


def test_versions_are_one_for_each_object():
    entries = [Entry("a", 1, "t", AT_S)]
    found = read(
        "ListObjectVersions",
        documents.versions_document(listing(entries, ["d/"], following="a"), key_marker="", version_marker=""),
    )
    assert (found["Versions"][0]["VersionId"], found["Versions"][0]["IsLatest"]) == ("null", True)
    assert (found["NextKeyMarker"], found["NextVersionIdMarker"], found["IsTruncated"]) == ("a", "null", True)


def test_uploads_and_parts_are_told_with_their_markers():
    uploads = [Upload("k<", "u&1", AT_S, "CRC64NVME", "FULL_OBJECT")]
    found = read(
        "ListMultipartUploads",
        documents.uploads_document(
            listing([], ["d/"], following="k<"), uploads, key_marker="", upload_marker="", next_upload="u&1"
        ),
    )
    assert (found["Uploads"][0]["Key"], found["Uploads"][0]["UploadId"], found["Uploads"][0]["Initiated"]) == (
        "k<",
        "u&1",
        WHEN,
    )
    assert (found["NextKeyMarker"], found["NextUploadIdMarker"], found["MaxUploads"]) == ("k<", "u&1", 1000)
    parts = Parts([Part(2, 7, "t", AT_S, {"ChecksumCRC32": "AAAAAA=="})], marker=1, next=2, most=1, total=9)
    found = read("ListParts", documents.parts_document("b", "k", "u", "me", parts, algorithm="CRC32", kind="COMPOSITE"))
    assert found["Parts"] == [
        {"PartNumber": 2, "LastModified": WHEN, "ETag": '"t"', "Size": 7, "ChecksumCRC32": "AAAAAA=="}
    ]
    assert (found["IsTruncated"], found["NextPartNumberMarker"], found["PartNumberMarker"]) == (True, 2, 1)
    last = read("ListParts", documents.parts_document("b", "k", "u", "me", Parts(parts.parts, 1, 0, 1000)))
    assert (last["IsTruncated"], last["NextPartNumberMarker"]) == (False, 2)


def test_buckets_locations_and_outcomes_are_read_as_they_were_meant():
    found = read("ListBuckets", documents.buckets_document("me", [("a&b", AT_S)], prefix="a", region="eu", token="t"))
    assert found["Buckets"] == [{"Name": "a&b", "CreationDate": WHEN, "BucketRegion": "eu"}]
    assert (found["Owner"]["ID"], found["ContinuationToken"], found["Prefix"]) == ("me", "t", "a")
    assert read("GetBucketLocation", documents.location_document("us-east-1")).get("LocationConstraint") in (None, "")
    assert b">eu-west-1</LocationConstraint>" in documents.location_document("eu-west-1")
    assert read("CreateMultipartUpload", documents.begun_document("b", "k&", "u"))["UploadId"] == "u"
    found = read(
        "CompleteMultipartUpload",
        documents.completed_document("http://x/b/k?", "b", "k", "t-2", {"ChecksumSHA1": "AA"}, "COMPOSITE"),
    )
    assert (found["ETag"], found["ChecksumSHA1"], found["ChecksumType"], found["Location"]) == (
        '"t-2"',
        "AA",
        "COMPOSITE",
        "http://x/b/k?",
    )
    found = read("CopyObject", documents.copied_document("t", AT_S, {"ChecksumCRC32": "AA"}, "FULL_OBJECT"))
    assert found["CopyObjectResult"] == {
        "ETag": '"t"',
        "LastModified": WHEN,
        "ChecksumCRC32": "AA",
        "ChecksumType": "FULL_OBJECT",
    }
    assert (
        read("UploadPartCopy", documents.copied_document("t", AT_S, {}, part=True))["CopyPartResult"]["ETag"] == '"t"'
    )
    assert read("GetObjectTagging", documents.tagging_document({"k<": ""}))["TagSet"] == [{"Key": "k<", "Value": ""}]


def test_deletions_tell_both_outcomes_or_failures_only():
    refused = [Refused("k\x01", "", S3Error("AccessDenied", "no & never"))]
    body = documents.deleted_document([("a<", "null")], refused[:0], quiet=False)
    assert read("DeleteObjects", body)["Deleted"] == [{"Key": "a<", "VersionId": "null"}]
    quiet = documents.deleted_document([("a", "")], [Refused("k", "", refused[0].error)], quiet=True)
    assert read("DeleteObjects", quiet) == {
        "Errors": [{"Key": "k", "Code": "AccessDenied", "Message": "no & never"}],
        "ResponseMetadata": read("DeleteObjects", quiet)["ResponseMetadata"],
    }
    assert b"<Key>k&#x1;</Key>" in documents.deleted_document([], refused, quiet=True)


def test_attributes_are_those_asked_for():
    parts = Parts([Part(1, 5, "t", AT_S, {"ChecksumCRC32": "AA"})], marker=0, next=0, most=1000, total=1)
    found = Attributes("t-1", 5, {"ChecksumCRC32": "AA-1"}, "COMPOSITE", parts)
    told = read(
        "GetObjectAttributes",
        documents.attributes_document(["ETag", "Checksum", "ObjectParts", "StorageClass", "ObjectSize"], found),
    )
    assert (told["ETag"], told["ObjectSize"], told["StorageClass"]) == ("t-1", 5, "STANDARD")
    assert told["Checksum"] == {"ChecksumCRC32": "AA-1", "ChecksumType": "COMPOSITE"}
    assert told["ObjectParts"]["TotalPartsCount"] == 1
    assert told["ObjectParts"]["Parts"] == [{"PartNumber": 1, "Size": 5, "ChecksumCRC32": "AA"}]
    assert set(read("GetObjectAttributes", documents.attributes_document(["ObjectSize"], found))) == {
        "ObjectSize",
        "ResponseMetadata",
    }


@settings(max_examples=40)
@given(st.text(max_size=20), st.text(max_size=20))
def test_an_error_is_readable_whatever_was_asked_for(message, value):
    error = S3Error("NoSuchKey", message, Key=value)
    body = documents.error_document(error, resource="/b/" + value, request_id="0123", host_id="w1")
    answer = {"body": body, "headers": {}, "status_code": error.status}
    found = RestXMLParser().parse(answer, MODEL.operation_model("GetObject").output_shape)
    assert found["Error"]["Code"] == "NoSuchKey"
    assert b"<RequestId>0123</RequestId>" in body


def test_the_bodies_botocore_sends_are_understood():
    keys = ["a", "é<&>", "  ", "new\nline\r\ttab"]
    s3, sent = client()
    s3.delete_objects(
        Bucket="b",
        Delete={"Objects": [{"Key": key, "VersionId": "null", "ETag": '"t"'} for key in keys], "Quiet": True},
    )
    objects, quiet = bodies.read_delete(sent[0].content)
    assert (objects, quiet) == ([bodies.Doomed(key, "null", "t") for key in keys], True)
    parts = [{"PartNumber": number, "ETag": '"t"', "ChecksumCRC32": "y/Q5Jg=="} for number in (1, 3, 10000)]
    read_parts = bodies.read_completion(
        written("CompleteMultipartUpload", Key="k", UploadId="u", MultipartUpload={"Parts": parts})
    )
    assert read_parts == [bodies.Completed(number, "t", {"ChecksumCRC32": b"\xcb\xf49&"}) for number in (1, 3, 10000)]
    tags = {"TagSet": [{"Key": "k", "Value": "v é"}, {"Key": "empty", "Value": ""}]}
    assert bodies.read_tagging(written("PutObjectTagging", Key="k", Tagging=tags), 10) == {"k": "v é", "empty": ""}
    created = written(
        "CreateBucket",
        CreateBucketConfiguration={"LocationConstraint": "eu-west-1", "Tags": [{"Key": "k", "Value": "v"}]},
    )
    assert bodies.read_creation(created) == ("eu-west-1", {"k": "v"})
    assert bodies.read_creation(b"") == ("", {})
    assert bodies.read_tagging_header("a=1%20%C3%A9&b=&c") == {"a": "1 é", "b": "", "c": ""}


@pytest.mark.parametrize(
    "start",
    [
        "<Delete>",
        '<Delete xmlns="http://s3.amazonaws.com/doc/2006-03-01/">',
        '<?xml version="1.0"?>\n<!-- x --><Delete xmlns="urn:x">',
    ],
)
def test_bodies_may_have_any_namespace_or_none(start):
    assert bodies.read_delete(f"{start} <Object><Key>a</Key></Object> <Other/> </Delete>".encode())[0][0].key == "a"
    prefixed = b'\xef\xbb\xbf<s:Delete xmlns:s="x"><s:Object><s:Key>a</s:Key></s:Object></s:Delete>'
    assert bodies.read_delete(prefixed)[0][0].key == "a"


LAUGHS = b'<!DOCTYPE l [<!ENTITY a "ha"><!ENTITY b "&a;&a;">]><Delete><Object><Key>&b;</Key></Object></Delete>'
FILE = b'<?xml version="1.0"?><!DOCTYPE d [<!ENTITY x SYSTEM "file:///etc/passwd">]><Delete><Object><Key>&x;</Key></Object></Delete>'


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"no xml",
        b"<Delete>",
        b"<Delete/>",
        b"<Other/>",
        b"<Delete><Object/></Delete>",
        b"<Delete><Object><Key></Key></Object></Delete>",
        b"<Delete><Object><Key>&unknown;</Key></Object></Delete>",
        b"<Delete><Object><Key>\xff</Key></Object></Delete>",
        LAUGHS,
        FILE,
        FILE.decode().replace("<?xml", '<?xml encoding="x"').encode(),
        LAUGHS.decode().encode("utf-16"),
        b"<Delete>" + b"<a>" * DEPTH_MAX + b"</a>" * DEPTH_MAX + b"</Delete>",
        b"<Delete>" + b"<a>" * 100_000,
        b"<Delete>" + b"<Object><Key>a</Key></Object>" * 1001 + b"</Delete>",
        b"<Delete>" + b" " * bodies.DELETE_MAX_BYTES + b"</Delete>",
    ],
)
def test_bodies_that_are_malformed_deep_large_or_declare_entities_are_refused(body):
    assert attempt(bodies.read_delete, body) == (None, "MalformedXML")


def test_parts_come_in_order_with_number_and_etag():
    def complete(*parts: str) -> str:
        return attempt(
            bodies.read_completion, f"<CompleteMultipartUpload>{''.join(parts)}</CompleteMultipartUpload>".encode()
        )[1]

    one, two = (f"<Part><PartNumber>{number}</PartNumber><ETag>t</ETag></Part>" for number in (1, 2))
    assert complete(one, two) == ""
    assert complete(two, one) == complete(one, one) == "InvalidPartOrder"
    assert (
        complete()
        == complete("<Part><PartNumber>1</PartNumber></Part>")
        == complete(one.replace("1", "0"))
        == "MalformedXML"
    )
    assert complete(one.replace("1", "10001")) == complete(one.replace("1", "²")) == "MalformedXML"
    assert complete(one.replace("<ETag>", "<ChecksumCRC32>x</ChecksumCRC32><ETag>")) == "InvalidRequest"
    assert complete(one.replace("<ETag>", "<ChecksumXXHASH3>x</ChecksumXXHASH3><ETag>")) == "NotImplemented"


def test_tags_keep_to_their_bounds():
    def tag(*pairs: tuple[str, str]) -> str:
        return attempt(bodies.check_tags, list(pairs), 10)[1]

    assert tag(("k" * 128, "é" * 256)) == ""
    assert (
        tag(("k" * 129, ""))
        == tag(("k", "v" * 257))
        == tag(("", "v"))
        == tag(("k", ""), ("k", ""))
        == tag(("aws:k", "v"))
        == "InvalidTag"
    )
    assert tag(*((str(number), "") for number in range(11))) == tag(("k", "a\nb")) == "InvalidTag"
    assert (
        attempt(bodies.read_tagging, b"<Tagging><TagSet><Tag><Key>k</Key></Tag></TagSet></Tagging>", 10)[1]
        == "MalformedXML"
    )
    assert attempt(bodies.read_tagging, b"<Tagging/>", 10)[1] == "MalformedXML"
    assert attempt(bodies.read_tagging_header, "a=%ff")[1] == "InvalidArgument"
    assert (
        attempt(bodies.read_creation, b"<CreateBucketConfiguration><Bucket/></CreateBucketConfiguration>")[1]
        == "NotImplemented"
    )
    for location in ("a b", "é", "x" * 65, "a\nb"):
        body = f"<CreateBucketConfiguration><LocationConstraint>{location}</LocationConstraint></CreateBucketConfiguration>"
        assert attempt(bodies.read_creation, body.encode())[1] == "InvalidLocationConstraint"


PIECES = st.sampled_from(
    [
        b"<Delete>",
        b"</Delete>",
        b"<Object>",
        b"</Object>",
        b"<Key>",
        b"</Key>",
        b"a",
        b"&amp;",
        b"<!DOCTYPE x []>",
        b"\xff",
        b"<![CDATA[",
        b"]]>",
        b"<?x?>",
    ]
)


@settings(max_examples=150)
@given(st.one_of(st.binary(max_size=40), st.lists(PIECES, max_size=12).map(b"".join)))
def test_no_bytes_make_it_fail_otherwise_than_by_an_s3_error(body):
    for reader in (bodies.read_delete, bodies.read_completion, bodies.read_creation):
        assert attempt(reader, body)[1] in ("", "MalformedXML")
    attempt(bodies.read_tagging, body, 10)
    attempt(bodies.read_tagging_header, body.decode("latin-1"))
    attempt(parse, body, "Delete", 20, 2)
