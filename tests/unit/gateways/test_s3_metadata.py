"""What is kept with an object: which headers, in which bounds, and what is refused because it would silently not be so."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from refusals import attempt

from monofs.gateways.s3.metadata import (
    USER_MAX_BYTES,
    check_supported,
    is_replacing,
    read_metadata,
    read_wanted,
    replaced,
)


def test_system_and_user_metadata_are_kept_as_they_came_and_nothing_else_is():
    headers = {
        "content-type": "text/plain; charset=utf-8",
        "cache-control": "no-cache",
        "expires": "not a date",
        "x-amz-meta-a": "1,2",
        "x-amz-meta-": "",
        "x-amz-date": "now",
        "host": "h",
        "content-length": "5",
    }
    assert set(read_metadata(headers)) == {"content-type", "cache-control", "expires", "x-amz-meta-a", "x-amz-meta-"}


@pytest.mark.parametrize(
    ("sent", "kept"),
    [
        ("aws-chunked", None),
        ("gzip, aws-chunked", "gzip"),
        ("AWS-Chunked,gzip,br", "gzip,br"),
        ("gzip, br", "gzip, br"),
    ],
)
def test_the_form_of_the_transfer_is_no_encoding_of_the_object(sent, kept):
    assert read_metadata({"content-encoding": sent}).get("content-encoding") == kept


def test_metadata_has_a_bound_and_no_control_characters():
    assert attempt(read_metadata, {"x-amz-meta-a": "v" * (USER_MAX_BYTES - 1)})[1] == ""
    assert attempt(read_metadata, {"x-amz-meta-a": "v" * USER_MAX_BYTES})[1] == "MetadataTooLarge"
    assert attempt(read_metadata, {"content-type": "v" * 5000})[1] == "InvalidArgument"
    assert attempt(read_metadata, {"x-amz-meta-a": "a\nb"})[1] == "InvalidArgument"


def test_parameters_replace_headers_of_one_answer_but_never_end_a_line():
    query = {
        "response-content-type": "text/html",
        "response-content-disposition": 'attachment; filename="é"',
        "prefix": "x",
    }
    assert replaced(query) == {"content-type": "text/html", "content-disposition": 'attachment; filename="Ã©"'}
    for text in ("a\r\nX-Evil: 1", "a\x00"):
        assert attempt(replaced, {"response-content-type": text})[1] == "InvalidArgument"


@pytest.mark.parametrize(
    ("name", "value", "code"),
    [
        ("x-amz-server-side-encryption", "AES256", "NotImplemented"),
        ("x-amz-server-side-encryption-customer-algorithm", "AES256", "NotImplemented"),
        ("x-amz-object-lock-mode", "GOVERNANCE", "NotImplemented"),
        ("x-amz-website-redirect-location", "/", "NotImplemented"),
        ("x-amz-write-offset-bytes", "5", "NotImplemented"),
        ("x-amz-acl", "public-read", "AccessControlListNotSupported"),
        ("x-amz-grant-read", "id=1", "AccessControlListNotSupported"),
        ("x-amz-storage-class", "GLACIER", "InvalidStorageClass"),
        ("x-amz-acl", "private", ""),
        ("x-amz-acl", "bucket-owner-full-control", ""),
        ("x-amz-storage-class", "STANDARD", ""),
        ("x-amz-meta-acl", "public-read", ""),
        ("x-amz-request-payer", "requester", ""),
    ],
)
def test_what_would_silently_not_be_so_is_refused(name, value, code):
    assert attempt(check_supported, {name: value})[1] == code


def test_a_copy_takes_metadata_along_unless_it_says_replace():
    assert not is_replacing({})
    assert is_replacing({"x-amz-metadata-directive": "REPLACE"})
    assert is_replacing({"x-amz-tagging-directive": "REPLACE"}, "x-amz-tagging-directive")
    assert attempt(is_replacing, {"x-amz-metadata-directive": "replace"})[1] == "InvalidArgument"


def test_attributes_are_asked_for_by_name():
    assert read_wanted({"x-amz-object-attributes": "ETag, ObjectSize"}) == ["ETag", "ObjectSize"]
    for headers in ({}, {"x-amz-object-attributes": "ETag,Color"}):
        assert attempt(read_wanted, headers)[1] == "InvalidArgument"


@given(st.text(max_size=30))
def test_no_text_makes_it_fail_otherwise_than_by_an_s3_error(text):
    for name in (
        "content-encoding",
        "content-type",
        "x-amz-meta-" + text,
        "x-amz-acl",
        "x-amz-storage-class",
    ):
        attempt(read_metadata, {name: text})
        attempt(check_supported, {name: text})
    attempt(replaced, {"response-expires": text})
