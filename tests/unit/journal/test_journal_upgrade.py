"""Journals of format version 1, as single voters wrote them, are read and carried on; what is new goes into segments of this version.

The encoder here is frozen: it makes the bytes that version 1 made, and never changes with the code.
"""

from __future__ import annotations

import os
import struct
import zlib
from pathlib import Path

import pytest
from journal_files import SEGMENT, peek, segment_files
from log_model import START, empty, normal

from monofs.config.schema import JournalConfig
from monofs.journal.face import Entry
from monofs.journal.frames import FORMAT_VERSION, decode_header
from monofs.journal.log_files import LogFiles
from monofs.journal.raft.messages import HardState, LogEntry, Membership, NodeId, Persist, Position
from monofs.journal.single import SingleVoter
from monofs.testing.journal import ListMachine, Turns

SERIAL = 0x123456789ABC
VOTER = Membership((NodeId(1),))
SMALL = JournalConfig(segment_bytes=SEGMENT)


class Version1:
    """Writes a journal as version 1 did: segments, frames, entries of kind 7, hard states."""

    def __init__(self, directory: str, first_index: int) -> None:
        self.directory, self.next_index, self.crc, self.term, self.files = directory, first_index, 0, 0, 0
        os.makedirs(directory)
        self._open(starts_chain=True)

    def _open(self, *, starts_chain: bool) -> None:
        self.data, self.offset = bytearray(SEGMENT), 4096
        serial = self.serial = SERIAL + self.files
        rest = struct.pack(
            ">IQQQIIQQHQ",
            1,
            serial,
            SEGMENT,
            self.next_index,
            self.crc,
            int(starts_chain),
            self.term,
            min(self.term, 1),
            1,
            1,
        ).ljust(4096 - 12, b"\0")
        self.data[:4096] = struct.pack(">8sI", b"monofsjn", zlib.crc32(rest)) + rest
        self._store()

    def _store(self) -> None:
        with open(f"{self.directory}/{self.files:06d}.segment", "wb") as file:
            file.write(self.data)

    def frame(self, *bodies: bytes, state: int = 0) -> None:
        payload = b""
        if state:
            self.term = state
            payload += struct.pack(">BHHIQQ", 1, 0, 1, 8, state, 0) + struct.pack(">Q", 1)
        for number, body in enumerate(bodies, self.next_index):
            payload += struct.pack(">BHHIQQ", 0, 7, 1, len(body), self.term, number) + body
        size = -(-(36 + len(payload)) // 4096) * 4096
        if self.offset + size > SEGMENT:
            self.files += 1
            self._open(starts_chain=False)
        head = struct.pack(">4sQIQII", b"mjfr", self.serial, self.crc, self.next_index, len(bodies), len(payload))
        self.crc = zlib.crc32(payload, zlib.crc32(head))
        frame = head + struct.pack(">I", self.crc) + payload
        self.data[self.offset : self.offset + len(frame)] = frame
        self.offset += size
        self.next_index += len(bodies)
        self._store()


def home(directory: str, first_index: int) -> list[LogEntry]:
    """Two starts and entries over four segments; returns them."""
    old = Version1(directory, first_index)
    old.frame(state=1)
    written: list[LogEntry] = []
    for number in range(8):
        if number == 5:
            old.frame(state=2)
        body = bytes([number]) * 20_000
        written.append(normal(old.next_index, old.term, body))
        old.frame(body)
    assert len(segment_files(directory)) == 4
    return written


@pytest.mark.parametrize(("first", "applied"), [(1, 0), (1, 3), (1, 8), (100, 99), (100, 103), (100, 107)])
def test_a_replicated_log_reads_version_1_and_carries_it_on(tmp_path: Path, first: int, applied: int) -> None:
    directory = f"{tmp_path}/j"
    written = home(directory, first)
    before = {path: peek(path) for path in segment_files(directory)}
    term = 2 if applied >= first + 5 else 1 if applied else 0
    log = LogFiles(directory, SMALL)
    opened = log.open(Position(applied, term), START, may_discard=False)
    assert opened.hard_state == HardState(2, NodeId(1))
    assert (opened.base, opened.membership) == ((applied, term), VOTER)
    assert opened.entries == [entry for entry in written if entry.index > applied]
    # Version 1 does not tell the term before the log: it begins one entry later unless the state knows.
    low = first if first == 1 or applied == first - 1 else first + 1
    assert log.first_index == low
    runs = [Position(low, 1), Position(first + 5, 2)]
    assert list(opened.older) == [run for run in runs if run.index <= applied]
    new = [empty(first + 8, 3), normal(first + 9, 3)]
    log.persist(Persist(HardState(3, NodeId(1)), None, new))
    assert {path: peek(path) for path in before} == before
    for _ in range(2):
        assert log.read(low, 1 << 20) == [*written[low - first :], *new]
        log.close()
        versions = [header.version for path in segment_files(directory) if (header := decode_header(peek(path)))]
        assert versions == [1, 1, 1, 1, FORMAT_VERSION]
        log = LogFiles(directory, SMALL)
        opened = log.open(Position(applied, term), START, may_discard=False)
        assert opened.entries == [entry for entry in [*written, *new] if entry.index > applied]
        assert opened.hard_state == HardState(3, NodeId(1))
    log.close()


def test_an_end_of_version_1_may_be_cut_off_by_this_version(tmp_path: Path) -> None:
    written = home(f"{tmp_path}/j", 1)
    log = LogFiles(f"{tmp_path}/j", SMALL)
    log.open(Position(3, 1), START, may_discard=False)
    log.persist(Persist(HardState(3, NodeId(0)), 5, [normal(5, 3)]))
    log.close()
    opened = log.open(Position(3, 1), START, may_discard=False)
    assert opened.entries == [written[3], normal(5, 3)]
    log.close()


def test_a_log_of_version_1_without_entries_begins_where_the_state_is(tmp_path: Path) -> None:
    Version1(f"{tmp_path}/j", 51).frame(state=4)
    log = LogFiles(f"{tmp_path}/j", SMALL)
    opened = log.open(Position(50, 3), START, may_discard=False)
    assert opened == (HardState(4, NodeId(1)), Position(50, 3), VOTER, [], ())
    log.persist(Persist(None, None, [normal(51, 4)]))
    log.close()
    opened = log.open(Position(50, 3), START, may_discard=False)
    assert opened.entries == [normal(51, 4)]
    log.close()


def start_single(directory: str, machine: ListMachine) -> tuple[SingleVoter, Turns]:
    turns = Turns()
    voter = SingleVoter(directory, machine, SMALL, call_soon=turns.call_soon, on_failure=pytest.fail)
    voter.start()
    return voter, turns


def test_a_single_voter_carries_on_version_1_and_a_replicated_log_carries_on_both(tmp_path: Path) -> None:
    directory = f"{tmp_path}/j"
    written = home(directory, 1)
    machine = ListMachine()
    voter, turns = start_single(directory, machine)
    assert [entry for _, _, entry in machine.applied] == [entry.data for entry in written]
    results: list[object] = []
    for body in (b"new", bytes(40_000), bytes(40_000)):
        voter.propose(Entry(7, 1, body), results.append)
    turns.run(lambda: len(results) == 3)
    voter.stop()
    assert results == [9, 10, 11]
    written += [normal(9, 3, b"new"), normal(10, 3, bytes(40_000)), normal(11, 3, bytes(40_000))]
    log = LogFiles(directory, SMALL)
    opened = log.open(Position(8, 2), START, may_discard=False)
    assert (opened.hard_state, opened.membership, opened.entries) == (HardState(3, NodeId(1)), VOTER, written[8:])
    assert log.read(1, 1 << 20) == written
    log.close()


def test_a_single_voter_that_released_its_log_is_carried_on(tmp_path: Path) -> None:
    """Its segments do not tell the term before the first of them when nothing is left to read it from."""
    directory = f"{tmp_path}/j"
    voter, turns = start_single(directory, ListMachine(applied_index=70))
    results: list[object] = []
    voter.propose(Entry(7, 1, b"new"), results.append)
    turns.run(lambda: len(results) == 1)
    voter.stop()
    for applied in (Position(70, 9), Position(71, 1)):
        log = LogFiles(directory, SMALL)
        opened = log.open(applied, START, may_discard=False)
        assert (opened.base, opened.membership) == (applied, VOTER)
        assert opened.entries == [normal(71, 1, b"new")][: 71 - applied.index]
        assert log.first_index == applied.index + 1
        log.close()
