"""Ranges: which bytes S3 gives, and when it gives all of them or none."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from refusals import attempt

from monofs.gateways.s3.errors import S3Error
from monofs.gateways.s3.ranges import Span, part_span, read_copied_range, read_range


@pytest.mark.parametrize(
    ("text", "span"),
    [
        ("bytes=0-4", Span(0, 4)),
        ("bytes=2-", Span(2, 9)),
        ("bytes=-3", Span(7, 9)),
        ("bytes=-262144", Span(0, 9)),
        ("bytes=9-9", Span(9, 9)),
        ("bytes=5-99999999999999999999999999", Span(5, 9)),
        ("bytes=0000000000000000000000005-", Span(5, 9)),
        ("Bytes = 1 - 2 ", Span(1, 2)),
    ],
)
def test_one_range_is_answered_as_far_as_there_are_bytes(text, span):
    assert read_range(text, 10) == span
    assert span.content_range(10) == f"bytes {span.first}-{span.last}/10"


@pytest.mark.parametrize(
    "text",
    [
        None,
        "",
        "bytes=0-1,3-4",
        "bytes=5-2",
        "bytes=-",
        "bytes",
        "lines=0-1",
        "bytes=a-b",
        "bytes=0x1-2",
        "bytes=--1",
        "0-1",
    ],
)
def test_several_ranges_and_malformed_ones_mean_the_whole_object(text):
    assert read_range(text, 10) is None


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("bytes=10-", 10),
        ("bytes=10-20", 10),
        ("bytes=-0", 10),
        ("bytes=0-", 0),
        ("bytes=-5", 0),
        ("bytes=" + "9" * 5000 + "-", 10),
    ],
)
def test_a_range_of_no_bytes_is_not_satisfiable(text, size):
    with pytest.raises(S3Error) as caught:
        read_range(text, size)
    assert (caught.value.code, caught.value.status) == ("InvalidRange", 416)
    assert caught.value.headers["Content-Range"] == f"bytes */{size}"


@given(
    st.integers(0, 50), st.one_of(st.text(max_size=20), st.from_regex(r"bytes=[0-9]{0,3}-[0-9]{0,3}", fullmatch=True))
)
def test_any_text_gives_bytes_that_are_there_or_everything_or_invalid_range(size, text):
    span, code = attempt(read_range, text, size)
    assert code in ("", "InvalidRange")
    if span is not None:
        assert 0 <= span.first <= span.last < size
        assert span.length == span.last - span.first + 1


def test_the_range_of_a_copied_source_is_closed_and_lies_within_it():
    assert read_copied_range("bytes=0-9", 10) == Span(0, 9)
    for text in ("bytes=0-10", "bytes=10-10"):
        with pytest.raises(S3Error) as caught:
            read_copied_range(text, 10)
        assert caught.value.code == "InvalidRange"
    for text in (
        "0-2",
        "bytes=0",
        "bytes=hello-world",
        "bytes=0-",
        "bytes=-3",
        "bytes=0-2,3-5",
        "bytes=5-2",
        "bytes=0-" + "9" * 30,
    ):
        with pytest.raises(S3Error) as caught:
            read_copied_range(text, 10)
        assert caught.value.code == "InvalidArgument"


def test_parts_lie_one_after_the_other_and_an_object_put_whole_is_its_only_part():
    assert part_span(2, [5, 3, 2], 10) == Span(5, 7)
    assert part_span(1, [], 10) == Span(0, 9)
    assert part_span(1, [], 0) is None
    with pytest.raises(S3Error) as caught:
        part_span(2, [], 10)
    assert (caught.value.code, caught.value.status) == ("InvalidPartNumber", 416)
