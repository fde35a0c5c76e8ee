"""Majority and joint arithmetic (thesis 3.4, 3.6.2, 4.3): what a membership has agreed on.

In a joint membership both sets of voters decide, each by its own majority. Learners never count.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from enum import Enum

from monofs.journal.raft.messages import Membership, NodeId


class Tally(Enum):
    WON = "won"
    LOST = "lost"
    PENDING = "pending"


def majority(count: int) -> int:
    return count // 2 + 1


def agreed(membership: Membership, value_of: Callable[[NodeId], int]) -> int:
    """The largest value that a quorum has reached, when each voter has reached `value_of(voter)`; 0 without voters."""
    value = reached_by_majority(membership.voters, value_of)
    if membership.outgoing:
        return min(value, reached_by_majority(membership.outgoing, value_of))
    return value


def reached_by_majority(voters: tuple[NodeId, ...], value_of: Callable[[NodeId], int]) -> int:
    if len(voters) < 2:
        return value_of(voters[0]) if voters else 0
    values = sorted(map(value_of, voters), reverse=True)
    return values[majority(len(voters)) - 1]


def is_quorum(membership: Membership, nodes: Collection[NodeId]) -> bool:
    return agreed(membership, lambda node: 1 if node in nodes else 0) == 1


def tally(membership: Membership, votes: Mapping[NodeId, bool]) -> Tally:
    """The state of an election: WON with a quorum of grants, LOST once no quorum of grants is left to come."""
    if agreed(membership, lambda node: 1 if votes.get(node, False) else 0) == 1:
        return Tally.WON
    if agreed(membership, lambda node: 1 if votes.get(node, True) else 0) == 0:
        return Tally.LOST
    return Tally.PENDING
