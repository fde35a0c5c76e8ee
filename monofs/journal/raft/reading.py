"""Reads at a leader and at a follower (thesis 6.4, 6.4.1): who is asked, and when an answer may be given.

Invariant: no read ends with an index below what was committed anywhere when it was asked. The leader answers once a quorum has acknowledged
a round begun after the question, or at once while its lease holds by the clock of now; a follower asks the leader. What waits is kept in `reads`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from monofs.journal.raft.messages import (
    MAX_WAITING_READS,
    NOBODY,
    NodeId,
    ReadIndexAnswer,
    ReadIndexRequest,
    ReadState,
    Role,
)
from monofs.journal.raft.quorum import agreed
from monofs.journal.raft.reads import Read

if TYPE_CHECKING:
    from monofs.journal.raft.core import Raft


def read(raft: Raft, token: Any) -> None:
    if raft.role is not Role.LEADER and raft.leader == NOBODY:
        raft.ended_reads.append(ReadState(token, 0, "not_leader"))
        return
    until_ns = lease_until_ns(raft)
    if until_ns:
        raft.ended_reads.append(ReadState(token, raft.commit, None, until_ns))
    elif raft.reads.count >= MAX_WAITING_READS:
        raft.ended_reads.append(ReadState(token, 0, "too_many_reads"))
    else:
        raft.reads.add(Read(token, NOBODY, raft.ticks))


def lease_until_ns(raft: Raft) -> int:
    """When the lease ends; 0 if there is none now."""
    reads = raft.reads
    if not raft.settings.lease or not raft.is_settled or raft.transferee != NOBODY:
        return 0
    if reads.is_lease_over or reads.lease_from_ns is None:
        return 0
    until_ns = reads.lease_from_ns + int(raft.settings.lease_factor * raft.settings.election_timeout_ns)
    return until_ns if raft.now_ns < until_ns else 0


def confirm_rounds(raft: Raft) -> None:
    """End the reads of every round that a quorum has answered."""

    def round_of(node: NodeId) -> int:
        if node == raft.me:
            return raft.reads.round
        progress = raft.progress.get(node)
        return progress.acked_round if progress else 0

    for ended, index in raft.reads.confirm(agreed(raft.log.membership, round_of)):
        if ended.asker == NOBODY:
            raft.ended_reads.append(ReadState(ended.token, index))
        else:
            raft.out.append(ReadIndexAnswer(raft.me, ended.asker, raft.term, ended.token, index))


def handle_request(raft: Raft, message: ReadIndexRequest) -> None:
    """A follower asks."""
    if raft.role is not Role.LEADER or message.sender not in raft.progress:
        return
    if lease_until_ns(raft):
        raft.out.append(ReadIndexAnswer(raft.me, message.sender, raft.term, message.context, raft.commit))
    elif raft.reads.count >= MAX_WAITING_READS:
        raft.out.append(ReadIndexAnswer(raft.me, message.sender, raft.term, message.context, 0))
    else:
        raft.reads.add(Read(message.context, message.sender, raft.ticks))


# --- a follower's side ----------------------------------------------------------------------------------------------------------------


def ask_leader(raft: Raft) -> None:
    """One question for all reads that wait."""
    context = raft.random.getrandbits(62)  # never one of a former life, whose late answer would be an old index
    raft.reads.ask(context, raft.ticks)
    raft.out.append(ReadIndexRequest(raft.me, raft.leader, raft.term, context))


def tick(raft: Raft) -> None:
    """Ask again what was not answered, give up what was asked an election timeout ago."""
    asked = raft.reads.asked
    if asked and raft.leader == NOBODY:
        raft.reads.ask_again()
    elif asked and raft.ticks - asked.tick >= 2 * raft.settings.heartbeat_ticks:
        # The same question: where a round takes longer than this, the answer to the first one is still to come, and good.
        raft.reads.asked = asked._replace(tick=raft.ticks)
        raft.out.append(ReadIndexRequest(raft.me, raft.leader, raft.term, asked.context))
    for given_up in raft.reads.expire(raft.ticks - raft.settings.election_ticks):
        raft.ended_reads.append(ReadState(given_up.token, 0, "no_answer"))


def handle_answer(raft: Raft, message: ReadIndexAnswer) -> None:
    if message.sender != raft.leader or raft.role is Role.LEADER:
        return
    for ended in raft.reads.answered(message.context):
        refused = None if message.index else "too_many_reads"
        raft.ended_reads.append(ReadState(ended.token, message.index, refused))
