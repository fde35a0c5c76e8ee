"""The reconnecting client and the direct channel answer alike."""

from __future__ import annotations

import os
import socket
from typing import Any

import pytest
from rpc_world import SECRET, House, Loop, pattern
from twisted.internet.defer import CancelledError, Deferred, gatherResults

from monofs.model.attributes import Attributes
from monofs.model.errors import (
    Closed,
    ConnectionLost,
    DeadlineExceeded,
    Internal,
    InvalidArgument,
    NotFound,
    NotLeader,
    Overloaded,
    ProtocolError,
    Unauthenticated,
    UnknownMethod,
    Unreachable,
)
from monofs.rpc import api
from monofs.rpc.api import Method
from monofs.rpc.client import Client
from monofs.rpc.direct import DirectClient
from monofs.rpc.handshake import Credential
from monofs.rpc.server import Security
from monofs.rpc.service import Call, Service
from monofs.rpc.tls import ClientTls, ServerTls
from monofs.testing.ports import free_port


@pytest.fixture(params=["tcp", "unix", "tls", "direct"])
def caller(request: Any, loop: Loop, house: House, server_tls: ServerTls, client_tls: ClientTls) -> Any:
    """A client of each kind to the same service."""
    if request.param == "direct":
        client: Any = DirectClient(house.service)
    elif request.param == "tls":
        client = Client(loop.reactor, house.tcp(security=Security(tls=server_tls)).address, tls=client_tls)
    else:
        door = house.tcp() if request.param == "tcp" else house.unix()
        client = Client(loop.reactor, door.address)
    yield client
    loop.do(client.close)


def stat(loop: Loop, client: Any, path: str, timeout_s: float = 10.0) -> Any:
    return loop.do(client.call, Method.STAT, api.StatRequest(path), api.StatAnswer, timeout_s)


@pytest.mark.parametrize("path", ["/plain", "/later", "/coroutine"])
def test_answers_come_however_the_handler_gives_them(loop: Loop, caller: Any, path: str) -> None:
    assert api.msgspec.msgpack.decode(stat(loop, caller, path).inode) == path


WRITES = [
    api.WriteRequest(b"c", 0, memoryview(b"")),
    api.WriteRequest(b"c" * 300, 1 << 40, memoryview(b"x" * (32 << 10)), True, Attributes(tags={"a": "b"}), "etag"),
    api.WriteRequest(b"c" * 60, 7, memoryview(os.urandom(1 << 20)), False, None, "e"),
]


@pytest.mark.parametrize("request_", WRITES, ids=lambda each: str(len(each.data)))
def test_a_write_that_is_not_copied_is_read_like_another(request_: api.WriteRequest) -> None:
    read = api.msgspec.msgpack.decode(b"".join(request_.buffers()), type=api.WriteRequest)
    assert read == request_


def test_what_is_sent_at_once_arrives_in_its_order_however_large(loop: Loop, house: House, caller: Any) -> None:
    sent = [
        api.WriteRequest(b"c", number, memoryview(os.urandom(size)))
        for number, size in enumerate([1 << 20, 5, 1 << 20, 1 << 20, 100_000, 0, 1 << 20])
    ]
    answers = loop.do(lambda: gatherResults([caller.call(Method.WRITE, each, api.WriteAnswer) for each in sent]))
    assert [each.received for each in answers] == [each.offset + len(each.data) for each in sent]
    assert house.written == sent


@pytest.mark.parametrize("path", ["/missing", "/later-missing"])
def test_typed_errors_come_with_their_details(loop: Loop, caller: Any, path: str) -> None:
    with pytest.raises(NotFound) as caught:
        stat(loop, caller, path)
    assert caught.value.detail == {"path": path}


def test_a_bug_in_a_handler_is_told_as_internal_without_its_text(loop: Loop, caller: Any) -> None:
    with pytest.raises(Internal, match="request id") as caught:
        stat(loop, caller, "/bug")
    assert "secret" not in str(caught.value)
    assert stat(loop, caller, "/plain")


def test_a_broken_invariant_reaches_the_node(loop: Loop, house: House, caller: Any) -> None:
    with pytest.raises(Internal):
        stat(loop, caller, "/broken")
    assert [str(error) for error in house.fatal] == ["broken"]


def test_an_unknown_method_is_an_error_of_its_own(loop: Loop, caller: Any) -> None:
    with pytest.raises(UnknownMethod):
        loop.do(caller.call, Method.FSCK, api.Empty(), api.Empty)
    assert stat(loop, caller, "/plain")


def test_a_request_of_the_wrong_type_is_refused(loop: Loop, caller: Any) -> None:
    with pytest.raises(InvalidArgument, match="STAT"):
        loop.do(caller.call, Method.STAT, api.Empty(), api.StatAnswer)


def test_an_answer_of_the_wrong_type_is_a_protocol_error(loop: Loop, caller: Any) -> None:
    with pytest.raises(ProtocolError):
        loop.do(caller.call, Method.PING, api.Empty(), api.ClusterAnswer)


def test_a_deadline_frees_the_call_at_the_server(loop: Loop, house: House, caller: Any) -> None:
    with pytest.raises(DeadlineExceeded):
        stat(loop, caller, "/hold", timeout_s=0.05)
    assert house.closed == ["end"]
    assert house.held[0].closed
    house.loop.do(house.held[0].answer, api.Empty())
    assert stat(loop, caller, "/plain")


def test_cancelling_frees_the_call_at_the_server(loop: Loop, house: House, caller: Any) -> None:
    def ask_and_cancel() -> Any:
        asked = caller.call(Method.STAT, api.StatRequest("/hold"), api.StatAnswer, 10.0)
        loop.reactor.callLater(0.05, asked.cancel)
        return asked

    with pytest.raises(CancelledError):
        loop.do(ask_and_cancel)
    assert stat(loop, caller, "/plain")
    assert house.closed == ["end"]


def test_closing_gives_up_calls_and_tells_lenders(loop: Loop, house: House, caller: Any) -> None:
    asked: list[Any] = []
    loop.do(lambda: asked.append(caller.call(Method.STAT, api.StatRequest("/hold"), api.StatAnswer, 10.0)))
    call = house.arrived.get(timeout=10)
    closed = []
    loop.do(caller.close)
    with pytest.raises((Closed, ConnectionLost)):
        loop.do(lambda: asked[0])
    house.wait_until(lambda: call.closed)
    house.wait_until(lambda: house.closed == ["end", "close"])
    loop.do(call.connection.on_close, lambda: closed.append(True))
    assert closed == [True]
    with pytest.raises(Closed):
        stat(loop, caller, "/plain")


def test_more_calls_than_may_wait_are_overloaded(loop: Loop, house: House, caller: Any) -> None:
    def ask_many() -> Any:
        asked = [caller.call(Method.STAT, api.StatRequest("/hold"), api.StatAnswer, 10.0) for _ in range(1025)]
        for one in asked[:-1]:
            one.addErrback(lambda failure: None)
        return asked[-1]

    with pytest.raises(Overloaded):
        loop.do(ask_many)


def test_the_principal_is_what_was_proved(loop: Loop, house: House) -> None:
    door = house.tcp(security=Security(secret=SECRET))
    for credential, name in ((None, "anonymous"), (Credential(SECRET), "node")):
        client = Client(loop.reactor, door.address, credential)
        assert loop.do(client.call, Method.PING, api.Empty(), api.Pong).now_ns == len(name)
        assert client.welcome is not None
        assert client.welcome.principal == name
        loop.do(client.close)


def test_a_wrong_secret_is_told_at_once(loop: Loop, house: House) -> None:
    door = house.tcp(security=Security(secret=SECRET))
    client = Client(loop.reactor, door.address, Credential(b"another secret, long enough"))
    with pytest.raises(Unauthenticated):
        stat(loop, client, "/plain")
    loop.do(client.close)


def test_a_lost_connection_fails_what_was_sent_and_the_next_call_reconnects(loop: Loop, house: House) -> None:
    door = house.tcp()
    opened: list[Any] = []
    client = Client(loop.reactor, door.address, on_open=opened.append)
    asked: list[Any] = []
    loop.do(lambda: asked.append(client.call(Method.STAT, api.StatRequest("/hold"), api.StatAnswer, 10.0)))
    call = house.arrived.get(timeout=10)
    loop.do(call.connection.abort, None)
    with pytest.raises(ConnectionLost):
        loop.do(lambda: asked[0])
    assert stat(loop, client, "/plain")
    assert len(opened) == 2
    loop.do(client.close)


def test_a_server_that_comes_and_goes_is_warned_of_once(
    loop: Loop, house: House, caplog: pytest.LogCaptureFixture
) -> None:
    door = house.tcp()
    client = Client(loop.reactor, door.address)
    for _ in range(3):
        stat(loop, client, "/plain")
        loop.do(client._connection.abort, None)  # what the death of the server looks like
    loop.do(client.close)
    assert [record.levelname for record in caplog.records if record.message == "not connected"].count("WARNING") == 1


def test_calling_again_at_once_after_a_loss_makes_one_connection(loop: Loop, house: House) -> None:
    door = house.tcp()
    client = Client(loop.reactor, door.address)
    again: list[Any] = []

    def ask_twice() -> None:
        for path in ("/hold", "/hold"):
            asked = client.call(Method.STAT, api.StatRequest(path), api.StatAnswer)
            asked.addErrback(
                lambda failure: again.append(client.call(Method.STAT, api.StatRequest("/plain"), api.StatAnswer))
            )

    loop.do(ask_twice)
    call = house.arrived.get(timeout=10)
    loop.do(call.connection.abort, None)
    house.wait_until(lambda: len(again) == 2)
    for asked in again:
        assert loop.do(lambda asked=asked: asked)
    assert len(door.connections) == 1
    loop.do(client.close)
    house.wait_until(lambda: not door.connections)


def test_calls_wait_for_a_server_that_comes_later(loop: Loop, house: House) -> None:
    path = os.path.join(house.directory, "door-0.sock")
    client = Client(loop.reactor, path)
    asked: list[Any] = []
    loop.do(lambda: asked.append(client.call(Method.PING, api.Empty(), api.Pong, 10.0)))
    assert house.unix().address == path
    assert loop.do(lambda: asked[0]).role == "worker"
    loop.do(client.close)


def test_a_deadline_while_nobody_answers_says_why(loop: Loop, house: House) -> None:
    client = Client(loop.reactor, os.path.join(house.directory, "nobody.sock"))
    with pytest.raises(DeadlineExceeded, match="No such file"):
        stat(loop, client, "/plain", timeout_s=0.2)
    loop.do(client.close)


def test_a_follower_that_names_no_leader_sends_the_client_to_the_next_address(loop: Loop, house: House) -> None:
    first, second = house.tcp(), house.tcp()
    client = Client(loop.reactor, [first.address, second.address])
    with pytest.raises(NotLeader):
        stat(loop, client, "/follower")
    assert stat(loop, client, "/plain")
    assert [len(first.connections), len(second.connections)] == [0, 1]
    loop.do(client.close)


def test_names_are_looked_up(loop: Loop, house: House) -> None:
    client = Client(loop.reactor, house.tcp().address.replace("127.0.0.1", "localhost"))
    assert stat(loop, client, "/plain")
    loop.do(client.close)


def test_every_address_of_a_name_is_tried(loop: Loop, house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    port = int(house.tcp().address.rpartition(":")[2])
    found = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (f"127.0.0.{last}", port)) for last in (2, 3, 1)]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found)  # the system's resolver, not ours
    client = Client(loop.reactor, f"a-name-with-three-addresses:{port}")
    assert stat(loop, client, "/plain")
    loop.do(client.close)


def test_a_name_nobody_knows_is_told(loop: Loop, monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*_: Any, **__: Any) -> Any:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    client = Client(loop.reactor, "no-such-host:1")
    with pytest.raises(DeadlineExceeded, match="not known"):
        stat(loop, client, "/plain", timeout_s=0.2)
    loop.do(client.close)


def test_a_server_that_says_nothing_is_left_and_the_next_is_asked(loop: Loop, house: House) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        client = Client(loop.reactor, [f"127.0.0.1:{silent.getsockname()[1]}", house.tcp().address])
        asked: list[Any] = []
        loop.do(lambda: asked.append(client.call(Method.PING, api.Empty(), api.Pong, 20.0)))
        silent.accept()[0].close()
        assert loop.do(lambda: asked[0]).role == "worker"
        loop.do(client.close)


def test_a_server_that_accepts_and_is_stopped_is_left_before_a_caller_loses_patience(loop: Loop, house: House) -> None:
    with socket.socket() as stopped:
        stopped.bind(("127.0.0.1", 0))
        stopped.listen()
        client = Client(loop.reactor, [f"127.0.0.1:{stopped.getsockname()[1]}", house.tcp().address])
        assert loop.do(client.call, Method.PING, api.Empty(), api.Pong, 8.0).role == "worker"
        loop.do(client.close)


def test_who_has_no_patience_hears_that_nobody_is_there(loop: Loop, house: House) -> None:
    client = Client(loop.reactor, f"127.0.0.1:{free_port()}", patience_s=0.2)
    for _ in range(2):
        with pytest.raises(Unreachable, match="refused"):
            loop.do(client.call, Method.PING, api.Empty(), api.Pong, 20.0)
    loop.do(client.close)


def test_streams_reach_direct_callers_through_a_callback(loop: Loop, house: House, tmp_path: Any) -> None:
    client = DirectClient(house.service)
    got: list[Any] = []
    loop.do(client.stream, Method.READ, api.ReadRequest(b"data:1000", 3, 5000), got.append, api.Empty)
    assert b"".join(got) == pattern(3, 5000)
    got.clear()
    loop.do(client.stream, Method.READ, api.ReadRequest(b"last:1000", 3, 5000), got.append, api.Empty)
    assert b"".join(got) == pattern(3, 5000)
    got.clear()
    (tmp_path / "file").write_bytes(pattern(0, 100_000))
    name = f"file:{tmp_path}/file".encode()
    loop.do(client.stream, Method.READ, api.ReadRequest(name, 3, 5000), got.append, api.Empty)
    assert b"".join(got) == pattern(3, 5000)
    got.clear()
    loop.do(client.stream, Method.LIST, api.ListRequest("/x", limit=3), got.append, api.Empty)
    assert [pong.now_ns for pong in got] == [0, 1, 2]


def test_a_plain_call_of_a_streaming_method_is_refused_clearly(loop: Loop, house: House, caller: Any) -> None:
    with pytest.raises((Exception), match=r"stream|kind"):
        loop.do(caller.call, Method.LIST, api.ListRequest("/x", limit=3), api.Empty)


def test_a_direct_asker_gets_at_once_what_is_known_at_once_and_the_rest_later(loop: Loop, house: House) -> None:
    client = DirectClient(house.service)

    def ask(path: str, answer_type: Any = api.StatAnswer) -> Any:
        return client.ask(Method.STAT, api.StatRequest(path), answer_type, 10.0)

    def plainly() -> Any:
        answer = ask("/plain")
        for wrong, error in (("/missing", NotFound), ("/plain", ProtocolError)):
            with pytest.raises(error):
                ask(wrong, api.StatAnswer if error is NotFound else api.Pong)
        return answer

    assert api.msgspec.msgpack.decode(loop.do(plainly).inode) == "/plain"
    for path in ("/later", "/coroutine"):
        assert api.msgspec.msgpack.decode(loop.do(ask, path).inode) == path
    with pytest.raises(NotFound):
        loop.do(ask, "/later-missing")
    assert loop.do(lambda: len(house.service.deadlines)) == 0
    loop.do(client.close)
    with pytest.raises(Closed):
        loop.do(ask, "/plain")


@pytest.mark.parametrize("way", ["call", "ask"])
def test_a_direct_channel_that_is_closed_while_its_call_is_handled_fails_it(loop: Loop, way: str) -> None:
    service = Service("worker", loop.reactor)
    client = DirectClient(service)

    def handle(_: api.StatRequest, __: Call) -> Deferred[Any]:
        client.close()
        return Deferred()

    service.register(Method.STAT, api.StatRequest, handle)
    with pytest.raises(ConnectionLost):
        loop.do(getattr(client, way), Method.STAT, api.StatRequest("/x"), api.StatAnswer, 10.0)
    assert loop.do(lambda: len(service.deadlines)) == 0
