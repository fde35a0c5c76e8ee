"""One member of a Raft group as a pure machine (skeleton)."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import Any

from monofs.journal.raft.messages import (
    HardState,
    InstallSnapshot,
    LogEntry,
    Membership,
    Message,
    NodeId,
    Payloads,
    Position,
    Ready,
    Settings,
    Status,
)


class Raft:
    def __init__(
        self,
        me: NodeId,
        settings: Settings,
        *,
        random: Random,
        hard_state: HardState,
        base: Position,
        membership_at_base: Membership,
        entries: Sequence[LogEntry],
        applied: int,
        now_ns: int,
        restarted: bool,
        older: Sequence[Position] = (),
    ) -> None:
        """The log is `entries`, contiguous after `base`; `applied` >= `base.index`. `older` are runs of terms (first index, term) of entries at and
        before `base` that can still be fetched from the segments."""

    def tick(self, now_ns: int) -> None: ...
    def step(self, message: Message, now_ns: int) -> None: ...
    def propose(self, payloads: Payloads) -> int:
        raise NotImplementedError

    def propose_membership(self, membership: Membership) -> int:
        raise NotImplementedError

    def read(self, token: Any, now_ns: int) -> None: ...
    def transfer(self, target: NodeId) -> None: ...
    def ready(self, *, may_persist: bool = True) -> Ready | None:
        raise NotImplementedError

    def persisted(self, number: int) -> None: ...
    def applied_to(self, index: int) -> None: ...
    def compact(self, index: int) -> None: ...
    def fetched(self, peer: NodeId, first_index: int, entries: Sequence[LogEntry] | None) -> None: ...
    def install_message(self, peer: NodeId, position: Position) -> InstallSnapshot | None:
        """The message that goes with a snapshot of `position` (applied here) to `peer`."""
        raise NotImplementedError

    def snapshot_sent(self, peer: NodeId, position: Position, ok: bool) -> None: ...
    def snapshot_installed(self, position: Position, membership: Membership) -> None: ...
    def snapshot_failed(self) -> None: ...
    def unreachable(self, peer: NodeId) -> None: ...
    def status(self) -> Status:
        raise NotImplementedError
