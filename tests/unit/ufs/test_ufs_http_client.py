"""HTTP to a store: how answers are framed, when connections are used again, and what no server may do to us."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
from collections.abc import Callable, Iterator

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from monofs.model.errors import UfsBadBody, UfsUnreachable
from monofs.ufs import http_client
from monofs.ufs.http_client import PIECE_BYTES, Server, read_head

REQUEST = b"GET /x HTTP/1.1\r\nhost: h\r\n\r\n"
Script = Callable[[socket.socket, bytes], None]
"""What a server does with a connection once a request has come on it."""


class Scripted:
    """A server on loopback that does as it is told with each request; ``connections`` counts them."""

    def __init__(self) -> None:
        self.connections = 0
        self.script: Script = lambda sock, _: sock.sendall(b"HTTP/1.1 204 No\r\n\r\n")
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()
        host, port = self._listener.getsockname()
        self.server = Server(f"http://{host}:{port}", "the store", ssl.create_default_context(), 5)

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            self._threads.append(threading.Thread(target=self._serve, args=(sock,)))
            self._threads[-1].start()

    def _serve(self, sock: socket.socket) -> None:
        with sock, contextlib.suppress(OSError):
            while True:
                request = b""
                while not request.endswith(b"\r\n\r\n"):
                    got = sock.recv(1)
                    if not got:
                        return
                    request += got
                self.script(sock, request)

    def close(self) -> None:
        self.server.close()
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for thread in self._threads:
            thread.join(10)

    def says(self, *parts: bytes, closes: bool = False) -> None:
        """Answer each request so, a part at a time; ``closes`` the connection then."""

        def script(sock: socket.socket, _: bytes) -> None:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            for part in parts:
                sock.sendall(part)
            if closes:
                sock.shutdown(socket.SHUT_RDWR)

        self.script = script

    def asks(self, method: str = "GET", *, room: int = 0, silence_s: float = 5.0) -> tuple[int, list[bytes]]:
        """Status and pieces of one answer."""
        with self.server.ask(method, REQUEST, (), silence_s, "x", room) as answer:
            return answer.status, [bytes(piece) for piece in answer.pieces()]


@pytest.fixture
def scripted() -> Iterator[Scripted]:
    made = Scripted()
    yield made
    made.close()


@pytest.fixture(scope="module")
def shared() -> Iterator[Scripted]:
    made = Scripted()
    yield made
    made.close()


def test_a_body_comes_in_full_pieces_wherever_the_network_cuts_it(scripted: Scripted) -> None:
    body = bytes(range(256)) * 4096 * 2 + b"end"
    head = f"HTTP/1.1 206 P\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    for cuts in ([head + body], [head[:20], head[20:] + body[:1], body[1:70_000], body[70_000:]]):
        scripted.says(*cuts)
        for room in (0, 5, PIECE_BYTES, len(body)):
            status, pieces = scripted.asks(room=room)
            assert (status, b"".join(pieces)) == (206, body)
            assert [len(piece) for piece in pieces] == [PIECE_BYTES, PIECE_BYTES, 3]
    assert scripted.connections == 1


def test_pieces_that_were_given_out_are_never_written_into_again(scripted: Scripted) -> None:
    sizes = (5, 70_000, 1, 3_000_000, 4096)
    chunks = b"".join(b"%x;why=not\r\n%s\r\n" % (size, bytes([number]) * size) for number, size in enumerate(sizes))
    scripted.says(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: Chunked\r\n\r\n" + chunks + b"0\r\nx-checksum: 1\r\n\r\n")
    with scripted.server.ask("GET", REQUEST, (), 5, "x", 100) as answer:
        pieces = list(answer.pieces())
    assert b"".join(pieces) == b"".join(bytes([number]) * size for number, size in enumerate(sizes))
    assert scripted.asks()[1] == pieces
    assert scripted.connections == 1


def test_a_body_without_a_length_ends_with_its_connection(scripted: Scripted) -> None:
    scripted.says(b"HTTP/1.1 200 OK\r\n\r\n" + b"a" * 10_000, b"b", closes=True)
    for round_ in (1, 2):
        assert b"".join(scripted.asks()[1]) == b"a" * 10_000 + b"b"
        assert scripted.connections == round_


@pytest.mark.parametrize("head", ["HTTP/1.1 204 No\r\n", "HTTP/1.1 304 Same\r\nContent-Length: 7\r\n"])
def test_some_answers_have_no_body_whatever_they_say(scripted: Scripted, head: str) -> None:
    scripted.says(head.encode() + b"\r\n")
    for _ in range(2):
        assert scripted.asks()[1] == []
    scripted.says(b"HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\n")
    assert scripted.asks("HEAD") == (200, [])
    assert scripted.connections == 1


def test_answers_of_100_come_before_the_one_that_counts(scripted: Scripted) -> None:
    scripted.says(
        b"HTTP/1.1 100 Go on\r\n\r\nHTTP/1.1 103 Soon\r\nx: y\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhi"
    )
    assert scripted.asks() == (200, [b"hi"])


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: Close\r\n\r\nhi",
        b"HTTP/1.0 200 OK\r\ncontent-length: 2\r\n\r\nhi",
        b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhi and more",
    ],
)
def test_a_connection_that_is_not_kept_or_says_too_much_is_not_used_again(scripted: Scripted, answer: bytes) -> None:
    scripted.says(answer)
    for round_ in (1, 2):
        assert scripted.asks() == (200, [b"hi"])
        assert scripted.connections == round_


def test_a_connection_whose_answer_was_not_read_is_not_used_again(scripted: Scripted) -> None:
    scripted.says(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhi")
    for round_ in (1, 2):
        with scripted.server.ask("GET", REQUEST, (), 5, "x", 0):
            pass
        assert scripted.connections == round_


@pytest.mark.parametrize("said", [b"", b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nevil"])
def test_a_connection_that_the_server_closed_or_spoke_on_meanwhile_is_not_used(scripted: Scripted, said: bytes) -> None:
    more = threading.Event()

    def speak(sock: socket.socket, _: bytes) -> None:
        sock.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhi")
        more.wait(10)
        sock.sendall(said)
        sock.shutdown(socket.SHUT_WR)

    scripted.script = speak
    assert scripted.asks() == (200, [b"hi"])
    (idle,) = scripted.server._idle
    more.set()
    assert idle.socket.recv(1, socket.MSG_PEEK) == said[:1]  # it has arrived
    assert scripted.asks() == (200, [b"hi"])
    assert scripted.connections == 2


def test_connections_that_are_idle_for_long_are_closed(scripted: Scripted, monkeypatch: pytest.MonkeyPatch) -> None:
    scripted.says(b"HTTP/1.1 204 No\r\n\r\n")
    with scripted.server.ask("GET", REQUEST, (), 5, "x", 0) as first:
        scripted.asks()
        assert list(first.pieces()) == []
    old, fresh = scripted.server._idle
    old.idle_since_s -= http_client.IDLE_S + 1
    scripted.asks()
    assert list(scripted.server._idle) == [fresh]
    assert old.socket.fileno() == -1
    fresh.idle_since_s -= http_client.IDLE_S + 1
    scripted.asks()
    assert (len(scripted.server._idle), scripted.connections) == (1, 3)


def test_a_refusal_that_was_read_keeps_its_connection(scripted: Scripted) -> None:
    scripted.says(b"HTTP/1.1 404 No\r\ncontent-length: 4\r\n\r\ngone")
    for _ in range(2):
        with pytest.raises(LookupError), scripted.server.ask("GET", REQUEST, (), 5, "x", 0) as answer:
            assert list(answer.pieces()) == [b"gone"]
            raise LookupError
    assert scripted.connections == 1


@pytest.mark.parametrize(
    "head",
    [
        b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\ntransfer-encoding: chunked\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\ncontent-length: 3\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: +2\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: gzip, chunked\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length : 2\r\n\r\n",
        b"HTTP/1.1 200 OK\r\na: b\r\n folded: 2\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nnothing\r\n\r\n",
        b"HTTP/1.1 2000 OK\r\n\r\n",
        b"HTTP/2 200\r\n\r\n",
        b"SSH-2.0-x\r\n\r\n",
        b"HTTP/1.1 102 Wait\r\n\r\n" * 20,
        b"HTTP/1.1 200 OK\r\na: " + b"b" * 100_000,
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nhiandmore\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n-2\r\nhi\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n0x2\r\nhi\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n" + b"1" * 10_000,
    ],
)
def test_what_is_framed_in_two_ways_or_none_is_refused(scripted: Scripted, head: bytes) -> None:
    scripted.says(head, closes=True)
    with pytest.raises(UfsBadBody):
        scripted.asks()
    assert not scripted.server._idle


@given(
    st.binary(max_size=200)
    | st.builds(lambda tail: b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n" + tail, st.binary(max_size=80))
)
@example(b"")
@example(b"HTTP/1.1 200 OK\r\n\r\n")
def test_whatever_a_server_sends_ends_in_pieces_or_a_typed_error(shared: Scripted, said: bytes) -> None:
    shared.says(said, closes=True)
    with contextlib.suppress(UfsBadBody, UfsUnreachable):
        shared.asks()


@given(st.binary(max_size=100))
def test_no_bytes_make_the_reader_of_heads_fail_otherwise(noise: bytes) -> None:
    with contextlib.suppress(ValueError):
        read_head(noise)


def test_names_are_lower_case_and_fields_of_one_name_joined() -> None:
    head = read_head(b"HTTP/1.1 200\r\nX-A:1\r\nx-a: \t2 \r\nx-meta: caf\xc3\xa9")
    assert head == (200, {"x-a": "1, 2", "x-meta": "caf\u00c3\u00a9"}, True)


@pytest.mark.parametrize("ends", ["closes", "stops reading"])
@pytest.mark.parametrize("status", [413, 200])
def test_only_a_refusal_of_a_request_that_was_not_read_to_its_end_counts(
    scripted: Scripted, status: int, ends: str
) -> None:
    release = threading.Event()

    def answer_early(sock: socket.socket, _: bytes) -> None:
        sock.sendall(f"HTTP/1.1 {status} Early\r\ncontent-length: 0\r\n\r\n".encode())
        if ends == "closes":
            sock.shutdown(socket.SHUT_RD)
            while sock.recv(1 << 20):  # what was on its way, so that the answer is not reset with it
                pass
        release.wait(30)
        sock.shutdown(socket.SHUT_RDWR)
        raise ConnectionAbortedError

    scripted.script = answer_early
    body = (bytes(1 << 20) for _ in range(64))
    counts = contextlib.nullcontext() if status == 413 else pytest.raises(UfsUnreachable)
    try:
        with counts, scripted.server.ask("PUT", REQUEST, body, 0.2, "x", 0) as answer:
            assert answer.status == 413
            assert list(answer.pieces()) == []
    finally:
        release.set()
    assert not scripted.server._idle


def test_what_ends_a_body_that_is_being_sent_ends_its_connection(scripted: Scripted) -> None:
    def body() -> Iterator[bytes]:
        yield b"half"
        raise OSError("the other half is gone")

    with pytest.raises(OSError, match="other half"), scripted.server.ask("PUT", REQUEST, body(), 5, "x", 0):
        pass
    assert not scripted.server._idle


@pytest.mark.parametrize("before", [b"", b"HTTP/1.1 20", b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhalf"])
def test_silence_ends_in_an_error_that_names_the_store(scripted: Scripted, before: bytes) -> None:
    release = threading.Event()

    def hold(sock: socket.socket, _: bytes) -> None:
        sock.sendall(before)
        release.wait(30)

    scripted.script = hold
    try:
        with pytest.raises(UfsUnreachable, match="the store did not answer in time at x"):
            scripted.asks(silence_s=0.1)
    finally:
        release.set()


def test_an_answer_that_drips_for_ever_ends(scripted: Scripted, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_client, "ANSWER_TIMEOUTS", 0.1)
    release = threading.Event()

    def drip(sock: socket.socket, _: bytes) -> None:
        sock.sendall(b"HTTP/1.1 200 OK\r\nx: ")
        while not release.wait(0.01):
            sock.sendall(b"y")

    scripted.script = drip
    try:
        with pytest.raises(UfsUnreachable, match="did not answer in time"):
            scripted.asks(silence_s=5)
    finally:
        release.set()


@pytest.mark.parametrize(
    ("base", "words"),
    [
        ("http://127.0.0.1:1", "no connection to the store: Connection refused"),
        ("http://does-not-exist.invalid", "host name of the store cannot be resolved"),
        (f"http://{'a' * 80}.example", "host name of the store cannot be resolved"),
    ],
)
def test_what_was_never_sent_is_known_not_to_be_done(base: str, words: str) -> None:
    server = Server(base, "the store", ssl.create_default_context(), 5)
    with pytest.raises(UfsUnreachable, match=words) as told, server.ask("PUT", REQUEST, (), 5, "x", 0):
        pass
    assert told.value.detail["not_done"] == 1


@pytest.mark.parametrize(
    ("base", "host"),
    [
        ("http://h:80", "h"),
        ("https://h:443", "h"),
        ("http://h:443", "h:443"),
        ("https://h", "h"),
        ("http://[::1]:9000", "[::1]:9000"),
    ],
)
def test_the_host_is_named_without_the_port_of_its_scheme(base: str, host: str) -> None:
    assert Server(base, "", ssl.create_default_context(), 5).host == host
