"""Digests of one body in threads of their own: each gets all pieces in their order, and what one finds wrong is told once."""

from __future__ import annotations

import hashlib
import os
import queue
from collections.abc import Iterator

import pytest

from monofs.gateways.s3.errors import S3Error
from monofs.gateways.s3.hashing import Hashing
from monofs.testing.reactors import Loop

PIECES = [os.urandom(size) for size in (1 << 20, 5, 300_000, 1 << 20, 1)]


@pytest.fixture(scope="module")
def loop() -> Iterator[Loop]:
    running = Loop()
    yield running
    running.stop()


def test_each_digest_takes_all_pieces_in_their_order(loop: Loop) -> None:
    digests, news = [hashlib.md5(), hashlib.sha256(), hashlib.sha1()], queue.SimpleQueue[None]()
    hashing = Hashing([each.update for each in digests], loop.reactor, lambda: news.put(None), pytest.fail)
    for piece in PIECES:
        loop.do(hashing.take, memoryview(piece))
    while loop.do(lambda: hashing.behind):
        news.get(timeout=30)
    whole = b"".join(PIECES)
    assert [each.hexdigest() for each in digests] == [
        hashlib.new(each.name, whole, usedforsecurity=False).hexdigest() for each in digests
    ]


def test_what_one_digest_finds_wrong_is_told_once_and_ends_all(loop: Loop) -> None:
    failed = queue.SimpleQueue[Exception]()
    taken: list[int] = []

    def refuse(piece: memoryview) -> None:
        taken.append(len(piece))
        raise S3Error("SignatureDoesNotMatch")

    hashing = Hashing([hashlib.md5().update, refuse], loop.reactor, lambda: None, failed.put)

    def take_all() -> None:
        for piece in PIECES:
            hashing.take(memoryview(piece))

    loop.do(take_all)
    error = failed.get(timeout=30)
    assert isinstance(error, S3Error)
    assert error.code == "SignatureDoesNotMatch"
    assert (loop.do(lambda: hashing.behind), taken) == (0, [len(PIECES[0])])
    assert failed.empty()
