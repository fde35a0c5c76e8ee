"""What a core tells of itself to whoever watches it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from monofs.journal.raft.messages import PeerStatus, Status

if TYPE_CHECKING:
    from monofs.journal.raft.core import Raft


def report(raft: Raft) -> Status:
    return Status(
        me=raft.me,
        role=raft.role,
        term=raft.term,
        vote=raft.vote,
        leader=raft.leader,
        commit=raft.commit,
        applied=raft.applied,
        persisted=raft.log.persisted,
        first=raft.log.floor + 1,
        last=raft.log.last_index,
        uncommitted_bytes=raft.uncommitted_bytes,
        waiting_reads=raft.reads.count,
        transferring_to=raft.transferee,
        membership=raft.log.membership,
        membership_index=raft.log.membership_index,
        ignored=raft.ignored,
        peers={
            peer: PeerStatus(
                p.state.value, p.match, p.next, p.inflight_bytes, len(p.inflight), raft.ticks - p.heard_tick, p.is_heard
            )
            for peer, p in raft.progress.items()
        },
    )
