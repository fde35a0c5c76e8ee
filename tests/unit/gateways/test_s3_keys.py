"""Keys: where each stands in the tree, and why some stand nowhere."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from refusals import attempt

from monofs.gateways.s3.errors import S3Error
from monofs.gateways.s3.keys import Place, bucket_parts, check_new_bucket, format_token, key_of, place, read_token
from monofs.model.paths import format_path

BUCKET = (b"bucket",)


@pytest.mark.parametrize(
    ("key", "parts", "is_directory"),
    [
        ("a", (b"bucket", b"a"), False),
        ("a/b", (b"bucket", b"a", b"b"), False),
        ("dir/", (b"bucket", b"dir"), True),
        (" ", (b"bucket", b" "), False),
        ("a+b%20c", (b"bucket", b"a+b%20c"), False),
        ("...", (b"bucket", b"..."), False),
        ("new\nline", (b"bucket", b"new\nline"), False),
        ("e\u0301", (b"bucket", "e\u0301".encode()), False),
        ("\u00e9", (b"bucket", "\u00e9".encode()), False),
        ("/".join(["k" * 255] * 4), (b"bucket", *[b"k" * 255] * 4), False),
    ],
)
def test_a_key_has_one_place_and_a_place_one_key(key, parts, is_directory):
    found = place(BUCKET, key)
    assert found == Place(parts, is_directory, format_path(parts))
    assert key_of(BUCKET, found) == key


@pytest.mark.parametrize(
    ("key", "code", "reason"),
    [
        ("a//b", "InvalidArgument", "empty component"),
        ("/a", "InvalidArgument", "empty component"),
        ("a//", "InvalidArgument", "empty component"),
        ("/", "InvalidArgument", "empty component"),
        (".", "InvalidArgument", "'.' is not allowed"),
        ("a/../b", "InvalidArgument", "'..' is not allowed"),
        ("a\0b", "InvalidArgument", "NUL"),
        ("k" * 256, "InvalidArgument", "over 255"),
        (".monofs-tmp-1/x", "InvalidArgument", "reserved"),
        ("k" * 1025, "KeyTooLongError", "1,024"),
        ("é" * 513, "KeyTooLongError", "1,024"),
    ],
)
def test_a_key_that_the_tree_cannot_hold_is_refused_with_the_reason(key, code, reason):
    with pytest.raises(S3Error, match=reason) as caught:
        place(BUCKET, key)
    assert caught.value.code == code


def test_a_key_whose_path_behind_a_long_alias_is_too_long_is_refused():
    alias = (b"a" * 250,) * 15
    assert bucket_parts("short", {"short": alias}) == alias
    with pytest.raises(S3Error, match="4096"):
        place(alias, "/".join(["k" * 250] * 2))


def test_a_bucket_is_a_directory_whatever_it_is_called_but_a_new_one_has_a_name_of_s3():
    assert bucket_parts("Data_Lake", {}) == (b"Data_Lake",)
    for name in ("..", "", "a" * 256, ".monofs-tmp-1"):
        with pytest.raises(S3Error):
            bucket_parts(name, {})
    for name in ("abc", "my-bucket.2026", "1" * 63):
        check_new_bucket(name)
    for name in (
        "ab",
        "A-bucket",
        "1" * 64,
        "a..b",
        "-ab",
        "ab-",
        "192.168.5.4",
        "xn--ab",
        "under_score",
        "abc\n",
        "x-s3alias",
    ):
        with pytest.raises(S3Error) as caught:
            check_new_bucket(name)
        assert caught.value.code == "InvalidBucketName"


@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=30))
def test_any_key_keeps_its_name_or_is_refused(key):
    assert read_token(format_token(key)) == key
    found, code = attempt(place, BUCKET, key)
    assert code in ("InvalidArgument", "KeyTooLongError") if found is None else key_of(BUCKET, found) == key


@given(st.text(max_size=20))
def test_a_token_of_another_maker_is_an_invalid_argument(token):
    for text in (token, "1" + token):
        assert attempt(read_token, text)[1] in ("", "InvalidArgument")
