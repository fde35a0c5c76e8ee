"""Paths: what is accepted, and that the fast check and the one that explains agree."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from monofs.model.errors import InvalidPath, MonofsError, NameTooLong
from monofs.model.paths import format_path, name_problem, parse_path


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("/", ()),
        ("/a", (b"a",)),
        ("/a/b/", (b"a", b"b")),
        ("/a b/\n/ü/...", (b"a b", b"\n", "ü".encode(), b"...")),
        ("/" + "x" * 255, (b"x" * 255,)),
        ("/x" * 2048, (b"x",) * 2048),
    ],
)
def test_a_path_is_its_names(text: str, parts: tuple[bytes, ...]) -> None:
    assert parse_path(text) == parts
    assert parse_path(format_path(parts)) == parts


@pytest.mark.parametrize(
    ("text", "error", "words"),
    [
        ("", InvalidPath, "must start with"),
        ("a/b", InvalidPath, "must start with"),
        ("//", InvalidPath, "empty"),
        ("/a//b", InvalidPath, "empty"),
        ("//lake//", InvalidPath, "'//lake//'"),
        ("/a/./b", InvalidPath, "'.'"),
        ("/..", InvalidPath, r"'\.\.'"),
        ("/a\0b", InvalidPath, "NUL"),
        ("/\udcff", InvalidPath, "UTF-8"),
        ("/" + "ü" * 128, NameTooLong, "256 bytes"),
        ("/x" * 2049, NameTooLong, "4098 bytes"),
    ],
)
def test_a_path_that_is_none_is_refused_with_its_reason(text: str, error: type[MonofsError], words: str) -> None:
    with pytest.raises(error, match=words):
        parse_path(text)


@given(
    st.lists(
        st.text(st.characters(exclude_categories=["Cs"]), max_size=300) | st.sampled_from(["", ".", "..", "a\0"]),
        max_size=4,
    )
)
def test_a_path_is_accepted_when_each_of_its_names_is(names: list[str]) -> None:
    encoded = [name.encode() for name in "/".join(names).split("/")]
    text = "/" + "/".join(names) + "/end"
    if all(name_problem(name) is None for name in encoded) and len(text.encode()) <= 4096 and names:
        assert parse_path(text) == (*encoded, b"end")
    elif names:
        with pytest.raises(MonofsError):
            parse_path(text)
