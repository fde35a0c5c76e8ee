"""What a handler says is what a client gets, and the other way round; over real sockets."""

from __future__ import annotations

import http.client
import json
import re
import socket
import ssl
import threading
from email.utils import parsedate_to_datetime
from typing import Any

import pytest
from http_world import Raw, Shop, pattern, request

from monofs.gateways.http import Limits
from monofs.model.errors import Internal, Overloaded
from monofs.observe import metrics
from monofs.rpc.tls import ServerTls
from monofs.testing.certificates import Authority

# ---- answers ---------------------------------------------------------------------------------------------------------


def test_an_answer_has_its_head_and_its_body_and_the_connection_goes_on(shop: Shop) -> None:
    with Raw(shop.open()) as client:
        for size in (0, 10, 4096, 200_000, 10):
            answer = client.ask(f"/bytes/{size}?a=b")
            assert (answer.status, answer.body) == (200, pattern(0, size))
            assert answer.headers["content-length"] == str(size)
            assert answer.headers["content-type"] == "text/plain"
            assert answer.headers["server"] == "monofs"
            assert parsedate_to_datetime(answer.headers["date"])
            assert "connection" not in answer.headers
    exchange = shop.seen[0]
    assert (exchange.method, exchange.target, exchange.length, exchange.secure) == ("GET", "/bytes/0?a=b", 0, False)
    assert exchange.headers == {"host": "door"}
    assert exchange.peer.startswith("127.0.0.1:")
    assert len({each.trace for each in shop.seen}) == 5


def test_the_standard_library_s_client_is_served(shop: Shop) -> None:
    host, _, port = shop.open().address.rpartition(":")
    client = http.client.HTTPConnection(host, int(port), timeout=10)
    for target in ("/bytes/100000", "/stream/100000", "/chunks/100000", "/file/100000", "/file-chunks/100000"):
        client.request("GET", target)
        assert client.getresponse().read() == pattern(0, 100_000)
    client.request("PUT", "/echo", body=iter([b"some", b"thing"]), encode_chunked=True)
    assert client.getresponse().read() == b"something"
    client.close()


@pytest.mark.parametrize("what", ["later", "coroutine"])
def test_answers_may_come_later_and_come_in_the_order_of_their_requests(shop: Shop, what: str) -> None:
    with Raw(shop.open()) as client:
        targets = [f"/{what}/{n}" if n % 3 else f"/bytes/{n}" for n in range(40)]
        client.send(b"".join(map(request, targets)))
        for number, target in enumerate(targets):
            assert client.answer().body == (pattern(0, number) if target.startswith("/bytes") else b"%d" % number)
    assert [exchange.target for exchange in shop.seen] == targets


def test_a_request_waits_until_the_one_before_it_is_answered(shop: Shop) -> None:
    with Raw(shop.open()) as client:
        client.send(request("/hold") + request("/bytes/1"))
        shop.loop.wait_until(lambda: len(shop.seen) == 1)
        client.send(request("/bytes/2"))
        shop.loop.do(shop.seen[0].answer, 200)
        assert [len(client.answer().body) for _ in range(3)] == [0, 1, 2]


def test_head_no_content_and_not_modified_have_no_body(shop: Shop) -> None:
    with Raw(shop.open()) as client:
        for target in ("/bytes/1000", "/stream/1000", "/file/1000"):
            assert client.ask(target, "HEAD").headers["content-length"] == "1000"
        answer = client.ask("/chunks/1000", "HEAD")
        assert not {"content-length", "transfer-encoding"} & set(answer.headers)
        for status in (204, 304):
            answer = client.ask(f"/status/{status}")
            assert answer.status == status
            assert not {"content-length", "transfer-encoding"} & set(answer.headers)
        assert client.ask("/bytes/3").body == pattern(0, 3)


def test_a_body_of_unknown_length_is_told_by_chunks(shop: Shop) -> None:
    with Raw(shop.open()) as client:
        for target, size in [("/chunks/0", 0), ("/chunks/350000", 350_000), ("/dribble/1000", 1000)]:
            answer = client.ask(target)
            assert answer.headers["transfer-encoding"] == "chunked"
            assert answer.body == pattern(0, size)
            assert sum(answer.chunks) == size


def test_old_clients_get_no_chunks_and_keep_their_connection_only_if_they_ask(shop: Shop) -> None:
    door = shop.open()
    with Raw(door) as client:
        answer = client.ask("/bytes/10", "GET", "Connection: keep-alive", version="1.0")
        assert (answer.body, answer.headers["connection"]) == (pattern(0, 10), "keep-alive")
        answer = client.ask("/bytes/10", version="1.0")
        assert (answer.body, answer.headers["connection"]) == (pattern(0, 10), "close")
        assert client.is_closed()
    with Raw(door) as client:
        answer = client.ask("/chunks/500000", "GET", "Connection: keep-alive", version="1.0")
        assert (answer.body, answer.headers["connection"]) == (pattern(0, 500_000), "close")
        assert "transfer-encoding" not in answer.headers


def test_a_client_that_wants_to_close_gets_its_answer_first(shop: Shop) -> None:
    door = shop.open()
    for target in ("/bytes/100", "/later/7", "/stream/20000000", "/file/20000000"):
        with Raw(door) as client:
            answer = client.ask(target, "GET", "Connection: close")
            assert (answer.status, answer.headers["connection"]) == (200, "close")
            assert client.is_closed()


@pytest.mark.parametrize("target", ["/stream/20000000", "/file/20000000", "/chunks/20000000", "/file-chunks/20000000"])
def test_long_answers_are_complete_and_what_is_pipelined_behind_them_too(shop: Shop, target: str) -> None:
    with Raw(shop.open()) as client:
        client.send(request(target) * 2 + request("/bytes/5"))
        for size in (20_000_000, 20_000_000, 5):
            assert client.answer().body == pattern(0, size)


def test_a_client_that_says_no_more_still_gets_what_was_begun(shop: Shop) -> None:
    door = shop.open()
    with Raw(door) as client:
        client.send(request("/stream/30000000"))
        client.file.peek(1)
        client.sock.shutdown(socket.SHUT_WR)
        assert client.answer().body == pattern(0, 30_000_000)
        assert client.is_closed()
    with Raw(door) as client:
        client.send(request("/bytes/30000000") + request("/bytes/3"))
        client.file.peek(1)
        client.sock.shutdown(socket.SHUT_WR)
        assert client.answer().body == pattern(0, 30_000_000)
    shop.loop.wait_until(lambda: not door.connections)
    assert not shop.gone


# ---- bodies ----------------------------------------------------------------------------------------------------------


def test_bodies_arrive_as_they_were_sent(shop: Shop) -> None:
    with Raw(shop.open()) as client:
        for size in (0, 1, 1000, 3_000_000):
            body = pattern(0, size)
            assert client.ask("/echo", "PUT", body=body).body == body
            chunked = b"%x\r\n%b\r\n" % (size, body) if size else b""
            client.send(request("/echo", "PUT", "Transfer-Encoding: chunked") + chunked + b"0\r\nX-Sum: 1\r\n\r\n")
            assert client.answer().body == body
            assert shop.seen[-1].trailers == [(b"x-sum", b"1")]
            assert shop.seen[-1].length is None
    assert len(shop.ended) == 8


def test_a_client_is_told_to_go_on_when_its_body_is_wanted_and_not_before(shop: Shop) -> None:
    with Raw(shop.open()) as client:
        client.send(request("/hold", "PUT", "Expect: 100-continue", "Content-Length: 3"))
        shop.loop.wait_until(lambda: len(shop.seen) == 1)
        client.sock.settimeout(0.1)
        with pytest.raises(TimeoutError):
            client.sock.recv(1)
        client.sock.settimeout(10)
        shop.loop.do(shop.on_take, shop.seen[0], 0)
        assert client.sock.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"
        client.send(b"abc")
        shop.loop.wait_until(lambda: len(shop.ended) == 1)
        shop.loop.do(shop.seen[0].answer, 200, [], b"done")
        assert client.answer().body == b"done"
        assert client.ask("/bytes/1").status == 200


def test_a_client_that_does_not_wait_is_not_told(shop: Shop) -> None:
    with Raw(shop.open()) as client:
        assert client.ask("/echo", "PUT", "Expect: 100-continue", body=b"abc").body == b"abc"
        assert client.ask("/echo", "PUT", "Expect: 100-continue", body=b"abc", version="1.0").body == b"abc"


def test_a_body_that_is_not_wanted_is_never_asked_for(shop: Shop) -> None:
    with Raw(shop.open()) as client:
        client.send(request("/status/412", "PUT", "Expect: 100-continue", "Content-Length: 1000"))
        answer = client.refused()  # whether the body comes is unknown: what follows could be it
        assert answer.status == 412


def test_a_small_body_nobody_received_is_dropped_and_the_connection_goes_on(shop: Shop) -> None:
    with Raw(shop.open(Limits(drain_bytes=1000))) as client:
        assert client.ask("/bytes/1", "PUT", body=bytes(1000)).body == pattern(0, 1)
        client.send(request("/bytes/1", "PUT", "Content-Length: 1000") + bytes(10))
        assert client.answer().status == 200
        client.send(bytes(990) + request("/bytes/2"))
        assert client.answer().body == pattern(0, 2)
        client.send(request("/bytes/1", "PUT", body=bytes(1001)))
        assert client.refused().body == pattern(0, 1)


def test_a_chunked_body_nobody_received_closes_the_connection(shop: Shop) -> None:
    with Raw(shop.open()) as client:
        client.send(request("/bytes/1", "PUT", "Transfer-Encoding: chunked") + b"3\r\nabc\r\n")
        assert client.refused().body == pattern(0, 1)


def test_a_client_that_sends_a_long_body_in_vain_gets_its_answer(shop: Shop) -> None:
    with Raw(shop.open()) as client:
        client.send(request("/take-some", "PUT", "Content-Length: 3000000") + bytes(3_000_000))
        assert client.refused().status == 403
    assert not shop.ended
    assert len(shop.heard) == 1


def test_a_handler_that_pauses_holds_its_client_back_and_loses_nothing(shop: Shop) -> None:
    door = shop.open()
    size = 30_000_000
    with Raw(door) as client:
        client.send(request("/take-paused", "PUT", f"Content-Length: {size}"))
        sender = threading.Thread(target=client.send, args=(pattern(0, size),))
        sender.start()
        connection = shop.only(door)
        shop.loop.wait_until(lambda: not connection._reading)
        assert not shop.heard
        assert connection._held < 1 << 20
        exchange = shop.seen[0]

        def pause_each(left: int) -> None:
            exchange.pause()
            exchange.resume()
            if left:
                exchange.pause()
                shop.loop.reactor.callLater(0, pause_each, left - 1)

        shop.loop.do(pause_each, 50)
        shop.loop.wait_until(lambda: len(shop.ended) == 1)
        sender.join(10)
        shop.loop.do(exchange.answer, 200)
        assert client.answer().status == 200
        assert client.ask("/bytes/1").status == 200
    assert b"".join(shop.heard) == pattern(0, size)


def test_a_paused_handler_hears_no_end(shop: Shop) -> None:
    with Raw(shop.open()) as client:
        client.send(request("/take-paused", "PUT"))
        client.send(request("/bytes/1"))
        shop.loop.wait_until(lambda: len(shop.seen) == 1)
        assert not shop.ended
        shop.loop.do(shop.seen[0].resume)
        shop.loop.wait_until(lambda: len(shop.ended) == 1)
        shop.loop.do(shop.seen[0].answer, 200)
        assert [client.answer().body, client.answer().body] == [b"", pattern(0, 1)]


# ---- slow readers ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("target", ["/stream/60000000", "/chunks/60000000", "/dribble/600000"])
def test_a_stream_waits_for_its_reader(shop: Shop, target: str) -> None:
    door = shop.open(Limits(queued_bytes=1 << 20))
    with Raw(door) as client:
        client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 16)
        client.send(request(target))
        connection = shop.only(door)
        shop.loop.wait_until(lambda: bool(shop.seen))
        for _ in range(20):
            with Raw(door) as other:
                assert other.ask("/bytes/10").status == 200
            assert connection.memory_bytes < 1 << 20
        assert client.answer().body == pattern(0, int(target.rpartition("/")[2]))


def test_a_handler_that_ignores_slow_readers_is_stopped(shop: Shop) -> None:
    with Raw(shop.open(Limits(queued_bytes=1 << 20))) as client:
        with pytest.raises(EOFError):
            client.ask("/flood")
        assert not shop.fatal
    with Raw(shop.doors[0]) as client:
        assert client.ask("/bytes/1").status == 200


def test_answers_nobody_reads_stop_the_reading_of_requests(shop: Shop) -> None:
    door = shop.open(Limits(queued_bytes=1 << 20))
    with Raw(door) as client:
        client.send(request("/bytes/300000") * 1000)
        connection = shop.only(door)
        shop.loop.wait_until(lambda: connection.queued_bytes >= 1 << 20)
        count = len(shop.seen)
        for _ in range(20):
            with Raw(door) as other:
                other.ask("/status/200")
        assert len(shop.seen) == count + 20
        assert connection.queued_bytes < 2 << 20
        for _ in range(1000):
            assert len(client.answer().body) == 300_000


# ---- answers that cannot be completed --------------------------------------------------------------------------------


@pytest.mark.parametrize("version", ["1.1", "1.0"])
@pytest.mark.parametrize(
    "target", ["/cut/1000", "/cut/9000000", "/cut-chunks/1000", "/cut-chunks/9000000", "/short-file/9000000"]
)
def test_an_answer_that_is_cut_never_looks_complete(shop: Shop, target: str, version: str) -> None:
    with Raw(shop.open()) as client, pytest.raises((EOFError, ConnectionResetError)):
        client.ask(target, version=version)
    shop.loop.wait_until(lambda: shop.seen[0].closed)


def test_a_handler_s_bug_is_a_500_that_tells_nothing(shop: Shop, capfd: Any) -> None:
    with Raw(shop.open()) as client:
        for target in ("/bug", "/late-bug", "/failing", "/split"):
            answer = client.ask(target + "?X-Amz-Signature=hidden")
            assert answer.status == 500
            assert b"secret" not in answer.body
            assert "x-forged" not in answer.headers
            assert re.search(rb"request id %016x" % shop.seen[-1].trace, answer.body)
        assert client.ask("/bug-in-bytes", "PUT", body=b"abc").status == 500
        assert client.ask("/bytes/1").status == 200
    assert not shop.fatal


@pytest.mark.parametrize("target", ["/bug-in-the-middle", "/too-little", "/too-much"])
def test_a_bug_in_the_middle_of_an_answer_cuts_it(shop: Shop, target: str) -> None:
    with Raw(shop.open()) as client, pytest.raises((EOFError, ConnectionResetError)):
        client.ask(target)


def test_a_broken_invariant_reaches_the_node(shop: Shop) -> None:
    with Raw(shop.open()) as client:
        assert client.ask("/broken").status == 500
        assert len(shop.fatal) == 1


def test_a_handler_hears_once_that_its_client_is_gone(shop: Shop) -> None:
    door = shop.open()
    for target in ("/hold", "/stream/900000000", "/take"):
        with Raw(door) as client:
            client.send(request(target, "PUT", "Content-Length: 1000") + bytes(10))
            shop.loop.wait_until(lambda: len(shop.seen) == 1)
        shop.loop.wait_until(lambda: not door.connections)
        exchange = shop.seen.pop()
        assert shop.gone == [exchange]
        assert exchange.closed
        shop.loop.do(exchange.answer, 200)  # dropped
        shop.loop.do(exchange.cut)
        shop.gone.clear()


@pytest.mark.parametrize("target", ["/hold", "/take-paused"])
def test_a_handler_hears_that_its_client_is_gone_though_nothing_is_read_any_more(shop: Shop, target: str) -> None:
    door = shop.open(Limits(stall_s=0.2))
    with Raw(door) as client:
        client.send(request(target, "PUT", "Content-Length: 200000") + bytes(200_000))
        connection = shop.only(door)
        shop.loop.wait_until(lambda: not connection._reading)
    shop.loop.wait_until(lambda: bool(shop.gone))


def test_what_is_said_after_the_answer_is_dropped(shop: Shop) -> None:
    with Raw(shop.open()) as client:
        assert client.ask("/bytes/10").status == 200
        (exchange,) = shop.seen

        def more() -> None:
            exchange.answer(500)
            exchange.begin(500)
            exchange.data(b"more")
            exchange.end()
            exchange.cut()

        shop.loop.do(more)
        assert client.ask("/bytes/10").body == pattern(0, 10)
    assert not shop.gone


def test_a_body_longer_or_shorter_than_promised_raises(shop: Shop) -> None:
    with Raw(shop.open()) as client:
        client.send(request("/hold"))
        shop.loop.wait_until(lambda: len(shop.seen) == 1)
        shop.loop.do(shop.seen[0].begin, 200, [], 3)
        with pytest.raises(Internal):
            shop.loop.do(shop.seen[0].data, b"four")
        with pytest.raises(EOFError):
            client.answer()


# ---- refusals, metrics, the end ---------------------------------------------------------------------------------------


def test_a_door_says_what_it_refuses_in_its_own_form(shop: Shop) -> None:
    def refusal(status: int, reason: str, trace: int) -> Any:
        return [(b"Content-Type", b"application/json")], json.dumps([status, reason, trace]).encode()

    door = shop.open(refusal=refusal)
    with Raw(door) as client:
        client.send(b"GET /\xff HTTP/1.1\r\nHost: x\r\n\r\n")
        answer = client.refused()
        assert json.loads(answer.body)[0] == answer.status == 400
    with Raw(door) as client:
        answer = client.ask("/bug")
        assert json.loads(answer.body)[0] == answer.status == 500


def test_requests_bytes_and_connections_are_counted(shop: Shop) -> None:
    def totals() -> list[float]:
        door = "counted"
        return [
            metrics.HTTP_REQUESTS(door, "200").value,
            metrics.HTTP_REQUESTS(door, "gone").value,
            metrics.HTTP_BYTES(door, "in").value,
            metrics.HTTP_BYTES(door, "out").value,
            sum(metrics.HTTP_TIME(door).counts),
            metrics.HTTP_CONNECTIONS(door).value,
            metrics.HTTP_REFUSED(door, "400").value,
        ]

    door = shop.open(name="counted")
    before = totals()
    with Raw(door) as client, Raw(door) as bad, Raw(door) as leaver:
        client.ask("/echo", "PUT", body=bytes(1000))
        client.ask("/bytes/50000")
        bad.send(b"nonsense\r\n\r\n")
        bad.refused()
        bad.close()
        leaver.send(request("/hold"))
        shop.loop.wait_until(lambda: len(shop.seen) == 3)
        leaver.close()
        shop.loop.wait_until(lambda: len(door.connections) == 1)
        assert [now - then for now, then in zip(totals(), before, strict=True)] == [2, 1, 1000, 51_000, 3, 1, 1]
    shop.loop.wait_until(lambda: metrics.HTTP_CONNECTIONS("counted").value == 0)


def test_a_door_that_stops_lets_what_is_under_way_end(shop: Shop) -> None:
    door = shop.open()
    with Raw(door) as held, Raw(door) as idle, Raw(door) as sending, Raw(door) as reading:
        held.send(request("/hold") + request("/bytes/1"))
        assert idle.ask("/bytes/1").status == 200
        sending.send(request("/echo", "PUT", "Content-Length: 3") + b"a")
        reading.send(request("/stream/60000000"))
        shop.loop.wait_until(lambda: len(shop.seen) == 4)
        done: list[None] = []
        shop.loop.do(lambda: door.stop(30).addCallback(done.append) and None)
        with pytest.raises(OSError):
            Raw(door)
        with pytest.raises(EOFError):
            idle.answer()
        sending.send(b"bc")
        answer = sending.answer()
        assert (answer.body, answer.headers["connection"]) == (b"abc", "close")
        shop.loop.do(shop.seen[0].answer, 200)
        assert held.answer().headers["connection"] == "close"
        assert held.is_closed()  # what it pipelined was never begun: it may ask again elsewhere
        assert reading.answer().body == pattern(0, 60_000_000)
        for client in (held, sending, reading):
            client.close()
        shop.loop.wait_until(lambda: bool(done))
    assert len(shop.seen) == 4


def test_a_door_that_stops_waits_only_so_long(shop: Shop) -> None:
    door = shop.open()
    with Raw(door) as client:
        client.send(request("/hold"))
        shop.loop.wait_until(lambda: len(shop.seen) == 1)
        shop.loop.do(door.stop, 0.05)
        with pytest.raises(EOFError):
            client.answer()
    assert shop.gone == shop.seen


# ---- TLS -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_https_says_the_same(
    shop: Shop, door_tls: ServerTls, door_authority: Authority, version: ssl.TLSVersion
) -> None:
    context = ssl.create_default_context(cafile=door_authority.ca)
    context.minimum_version = context.maximum_version = version
    with Raw(shop.open(tls=door_tls), context) as client:
        assert client.ask("/bytes/10").body == pattern(0, 10)
        for target in ("/stream/5000000", "/chunks/5000000", "/file/5000000", "/file-chunks/5000000", "/bytes/5000000"):
            assert client.ask(target).body == pattern(0, 5_000_000)
        body = pattern(0, 2_000_000)
        assert client.ask("/echo", "PUT", body=body).body == body
        assert client.sock.version() == {771: "TLSv1.2", 772: "TLSv1.3"}[version]
    assert shop.seen[0].secure


def test_https_is_cut_so_that_it_shows(shop: Shop, door_tls: ServerTls, door_authority: Authority) -> None:
    context = ssl.create_default_context(cafile=door_authority.ca)
    door = shop.open(tls=door_tls)
    for version in ("1.1", "1.0"):
        for target in ("/cut/1000", "/cut-chunks/1000", "/cut-chunks/9000000"):
            with Raw(door, context) as client, pytest.raises((EOFError, OSError)):
                client.ask(target, version=version)


def test_who_speaks_http_at_an_https_door_is_told_so(shop: Shop, door_tls: ServerTls) -> None:
    with Raw(shop.open(tls=door_tls)) as client:
        answer = client.ask("/bytes/1")
        assert answer.status == 400
        assert b"https://" in answer.body
        assert client.is_closed()
    assert not shop.seen


def test_who_speaks_https_at_an_http_door_is_refused_at_once(shop: Shop, door_authority: Authority) -> None:
    with pytest.raises(OSError):
        Raw(shop.open(), ssl.create_default_context(cafile=door_authority.ca))


def test_a_certificate_that_is_renewed_is_shown_to_the_next_client(shop: Shop, tmp_path: Any) -> None:
    old, new = (Authority(str(tmp_path), name) for name in ("old", "new"))
    files = old.issue("server", "localhost")
    door = shop.open(tls=ServerTls(files.certificate, files.key, foreign=True))
    with Raw(door, ssl.create_default_context(cafile=old.ca)) as client:
        new.issue("server", "localhost")
        with Raw(door, ssl.create_default_context(cafile=new.ca)) as other:
            assert other.ask("/bytes/1").status == client.ask("/bytes/1").status == 200


def test_overloaded_is_what_a_flood_raises(shop: Shop) -> None:
    with Raw(shop.open(Limits(queued_bytes=1 << 16))) as client:
        client.send(request("/hold"))
        shop.loop.wait_until(lambda: len(shop.seen) == 1)
        shop.loop.do(shop.seen[0].begin, 200)
        with pytest.raises(Overloaded):
            for _ in range(1000):
                shop.loop.do(shop.seen[0].data, bytes(1 << 20))
        shop.loop.do(shop.seen[0].cut)
