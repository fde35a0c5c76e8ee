"""Streams and answers whose readers are slow, silent or gone: what waits is bounded, and whoever is beside them is served."""

from __future__ import annotations

import os
import resource
import threading
from contextlib import ExitStack
from typing import Any

import pytest
from rpc_world import House, Loop, pattern, ping

from monofs.model.errors import MonofsError, Overloaded
from monofs.observe import metrics
from monofs.rpc import api
from monofs.rpc.api import Method
from monofs.rpc.frames import Kind, decode_error, pack
from monofs.rpc.handshake import encode
from monofs.rpc.link import CROWD
from monofs.rpc.server import Limits
from monofs.rpc.sync import Pool
from monofs.testing.raw import Raw


def resident_bytes() -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize()


@pytest.mark.parametrize("capability", ["data:1000000", "data:100", "file"])
def test_a_reader_that_never_reads_costs_a_bounded_queue(house: House, tmp_path: Any, capability: str) -> None:
    listener = house.tcp()
    if capability == "file":
        with open(tmp_path / "big", "wb") as file:
            file.truncate(1 << 30)
        capability = f"file:{tmp_path}/big"
    before = resident_bytes()
    with Raw(listener.address) as peer, Pool(listener.address) as other:
        peer.open().send(pack(Kind.REQUEST, Method.READ, 1, encode(api.ReadRequest(capability.encode(), 0, 1 << 30))))
        (connection,) = listener.connections
        house.wait_until(lambda: not connection.writable)
        for _ in range(200):
            assert other.call(Method.PING, api.Empty(), api.Pong).role == "worker"
            assert connection.queued_bytes < 8 << 20
        assert resident_bytes() - before < 64 << 20


def test_answers_nobody_reads_stop_the_reading_of_requests(house: House) -> None:
    listener = house.tcp()
    house.service.register(Method.WHY, api.Empty, lambda request, call: api.Pong("x" * 100_000, "", 0))
    sent = 0
    with Raw(listener.address) as peer, Pool(listener.address) as other:
        peer.open()
        peer.sock.setblocking(False)
        why = pack(Kind.REQUEST, Method.WHY, 1, encode(api.RequestId(bytes(10_000))))
        crowd = why * 10
        (connection,) = listener.connections
        for _ in range(100_000):
            try:
                sent += peer.sock.send(crowd[sent % len(why) :])  # goes on where a part was taken
            except BlockingIOError:
                break
        else:
            raise AssertionError("the server never stopped reading")
        assert connection.queued_bytes < 9 << 20
        assert other.call(Method.PING, api.Empty(), api.Pong).role == "worker"
        peer.sock.setblocking(True)
        for _ in range(sent // len(why)):
            assert peer.frame().kind == Kind.ANSWER


def test_answers_nobody_reads_are_bounded_over_all_connections_and_others_are_served(house: House) -> None:
    answer, total = 8 << 20, 16 << 20
    listener = house.tcp(limits=Limits(queued_total_bytes=total))
    house.service.register(Method.WHY, api.Empty, lambda request, call: api.Pong("x" * answer, "", 0))
    why = pack(Kind.REQUEST, Method.WHY, 1, b"\x90") + pack(Kind.REQUEST, Method.WHY, 2, b"\x90")
    refused = metrics.RPC_REFUSED("slow_reader").value
    before = resident_bytes()
    with ExitStack() as crowd, Pool(listener.address) as other:
        for _ in range(30):
            crowd.enter_context(Raw(listener.address)).open().send(why)
            assert other.call(Method.PING, api.Empty(), api.Pong).role == "worker"
            assert house.loop.do(lambda: house.service.queued_bytes) <= 2 * total
            assert resident_bytes() - before < 16 * answer
        house.wait_until(lambda: metrics.RPC_REFUSED("slow_reader").value > refused)
        house.wait_until(lambda: house.service.queued_bytes == sum(each.memory_bytes for each in listener.connections))
        assert len(other.call(Method.WHY, api.Empty(), api.Pong, 30.0).version) == answer
        read = api.ReadRequest(b"data:100000", 0, 10_000_000)
        assert other.read_into(Method.READ, read, bytearray(10_000_000)) == 10_000_000
    house.wait_until(lambda: not listener.connections)
    assert (house.service.queued_bytes, house.service.slow) == (0, set())


def test_a_reader_that_comes_late_gets_everything_though_the_bound_over_all_connections_was_reached(
    house: House,
) -> None:
    listener = house.tcp(limits=Limits(queued_total_bytes=1 << 20))
    house.service.register(Method.WHY, api.Empty, lambda request, call: api.Pong("x" * 700_000, "", 0))
    whys = b"".join(pack(Kind.REQUEST, Method.WHY, n + 1, b"\x90") for n in range(30))
    read = encode(api.ReadRequest(b"data:100000", 0, 20_000_000))
    with Raw(listener.address) as asker, Raw(listener.address) as reader:
        asker.open().send(whys)
        house.wait_until(lambda: house.service.queued_bytes >= 1 << 20)
        reader.open().send(pack(Kind.REQUEST, Method.READ, 1, read))
        got = 0
        while (frame := reader.frame()).kind == Kind.DATA:
            assert frame.body == pattern(got, len(frame.body))
            got += len(frame.body)
        assert got == 20_000_000
        assert [asker.frame().request for _ in range(30)] == list(range(1, 31))
        house.wait_until(lambda: house.service.queued_bytes == 0)


def test_a_stream_that_ignores_back_pressure_is_refused(house: House, loop: Loop) -> None:
    def flood(request: api.Empty, call: Any) -> None:
        while True:
            call.data(bytes(1 << 20))

    house.service.register(Method.VERIFY, api.Empty, flood)
    listener = house.tcp()
    with Raw(listener.address) as peer:
        peer.open().send(pack(Kind.REQUEST, Method.VERIFY, 1, b"\x90"))
        kinds = []
        while not kinds or kinds[-1] == Kind.DATA:
            frame = peer.frame()
            kinds.append(frame.kind)
        assert isinstance(decode_error(frame.body), Overloaded)


def test_streams_of_one_connection_take_turns_and_small_answers_pass_between(house: House) -> None:
    listener = house.tcp()
    with Raw(listener.address) as peer:
        read = encode(api.ReadRequest(b"data:500000", 0, 40_000_000))
        peer.open().send(b"".join(pack(Kind.REQUEST, Method.READ, n, read) for n in (1, 2)) + ping(3))
        got = {1: 0, 2: 0}
        order = []
        while len(order) < 3:
            frame = peer.frame()
            if frame.kind == Kind.DATA:
                assert frame.body == pattern(got[frame.request], len(frame.body))
                got[frame.request] += len(frame.body)
            else:
                order.append(frame.request)
                if frame.request == 3:
                    assert max(got.values()) < 20_000_000
        assert order[0] == 3
        assert got == {1: 40_000_000, 2: 40_000_000}


def test_one_connection_is_no_crowd_however_many_streams_it_has(house: House) -> None:
    listener = house.tcp()
    counted = []

    def wait_a_turn(request: api.Empty, call: Any) -> None:
        def go_on() -> None:
            counted.append(listener.flusher.waiting)
            call.answer(api.Empty())

        call.when_writable(go_on)

    house.service.register(Method.VERIFY, api.Empty, wait_a_turn)
    with Raw(listener.address) as peer:
        peer.open().send(b"".join(pack(Kind.REQUEST, Method.VERIFY, n + 1, b"\x90") for n in range(CROWD)))
        for _ in range(CROWD):
            assert peer.frame().kind == Kind.ANSWER
    assert max(counted) <= 1, (
        "slow readers are counted by connection: from CROWD on the kernel may hold little for each"
    )
    assert house.loop.do(lambda: listener.flusher.waiting) == 0


def test_a_fast_reader_of_an_endless_stream_leaves_others_their_turn(house: House) -> None:
    listener = house.tcp()
    with Pool(listener.address) as greedy, Pool(listener.address) as other:
        endless = greedy.stream(Method.READ, api.ReadRequest(b"data:1000", 0, 1 << 50))
        stop = threading.Event()

        def read() -> None:
            while not stop.is_set():
                next(endless)

        reader = threading.Thread(target=read)
        reader.start()
        for _ in range(20):
            assert other.call(Method.PING, api.Empty(), api.Pong).role == "worker"
        stop.set()
        reader.join(10)
        endless.close()
    house.wait_until(lambda: not listener.connections)


def test_cancelling_a_stream_stops_it(house: House) -> None:
    listener = house.tcp()
    with Raw(listener.address) as peer:
        read = encode(api.ReadRequest(b"data:100000", 0, 1 << 40))
        peer.open().send(pack(Kind.REQUEST, Method.READ, 1, read))
        peer.frame()
        peer.send(pack(Kind.CANCEL, Method.READ, 1) + ping(2))
        while peer.frame().request != 2:
            pass
        (connection,) = listener.connections
        assert not connection._pending


def test_a_file_that_got_shorter_closes_the_connection_and_nothing_else(house: House, tmp_path: Any) -> None:
    for listener in (house.tcp(), house.unix()):
        file = tmp_path / "short"
        file.write_bytes(pattern(0, 1 << 20))
        with Pool(listener.address) as pool:
            buffer = bytearray(4 << 20)
            with pytest.raises(MonofsError):
                pool.read_into(Method.READ, api.ReadRequest(f"file:{file}".encode(), 0, 4 << 20), buffer)
            assert pool.call(Method.PING, api.Empty(), api.Pong).role == "worker"


def test_a_mapped_page_that_is_lost_while_it_waits_closes_the_connection(house: House, tmp_path: Any) -> None:
    listener = house.tcp()
    file = tmp_path / "lost"
    file.write_bytes(bytes(32 << 20))
    with Raw(listener.address) as peer:
        peer.open().send(
            pack(Kind.REQUEST, Method.READ, 1, encode(api.ReadRequest(f"file:{file}".encode(), 0, 32 << 20)))
        )
        (connection,) = listener.connections
        house.wait_until(lambda: not connection.writable)
        os.truncate(file, 0)
        with pytest.raises((EOFError, ConnectionResetError)):
            while True:
                peer.frame()
