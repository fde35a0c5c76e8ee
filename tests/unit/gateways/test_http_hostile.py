"""Whatever a client sends or does not read, a door answers, closes, keeps its bounds and serves the next one."""

from __future__ import annotations

import os
import random
import resource
import socket
import threading
import time
from contextlib import ExitStack
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
from http_world import Raw, Shop, pattern, request
from hypothesis import given, settings
from hypothesis import strategies as st

from monofs.gateways.http import Door, Limits
from monofs.gateways.http_connection import STEPS_A_TURN
from monofs.gateways.http_head import HeadLimits
from monofs.observe import metrics
from monofs.rpc.tls import ServerTls
from monofs.testing.reactors import Loop

SMUGGLED = b"GET /bytes/1 HTTP/1.1\r\nHost: x\r\n\r\n"


@pytest.mark.parametrize(
    "head",
    [
        b"Content-Length: 35\r\nTransfer-Encoding: chunked\r\n",
        b"Transfer-Encoding: chunked\r\nContent-Length: 35\r\n",
        b"Content-Length: 0\r\nContent-Length: 35\r\n",
        b"Content-Length: 0, 35\r\n",
        b"Content-Length: +35\r\n",
        b"Content-Length : 35\r\n",
        b"Transfer-Encoding : chunked\r\n",
        b"Transfer-Encoding: gzip, chunked\r\n",
        b"Transfer-Encoding: xchunked\r\n",
        b"Transfer-Encoding:\r\n chunked\r\n",
        b"X: y\r\n Content-Length: 35\r\n",
        b"X: y\nContent-Length: 35\r\n",
        b"X: y\rContent-Length: 35\r\n",
        b"X: y\0\r\n",
        b"X: y\r\n\n",
        b"Host: y\r\n",
    ],
)
def test_no_request_is_smuggled(shop: Shop, head: bytes) -> None:
    with Raw(shop.open()) as client:
        client.send(b"POST /echo HTTP/1.1\r\nHost: x\r\n" + head + b"\r\n" + SMUGGLED)
        assert client.refused().status == 400
    assert not shop.seen


@pytest.mark.parametrize(
    "body", [b"5\nhello\r\n0\r\n\r\n", b"5\r\nhello\n0\r\n\r\n", b"0x0\r\n\r\n", b"3\r\nhello\r\n0\r\n\r\n", b"5;a\nb\r\nhello\r\n0\r\n\r\n"]
)  # fmt: skip
def test_no_request_is_smuggled_by_chunks(shop: Shop, body: bytes) -> None:
    with Raw(shop.open()) as client:
        client.send(request("/echo", "POST", "Transfer-Encoding: chunked") + body + SMUGGLED)
        assert client.refused().status == 400
    assert len(shop.seen) == 1
    assert not shop.ended
    shop.loop.wait_until(lambda: shop.gone == shop.seen)


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400),
        (b"GET / HTTP/1.1\nHost: x\n\n\r\n\r\n", 400),
        (b"\n", 400),
        (b"GET /" + b"a" * 9000, 414),
        (b"GET /" + b"a" * 9000 + b" HTTP/1.1\r\nHost: x\r\n\r\n", 414),
        (b"GET / HTTP/1.1\r\nHost: x\r\nA: " + b"b" * 70_000, 431),
        (b"GET / HTTP/1.1\r\nHost: x\r\n" + b"A: b\r\n" * 300 + b"\r\n", 431),
        (b"GET / HTTP/1.1\r\nHost: x\r\n" + b"A: b\r\n" * 12_000, 431),
        (b"GET /caf\xc3\xa9 HTTP/1.1\r\nHost: x\r\n\r\n", 400),
        (b"GET / HTTP/2.0\r\n\r\n", 505),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505),
        (b"BREW / HTTP/1.1\r\nHost: x\r\n\r\n", 501),
    ],
)
def test_what_is_no_request_is_refused(shop: Shop, sent: bytes, status: int) -> None:
    door = shop.open()
    with Raw(door) as client:
        client.send(sent)
        assert client.refused().status == status
    assert not shop.seen
    shop.loop.wait_until(lambda: not door.connections)


def test_an_empty_line_before_a_request_is_not_one(shop: Shop) -> None:
    with Raw(shop.open()) as client:
        client.send(b"\r\n" + request("/bytes/1") + b"\r\n" + request("/bytes/2"))
        assert [client.answer().body, client.answer().body] == [pattern(0, 1), pattern(0, 2)]


def test_one_connection_s_many_requests_leave_others_their_turn(shop: Shop) -> None:
    door = shop.open()
    turns: list[int] = []

    def count_turn() -> None:
        turns.append(len(shop.seen))
        if len(shop.seen) < 5000:
            shop.loop.reactor.callLater(0, count_turn)

    with Raw(door) as client:
        shop.loop.do(count_turn)
        client.send(request("/status/204") * 5000)
        for _ in range(5000):
            assert client.answer().status == 204
    shop.loop.wait_until(lambda: turns[-1] == 5000)
    assert max(b - a for a, b in pairwise(turns)) <= 2 * STEPS_A_TURN


def test_requests_behind_one_that_waits_are_not_read(shop: Shop) -> None:
    door = shop.open()
    with Raw(door) as client:
        client.sock.setblocking(False)
        sent, crowd = 0, request("/hold") + request("/status/204") * 10_000
        client.sock.send(crowd[:100])
        shop.loop.wait_until(lambda: len(shop.seen) == 1)
        connection = shop.only(door)
        sent = 100
        while True:
            try:
                sent += client.sock.send((crowd * 2)[sent % len(crowd) :])
            except BlockingIOError:
                if not shop.loop.do(lambda: connection._reading):
                    break
        assert door.held_bytes < 1 << 20
        assert len(shop.seen) == 1


# ---- time ------------------------------------------------------------------------------------------------------------

QUICK = Limits(head_s=0.2, idle_s=0.2, body_s=0.2, stall_s=0.2)


def test_a_head_that_drips_in_is_given_up(shop: Shop) -> None:
    with Raw(shop.open(replace(QUICK, idle_s=60))) as client:
        assert client.ask("/bytes/1").status == 200
        stop = threading.Event()

        def drip() -> None:
            for byte in b"GET /bytes/1 HTTP/1.1\r\nHost: x\r\nA: " + b"b" * 10_000:
                if stop.wait(0.01):
                    return
                try:
                    client.send(bytes([byte]))
                except OSError:
                    return

        thread = threading.Thread(target=drip)
        thread.start()
        assert client.answer().status == 408
        stop.set()
        thread.join(10)
    assert len(shop.seen) == 1


def test_a_client_that_says_nothing_is_let_go(shop: Shop) -> None:
    door = shop.open(QUICK)
    with Raw(door) as silent, Raw(door) as idle:
        assert idle.ask("/bytes/1").status == 200
        for client in (silent, idle):
            with pytest.raises(EOFError):
                client.answer()


def test_a_tls_handshake_that_does_not_end_is_given_up(shop: Shop, door_tls: ServerTls) -> None:
    with Raw(shop.open(QUICK, tls=door_tls)) as client:
        client.send(b"\x16\x03\x01")
        assert client.is_closed()


def test_a_body_that_does_not_come_is_given_up(shop: Shop) -> None:
    door = shop.open(QUICK)
    with Raw(door) as client:
        client.send(request("/echo", "PUT", "Content-Length: 100000") + bytes(50_000))
        assert client.refused().status == 408
    shop.loop.wait_until(lambda: shop.gone == shop.seen)
    with Raw(door) as client:  # one that nobody receives neither
        client.send(request("/bytes/1", "PUT", "Content-Length: 100000") + bytes(50_000))
        assert client.answer().status == 200
        assert client.is_closed()


def test_a_body_whose_handler_pauses_and_an_answer_that_takes_long_are_waited_for(shop: Shop) -> None:
    with Raw(shop.open(QUICK)) as paused, Raw(shop.doors[0]) as held:
        paused.send(request("/take-paused", "PUT", "Content-Length: 3"))
        held.send(request("/hold"))
        time.sleep(0.6)  # three times what a client would have
        paused.send(b"abc")
        for exchange in shop.seen:
            shop.loop.do(exchange.resume)
            shop.loop.do(exchange.answer, 200)
        assert paused.answer().status == held.answer().status == 200


def test_a_reader_that_reads_nothing_is_cut_off(shop: Shop) -> None:
    door = shop.open(QUICK, name="stalled")
    refused = metrics.HTTP_REFUSED("stalled", "slow_reader").value
    with ExitStack() as crowd:
        for target in ("/stream/90000000", "/bytes/90000000", "/file/20000000", "/chunks/90000000"):
            client = crowd.enter_context(Raw(door))
            client.send(request(target, "GET", "Connection: close" if target == "/bytes/90000000" else "A: b"))
        shop.loop.wait_until(lambda: len(shop.seen) == 4 and not door.connections)
    assert metrics.HTTP_REFUSED("stalled", "slow_reader").value == refused + 4


def test_a_reader_that_reads_slowly_is_not(shop: Shop) -> None:
    with Raw(shop.open(replace(QUICK, stall_s=1.0))) as client:
        client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 16)
        client.send(request("/stream/8000000", "GET", "Connection: close"))
        got = b""
        while piece := client.sock.recv(1 << 17):
            got += piece
            time.sleep(0.02)  # 61 times, and longer in all than nothing may be taken
        assert got.endswith(pattern(8_000_000 - 1000, 1000))


# ---- bounds ----------------------------------------------------------------------------------------------------------


def test_connections_are_bounded(shop: Shop) -> None:
    door = shop.open(Limits(connections=2))
    with Raw(door) as one, Raw(door) as two:
        assert one.ask("/bytes/1").status == two.ask("/bytes/1").status == 200
        with Raw(door) as three:
            assert three.refused().status == 503
        assert one.ask("/bytes/1").status == 200
    shop.loop.wait_until(lambda: not door.connections)
    with Raw(door) as four:
        assert four.ask("/bytes/1").status == 200


def test_unfinished_requests_are_bounded_over_all_connections(shop: Shop) -> None:
    limits = Limits(held_bytes=200_000, head=HeadLimits(head_bytes=64 << 10))
    door = shop.open(limits)
    refused = metrics.HTTP_REFUSED("test", "503").value
    with ExitStack() as crowd:
        clients = [crowd.enter_context(Raw(door)) for _ in range(20)]
        for client in clients:
            client.send(b"GET / HTTP/1.1\r\nHost: x\r\nA: " + b"b" * 50_000)
        shop.loop.wait_until(lambda: metrics.HTTP_REFUSED("test", "503").value >= refused + 15)
        assert door.held_bytes <= limits.held_bytes + 60_000
        with Raw(door) as other:
            assert other.ask("/bytes/1").status == 200
    shop.loop.wait_until(lambda: not door.connections)
    assert door.held_bytes == 0


def test_answers_nobody_reads_are_bounded_over_all_connections(shop: Shop) -> None:
    total = 16 << 20
    door = shop.open(Limits(queued_total_bytes=total))
    with ExitStack() as crowd, Raw(door) as other:
        for _ in range(30):
            crowd.enter_context(Raw(door)).send(request("/bytes/8000000") * 2)
            assert other.ask("/bytes/1").status == 200
            assert shop.loop.do(lambda: door.queued_bytes) <= 2 * total
        assert other.ask("/stream/10000000").body == pattern(0, 10_000_000)
    shop.loop.wait_until(lambda: not door.connections)


def resident_bytes() -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize()


def test_nothing_is_left_behind(shop: Shop) -> None:
    door = shop.open()

    def storm() -> None:
        for sent in (
            b"",
            b"GET",
            request("/hold"),
            request("/file/3000000"),
            request("/echo", "PUT", "Content-Length: 9"),
            b"\0\0",
        ):
            with Raw(door) as client:
                client.send(sent)
        shop.loop.wait_until(lambda: not door.connections)

    storm()
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(10):
        storm()
    shop.loop.wait_until(lambda: len(os.listdir("/proc/self/fd")) <= before)
    assert (door.held_bytes, door.queued_bytes) == (0, 0)


# ---- chance ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def fuzzed(gateway_loop: Loop, tmp_path_factory: pytest.TempPathFactory) -> Any:
    shop = Shop(gateway_loop, str(tmp_path_factory.mktemp("fuzzed")))
    shop.open()
    yield shop
    shop.stop()


def feed(shop: Shop, door: Door, pieces: list[bytes]) -> None:
    """As if each piece were a read of its own."""
    (connection,) = door.connections
    for piece in pieces:
        if not connection.closed and not connection._closing:
            connection.received(piece)


REQUESTS = st.one_of(
    st.integers(0, 3000).map(lambda size: (request(f"/bytes/{size}"), pattern(0, size))),
    st.integers(0, 100).map(lambda number: (request(f"/later/{number}"), b"%d" % number)),
    st.binary(max_size=300).map(
        lambda body: (request("/echo", "PUT", f"Content-Length: {len(body)}", body=body), body)
    ),
    st.binary(max_size=300).map(lambda body: (request("/bytes/3", "POST", body=body), pattern(0, 3))),
    st.lists(st.binary(min_size=1, max_size=60), max_size=5).map(
        lambda chunks: (
            request("/echo", "PUT", "Transfer-Encoding: chunked")
            + b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks)
            + b"0\r\n\r\n",
            b"".join(chunks),
        )
    ),
)


@settings(max_examples=60)
@given(st.lists(REQUESTS, min_size=1, max_size=25), st.lists(st.integers(0, 20_000), max_size=40))
def test_reads_make_no_difference(fuzzed: Shop, asked: list[tuple[bytes, bytes]], cuts: list[int]) -> None:
    (door,) = fuzzed.doors
    stream = b"".join(sent for sent, _ in asked)
    places = [0, *sorted({cut % len(stream) for cut in cuts}), len(stream)]
    pieces = [stream[start:end] for start, end in pairwise(places) if start < end]
    fuzzed.seen.clear()
    with Raw(door) as client:
        fuzzed.only(door)
        fuzzed.loop.do(feed, fuzzed, door, pieces)
        assert [client.answer().body for _ in asked] == [body for _, body in asked]
    assert len(fuzzed.seen) == len(asked)
    fuzzed.loop.wait_until(lambda: not door.connections)


PARTS = st.sampled_from(
    [b"GET", b"PUT", b" ", b"/echo", b"/bytes/9", b"/stream/9", b" HTTP/1.1", b" HTTP/1.0", b"\r\n", b"\r\n\r\n", b"\r", b"\n", b"\0", b"Host: x\r\n",
     b"Content-Length: 5\r\n", b"Content-Length: 0\r\n", b"Transfer-Encoding: chunked\r\n", b"Expect: 100-continue\r\n", b"Connection: close\r\n",
     b"5\r\nhello\r\n", b"0\r\n\r\n", b"\xff", b":", b"GET /bytes/1 HTTP/1.1\r\nHost: x\r\n", b"PUT /echo HTTP/1.1\r\nHost: x\r\n"]
)  # fmt: skip


@settings(max_examples=150)
@given(st.lists(PARTS | st.binary(max_size=20), max_size=30), st.integers(0, 1 << 30))
def test_random_bytes_are_answered_or_refused_and_the_door_goes_on(fuzzed: Shop, parts: list[bytes], seed: int) -> None:
    (door,) = fuzzed.doors
    chance = random.Random(seed)
    stream = b"".join(parts)
    size = chance.choice([1, 5, 100, len(stream) + 1])
    with Raw(door) as client:
        connection = fuzzed.only(door)
        fuzzed.loop.do(feed, fuzzed, door, [stream[at : at + size] for at in range(0, len(stream), size)])
        assert not connection._busy
    fuzzed.loop.wait_until(lambda: not door.connections)
    assert not fuzzed.fatal
    with Raw(door) as client:
        assert client.ask("/bytes/1").status == 200
    fuzzed.loop.wait_until(lambda: not door.connections)
