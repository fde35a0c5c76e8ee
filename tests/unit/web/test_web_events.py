"""The door for events: real requests to a real console, well-formed, forged, hostile and too long."""

from __future__ import annotations

import json
import socket
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.threads import blockingCallFromThread

from monofs.testing.reactors import Loop
from monofs.web.console import Console as DoorForOperators
from monofs.web.events import BODY_MAX_BYTES, EventsDoor, read_events
from monofs.web.recording import Standing

Told = list[tuple[str, str, str]]


@pytest.fixture(scope="module")
def reactor() -> Iterator[Any]:
    loop = Loop()
    yield loop.reactor
    loop.stop()


def nobody(*_: Any) -> Any:
    """No cluster is there to be asked: nobody looks."""
    raise AssertionError


class Console:
    """One console with its door for events."""

    def __init__(self, reactor: Any, token: str) -> None:
        self.taken: Told = []
        self.leads = True
        door = EventsDoor(token, self._take)
        self._reactor = reactor
        self._console = DoorForOperators(
            reactor, health=lambda: {"ready": True}, events=door, connect=nobody, own=nobody, standing=Standing, node=dict,
            is_open=True, names=(), history="",
        )  # fmt: skip
        self.port: int = blockingCallFromThread(reactor, self._console.listen, "127.0.0.1", 0)

    def _take(self, events: Sequence[tuple[str, str, str]]) -> bool:
        if self.leads:
            self.taken += events
        return self.leads

    def post(self, body: bytes, **headers: str) -> tuple[int, bytes]:
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}/events", data=body, headers=headers)
        try:
            with urllib.request.urlopen(request, timeout=10) as answer:
                return answer.status, answer.read()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read()

    def raw(self, data: bytes) -> bytes:
        """What is answered to these bytes until the connection ends."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=10) as channel:
            channel.sendall(data)
            answer = b""
            while more := channel.recv(65536):
                answer += more
            return answer

    def close(self) -> None:
        blockingCallFromThread(self._reactor, self._console.stop)


@pytest.fixture
def make_console(reactor: Any) -> Iterator[Callable[..., Console]]:
    consoles: list[Console] = []

    def make(token: str = "") -> Console:
        consoles.append(Console(reactor, token))
        return consoles[-1]

    yield make
    for console in consoles:
        console.close()


def records(*events: tuple[str, str, str, str], source: str = "aws:s3") -> bytes:
    """A body: (event name, bucket, key as sent, etag)."""
    return json.dumps(
        {
            "Records": [
                {
                    "eventVersion": "2.2",
                    "eventSource": source,
                    "eventName": name,
                    "s3": {"bucket": {"name": bucket, "arn": "a"}, "object": {"key": key, "eTag": etag, "size": 3}},
                }
                for name, bucket, key, etag in events
            ]
        }
    ).encode()


def test_events_are_taken_and_counted(make_console: Callable[..., Console]) -> None:
    console = make_console()
    body = records(
        ("ObjectCreated:Put", "lake", "a%2Fb+c/d%C3%A9", "0123"),
        ("s3:ObjectRemoved:Delete", "lake", "gone", ""),
        ("ObjectRestore:Post", "lake", "ignored", ""),
    )
    assert console.post(body) == (200, b'{"taken":2}\n')
    assert console.taken == [("lake", "a/b c/dé", "0123"), ("lake", "gone", "")]


def test_events_wrapped_by_sns_are_unwrapped(make_console: Callable[..., Console]) -> None:
    console = make_console()
    inner = records(("ObjectCreated:Put", "lake", "k", "e")).decode()
    assert console.post(json.dumps({"Type": "Notification", "Message": inner}).encode())[0] == 200
    assert console.taken == [("lake", "k", "e")]


def test_what_is_no_event_is_answered_and_nothing_is_taken(make_console: Callable[..., Console]) -> None:
    console = make_console()
    for body in (
        b'{"Service": "Amazon S3", "Event": "s3:TestEvent", "Bucket": "lake"}',
        b'{"Type": "SubscriptionConfirmation", "Message": "confirm", "SubscribeURL": "http://127.0.0.1:1/"}',
        b'{"Records": []}',
        b"{}",
    ):
        assert console.post(body)[0] == 200
    assert console.taken == []


def test_ceph_keys_are_read_both_ways(make_console: Callable[..., Console]) -> None:
    console = make_console()
    console.post(records(("ObjectCreated:Put", "lake", "a+b%20c", "e"), source="ceph:s3"))
    assert console.taken == [("lake", "a b c", "e"), ("lake", "a+b%20c", "e")]


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"no json",
        b"[]",
        b'{"Records": 5}',
        b'{"Records": [5]}',
        b'{"Records": [{"s3": []}]}',
        b'{"Type": "Notification", "Message": "no json"}',
        b"\xff\xfe",
    ],
)
def test_other_bodies_are_refused(make_console: Callable[..., Console], body: bytes) -> None:
    console = make_console()
    status, said = console.post(body)
    assert status == 400
    assert said.startswith(b"not a notification of S3 events: ")
    assert console.taken == []


def test_with_a_token_only_who_shows_it_is_heard(make_console: Callable[..., Console]) -> None:
    console = make_console("secret")
    body = records(("ObjectCreated:Put", "lake", "k", "e"))
    for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "secret"}, {"Authorization": "Bearer "}):
        status, said = console.post(body, **headers)
        assert status == 401
        assert b"events_token" in said
        assert b"Bearer secret" not in said
    assert console.taken == []
    assert console.post(body, Authorization="Bearer secret")[0] == 200


def test_who_does_not_lead_says_send_again(make_console: Callable[..., Console]) -> None:
    console = make_console()
    console.leads = False
    assert console.post(records(("ObjectCreated:Put", "lake", "k", "e")))[0] == 503


def test_a_body_too_long_is_refused_announced_or_not(make_console: Callable[..., Console]) -> None:
    console = make_console()
    announced = b"POST /events HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % (BODY_MAX_BYTES + 1)
    assert console.raw(announced).startswith(b"HTTP/1.1 413 ")
    chunk = b"10000\r\n" + b"x" * 0x10000 + b"\r\n"
    unannounced = b"POST /events HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n" + chunk * 16
    assert console.raw(unannounced + b"1\r\nx\r\n").startswith(b"HTTP/1.1 413 ")
    assert console.taken == []
    fitting = records(("ObjectCreated:Put", "lake", "k", "e")).ljust(BODY_MAX_BYTES)
    assert console.post(fitting)[0] == 200


def test_other_methods_and_pages_stay_as_they_are(make_console: Callable[..., Console]) -> None:
    console = make_console()
    assert console.raw(b"GET /events HTTP/1.0\r\n\r\n").startswith(b"HTTP/1.0 405 ")
    assert b'{"ready":true}' in console.raw(b"GET /health HTTP/1.0\r\n\r\n")
    assert b'{"live":true}' in console.raw(b"GET /live HTTP/1.0\r\n\r\n")


@given(st.binary(max_size=200) | st.text(max_size=200).map(str.encode))
def test_no_body_breaks_the_reader(body: bytes) -> None:
    try:
        told = read_events(body)
    except (msgspec.MsgspecError, UnicodeError):
        return
    assert all(bucket and key for bucket, key, _ in told)
