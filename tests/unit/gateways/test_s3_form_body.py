"""The body of an HTML form: fields, then the bytes of one file, however they are cut on their way."""

from __future__ import annotations

import tracemalloc
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from refusals import attempt

from monofs.gateways.s3.errors import S3Error
from monofs.gateways.s3.form_body import FIELDS_MAX_BYTES, FormBody
from monofs.gateways.s3.forms import form_key

TYPE = "multipart/form-data; boundary=edge"


def form(*parts: tuple[str, bytes], end: bytes = b"--edge--\r\n") -> bytes:
    """A body of parts with these Content-Dispositions."""
    return (
        b"".join(
            b"--edge\r\nContent-Disposition: form-data; %s\r\n\r\n%s\r\n" % (head.encode(), value)
            for head, value in parts
        )
        + end
    )


def read(body: bytes, cuts: tuple[int, ...] = (), content_type: str = TYPE) -> tuple[dict[str, str], str, bytes]:
    """Fields, name and bytes of the file of a body that comes in pieces."""
    seen: list[tuple[dict[str, str], str]] = []
    made = FormBody(content_type, lambda fields, name, _: seen.append((fields, name)))
    edges = [0, *sorted(cut % (len(body) + 1) for cut in cuts), len(body)]
    data = b""
    for start, stop in pairwise(edges):
        data += b"".join(made.feed(body[start:stop]))
    made.finish()
    ((fields, name),) = seen
    return fields, name, data


def code_of(body: bytes, content_type: str = TYPE) -> str:
    with pytest.raises(S3Error) as caught:
        read(body, content_type=content_type)
    return caught.value.code


@given(
    st.binary(max_size=300).filter(lambda data: b"--edge" not in data),
    st.text(max_size=20).filter(lambda text: "--edge" not in text),
    st.lists(st.integers(0, 10_000), max_size=12),
)
def test_a_form_is_the_same_however_it_is_cut(data: bytes, value: str, cuts: list[int]) -> None:
    body = form(('name="Key"', b"a/b"), ("name=other", value.encode()), ('name="file"; filename="x.txt"', data))
    assert read(body, tuple(cuts)) == ({"key": "a/b", "other": value}, "x.txt", data)


def test_what_stands_around_the_parts_is_ignored() -> None:
    body = b"preamble\r\n" + form(('name="key"', b"k"), ('name="file"', b"data"), ('name="late"', b"x")) + b"epilogue"
    assert read(body) == ({"key": "k"}, "", b"data")


def test_of_a_repeated_field_the_first_counts() -> None:
    assert read(form(('name="key"', b"1"), ('name="KEY"', b"2"), ('name="file"', b"")))[0] == {"key": "1"}


@pytest.mark.parametrize(
    ("head", "name"),
    [
        ('name="file"; filename="a b.txt"', "a b.txt"),
        ('filename="first"; name="file"', "first"),
        ("name=file; filename=bare", "bare"),
        ('name="file"; filename="say \\"hi\\";x"', 'say "hi";x'),
        ('name="file"; filename="C:\\dir\\own.txt"', "C:\\dir\\own.txt"),
        ('name="file"; filename="東京"', "東京"),
        ('name="file"', ""),
    ],
)
def test_the_name_of_the_file_is_read_as_browsers_write_it(head: str, name: str) -> None:
    assert read(form((head, b"x")))[1] == name


def test_bytes_that_look_like_the_end_are_the_files() -> None:
    data = b"\r\n--edg\r\n--Edge\r\n-\r\n--"
    assert read(form(('name="file"', data)))[2] == data


def test_each_way_to_be_malformed_has_its_code() -> None:
    no_file = "IncorrectNumberOfFilesInPostRequest"
    assert code_of(b"") == code_of(b"nonsense") == code_of(form()) == code_of(form(('name="key"', b"k"))) == no_file
    assert code_of(form(('name="key"', b"k"), end=b"")) == no_file
    assert code_of(form(('name="file"', b"data"), end=b"")[:-4]) == "IncompleteBody"
    assert code_of(b"--edge\r\nX: y\r\n\r\nv\r\n--edge--") == code_of(form(("x", b""))) == "MalformedPOSTRequest"
    assert code_of(form(('name="key"', b"\xff"), ('name="file"', b""))) == "MalformedPOSTRequest"
    for content_type in (
        "multipart/form-data",
        "multipart/form-data; boundary=",
        "multipart/form-data; boundary=" + "x" * 71,
    ):
        assert code_of(b"", content_type) == "MalformedPOSTRequest"


def test_what_comes_before_the_file_is_bounded() -> None:
    most = form(('name="a"', b"x" * (FIELDS_MAX_BYTES - 500)), ('name="file"', b"data" * 100_000))
    assert len(read(most)[2]) == 400_000
    for body in (
        form(('name="a"', b"x" * FIELDS_MAX_BYTES)),
        form(*[('name="a"', b"x" * 100)] * (FIELDS_MAX_BYTES // 100)),
        b"--edge\r\nX: " + b"y" * FIELDS_MAX_BYTES,
        b"preamble" * FIELDS_MAX_BYTES,
    ):
        assert code_of(body) == "MaxPostPreDataLengthExceededError"


@given(st.binary(max_size=200))
def test_no_bytes_make_it_fail_otherwise(data: bytes) -> None:
    for body in (data, b"--edge\r\n" + data, form(('name="k"', b"v"), end=data)):
        try:
            read(body)
        except S3Error:
            pass


def test_a_key_is_made_of_the_name_of_the_file_unless_it_would_be_too_long() -> None:
    assert form_key("user/${filename}", "C:\\dir\\a.txt") == "user/a.txt"
    assert form_key("${filename}-${filename}", "dir/" + "a" * 511) == "a" * 511 + "-" + "a" * 511
    for template, filename in (("${filename}" * 3000, "a" * 32_000), ("${filename}" * 2, "a" * 513)):
        tracemalloc.start()
        assert attempt(form_key, template, filename)[1] == "KeyTooLongError"
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
        tracemalloc.stop()
    for template, filename in (("", "a"), ("${filename}", "a/")):
        assert attempt(form_key, template, filename)[1] == "InvalidArgument"
