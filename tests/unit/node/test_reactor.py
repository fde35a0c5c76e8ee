"""The reactor of nodes: what a handler raises ends its own connection, and nobody else's."""

from __future__ import annotations

import socket
from typing import Any

from monofs.testing.reactors import Loop


class Reader:
    """One end of a pair of sockets."""

    def __init__(self, *, fails: bool) -> None:
        self.far, self.sock = socket.socketpair()
        self.sock.setblocking(False)
        self.fails = fails
        self.heard = b""
        self.lost: Any = None

    def fileno(self) -> int:
        return self.sock.fileno()

    def logPrefix(self) -> str:
        return "reader"

    def doRead(self) -> None:
        if self.fails:
            raise ZeroDivisionError("a bug")
        self.heard += self.sock.recv(100)

    def connectionLost(self, reason: Any) -> None:
        self.lost = reason.value

    def close(self) -> None:
        self.far.close()
        self.sock.close()


def test_what_a_reader_raises_ends_that_reader_only() -> None:
    loop = Loop()
    good, bad = Reader(fails=False), Reader(fails=True)
    try:
        for reader in (bad, good):
            loop.do(loop.reactor.addReader, reader)
            reader.far.send(b"a word")
        loop.wait_until(lambda: bad.lost is not None and good.heard == b"a word")
        assert isinstance(bad.lost, ZeroDivisionError)
        good.far.send(b", and another")
        loop.wait_until(lambda: good.heard == b"a word, and another")
        assert loop.do(loop.reactor.getReaders).count(bad) == 0
        good.far.close()
        loop.do(loop.reactor.removeReader, good)
    finally:
        loop.stop()
        good.close()
        bad.close()
