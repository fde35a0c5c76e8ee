"""A replicated log in segments: what the Raft core wants persisted becomes frames, and is read back at start and for followers that lag.

Everything here is synchronous, and the system calls are an argument, so a simulated disk drives the very same code. Order: room for all
frames of a batch is made first (``DiskFull``: nothing was written), then its frames are written and synced one after the other; the first
one holds the hard state and the cut, so a crash leaves the log as it was, or cut with a beginning of the new entries. Invariant: after any
other failure nothing is written again. Threads are not here: see log_disk.py. One caller at a time, but for :meth:`LogFiles.read`.
"""

from __future__ import annotations

import os
from bisect import bisect_right
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

from monofs.config.schema import JournalConfig
from monofs.journal.face import ENTRY_MAX_BYTES, Entry
from monofs.journal.files import REAL_FILES, Files
from monofs.journal.frames import (
    BLOCK_BYTES,
    FRAME_OVERHEAD_BYTES,
    HEADER_MAX_BYTES,
    KIND_EMPTY,
    KIND_MEMBERSHIP,
    NOT_ENTRIES_MAX_BYTES,
    RECORD_BYTES,
    Frame,
    Record,
    decode_records,
    pack_cut,
    pack_entry,
    pack_membership,
    pack_state,
    unpack_membership,
)
from monofs.journal.outline import Cut, Outline, Place, term_in
from monofs.journal.raft.messages import EntryType, HardState, LogEntry, Membership, Persist, Position
from monofs.journal.recovery import Log, read_frame
from monofs.journal.segments import Segments, write_failure
from monofs.model.errors import (
    ConfigError,
    DiskFull,
    EntryTooLarge,
    JournalCorrupt,
    JournalFailed,
    MonofsError,
    invariant,
)
from monofs.observe.logs import logger

SEGMENT_MIN_BYTES = 64 << 10
RETAIN_SEGMENTS = 8
"""The bound is at least so many segments: with half of it kept for followers, the present segment and one partly used are below it still."""

_log = logger(__name__)


class Opened(NamedTuple):
    """What a start finds; arguments of the core. ``base`` is the position of the state, ``membership`` the one in force there, ``entries``
    follow it; ``older`` are runs of terms (first index, term) of entries up to ``base`` that :meth:`LogFiles.read` gives."""

    hard_state: HardState
    base: Position
    membership: Membership
    entries: list[LogEntry]
    older: tuple[Position, ...]


class LogFiles:
    """See the module. :meth:`open` comes first."""

    def __init__(self, directory: str, config: JournalConfig, *, files: Files = REAL_FILES) -> None:
        """Raises ``ConfigError``."""
        if config.segment_bytes < SEGMENT_MIN_BYTES:
            raise ConfigError(f"journal.segment_bytes must be at least {SEGMENT_MIN_BYTES}, not {config.segment_bytes}")
        self.directory = directory
        self._files = files
        self._segment_bytes = -(-config.segment_bytes // BLOCK_BYTES) * BLOCK_BYTES
        room = self._segment_bytes - HEADER_MAX_BYTES - FRAME_OVERHEAD_BYTES - NOT_ENTRIES_MAX_BYTES
        self._frame_bytes = min(config.batch_bytes, room)
        self.retain_bytes = max(config.retain_bytes, RETAIN_SEGMENTS * self._segment_bytes)
        """More than this in ``live_bytes``: the caller must take no more entries until it has released some."""
        self.entry_max_bytes = min(ENTRY_MAX_BYTES, room - RECORD_BYTES)
        """No body of an entry may be larger."""
        self.released = 0
        self.failure: BaseException | None = None
        self._opened: Segments | None = None

    # ---- opening and closing --------------------------------------------------------------------------------------------

    def open(self, applied: Position, membership: Membership, *, may_discard: bool) -> Opened:
        """Lock the directory, read the log, cut a torn tail. ``applied``: what the state holds (term 0: not known); it must hold all that was
        ever released. ``membership``: the one in force there as the state knows it, for a log that begins now.

        A log that ends before ``applied``, or has another term there, is discarded with ``may_discard`` (the state came from elsewhere, as a
        snapshot); else it is refused, because its end is gone. Raises ``JournalCorrupt`` (with the remedy), ``HomeUnusable`` (newer
        format), ``HomeInUse``, ``DiskFull``, ``JournalFailed``.
        """
        try:
            segments = Segments(self.directory, self._segment_bytes, self._files)
            try:
                opened = self._recover(segments, applied, membership, may_discard=may_discard)
            except BaseException:
                segments.close()
                raise
        except OSError as error:
            raise JournalFailed(f"the journal in {self.directory} cannot be used: {error}") from error
        self._opened, self.released = segments, 0
        _log.info("journal open", entries=len(opened.entries), base=opened.base.index, first=self.first_index)
        return opened

    def _recover(self, segments: Segments, applied: Position, membership: Membership, *, may_discard: bool) -> Opened:
        log = Log(self.directory, self._files)
        entries: list[LogEntry] = []
        for decoded in log.frames(applied.index, whole=True):
            if decoded.cut is not None:
                while entries and entries[-1].index >= decoded.cut.first_index:
                    entries.pop()
            entries += [_as_log_entry(record) for record in decoded.records if record.number > applied.index]
        term = log.outline.term_of(applied.index) if log.tail is not None else None
        if term is not None and (not term or not applied.term or term == applied.term):
            segments.resume(log)
        else:
            last = log.outline.last if log.tail is not None else Position(0, 0)
            if applied.index and not may_discard:
                raise JournalCorrupt(
                    f"the journal in {self.directory} ends with entry {last.index} of term {last.term}, and entry {applied.index} of term "
                    f"{applied.term} was applied: its end is gone, perhaps with changes that were acknowledged. Put the journal back, "
                    "restore the whole home from a backup, or begin with a new home"
                )
            if log.tail is not None:
                _log.warning("log discarded: it is not the state's", applied=applied, last=last)
            entries.clear()
            segments.begin(log, applied, membership)
        outline = segments.outline
        _know_base(outline, applied)
        base = Position(applied.index, outline.term_of(applied.index) or applied.term)
        at_base = outline.membership_at(applied.index)
        return Opened(segments.state, base, at_base, entries, _runs_up_to(outline, applied.index))

    def close(self) -> None:
        """Close the files and give up the lock; may be called twice."""
        if self._opened is not None:
            self._opened.close()
            self._opened = None

    # ---- writing --------------------------------------------------------------------------------------------------------

    def persist(self, batch: Persist) -> int:
        """Make all of ``batch`` durable; returns the bytes written.

        Raises ``DiskFull`` or ``EntryTooLarge`` (nothing was written, the batch may be given again), ``JournalFailed`` (nothing will be written
        again: what of it is durable only the next :meth:`open` tells).
        """
        with self._writing() as segments:
            cut = None
            if batch.truncate_from is not None and batch.truncate_from <= segments.outline.last_index:
                lowest = max(segments.outline.base.index, self.released)
                invariant(batch.truncate_from > lowest, "what was released or is not there is not cut off")
                cut = segments.outline.cut_at(batch.truncate_from)
            frames = self._frames(batch, cut, segments.next_index if cut is None else cut.first_index)
            segments.make_room([frame.size_bytes() for frame in frames])
            if batch.hard_state is not None:
                invariant(batch.hard_state.term >= segments.state.term, "a term only rises")
                segments.state = batch.hard_state
            written = 0
            for frame in frames:
                written += segments.append(
                    frame.entries, frame.parts, cut=cut, runs=frame.runs, memberships=frame.memberships
                )
                cut = None
            return written

    def _frames(self, batch: Persist, cut: Cut | None, first_index: int) -> list[_Frame]:
        frame = _Frame()
        if cut is not None:
            frame.add(pack_cut(cut))
        if batch.hard_state is not None:
            frame.add(pack_state(batch.hard_state))
        frames, room = [frame] if frame.parts else [], self._frame_bytes
        outline = self._segments.outline
        term = outline.last.term if cut is None else cut.term
        for number, entry in enumerate(batch.entries, first_index):
            invariant(entry.index == number, "entries follow the log without a gap")
            stored = _as_entry(entry)
            size = len(stored.body) + RECORD_BYTES
            if len(stored.body) > self.entry_max_bytes:
                raise EntryTooLarge(
                    f"a change of {len(stored.body)} bytes is larger than this journal's segments take ({self.entry_max_bytes} "
                    "bytes): set journal.segment_bytes alike on all masters"
                )
            room -= size
            if not frames or (room < 0 and frames[-1].entries):
                frames.append(_Frame())
                room = self._frame_bytes - size
            frame = frames[-1]
            if entry.term != term:
                invariant(entry.term > term, "terms never fall within a log")
                term = entry.term
                frame.runs.append(Position(number, term))
            if entry.type is EntryType.MEMBERSHIP:
                frame.memberships.append((number, entry.data))
            frame.entries += 1
            frame.add(pack_entry(number, entry.term, stored))
            frame.add(stored.body)
        return frames

    def reset(self, position: Position, membership: Membership) -> None:
        """A snapshot of ``position`` was installed durably: discard the whole log, begin anew behind it. Raises as :meth:`persist` does."""
        with self._writing() as segments:
            segments.restart(position, membership)
            self.released = position.index

    def release(self, index: int, keep_bytes: int = 0) -> None:
        """The state holds everything up to ``index`` durably: such segments may be reused, but for the newest ``keep_bytes`` that followers
        may need."""
        with self._writing() as segments:
            self.released = max(self.released, index)
            segments.reclaim(self.released, keep_bytes)

    def prepare(self, budget_bytes: int) -> bool:
        """Zero-fill a slice of the segment needed next; whether more is left to do."""
        with self._writing() as segments:
            return segments.prepare(budget_bytes)

    @contextmanager
    def _writing(self) -> Iterator[Segments]:
        if self.failure is not None:
            raise JournalFailed(f"the journal has stopped: {self.failure}") from self.failure
        try:
            yield self._segments
        except (DiskFull, EntryTooLarge):
            raise
        except Exception as error:
            self.failure = write_failure(self.directory, error)
            if self.failure is error:
                raise
            raise self.failure from error

    @property
    def _segments(self) -> Segments:
        invariant(self._opened is not None, "a log is open when it is used")
        assert self._opened is not None  # noqa: S101 (for the type checker)
        return self._opened

    # ---- reading --------------------------------------------------------------------------------------------------------

    def read(self, first_index: int, max_bytes: int) -> list[LogEntry] | None:
        """Durable entries from ``first_index`` on, until they have ``max_bytes`` (at least one); None: they are not, or no longer, here.

        Any thread, while the log is written. What cannot be read is logged and given as None: a follower that needs it gets a snapshot.
        """
        segments = self._segments
        outline, where = segments.outline, dict(segments.where)
        places, terms, last = list(outline.places), list(outline.terms), outline.last_index
        found: list[LogEntry] = []
        wanted, room = first_index, max_bytes
        at = bisect_right(places, first_index, key=lambda place: place.first_index) - 1
        try:
            while 0 <= at < len(places) and wanted <= last and room > 0:
                place = places[at]
                for record in self._records(place, where):
                    # Entries that were cut off stand among the others; index and term together tell them apart.
                    if record.number == wanted <= last and record.term == term_in(terms, wanted):
                        entry = _as_log_entry(record)
                        found.append(entry)
                        wanted, room = wanted + 1, room - entry.size_bytes
                        if room <= 0:
                            break
                at = next((n for n in range(at + 1, len(places)) if places[n].serial > place.serial), len(places))
        except (OSError, MonofsError) as error:
            _log.error("the journal cannot be read", directory=self.directory, index=wanted, exception=error)
        return found or None

    def _records(self, place: Place, where: dict[int, tuple[str, int]]) -> Iterator[Record]:
        """All records from ``place`` to the end of its segment."""
        if place.serial not in where:
            return
        path, size = where[place.serial]
        files = self._files
        try:
            fd = files.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        except FileNotFoundError:
            return  # released meanwhile
        try:
            offset = place.offset
            frame: Frame | None
            while (frame := read_frame(fd, offset, size, files)) is not None and frame.serial == place.serial:
                yield from decode_records(frame).records
                offset += frame.size
        finally:
            files.close(fd)

    # ---- showing --------------------------------------------------------------------------------------------------------

    @property
    def first_index(self) -> int:
        """The oldest entry that :meth:`read` gives; any thread."""
        return self._segments.outline.base.index + 1

    @property
    def last_index(self) -> int:
        """The last durable entry; any thread."""
        return self._segments.outline.last_index

    @property
    def live_bytes(self) -> int:
        """Of segments that are not released; any thread."""
        return self._segments.live_bytes

    def size(self) -> tuple[int, int]:
        """How many segment files there are, and their bytes; any thread."""
        return self._segments.files()


class _Frame:
    """One frame in the making."""

    __slots__ = ("bytes", "entries", "memberships", "parts", "runs")

    def __init__(self) -> None:
        self.parts: list[bytes] = []
        self.entries = 0
        self.bytes = FRAME_OVERHEAD_BYTES
        self.runs: list[Position] = []
        self.memberships: list[tuple[int, Membership]] = []

    def add(self, part: bytes) -> None:
        self.parts.append(part)
        self.bytes += len(part)

    def size_bytes(self) -> int:
        return -(-self.bytes // BLOCK_BYTES) * BLOCK_BYTES


def _as_entry(entry: LogEntry) -> Entry:
    if entry.type is EntryType.NORMAL:
        stored: Entry = entry.data
        invariant(
            stored.kind not in (KIND_EMPTY, KIND_MEMBERSHIP), "a state machine's entry is none of the journal's own"
        )
        return stored
    if entry.type is EntryType.EMPTY:
        return Entry(KIND_EMPTY, 1, b"")
    return Entry(KIND_MEMBERSHIP, 1, pack_membership(entry.data))


def _as_log_entry(record: Record) -> LogEntry:
    index, term, entry = record
    size = len(entry.body) + RECORD_BYTES
    if entry.kind == KIND_EMPTY:
        return LogEntry(term, index, EntryType.EMPTY, None, size)
    if entry.kind == KIND_MEMBERSHIP:
        return LogEntry(term, index, EntryType.MEMBERSHIP, unpack_membership(entry.body), size)
    return LogEntry(term, index, EntryType.NORMAL, entry, size)


def _know_base(outline: Outline, applied: Position) -> None:
    """A single voter does not write the term before its log: it is the state's, or the log begins one entry later."""
    base = outline.base
    if base.index and not base.term:
        if base.index == applied.index:
            outline.terms[0] = applied
        else:
            outline.drop_to(base.index + 1)


def _runs_up_to(outline: Outline, index: int) -> tuple[Position, ...]:
    """The runs of the terms of all entries up to ``index``."""
    base, *runs = outline.terms
    begins = runs[0].index if runs else outline.last_index + 1
    first = [Position(base.index + 1, base.term)] if begins > base.index + 1 else []
    return tuple(run for run in (*first, *runs) if run.index <= index)
