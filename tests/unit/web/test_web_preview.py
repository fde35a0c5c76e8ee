"""Previews: what bytes are taken for, bounded whatever they hold."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from monofs.model.errors import InvalidArgument
from monofs.web.parquet import preview_parquet
from monofs.web.preview import BYTES_MAX, CHARSETS, JSON_TEXT_MAX, TEXT_MAX, picture_type, preview_of
from monofs.web.sending import disposition


def look(data: bytes, *, size: int | None = None, charset: str = "auto", path: str = "/f"):
    return preview_of(path, data, len(data) if size is None else size, charset, 1 << 20)


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (b"\x89PNG\r\n\x1a\n...", "image/png"),
        (b"\xff\xd8\xff\xe0", "image/jpeg"),
        (b"GIF89a", "image/gif"),
        (b"RIFF\0\0\0\0WEBPVP8 ", "image/webp"),
        (b"<svg xmlns='x'>", "image/svg+xml"),
        (b"\xef\xbb\xbf<?xml version='1.0'?>\n<!-- c -->\n<svg>", "image/svg+xml"),
        (b"<html><svg>", ""),
        (b"<svgx>", ""),
        (b"<!doctype html><script>", ""),
        (b"RIFF\0\0\0\0WAVE", ""),
    ],
)
def test_pictures_are_told_by_their_first_bytes(data, kind):
    assert picture_type(data) == kind
    assert (look(data).kind == "picture") == bool(kind)


def test_text_is_told_from_bytes_also_when_cut_inside_a_character():
    cut = "日本".encode()[:-1]
    assert look(cut, size=100).kind == "text"
    assert look(cut, size=100).text == "日"
    assert look(b"caf\xe9").charset == "windows-1252"
    assert look(b"a\0b").kind == "bytes"
    assert look("hi".encode("utf-16")).text == "hi"
    assert look(b"").kind == "empty"


def test_json_is_shown_indented_with_its_numbers_as_they_are():
    shown = look(b'{"a":123456789012345678901234567890,"b":1.10}')
    assert shown.kind == "json"
    assert "123456789012345678901234567890" in shown.text
    assert "1.10" in shown.text
    assert json.loads(shown.text)["a"] == 123456789012345678901234567890
    assert look(b"{not json").kind == "text"
    assert look(b'{"a":1}', size=1 << 30).kind == "text", "the rest of it is not here"


def test_json_that_would_grow_huge_is_text():
    deep = b"[" * 60_000 + b"]" * 60_000
    assert look(deep).kind == "text"
    wide = b"[" + b"1," * 60_000 + b"1]"
    assert len(look(wide).text) <= JSON_TEXT_MAX


def test_a_charset_can_be_chosen_and_another_word_is_refused():
    assert look("привет".encode("koi8-r"), charset="koi8-r").text == "привет"
    assert look(b"<svg>", charset="utf-8").kind == "text"
    assert look(b"text", charset="bytes").text.startswith("00000000  74 65 78 74")
    with pytest.raises(InvalidArgument):
        look(b"x", charset="rot13")


@given(st.binary(max_size=3000), st.sampled_from(["auto", "bytes", *CHARSETS]))
def test_whatever_the_bytes_the_answer_is_bounded_text(data, charset):
    shown = look(data, charset=charset, path="/x.json")
    assert len(shown.text) <= max(TEXT_MAX, JSON_TEXT_MAX, BYTES_MAX * 6)
    shown.text.encode()


@given(st.text(min_size=1, max_size=255).filter(lambda text: "\0" not in text and text.isprintable()))
def test_a_name_in_a_header_is_one_quoted_word_and_one_encoded(name):
    header = disposition(name)
    assert header.isascii()
    assert "\r" not in header
    assert "\n" not in header
    assert header.count('"') == 2


def test_hostile_names_cannot_end_their_header():
    for name in ('a"; filename="b', "a\r\nSet-Cookie: x=1", "\u202egpj.exe", "a;b", "..\\..\\x", "%22"):
        header = disposition(name)
        assert header.isascii()
        assert not set("\r\n\\") & set(header)
        assert header.count('"') == 2


class Bytes:
    """An open file."""

    def __init__(self, data: bytes) -> None:
        self._data, self.size = data, len(data)

    def pread(self, offset: int, size: int) -> bytes:
        return self._data[offset : offset + size]


def test_parquet_that_is_damaged_is_said_and_takes_nothing_down(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    path = tmp_path / "t.parquet"
    parquet.write_table(pyarrow.table({"a": list(range(200)), "b": ["x" * 1000] * 200}), path)
    whole = path.read_bytes()
    shown = preview_parquet(Bytes(whole))
    assert [column.name for column in shown.columns] == ["a", "b"]
    assert shown.row_count == 200
    assert len(shown.rows) == 50
    assert shown.rows[49][0] == "49"
    assert max(len(value or "") for row in shown.rows for value in row) == 200
    for damaged in (
        b"PAR1" + b"\xff" * 100 + b"PAR1",
        whole[:-200] + whole[-100:],
        whole[:4] + b"\xff" * 3000 + whole[3004:],
        b"PAR1" * 4,
    ):
        shown = preview_parquet(Bytes(damaged))
        assert shown.kind == "parquet"
        assert shown.note or shown.rows
