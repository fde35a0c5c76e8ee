"""Reading a journal back: a clean prefix that holds all that was acknowledged, or JournalCorrupt; never a wrong entry."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from journal_files import SEGMENT, append, open_segments, peek, poke, read, segment_files

from monofs.cli.main import main
from monofs.journal import repair
from monofs.journal.face import Entry
from monofs.journal.frames import BLOCK_BYTES, SegmentHeader, encode_header
from monofs.journal.raft.messages import HardState, Membership, NodeId
from monofs.journal.recovery import Log
from monofs.model.errors import HomeUnusable, InvalidArgument, JournalCorrupt


def build(directory: str, frames: list[list[bytes]]) -> list[list[Entry]]:
    segments, _ = open_segments(directory)
    written = [append(segments, bodies) for bodies in frames]
    segments.close()
    return written


def admin(*words: str, fails: int = 0) -> str:
    """What `monofs admin journal` prints."""
    done = CliRunner().invoke(main, ["admin", "journal", *words])
    assert done.exit_code == fails, done.output
    return done.output


def flat(frames: list[list[Entry]]) -> list[Entry]:
    return [entry for frame in frames for entry in frame]


def test_all_frames_come_back_in_order(tmp_path: Path) -> None:
    written = build(f"{tmp_path}/j", [[b"a", b"b"], [b"c" * 9000], [b""]])
    assert read(f"{tmp_path}/j") == flat(written)


def test_only_entries_above_the_applied_index_come_back(tmp_path: Path) -> None:
    written = build(f"{tmp_path}/j", [[b"a", b"b"], [b"c"], [b"d"]])
    assert read(f"{tmp_path}/j", applied=1) == flat(written)[1:]
    assert read(f"{tmp_path}/j", applied=4) == []


def test_segments_below_the_applied_index_are_not_read(tmp_path: Path) -> None:
    directory = f"{tmp_path}/j"
    written = build(directory, [[bytes([n]) * 30_000] for n in range(5)])
    for path in segment_files(directory)[:2]:
        poke(path, BLOCK_BYTES + 100, b"damaged")
    assert len(segment_files(directory)) == 5
    assert read(directory, applied=2) == flat(written)[2:]
    with pytest.raises(JournalCorrupt, match="index 1"):
        read(directory, applied=1)


def test_a_tail_cut_at_any_byte_gives_the_frames_before_it(tmp_path: Path) -> None:
    directory = f"{tmp_path}/j"
    written = build(directory, [[b"a"], [b"b" * 50, b"c" * 100]])
    (path,) = segment_files(directory)
    start, covered = 2 * BLOCK_BYTES, 36 + 2 * 25 + 150
    data = peek(path)
    for cut in range(covered):
        for rest in (b"\0", b"\xff"):
            poke(path, start, data[start : start + cut] + rest * (covered - cut))
            if peek(path) != data:
                assert read(directory) == written[0]
                assert not any(peek(path)[start:]) or cut < 12, "a torn tail is zeroed"
    poke(path, start, data[start : start + covered])
    assert read(directory) == flat(written)


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow], max_examples=60)
@given(landed=st.lists(st.booleans(), min_size=6, max_size=6), stale=st.booleans())
def test_any_subset_of_the_blocks_of_the_frame_in_flight_is_a_clean_tail(landed: list[bool], stale: bool) -> None:
    with tempfile.TemporaryDirectory() as directory:
        written = build(directory, [[b"a"], [b"b" * 23_000]])
        (path,) = segment_files(directory)
        whole, start = peek(path), 2 * BLOCK_BYTES
        for block, there in enumerate(landed):
            if not there:
                poke(path, start + block * BLOCK_BYTES, (b"\x55" if stale else b"\0") * BLOCK_BYTES)
        assert read(directory) == (flat(written) if peek(path) == whole else written[0])
        segments, before = open_segments(directory)
        after = append(segments, [b"next"])
        segments.close()
        assert read(directory) == before + after


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow], max_examples=200)
@given(position=st.integers(0, 7 * BLOCK_BYTES - 1), bit=st.integers(0, 7))
def test_a_flipped_bit_anywhere_gives_a_prefix_or_corruption_and_never_loses_but_the_last_frame(
    position: int, bit: int
) -> None:
    with tempfile.TemporaryDirectory() as directory:
        written = build(directory, [[b"a" * 10], [b"b" * 5000], [b"c"], [b"d" * 4050]])
        (path,) = segment_files(directory)
        data = peek(path)
        poke(path, position, bytes([data[position] ^ 1 << bit]))
        try:
            found = read(directory)
        except JournalCorrupt:
            assert position < 5 * BLOCK_BYTES
        else:
            assert found == flat(written) or (found == flat(written[:3]) and position >= 5 * BLOCK_BYTES)


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow], max_examples=60)
@given(
    patches=st.lists(
        st.tuples(st.integers(0, 3), st.integers(0, SEGMENT - 1), st.binary(min_size=1, max_size=600)), max_size=4
    )
)
def test_arbitrary_damage_gives_a_prefix_or_an_error(patches: list[tuple[int, int, bytes]]) -> None:
    with tempfile.TemporaryDirectory() as directory:
        written = flat(build(directory, [[b"%d" % n * 9000, b"x"] for n in range(12)]))
        paths = segment_files(directory)
        for number, offset, data in patches:
            poke(paths[number % len(paths)], offset, data[: SEGMENT - offset])
        try:
            found = read(directory)
        except (JournalCorrupt, HomeUnusable):
            return
        assert found == written[: len(found)]


def test_a_whole_frame_behind_a_bad_one_is_corruption_with_a_remedy(tmp_path: Path) -> None:
    directory = f"{tmp_path}/j"
    written = build(directory, [[b"a"], [b"b"], [b"c"]])
    (path,) = segment_files(directory)
    poke(path, 2 * BLOCK_BYTES + 40, b"?")
    before = peek(path)
    with pytest.raises(JournalCorrupt, match="after index 1, and whole frames from byte 12288"):
        read(directory)
    assert peek(path) == before, "nothing is changed without being told"
    assert "entries 1 to 1 whole" in admin("verify", directory, fails=1)
    admin("cut", directory, "--after", "2", fails=2)
    admin("cut", directory, "--after", "1")
    assert admin("verify", directory).endswith("clean\n")
    assert read(directory) == written[0]


def test_a_cut_in_an_earlier_segment_drops_the_later_ones(tmp_path: Path) -> None:
    directory = f"{tmp_path}/j"
    written = build(directory, [[bytes([n]) * 25_000] for n in range(6)])
    with pytest.raises(InvalidArgument, match="no frame ends with entry 99"):
        repair.cut_after(directory, 99)
    repair.cut_after(directory, 3)
    assert read(directory) == flat(written)[:3]


def test_a_segment_that_breaks_off_before_the_next_begins_is_corrupt(tmp_path: Path) -> None:
    directory = f"{tmp_path}/j"
    build(directory, [[bytes([n]) * 25_000] for n in range(5)])
    first = segment_files(directory)[0]
    poke(first, BLOCK_BYTES + 7 * BLOCK_BYTES, bytes(7 * BLOCK_BYTES))
    with pytest.raises(JournalCorrupt, match="breaks off"):
        read(directory)


def test_a_whole_frame_in_the_wrong_place_is_corrupt(tmp_path: Path) -> None:
    directory = f"{tmp_path}/j"
    build(directory, [[b"a"], [b"b"], [b"c"], [b"d"]])
    (path,) = segment_files(directory)
    third = peek(path)[3 * BLOCK_BYTES : 4 * BLOCK_BYTES]
    poke(path, 2 * BLOCK_BYTES, third)
    with pytest.raises(JournalCorrupt, match="does not follow index 1"):
        read(directory)


def test_a_missing_segment_is_a_gap(tmp_path: Path) -> None:
    directory = f"{tmp_path}/j"
    build(directory, [[bytes([n]) * 30_000] for n in range(6)])
    os.unlink(segment_files(directory)[2])
    with pytest.raises(JournalCorrupt, match=r"entries 1 to 3 are in no segment.*monofs admin journal"):
        read(directory)


def test_a_damaged_header_with_frames_behind_it_is_corrupt(tmp_path: Path) -> None:
    directory = f"{tmp_path}/j"
    build(directory, [[bytes([n]) * 30_000] for n in range(4)])
    poke(segment_files(directory)[-1], 30, b"?")
    with pytest.raises(JournalCorrupt, match="header is damaged"):
        read(directory)


def test_the_only_header_damaged_is_corrupt_when_frames_stand_behind_it(tmp_path: Path) -> None:
    directory = f"{tmp_path}/j"
    build(directory, [[b"a"]])
    poke(segment_files(directory)[0], 30, b"?")
    with pytest.raises(JournalCorrupt, match="header is damaged"):
        read(directory)


def test_an_opening_cut_short_is_a_free_segment(tmp_path: Path) -> None:
    directory = f"{tmp_path}/j"
    segments, _ = open_segments(directory)
    kept = append(segments, [b"a" * 30_000])
    kept += append(segments, [b"b" * 30_000])
    segments.close()
    last = segment_files(directory)[-1]
    half = peek(last)[: BLOCK_BYTES // 100]
    poke(last, 0, half + bytes(BLOCK_BYTES - len(half)))
    poke(last, BLOCK_BYTES, bytes(SEGMENT - BLOCK_BYTES))
    assert read(directory) == kept[:1]


def test_a_header_without_frames_is_an_empty_end(tmp_path: Path) -> None:
    directory = f"{tmp_path}/j"
    build(directory, [[b"a" * 30_000], [b"b" * 30_000]])
    last = segment_files(directory)[-1]
    poke(last, BLOCK_BYTES, b"\x77" * (SEGMENT - BLOCK_BYTES))
    assert [entry.body[:1] for entry in read(directory)] == [b"a"]


def test_a_segment_shorter_than_it_says_is_corrupt(tmp_path: Path) -> None:
    directory = f"{tmp_path}/j"
    build(directory, [[b"a"]])
    os.truncate(segment_files(directory)[0], SEGMENT - BLOCK_BYTES)
    with pytest.raises(JournalCorrupt, match="shorter"):
        read(directory)


def test_a_newer_format_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    directory = f"{tmp_path}/j"
    build(directory, [[b"a"]])
    header = SegmentHeader(99, SEGMENT, 1, 0, True, HardState(1, NodeId(1)), 0, Membership(()))
    monkeypatch.setattr("monofs.journal.frames.FORMAT_VERSION", 3)
    block = encode_header(header)
    monkeypatch.undo()
    poke(segment_files(directory)[0], 0, block)
    with pytest.raises(HomeUnusable, match="start the release that wrote it"):
        read(directory)


def test_the_term_of_the_last_state_is_found(tmp_path: Path) -> None:
    directory = f"{tmp_path}/j"
    segments, _ = open_segments(directory)
    append(segments, [b"a" * 50_000], term=4)
    append(segments, [b"b" * 50_000], term=7)
    append(segments, [b"c" * 50_000], term=7)
    segments.close()
    log = Log(directory)
    assert len(list(log.entries(0))) == 3
    assert log.state == (7, 1)
    assert log.outline.membership.voters == (1,)
    assert log.outline.terms == [(0, 0), (1, 4), (2, 7)]


def damage_nothing(_: list[str]) -> None:
    """For symmetry in the table below."""


def unlink_all(paths: list[str]) -> None:
    for path in paths:
        os.unlink(path)


@pytest.mark.parametrize(("damage", "applied"), [(damage_nothing, 50), (unlink_all, 50)])
def test_a_state_ahead_of_the_log_starts_a_new_chain(
    tmp_path: Path, damage: Callable[[list[str]], None], applied: int
) -> None:
    directory = f"{tmp_path}/j"
    build(directory, [[bytes([n]) * 30_000] for n in range(3)])
    damage(segment_files(directory))
    segments, entries = open_segments(directory, applied=applied)
    assert (entries, segments.next_index, segments.first_index) == ([], 51, 51)
    after = append(segments, [b"new"])
    segments.close()
    assert read(directory, applied=50) == after
    with pytest.raises(JournalCorrupt, match="entries 41 to 50 are in no segment"):
        read(directory, applied=40)
