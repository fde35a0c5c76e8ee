"""One file that holds several groups of one block, so that a local reader gets one descriptor for all of them.

Made for layouts whose blocks are larger than a group: every group of a block that is admitted lies in its file, at its place in the block, as
long as the file stays below a part of its directory. Invariants: the bytes of all groups that ever had pages in the file count as used until none of them
is in the cache, held or being written, and then the file is unlinked as a whole: a hole punched into it would read as zeros to who has a
descriptor. A group number is in a file at most once, so what was written is never written again. Not here: which file a group gets (`admission`),
when it goes (`holdings`).
"""

from __future__ import annotations

import threading

from monofs.model.block import DEFAULT_LAYOUT, GROUP_SIZE_BYTES, LAYOUT_WHOLE
from monofs.tiering.group import Group

PART = 2
"""A file may take one in so many bytes of its directory's quota; further groups have files of their own."""


class BlockFile:
    """The groups of one file. Owner's thread only, but for what says ANY thread."""

    __slots__ = ("groups", "growing", "numbers", "written")

    def __init__(self) -> None:
        self.groups: list[Group] = []
        """Those in the cache, and those that left it while others were here."""
        self.numbers: set[int] = set()
        self.written = False
        """ANY thread: some page is present, or was, so the file must exist."""
        self.growing = threading.Lock()
        """ANY thread: held while the file is made longer, which two groups must not do at the same time."""

    def join(self, group: Group) -> None:
        """The group lies in this file from now on."""
        group.block = self
        self.groups.append(group)
        self.numbers.add(group.number)
        self.written = self.written or bool(group.present or group.lost)

    def replace(self, old: Group, new: Group) -> None:
        """Another object stands for the same bytes."""
        self.groups.remove(old)
        old.block, new.block = None, self
        self.groups.append(new)


def first_of(number: int, layout: int) -> int | None:
    """The first group of the block that a group lies in; None: a block is one group, and needs no file for several."""
    if layout == DEFAULT_LAYOUT:
        return None
    if layout == LAYOUT_WHOLE:
        return 0
    groups = (1 << layout) // GROUP_SIZE_BYTES
    return number // groups * groups


def base_of(number: int, first: int) -> int:
    """Where a group's pages lie in the file of its block."""
    return (number - first) * GROUP_SIZE_BYTES


def file_groups(group: Group) -> list[Group]:
    """All groups whose bytes lie in the group's file, itself included."""
    return group.block.groups if group.block is not None else [group]


def is_busy(group: Group) -> bool:
    """Whether the group's file must stay: it, or another in the file, is held or being written."""
    if group.holds or group.reserved:
        return True
    return group.block is not None and any(mate.holds or mate.reserved for mate in group.block.groups)


def file_bytes(group: Group) -> int:
    """What unlinking the group's file gives back."""
    return sum(mate.present_bytes for mate in group.block.groups) if group.block is not None else group.present_bytes
