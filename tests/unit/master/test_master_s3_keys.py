"""S3 keys: issued, told to workers, replaced and removed; and nodes that act for those who have them."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from master_house import SECRET, House
from scribe import Scribe

from monofs.metadata.tables import S3_KEYS_LEVEL
from monofs.model.errors import InvalidArgument, InvalidPath, NotFound, NotReady, PermissionDenied, Unauthenticated
from monofs.model.principal import Principal, Right
from monofs.model.s3_key import access_key_id, key_number, s3_secret
from monofs.model.token import Token, encode_token
from monofs.observe.audit import AUDIT_LOGGER
from monofs.rpc import api
from monofs.rpc.api import Method
from monofs.rpc.s3_keys import S3Key, S3Keys

READ_WRITE = Right.READ | Right.WRITE


def add(house: House, user: str = "ada", rights: str = "read,write", **more: Any) -> api.TokenAddAnswer:
    answer = house.ask(Method.TOKEN_ADD, api.TokenAddRequest(user, rights, s3=True, **more))
    assert isinstance(answer, api.TokenAddAnswer)
    return answer


def rotate(house: House, key: str, ends_in_s: float = 0.0) -> api.TokenAddAnswer:
    answer = house.ask(Method.KEY_ROTATE, api.KeyRotateRequest(key, ends_in_s))
    assert isinstance(answer, api.TokenAddAnswer)
    return answer


def remove(house: House, key: str) -> None:
    house.ask(Method.TOKEN_REMOVE, api.TokenRemoveRequest(key))


def listed(house: House) -> list[str]:
    return [each.shown for each in house.ask(Method.TOKEN_LIST, api.Empty()).tokens]


class Node:
    """What a worker hears with its heartbeats."""

    def __init__(self, house: House) -> None:
        self.house = house
        self.keys = S3Keys(SECRET, lambda: house.master._now_ns() / 1e9)
        registered = house.ask(
            Method.REGISTER, api.RegisterRequest(b"w" * 16, "127.0.0.1:29999", "", "boot", 1000, 10, 0)
        )
        self.worker, self._index = registered.worker, registered.tokens_index
        self.keys.take(registered.cluster, registered.tokens.s3)

    def find(self, answer: api.TokenAddAnswer, wait_s: float = 0.0) -> S3Key | None:
        request = api.HeartbeatRequest(
            self.worker, 0, 1000, 10, self.house.namespace.mounts_index, wait_s, tokens_index=self._index
        )
        heard = self.house.ask(Method.HEARTBEAT, request)
        if heard.tokens is not None:
            self.keys.take(self.house.namespace.cluster, heard.tokens.s3)
            self._index = heard.tokens_index
        return self.keys.find(answer.info.shown)


@pytest.fixture
def node(house: House) -> Node:
    return Node(house)


def test_a_key_allows_what_was_asked_for_wherever_it_is_shown(house: House, node: Node) -> None:
    answer = add(house, uid=7, groups=[8], prefix="/lake/raw", expires_s=60.0)
    assert len(answer.info.shown) == 20
    assert answer.info.shown.startswith("MF")
    assert len(answer.token) == 40
    found = node.find(answer)
    assert found is not None
    assert found.secret == answer.token
    assert found.principal == Principal("ada", 7, (8,), READ_WRITE, by="node")
    assert found.prefix == (b"lake", b"raw")
    assert not node.keys.is_expired(found)
    house.later_ns = 62 * 10**9
    assert node.keys.is_expired(found)
    reader = node.find(add(house, "bob", "read"))
    assert reader is not None
    assert (reader.principal.rights, reader.prefix, reader.expires_s) == (Right.READ, (), 0)
    house.restart()
    assert listed(house)[0] == answer.info.shown


def test_a_user_may_have_several_keys_and_a_token_besides(house: House) -> None:
    first, second = add(house), add(house)
    token = house.ask(Method.TOKEN_ADD, api.TokenAddRequest("ada", "read"))
    assert len({first.info.shown, second.info.shown, token.info.shown}) == 3
    assert [each.s3 for each in house.ask(Method.TOKEN_LIST, api.Empty()).tokens] == [True, True, False]
    remove(house, "ada")  # a name is a token's
    assert listed(house) == [first.info.shown, second.info.shown]
    remove(house, second.info.shown)
    assert listed(house) == [first.info.shown]
    with pytest.raises(NotFound):
        remove(house, second.info.shown)


def test_a_removed_key_is_not_known_within_a_heartbeat(house: House, node: Node) -> None:
    answer = add(house)
    assert node.find(answer) is not None
    remove(house, answer.info.shown)
    assert node.find(answer, wait_s=20.0) is None


def test_a_key_is_one_object_as_long_as_nothing_of_it_changes(house: House, node: Node) -> None:
    answer, other = add(house), add(house, "bob")
    found, before = node.find(answer), node.find(other)
    rotate(house, other.info.shown, 60.0)
    now = node.find(other)
    assert now is not None
    assert before is not None
    assert (before.expires_s, now is before) == (0, False)
    assert now.expires_s > 0
    assert node.find(answer) is found


def test_a_key_is_replaced_at_once_or_after_a_while(house: House, node: Node) -> None:
    old = add(house, uid=7, prefix="/lake", expires_s=3600.0)
    new = rotate(house, old.info.shown)
    assert node.find(old) is None
    found = node.find(new)
    assert found is not None
    assert (found.principal, found.prefix) == (Principal("ada", 7, (), READ_WRITE, by="node"), (b"lake",))
    assert new.info.expires_s == old.info.expires_s
    assert new.token != old.token
    later = rotate(house, str(new.info.number), 60.0)
    kept = node.find(new)
    assert kept is not None
    assert not node.keys.is_expired(kept)
    assert kept.secret == new.token
    house.later_ns = 62 * 10**9
    assert node.keys.is_expired(kept)
    assert node.find(later) is not None
    for gone in (old.info.shown, new.info.shown, "7", "ada"):
        with pytest.raises(NotFound):
            rotate(house, gone)
    assert house.namespace.counts()["tokens"] == 2


def test_neither_kind_of_key_opens_what_the_other_opens(house: House, node: Node) -> None:
    answer = add(house)
    key = house.namespace.tokens()[0]
    token = Token(key.number, key.name, key.rights, key.expires_s, house.namespace.cluster, key.salt)
    with pytest.raises(Unauthenticated, match="removed"):
        house.loop.do(house.service.tokens.check, token, house.namespace.cluster)
    issued = house.ask(Method.TOKEN_ADD, api.TokenAddRequest("bob", "read"))
    key = house.namespace.tokens()[1]
    assert node.find(answer) is not None
    assert node.keys.find(access_key_id(key.number, key.salt)) is None
    assert answer.token not in issued.token
    assert encode_token(token)


def test_only_administrators_issue_and_replace_keys(house: House) -> None:
    answer = add(house)
    bob = Principal("bob", rights=READ_WRITE)
    for method, request in (
        (Method.TOKEN_ADD, api.TokenAddRequest("bob", "read", s3=True)),
        (Method.KEY_ROTATE, api.KeyRotateRequest(answer.info.shown)),
    ):
        with pytest.raises(PermissionDenied, match="bob has no admin right"):
            house.ask(method, request, bob)


@pytest.mark.parametrize(
    "wrong",
    [{"rights": "admin"}, {"user": "node"}, {"prefix": "lake"}, {"prefix": "/lake/"}, {"prefix": "/a/../b"}],
)
def test_what_no_key_can_be_is_refused(house: House, wrong: dict[str, Any]) -> None:
    with pytest.raises((InvalidArgument, InvalidPath)):
        add(house, **wrong)
    answer = add(house)
    for ends_in_s in (-1.0, float("nan"), 1e300):
        with pytest.raises(InvalidArgument):
            rotate(house, answer.info.shown, ends_in_s)


def test_no_key_is_issued_before_every_master_knows_how(house: House) -> None:
    house.namespace.store.meta.level = S3_KEYS_LEVEL - 1
    with pytest.raises(NotReady, match="every master"):
        add(house)


def test_the_secret_of_a_key_is_in_no_file(house: House, tmp_path: Path) -> None:
    secret = add(house).token.encode()
    house.loop.do(house.store.flush)
    house.restart()
    for path in house.directory.rglob("*"):
        assert not path.is_file() or secret not in path.read_bytes(), path


def test_what_a_node_does_for_somebody_is_his_in_rights_and_audit(
    house: House, caplog: pytest.LogCaptureFixture
) -> None:
    scribe = Scribe(house)
    house.ask(Method.MAKE_DIRECTORY, api.MakeDirectoryRequest("/b"))
    writer = Principal("ada", 7, (8,), READ_WRITE, by="node")
    reader = Principal("bob", 9, (), Right.READ, by="node")
    with caplog.at_level(logging.INFO, AUDIT_LOGGER):
        house.ask(Method.MAKE_DIRECTORY, api.MakeDirectoryRequest("/b/made"), writer)
        with pytest.raises(PermissionDenied, match="bob has no write right"):
            house.ask(Method.MAKE_DIRECTORY, api.MakeDirectoryRequest("/b/no"), reader)
        written = house.ask(Method.BEGIN_WRITE, api.BeginWriteRequest("/b/f", size=1), writer)
        scribe.end(written, None, 1)
    assert (house.stat("/b/made").uid, house.stat("/b/made").gid) == (7, 8)
    shown = [record.__dict__["fields"] for record in caplog.records if record.name == AUDIT_LOGGER]
    assert [(each["principal"], each["by"], each["allowed"]) for each in shown] == [
        ("ada", "node", True),
        ("bob", "node", False),
        ("ada", "node", True),
    ]


# ---- ids and secrets ---------------------------------------------------------------------------------------------------


@given(st.integers(1, 0xFFFFFFFF), st.binary(min_size=16, max_size=16))
def test_an_access_key_id_names_its_number(number: int, salt: bytes) -> None:
    shown = access_key_id(number, salt)
    assert len(shown) == 20
    assert shown.isascii()
    assert shown.isupper() or shown.isalnum()
    assert key_number(shown) == number


@given(st.text(max_size=24))
def test_no_other_text_is_taken_for_one(text: str) -> None:
    found = S3Keys(SECRET)
    found.take(b"c" * 16, [api.S3KeyGrant(7, bytes(16), "ada", 1)])
    assert found.find(text) is None or text == access_key_id(7, bytes(16))


def test_a_secret_is_of_one_key_of_one_cluster() -> None:
    made = {
        s3_secret(secret, cluster, number, salt)
        for secret in (SECRET, b"another secret of enough bytes..")
        for cluster in (b"a" * 16, b"b" * 16)
        for number in (1, 2)
        for salt in (bytes(16), b"s" * 16)
    }
    assert len(made) == 16
    assert {len(each) for each in made} == {40}
