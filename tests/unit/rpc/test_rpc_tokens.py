"""Tokens at the door: who gets in by one, with which rights, and for how long. The vector is docs/formats/wire.md's."""

from __future__ import annotations

import pickle
import re
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rpc_world import SECRET, House

from monofs.model.errors import (
    ConnectionLost,
    InvalidArgument,
    MonofsError,
    NotReady,
    PermissionDenied,
    Unauthenticated,
)
from monofs.model.principal import Principal, Right
from monofs.model.token import (
    Token,
    check_name,
    decode_token,
    encode_token,
    format_rights,
    format_token,
    parse_rights,
    parse_token,
    shown_token,
    token_secret,
)
from monofs.rpc import api
from monofs.rpc.api import Method
from monofs.rpc.handshake import (
    ClientHandshake,
    ClientHello,
    Credential,
    ServerHandshake,
    TokenProof,
    Welcome,
    derive_key,
    encode,
    proof,
)
from monofs.rpc.security import Security
from monofs.rpc.sync import Pool
from monofs.rpc.tokens import Tokens

OTHER = b"another secret of enough bytes.."
CLUSTER = b"cluster-0123456!"
SALT = bytes(range(16))
WIRE = Path(__file__).parents[3] / "docs" / "formats" / "wire.md"
NOW_S = 1_700_000_000.0


def make(secret: bytes = SECRET, **fields: Any) -> str:
    """The text of a token."""
    body = encode_token(
        Token(**{"number": 3, "name": "ada", "rights": 3, "expires_s": 0, "cluster": CLUSTER, "salt": SALT, **fields})
    )
    return format_token(body, token_secret(secret, body))


def honoured(salt: bytes | None = None, last: int = 9) -> Tokens:
    """Those that honour token 3 with this salt, or nothing."""
    tokens = Tokens(None, lambda: NOW_S)
    tokens.take({} if salt is None else {3: salt}, last)
    return tokens


def server(tokens: Tokens | None, secret: bytes | None = SECRET) -> ServerHandshake:
    return ServerHandshake(secret=secret, anonymous=True, cluster=CLUSTER, role="master", tokens=tokens)


def shake(client: ClientHandshake, other: ServerHandshake) -> None:
    to_server = [client.begin()]
    while to_server:
        to_client = [body for message in to_server for body in other.receive(message)]
        to_server = [body for message in to_client for body in client.receive(message)]


def test_a_token_lets_its_holder_in_under_its_name_with_its_rights() -> None:
    client = ClientHandshake(Credential(token=make(uid=7, groups=[8, 9])))
    other = server(honoured(SALT))
    shake(client, other)
    assert other.principal == Principal("ada", 7, (8, 9), Right.READ | Right.WRITE)
    assert other.token is not None
    assert other.token.number == 3
    assert client.welcome is not None
    assert client.welcome.principal == "ada"


def test_what_is_said_tells_nothing_of_the_tokens_secret() -> None:
    text = make()
    body, secret = parse_token(text)
    client, other = ClientHandshake(Credential(token=text)), server(honoured(SALT))
    said = [client.begin()]
    said += other.receive(said[0])
    said += client.receive(said[1])
    said += other.receive(said[2])
    assert any(body in each for each in said)
    assert not any(secret in each or derive_key(secret) in each for each in said)


@pytest.mark.parametrize(
    ("text", "tokens", "why"),
    [
        (make(OTHER), honoured(SALT), "not this cluster's"),
        (make(expires_s=1_700_000_000), honoured(SALT), "expired"),
        (make(cluster=b"another-cluster!"), honoured(SALT), "another cluster"),
        (make(), honoured(), "removed"),
        (make(), honoured(b"x" * 16), "removed"),
        (make(), None, "no tokens"),
    ],
    ids=["other-secret", "expired", "other-cluster", "removed", "number-of-another", "none-taken"],
)
def test_tokens_that_let_nobody_in(text: str, tokens: Tokens | None, why: str) -> None:
    other = server(tokens)
    with pytest.raises(Unauthenticated, match=why):
        shake(ClientHandshake(Credential(token=text)), other)
    assert other.principal is None


def test_a_token_that_has_not_ended_is_honoured_to_its_last_second() -> None:
    shake(ClientHandshake(Credential(token=make(expires_s=1_700_000_001))), server(honoured(SALT)))


@pytest.mark.parametrize("tokens", [Tokens(None, lambda: NOW_S), honoured(last=2)], ids=["nothing-heard", "newer"])
def test_who_has_not_heard_of_a_token_yet_asks_to_try_again(tokens: Tokens) -> None:
    with pytest.raises(NotReady, match="ada"):
        shake(ClientHandshake(Credential(token=make())), server(tokens))


def test_nothing_of_a_token_is_told_to_who_cannot_prove_to_have_it() -> None:
    body, _ = parse_token(make(expires_s=5))
    client, other = ClientHandshake(Credential(token=format_token(body, bytes(32)))), server(honoured())
    with pytest.raises(Unauthenticated) as caught:
        shake(client, other)
    assert not re.search("ada|expired|removed", str(caught.value))


@given(st.integers(0, 10_000), st.integers(1, 255))
def test_one_changed_byte_of_a_token_makes_it_worthless(at: int, change: int) -> None:
    body, secret = parse_token(make())
    forged = bytearray(body)
    forged[at % len(body)] ^= change
    if decode_token(bytes(forged)) is None:
        return
    with pytest.raises(Unauthenticated, match="not as it was issued"):
        shake(ClientHandshake(Credential(token=format_token(bytes(forged), secret))), server(honoured(SALT)))


def test_rights_cannot_be_added_to_a_token() -> None:
    body, secret = parse_token(make(rights=1))
    more = encode_token(msgspec.structs.replace(msgspec.msgpack.decode(body, type=Token), rights=7))
    with pytest.raises(Unauthenticated):
        shake(ClientHandshake(Credential(token=format_token(more, secret))), server(honoured(SALT)))
    assert Token(1, "a", 15, 0, b"", b"").principal().rights == Right.READ | Right.WRITE | Right.ADMIN


def test_a_proof_is_good_for_one_connection_only() -> None:
    client, first = ClientHandshake(Credential(token=make())), server(honoured(SALT))
    hello = client.begin()
    (shown,) = client.receive(first.receive(hello)[0])
    assert first.receive(shown)
    second = server(honoured(SALT))
    second.receive(hello)
    with pytest.raises(Unauthenticated):
        second.receive(shown)


def test_the_secret_of_a_token_is_not_the_clusters() -> None:
    _, secret = parse_token(make())
    with pytest.raises(Unauthenticated):
        shake(ClientHandshake(Credential(secret)), server(honoured(SALT)))


def test_a_server_that_cannot_know_the_token_is_not_believed() -> None:
    client = ClientHandshake(Credential(token=make()))
    hello = client.begin()
    client.receive(server(honoured(SALT)).receive(hello)[0])
    for proved in (b"", bytes(32)):
        with pytest.raises(Unauthenticated, match="server"):
            client.receive(encode(Welcome(CLUSTER, "master", "1", "ada", proved)))
    assert client.welcome is None


@given(st.binary(max_size=200), st.binary(max_size=64))
def test_arbitrary_tokens_raise_typed_errors_and_let_nobody_in(body: bytes, shown: bytes) -> None:
    other = server(honoured(SALT))
    other.receive(encode(ClientHello("monofs", 1, 1, "1", "token", bytes(32))))
    with pytest.raises(MonofsError):
        other.receive(encode(TokenProof(shown, body)))
    assert other.principal is None


def test_a_body_nobody_issues_lets_nobody_in_with_a_right_proof() -> None:
    """Who has the cluster secret can prove any bytes; they must still be a token."""
    for body in (b"", b"\x90", b"\xc1", encode_token(Token(3, "ada", 1, 0, CLUSTER, SALT)) + bytes(2000)):
        other = server(honoured(SALT))
        transcript = [encode(ClientHello("monofs", 1, 1, "1", "token", bytes(32)))]
        transcript += other.receive(transcript[0])
        key = derive_key(token_secret(SECRET, body))
        with pytest.raises(Unauthenticated):
            other.receive(encode(TokenProof(proof(key, "client", transcript), body)))


# ---- as text ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text", ["", "mft1", "mft1..", "mft2." + make()[5:], make()[:-1], make()[:-20], make() + "A", make() + "=", "ü"]
)
def test_what_is_no_token_is_refused_without_being_shown(text: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        Credential(token=text or " ")
    assert not text or text[5:] == "" or text not in str(caught.value)


def test_credentials_hide_their_token_and_pickle_by_file_name(tmp_path: Any) -> None:
    file = tmp_path / "ada.token"
    file.write_text(make() + "\n")
    credential = Credential.from_token_file(str(file))
    assert (credential.kind, repr(credential)) == ("token", "Credential(token)")
    stored = pickle.dumps(credential)
    assert credential.secret is not None
    assert credential.secret not in stored
    assert pickle.loads(stored).secret == credential.secret
    carried = pickle.loads(pickle.dumps(Credential(token=make())))
    assert (carried.kind, carried.secret, carried.token) == ("token", credential.secret, credential.token)
    with pytest.raises(InvalidArgument, match="cannot read"):
        Credential.from_token_file(str(tmp_path / "none"))
    file.write_bytes(b"\xff" * 10)
    with pytest.raises(InvalidArgument, match="no token"):
        Credential.from_token_file(str(file))


def test_what_is_shown_of_a_token_tells_it_from_others_and_lets_nobody_in() -> None:
    shown = [shown_token(parse_token(make(number=number))[0]) for number in range(1, 300)]
    assert len(set(shown)) == len(shown)
    assert make().startswith(shown_token(parse_token(make())[0])[:-1])
    assert len(shown[0]) < 20


def test_rights_as_words() -> None:
    assert parse_rights("read") == Right.READ
    assert parse_rights("write") == Right.READ | Right.WRITE
    assert parse_rights(" Admin,read ") == Right.READ | Right.ADMIN
    assert format_rights(parse_rights("write,admin")) == "read,write,admin"
    for wrong in ("", "node", "read,", "all"):
        with pytest.raises(InvalidArgument):
            parse_rights(wrong)
    check_name("team-a.reports@2026")


def test_the_vector_of_the_format_document_holds() -> None:
    section = WIRE.read_text().partition("### Test vector of a token")[2]
    named = dict(re.findall(r"^(\w+) = (\S+)$", section, re.MULTILINE))
    vector = {name: bytes.fromhex(value) for name, value in named.items() if name != "text"}
    body = vector["body"]
    assert decode_token(body) == Token(3, "reports", 3, 1702592000, b"0123456789abcdef", SALT, 1000, [100])
    assert token_secret(vector["secret"], body) == vector["token_secret"]
    assert parse_token(named["text"]) == (body, vector["token_secret"])
    assert format_token(body, vector["token_secret"]) == named["text"]
    key = derive_key(vector["token_secret"])
    transcript = [vector["client_hello"], vector["server_hello"]]
    assert encode(TokenProof(proof(key, "client", transcript), body)) == vector["token_proof_body"]
    transcript.append(vector["token_proof_body"])
    welcome = msgspec.msgpack.decode(vector["welcome"], type=Welcome)
    assert welcome.proof == proof(key, "server", transcript)
    assert welcome.principal == "reports"


# ---- over real sockets ------------------------------------------------------------------------------------------------


def serve(house: House, **salts: bytes) -> str:
    """A door that asks everybody; it honours token 3."""
    house.loop.do(house.service.tokens.take, {3: SALT}, 9)
    return house.tcp(security=Security(secret=SECRET, authentication="required")).address


def ping(pool: Pool) -> api.Pong:
    return pool.call(Method.PING, api.Empty(), api.Pong)


def test_handlers_see_whom_the_token_names(house: House) -> None:
    address = serve(house)
    with Pool(address, Credential(token=make())) as pool:
        assert ping(pool).now_ns == len("ada")
        assert pool.server().principal == "ada"
    with Pool(address) as stranger, pytest.raises(Unauthenticated, match="token"):
        ping(stranger)


def test_a_method_asks_for_the_right_it_was_registered_with(house: House) -> None:
    house.service.register(Method.VERIFY, api.Empty, lambda _, __: api.Empty(), right=Right.WRITE)
    address = serve(house)
    with Pool(address, Credential(token=make(rights=1))) as reader:
        with pytest.raises(PermissionDenied, match="ada has no write right"):
            reader.call(Method.VERIFY, api.Empty(), api.Empty)
        ping(reader)
    with Pool(address, Credential(token=make(rights=3))) as writer:
        writer.call(Method.VERIFY, api.Empty(), api.Empty)


def test_a_removed_token_cuts_its_connections_and_no_others(house: House) -> None:
    address = serve(house)
    house.loop.do(house.service.tokens.take, {3: SALT, 4: SALT}, 9)
    with (
        Pool(address, Credential(token=make())) as gone,
        Pool(address, Credential(token=make(number=4, name="bob"))) as other,
        Pool(address, Credential(SECRET)) as node,
    ):
        for pool in (gone, other, node):
            ping(pool)
        pipeline = gone.pipeline()
        pipeline.send(Method.STAT, [msgspec.msgpack.encode(api.StatRequest("/hold"))], 30.0)
        house.arrived.get(timeout=30)
        house.loop.do(house.service.tokens.take, {4: SALT}, 9)
        with pytest.raises(Unauthenticated, match="ada was removed"):
            pipeline.receive(api.StatAnswer, 30.0)
        house.wait_until(lambda: house.closed == ["end", "close"])
        house.wait_until(lambda: house.service.connections == 2)
        for pool in (other, node):
            ping(pool)
        with pytest.raises(Unauthenticated, match="ada was removed"):
            ping(gone)
        pipeline.close()


def test_a_connection_ends_with_its_token(house: House) -> None:
    address = serve(house)
    now = [NOW_S]
    house.service.tokens.now_s = lambda: now[0]
    text = make(expires_s=int(NOW_S) + 1)
    with Pool(address, Credential(token=text)) as pool:
        pipeline = pool.pipeline()
        pipeline.send(Method.STAT, [msgspec.msgpack.encode(api.StatRequest("/hold"))], 30.0)
        house.arrived.get(timeout=30)
        now[0] += 1
        with pytest.raises(Unauthenticated, match="ada has expired"):
            pipeline.receive(api.StatAnswer, 30.0)
        with pytest.raises(Unauthenticated, match="expired"):
            ping(pool)
        pipeline.close()
    house.wait_until(lambda: house.service.connections == 0)
    assert house.service.tokens._admitted == {}


def test_closed_connections_are_not_remembered(house: House) -> None:
    address = serve(house)
    with Pool(address, Credential(token=make())) as pool:
        ping(pool)
        assert house.loop.do(lambda: len(house.service.tokens._admitted[3][1])) == 1
    house.wait_until(lambda: not house.service.tokens._admitted)


def test_a_pipeline_of_a_closed_pool_is_lost_not_refused(house: House) -> None:
    """The same client as above, but for the reason: a node that stops says nothing of tokens."""
    address = serve(house)
    with Pool(address, Credential(token=make())) as pool:
        pipeline = pool.pipeline()
        pipeline.send(Method.STAT, [msgspec.msgpack.encode(api.StatRequest("/hold"))], 30.0)
        house.arrived.get(timeout=30)
        house.stop()
        with pytest.raises(ConnectionLost):
            pipeline.receive(api.StatAnswer, 30.0)
        pipeline.close()
        house.listeners.clear()
