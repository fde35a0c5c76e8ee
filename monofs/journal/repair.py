"""Looking at a journal that does not start, and giving up its end: ``python -m monofs.journal.repair DIRECTORY [--cut-after INDEX]``.

Without ``--cut-after`` nothing is changed: each segment is listed with the entries that are whole. With it, everything after INDEX is
discarded for ever; the node then starts as if it had never been written. INDEX must end a frame, as the indexes shown do. Later
segments are emptied before earlier ones, so a repair cut short can be repeated. The node must be stopped: the journal's lock is taken.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator

from monofs.journal.frames import BLOCK_BYTES
from monofs.journal.recovery import Segment, list_segments, open_settled, read_frame
from monofs.journal.segments import Segments
from monofs.model.errors import InvalidArgument, JournalFailed, MonofsError


def describe(directory: str) -> list[str]:
    """One line for each segment file: its serial, and which entries are whole from its beginning on."""
    contents = list_segments(directory)
    lines = []
    for segment in [*contents.older, *contents.chain]:
        offset, index = [(BLOCK_BYTES, segment.header.first_index), *ends(segment)][-1]
        note = " (discarded: not part of the log)" if segment in contents.older else ""
        lines.append(
            f"{os.path.basename(segment.path)}: serial {segment.header.serial}, entries {segment.header.first_index} to "
            f"{index - 1} whole, up to byte {offset} of {segment.header.size}{note}"
        )
    lines += [f"{os.path.basename(path)}: its header is damaged" for path in contents.damaged]
    lines += [f"{os.path.basename(path)}: empty" for path in contents.free]
    return lines


def cut_after(directory: str, index: int) -> None:
    """Discard every entry after ``index``. Raises ``InvalidArgument`` when no frame ends there; then nothing was changed."""
    contents = list_segments(directory)
    kept = [segment for segment in contents.chain if segment.header.first_index <= index + 1]
    later = [segment.path for segment in contents.chain[len(kept) :]]
    offset = None
    if kept:
        places = [(BLOCK_BYTES, kept[-1].header.first_index), *ends(kept[-1])]
        offset = next((at for at, following in places if following == index + 1), None)
        if offset is None:
            raise InvalidArgument(f"no frame ends with entry {index}: the list without --cut-after shows what is whole")
    for path in [*contents.damaged, *reversed(later)]:
        _zero(path, 0, BLOCK_BYTES)
    if kept and offset is not None:
        _zero(kept[-1].path, offset, kept[-1].header.size)


def ends(segment: Segment) -> Iterator[tuple[int, int]]:
    """After each whole frame of ``segment``: the byte behind it, and the index that follows."""
    header = segment.header
    offset, crc, index = BLOCK_BYTES, header.previous_crc, header.first_index
    fd = open_settled(segment.path)
    try:
        while (frame := read_frame(fd, offset, header.size)) is not None:
            if (frame.serial, frame.previous_crc, frame.first_index) != (header.serial, crc, index):
                return
            offset, crc, index = offset + frame.size, frame.crc, index + frame.entries
            yield offset, index
    except OSError:
        return  # unreadable from here on
    finally:
        os.close(fd)


def _zero(path: str, start: int, end: int) -> None:
    zeros = bytes(1 << 20)
    try:
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
        try:
            while start < end:
                start += os.pwrite(fd, zeros[: end - start], start)
            os.fsync(fd)
        finally:
            os.close(fd)
    except OSError as error:
        raise JournalFailed(f"cannot write {path}: {error.strerror}") from error


def main(arguments: list[str] | None = None) -> int:
    """The command; returns its exit code."""
    parser = argparse.ArgumentParser(prog="python -m monofs.journal.repair", description="Show or cut a journal.")
    parser.add_argument("directory", help="the journal directory of a stopped node")
    parser.add_argument("--cut-after", type=int, metavar="INDEX", help="discard every entry after this index, for ever")
    options = parser.parse_args(arguments)
    if not os.path.isdir(options.directory):
        sys.stderr.write(f"{options.directory} is not a directory\n")
        return 2
    try:
        lock = Segments(options.directory, BLOCK_BYTES, voters=())
        try:
            if options.cut_after is not None:
                cut_after(options.directory, options.cut_after)
            sys.stdout.write("".join(f"{line}\n" for line in describe(options.directory)))
        finally:
            lock.close()
    except MonofsError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
