"""Headers, frames and records: what was encoded decodes, and nothing else does."""

from __future__ import annotations

import struct
import zlib

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from monofs.journal.face import Entry
from monofs.journal.frames import (
    BLOCK_BYTES,
    BOOK_MAX_BYTES,
    HEADER_MAX_BYTES,
    SegmentHeader,
    decode_frame,
    decode_header,
    decode_records,
    encode_frame,
    encode_header,
    frame_size,
    pack_cut,
    pack_entry,
    pack_membership,
    pack_state,
    unpack_membership,
)
from monofs.journal.outline import Cut
from monofs.journal.raft.messages import HardState, Membership, NodeId
from monofs.model.errors import HomeUnusable, InvariantBroken, JournalCorrupt

relaxed = settings(deadline=None, max_examples=200, suppress_health_check=[HealthCheck.too_slow])
u64 = st.integers(0, 2**64 - 1)
u32 = st.integers(0, 2**32 - 1)
u16 = st.integers(0, 2**16 - 1)
bodies = st.lists(st.tuples(u16, u16, st.binary(max_size=6000)), max_size=8)
ids = st.lists(u64.map(NodeId), max_size=40).map(tuple)
memberships = st.builds(
    Membership, ids, ids, ids, st.binary(max_size=200) | st.integers(3000, BOOK_MAX_BYTES).map(lambda n: b"b" * n)
)
headers = st.builds(
    SegmentHeader,
    serial=u64,
    size=st.integers(0, 2**40).map(lambda n: n * BLOCK_BYTES),
    first_index=u64,
    previous_crc=u32,
    starts_chain=st.booleans(),
    state=st.builds(HardState, u64, u64),
    base_term=u64,
    membership=memberships,
    version=st.just(2),
)


def make_frame(
    entries: list[tuple[int, int, bytes]], *, serial: int = 9, crc: int = 7, first: int = 1, term: int = 3
) -> bytearray:
    parts = []
    for index, fields in enumerate(entries, first):
        entry = Entry(*fields)
        parts += [pack_entry(index, term, entry), entry.body]
    return encode_frame(serial, crc, first, len(entries), parts)[0]


@relaxed
@given(headers)
def test_a_header_comes_back_as_it_was(header: SegmentHeader) -> None:
    block = encode_header(header)
    assert len(block) == header.frames_at
    assert len(block) in (BLOCK_BYTES, HEADER_MAX_BYTES)
    assert decode_header(block) == header
    assert decode_header((block + bytes(HEADER_MAX_BYTES))[:HEADER_MAX_BYTES]) == header
    assert decode_header(block[:-1]) is None


@relaxed
@given(headers, st.data())
def test_a_header_with_any_bit_flipped_is_none(header: SegmentHeader, data: st.DataObject) -> None:
    block = bytearray(encode_header(header))
    bit = data.draw(st.integers(0, len(block) * 8 - 1))
    block[bit // 8] ^= 1 << (bit % 8)
    assert decode_header(bytes(block)) is None


@relaxed
@given(st.binary(max_size=BLOCK_BYTES + 10))
def test_arbitrary_bytes_are_no_header(data: bytes) -> None:
    assert decode_header(data) is None


def test_a_header_of_a_newer_format_is_refused_with_the_reason() -> None:
    block = bytearray(
        encode_header(SegmentHeader(1, BLOCK_BYTES, 1, 0, True, HardState(1, NodeId(1)), 0, Membership(())))
    )
    struct.pack_into(">I", block, 12, 3)
    struct.pack_into(">I", block, 8, zlib.crc32(block[12:]))
    with pytest.raises(HomeUnusable, match="format 3"):
        decode_header(bytes(block))


@relaxed
@given(u64, u32, st.integers(0, 2**63), u64, bodies)
def test_a_frame_comes_back_as_it_was(
    serial: int, crc: int, first: int, term: int, entries: list[tuple[int, int, bytes]]
) -> None:
    data = make_frame(entries, serial=serial, crc=crc, first=first, term=term)
    assert len(data) % BLOCK_BYTES == 0
    assert frame_size(bytes(data[:BLOCK_BYTES])) == len(data)
    frame = decode_frame(bytes(data))
    assert frame is not None
    assert (frame.serial, frame.previous_crc, frame.first_index, frame.size) == (serial, crc, first, len(data))
    records, state, cut = decode_records(frame)
    assert (state, cut) == (None, None)
    assert [(r.number, r.term, tuple(r.entry)) for r in records] == [
        (first + i, term, entry) for i, entry in enumerate(entries)
    ]


def test_hard_state_comes_back_beside_entries() -> None:
    first, second = HardState(8, NodeId(1)), HardState(9, NodeId(2))
    parts = [pack_state(first), pack_entry(5, 8, Entry(1, 1, b"x")), b"x", pack_state(second)]
    frame = decode_frame(bytes(encode_frame(1, 2, 5, 1, parts)[0]))
    assert frame is not None
    records, state, _ = decode_records(frame)
    assert [record.number for record in records] == [5]
    assert state == second


@relaxed
@given(bodies, st.data())
def test_a_frame_with_any_bit_flipped_or_cut_short_is_none(
    entries: list[tuple[int, int, bytes]], data: st.DataObject
) -> None:
    whole = make_frame(entries)
    covered = 36 + sum(25 + len(body) for _, _, body in entries)  # padding carries nothing
    cut = data.draw(st.integers(0, len(whole) - 1))
    assert decode_frame(bytes(whole[:cut])) is None
    bit = data.draw(st.integers(0, covered * 8 - 1))
    whole[bit // 8] ^= 1 << (bit % 8)
    assert decode_frame(bytes(whole)) is None


@relaxed
@given(st.binary(max_size=9000), st.booleans())
def test_arbitrary_bytes_are_no_frame(data: bytes, magic: bool) -> None:
    data = b"mjfr" + data if magic else data
    assert decode_frame(data) is None
    frame_size(data)


@relaxed
@given(st.integers(0, 5), st.lists(st.binary(max_size=60) | st.just(pack_entry(1, 1, Entry(1, 1, b""))), max_size=5))
def test_records_that_contradict_their_frame_are_corrupt_and_nothing_else(entries: int, parts: list[bytes]) -> None:
    frame = decode_frame(bytes(encode_frame(1, 1, 1, entries, parts)[0]))
    assert frame is not None
    try:
        records = decode_records(frame).records
    except JournalCorrupt:
        return
    assert [record.number for record in records] == list(range(1, entries + 1))


@relaxed
@given(memberships)
def test_a_membership_comes_back_as_it_was(membership: Membership) -> None:
    data = pack_membership(membership)
    assert unpack_membership(data) == membership
    assert unpack_membership(data + b"x") is None
    assert unpack_membership(data[:-1]) is None


@relaxed
@given(st.binary(max_size=80))
def test_arbitrary_bytes_are_a_membership_only_if_they_pack_the_same(data: bytes) -> None:
    found = unpack_membership(data)
    assert found is None or pack_membership(found) == data


def test_the_largest_membership_fits_and_a_larger_one_is_a_bug() -> None:
    nodes = tuple(NodeId(n) for n in range(1, 64))
    largest = Membership(nodes, nodes, (), bytes(BOOK_MAX_BYTES))
    header = SegmentHeader(1, BLOCK_BYTES, 1, 0, True, HardState(1, NodeId(1)), 0, largest)
    assert decode_header(encode_header(header)) == header
    assert len(encode_header(header)) == HEADER_MAX_BYTES
    for larger in (largest._replace(book=bytes(BOOK_MAX_BYTES + 1)), largest._replace(learners=(NodeId(99),))):
        with pytest.raises(InvariantBroken):
            pack_membership(larger)


@relaxed
@given(st.integers(1, 2**62), u64, st.integers(0, 1000), memberships)
def test_a_cut_comes_back_at_the_beginning_of_its_frame(
    first: int, term: int, more: int, membership: Membership
) -> None:
    cut = Cut(first, term, first + more, membership)
    entry = Entry(1, 1, b"x")
    state = HardState(term, NodeId(2))
    parts = [pack_cut(cut), pack_state(state), pack_entry(first, term, entry), b"x"]
    frame = decode_frame(bytes(encode_frame(1, 2, first, 1, parts)[0]))
    assert frame is not None
    decoded = decode_records(frame)
    assert (decoded.cut, decoded.state, [record.number for record in decoded.records]) == (cut, state, [first])


@pytest.mark.parametrize(
    ("first_index", "parts"),
    [
        (5, [pack_entry(5, 1, Entry(1, 1, b"")), pack_cut(Cut(5, 1, 9, Membership(())))]),  # behind an entry
        (5, [pack_cut(Cut(5, 1, 9, Membership(()))), pack_cut(Cut(5, 1, 9, Membership(())))]),  # twice
        (5, [pack_cut(Cut(6, 1, 9, Membership(())))]),  # of another index than the frame's
        (5, [pack_cut(Cut(5, 1, 4, Membership(())))]),  # of nothing
        (5, [pack_cut(Cut(5, 1, 9, Membership(())))[:-1] + b"x"]),  # with a membership that is none
    ],
)
def test_a_cut_that_cannot_be_is_corrupt(first_index: int, parts: list[bytes]) -> None:
    entries = sum(part[0] == 0 for part in parts)
    frame = decode_frame(bytes(encode_frame(1, 2, first_index, entries, parts)[0]))
    assert frame is not None
    with pytest.raises(JournalCorrupt):
        decode_records(frame)
