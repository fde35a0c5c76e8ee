"""Frames: any chopping of a stream gives the same frames, and nothing is kept for what will be refused."""

from __future__ import annotations

import inspect
from itertools import pairwise

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from monofs.model import errors
from monofs.model.errors import FrameTooLarge, NotFound, ProtocolError
from monofs.rpc import api, handshake
from monofs.rpc.frames import (
    HEADER_BYTES,
    LAST_KIND,
    Frame,
    Kind,
    Splitter,
    decode_error,
    encode_error,
    pack,
    pack_header,
)

LIMIT = 500
frames = st.builds(
    Frame,
    st.integers(0, LAST_KIND),
    st.integers(0, 16),
    st.integers(0, 0xFFFF),
    st.integers(0, 0xFFFFFFFF),
    st.integers(0, 0xFFFFFFFF),
    st.integers(0, 0xFFFFFFFFFFFFFFFF),
    st.binary(max_size=LIMIT),
)


def packed(frame: Frame) -> bytes:
    return pack(
        frame.kind,
        frame.method,
        frame.request,
        frame.body,
        deadline_ms=frame.deadline_ms,
        trace=frame.trace,
        descriptors=frame.descriptors,
    )


def chopped(stream: bytes, cuts: list[int]) -> list[bytes]:
    edges = sorted({0, len(stream), *(cut % (len(stream) + 1) for cut in cuts)})
    return [stream[start:end] for start, end in pairwise(edges)]


@given(st.lists(frames, max_size=6), st.lists(st.integers(0, 10_000), max_size=40))
def test_any_chopping_gives_the_same_frames(sent: list[Frame], cuts: list[int]) -> None:
    splitter = Splitter(LIMIT)
    got = [frame for piece in chopped(b"".join(map(packed, sent)), cuts) for frame in splitter.feed(piece)]
    assert got == sent
    assert splitter.error is None
    assert splitter.held_bytes == 0


@given(st.lists(frames, max_size=3), st.binary(max_size=200), st.lists(st.integers(0, 10_000), max_size=40))
def test_any_chopping_of_garbage_ends_the_same_way_in_bounded_memory(
    sent: list[Frame], garbage: bytes, cuts: list[int]
) -> None:
    stream = b"".join(map(packed, sent)) + garbage
    whole, bytewise = Splitter(LIMIT), Splitter(LIMIT)
    expected = whole.feed(stream)
    got = []
    for piece in chopped(stream, cuts):
        got += bytewise.feed(piece)
        assert bytewise.held_bytes <= LIMIT + HEADER_BYTES
    assert got == expected
    assert str(bytewise.error) == str(whole.error)


def test_a_huge_length_is_refused_after_four_bytes() -> None:
    splitter = Splitter(LIMIT)
    assert splitter.feed(b"\xff\xff\xff\xff") == []
    assert isinstance(splitter.error, FrameTooLarge)
    assert splitter.held_bytes == 0
    assert splitter.feed(packed(Frame(1, 0, 1, 1, 0, 0, b""))) == []


@pytest.mark.parametrize("size", [LIMIT - 1, LIMIT, LIMIT + 1])
def test_the_bound_is_exact(size: int) -> None:
    splitter = Splitter(LIMIT)
    got = splitter.feed(pack(Kind.REQUEST, 1, 1, bytes(size)))
    assert [len(frame.body) for frame in got] == ([size] if size <= LIMIT else [])
    assert (splitter.error is None) == (size <= LIMIT)


def test_frames_before_a_bad_one_are_still_delivered() -> None:
    splitter = Splitter(LIMIT)
    good = pack(Kind.REQUEST, 1, 1, b"x")
    assert len(splitter.feed(good + good + b"GET / HTTP/1.1\r\n\r\n" + bytes(30))) == 2
    assert isinstance(splitter.error, FrameTooLarge)


@pytest.mark.parametrize(
    "header",
    [
        pack_header(19, 1, 0, 0, 0, 0, 0),
        pack_header(20, LAST_KIND + 1, 0, 0, 0, 0, 0),
        pack_header(20, 1, 17, 0, 0, 0, 0),
    ],
    ids=["short", "unknown kind", "too many descriptors"],
)
def test_a_header_that_makes_no_sense_is_a_protocol_error(header: bytes) -> None:
    splitter = Splitter(LIMIT)
    assert splitter.feed(header) == []
    assert isinstance(splitter.error, ProtocolError)


def test_a_long_frame_in_many_pieces_is_not_copied_again_for_each() -> None:
    splitter = Splitter(16 << 20)
    frame = pack(Kind.ANSWER, 1, 1, bytes(8 << 20))
    got = [f for start in range(0, len(frame), 1024) for f in splitter.feed(frame[start : start + 1024])]
    assert len(got[0].body) == 8 << 20


def test_errors_cross_the_wire_with_class_text_and_detail() -> None:
    got = decode_error(encode_error(NotFound("no /a", path="/a", size=3, none=None)))
    assert type(got) is NotFound
    assert (str(got), got.detail) == ("no /a", {"path": "/a", "size": 3, "none": None})


@pytest.mark.parametrize("cls", errors.BY_CODE.values(), ids=lambda cls: cls.__name__)
def test_every_error_class_crosses_the_wire(cls: type[errors.MonofsError]) -> None:
    assert type(decode_error(encode_error(cls("text")))) is cls


@given(st.binary(max_size=100))
def test_an_unreadable_error_is_a_protocol_error_not_a_crash(body: bytes) -> None:
    assert isinstance(decode_error(body), errors.MonofsError)


MESSAGES = [
    cls
    for module in (api, handshake)
    for cls in vars(module).values()
    if inspect.isclass(cls) and issubclass(cls, api.Message) and cls is not api.Message
]
msgpack_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(1 << 63), (1 << 64) - 1) | st.floats() | st.text() | st.binary(),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text() | st.integers(0, 99), inner, max_size=3),
    max_leaves=20,
)


@settings(max_examples=300)
@given(st.sampled_from(MESSAGES), st.binary(max_size=200) | msgpack_values.map(msgspec.msgpack.encode))
def test_decoders_take_any_bytes_and_raise_nothing_but_value_errors(cls: type[api.Message], body: bytes) -> None:
    try:
        message = msgspec.msgpack.decode(body, type=cls)
    except (ValueError, RecursionError):
        return
    assert isinstance(message, cls)


@pytest.mark.parametrize("cls", MESSAGES, ids=lambda cls: cls.__name__)
def test_every_message_decoder_refuses_bombs(cls: type[api.Message]) -> None:
    for bomb in (
        b"\xdd\xff\xff\xff\xff",
        b"\x91" * 100_000,
        b"\xdf\xff\xff\xff\xff",
        b"\xc6\xff\xff\xff\xff",
    ):
        with pytest.raises((ValueError, RecursionError)):
            msgspec.msgpack.decode(bomb, type=cls)


@given(st.integers(0, 3 * LIMIT), st.lists(st.integers(0, 4 * LIMIT), max_size=8))
def test_what_a_frame_that_has_begun_still_lacks_is_known(size: int, cuts: list[int]) -> None:
    splitter = Splitter(3 * LIMIT)
    left = len(stream := pack(Kind.REQUEST, 1, 1, bytes(size)))
    for piece in chopped(stream, cuts):
        got = splitter.feed(piece)
        left -= len(piece)
        assert splitter.missing_bytes <= left
        if HEADER_BYTES <= len(stream) - left < len(stream):
            assert splitter.missing_bytes == left
    assert splitter.missing_bytes == 0
    assert [bytes(frame.body) for frame in got] == [bytes(size)]


@pytest.mark.parametrize("first", [1 << 20, 1000], ids=["in one read", "in two"])
def test_a_long_body_stays_where_it_arrived(first: int) -> None:
    splitter = Splitter(1 << 20)
    frame = pack(Kind.REQUEST, 1, 1, bytes(100_000))
    (*_, got) = splitter.feed(frame[:first]) + splitter.feed(frame[first:])
    assert isinstance(got.body, memoryview)
    assert got.body == bytes(100_000)


def test_a_body_that_is_little_of_a_read_does_not_keep_all_of_it() -> None:
    splitter = Splitter(1 << 20)
    got = splitter.feed(pack(Kind.REQUEST, 1, 1, bytes(40_000)) + pack(Kind.REQUEST, 1, 2, bytes(100_000)))
    assert [type(frame.body) for frame in got] == [bytes, memoryview]
