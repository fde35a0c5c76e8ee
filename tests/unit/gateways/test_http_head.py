"""What a head may be, and what a door does not even look at."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from monofs.gateways.http_head import BadRequest, HeadLimits, HeadParser

PARSER = HeadParser(HeadLimits())
LINES = "GET / HTTP/1.1\r\nHost: x\r\n"


def refusal(block: str | bytes, parser: HeadParser = PARSER) -> int:
    with pytest.raises(BadRequest) as raised:
        parser.parse(block.encode("latin-1") if isinstance(block, str) else block)
    assert raised.value.reason
    return raised.value.status


def test_a_head_is_read_as_it_was_sent() -> None:
    head = PARSER.parse(
        b"PUT /bucket/a%20key?partNumber=1&uploadId=x%2By HTTP/1.1\r\nHost: door:39999\r\nX-Amz-Meta-Name:  caf\xe9 \t\r\n"
        b"x-amz-meta-empty:\r\nCONTENT-LENGTH: 12\r\nExpect: 100-Continue\r\n\r\n"
    )
    assert (head.method, head.target, head.minor) == ("PUT", "/bucket/a%20key?partNumber=1&uploadId=x%2By", 1)
    assert head.headers == {
        "host": "door:39999",
        "x-amz-meta-name": "caf\xe9",
        "x-amz-meta-empty": "",
        "content-length": "12",
        "expect": "100-Continue",
    }
    assert (head.length, head.keeps, head.expects) == (12, True, True)


@pytest.mark.parametrize(
    ("line", "keeps"),
    [
        ("GET / HTTP/1.1\r\nHost: x\r\n\r\n", True),
        ("GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", False),
        ("GET / HTTP/1.1\r\nHost: x\r\nConnection: TE,  Close\r\n\r\n", False),
        ("GET / HTTP/1.1\r\nHost: x\r\nConnection: keep-alive\r\nConnection: close\r\n\r\n", False),
        ("GET / HTTP/1.1\r\nHost: x\r\nProxy-Connection: close\r\n\r\n", True),
        ("GET / HTTP/1.1\r\nHost: x\r\nConnection: keep-alive\r\nProxy-Connection: close\r\n\r\n", True),
        ("GET / HTTP/1.0\r\n\r\n", False),
        ("GET / HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n", True),
        ("GET / HTTP/1.0\r\nConnection: keep-alive, close\r\n\r\n", False),
    ],
)
def test_a_connection_goes_on_as_its_version_and_its_client_say(line: str, keeps: bool) -> None:
    assert PARSER.parse(line.encode()).keeps is keeps
    assert PARSER.parse((LINES + "\r\n").encode()).method == "GET"  # nothing of it stays


SAID = st.tuples(
    st.sampled_from(["Connection", "Proxy-Connection", "Upgrade", "Content-Length", "Transfer-Encoding", "Keep-Alive"]),
    st.sampled_from(["close", "keep-alive", "upgrade", "close, upgrade", "h2c", "0", "5", "chunked", "identity", ""]),
)


@given(
    st.sampled_from(["GET", "POST", "OPTIONS", "CONNECT"]),
    st.sampled_from(["1.0", "1.1"]),
    st.lists(SAID, max_size=3),
)
def test_no_head_decides_over_the_next(method: str, version: str, said: list[tuple[str, str]]) -> None:
    lines = "".join(f"{name}: {value}\r\n" for name, value in said)
    with suppress(BadRequest):
        PARSER.parse(f"{method} / HTTP/{version}\r\nHost: x\r\n{lines}\r\n".encode())
    assert PARSER.parse((LINES + "\r\n").encode()).method == "GET"


def test_lengths_are_known_chunked_or_none() -> None:
    for line, length in [("", 0), ("Content-Length: 0\r\n", 0), ("content-length:7\r\n", 7), ("Transfer-Encoding: Chunked\r\n", None)]:  # fmt: skip
        assert PARSER.parse(f"{LINES}{line}\r\n".encode()).length == length


def test_a_target_that_names_its_host_replaces_host() -> None:
    head = PARSER.parse(b"GET http://bucket.door:1/key?list HTTP/1.1\r\nHost: other\r\nA: b\r\n\r\n")
    assert head.target == "/key?list"
    assert head.headers == {"host": "bucket.door:1", "a": "b"}
    assert PARSER.parse(b"GET HTTP://door?list HTTP/1.1\r\nHost: x\r\n\r\n").target == "/?list"
    assert PARSER.parse(b"OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n").target == "*"


def test_clients_that_would_like_another_protocol_are_served_in_this_one() -> None:
    block = f"{LINES}Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA\r\n\r\n"
    for _ in range(3):
        assert PARSER.parse(block.encode()).keeps


@pytest.mark.parametrize(
    "lines",
    [
        # two lengths: a proxy may believe the other one
        "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n",
        "Transfer-Encoding: chunked\r\nContent-Length: 5\r\n",
        "Content-Length: 5\r\nContent-Length: 6\r\n",
        "Content-Length: 5\r\nContent-Length: 5\r\n",
        "Content-Length: 5, 5\r\n",
        "Content-Length: 5, 6\r\n",
        # no length
        "Content-Length: +5\r\n",
        "Content-Length: -5\r\n",
        "Content-Length: 0x5\r\n",
        "Content-Length: 5 5\r\n",
        "Content-Length: 5_0\r\n",
        "Content-Length: \xb2\r\n",
        "Content-Length:\r\n",
        "Content-Length: 99999999999999999999999999\r\n",
        "Content-Length: 9999999999999999999\r\n",
        # codings we do not know, or not for certain
        "Transfer-Encoding: gzip\r\n",
        "Transfer-Encoding: gzip, chunked\r\n",
        "Transfer-Encoding: chunked, gzip\r\n",
        "Transfer-Encoding: identity\r\n",
        "Transfer-Encoding: xchunked\r\n",
        "Transfer-Encoding: \"chunked\"\r\n",
        "Transfer-Encoding: \x0bchunked\r\n",
        "Transfer-Encoding: chunked;q=1\r\n",
        "Transfer-Encoding:\r\n",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
        "Transfer-Encoding: identity\r\nTransfer-Encoding: chunked\r\n",
        # names
        "Content-Length : 5\r\n",
        "Content-Length\t: 5\r\n",
        "Transfer-Encoding : chunked\r\n",
        " Transfer-Encoding: chunked\r\n",
        "A\0: b\r\n",
        "A(b): c\r\n",
        "A\xe9: c\r\n",
        ": c\r\n",
        "c\r\n",
        # folded lines
        "A: b\r\n c\r\n",
        "A: b\r\n\tc\r\n",
        "A: b\r\n \r\n",
        "Transfer-Encoding:\r\n chunked\r\n",
        # line ends and control characters
        "A: b\nC: d\r\n",
        "A: b\rC: d\r\n",
        "A: b\0c\r\n",
        "A: b\x01c\r\n",
        "A: b\x7fc\r\n",
        "\nA: b\r\n",
        # hosts
        "Host: y\r\n",
        "Host: x\r\n",
    ],
)  # fmt: skip
def test_heads_that_others_may_read_otherwise_are_refused(lines: str) -> None:
    assert refusal(f"{LINES}{lines}\r\n") == 400
    assert PARSER.parse((LINES + "\r\n").encode()).method == "GET"  # nothing of it stays


@pytest.mark.parametrize("expected", ["200-ok", ""])
def test_expectations_but_one_mean_nothing(expected: str) -> None:
    head = PARSER.parse(f"PUT / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nExpect: {expected}\r\n\r\n".encode())
    assert (head.length, head.expects) == (1, False)


@pytest.mark.parametrize(
    ("line", "status"),
    [
        ("GET / HTTP/1.1\nHost: x", 400),
        ("GET / HTTP/1.1", 400),  # no Host
        ("GET  / HTTP/1.1\r\nHost: x", 400),
        ("GET /  HTTP/1.1\r\nHost: x", 400),
        (" GET / HTTP/1.1\r\nHost: x", 400),
        ("GET / HTTP/1.1 \r\nHost: x", 400),
        ("GET\t/\tHTTP/1.1\r\nHost: x", 400),
        ("GET /a b HTTP/1.1\r\nHost: x", 400),
        ("GET /caf\xc3\xa9 HTTP/1.1\r\nHost: x", 400),
        ("GET /\0 HTTP/1.1\r\nHost: x", 400),
        ("GET /\x7f HTTP/1.1\r\nHost: x", 400),
        ("GET /a#b HTTP/1.1\r\nHost: x", 400),
        ("GET abc HTTP/1.1\r\nHost: x", 400),
        ("GET * HTTP/1.1\r\nHost: x", 400),
        ("GET http:///a HTTP/1.1\r\nHost: x", 400),
        ("GET http://u:p@h/a HTTP/1.1\r\nHost: x", 400),
        ("GET ftp://h/a HTTP/1.1\r\nHost: x", 400),
        ("GET /", 400),
        ("GET / HTTP/1.1\r\nHost: x\r\n\r", 400),
        ("GET / HTTP/1.2\r\nHost: x", 505),
        ("GET / HTTP/1.10\r\nHost: x", 505),
        ("GET / HTTP/2.0\r\nHost: x", 505),
        ("PRI * HTTP/2.0", 505),
        ("GET / http/1.1\r\nHost: x", 400),
        ("DESCRIBE / RTSP/1.0\r\nHost: x", 400),
        ("get / HTTP/1.1\r\nHost: x", 400),
        ("G\xcbT / HTTP/1.1\r\nHost: x", 400),
        ("PROPFIND / HTTP/1.1\r\nHost: x", 501),
        ("CONNECT a:80 HTTP/1.1\r\nHost: x", 501),
        ("FOO / HTTP/1.1\r\nHost: x", 501),
        ("PUT / HTTP/1.0\r\nTransfer-Encoding: chunked", 400),
        ("PUT / HTTP/1.0\r\nHost: x\r\nHost: x", 400),
    ],
)
def test_first_lines_and_versions_we_do_not_speak_are_refused(line: str, status: int) -> None:
    assert refusal(line + "\r\n\r\n") == status
    assert PARSER.parse((LINES + "\r\n").encode()).method == "GET"


def test_heads_are_bounded() -> None:
    parser = HeadParser(HeadLimits(target_bytes=200, head_bytes=1000, headers=10))
    line = "GET /{} HTTP/1.1\r\nHost: x\r\n\r\n"
    assert parser.parse(line.format("a" * 199).encode()).target == "/" + "a" * 199
    assert refusal(line.format("a" * 200), parser) == 414
    assert refusal(line.format("a" * 2000), parser) == 414
    many = "GET / HTTP/1.1\r\nHost: x\r\n" + "a: b\r\n" * 9 + "\r\n"
    assert parser.parse(many.encode()).headers["a"] == ",".join("b" * 9)
    assert refusal(many[:-2] + "a: b\r\n\r\n", parser) == 431
    long = "GET / HTTP/1.1\r\nHost: x\r\nA: {}\r\n\r\n"
    assert parser.parse(long.format("b" * 968).encode()).method == "GET"
    assert refusal(long.format("b" * 969), parser) == 431
    for begun, status in [(b"GET /" + b"a" * 300, 414), (b"GET / HTTP/1.1\r\nA: " + b"b" * 1000, 431), (b"\x16\x03\x01", 400)]:  # fmt: skip
        with pytest.raises(BadRequest) as raised:
            parser.check_begun(begun)
        assert raised.value.status == status
    parser.check_begun(b"GET / HTTP/1.1\r\nA: " + b"b" * 900)


TOKEN = st.text("abcdefgXYZ0123456789-_.!", min_size=1, max_size=12).filter(
    lambda name: name.lower() not in {"host", "te"}
)
VALUE = st.binary(max_size=30).map(lambda raw: bytes(c for c in raw if c in b"\t" or 32 <= c != 127))


@given(
    st.sampled_from(["GET", "PUT", "DELETE", "HEAD", "POST"]),
    st.text("abc/?&=%20~!*'()", max_size=40),
    st.lists(st.tuples(TOKEN, VALUE), max_size=20),
)
def test_whatever_is_said_well_is_read_as_it_was_said(method: str, path: str, fields: list[tuple[str, bytes]]) -> None:
    lines = b"".join(b"%b:%b\r\n" % (name.encode(), value) for name, value in fields)
    head = PARSER.parse(b"%b /%b HTTP/1.1\r\nHost: x\r\n%b\r\n" % (method.encode(), path.encode(), lines))
    assert (head.method, head.target) == (method, "/" + path)
    said: dict[str, list[str]] = {}
    for name, value in fields:
        said.setdefault(name.lower(), []).append(value.decode("latin-1").strip(" \t"))
    assert head.headers == {"host": "x"} | {name: ",".join(values) for name, values in said.items()}


@given(st.binary(max_size=200))
def test_random_heads_are_refused_and_nothing_else(raw: bytes) -> None:
    for block in (raw, b"GET / HTTP/1.1\r\n" + raw, b"GET / HTTP/1.1\r\nHost: x\r\n" + raw):
        with suppress(BadRequest):
            PARSER.parse(block.replace(b"\r\n\r\n", b"") + b"\r\n\r\n")
    assert PARSER.parse((LINES + "\r\n").encode()).method == "GET"
