"""Log replication (thesis 3.5, 3.6, 5.3, 10.2): the leader's sending and counting, the follower's appending.

Invariant: the leader commits by counting only entries of its own term (3.6.2), and counts an entry of its own, too, only once it is durable. A
follower's answer waits until what it says is durable; nothing at or below the commit index is ever cut.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from monofs.journal.raft import reading
from monofs.journal.raft.intake import is_contiguous
from monofs.journal.raft.messages import (
    Append,
    AppendAnswer,
    Fetch,
    Heartbeat,
    HeartbeatAnswer,
    InstallSnapshot,
    LogEntry,
    NodeId,
    Position,
    SnapshotWanted,
)
from monofs.journal.raft.progress import Progress, Sending
from monofs.journal.raft.quorum import agreed

if TYPE_CHECKING:
    from monofs.journal.raft.core import Raft

NO_CONFLICT = Position(0, 0)


# --- the leader -----------------------------------------------------------------------------------------------------------------------


def send_all(raft: Raft) -> None:
    for peer, progress in raft.progress.items():
        send(raft, peer, progress)


def send(raft: Raft, peer: NodeId, progress: Progress) -> None:
    """Whatever this follower may be sent now."""
    settings, log = raft.settings, raft.log
    if progress.state is Sending.PROBE and not progress.is_paused:
        entries = log.batch(progress.next, settings.max_append_bytes) if progress.next >= log.first_in_window else ()
        progress.is_paused = True
        send_append(raft, peer, progress, entries)
        return
    while progress.state is Sending.REPLICATE and progress.next <= log.last_index:
        if not progress.has_room(settings.max_inflight_appends, settings.inflight_bytes):
            break
        if progress.next < log.first_in_window:
            progress.state = Sending.FETCH
            raft.fetches.append(Fetch(peer, progress.next, settings.max_append_bytes))
            return
        send_append(raft, peer, progress, log.batch(progress.next, settings.max_append_bytes))
    if progress.state is Sending.REPLICATE and progress.is_ping_due:
        send_append(raft, peer, progress, ())


def send_append(raft: Raft, peer: NodeId, progress: Progress, entries: tuple[LogEntry, ...]) -> None:
    index = progress.next - 1
    term = raft.log.term(index)
    if term is None:
        want_snapshot(raft, peer, progress)
        return
    raft.out.append(Append(raft.me, peer, raft.term, Position(index, term), entries, raft.commit))
    progress.is_ping_due = False
    if entries and progress.state is Sending.REPLICATE:
        progress.sent(entries[-1].index, sum([entry.size_bytes for entry in entries]))


def want_snapshot(raft: Raft, peer: NodeId, progress: Progress) -> None:
    """Nothing before `floor` can be sent. One that never spoke is waited for: a snapshot to a dead node is a waste."""
    if not progress.is_heard:
        progress.state = Sending.PROBE
        progress.is_paused = True
        return
    progress.become_snapshot()
    raft.snapshots.append(SnapshotWanted(peer, raft.log.floor))


def take_fetched(raft: Raft, peer: NodeId, first_index: int, entries: Sequence[LogEntry] | None) -> None:
    progress = raft.progress.get(peer)
    if progress is None or progress.state is not Sending.FETCH:
        return
    if progress.next != first_index:  # the answer to an older question
        progress.state = Sending.REPLICATE
        return
    term = raft.log.term(first_index - 1)
    if not entries or term is None:
        want_snapshot(raft, peer, progress)
        return
    last = entries[-1]
    is_own = (
        is_contiguous(entries, Position(first_index - 1, term), raft.term) and raft.log.term(last.index) == last.term
    )
    progress.state = Sending.REPLICATE
    if is_own:
        send_append(raft, peer, progress, tuple(entries))


def end_snapshot(raft: Raft, peer: NodeId, position: Position, *, ok: bool) -> None:
    progress = raft.progress.get(peer)
    if progress is None or progress.state is not Sending.SNAPSHOT:
        return
    progress.become_probe(position.index + 1 if ok and position.index <= raft.log.last_index else progress.match + 1)
    progress.is_paused = True  # until it says something: that it installed, or that it lives


def handle_append_answer(raft: Raft, message: AppendAnswer) -> None:
    progress = raft.progress[message.sender]
    progress.heard(raft.ticks)
    if message.index > raft.log.last_index:
        raft.ignored += 1
    elif message.accepted:
        take_accepted(raft, message.sender, progress, message.index)
    elif message.index > progress.match:
        take_refused(raft, progress, message)


def take_accepted(raft: Raft, peer: NodeId, progress: Progress, index: int) -> None:
    is_news = index > progress.match
    at_probe = progress.state is Sending.PROBE and index >= progress.next - 1
    progress.accepted(index)
    if at_probe or (progress.state in (Sending.PROBE, Sending.SNAPSHOT) and is_news and index >= raft.log.floor):
        progress.become_replicate()
    if is_news:
        maybe_commit(raft)
        raft.maybe_hand_over(peer)


def take_refused(raft: Raft, progress: Progress, message: AppendAnswer) -> None:
    """Where to look next: after the last own entry of the follower's conflicting term, else before that term there (5.3 of the paper,
    3.5): one question a term, not one an entry."""
    if progress.state is Sending.SNAPSHOT or (progress.state is Sending.PROBE and message.index != progress.next - 1):
        return
    conflict = message.conflict
    next_index = min(conflict.index, message.index)
    if conflict.term:
        last = raft.log.last_of_term(conflict.term, at_most=message.index - 1)
        next_index = next_index if last is None else last + 1
    progress.become_probe(next_index)


def heartbeat(raft: Raft) -> None:
    """A round to all; it takes along the reads that wait, once an entry of the own term is committed (6.4)."""
    raft.heartbeat_elapsed = 0
    number = raft.reads.begin_round(raft.now_ns, raft.commit if raft.is_settled else None)
    for peer, progress in raft.progress.items():
        raft.out.append(Heartbeat(raft.me, peer, raft.term, min(raft.commit, progress.match), number))
    reading.confirm_rounds(raft)


def handle_heartbeat_answer(raft: Raft, message: HeartbeatAnswer) -> None:
    progress = raft.progress[message.sender]
    progress.heard(raft.ticks)
    progress.is_paused = False
    if progress.match < progress.next - 1:
        progress.is_ping_due = True
    if progress.acked_round < message.round <= raft.reads.round:
        progress.acked_round = message.round
        reading.confirm_rounds(raft)


def maybe_commit(raft: Raft) -> None:
    index = agreed(raft.log.membership, raft.match_of)
    if index > raft.commit and raft.log.term(index) == raft.term:  # 3.6.2, figure 3.7: never count for an older term
        raft.set_commit(index)


# --- the follower ---------------------------------------------------------------------------------------------------------------------


def handle_append(raft: Raft, message: Append) -> None:
    if not raft.follow(message.sender) or raft.installing is not None:
        return
    previous, entries = message.previous, message.entries
    if previous.index < raft.commit:  # late: what is committed here is the same there
        entries = entries[raft.commit - previous.index :]
        previous = Position(raft.commit, raft.log.term(raft.commit) or 0)
    if not raft.log.holds(previous) or (entries and entries[0].term < previous.term):
        answer_refused(raft, message)
        return
    last_index = previous.index + len(entries)
    append_new(raft, entries)
    if min(message.commit, last_index) > raft.commit:
        raft.set_commit(min(message.commit, last_index))
    raft.promise(AppendAnswer(raft.me, message.sender, raft.term, True, last_index, NO_CONFLICT))


def append_new(raft: Raft, entries: Sequence[LogEntry]) -> None:
    """Append what is not there yet; cut only before an entry that differs (3.5: a late Append must not cut what came after it). All of them
    are beyond the commit index."""
    log = raft.log
    known = 0
    if entries and entries[0].index <= log.last_index:
        for entry in entries:
            if log.term(entry.index) != entry.term:
                break
            known += 1
    new = entries[known:]
    if new and new[0].index <= log.last_index:
        raft.truncate(new[0].index)
    log.append(new)


def answer_refused(raft: Raft, message: Append) -> None:
    log, index = raft.log, message.previous.index
    if index > log.last_index:
        conflict = Position(log.last_index + 1, 0)
    else:
        conflict = Position(max(log.first_of_run(index), raft.commit + 1), log.term(index) or 0)
    raft.promise(AppendAnswer(raft.me, message.sender, raft.term, False, index, conflict))


def handle_heartbeat(raft: Raft, message: Heartbeat) -> None:
    if not raft.follow(message.sender):
        return
    if min(message.commit, raft.log.last_index) > raft.commit and raft.installing is None:
        raft.set_commit(min(message.commit, raft.log.last_index))
    raft.promise_term(HeartbeatAnswer(raft.me, message.sender, raft.term, message.round))


def handle_install(raft: Raft, message: InstallSnapshot) -> None:
    """Take the snapshot unless the log holds its position: then what follows it here may be acknowledged and must stay (5.3, figure 5.3)."""
    if not raft.follow(message.sender) or raft.installing is not None:
        return
    index = message.position.index
    if index > raft.commit and not raft.log.holds(message.position):
        raft.installing = message
        raft.is_install_due = True
        return
    if index > raft.commit:
        raft.set_commit(index)
    raft.promise(AppendAnswer(raft.me, message.sender, raft.term, True, raft.commit, NO_CONFLICT))
