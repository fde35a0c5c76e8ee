"""TLS on our own links: who is believed, what the wrong side is told, bounds, certificates that change, what no byte may go around."""

from __future__ import annotations

import datetime as dt
import os
import pickle
import select
import shutil
import socket
import ssl
import threading
from collections.abc import Callable
from contextlib import contextmanager
from typing import Any

import msgspec
import pytest
from rpc_world import SECRET, House, Loop, pattern

from monofs.model.errors import (
    ConfigError,
    ConnectionLost,
    DeadlineExceeded,
    InvalidArgument,
    ProtocolError,
    Unauthenticated,
    Unreachable,
)
from monofs.rpc import api
from monofs.rpc.api import Method
from monofs.rpc.client import Client
from monofs.rpc.frames import Kind, Splitter, decode_error, pack
from monofs.rpc.handshake import Credential
from monofs.rpc.security import Security, check_security
from monofs.rpc.server import Limits
from monofs.rpc.sync import Pool
from monofs.rpc.tls import ClientTls, ServerTls
from monofs.testing.certificates import Authority


def ping(pool: Pool) -> api.Pong:
    return pool.call(Method.PING, api.Empty(), api.Pong)


def by_reactor(loop: Loop, address: str, tls: ClientTls | None) -> api.Pong:
    """The same question by the clients of nodes."""
    client = Client(loop.reactor, address, tls=tls)
    try:
        pong: api.Pong = loop.do(client.call, Method.PING, api.Empty(), api.Pong, 20.0)
        return pong
    finally:
        loop.do(client.close)


@pytest.fixture(params=["blocking", "reactor"])
def ask(request: Any, loop: Loop) -> Callable[[str, ClientTls | None], api.Pong]:
    """Asks an address once, each way a client can."""

    def blocking(address: str, tls: ClientTls | None) -> api.Pong:
        with Pool(address, tls=tls) as pool:
            return ping(pool)

    return blocking if request.param == "blocking" else lambda address, tls: by_reactor(loop, address, tls)


Ask = Callable[[str, ClientTls | None], api.Pong]


# ---- who is believed --------------------------------------------------------------------------------------------------


def test_a_name_the_certificate_is_for_is_believed(
    ask: Ask, house: House, server_tls: ServerTls, client_tls: ClientTls
) -> None:
    listener = house.tcp(security=Security(tls=server_tls))
    assert ask(listener.address, client_tls).role == "worker"
    assert ask(listener.address.replace("127.0.0.1", "localhost"), client_tls).role == "worker"


@pytest.mark.parametrize("flaw", ["other-authority", "other-name", "expired", "itself"])
def test_certificates_that_are_not_believed(
    ask: Ask, house: House, tmp_path: Any, client_tls: ClientTls, authority: Authority, flaw: str
) -> None:
    if flaw == "other-authority":
        files = Authority(str(tmp_path), "other").issue("door", "127.0.0.1")
    elif flaw == "other-name":
        files = authority.issue("elsewhere", "127.0.0.2", "example.org")
    elif flaw == "expired":
        files = authority.issue("late", "127.0.0.1", life=dt.timedelta(minutes=-1))
    else:
        alone = Authority(str(tmp_path), "127.0.0.1")
        files = alone.issue("door", "127.0.0.1")
    listener = house.tcp(security=Security(tls=ServerTls(files.certificate, files.key)))
    with pytest.raises(Unauthenticated, match=r"certificate of 127.0.0.1 is not accepted"):
        ask(listener.address, client_tls)
    house.wait_until(lambda: house.service.connections == 0)


def test_tls_is_1_3_and_nothing_older(house: House, server_tls: ServerTls, authority: Authority) -> None:
    host, _, port = house.tcp(security=Security(tls=server_tls)).address.rpartition(":")
    context = ssl.create_default_context(cafile=authority.ca)
    with (
        socket.create_connection((host, int(port)), 10) as plain,
        context.wrap_socket(plain, server_hostname=host) as sock,
    ):
        assert sock.version() == "TLSv1.3"
    context = ssl.create_default_context(cafile=authority.ca)
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    with socket.create_connection((host, int(port)), 10) as plain, pytest.raises(ssl.SSLError):
        context.wrap_socket(plain, server_hostname=host)
    house.wait_until(lambda: house.service.connections == 0)


# ---- the wrong side is told, at once ----------------------------------------------------------------------------------


def test_who_speaks_in_clear_at_a_tls_door_is_told_so(ask: Ask, house: House, server_tls: ServerTls) -> None:
    listener = house.tcp(security=Security(tls=server_tls))
    with pytest.raises(Unauthenticated, match=r"speaks TLS only.*--tls-ca"):
        ask(listener.address, None)
    house.wait_until(lambda: house.service.connections == 0)


def test_who_speaks_tls_at_a_door_in_clear_is_told_so_and_says_nothing_in_clear(
    ask: Ask, house: House, client_tls: ClientTls
) -> None:
    listener = house.tcp()
    with pytest.raises(Unauthenticated, match=r"does not speak TLS.*security\.tls_certificate"):
        ask(listener.address, client_tls)
    house.wait_until(lambda: house.service.connections == 0)


def test_a_client_under_tls_never_says_its_first_word_in_clear(client_tls: ClientTls) -> None:
    with socket.create_server(("127.0.0.1", 0)) as door:
        said: list[bytes] = []

        def listen() -> None:
            peer, _ = door.accept()
            with peer:
                said.append(peer.recv(1 << 16))

        thread = threading.Thread(target=listen)
        thread.start()
        with Pool(f"127.0.0.1:{door.getsockname()[1]}", tls=client_tls) as pool, pytest.raises(Unreachable):
            ping(pool)
        thread.join(10)
    assert said[0][:3] == b"\x16\x03\x01"
    assert b"monofs" not in said[0]


def test_a_server_that_answers_nothing_costs_the_time_allowed(client_tls: ClientTls) -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as door,
        Pool(f"127.0.0.1:{door.getsockname()[1]}", tls=client_tls) as pool,
        pytest.raises((Unreachable, DeadlineExceeded)),
    ):
        pool.call(Method.PING, api.Empty(), api.Pong, 0.3)


@pytest.mark.parametrize(
    "said",
    [
        b"GET / HTTP/1.1\r\n\r\n",
        b"\x16\x03\x01\xff\xff" + bytes(400),
        b"\x15\x03\x03\x00\x02\x02\x28",
        os.urandom(3000),
    ],
    ids=["http", "long-record", "alert", "noise"],
)
def test_what_is_no_tls_ends_its_connection_and_no_other(
    house: House, server_tls: ServerTls, client_tls: ClientTls, said: bytes
) -> None:
    listener = house.tcp(security=Security(tls=server_tls))
    host, _, port = listener.address.rpartition(":")
    with Pool(listener.address, tls=client_tls) as pool:
        ping(pool)
        with socket.create_connection((host, int(port)), 10) as peer:
            peer.sendall(said)
            peer.shutdown(socket.SHUT_WR)
            while peer.recv(1 << 16):
                pass
        ping(pool)
    house.wait_until(lambda: house.service.connections == 0)


def test_silence_in_the_tls_handshake_ends_at_its_time_limit(house: House, server_tls: ServerTls) -> None:
    listener = house.tcp(security=Security(tls=server_tls), limits=Limits(handshake_s=0.1))
    host, _, port = listener.address.rpartition(":")
    with socket.create_connection((host, int(port)), 10) as peer:
        peer.sendall(b"\x16\x03\x01\x00\x50")
        while peer.recv(1 << 16):
            pass
    house.wait_until(lambda: house.service.connections == 0)


def test_a_damaged_record_ends_the_connection(house: House, server_tls: ServerTls, client_tls: ClientTls) -> None:
    """What is not encrypted by the peer itself never reaches the frames."""
    listener = house.tcp(security=Security(tls=server_tls))
    with Pool(listener.address, tls=client_tls) as pool:
        ping(pool)
        (talk,) = pool.conversations._open
        talk._sock._sock.sendall(b"\x17\x03\x03\x00\x20" + bytes(32))
        house.wait_until(lambda: not listener.connections)
        assert ping(pool).role == "worker"


def test_what_a_stranger_says_in_the_middle_breaks_the_conversation_for_good(
    house: House, server_tls: ServerTls, client_tls: ClientTls
) -> None:
    """At the client: the bytes of nobody else are taken for an answer, and the connection is not used again."""
    listener = house.tcp(security=Security(tls=server_tls))
    with tapped(listener.address) as tap, Pool(tap.address, tls=client_tls) as pool:
        pipeline = pool.pipeline()
        pipeline.send(Method.STAT, [msgspec.msgpack.encode(api.StatRequest("/hold"))], 30.0)
        call = house.arrived.get(timeout=30)
        tap._outer.sendall(b"\x17\x03\x03\x00\x20" + bytes(32))
        with pytest.raises(ConnectionLost, match="TLS"):
            pipeline.receive(api.StatAnswer, 30.0)
        pipeline.close()
        assert pool.conversations._open == set()
        house.wait_until(lambda: call.closed)


def test_a_node_is_not_fooled_in_the_middle_either(
    loop: Loop, house: House, server_tls: ServerTls, client_tls: ClientTls
) -> None:
    listener = house.tcp(security=Security(tls=server_tls))
    with tapped(listener.address) as tap:
        client = Client(loop.reactor, tap.address, tls=client_tls)
        asked: list[Any] = []
        loop.do(lambda: asked.append(client.call(Method.STAT, api.StatRequest("/hold"), api.StatAnswer, 30.0)) or None)
        house.arrived.get(timeout=30)
        tap._outer.sendall(b"\x17\x03\x03\x00\x20" + bytes(32))
        with pytest.raises(ConnectionLost, match="TLS"):
            loop.do(lambda: asked[0])
        loop.do(client.close)


# ---- every byte goes through it ---------------------------------------------------------------------------------------


class Tap:
    """A relay that keeps what both sides said."""

    def __init__(self, address: str) -> None:
        host, _, port = address.rpartition(":")
        self.said = bytearray()
        self._door = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._door.getsockname()[1]}"
        self._inner = socket.create_connection((host, int(port)), 10)
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    def _accept(self) -> None:
        self._outer, _ = self._door.accept()
        self._threads += [
            threading.Thread(target=self._relay, args=pair, daemon=True)
            for pair in ((self._outer, self._inner), (self._inner, self._outer))
        ]
        for thread in self._threads[1:]:
            thread.start()

    def _relay(self, source: socket.socket, target: socket.socket) -> None:
        try:
            while data := source.recv(1 << 16):
                self.said += data
                target.sendall(data)
            target.shutdown(socket.SHUT_WR)
        except OSError:
            pass

    def close(self) -> None:
        for thread in self._threads:
            thread.join(10)
        for sock in (self._door, self._inner, self._outer):
            sock.close()


@contextmanager
def tapped(address: str) -> Any:
    tap = Tap(address)
    try:
        yield tap
    finally:
        tap.close()


@pytest.mark.parametrize("kind", ["data:100", "data:3000000", "file"])
def test_streams_and_files_arrive_whole_and_encrypted(
    house: House, server_tls: ServerTls, client_tls: ClientTls, tmp_path: Any, kind: str
) -> None:
    size = 9 << 20 if kind != "data:100" else 20_000
    if kind == "file":
        (tmp_path / "bytes").write_bytes(pattern(0, size))
        kind = f"file:{tmp_path}/bytes"
    listener = house.tcp(security=Security(tls=server_tls))
    with tapped(listener.address) as tap, Pool(tap.address, tls=client_tls) as pool:
        buffer = bytearray(size)
        assert pool.read_into(Method.READ, api.ReadRequest(kind.encode(), 0, size), buffer) == size
        assert buffer == pattern(0, size)
        pool.close()
    assert len(tap.said) > size
    assert pattern(0, 64) not in tap.said
    assert b"monofs" not in tap.said


@pytest.mark.parametrize("capability", ["data:1000000", "file"])
def test_a_slow_reader_costs_a_bounded_queue_under_tls_too(
    house: House, server_tls: ServerTls, client_tls: ClientTls, tmp_path: Any, capability: str
) -> None:
    listener = house.tcp(security=Security(tls=server_tls))
    if capability == "file":
        with open(tmp_path / "big", "wb") as file:
            file.truncate(1 << 30)
        capability = f"file:{tmp_path}/big"
    with Pool(listener.address, tls=client_tls) as slow, Pool(listener.address, tls=client_tls) as other:
        pipeline = slow.pipeline()
        request = msgspec.msgpack.encode(api.ReadRequest(capability.encode(), 0, 1 << 30))
        pipeline.send(Method.READ, [request], 60.0)
        ping(other)
        house.wait_until(lambda: any(each.queued_bytes for each in listener.connections))
        connection = max(listener.connections, key=lambda each: each.queued_bytes)
        for _ in range(100):
            ping(other)
            assert connection.queued_bytes < 8 << 20
        assert house.loop.do(lambda: connection.memory_bytes == connection.queued_bytes)
        pipeline.close()
    house.wait_until(lambda: house.service.connections == 0)
    assert house.service.queued_bytes == 0


def test_a_proof_and_a_token_work_inside(house: House, server_tls: ServerTls, client_tls: ClientTls) -> None:
    listener = house.tcp(security=Security(secret=SECRET, authentication="required", tls=server_tls))
    with Pool(listener.address, Credential(SECRET), tls=client_tls) as pool:
        assert pool.server().principal == "node"
    with Pool(listener.address, tls=client_tls) as stranger, pytest.raises(Unauthenticated, match="none was shown"):
        ping(stranger)


def test_after_the_handshake_nothing_waits_that_a_race_of_two_servers_would_take_for_an_answer(
    house: House, server_tls: ServerTls, client_tls: ClientTls
) -> None:
    """The tickets for later sessions come before the first answer, so they are read with it."""
    listener = house.tcp(security=Security(tls=server_tls))
    with Pool(listener.address, tls=client_tls) as pool:
        talk = pool.borrow(10.0)
        ping(pool)  # on another connection, begun later: what was under way to this one has come
        poll = select.poll()
        poll.register(talk.fileno(), select.POLLIN)
        assert poll.poll(0) == []
        pool.conversations.give_back(talk)


def test_a_door_that_stops_says_goodbye(house: House, server_tls: ServerTls, authority: Authority) -> None:
    """So that nobody can cut what was said short without being noticed."""
    listener = house.tcp(security=Security(tls=server_tls))
    host, _, port = listener.address.rpartition(":")
    context = ssl.create_default_context(cafile=authority.ca)
    with (
        socket.create_connection((host, int(port)), 10) as plain,
        context.wrap_socket(plain, server_hostname=host, suppress_ragged_eofs=False) as sock,
    ):
        sock.sendall(pack(Kind.HELLO, 0, 0, b"\x90"))
        splitter, frames = Splitter(1 << 20), []
        while data := sock.recv(1 << 16):
            frames += splitter.feed(data)
    assert [frame.kind for frame in frames] == [Kind.ERROR]
    assert isinstance(decode_error(frames[0].body), ProtocolError)


def test_unix_sockets_stay_as_they_are(house: House, server_tls: ServerTls, client_tls: ClientTls) -> None:
    listener = house.unix(security=Security(tls=server_tls))
    with Pool(listener.address, tls=client_tls) as pool:
        answer, fds = pool.call_with_descriptors(Method.DESCRIPTOR, api.DescriptorRequest(b"", 1), api.DescriptorAnswer)
        assert os.pread(fds[0], 20, 0) == b"file 0"
        for fd in fds:
            os.close(fd)
        assert answer.present == 1


def test_a_pool_and_its_tls_pickle_as_names(house: House, server_tls: ServerTls, client_tls: ClientTls) -> None:
    with Pool(house.tcp(security=Security(tls=server_tls)).address, tls=client_tls) as pool:
        ping(pool)
        with pickle.loads(pickle.dumps(pool)) as copy:
            assert ping(copy).role == "worker"
    assert pickle.loads(pickle.dumps(client_tls)) == client_tls


# ---- files ------------------------------------------------------------------------------------------------------------


def peer_certificate(address: str, ca: str) -> bytes:
    host, _, port = address.rpartition(":")
    context = ssl.create_default_context(cafile=ca)
    with (
        socket.create_connection((host, int(port)), 10) as plain,
        context.wrap_socket(plain, server_hostname=host) as sock,
    ):
        found = sock.getpeercert(binary_form=True)
        assert found is not None
        return found


def test_the_next_connection_uses_the_newest_files_and_bad_ones_change_nothing(house: House, tmp_path: Any) -> None:
    authority = Authority(str(tmp_path))
    files = authority.issue("door", "127.0.0.1")
    listener = house.tcp(security=Security(tls=ServerTls(files.certificate, files.key)))
    with Pool(listener.address, tls=ClientTls(authority.ca)) as pool:
        first = peer_certificate(listener.address, authority.ca)
        assert peer_certificate(listener.address, authority.ca) == first
        authority.issue("door", "127.0.0.1")
        second = peer_certificate(listener.address, authority.ca)
        assert second != first
        other = authority.issue("other", "127.0.0.1")
        shutil.copy(other.certificate, files.certificate)
        assert peer_certificate(listener.address, authority.ca) == second, "its key does not fit: half a change"
        os.unlink(files.certificate)
        assert peer_certificate(listener.address, authority.ca) == second
        shutil.copy(other.certificate, files.certificate)
        shutil.copy(other.key, files.key)
        third = peer_certificate(listener.address, authority.ca)
        assert third not in (first, second)
        ping(pool)


def test_files_that_cannot_be_used_say_which_and_why(tmp_path: Any, authority: Authority) -> None:
    files = authority.issue("one", "127.0.0.1")
    other = authority.issue("two", "127.0.0.1")
    nothing = tmp_path / "nothing.pem"
    nothing.write_text("nothing")
    encrypted = tmp_path / "encrypted.key"
    encrypted.write_bytes(_encrypted(files.key))
    for each in (nothing, encrypted):
        each.chmod(0o600)
    for certificate, key, why in (
        (str(tmp_path / "none"), files.key, "No such file"),
        (files.certificate, str(nothing), "cannot be used"),
        (files.certificate, other.key, "MISMATCH"),
        (files.certificate, str(encrypted), "without a password"),
    ):
        with pytest.raises(ConfigError, match=why) as caught:
            check_security("127.0.0.1", Security(tls=ServerTls(certificate, key)))
        assert certificate in str(caught.value)
    os.chmod(other.key, 0o644)
    with pytest.raises(ConfigError, match="everybody may read the key"):
        ServerTls(other.certificate, other.key).context()
    for ca in (str(tmp_path / "none"), str(nothing)):
        with pytest.raises(InvalidArgument, match="cannot be used"):
            ClientTls(ca).context()


def _encrypted(key: str) -> bytes:
    from cryptography.hazmat.primitives import serialization

    with open(key, "rb") as file:
        loaded = serialization.load_pem_private_key(file.read(), None)
    return loaded.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.BestAvailableEncryption(b"password"),
    )


def test_tls_alone_lets_nobody_open_a_door_to_everyone(server_tls: ServerTls) -> None:
    with pytest.raises(ConfigError, match="open to everyone"):
        check_security("0.0.0.0", Security(tls=server_tls))
    check_security("0.0.0.0", Security(secret=SECRET, tls=server_tls))


def test_a_request_over_a_slow_line_ends_in_time(house: House, server_tls: ServerTls, client_tls: ClientTls) -> None:
    """The kernel's time limits hold below TLS: a server that reads nothing more costs the time allowed, not more calls."""
    listener = house.tcp(security=Security(tls=server_tls), limits=Limits(in_flight=1))
    with Pool(listener.address, tls=client_tls) as pool:
        pipeline = pool.pipeline()
        pipeline.send(Method.STAT, [msgspec.msgpack.encode(api.StatRequest("/hold"))], 30.0)
        house.arrived.get(timeout=30)
        with pytest.raises(DeadlineExceeded):
            for _ in range(1000):
                pipeline.send(Method.STAT, [msgspec.msgpack.encode(api.StatRequest("/" + "x" * 500_000))], 0.3)
        pipeline.close()


def test_hellos_are_refused_as_in_clear(house: House, server_tls: ServerTls, client_tls: ClientTls) -> None:
    listener = house.tcp(security=Security(secret=SECRET, tls=server_tls))
    with Pool(listener.address, Credential(b"x" * 32), tls=client_tls) as pool, pytest.raises(Unauthenticated):
        ping(pool)
