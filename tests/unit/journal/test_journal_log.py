"""A replicated log in segments: what was persisted is read back, cut or begun anew as asked, at every place and by every way of reading."""

from __future__ import annotations

import errno
import os
import random
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from journal_files import SEGMENT, peek, poke, segment_files
from log_model import NOWHERE, START, LogModel, change, check, empty, normal, random_membership
from power_files import PowerFiles
from test_journal_segments import largest_file

from monofs.config.schema import JournalConfig
from monofs.journal.frames import BLOCK_BYTES, encode_frame, pack_cut, pack_entry
from monofs.journal.log_files import LogFiles, Opened
from monofs.journal.outline import Cut
from monofs.journal.raft.messages import HardState, Membership, NodeId, Persist, Position
from monofs.journal.recovery import Log
from monofs.model.errors import (
    ConfigError,
    DiskFull,
    EntryTooLarge,
    HomeUnusable,
    InvariantBroken,
    JournalCorrupt,
    JournalFailed,
)

SMALL = JournalConfig(segment_bytes=SEGMENT)
BODY = bytes(20_000)


def open_log(
    directory: str, applied: Position = NOWHERE, *, membership: Membership = START, may_discard: bool = False
) -> tuple[LogFiles, Opened]:
    log = LogFiles(directory, SMALL)
    return log, log.open(applied, membership, may_discard=may_discard)


def persist(log: LogFiles, model: LogModel, batch: Persist) -> LogModel:
    log.persist(batch)
    return model.after(batch)


@pytest.fixture
def directory(tmp_path: Path) -> Iterator[str]:
    return f"{tmp_path}/j"  # type: ignore[return-value]


def expect(opened: Opened, model: LogModel, applied: Position) -> None:
    assert opened.hard_state == model.state
    assert opened.base == applied
    assert opened.membership == model.membership_at(applied.index)
    assert opened.entries == [entry for entry in model.entries if entry.index > applied.index]


@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.too_slow])
@given(seed=st.integers(0, 2**32), steps=st.integers(1, 25))
def test_a_log_is_what_was_done_to_it_however_it_is_read(seed: int, steps: int) -> None:
    dice, files, model, released = random.Random(seed), PowerFiles(), LogModel(), 0
    with tempfile.TemporaryDirectory() as directory:
        log = LogFiles(directory, SMALL, files=files)
        log.open(NOWHERE, START, may_discard=False)
        for _ in range(steps):
            sort = dice.random()
            if sort < 0.75:
                batch = model.random_batch(dice, max(released, model.base.index))
                assert log.persist(batch) % BLOCK_BYTES == 0
                model = model.after(batch)
            elif sort < 0.85:
                released = dice.randint(max(released, model.base.index), model.last.index)
                log.release(released)
                assert log.first_index <= released + 1
            elif sort < 0.9:
                state = model.state
                position, membership = (
                    Position(model.last.index + dice.randint(0, 9), state.term + 1),
                    random_membership(dice),
                )
                log.persist(Persist(HardState(position.term, NodeId(0)), None, []))
                log.reset(position, membership)
                model, released = LogModel(HardState(position.term, NodeId(0)), position, membership), position.index
            else:
                while log.prepare(20_000):
                    pass
            if dice.random() < 0.3:
                log.close()
                log = LogFiles(directory, SMALL, files=files)
                applied = model.position(dice.randint(max(released, model.base.index), model.last.index))
                opened = log.open(applied, START, may_discard=False)
                expect(opened, model, applied)
                at = [Position(e.index, e.term) for e in model.entries if log.first_index <= e.index <= applied.index]
                runs = [run for n, run in enumerate(at) if n == 0 or at[n - 1].term != run.term]
                assert list(opened.older) == runs
            check(log, model, max(log.first_index, model.base.index + 1))
        log.close()


def test_a_conflicting_end_is_cut_off_and_stays_away(directory: str) -> None:
    log, _ = open_log(directory)
    model = persist(log, LogModel(), Persist(HardState(1, NodeId(2)), None, [normal(n, 1) for n in range(1, 8)]))
    model = persist(log, model, Persist(HardState(2, NodeId(0)), 4, [empty(4, 2), normal(5, 2)]))
    model = persist(log, model, Persist(None, 5, []))
    check(log, model, 1)
    log.close()
    log, opened = open_log(directory)
    expect(opened, model, NOWHERE)
    check(log, model, 1)
    log.close()


def test_a_cut_reaches_over_the_border_of_a_segment(directory: str) -> None:
    log, _ = open_log(directory)
    model = LogModel()
    for n in range(1, 8):
        model = persist(log, model, Persist(HardState(n, NodeId(0)), None, [normal(n, n, BODY)]))
    assert len(segment_files(directory)) == 3
    model = persist(log, model, Persist(HardState(9, NodeId(3)), 2, [normal(2, 9, BODY), normal(3, 9, BODY)]))
    check(log, model, 1)
    log.close()
    for applied in range(2):
        log, opened = open_log(directory, model.position(applied))
        expect(opened, model, model.position(applied))
        check(log, model, 1)
        log.close()


def test_segments_whose_entries_were_all_cut_off_are_kept_until_the_log_is_that_long_again(directory: str) -> None:
    log, _ = open_log(directory)
    model = LogModel()
    for n in range(1, 8):
        model = persist(log, model, Persist(None, None, [normal(n, 1, BODY)]))
    model = persist(log, model, Persist(HardState(2, NodeId(0)), 3, [normal(3, 2, BODY), normal(4, 2, BODY)]))
    log.release(4)
    log.close()
    log, opened = open_log(directory, model.position(4))
    assert opened.entries == []
    check(log, model, log.first_index)
    for n in range(5, 12):
        model = persist(log, model, Persist(None, None, [normal(n, 2, BODY)]))
    log.release(8)
    assert log.first_index > 3
    check(log, model, log.first_index)
    first = log.first_index
    log.close()
    log, opened = open_log(directory, model.position(9))
    expect(opened, model, model.position(9))
    assert log.first_index <= first
    check(log, model, log.first_index)
    log.close()


def test_a_cut_in_the_first_segment_left_lowers_the_beginning_of_the_log(directory: str) -> None:
    """The segment's header says where the log ended before the cut; what the cut itself says holds."""
    log, _ = open_log(directory)
    model, old, new = LogModel(), START._replace(book=b"old"), START._replace(book=b"new")
    batch = Persist(HardState(1, NodeId(1)), None, [normal(1, 1, BODY), change(2, 1, old), normal(3, 1, BODY)])
    model = persist(log, model, batch)
    model = persist(log, model, Persist(None, None, [change(4, 1, new), normal(5, 1, BODY)]))
    model = persist(log, model, Persist(HardState(2, NodeId(0)), 4, [normal(n, 2, BODY) for n in range(4, 6)]))
    for n in range(6, 8):
        model = persist(log, model, Persist(None, None, [normal(n, 2, BODY)]))
    log.release(5)
    assert log.first_index == 4
    (gone,) = log._segments.free
    log.close()
    os.unlink(gone)  # which a start would find to be part of the log still
    log, opened = open_log(directory, model.position(5))
    expect(opened, model, model.position(5))
    assert opened.membership == old
    assert opened.older == ((4, 2),)
    check(log, model, 4)
    log.close()


@pytest.mark.parametrize(
    ("cut", "crc"),
    [
        (None, 0),
        (Cut(2, 1, 3, START), 0),  # of a log that ended elsewhere
        (Cut(2, 4, 2, START), 0),  # behind another term
        (Cut(2, 1, 2, START._replace(book=b"other")), 0),
        (Cut(2, 1, 2, START), 1),  # all of it right, but not behind this frame
    ],
)
def test_a_whole_frame_that_begins_below_is_corrupt_unless_its_cut_and_chain_are_right(
    directory: str, cut: Cut | None, crc: int
) -> None:
    log, _ = open_log(directory)
    log.persist(Persist(None, None, [normal(1, 1), normal(2, 1)]))
    log.close()
    (path,) = segment_files(directory)
    read = Log(directory)
    list(read.frames(0))
    assert read.tail is not None
    entry = normal(2, 5).data
    parts = [pack_entry(2, 5, entry), entry.body]
    serial, crc = read.tail.segment.header.serial, read.tail.crc ^ crc
    poke(path, read.tail.offset, bytes(encode_frame(serial, crc, 2, 1, [pack_cut(cut), *parts] if cut else parts)[0]))
    with pytest.raises(JournalCorrupt, match="does not follow index"):
        open_log(directory)
    right = encode_frame(serial, read.tail.crc, 2, 1, [pack_cut(Cut(2, 1, 2, START)), *parts])[0]
    poke(path, read.tail.offset, bytes(right))
    log, opened = open_log(directory)
    assert opened.entries == [normal(1, 1), normal(2, 5)]
    log.close()


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow], max_examples=100)
@given(position=st.integers(0, 8 * BLOCK_BYTES - 1), bit=st.integers(0, 7))
def test_a_flipped_bit_never_brings_back_what_was_cut_off_but_at_the_very_end(position: int, bit: int) -> None:
    with tempfile.TemporaryDirectory() as directory:
        log, _ = open_log(directory)
        model = persist(log, LogModel(), Persist(HardState(1, NodeId(1)), None, [normal(1, 1), normal(2, 1)]))
        model = persist(log, model, Persist(HardState(2, NodeId(1)), 2, [normal(2, 2, bytes(5000))]))
        before = persist(log, model, Persist(HardState(3, NodeId(0)), 1, [normal(1, 3), change(2, 3, START)]))
        model = persist(log, before, Persist(HardState(4, NodeId(0)), 2, [normal(2, 4, bytes(5000))]))
        log.close()
        (path,) = segment_files(directory)
        data = peek(path)
        poke(path, position, bytes([data[position] ^ 1 << bit]))
        last = 5 * BLOCK_BYTES
        try:
            log, opened = open_log(directory)
        except JournalCorrupt:
            assert position < last
        else:
            log.close()
            assert opened.entries == list(model.entries) or (
                opened.entries == list(before.entries) and opened.hard_state == before.state and position >= last
            )


@pytest.mark.parametrize("applied", [0, 3])
def test_a_snapshot_begins_the_log_anew(directory: str, applied: int) -> None:
    log, _ = open_log(directory)
    model = LogModel()
    for n in range(1, 8):
        model = persist(log, model, Persist(HardState(n, NodeId(1)), None, [normal(n, 1, BODY)]))
    membership = random_membership(random.Random(3))
    log.reset(Position(50, 4), membership)
    model = model.reset(Position(50, 4), membership)
    check(log, model, 51)
    assert log.read(7, 1) is None
    assert log.first_index == 51
    model = persist(log, model, Persist(None, None, [normal(51, 7, BODY), normal(52, 7, BODY)]))
    log.close()
    with pytest.raises(JournalCorrupt, match="are in no segment"):
        open_log(directory, Position(applied, 1))
    log, opened = open_log(directory, Position(50, 4))
    expect(opened, model, Position(50, 4))
    check(log, model, 51)
    log.close()


@pytest.mark.parametrize("applied", [Position(9, 2), Position(2, 7)])
def test_a_log_that_is_not_the_states_is_refused_unless_it_may_be_discarded(directory: str, applied: Position) -> None:
    log, _ = open_log(directory)
    log.persist(Persist(HardState(8, NodeId(3)), None, [normal(1, 1), normal(2, 1), normal(3, 1)]))
    log.close()
    with pytest.raises(JournalCorrupt, match="its end is gone"):
        open_log(directory, applied)
    membership = random_membership(random.Random(1))
    log, opened = open_log(directory, applied, membership=membership, may_discard=True)
    assert opened == Opened(HardState(8, NodeId(3)), applied, membership, [], ())
    log.persist(Persist(None, None, [normal(applied.index + 1, 8)]))
    log.close()
    log, opened = open_log(directory, applied)
    assert [entry.index for entry in opened.entries] == [applied.index + 1]
    assert opened.membership == membership
    log.close()


def test_no_room_is_told_before_anything_is_written(directory: str) -> None:
    log, _ = open_log(directory)
    model = persist(log, LogModel(), Persist(HardState(1, NodeId(1)), None, [normal(1, 1), normal(2, 1)]))
    large = Persist(HardState(2, NodeId(0)), 2, [normal(n, 2, BODY) for n in range(2, 14)])
    before = [peek(path) for path in segment_files(directory)]
    with largest_file(SEGMENT // 2):
        for _ in range(2):
            with pytest.raises(DiskFull, match="free some space"):
                log.persist(large)
            with pytest.raises(DiskFull):
                log.reset(Position(50, 4), START)
        assert [peek(path) for path in segment_files(directory)] == before
        model = persist(log, model, Persist(None, 2, [normal(2, 1, b"what still fits is written")]))
    model = persist(log, model, large)
    check(log, model, 1)
    log.close()
    log, opened = open_log(directory)
    expect(opened, model, NOWHERE)
    log.close()


def test_an_entry_too_large_for_the_segments_is_refused_and_the_log_goes_on(directory: str) -> None:
    log, _ = open_log(directory)
    largest = normal(1, 1, bytes(log.entry_max_bytes))
    with pytest.raises(EntryTooLarge, match="segment_bytes"):
        log.persist(Persist(None, None, [normal(1, 1, bytes(log.entry_max_bytes + 1))]))
    nodes = tuple(NodeId(n) for n in range(1, 64))
    widest = Membership(nodes, nodes, (), bytes(4096))
    model = persist(log, LogModel(), Persist(None, None, [largest, change(2, 1, widest), normal(3, 1)]))
    model = persist(log, model, Persist(HardState(2, NodeId(1)), 3, [normal(3, 2, bytes(log.entry_max_bytes))]))
    log.close()
    log, opened = open_log(directory)
    expect(opened, model, NOWHERE)
    log.close()


@pytest.mark.parametrize("fail_at", range(3))
def test_after_any_other_failure_nothing_is_written_again(directory: str, fail_at: int) -> None:
    files = PowerFiles()
    log = LogFiles(directory, SMALL, files=files)
    log.open(NOWHERE, START, may_discard=False)
    log.persist(Persist(None, None, [normal(1, 1)]))
    files.fail_at = fail_at if fail_at < 2 else 0
    with pytest.raises(JournalFailed, match="broken"):
        if fail_at < 2:
            log.persist(Persist(None, None, [normal(2, 1)]))
        else:
            log.reset(Position(50, 4), START)
    changes = files.changes
    for again in (
        lambda: log.persist(Persist(None, None, [normal(2, 1)])),
        lambda: log.reset(Position(50, 4), START),
        lambda: log.release(1),
        lambda: log.prepare(100),
    ):
        with pytest.raises(JournalFailed, match="has stopped"):
            again()
    assert files.changes == changes
    assert log.read(1, 1) == [normal(1, 1)]
    log.close()


def test_what_was_released_is_not_cut_off(directory: str) -> None:
    log, _ = open_log(directory)
    log.persist(Persist(None, None, [normal(1, 1), normal(2, 1)]))
    log.release(1)
    with pytest.raises(InvariantBroken):
        log.persist(Persist(HardState(2, NodeId(0)), 1, [normal(1, 2)]))
    log.close()


def test_a_reader_of_segments_that_were_reused_finds_nothing(directory: str) -> None:
    log, _ = open_log(directory)
    for n in range(1, 10):
        log.persist(Persist(None, None, [normal(n, 1, BODY)]))
    places, where = list(log._segments.outline.places), dict(log._segments.where)
    log.release(9)
    for n in range(10, 16):
        log.persist(Persist(None, None, [normal(n, 1, BODY)]))
    assert [list(log._records(place, where)) for place in places[:2]] == [[], []]
    assert log.read(1, 100) is None
    log.close()


def test_what_was_released_stays_as_long_as_followers_may_need_it(directory: str) -> None:
    log, _ = open_log(directory)
    model = LogModel()
    for n in range(1, 20):
        model = persist(log, model, Persist(None, None, [normal(n, 1, BODY)]))
    log.release(19, 3 * SEGMENT)
    assert log.live_bytes == 3 * SEGMENT
    check(log, model, log.first_index)
    log.release(10, SEGMENT)
    assert log.live_bytes == 3 * SEGMENT - SEGMENT * 2, "what was released once stays released"
    log.close()


def test_damage_in_an_old_segment_is_nothing_to_read_and_stops_nobody(directory: str) -> None:
    log, _ = open_log(directory)
    for n in range(1, 10):
        log.persist(Persist(None, None, [normal(n, 1, BODY)]))
    poke(segment_files(directory)[0], BLOCK_BYTES + 100, b"damage")
    assert log.read(1, 100) is None
    assert log.read(9, 100) == [normal(9, 1, BODY)]
    log.persist(Persist(None, None, [normal(10, 1)]))
    log.close()


def test_old_segments_of_one_term_are_not_read_at_start_and_serve_followers(directory: str) -> None:
    log, _ = open_log(directory)
    model = LogModel()
    for n in range(1, 20):
        model = persist(log, model, Persist(None, None, [normal(n, 3 if n > 1 else 2, BODY)]))
    log.close()
    oldest, second = segment_files(directory)[:2]
    whole = peek(second)
    poke(second, BLOCK_BYTES + 100, b"damage")
    log, opened = open_log(directory, Position(18, 3))
    assert opened.older == ((1, 2), (2, 3))
    assert log.read(4, 1) is None
    poke(second, 0, whole)
    check(log, model, 1)
    log.close()
    poke(oldest, BLOCK_BYTES + 100, b"damage")
    with pytest.raises(JournalCorrupt, match="breaks off"):
        open_log(directory, Position(18, 3))


def test_one_voter_alone_refuses_a_log_of_several(directory: str) -> None:
    log, _ = open_log(directory)
    log.persist(Persist(None, None, [normal(1, 1), normal(2, 1)]))
    log.persist(Persist(HardState(2, NodeId(0)), 2, [normal(2, 2)]))
    log.close()
    with pytest.raises(HomeUnusable, match="several masters"):
        list(Log(directory).entries(0))


def test_segments_too_small_are_refused() -> None:
    with pytest.raises(ConfigError, match="segment_bytes"):
        LogFiles("/nowhere", JournalConfig(segment_bytes=1000))


def test_a_directory_that_cannot_be_made_says_why(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(JournalFailed, match=os.strerror(errno.ENOTDIR)):
        open_log(f"{tmp_path}/file/j")
