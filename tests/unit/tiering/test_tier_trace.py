"""A trace says which groups were asked for, is bounded, and survives whatever is at its path."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from tiering_rig import PAGE, Rig

from monofs.model.errors import ConfigError
from monofs.model.ids import ContentId
from monofs.tiering.trace import HEAD, RECORD, Access, Recorder, read_trace

S = 10**9


def test_a_cache_records_groups_that_come_and_groups_that_are_read(
    make_rig: Callable[..., Rig], tmp_path: Path
) -> None:
    rig = make_rig(trace=str(tmp_path / "trace"), burst_ns=S)
    rig.cache._clock_ns = lambda: 5 * S
    first = rig.fill(1, 3 * PAGE, mask=1)
    rig.fill(1, 3 * PAGE, mask=2)
    rig.cache._clock_ns = lambda: 5 * S + S // 2
    rig.cache.touch(first)  # belongs to the read that brought it
    rig.cache._clock_ns = lambda: 7 * S
    rig.cache.touch(first)
    rig.cache.touch(first)
    rig.fill(2, 10)
    rig.cache.close()
    assert list(read_trace(str(tmp_path / "trace"))) == [
        Access(5_000_000, 1, 0, 3 * PAGE),
        Access(7_000_000, 1, 0, 3 * PAGE),
        Access(7_000_000, 2, 0, 10),
    ]


def test_reads_count_when_the_clock_was_set_back(make_rig: Callable[..., Rig]) -> None:
    rig = make_rig(burst_ns=S, quota=2 * PAGE)
    for at, content in ((7200, 1), (7202, 2)):
        rig.cache._clock_ns = lambda at=at: at * S
        rig.fill(content, PAGE)
    rig.cache._clock_ns = lambda: 3600 * S
    rig.cache.touch(rig.cache.lookup(ContentId(1), 0))
    rig.fill(3, PAGE)
    assert [rig.cache.lookup(ContentId(content), 0) is not None for content in (1, 2, 3)] == [True, False, True]


def record(path: Path, contents: range, *, file_bytes: int = 1 << 20) -> Recorder:
    recorder = Recorder(str(path), file_bytes=file_bytes)
    recorder.start()
    for content in contents:
        recorder.record(content, 0, PAGE, 1000 * content)
    recorder.stop(10)
    return recorder


def contents(path: Path) -> list[int]:
    return [access.content for access in read_trace(str(path))]


def test_a_trace_goes_on_after_a_restart_and_cuts_off_half_a_record(tmp_path: Path) -> None:
    path = tmp_path / "trace"
    record(path, range(1, 4))
    with path.open("ab") as file:
        file.write(b"half")
    assert contents(path) == [1, 2, 3]
    record(path, range(4, 6))
    assert contents(path) == [1, 2, 3, 4, 5]
    assert path.stat().st_size == HEAD.size + 5 * RECORD.size


def test_a_trace_at_its_bound_begins_anew_and_keeps_the_one_before(tmp_path: Path) -> None:
    path, bound = tmp_path / "trace", HEAD.size + 3 * RECORD.size
    for begin in (1, 3, 5, 7):
        record(path, range(begin, begin + 2), file_bytes=bound)
    assert (contents(path), contents(tmp_path / "trace.1")) == ([7, 8], [5, 6])
    assert path.stat().st_size <= bound


def test_what_is_no_trace_is_moved_away_not_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "trace"
    path.write_text("my notes\n" * 10)
    record(path, range(1, 3))
    assert contents(path) == [1, 2]
    assert (tmp_path / "trace.1").read_text().startswith("my notes")
    with pytest.raises(ConfigError, match="not a trace"):
        contents(tmp_path / "trace.1")


def test_a_trace_that_cannot_be_written_is_told_at_start(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"worker\.trace: .* cannot be written"):
        record(tmp_path / "missing" / "trace", range(1))


def test_a_trace_whose_thread_is_behind_leaves_out_and_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("monofs.tiering.trace.QUEUE_MAX", 2)
    recorder = record(tmp_path / "trace", range(1, 6))
    assert recorder.lost > 0
    assert len(contents(tmp_path / "trace")) + recorder.lost == 5
