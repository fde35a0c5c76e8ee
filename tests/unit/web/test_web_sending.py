"""Files as answers: one piece in memory, nothing open for ever, a part where one is asked for, and no half a file that looks whole."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.web.test.requesthelper import DummyChannel, DummyRequest

from monofs.model.errors import NoMaster
from monofs.web.contents import PIECE_BYTES, sent_of
from monofs.web.sending import STALLED_S, Sending, Sent, read_range


class Channel(DummyChannel.TCP):
    is_aborted = False

    def abortConnection(self) -> None:
        self.is_aborted = True


class Asked(DummyRequest):
    producer: Any = None

    def registerProducer(self, producer: Any, streaming: bool) -> None:
        assert streaming
        self.producer = producer

    def unregisterProducer(self) -> None:
        self.producer = None


class Threads:
    """Functions wait here until they are run."""

    def __init__(self) -> None:
        self.waiting: list[tuple[Any, Any, Deferred[Any]]] = []

    def run(self, function: Any, *arguments: Any) -> Deferred[Any]:
        later: Deferred[Any] = Deferred()
        self.waiting.append((function, arguments, later))
        return later

    def step(self) -> None:
        function, arguments, later = self.waiting.pop(0)
        try:
            value = function(*arguments)
        except Exception as error:
            later.errback(error)
        else:
            later.callback(value)

    def all(self) -> None:
        while self.waiting:
            self.step()


class File:
    """An open file of so many bytes, of which it ``gives`` only the first."""

    content = 7

    def __init__(self, size: int, *, gives: int | None = None) -> None:
        self.data = bytes(at % 251 for at in range(min(size, 5000))) + bytes(max(0, size - 5000))
        self.size, self._gives = size, size if gives is None else gives
        self.closed = self.read = 0

    def pread(self, offset: int, size: int) -> bytes:
        assert not self.closed
        self.read += 1
        return self.data[offset : min(offset + size, self._gives)]

    def close(self) -> None:
        self.closed += 1


class House:
    def __init__(self, sent: Sent, *, method: bytes = b"GET", **headers: str) -> None:
        self.threads, self.clock = Threads(), Clock()
        self.request: Any = Asked([])
        self.request.method, self.request.transport = method, Channel()
        for name, value in headers.items():
            self.request.requestHeaders.setRawHeaders(name.replace("_", "-").encode(), [value.encode()])
        self.sending = Sending(self.request, sent, "ann", self.threads.run, self.clock)
        self.sending.begin()

    def header(self, name: bytes) -> bytes | None:
        values = self.request.responseHeaders.getRawHeaders(name)
        return values[0] if values else None

    @property
    def written(self) -> bytes:
        return b"".join(self.request.written)


def made(*data: bytes, end: Exception | None = None, closed: list[int] | None = None) -> Sent:
    def pieces(*_: int) -> Iterator[bytes]:
        yield from data
        if end is not None:
            raise end

    return Sent("a b.bin", 6, pieces, close=lambda: closed.append(1) if closed is not None else None)


def test_pieces_leave_one_at_a_time_and_the_file_has_its_name_and_length():
    house = House(made(b"ab", b"cd", b"ef"))
    assert house.header(b"content-length") == b"6"
    assert house.header(b"content-disposition") == b"attachment; filename=\"a b.bin\"; filename*=UTF-8''a%20b.bin"
    assert len(house.threads.waiting) == 1
    house.threads.step()
    assert (house.written, len(house.threads.waiting)) == (b"ab", 1)
    house.threads.all()
    assert house.written == b"abcdef"
    assert (house.sending.state, house.sending.sent_bytes, house.request.finished) == ("sent", 6, 1)
    assert not house.clock.getDelayedCalls()


def test_a_full_connection_is_given_nothing_more_until_it_drains():
    house = House(made(b"ab", b"cd", b"ef"))
    house.threads.step()
    house.sending.pauseProducing()
    house.threads.step()  # what was asked for before
    assert not house.threads.waiting
    assert house.sending.sent_bytes == 4
    house.sending.resumeProducing()
    assert len(house.threads.waiting) == 1


def test_a_reader_that_takes_nothing_is_dropped_in_time_and_its_source_closed():
    closed: list[int] = []
    house = House(made(b"ab", b"cd", b"ef", closed=closed))
    house.sending.pauseProducing()
    house.threads.step()
    house.clock.advance(STALLED_S + 1)
    assert house.request.transport.is_aborted
    assert house.sending.state.startswith("dropped")
    house.threads.all()
    assert closed == [1]
    assert not house.request.finished


def test_a_source_that_breaks_breaks_the_connection():
    closed: list[int] = []
    house = House(made(b"ab", b"cd", end=NoMaster("nobody answers"), closed=closed))
    house.threads.all()
    assert house.request.transport.is_aborted
    assert not house.request.finished
    assert house.sending.state == "broken: nobody answers"
    assert closed == [1]


def test_a_reader_that_goes_while_a_piece_is_made_closes_the_source_after_it():
    closed: list[int] = []
    house = House(made(b"ab", b"cd", b"ef", closed=closed))
    house.sending.stopProducing()
    assert not closed
    house.threads.step()
    assert not closed, "a thread was at it"
    house.threads.all()
    assert closed == [1]
    assert house.written == b""
    assert house.sending.state == "given up by its reader"


@pytest.mark.parametrize("size", [0, 1, PIECE_BYTES, 2 * PIECE_BYTES + 5])
def test_a_file_of_the_tree_goes_out_whole_and_is_given_back(size):
    file = File(size)
    house = House(sent_of(file, "/lake/a", "text/plain"))
    house.threads.all()
    assert (house.written, house.request.finished, file.closed) == (file.data, 1, 1)
    assert house.header(b"content-length") == str(size).encode()
    assert house.header(b"accept-ranges") == b"bytes"
    assert b"sandbox" in (house.header(b"content-security-policy") or b"")


def test_a_head_tells_length_and_version_and_reads_nothing():
    file = File(5 * PIECE_BYTES)
    house = House(sent_of(file, "/lake/a", "text/plain"), method=b"HEAD")
    house.threads.all()
    assert (house.written, house.request.finished, file.closed, file.read) == (b"", 1, 1, 0)
    assert house.header(b"content-length") == str(5 * PIECE_BYTES).encode()
    assert house.header(b"etag")


def test_a_file_that_ends_before_its_length_is_cut_never_finished():
    file = File(3 * PIECE_BYTES, gives=PIECE_BYTES)
    house = House(sent_of(file, "/lake/a", "text/plain"))
    house.threads.all()
    assert (house.request.transport.is_aborted, house.request.finished, file.closed) == (True, 0, 1)


def test_a_file_that_changed_while_it_was_opened_is_cut():
    file = File(10)
    house = House(sent_of(file, "/lake/a", "text/plain"))
    file.content = 8
    house.threads.all()
    assert (house.request.transport.is_aborted, house.written) == (True, b"")
    assert "changed" in house.sending.state


@pytest.mark.parametrize(
    ("wanted", "begin", "end"),
    [("bytes=0-9", 0, 10), ("bytes=10-", 10, 3000), ("bytes=-5", 2995, 3000), ("bytes=-9999", 0, 3000), ("bytes=2990-9999", 2990, 3000)],
)  # fmt: skip
def test_a_part_is_sent_where_one_is_asked_for(wanted, begin, end):
    file = File(3000)
    house = House(sent_of(file, "/lake/a", "text/plain"), range=wanted)
    house.threads.all()
    assert (house.request.responseCode, house.written, file.closed) == (206, file.data[begin:end], 1)
    assert house.header(b"content-range") == b"bytes %d-%d/3000" % (begin, end - 1)
    assert house.header(b"content-length") == str(end - begin).encode()


@pytest.mark.parametrize("wanted", ["bytes=3000-", "bytes=4000-5000", "bytes=-0"])
def test_a_part_that_is_not_there_is_said_not_to_be(wanted):
    file = File(3000)
    house = House(sent_of(file, "/lake/a", "text/plain"), range=wanted)
    house.threads.all()
    assert (house.request.responseCode, house.written, file.closed) == (416, b"", 1)
    assert house.header(b"content-range") == b"bytes */3000"


@pytest.mark.parametrize(
    "wanted", ["bytes=0-1,5-6", "bytes=5-2", "bytes=-", "lines=1-2", "bytes=a-b", "bytes=" + "9" * 30 + "-"]
)
def test_another_range_is_ignored(wanted):  # fmt: skip
    house = House(sent_of(File(3000), "/lake/a", "text/plain"), range=wanted)
    house.threads.all()
    assert (len(house.written), house.header(b"content-range")) == (3000, None)


def test_a_download_that_goes_on_gets_the_rest_of_the_same_version_or_all_of_the_new_one():
    tag = House(sent_of(File(30), "/a", "text/plain"), method=b"HEAD").header(b"etag") or b""
    rest = House(sent_of(File(30), "/a", "text/plain"), range="bytes=20-", if_range=tag.decode())
    rest.threads.all()
    assert len(rest.written) == 10
    changed = File(30)
    changed.content = 8
    anew = House(sent_of(changed, "/a", "text/plain"), range="bytes=20-", if_range=tag.decode())
    anew.threads.all()
    assert (len(anew.written), anew.header(b"content-range")) == (30, None)


@given(st.text(alphabet="bytes=0123456789-, ", max_size=40), st.integers(0, 1 << 40))
def test_whatever_is_asked_for_lies_in_the_file(text, size):
    part = read_range(text, size)
    assert part is None or 0 <= part[0] <= part[1] <= size
