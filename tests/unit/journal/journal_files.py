"""Writing small journals directly through Segments, and reading them back, for the tests beside this file."""

from __future__ import annotations

import os

from monofs.journal.face import Entry
from monofs.journal.frames import pack_entry
from monofs.journal.raft.messages import HardState, Membership, NodeId, Position
from monofs.journal.recovery import Log
from monofs.journal.segments import Segments

SEGMENT = 64 << 10


def open_segments(directory: str, *, applied: int = 0, segment_bytes: int = SEGMENT) -> tuple[Segments, list[Entry]]:
    """Recover as a start does; returns the segments and the entries above ``applied``."""
    segments = Segments(directory, segment_bytes)
    try:
        log = Log(directory)
        entries = [record.entry for record in log.entries(applied)]
        if log.tail is not None and log.tail.next_index > applied:
            segments.resume(log)
        else:
            segments.begin(log, Position(applied, 0), Membership((NodeId(1),)))
    except BaseException:
        segments.close()
        raise
    return segments, entries


def append(segments: Segments, bodies: list[bytes], *, term: int = 1) -> list[Entry]:
    """One frame."""
    segments.state = HardState(term, NodeId(1))
    entries = [Entry(1, 1, body) for body in bodies]
    parts = []
    for index, entry in enumerate(entries, segments.next_index):
        parts += [pack_entry(index, term, entry), entry.body]
    segments.append(len(entries), parts)
    return entries


def read(directory: str, *, applied: int = 0) -> list[Entry]:
    """All entries above ``applied``, as a start would find them; cuts a torn tail as a start does."""
    segments, entries = open_segments(directory, applied=applied)
    segments.close()
    return entries


def segment_files(directory: str) -> list[str]:
    """Paths of the segment files."""
    return sorted(os.path.join(directory, name) for name in os.listdir(directory) if name.endswith(".segment"))


def poke(path: str, offset: int, data: bytes) -> None:
    """Overwrite bytes of a file."""
    with open(path, "r+b") as file:
        file.seek(offset)
        file.write(data)


def peek(path: str) -> bytes:
    """All bytes of a file."""
    with open(path, "rb") as file:
        return file.read()
