"""Elections (thesis 3.4, 4.2.3, 9.6, 3.10): roles, pre-vote, votes, and standing by a leader that is heard.

Invariant: one vote a term, durable before it is told, and only for a log at least as complete as the own one; the own vote counts like any
other only once it is durable. A request that could only disturb a leader who is heard is not even looked at: not its term, either.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from monofs.journal.raft.messages import (
    MAX_TERM,
    NOBODY,
    Append,
    AppendAnswer,
    Heartbeat,
    HeartbeatAnswer,
    InstallSnapshot,
    Message,
    NodeId,
    Position,
    Role,
    TimeoutNow,
    VoteAnswer,
    VoteRequest,
)
from monofs.journal.raft.quorum import Tally, tally

if TYPE_CHECKING:
    from monofs.journal.raft.core import Raft

LEADERS_OWN = frozenset({Append, Heartbeat, InstallSnapshot})
DOUBLED_MAX = 3
"""How often patience doubles while elections come to nothing: to between five and ten seconds with the default timeout."""


def tick(raft: Raft) -> None:
    """A tick of whoever does not lead: after a random time without a leader, an election."""
    raft.elapsed += 1
    has_nobody_to_wait_for = raft.role is Role.FOLLOWER and is_sole_voter(raft)
    if raft.elapsed < patience(raft) and not has_nobody_to_wait_for:
        return
    if raft.leader != NOBODY:
        raft.leader = NOBODY
    if is_promotable(raft) and not is_bound_by_lease(raft):
        campaign(raft, pre=True)


def patience(raft: Raft) -> int:
    """Ticks until an election. Votes must be durable before they are told, so with disks that take longer than the timeout no candidate would ever
    have its votes in time: from the second term on that finds no leader, whoever stands or has voted waits twice as long as before."""
    return raft.patience << min(max(raft.vain_terms - 1, 0), DOUBLED_MAX)


def is_sole_voter(raft: Raft) -> bool:
    membership = raft.log.membership
    return membership.voters == (raft.me,) and not membership.outgoing


def is_promotable(raft: Raft) -> bool:
    """A learner, a stranger and one whose log is about to be replaced hold no elections. One that leaves does until it knows that committed:
    it may be the only one whose log can win (4.2.2). Its own vote does not count then."""
    log = raft.log
    is_leaving = log.membership_index > raft.commit and log.membership_before.is_voter(raft.me)
    return (log.membership.is_voter(raft.me) or is_leaving) and raft.installing is None and raft.term < MAX_TERM


def is_bound_by_lease(raft: Raft) -> bool:
    """Whether a leader may count on this node's patience by the clock (6.4.1): it promised that with its last answer, and a restarted node
    does not remember what it promised. Ticks do not do for this: after a pause several may come at once."""
    if not raft.settings.lease or is_sole_voter(raft):
        return False
    patience_ns = raft.settings.election_timeout_ns
    if raft.restarted_ns is not None and raft.now_ns - raft.restarted_ns < patience_ns:
        return True
    return raft.heard_ns is not None and raft.now_ns - raft.heard_ns < patience_ns


def stands_by_leader(raft: Raft) -> bool:
    """Whether a leader was heard within the shortest election timeout (4.2.3). A leader stands by itself: its `elapsed` does not move, and it
    steps down when it hears no quorum."""
    if raft.leader != NOBODY and raft.elapsed < raft.settings.election_ticks:
        return True
    return is_bound_by_lease(raft)


def campaign(raft: Raft, *, pre: bool, forced: bool = False) -> None:
    """Ask all voters. A pre-vote changes nothing durable and goes out at once; a candidacy is a vote for oneself (3.4)."""
    raft.become_candidate(pre=pre)
    term = raft.term + 1 if pre else raft.term
    requests: list[Message] = [
        VoteRequest(raft.me, peer, term, raft.log.last, pre, forced)
        for peer in raft.log.membership.members()
        if peer != raft.me and raft.log.membership.is_voter(peer)
    ]
    if pre:
        raft.out.extend(requests)
        count_vote(raft, raft.me, granted=True)
    else:
        for request in requests:
            raft.promise(request)
        raft.promise(VoteAnswer(raft.me, raft.me, term, False, True))


def handle_vote_request(raft: Raft, message: VoteRequest) -> None:
    last = raft.log.last
    is_free = (
        (message.pre and message.term > raft.term)
        or raft.vote == message.sender
        or (raft.vote == NOBODY and raft.leader == NOBODY)
    )
    is_complete = (message.last.term, message.last.index) >= (last.term, last.index)  # 3.6.1
    if is_free and is_complete:
        if message.pre:
            raft.promise_term(VoteAnswer(raft.me, message.sender, message.term, True, True))
            return
        raft.elapsed = 0
        raft.set_vote(message.sender)
        raft.promise(VoteAnswer(raft.me, message.sender, raft.term, False, True))
    else:
        raft.promise_term(VoteAnswer(raft.me, message.sender, raft.term, message.pre, False))


def handle_vote_answer(raft: Raft, message: VoteAnswer) -> None:
    asked = Role.PRE_CANDIDATE if message.pre else Role.CANDIDATE
    term = raft.term + 1 if message.pre and message.granted else raft.term
    if raft.role is asked and message.term == term:
        count_vote(raft, message.sender, granted=message.granted)


def count_vote(raft: Raft, voter: NodeId, *, granted: bool) -> None:
    raft.votes.setdefault(voter, granted)
    result = tally(raft.log.membership, raft.votes)
    if result is Tally.LOST:
        raft.become_follower(raft.term, NOBODY)
    elif result is Tally.WON and raft.role is Role.PRE_CANDIDATE:
        campaign(raft, pre=False)
    elif result is Tally.WON:
        raft.become_leader()


def handle_timeout_now(raft: Raft, message: TimeoutNow) -> None:
    """The leader hands over (3.10): no pre-vote, and the voters need not stand by it."""
    if message.term != raft.term or message.sender != raft.leader or not is_promotable(raft) or is_restart_bound(raft):
        raft.ignored += 1
        return
    campaign(raft, pre=False, forced=True)


def is_restart_bound(raft: Raft) -> bool:
    """Only the restart binds a forced election: its leader has ended its own lease, but a former one may not have."""
    if not raft.settings.lease or raft.restarted_ns is None:
        return False
    return raft.now_ns - raft.restarted_ns < raft.settings.election_timeout_ns


def is_welcome(raft: Raft, message: VoteRequest) -> bool:
    """Whether a request for a vote is looked at: a forced one by a voter is, in spite of a leader."""
    if message.forced and not message.pre and raft.log.membership.is_voter(message.sender):
        return not is_restart_bound(raft)
    return not stands_by_leader(raft)


def meet_higher_term(raft: Raft, message: Message) -> None:
    """Follow it (3.3), except where it is only asked for (a pre-vote and its grant) or means nothing (a handed-over election, reads)."""
    if type(message) in LEADERS_OWN:
        raft.become_follower(message.term, message.sender)
    elif isinstance(message, VoteRequest | VoteAnswer):
        is_only_asked_for = message.pre and (isinstance(message, VoteRequest) or message.granted)
        if not is_only_asked_for:
            raft.become_follower(message.term, NOBODY)
    elif isinstance(message, AppendAnswer | HeartbeatAnswer):
        raft.become_follower(message.term, NOBODY)


def meet_lower_term(raft: Raft, message: Message) -> None:
    """A leader of an older term learns of ours and steps down: without this a node that came back with a higher term would stay cut off. A
    candidate learns of it, too."""
    if type(message) in LEADERS_OWN:
        raft.promise_term(AppendAnswer(raft.me, message.sender, raft.term, False, 0, Position(0, 0)))
    elif isinstance(message, VoteRequest):
        raft.promise_term(VoteAnswer(raft.me, message.sender, raft.term, message.pre, False))
