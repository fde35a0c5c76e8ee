"""Changes of the membership (thesis 4.1-4.3): learners first, then joint consensus, one change at a time.

A membership is in force from the moment its entry is in the log. A change of voters is two entries: the joint membership, and, proposed by
whoever leads once that is committed, the one after it. Changes of learners or of the book alone are one entry. Invariant: of two memberships
in force anywhere at once, any two quorums share a voter.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from monofs.journal.raft import replication
from monofs.journal.raft.messages import (
    NOBODY,
    Append,
    EntryType,
    LogEntry,
    Membership,
    Position,
    Refused,
    TimeoutNow,
    is_membership,
)
from monofs.journal.raft.progress import Progress, Sending
from monofs.journal.raft.quorum import is_quorum

if TYPE_CHECKING:
    from monofs.journal.raft.core import Raft


def start(raft: Raft, target: Membership) -> int:
    """Append what leads to `target`, whose `outgoing` is empty; returns its index."""
    if not is_membership(target) or target.outgoing:
        raise Refused("invalid", raft.leader)
    current = raft.log.membership
    if current.is_joint or raft.log.membership_index > raft.commit or not raft.is_settled:
        raise Refused("change_pending", raft.leader)
    if target.voters == current.voters:
        return append(raft, target)
    joint = target._replace(outgoing=current.voters)
    check_voters(raft, joint)
    return append(raft, joint)


def check_voters(raft: Raft, joint: Membership) -> None:
    """New voters have caught up as learners (4.2.1), and both sets have a quorum that is alive."""
    for node in joint.voters:
        progress = raft.progress.get(node)
        if node == raft.me or node in joint.outgoing:
            continue
        is_near = progress is not None and progress.match + raft.settings.caught_up_entries >= raft.commit
        if progress is None or progress.state is not Sending.REPLICATE or not is_near:
            raise Refused("not_caught_up", raft.leader)
    since = raft.ticks - raft.settings.election_ticks
    alive = {node for node, progress in raft.progress.items() if progress.is_heard and progress.heard_tick > since}
    if not is_quorum(joint, alive | {raft.me}):
        raise Refused("would_lose_quorum", raft.leader)


def append(raft: Raft, membership: Membership) -> int:
    entry = LogEntry(raft.term, raft.log.last_index + 1, EntryType.MEMBERSHIP, membership, membership.size_bytes())
    raft.log.append([entry])
    raft.uncommitted_bytes += entry.size_bytes
    follow_membership(raft)
    return entry.index


def follow_membership(raft: Raft) -> None:
    """Watch every member; one that leaves is watched until its leaving is committed, so that it may learn of it."""
    for node in raft.log.membership.members():
        if node != raft.me and node not in raft.progress:
            raft.progress[node] = Progress(raft.log.last_index + 1, raft.ticks)
    raft.reads.lease_from_ns = None  # its quorum was another


def after_commit(raft: Raft) -> None:
    """What a leader owes the membership whose entry is committed."""
    index = raft.log.membership_index
    if index == raft.done_membership_index or index > raft.commit or not raft.is_settled:
        return
    membership, raft.done_membership_index = raft.log.membership, index
    if membership.is_joint:
        append(raft, membership.left())
        return
    if len(raft.progress) != len(membership.members()) - 1:
        dismiss(raft, membership)
    if raft.me not in membership.voters:
        hand_over(raft, membership)


def dismiss(raft: Raft, membership: Membership) -> None:
    """Tell those who left, as far as they can know what was committed, and forget them."""
    members = membership.members()
    for node in [node for node in raft.progress if node not in members]:
        progress = raft.progress.pop(node)
        term = raft.log.term(progress.next - 1)
        if progress.state is Sending.REPLICATE and term is not None:
            raft.out.append(Append(raft.me, node, raft.term, Position(progress.next - 1, term), (), raft.commit))
    if raft.transferee not in raft.progress:
        raft.transferee = NOBODY


def hand_over(raft: Raft, membership: Membership) -> None:
    """A leader that is no voter any more steps down once that is committed (4.2.2); the best voter is told to follow it at once."""
    replication.send_all(raft)
    best = max(membership.voters, key=raft.match_of)
    if raft.match_of(best) == raft.log.last_index:
        raft.out.append(TimeoutNow(raft.me, best, raft.term))
    raft.become_follower(raft.term, NOBODY)
