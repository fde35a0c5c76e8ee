"""What the tree holds below one directory, by the flat keys a store would list: asked one by one, or walked in their order.

Order of keys is the order of records: a directory's name ends in ``/``, and what it holds comes where that stands.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from typing import NamedTuple

from monofs.metadata.namespace import Namespace
from monofs.model.inode import Flag, Inode, decode_inode

SLICE = 1000
_PINNED = int(Flag.PINNED)


class Below:
    """Records below the directory with inode id ``top``, attached to the tree or not. Keys asked for come sorted, so that the
    directory of the last one is kept."""

    def __init__(self, namespace: Namespace, top: int) -> None:
        self._namespace, self._top = namespace, top
        self._parent = b""
        self._directory: int | None = top
        self._own: str | None = None

    def record(self, relative: bytes) -> Inode | None:
        """The record of a key relative to ``top``: a directory's when it ends in ``/``, else a file's."""
        slash = b"/" if relative.endswith(b"/") else b""
        parent, _, name = relative.removesuffix(b"/").rpartition(b"/")
        if parent != self._parent:
            self._parent = parent
            self._directory, self._own = self._find(parent)
        if self._directory is None or not name:
            return None
        return self._namespace.get_inode(self._directory, name + slash)

    @property
    def parent(self) -> int | None:
        """Inode id of the directory in which the last key asked for lies, or would."""
        return self._directory

    @property
    def own(self) -> str | None:
        """:attr:`Met.own` of what lies in that directory."""
        return self._own

    def _find(self, relative: bytes) -> tuple[int | None, str | None]:
        directory, own = self._top, None
        for name in relative.split(b"/") if relative else ():
            inode = self._namespace.get_inode(directory, name + b"/")
            if inode is None:
                return None, None
            directory, own = inode.id, own_key(own, name, inode)
        return directory, own


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


class Met(NamedTuple):
    """A file on a walk: its key relative to where the walk began, and whether a pin on it or on a directory on the way covers it."""

    key: bytes
    inode: Inode
    pinned: bool
    parent: int
    """Inode id of the directory that holds it."""
    own: str | None = None
    """Key of that directory, where a record on the way says that it does not lie with the one above it; the top's own record is not asked."""


def own_key(above: str | None, name: bytes, inode: Inode) -> str | None:
    """:attr:`Met.own` of what lies in the directory ``name``, given that of the directory itself."""
    return inode.store_path or (None if above is None else f"{above}/{name.decode()}")


class _Frame:
    """A directory on the way of a walk: what was read of it and not met yet."""

    __slots__ = ("after", "directory", "ended", "own", "pinned", "prefix", "records")

    def __init__(self, directory: int, prefix: bytes, after: bytes, own: str | None, *, pinned: bool) -> None:
        self.directory, self.prefix, self.after, self.own, self.pinned = directory, prefix, after, own, pinned
        self.records: deque[tuple[bytes, bytes]] = deque()
        self.ended = False


class Files:
    """The files below directory ``top`` in the order of flat keys, beginning behind ``after``. Memory is O(depth times slice).

    The tree may change between slices; what was there all along is met exactly once.
    """

    def __init__(self, namespace: Namespace, top: Inode, after: bytes = b"") -> None:
        self._namespace = namespace
        self._frames: list[_Frame] = []
        self._empty: list[bytes] = []
        self.placed: list[Met] = []
        """Of the last slice: directories whose records say where they lie."""
        directory, prefix, own, pinned = top, b"", None, False
        *names, last = after.split(b"/")
        for name in names:
            self._frames.append(_Frame(directory.id, prefix, name + b"/", own, pinned=pinned))
            child = namespace.get_inode(directory.id, name + b"/")
            if child is None:
                return
            directory, prefix, pinned = child, prefix + name + b"/", pinned or bool(child.flags & _PINNED)
            own = own_key(own, name, child)
        self._frames.append(_Frame(directory.id, prefix, last, own, pinned=pinned))

    @property
    def ended(self) -> bool:
        """Whether all were met."""
        return not self._frames

    def slice(self) -> list[Met]:
        """The next files, at most a thousand names' worth of work; it may be empty before the end."""
        met: list[Met] = []
        self.placed = []
        for _ in range(SLICE):
            if not self._frames:
                break
            frame = self._frames[-1]
            if not frame.records and not self._read(frame):
                self._frames.pop()
                continue
            name, raw = frame.records.popleft()
            inode = decode_inode(raw)
            pinned = frame.pinned or bool(inode.flags & _PINNED)
            one = Met(frame.prefix + name, inode, pinned, frame.directory, frame.own)
            if inode.is_directory:
                own = own_key(frame.own, name[:-1], inode)
                self._frames.append(_Frame(inode.id, one.key, b"", own, pinned=pinned))
                if inode.store_path is not None:
                    self.placed.append(one)
            else:
                met.append(one)
        return met

    def _read(self, frame: _Frame) -> bool:
        """Read on in a directory; whether there was more."""
        if frame.ended:
            return False
        frame.records.extend(self._namespace.children(frame.directory, frame.after, SLICE))
        frame.ended = len(frame.records) < SLICE
        if frame.records:
            frame.after = frame.records[-1][0]
        elif not frame.after:
            self._empty.append(frame.prefix)
        return bool(frame.records)

    def take_empty(self) -> list[bytes]:
        """Directories found empty since the last time, with their ``/``; ``b""`` is the top itself."""
        empty, self._empty = self._empty, []
        return empty
