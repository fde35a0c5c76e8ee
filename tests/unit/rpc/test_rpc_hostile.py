"""Whatever a peer sends, a door answers with a typed error or silence, keeps its memory, and serves the next caller."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator

import pytest
from rpc_world import House, Loop, ping

from monofs.model.errors import (
    DeadlineExceeded,
    FrameTooLarge,
    InvalidArgument,
    MonofsError,
    Overloaded,
    ProtocolError,
    UnknownMethod,
    VersionMismatch,
)
from monofs.rpc import api
from monofs.rpc.api import Method
from monofs.rpc.frames import REQUEST_MAX_BYTES, Kind, decode_error, pack
from monofs.rpc.handshake import ClientHello, encode
from monofs.rpc.server import Limits
from monofs.rpc.sync import Pool
from monofs.testing.raw import Raw


@pytest.fixture
def door(house: House) -> Iterator[str]:
    """A door; after the test it must still serve."""
    listener = house.tcp()
    yield listener.address
    with Pool(listener.address) as pool:
        assert pool.call(Method.PING, api.Empty(), api.Pong).role == "worker"
    house.wait_until(lambda: not listener.connections)
    assert house.service.connections == 0
    assert house.service.held_bytes == 0


def last_error(peer: Raw) -> MonofsError:
    """The error after which the server has closed."""
    error = peer.error()
    with pytest.raises((EOFError, ConnectionResetError)):
        peer.frame()
    return error


@pytest.mark.parametrize("seed", range(20))
def test_random_bytes_end_the_connection_with_a_typed_error(door: str, seed: int) -> None:
    garbage = random.Random(seed).randbytes(3000)
    for prepare in (lambda peer: peer, Raw.open):
        with Raw(door) as peer:
            prepare(peer)
            peer.send(garbage)
            assert isinstance(last_error(peer), (FrameTooLarge, ProtocolError))


def test_an_http_request_is_told_off(door: str) -> None:
    with Raw(door) as peer:
        peer.send(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        assert isinstance(last_error(peer), FrameTooLarge)


@pytest.mark.parametrize("length", [0xFFFFFFFF, REQUEST_MAX_BYTES + 21, 19, 0])
def test_an_impossible_length_is_refused_when_only_it_is_known(door: str, length: int) -> None:
    with Raw(door) as peer:
        peer.open().send(length.to_bytes(4, "big"))
        assert isinstance(last_error(peer), (FrameTooLarge, ProtocolError))


def test_a_long_frame_before_the_handshake_is_refused(door: str) -> None:
    with Raw(door) as peer:
        peer.send((4097 + 20).to_bytes(4, "big"))
        assert isinstance(last_error(peer), FrameTooLarge)


def test_a_request_before_the_handshake_is_refused(door: str) -> None:
    with Raw(door) as peer:
        peer.send(ping(1))
        assert isinstance(last_error(peer), ProtocolError)


@pytest.mark.parametrize("version", [0, 2, 1 << 40])
def test_a_wrong_version_is_told_with_ours(door: str, version: int) -> None:
    with Raw(door) as peer:
        hello = ClientHello("monofs", version, version, "9.9.9", "anonymous", bytes(32))
        peer.send(pack(Kind.HELLO, 0, 0, encode(hello)))
        error = last_error(peer)
    assert isinstance(error, VersionMismatch)
    assert f"{version} to {version} (release 9.9.9)" in str(error)
    assert "server protocol 1 to 1" in str(error)


def test_a_wrong_magic_is_refused(door: str) -> None:
    with Raw(door) as peer:
        peer.send(pack(Kind.HELLO, 0, 0, encode(ClientHello("other", 1, 1, "", "anonymous", bytes(32)))))
        assert isinstance(last_error(peer), ProtocolError)


@pytest.mark.parametrize(
    "sent", [b"", b"\x00", pack(Kind.HELLO, 0, 0, bytes(100))[:50]], ids=["nothing", "one", "half"]
)
def test_silence_in_the_handshake_ends_at_its_time_limit(house: House, sent: bytes) -> None:
    listener = house.tcp(limits=Limits(handshake_s=0.1))
    with Raw(listener.address) as peer:
        peer.send(sent)
        assert isinstance(last_error(peer), DeadlineExceeded)


def test_a_slow_loris_ends_at_the_time_limit_however_often_it_speaks(house: House) -> None:
    listener = house.tcp(limits=Limits(handshake_s=0.2))
    with Raw(listener.address) as peer:
        hello = pack(Kind.HELLO, 0, 0, bytes(4096))
        with pytest.raises((BrokenPipeError, ConnectionResetError)):
            for byte in hello:
                peer.send(bytes([byte]))
                time.sleep(0.005)  # the attack itself
    house.wait_until(lambda: not listener.connections)


def test_an_open_connection_may_be_idle_beyond_the_handshake_limit(house: House, loop: Loop) -> None:
    listener = house.tcp(limits=Limits(handshake_s=0.05))
    with Raw(listener.address) as peer:
        peer.open()
        passed = threading.Event()
        loop.reactor.callFromThread(loop.reactor.callLater, 0.3, passed.set)
        assert passed.wait(10)
        peer.send(ping(1))
        assert peer.frame().kind == Kind.ANSWER


def test_half_a_request_then_silence_holds_only_what_came(house: House) -> None:
    listener = house.tcp()
    with Raw(listener.address) as peer:
        peer.open().send(pack(Kind.REQUEST, Method.PING, 1, bytes(1 << 20))[: 1 << 19])
        house.wait_until(lambda: house.service.held_bytes == 1 << 19)
    house.wait_until(lambda: house.service.held_bytes == 0)


def test_unfinished_requests_over_all_connections_are_bounded(house: House) -> None:
    listener = house.tcp(limits=Limits(held_bytes=1 << 20))
    half = pack(Kind.REQUEST, Method.PING, 1, bytes(1 << 20))[: 700 << 10]
    with Raw(listener.address) as first, Raw(listener.address) as second:
        first.open().send(half)
        house.wait_until(lambda: house.service.held_bytes == len(half))
        second.open()
        with pytest.raises((Overloaded, OSError)):
            second.send(half)
            raise last_error(second)
        first.send(pack(Kind.REQUEST, Method.PING, 1, bytes(1 << 20))[700 << 10 :])
        assert first.frame().kind in (Kind.ANSWER, Kind.ERROR)


def test_more_connections_than_the_bound_are_turned_away_and_the_others_live(house: House) -> None:
    listener = house.tcp(limits=Limits(connections=3))
    peers = [Raw(listener.address).open() for _ in range(3)]
    with Raw(listener.address) as late:
        assert isinstance(last_error(late), Overloaded)
    for peer in peers:
        peer.send(ping(1))
        assert peer.frame().kind == Kind.ANSWER
        peer.sock.close()
    house.wait_until(lambda: not listener.connections)
    with Raw(listener.address) as peer:
        peer.open()


FEW_DESCRIPTORS = textwrap.dedent(
    """
    import resource
    resource.setrlimit(resource.RLIMIT_NOFILE, (40, 40))
    from twisted.internet.epollreactor import EPollReactor
    from monofs.rpc import api
    from monofs.rpc.server import listen_tcp
    from monofs.rpc.service import Service

    reactor = EPollReactor()
    service = Service("worker", reactor)
    service.register(api.Method.PING, api.Empty, lambda request, call: api.Pong("1", "worker", 0))
    print(listen_tcp(reactor, service, "127.0.0.1", 0).address, flush=True)
    reactor.run()
    """
)


def test_a_process_out_of_descriptors_serves_those_it_has_and_accepts_again_later() -> None:
    server = subprocess.Popen([sys.executable, "-c", FEW_DESCRIPTORS], stdout=subprocess.PIPE, text=True)
    try:
        assert server.stdout is not None
        address = server.stdout.readline().strip()
        first = Raw(address).open()
        crowd = [Raw(address) for _ in range(60)]
        for request_id in range(1, 20):
            first.send(ping(request_id))
            assert first.frame().kind == Kind.ANSWER
        for peer in crowd:
            peer.sock.close()
        last = Raw(address).open()
        last.send(ping(1))
        assert last.frame().kind == Kind.ANSWER
        first.sock.close()
        last.sock.close()
    finally:
        server.terminate()
        server.communicate(timeout=10)


def test_an_unknown_method_fails_alone(door: str) -> None:
    with Raw(door) as peer:
        peer.open().send(pack(Kind.REQUEST, 9999, 5, b"\x90") + ping(6))
        frame = peer.frame()
        assert (frame.request, type(decode_error(frame.body))) == (5, UnknownMethod)
        assert peer.frame().request == 6


@pytest.mark.parametrize(
    "body", [b"", b"\xc1", b"\x91\xdd\xff\xff\xff\xff", b"\x91" * 100_000, b"\x91\xa1\xff", b"\x91\x05"]
)
def test_an_unreadable_request_fails_alone(door: str, body: bytes) -> None:
    with Raw(door) as peer:
        peer.open().send(pack(Kind.REQUEST, Method.STAT, 5, body) + ping(6))
        frame = peer.frame()
        assert (frame.request, type(decode_error(frame.body))) == (5, InvalidArgument)
        assert peer.frame().request == 6


@pytest.mark.parametrize("seed", range(5))
def test_every_readable_frame_with_an_arbitrary_body_gets_one_final_answer(door: str, seed: int) -> None:
    chance = random.Random(seed)
    methods = [Method.PING, Method.LIST, Method.DESCRIPTOR, Method.FSCK, 0, 9999]
    with Raw(door) as peer:
        peer.open()
        for request_id in range(1, 301):
            body = chance.randbytes(chance.choice([0, 1, 2, 5, 40, 400]))
            peer.send(pack(Kind.REQUEST, chance.choice(methods), request_id, body, trace=chance.getrandbits(64)))
            frame = peer.frame()
            while frame.kind == Kind.ITEM:
                frame = peer.frame()
            assert frame.request == request_id
            assert frame.kind in (Kind.ANSWER, Kind.ERROR)


@pytest.mark.parametrize("kind", [Kind.HELLO, Kind.ANSWER, Kind.ERROR, Kind.ITEM, Kind.DATA])
def test_frames_only_a_server_sends_end_the_connection(door: str, kind: Kind) -> None:
    with Raw(door) as peer:
        peer.open().send(pack(kind, Method.PING, 1, b"\x90"))
        assert isinstance(last_error(peer), ProtocolError)


def test_a_request_id_in_use_ends_the_connection(door: str) -> None:
    hold = pack(Kind.REQUEST, Method.STAT, 1, encode(api.StatRequest("/hold")))
    with Raw(door) as peer:
        peer.open().send(hold + hold)
        assert isinstance(last_error(peer), ProtocolError)


def test_cancelling_what_is_not_there_is_nothing(door: str) -> None:
    with Raw(door) as peer:
        peer.open().send(pack(Kind.CANCEL, Method.PING, 77) + ping(1))
        assert peer.frame().request == 1


def test_ten_thousand_pipelined_requests_are_all_answered_in_order(door: str) -> None:
    with Raw(door) as peer:
        peer.open()
        sender = threading.Thread(target=peer.send, args=(b"".join(ping(n + 1) for n in range(10_000)),))
        sender.start()
        assert [peer.frame().request for _ in range(10_000)] == list(range(1, 10_001))
        sender.join(10)


def test_requests_in_flight_are_bounded_by_not_reading_on(house: House) -> None:
    listener = house.tcp(limits=Limits(in_flight=10))
    hold = encode(api.StatRequest("/hold"))
    with Raw(listener.address) as peer:
        peer.open().send(b"".join(pack(Kind.REQUEST, Method.STAT, n + 1, hold) for n in range(25)) + ping(26))
        house.wait_until(lambda: len(house.held) == 10)
        (connection,) = listener.connections
        assert len(connection._pending) == 10
        answered = 0
        while answered < 25:
            house.wait_until(lambda count=answered: len(house.held) > count)
            house.loop.do(house.held[answered].answer, api.Empty())
            assert len(connection._pending) <= 10
            answered += 1
        assert sorted(peer.frame().request for _ in range(26)) == list(range(1, 27))


def test_requests_beyond_the_bound_go_on_when_those_before_them_expire(house: House) -> None:
    listener = house.tcp(limits=Limits(in_flight=10))
    hold = encode(api.StatRequest("/hold"))
    with Raw(listener.address) as peer:
        held = b"".join(pack(Kind.REQUEST, Method.STAT, n + 1, hold, deadline_ms=50) for n in range(10))
        peer.open().send(held + ping(11))
        frames = [peer.frame() for _ in range(11)]
    assert {type(decode_error(frame.body)) for frame in frames if frame.kind == Kind.ERROR} == {DeadlineExceeded}
    assert [frame.request for frame in frames if frame.kind == Kind.ANSWER] == [11]


def test_no_descriptors_are_left_behind(house: House, loop: Loop) -> None:
    listener, local = house.tcp(), house.unix()

    def storm() -> None:
        for address in (listener.address, local.address):
            with Pool(address) as pool:
                pool.call(Method.PING, api.Empty(), api.Pong)
        with Raw(listener.address) as peer:
            peer.send(b"garbage that is no frame at all!")
            last_error(peer)
        with Pool(local.address) as pool:
            _, fds = pool.call_with_descriptors(Method.DESCRIPTOR, api.DescriptorRequest(b"", 4), api.DescriptorAnswer)
            for fd in fds:
                os.close(fd)
        house.wait_until(lambda: not listener.connections and not local.connections)

    storm()
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(10):
        storm()
    assert len(os.listdir("/proc/self/fd")) == before
