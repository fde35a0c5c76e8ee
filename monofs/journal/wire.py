"""The bytes of the core's messages and of a membership, for the lanes between masters and for the log.

A message is a msgpack array [kind, sender, target, term, fields…]; an entry is [term, index, type, kind, version, body], a membership
[voters, outgoing, learners, book]. Invariant: what decodes here is of the right types and within bounds; whether it makes sense the core decides.
docs/formats/journal.md is the specification.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import msgspec

from monofs.journal.raft.messages import (
    Append,
    AppendAnswer,
    EntryType,
    Heartbeat,
    HeartbeatAnswer,
    InstallSnapshot,
    LogEntry,
    Membership,
    Message,
    NodeId,
    Position,
    ReadIndexAnswer,
    ReadIndexRequest,
    TimeoutNow,
    VoteAnswer,
    VoteRequest,
)
from monofs.model.entry import Entry
from monofs.model.errors import ProtocolError

_KINDS: dict[int, type[Any]] = {
    1: VoteRequest,
    2: VoteAnswer,
    3: Append,
    4: AppendAnswer,
    5: Heartbeat,
    6: HeartbeatAnswer,
    7: InstallSnapshot,
    8: TimeoutNow,
    9: ReadIndexRequest,
    10: ReadIndexAnswer,
}
_NUMBERS = {kind: number for number, kind in _KINDS.items()}


class _Entry(NamedTuple):
    term: int
    index: int  # type: ignore[assignment]  # as in LogEntry
    type: int
    kind: int
    version: int
    body: bytes


class _Append(NamedTuple):
    sender: NodeId
    target: NodeId
    term: int
    previous: Position
    entries: tuple[_Entry, ...]
    commit: int


_encode = msgspec.msgpack.Encoder().encode
_DECODERS = {
    number: msgspec.msgpack.Decoder(_Append if kind is Append else kind).decode for number, kind in _KINDS.items()
}
_decode_membership = msgspec.msgpack.Decoder(Membership).decode
_MISTAKES = (ValueError, RecursionError)


def encode_message(message: Message) -> bytes:
    """One byte of kind, then the fields."""
    if isinstance(message, Append):
        entries = [_pack(entry) for entry in message.entries]
        fields: Any = (*message[:4], entries, message.commit)
    else:
        fields = message
    return bytes((_NUMBERS[type(message)],)) + _encode(fields)


def decode_message(body: bytes) -> Message:
    """Raises ``ProtocolError`` for anything else."""
    decode = _DECODERS.get(body[0]) if body else None
    if decode is None:
        raise ProtocolError(f"the journal knows no message of kind {body[:1].hex() or 'nothing'}")
    try:
        fields = decode(memoryview(body)[1:])
        if isinstance(fields, _Append):
            return Append(*fields[:4], tuple(map(_unpack, fields.entries)), fields.commit)
    except _MISTAKES as error:
        raise ProtocolError(f"a message of the journal cannot be read: {error}") from None
    message: Message = fields
    return message


def encode_membership(membership: Membership) -> bytes:
    """Voters, outgoing voters, learners, book."""
    return _encode(membership)


def decode_membership(body: bytes) -> Membership:
    """Raises ``ProtocolError``."""
    try:
        return _decode_membership(body)
    except _MISTAKES as error:
        raise ProtocolError(f"a membership cannot be read: {error}") from None


def _pack(entry: LogEntry) -> tuple[Any, ...]:
    if entry.type is EntryType.NORMAL:
        kind, version, body = entry.data
    else:
        kind, version = 0, 0
        body = encode_membership(entry.data) if entry.type is EntryType.MEMBERSHIP else b""
    return entry.term, entry.index, int(entry.type), kind, version, body


def _unpack(packed: _Entry) -> LogEntry:
    type_ = EntryType(packed.type)
    if type_ is EntryType.NORMAL:
        data: Any = Entry(packed.kind, packed.version, packed.body)
        size = len(packed.body)
    else:
        data = decode_membership(packed.body) if type_ is EntryType.MEMBERSHIP else None
        size = data.size_bytes() if data is not None else 0
    return LogEntry(packed.term, packed.index, type_, data, size)
