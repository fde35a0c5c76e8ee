"""Tokens at the master: who issues them, what is told of them, who hears of them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from master_house import SECRET, House

from monofs.model.errors import AlreadyExists, InvalidArgument, NotFound, NotReady, PermissionDenied, Unauthenticated
from monofs.model.principal import Principal, Right
from monofs.model.token import Token, decode_token, parse_token, token_secret
from monofs.rpc import api
from monofs.rpc.api import Method

ALL = Right.READ | Right.WRITE | Right.ADMIN


def add(house: House, name: str, rights: str = "read", principal: Principal | None = None, **more: Any) -> Any:
    return house.ask(Method.TOKEN_ADD, api.TokenAddRequest(name, rights, **more), principal)


def remove(house: House, token: str) -> None:
    house.ask(Method.TOKEN_REMOVE, api.TokenRemoveRequest(token))


def listed(house: House) -> list[api.TokenInfo]:
    found: list[api.TokenInfo] = house.ask(Method.TOKEN_LIST, api.Empty()).tokens
    return found


def check(house: House, token: Token) -> Principal:
    """What a door of this master would say."""
    who: Principal = house.loop.do(house.service.tokens.check, token, house.namespace.cluster)
    return who


def beat(house: House, worker: int, tokens_index: int, wait_s: float = 0.0) -> Callable[[], Any]:
    index = house.namespace.mounts_index
    request = api.HeartbeatRequest(worker, 0, 1000, 10, index, wait_s, tokens_index=tokens_index)
    return house.begin(Method.HEARTBEAT, request)


def test_a_token_is_what_was_asked_for_and_its_door_honours_it(house: House) -> None:
    answer = add(house, "reports", "write", expires_s=60.0, uid=7, groups=[8], principal=Principal("boss", rights=ALL))
    body, secret = parse_token(answer.token)
    token = decode_token(body)
    assert token is not None
    assert secret == token_secret(SECRET, body)
    assert (token.number, token.name, token.cluster) == (1, "reports", house.namespace.cluster)
    assert check(house, token) == Principal("reports", 7, (8,), Right.READ | Right.WRITE)
    info = answer.info
    assert (info.number, info.rights, info.issuer, info.expired) == (1, "read,write", "boss", False)
    assert info.expires_s == token.expires_s
    assert listed(house) == [info]
    house.later_ns = 61 * 10**9
    assert [each.expired for each in listed(house)] == [True]
    with pytest.raises(Unauthenticated, match="expired"):
        check(house, token)


def test_a_listing_tells_nothing_that_lets_anybody_in(house: House) -> None:
    answer = add(house, "ada")
    text = str(listed(house))
    assert answer.token.split(".")[2] not in text
    assert answer.token[:10] in text


@pytest.mark.parametrize("flushed", [True, False])
def test_tokens_outlive_a_restart_and_removed_ones_do_not_come_back(house: House, flushed: bool) -> None:
    kept, gone = (decode_token(parse_token(add(house, name).token)[0]) for name in ("kept", "gone"))
    assert kept is not None
    assert gone is not None
    remove(house, "gone")
    if flushed:
        house.loop.do(house.store.flush)
    house.restart()
    assert check(house, kept).name == "kept"
    with pytest.raises(Unauthenticated, match="gone was removed"):
        check(house, gone)
    later = add(house, "gone")
    assert later.info.number == 3
    with pytest.raises(Unauthenticated, match="removed"):
        check(house, gone)


@pytest.mark.parametrize("named", ["ada", "1"])
def test_a_token_is_removed_by_name_or_number(house: House, named: str) -> None:
    token = decode_token(parse_token(add(house, "ada").token)[0])
    assert token is not None
    remove(house, named)
    assert listed(house) == []
    with pytest.raises(Unauthenticated, match="removed"):
        check(house, token)
    with pytest.raises(NotFound, match=f"no token or S3 key {named}"):
        remove(house, named)


def test_a_token_of_another_master_of_the_same_secret_is_none_here(make_house: Callable[..., House]) -> None:
    one, other = make_house(), make_house()
    token = decode_token(parse_token(add(one, "ada").token)[0])
    add(other, "ada")
    assert token is not None
    with pytest.raises(Unauthenticated, match="another cluster"):
        check(other, token)


@pytest.mark.parametrize(
    ("method", "request_"),
    [
        (Method.TOKEN_ADD, api.TokenAddRequest("mine", "admin")),
        (Method.TOKEN_LIST, api.Empty()),
        (Method.TOKEN_REMOVE, api.TokenRemoveRequest("ada")),
    ],
    ids=["add", "ls", "rm"],
)
def test_only_administrators_have_to_do_with_tokens(house: House, method: Method, request_: api.Message) -> None:
    add(house, "ada")
    with pytest.raises(PermissionDenied, match="bob has no admin right"):
        house.ask(method, request_, Principal("bob", rights=Right.READ | Right.WRITE))
    assert [each.name for each in listed(house)] == ["ada"]


@pytest.mark.parametrize(
    "wrong",
    [
        {"name": "node"},
        {"name": "7"},
        {"rights": "node"},
        {"rights": ""},
        {"expires_s": 0.0},
        {"expires_s": -1.0},
        {"expires_s": float("nan")},
        {"expires_s": 1e300},
        {"uid": -1},
        {"groups": [1 << 40]},
    ],
)
def test_what_no_token_can_be_is_refused(house: House, wrong: dict[str, Any]) -> None:
    with pytest.raises(InvalidArgument):
        add(house, **{"name": "ada", **wrong})
    assert listed(house) == []


def test_a_name_is_given_once(house: House) -> None:
    add(house, "ada")
    with pytest.raises(AlreadyExists, match="ada"):
        add(house, "ada")


def test_a_request_asked_again_gets_the_same_answer(house: House) -> None:
    request = api.RequestId(b"c" * 16, 1, 1)
    first = add(house, "ada", request=request)
    assert add(house, "ada", request=request) == first
    removal = api.TokenRemoveRequest("ada", api.RequestId(b"c" * 16, 2, 1))
    for _ in range(2):
        house.ask(Method.TOKEN_REMOVE, removal)


def test_workers_hear_of_tokens_with_their_heartbeat(house: House) -> None:
    token = decode_token(parse_token(add(house, "ada").token)[0])
    assert token is not None
    registered = house.ask(Method.REGISTER, api.RegisterRequest(b"w" * 16, "127.0.0.1:29999", "", "boot", 1000, 10, 0))
    assert registered.tokens == api.TokenGrant({1: token.salt}, 1)
    waiting = beat(house, registered.worker, registered.tokens_index, wait_s=20.0)
    remove(house, "ada")
    answer = waiting()
    assert answer.tokens == api.TokenGrant({}, 1)
    assert answer.tokens_index > registered.tokens_index
    assert beat(house, registered.worker, answer.tokens_index)().tokens is None


def test_a_door_does_not_judge_before_the_master_has_started(house: House) -> None:
    token = decode_token(parse_token(add(house, "ada").token)[0])
    assert token is not None
    fresh = type(house.service.tokens)(house.loop.reactor)
    with pytest.raises(NotReady):
        fresh.check(token, house.namespace.cluster)


def test_the_secret_of_a_token_is_in_no_file(house: House, tmp_path: Path) -> None:
    secret = parse_token(add(house, "ada").token)[1]
    house.loop.do(house.store.flush)
    house.restart()
    for path in house.directory.rglob("*"):
        assert not path.is_file() or secret not in path.read_bytes(), path
