"""The handshake: who may speak, and proof on both sides. The vector is docs/formats/wire.md's."""

from __future__ import annotations

import pickle
import re
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from monofs.model.errors import (
    ConfigError,
    InvalidArgument,
    InvariantBroken,
    MonofsError,
    ProtocolError,
    Unauthenticated,
    VersionMismatch,
)
from monofs.model.principal import ANONYMOUS, NODE, Principal, Right
from monofs.rpc.handshake import (
    Behalf,
    ClientHandshake,
    ClientHello,
    Credential,
    ServerHandshake,
    ServerHello,
    Welcome,
    derive_key,
    encode,
    encode_hello,
    proof,
)
from monofs.rpc.security import Security, check_security

SECRET = b"a cluster secret of enough bytes"
OTHER = b"another secret of enough bytes.."
WIRE = Path(__file__).parents[3] / "docs" / "formats" / "wire.md"


def server(secret: bytes | None = SECRET, *, anonymous: bool = False) -> ServerHandshake:
    return ServerHandshake(secret=secret, anonymous=anonymous, cluster=b"cluster", role="master")


def shake(client: ClientHandshake, other: ServerHandshake) -> None:
    """Carry bodies to and fro until both are content."""
    to_server = [client.begin()]
    while to_server:
        to_client = [body for message in to_server for body in other.receive(message)]
        to_server = [body for message in to_client for body in client.receive(message)]


def test_holders_of_the_secret_become_nodes_and_learn_who_answers() -> None:
    client, other = ClientHandshake(Credential(SECRET)), server()
    shake(client, other)
    assert other.principal == NODE
    assert client.welcome is not None
    assert (client.welcome.cluster, client.welcome.role, client.welcome.principal) == (b"cluster", "master", "node")


def test_a_node_connects_for_somebody_with_his_rights_and_none_of_its_own() -> None:
    ada = Principal("ada", 7, (8,), Right.READ)
    client, other = ClientHandshake(Credential(SECRET).for_principal(ada)), server()
    shake(client, other)
    assert other.principal == Principal("ada", 7, (8,), Right.READ, by="node")
    assert client.welcome is not None
    assert client.welcome.principal == "ada"
    with pytest.raises(InvariantBroken):
        pickle.dumps(Credential(SECRET).for_principal(ada))
    with pytest.raises(InvariantBroken):
        Credential().for_principal(ada)


@pytest.mark.parametrize(
    "wrong",
    [
        {"behalf": Behalf("ada", 7, [], 15)},
        {"behalf": Behalf("ada", 7, [], 0)},
        {"behalf": Behalf("node", 7, [], 1)},
        {"credential": "token"},
        {"credential": "anonymous"},
    ],
)
def test_nobody_but_a_node_connects_for_others_and_for_less_than_a_node(wrong: dict[str, Any]) -> None:
    hello = ClientHello("monofs", 1, 1, "x", "secret", bytes(32), Behalf("ada", 7, [], 1))
    with pytest.raises(ProtocolError):
        server(anonymous=True).receive(encode(msgspec.structs.replace(hello, **wrong)))


def test_a_node_refuses_a_server_that_would_take_it_for_itself() -> None:
    client = ClientHandshake(Credential(SECRET).for_principal(Principal("ada", rights=Right.READ)))
    hello, other = client.begin(), server()
    earlier = encode(msgspec.structs.replace(msgspec.msgpack.decode(hello, type=ClientHello), behalf=None))
    (answer,) = other.receive(earlier)
    (shown,) = client.receive(answer)
    with pytest.raises(Unauthenticated):  # what it was told is part of the proof
        other.receive(shown)
    client = ClientHandshake(Credential(SECRET).for_principal(Principal("ada", rights=Right.READ)))
    hello, blind = client.begin(), server()
    (answer,) = blind.receive(hello)
    blind._behalf = None  # as a release that reads the hello and knows nothing of the field
    (shown,) = client.receive(answer)
    (welcome,) = blind.receive(shown)
    with pytest.raises(VersionMismatch, match="upgrade"):
        client.receive(welcome)


def test_anonymous_callers_come_in_only_where_they_are_allowed() -> None:
    client, other = ClientHandshake(Credential()), server(anonymous=True)
    shake(client, other)
    assert other.principal == ANONYMOUS
    assert client.welcome is not None
    with pytest.raises(Unauthenticated, match="cluster secret"):
        shake(ClientHandshake(Credential()), server())


def test_a_wrong_secret_is_refused_without_a_word_about_it() -> None:
    other = server()
    with pytest.raises(Unauthenticated) as caught:
        shake(ClientHandshake(Credential(OTHER)), other)
    assert other.principal is None
    for secret in (SECRET, OTHER):
        assert secret.decode() not in str(caught.value)


def test_a_secret_is_not_compared_with_none() -> None:
    with pytest.raises(Unauthenticated, match="without"):
        shake(ClientHandshake(Credential(SECRET)), server(secret=None, anonymous=True))


def test_a_server_without_the_secret_cannot_welcome_a_client_that_holds_one() -> None:
    client = ClientHandshake(Credential(SECRET))
    client.begin()
    client.receive(encode(ServerHello("monofs", 1, bytes(32))))
    for proved in (b"", bytes(32)):
        with pytest.raises(Unauthenticated, match="server"):
            client.receive(encode(Welcome(b"cluster", "master", "1", "node", proved)))
    assert client.welcome is None


def test_a_proof_cannot_be_replayed_or_sent_back() -> None:
    client = ClientHandshake(Credential(SECRET))
    first = server()
    hello = first.receive(client.begin())
    (shown,) = client.receive(hello[0])
    assert first.receive(shown)
    second = server()
    second.receive(client._hello)
    with pytest.raises(Unauthenticated):
        second.receive(shown)
    reflected = ClientHandshake(Credential(SECRET))
    reflected.begin()
    (own,) = reflected.receive(encode(ServerHello("monofs", 1, bytes(32))))
    with pytest.raises(Unauthenticated):
        reflected.receive(encode(Welcome(b"", "master", "1", "node", msgspec.msgpack.decode(own)[0])))


def test_tampering_with_any_hello_breaks_the_proof() -> None:
    client, other = ClientHandshake(Credential(SECRET)), server()
    client.begin()
    changed = encode(ClientHello("monofs", 1, 1, "other", "secret", bytes(32)))
    (hello,) = other.receive(changed)
    with pytest.raises(Unauthenticated):
        other.receive(client.receive(hello)[0])


@pytest.mark.parametrize(("oldest", "newest"), [(2, 9), (0, 0)])
def test_no_common_version_names_both_sides(oldest: int, newest: int) -> None:
    with pytest.raises(VersionMismatch, match=rf"{oldest} to {newest} \(release 9.9\).*1 to 1"):
        server().receive(encode(ClientHello("monofs", oldest, newest, "9.9", "anonymous", bytes(32))))


def test_a_newer_client_that_still_speaks_our_version_is_served() -> None:
    other = server(anonymous=True)
    other.receive(encode(ClientHello("monofs", 1, 7, "9.9", "anonymous", bytes(32))))
    assert other.version == 1


def test_a_client_refuses_a_version_it_did_not_offer() -> None:
    client = ClientHandshake(Credential())
    client.begin()
    with pytest.raises(VersionMismatch, match="protocol 2"):
        client.receive(encode(ServerHello("monofs", 2, bytes(32))))


@pytest.mark.parametrize(
    "hello",
    [
        ClientHello("sofonom", 1, 1, "1", "anonymous", bytes(32)),
        ClientHello("monofs", 1, 1, "1", "anonymous", bytes(31)),
    ],
    ids=["magic", "nonce"],
)
def test_a_wrong_magic_or_nonce_is_a_protocol_error(hello: ClientHello) -> None:
    with pytest.raises(ProtocolError):
        server(anonymous=True).receive(encode(hello))


def test_an_unknown_kind_of_credential_is_refused() -> None:
    with pytest.raises(Unauthenticated, match="ticket"):
        server(anonymous=True).receive(encode(ClientHello("monofs", 1, 1, "1", "ticket", bytes(32))))


def test_a_second_handshake_is_refused() -> None:
    client, other = ClientHandshake(Credential()), server(anonymous=True)
    shake(client, other)
    with pytest.raises(ProtocolError):
        other.receive(client._hello)
    with pytest.raises(ProtocolError):
        client.receive(encode(Welcome(b"", "", "", "")))


@given(st.lists(st.binary(max_size=80), min_size=1, max_size=3))
def test_arbitrary_bytes_raise_typed_errors_and_let_nobody_in(bodies: list[bytes]) -> None:
    for machine in (server(anonymous=True), ClientHandshake(Credential(SECRET))):
        for body in bodies:
            try:
                machine.receive(body)
            except MonofsError:
                pass
        assert getattr(machine, "principal", None) is None
        assert getattr(machine, "welcome", None) is None


def test_credentials_hide_their_secret_and_pickle_by_file_name(tmp_path: Any) -> None:
    file = tmp_path / "cluster.secret"
    file.write_bytes(SECRET + b"\n")
    credential = Credential.from_file(str(file))
    assert credential.secret == SECRET
    assert SECRET.decode() not in repr(credential)
    stored = pickle.dumps(credential)
    assert SECRET not in stored
    assert pickle.loads(stored).secret == SECRET
    assert pickle.loads(pickle.dumps(Credential(SECRET))).secret == SECRET
    assert pickle.loads(pickle.dumps(Credential())).kind == "anonymous"


@pytest.mark.parametrize("content", [None, b"short", b"x" * 5000])
def test_unusable_secret_files_say_so(tmp_path: Any, content: bytes | None) -> None:
    file = tmp_path / "cluster.secret"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(InvalidArgument, match="secret"):
        Credential.from_file(str(file))


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.5", "example.org", ""])
def test_doors_beyond_loopback_need_a_secret_or_a_named_risk(host: str) -> None:
    if host:
        with pytest.raises(ConfigError, match="insecure"):
            check_security(host, Security())
    check_security(host, Security(secret=SECRET))
    check_security(host, Security(insecure=True))


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "::1", "localhost", "::ffff:127.0.0.1"])
def test_loopback_doors_open_without_a_secret_unless_it_is_required(host: str) -> None:
    check_security(host, Security())
    with pytest.raises(ConfigError, match="required"):
        check_security(host, Security(authentication="required"))


def test_who_may_be_anonymous() -> None:
    auto, required = Security(secret=SECRET), Security(secret=SECRET, authentication="required")
    assert auto.allows_anonymous(local=True)
    assert not auto.allows_anonymous(local=False)
    assert not required.allows_anonymous(local=True)
    assert Security(insecure=True).allows_anonymous(local=False)


def test_the_vector_of_the_format_document_holds() -> None:
    section = WIRE.read_text().partition("### Test vector of a token")[0]
    named = dict(re.findall(r"^(\w+) = ([0-9a-f]+)$", section, re.MULTILINE))
    vector = {name: bytes.fromhex(value) for name, value in named.items()}
    key = derive_key(vector["secret"])
    assert key == vector["key"]
    transcript = [vector["client_hello"], vector["server_hello"]]
    assert proof(key, "client", transcript) == vector["client_proof"]
    transcript.append(vector["client_proof_body"])
    assert proof(key, "server", transcript) == vector["server_proof"]
    assert encode_hello(msgspec.msgpack.decode(vector["client_hello"], type=ClientHello)) == vector["client_hello"]
    assert encode(msgspec.msgpack.decode(vector["server_hello"], type=ServerHello)) == vector["server_hello"]
    welcome = msgspec.msgpack.decode(vector["welcome"], type=Welcome)
    assert welcome.proof == vector["server_proof"]
