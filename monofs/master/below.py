"""What the tree holds below one directory, asked by the flat keys of a store; and positions in such a run of keys.

Keys come sorted, so that those of one directory come together: the ids of the directories on the way to the last one are kept.
"""

from __future__ import annotations

from collections import OrderedDict

from monofs.metadata.namespace import Namespace
from monofs.model.inode import Inode


class Below:
    """Records below the directory with inode id ``top``, attached to the tree or not."""

    def __init__(self, namespace: Namespace, top: int) -> None:
        self._namespace, self._top = namespace, top
        self._parent = b""
        self._directory: int | None = top

    def record(self, relative: bytes) -> Inode | None:
        """The record of a key relative to ``top``: a directory's when it ends in ``/``, else a file's."""
        slash = b"/" if relative.endswith(b"/") else b""
        parent, _, name = relative.removesuffix(b"/").rpartition(b"/")
        if parent != self._parent:
            self._parent, self._directory = parent, self._find(parent)
        if self._directory is None or not name:
            return None
        return self._namespace.get_inode(self._directory, name + slash)

    def _find(self, relative: bytes) -> int | None:
        directory = self._top
        for name in relative.split(b"/") if relative else ():
            inode = self._namespace.get_inode(directory, name + b"/")
            if inode is None:
                return None
            directory = inode.id
        return directory


class Frontier:
    """Which pieces of a sorted run are not finished, when several are worked on at a time: tells where a restart goes on."""

    def __init__(self) -> None:
        self._open: OrderedDict[int, bytes] = OrderedDict()
        self._last = 0

    def begin(self, position: bytes) -> int:
        """A piece that begins behind ``position``; pieces begin in order."""
        self._last += 1
        self._open[self._last] = position
        return self._last

    def end(self, piece: int) -> None:
        """It is finished."""
        del self._open[piece]

    def cursor(self, reached: bytes) -> bytes:
        """Everything up to this position is finished, when pieces were begun up to ``reached``."""
        return next(iter(self._open.values()), reached)
