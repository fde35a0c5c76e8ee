"""Does the tree say what the store says? The pure questions behind every adoption, so that nothing is proposed without a difference.

They mirror the rules of sync that ``apply`` decides by (design.md section 7); a wrong answer here costs a proposal or a
later look, never a wrong tree.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from monofs.metadata.entries import Found
from monofs.model.inode import Flag, Inode, decode_inode
from monofs.ufs.base import UfsEntry

_INTENT, _MOUNT, _PERSISTED = int(Flag.INTENT), int(Flag.MOUNT), int(Flag.PERSISTED)
_STAYS = int(Flag.EXPLICIT | Flag.MOUNT | Flag.PERSISTED)
_MODE_BITS = 0o7777
_SAME_TIME_NS = 1_000_000_000


def found_of(entry: UfsEntry, name: bytes) -> Found:
    """What the journal carries of a store's entry."""
    return Found(
        name,
        entry.is_directory,
        entry.size,
        entry.mtime_ns,
        entry.fingerprint,
        -1 if entry.mode is None else entry.mode,
        entry.uid or 0,
        entry.gid or 0,
    )


def record_differs(record: Inode | None, found: Found | None, read_index: int) -> bool:
    """Whether the record of one name and what the store shows of it (both of one kind) ask for an adoption."""
    if record is None:
        return found is not None
    flags = record.flags
    if record.changed_index > read_index or flags & _INTENT:
        return False
    if found is None:
        return flags & _STAYS == _PERSISTED
    if found.is_directory:
        return not flags & _MOUNT and (not flags & _PERSISTED or _attributes_differ(record, found))
    if not flags & _PERSISTED:
        return False
    return record.fingerprint != found.fingerprint or record.size != found.size or _attributes_differ(record, found)


def marker_differs(directory: Inode, marker: tuple[int, str, int], read_index: int) -> bool:
    """Whether the object ``dir/`` is another one in the store than the directory's record says, or is in one of both only."""
    if directory.changed_index > read_index or directory.flags & _MOUNT:
        return False
    known = directory.fingerprint if directory.flags & Flag.MARKER else ""
    return known != marker[1] or bool(directory.flags & Flag.MARKER) != bool(marker[1])


def _attributes_differ(record: Inode, found: Found) -> bool:
    """Stores tell times more or less precisely from one answer to the next: less than a second is no difference."""
    if found.mtime_ns and abs(found.mtime_ns - record.mtime_ns) >= _SAME_TIME_NS:
        return True
    return found.mode >= 0 and (found.mode & _MODE_BITS, found.uid, found.gid) != (record.mode, record.uid, record.gid)


class Spoken(NamedTuple):
    """What a listing does not speak for although it lies in its range."""

    covered: frozenset[bytes]
    """Names whose objects an open job deletes or moves as a whole."""
    base: str | None
    """Key of the directory that was listed, while objects are being moved: records that name a key elsewhere are none of its."""

    def passes_over(self, name: bytes, record: Inode) -> bool:
        """Whether the listing says nothing about a name."""
        if name in self.covered:
            return True
        if self.base is None or record.store_path is None:
            return False
        bare = name.removesuffix(b"/").decode()
        return record.store_path != (f"{self.base}/{bare}" if self.base else bare)


EVERYTHING = Spoken(frozenset(), None)


def page_differs(
    known: Iterable[tuple[bytes, bytes]], found: Sequence[Found], read_index: int, spoken: Spoken = EVERYTHING
) -> bool:
    """Whether records ``known`` (name with ``/``, raw; sorted, of the page's range only) differ from the page ``found``."""
    position = 0
    for name, raw in known:
        if position < len(found) and key_of(found[position]) < name:
            return True
        record = decode_inode(raw)
        shown = found[position] if position < len(found) and key_of(found[position]) == name else None
        if shown is not None:
            position += 1
        if record_differs(record, shown, read_index) and not spoken.passes_over(name, record):
            return True
    return position < len(found)


def key_of(found: Found) -> bytes:
    """The name under which the tree keeps it: directories end in ``/``."""
    return found.name + b"/" if found.is_directory else found.name
