"""The journal of several masters: the whole face, over a core, its driver, a log on disk and the reactor's clock.

Here are threads and time: a tick every ``TICK_S`` of CLOCK_BOOTTIME, which goes on while the machine sleeps; turns of the driver on the
reactor thread; the journal thread behind :class:`LogDisk`. Invariant: the member's log, term and vote are read back from the disk before it
says a word to anyone. Not here: what is decided (raft/), the order of doing (driver.py), sockets (the ``network`` given).
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Sequence
from functools import partial
from random import SystemRandom
from typing import Any, Protocol

from twisted.internet.defer import Deferred

from monofs.config.schema import JournalConfig
from monofs.journal.book import decode_book
from monofs.journal.driver import Driver, Machine
from monofs.journal.face import ENTRY_MAX_BYTES, Consistency, Done, Entry, Role
from monofs.journal.log_disk import LogDisk
from monofs.journal.lookout import Lookout
from monofs.journal.raft.core import Raft
from monofs.journal.raft.messages import (
    NOBODY,
    InstallSnapshot,
    Membership,
    Message,
    NodeId,
    Position,
    Refused,
    Settings,
    SnapshotWanted,
    Status,
)
from monofs.journal.raft.messages import Role as RaftRole
from monofs.journal.wire import encode_membership
from monofs.model.errors import (
    DeadlineExceeded,
    EntryTooLarge,
    MonofsError,
    NotLeader,
    NotReady,
    OutcomeUnknown,
    Overloaded,
    invariant,
)
from monofs.model.ids import JournalIndex, Term
from monofs.observe.logs import logger

TICK_S = 0.05
HEARTBEAT_TICKS = 2
TRANSFER_TICKS = 200
"""How long a hand-over may take before it is called failed."""
ENTRY_OVERHEAD_BYTES = 64
"""What an entry counts for in every bound, beside its body."""
NEEDED_S = 120.0
"""Nothing is kept for a member that was silent for so long, beyond ``journal.keep_bytes``."""
GAUGE_TICKS = 20
"""Between two looks of the gauges at the core."""
_log = logger(__name__)


class Network(Protocol):
    """How members are reached."""

    def send(self, messages: Sequence[Message]) -> None:
        """Best effort."""

    def send_snapshot(self, wanted: SnapshotWanted) -> None:
        """Ends in ``Replicated.snapshot_sent``."""

    def install(self, snapshot: InstallSnapshot) -> None:
        """Put the received state in the place of this one."""

    def membership_changed(self, membership: Membership) -> None:
        """Other members, or other addresses."""


class Replicated:
    """Implements ``face.Journal`` for one of several masters, and what an operator may do to the group."""

    def __init__(
        self,
        directory: str,
        machine: Machine,
        config: JournalConfig,
        me: NodeId,
        *,
        reactor: Any,
        on_failure: Callable[[BaseException], None],
        skip: frozenset[int] = frozenset(),
    ) -> None:
        self._directory, self._machine, self._config = directory, machine, config
        self.me = me
        self._reactor, self._on_failure, self._skip = reactor, on_failure, skip
        self._listeners: list[Callable[[Role, Term], None]] = []
        self._told: tuple[Role, Term] | None = None
        self._disk: LogDisk | None = None
        self._driver: Driver | None = None
        self._network: Network | None = None
        self._ticking: Any = None
        self._turn: Any = None
        self._ticks = 0
        self._copies: dict[NodeId, int] = {}
        """Member → index of the state that was copied for it last, while this one leads."""
        self._flushed = 0
        self._lookout = Lookout(TICK_S)
        """What the machine has made durable itself."""
        self._passed_ns = -1 << 62
        """When the newest barrier that has passed was asked for: what was acknowledged before is applied here."""
        self._membership: Membership | None = None
        self._awaited: list[tuple[Callable[[Status], bool | None], int, Deferred[None]]] = []
        self._closed: MonofsError | None = NotReady("the journal is not started yet: try again shortly")
        self.removed = ""
        """What everybody is told once it is certain that this member was taken out of the group."""
        self.rpc_of: Callable[[NodeId], str | None] = lambda _: None
        self.copied_of: Callable[[NodeId], float] = lambda _: -1.0
        """Where clients reach a member, for ``NotLeader``; None while it is not known."""

    # ---- start and stop ---------------------------------------------------------------------------------------------------
    def open(self, network: Network, membership: Membership, *, begins: bool, installed: bool) -> None:
        """Read the log back; nothing is said or applied yet. Blocks.

        ``membership``: the one in force where the machine stands, for a log that begins here: because ``begins`` (there is none yet), or because
        the machine's state was ``installed`` and the log behind it is not its own. Raises what :class:`LogDisk` raises.
        """
        invariant(self._disk is None, "a journal is opened once")
        machine = self._machine
        disk = LogDisk(
            self._directory, self._config, call_soon=self._reactor.callFromThread, on_failure=self._on_failure
        )
        applied = Position(int(machine.applied_index), int(machine.applied_term))
        found = disk.open(applied, membership, may_discard=installed)
        self._disk, self._network = disk, network
        machine.take_membership(JournalIndex(applied.index), Term(applied.term), encode_membership(found.membership))
        settings = Settings(
            tick_s=TICK_S,
            heartbeat_ticks=HEARTBEAT_TICKS,
            lease=self._config.read_lease,
            election_ticks=max(round(self._config.election_timeout_s / TICK_S), 2 * HEARTBEAT_TICKS + 1),
        )
        core = Raft(
            self.me,
            settings,
            random=SystemRandom(),
            hard_state=found.hard_state,
            base=found.base,
            membership_at_base=found.membership,
            entries=found.entries,
            applied=applied.index,
            now_ns=_now_ns(),
            restarted=not begins,
            older=found.older,
        )
        self._driver = Driver(
            core,
            disk,
            self._machine,
            self,
            queue_max_bytes=self._config.queue_bytes,
            skip=frozenset(index for index in self._skip if index <= core.status().last),
        )

    def start(self) -> None:
        """Begin to speak, and to lead if it comes to that."""
        self._closed = None
        self._tell_membership()
        self._ticking = self._reactor.callLater(TICK_S, self._on_tick)
        self.run_soon()

    def stop(self) -> None:
        """Say nothing any more, write what is queued, end the threads. May be called twice; blocks."""
        if self._closed is None:
            self._closed = NotReady("the node is stopping: try again shortly")
        for timer in (self._ticking, self._turn):
            if timer is not None and timer.active():
                timer.cancel()
        self._ticking = self._turn = None
        disk, self._disk = self._disk, None
        if disk is not None:
            disk.close()

    # ---- the face -----------------------------------------------------------------------------------------------------------

    def propose(self, entry: Entry, done: Done) -> None:
        """See ``face.Journal``."""
        driver = self._driver
        if self._closed is not None or driver is None:
            closed = self._closed
            self._reactor.callLater(0, lambda: done(closed))
        elif len(entry.body) > ENTRY_MAX_BYTES:
            error = EntryTooLarge(
                f"a change of {len(entry.body)} bytes is larger than a journal entry may be: split it"
            )
            self._reactor.callLater(0, lambda: done(error))
        else:
            driver.propose(entry, done, len(entry.body) + ENTRY_OVERHEAD_BYTES)

    def read_barrier(
        self, consistency: Consistency, done: Callable[[MonofsError | None], None], bound_s: float = 0.0
    ) -> None:
        """See ``face.Journal``. A follower refuses ``linearizable``: what only the leader knows (workers, freshness) belongs to most such answers."""
        driver, now_ns = self._driver, _now_ns()
        if consistency is Consistency.STALE:
            done(None)
        elif self._closed is not None or driver is None:
            done(self._closed)
        elif self.removed:
            done(NotLeader(self.removed, leader=None))
        elif consistency is Consistency.BOUNDED:
            if now_ns - self._passed_ns <= bound_s * 1e9:
                done(None)
            else:
                driver.read_barrier(partial(self._pass, now_ns, done), now_ns)
        elif not self.leads:
            done(self.refusal(Refused("not_leader", self._standing_leader())))
        else:
            driver.read_barrier(done, now_ns)

    def _pass(self, asked_ns: int, done: Callable[[MonofsError | None], None], error: MonofsError | None) -> None:
        if error is None:
            self._passed_ns = max(self._passed_ns, asked_ns)
        done(error)

    def on_role(self, listener: Callable[[Role, Term], None]) -> None:
        """See ``face.Journal``."""
        self._listeners.append(listener)
        if self._told is not None:
            listener(*self._told)

    def release(self, index: JournalIndex) -> None:
        """See ``face.Journal``. Segments stay that a member needs which was heard lately, up to half of ``journal.retain_bytes``, and the newest
        ``journal.keep_bytes`` for members that were away."""
        self._flushed = index
        self._release()

    def _release(self) -> None:
        disk, driver = self._disk, self._driver
        if disk is None or driver is None:
            return
        bound = disk.retain_bytes // 2
        needed = self._needed(driver.core) if disk.live_bytes <= bound else self._flushed
        disk.release(min(self._flushed, needed), min(self._config.keep_bytes, bound))
        driver.core.compact(disk.first_index - 1)

    def _needed(self, core: Raft) -> int:
        """What every member heard lately has, or gets with the state that is on its way to it."""
        return min(
            (
                max(progress.match, self._copies.get(peer, 0))
                for peer, progress in core.progress.items()
                if (core.ticks - progress.heard_tick) * TICK_S < NEEDED_S
            ),
            default=1 << 62,
        )

    def status(self) -> dict[str, Any]:
        """See ``face.Journal``."""
        shown: dict[str, Any] = {"role": "starting", "term": 0, "applied_index": self._machine.applied_index}
        if self._driver is not None and self._disk is not None:
            status = self._driver.core.status()
            leader = next((each for each in decode_book(status.membership.book) if each.id == status.leader), None)
            shown = {
                "role": status.role.value,
                "term": status.term,
                "leader": leader.name if leader is not None else "",
                "leader_address": self.rpc_of(status.leader) or "",
                "applied_index": status.applied,
                "commit_index": status.commit,
                "last_index": status.last,
                "first_index": status.first,
                "queue_bytes": self._driver.queued_bytes,
                **self._disk.status(),
            }
        return shown

    # ---- for operators ------------------------------------------------------------------------------------------------------

    def raft_status(self) -> Status:
        """Of the core. Raises ``NotReady``."""
        return self._core().status()

    def last(self) -> Position:
        """Of the log. Raises ``NotReady``."""
        return self._core().log.last

    def committed(self) -> Position | None:
        """The last entry known to be committed; None while the membership in force is not, or nothing is known yet."""
        core = self._driver.core if self._driver is not None else None
        if core is None or core.log.membership_index > core.commit:
            return None
        term = core.log.term(core.commit)
        return None if term is None else Position(core.commit, term)

    @property
    def crc(self) -> int:
        """Running CRC-32 of the state that was applied."""
        return self._machine.crc

    def seconds(self, ticks: int) -> float:
        """How long so many ticks are."""
        return ticks * TICK_S

    @property
    def lease_ms(self) -> int:
        """The election timeout all members must have in common, because leaders read by a lease; 0: they do not."""
        return round(self._config.election_timeout_s * 1000) if self._config.read_lease else 0

    @property
    def leads(self) -> bool:
        """Whether this member leads and has applied all that was committed before it did."""
        return self._told is not None and self._told[0] is Role.LEADER

    def check_leads(self) -> None:
        """Raise ``NotLeader`` unless this member leads."""
        if not self.leads:
            raise self.refusal(Refused("not_leader", self._standing_leader()))

    def change_membership(self, membership: Membership) -> Deferred[None]:
        """Fires when it is committed, and a joint one left. Raises ``Refused``; fails with ``OutcomeUnknown`` when leadership is lost meanwhile."""
        index = self._core().propose_membership(membership)
        term = self._core().status().term

        def is_done(status: Status) -> bool | None:
            if status.term != term or (status.role is not RaftRole.LEADER and status.commit < index):
                return None
            return status.commit >= max(index, status.membership_index) and not status.membership.is_joint

        return self._await(is_done, 0)

    def transfer(self, target: NodeId) -> Deferred[None]:
        """Fires when ``target`` leads; begun anew while the target, heard of, is too slow for one election timeout. Raises ``Refused``; fails with ``DeadlineExceeded``."""
        self._core().transfer(target)

        def is_done(status: Status) -> bool:
            peer = status.peers.get(target)
            is_near = peer is not None and peer.heard_ticks_ago < self._core().settings.election_ticks
            if status.role is RaftRole.LEADER and status.transferring_to == NOBODY and is_near:
                with contextlib.suppress(Refused):
                    self._core().transfer(target)
                    self.run_soon()
            return status.leader == target

        return self._await(is_done, TRANSFER_TICKS)

    async def hand_over(self) -> None:
        """Before a stop: let the voter that has come furthest lead, so that clients need not wait for an election. Best effort."""
        if not self.leads or self._closed is not None:
            return
        status = self._core().status()
        others = [
            (progress.match, -progress.heard_ticks_ago, peer)
            for peer, progress in status.peers.items()
            if status.membership.is_voter(peer)
        ]
        if not others:
            return
        try:
            await self.transfer(max(others)[2])
        except (Refused, MonofsError) as error:
            _log.warning("leadership was not handed over", reason=str(error))

    def _await(self, is_done: Callable[[Status], bool | None], ticks: int) -> Deferred[None]:
        waiter: Deferred[None] = Deferred()
        self._awaited.append((is_done, ticks, waiter))
        self.run_soon()
        return waiter

    def _settle_awaited(self, ticks: int) -> None:
        """``ticks`` have passed."""
        awaited, self._awaited = self._awaited, []
        status = self._core().status()
        for is_done, left, waiter in awaited:
            outcome = is_done(status)
            if outcome:
                waiter.callback(None)
            elif outcome is None:
                waiter.errback(
                    OutcomeUnknown("leadership was lost before the change was committed: look at the group again")
                )
            elif left and left <= ticks:
                waiter.errback(DeadlineExceeded("the other master did not take over in time; this one may still lead"))
            else:
                self._awaited.append((is_done, left - ticks if left else 0, waiter))

    def _core(self) -> Raft:
        if self._driver is None or self._closed is not None:
            raise self._closed or NotReady("the journal is not started yet: try again shortly")
        return self._driver.core

    def _standing_leader(self) -> NodeId:
        return self._driver.standing.leader if self._driver is not None else NOBODY

    # ---- what peers bring -----------------------------------------------------------------------------------------------------

    def receive(self, messages: Sequence[Message]) -> None:
        """Messages of members, decoded."""
        if self._driver is not None and self._closed is None:
            self._driver.receive(messages, _now_ns())

    def compare(self, sender: NodeId, index: int, crc: int) -> None:
        """What another member's machine had at ``index``. Only the leader's counts: a member that is wrong must not stop those that are right."""
        if self._driver is not None and self._closed is None and sender == self._standing_leader():
            self._driver.compare(index, crc)

    def digest(self) -> tuple[int, int]:
        """The newest index and CRC to compare with; zeros while there is none, and of one that does not lead."""
        digests = self._driver.digests if self._driver is not None and self.leads else {}
        return max(digests.items(), default=(0, 0))

    def unreachable(self, peer: NodeId) -> None:
        """Messages to a member were lost."""
        if self._driver is not None and self._closed is None:
            self._driver.core.unreachable(peer)

    def install_message(self, peer: NodeId, position: Position) -> InstallSnapshot | None:
        """What tells a member to install the state at ``position``, which it has."""
        return self._core().install_message(peer, position)

    def state_copied(self, peer: NodeId, index: int) -> None:
        """The state at ``index`` was copied for a member: what follows is kept for it."""
        self._copies[peer] = index

    def snapshot_sent(self, peer: NodeId, position: Position, ok: bool) -> None:
        """A transfer has ended."""
        if not ok:
            self._copies.pop(peer, None)
        if self._driver is not None and self._closed is None:
            self._driver.core.snapshot_sent(peer, position, ok)
            self.run_soon()

    # ---- what the driver asks -------------------------------------------------------------------------------------------------

    def send(self, messages: Sequence[Message]) -> None:
        """See ``driver.Outside``."""
        if self._network is not None:
            self._network.send(messages)

    def send_snapshot(self, wanted: SnapshotWanted) -> None:
        """See ``driver.Outside``."""
        if self._network is not None:
            self._network.send_snapshot(wanted)

    def install(self, snapshot: InstallSnapshot) -> None:
        """See ``driver.Outside``."""
        if self._network is not None:
            self._network.install(snapshot)

    def become(self, role: Role, term: Term) -> None:
        """See ``driver.Outside``."""
        self._told = role, term
        self._copies.clear()
        _log.info("role", role=role.value, term=term)
        for listener in list(self._listeners):
            listener(role, term)

    def run_soon(self) -> None:
        """See ``driver.Outside``."""
        if self._turn is None and self._closed is None:
            self._turn = self._reactor.callLater(0, self._on_turn)

    def refusal(self, refused: Refused) -> MonofsError:
        """See ``driver.Outside``."""
        if refused.reason == "too_large":
            return EntryTooLarge("the change is larger than a journal entry may be: split it")
        if refused.reason in ("too_much", "too_many_reads"):
            return Overloaded("the other masters lag behind: try again shortly")
        if self.removed:
            return NotLeader(self.removed, leader=None)
        leader = self.rpc_of(refused.leader) if refused.leader not in (NOBODY, self.me) else None
        told = "leadership is being handed over" if refused.reason == "transferring" else "this master does not lead"
        return NotLeader(f"{told}: ask {leader or 'another'}", leader=leader)

    def fail(self, failure: BaseException) -> None:
        """See ``driver.Outside``."""
        self._on_failure(failure)

    # ---- time -----------------------------------------------------------------------------------------------------------------

    def _on_tick(self) -> None:
        self._ticking = self._reactor.callLater(TICK_S, self._on_tick)
        if self._driver is not None:
            self._driver.tick(_now_ns())
            self._after_turn(1)
            self._ticks += 1
            if self._ticks % GAUGE_TICKS == 0 and self._closed is None:
                self._lookout.look(
                    self._driver.core.status(),
                    leads=self.leads,
                    queued_bytes=self._driver.queued_bytes,
                    now_s=_now_ns() / 1e9,
                )
                self._look_at_bound()

    def _on_turn(self) -> None:
        self._turn = None
        if self._driver is not None and self._closed is None:
            self._driver.run()
            self._after_turn(0)

    def _look_at_bound(self) -> None:
        """Nothing may be persisted over the bound, so perhaps nothing is applied and flushed any more that would make room."""
        if self._disk is not None and self._disk.is_over_bound:
            _log.warning("journal at its bound: writing waits for the database", bytes=self._disk.live_bytes)
            self._release()
            self.run_soon()

    def _after_turn(self, ticks: int) -> None:
        if self._closed is not None:
            return
        if self._awaited:
            self._settle_awaited(ticks)
        if self._core().log.membership is not self._membership:
            self._tell_membership()

    def _tell_membership(self) -> None:
        membership = self._core().log.membership
        self._membership = membership
        if self._network is not None:
            self._network.membership_changed(membership)


def _now_ns() -> int:
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)
