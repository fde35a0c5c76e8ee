"""The bytes of a journal: segment headers, frames and records, encoded and decoded without touching a file.

A segment is a header and then frames; everything begins on a 4,096-byte boundary, so a block that was acknowledged is never
written again. A frame is what one fdatasync made durable: it names its segment's serial, the CRC of the frame before it, the index of
its first entry and its length, and ends the chain with its own CRC. All integers are big-endian. docs/formats/journal.md is the
specification. Invariant: bytes that were not encoded here as a whole never decode as a frame, up to the strength of CRC-32. Deciding
what a damaged frame *means* (torn tail or corruption) is not here: see recovery.py.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence
from enum import IntEnum
from typing import NamedTuple

from monofs.journal.face import ENTRY_MAX_BYTES, Entry
from monofs.journal.outline import Cut
from monofs.journal.raft.messages import MAX_MEMBERS, HardState, Membership, NodeId, Position
from monofs.model.errors import HomeUnusable, JournalCorrupt, invariant

FORMAT_VERSION = 2
BLOCK_BYTES = 4096
"""Unit of alignment: headers and frames begin on multiples of it and are padded to it with zeros."""

_HEADER_MAGIC = b"monofsjn"
_HEADER_SUM = struct.Struct(">8sI")  # magic, CRC of the rest of the block: the same in every version to come
_HEADER = struct.Struct(">IQQQIIQQ")
_HEADER_STARTS_CHAIN = 1
_VOTERS = struct.Struct(">H")  # version 1: how many ids follow
_OPENING = struct.Struct(">QIH")  # base term, CRC of the blocks behind the first, bytes of the membership that follows
_OPENING_AT = _HEADER_SUM.size + _HEADER.size
_ID = struct.Struct(">Q")
_MEMBERSHIP = struct.Struct(">HHHH")  # voters, outgoing, learners, bytes of the book
_IDS_MAX = 2 * MAX_MEMBERS

BOOK_MAX_BYTES = 4096
"""Most bytes of a membership's book of addresses."""

MEMBERSHIP_MAX_BYTES = _MEMBERSHIP.size + _IDS_MAX * _ID.size + BOOK_MAX_BYTES
HEADER_MAX_BYTES = -(-(_OPENING_AT + _OPENING.size + MEMBERSHIP_MAX_BYTES) // BLOCK_BYTES) * BLOCK_BYTES

_FRAME_MAGIC = b"mjfr"
_FRAME = struct.Struct(">4sQIQII")  # magic, serial, previous CRC, first index, entries, payload bytes
_CRC = struct.Struct(">I")
_FRAME_HEAD_BYTES = _FRAME.size + _CRC.size

_RECORD = struct.Struct(">BHHIQQ")  # type, kind, version, body bytes, term, index
_LAST = struct.Struct(">Q")
RECORD_BYTES = _RECORD.size
FRAME_OVERHEAD_BYTES = _FRAME_HEAD_BYTES
NOT_ENTRIES_MAX_BYTES = 2 * RECORD_BYTES + _ID.size + _LAST.size + MEMBERSHIP_MAX_BYTES
"""Most bytes a frame holds besides entries: a cut and a hard state."""

KIND_EMPTY = 0xFF00
KIND_MEMBERSHIP = 0xFF01
KINDS_RESERVED = range(0xFF00, 0xFF10)
"""Kinds of entries that are the journal's own; no state machine uses them."""


class RecordType(IntEnum):
    """What a record is."""

    ENTRY = 0
    STATE = 1
    CUT = 2


class SegmentHeader(NamedTuple):
    """What opens a segment: one block, or two with a large book.

    ``size`` is the length of the file in bytes. ``starts_chain``: this segment begins the log; whatever lies in segments before it
    was discarded, and ``previous_crc`` is 0. ``base_term`` is the term of the entry before ``first_index`` (0: none, or not known, as in
    version 1), ``membership`` the one in force there, both as of the opening: a cut in the first frame may reach below.
    """

    serial: int
    size: int
    first_index: int
    previous_crc: int
    starts_chain: bool
    state: HardState
    base_term: int
    membership: Membership
    version: int = FORMAT_VERSION

    @property
    def base(self) -> Position:
        """The position before ``first_index``."""
        return Position(self.first_index - 1, self.base_term)

    @property
    def frames_at(self) -> int:
        """The byte where frames begin."""
        return BLOCK_BYTES if self.version < 2 else _header_bytes(len(pack_membership(self.membership)))


class Record(NamedTuple):
    """One entry as the log holds it."""

    number: int
    term: int
    entry: Entry


class Frame(NamedTuple):
    """A frame whose CRC is right. ``size`` counts its padding; ``payload`` is its records."""

    serial: int
    previous_crc: int
    first_index: int
    entries: int
    crc: int
    size: int
    payload: memoryview


class Decoded(NamedTuple):
    """What a frame says: first the cut, if any, then entries in index order, and the last hard state it holds."""

    records: list[Record]
    state: HardState | None
    cut: Cut | None


# ---- segment header -----------------------------------------------------------------------------------------------------


def encode_header(header: SegmentHeader) -> bytes:
    """The blocks that open a segment."""
    membership = pack_membership(header.membership)
    size = _header_bytes(len(membership))
    data = bytearray(size)
    data[_OPENING_AT + _OPENING.size : _OPENING_AT + _OPENING.size + len(membership)] = membership
    _HEADER.pack_into(
        data,
        _HEADER_SUM.size,
        FORMAT_VERSION,
        header.serial,
        header.size,
        header.first_index,
        header.previous_crc,
        _HEADER_STARTS_CHAIN if header.starts_chain else 0,
        *header.state,
    )
    _OPENING.pack_into(data, _OPENING_AT, header.base_term, zlib.crc32(data[BLOCK_BYTES:]), len(membership))
    _HEADER_SUM.pack_into(data, 0, _HEADER_MAGIC, zlib.crc32(data[_HEADER_SUM.size : BLOCK_BYTES]))
    return bytes(data)


def decode_header(data: bytes) -> SegmentHeader | None:
    """The header that ``data`` begins with (give ``HEADER_MAX_BYTES``), or None when it holds none that is whole.

    Raises ``HomeUnusable`` for a whole header of a newer format: where the first CRC stands and what it covers never changes.
    """
    if len(data) < BLOCK_BYTES:
        return None
    magic, crc = _HEADER_SUM.unpack_from(data)
    if magic != _HEADER_MAGIC or zlib.crc32(memoryview(data)[_HEADER_SUM.size : BLOCK_BYTES]) != crc:
        return None
    version, serial, size, first_index, previous_crc, flags, term, vote = _HEADER.unpack_from(data, _HEADER_SUM.size)
    if version > FORMAT_VERSION:
        raise HomeUnusable(
            f"the journal has format {version}, this release reads up to {FORMAT_VERSION}: start the release that wrote it"
        )
    if version < 1 or size % BLOCK_BYTES or flags & ~_HEADER_STARTS_CHAIN:
        return None
    base_term, membership = 0, _decode_voters(data)
    if version > 1:
        base_term, rest_crc, length = _OPENING.unpack_from(data, _OPENING_AT)
        rest = memoryview(data)[BLOCK_BYTES : _header_bytes(length)]
        if len(data) < _header_bytes(length) or zlib.crc32(rest) != rest_crc:
            return None
        membership = unpack_membership(data[_OPENING_AT + _OPENING.size :][:length])
    if membership is None:
        return None
    starts_chain, state = bool(flags & _HEADER_STARTS_CHAIN), HardState(term, NodeId(vote))
    return SegmentHeader(serial, size, first_index, previous_crc, starts_chain, state, base_term, membership, version)


def _header_bytes(membership_bytes: int) -> int:
    return -(-(_OPENING_AT + _OPENING.size + membership_bytes) // BLOCK_BYTES) * BLOCK_BYTES


def _decode_voters(block: bytes) -> Membership | None:
    """The voters of a header of version 1."""
    (count,) = _VOTERS.unpack_from(block, _OPENING_AT)
    start = _OPENING_AT + _VOTERS.size
    if start + count * _ID.size > BLOCK_BYTES:
        return None
    return Membership(tuple(NodeId(_ID.unpack_from(block, start + n * _ID.size)[0]) for n in range(count)))


def pack_membership(membership: Membership) -> bytes:
    """The bytes of a membership, in a header or as the body of an entry; a bug if they are too many."""
    ids = (*membership.voters, *membership.outgoing, *membership.learners)
    invariant(len(ids) <= _IDS_MAX, "a membership has no more members than fit")
    invariant(len(membership.book) <= BOOK_MAX_BYTES, "a book of addresses has at most 4 KiB")
    head = _MEMBERSHIP.pack(
        len(membership.voters), len(membership.outgoing), len(membership.learners), len(membership.book)
    )
    return b"".join((head, *map(_ID.pack, ids), membership.book))


def unpack_membership(data: bytes) -> Membership | None:
    """The membership that ``data`` is, or None."""
    if len(data) < _MEMBERSHIP.size:
        return None
    voters, outgoing, learners, book = _MEMBERSHIP.unpack_from(data)
    count = voters + outgoing + learners
    start = _MEMBERSHIP.size + count * _ID.size
    if count > _IDS_MAX or book > BOOK_MAX_BYTES or start + book != len(data):
        return None
    ids = tuple(NodeId(value) for (value,) in _ID.iter_unpack(data[_MEMBERSHIP.size : start]))
    return Membership(ids[:voters], ids[voters : voters + outgoing], ids[voters + outgoing :], data[start:])


# ---- records ------------------------------------------------------------------------------------------------------------


def pack_entry(index: int, term: int, entry: Entry) -> bytes:
    """The head of an entry's record; the body follows it. Kind and version are 16 bits, anything else is a bug."""
    return _RECORD.pack(0, entry.kind, entry.version, len(entry.body), term, index)


def pack_state(state: HardState) -> bytes:
    """A whole record of hard state."""
    return _RECORD.pack(RecordType.STATE, 0, 1, _ID.size, state.term, 0) + _ID.pack(state.vote)


def pack_cut(cut: Cut) -> bytes:
    """A whole record that discards the end of the log; it is the first one of its frame, which begins with ``cut.first_index``."""
    body = _LAST.pack(cut.last_index) + pack_membership(cut.membership)
    return _RECORD.pack(RecordType.CUT, 0, 1, len(body), cut.term, cut.first_index) + body


def decode_records(frame: Frame) -> Decoded:
    """What a frame holds. Raises ``JournalCorrupt`` when the records contradict their frame although its CRC is right."""
    payload, at, index = frame.payload, 0, frame.first_index
    records: list[Record] = []
    state: HardState | None = None
    cut: Cut | None = None
    while at < len(payload):
        if len(payload) - at < RECORD_BYTES:
            raise JournalCorrupt(f"the frame of index {frame.first_index} ends inside a record")
        type_, kind, version, length, term, number = _RECORD.unpack_from(payload, at)
        at += RECORD_BYTES
        if length > len(payload) - at or length > ENTRY_MAX_BYTES:
            raise JournalCorrupt(f"the frame of index {frame.first_index} holds a record longer than itself")
        body = bytes(payload[at : at + length])
        at += length
        if type_ == RecordType.ENTRY:
            if number != index:
                raise JournalCorrupt(f"index {number} stands where {index} should")
            records.append(Record(index, term, Entry(kind, version, body)))
            index += 1
        elif type_ == RecordType.STATE and length == _ID.size:
            state = HardState(term, NodeId(_ID.unpack(body)[0]))
        elif type_ == RecordType.CUT and at == RECORD_BYTES + length and number == index:
            cut = _decode_cut(term, number, body)
        else:
            raise JournalCorrupt(f"the frame of index {frame.first_index} holds a record of unknown type {type_}")
    if len(records) != frame.entries:
        raise JournalCorrupt(
            f"the frame of index {frame.first_index} holds {len(records)} entries, not {frame.entries}"
        )
    return Decoded(records, state, cut)


def _decode_cut(term: int, first_index: int, body: bytes) -> Cut:
    membership = unpack_membership(body[_LAST.size :])
    if membership is None or _LAST.unpack_from(body)[0] < first_index:
        raise JournalCorrupt(f"the frame of index {first_index} holds a cut that cannot be")
    return Cut(first_index, term, _LAST.unpack_from(body)[0], membership)


# ---- frames -------------------------------------------------------------------------------------------------------------


def encode_frame(
    serial: int, previous_crc: int, first_index: int, entries: int, parts: Sequence[bytes]
) -> tuple[bytearray, int]:
    """Join records (given as any number of pieces) into one padded frame; returns it and its CRC."""
    length = sum(map(len, parts))
    head = _FRAME.pack(_FRAME_MAGIC, serial, previous_crc, first_index, entries, length)
    padding = b"\0" * (-(_FRAME_HEAD_BYTES + length) % BLOCK_BYTES)
    data = bytearray().join((head, b"\0\0\0\0", *parts, padding))
    with memoryview(data) as view:
        crc = zlib.crc32(view[_FRAME_HEAD_BYTES : _FRAME_HEAD_BYTES + length], zlib.crc32(head))
    _CRC.pack_into(data, _FRAME.size, crc)
    return data, crc


def frame_size(block: bytes) -> int | None:
    """How many bytes, padding included, the frame that begins with ``block`` claims; None when no frame begins here."""
    if len(block) < _FRAME_HEAD_BYTES or block[:4] != _FRAME_MAGIC:
        return None
    length: int = _FRAME.unpack_from(block)[5]
    return -(-(_FRAME_HEAD_BYTES + length) // BLOCK_BYTES) * BLOCK_BYTES


def frame_prefix(serial: int) -> bytes:
    """The first bytes of every frame of this segment serial."""
    return _FRAME_MAGIC + serial.to_bytes(8, "big")


FRAME_PREFIX_ANY = _FRAME_MAGIC


def decode_frame(data: bytes) -> Frame | None:
    """The frame at the start of ``data``, or None when it is cut short or any byte of it is wrong."""
    if len(data) < _FRAME_HEAD_BYTES or data[:4] != _FRAME_MAGIC:
        return None
    _, serial, previous_crc, first_index, entries, length = _FRAME.unpack_from(data)
    size = -(-(_FRAME_HEAD_BYTES + length) // BLOCK_BYTES) * BLOCK_BYTES
    if size > len(data):
        return None
    (crc,) = _CRC.unpack_from(data, _FRAME.size)
    view = memoryview(data)
    payload = view[_FRAME_HEAD_BYTES : _FRAME_HEAD_BYTES + length]
    if zlib.crc32(payload, zlib.crc32(view[: _FRAME.size])) != crc:
        return None
    return Frame(serial, previous_crc, first_index, entries, crc, size, payload)
