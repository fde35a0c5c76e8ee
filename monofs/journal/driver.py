"""What one member does with what the core decides, in the one order that is safe: persist, send, apply, answer.

The core hands over a ``Ready``; its entries and hard state go to the disk in one batch at a time; messages that promise something were held by the
core until that batch was durable, so what it hands over may be sent at once, and a leader's appends travel while its own disk still writes; committed
entries are applied in index order; only then are callers answered. Invariants: the machine sees every index once, in order, and only what is durable here; ``done``
of a proposal is called once, with the result of exactly the entry that was proposed, or with an error that says what is known of its fate.

No thread, no socket, no clock: the disk, the network and time are arguments, and the simulator drives this very class. Turns begin at :meth:`run`; everything else
only queues. Not here: decisions (raft/), files (log_disk.py), the reactor (replicated.py).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from time import perf_counter
from typing import Any, Protocol

from monofs.journal.face import Done, Entry, Role
from monofs.journal.raft.core import Raft
from monofs.journal.raft.messages import (
    NOBODY,
    EntryType,
    Fetch,
    InstallSnapshot,
    LogEntry,
    Message,
    Persist,
    ReadState,
    Ready,
    Refused,
    RoleChange,
    SnapshotWanted,
)
from monofs.journal.raft.messages import Role as RaftRole
from monofs.journal.single import apply_failure
from monofs.journal.wire import encode_membership
from monofs.model.errors import (
    Diverged,
    InvariantBroken,
    JournalFailed,
    MonofsError,
    OutcomeUnknown,
    Overloaded,
    invariant,
)
from monofs.model.ids import JournalIndex, Term
from monofs.observe.logs import logger
from monofs.observe.metrics import JOURNAL_COMMIT, JOURNAL_ELECTIONS, JOURNAL_REFUSED

APPLY_ENTRIES = 1024
"""Most entries applied in one turn: bounds how long others wait for the reactor."""
DIGEST_INTERVAL = 10_000
"""The machine's running CRC at every so many entries is compared with the leader's."""
DIGESTS_KEPT = 8

_COMMIT, _ELECTIONS = JOURNAL_COMMIT(), JOURNAL_ELECTIONS()
_log = logger(__name__)

DiskDone = Callable[[BaseException | None], None]


class Machine(Protocol):
    """The state machine of ``face.StateMachine``, and what replication adds."""

    @property
    def applied_index(self) -> JournalIndex: ...

    @property
    def applied_term(self) -> int: ...

    @property
    def crc(self) -> int:
        """Running CRC-32 of all changes."""

    @property
    def held_back(self) -> bool:
        """Whether the machine's own database lags so much that nothing more should be applied now."""

    def apply(self, index: JournalIndex, term: Term, entry: Entry) -> Any: ...

    def take_membership(self, index: JournalIndex, term: Term, membership: bytes) -> None:
        """The membership in force from ``index`` on, encoded; kept with the state, so that a copy of it can begin a log."""


class Disk(Protocol):
    """Where entries become durable. ``done`` is called in a later turn."""

    @property
    def is_over_bound(self) -> bool:
        """Whether too much of the log waits for the machine to be durable: nothing more is taken until it is."""

    def persist(self, batch: Persist, done: DiskDone) -> None: ...

    def read(self, first_index: int, max_bytes: int, done: Callable[[list[LogEntry] | None], None]) -> None: ...


class Outside(Protocol):
    """What the driver asks of its surroundings."""

    def send(self, messages: Sequence[Message]) -> None:
        """Give messages to the network, which may lose them."""

    def send_snapshot(self, wanted: SnapshotWanted) -> None:
        """Copy the state to a member whose next entries are gone; ends in ``core.snapshot_sent``."""

    def install(self, snapshot: InstallSnapshot) -> None:
        """Put the state that was received in the place of this one."""

    def become(self, role: Role, term: Term) -> None:
        """Tell listeners."""

    def run_soon(self) -> None:
        """Call ``run`` in a later turn, once however often this is asked."""

    def refusal(self, refused: Refused) -> MonofsError:
        """The error callers get for what the core did not take."""

    def fail(self, failure: BaseException) -> None:
        """Stop the node."""


class _Proposal:
    """An entry on its way; ``index`` 0: not given to the core yet."""

    __slots__ = ("began_s", "done", "entry", "index", "size_bytes", "term")

    def __init__(self, entry: Entry, done: Done, size_bytes: int) -> None:
        self.entry, self.done, self.size_bytes = entry, done, size_bytes
        self.began_s = perf_counter()
        self.index = self.term = 0


class Driver:
    """One member's core, disk and machine, driven. All methods: one thread."""

    def __init__(
        self,
        core: Raft,
        disk: Disk,
        machine: Machine,
        outside: Outside,
        *,
        queue_max_bytes: int,
        skip: frozenset[int] = frozenset(),
    ) -> None:
        self.core, self._disk, self._machine, self._outside = core, disk, machine, outside
        self._queue_max_bytes, self._skip = queue_max_bytes, skip
        self._queue: deque[_Proposal] = deque()
        self._waiting: deque[_Proposal] = deque()
        """Given to the core, in index order, not answered yet."""
        self._answers: deque[tuple[Done, Any]] = deque()
        """Refusals that wait for the next turn."""
        self.queued_bytes = 0
        """Of proposals not answered yet."""
        self._committed: deque[LogEntry] = deque()
        self._reads: dict[int, Callable[[MonofsError | None], None]] = {}
        self._ready_reads: list[tuple[int, int]] = []
        """(index, token) of reads whose index is known and not applied yet."""
        self._last_token = 0
        self._persisting = False
        self._role: tuple[Role, int] | None = None
        """As told last."""
        self._leads_from = 0
        """The newest term whose leader's first entry was applied."""
        status = core.status()
        self.standing = RoleChange(status.role, status.term, NOBODY)
        """What the core is now, in which term, and whom it knows as leader."""
        self.applied = status.applied
        self.digests: dict[int, int] = {}
        """Index → CRC of the machine there, of the newest few multiples of ``DIGEST_INTERVAL``."""
        self.failure: BaseException | None = None

    # ---- what comes in ----------------------------------------------------------------------------------------------------

    def propose(self, entry: Entry, done: Done, size_bytes: int) -> None:
        """Queue an entry for the next turn; ``Overloaded`` through ``done`` when ``queue_max_bytes`` wait already."""
        if self.failure is not None:
            self._soon(done, self._stopped())
        elif self.queued_bytes + size_bytes > self._queue_max_bytes and self.queued_bytes:
            error = Overloaded(f"{self.queued_bytes} bytes of changes wait for the journal: try again shortly")
            self._soon(done, error)
        elif self._disk.is_over_bound:
            self._soon(done, Overloaded("the metadata database lags behind the journal: try again shortly"))
        else:
            self.queued_bytes += size_bytes
            self._queue.append(_Proposal(entry, done, size_bytes))
            self._outside.run_soon()

    def read_barrier(self, done: Callable[[MonofsError | None], None], now_ns: int) -> None:
        """``done(None)`` once everything that was acknowledged before this call is applied here."""
        if self.failure is not None:
            done(self._stopped())
            return
        self._last_token += 1
        self._reads[self._last_token] = done
        self.core.read(self._last_token, now_ns)
        self._outside.run_soon()

    def tick(self, now_ns: int) -> None:
        """Time passes; followed by :meth:`run`."""
        if self.failure is None:
            self.core.tick(now_ns)
            self.run()

    def receive(self, messages: Sequence[Message], now_ns: int) -> None:
        """Messages of members came."""
        if self.failure is None:
            for message in messages:
                self.core.step(message, now_ns)
            self._outside.run_soon()

    def compare(self, index: int, crc: int) -> None:
        """What the leader's machine had at ``index``."""
        mine = self.digests.get(index)
        if mine is not None and mine != crc:
            self.fail(
                Diverged(
                    f"the state here differs from the leader's at entry {index} ({mine:08x}, not {crc:08x}): this is a bug or a broken "
                    "disk. This member has stopped itself; report it, then remove it and add it again with an empty home"
                )
            )

    # ---- a turn -----------------------------------------------------------------------------------------------------------

    def run(self) -> None:
        """Do what there is to do now."""
        while self._answers:
            done, result = self._answers.popleft()
            done(result)
        if self.failure is not None:
            return
        try:
            self._offer()
            while self.failure is None and (ready := self.core.ready(may_persist=self._may_persist())) is not None:
                self._carry_out(ready)
            self._apply_some()
        except Exception as error:  # noqa: BLE001 - whatever it is, this member must not go on
            self.fail(error)

    def _may_persist(self) -> bool:
        return not self._persisting and not self._disk.is_over_bound

    def _offer(self) -> None:
        """Give queued proposals to the core, all of them in one call."""
        if not self._queue:
            return
        queue, self._queue = self._queue, deque()
        try:
            first = self.core.propose([(each.entry, each.size_bytes) for each in queue])
        except Refused as refusal:
            JOURNAL_REFUSED(refusal.reason).value += len(queue)
            for each in queue:
                self._answer(each, self._outside.refusal(refusal))
            return
        term = self.core.term
        for index, each in enumerate(queue, first):
            each.index, each.term = index, term
        self._waiting.extend(queue)

    def _carry_out(self, ready: Ready) -> None:
        if ready.messages:  # before the disk's thread wakes and wants the interpreter
            self._outside.send(ready.messages)
        if ready.persist is not None:
            self._persisting = True
            self._disk.persist(ready.persist, partial(self._persisted, ready.number))
        for fetch in ready.fetches:
            self._disk.read(fetch.first_index, fetch.max_bytes, partial(self._fetched, fetch))
        for wanted in ready.snapshots:
            self._outside.send_snapshot(wanted)
        if ready.installs is not None:
            self._outside.install(ready.installs)
        if ready.committed:
            self._committed.extend(ready.committed)
        for state in ready.reads:
            self._hear_read(state)
        if ready.role is not None:
            if ready.role.role is RaftRole.CANDIDATE and self.standing.role is not RaftRole.CANDIDATE:
                _ELECTIONS.value += 1
            self.standing = ready.role
            self._hear_role()

    def _persisted(self, number: int, error: BaseException | None) -> None:
        self._persisting = False
        if self.failure is not None:
            return
        if error is not None:
            self.fail(error)
            return
        self.core.persisted(number)
        self.run()

    def _fetched(self, fetch: Fetch, entries: list[LogEntry] | None) -> None:
        if self.failure is None:
            self.core.fetched(fetch.peer, fetch.first_index, entries)
            self.run()

    # ---- applying and answering ---------------------------------------------------------------------------------------------

    def _apply_some(self) -> None:
        committed, budget = self._committed, APPLY_ENTRIES
        if not committed:
            self._pass_reads()
            return
        results: list[tuple[_Proposal, Any]] = []
        while committed and budget and not self._machine.held_back:
            entry = committed.popleft()
            invariant(entry.index == self.applied + 1, "entries are applied one after the other")
            result = self._apply(entry)
            self.applied, budget = entry.index, budget - 1
            if self._waiting and self._waiting[0].index == entry.index:
                proposal = self._waiting.popleft()
                invariant(proposal.term == entry.term, "an answer is that of the entry proposed")
                results.append((proposal, result))
        self.core.applied_to(self.applied)
        self._hear_role()
        now_s = perf_counter()
        for proposal, result in results:
            _COMMIT.observe(now_s - proposal.began_s)
            self._answer(proposal, result)
        self._pass_reads()
        if committed and not budget:
            self._outside.run_soon()

    def _apply(self, entry: LogEntry) -> Any:
        machine, index, term = self._machine, JournalIndex(entry.index), Term(entry.term)
        result = None
        if index in self._skip:
            _log.error("entry passed over as told", index=index, term=term)
        elif entry.type is EntryType.NORMAL:
            try:
                result = machine.apply(index, term, entry.data)
            except Exception as error:
                raise apply_failure(index, error) from error
        elif entry.type is EntryType.MEMBERSHIP:
            machine.take_membership(index, term, encode_membership(entry.data))
        else:
            self._leads_from = entry.term
        if index % DIGEST_INTERVAL == 0:
            self.digests[index] = machine.crc
            self.digests.pop(index - DIGESTS_KEPT * DIGEST_INTERVAL, None)
        return result

    def _answer(self, proposal: _Proposal, result: Any) -> None:
        self.queued_bytes -= proposal.size_bytes
        try:
            proposal.done(result)
        except InvariantBroken as error:
            self.fail(error)
        except Exception as error:  # noqa: BLE001 - one caller's bug must not keep the others' answers
            _log.error("a callback of propose failed", exception=error)

    # ---- reads and roles ----------------------------------------------------------------------------------------------------

    def _hear_read(self, state: ReadState) -> None:
        done = self._reads.get(state.token)
        if done is None:
            return
        if state.refused is not None:
            del self._reads[state.token]
            done(self._outside.refusal(Refused(state.refused, self.standing.leader)))
        else:
            self._ready_reads.append((state.index, state.token))

    def _pass_reads(self) -> None:
        passed = [token for index, token in self._ready_reads if index <= self.applied]
        if not passed:
            return
        self._ready_reads = [each for each in self._ready_reads if each[0] > self.applied]
        for token in passed:
            self._reads.pop(token)(None)

    def _hear_role(self) -> None:
        """A leader is told of only once all entries of earlier terms are applied: then its own first one is."""
        standing = self.standing
        is_leader = standing.role is RaftRole.LEADER
        if self._waiting and not (is_leader and self._waiting[0].term == standing.term):
            self._lose_proposals()
        leads = is_leader and self._leads_from == standing.term
        told = (Role.LEADER, standing.term) if leads else (Role.FOLLOWER, 0)
        if told != self._role:
            was_leader = self._role is not None and self._role[0] is Role.LEADER
            if leads and was_leader:
                self._outside.become(Role.FOLLOWER, Term(standing.term))
            self._role = told
            self._outside.become(told[0], Term(standing.term))

    def _lose_proposals(self) -> None:
        """What was proposed may yet be committed by who leads now, or not."""
        waiting, self._waiting = self._waiting, deque()
        error = OutcomeUnknown("leadership was lost before the change was committed: retry under the same request id")
        for proposal in waiting:
            self._answer(proposal, error)

    # ---- the end --------------------------------------------------------------------------------------------------------------

    def fail(self, failure: BaseException) -> None:
        """Stop for good: nothing is written, sent or applied any more."""
        if self.failure is not None:
            return
        self.failure = failure
        _log.error("journal failed", exception=failure)
        unknown = OutcomeUnknown("the node is stopping after a failure: retry under the same request id")
        waiting, self._waiting = self._waiting, deque()
        for proposal in waiting:
            self._answer(proposal, unknown)
        queue, self._queue = self._queue, deque()
        for proposal in queue:
            self._answer(proposal, self._stopped())
        reads, self._reads = self._reads, {}
        for done in reads.values():
            done(self._stopped())
        if self._role is not None and self._role[0] is Role.LEADER:
            self._role = (Role.FOLLOWER, self._role[1])
            self._outside.become(Role.FOLLOWER, Term(self._role[1]))
        self._outside.fail(failure)

    def _stopped(self) -> MonofsError:
        return JournalFailed(f"the journal has stopped: {self.failure}")

    def _soon(self, done: Done, result: Any) -> None:
        """Answer in the next turn: never inside the call that asked."""
        self._answers.append((done, result))
        self._outside.run_soon()
