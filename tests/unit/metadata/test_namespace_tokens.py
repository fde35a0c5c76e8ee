"""ADD_TOKEN and REMOVE_TOKEN: names, numbers, ends, bounds, what a restart finds."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
from metadata_home import Home, refused

from monofs.metadata.entries import AddToken, RemoveToken, RotateKey, Stamp
from monofs.metadata.tables import KEYS, Key, KeyKind, decode_key, pack_id
from monofs.model.errors import AlreadyExists, InvalidArgument, NotFound, NotReady, Overloaded

SALT = bytes(range(16))
SECOND = 10**9


def add(home: Home, name: str, *, rights: int = 1, expires_s: int = 0, salt: bytes = SALT, **more: Any) -> Any:
    """The record, or the refusal."""
    result = home.apply(AddToken(home.stamp(), name, rights, expires_s, salt, **more))
    return decode_key(result) if isinstance(result, bytes) else result


def names(home: Home) -> list[str]:
    return [key.name for key in home.namespace.tokens()]


def test_a_token_has_a_number_of_its_own_for_ever(home: Home) -> None:
    first = add(home, "ada", rights=3, expires_s=500, uid=7, groups=[8, 9], issuer="node")
    assert first == Key(1, "ada", 3, 500, SALT, 7, [8, 9], home.namespace.now_ns, "node")
    assert home.namespace.meta.keys_index == len(home.log)
    assert home.apply(RemoveToken(home.stamp(), 1)) is None
    assert home.namespace.meta.keys_index == len(home.log)
    assert add(home, "ada").number == 2
    assert names(home) == ["ada"]
    assert refused(home.apply(RemoveToken(home.stamp(), 1)), NotFound)
    assert refused(home.apply(RemoveToken(home.stamp(), 3)), NotFound)


def test_records_of_tokens_are_those_of_earlier_releases(home: Home) -> None:
    add(home, "ada", rights=3)
    raw = home.store.get(KEYS, pack_id(1))
    assert raw is not None
    assert raw[0] == 0x99
    add(home, "ada", rights=3, kind=KeyKind.S3, prefix="/lake")
    raw = home.store.get(KEYS, pack_id(2))
    assert raw is not None
    assert decode_key(raw) == Key(2, "ada", 3, 0, SALT, 0, [], home.namespace.now_ns, "", 1, "/lake")


def test_a_replaced_key_ends_when_it_was_told_to_and_not_later_than_before(home: Home) -> None:
    for expires_s in (0, 50):
        add(home, "ada", rights=3, expires_s=expires_s, kind=KeyKind.S3)
    for number in (1, 2):
        home.apply(RotateKey(home.stamp(), number, bytes(16), 70, "boss"))
    assert [key.expires_s for key in home.namespace.tokens()] == [70, 50, 0, 50]
    assert home.namespace.tokens()[2].issuer == "boss"
    home.apply(RotateKey(home.stamp(), 3, bytes(16), 0))
    assert [key.number for key in home.namespace.tokens()] == [1, 2, 4, 5]
    home.clock_ns = 60 * SECOND
    assert refused(home.apply(RotateKey(home.stamp(), 2, bytes(16), 0)), NotFound)
    add(home, "bob")
    assert refused(home.apply(RotateKey(home.stamp(), 6, bytes(16), 0)), NotFound)
    assert refused(home.apply(RotateKey(home.stamp(), 1, b"short", 0)), InvalidArgument)
    assert refused(add(home, "cy", rights=4, kind=KeyKind.S3), InvalidArgument)
    assert refused(add(home, "cy", kind=7), InvalidArgument)
    assert home.findings() == {}


@pytest.mark.parametrize("flushed", [True, False])
def test_a_restart_finds_what_was_issued_and_not_what_was_removed(home: Home, flushed: bool) -> None:
    for name in ("ada", "bob", "cy"):
        add(home, name)
    home.apply(RemoveToken(home.stamp(), 2))
    before = home.namespace.tokens()
    if flushed:
        home.flush()
    home.lose_memory()
    home.open()
    assert home.namespace.tokens() == before
    assert add(home, "dot").number == 4
    assert home.findings() == {}


def test_a_name_is_given_once_until_its_token_ends(home: Home) -> None:
    add(home, "ada", expires_s=100)
    assert refused(add(home, "ada"), AlreadyExists)
    assert home.namespace.meta.last_key == 1
    late = AddToken(Stamp(100 * SECOND), "ada", 1, 0, SALT)
    assert decode_key(home.apply(late)).number == 2
    assert [key.number for key in home.namespace.tokens()] == [2]
    assert home.findings() == {}


def test_tokens_are_bounded_and_ended_ones_make_room(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules["monofs.metadata.ops.tokens"], "TOKENS_MAX", 2)
    add(home, "ada", expires_s=100)
    add(home, "bob")
    assert refused(add(home, "cy"), Overloaded)
    assert decode_key(home.apply(AddToken(Stamp(100 * SECOND), "cy", 1, 0, SALT))).number == 3
    assert names(home) == ["bob", "cy"]


@pytest.mark.parametrize(
    "wrong",
    [
        {"name": ""},
        {"name": "12"},
        {"name": "node"},
        {"name": "anonymous"},
        {"name": "a b"},
        {"name": "-a"},
        {"name": "a\n"},
        {"name": "x" * 65},
        {"rights": 0},
        {"rights": 8},
        {"rights": 9},
        {"rights": -1},
        {"expires_s": -1},
        {"expires_s": 1 << 41},
        {"salt": b"short"},
        {"uid": -1},
        {"groups": [1 << 32]},
        {"groups": [1] * 17},
    ],
)
def test_what_no_token_can_be_is_refused(home: Home, wrong: dict[str, Any]) -> None:
    assert refused(add(home, **{"name": "ada", **wrong}), InvalidArgument)
    assert names(home) == []


def test_there_are_no_tokens_before_there_is_a_cluster(tmp_path: Path) -> None:
    home = Home(tmp_path / "db")
    assert refused(add(home, "ada"), NotReady)
    home.close()


def test_a_request_asked_again_gets_the_same_token(home: Home) -> None:
    first = home.apply(AddToken(home.stamp(b"client", 1, 1), "ada", 1, 0, SALT))
    again = home.apply(AddToken(home.stamp(b"client", 1, 1), "ada", 1, 0, b"x" * 16))
    assert again == first
    assert names(home) == ["ada"]
