"""A body on its way into the door: what it costs to hold, and a client that left before it was asked for it."""

from __future__ import annotations

import hashlib
import os
import tracemalloc
from collections.abc import Callable

import pytest
from twisted.internet import reactor
from twisted.internet.defer import Deferred

from monofs.gateways.s3.asking import ANYBODY, Asked
from monofs.gateways.s3.errors import S3Error
from monofs.gateways.s3.head import read_head
from monofs.gateways.s3.receiving import Receiving
from monofs.gateways.s3.requests import read_request
from monofs.gateways.s3.signing import Signed
from monofs.model.sigv4 import UNSIGNED

SIZE = 300_000


class Sender:
    """An exchange as far as a body on its way in sees it."""

    closed = False

    def on_gone(self, callback: Callable[[], None]) -> None:
        self.gone = callback

    def receive(
        self,
        on_bytes: Callable[[memoryview], None],
        on_end: Callable[[], None],
        space: Callable[[], memoryview | None] | None = None,
    ) -> None:
        self.send, self.end, self.space = on_bytes, on_end, space

    def pause(self) -> None:
        """Sends on."""

    resume = pause


def receiving_of(sender: Sender, payload: str, **headers: str) -> Receiving:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    head = read_head("PUT", "/b/k", {"host": "x", **named})
    asked = Asked(sender, read_request(head), Signed("K", payload, None), ANYBODY, None, {})  # type: ignore[arg-type]
    return Receiving(asked, reactor)


def read_all(receiving: Receiving) -> bytes:
    async def read() -> bytes:
        gathered, last = b"", False
        while not last:
            piece, last = await receiving.read()
            gathered += piece
        return gathered

    found: list[bytes] = []
    Deferred.fromCoroutine(read()).addCallback(found.append)
    return found[0]


@pytest.mark.parametrize("form", ["segments", "chunks"])
def test_a_body_in_single_bytes_costs_little_more_than_its_bytes(form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("monofs.gateways.s3.receiving.INLINE_BYTES", SIZE)
    sender = Sender()
    data = bytes(n % 251 for n in range(SIZE))
    if form == "segments":
        receiving = receiving_of(sender, UNSIGNED, content_length=str(SIZE))
        sent = [data[at : at + 1] for at in range(SIZE)]
    else:
        receiving = receiving_of(
            sender, "STREAMING-UNSIGNED-PAYLOAD-TRAILER", **{"x-amz-decoded-content-length": str(SIZE)}
        )
        sent = [b"".join(b"1\r\n%c\r\n" % byte for byte in data) + b"0\r\n\r\n"]
    receiving.begin()
    tracemalloc.start()
    for each in sent:
        sender.send(memoryview(each))
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    sender.end()
    assert read_all(receiving) == data
    assert held < 3 * SIZE


def test_who_left_before_his_body_was_asked_for_holds_up_nobody() -> None:
    sender = Sender()
    receiving = receiving_of(sender, UNSIGNED, content_length="10")
    sender.closed = True
    receiving.begin()
    failed: list[object] = []
    Deferred.fromCoroutine(receiving.read()).addErrback(failed.append)
    assert [type(each.value) for each in failed] == [S3Error]  # type: ignore[attr-defined]


def test_the_more_bodies_come_the_less_each_holds() -> None:
    class Stopping(Sender):
        paused = False

        def pause(self) -> None:
            self.paused = True

        def resume(self) -> None:
            self.paused = False

    senders = [Stopping() for _ in range(8000)]
    crowd = [receiving_of(sender, UNSIGNED, content_length="300000") for sender in senders]
    for receiving in crowd:
        receiving.begin()
    held = 0
    while not senders[-1].paused:
        senders[-1].send(memoryview(bytes(30_000)))
        held += 30_000
    assert held < 150_000
    found: list[tuple[memoryview, bool]] = []
    Deferred.fromCoroutine(crowd[-1].read()).addCallback(found.append)
    assert 0 < len(found[0][0]) < held, "what came is handed on, though it is less than a whole piece"


def test_bodies_that_come_at_the_same_time_stay_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pages are used again, read into or copied to; what was taken of one body is not another's before it is let go."""
    monkeypatch.setattr("monofs.gateways.s3.receiving.INLINE_BYTES", 1 << 30)
    size, step = (5 << 19) + 7, 100_000
    for _ in range(3):
        senders = [Sender() for _ in range(6)]
        bodies = [os.urandom(size) for _ in senders]
        receivings = [receiving_of(sender, UNSIGNED, content_length=str(size)) for sender in senders]
        for receiving in receivings:
            receiving.begin()
        for at in range(0, size, step):
            for number, (sender, body) in enumerate(zip(senders, bodies, strict=True)):
                piece = memoryview(body)[at : at + step]
                while piece and number % 2:
                    assert sender.space is not None
                    space = sender.space()
                    assert space is not None
                    into = space[: len(piece)]
                    into[:] = piece[: len(into)]
                    sender.send(into)
                    piece = piece[len(into) :]
                if piece:
                    sender.send(piece)
        for sender in senders:
            sender.end()
        assert [read_all(receiving) for receiving in receivings] == bodies
        assert [receiving.etag for receiving in receivings] == [hashlib.md5(body).hexdigest() for body in bodies]
        for receiving in receivings:
            receiving.stop()
