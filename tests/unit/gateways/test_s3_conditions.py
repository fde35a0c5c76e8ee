"""Conditions: when S3 answers, says not modified, or refuses; and what a change has to find."""

from __future__ import annotations

from email.utils import formatdate

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from monofs.gateways.s3.conditions import (
    WriteCondition,
    check_read,
    check_source,
    may_use_range,
    read_tags,
    read_write_condition,
)
from monofs.gateways.s3.errors import S3Error

MTIME_S, NOW_S = 1_700_000_000, 1_800_000_000.0
BEFORE, SAME, AFTER, FUTURE = (formatdate(at, usegmt=True) for at in (MTIME_S - 1, MTIME_S, MTIME_S + 1, NOW_S + 10))


def outcome(prefix: str = "", **headers: str) -> int:
    """The status that conditions lead to for an object with the ETag ``tag``."""
    given_headers = {prefix + name.replace("_", "-"): value for name, value in headers.items()}
    try:
        (check_source if prefix else check_read)(given_headers, "tag", MTIME_S, NOW_S)
    except S3Error as error:
        return error.status
    return 200


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"if_match": '"tag"'}, 200),
        ({"if_match": "tag"}, 200),
        ({"if_match": "*"}, 200),
        ({"if_match": '"a", "tag"'}, 200),
        ({"if_match": '"other"'}, 412),
        ({"if_match": 'W/"tag"'}, 412),
        ({"if_match": ""}, 412),
        ({"if_none_match": '"tag"'}, 304),
        ({"if_none_match": 'W/"tag"'}, 304),
        ({"if_none_match": "*"}, 304),
        ({"if_none_match": 'a,"b" ,tag'}, 304),
        ({"if_none_match": '"other"'}, 200),
        ({"if_modified_since": BEFORE}, 200),
        ({"if_modified_since": SAME}, 304),
        ({"if_modified_since": AFTER}, 304),
        ({"if_modified_since": FUTURE}, 200),
        ({"if_modified_since": "never"}, 200),
        ({"if_unmodified_since": BEFORE}, 412),
        ({"if_unmodified_since": SAME}, 200),
        ({"if_unmodified_since": "Tue, 14 Nov 2023 22:13:19 +0000"}, 412),
        ({"if_unmodified_since": "never"}, 200),
        ({"if_match": '"tag"', "if_unmodified_since": BEFORE}, 200),
        ({"if_none_match": '"tag"', "if_modified_since": BEFORE}, 304),
        ({"if_none_match": '"other"', "if_modified_since": AFTER}, 200),
        ({"if_match": '"other"', "if_none_match": '"tag"'}, 412),
    ],
)
def test_conditions_of_reading_come_in_the_order_of_the_rfc(headers, status):
    assert outcome(**headers) == status
    assert outcome("x-amz-copy-source-", **headers) == (412 if status == 304 else status)


def test_a_change_names_what_it_has_to_find():
    assert not read_write_condition({})
    read_write_condition({}).check(None)
    absent = read_write_condition({"if-none-match": "*"})
    absent.check(None)
    match = read_write_condition({"if-match": '"a", "tag"'})
    match.check("tag")
    read_write_condition({"if-match": "*"}).check("whatever")
    assert match == WriteCondition(etags=("a", "tag"))
    for condition, etag, code in (
        (absent, "tag", "PreconditionFailed"),
        (match, "other", "PreconditionFailed"),
        (match, None, "NoSuchKey"),
        (read_write_condition({"if-match": 'W/"tag"'}), "tag", "PreconditionFailed"),
    ):
        with pytest.raises(S3Error) as caught:
            condition.check(etag)
        assert caught.value.code == code


@pytest.mark.parametrize("headers", [{"if-none-match": '"tag"'}, {"if-none-match": "*", "if-match": '"tag"'}])
def test_conditions_that_s3_does_not_know_of_changes_are_refused(headers):
    with pytest.raises(S3Error) as caught:
        read_write_condition(headers)
    assert caught.value.code == "NotImplemented"


def test_a_range_counts_only_for_the_version_that_if_range_names():
    assert may_use_range({}, "tag", MTIME_S)
    assert may_use_range({"if-range": '"tag"'}, "tag", MTIME_S)
    assert may_use_range({"if-range": SAME}, "tag", MTIME_S)
    for text in ('"other"', 'W/"tag"', BEFORE, AFTER, "garbage"):
        assert not may_use_range({"if-range": text}, "tag", MTIME_S)


@settings(max_examples=40)
@given(st.text(max_size=40), st.text(st.sampled_from('W/"*,ab \t'), max_size=20))
def test_no_text_makes_it_fail_otherwise_than_by_an_s3_error(date, tags):
    read_tags(tags)
    for name in ("if-match", "if-none-match", "if-modified-since", "if-unmodified-since"):
        for text in (date, tags):
            try:
                check_read({name: text}, "tag", MTIME_S, NOW_S)
                read_write_condition({name: text}).check("tag")
            except S3Error:
                pass
    may_use_range({"if-range": date}, "tag", MTIME_S)
