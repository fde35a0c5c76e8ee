"""Messages between masters as bytes: what goes in comes out, and whatever else comes is refused without harm."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from monofs.journal.book import Seat, decode_book, encode_book, parse_peers
from monofs.journal.raft.messages import (
    Append,
    AppendAnswer,
    EntryType,
    Heartbeat,
    HeartbeatAnswer,
    InstallSnapshot,
    LogEntry,
    Membership,
    NodeId,
    Position,
    ReadIndexAnswer,
    ReadIndexRequest,
    TimeoutNow,
    VoteAnswer,
    VoteRequest,
)
from monofs.journal.wire import decode_membership, decode_message, encode_membership, encode_message
from monofs.model.entry import Entry
from monofs.model.errors import ConfigError, JournalCorrupt, ProtocolError

numbers = st.integers(0, 2**63 - 1)
nodes = numbers.map(NodeId)
positions = st.builds(Position, numbers, numbers)
node_sets = st.lists(st.integers(1, 2**63 - 1), max_size=5, unique=True).map(
    lambda ids: tuple(map(NodeId, sorted(ids)))
)
memberships = st.builds(Membership, node_sets, node_sets, node_sets, st.binary(max_size=200))
changes = st.builds(Entry, st.integers(0, 2**16 - 1), st.integers(0, 2**16 - 1), st.binary(max_size=300))


@st.composite
def log_entries(draw: st.DrawFn) -> LogEntry:
    type_ = draw(st.sampled_from(EntryType))
    if type_ is EntryType.NORMAL:
        data = draw(changes)
        return LogEntry(draw(numbers), draw(numbers), type_, data, len(data.body))
    if type_ is EntryType.MEMBERSHIP:
        membership = draw(memberships)
        return LogEntry(draw(numbers), draw(numbers), type_, membership, membership.size_bytes())
    return LogEntry(draw(numbers), draw(numbers), type_, None, 0)


messages = st.one_of(
    st.builds(VoteRequest, nodes, nodes, numbers, positions, st.booleans(), st.booleans()),
    st.builds(VoteAnswer, nodes, nodes, numbers, st.booleans(), st.booleans()),
    st.builds(Append, nodes, nodes, numbers, positions, st.lists(log_entries(), max_size=4).map(tuple), numbers),
    st.builds(AppendAnswer, nodes, nodes, numbers, st.booleans(), numbers, positions),
    st.builds(Heartbeat, nodes, nodes, numbers, numbers, numbers),
    st.builds(HeartbeatAnswer, nodes, nodes, numbers, numbers),
    st.builds(InstallSnapshot, nodes, nodes, numbers, positions, memberships),
    st.builds(TimeoutNow, nodes, nodes, numbers),
    st.builds(ReadIndexRequest, nodes, nodes, numbers, numbers),
    st.builds(ReadIndexAnswer, nodes, nodes, numbers, numbers, numbers),
)


@given(messages)
def test_a_message_comes_back_as_it_was(message: object) -> None:
    again = decode_message(encode_message(message))  # type: ignore[arg-type]
    assert again == message
    assert type(again) is type(message)


@given(st.binary(max_size=200))
def test_any_bytes_are_a_message_or_a_protocol_error(body: bytes) -> None:
    try:
        decode_message(body)
    except ProtocolError:
        pass


@given(messages, st.data())
def test_a_damaged_message_is_a_message_or_a_protocol_error(message: object, data: st.DataObject) -> None:
    body = bytearray(encode_message(message))  # type: ignore[arg-type]
    body[data.draw(st.integers(0, len(body) - 1))] ^= data.draw(st.integers(1, 255))
    try:
        decode_message(bytes(body[: data.draw(st.integers(0, len(body)))]))
    except ProtocolError:
        pass


def test_an_entry_of_a_type_nobody_knows_is_a_protocol_error() -> None:
    body = bytes((3,)) + msgspec.msgpack.encode((1, 2, 3, (1, 1), [(1, 2, 9, 0, 0, b"")], 0))
    with pytest.raises(ProtocolError):
        decode_message(body)


@given(memberships)
def test_a_membership_comes_back_as_it_was(membership: Membership) -> None:
    assert decode_membership(encode_membership(membership)) == membership


def test_messages_are_as_documented() -> None:
    page = (Path(__file__).parents[3] / "docs/formats/wire.md").read_text()
    entries = (
        LogEntry(3, 8, EntryType.NORMAL, Entry(30, 1, b"body"), 4),
        LogEntry(3, 9, EntryType.MEMBERSHIP, Membership((NodeId(1), NodeId(2)), (), (), b"book"), 22),
    )
    append = Append(NodeId(1), NodeId(2), 3, Position(7, 2), entries, 7)
    assert f"append = {encode_message(append).hex()}\n" in page
    assert f"heartbeat = {encode_message(Heartbeat(NodeId(1), NodeId(2), 3, 7, 11)).hex()}\n" in page


def test_a_book_comes_back_sorted_and_equal_books_are_equal_bytes() -> None:
    seats = [Seat(NodeId(9), "m1", "h:1"), Seat(NodeId(3), "m2", "h:2")]
    assert encode_book(seats) == encode_book(seats[::-1])
    assert decode_book(encode_book(seats)) == sorted(seats)
    assert decode_book(b"") == []
    with pytest.raises(JournalCorrupt):
        decode_book(b"\xc1")


def test_peers_are_written_as_names_with_addresses() -> None:
    assert parse_peers("m1=a:1, m2=[::1]:2,") == {"m1": "a:1", "m2": "[::1]:2"}
    for wrong in (
        "m1",
        "m1=a",
        "m1=:1",
        "m1=a:x",
        "=a:1",
        "m 1=a:1",
        "m1=a:1,m1=b:1",
        ",".join(f"m{n}=a:{n}" for n in range(16)),
    ):
        with pytest.raises(ConfigError):
            parse_peers(wrong)
