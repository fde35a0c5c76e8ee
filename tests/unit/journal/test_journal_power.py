"""Power lost in the middle of an append, at the grain a disk may tear: what was acknowledged is there, and writing goes on.

The append is done on real files; then the blocks it changed are put back, each or not as hypothesis wants, within what the order of
syncs allows: a header is whole before any block of its first frame can land. What a replicated log does (cuts, several frames at once, new
chains) is crashed between any two system calls instead, and each sector that was not synced lands or not.
"""

from __future__ import annotations

import os
import random
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from journal_files import SEGMENT, append, open_segments, peek, poke, read, segment_files
from log_model import NOWHERE, START, LogModel, check, normal, random_membership
from power_files import PowerFiles, PowerLost

from monofs.config.schema import JournalConfig
from monofs.journal.frames import BLOCK_BYTES, decode_header
from monofs.journal.log_files import LogFiles
from monofs.journal.raft.messages import HardState, NodeId, Persist, Position

sizes = st.integers(0, 25_000)
torn_header_bytes = st.integers(0, 80) | st.integers(0, BLOCK_BYTES)  # what matters stands in the first 74
steps = st.lists(st.tuples(st.lists(sizes, min_size=1, max_size=3), st.booleans()), max_size=14)


def images(directory: str) -> dict[str, bytes]:
    return {path: peek(path) for path in segment_files(directory)}


def tear(before: dict[str, bytes], after: dict[str, bytes], *, header_bytes: int | None, landed: list[bool]) -> None:
    """Put files back as a crash may have left them. ``header_bytes``: so much of a new header landed, and nothing after it."""
    for path, data in after.items():
        old = before.get(path, bytes(len(data)))
        changed = [
            at for at in range(0, len(data), BLOCK_BYTES) if data[at : at + BLOCK_BYTES] != old[at : at + BLOCK_BYTES]
        ]
        torn_header = header_bytes is not None and 0 in changed
        for number, at in enumerate(changed):
            block = old[at : at + BLOCK_BYTES]
            if at == 0:
                if torn_header:
                    poke(path, 0, data[:header_bytes] + block[header_bytes:])
            elif torn_header or not landed[number % len(landed)]:
                poke(path, at, block)


@settings(deadline=None, max_examples=100, suppress_health_check=[HealthCheck.too_slow])
@given(
    steps=steps,
    last=st.lists(sizes, min_size=1, max_size=2),
    header_bytes=st.none() | torn_header_bytes,
    landed=st.lists(st.booleans(), min_size=1, max_size=12),
    durable=st.integers(0, 100),
)
def test_power_lost_during_any_append_keeps_all_that_was_acknowledged(
    steps: list[tuple[list[int], bool]], last: list[int], header_bytes: int | None, landed: list[bool], durable: int
) -> None:
    with tempfile.TemporaryDirectory() as directory:
        segments, _ = open_segments(directory)
        written = []
        for lengths, reclaim in steps:
            written += append(segments, [len(written).to_bytes(4, "big") * (length // 4 + 1) for length in lengths])
            if reclaim:
                segments.reclaim(len(written) - 2)
        applied = max(segments.first_index - 1, min(durable, len(written)))
        before = images(directory)
        in_flight = append(segments, [b"last" * (length // 4 + 1) for length in last])
        segments.close()
        tear(before, images(directory), header_bytes=header_bytes, landed=landed)
        found = read(directory, applied=applied)
        acknowledged = written[applied:]
        assert found in (acknowledged, acknowledged + in_flight)
        segments, again = open_segments(directory, applied=applied)
        assert again == found
        found += append(segments, [b"after", b"the crash" * 2000]) + append(segments, [bytes(30_000)])
        segments.close()
        assert read(directory, applied=applied) == found


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow])
@given(header_bytes=torn_header_bytes, frames=st.integers(0, 6), spare=st.booleans())
def test_power_lost_while_a_log_behind_the_state_is_discarded_ends_in_the_same_new_log(
    header_bytes: int, frames: int, spare: bool
) -> None:
    with tempfile.TemporaryDirectory() as directory:
        segments, _ = open_segments(directory)
        for _ in range(frames):
            append(segments, [bytes(30_000)])
        if spare:
            segments.reclaim(frames - 1)
        segments.close()
        before = images(directory)
        segments, found = open_segments(directory, applied=50)
        assert found == []
        segments.close()
        tear(before, images(directory), header_bytes=header_bytes, landed=[False])
        segments, found = open_segments(directory, applied=50)
        assert (found, segments.next_index) == ([], 51)
        after = append(segments, [b"new"])
        segments.close()
        assert read(directory, applied=50) == after
        headers = [decode_header(peek(path)[:BLOCK_BYTES]) for path in segment_files(directory)]
        assert sum(header is not None and header.starts_chain for header in headers) >= 1
        assert not any(name.endswith(".filling") for name in os.listdir(directory))


def prepared(log: LogFiles, dice: random.Random, steps: int) -> tuple[LogModel, int]:
    """A log with a past: what it holds, and up to which entry it was released."""
    model, released = LogModel(), 0
    for _ in range(steps):
        batch = model.random_batch(dice, max(released, model.base.index))
        log.persist(batch)
        model = model.after(batch)
        if dice.random() < 0.3:
            released = dice.randint(max(released, model.base.index), model.last.index)
            log.release(released)
        if dice.random() < 0.2:
            log.prepare(dice.choice((10_000, SEGMENT)))
    return model, released


@settings(deadline=None, max_examples=120, suppress_health_check=[HealthCheck.too_slow])
@given(seed=st.integers(0, 2**32), steps=st.integers(0, 15), countdown=st.integers(0, 12))
def test_power_lost_while_a_batch_is_written_leaves_the_log_before_it_or_a_beginning_of_it(
    seed: int, steps: int, countdown: int
) -> None:
    dice, files = random.Random(seed), PowerFiles()
    with tempfile.TemporaryDirectory() as directory:
        log = LogFiles(directory, JournalConfig(segment_bytes=SEGMENT, batch_bytes=30_000), files=files)
        log.open(NOWHERE, START, may_discard=False)
        model, released = prepared(log, dice, steps)
        batch = model.random_batch(dice, max(released, model.base.index))
        low = released if batch.truncate_from is None else min(batch.truncate_from - 1, model.last.index)
        applied = model.position(dice.randint(released, max(low, released)))
        files.countdown = countdown
        try:
            log.persist(batch)
            allowed = [model.after(batch)]
        except PowerLost:
            allowed = model.may_become(batch)
        files.lose_power(dice)
        for _ in range(2):
            log = LogFiles(directory, JournalConfig(segment_bytes=SEGMENT), files=files)
            opened = log.open(applied, START, may_discard=False)
            found = [
                each
                for each in allowed
                if opened.hard_state == each.state
                and opened.entries == [entry for entry in each.entries if entry.index > applied.index]
            ]
            assert found, "neither what was acknowledged nor what was in flight"
            assert (opened.base, opened.membership) == (applied, found[0].membership_at(applied.index))
            check(log, found[0], max(log.first_index, model.base.index + 1))
            batch = found[0].random_batch(dice, applied.index)
            log.persist(batch)
            allowed = [found[0].after(batch)]
            check(log, allowed[0], max(log.first_index, model.base.index + 1))
            log.close()


@settings(deadline=None, max_examples=70, suppress_health_check=[HealthCheck.too_slow])
@given(seed=st.integers(0, 2**32), steps=st.integers(0, 12), countdown=st.integers(0, 16), beyond=st.integers(-5, 5))
def test_power_lost_while_a_snapshot_takes_the_place_of_the_log_ends_in_the_new_log(
    seed: int, steps: int, countdown: int, beyond: int
) -> None:
    """The state at the position is durable before; the old log ends before it, or has another term there."""
    dice, files = random.Random(seed), PowerFiles()
    with tempfile.TemporaryDirectory() as directory:
        log = LogFiles(directory, JournalConfig(segment_bytes=SEGMENT), files=files)
        log.open(NOWHERE, START, may_discard=False)
        model, released = prepared(log, dice, steps)
        state = HardState(model.state.term + 5, NodeId(0))
        log.persist(Persist(state, None, []))
        position = Position(max(model.last.index + beyond, released, 1), model.last.term + 3)
        membership = random_membership(dice)
        files.countdown = countdown
        try:
            log.reset(position, membership)
        except PowerLost:
            pass
        files.lose_power(dice)
        model = LogModel(state, position, membership)
        for _ in range(2):
            log = LogFiles(directory, JournalConfig(segment_bytes=SEGMENT), files=files)
            opened = log.open(position, membership, may_discard=True)
            assert (opened.hard_state, opened.base, opened.membership) == (state, position, membership)
            assert opened.entries == list(model.entries)
            batch = model.random_batch(dice, position.index)
            log.persist(batch)
            model = model.after(batch)
            state = model.state
            check(log, model, position.index + 1)
            log.close()


@pytest.mark.parametrize("countdown", range(5))
def test_a_header_of_two_blocks_never_lands_with_its_second_block_alone(tmp_path: Path, countdown: int) -> None:
    """The first block of an older segment, with frames overwritten behind it, would be taken for a part of the log that is damaged."""
    files, membership, body = PowerFiles(), START._replace(book=bytes(4096)), bytes(25_000)
    log = LogFiles(f"{tmp_path}/j", JournalConfig(segment_bytes=SEGMENT), files=files)
    log.open(NOWHERE, membership, may_discard=False)
    model = LogModel(start=membership)
    for index in range(1, 7):
        batch = Persist(HardState(index, NodeId(1)), None, [normal(index, index, body)])
        log.persist(batch)
        model = model.after(batch)
    log.release(2)
    assert log.first_index == 3
    files.countdown = countdown
    batch = Persist(None, None, [normal(7, 6, body)])  # into the segment that was released
    try:
        log.persist(batch)
        model = model.after(batch)
    except PowerLost:
        pass
    files.lose_power(random.Random(0), lambda offset: offset >= BLOCK_BYTES)
    log = LogFiles(f"{tmp_path}/j", JournalConfig(segment_bytes=SEGMENT), files=files)
    opened = log.open(model.position(5), membership, may_discard=False)
    assert opened.entries[:1] == [entry for entry in model.entries if entry.index == 6]
    check(log, model, 3)
    log.close()
