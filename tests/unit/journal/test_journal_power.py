"""Power lost in the middle of an append, at the grain a disk may tear: what was acknowledged is there, and writing goes on.

The append is done on real files; then the blocks it changed are put back, each or not as hypothesis wants, within what the order of
syncs allows: a header is whole before any block of its first frame can land.
"""

from __future__ import annotations

import os
import tempfile

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from journal_files import append, open_segments, peek, poke, read, segment_files

from monofs.journal.frames import BLOCK_BYTES, decode_header

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
