"""What a message must look like before the core believes a word of it: types, ranges, entries without gaps.

Peers are authenticated, yet a bug or a foe on the other side must not bring this side down: what fails here is counted and ignored.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from monofs.journal.raft.messages import (
    MAX_APPEND_ENTRIES,
    MAX_ID,
    MAX_TERM,
    Append,
    AppendAnswer,
    EntryType,
    Heartbeat,
    HeartbeatAnswer,
    InstallSnapshot,
    LogEntry,
    Membership,
    Position,
    ReadIndexAnswer,
    ReadIndexRequest,
    TimeoutNow,
    VoteAnswer,
    VoteRequest,
    is_membership,
)


def is_acceptable(message: Any, me: int) -> bool:
    check = CHECKS.get(type(message))
    return (
        check is not None
        and message.target == me
        and message.sender != me
        and is_number(message.sender)
        and message.sender > 0
        and is_number(message.term)
        and 0 < message.term <= MAX_TERM
        and check(message)
    )


def is_number(value: Any) -> bool:
    return type(value) is int and 0 <= value <= MAX_ID


def is_position(value: Any) -> bool:
    return type(value) is Position and is_number(value.index) and is_number(value.term)


def is_contiguous(entries: Sequence[LogEntry], previous: Position, term: int) -> bool:
    """Whether `entries` follow `previous` without a gap, with terms that do not fall and end at `term` or before."""
    index, low = previous
    for entry in entries:
        index += 1
        if type(entry) is not LogEntry or entry.index != index or type(entry.term) is not int or not low <= entry.term:
            return False
        low = entry.term
        kind = entry.type
        if type(kind) is not EntryType or (kind is EntryType.MEMBERSHIP and not is_true_membership(entry.data)):
            return False
        if not is_number(entry.size_bytes):
            return False
    return low <= term


def is_true_membership(value: Any) -> bool:
    if type(value) is not Membership or not all(type(part) is tuple for part in value[:3]):
        return False
    return all(type(node) is int for part in value[:3] for node in part) and is_membership(value)


def _is_append(message: Append) -> bool:
    return (
        is_position(message.previous)
        and type(message.entries) is tuple
        and len(message.entries) <= MAX_APPEND_ENTRIES
        and is_number(message.commit)
        and message.previous.index + len(message.entries) <= MAX_ID
        and is_contiguous(message.entries, message.previous, message.term)
    )


CHECKS: dict[type, Callable[[Any], bool]] = {
    VoteRequest: lambda m: is_position(m.last) and type(m.pre) is bool and type(m.forced) is bool,
    VoteAnswer: lambda m: type(m.pre) is bool and type(m.granted) is bool,
    Append: _is_append,
    AppendAnswer: lambda m: type(m.accepted) is bool and is_number(m.index) and is_position(m.conflict),
    Heartbeat: lambda m: is_number(m.commit) and is_number(m.round),
    HeartbeatAnswer: lambda m: is_number(m.round),
    InstallSnapshot: lambda m: (
        is_position(m.position) and m.position.term <= m.term and is_true_membership(m.membership)
    ),
    TimeoutNow: lambda _: True,
    ReadIndexRequest: lambda m: is_number(m.context),
    ReadIndexAnswer: lambda m: is_number(m.context) and is_number(m.index),
}
