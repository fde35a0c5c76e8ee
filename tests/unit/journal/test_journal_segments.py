"""Segment files: zero-filled ahead, reused, never mixed with what an older serial left in them."""

from __future__ import annotations

import os
import resource
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from journal_files import SEGMENT, append, open_segments, peek, read, segment_files

from monofs.journal.frames import BLOCK_BYTES
from monofs.journal.segments import FREE_MAX, Segments
from monofs.model.errors import DiskFull, HomeInUse


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """The kernel refuses to let any file of this process grow beyond ``size``."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_new_segment_is_all_zeros_behind_its_frames(tmp_path: Path) -> None:
    segments, _ = open_segments(f"{tmp_path}/j")
    append(segments, [b"a"])
    segments.close()
    (path,) = segment_files(f"{tmp_path}/j")
    data = peek(path)
    assert len(data) == SEGMENT
    assert not any(data[2 * BLOCK_BYTES :])


def test_frames_never_share_a_block(tmp_path: Path) -> None:
    segments, _ = open_segments(f"{tmp_path}/j")
    append(segments, [b"a"])
    before = peek(segment_files(f"{tmp_path}/j")[0])[: 2 * BLOCK_BYTES]
    append(segments, [b"b"])
    segments.close()
    assert peek(segment_files(f"{tmp_path}/j")[0]).startswith(before)


def test_released_segments_are_reused_and_the_excess_is_unlinked(tmp_path: Path) -> None:
    directory = f"{tmp_path}/j"
    segments, _ = open_segments(directory)
    for n in range(12):
        append(segments, [bytes([n]) * 30_000])
    assert len(segment_files(directory)) == 12
    segments.reclaim(10)
    assert len(segment_files(directory)) == 2 + FREE_MAX
    assert (segments.first_index, segments.live_bytes) == (11, 2 * SEGMENT)
    files = set(segment_files(directory))
    last = [append(segments, [bytes([n]) * 30_000])[0] for n in range(2)]
    assert set(segment_files(directory)) == files
    segments.close()
    assert read(directory, applied=12) == last


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow], max_examples=40)
@given(st.lists(st.lists(st.integers(0, 20_000), min_size=1, max_size=3), max_size=30), st.integers(0, 12))
def test_stale_frames_of_an_older_serial_are_never_read(frames: list[list[int]], keep: int) -> None:
    with tempfile.TemporaryDirectory() as directory:
        segments, _ = open_segments(directory)
        written = []
        for sizes in frames:
            written += append(segments, [len(written).to_bytes(4, "big") * (size // 4 + 1) for size in sizes])
            segments.reclaim(len(written) - keep)
        applied = segments.first_index - 1
        segments.close()
        assert read(directory, applied=applied) == written[applied:]
        segments, _ = open_segments(directory, applied=applied)
        written += append(segments, [b"after"])
        segments.close()
        assert read(directory, applied=applied) == written[applied:]


def test_the_next_segment_is_prepared_in_slices_once_half_of_the_present_is_used(tmp_path: Path) -> None:
    directory = f"{tmp_path}/j"
    segments, _ = open_segments(directory)
    assert not segments.prepare(BLOCK_BYTES)
    assert len(segment_files(directory)) == 1
    append(segments, [b"a" * 40_000])
    slices = 1
    while segments.prepare(SEGMENT // 4):
        slices += 1
    assert slices == 4
    assert len(segment_files(directory)) == 2
    assert not any(peek(segment_files(directory)[1]))
    assert not segments.prepare(SEGMENT)
    segments.close()


def test_a_segment_half_prepared_is_swept_at_the_next_start(tmp_path: Path) -> None:
    directory = f"{tmp_path}/j"
    segments, _ = open_segments(directory)
    append(segments, [b"a" * 40_000])
    assert segments.prepare(BLOCK_BYTES)
    segments.close()
    assert any(name.endswith(".filling") for name in os.listdir(directory))
    read(directory)
    assert not any(name.endswith(".filling") for name in os.listdir(directory))


def test_segments_of_another_size_are_read_and_then_replaced(tmp_path: Path) -> None:
    directory = f"{tmp_path}/j"
    segments, _ = open_segments(directory)
    first = append(segments, [b"a" * 50_000]) + append(segments, [b"b" * 50_000])
    segments.close()
    segments, entries = open_segments(directory, segment_bytes=2 * SEGMENT)
    assert entries == first
    append(segments, [b"c" * 100_000])
    segments.reclaim(2)
    assert [os.path.getsize(path) for path in segment_files(directory)] == [2 * SEGMENT]
    segments.close()


def test_no_room_refuses_the_frame_and_leaves_nothing_behind(tmp_path: Path) -> None:
    directory = f"{tmp_path}/j"
    segments, _ = open_segments(directory)
    first = append(segments, [b"a"])
    files = sorted(os.listdir(directory))
    with largest_file(SEGMENT // 2):
        for _ in range(2):
            with pytest.raises(DiskFull, match="free some space"):
                append(segments, [b"b" * 60_000])
        small = append(segments, [b"what still fits is written"])
        assert sorted(os.listdir(directory)) == files
    large = append(segments, [b"c" * 60_000])
    segments.close()
    assert read(directory) == first + small + large


def test_no_room_ahead_of_need_is_not_an_error(tmp_path: Path) -> None:
    segments, _ = open_segments(f"{tmp_path}/j")
    append(segments, [b"a" * 40_000])
    with largest_file(SEGMENT // 2):
        assert not segments.prepare(SEGMENT)
    append(segments, [b"b" * 40_000])
    segments.close()
    assert len(read(f"{tmp_path}/j")) == 2


def test_two_processes_cannot_write_one_journal(tmp_path: Path) -> None:
    segments, _ = open_segments(f"{tmp_path}/j")
    with pytest.raises(HomeInUse, match="stop it first"):
        Segments(f"{tmp_path}/j", SEGMENT)
    segments.close()
    Segments(f"{tmp_path}/j", SEGMENT).close()
