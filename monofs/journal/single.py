"""The single voter: the whole face of the journal with one node behind it.

Order: an entry is queued, written and synced by the journal thread, then applied on the reactor thread in index order, then answered.
Invariant: ``done`` gets a result only for what is durable here and applied. At start the log above ``machine.applied_index`` is
applied, a torn tail is cut, and the term is raised durably; only then is this node leader. A disk without room refuses proposals with
``DiskFull`` and writes again once there is room; any other failure to write ends the journal (``JournalFailed``, ``on_failure``).
Elections, peers and snapshots are not here. Everything but ``start`` and ``stop`` belongs on the reactor thread.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from monofs.config.schema import JournalConfig
from monofs.journal.face import ENTRY_MAX_BYTES, Consistency, Done, Entry, Role, StateMachine
from monofs.journal.frames import BLOCK_BYTES, FRAME_OVERHEAD_BYTES, RECORD_BYTES, pack_state
from monofs.journal.raft.messages import HardState, Membership, NodeId, Position
from monofs.journal.recovery import Log
from monofs.journal.segments import Segments, write_failure
from monofs.journal.writer import Batch, Writer
from monofs.model.errors import (
    ConfigError,
    DiskFull,
    EntryTooLarge,
    Internal,
    InvariantBroken,
    JournalCorrupt,
    JournalFailed,
    MonofsError,
    NotReady,
    OutcomeUnknown,
    Overloaded,
    invariant,
)
from monofs.model.ids import JournalIndex, Term
from monofs.observe.logs import logger
from monofs.observe.metrics import JOURNAL_ENTRIES, JOURNAL_FSYNC, JOURNAL_QUEUE_BYTES

SEGMENT_MIN_BYTES = 64 << 10
_BEYOND = 1 << 62
"""An index after any entry."""
_SELF = NodeId(1)
"""The voter's id while there is only one."""

_log = logger(__name__)
_ENTRIES = JOURNAL_ENTRIES()
_QUEUE_BYTES = JOURNAL_QUEUE_BYTES()


class SingleVoter:
    """Implements ``face.Journal``. See ``start`` for what can go wrong there."""

    def __init__(
        self,
        directory: str,
        machine: StateMachine,
        config: JournalConfig,
        *,
        call_soon: Callable[[Callable[[], None]], None],
        on_failure: Callable[[BaseException], None],
        skip: frozenset[int] = frozenset(),
        may_discard: bool = True,
        installed_term: Term | None = None,
    ) -> None:
        """``call_soon`` runs a function on the reactor thread and may be called from any. ``on_failure`` is called at most once.

        ``may_discard``: a log that ends before what the machine has applied is discarded (the machine came from a snapshot);
        False: it is refused, because the machine grows from this log only and part of the log is gone.
        ``installed_term``: the machine's state was installed from elsewhere, up to an entry of this term: whatever log lies here is not
        its own and is discarded, and the term begins above both.
        ``skip``: indexes that replay passes over (``--skip-entry``); they never touch a new entry. Raises ``ConfigError``.
        """
        if config.segment_bytes < SEGMENT_MIN_BYTES:
            raise ConfigError(f"journal.segment_bytes must be at least {SEGMENT_MIN_BYTES}, not {config.segment_bytes}")
        self._directory = directory
        self._machine = machine
        self._call_soon = call_soon
        self._on_failure = on_failure
        self._skip = skip
        self._may_discard = may_discard
        self._installed_term = installed_term
        self._segment_bytes = -(-config.segment_bytes // BLOCK_BYTES) * BLOCK_BYTES
        room = self._segment_bytes - BLOCK_BYTES - FRAME_OVERHEAD_BYTES
        self._batch_bytes = min(config.batch_bytes, room)
        self._entry_max_bytes = min(ENTRY_MAX_BYTES, room - RECORD_BYTES)
        self._queue_max_bytes = config.queue_bytes
        self._retain_bytes = max(config.retain_bytes, 2 * self._segment_bytes)
        self._listeners: list[Callable[[Role, Term], None]] = []
        self._role: Role | None = None
        self._term = Term(0)
        self._writer: Writer | None = None
        self._closed: MonofsError | None = NotReady("the journal is not started yet: try again shortly")
        self._failure: BaseException | None = None
        self._queued_bytes = 0
        self._applied = 0

    # ---- starting and stopping ------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Open, apply what the machine does not have, cut a torn tail, raise the term, become leader. Blocks.

        Raises ``JournalCorrupt`` (with the remedy), ``HomeUnusable`` (newer format), ``HomeInUse``, ``DiskFull``, ``JournalFailed``,
        and what ``apply`` raised, naming the index.
        """
        invariant(self._role is None, "a journal is started once")
        try:
            segments = Segments(self._directory, self._segment_bytes)
            try:
                durable = self._machine.applied_index
                if self._installed_term is None:
                    self._recover(segments, durable)
                else:
                    self._begin_anew(segments, durable, self._installed_term)
                segments.state = HardState(segments.state.term + 1, _SELF)
                segments.append(0, [pack_state(segments.state)])
            except BaseException:
                segments.close()
                raise
        except OSError as error:
            raise JournalFailed(f"the journal in {self._directory} cannot be used: {error}") from error
        self._term = Term(segments.state.term)
        segments.reclaim(durable)
        self._writer = Writer(segments, batch_bytes=self._batch_bytes, hand_back=self._hand_back)
        self._writer.released = durable
        self._writer.start()
        self._closed = None
        self._become(Role.LEADER)

    def _recover(self, segments: Segments, applied: int) -> None:
        machine, replayed = self._machine, 0
        log = Log(self._directory)
        for index, term, entry in log.entries(applied):
            if index in self._skip:
                _log.error("entry passed over as told", index=index, term=term, kind=entry.kind, bytes=len(entry.body))
                continue
            try:
                machine.apply(JournalIndex(index), Term(term), entry)
            except Exception as error:
                raise apply_failure(index, error) from error
            replayed += 1
        if log.tail is not None and log.tail.next_index > applied:
            segments.resume(log)
        else:
            if applied:
                last = log.tail.next_index - 1 if log.tail is not None else 0
                if not self._may_discard:
                    raise JournalCorrupt(
                        f"the journal in {self._directory} ends with entry {last}, and entry {applied} was applied: its end is "
                        "gone, perhaps with changes that were acknowledged. Put the journal back, restore the whole home from "
                        "a backup, or begin with a new home"
                    )
                _log.warning("log discarded: the state is ahead", directory=self._directory, applied=applied, last=last)
            segments.begin(log, Position(applied, 0), Membership((_SELF,)))
        self._applied = segments.next_index - 1
        _log.info("journal open", replayed=replayed, applied=self._applied, first=segments.first_index)

    def _begin_anew(self, segments: Segments, applied: int, term: Term) -> None:
        log = Log(self._directory)
        for _ in log.frames(_BEYOND):  # to its end, where the newest term stands
            pass
        last = log.tail.next_index - 1 if log.tail is not None else 0
        segments.begin(log, Position(applied, int(term)), Membership((_SELF,)))
        segments.state = HardState(max(segments.state.term, term), _SELF)
        self._applied = applied
        if last:
            _log.warning(
                "log discarded: the state was installed", directory=self._directory, applied=applied, last=last
            )

    def stop(self) -> None:
        """Take no more proposals, write and apply what is queued, end the thread, become follower. May be called twice."""
        writer = self._writer
        if writer is None:
            return
        if self._closed is None:
            self._closed = NotReady("the node is stopping: try again shortly")
        writer.stop()
        while writer.completed:
            self._settle(writer.completed.popleft())
        self._become(Role.FOLLOWER)
        writer.segments.close()
        self._writer = None

    def _become(self, role: Role) -> None:
        if self._role is role:
            return
        self._role = role
        for listener in list(self._listeners):
            listener(role, self._term)

    # ---- the face -------------------------------------------------------------------------------------------------------

    def propose(self, entry: Entry, done: Done) -> None:
        """See ``face.Journal``. ``Overloaded`` also while ``journal.retain_bytes`` of segments wait to be released."""
        size, writer = len(entry.body), self._writer
        if self._closed is not None or writer is None:
            error: MonofsError | None = self._closed
        elif size > self._entry_max_bytes:
            error = EntryTooLarge(
                f"a change of {size} bytes is larger than a journal entry may be ({self._entry_max_bytes} bytes): split it"
            )
        elif self._queued_bytes + size > self._queue_max_bytes and self._queued_bytes:
            error = Overloaded(f"{self._queued_bytes} bytes of changes wait for the journal's disk: try again shortly")
        elif writer.live_bytes > self._retain_bytes:
            error = Overloaded("the metadata database lags behind the journal: try again shortly")
        else:
            self._queued_bytes += size + RECORD_BYTES
            _QUEUE_BYTES.value = self._queued_bytes
            writer.add((entry, done))
            return
        self._call_soon(lambda: done(error))

    def check_leads(self) -> None:
        """See ``face.Journal``. Nobody else does."""

    def read_barrier(
        self,
        consistency: Consistency,
        done: Callable[[MonofsError | None], None],
        bound_s: float = 0.0,  # noqa: ARG002
    ) -> None:
        """See ``face.Journal``. Here it never waits: an answered change was applied before its answer, and nobody else leads.

        ``stale`` and ``bounded`` need no leader and are granted even when the journal is closed.
        """
        done(self._closed if consistency is Consistency.LINEARIZABLE else None)

    def on_role(self, listener: Callable[[Role, Term], None]) -> None:
        """See ``face.Journal``."""
        self._listeners.append(listener)
        if self._role is not None:
            listener(self._role, self._term)

    def release(self, index: JournalIndex) -> None:
        """See ``face.Journal``. One voter has no follower that needs old segments: only the one being written is kept."""
        invariant(index <= self._applied, "only applied entries are released")
        if self._writer is not None and self._closed is None:
            self._writer.release(index)

    def status(self) -> dict[str, Any]:
        """See ``face.Journal``: counts, bytes, seconds. Figures of the journal thread may be one frame old."""
        writer = self._writer
        shown: dict[str, Any] = {
            "role": self._role.value if self._role else "starting",
            "term": self._term,
            "applied_index": self._applied,
            "queue_bytes": self._queued_bytes,
            "queue_entries": len(writer.queue) if writer else 0,
            "fsync_p50_s": JOURNAL_FSYNC().quantile(0.5),
            "fsync_p99_s": JOURNAL_FSYNC().quantile(0.99),
        }
        if writer is not None:
            count, size = writer.segments.files()
            last = writer.segments.next_index - 1
            shown |= {"first_index": writer.segments.first_index, "last_index": last, "segments": count, "bytes": size}
        return shown

    # ---- coming back from the disk --------------------------------------------------------------------------------------

    def _hand_back(self) -> None:
        self._call_soon(self._complete)

    def _complete(self) -> None:
        writer = self._writer
        if writer is not None and writer.completed:
            self._settle(writer.completed.popleft())

    def _settle(self, batch: Batch) -> None:
        """Apply a durable batch, then answer it; or answer what its failure means."""
        count = len(batch.proposals)
        self._queued_bytes -= batch.size_bytes + count * RECORD_BYTES
        _QUEUE_BYTES.value = self._queued_bytes
        if self._failure is not None:
            self._answer_all(
                batch, OutcomeUnknown("the node is stopping after a failure: retry under the same request id")
            )
        elif isinstance(batch.error, DiskFull):
            self._answer_all(batch, batch.error)
        elif batch.error is not None:
            self._fail(write_failure(self._directory, batch.error), batch)
        else:
            _ENTRIES.value += count
            self._apply(batch)

    def _apply(self, batch: Batch) -> None:
        machine, term, index = self._machine, self._term, batch.first_index
        results: list[Any] = []
        for entry, _ in batch.proposals:
            try:
                results.append(machine.apply(JournalIndex(index), term, entry))
            except Exception as error:  # noqa: BLE001 (whatever it is, the node stops and says where)
                answered = batch.proposals[: len(results)]
                self._answer(answered, results)
                self._fail(apply_failure(index, error), batch._replace(proposals=batch.proposals[len(results) :]))
                return
            self._applied = index
            index += 1
        self._answer(batch.proposals, results)

    def _answer(self, proposals: list[tuple[Entry, Done]], results: list[Any]) -> None:
        for (_, done), result in zip(proposals, results, strict=True):
            try:
                done(result)
            except InvariantBroken as error:
                self._fail(error, None)
            except Exception as error:  # noqa: BLE001 (one caller's bug must not keep the others' answers)
                _log.error("a callback of propose failed", exception=error)

    def _answer_all(self, batch: Batch, error: MonofsError) -> None:
        self._answer(batch.proposals, [error] * len(batch.proposals))

    def _fail(self, failure: BaseException, batch: Batch | None) -> None:
        """Stop for good. What is in ``batch`` may be durable; what is queued may yet be written by the frame in flight."""
        if self._failure is not None:
            return
        self._failure = failure
        self._closed = JournalFailed(f"the journal has stopped: {failure}")
        _log.error("journal failed", exception=failure)
        writer = self._writer
        if writer is not None:
            never_written = writer.halt()
            self._queued_bytes -= sum(len(entry.body) + RECORD_BYTES for entry, _ in never_written)
            if batch is not None:
                self._answer_all(
                    batch,
                    OutcomeUnknown("the node failed before the change was applied: retry under the same request id"),
                )
            self._answer(never_written, [self._closed] * len(never_written))
        self._become(Role.FOLLOWER)
        self._on_failure(failure)


def apply_failure(index: int, error: Exception) -> BaseException:
    """What an exception raised by ``apply`` of ``index`` means, with the remedy where passing the entry over is one."""
    if isinstance(error, MonofsError):
        return type(error)(f"entry {index} of the journal: {error.message}", **error.detail)
    shown = f"entry {index} of the journal could not be applied: {type(error).__name__}: {error}"
    if isinstance(error, MemoryError | OSError):
        return Internal(shown)
    return Internal(f"{shown}. This is a bug: report it; --skip-entry {index} starts the node without this entry")
