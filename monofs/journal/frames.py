"""The bytes of a journal: segment headers, frames and records, encoded and decoded without touching a file.

A segment is a header block and then frames; everything begins on a 4,096-byte boundary, so a block that was acknowledged is never
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
from monofs.model.errors import HomeUnusable, JournalCorrupt

FORMAT_VERSION = 1
BLOCK_BYTES = 4096
"""Unit of alignment: headers and frames begin on multiples of it and are padded to it with zeros."""

_HEADER_MAGIC = b"monofsjn"
_HEADER_SUM = struct.Struct(">8sI")  # magic, CRC of the rest of the block: the same in every version to come
_HEADER = struct.Struct(">IQQQIIQQH")
_HEADER_STARTS_CHAIN = 1
_VOTER = struct.Struct(">Q")
VOTERS_MAX = (BLOCK_BYTES - _HEADER_SUM.size - _HEADER.size) // _VOTER.size

_FRAME_MAGIC = b"mjfr"
_FRAME = struct.Struct(">4sQIQII")  # magic, serial, previous CRC, first index, entries, payload bytes
_CRC = struct.Struct(">I")
_FRAME_HEAD_BYTES = _FRAME.size + _CRC.size

_RECORD = struct.Struct(">BHHIQQ")  # type, kind, version, body bytes, term, index
RECORD_BYTES = _RECORD.size
FRAME_OVERHEAD_BYTES = _FRAME_HEAD_BYTES


class RecordType(IntEnum):
    """What a record is."""

    ENTRY = 0
    STATE = 1


class HardState(NamedTuple):
    """What a voter must never forget: its term and whom it voted for in it (0: nobody)."""

    term: int
    vote: int


class SegmentHeader(NamedTuple):
    """The first block of a segment.

    ``size`` is the length of the file in bytes. ``starts_chain``: this segment begins the log; whatever lies in segments before it
    was discarded, and ``previous_crc`` is 0.
    """

    serial: int
    size: int
    first_index: int
    previous_crc: int
    starts_chain: bool
    state: HardState
    voters: tuple[int, ...]


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


# ---- segment header -----------------------------------------------------------------------------------------------------


def encode_header(header: SegmentHeader) -> bytes:
    """The block that opens a segment."""
    rest = _HEADER.pack(
        FORMAT_VERSION,
        header.serial,
        header.size,
        header.first_index,
        header.previous_crc,
        _HEADER_STARTS_CHAIN if header.starts_chain else 0,
        *header.state,
        len(header.voters),
    ) + b"".join(map(_VOTER.pack, header.voters))
    rest = rest.ljust(BLOCK_BYTES - _HEADER_SUM.size, b"\0")
    return _HEADER_SUM.pack(_HEADER_MAGIC, zlib.crc32(rest)) + rest


def decode_header(block: bytes) -> SegmentHeader | None:
    """The header in ``block``, or None when it holds none that is whole.

    Raises ``HomeUnusable`` for a whole header of a newer format: where the CRC stands and what it covers never changes.
    """
    if len(block) != BLOCK_BYTES:
        return None
    magic, crc = _HEADER_SUM.unpack_from(block)
    if magic != _HEADER_MAGIC or zlib.crc32(memoryview(block)[_HEADER_SUM.size :]) != crc:
        return None
    version, serial, size, first_index, previous_crc, flags, term, vote, voters = _HEADER.unpack_from(
        block, _HEADER_SUM.size
    )
    if version > FORMAT_VERSION:
        raise HomeUnusable(
            f"the journal has format {version}, this release reads up to {FORMAT_VERSION}: start the release that wrote it"
        )
    if version < 1 or voters > VOTERS_MAX or size % BLOCK_BYTES or flags & ~_HEADER_STARTS_CHAIN:
        return None
    start = _HEADER_SUM.size + _HEADER.size
    ids = tuple(_VOTER.unpack_from(block, start + i * _VOTER.size)[0] for i in range(voters))
    starts_chain = bool(flags & _HEADER_STARTS_CHAIN)
    return SegmentHeader(serial, size, first_index, previous_crc, starts_chain, HardState(term, vote), ids)


# ---- records ------------------------------------------------------------------------------------------------------------


def pack_entry(index: int, term: int, entry: Entry) -> bytes:
    """The head of an entry's record; the body follows it. Kind and version are 16 bits, anything else is a bug."""
    return _RECORD.pack(0, entry.kind, entry.version, len(entry.body), term, index)


def pack_state(state: HardState) -> bytes:
    """A whole record of hard state."""
    return _RECORD.pack(RecordType.STATE, 0, 1, _VOTER.size, state.term, 0) + _VOTER.pack(state.vote)


def decode_records(frame: Frame) -> tuple[list[Record], HardState | None]:
    """The entries of a frame in index order, and the last hard state it holds.

    Raises ``JournalCorrupt`` when the records contradict their frame although its CRC is right.
    """
    payload, at, index = frame.payload, 0, frame.first_index
    records: list[Record] = []
    state: HardState | None = None
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
        elif type_ == RecordType.STATE and length == _VOTER.size:
            state = HardState(term, _VOTER.unpack(body)[0])
        else:
            raise JournalCorrupt(f"the frame of index {frame.first_index} holds a record of unknown type {type_}")
    if len(records) != frame.entries:
        raise JournalCorrupt(
            f"the frame of index {frame.first_index} holds {len(records)} entries, not {frame.entries}"
        )
    return records, state


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
